//! FastCGI 1.0: a client's requests, a backend's responses, and what may pass. The wire format, which the
//! harness uses as well, is [`spliceway_common::fastcgi`] and has its names here too.
//!
//! Everything here is pure: bytes in, events out, no I/O, no clock, nothing of the rest of the crate.
//! A reader may be handed any split of the byte stream. Beside the head of one request, which has a
//! bound, it keeps at most one header, so its memory does not depend on what a peer sends.
//!
//! The rules come from the *FastCGI Specification 1.0* (Open Market, 1996); section numbers in this
//! module's documentation refer to it.

mod answer;
mod forwarder;
mod guard;
mod head;
mod management;
mod pass;
mod request;
mod response;
mod status;

pub use answer::{Answer, BROKEN_OFF, RetryAfter};
pub use guard::{
    Cut, Decisive, Duplicates, FPM_PAGES, Guard, GuardError, GuardOptions, NAME_BYTES_MAX,
    Overridden, PARAMS_MAX, Rejection, Rule, Verdict, shown_value,
};
pub use head::{Head, HeadRoom, LARGE_HEADS_BYTES_MAX};
pub use management::{Capacity, FENCE, QUERY_BYTES_MAX, Reply, Settled, Settling};
pub use pass::Pass;
pub use request::{
    ClientEnd, PARAMS_BYTES_MAX, ProtocolError, RequestEvent, RequestLimits, RequestReader,
    Violation,
};
pub use response::{Nonsense, ResponseError, ResponseEvent, ResponseReader};
pub use spliceway_common::fastcgi::{
    BeginRequest, CONTENT_MAX, EndRequest, FixedBody, HEADER_LEN, Header, Kind, Malformed,
    NAME_OR_VALUE_MAX, PairError, Pairs, ProtocolStatus, Reader, RecordEvent, RequestId, Role,
    push_pair, push_record, push_stream, push_stream_end,
};
pub use status::cgi_status;
