//! Sockets with their files: bound, kept, found and refused.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::sys::socket_file::as_thread;

const STRANGER: u32 = 65534;

/// A directory that everybody may search, and a path in it.
struct Place {
    directory: TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = directory.path().join("a.sock");
        Self { directory, path }
    }

    fn writable_by_all() -> Self {
        let place = Self::new();
        let open = fs::Permissions::from_mode(0o777);
        fs::set_permissions(place.directory.path(), open).unwrap();
        place
    }

    fn bind(&self, access: &Access) -> Result<Listener, ListenError> {
        let mut listener = bind(&UnixAddress::Path(self.path.clone()), access)?;
        listener.listen()?;
        Ok(listener)
    }

    fn error(&self, access: &Access) -> String {
        self.bind(access).unwrap_err().to_string()
    }

    fn lock(&self) -> PathBuf {
        self.directory.path().join("a.sock.lock")
    }

    fn files(&self) -> Vec<OsString> {
        fs::read_dir(self.directory.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect()
    }
}

fn with_mode(mode: u32) -> Access {
    Access {
        mode,
        owner: None,
        group: None,
    }
}

const NOBODY: SocketOwners = SocketOwners {
    user: None,
    group: None,
};

fn permissions(path: &Path) -> (u32, u32, u32) {
    let metadata = fs::symlink_metadata(path).unwrap();
    assert!(metadata.file_type().is_socket());
    (metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
}

fn is_root() -> bool {
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if !root {
        let name = thread::current().name().unwrap_or("a test").to_owned();
        // Where it is seen although the test passes.
        drop(writeln!(io::stderr(), "{name}: needs root: skipped"));
    }
    root
}

fn connect_error(path: &Path) -> Option<i32> {
    UnixStream::connect(path)
        .err()
        .and_then(|error| error.raw_os_error())
}

/// Proves that a connection made at `path` arrives at `listener`.
fn assert_serves(listener: &UnixListener, path: &Path) {
    listener.set_nonblocking(true).unwrap();
    while listener.accept().is_ok() {}
    listener.set_nonblocking(false).unwrap();
    let mut client = UnixStream::connect(path).unwrap();
    client.write_all(b"x").unwrap();
    let mut byte = [0];
    listener.accept().unwrap().0.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
}

fn as_std(listener: &Listener) -> UnixListener {
    UnixListener::from(listener.fd().try_clone_to_owned().unwrap())
}

#[test]
fn a_bound_path_serves_clients_and_leaves_no_lock() {
    let place = Place::new();
    let listener = place.bind(&with_mode(0o660)).unwrap();
    assert_serves(&as_std(&listener), &place.path);
    assert_eq!(place.files(), ["a.sock"]);
    drop(listener);
    assert!(place.files().is_empty());
}

#[test]
fn the_socket_is_non_blocking() {
    let place = Place::new();
    let listener = place.bind(&with_mode(0o600)).unwrap();
    let error = as_std(&listener).accept().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn the_mode_is_exact_under_any_umask() {
    for (umask, mode) in [(0o077, 0o666), (0o777, 0o660), (0o022, 0o777), (0, 0o600)] {
        let place = Place::new();
        let after = as_thread::with_umask(umask, || {
            let _listener = place.bind(&with_mode(mode)).unwrap();
            assert_eq!(permissions(&place.path).0, mode, "umask {umask:o}");
        });
        assert_eq!(after, umask);
    }
}

#[test]
fn owner_and_group_are_exact() {
    if !is_root() {
        return;
    }
    let named = Some(Account::Name("root".to_owned()));
    for (owner, group, expected) in [
        (None, None, (0, 0)),
        (Some(Account::Id(1234)), None, (1234, 0)),
        (None, Some(Account::Id(2345)), (0, 2345)),
        (named.clone(), Some(Account::Id(2345)), (0, 2345)),
        (Some(Account::Id(1234)), named, (1234, 0)),
    ] {
        let place = Place::new();
        let access = Access {
            mode: 0o640,
            owner,
            group,
        };
        let _listener = place.bind(&access).unwrap();
        assert_eq!(permissions(&place.path), (0o640, expected.0, expected.1));
    }
}

#[test]
fn unknown_accounts_are_refused_before_anything_is_created() {
    let place = Place::new();
    let nobody = || Some(Account::Name("spliceway-nobody".to_owned()));
    let address = format!("bind unix:{}", place.path.display());
    assert_eq!(
        place.error(&Access {
            owner: nobody(),
            ..with_mode(0o660)
        }),
        format!("{address}: no user named spliceway-nobody (create it, or give its number)")
    );
    assert_eq!(
        place.error(&Access {
            group: nobody(),
            ..with_mode(0o660)
        }),
        format!("{address}: no group named spliceway-nobody (create it, or give its number)")
    );
    assert!(place.files().is_empty());
}

#[test]
fn a_failure_after_bind_removes_the_socket_again() {
    if !is_root() {
        return;
    }
    let place = Place::writable_by_all();
    let access = Access {
        owner: Some(Account::Id(0)),
        ..with_mode(0o660)
    };
    let error = as_thread::with_ids(STRANGER, || place.error(&access));
    assert!(
        error.contains("no permission to change the owner"),
        "{error}"
    );
    assert!(place.files().is_empty());
}

#[test]
fn between_bind_and_listen_nobody_gets_in() {
    let place = Place::new();
    let listener = claim(&place.path, 0o660, NOBODY, InTheWay::RemovedIfStale).unwrap();
    assert_eq!(connect_error(&place.path), Some(libc::ECONNREFUSED));
    if is_root() {
        let stranger = as_thread::with_ids(STRANGER, || connect_error(&place.path));
        assert_eq!(stranger, Some(libc::EACCES));
    }
    socket_file::listen(listener.fd(), LISTEN_BACKLOG).unwrap();
    assert_eq!(connect_error(&place.path), None);
}

#[test]
fn the_mode_decides_who_connects() {
    if !is_root() {
        return;
    }
    for (mode, expected) in [(0o660, Some(libc::EACCES)), (0o666, None)] {
        let place = Place::new();
        let _listener = place.bind(&with_mode(mode)).unwrap();
        let stranger = as_thread::with_ids(STRANGER, || connect_error(&place.path));
        assert_eq!(stranger, expected, "mode {mode:o}");
        assert_eq!(connect_error(&place.path), None);
    }
}

#[test]
fn a_group_member_connects_to_0660() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let access = Access {
        group: Some(Account::Id(STRANGER)),
        ..with_mode(0o660)
    };
    let _listener = place.bind(&access).unwrap();
    assert_eq!(
        as_thread::with_ids(STRANGER, || connect_error(&place.path)),
        None
    );
}

/// A socket on which nobody listens. Another test may have started a program at just this moment,
/// which holds every descriptor of ours until it is the other program.
fn leave_stale(path: &Path) {
    drop(UnixListener::bind(path).unwrap());
    let until = Instant::now() + Duration::from_secs(10);
    while UnixStream::connect(path).is_ok() {
        assert!(Instant::now() < until, "somebody listens on {path:?}");
        thread::yield_now();
    }
}

#[test]
fn a_stale_socket_is_replaced() {
    let place = Place::new();
    leave_stale(&place.path);
    let listener = place.bind(&with_mode(0o640)).unwrap();
    assert_eq!(permissions(&place.path).0, 0o640);
    assert_serves(&as_std(&listener), &place.path);
}

#[test]
fn a_live_listener_is_refused_and_stays_alive() {
    let place = Place::new();
    let live = UnixListener::bind(&place.path).unwrap();
    let error = place.error(&with_mode(0o660));
    assert_eq!(
        error,
        format!(
            "bind unix:{}: another process is listening there (stop it or choose another path)",
            place.path.display()
        )
    );
    assert_serves(&live, &place.path);
    assert_eq!(place.files(), ["a.sock"]);
}

#[test]
fn a_live_listener_with_a_full_backlog_is_refused() {
    let place = Place::new();
    let live = claim(&place.path, 0o660, NOBODY, InTheWay::RemovedIfStale).unwrap();
    socket_file::listen(live.fd(), 0).unwrap();
    let name = SocketName::path(&place.path).unwrap();
    while socket_file::probe(&name).is_ok() {}
    assert!(matches!(
        place.bind(&with_mode(0o660)).unwrap_err().cause,
        Cause::Live
    ));
    assert!(place.path.exists());
}

#[test]
fn a_live_datagram_socket_is_refused() {
    let place = Place::new();
    let _live = std::os::unix::net::UnixDatagram::bind(&place.path).unwrap();
    let cause = place.bind(&with_mode(0o660)).unwrap_err().cause;
    assert!(matches!(cause, Cause::PerhapsLive { .. }), "{cause:?}");
    assert!(place.path.exists());
}

#[test]
fn a_second_bind_of_our_own_is_refused() {
    let place = Place::new();
    let _first = place.bind(&with_mode(0o660)).unwrap();
    assert!(matches!(
        place.bind(&with_mode(0o660)).unwrap_err().cause,
        Cause::Live
    ));
}

#[test]
fn other_files_at_the_path_are_refused_and_untouched() {
    let place = Place::new();
    fs::write(&place.path, "precious").unwrap();
    assert!(matches!(
        place.bind(&with_mode(0o660)).unwrap_err().cause,
        Cause::NotASocket
    ));
    assert_eq!(fs::read_to_string(&place.path).unwrap(), "precious");
    assert_eq!(place.files(), ["a.sock"]);
}

#[test]
fn a_symbolic_link_at_the_path_is_not_followed() {
    let place = Place::new();
    let target = place.directory.path().join("target");
    leave_stale(&target);
    std::os::unix::fs::symlink(&target, &place.path).unwrap();
    assert!(matches!(
        place.bind(&with_mode(0o660)).unwrap_err().cause,
        Cause::NotASocket
    ));
    assert!(target.exists());
}

#[test]
fn a_foreign_socket_at_our_path_is_not_unlinked() {
    let place = Place::new();
    let mut listener = place.bind(&with_mode(0o660)).unwrap();
    fs::remove_file(&place.path).unwrap();
    let foreign = UnixListener::bind(&place.path).unwrap();
    listener.unlink_if_ours();
    drop(listener);
    assert_serves(&foreign, &place.path);
}

#[test]
fn a_path_whose_file_is_gone_is_bound_again_as_it_was() {
    let place = Place::new();
    let listener = place.bind(&with_mode(0o620)).unwrap();
    let before = permissions(&place.path);
    let file = listener.socket_file().unwrap().clone();
    assert_eq!(file.find().unwrap(), FoundFile::Ours);
    let waiting = UnixStream::connect(&place.path).unwrap();
    fs::remove_file(&place.path).unwrap();
    assert_eq!(file.find().unwrap(), FoundFile::Nothing);

    let after = as_thread::with_umask(0o077, || {
        let mut again = bind_again(&file).unwrap();
        assert_eq!(connect_error(&place.path), Some(libc::ECONNREFUSED));
        again.listen().unwrap();
        assert_eq!(permissions(&place.path), before);
        assert_serves(&as_std(&again), &place.path);
        assert_eq!(place.files(), ["a.sock"]);
        // The first one is not, and leaves the path alone. Who waits there has not lost anything.
        assert_eq!(file.find().unwrap(), FoundFile::Another);
        let old = as_std(&listener);
        listener.retire();
        assert!(place.path.exists());
        assert!(old.accept().is_ok());
        drop(again);
    });
    assert_eq!(after, 0o077);
    drop(waiting);
    assert!(place.files().is_empty());
}

#[test]
fn nothing_is_removed_to_bind_again() {
    let place = Place::new();
    let listener = place.bind(&with_mode(0o660)).unwrap();
    let file = listener.socket_file().unwrap().clone();
    fs::remove_file(&place.path).unwrap();
    let taken = || {
        let error = bind_again(&file).unwrap_err();
        assert!(matches!(error.cause, Cause::Taken), "{error}");
        assert_eq!(place.files(), ["a.sock"]);
        fs::remove_file(&place.path).unwrap();
    };
    // On which nobody listens, as with a successor that is about to.
    leave_stale(&place.path);
    taken();
    let live = UnixListener::bind(&place.path).unwrap();
    taken();
    drop(live);
    fs::write(&place.path, "precious").unwrap();
    taken();
    std::os::unix::fs::symlink(place.directory.path().join("target"), &place.path).unwrap();
    taken();

    let lock = PathLock::take(&place.path).unwrap();
    let error = bind_again(&file).unwrap_err();
    assert!(matches!(error.cause, Cause::Starting), "{error}");
    drop(lock);
    assert!(bind_again(&file).is_ok());
}

#[test]
fn unlinking_keeps_the_backlog_and_happens_once() {
    let place = Place::new();
    let mut listener = place.bind(&with_mode(0o660)).unwrap();
    let _waiting = UnixStream::connect(&place.path).unwrap();
    listener.unlink_if_ours();
    assert!(!place.path.exists());
    assert!(as_std(&listener).accept().is_ok());
    fs::write(&place.path, "new").unwrap();
    listener.unlink_if_ours();
    drop(listener);
    assert_eq!(fs::read_to_string(&place.path).unwrap(), "new");
}

#[test]
fn missing_directories_are_named() {
    let mut place = Place::new();
    let missing = place.directory.path().join("missing");
    place.path = missing.join("a.sock");
    assert_eq!(
        place.error(&with_mode(0o660)),
        format!(
            "bind unix:{}: no such directory {} (create it first)",
            place.path.display(),
            missing.display()
        )
    );
    fs::write(&missing, "").unwrap();
    let cause = place.bind(&with_mode(0o660)).unwrap_err().cause;
    assert!(matches!(cause, Cause::NotADirectory { .. }), "{cause:?}");
}

#[test]
fn directories_of_others_are_refused_with_their_owner() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let error = as_thread::with_ids(STRANGER, || place.error(&with_mode(0o660)));
    let expected = "permission denied (the directory belongs to uid 0; run as that user or \
                    choose a directory you may write)";
    assert!(error.ends_with(expected), "{error}");
}

