//! As whom the daemon runs, and what it renounces.
//!
//! Rights belong to threads. What the C library does not change in all of them, capabilities that could come
//! back and the promise to take none, is given up before the first thread starts ([`renounce`]). User and
//! groups follow when everything is bound ([`settle`]); that empties the capabilities of every thread which
//! acted as root. At the end each thread is looked at, and one last attempt to be root has to fail.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use crate::config::{Access, Account, Config, RunAs};
use crate::sys::account::{self, User};
use crate::sys::{Errno, privileges};

const ROOT: u32 = 0;

/// How rights are shown that somebody has none of (proc_pid_status(5)).
const NO_CAPABILITIES: &str = "0000000000000000";

/// Why the daemon cannot run as the user that it was told.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum PrivilegeError {
    #[error("renounce privileges: {step}")]
    Renounce { step: &'static str, source: Errno },
    #[error("--user {user}: look it up")]
    LookUp { user: RunAs, source: io::Error },
    #[error("--user {user}: no user named {name} (create it, or give numbers: USER:GROUP)")]
    UnknownUser { user: RunAs, name: String },
    #[error("--user {user}: no group named {name} (create it, or give its number)")]
    UnknownGroup { user: RunAs, name: String },
    #[error(
        "--user {user}: no user has this number, so its group is not known (write {user}:GROUP)"
    )]
    UnknownGroupOf { user: RunAs },
    #[error("--user {user}: root keeps all rights (choose another user, or leave --user out)")]
    Root { user: RunAs },
    #[error(
        "run as user {user}: only root may become another user (start as root, or leave --user out)"
    )]
    NotRoot { user: RunAs },
    #[error("run as user {user}: {step} (start as root with CAP_SETUID and CAP_SETGID)")]
    Change {
        user: RunAs,
        step: &'static str,
        source: Errno,
    },
    #[error(
        "run as user {user}: {problem} (start it as root, without securebits, or leave --user out)"
    )]
    Kept { user: RunAs, problem: String },
}

/// Gives up what threads inherit, whatever the configuration says. To be called before any thread starts.
///
/// # Errors
/// If the kernel does not allow even that.
pub fn renounce(config: &Config) -> Result<(), PrivilegeError> {
    let step = |step| move |source| PrivilegeError::Renounce { step, source };
    privileges::forbid_new_privileges().map_err(step("promise to gain none"))?;
    if config.user.is_none() {
        return Ok(());
    }
    match privileges::empty_bounding_set() {
        // Without CAP_SETPCAP. With the promise, no program that is executed gets any of them anyway.
        Ok(()) | Err(Errno(libc::EPERM)) => {}
        Err(source) => return Err(step("empty the bounding set")(source)),
    }
    privileges::empty_inheritable_set().map_err(step("empty the inheritable set"))?;
    if privileges::users()[1] != ROOT {
        // Only root's are emptied by the change of the user.
        privileges::give_up_capabilities().map_err(step("give capabilities up"))?;
    }
    Ok(())
}

/// Whom the daemon is to become.
pub(super) struct Identity {
    asked: RunAs,
    user: u32,
    group: u32,
    /// Supplementary ones.
    groups: Vec<u32>,
}

impl Identity {
    /// `None` if nothing is to change.
    pub(super) fn look_up(config: &Config) -> Result<Option<Self>, PrivilegeError> {
        config.user.as_ref().map(Self::of).transpose()
    }

    fn of(asked: &RunAs) -> Result<Self, PrivilegeError> {
        let failed = |source| PrivilegeError::LookUp {
            user: asked.clone(),
            source,
        };
        let (number, entry) = match &asked.user {
            Account::Id(id) => (Some(*id), account::user_by_id(*id).map_err(failed)?),
            Account::Name(name) => (None, account::user_by_name(name).map_err(failed)?),
        };
        let user = number.or_else(|| entry.as_ref().map(|entry| entry.id));
        let user = user.ok_or_else(|| PrivilegeError::UnknownUser {
            user: asked.clone(),
            name: asked.user.to_string(),
        })?;
        if user == ROOT {
            return Err(PrivilegeError::Root {
                user: asked.clone(),
            });
        }
        let (group, groups) = match (&asked.group, entry) {
            // With a group, that one and no other.
            (Some(group), _) => (group_id(asked, group)?, Vec::new()),
            (None, Some(User { name, group, .. })) => {
                let groups = account::groups_of(&name, group).map_err(failed)?;
                (group, groups)
            }
            (None, None) => {
                return Err(PrivilegeError::UnknownGroupOf {
                    user: asked.clone(),
                });
            }
        };
        Ok(Self {
            asked: asked.clone(),
            user,
            group,
            groups,
        })
    }

