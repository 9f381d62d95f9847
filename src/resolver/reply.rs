//! What the name servers say to one question, and what of that can be used.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};

use super::exchange::{Data, Record, Response};
use super::names::TARGETS_MAX;
use super::outcome::{Cause, Found, Target};

/// The most aliases that are followed in one answer.
const ALIASES_MAX: usize = 64;

/// What the name servers say about one fully qualified name, best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply<T> {
    Found(Found<T>),
    /// The name exists, but not with records of this type.
    NoData,
    NoSuchName,
    NoAnswer(Cause),
}

/// Takes what is usable out of records.
pub(super) type Read<T> = fn(&[Record]) -> Vec<T>;

/// What a server's answer to one question comes to.
pub(super) enum Step<T> {
    Over(Reply<T>),
    /// This is to be asked instead.
    Alias(Name),
}

impl<T> Reply<T> {
    /// Reads an answer about `name`. `ttl`: the shortest of the aliases so far.
    pub(super) fn of(
        response: Response,
        mut name: Name,
        record_type: RecordType,
        ttl: &mut Duration,
        read: Read<T>,
    ) -> Step<T> {
        match response.code {
            ResponseCode::NoError => {}
            ResponseCode::NXDomain => return Step::Over(Self::NoSuchName),
            code => return Step::Over(Self::NoAnswer(Cause::ServerFailure(code))),
        }
        // RFC 2308, section 2.2: name servers without a SOA are a referral, not NODATA.
        let mut records = match response.records {
            _ if response.is_lame => return Step::Over(Self::NoAnswer(Cause::Lame)),
            _ if response.is_referral => return Step::Over(Self::NoAnswer(Cause::Referral)),
            None => return Step::Over(Self::NoAnswer(Cause::Unusable)),
            Some(records) => records,
        };
        let is_answered = !records.is_empty();
        let asked = name.clone();
        // What goes in circles ends, and so does what is made to take long.
        for _ in 0..ALIASES_MAX {
            let Some(at) = records.iter().position(|record| record.is_alias_of(&name)) else {
                break;
            };
            let alias = records.swap_remove(at);
            *ttl = alias.ttl.min(*ttl);
            if let Data::Alias(target) = alias.data {
                name = target;
            }
        }
        records.retain(|record| record.owner == name && record.kind == record_type);
        let items = read(&records);
        if !items.is_empty() {
            let ttls = records.iter().map(|record| record.ttl);
            let ttl = ttls.fold(*ttl, Duration::min);
            return Step::Over(Self::Found(Found { items, ttl }));
        }
        let denies = |record: &Record| record.denies_service();
        Step::Over(
            if name != asked && records.is_empty() && !response.has_soa {
                return Step::Alias(name);
            } else if records.iter().any(denies) || !is_answered || name != asked {
                Self::NoData
            } else {
                Self::NoAnswer(Cause::Unusable)
            },
        )
    }

    /// Whether the next server is to be asked, as the C library has it. Who says that there is nothing knows
    /// that, and other servers would read the question in the same way.
    pub(super) fn leaves_it_to_others(&self) -> bool {
        let cause = match self {
            Self::Found(_) | Self::NoData | Self::NoSuchName => return false,
            Self::NoAnswer(cause) => cause,
        };
        match cause {
            Cause::ServerFailure(code) => matches!(
                *code,
                ResponseCode::ServFail | ResponseCode::NotImp | ResponseCode::Refused
            ),
            Cause::Referral | Cause::Unusable => false,
            Cause::Silence
            | Cause::NoNameServer
            | Cause::Lame
            | Cause::LongChain
            | Cause::NoAttempts
            | Cause::NoName
            | Cause::Other(_) => true,
        }
    }

