//! The effective configuration as it is written: every setting, those that nobody gave as well.
//!
//! It is what `spliceway check` prints, what the hash of a configuration is made from, and what tells which settings
//! differ between two configurations.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use super::RouteName;

/// How many bytes of the hash are told: enough that no two files of one operator have the same, and few enough to be
/// compared by eye.
const HASH_BYTES: usize = 8;

/// All settings, of the daemon and of each route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effective {
    /// What all routes have in common.
    pub daemon: Settings,
    /// In the order of the configuration.
    pub routes: Vec<(RouteName, Settings)>,
}

/// Settings that stand together, in the order of the help.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings(Vec<Setting>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    key: String,
    value: Written,
}

/// How a setting stands in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// With this value, in TOML.
    Value(String),
    /// Not at all: nobody gave it, and it has no value to write down. What it comes to, in words.
    Unset(String),
}

impl Effective {
    /// As TOML: a file of this content means the same.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.daemon.write_to(&mut text);
        for (name, settings) in &self.routes {
            let name = table_key(name.as_str());
            // Writing to a string cannot fail.
            let _ = writeln!(text, "\n[route.{name}]");
            settings.write_to(&mut text);
        }
        text
    }

    /// The same for the same text, on any machine: the first 16 hexadecimal digits of its SHA-256.
    #[must_use]
    pub fn hash(&self) -> String {
        let digest = Sha256::digest(self.text());
        let bytes = digest.iter().take(HASH_BYTES);
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }

    /// The settings of this route, if there is one.
    #[must_use]
    pub fn route(&self, name: &RouteName) -> Option<&Settings> {
        let mut routes = self.routes.iter();
        routes
            .find(|(other, _)| other == name)
            .map(|(_, settings)| settings)
    }
}

impl Settings {
    /// Adds one; each key comes once.
    pub fn push(&mut self, key: impl Into<String>, value: Written) {
        let key = key.into();
        self.0.push(Setting { key, value });
    }

    /// How this key stands there.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Written> {
        let mut all = self.0.iter();
        all.find(|setting| setting.key == key)
            .map(|setting| &setting.value)
    }

    /// The keys whose values are others in `new`, in its order.
    #[must_use]
    pub fn changed_keys<'a>(&self, new: &'a Self) -> Vec<&'a str> {
        let is_other = |setting: &&Setting| self.get(&setting.key) != Some(&setting.value);
        let changed = new.0.iter().filter(is_other);
        changed.map(|setting| setting.key.as_str()).collect()
    }

    fn write_to(&self, text: &mut String) {
        for Setting { key, value } in &self.0 {
            let _ = match value {
                Written::Value(value) => writeln!(text, "{key} = {value}"),
                Written::Unset(meaning) => writeln!(text, "# {key}: {meaning}"),
            };
        }
    }
}

/// The name of a route as a part of a table's name: a dot would begin another part. Its other characters are those of
/// bare keys.
fn table_key(name: &str) -> String {
    match name.contains('.') {
        true => format!("\"{name}\""),
        false => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings<'a>(all: impl IntoIterator<Item = (&'a str, &'a str)>) -> Settings {
        let mut settings = Settings::default();
        for (key, value) in all {
            let value = match value {
                "" => Written::Unset("off".to_owned()),
                value => Written::Value(value.to_owned()),
            };
            settings.push(key, value);
        }
        settings
    }

    fn effective() -> Effective {
        let route = |name: &str, settings| (name.parse().unwrap(), settings);
        Effective {
            daemon: settings([("workers", ""), ("pin", "false")]),
            routes: vec![
                route("php-8.2", settings([("idle-timeout", "\"5s\"")])),
                route("a", settings([("idle-timeout", "")])),
            ],
        }
    }

    #[test]
    fn the_text_is_a_configuration_file() {
        let text = "# workers: off\npin = false\n\n[route.\"php-8.2\"]\nidle-timeout = \"5s\"\n\n[route.a]\n\
                    # idle-timeout: off\n";
        assert_eq!(effective().text(), text);
    }

    #[test]
    fn the_hash_is_that_of_the_text() {
        // As sha256sum(1) has it for the text above.
        assert_eq!(effective().hash(), "d09525694f44d74d");
        let mut other = effective();
        other.routes.swap(0, 1);
        assert_ne!(other.hash(), effective().hash());
    }

    #[test]
    fn a_key_has_changed_if_its_value_is_another_or_it_was_given_or_taken_away() {
        let old = settings([("a", "1"), ("b", "2"), ("c", ""), ("d", "4")]);
        let new = settings([("d", "4"), ("a", "1"), ("b", "3"), ("c", "5"), ("e", "6")]);
        assert_eq!(old.changed_keys(&new), ["b", "c", "e"]);
        let unset = settings([("a", "")]);
        assert_eq!(old.changed_keys(&unset), ["a"]);
        assert!(old.changed_keys(&old).is_empty());
    }

    #[test]
    fn settings_are_found() {
        let effective = effective();
        let route = effective.route(&"a".parse().unwrap()).unwrap();
        assert_eq!(
            route.get("idle-timeout"),
            Some(&Written::Unset("off".to_owned()))
        );
        assert_eq!(route.get("mode"), None);
        assert_eq!(effective.route(&"b".parse().unwrap()), None);
    }
}
