//! How the classes of routes' requests fare.

use std::collections::BTreeMap;
use std::fmt;

use super::super::classes::ClassStatus;
use super::{Described, Label, MetricKind, Page, Scrape};

catalogue! {
    REQUESTS = Counter "spliceway_class_requests" ["route", "class", "status"]
        "Requests of the class that are over, by the class of their status; none: without an answer";
    FAILED = Counter "spliceway_class_requests_failed" ["route", "class", "reason"]
        "Requests of the class that came to nothing because too much was asked: they found its queue full, or waited or ran for too long";
    BUSY = Gauge "spliceway_class_upstreams_busy" ["route", "class"]
        "Connections to backends that requests of the class have, or whose backends may still be at work on one";
    MAX = Gauge "spliceway_class_endpoint_connections_max" ["route", "class"]
        "The most connections to one endpoint that the class may have (max)";
    RESERVED = Gauge "spliceway_class_endpoint_connections_reserved" ["route", "class"]
        "Connections to each endpoint that are kept for the class (reserve)";
    QUEUE_DEPTH = Gauge "spliceway_class_queue_depth" ["route", "class"]
        "Requests of the class that wait until an endpoint has room for them";
    QUEUE_MAX = Gauge "spliceway_class_queue_max" ["route", "class"]
        "The most requests of the class that may wait (queue-max): more are turned away";
    QUEUE_OLDEST = Gauge "spliceway_class_queue_oldest_wait_seconds" ["route", "class"]
        "How long the first of them has waited; 0 if none does";
    QUEUED = Counter "spliceway_class_requests_queued" ["route", "class"]
        "Requests of the class that had to wait until an endpoint had room for them";
    QUEUE_WAIT = Histogram "spliceway_class_queue_wait_seconds" ["route", "class"]
        "How long requests of the class waited in the queue, however their wait ended";
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
