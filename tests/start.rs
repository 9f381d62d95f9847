//! The start as a whole: nobody is let in before it has succeeded, and nobody who is can hold it up.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::activation::{Activation, unix_listener};
use common::client::{exchange_and_end, send};
use common::proxy::{connect, fresh_dir};
use common::sys::{refuse_descriptors, send_with_descriptor};
use common::wait::SetOnDrop;
use common::{Backend, Engine, KB, Pattern, Proxy, for_each_engine};

for_each_engine!(passed_descriptors_are_refused);

/// A client tries all the time: it is refused, and never let in and cut off.
#[test]
fn a_start_that_fails_lets_nobody_in() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let metrics = taken.local_addr().unwrap().to_string();
    let failures: [&[&str]; 4] = [
        &["--metrics", &metrics],
        &["--control", "/nonexistent/control.sock"],
        &[
            "--protocol",
            "fastcgi",
            "--access-log",
            "/nonexistent/access.log",
        ],
        &["--workers", "2", "--shards", "3", "--per-endpoint-max", "8"],
    ];
    for options in failures {
        for _ in 0..5 {
            let builder = Proxy::builder()
                .backend("127.0.0.1:9")
                .args(options.iter().copied());
            let (socket, ended) = (builder.socket(), AtomicBool::new(false));
            thread::scope(|scope| {
                let tries = scope.spawn(|| {
                    while !ended.load(Ordering::Acquire) {
                        let kind = UnixStream::connect(&socket).map_err(|error| error.kind());
                        let refused = [ErrorKind::NotFound, ErrorKind::ConnectionRefused];
                        assert!(
                            kind.is_err_and(|kind| refused.contains(&kind)),
                            "it was let in"
                        );
                    }
                });
                let end_the_attempts = SetOnDrop(&ended);
                builder.run_to_the_end().assert_error_line(1, &[]);
                drop(end_the_attempts);
                tries.join().unwrap();
            });
        }
    }
}

/// Nothing tells which kernels can: where this one can, each of our sockets has to.
fn passed_descriptors_are_refused(engine: Engine) {
    let (one, other) = UnixStream::pair().unwrap();
    if !refuse_descriptors(&other) {
        eprintln!("skipped: needs Linux 6.16");
        return;
    }
    drop((one, other));
    let (backend, dir) = (Backend::echo(), fresh_dir());
    let control = dir.path().join("control.sock");
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--control", control.to_str().unwrap()])
        .start();
    let (listener, inherited) = unix_listener(dir.path());
    let address = backend.address().to_string();
    let words = ["--listen", "inherit", "--backend", &address];
    let _passed = Activation::run(engine, &words)
        .passing(&[(&listener, "x")])
        .start();
    for path in [proxy.socket(), &control, &inherited] {
        let client = connect(path).unwrap();
        let error = send_with_descriptor(&client, b"x").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{path:?}");
    }
    exchange_and_end(&proxy.connect(), Pattern::new(1), KB);
}

/// The backend's program is the one who passes them.
#[test]
fn a_unix_backend_cannot_pass_descriptors_either() {
    let (one, _other) = UnixStream::pair().unwrap();
    if !refuse_descriptors(&one) {
        eprintln!("skipped: needs Linux 6.16");
        return;
    }
    let dir = fresh_dir();
    let path = dir.path().join("backend.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let proxy = Proxy::builder()
        .backend(format!("unix:{}", path.display()))
        .start();
    let client = proxy.connect();
    send(&client, b"x");
    let (accepted, _) = listener.accept().unwrap();
    let error = send_with_descriptor(&accepted, b"x").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
}

#[test]
fn routes_that_lead_back_to_themselves_are_refused() {
    let dir = fresh_dir();
    let at = |name: &str| format!("unix:{}/{name}", dir.path().display());
    let itself = Proxy::builder().listen(at("a.sock")).backend(at("a.sock"));
    itself
        .run_to_the_end()
        .assert_error_line(1, &["a.sock is its own socket"]);
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(dir.path(), &link).unwrap();
    let through_a_link = Proxy::builder()
        .listen(at("a.sock"))
        .backend(at("link/a.sock"));
    through_a_link
        .run_to_the_end()
        .assert_error_line(1, &["is its own socket"]);
    let name = common::proxy::fresh_abstract_name();
    let config = |last: &str| {
        format!(
            "[route.one]\nlisten = '{}'\nbackend = '{}'\n\
             [route.two]\nlisten = '{}'\nbackend = ['127.0.0.1:9', 'unix:@{name}']\n\
             [route.three]\nlisten = 'unix:@{name}'\nbackend = '{last}'\n",
            at("1"),
            at("2"),
            at("2")
        )
    };
    let round = Proxy::builder().config(&config(&at("1")));
    let mentions = [
        "route one",
        "leads back to it through the routes two, three, one",
    ];
    round.run_to_the_end().assert_error_line(1, &mentions);
    let backend = Backend::echo();
    let straight = Proxy::builder()
        .config(&config(&backend.address().to_string()))
        .start();
    exchange_and_end(
        &connect(&dir.path().join("1")).unwrap(),
        Pattern::new(2),
        KB,
    );
    drop(straight);
}

#[test]
fn check_refuses_a_route_that_leads_back_to_itself() {
    let outcome = std::process::Command::new(env!("CARGO_BIN_EXE_spliceway"))
        .args([
            "check",
            "--listen",
            "unix:/tmp/a.sock",
            "--backend",
            "unix:/tmp/./a.sock",
        ])
        .output()
        .unwrap();
    assert_eq!(outcome.status.code(), Some(1));
    let text = String::from_utf8(outcome.stderr).unwrap();
    assert!(text.contains("is its own socket"), "{text}");
}
