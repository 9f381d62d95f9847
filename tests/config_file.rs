//! Configuration files that are wrong, each with the line that is said about it, and `spliceway check`.
//!
//! What right files mean has its tests beside the code (`src/cli/file/tests.rs`).

// For the helpers beside the tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::client::exchange_and_end;
use common::name_server::Dead;
use common::proxy::{connect, fresh_dir};
use common::{Backend, Engine, KB, NameServer, Pattern, Proxy, for_each_engine};
use spliceway::cli::{self, Stop};
use tempfile::TempDir;

for_each_engine!(a_file_starts_the_daemon, each_route_has_its_own_backend);

/// A file, and the lines that are said about it, without its path in front.
type Wrong<'a> = (&'a str, &'a [&'a str]);

const ROUTE: &str = "[route.a]\nlisten = \"unix:/a\"\nbackend = \"b:1\"\n";

/// What comes after the lines of [`ROUTE`]: the first one is line 4.
#[rustfmt::skip]
const WRONG_IN_A_ROUTE: &[Wrong<'static>] = &[
    // Keys.
    ("conect-timeout = \"5s\"", &["4: route a: conect-timeout: unknown key (did you mean connect-timeout?)"]),
    ("connect_timeout = \"5s\"", &["4: route a: connect_timeout: unknown key (did you mean connect-timeout?)"]),
    ("balence = 1\nmod = 2", &[
        "4: route a: balence: unknown key (did you mean balance?)",
        "5: route a: mod: unknown key (did you mean mode?)",
    ]),
    ("zzz = 1", &["4: route a: zzz: unknown key (remove it; 'spliceway run --help' lists the options)"]),
    ("workers = 2", &["4: route a: workers: belongs at the top level (move it above the first [table])"]),
    ("wrkers = 2", &["4: route a: wrkers: unknown key (did you mean workers, at the top level?)"]),
    ("config = \"f\"", &["4: route a: config: unknown key (remove it; 'spliceway run --help' lists the options)"]),
    ("[route.a.limits]\nqueue-max = 1", &["4: route a: limits: unknown table (the keys stand in the table itself)"]),
    ("[[route.a.listener]]", &["4: route a: listener: unknown key (did you mean listen?)"]),
    // Types.
    ("connect-timeout = 5", &["4: route a: connect-timeout = 5: expected a string, found an integer (give it a unit and quotes, for example \"5s\")"]),
    ("idle-timeout = false", &["4: route a: idle-timeout = false: expected a string, found a boolean (write \"off\", or a value)"]),
    ("mode = 660", &["4: route a: mode = 660: expected a string, found an integer (write it in quotes: \"660\")"]),
    ("mode = 0o660", &["4: route a: mode = 0o660: expected a string, found an integer (write it in quotes: \"0o660\")"]),
    ("mode = 0660", &["4: mode = 0660: unexpected leading zero (write the mode in quotes, for example \"0660\")"]),
    ("owner = 33", &["4: route a: owner = 33: expected a string, found an integer (write it in quotes: \"33\")"]),
    ("balance = [\"first\"]", &["4: route a: balance = [\"first\"]: expected a string, found an array (write one value in quotes)"]),
    ("queue-max = 1.5", &["4: route a: queue-max = 1.5: expected a whole number, found a fraction (write for example 8)"]),
    ("queue-max = [1]", &["4: route a: queue-max = [1]: expected a whole number, found an array (write for example 8)"]),
    ("per-endpoint-max = false", &["4: route a: per-endpoint-max = false: expected a whole number, \"auto\" or \"off\", found a boolean (write \"off\", or a value)"]),
    ("check-interval = 07:32:00", &["4: route a: check-interval = 07:32:00: expected a string, found a date or time (write a number and its unit in quotes, for example \"5s\")"]),
    ("nameserver = []", &["4: route a: nameserver = []: an empty array (write at least one value, or remove the key)"]),
    ("nameserver = [\n  \"::1\",\n  53,\n]", &["6: route a: nameserver = 53: not an address (write ADDRESS or ADDRESS:PORT, for example 192.0.2.53 or [::1]:5353)"]),
    ("balance = {}", &["4: route a: balance = {}: expected a string, found a table (write one value in quotes)"]),
    // Values, refused by the options' parsers.
    ("connect-timeout = \"5\"", &["4: route a: connect-timeout = \"5\": time unit needed, for example 5sec or 5ms (write a number and its unit, for example 500ms or 5s)"]),
    ("connect-timeout = \"0s\"", &["4: route a: connect-timeout = \"0s\": no time at all (write a longer one, for example 5s)"]),
    ("balance = \"fair\"", &["4: route a: balance = \"fair\": unknown (write least-connections, round-robin, random-two, first)"]),
    ("mode = \"0689\"", &["4: route a: mode = \"0689\": not an octal mode (write three octal digits, for example 0660)"]),
    ("queue-max = -1", &["4: route a: queue-max = -1: not a whole number from 0 to 1000000"]),
    ("shards = \"two\"", &["4: route a: shards = \"two\": not a whole number from 1 to 1024"]),
    ("per-endpoint-max = 99999999999999999999", &["4: route a: per-endpoint-max = 99999999999999999999: not a whole number from 1 to 1000000"]),
    ("group = \"a:b\"", &["4: route a: group = \"a:b\": one name is expected (write it without a colon)"]),
    ("removed-endpoint = \"close-after\"", &["4: route a: invalid value 'close-after' for 'removed-endpoint': the time is missing (write for example close-after 30s)"]),
    ("removed-endpoint = \"\"", &["4: route a: removed-endpoint = \"\": the value is missing"]),
    ("source-address = [\"192.0.2.1\", \"host\"]", &["4: route a: source-address = \"host\": not an address (write an IP address without a port, for example 192.0.2.10)"]),
    ("owner = \"a\\nb\"", &["4: route a: owner = \"a\\nb\": not the name of an account (write a name or a number)"]),
    // Values that don't go together.
    ("dns-max-ttl = \"5s\"\ndns-min-ttl = \"9s\"", &["5: route a: dns-min-ttl 9s: longer than dns-max-ttl 5s (exchange them, or give both)"]),
    ("shards = 2", &["4: route a: shards 2 without per-endpoint-max: all worker threads serve a route that has no limit (remove shards or give per-endpoint-max)"]),
    ("per-endpoint-max = 2\nshards = 3", &["5: route a: shards 3 with per-endpoint-max 2: each shard needs a connection of its own (use at most 2 shards)"]),
    ("nameserver = \"192.0.2.53\"\nresolve-with = \"system\"", &["4: route a: nameserver 192.0.2.53:53 with resolve-with system: the C library asks those in /etc/resolv.conf (remove one of the two)"]),
    ("source-address = [\"192.0.2.1\", \"192.0.2.2\"]", &["4: route a: source-address 192.0.2.2: the second one of its family (give at most one for IPv4 and one for IPv6)"]),
    ("settle-timeout = \"5ms\"", &["4: route a: settle-timeout without protocol fastcgi: nothing of that is read (remove it, or give protocol fastcgi)"]),
    ("protocol = \"fastcgi\"\nproxy-protocol = \"v1\"", &["5: route a: proxy-protocol with protocol fastcgi: a FastCGI server takes the header for a broken record (remove one of the two)"]),
    ("protocol = \"fastcgi\"\nguard = \"off\"\ndeny-param = \"A\"", &["6: route a: deny-param with guard off: nothing is checked (remove one of the two)"]),
    // Who may connect, what FastCGI is told, and what is passed.
    ("connections-max-per-user = 0", &["4: route a: connections-max-per-user = 0: not a whole number from 1 to 1000000"]),
    ("allow-user = 33", &["4: route a: allow-user = 33: expected a string, or an array of strings, found an integer (write it in quotes: \"33\")"]),
    ("allow-group = [\n  \"www-data\",\n  \"a b\",\n]", &["6: route a: allow-group = \"a b\": not the name of an account (write a name or a number)"]),
    ("alow-user = \"nginx\"", &["4: route a: alow-user: unknown key (did you mean allow-user?)"]),
    ("user = \"nobody\"", &["4: route a: user: belongs at the top level (move it above the first [table])"]),
    ("protocol = \"fcgi\"", &["4: route a: protocol = \"fcgi\": unknown (write raw, fastcgi)"]),
    ("protocol = \"fastcgi\"\nparams-max = 16384", &["5: route a: params-max = 16384: expected a string, found an integer (write it in quotes: \"16384\")"]),
    ("protocol = \"fastcgi\"\nallow-param = \"A\"", &["5: route a: allow-param = \"A\": not a name and a value (write NAME=VALUE)"]),
    ("protocol = \"fastcgi\"\nroles = [\"responder\", \"filtre\"]", &["5: route a: roles = \"filtre\": unknown (write responder, authorizer, filter)"]),
    ("[route.b]\nbackend = \"b:1\"\nlisten = \"inherit:\"", &["6: route b: listen = \"inherit:\": not the name of a passed descriptor (write inherit:NAME with the FileDescriptorName= of the socket unit, or inherit for all)"]),
    ("[route.b]\nbackend = \"b:1\"\nlisten = [\"inherit\", \"inherit:web\"]", &["6: route b: listen inherit with listen inherit:web: inherit takes all descriptors (remove one of the two)"]),
    ("[route.b]\nlisten = \"inherit\"\nbackend = \"b:1\"\n[route.c]\nlisten = \"inherit:web\"\nbackend = \"b:1\"", &["8: route c: listen inherit:web: route b listens there as well (give each route a socket of its own)"]),
    // Other routes.
    ("[route.a]", &["4: [route.a]: duplicate key (remove one)"]),
    ("[route.\"a b\"]", &["4: route a b: ' ' cannot be in the name of a route (use letters from a to z, digits, '_', '-' and '.')"]),
    ("[route.\"\"]", &["4: route : the name of the route is empty (write for example [route.php])"]),
    ("[route.b]\nbackend = \"b:1\"", &["4: route b: listen: missing (every route needs listen and backend)"]),
    ("[route.b]\nlistn = \"unix:/b\"\nbackend = \"b:1\"", &["5: route b: listn: unknown key (did you mean listen?)"]),
    ("[route.b]", &["4: route b: listen and backend: missing (every route needs listen and backend)"]),
    ("[route.b]\nbackend = \"b:1\"\nlisten = \"unix:/a\"", &["6: route b: listen unix:/a: route a listens there as well (give each route a socket of its own)"]),
    ("[route.b]\nbackend = \"b:1\"\nlisten = [\n  \"unix:/b\",\n  \"unix:/.//a\",\n]", &["8: route b: listen unix:/.//a: route a listens there as well (give each route a socket of its own)"]),
    ("[route.b]\nbackend = \"b:1\"\nlisten = [\"unix:/b\", \"unix://b\"]", &["6: route b: listen unix://b: given twice (remove one)"]),
    ("[route.b]\nbackend = \"b:1\"\nlisten = \"unix:@b\"\nmode = \"0600\"", &["7: route b: mode with listen unix:@b: abstract sockets have no permissions (remove mode or listen on unix:/PATH)"]),
    ("[route.b]\nbackend = \"b:1\"\nlisten = \"unix:@b\"\nwhen-down = \"refuse\"", &["7: route b: when-down refuse with listen unix:@b: an abstract socket has no path that it could be away from (use when-down close, or give this address a route of its own)"]),
    ("[route.b]\nbackend = \"b:1\"\nlisten = [\"unix:/b\", \"inherit:web\"]\nwhen-down = \"refuse\"", &["7: route b: when-down refuse with listen inherit:web: the socket is its unit's, and listens on (use when-down close, or give this address a route of its own)"]),
    // Defaults.
    ("[defaults]\nlisten = \"unix:/b\"", &["5: defaults: listen: belongs in a route (move it under [route.NAME]: no two can listen on one socket)"]),
    ("[defaults]\nqueue-max = true\n[route.b]\nlisten = \"unix:/b\"", &["5: defaults: queue-max = true: expected a whole number, found a boolean (write for example 8)"]),
    ("[defaults]\nshards = 2", &["5: route a: shards 2 without per-endpoint-max: all worker threads serve a route that has no limit (remove shards or give per-endpoint-max)"]),
    ("[defaults]\npin = true", &["5: defaults: pin: belongs at the top level (move it above the first [table])"]),
    // Other tables.
    ("[routes.b]", &["4: routes: unknown table (did you mean route?)"]),
    ("[php]\nlisten = \"unix:/b\"", &["4: php: unknown table (a route is written [route.NAME])"]),
];

