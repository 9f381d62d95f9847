//! What a backend is at this moment: its addresses, and which of them a session tries.
//!
//! This is where the resolver thread and the workers meet, and they meet nowhere else: the resolver
//! publishes an [`AddressSet`], the workers read it. Nothing here resolves, connects or waits.

mod set;

pub use set::{ADDRESSES_MAX, AddressSet, Attempts, Endpoint, Published, RoundRobin};
