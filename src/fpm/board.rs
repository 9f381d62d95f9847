//! What is known of each pool now, for whoever looks.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::{AskedPool, PoolFigures};
use crate::backend::Address;

/// The pools of one route. The task that asks them writes, and whoever makes a status reads: both on the main thread,
/// so that nobody ever waits for the lock.
#[derive(Debug, Default)]
pub(crate) struct FpmBoard(Mutex<Vec<AskedPool>>);

/// What is known of one pool.
#[derive(Clone, Debug)]
pub(crate) struct PoolView {
    /// Where it is asked.
    pub address: Address,
    /// For which page.
    pub path: Arc<str>,
    /// What it last said.
    pub answered: Option<Answered>,
    /// Why the last poll came to nothing, if it did.
    pub error: Option<Arc<str>>,
    /// Its pm.max_children, if that can be told.
    pub max_children: Option<u64>,
    /// What is wrong with the route's permits for it.
    pub warning: Option<Arc<str>>,
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    /// When it came.
    pub at: Instant,
    /// What it said.
    pub figures: Arc<PoolFigures>,
}

impl FpmBoard {
    /// From now on, these are the pools.
    pub(super) fn show(&self, pools: Vec<AskedPool>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = pools;
    }

    /// What is known of them: whoever asks from now on goes on with it.
    pub(super) fn known(&self) -> Vec<AskedPool> {
        let pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pools.clone()
    }

    /// All of them, in the order of the configuration.
    pub(crate) fn views(&self) -> Vec<PoolView> {
        let pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pools.iter().map(AskedPool::view).collect()
    }
}