/// What comes before [`ROUTE`].
#[rustfmt::skip]
const WRONG_AT_THE_TOP: &[Wrong<'static>] = &[
    ("wrkers = 2", &["1: wrkers: unknown key (did you mean workers?)"]),
    ("balance = \"first\"", &["1: balance: belongs in a route (move it under [route.NAME], or under [defaults])"]),
    ("balence = \"first\"", &["1: balence: unknown key (did you mean balance, in a route?)"]),
    ("pin = \"yes\"", &["1: pin = \"yes\": expected true or false, found a string (write true or false without quotes)"]),
    ("workers = 0", &["1: workers = 0: not a whole number from 1 to 1024"]),
    ("connections-max = 0", &["1: connections-max = 0: not a whole number from 1 to 1000000"]),
    ("user = 33", &["1: user = 33: expected a string, found an integer (write it in quotes: \"33\")"]),
    ("exit-idle-time = 300", &["1: exit-idle-time = 300: expected a string, found an integer (give it a unit and quotes, for example \"300s\")"]),
    ("exit-idle-tme = \"5m\"", &["1: exit-idle-tme: unknown key (did you mean exit-idle-time?)"]),
    ("control = \"c.sock\"", &["1: control = \"c.sock\": not a path for a socket (write it from the root, with at most 107 bytes, for example /run/spliceway/control.sock)"]),
    ("control = \"/a\"", &["1: control /a: route a listens there (choose another path)"]),
    ("metrics = \"9145\"", &["1: metrics = \"9145\": not an address (write IP:PORT, for example 127.0.0.1:9145 or [::1]:9145)"]),
    ("metrics = 9145", &["1: metrics = 9145: not an address (write IP:PORT, for example 127.0.0.1:9145 or [::1]:9145)"]),
    ("status-details = true", &["1: status-details without metrics: it is about the page of that address, and there is none (remove it, or give metrics; the control socket's page shows all of that)"]),
    ("log-level = \"inof\"", &["1: log-level = \"inof\": no level 'inof' (write off, error, warn, info, debug, trace or MODULE=LEVEL)"]),
    ("defaults = 1", &["1: defaults: expected a table, found an integer (write [defaults] and its keys)"]),
    // What is no TOML.
    ("workers", &["1: workers: key with no value, expected `=` (correct the line; the file is TOML)"]),
    ("workers = ", &["1: workers =: string values must be quoted, expected literal string (write it in quotes)"]),
    ("engine = epoll", &["1: engine = epoll: string values must be quoted, expected literal string (write it in quotes)"]),
    ("engine = \"epoll", &["1: engine = \"epoll: invalid basic string, expected `\"` (correct the line; the file is TOML)"]),
    ("workers = 1\nworkers = 2", &["2: workers = 2: duplicate key (remove one)"]),
    ("[defaults", &["1: [defaults: unclosed table, expected `]` (correct the line; the file is TOML)"]),
];

