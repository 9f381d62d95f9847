//! Sockets that a service manager opens and passes: Unix and TCP, by name, and their backlogs, which
//! outlive the daemon.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{Command, Stdio};

use common::activation::{
    Activation, SPLICEWAY, connect_tcp, holds, socket_activate, tcp_listener, unix_listener,
    wait_until_ready,
};
use common::client::{
    assert_eof, assert_waiting, exchange, exchange_and_end, receive_exact, receive_to_eof, send,
};
use common::fastcgi::{Client, Heard, Request, responder};
use common::process::Process;
use common::proxy::{connect, connect_abstract, fresh_abstract_name, fresh_dir};
use common::sys::{ChildSetup, demand_root, reset_on_close};
use common::uninterrupted;
use common::{Backend, Conversation, Ending, Engine, KB, MB, Pattern, eventually, for_each_engine};

for_each_engine!(
    clients_of_a_passed_unix_socket_are_served,
    clients_of_a_passed_tcp_socket_are_served,
    an_abstract_socket_may_be_passed,
    descriptors_are_found_by_name_and_several_may_share_one,
    all_descriptors_can_be_taken_whatever_they_are_called,
    a_blocking_socket_is_made_non_blocking_and_closed_on_exec,
    a_descriptor_that_nobody_claims_is_closed_with_a_warning,
    a_backlog_is_left_to_the_next_owner,
    who_connects_during_a_drain_is_served_by_the_next_owner,
    who_was_accepted_before_a_drain_is_served_to_the_end,
    an_idle_daemon_ends_and_leaves_the_socket,
    an_idle_daemon_stays_while_somebody_is_there,
    a_tcp_client_that_half_closes_gets_its_answer,
    a_backends_reset_reaches_a_tcp_client,
    a_tcp_clients_reset_reaches_the_backend,
    a_tcp_clients_reset_after_its_end_reaches_the_backend,
    a_tcp_client_that_cannot_be_served_is_reset,
    a_tcp_client_may_wait_for_its_place_with_its_side_ended,
    the_proxy_protocol_tells_where_tcp_clients_come_from,
    requests_of_tcp_clients_are_served,
    a_tcp_client_that_resets_costs_the_backend_its_connection,
    tcp_clients_have_no_user_in_the_access_log,
    systemd_socket_activate_starts_it_on_a_path,
    systemd_socket_activate_starts_it_on_a_port,
);

const ONE_WORKER: [&str; 2] = ["--workers", "1"];

/// The words for one route.
fn words<'a>(listen: &'a str, backend: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["--listen", listen, "--backend", backend], more].concat()
}

fn terminate(process: &mut Process) {
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait().code(), Some(0));
}

fn clients_of_a_passed_unix_socket_are_served(engine: Engine) {
    let (dir, backend) = (fresh_dir(), Backend::echo());
    let (listener, path) = unix_listener(dir.path());
    let to = backend.to_string();
    let mut daemon = Activation::run(engine, &words("inherit:app", &to, &[]))
        .passing(&[(&listener, "app")])
        .start();
    daemon.wait_for_log(&format!(
        "listening on unix:{}, which was passed as app",
        path.display()
    ));
    for seed in 0..20 {
        exchange_and_end(&connect(&path).unwrap(), Pattern::new(seed), 300 * KB);
    }
    terminate(&mut daemon);
    assert!(path.exists(), "it is not ours to remove");
    // And still somebody's: the backlog takes clients.
    connect(&path).unwrap();
}

fn clients_of_a_passed_tcp_socket_are_served(engine: Engine) {
    let backend = Backend::echo();
    let (listener, address) = tcp_listener();
    let to = backend.to_string();
    let mut daemon = Activation::run(engine, &words("inherit:web", &to, &[]))
        .passing(&[(&listener, "web")])
        .start();
    daemon.wait_for_log(&format!(
        "listening on tcp:{address}, which was passed as web"
    ));
    for seed in 0..20 {
        exchange_and_end(&connect_tcp(address), Pattern::new(seed), 300 * KB);
    }
    exchange_and_end(&connect_tcp(address), Pattern::new(99), 20 * MB);
    terminate(&mut daemon);
    connect_tcp(address);
}

