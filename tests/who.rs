//! Who may connect: users and groups as the kernel knows them, and how many connections each user may
//! have. All tests become several users, so they run as root.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use common::client::{
    assert_eof, assert_over, assert_waiting, exchange, receive_exact, receive_to_eof, send,
};
use common::fastcgi::{Client, Request, responder};
use common::http::{Response, Scrape};
use common::programs::{WEB_USER, program, start_nginx};
use common::proxy::{Builder, NOBODY, connect, connect_abstract, fresh_abstract_name};
use common::sys::{as_member, as_user, lacks_root};
use common::uninterrupted;
use common::{Backend, Engine, KB, Pattern, Proxy, eventually, for_each_engine};

for_each_engine!(
    only_users_that_are_allowed_reach_the_backend,
    a_group_lets_in_whoever_belongs_to_it,
    users_and_groups_add_up,
    an_abstract_socket_has_a_door_as_well,
    who_was_refused_with_a_request_under_way_sees_a_clean_end,
    a_fastcgi_client_that_is_refused_sees_a_clean_end,
    nginx_makes_a_502_of_a_refusal,
    a_number_that_is_only_shown_in_a_namespace_of_its_own_opens_nothing,
    who_has_no_number_here_is_nobody_whom_a_list_could_name,
    each_user_has_so_many_connections,
    connections_of_a_user_are_given_back_however_they_end,
    who_waits_in_the_queue_counts,
    workers_count_together,
    one_user_leaves_a_part_of_all_sessions_to_others,
    a_number_for_each_user_holds_over_all_routes,
    many_refusals_are_counted_and_told_in_few_lines,
);

/// Two users and a group that nobody on the machine has.
const ALICE: u32 = 54_321;
const BOB: u32 = 54_322;
const GROUP: u32 = 54_399;

/// Everybody may connect, as far as the file system goes.
fn open_to_all(engine: Engine, backend: &Backend) -> Builder {
    open_with_workers(engine, backend, "2")
}

fn open_with_workers(engine: Engine, backend: &Backend, workers: &str) -> Builder {
    let open = ["--mode", "0666", "--workers", workers];
    Proxy::builder().engine(engine).backend(backend).args(open)
}

fn connect_as(proxy: &Proxy, user: u32) -> UnixStream {
    as_user(user, user, || connect(proxy.socket()).unwrap())
}

#[track_caller]
fn assert_served(client: &UnixStream) {
    exchange(client, Pattern::new(1), KB);
}

fn ended(scrape: &Scrape, reason: &str) -> f64 {
    scrape.value(&format!(
        "spliceway_sessions_ended_total{{route=\"default\",reason=\"{reason}\"}}"
    ))
}

/// Of 16 sessions, two are for others. As long as there are none, one user has them all.
fn one_user_leaves_a_part_of_all_sessions_to_others(engine: Engine) {
    if lacks_root() {
        return;
    }
    let backend = Backend::echo();
    let proxy = open_to_all(engine, &backend)
        .args(["--connections-max", "16"])
        .observed()
        .start();
    let mut of_alice: Vec<_> = (0..16).map(|_| connect_as(&proxy, ALICE)).collect();
    of_alice.iter().for_each(assert_served);
    of_alice.truncate(10);
    let of_bob = connect_as(&proxy, BOB);
    assert_served(&of_bob);
    let active = || {
        let scrape = proxy.scrape();
        scrape.value("spliceway_sessions_active{route=\"default\"}")
    };
    eventually("those that closed are gone", || active() == 11.0);
    for _ in 0..4 {
        let client = connect_as(&proxy, ALICE);
        assert_served(&client);
        of_alice.push(client);
    }
    for _ in 0..5 {
        assert_over(&connect_as(&proxy, ALICE));
    }
    let other = connect_as(&proxy, BOB);
    for client in of_alice.iter().chain([&of_bob, &other]) {
        assert_served(client);
    }
    let warns = "its user has as many of all sessions as it may (see --user-connections-max)";
    let log = proxy.process().log();
    log.wait_for("who was refused", |line| {
        line.contains(warns) && line.contains("uid=54321")
    });
    eventually("all are counted", || {
        ended(&proxy.scrape(), "user_limit") == 5.0
    });
    // Who leaves makes room for its own again.
    of_alice.pop();
    eventually("there is room again", || {
        let client = connect_as(&proxy, ALICE);
        let mut echo = [0];
        let answer = (&client)
            .write_all(b"x")
            .and_then(|()| (&client).read_exact(&mut echo));
        answer.is_ok()
    });
}