    /// Who may use the control socket: the one as whom the daemon runs, and root.
    pub(super) fn own(&self, access: Access) -> Access {
        Access {
            owner: Some(Account::Id(self.user)),
            group: Some(Account::Id(self.group)),
            ..access
        }
    }

    /// Whether this process could become that user, before anything is done.
    pub(super) fn check_rights(&self) -> Result<(), PrivilegeError> {
        let now = privileges::users();
        if now[1] == ROOT || now == [self.user; 3] {
            return Ok(());
        }
        Err(PrivilegeError::NotRoot {
            user: self.asked.clone(),
        })
    }

    /// Says who it is.
    pub(super) fn announce(&self) {
        tracing::info!(
            uid = self.user,
            gid = self.group,
            groups = ?self.groups,
            "running as user {}, without further rights",
            self.asked
        );
    }

    fn assume(&self) -> Result<(), PrivilegeError> {
        let step = |step| {
            move |source| PrivilegeError::Change {
                user: self.asked.clone(),
                step,
                source,
            }
        };
        match privileges::set_groups(&self.groups) {
            // Who has them already needs no right to set them.
            Err(Errno(libc::EPERM)) if self.has_groups().map_err(step("read the groups"))? => {}
            outcome => outcome.map_err(step("set the groups"))?,
        }
        privileges::set_group(self.group).map_err(step("set the group"))?;
        privileges::set_user(self.user).map_err(step("set the user"))?;
        privileges::give_up_capabilities().map_err(step("give capabilities up"))
    }

    fn has_groups(&self) -> Result<bool, Errno> {
        let groups = privileges::groups()?;
        Ok(self.further(&groups) == self.further(&self.groups))
    }

    /// In order, without the group that the process has anyway.
    fn further(&self, groups: &[u32]) -> Vec<u32> {
        let mut further: Vec<_> = groups
            .iter()
            .copied()
            .filter(|&g| g != self.group)
            .collect();
        further.sort_unstable();
        further.dedup();
        further
    }

    /// Whether there is a way back, or a thread that has not come along.
    fn verify(&self) -> Result<(), PrivilegeError> {
        let kept = |problem| PrivilegeError::Kept {
            user: self.asked.clone(),
            problem,
        };
        if privileges::try_user(ROOT).is_ok() {
            return Err(kept("it can be root again".to_owned()));
        }
        let has_group = self.group == ROOT || self.groups.contains(&ROOT);
        if !has_group && privileges::try_group(ROOT).is_ok() {
            return Err(kept("it can have the group of root again".to_owned()));
        }
        // Without /proc, the attempts have to do.
        let Ok(threads) = fs::read_dir("/proc/self/task") else {
            return Ok(());
        };
        for thread in threads.filter_map(Result::ok) {
            let Ok(status) = fs::read_to_string(thread.path().join("status")) else {
                continue;
            };
            if let Some(problem) = self.find_rights(&status) {
                return Err(kept(problem));
            }
        }
        Ok(())
    }

