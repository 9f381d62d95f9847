//! As whom the daemon runs: it binds as root, serves as somebody else, and cannot go back. The tests start
//! daemons as root.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use common::client::exchange_and_end;
use common::fastcgi::{Client, Request, responder};
use common::http::{self, get_unix};
use common::process::Process;
use common::programs::{WEB_USER, fresh_endpoint};
use common::proxy::{Builder, NOBODY, Outcome, connect, fresh_dir};
use common::sys::{as_user, lacks_root, own_uid};
use common::{Backend, Engine, KB, Pattern, Proxy, eventually, for_each_engine};

for_each_engine!(
    every_thread_is_the_user_and_has_no_rights_left,
    a_user_brings_the_groups_of_the_database,
    whoever_is_that_user_already_needs_no_rights,
    the_memory_is_for_nobody_to_see_and_nothing_can_be_gained,
    requests_are_logged_and_the_log_is_rotated_as_the_user,
);

/// A user and a group that nobody on the machine has.
const USER: u32 = 54_321;
const GROUP: u32 = 54_322;

fn dropping(engine: Engine, backend: &Backend) -> Builder {
    // A name, so that there is a resolver.
    Proxy::builder()
        .engine(engine)
        .backend(format!("localhost:{}", backend.port()))
        .args(["--workers", "2", "--user", "54321:54322"])
}

#[track_caller]
fn assert_serves(proxy: &Proxy) {
    for seed in 0..8 {
        exchange_and_end(&proxy.connect(), Pattern::new(seed), 300 * KB);
    }
}

/// What /proc says of each thread, by the thread's name.
fn threads(process: &Process) -> Vec<Vec<(String, String)>> {
    let directory = format!("/proc/{}/task", process.pid());
    let entries = fs::read_dir(directory).unwrap();
    // A thread may end between the listing and the look.
    let status = entries.filter_map(|e| fs::read_to_string(e.unwrap().path().join("status")).ok());
    let words = |line: &str| {
        let (key, value) = line.split_once(':')?;
        let value: Vec<_> = value.split_whitespace().collect();
        Some((key.to_owned(), value.join(" ")))
    };
    status
        .map(|s| s.lines().filter_map(words).collect())
        .collect()
}

fn value<'a>(thread: &'a [(String, String)], key: &str) -> &'a str {
    let found = thread.iter().find(|(k, _)| k == key);
    &found.unwrap_or_else(|| panic!("no {key} in {thread:?}")).1
}

fn four_times(id: u32) -> String {
    format!("{id} {id} {id} {id}")
}

// --- what is left -----------------------------------------------------------------------------

fn every_thread_is_the_user_and_has_no_rights_left(engine: Engine) {
    if lacks_root() {
        return;
    }
    let backend = Backend::echo();
    let proxy = dropping(engine, &backend).observed().start();
    assert_serves(&proxy);
    let threads = threads(proxy.process());
    let names: Vec<_> = threads.iter().map(|t| value(t, "Name")).collect();
    for name in ["spliceway", "log", "resolver", "worker-0", "worker-1"] {
        assert!(names.contains(&name), "no {name} among {names:?}");
    }
    for thread in &threads {
        assert_eq!(value(thread, "Uid"), four_times(USER), "{thread:?}");
        assert_eq!(value(thread, "Gid"), four_times(GROUP), "{thread:?}");
        assert_eq!(value(thread, "Groups"), "", "{thread:?}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(value(thread, set), "0000000000000000", "{set}: {thread:?}");
        }
        assert_eq!(value(thread, "NoNewPrivs"), "1", "{thread:?}");
    }
    assert_control_socket_is_the_users(&proxy);
    assert_eq!(http::get(proxy.metrics_address(), "/healthz").code, 200);
    proxy.process().wait_for_log("running as user 54321:54322");
}

