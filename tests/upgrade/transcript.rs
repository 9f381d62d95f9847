//! What two daemons of this version say to each other, as it was written down: later ones must understand it, from
//! either side, and what they add must not disturb this one.
//!
//! The files are frozen: what a later version says is a file of its own beside them.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use serde_json::{Value, json};

use crate::common::client::{
    assert_eof, assert_waiting, exchange, exchange_and_end, receive_to_eof,
};
use crate::common::fastcgi::{Client, Request, responder};
use crate::common::http::get_unix;
use crate::common::proxy::{connect, fresh_dir};
use crate::common::sys::adopt_orphans;
use crate::common::{Backend, Engine, KB, Pattern, eventually};
use crate::peer::Line;
use crate::stage::{Daemon, fastcgi, route, start_successor};

/// What one side says, in order.
struct Script(Vec<Value>);

impl Script {
    fn read(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/upgrade/transcript");
        let text = fs::read_to_string(folder.join(name)).unwrap();
        Self(serde_json::from_str(&text).unwrap())
    }

    /// Puts a value in where its name stands in braces, as the whole of a string or as a part of it.
    fn with(mut self, name: &str, value: &Value) -> Self {
        self.0
            .iter_mut()
            .for_each(|message| put(message, name, value));
        self
    }

    /// The next message, which is of this type.
    fn next(&mut self, kind: &str) -> Value {
        let next = self.0.remove(0);
        assert_eq!(next["type"], kind);
        next
    }
}