fn an_abstract_socket_may_be_passed(engine: Engine) {
    use std::os::linux::net::SocketAddrExt;
    let (backend, name) = (Backend::echo(), fresh_abstract_name());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let to = backend.to_string();
    let daemon = Activation::run(engine, &words("inherit", &to, &[]))
        .passing(&[(&listener, "x")])
        .start();
    daemon.wait_for_log(&format!("listening on unix:@{name}, which was passed as x"));
    exchange_and_end(&connect_abstract(&name).unwrap(), Pattern::new(1), KB);
}

/// Each backend says who it is.
fn descriptors_are_found_by_name_and_several_may_share_one(engine: Engine) {
    let dir = fresh_dir();
    let (red, blue) = (Backend::banner(b"red "), Backend::banner(b"blue"));
    let (one, one_at) = tcp_listener();
    let (two, two_at) = tcp_listener();
    let (three, three_at) = unix_listener(dir.path());
    let config = dir.path().join("spliceway.toml");
    let content = format!(
        "[route.blue]\nlisten = \"inherit:blue\"\nbackend = \"{blue}\"\n\
         [route.red]\nlisten = [\"inherit:red\", \"unix:{}/own.sock\"]\nbackend = \"{red}\"\n",
        dir.path().display()
    );
    fs::write(&config, content).unwrap();
    let words = ["--config", config.to_str().unwrap()];
    let _daemon = Activation::run(engine, &words)
        .passing(&[(&one, "red"), (&two, "blue"), (&three, "red")])
        .start();
    assert_eq!(receive_exact(&connect_tcp(one_at), 4), b"red ");
    assert_eq!(receive_exact(&connect_tcp(two_at), 4), b"blue");
    assert_eq!(receive_exact(&connect(&three_at).unwrap(), 4), b"red ");
    let own = connect(&dir.path().join("own.sock")).unwrap();
    assert_eq!(receive_exact(&own, 4), b"red ");
}

fn all_descriptors_can_be_taken_whatever_they_are_called(engine: Engine) {
    let (dir, backend) = (fresh_dir(), Backend::echo());
    let (one, one_at) = tcp_listener();
    let (two, two_at) = unix_listener(dir.path());
    let to = backend.to_string();
    let _daemon = Activation::run(engine, &words("inherit", &to, &[]))
        .passing(&[(&one, "a"), (&two, "")])
        .start();
    exchange_and_end(&connect_tcp(one_at), Pattern::new(1), KB);
    exchange_and_end(&connect(&two_at).unwrap(), Pattern::new(2), KB);
}

fn a_blocking_socket_is_made_non_blocking_and_closed_on_exec(engine: Engine) {
    let (dir, backend) = (fresh_dir(), Backend::echo());
    let (listener, path) = unix_listener(dir.path());
    let to = backend.to_string();
    let words = words("inherit", &to, &["--workers", "2"]);
    let daemon = Activation::run(engine, &words)
        .passing(&[(&listener, "a")])
        .start();
    demand_root();
    let info = fs::read_to_string(format!("/proc/{}/fdinfo/3", daemon.pid())).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = i32::from_str_radix(flags.unwrap().trim(), 8).unwrap();
    assert_eq!(flags & libc::O_NONBLOCK, libc::O_NONBLOCK, "{info}");
    assert_eq!(flags & libc::O_CLOEXEC, libc::O_CLOEXEC, "{info}");
    // With one client and two workers, a blocking accept would stop one of them for good.
    exchange_and_end(&connect(&path).unwrap(), Pattern::new(1), KB);
    daemon.assert_comes_to_rest();
    for seed in 0..8 {
        exchange_and_end(&connect(&path).unwrap(), Pattern::new(seed), KB);
    }
}

