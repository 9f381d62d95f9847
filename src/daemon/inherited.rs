//! Listening sockets that whoever started the process has opened for it (sd_listen_fds(3)).
//!
//! They are not ours: the socket, its path and the clients in its backlog outlive the daemon and go
//! to its next instance. So nothing is unlinked, and nothing is changed but O_NONBLOCK
//! and what could have a worker wait (SO_LINGER, SO_PASSRIGHTS). A descriptor is
//! given to one listener only, by being taken out of [`Passed`].

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::{fmt, process};

use crate::config::Descriptors;
use crate::sys::handover::{self, FIRST_DESCRIPTOR, take_variable};
use crate::sys::net::{self, Nature};

use super::listening::Place;

/// More descriptors than these are a mistake: systemd passes 1,024 at most to a service unless
/// LimitNOFILE= is raised, and the rest leaves room for those who did.
const DESCRIPTORS_MAX: usize = 65_536;

/// So many names stand in a message.
const NAMES_SHOWN_MAX: usize = 16;

/// What a descriptor is called when nothing says so, as in sd_listen_fds_with_names(3).
const UNNAMED: &str = "unknown";

/// The descriptors that were passed to this process.
#[derive(Debug)]
pub(super) struct Passed {
    /// Those that are not taken yet.
    left: Vec<Descriptor>,
    /// The names of all of them.
    names: Result<Vec<String>, NothingPassed>,
}

#[derive(Debug)]
struct Descriptor {
    number: RawFd,
    name: String,
    fd: OwnedFd,
}

/// A listening socket that was passed.
#[derive(Debug)]
pub(super) struct Inherited {
    socket: OwnedFd,
    place: Place,
    name: String,
}

/// Why a listener has nothing to listen on.
#[derive(Debug, thiserror::Error)]
#[error("listen {descriptors}: {cause}", descriptors = Shown(descriptors))]
pub struct InheritError {
    descriptors: Descriptors,
    cause: Cause,
}

/// What is wrong with that which was passed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
enum Cause {
    #[error(transparent)]
    NothingPassed(NothingPassed),
    #[error(
        "no descriptor has that name (passed: {passed}; give the socket unit \
         FileDescriptorName={wanted}, or write one of those)"
    )]
    NoSuchName { wanted: String, passed: String },
    #[error(
        "descriptor {number} is {what}, not a listening stream socket over Unix or TCP (use \
         ListenStream= in the socket unit, and Accept=no)"
    )]
    NotAListener { number: RawFd, what: String },
    #[error("examine descriptor {number}: {error}")]
    System { number: RawFd, error: io::Error },
}

/// Why there are no descriptors at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum NothingPassed {
    #[error(
        "no descriptors were passed: LISTEN_FDS or LISTEN_PID is not set (start it from a socket unit, or \
         with systemd-socket-activate)"
    )]
    Unset,
    #[error("no descriptors were passed: LISTEN_FDS=0 (start it from a socket unit)")]
    Zero,
    #[error(
        "the descriptors were passed to process {pid}, and this one is {own} (LISTEN_PID; start \
         spliceway itself, with no program between)"
    )]
    ToAnother { pid: String, own: u32 },
    #[error(
        "LISTEN_FDS is '{count}', which is no number of descriptors (start it from a socket unit)"
    )]
    BadCount { count: String },
    #[error(
        "LISTEN_FDNAMES has {names} names for {count} descriptors (separate them by colons, or unset \
         it)"
    )]
    BadNames { names: usize, count: usize },
    #[error(
        "descriptor {number} is not open, but LISTEN_FDS says that it was passed (check who starts it)"
    )]
    NotOpen { number: RawFd },
}

/// As `--listen` takes it.
struct Shown<'a>(&'a Descriptors);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Descriptors::All => f.write_str("inherit"),
            Descriptors::Named(name) => write!(f, "inherit:{name}"),
        }
    }
}

impl Passed {
    /// Takes what was passed, and the variables that say so. To be called first of all, while no other
    /// thread runs and nothing else is open, and once.
    pub(super) fn take() -> Self {
        let variable = |name| take_variable(name).map(|value| value.to_string_lossy().into_owned());
        let said = Said {
            count: variable("LISTEN_FDS"),
            pid: variable("LISTEN_PID"),
            names: variable("LISTEN_FDNAMES"),
        };
        // Another way to say LISTEN_PID, of newer versions; that one is set as well.
        let _ = variable("LISTEN_PIDFDID");
        match said.names_of(process::id()).and_then(adopt) {
            Ok(left) => Self {
                names: Ok(left.iter().map(|d| d.name.clone()).collect()),
                left,
            },
            Err(cause) => Self {
                left: Vec::new(),
                names: Err(cause),
            },
        }
    }