fn a_number_for_each_user_holds_over_all_routes(engine: Engine) {
    if lacks_root() {
        return;
    }
    let backend = Backend::echo();
    let builder = Proxy::builder().engine(engine);
    let [one, other] = ["one", "other"].map(|file| builder.dir().join(file));
    let route = |name, path: &Path| {
        let listen = path.display();
        let rest = format!("backend = \"{backend}\"\nmode = \"0666\"\n");
        format!("[route.{name}]\nlisten = \"unix:{listen}\"\n{rest}")
    };
    let config = [
        "user-connections-max = 3\nworkers = 2\n".to_owned(),
        route("one", &one),
        route("other", &other),
    ];
    let _proxy = builder.config(&config.concat()).start();
    let client = |user, path: &Path| as_user(user, user, || connect(path).unwrap());
    let of_alice = [
        client(ALICE, &one),
        client(ALICE, &one),
        client(ALICE, &other),
    ];
    of_alice.iter().for_each(assert_served);
    assert_over(&client(ALICE, &one));
    assert_over(&client(ALICE, &other));
    assert_served(&client(BOB, &other));
    of_alice.iter().for_each(assert_served);
}

/// Nobody is there any more, so whatever was counted is.
#[track_caller]
fn wait_until_idle(proxy: &Proxy) -> Scrape {
    let mut scrape = proxy.scrape();
    eventually("all sessions are over", || {
        scrape = proxy.scrape();
        scrape.value("spliceway_sessions_active{route=\"default\"}") == 0.0
    });
    scrape
}

// --- users and groups -------------------------------------------------------------------------

fn only_users_that_are_allowed_reach_the_backend(engine: Engine) {
    let backend = Backend::echo();
    let proxy = open_to_all(engine, &backend)
        .observed()
        .args(["--allow-user", "54321"])
        .start();
    assert_served(&connect_as(&proxy, ALICE));
    assert_eof(&connect_as(&proxy, BOB));
    // Neither is root among them.
    assert_eof(&proxy.connect());
    assert_eq!(backend.ledger().accepted, 1);
    let log = proxy.process().log();
    let parts = [
        "client refused: neither its user nor a group of its is allowed",
        "uid=54322",
        "gid=54322",
        &format!("pid={}", std::process::id()),
    ];
    log.wait_for("who was refused", |line| {
        parts.iter().all(|part| line.contains(part))
    });
    let scrape = wait_until_idle(&proxy);
    assert_eq!(ended(&scrape, "not_allowed"), 2.0);
    assert_eq!(ended(&scrape, "user_limit"), 0.0);
}

fn a_group_lets_in_whoever_belongs_to_it(engine: Engine) {
    let backend = Backend::echo();
    let proxy = open_to_all(engine, &backend)
        .args(["--allow-group", "54399"])
        .start();
    let client = |groups: &[u32]| as_member(BOB, BOB, groups, || connect(proxy.socket()).unwrap());
    let own = as_user(BOB, GROUP, || connect(proxy.socket()).unwrap());
    assert_served(&own);
    assert_served(&client(&[1, GROUP, 2]));
    // More groups than most have.
    let many: Vec<u32> = (60_000..60_100).collect();
    let with_it: Vec<u32> = many.iter().copied().chain([GROUP]).collect();
    assert_served(&client(&with_it));
    assert_eof(&client(&many));
    assert_eof(&client(&[]));
    // The number of a group is not that of a user.
    assert_eof(&connect_as_user_of_number_of_group(&proxy));
    assert_eq!(backend.ledger().accepted, 3);
}

fn connect_as_user_of_number_of_group(proxy: &Proxy) -> UnixStream {
    as_user(GROUP, BOB, || connect(proxy.socket()).unwrap())
}

fn users_and_groups_add_up(engine: Engine) {
    if lacks_root() {
        return;
    }
    let backend = Backend::echo();
    let proxy = open_to_all(engine, &backend)
        .args(["--allow-user", "root", "--allow-user", "54321"])
        .args(["--allow-group", "54399"])
        .start();
    assert_served(&proxy.connect());
    assert_served(&connect_as(&proxy, ALICE));
    assert_served(&as_user(BOB, GROUP, || connect(proxy.socket()).unwrap()));
    assert_eof(&connect_as(&proxy, BOB));
}

fn an_abstract_socket_has_a_door_as_well(engine: Engine) {
    let (backend, name) = (Backend::echo(), fresh_abstract_name());
    let _proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .listen(format!("unix:@{name}"))
        .args(["--allow-user", "54321"])
        .start();
    let connect_as = |user| as_user(user, user, || connect_abstract(&name).unwrap());
    assert_served(&connect_as(ALICE));
    assert_eof(&connect_as(BOB));
}

