//! What came of a request, in a form that can be compared: what must differ between two ways to PHP is
//! taken out, and nothing else.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::client::Response;
use crate::servers::Front;

/// Parameters that differ from request to request.
const OF_THE_MOMENT: [&str; 3] = ["REQUEST_TIME", "REQUEST_TIME_FLOAT", "REMOTE_PORT"];

/// What came of a request.
#[derive(Debug)]
pub(crate) struct Observed {
    /// Every value by where it stands: `status`, `header server`, `SERVER PATH_INFO`, …
    pub(crate) values: BTreeMap<String, String>,
    /// What PHP says of its settings, if the answer is a script's and has a body.
    pub(crate) settings: BTreeMap<String, String>,
}

impl Observed {
    pub(crate) fn of(response: &Response, front: &Front) -> Self {
        let mut all = Self {
            values: BTreeMap::new(),
            settings: BTreeMap::new(),
        };
        all.insert("status", &response.status.to_string());
        let mut headers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, value) in &response.headers {
            headers.entry(name).or_default().push(value);
        }
        headers.remove("date");
        // The lengths of numbers that differ: the body itself is compared.
        let page = serde_json::from_slice::<Map<String, Value>>(&response.body);
        if page.is_ok() || response.body.is_empty() {
            headers.remove("content-length");
        }
        for (name, values) in headers {
            let text = values.join(" | ");
            all.insert(&format!("header {name}"), &front.neutral(&text));
        }
        match page {
            Ok(page) => all.add_page(page, front),
            Err(_) => all.insert("body", &response.body.escape_ascii().to_string()),
        }
        all
    }

    fn insert(&mut self, name: &str, value: &str) {
        self.values.insert(name.to_owned(), value.to_owned());
    }

    fn add_page(&mut self, mut page: Map<String, Value>, front: &Front) {
        for place in ["SERVER", "ENV"] {
            let variables = page.get_mut(place).and_then(Value::as_object_mut);
            let variables = variables.expect("the script shows them");
            for name in OF_THE_MOMENT {
                variables.remove(name);
            }
            if let Some(port) = variables.get_mut("SERVER_PORT") {
                front.hide_port(port);
            }
        }
        let settings = page.remove("settings").expect("the script shows them");
        for (name, value) in settings.as_object().expect("a map") {
            self.settings.insert(name.clone(), text(value));
        }
        for (part, values) in page {
            let values = values.as_object().expect("each part is a map");
            for (name, value) in values {
                self.insert(&format!("{part} {name}"), &front.neutral(&text(value)));
            }
        }
    }

    /// Every value in which `other` differs from this, a line each. An answer with another status has
    /// hardly a value in common, so one line tells of it.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let (wanted, got) = (&self.values["status"], &other.values["status"]);
        if wanted != got {
            return vec![format!(
                "{wanted} became {got}: {}",
                shown(other.values.get("body"))
            )];
        }
        let mut lines = Vec::new();
        let both = [
            (&self.values, &other.values),
            (&self.settings, &other.settings),
        ];
        for (wanted, got) in both {
            let names: std::collections::BTreeSet<_> = wanted.keys().chain(got.keys()).collect();
            for name in names {
                let (wanted, got) = (wanted.get(name), got.get(name));
                if wanted != got {
                    lines.push(format!("{name}: {} became {}", shown(wanted), shown(got)));
                }
            }
        }
        lines
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// How much of a value a failure shows.
const SHOWN_CHARS_MAX: usize = 300;

fn shown(value: Option<&String>) -> String {
    value.map_or_else(
        || "nothing".to_owned(),
        |value| {
            format!(
                "{:?}",
                value.chars().take(SHOWN_CHARS_MAX).collect::<String>()
            )
        },
    )
}

impl Front {
    /// Only the ports of the web servers differ between the ways, and their own directories: their
    /// addresses and the applications' files are the same.
    fn neutral(&self, text: &str) -> String {
        text.replace(&self.dir, "(front)")
            .replace(&format!(":{}", self.port), ":(port)")
            .replace(&format!(":{}", self.tls_port), ":(tls port)")
    }

    fn hide_port(&self, value: &mut Value) {
        let port = value.as_str().and_then(|text| text.parse().ok());
        if port == Some(self.port) {
            *value = "(port)".into();
        } else if port == Some(self.tls_port) {
            *value = "(tls port)".into();
        }
    }
}
