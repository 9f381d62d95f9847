//! Commands and their answers as JSON: what goes over the control socket.
//!
//! Other programs and other versions write and read this. Fields may be added, and whoever does not know one ignores
//! it; what must not be ignored is another command, or makes another [`SCHEMA`]. Times are in seconds.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ControlCommand, ControlOutcome, ControlReply, PAUSE_DEFAULT};
use crate::config::TIMEOUT_MAX;
use crate::shown::Shown;

/// Bytes of a command: a name, an address with the path of a socket and some numbers take 300.
pub(crate) const COMMAND_BYTES_MAX: usize = 4096;

/// Bytes of an answer. A reload has the most to say: for each of the 1,024 routes that a file can have, a line with the
/// names of some sixty keys, which take about 1 KiB.
pub(crate) const REPLY_BYTES_MAX: usize = 1 << 22;

/// The number of this format.
const SCHEMA: u32 = 1;

/// Who speaks it.
const PROGRAM: &str = "spliceway";

/// How much is shown of what was not understood.
const SHOWN_CHARS_MAX: usize = 100;

#[derive(Serialize, Deserialize)]
struct CommandMessage {
    #[serde(default = "schema")]
    schema: u32,
    command: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wait_seconds: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    for_seconds: Option<f64>,
}

/// Who writes a command by hand need not say which format that is.
fn schema() -> u32 {
    SCHEMA
}

impl CommandMessage {
    fn new(command: &str) -> Self {
        Self {
            schema: SCHEMA,
            command: command.to_owned(),
            route: None,
            endpoint: None,
            weight: None,
            wait_seconds: None,
            for_seconds: None,
        }
    }
}

impl From<&ControlCommand> for CommandMessage {
    fn from(command: &ControlCommand) -> Self {
        let message = Self::new(command.name());
        match command {
            ControlCommand::Reload | ControlCommand::Upgrade => message,
            ControlCommand::Drain {
                route,
                endpoint,
                wait,
            } => Self {
                route: Some(route.to_string()),
                endpoint: Some(endpoint.to_string()),
                wait_seconds: wait.map(|time| time.as_secs_f64()),
                ..message
            },
            ControlCommand::Undrain { route, endpoint } => Self {
                route: Some(route.to_string()),
                endpoint: Some(endpoint.to_string()),
                ..message
            },
            ControlCommand::Weight {
                route,
                endpoint,
                weight,
            } => Self {
                route: Some(route.to_string()),
                endpoint: Some(endpoint.to_string()),
                weight: Some((*weight).into()),
                ..message
            },
            ControlCommand::Pause {
                route,
                wait,
                resume_after,
            } => Self {
                route: Some(route.to_string()),
                wait_seconds: wait.map(|time| time.as_secs_f64()),
                for_seconds: Some(resume_after.as_secs_f64()),
                ..message
            },
            ControlCommand::Resume { route } => Self {
                route: Some(route.to_string()),
                ..message
            },
        }
    }
}

/// What is sent to the daemon.
#[must_use]
pub(crate) fn command_to_json(command: &ControlCommand) -> Vec<u8> {
    let json = serde_json::to_vec(&CommandMessage::from(command));
    json.expect("it has strings and numbers, and its times are finite")
}

/// What the daemon was sent.
///
/// # Errors
/// One line that says what is wrong with it.
pub(crate) fn command_from_json(json: &[u8]) -> Result<ControlCommand, String> {
    let message: CommandMessage = serde_json::from_slice(json).map_err(|error| {
        let error = error.to_string();
        let error = Shown::line(error.as_bytes(), SHOWN_CHARS_MAX);
        format!("not a command: {error} (send for example {{\"command\": \"reload\"}})")
    })?;
    let CommandMessage { schema, .. } = message;
    if schema != SCHEMA {
        return Err(format!(
            "a command of another format, {schema}, and this is {PROGRAM} {} with format {SCHEMA} (use its own \
             version to command it)",
            env!("CARGO_PKG_VERSION")
        ));
    }
    message.understand()
}

