//! Classes: which of a route's classes a request belongs to, by its parameters.
//!
//! A class has [`Criteria`]: [`Condition`]s of which all must hold, or several such lists of which one must. The
//! [`Classifier`] of a route reads a request's parameters once, whatever the number of conditions, and the first class
//! whose criteria are met has the request.
//!
//! The values come from clients, and nobody waits for a comparison of theirs: each takes time in proportion to the
//! value, whatever it and the pattern are, and [`CONDITIONS_MAX`] bounds how many there are. So there are no regular
//! expressions.
//!
//! Of several parameters of one name the last counts, as PHP-FPM has it and as [`Head::param`] does. One that is not
//! there meets no condition.

mod glob;
mod network;

use std::fmt;
use std::str::FromStr;

use super::guard::NAME_BYTES_MAX;
use super::head::Head;
use glob::{GLOB_BYTES_MAX, Glob};
use network::{Network, NetworkError};
use spliceway_common::fastcgi::Pairs;

/// The most conditions that all classes of a route have together. With the longest values that are compared with
/// patterns, so many comparisons are about a millisecond of one worker.
pub const CONDITIONS_MAX: usize = 64;

/// The longest value that resembles a pattern: as long as a line of the request that nginx takes
/// (`large_client_header_buffers`). Whoever connects may send more than that, which would take a worker's time.
const PATTERN_VALUE_BYTES_MAX: usize = 8192;

/// The longest text of a condition: more than any path or user agent that is told apart by hand.
pub const CONDITION_BYTES_MAX: usize = 1024;

/// The most networks of one condition.
const NETWORKS_MAX: usize = 64;

/// What a parameter has to be for a request to belong to a class: `PARAM OP VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    param: String,
    test: Test,
}

/// How a value is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    /// `=`
    Is(String),
    /// `^=`
    BeginsWith(String),
    /// `$=`
    EndsWith(String),
    /// `*=`
    Resembles(Box<Glob>),
    /// `in`
    IsWithin(Vec<Network>),
}

/// Why a text is no condition, and how to write it right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConditionError {
    /// It does not begin with what could be a name.
    #[error(
        "does not begin with the name of a parameter, of 1 to {NAME_BYTES_MAX} of the characters A-Z, a-z, 0-9, '_' and \
         '-' (write for example SCRIPT_NAME=/status.php)"
    )]
    Name,
    /// No operator follows the name.
    #[error(
        "has none of =, ^=, $=, *= and in behind the name of a parameter (write for example SCRIPT_NAME=/status.php)"
    )]
    Operator,
    /// Nothing to compare with.
    #[error(
        "has no value to compare with, so that every value would do (write one, or '=' for an empty one)"
    )]
    Value,
    /// More bytes than are compared.
    #[error("{length} bytes are too long for a condition (use at most {CONDITION_BYTES_MAX})")]
    TooLong {
        /// The bytes of the condition.
        length: usize,
    },
    /// A pattern with too much beside its asterisks.
    #[error("a pattern may have at most {GLOB_BYTES_MAX} bytes that are no '*' (shorten it)")]
    Pattern,
    /// Not an address, or a network.
    #[error("'{text}' is no network: {error}")]
    Network {
        /// As it was written.
        text: String,
        /// What it lacks.
        error: NetworkError,
    },
    /// More networks than are looked through.
    #[error("{count} networks are too many (use at most {NETWORKS_MAX})")]
    TooManyNetworks {
        /// How many there are.
        count: usize,
    },
}

impl Condition {
    /// Whether a parameter of this value meets it.
    #[must_use]
    pub fn holds_for(&self, value: &[u8]) -> bool {
        match &self.test {
            Test::Is(text) => value == text.as_bytes(),
            Test::BeginsWith(text) => value.starts_with(text.as_bytes()),
            Test::EndsWith(text) => value.ends_with(text.as_bytes()),
            Test::Resembles(glob) => value.len() <= PATTERN_VALUE_BYTES_MAX && glob.matches(value),
            Test::IsWithin(networks) => match network::address(value) {
                Some(address) => networks.iter().any(|network| network.has(address)),
                None => false,
            },
        }
    }
}

impl FromStr for Condition {
    type Err = ConditionError;

    fn from_str(text: &str) -> Result<Self, ConditionError> {
        if text.len() > CONDITION_BYTES_MAX {
            let length = text.len();
            return Err(ConditionError::TooLong { length });
        }
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let text = text.trim();
        let (param, rest) = text.split_at(text.find(|c| !is_of_name(c)).unwrap_or(text.len()));
        if param.is_empty() || param.len() > NAME_BYTES_MAX {
            return Err(ConditionError::Name);
        }
        let param = param.to_owned();
        let test = Test::from_operator(rest.trim_start())?;
        Ok(Self { param, test })
    }
}

