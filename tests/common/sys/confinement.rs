//! What a container runtime does to a process before it becomes the program: a network, a
//! root file system with mounts of its own, an identity without privileges, and a filter of system calls.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use seccompiler::BpfProgram;

use super::{become_user, call};

/// No kernel has more capabilities than bits in its masks.
const CAPABILITIES_MAX: libc::c_ulong = 64;

/// A network namespace, for as long as it is open.
#[derive(Clone)]
pub(crate) struct Network(Arc<File>);

impl Network {
    /// One that `ip netns` has made.
    pub(crate) fn open(name: &str) -> io::Result<Self> {
        let file = File::open(Path::new("/run/netns").join(name))?;
        Ok(Self(Arc::new(file)))
    }

    /// Runs `act` on a thread in this network. The threads and the programs that it starts are there
    /// as well.
    pub(crate) fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let act = || {
            self.enter().expect("root may enter any network");
            act()
        };
        thread::scope(|scope| {
            let inside = scope.spawn(act);
            inside.join().expect("what happens in the network passes")
        })
    }

    pub(super) fn enter(&self) -> io::Result<()> {
        // SAFETY: setns(2) takes a descriptor, which is open, and an integer.
        call(|| unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) })
    }
}

/// One mount, as mount(2) takes it.
#[derive(Clone)]
pub(crate) struct Mount {
    source: CString,
    target: CString,
    filesystem: CString,
    flags: libc::c_ulong,
    data: CString,
}

impl Mount {
    /// The file or directory `source`, seen at `target` as well.
    pub(crate) fn bind(source: &Path, target: &Path) -> Self {
        Self {
            source: text(source),
            target: text(target),
            filesystem: CString::default(),
            flags: libc::MS_BIND,
            data: CString::default(),
        }
    }

    /// What is mounted at `target` can be read only, from there.
    pub(crate) fn read_only(target: &Path) -> Self {
        Self {
            flags: libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY,
            ..Self::bind(Path::new("none"), target)
        }
    }

    /// An empty file system in memory.
    pub(crate) fn tmpfs(target: &Path, options: &str) -> Self {
        Self {
            filesystem: CString::from(c"tmpfs"),
            flags: libc::MS_NOSUID | libc::MS_NODEV,
            data: CString::new(options).expect("options are text"),
            ..Self::bind(Path::new("tmpfs"), target)
        }
    }

    /// No mount of this process is seen outside any more.
    fn private() -> Self {
        Self {
            flags: libc::MS_REC | libc::MS_PRIVATE,
            ..Self::bind(Path::new("none"), Path::new("/"))
        }
    }

    fn mount(&self) -> io::Result<()> {
        // SAFETY: all four are live C strings; mount(2) only reads them.
        call(|| unsafe {
            libc::mount(
                self.source.as_ptr(),
                self.target.as_ptr(),
                self.filesystem.as_ptr(),
                self.flags,
                self.data.as_ptr().cast(),
            )
        })
    }
}

/// Which mounts the process sees.
#[derive(Clone)]
enum View {
    /// Its own, made from these and the first one of all.
    Own(Vec<Mount>),
    /// Those of another process.
    Shared(Arc<File>),
}

/// Where a process is, as whom, and what it may ask of the kernel.
#[derive(Clone)]
pub(crate) struct Confinement {
    view: View,
    root: CString,
    uid: u32,
    gid: u32,
    filters: Vec<BpfProgram>,
}

impl Confinement {
    /// `root` is the root directory, and `mounts` are under it, whatever else they are.
    pub(crate) fn new(
        root: &Path,
        mounts: Vec<Mount>,
        (uid, gid): (u32, u32),
        filters: Vec<BpfProgram>,
    ) -> Self {
        let mut all = vec![Mount::private()];
        all.extend(mounts);
        Self {
            view: View::Own(all),
            root: text(root),
            uid,
            gid,
            filters,
        }
    }

    /// The same place as that of a process which has been put there.
    pub(crate) fn beside(&self, pid: u32) -> io::Result<Self> {
        let view = View::Shared(Arc::new(File::open(format!("/proc/{pid}/ns/mnt"))?));
        Ok(Self {
            view,
            ..self.clone()
        })
    }

    pub(super) fn filters(&self) -> &[BpfProgram] {
        &self.filters
    }

    /// Everything but the filters, which would forbid it.
    pub(super) fn enter(&self) -> io::Result<()> {
        match &self.view {
            View::Own(mounts) => {
                // SAFETY: unshare(2) takes an integer.
                call(|| unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
                mounts.iter().try_for_each(Mount::mount)?;
            }
            View::Shared(namespace) => {
                // SAFETY: setns(2) takes a descriptor, which is open, and an integer.
                call(|| unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS) })?;
            }
        }
        // SAFETY: the path is a live C string.
        call(|| unsafe { libc::chroot(self.root.as_ptr()) })?;
        // SAFETY: so is this one.
        call(|| unsafe { libc::chdir(c"/".as_ptr()) })?;
        self.own_output()?;
        drop_capabilities()?;
        become_user(self.uid, self.gid, &[])?;
        // SAFETY: this prctl takes integers.
        call(|| unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
    }

    /// A program may open its standard error by name. For that it has to own the pipe, and runtimes
    /// see to it.
    fn own_output(&self) -> io::Result<()> {
        // SAFETY: fchown(2) takes three integers.
        call(|| unsafe { libc::fchown(libc::STDERR_FILENO, self.uid, self.gid) })
    }
}

/// Also from what a program could get back by executing another one.
fn drop_capabilities() -> io::Result<()> {
    for capability in 0..CAPABILITIES_MAX {
        // SAFETY: this prctl takes integers.
        match call(|| unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) }) {
            // The first number that this kernel has no capability for.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
            dropped => dropped?,
        }
    }
    Ok(())
}

fn text(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("paths have no zero bytes")
}
