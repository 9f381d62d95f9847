//! What a backend is at this moment: its addresses, and which of them a session tries.
//!
//! This is where the resolver thread and the workers meet, and they meet nowhere else: the resolver
//! publishes an [`AddressSet`], the workers read it, each with a [`Balancer`] of its own, and tell
//! which endpoints fail ([`Published::failed`], [`Refresher`]). Nothing here resolves, connects or
//! waits.

mod balance;
mod by_hand;
mod health;
mod opening;
mod reach;
mod refresh;
mod set;

pub use crate::address::Address;
pub use balance::{
    Balancer, CLASSES_MAX, Choice, ClassId, ClassShare, Family, Footing, Lease, Moment,
    PermitCounts, Reuse, SharedPermits, Tried, Verdict, Want,
};
pub use by_hand::{ADJUSTED_MAX, AdjustError, Adjusted, Adjustment};
pub use health::Health;
#[cfg(any(test, fuzzing))]
pub(crate) use opening::PACE;
pub use refresh::Refresher;
pub(crate) use refresh::Suspects;
pub use set::{ADDRESSES_MAX, AddressSet, Endpoint, Published, PublishedNumber};
