//! `spliceway socket-proxyd` beside systemd-socket-proxyd: the same command lines, started in the same
//! way, and the same behaviour, written once. What follows is what only ours does, or does right.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Error, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use common::activation::{SPLICEWAY, connect_tcp, socket_activate, tcp_listener};
use common::client::{assert_over, assert_waiting, exchange, receive_exact, receive_to_eof, send};
use common::process::Process;
use common::programs::{program, start_socat};
use common::proxy::{connect, fresh_abstract_name, fresh_dir};
use common::sys::lacks_root;
use common::wait::{eventually, meanwhile};
use common::{Backend, Engine, KB, MB, Pattern};
use tempfile::TempDir;

/// Which program it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Systemds,
    Ours(Engine),
}

/// Makes three tests of each named function: one of systemd's program and one of each of our engines.
macro_rules! for_each_program {
    ($($name:ident),+ $(,)?) => {
        $(mod $name {
            use super::{Engine, Program};

            #[test]
            fn systemds() {
                super::$name(Program::Systemds);
            }

            #[test]
            fn ours_with_io_uring() {
                super::$name(Program::Ours(Engine::IoUring));
            }

            #[test]
            fn ours_with_epoll() {
                super::$name(Program::Ours(Engine::Epoll));
            }
        })+
    };
}

for_each_program!(
    what_is_sent_comes_back,
    sixty_four_kilobytes_come_back,
    the_limit_on_connections_is_hard,
    places_of_clients_that_have_closed_come_back,
    a_unix_target_may_be_a_path_or_an_abstract_name,
    several_listeners_lead_to_one_target,
    a_target_that_is_down_costs_one_connection,
    a_target_without_a_port_is_asked_on_port_80,
    an_idle_program_ends_with_exit_code_0,
    a_time_span_may_have_several_parts,
    help_and_version_are_printed,
    what_cannot_be_run_is_a_failure,
);

// --- starting -----------------------------------------------------------------------------------

impl Program {
    /// What stands in ExecStart=: of ours under the other's name, so that nothing else differs.
    fn path(self, dir: &Path) -> PathBuf {
        match self {
            Self::Systemds => program(&["/usr/lib/systemd/systemd-socket-proxyd"]),
            Self::Ours(_) => {
                let path = dir.join("systemd-socket-proxyd");
                if !path.exists() {
                    symlink(SPLICEWAY, &path).unwrap();
                }
                path
            }
        }
    }

    fn words<'a>(self, words: &[&'a str]) -> Vec<&'a str> {
        let engine: &[&str] = match self {
            Self::Systemds => &[],
            Self::Ours(Engine::IoUring) => &["--engine", "io_uring"],
            Self::Ours(Engine::Epoll) => &["--engine", "epoll"],
        };
        [engine, words].concat()
    }

    /// Waits behind a port, until somebody connects.
    fn activate(self, words: &[&str]) -> Activated {
        // A port that was free a moment ago: systemd-socket-activate does not say which one it took.
        let address = tcp_listener().1;
        let dir = fresh_dir();
        let path = dir.path().join("listener.sock");
        let listen = [address.to_string(), path.to_str().unwrap().to_owned()];
        let listen = listen.each_ref().map(String::as_str);
        let process = socket_activate(&listen, None, self.path(dir.path()), &self.words(words));
        Activated {
            process,
            address,
            path,
            _dir: dir,
        }
    }

    fn run_to_the_end(self, words: &[&str]) -> Output {
        let dir = fresh_dir();
        let mut command = Command::new(self.path(dir.path()));
        command.args(words).env_clear().output().unwrap()
    }
}

/// A program with a TCP and a Unix listener.
struct Activated {
    process: Process,
    address: SocketAddr,
    path: PathBuf,
    _dir: TempDir,
}

impl Activated {
    fn connect(&self) -> UnixStream {
        connect_tcp(self.address)
    }
}

/// The target of systemd's own test: socat that gives everything back.
fn echo_behind(listen: &str) -> Process {
    let process = start_socat(&["-d", "-d", listen, "EXEC:cat"]);
    // Its file is there before it takes anybody.
    process.wait_for_log("listening on");
    process
}

/// Sends a word and gets it back.
#[track_caller]
fn assert_echo(client: &UnixStream, word: &str) {
    send(client, word.as_bytes());
    assert_eq!(receive_exact(client, word.len()), word.as_bytes());
}

// --- what both do -------------------------------------------------------------------------------

fn what_is_sent_comes_back(program: Program) {
    let dir = fresh_dir();
    let target = dir.path().join("target.sock");
    let _socat = echo_behind(&format!("UNIX-LISTEN:{},fork", target.display()));
    let activated = program.activate(&[target.to_str().unwrap()]);
    for word in ["hello", "world"] {
        assert_echo(&activated.connect(), word);
    }
}

fn sixty_four_kilobytes_come_back(program: Program) {
    let backend = Backend::echo();
    let activated = program.activate(&[&backend.to_string()]);
    exchange(&activated.connect(), Pattern::new(1), 64 * KB);
    exchange(&activated.connect(), Pattern::new(2), 4 * MB);
}