    /// What a predecessor passes on that was passed to it, in place of nothing.
    pub(super) fn or_else_from_predecessor(self, passed: Vec<(String, OwnedFd)>) -> Self {
        if passed.is_empty() || !self.left.is_empty() {
            return self;
        }
        let left = passed.into_iter().map(|(name, fd)| Descriptor {
            number: fd.as_raw_fd(),
            name,
            fd,
        });
        let left: Vec<_> = left.collect();
        Self {
            names: Ok(left.iter().map(|d| d.name.clone()).collect()),
            left,
        }
    }

    /// How many a listener would get.
    pub(super) fn count(&self, wanted: &Descriptors) -> usize {
        self.left.iter().filter(|d| d.is_among(wanted)).count()
    }

    /// Takes those out that belong to a listener: at least one.
    pub(super) fn claim(&mut self, wanted: &Descriptors) -> Result<Vec<Inherited>, InheritError> {
        self.try_claim(wanted).map_err(|cause| InheritError {
            descriptors: wanted.clone(),
            cause,
        })
    }

    fn try_claim(&mut self, wanted: &Descriptors) -> Result<Vec<Inherited>, Cause> {
        let claimed = self.left.extract_if(.., |d| d.is_among(wanted));
        let claimed: Vec<_> = claimed.collect();
        if claimed.is_empty() {
            return Err(self.lacks(wanted));
        }
        claimed.into_iter().map(Inherited::new).collect()
    }

    /// Why nothing is there.
    fn lacks(&self, wanted: &Descriptors) -> Cause {
        let mut names = match &self.names {
            Err(cause) => return Cause::NothingPassed(cause.clone()),
            Ok(names) => names.clone(),
        };
        match wanted {
            Descriptors::Named(wanted) if !names.is_empty() => {
                names.dedup();
                let hidden = names.len().saturating_sub(NAMES_SHOWN_MAX);
                names.truncate(NAMES_SHOWN_MAX);
                let more = match hidden {
                    0 => String::new(),
                    hidden => format!(" and {hidden} more"),
                };
                Cause::NoSuchName {
                    wanted: wanted.clone(),
                    passed: names.join(", ") + &more,
                }
            }
            // Whoever takes all of them is the only one who takes any.
            Descriptors::Named(_) | Descriptors::All => Cause::NothingPassed(NothingPassed::Zero),
        }
    }

    /// Closes those that no listener wanted.
    pub(super) fn close_unclaimed(self) {
        for Descriptor { number, name, .. } in self.left {
            tracing::warn!(
                "descriptor {number} ({name}) was passed and no route listens on it: closed (add \
                 --listen inherit:{name}, or take it out of the socket units)"
            );
        }
    }
}

/// What the environment says.
struct Said {
    count: Option<String>,
    pid: Option<String>,
    names: Option<String>,
}

impl Said {
    /// The name of each descriptor that is for the process of this id.
    fn names_of(self, own: u32) -> Result<Vec<String>, NothingPassed> {
        let (Some(count), Some(pid)) = (self.count, self.pid) else {
            return Err(NothingPassed::Unset);
        };
        if pid.parse() != Ok(own) {
            return Err(NothingPassed::ToAnother { pid, own });
        }
        let number: Option<usize> = count.parse().ok();
        let Some(number) = number.filter(|&number| number <= DESCRIPTORS_MAX) else {
            return Err(NothingPassed::BadCount { count });
        };
        let Some(names) = self.names else {
            return Ok(vec![UNNAMED.to_owned(); number]);
        };
        let names: Vec<String> = match names.as_str() {
            "" if number == 0 => Vec::new(),
            names => names.split(':').map(str::to_owned).collect(),
        };
        match names.len() == number {
            true => Ok(names),
            false => Err(NothingPassed::BadNames {
                names: names.len(),
                count: number,
            }),
        }
    }
}

fn adopt(names: Vec<String>) -> Result<Vec<Descriptor>, NothingPassed> {
    let adopted = handover::adopt_descriptors(names.len())
        .map_err(|number| NothingPassed::NotOpen { number })?;
    let numbered = (FIRST_DESCRIPTOR..).zip(names).zip(adopted);
    Ok(numbered
        .map(|((number, name), fd)| Descriptor { number, name, fd })
        .collect())
}

impl Descriptor {
    fn is_among(&self, wanted: &Descriptors) -> bool {
        match wanted {
            Descriptors::All => true,
            Descriptors::Named(name) => self.name == *name,
        }
    }
}

