//! When something of a route is due, by route.
//!
//! A worker may have a thousand routes of which one has something to do. So it does not go over its routes to find
//! out: whatever changes a route's date files it here, and a turn looks at those that are due.

use std::collections::BTreeSet;
use std::mem;
use std::time::Instant;

use crate::session::RouteKey;

/// At most one date for each route. What is filed is exact: a date that moves is moved here as well, so that there
/// are never more entries than routes.
#[derive(Default)]
pub(super) struct Dates {
    /// By route.
    at: Vec<Option<Instant>>,
    /// The same in order.
    order: BTreeSet<(Instant, RouteKey)>,
}

impl Dates {
    /// From now on this is the route's date. `None`: it has none.
    pub(super) fn set(&mut self, route: RouteKey, date: Option<Instant>) {
        if self.of(route) == date {
            return;
        }
        if self.at.len() <= route.slot() {
            self.at.resize(route.slot() + 1, None);
        }
        let before = mem::replace(&mut self.at[route.slot()], date);
        if let Some(before) = before {
            self.order.remove(&(before, route));
        }
        if let Some(date) = date {
            self.order.insert((date, route));
        }
    }

    pub(super) fn of(&self, route: RouteKey) -> Option<Instant> {
        self.at.get(route.slot()).copied().flatten()
    }

    /// The first of them.
    pub(super) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(date, _)| *date)
    }

    /// The route whose date is the first one, if that has come.
    pub(super) fn due(&self, now: Instant) -> Option<RouteKey> {
        let (date, route) = self.order.first()?;
        (*date <= now).then_some(*route)
    }

    /// All of which this is so.
    pub(super) fn all_due(&self, now: Instant) -> impl Iterator<Item = RouteKey> {
        let due = self.order.iter().take_while(move |(date, _)| *date <= now);
        due.map(|(_, route)| *route)
    }

    /// All routes that have a date.
    pub(super) fn routes(&self) -> Vec<RouteKey> {
        self.order.iter().map(|(_, route)| *route).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_route_has_one_date_which_can_move_both_ways() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let (mut dates, [a, b]) = (Dates::default(), [RouteKey(3), RouteKey(0)]);
        dates.set(a, Some(at(20)));
        dates.set(b, Some(at(10)));
        assert_eq!((dates.next(), dates.due(at(9))), (Some(at(10)), None));
        assert_eq!(dates.due(at(10)), Some(b));
        dates.set(b, Some(at(30)));
        dates.set(a, Some(at(25)));
        assert_eq!(dates.due(at(24)), None);
        assert_eq!(dates.all_due(at(30)).collect::<Vec<_>>(), [a, b]);
        dates.set(a, None);
        assert_eq!((dates.of(a), dates.routes()), (None, vec![b]));
        dates.set(b, None);
        assert!(dates.routes().is_empty() && dates.next().is_none());
    }
}
