//! Memory that the allocator keeps for later.

/// Gives back to the kernel what the C library's allocator holds and nobody uses (malloc_trim(3)). It keeps
/// whatever lies below something that is still in use, however much that is.
///
/// Milliseconds at the most: some microseconds where there is nothing. Threads that allocate meanwhile may wait for it.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes no pointers, and locks what it looks at.
    unsafe {
        libc::malloc_trim(0);
    }
}
