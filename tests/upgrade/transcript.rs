//! What two daemons of this version say to each other, as it was written down: later ones must understand it, and be
//! understood.

use std::collections::BTreeSet;
use std::fs;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::activation::wait_until_ready;
use crate::common::client::{
    assert_waiting, exchange_and_end, receive_exact, receive_to_eof, send,
};
use crate::common::proxy::fresh_dir;
use crate::common::sys::ChildSetup;
use crate::common::{Backend, Engine, KB, Pattern, Process, SPLICEWAY, eventually};
use crate::peer::Line;
use crate::stage::{Daemon, route, wait_for_end};

const PREDECESSOR: &str = include_str!("transcript/predecessor.json");
const SUCCESSOR: &str = include_str!("transcript/successor.json");

/// What was written down of one side, with these words in place of what differs.
fn transcript(text: &str, words: &[(&str, &str)]) -> Vec<Value> {
    let mut text = text.to_owned();
    for (word, value) in words {
        text = text.replace(word, value);
    }
    serde_json::from_str(&text).unwrap()
}

/// The first message of this type.
#[track_caller]
fn of_type<'a>(messages: &'a [Value], name: &str) -> &'a Value {
    let mut all = messages.iter();
    all.find(|message| message["type"] == name).unwrap()
}

/// Every field that there is, with those of objects within.
fn fields(of: &Value, within: &str, all: &mut BTreeSet<String>) {
    match of {
        Value::Object(object) => {
            for (key, value) in object {
                let name = format!("{within}.{key}");
                fields(value, &name, all);
                all.insert(name);
            }
        }
        Value::Array(array) => array.iter().for_each(|value| fields(value, within, all)),
        _ => {}
    }
}

/// What a later version may add to everything.
fn with_more(message: &Value) -> Value {
    let mut message = message.clone();
    message["later"] = json!({"and": ["more"]});
    message
}

pub(crate) fn a_successor_of_this_version_is_understood(engine: Engine) {
    let echo = Backend::echo();
    let limit = "per-endpoint-max = 2";
    let daemon = Daemon::start_with(engine, "", &route("a", &echo, limit));
    daemon.done(&["weight", "a", &echo.address().to_string(), "7"]);
    let old = daemon.connect("a.sock");
    send(&old, b"x");
    assert_eq!(receive_exact(&old, 1), b"x");
    let said = transcript(SUCCESSOR, &[]);
    let line = Line::to(&daemon.control());
    line.say(&with_more(of_type(&said, "hello")));
    let offered = line.hear_until("offered");
    line.say(&json!({"type": "later"}));
    line.say(&with_more(of_type(&said, "ready")));
    let yielded = line.hear_until("yours");
    // It says what was written down, and may say more.
    let backend = echo.address().to_string();
    let written = transcript(PREDECESSOR, &[("{backend}", &backend)]);
    let heard: Vec<_> = offered
        .iter()
        .chain(&yielded)
        .map(|(said, _)| said.clone())
        .collect();
    for name in ["hello", "socket", "route", "offered", "held", "yours"] {
        let (mut expected, mut found) = (BTreeSet::new(), BTreeSet::new());
        fields(of_type(&written, name), name, &mut expected);
        fields(of_type(&heard, name), name, &mut found);
        assert!(
            found.is_superset(&expected),
            "{name}: {found:?}, {expected:?}"
        );
    }
    for name in ["route", "held"] {
        assert_eq!(of_type(&heard, name), of_type(&written, name));
    }
    // The sockets are the successor's.
    let is_of_clients = |said: &Value| said["type"] == "socket" && said["purpose"] == "clients";
    let mut offered = offered.into_iter();
    let (_, socket) = offered.find(|(said, _)| is_of_clients(said)).unwrap();
    let listener = UnixListener::from(socket.unwrap());
    listener.set_nonblocking(false).unwrap();
    let mut client = daemon.connect("a.sock");
    assert_waiting(&client);
    line.say(&with_more(of_type(&said, "serving")));
    line.hear_until("relieved");
    let (accepted, _) = listener.accept().unwrap();
    send(&accepted, b"from the successor");
    accepted.shutdown(Shutdown::Both).unwrap();
    assert_eq!(receive_to_eof(&client), b"from the successor");
    client = old;
    send(&client, b"y");
    assert_eq!(receive_exact(&client, 1), b"y");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(receive_to_eof(&client), b"");
    wait_for_end(daemon.first().pid());
    assert!(daemon.socket("a.sock").exists(), "it is the successor's");
}

