//! What has come between two statuses of one process: rates, and the times of what ended meanwhile; pure.
//!
//! Counters start over where a process does, and where a reload has put a route in the place of one of the same name.
//! What is less than before gives no rate.

use crate::observe::status::{EndpointStatus, HistogramBucket, HistogramStatus, RouteStatus};
use crate::observe::{Status, table};

/// Two statuses of one process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Between<'a> {
    before: &'a Status,
    after: &'a Status,
    /// Between them.
    pub(super) seconds: f64,
}

impl<'a> Between<'a> {
    /// If they can be compared.
    pub(super) fn new(before: &'a Status, after: &'a Status) -> Option<Self> {
        table::is_same_daemon(before, after).then_some(Self {
            before,
            after,
            seconds: after.uptime_seconds - before.uptime_seconds,
        })
    }

    /// Of a route that was there before.
    pub(super) fn route(&self, name: &str) -> Option<Growth<'a>> {
        let of = |status: &'a Status| status.routes.iter().find(|route| route.name == name);
        Some(Growth {
            before: of(self.before)?,
            after: of(self.after)?,
            seconds: self.seconds,
        })
    }
}

/// One route at both times.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growth<'a> {
    before: &'a RouteStatus,
    after: &'a RouteStatus,
    seconds: f64,
}

impl Growth<'_> {
    /// How fast a counter grows.
    pub(super) fn per_second(&self, pick: impl Fn(&RouteStatus) -> u64) -> Option<f64> {
        per_second(pick(self.before), pick(self.after), self.seconds)
    }

    /// Requests whose answers are of this class, per second.
    pub(super) fn of_class(&self, class: &str) -> Option<f64> {
        let of = |route: &RouteStatus| {
            let fastcgi = route.fastcgi.as_ref()?;
            Some(fastcgi.requests.get(class).copied().unwrap_or(0))
        };
        per_second(of(self.before)?, of(self.after)?, self.seconds)
    }

    /// Requests that were over, per second.
    pub(super) fn requests(&self) -> Option<f64> {
        let of = |route: &RouteStatus| -> Option<u64> {
            Some(route.fastcgi.as_ref()?.requests.values().sum())
        };
        per_second(of(self.before)?, of(self.after)?, self.seconds)
    }

    /// How long requests took that were over meanwhile; on a raw route, connects.
    pub(super) fn times(&self) -> Option<HistogramStatus> {
        match (&self.before.fastcgi, &self.after.fastcgi) {
            (Some(before), Some(after)) => more(&before.request_time, &after.request_time),
            (None, None) => more(&self.before.connect_time, &self.after.connect_time),
            // Another route of the same name.
            (Some(_), None) | (None, Some(_)) => None,
        }
    }

    /// How fast a counter of an endpoint grows that was there before.
    pub(super) fn of_endpoint(
        &self,
        endpoint: &EndpointStatus,
        pick: impl Fn(&EndpointStatus) -> u64,
    ) -> Option<f64> {
        let mut before = self.before.endpoints.iter();
        let before = before.find(|before| before.address == endpoint.address)?;
        per_second(pick(before), pick(endpoint), self.seconds)
    }
}

fn per_second(before: u64, after: u64, seconds: f64) -> Option<f64> {
    let more = after.checked_sub(before)?;
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let rate = more as f64 / seconds;
    Some(rate)
}

