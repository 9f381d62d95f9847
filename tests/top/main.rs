//! `spliceway top`, in a terminal and without one.

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod plain;
mod terminal;

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use common::fastcgi::{Client, Request};
use common::http::{Fake, answer};
use common::proxy::{Builder, fresh_dir};
use common::sys::{signal, traced::Halted};
use common::{Backend, Engine, Proxy, eventually, for_each_engine};
use plain::tables_are_printed_again_and_again;
use terminal::InTerminal;

for_each_engine!(
    one_sees_what_it_does_and_for_whom_it_waits,
    a_worker_that_hangs_is_named_and_the_status_goes_on,
    it_outlives_the_daemon,
    tables_are_printed_again_and_again,
);

/// `spliceway top` on a terminal that can do something.
fn top(control: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spliceway"));
    command.args(["top", "--interval", "100ms", "--control"]);
    command.arg(control).args(arguments);
    command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
    command
}

/// A FastCGI route called php, and a raw one called raw.
fn configured(builder: Builder, pages: &Backend, echo: &Backend) -> Builder {
    let dir = builder.dir().display().to_string();
    let config = format!(
        "workers = 2\n\
         [route.php]\nprotocol = \"fastcgi\"\nguard = \"off\"\nlisten = \"unix:{dir}/proxy.sock\"\n\
         backend = \"{pages}\"\nper-endpoint-max = 1\nqueue-max = 10\nqueue-timeout = \"60s\"\nqueue-order = \"fifo\"\n\
         [route.raw]\nlisten = \"unix:{dir}/raw.sock\"\nbackend = \"{echo}\"\n"
    );
    builder.config(&config)
}

/// Answers those with `slow` in their URI when it may.
fn pages() -> Backend {
    Backend::scripted(|conversation| {
        while let Some(heard) = conversation.request()? {
            if heard.uri().contains("slow") {
                conversation.wait_for_release()?;
            }
            conversation.send(&heard.page())?;
        }
        Ok(())
    })
}

fn start(engine: Engine, pages: &Backend, echo: &Backend) -> Proxy {
    let builder = Proxy::builder().engine(engine).observed();
    configured(builder, pages, echo).start()
}

fn one_sees_what_it_does_and_for_whom_it_waits(engine: Engine) {
    let (pages, echo) = (pages(), Backend::echo());
    let proxy = start(engine, &pages, &echo);
    let (slow, waiting) = (Client::connect(&proxy), Client::connect(&proxy));
    slow.send(&Request::get("/slow\u{1b}[31m\u{9b}2J").bytes());
    let mut top = InTerminal::start(top(&proxy.control(), &[]), 180, 40);
    top.wait_for(&[&format!(", {engine}, serving for"), "rates of"]);
    top.wait_for(&["php", "raw", &pages.to_string(), &echo.to_string()]);
    top.wait_for(&["1 request by age", "sent", "GET /slow\\x1b[31m\\u{9b}2J"]);
    waiting.send(&Request::get("/waiting").bytes());
    top.wait_for(&["2 requests by age", "queued", "GET /waiting", "1/10", "1/1"]);
    assert!(top.is_taken());

    top.press("s");
    top.wait_for(&["2 requests by wait"]);
    top.press("rr");
    top.wait_for(&["route raw; 0 requests", "none is under way"]);
    top.press("R");
    top.wait_for(&["route php; 2 requests"]);
    top.wait_until_gone(&echo.to_string());
    top.press("p");
    top.wait_for(&["PAUSED"]);
    pages.release(1);
    assert_eq!(waiting.answer().text(), "/waiting");
    // Nothing is asked for meanwhile.
    top.press("S");
    top.wait_for(&["2 requests by age", "GET /waiting"]);
    top.press(" ");
    top.wait_for(&["0 requests by age"]);
    // Both clients are kept, and neither is asked about.
    top.press("i");
    top.wait_for(&["2 requests by age, idle as well", "idle"]);
    top.press("?");
    top.wait_for(&["q, Esc, Ctrl-C"]);
    top.press("q");
    top.wait_until_gone("q, Esc, Ctrl-C");
    top.press("q");
    assert!(top.wait().success());
    top.assert_given_back();
    let bytes = top.bytes();
    // Nothing but the program's own sequences: each begins with these two.
    let mut escapes = bytes.windows(2).filter(|pair| pair[0] == 0x1b);
    assert!(escapes.all(|pair| pair[1] == b'['));
    let contains = |part: &[u8]| bytes.windows(part.len()).any(|it| it == part);
    assert!(!contains(b"\x1b[31m\\"), "a URI colours nothing");
    slow.answer();
}