/// Whole files.
#[rustfmt::skip]
const WRONG_ALTOGETHER: &[Wrong<'static>] = &[
    ("", &[" no route (write for example [route.php] and its keys)"]),
    ("workers = 2", &[" no route (write for example [route.php] and its keys)"]),
    ("[route]", &[" no route (write for example [route.php] and its keys)"]),
    ("[[route]]\nlisten = \"unix:/a\"", &["1: route: expected a table, found an array (write for example [route.php] and its keys)"]),
    ("[route]\nlisten = \"unix:/a\"", &["2: listen: the route has no name (write for example [route.php])"]),
    ("[route]\nphp = 1", &["2: route php: expected a table, found an integer (write [route.php] and its keys)"]),
];

/// A file in a directory of its own.
struct Written {
    dir: TempDir,
}

impl Written {
    fn new(content: impl AsRef<[u8]>) -> Self {
        let written = Self { dir: fresh_dir() };
        fs::write(written.path(), content).unwrap();
        written
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("spliceway.toml")
    }

    /// What is said about the file, without its path in front.
    #[track_caller]
    fn refusal(&self) -> Vec<String> {
        let place = format!("{}:", self.path().display());
        let lines = refusal(&self.path()).into_iter();
        let without_path = |line: String| line.strip_prefix(&place).unwrap_or(&line).to_owned();
        lines.map(without_path).collect()
    }
}

