//! The option that has PHP-FPM asked how its pools fare.

use clap::Args;

use super::Conflict;
use crate::config::{FPM_SOURCES_MAX, FpmSource};

/// What a FastCGI route can be told of PHP-FPM.
#[derive(Args)]
pub(super) struct FpmArguments {
    #[arg(
        long,
        value_name = "ADDRESS[PATH]",
        help = "Poll this PHP-FPM status page; repeatable [default: none]",
        long_help = "Ask PHP-FPM every 5s how its pool is doing, for 'spliceway status' and metrics: its \
                     pm.status_listen as IP:PORT, unix:/SOCKET, or :PORT for that port on each address of the route; \
                     append its pm.status_path unless that is /status (behind a socket as ':/PATH'). May be given up \
                     to 16 \
                     times."
    )]
    fpm_status: Vec<FpmSource>,
}

impl FpmArguments {
    /// Whether it is given.
    pub(super) fn given(&self) -> (&'static str, bool) {
        ("fpm-status", !self.fpm_status.is_empty())
    }

    /// Each place once, and not too many.
    pub(super) fn validate(&self) -> Result<Vec<FpmSource>, Conflict> {
        let all = &self.fpm_status;
        if all.len() > FPM_SOURCES_MAX {
            return Err(Conflict::new(
                "fpm-status",
                format!(
                    "--fpm-status: given {} times (use at most {FPM_SOURCES_MAX}; :PORT stands for all addresses of the \
                     route)",
                    all.len()
                ),
            ));
        }
        let again = (1..all.len()).find(|&at| all[..at].iter().any(|it| it.place == all[at].place));
        match again {
            None => Ok(all.clone()),
            Some(at) => Err(Conflict::new(
                "fpm-status",
                format!(
                    "--fpm-status {}: this address is given twice (remove one; each pool has an address of its own)",
                    all[at]
                ),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{REQUIRED, route_with, usage_error};
    use super::*;

    #[test]
    fn several_pools_are_several_options() {
        let route = route_with(
            "--protocol fastcgi --fpm-status :9001 --fpm-status 127.0.0.1:9001/a --fpm-status unix:/s:/b",
        );
        let texts: Vec<_> = route
            .protocol
            .fpm_status()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            texts,
            [":9001/status", "tcp:127.0.0.1:9001/a", "unix:/s:/b"]
        );
        assert!(
            route_with("--protocol fastcgi")
                .protocol
                .fpm_status()
                .is_empty()
        );
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        let many = "--fpm-status :9001 ".repeat(FPM_SOURCES_MAX + 1);
        for (options, problem) in [
            (
                "--fpm-status :9001",
                "--fpm-status without --protocol fastcgi",
            ),
            (
                "--protocol fastcgi --fpm-status php.internal:9001",
                "names are not looked up for this",
            ),
            (
                "--protocol fastcgi --fpm-status :9001/a --fpm-status :9001/b",
                "--fpm-status :9001/b: this address is given twice",
            ),
            (
                &format!("--protocol fastcgi {}", many.trim_end()),
                "given 17 times (use at most 16",
            ),
        ] {
            let error = usage_error(&format!("{REQUIRED} {options}"));
            assert!(error.contains(problem), "{options}: {error}");
        }
    }
}
