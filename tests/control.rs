//! Commands to running daemons: who may give them, what a client makes of the answers, and what it says when
//! there is none.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::http::{self, Answer, Fake, answer};
use common::proxy::{NOBODY, fresh_dir};
use common::sys::{as_user, lacks_root};
use common::{Backend, Engine, Proxy, for_each_engine};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_spliceway");

for_each_engine!(
    a_stranger_may_not_command_whatever_the_mode_of_the_socket,
    a_hangup_reloads_and_reopens_and_the_log_says_what_came_of_it,
);

/// One that the daemon does not know: whoever may command gets to hear that.
const UNKNOWN: &str = r#"{"command": "reboot"}"#;

fn tell(control: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(words).arg("--control").arg(control);
    command.stdin(Stdio::null()).output().unwrap()
}

/// It ended so, with these lines on standard output and, after the program's name, on standard error.
#[track_caller]
fn assert_ended(output: &Output, code: i32, stdout: &[&str], stderr: &[&str]) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let lines = |bytes: &[u8]| {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(lines(&output.stdout), stdout, "{output:?}");
    let stderr: Vec<_> = stderr.iter().map(|l| format!("spliceway: {l}")).collect();
    assert_eq!(lines(&output.stderr), stderr, "{output:?}");
}

/// It failed with one line that mentions all of this.
#[track_caller]
fn assert_error_line(output: &Output, mentions: &[&str]) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for mention in mentions {
        assert!(stderr.contains(mention), "no {mention:?} in {stderr}");
    }
}