fn a_descriptor_that_nobody_claims_is_closed_with_a_warning(engine: Engine) {
    let (dir, backend) = (fresh_dir(), Backend::echo());
    let (listener, path) = unix_listener(dir.path());
    let (other, _) = tcp_listener();
    let to = backend.to_string();
    let daemon = Activation::run(engine, &words("inherit:app", &to, &[]))
        .passing(&[(&listener, "app"), (&other, "extra")])
        .start();
    daemon.wait_for_log("descriptor 4 (extra) was passed and no route listens on it: closed");
    assert!(!holds(&daemon, &other));
    assert!(holds(&daemon, &listener));
    exchange_and_end(&connect(&path).unwrap(), Pattern::new(1), KB);
}

// --- backlogs -----------------------------------------------------------------------------------

/// The test owns the socket, as the service manager does, and two daemons have it one after the other.
struct Owners {
    listener: UnixListener,
    path: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

impl Owners {
    fn new() -> Self {
        let dir = fresh_dir();
        let (listener, path) = unix_listener(dir.path());
        Self {
            listener,
            path,
            _dir: dir,
        }
    }

    fn start(&self, engine: Engine, backend: &Backend, more: &[&str]) -> Process {
        Activation::run(engine, &words("inherit", &backend.to_string(), more))
            .passing(&[(&self.listener, "a")])
            .start()
    }

