//! What a lookup ends with: something, nothing, or no answer.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;

use super::names::Question;

/// The most questions for one name: name servers usually follow aliases themselves.
pub(super) const CHAIN_MAX: usize = 8;

/// What a lookup ended with, by what was asked for.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Addresses(LookupOutcome<IpAddr>),
    Targets(LookupOutcome<Target>),
}

impl Answer {
    pub(super) fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Addresses(outcome) => outcome.as_ref().err(),
            Self::Targets(outcome) => outcome.as_ref().err(),
        }
    }

    /// Nobody answered this question.
    pub(super) fn none(question: &Question, cause: Cause) -> Self {
        let failure = Failure::NoAnswer(cause);
        match question {
            Question::Addresses(..) => Self::Addresses(Err(failure)),
            Question::Targets(_) => Self::Targets(Err(failure)),
        }
    }
}

/// What the lookup of one question ended with.
pub(super) type LookupOutcome<T> = Result<Found<T>, Failure>;

/// What was found, at least one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found<T> {
    pub(super) items: Vec<T>,
    pub(super) ttl: Duration,
}

/// Where a service is (RFC 2782). Ordered as they are used, then by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    pub(super) priority: u16,
    pub(super) host: Name,
    pub(super) port: u16,
    pub(super) weight: u16,
}

impl Target {
    /// What makes it the same target, whatever its priority and weight are.
    pub(super) fn place(&self) -> (&Name, u16) {
        (&self.host, self.port)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            priority,
            host,
            port,
            weight,
        } = self;
        write!(
            f,
            "{}:{port} (priority {priority}, weight {weight})",
            host.to_ascii()
        )
    }
}

/// Why nothing was found. The two differ in what they permit: see `last_good.rs`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// The name servers say that there are none (NXDOMAIN, NODATA).
    #[error("the name server says that there is no such name, or not with what was asked for")]
    Nothing,
    /// Nobody who could know has said anything.
    #[error("{0}")]
    NoAnswer(Cause),
}

/// What kept the answer away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Cause {
    #[error("no name server answered in time")]
    Silence,
    #[error("no name server is configured and the hosts file does not have the name")]
    NoNameServer,
    #[error("the name server reported a failure: {0}")]
    ServerFailure(ResponseCode),
    #[error("the name server referred to other servers, so it does not resolve for clients")]
    Referral,
    #[error("the name server neither knows the name nor asks others")]
    Lame,
    #[error("the answer has nothing that can be connected to")]
    Unusable,
    #[error("the name is an alias of an alias, more than {CHAIN_MAX} times")]
    LongChain,
    #[error("resolv.conf has `attempts:0`, so nobody is asked")]
    NoAttempts,
    #[error("the name with a search domain is none that can be asked for")]
    NoName,
    #[error("the query failed: {0}")]
    Other(String),
}