fn a_stranger_may_not_command_whatever_the_mode_of_the_socket(engine: Engine) {
    if lacks_root() {
        return;
    }
    let backend = Backend::echo();
    let builder = Proxy::builder().engine(engine).backend(&backend).observed();
    let proxy = builder.args(["--user", "54321:54322"]).start();
    let control = proxy.control();
    fs::set_permissions(&control, fs::Permissions::from_mode(0o666)).unwrap();
    fs::set_permissions(proxy.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    for user in [0, 54_321] {
        let answer = as_user(user, user, || http::command(&control, UNKNOWN));
        assert_eq!(answer.code, 422, "{answer:?}");
        assert!(
            answer.body.contains("unknown command 'reboot'"),
            "{answer:?}"
        );
    }
    for command in [UNKNOWN, r#"{"command": "reload"}"#, "", "\u{1b}[2J"] {
        let answer = as_user(NOBODY, NOBODY, || http::command(&control, command));
        assert_eq!(answer.code, 403, "{answer:?}");
        let expected = format!("user {NOBODY} may not command the daemon");
        assert!(answer.body.contains(&expected), "{answer:?}");
    }
    // Figures are another matter: they are for whoever may open the socket. What clients send is not.
    let events_for = |user| {
        let answer = as_user(user, user, || http::get_unix(&control, "/status"));
        assert_eq!(answer.code, 200, "{answer:?}");
        let status: Value = serde_json::from_str(&answer.body).unwrap();
        status["events"].as_array().unwrap().len()
    };
    assert!(events_for(0) > 0 && events_for(54_321) > 0);
    assert_eq!(events_for(NOBODY), 0);
    let look = |user| {
        as_user(user, user, || {
            http::get_unix(&control, "/requests?route=no")
        })
    };
    assert_eq!((look(0).code, look(54_321).code), (200, 200));
    let answer = look(NOBODY);
    assert_eq!(answer.code, 403, "{answer:?}");
    let expected = format!("user {NOBODY} may not see what clients send");
    assert!(answer.body.starts_with(&expected), "{answer:?}");
    assert_eq!(answer.body.lines().count(), 1, "{answer:?}");
    let output = as_user(NOBODY, NOBODY, || tell(&control, &["requests"]));
    assert_error_line(
        &output,
        &["tells what clients send to root and to the user"],
    );
    let log = proxy.process().log();
    log.wait_for("a warning", |line| {
        line.contains("commands on the control socket") && line.contains(&NOBODY.to_string())
    });
    assert_eq!(
        log.count("commands on the control socket"),
        1,
        "not each time"
    );
}

#[test]
fn commands_are_posted_to_the_control_socket_only() {
    let backend = Backend::echo();
    let proxy = Proxy::builder().backend(&backend).observed().start();
    let Answer { code, head, .. } = http::get_unix(&proxy.control(), "/command");
    assert_eq!(code, 405);
    assert!(head.contains("allow: POST"), "{head}");
    let metrics = proxy.metrics_address();
    assert_eq!(http::get(metrics, "/command").code, 404);
    let posted = http::post(metrics, "/command", UNKNOWN);
    assert_eq!(posted.code, 404, "{posted:?}");
    let posted = http::post(metrics, "/metrics", UNKNOWN);
    assert_eq!(posted.code, 405, "{posted:?}");
}

fn a_hangup_reloads_and_reopens_and_the_log_says_what_came_of_it(engine: Engine) {
    let backend = Backend::echo();
    let builder = Proxy::builder().engine(engine).backend(&backend).observed();
    let proxy = builder.start();
    proxy.process().signal(libc::SIGHUP);
    let log = proxy.process().log();
    log.wait_for("that access logs are opened anew", |line| {
        line.contains("SIGHUP: access logs are opened anew")
    });
    log.wait_for("the outcome", |line| line.contains("reload (SIGHUP): "));
    assert_eq!(log.count("SIGUSR1"), 0);
    proxy.process().signal(libc::SIGUSR1);
    // The same command by hand is known by its user.
    let output = tell(&proxy.control(), &["reload"]);
    assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
    let by = format!("reload (uid {}): ", common::sys::own_uid());
    log.wait_for("the outcome", |line| line.contains(&by));
    assert_eq!(log.count("reload (SIGHUP): "), 1, "SIGUSR1 reloads nothing");
}

#[test]
fn figures_of_the_configuration_are_there_from_the_start() {
    let backend = Backend::echo();
    let config = format!(
        "[route.a]\nlisten = \"unix:@spliceway-test-{}\"\nbackend = \"{backend}\"\n",
        std::process::id()
    );
    let proxy = Proxy::builder().config(&config).observed().start();
    let status = proxy.status();
    let config = &status["config"];
    assert_eq!(config["reloads_done"], 0);
    assert_eq!(config["reloads_refused"], 0);
    assert_eq!(config["last_reload_done"], true);
    let since = config["last_success_at_seconds"].as_f64().unwrap();
    let started = status["started_at_seconds"].as_f64().unwrap();
    assert!((since - started).abs() < common::GUARD.as_secs_f64());

    // `check`, with the same options beside the file, has the same hash.
    let hash = config["hash"].as_str().unwrap();
    let file = proxy.dir().join("spliceway.toml");
    let check = |more: &[&str]| {
        let control = proxy.control();
        let output = Command::new(BINARY)
            .args(["check", "--metrics", "127.0.0.1:0", "--config"])
            .arg(&file)
            .arg("--control")
            .arg(&control)
            .args(more)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let prefix = "# The hash of this configuration: ";
        let hash = text.lines().find_map(|line| line.strip_prefix(prefix));
        hash.unwrap().to_owned()
    };
    assert_eq!(check(&[]), hash);
    assert_ne!(check(&["--workers", "7"]), hash);

    let scrape = proxy.scrape();
    let info = format!("spliceway_config_info{{hash=\"{hash}\"}}");
    assert_eq!(scrape.value(&info), 1.0);
    for result in ["done", "refused"] {
        let series = format!("spliceway_config_reloads_total{{result=\"{result}\"}}");
        assert_eq!(scrape.value(&series), 0.0);
    }
    let last = "spliceway_config_last_reload_success_timestamp_seconds";
    assert!((scrape.value(last) - since).abs() < 0.001);
}

// --- what a client makes of it -----------------------------------------------------------------

fn reply(outcome: &str, lines: &str) -> String {
    format!(
        r#"{{"program": "spliceway", "schema": 1, "version": "9.9", "outcome": "{outcome}", "lines": {lines}, "news": 1}}"#
    )
}

#[test]
fn the_exit_code_and_the_lines_are_those_of_the_answer() {
    let lines = r#"["route a: added", "route b: \u001b[2J\nforged"]"#;
    let shown = ["route a: added", "route b: \\x1b[2J\\x0aforged"];
    for (status, outcome, code) in [
        ("200 OK", "done", 0),
        ("409 Conflict", "refused", 1),
        ("422 Unprocessable Entity", "mistaken", 2),
        ("403 Forbidden", "refused", 1),
    ] {
        let body = reply(outcome, lines);
        let fake = Fake::new(move |_| answer(status, &body));
        let output = tell(&fake.control, &["reload"]);
        match code {
            0 => assert_ended(&output, code, &shown, &[]),
            _ => assert_ended(&output, code, &[], &shown),
        }
    }
}

#[test]
fn commands_are_sent_as_they_are_documented() {
    for (words, expected) in [
        (&["reload"][..], r#"{"schema":1,"command":"reload"}"#),
        (
            &["drain", "php", "192.0.2.1:9000", "--wait", "5m"],
            r#"{"schema":1,"command":"drain","route":"php","endpoint":"192.0.2.1:9000","wait_seconds":300.0}"#,
        ),
        (
            &["undrain", "php", "unix:/run/a"],
            r#"{"schema":1,"command":"undrain","route":"php","endpoint":"unix:/run/a"}"#,
        ),
        (
            &["weight", "php", "[::1]:1", "3"],
            r#"{"schema":1,"command":"weight","route":"php","endpoint":"[::1]:1","weight":3}"#,
        ),
        (
            &["pause", "php"],
            r#"{"schema":1,"command":"pause","route":"php","for_seconds":60.0}"#,
        ),
        (
            &["resume", "php"],
            r#"{"schema":1,"command":"resume","route":"php"}"#,
        ),
    ] {
        let fake = Fake::new(move |request| {
            assert!(
                request.starts_with("POST /command HTTP/1.1\r\n"),
                "{request}"
            );
            assert!(
                request.ends_with(&format!("\r\n\r\n{expected}")),
                "{request}"
            );
            answer("200 OK", &reply("done", "[]"))
        });
        assert_ended(&tell(&fake.control, words), 0, &[], &[]);
    }
}

#[test]
fn a_daemon_that_is_older_than_commands_is_told_from_another_program() {
    let backend = Backend::echo();
    let proxy = Proxy::builder().backend(&backend).observed().start();
    let status = proxy.status().to_string();
    let fake = Fake::new(move |request| match request.starts_with("GET /status ") {
        true => answer("200 OK", &status),
        false => answer("404 Not Found", "there are /status, /metrics\n"),
    });
    let output = tell(&fake.control, &["reload"]);
    assert_error_line(&output, &["takes no commands", "restart it"]);

    for words in ["404 Not Found", "200 OK", "500 Internal Server Error"] {
        let fake = Fake::new(move |_| answer(words, "{}"));
        let output = tell(&fake.control, &["reload"]);
        assert_error_line(&output, &["another program answers", "--control"]);
    }
    let newer = reply("done", "[]").replace("\"schema\": 1", "\"schema\": 2");
    let fake = Fake::new(move |_| answer("200 OK", &newer));
    let output = tell(&fake.control, &["reload"]);
    assert_error_line(&output, &["spliceway 9.9 runs there"]);
}

#[test]
fn a_command_is_not_given_twice() {
    let backend = Backend::echo();
    let proxy = Proxy::builder().backend(&backend).observed().start();
    let status = proxy.status().to_string();
    let commands = std::sync::atomic::AtomicUsize::new(0);
    let fake = Fake::new(move |request| {
        if request.starts_with("GET /status ") {
            return answer("200 OK", &status);
        }
        let before = commands.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(before, 0);
        Some(String::new())
    });
    let output = tell(&fake.control, &["reload"]);
    assert_error_line(&output, &["ended before the answer did", "goes on"]);

    let fake = Fake::new(|_| None);
    let output = tell(&fake.control, &["reload"]);
    assert_error_line(&output, &["about to end"]);
}

#[test]
fn without_a_daemon_it_says_what_is_there() {
    let dir = fresh_dir();
    let none = dir.path().join("none.sock");
    let output = tell(&none, &["resume", "php"]);
    assert_error_line(&output, &["none.sock: no such socket", "with --control"]);
    drop(UnixListener::bind(&none).unwrap());
    let output = tell(&none, &["reload"]);
    assert_error_line(&output, &["connection refused", "is gone"]);

    let backend = Backend::scripted(|conversation| conversation.receive().map(drop));
    let proxy = Proxy::builder().backend(&backend).start();
    let output = tell(proxy.socket(), &["reload"]);
    assert_error_line(&output, &["socket for clients", "as its --control"]);
}

#[test]
fn each_command_has_its_help() {
    for name in ["reload", "drain", "undrain", "weight", "pause", "resume"] {
        let help = Command::new(BINARY)
            .args([name, "--help"])
            .output()
            .unwrap();
        assert!(help.status.success(), "{help:?}");
        let text = String::from_utf8(help.stdout).unwrap();
        assert!(text.contains("--control <PATH>"), "{text}");
        assert!(
            text.contains(&format!("Example: spliceway {name} ")),
            "{text}"
        );
    }
}