    /// The first line of a thread's status (proc_pid_status(5)) that is not as it should be.
    fn find_rights(&self, status: &str) -> Option<String> {
        let (user, group) = (self.user.to_string(), self.group.to_string());
        let groups = self.groups.iter().chain([&self.group]);
        let groups: BTreeSet<_> = groups.map(u32::to_string).collect();
        let is_kept = |line: &&str| {
            let Some((key, value)) = line.split_once(':') else {
                return false;
            };
            let mut words = value.split_whitespace();
            match key {
                "Uid" => words.any(|word| word != user),
                "Gid" => words.any(|word| word != group),
                "Groups" => words.any(|word| !groups.contains(word)),
                "CapInh" | "CapPrm" | "CapEff" | "CapAmb" => words.any(|w| w != NO_CAPABILITIES),
                _ => false,
            }
        };
        let name = status.lines().find_map(|line| line.strip_prefix("Name:"));
        let line = status.lines().find(is_kept)?.trim_end().replace('\t', " ");
        Some(format!(
            "thread {} still has {line}",
            name.unwrap_or_default().trim()
        ))
    }
}

fn group_id(asked: &RunAs, group: &Account) -> Result<u32, PrivilegeError> {
    let name = match group {
        Account::Id(id) => return Ok(*id),
        Account::Name(name) => name,
    };
    let found = account::group_id(name).map_err(|source| PrivilegeError::LookUp {
        user: asked.clone(),
        source,
    })?;
    found.ok_or_else(|| PrivilegeError::UnknownGroup {
        user: asked.clone(),
        name: name.clone(),
    })
}

/// Becomes whom it is to be, if anybody, for good; and in any case keeps its memory to itself. Everything
/// that takes rights has been done.
pub(super) fn settle(identity: Option<&Identity>) -> Result<(), PrivilegeError> {
    if let Some(identity) = identity {
        identity.assume()?;
        identity.verify()?;
    }
    // After the change of the user, which would undo it.
    privileges::forbid_dumps().map_err(|source| PrivilegeError::Renounce {
        step: "keep memory out of core dumps",
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            asked: "33:34".parse().unwrap(),
            user: 33,
            group: 34,
            groups: Vec::new(),
        }
    }

    fn status(uid: &str, gid: &str, permitted: &str) -> String {
        format!(
            "Name:\tlog\nUid:\t{uid}\nGid:\t{gid}\nGroups:\t \nCapInh:\t{NO_CAPABILITIES}\n\
             CapPrm:\t{permitted}\nCapEff:\t{NO_CAPABILITIES}\nCapBnd:\t000001ffffffffff\n"
        )
    }

    #[test]
    fn a_thread_that_keeps_something_is_found_with_what_it_keeps() {
        let (uid, gid) = ("33\t33\t33\t33", "34\t34\t34\t34");
        let find = |status: String| identity().find_rights(&status);
        let nothing = status(uid, gid, NO_CAPABILITIES);
        assert_eq!(find(nothing.clone()), None);
        let with_groups = |groups| find(nothing.replace("Groups:\t ", groups));
        assert_eq!(with_groups("Groups:\t34 "), None);
        assert_eq!(
            with_groups("Groups:\t34 0 ").as_deref(),
            Some("thread log still has Groups: 34 0")
        );
        for (status, problem) in [
            (
                status("33\t33\t0\t33", gid, NO_CAPABILITIES),
                "thread log still has Uid: 33 33 0 33",
            ),
            (
                status(uid, "34\t34\t34\t0", NO_CAPABILITIES),
                "thread log still has Gid: 34 34 34 0",
            ),
            (
                status(uid, gid, "0000000000000400"),
                "thread log still has CapPrm: 0000000000000400",
            ),
        ] {
            assert_eq!(find(status).as_deref(), Some(problem));
        }
    }

    #[test]
    fn with_a_group_there_is_no_other_one() {
        let identity = Identity::of(&"root:34".parse().unwrap());
        assert!(matches!(identity, Err(PrivilegeError::Root { .. })));
        let identity = Identity::of(&"4294967000:34".parse().unwrap()).unwrap();
        assert_eq!((identity.user, identity.group), (4_294_967_000, 34));
        assert!(identity.groups.is_empty());
    }

    #[test]
    fn groups_are_compared_without_order_and_without_the_first_one() {
        let identity = identity();
        assert_eq!(identity.further(&[7, 34, 5, 7]), [5, 7]);
        assert_eq!(identity.further(&[]), identity.further(&[34]));
    }
}
