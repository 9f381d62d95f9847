//! One table of a file: from its keys to the words that would stand on the command line.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

use clap::Arg;
use toml::de::{DeInteger, DeValue};

use super::source::{self, Source};
use super::{Context, Key, Problems, Table, Value};
use crate::cli::options::{self, Kind, kind, value_name};
use crate::cli::usage;
use crate::config::{ClassName, RouteName};

/// The key whose values may be tables.
const BACKEND: &str = "backend";

/// How such a table is written.
const BACKEND_TABLE: &str = "write {address = \"php.internal:9000\", weight = 3}";

/// The key of a route whose value is the tables of its classes.
pub(super) const CLASS: &str = "class";

/// The key of a class that says which requests belong to it: it has arrays of its own.
pub(super) const MATCH: &str = "match";

/// The tables of the top level.
const TABLES: [&str; 2] = ["route", "defaults"];

/// Which table it is.
pub(super) enum Place<'a> {
    Daemon,
    Defaults,
    Route(&'a RouteName),
    Class(&'a RouteName, &'a ClassName),
}

/// What a message begins with.
impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Daemon => Ok(()),
            Self::Defaults => f.write_str("defaults: "),
            Self::Route(name) => write!(f, "route {name}: "),
            Self::Class(route, name) => write!(f, "route {route}: class {name}: "),
        }
    }
}

/// What a table says, as far as it is right.
#[derive(Default)]
pub(super) struct Section {
    pub(super) entries: BTreeMap<String, Entry>,
    /// Something was refused: what is left is not what was meant.
    pub(super) is_wrong: bool,
}

/// A key and its values.
pub(super) struct Entry {
    pub(super) line: usize,
    pub(super) occurrences: Vec<Occurrence>,
}

/// An option, once, as on the command line.
pub(super) struct Occurrence {
    pub(super) line: usize,
    words: Vec<OsString>,
}

/// A value that is not of the right type, or that the option's parser refuses.
struct Wrong {
    line: usize,
    quote: String,
    cause: String,
}

impl Entry {
    pub(super) fn words(&self) -> impl Iterator<Item = OsString> {
        let words = self.occurrences.iter().flat_map(|o| o.words.iter());
        words.cloned()
    }
}

impl Section {
    pub(super) fn read(
        &mut self,
        file: &Context<'_>,
        place: &Place<'_>,
        table: &Table<'_>,
        problems: &mut Problems<'_>,
    ) {
        for entry in table {
            self.read_key(file, place, entry, problems);
        }
    }

    pub(super) fn read_key(
        &mut self,
        file: &Context<'_>,
        place: &Place<'_>,
        (key, value): (&Key<'_>, &Value<'_>),
        problems: &mut Problems<'_>,
    ) {
        let (name, line) = (key.get_ref().as_ref(), file.source.line(key.span().start));
        let quoted = source::shown(name);
        let Some(option) = place.option(name, file) else {
            self.is_wrong = true;
            let is_table = matches!(value.get_ref(), DeValue::Table(_));
            let problem = place.unknown(name, is_table, file);
            return problems.add(line, format!("{place}{quoted}: {problem}"));
        };
        match occurrences(&file.source, option, value) {
            Ok(occurrences) => {
                let entry = Entry { line, occurrences };
                self.entries.insert(name.to_owned(), entry);
            }
            Err(Wrong { line, quote, cause }) => {
                self.is_wrong = true;
                let cause = options::in_words_of_a_file(&cause);
                problems.add(line, format!("{place}{quoted} = {quote}: {cause}"));
            }
        }
    }
}