    fn connect(&self) -> UnixStream {
        connect(&self.path).unwrap()
    }
}

/// At `--connections-max` the second client has never been accepted when the signal comes.
fn a_backlog_is_left_to_the_next_owner(engine: Engine) {
    let owners = Owners::new();
    let (first, second) = (Backend::hold(), Backend::echo());
    let mut daemon = owners.start(engine, &first, &["--connections-max", "1"]);
    let accepted = owners.connect();
    first.wait_until("the session", |ledger| ledger.open == 1);
    let waiting = owners.connect();
    send(&waiting, b"early");

    daemon.signal(libc::SIGTERM);
    eventually("the first lets go", || !holds(&daemon, &owners.listener));
    first.release(1);
    assert_eq!(receive_exact(&accepted, 4), b"done");
    drop(accepted);
    assert_eq!(daemon.wait().code(), Some(0));
    assert_waiting(&waiting);

    let _next = owners.start(engine, &second, &[]);
    assert_eq!(receive_exact(&waiting, 5), b"early");
    exchange_and_end(&waiting, Pattern::new(1), MB);
    assert_eq!(first.ledger().accepted, 1);
}

fn who_connects_during_a_drain_is_served_by_the_next_owner(engine: Engine) {
    let owners = Owners::new();
    let (first, second) = (Backend::hold(), Backend::echo());
    let mut daemon = owners.start(engine, &first, &["--workers", "2"]);
    let accepted = owners.connect();
    first.wait_until("the session", |ledger| ledger.open == 1);
    daemon.signal(libc::SIGTERM);
    eventually("the first lets go", || !holds(&daemon, &owners.listener));

    // Nobody listens for now, and nobody is refused.
    let clients: Vec<_> = (0..20).map(|_| owners.connect()).collect();
    let _next = owners.start(engine, &second, &[]);
    for (seed, client) in (0..).zip(&clients) {
        exchange_and_end(client, Pattern::new(seed), KB);
    }
    assert!(daemon.is_running(), "it has a session to finish");
    first.release(1);
    assert_eq!(receive_exact(&accepted, 4), b"done");
    drop(accepted);
    assert_eq!(daemon.wait().code(), Some(0));
    assert_eq!(first.ledger().accepted, 1);
}

/// Whoever is accepted at the moment of the signal is served by the one, everybody else by the other.
fn who_was_accepted_before_a_drain_is_served_to_the_end(engine: Engine) {
    let owners = Owners::new();
    let backend = Backend::echo();
    for round in 0..5 {
        let mut daemon = owners.start(engine, &backend, &["--workers", "2"]);
        let clients: Vec<_> = (0..100).map(|_| owners.connect()).collect();
        daemon.signal(libc::SIGTERM);
        let mut next = owners.start(engine, &backend, &["--workers", "2"]);
        for (seed, client) in (0..).zip(&clients) {
            exchange_and_end(client, Pattern::new(100 * round + seed), KB);
        }
        assert_eq!(daemon.wait().code(), Some(0));
        terminate(&mut next);
    }
}

fn an_idle_daemon_ends_and_leaves_the_socket(engine: Engine) {
    let owners = Owners::new();
    let backend = Backend::echo();
    // From the start on.
    let mut daemon = owners.start(engine, &backend, &["--exit-idle-time", "50ms"]);
    assert_eq!(daemon.wait().code(), Some(0));
    assert_eq!(
        daemon.log().count("no session for 50ms (--exit-idle-time)"),
        1
    );
    // From the end of the last session on.
    let waiting = owners.connect();
    let mut daemon = owners.start(engine, &backend, &["--exit-idle-time", "2s"]);
    exchange_and_end(&waiting, Pattern::new(1), KB);
    drop(waiting);
    assert_eq!(daemon.wait().code(), Some(0));
    let next = owners.connect();
    let _daemon = owners.start(engine, &backend, &["--exit-idle-time", "1m"]);
    exchange_and_end(&next, Pattern::new(2), KB);
}

fn an_idle_daemon_stays_while_somebody_is_there(engine: Engine) {
    let owners = Owners::new();
    let backend = Backend::echo();
    let client = owners.connect();
    let mut daemon = owners.start(engine, &backend, &["--exit-idle-time", "500ms"]);
    exchange(&client, Pattern::new(1), KB);
    // Several idle times.
    common::wait::meanwhile(std::time::Duration::from_millis(1500), || {
        assert!(daemon.is_running());
        assert_waiting(&client);
    });
    exchange_and_end(&client, Pattern::new(2), KB);
    drop(client);
    assert_eq!(daemon.wait().code(), Some(0));
}

// --- clients over TCP ---------------------------------------------------------------------------

/// A daemon for TCP clients, and where they connect.
fn over_tcp(engine: Engine, backend: impl ToString, more: &[&str]) -> (Process, SocketAddr) {
    let (listener, address) = tcp_listener();
    let backend = backend.to_string();
    let daemon = Activation::run(engine, &words("inherit", &backend, more))
        .passing(&[(&listener, "tcp")])
        .start();
    (daemon, address)
}

fn a_tcp_client_that_half_closes_gets_its_answer(engine: Engine) {
    let (question, answer) = (Pattern::new(1), Pattern::new(2));
    let backend = Backend::scripted(move |conversation| {
        conversation.receive_pattern(question, 8 * MB)?;
        conversation.keep_until_eof()?;
        conversation.send_pattern(answer, 0, 8 * MB)
    });
    let (_daemon, address) = over_tcp(engine, &backend, &[]);
    let client = connect_tcp(address);
    question.send(&mut &client, 8 * MB).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    answer.receive(&mut &client, 8 * MB).unwrap();
    assert_eof(&client);
    assert_eq!(backend.wait_for_end(0).ending, Ending::Eof);
}

fn a_backends_reset_reaches_a_tcp_client(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        conversation.send(b"part")?;
        conversation.receive_exact(2)?;
        conversation.reset_on_close()
    });
    let (_daemon, address) = over_tcp(engine, &backend, &[]);
    let client = connect_tcp(address);
    assert_eq!(receive_exact(&client, 4), b"part");
    send(&client, b"go");
    let error = uninterrupted(|| (&client).read(&mut [0])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

fn a_tcp_clients_reset_reaches_the_backend(engine: Engine) {
    let backend = Backend::echo();
    let (_daemon, address) = over_tcp(engine, &backend, &[]);
    let client = connect_tcp(address);
    exchange(&client, Pattern::new(1), KB);
    reset_on_close(&client).unwrap();
    drop(client);
    assert_eq!(backend.wait_for_end(0).ending, Ending::Reset);
}

/// While the backend is silent, only the wait for the client's leaving can tell.
fn a_tcp_clients_reset_after_its_end_reaches_the_backend(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        conversation.keep_until_eof()?;
        conversation.wait_for_release()
    });
    let (daemon, address) = over_tcp(engine, &backend, &["--log-level", "debug"]);
    let client = connect_tcp(address);
    send(&client, b"question");
    client.shutdown(Shutdown::Write).unwrap();
    backend.wait_until("the question", |ledger| ledger.received == 8);
    // A FIN alone is no leaving: the session goes on.
    common::wait::meanwhile(std::time::Duration::from_millis(200), || {
        assert_eq!(daemon.log().count("session ended"), 0);
    });
    reset_on_close(&client).unwrap();
    drop(client);
    daemon.wait_for_log("session ended");
    daemon.assert_comes_to_rest();
    backend.release(1);
}

