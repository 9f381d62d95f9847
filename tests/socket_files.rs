//! A socket's file that goes while the daemon runs: the path is bound again where it is free, and left alone
//! where somebody else has it. Nobody who had connected is lost.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use common::activation::{Activation, unix_listener};
use common::client::{assert_eof, exchange, exchange_and_end, receive_exact};
use common::fastcgi::{Client, Request, responder};
use common::proxy::{NOBODY, connect, fresh_dir};
use common::sys::lacks_root;
use common::wait::SetOnDrop;
use common::{Backend, Engine, KB, Pattern, Proxy, eventually, for_each_engine, http};

for_each_engine!(
    a_file_that_is_removed_is_made_again_as_it_was,
    a_directory_that_is_made_again_gets_its_sockets,
    a_directory_that_is_replaced_gets_its_socket,
    who_waits_in_the_old_backlog_is_served,
    who_has_connected_is_served_while_the_file_goes_again_and_again,
    all_shards_accept_on_the_new_socket,
    a_successors_socket_is_left_alone,
);

/// A line of the log, once for each time.
const BOUND_AGAIN: &str = "was not there any more, and is bound again";

/// Another line, with the reason behind it.
const MISSING: &str = "is not there any more";

fn inode(path: &Path) -> Option<u64> {
    fs::symlink_metadata(path).ok().map(|found| found.ino())
}

/// Somebody listens there, which at a path that was just bound takes a moment.
fn wait_until_served(path: &Path) {
    eventually("somebody listens at the path", || {
        UnixStream::connect(path).is_ok()
    });
}

fn a_file_that_is_removed_is_made_again_as_it_was(engine: Engine) {
    let backend = Backend::echo();
    let mut proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--mode", "0642"])
        .umask(0o077)
        .observed()
        .start();
    let before = fs::metadata(proxy.socket()).unwrap();
    let session = proxy.connect();
    for round in 1..=3 {
        fs::remove_file(proxy.socket()).unwrap();
        wait_until_served(proxy.socket());
        let after = fs::metadata(proxy.socket()).unwrap();
        assert_eq!(after.mode(), before.mode());
        assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
        exchange_and_end(&proxy.connect(), Pattern::new(round), KB);
        // A session is none of the socket's business.
        exchange(&session, Pattern::new(round), KB);
        let told = || proxy.process().log().count(BOUND_AGAIN) as u64 == round;
        eventually("it is told once each time", told);
    }
    assert_eq!(proxy.process().log().count(MISSING), 0);
    let address = proxy.metrics_address();
    eventually("it is ready", || http::get(address, "/readyz").code == 200);
    assert_eq!(proxy.scrape().value("spliceway_socket_files_missing"), 0.0);
    proxy.process().assert_comes_to_rest();
    let names = fs::read_dir(proxy.dir()).unwrap();
    let locks = names.filter(|name| {
        let name = name.as_ref().unwrap().file_name();
        name.to_string_lossy().ends_with(".lock")
    });
    assert_eq!(locks.count(), 0);
    drop(session);
    proxy.terminate();
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(!proxy.socket().exists(), "the last one is the daemon's own");
}

