//! How a session came to its end, as it is counted.

/// Reasons of an end, without what differs from one session to the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Both directions ended, and every byte arrived.
    Complete,
    /// The client closed its socket; what it had sent was passed on.
    ClientClosed,
    /// The client's connection broke.
    ClientReset,
    /// The client left before a backend was reached.
    ClientLeft,
    /// The backend's connection broke.
    BackendReset,
    /// No name had an address in time.
    ConnectNoAddress,
    /// The last attempt to connect ended with an error.
    ConnectRefused,
    /// The last attempt to connect was not answered in time.
    ConnectTimedOut,
    /// There was no descriptor for another attempt.
    ConnectNoDescriptor,
    /// The address to connect from cannot be used, or is of the other family.
    ConnectNoSource,
    /// No byte in either direction for too long.
    IdleTimeout,
    /// One side had ended, and nothing came of the other for too long.
    HalfClosed,
    /// Its endpoint left the set.
    EndpointRemoved,
    /// The client's stream was no FastCGI.
    BadRequest,
    /// The backend's was none.
    BadResponse,
    /// The guard did not let the request pass.
    Rejected,
    /// The client gave its request up.
    Aborted,
    /// The daemon stopped.
    Cut,
    /// The queue had no room.
    QueueFull,
    /// No endpoint of its route took connections, and it was not to wait for one.
    RouteDown,
    /// It waited in the queue for as long as is allowed.
    QueueTimedOut,
    /// It waited in the queue for too long where more is asked for than can be done.
    QueueShed,
    /// The client left the queue.
    QueueLeft,
    /// The client was not let in: neither its user nor a group of its is allowed.
    NotAllowed,
    /// The client was not let in: its user has as many connections as it may.
    UserLimit,
    /// There was no memory for the parameters of its request.
    HeadsFull,
    /// The client took too long for the head of a request.
    HeadTimeout,
    /// The client gave or took the bytes of a request too slowly.
    TooSlow,
    /// The backend took too long for the request.
    RequestTimedOut,
    /// There was no buffer for what it sent, which the promise to each session excludes.
    NoBuffer,
    /// The client was handed over to another process, which serves it from then on.
    HandedOver,
}

impl Outcome {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 31] = [
        Self::Complete,
        Self::ClientClosed,
        Self::ClientReset,
        Self::ClientLeft,
        Self::BackendReset,
        Self::ConnectNoAddress,
        Self::ConnectRefused,
        Self::ConnectTimedOut,
        Self::ConnectNoDescriptor,
        Self::ConnectNoSource,
        Self::IdleTimeout,
        Self::HalfClosed,
        Self::EndpointRemoved,
        Self::BadRequest,
        Self::BadResponse,
        Self::Rejected,
        Self::Aborted,
        Self::Cut,
        Self::QueueFull,
        Self::RouteDown,
        Self::QueueTimedOut,
        Self::QueueShed,
        Self::QueueLeft,
        Self::NotAllowed,
        Self::UserLimit,
        Self::HeadsFull,
        Self::HeadTimeout,
        Self::TooSlow,
        Self::RequestTimedOut,
        Self::NoBuffer,
        Self::HandedOver,
    ];

    /// Its name in metrics and in the status.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientClosed => "client_closed",
            Self::ClientReset => "client_reset",
            Self::ClientLeft => "client_left",
            Self::BackendReset => "backend_reset",
            Self::ConnectNoAddress => "connect_no_address",
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimedOut => "connect_timeout",
            Self::ConnectNoDescriptor => "connect_no_descriptor",
            Self::ConnectNoSource => "connect_no_source",
            Self::IdleTimeout => "idle_timeout",
            Self::HalfClosed => "half_closed",
            Self::EndpointRemoved => "endpoint_removed",
            Self::BadRequest => "bad_request",
            Self::BadResponse => "bad_response",
            Self::Rejected => "rejected",
            Self::Aborted => "aborted",
            Self::Cut => "cut",
            Self::QueueFull => "queue_full",
            Self::RouteDown => "route_down",
            Self::QueueTimedOut => "queue_timeout",
            Self::QueueShed => "queue_shed",
            Self::QueueLeft => "queue_left",
            Self::NotAllowed => "not_allowed",
            Self::UserLimit => "user_limit",
            Self::HeadsFull => "heads_full",
            Self::HeadTimeout => "head_timeout",
            Self::TooSlow => "too_slow",
            Self::RequestTimedOut => "request_timeout",
            Self::NoBuffer => "no_buffer",
            Self::HandedOver => "handed_over",
        }
    }

    /// Whether the client got nothing, or not all, of what it came for, and that not by its own
    /// doing.
    #[must_use]
    pub fn is_failure(self) -> bool {
        match self {
            Self::BackendReset
            | Self::BadResponse
            | Self::ConnectNoAddress
            | Self::ConnectRefused
            | Self::ConnectTimedOut
            | Self::ConnectNoDescriptor
            | Self::ConnectNoSource
            | Self::QueueFull
            | Self::RouteDown
            | Self::QueueTimedOut
            | Self::QueueShed
            | Self::HeadsFull
            | Self::RequestTimedOut
            | Self::NoBuffer => true,
            Self::Complete
            | Self::ClientClosed
            | Self::ClientReset
            | Self::ClientLeft
            | Self::IdleTimeout
            | Self::HalfClosed
            | Self::EndpointRemoved
            | Self::BadRequest
            | Self::Rejected
            | Self::Aborted
            | Self::Cut
            | Self::QueueLeft
            | Self::NotAllowed
            | Self::HeadTimeout
            | Self::TooSlow
            | Self::HandedOver
            | Self::UserLimit => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_page_explains_each() {
        let page = include_str!("../../docs/troubleshooting.md");
        let (_, table) = page
            .split_once("## Reasons of sessions that ended")
            .unwrap();
        let listed = table
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let listed: HashSet<_> = listed.collect();
        let names: HashSet<_> = Outcome::ALL.iter().map(|outcome| outcome.name()).collect();
        assert_eq!(listed, names);
    }

    #[test]
    fn each_has_its_number_and_a_name_of_its_own() {
        for (number, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, number, "{outcome:?}");
        }
        let names: HashSet<_> = Outcome::ALL.iter().map(|outcome| outcome.name()).collect();
        assert_eq!(names.len(), Outcome::ALL.len());
    }
}