impl Inherited {
    fn new(Descriptor { number, name, fd }: Descriptor) -> Result<Self, Cause> {
        let system = |error| Cause::System { number, error };
        let not_a_listener = |what| Cause::NotAListener { number, what };
        check(fd.as_fd()).map_err(not_a_listener)?;
        // Through the standard library, which has a safe call; both kinds of listener are the same to
        // it here.
        let listener = UnixListener::from(fd);
        listener.set_nonblocking(true).map_err(system)?;
        let place = place(&listener).map_err(system)?;
        keep_from_waiting(listener.as_fd(), &place).map_err(system)?;
        Ok(Self {
            socket: listener.into(),
            place,
            name,
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// What the descriptor is called.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// Sees to it that no client, nor whoever made the socket, can have a worker wait in the kernel.
fn keep_from_waiting(listener: BorrowedFd<'_>, place: &Place) -> io::Result<()> {
    match place {
        Place::Tcp(_) => net::forbid_lingering(listener)?,
        Place::Path(_) | Place::Abstract(_) | Place::Unnamed => {
            net::refuse_descriptors(listener)?;
        }
    }
    Ok(())
}

/// Where a socket listens, as the kernel has it.
pub(super) fn place(listener: &UnixListener) -> io::Result<Place> {
    if let Ok(address) = net::local_address(listener.as_fd()) {
        return Ok(Place::Tcp(address));
    }
    let address = listener.local_addr()?;
    Ok(match (address.as_pathname(), address.as_abstract_name()) {
        (Some(path), _) => Place::Path(path.as_os_str().as_bytes().to_vec()),
        (None, Some(name)) => Place::Abstract(name.to_vec()),
        (None, None) => Place::Unnamed,
    })
}

/// What it is, if it is not what can be served.
pub(super) fn check(descriptor: BorrowedFd<'_>) -> Result<(), String> {
    let Ok(nature) = net::nature(descriptor) else {
        return Err(kind_of_file(descriptor).to_owned());
    };
    let family = match nature {
        Nature {
            family: libc::AF_UNIX,
            ..
        } => "Unix",
        Nature {
            family: libc::AF_INET | libc::AF_INET6,
            protocol: libc::IPPROTO_TCP | libc::IPPROTO_MPTCP,
            ..
        } => "TCP",
        Nature {
            family: libc::AF_INET | libc::AF_INET6,
            kind: libc::SOCK_DGRAM,
            ..
        } => "UDP",
        _ => {
            return Err(format!(
                "a socket of family {} and protocol {}",
                nature.family, nature.protocol
            ));
        }
    };
    match nature.kind {
        libc::SOCK_STREAM if nature.listens => Ok(()),
        libc::SOCK_STREAM => Err(format!("a {family} socket that does not listen")),
        libc::SOCK_DGRAM => Err(format!("a datagram socket ({family})")),
        libc::SOCK_SEQPACKET => Err(format!("a {family} socket of sequenced packets")),
        kind => Err(format!("a {family} socket of type {kind}")),
    }
}

fn kind_of_file(descriptor: BorrowedFd<'_>) -> &'static str {
    let file = descriptor.try_clone_to_owned().map(File::from);
    let Ok(metadata) = file.and_then(|file| file.metadata()) else {
        return "not a socket";
    };
    let kind = metadata.file_type();
    match () {
        () if kind.is_fifo() => "a pipe",
        () if kind.is_file() => "a file",
        () if kind.is_dir() => "a directory",
        () if kind.is_char_device() || kind.is_block_device() => "a device",
        () => "not a socket",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(count: &str, pid: &str, names: Option<&str>) -> Result<Vec<String>, NothingPassed> {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let said = Said {
            count: given(count),
            pid: given(pid),
            names: names.map(str::to_owned),
        };
        said.names_of(7)
    }

    #[test]
    fn descriptors_are_passed_by_number_and_name() {
        assert_eq!(said("2", "7", Some("a:b")).unwrap(), ["a", "b"]);
        assert_eq!(said("2", "7", Some("a:a")).unwrap(), ["a", "a"]);
        assert_eq!(said("2", "7", Some("a:")).unwrap(), ["a", ""]);
        assert_eq!(said("1", "7", None).unwrap(), ["unknown"]);
        assert!(said("0", "7", None).unwrap().is_empty());
        assert!(said("0", "7", Some("")).unwrap().is_empty());
    }

    #[test]
    fn what_was_not_passed_to_us_is_not_touched() {
        assert_eq!(said("", "", None), Err(NothingPassed::Unset));
        assert_eq!(said("1", "", None), Err(NothingPassed::Unset));
        for pid in ["8", "-7", "seven"] {
            let error = NothingPassed::ToAnother {
                pid: pid.to_owned(),
                own: 7,
            };
            assert_eq!(said("1", pid, None), Err(error));
        }
    }

    #[test]
    fn nonsense_is_named() {
        for count in ["-1", "x", "1.5", "65537", "2147483647", "99999999999"] {
            let error = NothingPassed::BadCount {
                count: count.to_owned(),
            };
            assert_eq!(said(count, "7", None), Err(error));
        }
        let error = NothingPassed::BadNames { names: 2, count: 1 };
        assert_eq!(said("1", "7", Some("a:b")), Err(error));
    }
}
