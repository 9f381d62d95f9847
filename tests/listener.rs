//! The socket in the file system: who may connect, what it replaces, what it leaves behind.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::client::{exchange, receive_to_eof};
use common::proxy::{NOBODY, connect, connect_abstract, fresh_abstract_name, fresh_dir, guarded};
use common::sys::{as_user, connect_at_once, lacks_root};
use common::wait::SetOnDrop;
use common::{Backend, Engine, KB, Pattern, Proxy, for_each_engine};

for_each_engine!(
    abstract_socket_serves,
    every_listener_serves,
    a_thousand_clients_wait_in_the_backlog,
);

/// A group that nobody on the machine is in.
const GROUP: u32 = 54_321;

#[test]
fn mode_is_0660_unless_asked_otherwise() {
    let backend = Backend::echo();
    let proxy = Proxy::builder().umask(0o077).backend(&backend).start();
    assert_eq!(mode_of(proxy.socket()), 0o660);
}

#[test]
fn mode_owner_and_group_are_as_asked() {
    if lacks_root() {
        return;
    }
    let backend = Backend::echo();
    let ids = ["--mode", "0640", "--owner", "65534", "--group", "54321"];
    let proxy = Proxy::builder()
        .umask(0)
        .backend(&backend)
        .args(ids)
        .start();
    let found = fs::metadata(proxy.socket()).unwrap();
    assert_eq!(mode_of(proxy.socket()), 0o640);
    assert_eq!((found.uid(), found.gid()), (NOBODY, GROUP));
}

#[test]
fn owner_and_group_may_be_names() {
    if lacks_root() {
        return;
    }
    let backend = Backend::echo();
    let names = ["--owner", "nobody", "--group", "nogroup"];
    let proxy = Proxy::builder().backend(&backend).args(names).start();
    let found = fs::metadata(proxy.socket()).unwrap();
    assert_eq!((found.uid(), found.gid()), (NOBODY, NOBODY));
}

#[test]
fn only_the_group_may_connect() {
    if lacks_root() {
        return;
    }
    let backend = Backend::echo();
    let proxy = Proxy::builder()
        .backend(&backend)
        .args(["--group", "54321"])
        .start();
    let outsider = as_user(NOBODY, NOBODY, || connect(proxy.socket()));
    assert_eq!(outsider.unwrap_err().kind(), ErrorKind::PermissionDenied);
    let member = as_user(NOBODY, GROUP, || connect(proxy.socket()));
    exchange(&member.unwrap(), Pattern::new(1), KB);
}

/// An outsider tries all the time while the listener comes into being, under the umask that would
/// let everybody in. A connection that is refused for want of a listener has passed the permission
/// check as well.
#[test]
fn an_outsider_is_let_in_at_no_moment_of_the_start() {
    if lacks_root() {
        return;
    }
    let backend = Backend::echo();
    for _ in 0..15 {
        let builder = Proxy::builder().umask(0).backend(&backend);
        let (socket, started) = (builder.socket(), AtomicBool::new(false));
        thread::scope(|scope| {
            let outsider = || as_user(NOBODY, NOBODY, || try_until(&socket, &started));
            let denials = scope.spawn(outsider);
            let end_the_attempts = SetOnDrop(&started);
            let _proxy = builder.start();
            drop(end_the_attempts);
            assert!(
                denials.join().unwrap() > 0,
                "the outsider never got to the socket"
            );
        });
    }
}

/// Tries to connect until one attempt that began after the start has ended. Counts the denials.
fn try_until(socket: &Path, started: &AtomicBool) -> usize {
    let mut denials = 0;
    loop {
        let last = started.load(Ordering::Acquire);
        match UnixStream::connect(socket).map_err(|error| error.kind()) {
            Err(ErrorKind::NotFound) => {}
            Err(ErrorKind::PermissionDenied) => denials += 1,
            other => panic!("an outsider passed the permission check: {other:?}"),
        }
        if last {
            return denials;
        }
    }
}

#[test]
fn a_stale_socket_is_replaced() {
    let backend = Backend::echo();
    let builder = Proxy::builder().backend(&backend);
    drop(UnixListener::bind(builder.socket()).unwrap());
    assert!(builder.socket().exists());
    let proxy = builder.start();
    exchange(&proxy.connect(), Pattern::new(2), KB);
}

#[test]
fn a_socket_left_by_a_killed_proxy_is_replaced() {
    let (backend, dir) = (Backend::echo(), fresh_dir());
    let address = format!("unix:{}/shared.sock", dir.path().display());
    let killed = Proxy::builder().listen(&address).backend(&backend).start();
    killed.process().signal(libc::SIGKILL);
    drop(killed);
    let _proxy = Proxy::builder().listen(&address).backend(&backend).start();
    let client = connect(&dir.path().join("shared.sock")).unwrap();
    exchange(&client, Pattern::new(3), KB);
}

#[test]
fn a_live_socket_is_refused_and_not_stolen() {
    let backend = Backend::echo();
    let builder = Proxy::builder().backend(&backend);
    let socket = builder.socket();
    let living = UnixListener::bind(&socket).unwrap();
    let inode = fs::metadata(&socket).unwrap().ino();

    let outcome = builder.run_to_the_end_and(|| {
        assert_eq!(fs::metadata(&socket).unwrap().ino(), inode);
    });
    drop(living);
    outcome.assert_error_line(1, &[&socket.display().to_string()]);
}

