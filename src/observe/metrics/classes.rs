//! How the classes of routes' requests fare.

use std::collections::BTreeMap;
use std::fmt;

use super::super::classes::ClassStatus;
use super::{Described, Label, MetricKind, Page, Scrape};

catalogue! {
    REQUESTS = Counter "spliceway_class_requests" ["route", "class", "status"]
        "Finished requests of the class by class of status; none: without an answer";
    FAILED = Counter "spliceway_class_requests_failed" ["route", "class", "reason"]
        "Requests of the class that failed because of overload: its queue was full, or they waited or ran for too \
         long";
    BUSY = Gauge "spliceway_class_upstreams_busy" ["route", "class"]
        "Backend connections that requests of the class hold, or whose backends may still be working for one";
    MAX = Gauge "spliceway_class_endpoint_connections_max" ["route", "class"]
        "Limit on the class's connections to one endpoint (max)";
    RESERVED = Gauge "spliceway_class_endpoint_connections_reserved" ["route", "class"]
        "Connections to each endpoint that are reserved for the class (reserve)";
    QUEUE_DEPTH = Gauge "spliceway_class_queue_depth" ["route", "class"]
        "Requests of the class that wait for room at an endpoint";
    QUEUE_MAX = Gauge "spliceway_class_queue_max" ["route", "class"]
        "Limit on waiting requests of the class (queue-max); further ones are turned away";
    QUEUE_OLDEST = Gauge "spliceway_class_queue_oldest_wait_seconds" ["route", "class"]
        "How long the first of them has been waiting; 0 if none is";
    QUEUED = Counter "spliceway_class_requests_queued" ["route", "class"]
        "Requests of the class that had to wait for room at an endpoint";
    QUEUE_WAIT = Histogram "spliceway_class_queue_wait_seconds" ["route", "class"]
        "How long requests of the class waited in the queue, however the wait ended";
}

impl Scrape {
    pub(super) fn classes(&self, page: &mut Page<'_>) -> fmt::Result {
        page.counter(
            REQUESTS,
            self.of_classes_by("status", |class| &class.requests),
        )?;
        page.counter(FAILED, self.of_classes_by("reason", |class| &class.failed))?;
        let each = |pick: fn(&ClassStatus) -> u64| {
            self.each_class()
                .map(move |(labels, class)| (labels, pick(class)))
        };
        page.gauge(BUSY, each(|class| class.busy))?;
        page.gauge(MAX, each(|class| class.max))?;
        page.gauge(RESERVED, each(|class| class.reserve))?;
        page.gauge(QUEUE_DEPTH, each(|class| class.queue.depth))?;
        page.gauge(QUEUE_MAX, each(|class| class.queue.max.unwrap_or(0)))?;
        let oldest = |class: &ClassStatus| class.queue.oldest_wait_seconds.unwrap_or(0.0);
        let oldest = self
            .each_class()
            .map(move |(labels, class)| (labels, oldest(class)));
        page.gauge(QUEUE_OLDEST, oldest)?;
        page.counter(QUEUED, each(|class| class.queue.queued))?;
        let waits = self.each_class();
        page.histogram(
            QUEUE_WAIT,
            waits.map(|(labels, class)| (labels, &class.queue.wait)),
        )
    }

    fn each_class(&self) -> impl Iterator<Item = ([Label<'_>; 2], &ClassStatus)> {
        self.each_fastcgi().flat_map(|(route, fastcgi)| {
            let classes = fastcgi.classes.iter();
            classes.map(move |class| ([route, ("class", &*class.name)], class))
        })
    }

    fn of_classes_by<'a>(
        &'a self,
        label: &'static str,
        pick: fn(&ClassStatus) -> &BTreeMap<String, u64>,
    ) -> impl Iterator<Item = ([Label<'a>; 3], u64)> {
        self.each_class().flat_map(move |([route, class], status)| {
            let counts = pick(status).iter();
            counts.map(move |(value, count)| ([route, class, (label, &**value)], *count))
        })
    }
}
