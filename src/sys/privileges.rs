//! As whom this process acts, and with which rights.
//!
//! The C library's calls for users and groups reach all threads of the process; those for capabilities and
//! the rest concern the calling thread, and the threads that it starts afterwards.

use std::ptr;

use super::{Errno, check};

/// `_LINUX_CAPABILITY_VERSION_3`: sets of 64 bits, in two halves.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// More than there are, as sets have 64 bits; Linux 6.18 has 41.
const CAPABILITIES_MAX: libc::c_ulong = 64;

/// What capset(2) is told of whom the sets are.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

/// One half of the sets of capset(2).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilitySets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Whatever program is executed from now on, it gives no further rights (`PR_SET_NO_NEW_PRIVS`).
pub(crate) fn forbid_new_privileges() -> Result<(), Errno> {
    set(libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// The memory of the whole process is for nobody to see but root: neither in a core dump nor by ptrace(2)
/// or /proc (`PR_SET_DUMPABLE`). Changing the user undoes it.
pub(crate) fn forbid_dumps() -> Result<(), Errno> {
    set(libc::PR_SET_DUMPABLE, 0)
}

/// Takes all capabilities out of those that a program could ever be given.
pub(crate) fn empty_bounding_set() -> Result<(), Errno> {
    for capability in 0..CAPABILITIES_MAX {
        match set(libc::PR_CAPBSET_DROP, capability) {
            Ok(()) => {}
            // The kernel knows no more of them.
            Err(Errno(libc::EINVAL)) if capability > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Empties the inheritable capabilities and with them the ambient ones, which are a part (capset(2)).
pub(crate) fn empty_inheritable_set() -> Result<(), Errno> {
    let mut sets = [CapabilitySets::default(); 2];
    let mut header = header();
    // SAFETY: the header asks for the version with two halves, and so many are writable.
    let got = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) };
    check_call(got)?;
    for half in &mut sets {
        half.inheritable = 0;
    }
    set_capabilities(&sets)
}

/// Gives up every capability of the calling thread but those of the bounding set.
pub(crate) fn give_up_capabilities() -> Result<(), Errno> {
    set_capabilities(&[CapabilitySets::default(); 2])
}

fn set_capabilities(sets: &[CapabilitySets; 2]) -> Result<(), Errno> {
    let header = header();
    // SAFETY: the header names the version with two halves, and so many are readable.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) };
    check_call(done)
}

/// The calling thread's.
fn header() -> CapabilityHeader {
    CapabilityHeader {
        version: CAPABILITY_VERSION,
        pid: 0,
    }
}

/// Real, effective and saved user.
pub(crate) fn users() -> [u32; 3] {
    let (mut real, mut effective, mut saved) = (0, 0, 0);
    // SAFETY: the pointers are to live integers. It can fail for no other reason (getresuid(2)).
    unsafe { libc::getresuid(&raw mut real, &raw mut effective, &raw mut saved) };
    [real, effective, saved]
}

/// The effective group: that of what is created.
pub(crate) fn group() -> u32 {
    // SAFETY: it takes nothing and cannot fail.
    unsafe { libc::getegid() }
}

/// The supplementary groups.
pub(crate) fn groups() -> Result<Vec<u32>, Errno> {
    // SAFETY: with a length of 0 nothing is written, and the number of groups is returned.
    let count = check(unsafe { libc::getgroups(0, ptr::null_mut()) })?;
    let mut groups = vec![0; usize::try_from(count).unwrap_or(0)];
    // SAFETY: the pointer and the length are those of a live vector.
    let count = check(unsafe { libc::getgroups(count, groups.as_mut_ptr()) })?;
    groups.truncate(usize::try_from(count).unwrap_or(0));
    Ok(groups)
}

/// Sets the supplementary groups of all threads.
pub(crate) fn set_groups(groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: the pointer and the length are those of a live slice, which is only read.
    check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) }).map(drop)
}

/// Sets real, effective and saved group of all threads.
pub(crate) fn set_group(group: u32) -> Result<(), Errno> {
    // SAFETY: the call takes integers and no pointer.
    check(unsafe { libc::setresgid(group, group, group) }).map(drop)
}

/// Sets real, effective and saved user of all threads.
pub(crate) fn set_user(user: u32) -> Result<(), Errno> {
    // SAFETY: the call takes integers and no pointer.
    check(unsafe { libc::setresuid(user, user, user) }).map(drop)
}

/// Tries to act as another user, by the bare call: the C library ends the process when not all of its
/// threads may do what one may.
pub(crate) fn try_user(user: u32) -> Result<(), Errno> {
    // SAFETY: the call takes integers and no pointer.
    check_call(unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) })
}

/// The same for the group.
pub(crate) fn try_group(group: u32) -> Result<(), Errno> {
    // SAFETY: the call takes integers and no pointer.
    check_call(unsafe { libc::syscall(libc::SYS_setresgid, group, group, group) })
}

fn set(what: libc::c_int, value: libc::c_ulong) -> Result<(), Errno> {
    const NONE: libc::c_ulong = 0;
    // SAFETY: each `what` of this module takes numbers, by value, and those it does not use must be 0.
    check(unsafe { libc::prctl(what, value, NONE, NONE, NONE) }).map(drop)
}

fn check_call(result: libc::c_long) -> Result<(), Errno> {
    match result {
        -1 => Err(Errno::last()),
        _ => Ok(()),
    }
}
