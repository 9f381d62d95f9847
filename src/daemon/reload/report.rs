//! What is said of a reload.

use crate::config::{Effective, RouteName, Written};

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
    let mut lines = of_daemon(before, after, at_start);
    for (name, became) in outcome {
        let line = match became {
            Became::Added => "added".to_owned(),
            Became::Removed => "removed".to_owned(),
            Became::Changed => changed(before, after, name),
            Became::Unchanged => continue,
        };
        lines.push(format!("route {name}: {line}"));
    }
    let unchanged = outcome
        .iter()
        .filter(|(_, became)| *became == Became::Unchanged);
    match unchanged.count() {
        0 => {}
        1 => lines.push("1 route is unchanged".to_owned()),
        count => lines.push(format!("{count} routes are unchanged")),
    }
    lines
}

/// Of what has no route.
fn of_daemon(before: &Effective, after: &Effective, at_start: &Effective) -> Vec<String> {
    let mut lines = Vec::new();
    let is_changeable = |key: &&str| CHANGEABLE.contains(key);
    let changed = before.daemon.changed_keys(&after.daemon);
    let written = |effective: &Effective, key: &str| match effective.daemon.get(key) {
        Some(Written::Value(written) | Written::Unset(written)) => written.clone(),
        None => String::new(),
    };
    for key in changed.into_iter().filter(is_changeable) {
        let (was, is) = (written(before, key), written(after, key));
        lines.push(format!("{key}: {is} (it was {was})"));
    }
    let other = at_start.daemon.changed_keys(&after.daemon);
    for key in other.into_iter().filter(|key| !is_changeable(key)) {
        let (is, stays) = (written(after, key), written(at_start, key));
        lines.push(format!(
            "{key}: {is} takes a restart of the daemon; until then it stays {stays}"
        ));
    }
    lines
}

/// With the keys that are different. What they name may be another thing than before: then they are the same.
fn changed(before: &Effective, after: &Effective, name: &RouteName) -> String {
    let keys = match (before.route(name), after.route(name)) {
        (Some(before), Some(after)) => before.changed_keys(after),
        _ => Vec::new(),
    };
    match keys.is_empty() {
        true => "changed: what its keys name (accounts, or where script roots lead)".to_owned(),
        false => format!("changed: {}", keys.join(", ")),
    }
}
