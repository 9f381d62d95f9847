//! Bad input: one line on stderr that says operation, object, cause and remedy, and the right exit
//! code: 2 for what the command line alone shows to be wrong, 1 for what the system refuses.

// For the helpers beside the tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use common::process::Process;
use common::proxy::{NOBODY, Outcome};
use common::sys::ChildSetup;
use common::{Backend, Proxy};

const LISTEN: &str = "unix:@spliceway-test-usage";
const BACKEND: &str = "127.0.0.1:9";

/// Replaces or adds to a command line that is right, and says what the line must mention: the
/// object, and a word of the remedy or of the form that would be right.
struct Bad {
    args: &'static [&'static str],
    code: i32,
    mentions: &'static [&'static str],
}

const fn usage(args: &'static [&'static str], mentions: &'static [&'static str]) -> Bad {
    Bad {
        args,
        code: 2,
        mentions,
    }
}

#[rustfmt::skip]
const BAD_VALUES: &[Bad] = &[
    usage(&["--listen", "ftp:/run/x.sock", "--backend", BACKEND], &["ftp:/run/x.sock", "unix:"]),
    usage(&["--listen", "/run/x.sock", "--backend", BACKEND], &["/run/x.sock", "unix:"]),
    usage(&["--listen", "unix:", "--backend", BACKEND], &["unix:"]),
    usage(&["--listen", "unix:@", "--backend", BACKEND], &["unix:@"]),
    usage(&["--listen", "", "--backend", BACKEND], &["unix:"]),
    usage(&["--listen", LISTEN, "--backend", "php.internal"], &["php.internal", "port"]),
    usage(&["--listen", LISTEN, "--backend", "10.0.0.1"], &["10.0.0.1", "port"]),
    usage(&["--listen", LISTEN, "--backend", "[::1]"], &["[::1]", "port"]),
    usage(&["--listen", LISTEN, "--backend", "::1:9000"], &["::1:9000", "["]),
    usage(&["--listen", LISTEN, "--backend", "[::1:9000"], &["[::1:9000"]),
    usage(&["--listen", LISTEN, "--backend", "php.internal:"], &["php.internal:", "port"]),
    usage(&["--listen", LISTEN, "--backend", "php.internal:http"], &["php.internal:http", "port"]),
    usage(&["--listen", LISTEN, "--backend", "php.internal:0"], &["php.internal:0", "port"]),
    usage(&["--listen", LISTEN, "--backend", "php.internal:65536"], &["php.internal:65536", "port"]),
    usage(&["--listen", LISTEN, "--backend", ":9000"], &[":9000", "host"]),
    usage(&["--listen", LISTEN, "--backend", "php internal:9000"], &["php internal:9000"]),
    usage(&["--listen", LISTEN, "--backend", ""], &["--backend"]),
    usage(&["--listen", "unix:/run/x.sock", "--backend", BACKEND, "--mode", "0689"], &["0689", "octal"]),
    usage(&["--listen", "unix:/run/x.sock", "--backend", BACKEND, "--mode", "rw-rw----"], &["rw-rw----", "octal"]),
    usage(&["--listen", "unix:/run/x.sock", "--backend", BACKEND, "--mode", "01777"], &["01777"]),
    usage(&["--listen", "unix:/run/x.sock", "--backend", BACKEND, "--mode", ""], &["--mode"]),
    usage(&["--listen", LISTEN, "--backend", BACKEND, "--mode", "0600"], &["--mode", "abstract"]),
    usage(&["--listen", LISTEN, "--backend", BACKEND, "--workers", "0"], &["--workers", "0"]),
    usage(&["--listen", LISTEN, "--backend", BACKEND, "--workers", "many"], &["--workers", "many"]),
    usage(&["--listen", LISTEN, "--backend", BACKEND, "--connections-max", "0"], &["--connections-max", "0"]),
    usage(&["--listen", LISTEN, "--backend", BACKEND, "--connections-max", "-1"], &["-1"]),
    usage(&["--listen", LISTEN, "--backend", BACKEND, "--connect-timeout", "soon"], &["--connect-timeout", "soon"]),
    usage(&["--listen", LISTEN, "--backend", BACKEND, "--idle-timeout", "10"], &["--idle-timeout", "10"]),
    usage(&["--listen", LISTEN, "--backend", BACKEND, "--drain-timeout", "-3s"], &["-3s"]),
    usage(&["--listen", LISTEN, "--backend", BACKEND, "--engine", "kqueue"], &["kqueue", "epoll"]),
    usage(&["--listen", LISTEN, "--backend", BACKEND, "--protocol", "gopher"], &["gopher", "raw"]),
    usage(&["--listen", LISTEN, "--backend", BACKEND, "--log-format", "xml"], &["xml", "json"]),
    usage(&["--listen", LISTEN, "--backend", BACKEND, "--nameserver", "dns.example"], &["--nameserver", "dns.example"]),
    usage(&["--listen", LISTEN, "--backend", BACKEND, "--dns-min-ttl", "1ms"], &["--dns-min-ttl", "100ms"]),
    usage(&["--listen", LISTEN, "--backend", "srv:php.internal"], &["srv:php.internal", "_SERVICE._PROTO.NAME"]),
    usage(&["--listen", LISTEN, "--backend", BACKEND, "--no-such-option"], &["--no-such-option"]),
    usage(&["--listen", LISTEN, "--backend", BACKEND, "stray"], &["stray"]),
    usage(&["--listen", LISTEN], &["--backend"]),
    usage(&["--backend", BACKEND], &["--listen"]),
    usage(&["--listen", LISTEN, "--backend"], &["--backend"]),
];