fn put(into: &mut Value, name: &str, value: &Value) {
    match into {
        Value::String(text) if *text == name => *into = value.clone(),
        Value::String(text) => {
            if let Value::String(value) = value {
                *text = text.replace(name, value);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|into| put(into, name, value)),
        Value::Object(fields) => fields.values_mut().for_each(|into| put(into, name, value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Says it as a later version may: with a field more, and behind something that is not known. Only a predecessor sends
/// descriptors.
fn say_with_additions(line: &Line, message: Value, descriptor: Option<&dyn AsFd>) {
    let unknown = json!({"type": "farewell", "why": [1]});
    match descriptor {
        Some(descriptor) => line.say_with(&unknown, &descriptor.as_fd()),
        None => line.say(&unknown),
    }
    line.say(&json!({"type": "greeting"}));
    say_with_a_field(line, message);
}

/// As `hello` is: it is the first message.
fn say_with_a_field(line: &Line, mut message: Value) {
    message["mood"] = json!({"is": "good"});
    line.say(&message);
}

/// The fields of a message, which are all that it may have: more would be no harm, but is another version's.
#[track_caller]
fn assert_fields(message: &Value, fields: &[&str]) {
    let mut found: Vec<_> = message.as_object().unwrap().keys().collect();
    found.sort();
    let mut expected = fields.to_vec();
    expected.sort_unstable();
    assert_eq!(found, expected, "{message}");
}

pub(crate) fn a_daemon_understands_a_successor_of_this_version(engine: Engine) {
    let (echo, held) = (Backend::echo(), Backend::hold());
    let routes = [
        route(
            "raw",
            &held,
            "per-endpoint-max = 1\nqueue-timeout = \"60s\"",
        ),
        fastcgi("php", &echo, ""),
    ];
    let daemon = Daemon::start(engine, &routes.concat());
    let served = daemon.connect_listening("raw.sock");
    held.wait_until("it is served", |ledger| ledger.open == 1);
    let waiting = daemon.connect_listening("raw.sock");
    eventually("it waits", || daemon.waiting("raw") == 1);
    let mut script = Script::read("successor.json");
    let line = Line::to(&daemon.control());
    say_with_a_field(&line, script.next("hello"));
    let offered = line.hear_until("offered");
    let kinds: Vec<_> = offered
        .iter()
        .map(|(said, _)| said["type"].clone())
        .collect();
    let sockets = ["socket"; 4];
    let expected = [&["hello"], &sockets[..], &["route"; 2], &["offered"]].concat();
    assert_eq!(kinds, expected);
    assert_fields(&offered[0].0, &["type", "schema", "version", "pid"]);
    let socket = &offered[1].0;
    assert_fields(socket, &["type", "number", "purpose", "place", "file"]);
    let of_file = ["device", "inode", "mode", "user", "group"];
    assert_fields(&socket["file"], &of_file);
    let purposes: Vec<_> = offered[1..5]
        .iter()
        .map(|(s, _)| s["purpose"].clone())
        .collect();
    assert_eq!(purposes, ["clients", "clients", "control", "metrics"]);
    assert_fields(&offered[5].0, &["type", "route", "endpoints", "by_hand"]);
    let endpoint = &offered[5].0["endpoints"][0];
    assert_fields(endpoint, &["address", "priority", "weight"]);
    assert_eq!(
        endpoint["address"],
        json!({"tcp": held.address().to_string()})
    );

    say_with_additions(&line, script.next("ready"), None);
    let yielded = line.hear_until("yours");
    let (kept, _) = yielded
        .iter()
        .find(|(said, _)| said["type"] == "held")
        .unwrap();
    assert_fields(kept, &["type", "route", "of_others", "endpoints"]);
    say_with_additions(&line, script.next("serving"), None);
    line.hear_until("relieved");
    let client = line.hear_until("client").pop().unwrap();
    assert_fields(&client.0, &["type", "route", "place"]);
    assert_eq!(client.0["route"], "raw");
    // It is the one that waited.
    drop(client);
    assert_eof(&waiting);
    held.release(1);
    assert_eq!(receive_to_eof(&served), b"done");
    // Then it has nothing more to say.
    while line.hear().is_some() {}
}

pub(crate) fn a_successor_understands_a_daemon_of_this_version(engine: Engine) {
    adopt_orphans().unwrap();
    let (one, two) = (Backend::echo(), Backend::echo());
    // Its place is taken by the test, which is then the daemon of before.
    let dir = fresh_dir();
    let (socket, control) = (dir.path().join("raw.sock"), dir.path().join("control.sock"));
    let listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o660)).unwrap();
    let file = fs::metadata(&socket).unwrap();
    let controlling = UnixListener::bind(&control).unwrap();
    let place: Vec<u8> = socket.as_os_str().as_encoded_bytes().to_vec();
    let anything = File::open("/dev/null").unwrap();
    let mut script = Script::read("predecessor.json")
        .with("{device}", &file.dev().into())
        .with("{inode}", &file.ino().into())
        .with("{user}", &file.uid().into())
        .with("{group}", &file.gid().into())
        .with("{one}", &one.address().to_string().into())
        .with("{two}", &two.address().to_string().into())
        .with("{place}", &place.into())
        .with("{dir}", &dir.path().display().to_string().into());
    let toml = format!(
        "exit-idle-time = \"10m\"\n[route.raw]\nlisten = \"unix:{}\"\nbackend = [\"{one}\", \"{two}\"]\n\
        per-endpoint-max = 2\nqueue-timeout = \"60s\"\n",
        socket.display()
    );
    fs::write(dir.path().join("f.toml"), toml).unwrap();
    let new_control = dir.path().join("new.sock");
    let successor = start_successor(engine, &control, &dir.path().join("f.toml"), &new_control);
    let line = Line::of(controlling.accept().unwrap().0);

    let hello = line.hear().unwrap().0;
    assert_fields(&hello, &["type", "schema", "version", "pid"]);
    assert_eq!(
        (&hello["schema"], &hello["pid"]),
        (&json!(1), &json!(successor.pid()))
    );
    say_with_a_field(&line, script.next("hello"));
    line.say_with(&script.next("socket"), &listener);
    say_with_additions(&line, script.next("route"), Some(&anything));
    say_with_additions(&line, script.next("offered"), Some(&anything));
    let ready = line.hear().unwrap().0;
    let expected = json!({"type": "ready", "takes": [0], "clients": ["raw"]});
    assert_eq!(ready, expected);
    // One is accepted before, and one waits in the backlog.
    let waiting = connect(&socket).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let in_the_backlog = connect(&socket).unwrap();
    say_with_additions(&line, script.next("held"), Some(&anything));
    say_with_additions(&line, script.next("yours"), Some(&anything));
    assert_eq!(line.hear().unwrap().0, json!({"type": "serving"}));
    say_with_additions(&line, script.next("relieved"), Some(&anything));
    accepted.set_nonblocking(true).unwrap();
    line.say_with(&script.next("client"), &accepted);
    drop(accepted);
    successor.wait_for_log("ready");
    // All places are the other's.
    let status = || {
        let answer = get_unix(&new_control, "/status").body;
        serde_json::from_str::<Value>(&answer).unwrap()
    };
    eventually("both wait", || status()["routes"][0]["queue"]["depth"] == 2);
    assert_waiting(&waiting);
    let endpoints = status()["routes"][0]["endpoints"].clone();
    let drained = endpoints
        .as_array()
        .unwrap()
        .iter()
        .find(|e| e["drained"] == true);
    assert_eq!(drained.unwrap()["address"], one.address().to_string());
    say_with_additions(&line, script.next("held"), Some(&anything));
    exchange(&waiting, Pattern::new(1), KB);
    exchange_and_end(&in_the_backlog, Pattern::new(2), KB);
    exchange_and_end(&waiting, Pattern::new(3), KB);
    drop((line, listener));
    successor.wait_for_log("the daemon that was here before has ended");
    exchange_and_end(&connect(&socket).unwrap(), Pattern::new(4), KB);
    assert_eq!(one.ledger().accepted, 0);
}

/// Bytes as they are in messages.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One to which what was read means something has half a head; one of before has that client later, or never.
pub(crate) fn a_daemon_gives_what_was_read_to_who_takes_it(engine: Engine) {
    for (script, takes_read) in [("successor.json", false), ("successor-reads.json", true)] {
        let pages = responder();
        let routes = [
            route("raw", &Backend::echo(), ""),
            fastcgi("php", &pages, ""),
        ];
        let daemon = Daemon::start(engine, &routes.concat());
        let bytes = Request::get("/half").bytes();
        let (half, rest) = bytes.split_at(21);
        let client = daemon.client("php.sock");
        client.send(half);
        // The workers have read from it then.
        for _ in 0..2 {
            let other = daemon.client("php.sock");
            assert_eq!(
                other.ask(&Request::get("/other").closing()).text(),
                "/other"
            );
        }
        let mut script = Script::read(script);
        let line = Line::to(&daemon.control());
        line.say(&script.next("hello"));
        line.hear_until("offered");
        line.say(&script.next("ready"));
        line.hear_until("yours");
        line.say(&script.next("serving"));
        line.hear_until("relieved");
        if takes_read {
            let (said, connection) = line.hear_until("client").pop().unwrap();
            assert_fields(&said, &["type", "route", "place", "read"]);
            assert_eq!(said["read"], hex(half));
            client.send(rest);
            let mut connection = UnixStream::from(connection.unwrap());
            let mut received = vec![0; rest.len()];
            connection.set_nonblocking(false).unwrap();
            connection.read_exact(&mut received).unwrap();
            assert_eq!(received, rest);
        } else {
            client.send(rest);
            assert_eq!(client.answer().text(), "/half");
            let (said, _) = line.hear_until("client").pop().unwrap();
            assert_fields(&said, &["type", "route", "place"]);
        }
        drop(client);
    }
}

pub(crate) fn a_successor_begins_with_what_was_read(engine: Engine) {
    adopt_orphans().unwrap();
    let pages = responder();
    let dir = fresh_dir();
    let control = dir.path().join("control.sock");
    let controlling = UnixListener::bind(&control).unwrap();
    let bytes = Request::get("/half").bytes();
    let (half, rest) = bytes.split_at(21);
    let mut script = Script::read("predecessor-reads.json").with("{read}", &hex(half).into());
    let toml = format!(
        "exit-idle-time = \"10m\"\n[route.php]\nprotocol = \"fastcgi\"\nguard = \"off\"\n\
        listen = \"unix:{}\"\nbackend = \"{pages}\"\n",
        dir.path().join("php.sock").display()
    );
    fs::write(dir.path().join("f.toml"), toml).unwrap();
    let new_control = dir.path().join("new.sock");
    let successor = start_successor(engine, &control, &dir.path().join("f.toml"), &new_control);
    let line = Line::of(controlling.accept().unwrap().0);
    assert_eq!(line.hear().unwrap().0["type"], "hello");
    line.say(&script.next("hello"));
    line.say(&script.next("offered"));
    assert_eq!(line.hear().unwrap().0["reads"], json!(["php"]));
    line.say(&script.next("yours"));
    line.hear_until("serving");
    line.say(&script.next("relieved"));
    let (client, ours) = UnixStream::pair().unwrap();
    line.say_with(&script.next("client"), &ours);
    drop(ours);
    let client = Client(client);
    client.send(rest);
    assert_eq!(client.answer().text(), "/half");
    drop((line, client));
    successor.wait_for_log("the daemon that was here before has ended");
}

/// With a line on both sides.
pub(crate) fn another_protocol_is_refused(engine: Engine) {
    let echo = Backend::echo();
    let daemon = Daemon::start(engine, &route("raw", &echo, ""));
    let line = Line::to(&daemon.control());
    line.say(&json!({"type": "hello", "schema": 2, "version": "9.0.0", "pid": 4712}));
    assert!(
        line.refusal()
            .contains("speaks version 1 of this and not 2 (restart instead)")
    );
    let log = daemon.log();
    log.wait_for("the reason", |line| {
        line.contains("version 9.0.0, which speaks version 2 of this and not 1")
    });
    exchange_and_end(&daemon.connect("raw.sock"), Pattern::new(1), KB);

    let (dir, hello) = (
        fresh_dir(),
        json!({"type": "hello", "schema": 2, "version": "9.0.0", "pid": 1}),
    );
    let control = dir.path().join("control.sock");
    let controlling = UnixListener::bind(&control).unwrap();
    let mut successor = daemon.successor_of(&control);
    let line = Line::of(controlling.accept().unwrap().0);
    assert_eq!(line.hear().unwrap().0["type"], "hello");
    line.say(&hello);
    assert_eq!(successor.wait().code(), Some(1));
    let said = "it speaks another version of this, 2, and this is 1 (restart instead)";
    assert_eq!(successor.log().count(said), 1);
}