/// What has come to a histogram, bucket by bucket.
fn more(before: &HistogramStatus, after: &HistogramStatus) -> Option<HistogramStatus> {
    if before.buckets.len() != after.buckets.len() {
        return None;
    }
    let pairs = before.buckets.iter().zip(&after.buckets);
    let buckets: Option<Vec<_>> = pairs
        .map(|(before, after)| {
            let is_same = before.up_to_seconds == after.up_to_seconds;
            let count = after.count.checked_sub(before.count).filter(|_| is_same)?;
            Some(HistogramBucket {
                up_to_seconds: after.up_to_seconds,
                count,
            })
        })
        .collect();
    let buckets = buckets?;
    Some(HistogramStatus {
        count: buckets.iter().map(|bucket| bucket.count).sum(),
        sum_seconds: after.sum_seconds - before.sum_seconds,
        buckets,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples;
    use super::*;

    fn later(seconds: f64) -> (Status, Status) {
        let before = samples::busy();
        let mut after = before.clone();
        after.uptime_seconds += seconds;
        (before, after)
    }

    fn requests(status: &mut Status) -> &mut std::collections::BTreeMap<String, u64> {
        &mut status.routes[0].fastcgi.as_mut().unwrap().requests
    }

    #[test]
    fn counters_become_rates() {
        let (before, mut after) = later(2.0);
        after.routes[0].connections_accepted += 50;
        *requests(&mut after).get_mut("2xx").unwrap() += 30;
        *requests(&mut after).get_mut("5xx").unwrap() += 1;
        after.routes[0].endpoints[0].connects += 7;
        let between = Between::new(&before, &after).unwrap();
        let growth = between.route("php").unwrap();
        assert_eq!(growth.per_second(|r| r.connections_accepted), Some(25.0));
        assert_eq!(growth.requests(), Some(15.5));
        assert_eq!(growth.of_class("2xx"), Some(15.0));
        assert_eq!(growth.of_class("5xx"), Some(0.5));
        // A class that the daemon does not know.
        assert_eq!(growth.of_class("6xx"), Some(0.0));
        let endpoint = &after.routes[0].endpoints[0];
        assert_eq!(growth.of_endpoint(endpoint, |e| e.connects), Some(3.5));
    }

    #[test]
    fn a_raw_route_has_no_requests() {
        let (before, after) = later(1.0);
        let growth = Between::new(&before, &after).unwrap();
        let growth = growth.route("other").unwrap();
        assert_eq!((growth.requests(), growth.of_class("2xx")), (None, None));
        assert_eq!(growth.per_second(|r| r.connections_accepted), Some(0.0));
    }

    #[test]
    fn times_are_those_of_the_interval_alone() {
        let (before, mut after) = later(1.0);
        let of =
            |growth: Growth<'_>, part| table::bound_of_quantile(&growth.times().unwrap(), part);
        let times = &mut after.routes[0].fastcgi.as_mut().unwrap().request_time;
        let last = times.buckets.len() - 1;
        // Ten of the shortest and one that has no bound: what was before has neither.
        times.buckets[0].count += 10;
        times.buckets[last].count += 1;
        let first_bound = times.buckets[0].up_to_seconds;
        let growth = Between::new(&before, &after).unwrap();
        let growth = growth.route("php").unwrap();
        assert_eq!(growth.times().unwrap().count, 11);
        assert_eq!(of(growth, 0.5), Some(first_bound));
        assert_eq!(of(growth, 0.99), Some(None));
    }

    #[test]
    fn an_interval_without_anything_has_no_times() {
        let (before, after) = later(1.0);
        let growth = Between::new(&before, &after).unwrap();
        let times = growth.route("php").unwrap().times().unwrap();
        assert_eq!(times.count, 0);
        assert_eq!(table::bound_of_quantile(&times, 0.5), None);
    }

    #[test]
    fn nothing_is_compared_with_another_process() {
        let (before, after) = later(1.0);
        assert!(Between::new(&before, &after).is_some());
        assert!(Between::new(&after, &before).is_none());
        assert!(Between::new(&after, &after).is_none());
        let mut other = after.clone();
        other.pid += 1;
        assert!(Between::new(&before, &other).is_none());
        // In a container, every daemon may be process 1.
        let mut restarted = after;
        restarted.started_at_seconds += 60.0;
        assert!(Between::new(&before, &restarted).is_none());
    }

    #[test]
    fn a_route_that_has_started_over_has_no_rates_rather_than_wrong_ones() {
        let (mut before, mut after) = later(1.0);
        after.routes[0].connections_accepted = 1;
        requests(&mut after).insert("2xx".to_owned(), 0);
        let times = &mut after.routes[0].fastcgi.as_mut().unwrap().request_time;
        *times = HistogramStatus {
            buckets: times
                .buckets
                .iter()
                .map(|b| HistogramBucket { count: 0, ..*b })
                .collect(),
            ..HistogramStatus::default()
        };
        {
            let growth = Between::new(&before, &after).unwrap();
            let growth = growth.route("php").unwrap();
            assert_eq!(growth.per_second(|r| r.connections_accepted), None);
            assert_eq!((growth.of_class("2xx"), growth.requests()), (None, None));
            assert_eq!(growth.times(), None);
        }
        // An older daemon, which says nothing of times.
        let fastcgi = before.routes[0].fastcgi.as_mut().unwrap();
        fastcgi.request_time = HistogramStatus::default();
        let growth = Between::new(&before, &after).unwrap();
        assert_eq!(growth.route("php").unwrap().times(), None);
        before.routes.clear();
        assert!(
            Between::new(&before, &after)
                .unwrap()
                .route("php")
                .is_none()
        );
    }

    proptest! {
        #[test]
        fn no_rate_is_negative(before: u64, after: u64, seconds in 0.001_f64..1e6) {
            let rate = per_second(before, after, seconds);
            prop_assert_eq!(rate.is_some(), after >= before);
            prop_assert!(rate.is_none_or(|rate| rate >= 0.0 && rate.is_finite()));
        }
    }
}
