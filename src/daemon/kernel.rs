//! What the running kernel cannot do, what is done instead, and that the log says so. The whole list is in
//! [`crate::sys::kernel`].

use crate::config::BackendAddress;
use crate::driver::IntoUnix;
use crate::sys::kernel::{Release, SPLICE_INTO_UNIX};
use crate::sys::{Errno, net};

use super::listening::Place;
use super::routes::ServedRoute;

/// The running kernel.
pub(super) struct Kernel(Result<Release, Errno>);

impl Kernel {
    /// Asks what it is. One that does not tell counts as old.
    pub(super) fn ask() -> Self {
        Self(Release::running())
    }

    /// How bytes get into Unix sockets in bulk.
    pub(super) fn bulk_into_unix(&self) -> IntoUnix {
        match &self.0 {
            Ok(release) if release.is_at_least(SPLICE_INTO_UNIX) => IntoUnix::Spliced,
            Ok(_) | Err(_) => IntoUnix::Copied,
        }
    }

    /// Says what is done otherwise, where it makes a difference.
    pub(super) fn announce(&self, routes: &[ServedRoute]) {
        let has_unix_clients = has_unix_clients(routes);
        if has_unix_clients {
            warn_of_passed_descriptors();
        }
        if self.bulk_into_unix() == IntoUnix::Copied
            && (has_unix_clients || has_unix_backends(routes))
        {
            self.tell_of_copies();
        }
    }

    fn tell_of_copies(&self) {
        let kernel = match &self.0 {
            Ok(release) => format!("this is {release}"),
            Err(errno) => format!("what this is, uname does not tell: {errno}"),
        };
        tracing::info!(
            "bulk transfers into Unix sockets are copied, at a higher cost: before Linux {SPLICE_INTO_UNIX}, a \
             reader could hold up who splices ({kernel}; a newer kernel spares the copies)"
        );
    }
}

fn has_unix_clients(routes: &[ServedRoute]) -> bool {
    let mut sockets = routes.iter().flat_map(|route| &route.sockets);
    sockets.any(|socket| !matches!(socket.socket.place(), Place::Tcp(_)))
}

fn has_unix_backends(routes: &[ServedRoute]) -> bool {
    let mut backends = routes.iter().flat_map(|route| &route.config.backends);
    backends.any(|backend| matches!(backend.address, BackendAddress::Unix(_)))
}

/// What the kernel does not hold, and what helps.
fn warn_of_passed_descriptors() {
    if net::can_refuse_descriptors() {
        return;
    }
    tracing::warn!(
        "this kernel cannot refuse descriptors that clients of Unix sockets pass: who may connect can hold up \
         a worker for as long as it likes (Linux 6.16 can; until then let only those connect that you trust)"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_does_not_tell_what_it_is_counts_as_old() {
        let kernel = Kernel(Err(Errno(libc::ENOSYS)));
        assert_eq!(kernel.bulk_into_unix(), IntoUnix::Copied);
    }
}
