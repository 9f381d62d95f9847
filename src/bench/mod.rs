//! What the harness and the demo measure with: a FastCGI load and a FastCGI responder.
//!
//! Neither shares code with the data path that it measures; both know the protocol by
//! [`crate::fastcgi`].

mod digest;
mod frames;
pub mod interrupt;
pub mod load;
mod net;
mod pattern;
pub mod responder;
mod synthetic;
mod timer;