/// It is for the user as whom the daemon runs, and for root.
#[track_caller]
fn assert_control_socket_is_the_users(proxy: &Proxy) {
    let control = fs::metadata(proxy.control()).unwrap();
    assert_eq!(control.mode() & 0o7777, 0o600);
    assert_eq!((control.uid(), control.gid()), (USER, GROUP));
    for user in [own_uid(), USER] {
        let answer = as_user(user, user, || get_unix(&proxy.control(), "/status"));
        assert_eq!(answer.code, 200, "as {user}");
    }
    let stranger = as_user(NOBODY, NOBODY, || connect(&proxy.control()));
    assert_eq!(stranger.unwrap_err().kind(), ErrorKind::PermissionDenied);
    // The listener's owner is another matter: who started the daemon, unless --owner says otherwise.
    let listener = fs::metadata(proxy.socket()).unwrap();
    assert_eq!((listener.uid(), listener.gid()), (own_uid(), 0));
}

fn a_user_brings_the_groups_of_the_database(engine: Engine) {
    if lacks_root() {
        return;
    }
    let backend = Backend::echo();
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--user", WEB_USER])
        .start();
    assert_serves(&proxy);
    let output = Command::new("id").args(["-G", WEB_USER]).output().unwrap();
    let known = String::from_utf8(output.stdout).unwrap();
    let known: BTreeSet<_> = known.split_whitespace().collect();
    assert!(!known.is_empty());
    for thread in threads(proxy.process()) {
        let groups: BTreeSet<_> = value(&thread, "Groups").split(' ').collect();
        assert_eq!(groups, known);
        assert_ne!(value(&thread, "Uid"), four_times(0));
    }
}

fn whoever_is_that_user_already_needs_no_rights(engine: Engine) {
    if lacks_root() {
        return;
    }
    let backend = Backend::echo();
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .user(NOBODY)
        .args(["--user", "nobody"])
        .start();
    assert_serves(&proxy);
    let threads = threads(proxy.process());
    let uids: BTreeSet<_> = threads.iter().map(|t| value(t, "Uid")).collect();
    assert_eq!(uids, BTreeSet::from([&*four_times(NOBODY)]));
}

/// Also of a daemon that changes nothing about its user.
fn the_memory_is_for_nobody_to_see_and_nothing_can_be_gained(engine: Engine) {
    if lacks_root() {
        return;
    }
    let backend = Backend::echo();
    let plain = Proxy::builder().engine(engine).backend(&backend).user(USER);
    for proxy in [plain.start(), dropping(engine, &backend).start()] {
        for thread in threads(proxy.process()) {
            assert_eq!(value(&thread, "NoNewPrivs"), "1");
            assert_eq!(value(&thread, "Uid"), four_times(USER));
        }
        let pid = proxy.process().pid();
        let looks = [format!("/proc/{pid}/environ"), format!("/proc/{pid}/maps")];
        for look in looks {
            let seen = as_user(USER, USER, || fs::read(&look));
            assert_eq!(
                seen.unwrap_err().kind(),
                ErrorKind::PermissionDenied,
                "{look}"
            );
        }
        assert_serves(&proxy);
    }
}

#[test]
fn without_the_option_rights_stay_as_they_are() {
    let backend = Backend::echo();
    let proxy = Proxy::builder().backend(&backend).start();
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("CapEff:"));
    for thread in threads(proxy.process()) {
        assert_eq!(Some(value(&thread, "CapEff")), own.map(str::trim));
        assert_eq!(value(&thread, "NoNewPrivs"), "1");
    }
}

// --- what took rights before ------------------------------------------------------------------

#[test]
fn a_port_of_roots_is_bound_before_the_rights_are_gone() {
    if lacks_root() {
        return;
    }
    let backend = Backend::echo();
    let (address, _) = fresh_endpoint();
    let metrics = format!("{address}:81");
    let proxy = Proxy::builder()
        .backend(&backend)
        .args(["--user", "54321:54322", "--metrics", &metrics])
        .start();
    assert_eq!(http::get(proxy.metrics_address(), "/readyz").code, 200);
    assert_eq!(proxy.metrics_address().port(), 81);
}

