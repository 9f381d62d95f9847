//! From the users and groups that a route names to the numbers by which workers know them.

use std::fs;

use crate::config::{Account, Clients, Config, Route, RouteName};
use crate::sys::net;
use crate::worker::{Allowed, Unmapped, Who};

use super::listener::{self, Cause};
use super::listening::ListeningSocket;

/// Both numbers unless a system was told otherwise (`DEFAULT_OVERFLOWUID` of the kernel).
const OVERFLOW_DEFAULT: u32 = 65_534;

/// Why a route's rules for clients cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("--{option} {account}: {problem}")]
pub struct AccountLookupError {
    option: &'static str,
    account: Account,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    Unknown(Cause),
    #[error(
        "{number} stands for everybody who has no number here, so it is never let in (give the client \
         an account of its own)"
    )]
    Unmapped { number: u32 },
}

/// Those of all routes, in their order.
pub(super) fn look_up_all(config: &Config) -> Result<Vec<Option<Who>>, AccountLookupError> {
    let who = |route: &Route| {
        let allowed = look_up(&route.clients)?;
        Ok(Who::new(allowed, route.clients.per_user_max))
    };
    config.routes.iter().map(who).collect()
}

/// Whether everybody whom the route names exists.
///
/// # Errors
/// The first who does not.
pub(super) fn check(route: &Route) -> Result<(), AccountLookupError> {
    look_up(&route.clients).map(drop)
}

/// `None` where everybody is served.
pub(super) fn look_up(clients: &Clients) -> Result<Option<Allowed>, AccountLookupError> {
    let unmapped = unmapped();
    let users = clients.users.iter().map(|account| {
        let found = listener::user_id(Some(account));
        number("allow-user", account, found, unmapped.user)
    });
    let groups = clients.groups.iter().map(|account| {
        let found = listener::group_id(Some(account));
        number("allow-group", account, found, unmapped.group)
    });
    let allowed = Allowed {
        users: users.collect::<Result<_, _>>()?,
        groups: groups.collect::<Result<_, _>>()?,
        unmapped,
    };
    let names_nobody = allowed.users.is_empty() && allowed.groups.is_empty();
    Ok((!names_nobody).then_some(allowed))
}

fn number(
    option: &'static str,
    account: &Account,
    found: Result<Option<u32>, Cause>,
    unmapped: u32,
) -> Result<u32, AccountLookupError> {
    let error = |problem| AccountLookupError {
        option,
        account: account.clone(),
        problem,
    };
    match found {
        Ok(Some(number)) if number != unmapped => Ok(number),
        Ok(_) => Err(error(Problem::Unmapped { number: unmapped })),
        Err(cause) => Err(error(Problem::Unknown(cause))),
    }
}

/// What this system shows of users and groups without a number here. Without /proc, the defaults.
fn unmapped() -> Unmapped {
    let read = |name| {
        let text = fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?;
        text.trim().parse().ok()
    };
    Unmapped {
        user: read("overflowuid").unwrap_or(OVERFLOW_DEFAULT),
        group: read("overflowgid").unwrap_or(OVERFLOW_DEFAULT),
    }
}

/// Says so where rules for clients meet a listener whose clients nobody knows.
pub(super) fn warn_of_strangers<'a>(
    route: &RouteName,
    who: Option<&Who>,
    listeners: impl Iterator<Item = &'a ListeningSocket>,
) {
    let Some(who) = who else { return };
    for listener in listeners.filter(|l| !net::is_unix(l.fd())) {
        let consequence = match who.is_choosy() {
            true => "--allow-user and --allow-group let none of them in",
            false => "--connections-max-per-user does not limit them",
        };
        tracing::warn!(
            %route,
            "{}: TCP does not tell who a client is: {consequence}",
            listener.place()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(users: &[&str], groups: &[&str]) -> String {
        let parse = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
        let clients = Clients {
            users: parse(users),
            groups: parse(groups),
            per_user_max: None,
        };
        look_up(&clients).err().unwrap().to_string()
    }

    #[test]
    fn who_does_not_exist_is_named_with_the_option() {
        assert_eq!(
            error(&["root", "spliceway-nobody"], &[]),
            "--allow-user spliceway-nobody: no user named spliceway-nobody (create it, or give its \
             number)"
        );
        let error = error(&[], &["spliceway-nobody"]);
        assert!(
            error.starts_with("--allow-group spliceway-nobody: no group named"),
            "{error}"
        );
    }

    #[test]
    fn what_stands_for_everybody_without_a_number_cannot_be_allowed() {
        let Unmapped { user, group } = unmapped();
        let of_user = error(&[&user.to_string()], &[]);
        assert!(
            of_user.starts_with(&format!("--allow-user {user}: {user} stands for everybody")),
            "{of_user}"
        );
        let of_group = error(&[], &[&group.to_string()]);
        assert!(of_group.contains("stands for everybody"), "{of_group}");
    }

    #[test]
    fn nobody_named_means_everybody() {
        assert!(look_up(&Clients::default()).unwrap().is_none());
    }
}