fn a_tcp_client_that_cannot_be_served_is_reset(engine: Engine) {
    let nobody = common::backend::Refusing::new();
    let (_daemon, address) = over_tcp(engine, &nobody, &["--connect-timeout", "50ms"]);
    let client = connect_tcp(address);
    let error = uninterrupted(|| (&client).read(&mut [0])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

/// Of TCP, an end looks the same whether the client has left or waits for its answer.
fn a_tcp_client_may_wait_for_its_place_with_its_side_ended(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        conversation.keep_until_eof()?;
        conversation.wait_for_release()?;
        conversation.send(b"done")
    });
    let more = ["--per-endpoint-max", "1"];
    let (_daemon, address) = over_tcp(engine, &backend, &more);
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let client = connect_tcp(address);
            send(&client, b"question");
            client.shutdown(Shutdown::Write).unwrap();
            client
        })
        .collect();
    backend.release(3);
    for client in &clients {
        assert_eq!(receive_to_eof(client), b"done");
    }
    assert_eq!(backend.ledger().open_most, 1);
}

fn the_proxy_protocol_tells_where_tcp_clients_come_from(engine: Engine) {
    for version in ["v1", "v2"] {
        let backend = Backend::echo();
        let more = ["--proxy-protocol", version];
        let (_daemon, address) = over_tcp(engine, &backend, &more);
        for is_silent in [true, false] {
            let client = std::net::TcpStream::connect(address).unwrap();
            client.set_read_timeout(Some(common::GUARD)).unwrap();
            let from = client.local_addr().unwrap();
            let expected = header(version, from, address);
            if !is_silent {
                (&client).write_all(b"question").unwrap();
            }
            let mut told = vec![0; expected.len()];
            (&client).read_exact(&mut told).unwrap();
            assert_eq!(told, expected, "{version}");
        }
    }
}

fn header(version: &str, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to) else {
        panic!("the test listens on IPv4")
    };
    if version == "v1" {
        let (ips, ports) = ((from.ip(), to.ip()), (from.port(), to.port()));
        let line = format!("PROXY TCP4 {} {} {} {}\r\n", ips.0, ips.1, ports.0, ports.1);
        return line.into_bytes();
    }
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    header.extend(from.ip().octets());
    header.extend(to.ip().octets());
    header.extend(from.port().to_be_bytes());
    header.extend(to.port().to_be_bytes());
    header
}

// --- FastCGI over TCP ---------------------------------------------------------------------------

const FASTCGI: [&str; 4] = ["--protocol", "fastcgi", "--workers", "1"];

