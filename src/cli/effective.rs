//! The effective configuration as a file: every option, those that were not given as well.
//!
//! Values stand as they were given, so what is printed here can be the file of the next start and means
//! the same. What has no value to write down is a comment.

use std::fmt::Write as _;

use clap::{Arg, ArgMatches};

use super::Served;
use super::options::{self, Kind, Options, kind};

/// The configuration as TOML.
pub(super) fn print(served: &Served) -> String {
    let mut text = String::new();
    print_options(&mut text, &Options::of_daemon(), &served.daemon);
    let options = Options::of_route();
    for (route, matches) in served.command.config.routes.iter().zip(&served.routes) {
        let name = table_key(route.name.as_str());
        let _ = writeln!(text, "\n[route.{name}]");
        print_options(&mut text, &options, matches);
    }
    text
}

fn print_options(text: &mut String, options: &Options, matches: &ArgMatches) {
    for option in options.all() {
        let key = option.get_long().unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = match value(option, matches) {
            Some(value) => writeln!(text, "{key} = {value}"),
            None => {
                let default = options::default_in_words(option).unwrap_or_default();
                writeln!(text, "# {key}: {default}")
            }
        };
    }
}

fn value(option: &Arg, matches: &ArgMatches) -> Option<String> {
    let id = option.get_id().as_str();
    if let Kind::Flag = kind(option) {
        return Some(matches.get_flag(id).to_string());
    }
    let given = matches.get_raw(id)?;
    // Whatever was parsed is text: the definitions take nothing else.
    let values: Vec<_> = given.map(|value| value.to_string_lossy()).collect();
    let first = values.first()?;
    Some(match kind(option) {
        Kind::Number if is_integer(first) => first.to_string(),
        Kind::Words => quoted(&values.join(" ")),
        Kind::List => {
            let quoted: Vec<_> = values.iter().map(|value| quoted(value)).collect();
            format!("[{}]", quoted.join(", "))
        }
        Kind::Flag | Kind::Number | Kind::Text => quoted(first),
    })
}

/// Whether TOML takes it as an integer: no sign, no zero in front.
fn is_integer(text: &str) -> bool {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number && !text.is_empty() && (text == "0" || !text.starts_with('0'))
}

/// The name of a route as a part of a table's name: a dot would begin another part.
fn table_key(name: &str) -> String {
    if name.contains('.') {
        return quoted(name);
    }
    name.to_owned()
}

/// A basic string (TOML 1.0, "String"): what it cannot hold is escaped.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped() {
        for text in ["plain", "a\"b\\c", "line\nend\u{7f}\u{85}", "ä…"] {
            let toml = format!("key = {}", quoted(text));
            let table = toml::de::DeTable::parse(&toml).unwrap().into_inner();
            let toml::de::DeValue::String(read) = table["key"].get_ref() else {
                panic!("{toml}")
            };
            assert_eq!(read, text);
        }
    }

    #[test]
    fn numbers_are_integers_where_toml_has_them() {
        for (text, expected) in [
            ("0", true),
            ("8", true),
            ("08", false),
            ("+8", false),
            ("", false),
        ] {
            assert_eq!(is_integer(text), expected, "{text}");
        }
    }
}
