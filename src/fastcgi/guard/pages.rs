//! PHP-FPM's own pages: its status (pm.status_path) and its ping (ping.path).
//!
//! PHP-FPM answers them itself, whatever SCRIPT_FILENAME is, when the script's name is such a path. The
//! status tells of all requests of the pool, with their URIs. Where the name comes from
//! (`init_request_info` in fpm_main.c):
//!
//! - SCRIPT_NAME;
//! - REDIRECT_URL, where PATH_TRANSLATED is the script, unless Apache's prefix is in front of SCRIPT_FILENAME;
//! - PATH_INFO: with `cgi.fix_pathinfo=0`, with that prefix, or, with the name of Microsoft's server, behind
//!   SCRIPT_NAME;
//! - PATH_INFO without as many bytes as are behind the script in its path: of /srv/a.php/x and /status/x,
//!   `/status`. With the prefix that is done to SCRIPT_NAME. Only what is behind a file is cut, and files are not
//!   seen from here: a component with the suffix of scripts is taken for one.
//!
//! The setting cannot be seen from here either, so `/index.php` with PATH_INFO `/status` is one of these pages.

use super::{GuardError, Seen, script};
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

/// That of scripts where none is configured.
const USUAL_SUFFIX: &[u8] = b".php";

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
    /// `suffix`: that of scripts, if it is known.
    pub(super) fn named_by(&self, seen: &Seen<'_>, suffix: Option<&[u8]>) -> Option<Decisive> {
        let value = |decisive| seen.kept(decisive).map(|param| param.value);
        let script_name = value(Decisive::SCRIPT_NAME);
        if script_name.is_some_and(|name| self.has(name)) {
            return Some(Decisive::SCRIPT_NAME);
        }
        let script = value(Decisive::SCRIPT_FILENAME);
        let is_apaches = script.is_some_and(script::has_apache_prefix);
        let translated = value(Decisive::PATH_TRANSLATED);
        let redirected = value(Decisive::REDIRECT_URL).filter(|_| translated.is_some());
        if !is_apaches && redirected.is_some_and(|name| self.has(name)) {
            return Some(Decisive::REDIRECT_URL);
        }
        let mut scripts = [script, translated].into_iter().flatten();
        let Some(info) = value(Decisive::PATH_INFO) else {
            let is_named = script_name.filter(|_| is_apaches).is_some_and(|name| {
                script.is_some_and(|script| self.is_left_of(name, script, suffix))
            });
            return is_named.then_some(Decisive::SCRIPT_NAME);
        };
        let behind = script_name.and_then(|name| info.strip_prefix(name));
        let infos = [Some(info), behind];
        let is_named = infos.iter().flatten().any(|info| self.has(info))
            || scripts.any(|script| {
                let mut infos = infos.iter().flatten();
                infos.any(|info| self.is_left_of(info, script, suffix))
            });
        is_named.then_some(Decisive::PATH_INFO)
    }

    fn has(&self, name: &[u8]) -> bool {
        self.0.iter().any(|page| page == name)
    }

    /// Whether a page is left of this without a part as long as one that the script's path may be cut by, which
    /// it is behind a file, in front of a slash.
    fn is_left_of(&self, info: &[u8], script: &[u8], suffix: Option<&[u8]>) -> bool {
        self.0.iter().any(|page| {
            let rest = info.strip_prefix(&**page).map_or(0, <[u8]>::len);
            let cut = script.len().checked_sub(rest).filter(|_| rest > 0);
            cut.is_some_and(|cut| {
                let (file, behind) = script.split_at(cut);
                matches!(behind, [b'/' | b'\\', ..])
                    && file.ends_with(suffix.unwrap_or(USUAL_SUFFIX))
            })
        })
    }
}
