//! Where there is no terminal: tables, again and again.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use super::{pages, start, top};
use crate::common::fastcgi::{Client, Request};
use crate::common::proxy::fresh_dir;
use crate::common::sys::signal;
use crate::common::{Backend, Engine, Proxy, eventually};
use crate::terminal::InTerminal;

/// What a pipe takes that nobody reads (pipe(7)).
const PIPE_BYTES: usize = 1 << 16;

fn printed(control: &Path, arguments: &[&str]) -> Output {
    top(control, arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let stdout = child.stdout.take().unwrap();
    BufReader::new(stdout).lines().map(Result::unwrap)
}

pub(super) fn tables_are_printed_again_and_again(engine: Engine) {
    let (pages, echo) = (pages(), Backend::echo());
    let proxy = start(engine, &pages, &echo);
    let client = Client::connect(&proxy);
    client.send(&Request::get("/slow\u{1b}[2J").bytes());
    eventually("it runs", || {
        proxy.status()["routes"][0]["sessions_active"] == 1
    });
    let output = printed(&proxy.control(), &["--count", "2"]);
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.matches("serving for").count(), 2, "{text}");
    assert_eq!(text.matches("AGE  ").count(), 2, "{text}");
    assert_eq!(text.matches("GET /slow\\x1b[2J").count(), 2, "{text}");
    assert!(
        text.contains("/s)") && text.contains("raw  unix:"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "{text}");

    let output = printed(&proxy.control(), &["raw", "--count", "1"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("raw  unix:") && !text.contains("php"),
        "{text}"
    );

    // Until nobody reads any more.
    let mut endless = top(&proxy.control(), &[])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = lines(&mut endless);
    for _ in 0..3 {
        lines.find(|line| line.contains("serving for")).unwrap();
    }
    drop(lines);
    assert!(endless.wait().unwrap().success());
    pages.release(1);
    client.answer();
}

#[test]
fn a_terminal_that_can_do_nothing_gets_tables_as_well() {
    let echo = Backend::echo();
    let proxy = Proxy::builder().backend(&echo).observed().start();
    for (term, arguments) in [("dumb", &[][..]), ("", &[]), ("xterm", &["--count", "3"])] {
        let mut command = top(&proxy.control(), arguments);
        command.env("TERM", term);
        let mut top = InTerminal::start(command, 120, 40);
        top.wait_for(&["serving for", "AGE  WAIT"]);
        if term != "xterm" {
            signal(top.pid(), libc::SIGINT).unwrap();
        }
        assert!(top.wait().success(), "{term}");
        assert!(!top.bytes().contains(&0x1b), "{term}");
        top.assert_modes_restored();
    }
}

#[test]
fn without_a_daemon_or_a_route_it_says_so_and_ends() {
    let dir = fresh_dir();
    let output = printed(&dir.path().join("none.sock"), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty(), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("no such socket"), "{stderr}");
    let echo = Backend::echo();
    let proxy = Proxy::builder().backend(&echo).observed().start();
    let output = printed(&proxy.control(), &["nobody"]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("no route nobody (it has default)"),
        "{stderr}"
    );
}

#[test]
fn a_daemon_that_goes_is_said_to_be_gone_and_waited_for() {
    let echo = Backend::echo();
    let mut proxy = Proxy::builder().backend(&echo).observed().start();
    let mut watching = top(&proxy.control(), &[])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = lines(&mut watching);
    lines.find(|line| line.contains("serving for")).unwrap();
    proxy.terminate();
    proxy.wait();
    for _ in 0..2 {
        lines.find(|line| line.contains("no such socket")).unwrap();
    }
    signal(watching.id(), libc::SIGTERM).unwrap();
    assert!(watching.wait().unwrap().success());
}

/// Of all that print again and again.
#[test]
fn a_pipe_that_nobody_reads_does_not_hold_up_the_end() {
    let echo = Backend::echo();
    let proxy = Proxy::builder().backend(&echo).observed().start();
    for words in [
        &["top", "--interval", "100ms"][..],
        &["status", "--watch", "100ms"],
        &["status", "--watch", "100ms", "--json"],
        &["requests", "--watch=100ms"],
    ] {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(&vec![b'x'; PIPE_BYTES]).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_spliceway"));
        command.args(words).arg("--control").arg(proxy.control());
        let mut child = command.stdout(writer).spawn().unwrap();
        drop(command);
        // It has something to write, and cannot: one of its threads is in write(2) with standard output.
        let writes = format!("{} 0x1 ", libc::SYS_write);
        let tasks = format!("/proc/{}/task", child.id());
        eventually("it waits for the pipe", || {
            let mut tasks = fs::read_dir(&tasks).unwrap().flatten();
            tasks.any(|task| {
                let call = fs::read_to_string(task.path().join("syscall"));
                call.is_ok_and(|call| call.starts_with(&writes))
            })
        });
        signal(child.id(), libc::SIGTERM).unwrap();
        let mut ended = None;
        eventually("it ends", || {
            ended = child.try_wait().unwrap();
            ended.is_some()
        });
        assert!(ended.unwrap().success(), "{words:?}");
        drop(reader);
    }
}

/// Nobody is asked for more than `status` and `requests` show.
#[test]
fn it_asks_for_one_status_and_for_requests_once_in_an_interval() {
    let echo = Backend::echo();
    let proxy = Proxy::builder().backend(&echo).observed().start();
    let dir = fresh_dir();
    let path = dir.path().join("between.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (tell, asked) = mpsc::channel();
    let control = proxy.control();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut near = stream.unwrap();
            let mut head = vec![0; 1024];
            let count = near.read(&mut head).unwrap();
            let line = String::from_utf8_lossy(&head[..count]);
            let line = line.lines().next().unwrap_or_default().to_owned();
            if tell.send(line).is_err() {
                return;
            }
            let mut far = UnixStream::connect(&control).unwrap();
            far.write_all(&head[..count]).unwrap();
            // One answer: as long as its head says. Then the other end closes.
            thread::spawn(move || io::copy(&mut far, &mut near));
        }
    });
    let began = Instant::now();
    let mut top = InTerminal::start(top(&path, &[]), 80, 24);
    top.wait_for(&["rates of"]);
    let lines: Vec<String> = asked.iter().take(40).collect();
    let count = |what: &str| lines.iter().filter(|line| line.starts_with(what)).count();
    let (statuses, requests) = (count("GET /status "), count("GET /requests?"));
    assert_eq!(statuses + requests, lines.len(), "{lines:?}");
    let intervals = began.elapsed().as_millis() / 100;
    for asked in [statuses, requests] {
        // However late it is with one of them, the next one comes an interval later.
        assert!(asked > 0 && asked as u128 <= intervals + 1, "{lines:?}");
    }
    top.press("q");
    assert!(top.wait().success());
}