// --- how a refusal looks ----------------------------------------------------------------------

/// Sends while the proxy stands still, so that its bytes are there before it is looked at.
fn send_before_it_is_seen(
    proxy: &Proxy,
    client: impl FnOnce() -> UnixStream,
    bytes: &[u8],
) -> UnixStream {
    proxy.process().signal(libc::SIGSTOP);
    eventually("the proxy stands still", || proxy.process().is_stopped());
    let client = client();
    send(&client, bytes);
    proxy.process().signal(libc::SIGCONT);
    client
}

fn who_was_refused_with_a_request_under_way_sees_a_clean_end(engine: Engine) {
    let backend = Backend::echo();
    let proxy = open_to_all(engine, &backend)
        .args(["--allow-user", "54321"])
        .start();
    let bytes = vec![b'x'; 100 * 1024];
    let client = send_before_it_is_seen(&proxy, || connect_as(&proxy, BOB), &bytes);
    assert_eof(&client);
    let refused_write = (&client).write(b"more").unwrap_err();
    assert_eq!(refused_write.kind(), std::io::ErrorKind::BrokenPipe);
    assert_eq!(backend.ledger().accepted, 0);
}

fn a_fastcgi_client_that_is_refused_sees_a_clean_end(engine: Engine) {
    let backend = responder();
    let proxy = open_to_all(engine, &backend)
        .args(["--protocol", "fastcgi", "--allow-user", "54321"])
        .start();
    let request = Request::get("/a").closing().bytes();
    let client = send_before_it_is_seen(&proxy, || connect_as(&proxy, BOB), &request);
    assert_eof(&client);
    let allowed = Client(connect_as(&proxy, ALICE));
    assert_eq!(allowed.ask(&Request::get("/a")).text(), "/a");
    assert_eq!(backend.ledger().accepted, 1);
}

fn nginx_makes_a_502_of_a_refusal(engine: Engine) {
    if lacks_root() {
        return;
    }
    let backend = responder();
    for (allowed, status) in [(WEB_USER, 200), ("54321", 502)] {
        let proxy = open_to_all(engine, &backend)
            .args(["--protocol", "fastcgi", "--allow-user", allowed])
            .start();
        let front = proxy.dir().join("front.sock");
        let config = format!(
            "http {{
                access_log off;
                server {{
                    listen unix:{front};
                    location / {{
                        fastcgi_pass unix:{socket};
                        fastcgi_param REQUEST_URI $request_uri;
                        fastcgi_param REQUEST_METHOD $request_method;
                        fastcgi_param SCRIPT_FILENAME /srv/a.php;
                    }}
                }}
            }}",
            front = front.display(),
            socket = proxy.socket().display(),
        );
        let _nginx = start_nginx(proxy.dir(), &config, &front);
        assert_eq!(Response::to(&front, "GET", "/a", b"").status, status);
    }
}

// --- user namespaces --------------------------------------------------------------------------

/// What a client gets that a namespace of its own shows the number of ALICE, or none at all.
fn banner_for(proxy: &Proxy, user: u32, unshare: &[&str]) -> (String, String) {
    const CLIENT: &str = "import os, socket, sys; s = socket.socket(socket.AF_UNIX); \
                          s.connect(sys.argv[1]); print(os.getuid(), s.recv(5).decode())";
    let user = user.to_string();
    let output = Command::new("setpriv")
        .args(["--reuid", &user, "--regid", &user, "--clear-groups"])
        .args(unshare)
        .arg(program(&["/usr/bin/python3"]))
        .args(["-c", CLIENT])
        .arg(proxy.socket())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (shown, banner) = text
        .trim_end_matches('\n')
        .split_once(' ')
        .unwrap_or_else(|| {
            panic!("the client failed: {output:?}");
        });
    (shown.to_owned(), banner.to_owned())
}

fn a_number_that_is_only_shown_in_a_namespace_of_its_own_opens_nothing(engine: Engine) {
    if lacks_root() {
        return;
    }
    let backend = Backend::banner(b"hello");
    let proxy = open_to_all(engine, &backend)
        .args(["--allow-user", "54321", "--allow-group", "54321"])
        .start();
    let unmapped = ["unshare", "--user"];
    let as_alice = ["unshare", "--user", "--map-user=54321", "--map-group=54321"];
    let answer = |shown: &str, banner: &str| (shown.to_owned(), banner.to_owned());
    // Whoever is allowed may be in any namespace, whatever that shows.
    assert_eq!(banner_for(&proxy, ALICE, &[]), answer("54321", "hello"));
    assert_eq!(
        banner_for(&proxy, ALICE, &unmapped),
        answer("65534", "hello")
    );
    assert_eq!(banner_for(&proxy, BOB, &unmapped), answer("65534", ""));
    assert_eq!(banner_for(&proxy, BOB, &as_alice), answer("54321", ""));
    proxy.process().wait_for_log("uid=54322");
}