impl Test {
    fn from_operator(text: &str) -> Result<Self, ConditionError> {
        let behind = |operator| text.strip_prefix(operator).map(str::trim_start);
        let some = |value: &str| match value {
            "" => Err(ConditionError::Value),
            value => Ok(value.to_owned()),
        };
        if let Some(value) = behind("=") {
            // That a parameter is there and empty can be meant.
            Ok(Self::Is(value.to_owned()))
        } else if let Some(value) = behind("^=") {
            Ok(Self::BeginsWith(some(value)?))
        } else if let Some(value) = behind("$=") {
            Ok(Self::EndsWith(some(value)?))
        } else if let Some(value) = behind("*=") {
            let glob = Glob::new(&some(value)?).ok_or(ConditionError::Pattern)?;
            Ok(Self::Resembles(Box::new(glob)))
        } else if let Some(value) = text
            .strip_prefix("in")
            .filter(|v| v.starts_with([' ', '\t']))
        {
            Ok(Self::IsWithin(networks(value)?))
        } else {
            Err(ConditionError::Operator)
        }
    }
}

/// Separated by commas or spaces.
fn networks(text: &str) -> Result<Vec<Network>, ConditionError> {
    let each = text.split([',', ' ', '\t']).filter(|each| !each.is_empty());
    let network = |text: &str| {
        text.parse().map_err(|error| ConditionError::Network {
            text: text.to_owned(),
            error,
        })
    };
    let networks: Vec<_> = each.map(network).collect::<Result<_, _>>()?;
    match networks.len() {
        0 => Err(ConditionError::Value),
        1..=NETWORKS_MAX => Ok(networks),
        count => Err(ConditionError::TooManyNetworks { count }),
    }
}

/// What makes a request one of a class: one of these lists, all of whose conditions are met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Criteria(Vec<Vec<Condition>>);

impl Criteria {
    /// Those of these lists. `None`: a list without a condition would have every request, and no list none.
    #[must_use]
    pub fn new(any: Vec<Vec<Condition>>) -> Option<Self> {
        let says_something = !any.is_empty() && any.iter().all(|all| !all.is_empty());
        says_something.then_some(Self(any))
    }

    /// How many conditions there are.
    #[must_use]
    pub fn conditions(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    fn all(&self) -> impl Iterator<Item = &Condition> {
        self.0.iter().flatten()
    }
}

/// Tells the classes of a route's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classifier {
    /// The parameters that conditions are about, each once.
    params: Vec<String>,
    /// In the order in which the classes are asked.
    classes: Vec<Vec<Vec<Compiled>>>,
}

/// A condition, and where its parameter stands in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Compiled {
    param: usize,
    condition: Condition,
}

impl Classifier {
    /// Of the classes with these criteria, the first one that has a request gets it.
    #[must_use]
    pub fn new<'a>(criteria: impl IntoIterator<Item = &'a Criteria> + Clone) -> Self {
        let all = criteria.clone().into_iter().flat_map(Criteria::all);
        let mut params: Vec<_> = all.map(|condition| condition.param.clone()).collect();
        params.sort_unstable();
        params.dedup();
        let compiled = |condition: &Condition| Compiled {
            param: params
                .binary_search(&condition.param)
                .expect("it was just listed"),
            condition: condition.clone(),
        };
        let list = |all: &Vec<Condition>| all.iter().map(compiled).collect();
        let class = |criteria: &Criteria| criteria.0.iter().map(list).collect();
        Self {
            classes: criteria.into_iter().map(class).collect(),
            params,
        }
    }

    /// The place of the class that has this request among those that it was made of. `None`: none of them has.
    #[must_use]
    pub fn class_of(&self, head: &Head) -> Option<usize> {
        let values = self.values(head.params());
        let holds = |compiled: &Compiled| {
            let value = values[compiled.param];
            value.is_some_and(|value| compiled.condition.holds_for(value))
        };
        let mut classes = self.classes.iter();
        classes.position(|any| any.iter().any(|all| all.iter().all(holds)))
    }

    /// What the request has of the parameters, in their order.
    fn values<'h>(&self, params: &'h [u8]) -> Vec<Option<&'h [u8]>> {
        let mut values = vec![None; self.params.len()];
        for (name, value) in Pairs::new(params).flatten() {
            let found = self
                .params
                .binary_search_by(|param| param.as_bytes().cmp(name));
            if let Ok(place) = found {
                values[place] = Some(value);
            }
        }
        values
    }
}

/// As it can be written again.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let param = &self.param;
        match &self.test {
            Test::Is(text) => write!(f, "{param}={text}"),
            Test::BeginsWith(text) => write!(f, "{param}^={text}"),
            Test::EndsWith(text) => write!(f, "{param}$={text}"),
            Test::Resembles(glob) => write!(f, "{param}*={glob}"),
            Test::IsWithin(networks) => {
                write!(f, "{param} in")?;
                networks
                    .iter()
                    .try_for_each(|network| write!(f, " {network}"))
            }
        }
    }
}

#[cfg(test)]
mod tests;