#[test]
fn a_second_proxy_is_refused_and_the_first_serves_on() {
    let (backend, dir) = (Backend::echo(), fresh_dir());
    let socket = dir.path().join("shared.sock");
    let address = format!("unix:{}", socket.display());
    let _first = Proxy::builder().listen(&address).backend(&backend).start();
    let second = Proxy::builder()
        .listen(&address)
        .backend(&backend)
        .run_to_the_end();
    second.assert_error_line(1, &[&socket.display().to_string()]);
    exchange(&connect(&socket).unwrap(), Pattern::new(4), KB);
}

#[test]
fn a_file_in_the_place_of_the_socket_is_not_removed() {
    let backend = Backend::echo();
    let builder = Proxy::builder().backend(&backend);
    let socket = builder.socket();
    fs::write(&socket, "precious").unwrap();
    let outcome = builder.run_to_the_end_and(|| {
        assert_eq!(fs::read_to_string(&socket).unwrap(), "precious");
    });
    outcome.assert_error_line(1, &[&socket.display().to_string()]);
}

#[test]
fn the_socket_is_unlinked_on_exit() {
    let backend = Backend::echo();
    let mut proxy = Proxy::builder().backend(&backend).start();
    assert!(
        fs::metadata(proxy.socket())
            .unwrap()
            .file_type()
            .is_socket()
    );
    proxy.terminate();
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(!proxy.socket().exists());
}

#[test]
fn a_foreign_socket_is_not_unlinked_on_exit() {
    let backend = Backend::echo();
    let mut proxy = Proxy::builder().backend(&backend).start();
    fs::remove_file(proxy.socket()).unwrap();
    let foreign = UnixListener::bind(proxy.socket()).unwrap();
    let inode = fs::metadata(proxy.socket()).unwrap().ino();
    proxy.terminate();
    assert_eq!(proxy.wait().code(), Some(0));
    assert_eq!(fs::metadata(proxy.socket()).unwrap().ino(), inode);
    connect(proxy.socket()).unwrap();
    drop(foreign);
}

/// Of several listeners that cannot all be made, none stays behind.
#[test]
fn a_start_that_fails_leaves_no_socket_behind() {
    let (backend, dir) = (Backend::echo(), fresh_dir());
    let good = dir.path().join("good.sock");
    let outcome = Proxy::builder()
        .listen(format!("unix:{}", good.display()))
        .listen(format!("unix:{}/missing/bad.sock", dir.path().display()))
        .backend(&backend)
        .run_to_the_end();
    outcome.assert_error_line(1, &["missing/bad.sock"]);
    assert!(!good.exists());
}

#[test]
fn an_unprivileged_user_serves_its_own_socket() {
    let backend = Backend::echo();
    let proxy = Proxy::builder().user(NOBODY).backend(&backend).start();
    exchange(&proxy.connect(), Pattern::new(5), KB);
}

#[test]
fn a_directory_without_permission_is_refused() {
    if lacks_root() {
        return;
    }
    let (backend, dir) = (Backend::echo(), fresh_dir());
    chown(dir.path(), Some(0), Some(0)).unwrap();
    let outcome = Proxy::builder()
        .user(NOBODY)
        .listen(format!("unix:{}/x.sock", dir.path().display()))
        .backend(&backend)
        .run_to_the_end();
    outcome.assert_error_line(1, &["x.sock", "ermission"]);
}

fn abstract_socket_serves(engine: Engine) {
    let (backend, name) = (Backend::echo(), fresh_abstract_name());
    let listen = format!("unix:@{name}");
    let mut proxy = Proxy::builder()
        .engine(engine)
        .listen(listen)
        .backend(&backend)
        .start();
    exchange(&connect_abstract(&name).unwrap(), Pattern::new(6), KB);
    proxy.terminate();
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(connect_abstract(&name).is_err());
}

fn every_listener_serves(engine: Engine) {
    let (backend, dir, name) = (Backend::echo(), fresh_dir(), fresh_abstract_name());
    let [one, other] = ["one.sock", "other.sock"].map(|file| dir.path().join(file));
    let mut proxy = Proxy::builder()
        .engine(engine)
        .listen(format!("unix:{}", one.display()))
        .listen(format!("unix:{}", other.display()))
        .listen(format!("unix:@{name}"))
        .backend(&backend)
        .start();
    for round in 0..5 {
        exchange(&connect(&one).unwrap(), Pattern::new(round), KB);
        exchange(&connect(&other).unwrap(), Pattern::new(round), KB);
        exchange(&connect_abstract(&name).unwrap(), Pattern::new(round), KB);
    }
    proxy.terminate();
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(!one.exists() && !other.exists());
}

/// nginx connects without waiting and takes a full backlog for a failed upstream.
fn a_thousand_clients_wait_in_the_backlog(engine: Engine) {
    let backend = Backend::hold();
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--connections-max", "1"])
        .start();
    let connect = |_| {
        let client = connect_at_once(proxy.socket()).expect("there is room in the backlog");
        client.shutdown(Shutdown::Write).unwrap();
        guarded(client).unwrap()
    };
    let clients: Vec<_> = (0..1000).map(connect).collect();
    backend.release(clients.len());
    for client in &clients {
        assert_eq!(receive_to_eof(client), b"done");
    }
    let ledger = backend.ledger();
    assert_eq!((ledger.accepted, ledger.open_most), (1000, 1));
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}
