//! FastCGI 1.0, the wire format: records, fixed bodies, name-value pairs, and finding them in a stream.
//!
//! Pure: bytes in, events out, no I/O and no clock. A reader may be handed any split of the byte stream.
//!
//! The rules come from the *FastCGI Specification 1.0* (Open Market, 1996); section numbers in this
//! module's documentation refer to it.

mod body;
mod params;
mod reader;
mod record;

pub use body::{BeginRequest, EndRequest, FixedBody, ProtocolStatus, Role};
pub use params::{NAME_OR_VALUE_MAX, PairError, Pairs, push_pair};
pub use reader::{Reader, RecordEvent};
pub use record::{
    CONTENT_MAX, HEADER_LEN, Header, Kind, Malformed, RequestId, push_record, push_stream,
    push_stream_end,
};