fn requests_of_tcp_clients_are_served(engine: Engine) {
    let backend = responder();
    let (mut daemon, address) = over_tcp(engine, &backend, &FASTCGI);
    let kept = Client(connect_tcp(address));
    for round in 0..5 {
        let uri = format!("/{round}");
        assert_eq!(kept.ask(&Request::get(&uri)).body(), uri.as_bytes());
        let closing = Client(connect_tcp(address));
        assert_eq!(
            closing.ask(&Request::get(&uri).closing()).body(),
            uri.as_bytes()
        );
        assert_eof(&closing.0);
    }
    let body = Pattern::new(1).bytes(5 * MB);
    assert_eq!(kept.ask(&Request::post("/body", &body)).body(), b"/body");
    // With its side ended it still gets the answer.
    let last = Client(connect_tcp(address));
    last.send(&Request::get("/last").bytes());
    last.finish();
    assert_eq!(last.answer().body(), b"/last");
    drop((kept, last));
    terminate(&mut daemon);
}

fn a_tcp_client_that_resets_costs_the_backend_its_connection(engine: Engine) {
    let backend = Backend::scripted(|conversation: &mut Conversation| {
        conversation.request()?;
        conversation.discard_until_eof()
    });
    let (_daemon, address) = over_tcp(engine, &backend, &FASTCGI);
    for round in 0..2 {
        let client = Client(connect_tcp(address));
        client.send(&Request::get("/").bytes());
        backend.wait_until("the request", |ledger| ledger.accepted == round + 1);
        if round == 1 {
            client.finish();
        }
        reset_on_close(&client.0).unwrap();
        drop(client);
        assert_eq!(backend.wait_for_end(round).ending, Ending::Reset);
    }
}

fn tcp_clients_have_no_user_in_the_access_log(engine: Engine) {
    let (dir, backend) = (fresh_dir(), Backend::scripted(|c| c.respond(Heard::page)));
    let log = dir.path().join("access.log");
    let more = [&FASTCGI[..], &["--access-log", log.to_str().unwrap()]].concat();
    let more = [&more[..], &["--access-log-format", "json"]].concat();
    let (_daemon, address) = over_tcp(engine, &backend, &more);
    Client(connect_tcp(address)).ask(&Request::get("/"));
    let line = || fs::read_to_string(&log).unwrap_or_default();
    eventually("the line is written", || line().ends_with('\n'));
    let line: serde_json::Value = serde_json::from_str(&line()).unwrap();
    let nobody = Some(&serde_json::Value::Null);
    assert_eq!(
        (line.get("uid"), line.get("pid")),
        (nobody, nobody),
        "{line}"
    );
}

// --- the real thing -----------------------------------------------------------------------------

fn systemd_socket_activate_starts_it_on_a_path(engine: Engine) {
    let (dir, backend) = (fresh_dir(), Backend::echo());
    let path = dir.path().join("activated.sock");
    let (engine, to) = (engine.to_string(), backend.to_string());
    let words = words("inherit:app", &to, &["--engine", &engine]);
    let words = [&["run"], &words[..]].concat();
    let at = path.to_str().unwrap();
    let mut daemon = socket_activate(&[at], Some("app"), SPLICEWAY, &words);
    for seed in 0..3 {
        exchange_and_end(&connect(&path).unwrap(), Pattern::new(seed), MB);
    }
    daemon.wait_for_log(&format!("listening on unix:{at}, which was passed as app"));
    terminate(&mut daemon);
    assert!(path.exists());
}

