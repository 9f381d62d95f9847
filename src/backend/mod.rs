//! What a backend is at this moment: its addresses, and which of them a session tries.
//!
//! This is where the resolver thread and the workers meet, and they meet nowhere else: the resolver
//! publishes an [`AddressSet`], the workers read it and mark addresses that fail ([`Refresher`]).
//! Nothing here resolves, connects or waits.

mod refresh;
mod set;

pub use refresh::Refresher;
pub(crate) use refresh::Suspects;
pub use set::{ADDRESSES_MAX, Address, AddressSet, Attempts, Endpoint, Published, RoundRobin};