pub(crate) fn another_protocol_is_refused_with_its_line(engine: Engine) {
    let echo = Backend::echo();
    let daemon = Daemon::start_with(engine, "", &route("a", &echo, ""));
    let line = Line::to(&daemon.control());
    let mut hello = of_type(&transcript(SUCCESSOR, &[]), "hello").clone();
    hello["schema"] = json!(2);
    line.say(&hello);
    let refusal = line.refusal();
    assert!(
        refusal.contains("speaks version 1 of this and not 2"),
        "{refusal}"
    );
    exchange_and_end(&daemon.connect("a.sock"), Pattern::new(1), KB);
}

/// A predecessor's socket, of which it says which file it has.
fn with_file(message: &Value, path: &Path) -> Value {
    let found = fs::metadata(path).unwrap();
    let mut message = with_more(message);
    let file = &mut message["file"];
    file["device"] = json!(found.dev());
    file["inode"] = json!(found.ino());
    file["mode"] = json!(found.mode() & 0o777);
    file["user"] = json!(found.uid());
    file["group"] = json!(found.gid());
    message
}

pub(crate) fn a_predecessor_of_this_version_is_understood(engine: Engine) {
    let echo = Backend::echo();
    let dir = fresh_dir();
    let path = |name: &str| dir.path().join(name);
    let (clients, control) = (path("a.sock"), path("control.sock"));
    let listener = UnixListener::bind(&clients).unwrap();
    let control_listener = UnixListener::bind(&control).unwrap();
    let text = format!(
        "control = \"{}\"\nworkers = 1\n[route.a]\nlisten = \"unix:{}\"\nbackend = \"{echo}\"\nper-endpoint-max = 1\n\
         queue-max = 10\nqueue-timeout = \"60s\"\n",
        control.display(),
        clients.display()
    );
    fs::write(path("spliceway.toml"), text).unwrap();
    // Whoever comes before anybody serves waits, and is served.
    let early = UnixStream::connect(&clients).unwrap();
    let mut command = Command::new(SPLICEWAY);
    command
        .arg("run")
        .arg("--take-over")
        .arg(&control)
        .arg("--config");
    command
        .arg(path("spliceway.toml"))
        .args(["--engine", &engine.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let setup = ChildSetup {
        death_signal: libc::SIGKILL,
        ..ChildSetup::default()
    };
    let daemon = Process::start(command, setup);
    let (stream, _) = control_listener.accept().unwrap();
    let line = Line::of(stream);
    let dir_name = dir.path().display().to_string();
    let backend = echo.address().to_string();
    let said = transcript(
        PREDECESSOR,
        &[("{dir}", &dir_name), ("{backend}", &backend)],
    );
    assert_eq!(line.hear().unwrap().0["type"], "hello");
    line.say(&with_more(&said[0]));
    line.say_with(&with_file(&said[1], &clients), &listener);
    // What it does not know goes, with what came along.
    let (ours, theirs) = UnixStream::pair().unwrap();
    line.say_with(&json!({"type": "later"}), &theirs);
    drop(theirs);
    line.say_with(&with_file(&said[2], &control), &control_listener);
    line.say(&with_more(&said[3]));
    line.say(&with_more(&said[4]));
    let ready = line.hear_until("ready").pop().unwrap().0;
    assert_eq!(receive_to_eof(&ours), b"");
    assert_eq!(
        (&ready["takes"], &ready["clients"]),
        (&json!([0, 1]), &json!(true))
    );
    line.say(&with_more(&said[5]));
    line.say(&with_more(&said[6]));
    line.hear_until("serving");
    line.say(&with_more(&said[7]));
    wait_until_ready(&daemon);
    // The one permit is the predecessor's, so whoever comes waits: first the one whom the predecessor had.
    send(&early, b"early");
    let (handed_over, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    send(&handed_over, b"before");
    line.say_with(&said[8], &theirs.as_fd());
    drop(theirs);
    let status = || {
        let output = Command::new(SPLICEWAY)
            .args(["status", "--json", "--control"])
            .arg(&control)
            .output()
            .unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default()
    };
    eventually("both wait", || status()["routes"][0]["queue"]["depth"] == 2);
    assert_eq!(status()["routes"][0]["endpoints"][0]["weight"], 7);
    assert_waiting(&handed_over);
    line.say(&said[9]);
    assert_eq!(receive_exact(&handed_over, 6), b"before");
    assert_waiting(&early);
    handed_over.shutdown(Shutdown::Write).unwrap();
    assert_eq!(receive_exact(&early, 5), b"early");
    drop(early);
    // The end of the connection is that of the predecessor.
    drop(line);
    eventually("its end is heard of", || {
        daemon
            .log()
            .count("the daemon that was here before has ended")
            > 0
    });
    exchange_and_end(&UnixStream::connect(&clients).unwrap(), Pattern::new(1), KB);
    assert!(listener.as_raw_fd() >= 0);
}