/// Debian 12 has version 252 of systemd's, which counts one too many.
fn the_limit_on_connections_is_hard(program: Program) {
    const MAX: usize = 3;
    let backend = Backend::echo();
    let activated = program.activate(&[&format!("--connections-max={MAX}"), &backend.to_string()]);
    let allowed = match program {
        Program::Systemds => MAX + 1,
        Program::Ours(_) => MAX,
    };
    let mut held = Vec::new();
    for _ in 0..allowed {
        let client = activated.connect();
        assert_echo(&client, "held");
        held.push(client);
    }
    for _ in 0..5 {
        let refused = activated.connect();
        // It may be closed before this, and then cannot be written to.
        let _ = (&refused).write_all(b"refused");
        assert_over(&refused);
    }
    for client in &held {
        assert_echo(client, "still");
    }
    held.pop();
    eventually("there is room again", || {
        let mut client = activated.connect();
        let mut word = [0; 5];
        let answer = client
            .write_all(b"again")
            .and_then(|()| client.read_exact(&mut word));
        answer.is_ok() && word == *b"again"
    });
    let warns = |line: &str| {
        line.contains("connection limit, refusing connection")
            || line.contains("--connections-max is reached: client refused")
    };
    activated.process.log().wait_for("the warning", warns);
}

/// Twice as many clients as there are places come and close, where the target neither answers nor closes.
fn places_of_clients_that_have_closed_come_back(program: Program) {
    const MAX: usize = 5;
    let backend = Backend::scripted(|conversation| {
        conversation.keep_until_eof()?;
        conversation.wait_for_release()
    });
    let max = format!("--connections-max={MAX}");
    let activated = program.activate(&[&max, &backend.to_string()]);
    for number in 1..=2 * MAX as u64 {
        let has_arrived = || backend.ledger().received >= number;
        eventually(&format!("client {number} finds a place"), || {
            let mut client = activated.connect();
            let brief = Some(Duration::from_millis(10));
            client.set_read_timeout(brief).unwrap();
            // Who is refused may see it here.
            let mut is_refused = client.write_all(b"x").is_err();
            eventually("it is served or refused", || {
                let waits = |error: &Error| error.kind() == ErrorKind::WouldBlock;
                is_refused |= !client.read(&mut [0]).is_err_and(|error| waits(&error));
                is_refused || has_arrived()
            });
            has_arrived()
        });
    }
    let ended = backend.ledger().seen.len();
    assert_eq!(ended, 0, "the target has closed, which makes room as well");
    backend.release(2 * MAX);
}

fn a_unix_target_may_be_a_path_or_an_abstract_name(program: Program) {
    let name = fresh_abstract_name();
    let _socat = echo_behind(&format!("ABSTRACT-LISTEN:{name},fork"));
    let activated = program.activate(&[&format!("@{name}")]);
    assert_echo(&activated.connect(), "abstract");
}

fn several_listeners_lead_to_one_target(program: Program) {
    let backend = Backend::echo();
    let activated = program.activate(&[&backend.to_string()]);
    for word in ["one", "two"] {
        assert_echo(&activated.connect(), word);
        assert_echo(&connect(&activated.path).unwrap(), word);
    }
}

fn a_target_that_is_down_costs_one_connection(program: Program) {
    let dir = fresh_dir();
    let target = dir.path().join("target.sock");
    let activated = program.activate(&[target.to_str().unwrap()]);
    assert_over(&activated.connect());
    let _socat = echo_behind(&format!("UNIX-LISTEN:{},fork", target.display()));
    assert_echo(&activated.connect(), "hello");
}

/// On an address of the loopback network that no other test has.
fn a_target_without_a_port_is_asked_on_port_80(program: Program) {
    if lacks_root() {
        return;
    }
    let number = match program {
        Program::Systemds => 1,
        Program::Ours(Engine::IoUring) => 2,
        Program::Ours(Engine::Epoll) => 3,
    };
    let [low, high, ..] = std::process::id().to_le_bytes();
    let ip = IpAddr::V4(Ipv4Addr::new(127, 80 + number, high, low));
    let _backend = Backend::echo_at(ip, 80).unwrap();
    let activated = program.activate(&[&ip.to_string()]);
    assert_echo(&activated.connect(), "port 80");
}

fn an_idle_program_ends_with_exit_code_0(program: Program) {
    let backend = Backend::echo();
    let mut activated = program.activate(&["--exit-idle-time=2s", &backend.to_string()]);
    let client = activated.connect();
    assert_echo(&client, "hello");
    drop(client);
    assert_eq!(activated.process.wait().code(), Some(0));
}

fn a_time_span_may_have_several_parts(program: Program) {
    let backend = Backend::echo();
    for span in ["5min 30s", "infinity", "90"] {
        let activated =
            program.activate(&["-c", "5", "--exit-idle-time", span, &backend.to_string()]);
        assert_echo(&activated.connect(), "hello");
    }
}