fn a_worker_that_hangs_is_named_and_the_status_goes_on(engine: Engine) {
    let (pages, echo) = (pages(), Backend::echo());
    let proxy = start(engine, &pages, &echo);
    let mut top = InTerminal::start(top(&proxy.control(), &[]), 120, 40);
    top.wait_for(&["0 requests", "rates of"]);
    let halted = Halted::new(proxy.process().thread("worker-1")).unwrap();
    top.wait_for(&["worker 1 does not turn", "rates of"]);
    // Keys are heard while it waits for the worker.
    top.press("s");
    top.wait_for(&["by wait"]);
    drop(halted);
    top.wait_until_gone("does not turn");
    top.press("\u{3}");
    assert!(top.wait().success());
    top.assert_given_back();
}

fn it_outlives_the_daemon(engine: Engine) {
    let (pages, echo) = (pages(), Backend::echo());
    let builder = Proxy::builder().engine(engine).observed();
    let control = builder.control();
    let mut top = InTerminal::start(top(&control, &[]), 120, 40);
    top.wait_for(&["no daemon has answered yet", "no such socket", "not told"]);
    let mut proxy = configured(builder, &pages, &echo).start();
    let process = format!("pid {}", proxy.process().pid());
    top.wait_for(&[&process, "php", "rates of"]);
    top.wait_until_gone("no such socket");
    proxy.terminate();
    proxy.wait();
    top.wait_for(&["no answer for", &process]);
    // Another one takes its place, whose counters begin anew.
    let dir = proxy.dir().display().to_string();
    let other = Proxy::builder().engine(engine);
    let other = configured(other, &pages, &echo);
    let other = other
        .args(["--control", &format!("{dir}/control.sock")])
        .start();
    let news = format!("another process than {} answers", proxy.process().pid());
    top.wait_for(&[&news, &format!("pid {}", other.process().pid())]);
    top.wait_until_gone("no answer for");
    top.wait_for(&["rates of"]);
    top.press("\u{1b}");
    assert!(top.wait().success());
    top.assert_given_back();
}

#[test]
fn every_signal_that_ends_it_has_it_give_the_terminal_back() {
    let echo = Backend::echo();
    let proxy = Proxy::builder().backend(&echo).observed().start();
    for number in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        let mut top = InTerminal::start(top(&proxy.control(), &[]), 80, 24);
        top.wait_for(&["default", "serving"]);
        assert!(top.is_taken());
        signal(top.pid(), number).unwrap();
        assert!(top.wait().success(), "signal {number}");
        top.assert_given_back();
    }
}

#[test]
fn it_ends_in_a_terminal_that_takes_nothing() {
    let echo = Backend::echo();
    let proxy = Proxy::builder().backend(&echo).observed().start();
    let mut top = InTerminal::start(top(&proxy.control(), &[]), 80, 24);
    top.wait_for(&["default", "serving"]);
    top.stop_output();
    // This is drawn, and cannot be.
    top.press("?");
    signal(top.pid(), libc::SIGTERM).unwrap();
    assert!(top.wait().success());
    top.assert_modes_restored();
}

#[test]
fn it_ends_with_its_terminal() {
    let echo = Backend::echo();
    let proxy = Proxy::builder().backend(&echo).observed().start();
    // Told of it by SIGHUP, and by nobody.
    for start in [InTerminal::start_as_own, InTerminal::start] {
        let mut top = start(top(&proxy.control(), &[]), 80, 24);
        top.wait_for(&["default", "serving"]);
        top.close();
        top.wait();
    }
}

#[test]
fn it_fills_a_window_that_becomes_larger_or_smaller() {
    let echo = Backend::echo();
    let proxy = Proxy::builder().backend(&echo).observed().start();
    let mut top = InTerminal::start_as_own(top(&proxy.control(), &[]), 80, 24);
    top.wait_for(&["default", "no room"]);
    let foot = |rows: usize| {
        let text = top.text();
        let line = text.lines().nth(rows - 1).unwrap_or_default();
        line.contains("? help")
    };
    eventually("the last line is the foot", || foot(24));
    top.resize(220, 50);
    top.wait_until_gone("no room");
    eventually("the last line is the foot", || foot(50));
    top.resize(60, 12);
    top.wait_for(&["no room"]);
    eventually("the last line is the foot", || foot(12));
    top.press("q");
    assert!(top.wait().success());
}

#[test]
fn a_terminal_of_unknown_size_is_a_usual_one() {
    let echo = Backend::echo();
    let proxy = Proxy::builder().backend(&echo).observed().start();
    let mut top = InTerminal::start(top(&proxy.control(), &[]), 0, 0);
    eventually("the last line of a usual one is the foot", || {
        let text = top.text();
        let last = text.lines().nth(23).unwrap_or_default();
        last.contains("? help")
    });
    top.press("q");
    assert!(top.wait().success());
}