fn systemd_socket_activate_starts_it_on_a_port(engine: Engine) {
    let (dir, backend) = (fresh_dir(), Backend::echo());
    let path = dir.path().join("activated.sock");
    // A port that was free a moment ago: systemd-socket-activate does not say which one it took.
    let address = tcp_listener().1;
    let (engine, to) = (engine.to_string(), backend.to_string());
    let words = words("inherit", &to, &["--engine", &engine]);
    let words = [&["run"], &words[..]].concat();
    let port = address.to_string();
    let listen = [port.as_str(), path.to_str().unwrap()];
    let mut daemon = socket_activate(&listen, None, SPLICEWAY, &words);
    for seed in 0..3 {
        exchange_and_end(&connect_tcp(address), Pattern::new(seed), MB);
        exchange_and_end(&connect(&path).unwrap(), Pattern::new(seed), KB);
    }
    wait_until_ready(&daemon);
    terminate(&mut daemon);
}

// --- bad input ----------------------------------------------------------------------------------

/// It ends with 1, and says why in one line, which mentions all of these.
#[track_caller]
fn assert_refused(mut process: Process, mentions: &[&str]) {
    assert_eq!(process.wait().code(), Some(1));
    let lines = process.log().lines();
    let told: Vec<_> = lines
        .iter()
        .filter(|l| l.starts_with("spliceway: "))
        .collect();
    let [line] = told[..] else {
        panic!("not one line: {lines:#?}")
    };
    for mention in mentions {
        assert!(line.contains(mention), "no {mention:?} in {line}");
    }
}

fn inheriting(listen: &str) -> Activation {
    let words = words(listen, "127.0.0.1:1", &ONE_WORKER);
    Activation::run(Engine::Epoll, &words)
}

#[test]
fn what_is_no_listening_stream_socket_is_refused_by_what_it_is() {
    let dir = fresh_dir();
    let (stream, _peer) = UnixStream::pair().unwrap();
    let datagram = UnixDatagram::bind(dir.path().join("datagram")).unwrap();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let file = File::open("/etc/passwd").unwrap();
    let null = File::open("/dev/null").unwrap();
    let here = File::open(dir.path()).unwrap();
    let (pipe, _writer) = std::io::pipe().unwrap();
    let tcp = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap()
    };
    let others: [(&dyn AsFd, &str); 8] = [
        (
            &stream,
            "descriptor 3 is a Unix socket that does not listen",
        ),
        (&datagram, "descriptor 3 is a datagram socket (Unix)"),
        (&udp, "descriptor 3 is a datagram socket (UDP)"),
        (&file, "descriptor 3 is a file"),
        (&null, "descriptor 3 is a device"),
        (&here, "descriptor 3 is a directory"),
        (&pipe, "descriptor 3 is a pipe"),
        (&tcp, "descriptor 3 is a TCP socket that does not listen"),
    ];
    for (descriptor, what) in others {
        let process = inheriting("inherit:a")
            .passing(&[(descriptor, "a")])
            .spawn();
        let rule = "not a listening stream socket over Unix or TCP (use ListenStream=";
        assert_refused(process, &["listen inherit:a: ", what, rule]);
    }
}