fn help_and_version_are_printed(program: Program) {
    for (option, mentions) in [
        ("-h", "TARGET"),
        ("--help", "--connections-max"),
        ("--version", " "),
    ] {
        let output = program.run_to_the_end(&[option]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        // systemd's calls it HOST:PORT and SOCKET.
        let is_there = text.contains(mentions) || mentions == "TARGET" && text.contains("SOCKET");
        assert!(is_there, "{option}: {text}");
    }
}

fn what_cannot_be_run_is_a_failure(program: Program) {
    for words in [
        &[][..],
        &["a:1", "b:1"],
        &["-c", "0", "a:1"],
        &["--exit-idle-time=soon", "a:1"],
        // Nothing is passed.
        &["127.0.0.1:1"],
    ] {
        let output = program.run_to_the_end(words);
        assert!(!output.status.success(), "{words:?}: {output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!text.is_empty(), "{words:?}");
    }
}

// --- what only ours does ------------------------------------------------------------------------

common::for_each_engine!(
    an_ipv6_literal_is_taken_for_what_it_is,
    a_name_is_looked_up_as_the_system_does,
    the_proxy_protocol_names_the_client,
    connections_are_not_refused_below_the_limit,
    the_subcommand_is_the_same_program,
    who_waits_for_an_answer_keeps_its_place_while_there_are_others,
);

fn ours(engine: Engine, words: &[&str]) -> Activated {
    Program::Ours(engine).activate(words)
}

fn an_ipv6_literal_is_taken_for_what_it_is(engine: Engine) {
    let backend = match Backend::scripted_on("::1".parse().unwrap(), |c| c.echo()) {
        Ok(backend) => backend,
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => return,
        Err(error) => panic!("{error}"),
    };
    let activated = ours(engine, &[&format!("[::1]:{}", backend.port())]);
    assert_echo(&activated.connect(), "over IPv6");
}

fn a_name_is_looked_up_as_the_system_does(engine: Engine) {
    let backend = Backend::echo();
    let activated = ours(engine, &[&format!("localhost:{}", backend.port())]);
    assert_echo(&activated.connect(), "by name");
}

fn the_proxy_protocol_names_the_client(engine: Engine) {
    let backend = Backend::echo();
    let activated = ours(engine, &["--proxy-protocol=v1", &backend.to_string()]);
    let client = TcpStream::connect(activated.address).unwrap();
    client.set_read_timeout(Some(common::GUARD)).unwrap();
    let (from, to) = (client.local_addr().unwrap(), activated.address);
    let expected = format!(
        "PROXY TCP4 {} {} {} {}\r\n",
        from.ip(),
        to.ip(),
        from.port(),
        to.port()
    );
    let mut told = vec![0; expected.len()];
    (&client).read_exact(&mut told).unwrap();
    assert_eq!(String::from_utf8(told).unwrap(), expected);
    let unix = connect(&activated.path).unwrap();
    assert_eq!(receive_exact(&unix, 15), b"PROXY UNKNOWN\r\n");
}

/// Several workers share the limit, and none may keep a part of it to itself.
fn connections_are_not_refused_below_the_limit(engine: Engine) {
    const MAX: usize = 20;
    let backend = Backend::echo();
    for _ in 0..3 {
        let activated = ours(engine, &["-c", &MAX.to_string(), &backend.to_string()]);
        let clients: Vec<_> = (0..MAX).map(|_| activated.connect()).collect();
        for client in &clients {
            assert_echo(client, "hello");
        }
    }
}

/// TCP does not tell a client that waits from one that is gone, so one that waits is ended only for the sake of
/// others.
fn who_waits_for_an_answer_keeps_its_place_while_there_are_others(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        conversation.keep_until_eof()?;
        conversation.wait_for_release()?;
        conversation.send(b"an answer that took its time")
    });
    let activated = ours(engine, &["-c", "8", &backend.to_string()]);
    let clients: Vec<_> = (0..4).map(|_| activated.connect()).collect();
    for client in &clients {
        send(client, b"question");
        client.shutdown(Shutdown::Write).unwrap();
    }
    // Longer than places are kept for who may be gone when they are wanted.
    meanwhile(Duration::from_secs(4), || {
        clients.iter().for_each(assert_waiting);
    });
    backend.release(4);
    for client in &clients {
        assert_eq!(receive_to_eof(client), b"an answer that took its time");
    }
}

fn the_subcommand_is_the_same_program(engine: Engine) {
    let (backend, address) = (Backend::echo(), tcp_listener().1);
    let (engine, to) = (engine.to_string(), backend.to_string());
    let words = ["socket-proxyd", "--engine", &engine, "-c", "5", &to];
    let _process = socket_activate(&[&address.to_string()], None, SPLICEWAY, &words);
    assert_echo(&connect_tcp(address), "hello");
}

#[test]
fn help_says_what_can_be_told() {
    let output = Command::new(SPLICEWAY)
        .args(["socket-proxyd", "--help"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for word in [
        "--connections-max",
        "--exit-idle-time",
        "--proxy-protocol",
        "TARGET",
    ] {
        assert!(text.contains(word), "{text}");
    }
}
