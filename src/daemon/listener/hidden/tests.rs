//! Sockets away from their paths, and what is in their way.

use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use tempfile::TempDir;

use super::super::{Listener, bind, bind_path};
use super::*;
use crate::config::Access;

struct Place {
    directory: TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        Self::named("a.sock")
    }

    fn named(name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        Self { directory, path }
    }

    fn hidden(&self) -> PathBuf {
        hidden_path(&self.path)
    }

    fn listen(&self) -> Listener {
        let access = Access {
            mode: 0o640,
            ..Access::default()
        };
        let mut listener = bind(&UnixAddress::Path(self.path.clone()), &access).unwrap();
        listener.listen().unwrap();
        listener
    }

    fn refused(&self) -> String {
        let error = bind_path(&self.path, &Access::default()).unwrap_err();
        error.to_string()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }
}

fn file_of(listener: &Listener) -> SocketFile {
    listener.socket_file().unwrap().clone()
}

fn parts(path: &Path) -> (u64, u32) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.ino(), found.mode())
}

#[test]
fn nobody_finds_it_and_nothing_is_lost() {
    let place = Place::new();
    let listener = place.listen();
    let (file, before) = (file_of(&listener), parts(&place.path));
    let mut waiting = UnixStream::connect(&place.path).unwrap();
    for _ in 0..3 {
        file.hide().unwrap();
        assert!(file.is_hidden() && file.is_there());
        assert_eq!(place.names(), [".a.sock.down"], "no lock is left");
        let error = UnixStream::connect(&place.path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        file.show().unwrap();
        assert!(!file.is_hidden() && file.is_there());
        assert_eq!(place.names(), ["a.sock"]);
        assert_eq!(parts(&place.path), before);
    }
    file.hide().unwrap();
    // Whoever waits is still there, and is answered.
    let accepted = UnixListener::from(listener.fd().try_clone_to_owned().unwrap());
    let (mut served, _) = accepted.accept().unwrap();
    served.write_all(b"x").unwrap();
    waiting.read_exact(&mut [0]).unwrap();
    drop(listener);
    assert_eq!(
        place.names(),
        Vec::<String>::new(),
        "it goes with its socket"
    );
}

/// As long as a socket's path can be.
#[test]
fn the_longest_name_of_a_socket_has_a_hidden_one() {
    let directory = tempfile::tempdir().unwrap();
    let room = 107 - directory.path().as_os_str().as_bytes().len() - 1;
    drop(directory);
    let place = Place::named(&"a".repeat(room));
    let listener = place.listen();
    file_of(&listener).check_hiding().unwrap();
    file_of(&listener).hide().unwrap();
    assert!(place.hidden().as_os_str().as_bytes().len() > 107);
    assert!(place.refused().contains("another process listens there"));
    // As when its process is killed.
    listener.leave();
    drop(place.listen());
    assert_eq!(place.names(), Vec::<String>::new());
}

#[test]
fn a_name_that_is_taken_stays_whose_it_is() {
    let place = Place::new();
    let listener = place.listen();
    let file = file_of(&listener);
    fs::write(place.hidden(), "precious").unwrap();
    let error = file.hide().unwrap_err().to_string();
    assert!(error.contains("another file is at"), "{error}");
    let error = file.check_hiding().unwrap_err().to_string();
    assert!(
        error.starts_with("--when-down refuse with --listen unix:"),
        "{error}"
    );
    assert!(
        error.contains("(remove it); --when-down close can do without"),
        "{error}"
    );
    fs::remove_file(place.hidden()).unwrap();
    file.check_hiding().unwrap();
    assert_eq!(place.names(), ["a.sock"], "nothing is left of the check");
    file.hide().unwrap();
    file.check_hiding().unwrap();
    fs::write(&place.path, "precious").unwrap();
    let error = file.show().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    assert!(file.is_hidden());
    drop(listener);
    assert_eq!(place.names(), ["a.sock"]);
    assert_eq!(fs::read_to_string(&place.path).unwrap(), "precious");
}

/// The path is free meanwhile, and nobody else may have it.
#[test]
fn whoever_starts_at_the_path_of_a_hidden_socket_is_refused() {
    let place = Place::new();
    let listener = place.listen();
    file_of(&listener).hide().unwrap();
    let refused = place.refused();
    assert!(
        refused.contains(&place.hidden().display().to_string()),
        "{refused}"
    );
    assert!(
        refused.contains("another process listens there"),
        "{refused}"
    );
    assert_eq!(place.names(), [".a.sock.down"]);
    // While somebody starts there, it is not hidden either.
    file_of(&listener).show().unwrap();
    let lock = PathLock::take(&place.path).unwrap();
    let error = file_of(&listener).hide().unwrap_err();
    assert!(matches!(error, Cause::Starting), "{error}");
    drop(lock);
    file_of(&listener).hide().unwrap();
}

#[test]
fn a_leftover_is_removed_if_it_is_one() {
    // A socket on which nobody listens: the process was killed.
    let place = Place::new();
    drop(UnixListener::bind(place.hidden()).unwrap());
    let listener = place.listen();
    assert_eq!(place.names(), ["a.sock"]);
    drop(listener);
    // What is no such socket is somebody else's.
    fs::write(place.hidden(), "precious").unwrap();
    drop(place.listen());
    assert_eq!(fs::read_to_string(place.hidden()).unwrap(), "precious");
    fs::remove_file(place.hidden()).unwrap();
    let datagrams = UnixDatagram::bind(place.hidden()).unwrap();
    drop(place.listen());
    assert_eq!(place.names(), [".a.sock.down"]);
    drop(datagrams);
    fs::remove_file(place.hidden()).unwrap();
    // Nor is a link followed.
    let other = place.directory.path().join("other");
    drop(UnixListener::bind(&other).unwrap());
    std::os::unix::fs::symlink(&other, place.hidden()).unwrap();
    drop(place.listen());
    assert!(other.exists() && fs::symlink_metadata(place.hidden()).is_ok());
}

/// Between the look and the rename, another file may have come to the path.
#[test]
fn a_file_that_is_not_the_socket_is_given_back() {
    let place = Place::new();
    let listener = place.listen();
    let file = file_of(&listener);
    fs::remove_file(&place.path).unwrap();
    fs::write(&place.path, "precious").unwrap();
    let error = file.hide().unwrap_err().to_string();
    assert!(error.contains("was given back"), "{error}");
    assert_eq!(place.names(), ["a.sock"]);
    assert_eq!(fs::read_to_string(&place.path).unwrap(), "precious");
}

#[test]
fn a_hidden_file_is_changed_where_it_is() {
    let place = Place::new();
    let listener = place.listen();
    let file = file_of(&listener);
    file.hide().unwrap();
    let access = |mode| Access {
        mode,
        ..Access::default()
    };
    let opened = file.open_for(&access(0o606), &access(0o640)).unwrap();
    assert_eq!(parts(&place.hidden()).1 & 0o777, 0o606);
    opened.become_like(&file).unwrap();
    assert_eq!(parts(&place.hidden()).1 & 0o777, 0o640);
    opened.restore().unwrap();
    assert_eq!(parts(&place.hidden()).1 & 0o777, 0o606);
    assert!(!place.path.exists());
}