impl CommandMessage {
    fn understand(self) -> Result<ControlCommand, String> {
        Ok(match &*self.command {
            "reload" => ControlCommand::Reload,
            "upgrade" => ControlCommand::Upgrade,
            "drain" => ControlCommand::Drain {
                route: self.named("route", self.route.as_ref())?,
                endpoint: self.named("endpoint", self.endpoint.as_ref())?,
                wait: self.time("wait_seconds", self.wait_seconds)?,
            },
            "undrain" => ControlCommand::Undrain {
                route: self.named("route", self.route.as_ref())?,
                endpoint: self.named("endpoint", self.endpoint.as_ref())?,
            },
            "weight" => ControlCommand::Weight {
                route: self.named("route", self.route.as_ref())?,
                endpoint: self.named("endpoint", self.endpoint.as_ref())?,
                weight: self.weight()?,
            },
            "pause" => ControlCommand::Pause {
                route: self.named("route", self.route.as_ref())?,
                wait: self.time("wait_seconds", self.wait_seconds)?,
                resume_after: self.pause()?,
            },
            "resume" => ControlCommand::Resume {
                route: self.named("route", self.route.as_ref())?,
            },
            unknown => {
                return Err(format!(
                    "unknown command '{}' to {PROGRAM} {} (it may be one of a newer version)",
                    Shown::line(unknown.as_bytes(), SHOWN_CHARS_MAX),
                    env!("CARGO_PKG_VERSION")
                ));
            }
        })
    }

    fn named<T>(&self, field: &str, text: Option<&String>) -> Result<T, String>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
    {
        let text = text.ok_or_else(|| format!("{}: {field} is missing", self.command))?;
        text.parse().map_err(|error| {
            let shown = Shown::line(text.as_bytes(), SHOWN_CHARS_MAX);
            format!("{}: {field} '{shown}': {error}", self.command)
        })
    }

    fn weight(&self) -> Result<u16, String> {
        let weight = self
            .weight
            .ok_or_else(|| format!("{}: weight is missing", self.command))?;
        weight
            .try_into()
            .map_err(|_| format!("{}: weight {weight}: not from 0 to 65535", self.command))
    }

    fn pause(&self) -> Result<Duration, String> {
        match self.time("for_seconds", self.for_seconds)? {
            None => Ok(PAUSE_DEFAULT),
            Some(Duration::ZERO) => Err(format!(
                "{}: for_seconds 0: no time at all (leave it out for {} s)",
                self.command,
                PAUSE_DEFAULT.as_secs()
            )),
            Some(time) => Ok(time),
        }
    }

