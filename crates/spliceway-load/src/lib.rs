//! What the harness and the demo measure with: a FastCGI load ([`load`]) and a FastCGI responder
//! ([`responder`]).
//!
//! Neither shares code with the data path that it measures; both know the protocol by
//! [`spliceway_common::fastcgi`].

mod digest;
mod frames;
pub mod interrupt;
pub mod load;
mod net;
mod pattern;
pub mod responder;
mod synthetic;
mod timer;