/// The daemon is in a namespace that has a number for root alone.
fn who_has_no_number_here_is_nobody_whom_a_list_could_name(engine: Engine) {
    let backend = Backend::echo();
    let start = |allowed: &str| {
        open_to_all(engine, &backend)
            .through(["unshare", "--user", "--map-root-user"])
            .args(["--allow-user", allowed, "--allow-group", allowed])
    };
    let proxy = start("root").start();
    assert_served(&proxy.connect());
    assert_eof(&connect_as(&proxy, ALICE));
    assert_eof(&connect_as(&proxy, NOBODY));
    proxy.process().wait_for_log("uid=65534");
    start("65534").run_to_the_end().assert_error_line(
        1,
        &[
            "--allow-user 65534",
            "stands for everybody who has no number here",
        ],
    );
}

// --- connections of each user -----------------------------------------------------------------

fn limited(engine: Engine, backend: &Backend, per_user: &str) -> Builder {
    open_to_all(engine, backend).args(["--connections-max-per-user", per_user])
}

/// Connects again and again until it is served: the proxy notices an end a moment after it.
#[track_caller]
fn served_in_the_end(proxy: &Proxy, user: u32) -> UnixStream {
    let mut served = None;
    eventually("there is room for one more", || {
        let client = connect_as(proxy, user);
        let echoed = (&client)
            .write_all(b"x")
            .and_then(|()| (&client).read(&mut [0]));
        let is_served = matches!(echoed, Ok(1));
        served = is_served.then_some(client);
        is_served
    });
    served.unwrap()
}

fn each_user_has_so_many_connections(engine: Engine) {
    let backend = Backend::echo();
    let proxy = limited(engine, &backend, "2").observed().start();
    let (first, second) = (connect_as(&proxy, ALICE), connect_as(&proxy, ALICE));
    assert_served(&first);
    assert_served(&second);
    assert_eof(&connect_as(&proxy, ALICE));
    // Others are not concerned.
    let other = connect_as(&proxy, BOB);
    assert_served(&other);
    drop(first);
    let third = served_in_the_end(&proxy, ALICE);
    assert_served(&second);
    assert_eof(&connect_as(&proxy, ALICE));
    let log = proxy.process().log();
    log.wait_for("who had too many", |line| {
        line.contains("its user has as many connections as it may") && line.contains("uid=54321")
    });
    drop((second, third, other));
    let scrape = wait_until_idle(&proxy);
    assert!(ended(&scrape, "user_limit") >= 2.0);
    assert_eq!(ended(&scrape, "not_allowed"), 0.0);
}

/// Sessions end in all the ways that peers have. Afterwards the user has its two connections, not more
/// and not fewer.
fn connections_of_a_user_are_given_back_however_they_end(engine: Engine) {
    let backend = Backend::scripted(|conversation| match conversation.receive_exact(1)?[0] {
        b'c' => Ok(()),
        b'r' => conversation.reset_on_close(),
        b'h' => conversation.half_close(),
        _ => conversation.echo(),
    });
    // With one worker, who comes first is looked at first.
    let proxy = open_with_workers(engine, &backend, "1")
        .observed()
        .args(["--connections-max-per-user", "2", "--idle-timeout", "2s"])
        .start();
    for round in 0..40 {
        let client = served_or_refused(&proxy);
        match round % 5 {
            // The backend closes, breaks off, or says that no more comes.
            0 => send(&client, b"c"),
            1 => send(&client, b"r"),
            2 => send(&client, b"h"),
            // The client leaves at once.
            3 => continue,
            _ => send(&client, b"ex"),
        }
        if round % 2 == 0 {
            client.shutdown(Shutdown::Write).unwrap();
            let _ = (&client).read_to_end(&mut Vec::new());
        }
    }
    let scrape = wait_until_idle(&proxy);
    assert!(ended(&scrape, "complete") > 0.0, "{scrape:?}");
    let clients = [connect_as(&proxy, ALICE), connect_as(&proxy, ALICE)];
    for client in &clients {
        send(client, b"e");
        send(client, b"x");
        assert_eq!(receive_exact(client, 1), b"x");
    }
    assert_eof(&connect_as(&proxy, ALICE));
}