impl Place<'_> {
    fn option<'o>(&self, key: &str, file: &'o Context<'_>) -> Option<&'o Arg> {
        match self {
            Self::Daemon => file.daemon.find(key),
            // Every route listens on sockets of its own.
            Self::Defaults if key == "listen" => None,
            Self::Defaults | Self::Route(_) => file.route.find(key),
            Self::Class(..) => file.class.find(key),
        }
    }

    /// Why there is no such key, and what may have been meant.
    fn unknown(&self, key: &str, is_table: bool, file: &Context<'_>) -> String {
        match (self.belongs_elsewhere(key, file), is_table) {
            (Some(where_to), _) => where_to.to_owned(),
            (None, true) if key == CLASS => {
                "the classes of a route belong to that route (write [route.NAME.class.CLASS])"
                    .to_owned()
            }
            (None, true) => self.unknown_table(key),
            (None, false) => self.unknown_key(key, file),
        }
    }

    fn belongs_elsewhere(&self, key: &str, file: &Context<'_>) -> Option<&'static str> {
        let of_daemon = file.daemon.find(key).is_some();
        let of_route = file.route.find(key).is_some();
        match self {
            Self::Daemon if key == "listen" => {
                Some("belongs in a route (move it under [route.NAME])")
            }
            Self::Daemon if of_route => {
                Some("belongs in a route (move it under [route.NAME], or under [defaults])")
            }
            Self::Defaults if of_route => Some(
                "belongs in a route (move it under [route.NAME]: no two can listen on one socket)",
            ),
            Self::Class(..) if of_route => {
                Some("belongs to the route and not to a class (move it under [route.NAME])")
            }
            Self::Defaults | Self::Route(_) | Self::Class(..) if of_daemon => {
                Some("belongs at the top level (move it above the first [table])")
            }
            Self::Daemon | Self::Defaults | Self::Route(_) | Self::Class(..) => None,
        }
    }

    fn unknown_table(&self, key: &str) -> String {
        match (self, options::similar(key, TABLES)) {
            (Self::Daemon, Some((_, similar))) => {
                format!("unknown table (did you mean {similar}?)")
            }
            (Self::Daemon, None) => "unknown table (a route is written [route.NAME])".to_owned(),
            (Self::Defaults | Self::Route(_) | Self::Class(..), _) => {
                "unknown table (the keys stand in the table itself)".to_owned()
            }
        }
    }

    /// The most similar key, wherever it belongs.
    fn unknown_key(&self, key: &str, file: &Context<'_>) -> String {
        let (here, elsewhere, place) = match self {
            Self::Daemon => (&file.daemon, &file.route, "in a route"),
            Self::Defaults | Self::Route(_) => (&file.route, &file.daemon, "at the top level"),
            Self::Class(..) => (&file.class, &file.route, "in the route"),
        };
        let more = match self {
            Self::Class(..) => Some(MATCH),
            Self::Daemon | Self::Defaults | Self::Route(_) => None,
        };
        let near = options::similar(key, here.keys().chain(more));
        let far = options::similar(key, elsewhere.keys());
        match (near, far) {
            (Some((near, _)), Some((far, similar))) if far > near => {
                format!("unknown key (did you mean {similar}, {place}?)")
            }
            (Some((_, similar)), _) => format!("unknown key (did you mean {similar}?)"),
            (None, Some((_, similar))) => {
                format!("unknown key (did you mean {similar}, {place}?)")
            }
            (None, None) => {
                "unknown key (remove it; 'spliceway run --help' lists the options)".to_owned()
            }
        }
    }
}

/// The option as often as the value says, each taken by its parser.
fn occurrences(
    source: &Source<'_>,
    option: &Arg,
    value: &Value<'_>,
) -> Result<Vec<Occurrence>, Wrong> {
    match (kind(option), value.get_ref()) {
        (Kind::List, DeValue::Array(array)) if array.is_empty() => {
            let cause = "an empty array (write at least one value, or remove the key)";
            Err(wrong(source, value, cause.to_owned()))
        }
        (Kind::List, DeValue::Array(array)) => array
            .iter()
            .map(|one| occurrence(source, option, one))
            .collect(),
        _ => Ok(vec![occurrence(source, option, value)?]),
    }
}

fn occurrence(source: &Source<'_>, option: &Arg, value: &Value<'_>) -> Result<Occurrence, Wrong> {
    let refuse = |cause: String| wrong(source, value, cause);
    let words = words(source, option, value).map_err(refuse)?;
    options::check(option, &words).map_err(|error| refuse(usage::cause(&error)))?;
    let line = source.line(value.span().start);
    Ok(Occurrence { line, words })
}

fn wrong(source: &Source<'_>, value: &Value<'_>, cause: String) -> Wrong {
    Wrong {
        line: source.line(value.span().start),
        quote: source.quote(value.span()),
        cause,
    }
}