    fn time(&self, field: &str, seconds: Option<f64>) -> Result<Option<Duration>, String> {
        let Some(seconds) = seconds else {
            return Ok(None);
        };
        match Duration::try_from_secs_f64(seconds) {
            Ok(time) if time <= TIMEOUT_MAX => Ok(Some(time)),
            Ok(_) | Err(_) => Err(format!(
                "{}: {field} {seconds}: not from 0 to {}",
                self.command,
                TIMEOUT_MAX.as_secs()
            )),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct ReplyMessage {
    program: String,
    schema: u32,
    version: String,
    outcome: ControlOutcome,
    lines: Vec<String>,
}

/// What the daemon answers.
#[must_use]
pub(crate) fn reply_to_json(reply: &ControlReply) -> Vec<u8> {
    let message = ReplyMessage {
        program: PROGRAM.to_owned(),
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        outcome: reply.outcome,
        lines: reply.lines.clone(),
    };
    serde_json::to_vec(&message).expect("it has strings and numbers")
}

/// What the daemon has answered; `None` for what no daemon of this format has.
#[must_use]
pub(crate) fn reply_from_json(json: &[u8]) -> Option<ControlReply> {
    let message: ReplyMessage = serde_json::from_slice(json).ok()?;
    let is_ours = message.program == PROGRAM && message.schema == SCHEMA;
    is_ours.then_some(ControlReply {
        outcome: message.outcome,
        lines: message.lines,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands() -> Vec<ControlCommand> {
        let route = || "php-8.2".parse().unwrap();
        let endpoint = || "192.0.2.1:9000".parse().unwrap();
        let seconds = Duration::from_secs;
        vec![
            ControlCommand::Reload,
            ControlCommand::Upgrade,
            ControlCommand::Drain {
                route: route(),
                endpoint: endpoint(),
                wait: None,
            },
            ControlCommand::Drain {
                route: route(),
                endpoint: "unix:/run/a".parse().unwrap(),
                wait: Some(seconds(300)),
            },
            ControlCommand::Undrain {
                route: route(),
                endpoint: endpoint(),
            },
            ControlCommand::Weight {
                route: route(),
                endpoint: endpoint(),
                weight: 65_535,
            },
            ControlCommand::Pause {
                route: route(),
                wait: Some(Duration::from_millis(1500)),
                resume_after: seconds(60),
            },
            ControlCommand::Resume { route: route() },
        ]
    }

    #[test]
    fn a_command_is_the_same_after_a_journey_as_json() {
        for command in commands() {
            let json = command_to_json(&command);
            assert!(json.len() <= COMMAND_BYTES_MAX);
            assert_eq!(command_from_json(&json), Ok(command));
        }
    }

    #[test]
    fn a_command_can_be_written_by_hand() {
        let pause = br#"{"command": "pause", "route": "php"}"#;
        let understood = ControlCommand::Pause {
            route: "php".parse().unwrap(),
            wait: None,
            resume_after: PAUSE_DEFAULT,
        };
        assert_eq!(command_from_json(pause), Ok(understood));
    }

    #[test]
    fn what_a_newer_client_says_besides_does_no_harm() {
        let reload = br#"{"command": "reload", "news": {"a": 1}}"#;
        assert_eq!(command_from_json(reload), Ok(ControlCommand::Reload));
    }

    #[test]
    fn what_is_wrong_with_a_command_is_said_in_one_line() {
        for (json, problem) in [
            ("", "not a command: "),
            ("[]", "not a command: "),
            ("{}", "missing field `command`"),
            ("{\"command\": \"\\u001b[2J\\n\"}", "unknown command '\\x1b"),
            (r#"{"command": "reboot"}"#, "unknown command 'reboot'"),
            (
                r#"{"command": "reload", "schema": 2}"#,
                "another format, 2, and this is spliceway",
            ),
            (r#"{"command": "resume"}"#, "resume: route is missing"),
            (
                r#"{"command": "resume", "route": "a/b"}"#,
                "resume: route 'a/b': '/' cannot be in the name",
            ),
            (
                r#"{"command": "drain", "route": "a"}"#,
                "drain: endpoint is missing",
            ),
            (
                r#"{"command": "drain", "route": "a", "endpoint": "b"}"#,
                "drain: endpoint 'b': not an endpoint",
            ),
            (
                r#"{"command": "weight", "route": "a", "endpoint": "[::1]:1", "weight": 65536}"#,
                "weight 65536: not from 0 to 65535",
            ),
            (
                r#"{"command": "weight", "route": "a", "endpoint": "[::1]:1"}"#,
                "weight: weight is missing",
            ),
            (
                r#"{"command": "pause", "route": "a", "wait_seconds": -1}"#,
                "wait_seconds -1: not from 0 to 31536000",
            ),
            (
                r#"{"command": "pause", "route": "a", "for_seconds": 0}"#,
                "for_seconds 0: no time at all",
            ),
            (
                r#"{"command": "pause", "route": "a", "for_seconds": 1e300}"#,
                "not from 0 to 31536000",
            ),
        ] {
            let line = command_from_json(json.as_bytes()).unwrap_err();
            assert!(line.contains(problem), "{json}: {line}");
            assert!(!line.contains(char::is_control), "{json}: {line}");
        }
    }

    #[test]
    fn a_reply_is_the_same_after_a_journey_as_json() {
        let lines = || ["route a: added".to_owned(), "ä\n".to_owned()];
        for reply in [
            ControlReply::done([]),
            ControlReply::refused(lines()),
            ControlReply::mistaken(lines()),
        ] {
            assert_eq!(reply_from_json(&reply_to_json(&reply)), Some(reply));
        }
    }

    #[test]
    fn the_answer_of_another_program_is_none() {
        let reply = ControlReply::done([]);
        let ours = String::from_utf8(reply_to_json(&reply)).unwrap();
        for other in [
            String::new(),
            "{}".to_owned(),
            ours.replace(PROGRAM, "haproxy"),
            ours.replace("\"schema\":1", "\"schema\":2"),
        ] {
            assert_eq!(reply_from_json(other.as_bytes()), None, "{other}");
        }
    }
}
