//! PHP-FPM's own pages: its status (pm.status_path) and its ping (ping.path).
//!
//! PHP-FPM answers them itself, whatever SCRIPT_FILENAME is, when the script's name is such a path. The
//! status tells of all requests of the pool, with their URIs. Where the name comes from
//! (`init_request_info` in fpm_main.c):
//!
//! - SCRIPT_NAME;
//! - REDIRECT_URL, where PATH_TRANSLATED is the script;
//! - PATH_INFO without as many bytes as are behind the script in its path: of /srv/a.php/x and /status/x,
//!   `/status`. With the name of Microsoft's server, SCRIPT_NAME is taken off the front first.
//!
//! PATH_INFO alone is none of these: `/index.php` with `/status` is a page of an application.

use super::{GuardError, Seen};
use crate::fastcgi::Decisive;

/// The paths that php-fpm.conf's own examples and published set-ups have.
pub const FPM_PAGES: [&str; 6] = [
    "/status",
    "/ping",
    "/fpm-status",
    "/fpm-ping",
    "/php-fpm-status",
    "/php-fpm-ping",
];

/// The paths of a route's pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pages(Vec<Vec<u8>>);

impl Pages {
    pub(super) fn new(paths: &[String]) -> Result<Self, GuardError> {
        let bytes = |path: &String| match path.starts_with('/') && path.len() > 1 {
            true => Ok(path.as_bytes().to_vec()),
            false => Err(GuardError::FpmPage(path.clone())),
        };
        paths.iter().map(bytes).collect::<Result<_, _>>().map(Self)
    }

    /// The parameter by which a request names one of them.
    pub(super) fn named_by(&self, seen: &Seen<'_>) -> Option<Decisive> {
        let value = |decisive| seen.kept(decisive).map(|param| param.value);
        let script_name = value(Decisive::SCRIPT_NAME);
        if script_name.is_some_and(|name| self.has(name)) {
            return Some(Decisive::SCRIPT_NAME);
        }
        let translated = value(Decisive::PATH_TRANSLATED);
        let redirected = value(Decisive::REDIRECT_URL).filter(|_| translated.is_some());
        if redirected.is_some_and(|name| self.has(name)) {
            return Some(Decisive::REDIRECT_URL);
        }
        let info = value(Decisive::PATH_INFO)?;
        let behind = script_name.and_then(|name| info.strip_prefix(name));
        let scripts = [value(Decisive::SCRIPT_FILENAME), translated];
        let mut scripts = scripts.into_iter().flatten();
        let is_named = scripts.any(|script| {
            let infos = [Some(info), behind].into_iter().flatten();
            infos.into_iter().any(|info| self.is_left_of(info, script))
        });
        is_named.then_some(Decisive::PATH_INFO)
    }

    fn has(&self, name: &[u8]) -> bool {
        self.0.iter().any(|page| page == name)
    }

    /// Whether a page is left of PATH_INFO without a part as long as one that the script's path may be cut
    /// by, which it is in front of a slash.
    fn is_left_of(&self, info: &[u8], script: &[u8]) -> bool {
        self.0.iter().any(|page| {
            let rest = info.strip_prefix(&**page).map_or(0, <[u8]>::len);
            let cut = script.len().checked_sub(rest).filter(|_| rest > 0);
            cut.is_some_and(|cut| cut > 0 && script[cut] == b'/')
        })
    }
}