#[test]
fn a_lock_that_another_holds_is_refused() {
    let place = Place::new();
    let lock = PathLock::take(&place.path).unwrap();
    assert!(matches!(
        place.bind(&with_mode(0o660)).unwrap_err().cause,
        Cause::Starting
    ));
    assert_eq!(place.files(), ["a.sock.lock"]);
    drop(lock);
    assert!(place.bind(&with_mode(0o660)).is_ok());
}

#[test]
fn a_lock_file_left_by_a_crash_is_taken_over() {
    let place = Place::new();
    fs::write(place.lock(), "").unwrap();
    let _listener = place.bind(&with_mode(0o660)).unwrap();
    assert_eq!(place.files(), ["a.sock"]);
}

#[test]
fn files_that_only_look_like_our_lock_are_untouched() {
    let place = Place::new();
    let target = place.directory.path().join("target");
    fs::write(place.lock(), "precious").unwrap();
    let foreign = |cause| matches!(cause, Cause::ForeignLock { .. });
    assert!(foreign(place.bind(&with_mode(0o660)).unwrap_err().cause));
    assert_eq!(fs::read_to_string(place.lock()).unwrap(), "precious");

    fs::remove_file(place.lock()).unwrap();
    fs::write(&target, "").unwrap();
    std::os::unix::fs::symlink(&target, place.lock()).unwrap();
    assert!(foreign(place.bind(&with_mode(0o660)).unwrap_err().cause));
    assert!(target.exists());
    assert!(!place.path.exists());
}

