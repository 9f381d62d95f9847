//! The effective configuration as it is written: every setting, those that nobody gave as well.
//!
//! It is what `spliceway check` prints, what the hash of a configuration is made from, and what tells which settings
//! differ between two configurations.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use super::{ClassName, RouteName};

/// How many bytes of the hash are told: enough that no two files of one operator have the same, and few enough to be
/// compared by eye.
const HASH_BYTES: usize = 8;

/// All settings, of the daemon and of each route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effective {
    /// What all routes have in common.
    pub daemon: Settings,
    /// In the order of the configuration.
    pub routes: Vec<EffectiveRoute>,
}

/// All settings of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveRoute {
    /// Its name.
    pub name: RouteName,
    /// Its own.
    pub settings: Settings,
    /// Those of its classes, in the order of the configuration.
    pub classes: Vec<(ClassName, Settings)>,
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
        for route in &self.routes {
            let name = table_key(route.name.as_str());
            // Writing to a string cannot fail.
            let _ = writeln!(text, "\n[route.{name}]");
            route.settings.write_to(&mut text);
            for (class, settings) in &route.classes {
                let class = table_key(class.as_str());
                let _ = writeln!(text, "\n[route.{name}.class.{class}]");
                settings.write_to(&mut text);
            }
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
    pub fn route(&self, name: &RouteName) -> Option<&EffectiveRoute> {
        self.routes.iter().find(|route| route.name == *name)
    }
}

impl EffectiveRoute {
    /// The keys whose values are others in `new`, in its order; those of classes behind their names, and the name alone
    /// of a class that has come or gone.
    #[must_use]
    pub fn changed_keys(&self, new: &Self) -> Vec<String> {
        let own = self.settings.changed_keys(&new.settings).into_iter();
        let mut changed: Vec<String> = own.map(str::to_owned).collect();
        for (name, after) in &new.classes {
            match self.class(name) {
                Some(before) => {
                    let keys = before.changed_keys(after).into_iter();
                    changed.extend(keys.map(|key| format!("class {name} {key}")));
                }
                None => changed.push(format!("class {name} (new)")),
            }
        }
        let gone = self
            .classes
            .iter()
            .filter(|(name, _)| new.class(name).is_none());
        changed.extend(gone.map(|(name, _)| format!("class {name} (removed)")));
        let order = |route: &Self| {
            route
                .classes
                .iter()
                .map(|(name, _)| name.clone())
                .collect::<Vec<_>>()
        };
        if changed.is_empty() && order(self) != order(new) {
            changed.push("the order of its classes".to_owned());
        }
        changed
    }

    fn class(&self, name: &ClassName) -> Option<&Settings> {
        let mut classes = self.classes.iter();
        let found = classes.find(|(other, _)| other == name);
        found.map(|(_, settings)| settings)
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

/// The name of a route or a class as a part of a table's name: a dot would begin another part. Its other characters are those of
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
        let route = |name: &str, settings| EffectiveRoute {
            name: name.parse().unwrap(),
            settings,
            classes: Vec::new(),
        };
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
    fn classes_are_tables_of_their_routes_and_change_with_them() {
        let with = |classes: &[(&str, &str)]| {
            let mut route = effective().routes.swap_remove(0);
            let class =
                |(name, max): &(&str, &str)| (name.parse().unwrap(), settings([("max", *max)]));
            route.classes = classes.iter().map(class).collect();
            route
        };
        let before = with(&[("admin", "2"), ("a.b", "")]);
        let text = Effective {
            routes: vec![before.clone()],
            ..Effective::default()
        }
        .text();
        let expected = "\n[route.\"php-8.2\".class.admin]\nmax = 2\n\n[route.\"php-8.2\".class.\"a.b\"]\n# max: off\n";
        assert!(text.ends_with(expected), "{text}");
        let changed = |after: &[(&str, &str)]| before.changed_keys(&with(after)).join(", ");
        assert_eq!(changed(&[("admin", "2"), ("a.b", "")]), "");
        assert_eq!(changed(&[("admin", "3"), ("a.b", "")]), "class admin max");
        assert_eq!(
            changed(&[("a.b", ""), ("admin", "2")]),
            "the order of its classes"
        );
        let expected = "class c (new), class admin (removed)";
        assert_eq!(changed(&[("a.b", ""), ("c", "2")]), expected);
    }

    #[test]
    fn settings_are_found() {
        let effective = effective();
        let route = effective.route(&"a".parse().unwrap()).unwrap();
        assert_eq!(
            route.settings.get("idle-timeout"),
            Some(&Written::Unset("off".to_owned()))
        );
        assert_eq!(route.settings.get("mode"), None);
        assert_eq!(effective.route(&"b".parse().unwrap()), None);
    }
}
