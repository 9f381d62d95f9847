//! What a submission is known by, and what the kernel gives back with it.

use io_uring::cqueue;

use crate::driver::{Lane, Sock};
use crate::sys::Errno;

/// What a submission is known by. The generation is only checked: a slot's ops are joined before
/// it is used again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Token(pub(super) u64);

const LANE_WRITE: u64 = 1 << 32;
const KIND_SHIFT: u32 = 33;
const GENERATION_SHIFT: u32 = 40;

/// What a completion is about.
#[derive(PartialEq, Eq)]
pub(super) enum Kind {
    Op,
    Cancel,
    Waker,
    Watch,
}

impl Token {
    pub(super) const CANCEL: Self = Self(1 << KIND_SHIFT);
    pub(super) const WAKER: Self = Self(2 << KIND_SHIFT);
    pub(super) const WATCH: Self = Self(3 << KIND_SHIFT);

    pub(super) fn op(sock: Sock, lane: Lane) -> Self {
        let lane = match lane {
            Lane::Read => 0,
            Lane::Write => LANE_WRITE,
        };
        Self(u64::from(sock.generation) << GENERATION_SHIFT | lane | u64::from(sock.slot))
    }

    pub(super) fn kind(self) -> Kind {
        match (self.0 >> KIND_SHIFT) & 3 {
            0 => Kind::Op,
            1 => Kind::Cancel,
            2 => Kind::Waker,
            _ => Kind::Watch,
        }
    }

    pub(super) fn slot(self) -> u32 {
        u32::try_from(self.0 & u64::from(u32::MAX)).expect("masked to 32 bits")
    }

    pub(super) fn lane(self) -> Lane {
        if self.0 & LANE_WRITE == 0 {
            Lane::Read
        } else {
            Lane::Write
        }
    }
}

/// A completion as the kernel gave it.
#[derive(Clone, Copy)]
pub(super) struct Reaped {
    pub(super) token: Token,
    pub(super) result: i32,
    pub(super) flags: u32,
}

impl Reaped {
    /// The result as the system call of the same name would give it.
    pub(super) fn outcome(self) -> Result<i32, Errno> {
        if self.result < 0 {
            Err(Errno(-self.result))
        } else {
            Ok(self.result)
        }
    }
}

impl From<&cqueue::Entry> for Reaped {
    fn from(entry: &cqueue::Entry) -> Self {
        Self {
            token: Token(entry.user_data()),
            result: entry.result(),
            flags: entry.flags(),
        }
    }
}