// --- what would take rights afterwards --------------------------------------------------------

/// In a directory of root's it stays, one line says so, and the next start replaces it.
#[test]
fn a_socket_that_cannot_be_removed_is_replaced_by_the_next_start() {
    if lacks_root() {
        return;
    }
    let (backend, dir) = (Backend::echo(), fresh_dir());
    let path = dir.path().join("shared.sock");
    let start = || {
        Proxy::builder()
            .listen(format!("unix:{}", path.display()))
            .backend(&backend)
            .args(["--user", "54321:54322"])
            .start()
    };
    for _ in 0..2 {
        let mut proxy = start();
        exchange_and_end(&connect(&path).unwrap(), Pattern::new(1), KB);
        proxy.terminate();
        assert!(proxy.wait().success());
        assert!(path.exists());
        let lines = proxy.process().log().lines();
        let told: Vec<_> = lines.iter().filter(|l| l.contains("file stays")).collect();
        assert_eq!(told.len(), 1, "{lines:?}");
        assert!(told[0].contains("INFO") && told[0].contains("shared.sock"));
        assert!(!lines.iter().any(|line| line.contains("WARN")), "{lines:?}");
    }
}

#[test]
fn in_a_directory_of_the_user_the_sockets_are_removed() {
    if lacks_root() {
        return;
    }
    let (backend, dir) = (Backend::echo(), fresh_dir());
    chown(dir.path(), Some(USER), Some(GROUP)).unwrap();
    let control = dir.path().join("control.sock");
    let mut proxy = Proxy::builder()
        .listen(format!("unix:{}", dir.path().join("a.sock").display()))
        .backend(&backend)
        .args([
            "--user",
            "54321:54322",
            "--control",
            control.to_str().unwrap(),
        ])
        .start();
    assert_eq!(files(dir.path()), ["a.sock", "control.sock"]);
    proxy.terminate();
    assert!(proxy.wait().success());
    assert!(files(dir.path()).is_empty());
}

fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

fn requests_are_logged_and_the_log_is_rotated_as_the_user(engine: Engine) {
    if lacks_root() {
        return;
    }
    let (backend, logs) = (responder(), fresh_dir());
    chown(logs.path(), Some(USER), Some(GROUP)).unwrap();
    let (log, old) = (logs.path().join("a.log"), logs.path().join("a.log.1"));
    let proxy = dropping(engine, &backend)
        .args([
            "--protocol",
            "fastcgi",
            "--access-log",
            log.to_str().unwrap(),
        ])
        .start();
    let ask = || Client::connect(&proxy).ask(&Request::get("/a"));
    let lines = |path: &Path| fs::read_to_string(path).unwrap_or_default().lines().count();
    assert_eq!(ask().text(), "/a");
    eventually("the first line", || lines(&log) == 1);
    fs::rename(&log, &old).unwrap();
    proxy.process().signal(libc::SIGUSR1);
    eventually("a new file", || log.exists());
    ask();
    eventually("the second line", || lines(&log) == 1);
    for path in [&log, &old] {
        let made = fs::metadata(path).unwrap();
        assert_eq!((made.uid(), made.gid()), (USER, GROUP), "{path:?}");
        assert_eq!(made.mode() & 0o7777, 0o640);
    }
    // Somebody takes the directory away: one line, and the old file is written on.
    chown(logs.path(), Some(0), Some(0)).unwrap();
    fs::remove_file(&log).unwrap();
    proxy.process().signal(libc::SIGUSR1);
    proxy
        .process()
        .wait_for_log("anew: Permission denied (EACCES); the old file is written on");
    assert_eq!(ask().text(), "/a");
    assert!(!log.exists());
}

