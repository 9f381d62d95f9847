//! How a FastCGI route is served.

use std::time::Duration;

use crate::backend::ClassId;
use crate::config::{ClassName, OnFailure, QueueTime, RouteName};
use crate::fastcgi::{Classifier, Decisive, Guard, Head, RequestLimits, Rule, Violation};
use crate::observe::Failures;

use super::Timeouts;
use super::pool::PoolOptions;

/// What the sessions of a FastCGI route go by.
#[derive(Debug)]
pub struct FastcgiOptions {
    /// What operators call the route.
    pub route: RouteName,
    /// Which parameters pass; `None`: all of them.
    pub guard: Option<Guard>,
    /// What a client may send.
    pub limits: RequestLimits,
    /// How connections to servers are kept.
    pub pool: PoolOptions,
    /// How long a client may take for the head of a request. `None`: for ever.
    pub head_timeout: Option<Duration>,
    /// In which parameters a server learns how long a request has waited.
    pub queue_time: QueueTime,
    /// Which requests share endpoints with which others. `None`: all are alike.
    pub classes: Option<RequestClasses>,
    /// What a client gets when no server has begun to answer.
    pub on_failure: OnFailure,
    /// Requests that the guard rejected, by [`Rule`]: the first of each is told at once.
    pub rejections: [Failures; Rule::ALL.len()],
    /// Those in which a parameter came with different values, by [`Decisive`].
    pub overridden: [Failures; Decisive::ALL.len()],
    /// Those that were ended for what their client sent, by [`Violation`].
    pub violations: [Failures; Violation::NAMES.len()],
    /// Those that were ended because their client was too slow.
    pub too_slow: Failures,
}

/// The classes of a route's requests.
#[derive(Debug)]
pub struct RequestClasses {
    classifier: Classifier,
    /// By their places.
    each: Vec<RequestClass>,
}

/// One of them, as far as it is the same on all workers.
#[derive(Debug)]
pub struct RequestClass {
    /// What operators call it.
    pub name: ClassName,
    /// How long a request waits for a place at an endpoint. `None`: for ever.
    pub queue_timeout: Option<Duration>,
    /// From when a request has a connection until the end of its answer. `None`: for ever.
    pub request_timeout: Option<Duration>,
}

impl RequestClasses {
    /// The first one is that of requests which no other one has; the others have those that the classifier says, in
    /// its order.
    #[must_use]
    pub fn new(classifier: Classifier, each: Vec<RequestClass>) -> Self {
        assert!(!each.is_empty(), "there is always the default class");
        Self { classifier, each }
    }

    /// The class of a request.
    #[must_use]
    pub fn class_of(&self, head: &Head) -> ClassId {
        let other = self.classifier.class_of(head);
        other.map_or(ClassId::DEFAULT, |place| ClassId::at(place + 1))
    }

    /// What there is to say of a class.
    #[must_use]
    pub fn of(&self, class: ClassId) -> &RequestClass {
        &self.each[class.place()]
    }

    /// All of them, by their places.
    #[must_use]
    pub fn all(&self) -> &[RequestClass] {
        &self.each
    }
}

impl RequestClass {
    /// A route's limits in time, as they are for requests of this class.
    pub(super) fn within(&self, route: Timeouts) -> Timeouts {
        Timeouts {
            queue: self.queue_timeout,
            request: self.request_timeout,
            ..route
        }
    }
}

/// What the sessions of a route speak.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one for each route")]
pub enum Protocol {
    /// Whatever client and backend do: bytes.
    Raw,
    /// FastCGI.
    Fastcgi(FastcgiOptions),
}
