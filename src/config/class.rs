//! Classes of a FastCGI route: which requests share its endpoints with which others, and how much each of them may
//! have.

use std::fmt;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::route::{ConnectionLimits, ROUTE_NAME_BYTES_MAX, RouteName, RouteNameError};
use crate::fastcgi::Criteria;

/// The most classes of a route beside the default one: who needs more of them has several routes. Whoever looks for a
/// place looks at all of them.
pub const CLASSES_MAX: usize = 16;

/// The priorities that there are.
pub const PRIORITIES: RangeInclusive<i32> = -100..=100;

/// The classes of a route's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    /// Of those that no other class has. Its name is [`ClassName::default`].
    pub default: ClassRules,
    /// The others, in the order in which they are asked: the first one whose criteria a request meets has it.
    pub others: Vec<Class>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// What logs and metrics call it.
    pub name: ClassName,
    /// Which requests belong to it.
    pub criteria: Criteria,
    /// What they may have.
    pub rules: ClassRules,
}

/// What the requests of a class may have, and in which order they get it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassRules {
    /// The most connections to an endpoint that they have at one time.
    pub max: NonZeroU32,
    /// So many connections to an endpoint are theirs, whatever others want. Those of all classes together are fewer
    /// than there may be.
    pub reserve: u32,
    /// Of several classes that wait for a place, the one with the largest goes first.
    pub priority: i32,
    /// The most of them that wait at one time. 0: none of them waits.
    pub queue_max: u32,
    /// How long one waits. `None`: for ever.
    pub queue_timeout: Option<Duration>,
    /// How long a backend may take for one. `None`: for ever.
    pub request_timeout: Option<Duration>,
}

impl ClassRules {
    /// What holds for requests of a route with these limits, where nothing else is said.
    #[must_use]
    pub fn of(
        per_endpoint_max: NonZeroU32,
        limits: &ConnectionLimits,
        request_timeout: Option<Duration>,
    ) -> Self {
        Self {
            max: per_endpoint_max,
            reserve: 0,
            priority: 0,
            queue_max: limits.queue_max,
            queue_timeout: limits.queue_timeout,
            request_timeout,
        }
    }
}

impl Classes {
    /// The names of all of them, the default one first.
    pub fn names(&self) -> impl Iterator<Item = ClassName> + '_ {
        let others = self.others.iter().map(|class| class.name.clone());
        std::iter::once(ClassName::default()).chain(others)
    }

    /// What holds for each of them, in the same order.
    pub fn rules(&self) -> impl Iterator<Item = ClassRules> + '_ {
        let others = self.others.iter().map(|class| class.rules);
        std::iter::once(self.default).chain(others)
    }
}

/// What a class is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassName(Arc<str>);

/// Why a text is no name for a class, and how to write it right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClassNameError {
    /// Nothing.
    #[error("the name of the class is empty (write for example [route.php.class.admin])")]
    Empty,
    /// More bytes than metrics should carry.
    #[error(
        "{length} bytes are too long for the name of a class (use at most {ROUTE_NAME_BYTES_MAX})"
    )]
    TooLong {
        /// The bytes of the name.
        length: usize,
    },
    /// A character that would have to be escaped somewhere.
    #[error(
        "{character:?} cannot be in the name of a class (use letters from a to z, digits, '_', '-' \
         and '.')"
    )]
    InvalidCharacter {
        /// The first such character.
        character: char,
    },
}

impl ClassName {
    /// The name as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// That of the class of whatever no other class has.
impl Default for ClassName {
    fn default() -> Self {
        Self("default".into())
    }
}

/// By the rules of a route's name.
impl FromStr for ClassName {
    type Err = ClassNameError;

    fn from_str(text: &str) -> Result<Self, ClassNameError> {
        match text.parse::<RouteName>() {
            Ok(name) => Ok(Self(name.as_str().into())),
            Err(RouteNameError::Empty) => Err(ClassNameError::Empty),
            Err(RouteNameError::TooLong { length }) => Err(ClassNameError::TooLong { length }),
            Err(RouteNameError::InvalidCharacter { character }) => {
                Err(ClassNameError::InvalidCharacter { character })
            }
        }
    }
}

/// The form that [`FromStr`] reads.
impl fmt::Display for ClassName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_classes_are_words() {
        for text in ["admin", "a-b_c.2", &"a".repeat(64)] {
            assert_eq!(text.parse::<ClassName>().unwrap().as_str(), text);
        }
        assert_eq!("default".parse(), Ok(ClassName::default()));
        for (text, expected) in [
            ("", "is empty"),
            ("a b", "' ' cannot be in the name of a class"),
            (
                &"a".repeat(65),
                "65 bytes are too long for the name of a class",
            ),
        ] {
            let error = text.parse::<ClassName>().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