    /// Of two servers' replies the one that says more. One dead server among several is ordinary
    /// and must not outweigh another's word.
    pub(super) fn or_better(self, other: Self) -> Self {
        fn rank<T>(reply: &Reply<T>) -> u8 {
            match reply {
                Reply::Found(_) => 7,
                Reply::NoData => 6,
                Reply::NoSuchName => 5,
                Reply::NoAnswer(Cause::NoNameServer | Cause::NoAttempts | Cause::NoName) => 0,
                Reply::NoAnswer(Cause::Other(_)) => 1,
                Reply::NoAnswer(Cause::Silence | Cause::LongChain) => 2,
                Reply::NoAnswer(Cause::Lame | Cause::Referral | Cause::Unusable) => 3,
                Reply::NoAnswer(Cause::ServerFailure(_)) => 4,
            }
        }
        if rank(&other) > rank(&self) {
            other
        } else {
            self
        }
    }
}

impl Record {
    fn is_alias_of(&self, name: &Name) -> bool {
        matches!(self.data, Data::Alias(_)) && self.owner == *name
    }

    /// RFC 2782: a record whose target is the root says that there is no such service.
    fn denies_service(&self) -> bool {
        matches!(&self.data, Data::Service { target, .. } if target.is_root())
    }
}

/// The addresses of an answer that a TCP connection can go to. Others exist: 0.0.0.0 is what
/// blocking name servers and hosts files say, and connecting to it would reach this machine.
pub(super) fn usable_addresses(records: &[Record]) -> Vec<IpAddr> {
    let addresses = records.iter().filter_map(|record| match record.data {
        Data::Address(ip) => Some(ip),
        Data::Alias(_) | Data::Service { .. } | Data::Other => None,
    });
    addresses.filter(is_usable).collect()
}

/// The targets of an answer, the preferred ones if there are too many.
pub(super) fn usable_targets(records: &[Record]) -> Vec<Target> {
    let targets = records.iter().filter_map(|record| match &record.data {
        Data::Service {
            priority,
            weight,
            port,
            target,
        } if !target.is_root() && *port != 0 => Some(Target {
            priority: *priority,
            host: fully_qualified(target),
            port: *port,
            weight: *weight,
        }),
        Data::Service { .. } | Data::Address(_) | Data::Alias(_) | Data::Other => None,
    });
    let mut targets: Vec<_> = targets.collect();
    targets.sort();
    targets.dedup();
    let dropped = targets.len().saturating_sub(TARGETS_MAX);
    if dropped > 0 {
        tracing::debug!(
            dropped,
            "look up a service: more than {TARGETS_MAX} targets; the rest is not used"
        );
    }
    targets.truncate(TARGETS_MAX);
    targets
}

/// A target is never searched for in other domains. Lower case, so that how a name server spells it
/// makes no difference.
fn fully_qualified(target: &Name) -> Name {
    let mut name = target.to_lowercase();
    name.set_fqdn(true);
    name
}

pub(super) fn is_usable(ip: &IpAddr) -> bool {
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !ip.is_unspecified() && !ip.is_multicast() && !is_broadcast
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    #[test]
    fn the_better_of_two_replies_wins_in_either_order() {
        let silence = || Reply::<IpAddr>::NoAnswer(Cause::Silence);
        let failure = || Reply::NoAnswer(Cause::ServerFailure(ResponseCode::ServFail));
        let unasked = || Reply::NoAnswer(Cause::NoNameServer);
        for (better, worse) in [
            (Reply::NoData, Reply::NoSuchName),
            (Reply::NoSuchName, failure()),
            (failure(), silence()),
            (silence(), unasked()),
        ] {
            assert_eq!(better.clone().or_better(worse.clone()), better);
            assert_eq!(worse.or_better(better.clone()), better);
        }
    }

    #[test]
    fn addresses_that_reach_nobody_are_no_addresses() {
        for ip in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"] {
            assert!(!is_usable(&IpAddr::from_str(ip).unwrap()), "{ip}");
        }
        for ip in ["127.0.0.1", "::1", "10.0.0.1", "2001:db8::1"] {
            assert!(is_usable(&IpAddr::from_str(ip).unwrap()), "{ip}");
        }
    }
}