#[test]
fn of_many_starting_at_once_one_wins() {
    let place = Place::new();
    for round in 0..50 {
        if round % 2 == 1 {
            leave_stale(&place.path);
        }
        let barrier = std::sync::Barrier::new(6);
        let outcomes: Vec<_> = thread::scope(|scope| {
            let start = || {
                barrier.wait();
                place.bind(&with_mode(0o660))
            };
            let threads: Vec<_> = (0..6).map(|_| scope.spawn(start)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1, "round {round}: {lost:?}");
        for error in lost.into_iter().filter_map(Result::err) {
            assert!(
                matches!(error.cause, Cause::Starting | Cause::Live),
                "{error}"
            );
        }
        assert_serves(&as_std(won[0].as_ref().unwrap()), &place.path);
    }
    assert!(place.files().is_empty());
}

#[test]
fn abstract_names_serve_clients_and_conflict() {
    let name = format!("spliceway-listener-{}", std::process::id()).into_bytes();
    let address = UnixAddress::Abstract(name.clone());
    let mut listener = bind(&address, &with_mode(0o660)).unwrap();
    listener.listen().unwrap();
    assert_eq!(listener.address(), &address);
    let target = SocketAddr::from_abstract_name(&name).unwrap();
    UnixStream::connect_addr(&target).unwrap();
    assert_eq!(
        bind(&address, &with_mode(0o660)).unwrap_err().to_string(),
        format!(
            "bind {address}: another process has this abstract name (stop it or choose another \
             name)"
        )
    );
    drop(listener);
    // A program that another test starts may have it for another moment.
    let deadline = Instant::now() + Duration::from_secs(60);
    while bind(&address, &with_mode(0o660)).is_err() {
        assert!(Instant::now() < deadline, "the name is not free");
        thread::yield_now();
    }
}