#[test]
fn a_name_that_was_not_passed_is_refused_with_those_that_were() {
    let (one, _) = tcp_listener();
    let (two, _) = tcp_listener();
    let passed: [common::activation::Passed<'_>; 2] = [(&one, "web"), (&two, "api")];
    let process = inheriting("inherit:wbe").passing(&passed).spawn();
    let what = "listen inherit:wbe: no descriptor has that name (passed: web, api;";
    assert_refused(process, &[what]);
    let words = words("inherit:api", "127.0.0.1:1", &["--listen", "inherit:wbe"]);
    let process = Activation::run(Engine::Epoll, &words)
        .passing(&passed)
        .spawn();
    assert_refused(process, &[what]);
    let process = inheriting("inherit:web").passing(&[]).spawn();
    assert_refused(process, &["LISTEN_FDS=0"]);
}

#[test]
fn descriptors_that_are_for_nobody_or_for_another_process_are_refused() {
    let run = |variables: &[(&str, &str)]| {
        let mut command = Command::new(SPLICEWAY);
        command.args(["run", "--listen", "inherit", "--backend", "127.0.0.1:1"]);
        command.envs(variables.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let setup = ChildSetup {
            death_signal: libc::SIGKILL,
            ..ChildSetup::default()
        };
        Process::start(command, setup)
    };
    let nothing = "listen inherit: no descriptors were passed: LISTEN_FDS or LISTEN_PID is not set";
    assert_refused(run(&[]), &[nothing]);
    assert_refused(
        run(&[("LISTEN_FDS", "1"), ("LISTEN_PID", "1")]),
        &["the descriptors were passed to process 1, and this one is "],
    );
    for (name, value, what) in [
        ("LISTEN_FDS", "many", "LISTEN_FDS is 'many'"),
        ("LISTEN_FDS", "1", "descriptor 3 is not open"),
        (
            "LISTEN_FDNAMES",
            "a:b:c",
            "LISTEN_FDNAMES has 3 names for 0 descriptors",
        ),
    ] {
        // The shell sets LISTEN_PID; what is passed is told in another way than it is.
        let script = format!("{name}={value} exec \"$0\" \"$@\"");
        let words = ["-c", &script, SPLICEWAY, "run", "--listen", "inherit"];
        let words = [&words[..], &["--backend", "127.0.0.1:1"]].concat();
        let process = Activation::of("/bin/sh", &words).spawn();
        assert_refused(process, &["listen inherit: ", what]);
    }
}

#[test]
fn a_daemon_that_inherits_nothing_does_not_mind_the_variables() {
    let (dir, backend) = (fresh_dir(), Backend::echo());
    let path = dir.path().join("own.sock");
    let listen = format!("unix:{}", path.display());
    let to = backend.to_string();
    let daemon = Activation::run(Engine::Epoll, &words(&listen, &to, &[]))
        .env("LISTEN_FDNAMES", "a:b:c")
        .start();
    exchange_and_end(&connect(&path).unwrap(), Pattern::new(1), KB);
    drop(daemon);
}

#[test]
fn check_shows_what_would_be_inherited_without_having_it() {
    let check = |words: &[&str]| {
        let output = Command::new(SPLICEWAY).arg("check").args(words).output();
        let output = output.unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            stderr,
        )
    };
    let (code, stdout, stderr) = check(&words("inherit:web", "127.0.0.1:1", &[]));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("listen = [\"inherit:web\"]"), "{stdout}");
    for (more, mentions) in [
        (
            &["--mode", "0600"][..],
            "--mode with --listen inherit:web: the socket unit sets it (SocketMode=; remove --mode)",
        ),
        (&["--owner", "root"], "SocketUser="),
        (&["--group", "root"], "SocketGroup="),
        (&["--listen", "inherit"], "inherit takes all descriptors"),
        (&["--listen", "inherit:web"], "given twice"),
        (
            &["--listen", "inherit:"],
            "not the name of a passed descriptor",
        ),
    ] {
        let (code, _, stderr) = check(&words("inherit:web", "127.0.0.1:1", more));
        assert_eq!((code, stderr.lines().count()), (Some(2), 1), "{stderr}");
        assert!(stderr.contains(mentions), "{stderr}");
    }
}

#[test]
fn two_routes_cannot_have_one_descriptor() {
    let dir = fresh_dir();
    let file = dir.path().join("spliceway.toml");
    for (one, other) in [
        ("inherit:a", "inherit:a"),
        ("inherit", "inherit:a"),
        ("inherit:a", "inherit"),
    ] {
        let route = |name: &str, listen: &str| {
            format!("[route.{name}]\nlisten = \"{listen}\"\nbackend = \"b:1\"\n")
        };
        fs::write(&file, route("x", one) + &route("y", other)).unwrap();
        let output = Command::new(SPLICEWAY)
            .args(["check", "--config", file.to_str().unwrap()])
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), stderr.lines().count()), (Some(2), 1));
        let problem = format!("route y: listen {other}: route x listens there as well");
        assert!(stderr.contains(&problem), "{stderr}");
    }
}