/// With several routes, of both kinds, and the control socket.
fn a_directory_that_is_made_again_gets_its_sockets(engine: Engine) {
    let (raw, fastcgi) = (Backend::echo(), responder());
    let builder = Proxy::builder().engine(engine);
    let directory = builder.dir().join("run");
    fs::create_dir(&directory).unwrap();
    let path = |name: &str| directory.join(name);
    let config = format!(
        "control = \"{control}\"\nmetrics = \"127.0.0.1:0\"\n\
         [route.raw]\nlisten = [\"unix:{a}\", \"unix:{b}\"]\nbackend = [\"{raw}\"]\n\
         [route.php]\nlisten = [\"unix:{c}\"]\nbackend = [\"{fastcgi}\"]\nprotocol = \"fastcgi\"\n",
        control = path("control.sock").display(),
        a = path("a.sock").display(),
        b = path("b.sock").display(),
        c = path("c.sock").display(),
    );
    let proxy = builder.config(&config).start();
    let address = proxy.metrics_address();
    fs::remove_dir_all(&directory).unwrap();
    let missing = || proxy.scrape().value("spliceway_socket_files_missing");
    eventually("all are missed", || missing() == 4.0);
    let not_ready = http::get(address, "/readyz");
    assert_eq!(not_ready.code, 503);
    assert!(
        not_ready.body.contains("3 sockets' files are missing"),
        "{}",
        not_ready.body
    );
    // Once each, with what is in the way, however often it is tried.
    proxy.process().assert_comes_to_rest();
    assert_eq!(proxy.process().log().count(MISSING), 4);
    assert_eq!(proxy.process().log().count("no such directory"), 4);

    fs::create_dir(&directory).unwrap();
    eventually("all are bound again", || {
        proxy.process().log().count(BOUND_AGAIN) == 4 && missing() == 0.0
    });
    for name in ["a.sock", "b.sock"] {
        exchange_and_end(&connect(&path(name)).unwrap(), Pattern::new(1), KB);
    }
    let client = Client(connect(&path("c.sock")).unwrap());
    assert!(client.ask(&Request::get("/a")).text().contains("/a"));
    let control = http::get_unix(&path("control.sock"), "/readyz");
    assert_eq!((control.code, &*control.body), (200, "ready\n"));
    let mode = fs::metadata(path("control.sock")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o600);
}

fn a_directory_that_is_replaced_gets_its_socket(engine: Engine) {
    let backend = Backend::echo();
    let builder = Proxy::builder().engine(engine).backend(&backend);
    let (directory, away) = (builder.dir().join("run"), builder.dir().join("away"));
    fs::create_dir(&directory).unwrap();
    let socket = directory.join("a.sock");
    let mut proxy = builder.listen(format!("unix:{}", socket.display())).start();
    let old = inode(&socket);
    // Away: nothing can be bound. Back again: it is the old one, and nothing has to be.
    fs::rename(&directory, &away).unwrap();
    proxy.process().wait_for_log(MISSING);
    fs::rename(&away, &directory).unwrap();
    proxy.process().wait_for_log("is there again");
    assert_eq!(inode(&socket), old);
    exchange_and_end(&connect(&socket).unwrap(), Pattern::new(1), KB);

    fs::rename(&directory, &away).unwrap();
    fs::create_dir(&directory).unwrap();
    wait_until_served(&socket);
    exchange_and_end(&connect(&socket).unwrap(), Pattern::new(2), KB);
    // Nobody serves the old one, and the file stays: it is not at its path.
    let stale = away.join("a.sock");
    eventually("newcomers are refused there", || {
        UnixStream::connect(&stale).is_err()
    });
    proxy.terminate();
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(!socket.exists());
    assert_eq!(inode(&stale), old);
}

/// At `--connections-max` they have never been accepted when the file goes.
fn who_waits_in_the_old_backlog_is_served(engine: Engine) {
    let backend = Backend::hold();
    let mut proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--connections-max", "1", "--workers", "2"])
        .start();
    let first = proxy.connect();
    backend.wait_until("the first session", |ledger| ledger.open == 1);
    let mut clients = vec![first];
    // A second time while some wait at the first one.
    for round in 1..=2 {
        clients.extend((0..4).map(|_| proxy.connect()));
        fs::remove_file(proxy.socket()).unwrap();
        wait_until_served(proxy.socket());
        let told = || proxy.process().log().count(BOUND_AGAIN) == round;
        eventually("it is bound again", told);
    }
    clients.extend((0..4).map(|_| proxy.connect()));
    proxy.process().assert_comes_to_rest();
    assert_eq!(backend.ledger().accepted, 1);
    // The looks at the path are clients, too.
    backend.release(2 * clients.len());
    for client in clients {
        assert_eq!(receive_exact(&client, 4), b"done");
        assert_eof(&client);
    }
    proxy.terminate();
    assert_eq!(proxy.wait().code(), Some(0));
}