#[test]
fn one_gets_to_the_shell_and_back() {
    let echo = Backend::echo();
    let proxy = Proxy::builder().backend(&echo).observed().start();
    // A shell with jobs; what is read, the test presses.
    let script =
        r#""$@"; echo "it is stopped"; read -r; fg > /dev/null; echo "it is over"; read -r"#;
    let of_top = top(&proxy.control(), &[]);
    let mut shell = Command::new("bash");
    shell.args(["--norc", "--noprofile", "-mc", script, "bash"]);
    shell.arg(of_top.get_program()).args(of_top.get_args());
    shell.env("TERM", "xterm");
    let mut shell = InTerminal::start_as_own(shell, 80, 24);
    shell.wait_for(&["default", "serving"]);
    assert!(shell.is_taken());
    shell.press("\u{1a}");
    shell.wait_for(&["it is stopped"]);
    shell.assert_given_back();
    shell.press("\n");
    shell.wait_for(&["default", "serving", "rates of"]);
    assert!(shell.is_taken());
    shell.press("q");
    shell.wait_for(&["it is over"]);
    shell.assert_given_back();
    shell.press("\n");
    shell.wait();
}

#[test]
fn who_is_told_no_requests_sees_the_status_and_why() {
    let echo = Backend::echo();
    let proxy = Proxy::builder().backend(&echo).observed().start();
    let status = proxy.status().to_string();
    for (words, why) in [
        ("403 Forbidden", "root and to the user"),
        ("404 Not Found", "does not tell of its requests"),
        ("503 Service Unavailable", "others ask there"),
    ] {
        let status = status.clone();
        let fake = Fake::new(move |request| match request.starts_with("GET /status ") {
            true => answer("200 OK", &status),
            false => answer(words, "no\n"),
        });
        let mut top = InTerminal::start(top(&fake.control, &[]), 120, 40);
        top.wait_for(&["default", "not told", why]);
        top.press("q");
        assert!(top.wait().success());
        top.assert_given_back();
    }
}

#[test]
fn an_older_daemon_and_what_is_none_are_seen_as_they_are() {
    let echo = Backend::echo();
    let proxy = Proxy::builder().backend(&echo).observed().start();
    let mut status = proxy.status();
    // What versions before it did not say.
    let fields = status.as_object_mut().unwrap();
    for field in [
        "config",
        "draining_seconds",
        "socket_files_missing",
        "retired_routes",
        "events",
    ] {
        assert!(fields.remove(field).is_some(), "{field}");
    }
    let status = status.to_string();
    let fake = Fake::new(move |request| match request.starts_with("GET /status ") {
        true => answer("200 OK", &status),
        false => answer("404 Not Found", "there are /status, /metrics\n"),
    });
    let mut older = InTerminal::start(top(&fake.control, &[]), 120, 40);
    // The same status twice has no time between.
    older.wait_for(&["default", "serving", "no rates yet"]);
    older.press("q");
    assert!(older.wait().success());

    let fake = Fake::new(|_| answer("200 OK", "{}"));
    let mut foreign = InTerminal::start(top(&fake.control, &[]), 120, 40);
    foreign.wait_for(&["another program answers"]);
    foreign.press("q");
    assert!(foreign.wait().success());

    // Somebody who takes connections and says nothing: keys work meanwhile.
    let dir = fresh_dir();
    let silent = dir.path().join("silent.sock");
    let _listener = UnixListener::bind(&silent).unwrap();
    let mut waiting = InTerminal::start(top(&silent, &[]), 120, 40);
    waiting.wait_for(&["no daemon has answered yet"]);
    waiting.press("?");
    waiting.wait_for(&["q, Esc, Ctrl-C"]);
    waiting.press("\u{3}");
    assert!(waiting.wait().success());
    waiting.assert_given_back();
}

#[test]
fn colours_are_left_out_where_they_are_not_wanted() {
    let echo = Backend::echo();
    let proxy = Proxy::builder().backend(&echo).observed().start();
    let mut status = proxy.status();
    let endpoint = &mut status["routes"][0]["endpoints"][0];
    endpoint["state"] = "down".into();
    let status = status.to_string();
    for (no_color, is_coloured) in [("1", false), ("", true)] {
        let status = status.clone();
        let fake = Fake::new(move |_| answer("200 OK", &status));
        let mut command = top(&fake.control, &[]);
        command.env("NO_COLOR", no_color);
        let mut top = InTerminal::start(command, 120, 40);
        top.wait_for(&["none is up", "down by check"]);
        top.press("q");
        top.wait();
        let bytes = top.bytes();
        let text = String::from_utf8_lossy(&bytes);
        // One of 256, or of 16.
        let has_colour = text.contains("\u{1b}[38;") || text.contains("\u{1b}[31");
        assert_eq!(has_colour, is_coloured, "{text:?}");
    }
}