/// Root would follow a link that the user has put there; the user does as well, with its own rights.
#[test]
fn an_access_log_is_never_opened_with_the_rights_of_root() {
    if lacks_root() {
        return;
    }
    let (backend, logs) = (responder(), fresh_dir());
    chown(logs.path(), Some(USER), Some(GROUP)).unwrap();
    let (log, target) = (logs.path().join("a.log"), fresh_dir());
    let target = target.path().join("made-by-root");
    std::os::unix::fs::symlink(&target, &log).unwrap();
    let outcome = Proxy::builder()
        .backend(&backend)
        .args(["--user", "54321:54322", "--protocol", "fastcgi"])
        .args(["--access-log", log.to_str().unwrap()])
        .run_to_the_end();
    assert!(!target.exists());
    assert_error_after_the_change(outcome, &["a.log", "Permission denied"]);
}

/// One line, beside the one that tells of a socket which the user cannot remove.
#[track_caller]
fn assert_error_after_the_change(mut outcome: Outcome, mentions: &[&str]) {
    outcome.stderr.retain(|line| !line.contains("file stays"));
    outcome.assert_error_line(1, mentions);
}

// --- what is wrong from the start -------------------------------------------------------------

#[test]
fn who_cannot_be_become_is_one_line() {
    let backend = Backend::echo();
    for (user, mention) in [
        ("spliceway-nobody", "no user named spliceway-nobody"),
        ("nobody:spliceway-nobody", "no group named spliceway-nobody"),
        (
            "54321",
            "no user has this number, so its group is not known (write 54321:GROUP)",
        ),
        ("root", "root keeps all rights"),
        ("0:54321", "root keeps all rights"),
    ] {
        let builder = Proxy::builder().backend(&backend).args(["--user", user]);
        let socket = builder.socket();
        let outcome = builder.run_to_the_end_and(|| assert!(!socket.exists()));
        outcome.assert_error_line(1, &["--user", user, mention]);
    }
    let outcome = Proxy::builder().backend(&backend).args(["--user", "a:b:c"]);
    outcome
        .run_to_the_end()
        .assert_error_line(2, &["--user", "a:b:c"]);
}

#[test]
fn who_is_not_root_becomes_nobody_else() {
    let backend = Backend::echo();
    let builder = Proxy::builder()
        .backend(&backend)
        .user(NOBODY)
        .args(["--user", "54321:54322"]);
    let socket = builder.socket();
    let outcome = builder.run_to_the_end_and(|| assert!(!socket.exists()));
    outcome.assert_error_line(
        1,
        &["run as user 54321:54322", "only root may", "start as root"],
    );
}

/// Root without the capability for it, as in a container that drops all of them.
#[test]
fn a_root_that_may_not_change_is_told_what_is_missing() {
    if lacks_root() {
        return;
    }
    let backend = Backend::echo();
    let without = ["setpriv", "--bounding-set=-setuid", "--inh-caps=-setuid"];
    let outcome = Proxy::builder()
        .backend(&backend)
        .through(without)
        .args(["--user", "54321:54322"])
        .run_to_the_end();
    outcome.assert_error_line(1, &["run as user 54321:54322: set the user", "CAP_SETUID"]);
}

/// With this bit the kernel leaves capabilities to who changes from root to another user.
#[test]
fn rights_that_a_thread_would_keep_are_found() {
    if lacks_root() {
        return;
    }
    let backend = Backend::echo();
    let keeping = ["setpriv", "--securebits=+no_setuid_fixup"];
    let outcome = Proxy::builder()
        .backend(&backend)
        .through(keeping)
        .args(["--user", "54321:54322"])
        .run_to_the_end();
    assert_error_after_the_change(
        outcome,
        &["run as user 54321:54322: thread log still has CapPrm"],
    );
}

#[test]
fn check_tells_of_a_user_that_does_not_exist() {
    let dir = fresh_dir();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let file = dir.path().join("a.toml");
    let text = "user = \"spliceway-nobody\"\n[route.a]\nlisten = \"unix:/run/a.sock\"\n\
                backend = \"127.0.0.1:9\"\n";
    fs::write(&file, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_spliceway"))
        .args(["check", "--config", file.to_str().unwrap()])
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("--user spliceway-nobody: no user named"),
        "{stderr}"
    );
}