#[test]
fn every_bad_value_is_one_line_and_exit_code_2() {
    for bad in BAD_VALUES {
        let arguments: Vec<_> = [&["run"], bad.args].concat();
        let outcome = spliceway(&arguments);
        outcome.assert_error_line(bad.code, bad.mentions);
    }
}

#[test]
fn an_unknown_command_is_a_usage_error() {
    spliceway(&["walk"]).assert_error_line(2, &["walk"]);
}

#[test]
fn a_path_too_long_for_a_socket_is_refused() {
    let long = format!("unix:/tmp/{}", "x".repeat(108));
    let outcome = spliceway(&["run", "--listen", &long, "--backend", BACKEND]);
    // The operating system's limit, known without asking it: a usage error.
    outcome.assert_error_line(2, &["xxx", "107"]);
}

#[test]
fn an_unknown_user_or_group_is_a_run_time_error() {
    for option in ["--owner", "--group"] {
        let outcome = Proxy::builder()
            .backend(BACKEND)
            .args([option, "no-such-account"])
            .run_to_the_end();
        outcome.assert_error_line(1, &["no-such-account"]);
    }
}

#[test]
fn a_directory_that_does_not_exist_is_a_run_time_error() {
    let outcome = Proxy::builder()
        .listen("unix:/no-such-directory/x.sock")
        .backend(BACKEND)
        .run_to_the_end();
    outcome.assert_error_line(1, &["/no-such-directory/x.sock", "director"]);
}

#[test]
fn a_directory_without_permission_is_a_run_time_error() {
    let builder = Proxy::builder().user(NOBODY).backend(BACKEND);
    let dir = builder.dir().join("locked");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o555)).unwrap();
    let listen = format!("unix:{}/x.sock", dir.display());
    builder
        .listen(listen)
        .run_to_the_end()
        .assert_error_line(1, &["locked/x.sock", "ermission"]);
}

#[test]
fn an_owner_that_only_root_may_set_is_a_run_time_error() {
    let outcome = Proxy::builder()
        .user(NOBODY)
        .backend(BACKEND)
        .args(["--owner", "0"])
        .run_to_the_end();
    outcome.assert_error_line(1, &["proxy.sock", "ermi"]);
}

#[test]
fn help_and_version_are_no_errors() {
    for arguments in [&["--help"][..], &["run", "--help"], &["--version"]] {
        let outcome = spliceway(arguments);
        assert_eq!(
            (outcome.code, outcome.stderr.len()),
            (Some(0), 0),
            "{arguments:?}"
        );
    }
}

#[test]
fn json_log_lines_are_objects() {
    let backend = Backend::echo();
    let proxy = Proxy::builder()
        .backend(&backend)
        .args(["--log-format", "json"])
        .start();
    for line in proxy.process().log().lines() {
        assert!(line.starts_with('{') && line.ends_with('}'), "{line}");
    }
}

/// The program with bare arguments.
fn spliceway(arguments: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spliceway"));
    command.args(arguments).stdin(Stdio::null());
    command.stdout(Stdio::null());
    let setup = ChildSetup {
        death_signal: libc::SIGKILL,
        ..ChildSetup::default()
    };
    let mut process = Process::start(command, setup);
    let code = process.wait().code();
    Outcome {
        what: arguments.join(" "),
        code,
        stderr: process.log().lines(),
    }
}
