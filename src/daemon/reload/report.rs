//! What is said of a reload.

use crate::config::{Effective, RouteName};

use super::take_over::{Became, Outcome};

/// Keys of the daemon whose new values count from now on.
const CHANGEABLE: [&str; 2] = ["drain-timeout", "exit-idle-time"];

/// A line for each route that is not as it was, and for each key that stays as it is.
pub(super) fn report(
    outcome: &Outcome,
    before: &Effective,
    after: &Effective,
    at_start: &Effective,
) -> Vec<String> {
    let mut lines = Vec::new();
    for (key, value) in &after.daemon {
        let of = |effective: &Effective| {
            let mut keys = effective.daemon.iter();
            keys.find(|(other, _)| other == key).map(|(_, value)| value.clone())
        };
        let is_changeable = CHANGEABLE.contains(&key.as_str());
        let stays = if is_changeable { before } else { at_start };
        let Some(other) = of(stays).filter(|other| other != value) else {
            continue;
        };
        lines.push(match is_changeable {
            true => format!("{key}: {value} (it was {other})"),
            false => format!(
                "{key} = {value}: cannot change while the daemon runs (restart it): it stays {other}"
            ),
        });
    }
    for (name, became) in outcome {
        let line = match became {
            Became::Added => "added".to_owned(),
            Became::Removed => "removed".to_owned(),
            Became::Changed => changed(before, after, name),
            Became::Unchanged => continue,
        };
        lines.push(format!("route {name}: {line}"));
    }
    let unchanged = outcome.iter().filter(|(_, became)| *became == Became::Unchanged);
    match unchanged.count() {
        0 => {}
        1 => lines.push("1 route is unchanged".to_owned()),
        count => lines.push(format!("{count} routes are unchanged")),
    }
    lines
}

/// With the keys that are different. What they name may be another thing than before: then they are the same.
fn changed(before: &Effective, after: &Effective, name: &RouteName) -> String {
    let keys = after.changed_keys(before, name);
    match keys.is_empty() {
        true => "changed: what its keys name (accounts or script roots)".to_owned(),
        false => format!("changed: {}", keys.join(", ")),
    }
}
