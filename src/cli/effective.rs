//! The effective configuration: every option, those that were not given as well.
//!
//! Values stand as they were given, so that its text can be the file of the next start and means the same. What has
//! no value to write down is a comment there.

use std::fmt::Write as _;

use clap::{Arg, ArgMatches};

use super::options::{self, Kind, Options, kind};
use super::{ServedRoute, WrittenClass};
use crate::config::{Effective, EffectiveRoute, Settings, Written};

/// What these arguments come to: those of the daemon, and those of each route and its classes.
pub(super) fn of(daemon: &ArgMatches, routes: &[ServedRoute]) -> Effective {
    let (of_route, of_class) = (Options::of_route(), Options::of_class());
    let class = |class: &WrittenClass| {
        let mut settings = Settings::default();
        let criteria = match &class.criteria {
            Some(criteria) => Written::Value(criteria.clone()),
            None => Written::Unset("whatever no other class has".to_owned()),
        };
        settings.push("match", criteria);
        add(&of_class, &class.matches, &mut settings);
        (class.name.clone(), settings)
    };
    let route = |served: &ServedRoute| EffectiveRoute {
        name: served.route.name.clone(),
        settings: settings(&of_route, &served.matches),
        classes: served.classes.iter().map(class).collect(),
    };
    Effective {
        daemon: settings(&Options::of_daemon(), daemon),
        routes: routes.iter().map(route).collect(),
    }
}

fn settings(options: &Options, matches: &ArgMatches) -> Settings {
    let mut settings = Settings::default();
    add(options, matches, &mut settings);
    settings
}

fn add(options: &Options, matches: &ArgMatches, settings: &mut Settings) {
    for option in options.all() {
        let key = option.get_long().unwrap_or_default();
        let written = match value(option, matches) {
            Some(value) => Written::Value(value),
            None => Written::Unset(options::default_in_words(option).unwrap_or_default()),
        };
        settings.push(key, written);
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

/// Whether TOML takes it as an integer, without a plus sign: no zero in front.
fn is_integer(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number && !text.is_empty() && (text == "0" || !text.starts_with('0'))
}

/// A basic string (TOML 1.0, "String"): what it cannot hold is escaped.
pub(crate) fn quoted(text: &str) -> String {
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
            ("-8", true),
            ("-08", false),
            ("-", false),
            ("+8", false),
            ("", false),
        ] {
            assert_eq!(is_integer(text), expected, "{text}");
        }
    }
}
