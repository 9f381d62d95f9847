//! `spliceway status` against running daemons, and against what is none.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use common::backend::Refusing;
use common::client::exchange_and_end;
use common::proxy::{NOBODY, fresh_dir};
use common::sys::{self, lacks_root};
use common::{Backend, KB, Pattern, Proxy, eventually};

const BINARY: &str = env!("CARGO_BIN_EXE_spliceway");

fn status(control: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command
        .arg("status")
        .arg("--control")
        .arg(control)
        .args(arguments)
        .stdin(Stdio::null());
    command
}

#[track_caller]
fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// It failed with one line that mentions all of this.
#[track_caller]
fn assert_error_line(output: Output, mentions: &[&str]) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for mention in mentions {
        assert!(stderr.contains(mention), "no {mention:?} in {stderr}");
    }
}

fn observed(backend: &Backend) -> Proxy {
    Proxy::builder().backend(backend).observed().start()
}

/// A child whose standard output is collected while it runs.
struct Running {
    child: Child,
    output: Arc<Mutex<String>>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let output = Arc::new(Mutex::new(String::new()));
        let collected = Arc::clone(&output);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..count]);
                collected.lock().unwrap().push_str(&text);
            }
        });
        Self { child, output }
    }

    fn count(&self, part: &str) -> usize {
        self.output.lock().unwrap().matches(part).count()
    }

    #[track_caller]
    fn wait(mut self) -> ExitStatus {
        let mut ended = None;
        eventually("it ends", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_table_shows_routes_and_endpoints() {
    let backend = Backend::echo();
    let proxy = observed(&backend);
    for round in 0..4 {
        exchange_and_end(&proxy.connect(), Pattern::new(round), KB);
    }
    eventually("all are over", || {
        proxy.status()["routes"][0]["sessions_active"] == 0
    });
    let output = status(&proxy.control(), &[]).output().unwrap();
    let table = succeeded(output);
    for part in [
        "spliceway 0.",
        "serving for",
        &format!("default  unix:{}", proxy.socket().display()),
        "0 active, 4 accepted (0/s), 0 failed (0/s)",
        "4 KiB (0 B/s) to backends, 4 KiB (0 B/s) to clients",
        &format!("{backend}  ok"),
    ] {
        assert!(table.contains(part), "no {part:?} in\n{table}");
    }
}

#[test]
fn json_is_what_the_control_socket_says() {
    let backend = Backend::echo();
    let proxy = observed(&backend);
    exchange_and_end(&proxy.connect(), Pattern::new(1), KB);
    eventually("it is over", || {
        proxy.status()["routes"][0]["sessions_active"] == 0
    });
    let output = status(&proxy.control(), &["--json"]).output().unwrap();
    let without_age = |status: &serde_json::Value| {
        let mut routes = status["routes"].clone();
        let age = routes[0]["set_age_seconds"].take();
        assert!(age.as_f64().unwrap() >= 0.0);
        routes
    };
    let printed: serde_json::Value = serde_json::from_str(&succeeded(output)).unwrap();
    assert_eq!(printed["schema"], 1);
    assert_eq!(without_age(&printed), without_age(&proxy.status()));
}

#[test]
fn json_has_the_last_things_that_happened() {
    let (broken, good) = (Refusing::new(), Backend::echo());
    let proxy = Proxy::builder()
        .args(["--balance", "first", "--eject-after", "1"])
        .backend(&broken)
        .backend(&good)
        .observed()
        .start();
    exchange_and_end(&proxy.connect(), Pattern::new(1), KB);
    let events = || {
        let status = proxy.status();
        let events = status["events"].as_array().unwrap().clone();
        events.into_iter().map(|event| {
            let message = event["message"].as_str().unwrap().to_owned();
            (message, event)
        })
    };
    let left_out = format!("{broken} is left out");
    eventually("the endpoint that fails is told of", || {
        events().any(|(message, event)| message.contains(&left_out) && event["level"] == "warn")
    });
    let (_, ready) = events().find(|(message, _)| message == "ready").unwrap();
    assert_eq!(
        (&ready["level"], &ready["times"]),
        (&"info".into(), &1.into())
    );
    assert!(ready["fields"]["engine"].is_string(), "{ready}");
    let status = proxy.status();
    let started = status["started_at_seconds"].as_f64().unwrap();
    assert!(ready["at_seconds"].as_f64().unwrap() >= started);
}

#[test]
fn watching_a_pipe_repeats_until_ctrl_c() {
    let backend = Backend::echo();
    let proxy = observed(&backend);
    for (arguments, mark) in [
        (["--watch", "100ms"].as_slice(), "serving for"),
        (["--watch", "100ms", "--json"].as_slice(), "\"program\""),
    ] {
        let running = Running::start(status(&proxy.control(), arguments));
        eventually("three of them", || running.count(mark) >= 3);
        assert_eq!(running.count("\x1b"), 0, "this is no terminal");
        sys::signal(running.child.id(), libc::SIGINT).unwrap();
        assert_eq!(running.wait().code(), Some(0));
    }
}

#[test]
fn watching_on_a_terminal_refreshes_in_place_until_ctrl_c() {
    let backend = Backend::echo();
    let proxy = observed(&backend);
    let watch = format!(
        "exec {BINARY} status --control {} --watch 100ms",
        proxy.control().display()
    );
    // script(1) runs it on a terminal of its own, with our pipes at the terminal's other side.
    let mut command = Command::new("script");
    command
        .args(["--quiet", "--return", "--command", &watch, "/dev/null"])
        .stdin(Stdio::piped());
    let mut running = Running::start(command);
    eventually("three refreshes", || running.count("\x1b[H") >= 3);
    assert!(running.count("\x1b[J") >= 2);
    let mut keyboard = running.child.stdin.take().unwrap();
    keyboard.write_all(b"\x03").unwrap();
    assert_eq!(running.wait().code(), Some(0));
}

/// What is too long for the terminal would push its own beginning off at each refresh.
#[test]
fn watching_on_a_low_terminal_shows_what_fits() {
    let backend = Backend::echo();
    let proxy = observed(&backend);
    let watch = format!(
        "stty rows 5; exec {BINARY} status --control {} --watch 100ms",
        proxy.control().display()
    );
    let mut command = Command::new("script");
    command
        .args(["--quiet", "--return", "--command", &watch, "/dev/null"])
        .stdin(Stdio::piped());
    let mut running = Running::start(command);
    eventually("three refreshes", || running.count("\x1b[H") >= 3);
    let output = running.output.lock().unwrap().clone();
    for refresh in output.split("\x1b[H").skip(1) {
        assert!(refresh.matches('\n').count() <= 4, "{refresh:?}");
    }
    assert!(output.contains("more lines"), "{output:?}");
    let mut keyboard = running.child.stdin.take().unwrap();
    keyboard.write_all(b"\x03").unwrap();
    assert_eq!(running.wait().code(), Some(0));
}

#[test]
fn watching_ends_with_the_daemon() {
    let backend = Backend::echo();
    let mut proxy = observed(&backend);
    let mut command = status(&proxy.control(), &["--watch", "100ms"]);
    command.stderr(Stdio::null());
    let running = Running::start(command);
    eventually("it watches", || running.count("serving") >= 1);
    proxy.terminate();
    assert!(proxy.wait().success());
    assert_eq!(running.wait().code(), Some(1));
}

#[test]
fn whoever_has_seen_enough_may_stop_reading() {
    let backend = Backend::echo();
    let proxy = observed(&backend);
    let mut command = status(&proxy.control(), &["--watch", "100ms"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

// --- no daemon --------------------------------------------------------------------------------

#[test]
fn without_a_socket_it_asks_whether_the_daemon_runs() {
    let directory = fresh_dir();
    let control = directory.path().join("none.sock");
    let output = status(&control, &[]).output().unwrap();
    assert_error_line(output, &["none.sock: no such socket", "with --control"]);
}

#[test]
fn a_socket_that_a_dead_daemon_left_is_told_from_none() {
    let directory = fresh_dir();
    let control = directory.path().join("stale.sock");
    drop(UnixListener::bind(&control).unwrap());
    let output = status(&control, &["--json"]).output().unwrap();
    assert_error_line(output, &["connection refused", "is gone"]);
}

#[test]
fn somebody_else_is_refused() {
    if lacks_root() {
        return;
    }
    let backend = Backend::echo();
    let proxy = observed(&backend);
    // The build directory may be closed to others.
    let copy = proxy.dir().join("spliceway");
    assert!(
        Command::new("cp")
            .args([Path::new(BINARY), &copy])
            .status()
            .unwrap()
            .success()
    );
    let mut command = Command::new(&copy);
    command
        .args(["status", "--control"])
        .arg(proxy.control())
        .uid(NOBODY)
        .gid(NOBODY);
    assert_error_line(
        command.output().unwrap(),
        &["permission denied", "the user that"],
    );
}

/// What `status` makes of somebody who is asked, says this and closes the connection.
fn asked_of_one_that_says(words: &'static str) -> Output {
    let directory = fresh_dir();
    let control = directory.path().join("control.sock");
    let listener = UnixListener::bind(&control).unwrap();
    let file = control.clone();
    let other = thread::spawn(move || {
        let (mut stream, _): (UnixStream, _) = listener.accept().unwrap();
        // As a daemon does that ends. A program that another test starts may have the listener for another moment.
        fs::remove_file(file).unwrap();
        drop(listener);
        let mut request = [0; 1024];
        let count = stream.read(&mut request).unwrap();
        assert!(request[..count].starts_with(b"GET /status HTTP/1.1"));
        stream.write_all(words.as_bytes()).unwrap();
    });
    let output = status(&control, &[]).output().unwrap();
    other.join().unwrap();
    output
}

#[test]
fn another_program_is_not_taken_for_a_daemon() {
    for words in [
        "SSH-2.0-other\r\n",
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntext",
    ] {
        let output = asked_of_one_that_says(words);
        assert_error_line(output, &["another program answers", "--control"]);
    }
}

/// As does whoever waits in the backlog when the daemon ends.
#[test]
fn a_daemon_that_ends_meanwhile_is_not_taken_for_another_program() {
    for words in [
        "",
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"program\":",
    ] {
        let output = asked_of_one_that_says(words);
        assert_error_line(output, &["the connection ended before", "ask again"]);
    }
}

/// Whatever a route does with what it takes for a client's bytes.
#[test]
fn a_socket_for_clients_is_said_to_be_one() {
    let closing = Backend::scripted(|conversation| conversation.receive().map(drop));
    let echo = Backend::echo();
    let silent = Backend::hold();
    let fastcgi = ["--protocol", "fastcgi"].as_slice();
    for (backend, arguments, mention) in [
        (
            &closing,
            [].as_slice(),
            "this seems to be a socket for clients",
        ),
        (&echo, &[], "this is a socket for clients"),
        (&silent, &[], "this may be a socket for clients"),
        (&echo, fastcgi, "this seems to be a socket for clients"),
    ] {
        let builder = Proxy::builder().backend(backend);
        let proxy = builder.args(arguments.iter().copied()).start();
        let output = status(proxy.socket(), &[]).output().unwrap();
        let there = format!(
            ", where process {} (spliceway) listens",
            proxy.process().pid()
        );
        assert_error_line(output, &[&there, mention, "as its --control"]);
    }
}

/// After an upgrade, the old program runs until it is restarted.
#[test]
fn a_daemon_of_another_version_is_told_from_another_program() {
    for words in [
        "HTTP/1.1 200 OK\r\n\r\n{\"program\":\"spliceway\",\"schema\":1,\"version\":\"0.0.9\"}",
        "HTTP/1.1 200 OK\r\n\r\n{\"program\":\"spliceway\",\"schema\":2,\"version\":\"0.0.9\"}",
    ] {
        let output = asked_of_one_that_says(words);
        let this = concat!("this is ", env!("CARGO_PKG_VERSION"));
        assert_error_line(output, &["spliceway 0.0.9 runs there", this, "restart"]);
    }
}

#[test]
fn what_is_no_socket_is_said_to_be_none() {
    let directory = fresh_dir();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [&file, directory.path()] {
        let output = status(path, &[]).output().unwrap();
        assert_error_line(output, &["this is no socket", "--control"]);
    }
    let datagrams = directory.path().join("datagrams");
    let _socket = std::os::unix::net::UnixDatagram::bind(&datagrams).unwrap();
    let output = status(&datagrams, &[]).output().unwrap();
    assert_error_line(output, &["another program answers", "--control"]);
    let output = status(&file.join("below"), &[]).output().unwrap();
    assert_error_line(output, &["Not a directory", "--control"]);
}

#[test]
fn a_backlog_that_is_full_is_said_to_be() {
    let directory = fresh_dir();
    let control = directory.path().join("full.sock");
    let listener = UnixListener::bind(&control).unwrap();
    sys::set_backlog(&listener, 0).unwrap();
    // One has its place in a backlog of 0.
    let _waiting = sys::connect_at_once(&control).unwrap();
    assert!(sys::connect_at_once(&control).is_err());
    let output = status(&control, &[]).output().unwrap();
    assert_error_line(output, &["too many wait", "may be stopped"]);
}

#[test]
fn a_daemon_that_stands_still_is_not_waited_for() {
    let backend = Backend::echo();
    let proxy = observed(&backend);
    proxy.process().signal(libc::SIGSTOP);
    eventually("it is stopped", || proxy.process().is_stopped());
    let output = status(&proxy.control(), &[]).output().unwrap();
    proxy.process().signal(libc::SIGCONT);
    assert_error_line(output, &["no answer within 5 s"]);
}

#[test]
fn wrong_arguments_are_said_in_one_line() {
    for (arguments, mention) in [
        (["--watch", "1ms"].as_slice(), "too often"),
        (
            ["--watch", "often"].as_slice(),
            "write a number and its unit",
        ),
        (["--jso"].as_slice(), "unexpected argument"),
    ] {
        let output = Command::new(BINARY)
            .arg("status")
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains(mention), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}