/// What would stand on the command line, or why the value has the wrong type.
fn words(source: &Source<'_>, option: &Arg, value: &Value<'_>) -> Result<Vec<OsString>, String> {
    let name = option.get_long().unwrap_or_default();
    let given = |text: &str| vec![OsString::from(format!("--{name}={text}"))];
    match (kind(option), value.get_ref()) {
        (Kind::Flag, DeValue::Boolean(true)) => Ok(vec![OsString::from(format!("--{name}"))]),
        (Kind::Flag, DeValue::Boolean(false)) => Ok(Vec::new()),
        (Kind::Number, DeValue::Integer(integer)) => Ok(given(&decimal(integer))),
        (Kind::Words, DeValue::String(text)) => {
            let option = std::iter::once(OsString::from(format!("--{name}")));
            Ok(option
                .chain(text.split_whitespace().map(OsString::from))
                .collect())
        }
        (Kind::Number | Kind::Text | Kind::List, DeValue::String(text)) => Ok(given(text)),
        (Kind::List, DeValue::Table(table)) if name == BACKEND => {
            Ok(given(&backend_in_words(source, table)?))
        }
        (kind, found) => {
            let quote = source.quote(value.span());
            let is_to_be_quoted =
                matches!(kind, Kind::Text | Kind::List) && !is_time(option) && is_scalar(found);
            // Quotes alone would not make it right.
            if is_to_be_quoted && let Err(error) = options::check(option, &given(&quote)) {
                return Err(usage::cause(&error));
            }
            Err(wrong_type(kind, option, found, &quote))
        }
    }
}

/// What can be put in quotes as it is.
fn is_scalar(value: &DeValue<'_>) -> bool {
    matches!(
        value,
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Datetime(_)
    )
}

fn is_time(option: &Arg) -> bool {
    value_name(option).starts_with("DURATION")
}

/// A backend with a weight, as on the command line.
fn backend_in_words(source: &Source<'_>, table: &Table<'_>) -> Result<String, String> {
    let (mut address, mut weight) = (None, None);
    for (key, value) in table {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("address", DeValue::String(text)) => address = Some(text),
            ("weight", DeValue::Integer(integer)) => weight = Some(decimal(integer)),
            ("address" | "weight", _) => {
                return Err(format!(
                    "{} = {} is not of the right type ({BACKEND_TABLE})",
                    key.get_ref(),
                    source.quote(value.span())
                ));
            }
            (key, _) => {
                let key = source::shown(key);
                return Err(format!("a backend has no {key} ({BACKEND_TABLE})"));
            }
        }
    }
    let address = address.ok_or_else(|| format!("the address is missing ({BACKEND_TABLE})"))?;
    Ok(match weight {
        Some(weight) => format!("{address} weight={weight}"),
        None => address.to_string(),
    })
}

/// Integers too large for any option stay as they are written, and are refused for that.
fn decimal(integer: &DeInteger<'_>) -> String {
    match i128::from_str_radix(integer.as_str(), integer.radix()) {
        Ok(number) => number.to_string(),
        Err(_) => integer.to_string(),
    }
}

fn wrong_type(kind: Kind, option: &Arg, value: &DeValue<'_>, quote: &str) -> String {
    let can_be_off = value_name(option).ends_with("|off");
    let expected = match kind {
        Kind::Flag => "true or false",
        Kind::Number if value_name(option).contains("auto") => {
            "a whole number, \"auto\" or \"off\""
        }
        Kind::Number if can_be_off => "a whole number or \"off\"",
        Kind::Number => "a whole number",
        Kind::Text | Kind::Words => "a string",
        Kind::List => "a string, or an array of strings",
    };
    let remedy = match (kind, value) {
        (Kind::Flag, _) => "write true or false without quotes".to_owned(),
        (_, DeValue::Boolean(_)) if can_be_off => "write \"off\", or a value".to_owned(),
        (Kind::Number, _) => "write for example 8".to_owned(),
        (_, DeValue::Integer(_) | DeValue::Float(_)) if is_time(option) => {
            format!("give it a unit and quotes, for example \"{quote}s\"")
        }
        (_, DeValue::Datetime(_)) if is_time(option) => {
            "write a number and its unit in quotes, for example \"5s\"".to_owned()
        }
        (_, DeValue::Array(_) | DeValue::Table(_)) => "write one value in quotes".to_owned(),
        _ => format!("write it in quotes: \"{quote}\""),
    };
    format!(
        "expected {expected}, found {} ({remedy})",
        source::found(value)
    )
}