/// A client of ALICE, once there is room: a refused one sees the end at once, a served one waits.
fn served_or_refused(proxy: &Proxy) -> UnixStream {
    let mut served = None;
    eventually("there is room for one more", || {
        let before = refusals(proxy);
        let client = connect_as(proxy, ALICE);
        // Whichever it is, it has been decided once another user was served after it.
        let witness = connect_as(proxy, BOB);
        send(&witness, b"ex");
        let came = uninterrupted(|| (&witness).read(&mut [0])).is_ok_and(|count| count == 1);
        let is_served = came && refusals(proxy) == before;
        served = is_served.then_some(client);
        is_served
    });
    served.unwrap()
}

fn refusals(proxy: &Proxy) -> f64 {
    ended(&proxy.scrape(), "user_limit")
}

fn who_waits_in_the_queue_counts(engine: Engine) {
    let backend = Backend::hold();
    let proxy = limited(engine, &backend, "2")
        .args(["--per-endpoint-max", "1"])
        .start();
    let served = connect_as(&proxy, ALICE);
    backend.wait_until("the first client", |ledger| ledger.accepted == 1);
    let waiting = connect_as(&proxy, ALICE);
    assert_over(&connect_as(&proxy, ALICE));
    assert_waiting(&waiting);
    backend.release(2);
    for client in [&served, &waiting] {
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(receive_to_eof(client), b"done");
    }
}

/// Sessions of one user on both workers count as those of one user.
fn workers_count_together(engine: Engine) {
    const MAX: usize = 20;
    let backend = Backend::hold();
    let proxy = limited(engine, &backend, "20").observed().start();
    let mut clients: Vec<_> = (0..60).map(|_| connect_as(&proxy, ALICE)).collect();
    eventually("everybody was served or refused", || {
        refusals(&proxy) == 40.0 && backend.ledger().accepted == MAX
    });
    backend.release(MAX);
    clients.retain(|client| {
        let _ = client.shutdown(Shutdown::Write);
        receive_to_eof(client) == b"done"
    });
    assert_eq!(clients.len(), MAX);
    assert_eq!(backend.ledger().open_most, MAX);
}

fn many_refusals_are_counted_and_told_in_few_lines(engine: Engine) {
    const CLIENTS: usize = 300;
    let backend = Backend::echo();
    let proxy = open_to_all(engine, &backend)
        .observed()
        .args(["--allow-user", "54321"])
        .start();
    for _ in 0..CLIENTS {
        assert_over(&connect_as(&proxy, BOB));
    }
    let scrape = wait_until_idle(&proxy);
    assert_eq!(ended(&scrape, "not_allowed"), CLIENTS as f64);
    let lines = proxy.process().log().count("client refused");
    assert!((1..CLIENTS / 10).contains(&lines), "{lines} lines");
    // And nothing is left of them.
    proxy.process().assert_comes_to_rest();
    assert_served(&connect_as(&proxy, ALICE));
}

// --- what is wrong from the start -------------------------------------------------------------

#[test]
fn who_does_not_exist_cannot_be_allowed() {
    for (option, name, mentions) in [
        (
            "--allow-user",
            "spliceway-nobody",
            "no user named spliceway-nobody",
        ),
        (
            "--allow-group",
            "spliceway-nobody",
            "no group named spliceway-nobody",
        ),
        (
            "--allow-user",
            "nobody",
            "65534 stands for everybody who has no number here",
        ),
        (
            "--allow-group",
            "65534",
            "65534 stands for everybody who has no number here",
        ),
    ] {
        let backend = Backend::echo();
        let builder = Proxy::builder().backend(&backend).args([option, name]);
        let socket = builder.socket();
        let outcome = builder.run_to_the_end_and(|| assert!(!socket.exists()));
        outcome.assert_error_line(1, &[option, name, mentions]);
    }
}

#[test]
fn check_tells_who_does_not_exist() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.toml");
    let text = "[route.php]\nlisten = \"unix:/run/a.sock\"\nbackend = \"127.0.0.1:9\"\n\
                allow-user = [\"root\", \"spliceway-nobody\"]\n";
    fs::write(&file, text).unwrap();
    let stderr = check(&file);
    let problem = "route php: --allow-user spliceway-nobody: no user named spliceway-nobody";
    assert!(stderr.contains(problem), "{stderr}");
}

fn check(file: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_spliceway"))
        .arg("check")
        .arg("--config")
        .arg(file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}
