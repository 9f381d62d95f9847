//! Whose endpoints they are: for the log, and for those who are told of a change.

use super::{Published, RouteName};

/// The endpoints of one route, by a number that no other ones of the daemon's ever have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PublishedNumber(pub u32);

impl Published {
    /// Says of this route what there is to say, and not of the default one.
    #[must_use]
    pub fn of_route(mut self, route: RouteName) -> Self {
        self.route = route;
        self
    }

    /// Whose they are.
    #[must_use]
    pub fn route(&self) -> &RouteName {
        &self.route
    }

    /// Goes by this number instead of 0.
    #[must_use]
    pub fn numbered(mut self, number: PublishedNumber) -> Self {
        self.number = number;
        self
    }

    /// By which those who are told of a change know it.
    #[must_use]
    pub fn number(&self) -> PublishedNumber {
        self.number
    }
}