fn who_has_connected_is_served_while_the_file_goes_again_and_again(engine: Engine) {
    const CLIENTS: usize = 4;
    const REMOVALS: usize = 4;
    let backend = Backend::echo();
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--workers", "2"])
        .start();
    let (is_over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for number in 0..CLIENTS as u64 {
            let (proxy, is_over, served) = (&proxy, &is_over, &served);
            scope.spawn(move || {
                for round in 0.. {
                    if is_over.load(Ordering::Acquire) {
                        return;
                    }
                    // Who does not find it has lost nothing.
                    let Ok(client) = connect(proxy.socket()) else {
                        continue;
                    };
                    exchange_and_end(&client, Pattern::new(number << 32 | round), KB);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _end = SetOnDrop(&is_over);
        for removals in 1..=REMOVALS {
            let before = served.load(Ordering::Relaxed);
            eventually("clients are served", || {
                served.load(Ordering::Relaxed) > before + 20
            });
            fs::remove_file(proxy.socket()).unwrap();
            eventually("it is bound again", || {
                proxy.process().log().count(BOUND_AGAIN) == removals
            });
        }
        let before = served.load(Ordering::Relaxed);
        eventually("clients are served", || {
            served.load(Ordering::Relaxed) > before + 20
        });
    });
    // What was held for the old ones is given back.
    proxy.process().assert_comes_to_rest();
    let listening = |process: &common::Process| {
        let unix = fs::read_to_string(format!("/proc/{}/net/unix", process.pid())).unwrap();
        let path = proxy.socket().display().to_string();
        unix.lines().filter(|line| line.ends_with(&path)).count()
    };
    eventually("one socket is left", || listening(proxy.process()) == 1);
}

fn all_shards_accept_on_the_new_socket(engine: Engine) {
    let backend = Backend::hold();
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--workers", "2", "--per-endpoint-max", "2", "--shards", "2"])
        .observed()
        .start();
    fs::remove_file(proxy.socket()).unwrap();
    proxy.process().wait_for_log(BOUND_AGAIN);
    // One place in each shard: two are served at a time only if both have clients. The shard that was first there
    // may get the first two; from then on they take turns, if clients come one at a time.
    let accepted = "spliceway_connections_accepted_total{route=\"default\"}";
    let come = |number: u8| {
        let client = proxy.connect();
        let is_in = || proxy.scrape().value(accepted) == f64::from(number);
        eventually("it is accepted", is_in);
        client
    };
    let clients: Vec<_> = (1..=4).map(come).collect();
    backend.wait_until("both shards serve", |ledger| ledger.open == 2);
    backend.release(clients.len());
    for client in clients {
        assert_eq!(receive_exact(&client, 4), b"done");
    }
}

/// Another daemon has bound the path meanwhile. When it goes, the path is free.
fn a_successors_socket_is_left_alone(engine: Engine) {
    let backend = Backend::banner(b"first");
    let successors = Backend::banner(b"second");
    let mut proxy = Proxy::start(engine, &backend);
    let says = |expected: &[u8]| {
        let client = connect(proxy.socket()).unwrap();
        assert_eq!(receive_exact(&client, expected.len()), expected);
    };
    says(b"first");
    proxy.process().signal(libc::SIGSTOP);
    eventually("it is stopped", || proxy.process().is_stopped());
    fs::remove_file(proxy.socket()).unwrap();
    let listen = format!("unix:{}", proxy.socket().display());
    let mut successor = Proxy::builder()
        .engine(engine)
        .listen(&listen)
        .backend(&successors)
        .start();
    let theirs = inode(proxy.socket());
    proxy.process().signal(libc::SIGCONT);
    proxy.process().wait_for_log("another file is there");
    says(b"second");
    assert_eq!(inode(proxy.socket()), theirs);

    successor.terminate();
    assert_eq!(successor.wait().code(), Some(0));
    wait_until_served(proxy.socket());
    proxy.process().wait_for_log(BOUND_AGAIN);
    says(b"first");
    assert_eq!(proxy.process().log().count(MISSING), 1);
    proxy.terminate();
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(!proxy.socket().exists());
}

/// A socket on which nobody listens may be about to be one, and a file may be anything.
#[test]
fn nothing_that_is_in_the_way_is_removed() {
    let backend = Backend::echo();
    let mut proxy = Proxy::builder().backend(&backend).start();
    let stale = proxy.dir().join("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    let ours = inode(&stale);
    fs::rename(&stale, proxy.socket()).unwrap();
    proxy.process().wait_for_log("another file is there");
    // A restart of another kind: a file takes the place of the socket at once.
    let other = proxy.dir().join("other");
    fs::write(&other, "precious").unwrap();
    fs::rename(&other, proxy.socket()).unwrap();
    proxy.process().assert_comes_to_rest();
    assert_eq!(fs::read_to_string(proxy.socket()).unwrap(), "precious");
    assert_ne!(inode(proxy.socket()), ours);
    assert_eq!(proxy.process().log().count(MISSING), 1);
    // As the message advises.
    fs::remove_file(proxy.socket()).unwrap();
    wait_until_served(proxy.socket());
    proxy.terminate();
    assert_eq!(proxy.wait().code(), Some(0));
}

/// In a directory of root's, a daemon that has given its rights up can do nothing but say so.
#[test]
fn without_the_right_to_the_directory_it_is_told_why() {
    if lacks_root() {
        return;
    }
    let backend = Backend::echo();
    let proxy = Proxy::builder()
        .backend(&backend)
        .args(["--user", "nobody", "--mode", "0666"])
        .start();
    let before = fs::metadata(proxy.socket()).unwrap();
    assert_eq!(before.uid(), 0);
    let lock = proxy.dir().join("proxy.sock.lock");
    fs::remove_file(proxy.socket()).unwrap();
    proxy.process().wait_for_log(MISSING);
    let _ = fs::remove_file(lock);
    proxy
        .process()
        .wait_for_log("the directory belongs to uid 0");
    // With a right to write, the file would be the user's own, and not root's as at the start.
    fs::set_permissions(proxy.dir(), Permissions::from_mode(0o777)).unwrap();
    proxy
        .process()
        .wait_for_log("no permission to change the owner of the socket");
    assert!(!proxy.socket().exists());
    assert_eq!(proxy.process().log().count(BOUND_AGAIN), 0);
}

#[test]
fn a_daemon_of_another_user_binds_its_own_socket_again() {
    if lacks_root() {
        return;
    }
    let backend = Backend::echo();
    let builder = Proxy::builder().backend(&backend);
    std::os::unix::fs::chown(builder.dir(), Some(NOBODY), Some(NOBODY)).unwrap();
    let proxy = builder
        .args([
            "--user", "nobody", "--owner", "nobody", "--group", "nogroup",
        ])
        .observed()
        .start();
    let control = proxy.control();
    for path in [proxy.socket(), &control] {
        let before = fs::metadata(path).unwrap();
        fs::remove_file(path).unwrap();
        wait_until_served(path);
        let after = fs::metadata(path).unwrap();
        assert_eq!(
            (after.uid(), after.gid(), after.mode()),
            (NOBODY, NOBODY, before.mode())
        );
    }
    exchange_and_end(&proxy.connect(), Pattern::new(1), KB);
    assert_eq!(http::get_unix(&control, "/healthz").code, 200);
}

/// Its next owner would not know of another one.
#[test]
fn a_socket_that_was_passed_is_only_told_of() {
    let directory = fresh_dir();
    let (listener, path) = unix_listener(directory.path());
    let backend = Backend::echo();
    let backend = backend.address().to_string();
    let words = ["--listen", "inherit:web", "--backend", &backend];
    let process = Activation::run(Engine::Epoll, &words)
        .passing(&[(&listener, "web")])
        .start();
    fs::remove_file(&path).unwrap();
    process.wait_for_log("it was passed to the daemon (restart its socket unit");
    process.assert_comes_to_rest();
    assert!(!path.exists());
    assert_eq!(process.log().count(MISSING), 1);
}
