//! What more than one of the proxy, the load generator and the harness needs: system calls as safe
//! functions ([`sys`]) and the wire format of FastCGI ([`fastcgi`]).
//!
//! Neither has a policy or a state of its own. What only the proxy needs is in the proxy's own modules of
//! the same names.

pub mod fastcgi;
pub mod sys;