impl Written {
    /// Nothing, if the file is taken.
    fn refusal_if_any(&self) -> Vec<String> {
        let path = self.path();
        let words = ["spliceway", "run", "--config", path.to_str().unwrap()];
        match cli::parse_from(words.map(OsString::from)) {
            Err(Stop::File(errors)) => errors.lines().map(str::to_owned).collect(),
            Ok(_) => Vec::new(),
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// What the program says about a file.
#[track_caller]
fn refusal(path: &Path) -> Vec<String> {
    let words = [
        OsString::from("spliceway"),
        "run".into(),
        "--config".into(),
        path.into(),
    ];
    match cli::parse_from(words) {
        Err(Stop::File(errors)) => errors.lines().map(str::to_owned).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_wrong_file_gets_its_lines() {
    let in_a_route = WRONG_IN_A_ROUTE.iter();
    let in_a_route = in_a_route.map(|(end, expected)| (format!("{ROUTE}{end}"), *expected));
    let at_the_top = WRONG_AT_THE_TOP.iter();
    let at_the_top = at_the_top.map(|(begin, expected)| (format!("{begin}\n{ROUTE}"), *expected));
    let altogether = WRONG_ALTOGETHER.iter();
    let altogether = altogether.map(|(file, expected)| ((*file).to_owned(), *expected));
    let mut others = String::new();
    for (file, expected) in in_a_route.chain(at_the_top).chain(altogether) {
        let said = Written::new(&file).refusal();
        if said != expected {
            others += &format!("{file}\nis refused with {said:#?}\nand not {expected:#?}\n\n");
        }
    }
    assert!(others.is_empty(), "{others}");
}

/// What a message advises, taken literally, leads to a file that is not refused for the same reason again.
#[test]
fn advice_that_is_taken_is_not_refused() {
    let in_a_route = WRONG_IN_A_ROUTE
        .iter()
        .map(|(end, said)| (format!("{ROUTE}{end}\n"), *said));
    let at_the_top = WRONG_AT_THE_TOP
        .iter()
        .map(|(begin, said)| (format!("{begin}\n{ROUTE}"), *said));
    let at_the_top_too = ADVISED_AT_THE_TOP
        .iter()
        .map(|(begin, said)| (format!("{begin}\n{ROUTE}"), *said));
    let (mut taken, mut useless) = (0, String::new());
    for (file, said) in in_a_route.chain(at_the_top).chain(at_the_top_too) {
        for message in said {
            for mended in advised(&file, message) {
                taken += 1;
                let then = Written::new(&mended).refusal_if_any();
                let cause = message.split_once(": ").unwrap().1;
                let is_same = |line: &String| {
                    line.contains(cause) || line.contains("belongs") || line.contains("unknown")
                };
                // Of a file with several mistakes, the others are left, as are the values of keys that were
                // named wrongly.
                let is_done = said.len() > 1 || then.is_empty() || IN_STEPS.contains(&said);
                let is_refused_again = then.iter().any(is_same) && said.len() == 1;
                if !is_done || is_refused_again {
                    useless += &format!("{file}\n{message}\nleads to\n{mended}\n{then:#?}\n\n");
                }
            }
        }
    }
    assert!(useless.is_empty(), "{useless}");
    assert!(taken > 60, "only {taken} pieces of advice are understood");
}

/// Of these files, more than one thing is wrong, and they are told one after the other.
const IN_STEPS: &[&[&str]] = &[
    &["6: route b: listen unix://b: given twice (remove one)"],
    &[
        "5: defaults: queue-max = true: expected a whole number, found a boolean (write for example 8)",
    ],
];

/// Keys at the top that belong elsewhere.
#[rustfmt::skip]
const ADVISED_AT_THE_TOP: &[Wrong<'static>] = &[
    ("listen = \"unix:/b\"", &["1: listen: belongs in a route (move it under [route.NAME])"]),
    ("mode = \"0600\"", &["1: mode: belongs in a route (move it under [route.NAME], or under [defaults])"]),
    ("backend = \"c:1\"", &["1: backend: belongs in a route (move it under [route.NAME], or under [defaults])"]),
];

/// The files that come of doing what the message says, where a program can: those in which values are wrong that
/// span lines, and those where something is to be thought of, are left.
fn advised(file: &str, message: &str) -> Vec<String> {
    let Some((number, message)) = message.split_once(": ") else {
        return Vec::new();
    };
    let Ok(number) = number.parse::<usize>() else {
        return Vec::new();
    };
    let lines: Vec<String> = file.lines().map(str::to_owned).collect();
    let line = lines[number - 1].clone();
    let (Some((key, _)), Some(begin)) = (line.split_once(" = "), message.rfind(" (")) else {
        return Vec::new();
    };
    let advice = message[begin + 2..].trim_end_matches(')');
    let with = |new: String| {
        let mut lines = lines.clone();
        lines[number - 1] = new;
        vec![lines.join("\n")]
    };
    let value = |value: &str| with(format!("{key} = {value}"));
    let without_it = || {
        let mut lines = lines.clone();
        lines.remove(number - 1);
        lines
    };
    let moved = |under: &str, line: &str| {
        let mut lines = without_it();
        // What a route has already is replaced.
        let key = line.split(' ').next().unwrap();
        lines.retain(|other| !other.starts_with(&format!("{key} = ")));
        let at = match under {
            "" => 0,
            header => match lines.iter().position(|line| line == header) {
                Some(at) => at + 1,
                None => {
                    lines.push(header.to_owned());
                    lines.len()
                }
            },
        };
        lines.insert(at, line.to_owned());
        lines.join("\n")
    };
    if let Some(rest) = advice.strip_prefix("did you mean ") {
        let meant = rest.split([',', '?']).next().unwrap();
        let renamed = line.replacen(key, meant, 1);
        return match rest {
            _ if rest.contains("at the top level") => vec![moved("", &renamed)],
            _ if rest.contains("in a route") => vec![moved("[route.a]", &renamed)],
            _ => with(renamed),
        };
    }
    if advice == "move it above the first [table]" {
        return vec![moved("", &line)];
    }
    if advice.starts_with("move it under [route.NAME]") {
        let mut all = Vec::new();
        if advice.ends_with("or under [defaults]") {
            let rest: Vec<_> = file.lines().filter(|other| **other != line).collect();
            all.push(format!("{}\n[defaults]\n{line}", rest.join("\n")));
        }
        all.push(moved("[route.a]", &line));
        return all;
    }
    if let Some(quoted) = advice.strip_prefix("write it in quotes: ") {
        return value(quoted);
    }
    if let Some(quoted) = advice.strip_prefix("give it a unit and quotes, for example ") {
        return value(quoted);
    }
    if advice == "write \"off\", or a value" {
        return value("\"off\"");
    }
    if advice == "write true or false without quotes" {
        return [value("true"), value("false")].concat();
    }
    if let Some(example) = advice.strip_prefix("write for example ") {
        // In a file, words are in quotes.
        return match example.contains(' ') {
            true => value(&format!("\"{example}\"")),
            false => value(example),
        };
    }
    if let Some((_, example)) = advice.split_once("for example ") {
        let all = example.split(" or ").map(|one| one.trim_matches('"'));
        return all.flat_map(|one| value(&format!("\"{one}\""))).collect();
    }
    if message.contains(": unknown (write ") {
        let all = advice.trim_start_matches("write ").split(", ");
        return all.flat_map(|one| value(&format!("\"{one}\""))).collect();
    }
    if advice.starts_with("remove it") || advice == "remove one" {
        return vec![without_it().join("\n")];
    }
    Vec::new()
}

#[test]
fn bytes_that_are_no_text_are_refused_with_their_line() {
    let expected = "2: not valid UTF-8 (save the file as UTF-8)";
    let file = Written::new(b"workers = 1\n# caf\xe9\n");
    assert_eq!(file.refusal(), [expected]);
}

#[test]
fn a_file_that_is_too_large_is_not_read_to_its_end() {
    let expected = " too large (use at most 4194304 bytes; is it a configuration file?)";
    let file = Written::new(vec![b'#'; cli::file::FILE_BYTES_MAX + 1]);
    assert_eq!(file.refusal(), [expected]);
    let endless = refusal(Path::new("/dev/zero"));
    assert_eq!(endless, [format!("/dev/zero:{expected}")]);
}

#[test]
fn a_name_that_is_too_long_is_quoted_in_part() {
    let file = Written::new(format!("[route.{}]", "x".repeat(300)));
    let expected = format!(
        "1: route {}…: 300 bytes are too long for the name of a route (use at most 64)",
        "x".repeat(80)
    );
    assert_eq!(file.refusal(), [expected]);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let dir = fresh_dir();
    let path = dir.path().join("none.toml");
    let expected = format!(
        "{}: cannot be read: No such file or directory (os error 2) (give the path of a file that \
         this user may read)",
        path.display()
    );
    assert_eq!(refusal(&path), [expected]);
    let [line] = &refusal(dir.path())[..] else {
        panic!()
    };
    assert!(line.contains("cannot be read: Is a directory"), "{line}");
}

#[test]
fn every_mistake_is_a_line_of_standard_error() {
    let file = Written::new(format!("wrkers = 1\n{ROUTE}mode = 660\n"));
    let path = file.path();
    for command in ["run", "check"] {
        let output = spliceway(&[command, "--config", path.to_str().unwrap()]);
        let expected = format!(
            "{path}:1: wrkers: unknown key (did you mean workers?)\n\
             {path}:5: route a: mode = 660: expected a string, found an integer (write it in quotes: \
             \"660\")\n",
            path = path.display()
        );
        assert_eq!(String::from_utf8_lossy(&output.stderr), expected);
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn options_of_routes_beside_a_file_are_a_usage_error() {
    let file = Written::new(ROUTE);
    let path = file.path();
    let output = spliceway(&["run", "--config", path.to_str().unwrap(), "--mode", "0600"]);
    let line = String::from_utf8_lossy(&output.stderr);
    let expected = "spliceway: --mode with --config: an option of a route (write the key mode into";
    assert!(line.starts_with(expected), "{line}");
    assert_eq!((output.status.code(), line.lines().count()), (Some(2), 1));
}

// --- check --------------------------------------------------------------------------------------------

#[test]
fn check_prints_what_each_name_is_now() {
    let names = NameServer::start();
    names.a("php.test", &["192.0.2.2", "192.0.2.1"]);
    names.aaaa("php.test", &["2001:db8::1"]);
    names.srv(
        "_app._tcp.test",
        &[(20, 5, 81, "b.test"), (10, 7, 80, "a.test")],
    );
    names.a("a.test", &["192.0.2.3"]);
    let output = check(&format!(
        "[defaults]\nnameserver = \"{}\"\n\
         [route.php]\nlisten = \"unix:/run/never-made/a\"\nbackend = [\"php.test.:9000\", \"[::1]:1\"]\n\
         [route.app]\nlisten = \"unix:@never-bound\"\nbackend = \"srv:_app._tcp.test.\"\n",
        names.address
    ));
    let printed = String::from_utf8(output.stdout).unwrap();
    let (_, now) = printed
        .split_once("\n\n# What the backends are now:\n")
        .unwrap();
    assert_eq!(
        now,
        "# route php\n\
         # php.test.:9000 → 192.0.2.1:9000, 192.0.2.2:9000, [2001:db8::1]:9000\n\
         # [::1]:1 needs no lookup\n\
         # route app\n\
         # srv:_app._tcp.test. → 2 targets\n\
         #   a.test.:80 (priority 10, weight 7) → 192.0.2.3:80\n\
         #   b.test.:81 (priority 20, weight 5) → none: the name server says that there is no such \
         name, or not with what was asked for\n\n\
         # route php: listen unix:/run/never-made/a: /run/never-made does not exist yet \
         (RuntimeDirectory= of systemd makes it)\n\n\
         # All is well.\n"
    );
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn directories_that_do_not_exist_are_told() {
    let output = check(
        "control = \"/no/such/control.sock\"\n\
         [route.a]\nlisten = \"unix:/no/such/listen.sock\"\nbackend = \"127.0.0.1:1\"\n\
         protocol = \"fastcgi\"\naccess-log = \"/no/such/log/a.log\"\n",
    );
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    for what in [
        "control socket /no/such/control.sock: the directory /no/such does not exist",
        "route a: listen unix:/no/such/listen.sock: the directory /no/such does not exist",
        "route a: access log /no/such/log/a.log: the directory /no/such/log does not exist",
    ] {
        assert!(said.contains(what), "{what} in {said}");
    }
    assert!(
        !String::from_utf8(output.stdout)
            .unwrap()
            .contains("All is well")
    );
}

#[test]
fn a_name_without_an_address_is_told_by_the_exit_code() {
    let names = NameServer::start();
    names.a("here.test", &["192.0.2.1"]);
    let output = check(&format!(
        "[route.a]\nlisten = \"unix:/a\"\nbackend = [\"here.test.:1\", \"gone.test.:1\"]\n\
         nameserver = \"{}\"\n",
        names.address
    ));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "spliceway: route a: look up tcp:gone.test.:1: the name server says that there is no such \
         name, or not with what was asked for (check the name and the name servers)\n"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_name_server_that_is_silent_ends_the_check_in_time() {
    let silent = Dead::new();
    let output = check(&format!(
        "[route.a]\nlisten = \"unix:/a\"\nbackend = \"any.test.:1\"\nnameserver = \"{}\"\n",
        silent.address()
    ));
    let line = String::from_utf8_lossy(&output.stderr);
    assert!(line.contains("no name server answered in time"), "{line}");
    assert_eq!((output.status.code(), line.lines().count()), (Some(1), 1));
}

#[test]
fn what_the_machine_does_not_have_is_told() {
    let output = check(
        "[route.a]\nlisten = \"unix:/a\"\nbackend = \"127.0.0.1:1\"\nowner = \"no-such-user\"\n\
         [route.b]\nlisten = \"unix:/b\"\nbackend = \"127.0.0.1:1\"\nsource-address = \"192.0.2.1\"\n",
    );
    let lines = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = lines.lines().collect();
    assert_eq!(
        lines[0],
        "spliceway: route a: no user named no-such-user (create it, or give its number)"
    );
    assert!(
        lines[1].starts_with("spliceway: route b: connect from --source-address 192.0.2.1: "),
        "{lines:?}"
    );
    assert_eq!((output.status.code(), lines.len()), (Some(1), 2));
}

#[test]
fn check_binds_nothing() {
    let dir = fresh_dir();
    let socket = dir.path().join("a.sock");
    let control = dir.path().join("control.sock");
    let output = check(&format!(
        "control = \"{}\"\n[route.a]\nlisten = \"unix:{}\"\nbackend = \"127.0.0.1:1\"\n",
        control.display(),
        socket.display()
    ));
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn what_check_prints_is_a_file_for_check() {
    let first = check(&format!("workers = 2\n{ROUTE}"));
    let again = check(std::str::from_utf8(&first.stdout).unwrap());
    let configuration = |output: &Output| {
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        text.split_once("\n# What").unwrap().0.to_owned()
    };
    assert_eq!(configuration(&first), configuration(&again));
    assert!(configuration(&first).contains("workers = 2\n"));
}

#[test]
fn the_example_that_ships_is_right() {
    let names = NameServer::start();
    names.a("php.internal", &["192.0.2.1"]);
    names.srv(
        "_search._tcp.example.internal",
        &[(1, 1, 9200, "s.internal")],
    );
    names.a("s.internal", &["192.0.2.2"]);
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/spliceway.toml");
    let example = fs::read_to_string(example).unwrap();
    let ask = format!("nameserver = \"{}\"", names.address);
    // A test asks its own name server only, and has no other accounts than the machine's.
    let example = example
        .replace("[defaults]", &format!("[defaults]\n{ask}"))
        .replace(
            "nameserver = [\"192.0.2.53\", \"[2001:db8::53]:5353\"]",
            &ask,
        )
        .replace("www-data", "0");
    let output = check(&example);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(
        printed.contains("# php.internal:9000 → 192.0.2.1:9000\n"),
        "{printed}"
    );
    let keys = example.lines().filter(|line| line.contains(" = ")).count();
    assert!(keys >= 30, "{keys} keys are not most of them");
}

fn a_file_starts_the_daemon(engine: Engine) {
    let backend = Backend::echo();
    let builder = Proxy::builder().engine(engine);
    let file = format!(
        "workers = 1\n[route.a]\nlisten = \"unix:{}\"\nbackend = \"{backend}\"\nmode = \"0600\"\n",
        builder.socket().display()
    );
    let proxy = builder.config(&file).start();
    let mode = fs::metadata(proxy.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    exchange_and_end(&proxy.connect(), Pattern::new(1), 10 * KB);
}

fn each_route_has_its_own_backend(engine: Engine) {
    let (first, second) = (Backend::echo(), Backend::echo());
    let builder = Proxy::builder().engine(engine);
    let other = builder.dir().join("other.sock");
    let file = format!(
        "workers = 2\n[defaults]\nmode = \"0600\"\n\
         [route.a]\nlisten = \"unix:{}\"\nbackend = \"{first}\"\n\
         [route.b]\nlisten = \"unix:{}\"\nbackend = \"{second}\"\nmode = \"0640\"\n",
        builder.socket().display(),
        other.display()
    );
    let proxy = builder.config(&file).start();
    for (path, expected) in [(proxy.socket(), 0o600), (&other, 0o640)] {
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, expected, "{}", path.display());
    }
    exchange_and_end(&proxy.connect(), Pattern::new(1), 10 * KB);
    assert_eq!((first.ledger().accepted, second.ledger().accepted), (1, 0));
    exchange_and_end(&connect(&other).unwrap(), Pattern::new(2), 10 * KB);
    assert_eq!((first.ledger().accepted, second.ledger().accepted), (1, 1));
}

fn check(content: &str) -> Output {
    let file = Written::new(content);
    spliceway(&["check", "--config", file.path().to_str().unwrap()])
}

#[test]
fn shards_without_a_worker_are_told_by_check_as_by_the_daemon() {
    let content = "workers = 1\n[route.a]\nlisten = \"unix:@spliceway-no-shards\"\n\
                   backend = \"127.0.0.1:1\"\nper-endpoint-max = 4\nshards = 3\n";
    let file = Written::new(content);
    let path = file.path();
    let output = |command| spliceway(&[command, "--config", path.to_str().unwrap()]);
    for command in ["check", "run"] {
        let output = output(command);
        let lines = String::from_utf8_lossy(&output.stderr);
        let line = "spliceway: serve route a with 3 shards: only 1 workers can serve it";
        assert!(lines.contains(line), "{command}: {lines}");
        assert_eq!(output.status.code(), Some(1), "{command}");
    }
}

/// It ends by itself: its lookups are bounded.
fn spliceway(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spliceway"));
    command.args(arguments).stdin(Stdio::null());
    command.output().unwrap()
}

/// A journal, which is told by device and inode, shows as errors what begins with `<3>`.
#[test]
fn each_line_about_a_mistake_is_an_error_in_the_journal() {
    let dir = fresh_dir();
    let (file, journal) = (dir.path().join("f.toml"), dir.path().join("journal"));
    fs::write(&file, format!("{ROUTE}balence = 1\nmod = 2\n")).unwrap();
    let said = |words: &[&str]| {
        let stderr = fs::File::create(&journal).unwrap();
        let stream = stderr.metadata().unwrap();
        let status = Command::new(env!("CARGO_BIN_EXE_spliceway"))
            .args(words)
            .env(
                "JOURNAL_STREAM",
                format!("{}:{}", stream.dev(), stream.ino()),
            )
            .stderr(stderr)
            .stdin(Stdio::null())
            .status();
        assert_eq!(status.unwrap().code(), Some(2), "{words:?}");
        fs::read_to_string(&journal).unwrap()
    };
    let of_file = said(&["run", "--config", file.to_str().unwrap()]);
    assert_eq!(of_file.lines().count(), 2, "{of_file}");
    let of_options = said(&["run", "--balence", "1"]);
    assert_eq!(of_options.lines().count(), 1, "{of_options}");
    for line in of_file.lines().chain(of_options.lines()) {
        assert!(line.starts_with("<3>"), "{line}");
    }
}
