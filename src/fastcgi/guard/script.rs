//! Which file a path stands for, as far as its letters tell.
//!
//! PHP-FPM (`init_request_info` in `fpm_main.c`) does not simply open SCRIPT_FILENAME:
//!
//! - it takes `proxy:fcgi://host:port` and `proxy:balancer://name` off its front, in any case, and
//!   then cuts it at the first `?`; some versions then undo its %-encoding;
//! - if the path does not exist or ends with `/`, it runs the longest existing part of it that is a
//!   file (`cgi.fix_pathinfo=1`, the default): of `/etc/passwd/../../srv/a.php` that is `/etc/passwd`;
//! - it runs PATH_TRANSLATED instead if there is no SCRIPT_FILENAME, which the rule requires; if there
//!   is also a REDIRECT_URL, and no prefix of Apache's; or if `cgi.fix_pathinfo=0`;
//! - it refuses a path with `..` in it, but only after all of this.
//!
//! So a path with `..` is never accepted: PHP-FPM runs no such file, only parts of such paths. Without
//! it every part of a path under the root is under the root as well.
//!
//! The suffix is that of any component: the script is the longest part that is a file, and what follows
//! it is PATH_INFO, which many web servers leave in SCRIPT_FILENAME (`/srv/index.php/article/7`).
//!
//! PATH_TRANSLATED is the root and PATH_INFO: of `/index.php/article/7`, `/srv/article/7`. So its suffix
//! says nothing, and only its root counts, unless the parameters tell that PHP runs it. With
//! `cgi.fix_pathinfo=0` they do not tell, and PHP runs what it is: a path under the root, and by
//! `security.limit_extensions` nothing but a script.
//!
//! Two things the letters do not tell. A symbolic link leads where it leads. And which component is the
//! file only the backend knows: in `/srv/a.jpg/b.php` it can be an uploaded `a.jpg`, and in
//! `/srv/a.php/b.jpg` `b.jpg`, if somebody has a directory of that name. PHP-FPM's own
//! `security.limit_extensions` (`.php` by default) looks at the file that it opens.

use super::{GuardError, Rule};

/// What Apache's mod_proxy_fcgi and mod_proxy_balancer put in front of a path.
const APACHE_PREFIXES: [&[u8]; 2] = [b"proxy:fcgi://", b"proxy:balancer://"];

/// How mod_rewrite marks a path that it redirects within Apache. Where rules in a directory do that with
/// the path that PATH_INFO stands for, PATH_TRANSLATED is such a mark, with more of PATH_INFO behind it. PHP would
/// take it for a path below its working directory.
const APACHE_REDIRECT: &[u8] = b"redirect:/";

/// Where scripts may be and how they must be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ScriptRule {
    /// The components of each root; none is the root of all files.
    roots: Vec<Vec<Vec<u8>>>,
    suffix: Vec<u8>,
}

/// Which paths under the root are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strictness {
    /// Files, also behind Apache's prefix.
    File,
    /// Files, and the root itself: that is what PATH_TRANSLATED is without PATH_INFO.
    FileOrRoot,
    /// The same, whatever the suffix.
    Anything,
}

impl ScriptRule {
    /// The rule, if there is a root or a suffix.
    pub(super) fn new(roots: &[String], suffix: Option<&str>) -> Result<Option<Self>, GuardError> {
        if roots.is_empty() && suffix.is_none() {
            return Ok(None);
        }
        let suffix = suffix.map(|suffix| {
            let ok = !suffix.is_empty() && !suffix.contains(['/', '\0']);
            ok.then_some(suffix)
                .ok_or_else(|| GuardError::ScriptSuffix(suffix.to_owned()))
        });
        let mut rule = Self {
            roots: Vec::new(),
            suffix: suffix.transpose()?.unwrap_or_default().as_bytes().to_vec(),
        };
        for root in roots {
            rule.add_root(root.as_bytes())?;
        }
        if roots.is_empty() {
            rule.add_root(b"/")?;
        }
        Ok(Some(rule))
    }

    /// What scripts end with, if that is said.
    pub(super) fn suffix(&self) -> Option<&[u8]> {
        (!self.suffix.is_empty()).then_some(&self.suffix)
    }

    /// One more directory under which scripts may be.
    pub(super) fn add_root(&mut self, root: &[u8]) -> Result<(), GuardError> {
        let wrong = || GuardError::ScriptRoot(String::from_utf8_lossy(root).into_owned());
        let components = components(root).ok_or_else(wrong)?;
        let root: Vec<_> = components.map(<[u8]>::to_vec).collect();
        if !self.roots.contains(&root) {
            self.roots.push(root);
        }
        Ok(())
    }

    /// Whether every file that PHP may make of `path` keeps the rule.
    pub(super) fn check(&self, path: &[u8], strictness: Strictness) -> Result<(), Rule> {
        let prefix = match strictness {
            Strictness::File => apache_prefix_len(path)?,
            // PHP takes nothing off this one.
            Strictness::FileOrRoot | Strictness::Anything => 0,
        };
        let path = &path[prefix..];
        if strictness == Strictness::Anything && path.starts_with(APACHE_REDIRECT) {
            return check_relative(path);
        }
        if prefix == 0 {
            // Here a '?' is a letter like any other, to PHP. Others may cut, so both must do.
            self.check_file(path, strictness)?;
        }
        let cut = until_question_mark(path);
        if cut.len() < path.len() || prefix > 0 {
            self.check_file(cut, strictness)?;
        }
        if prefix > 0 && cut.contains(&b'%') {
            let decoded = percent_decoded(cut);
            if decoded.contains(&0) {
                return Err(Rule::Nul);
            }
            self.check_file(&decoded, strictness)?;
            self.check_file(until_question_mark(&decoded), strictness)?;
        }
        Ok(())
    }

    fn check_file(&self, path: &[u8], strictness: Strictness) -> Result<(), Rule> {
        let components = components(path).ok_or(Rule::ScriptRoot)?;
        let mut verdict = Err(Rule::ScriptRoot);
        for root in &self.roots {
            match self.check_under(root, components.clone(), strictness) {
                Err(Rule::ScriptRoot) => {}
                // A path of the wrong suffix may still be another root.
                wrong @ Err(_) => verdict = wrong,
                Ok(()) => return Ok(()),
            }
        }
        verdict
    }

    fn check_under<'p>(
        &self,
        root: &[Vec<u8>],
        mut components: impl Iterator<Item = &'p [u8]>,
        strictness: Strictness,
    ) -> Result<(), Rule> {
        for wanted in root {
            if components.next() != Some(wanted.as_slice()) {
                return Err(Rule::ScriptRoot);
            }
        }
        let have_suffix = components.map(|part| part.ends_with(&self.suffix));
        match (have_suffix.reduce(|one, other| one || other), strictness) {
            (None, Strictness::File) => Err(Rule::ScriptRoot),
            (None, Strictness::FileOrRoot) | (_, Strictness::Anything) => Ok(()),
            (Some(true), _) => Ok(()),
            (Some(false), _) => Err(Rule::ScriptSuffix),
        }
    }
}

/// Whether Apache put its prefix in front of a SCRIPT_FILENAME.
pub(super) fn has_apache_prefix(path: &[u8]) -> bool {
    matches!(apache_prefix_len(path), Ok(1..))
}

/// A path that PHP puts behind its `doc_root`, if it has one (SCRIPT_NAME; PATH_INFO without
/// `cgi.fix_pathinfo`; REDIRECT_URL can become SCRIPT_NAME): it must not lead out of it.
pub(super) fn check_relative(path: &[u8]) -> Result<(), Rule> {
    let mut parts = path.split(|byte| matches!(byte, b'/' | b'\\'));
    let climbs = parts.any(|part| part == b"..");
    (!climbs).then_some(()).ok_or(Rule::ScriptRoot)
}

/// The components of an absolute path without `..`; nothing for any other. A backslash separates
/// components on some systems, and stands in no script's name.
fn components(path: &[u8]) -> Option<impl Iterator<Item = &[u8]> + Clone> {
    let absolute = path.first() == Some(&b'/');
    let strange = path
        .iter()
        .fold(false, |any, byte| any | matches!(byte, b'\\' | 0));
    let parts = path.split(|&byte| byte == b'/');
    let climbs = path.windows(2).any(|two| two == b"..") && parts.clone().any(|part| part == b"..");
    let components = parts.filter(|part| !matches!(*part, b"" | b"."));
    (absolute && !strange && !climbs).then_some(components)
}

/// How much Apache put in front of the path.
fn apache_prefix_len(path: &[u8]) -> Result<usize, Rule> {
    let starts = |prefix: &&[u8]| {
        let start = path.get(..prefix.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    let Some(prefix) = APACHE_PREFIXES.iter().find(|prefix| starts(prefix)) else {
        return Ok(0);
    };
    let host = &path[prefix.len()..];
    let host_len = host.iter().position(|&byte| byte == b'/');
    // Without a path behind the host PHP keeps all of it, as a relative path.
    host_len
        .map(|len| prefix.len() + len)
        .ok_or(Rule::ScriptRoot)
}

fn until_question_mark(path: &[u8]) -> &[u8] {
    let end = path.iter().position(|&byte| byte == b'?');
    &path[..end.unwrap_or(path.len())]
}

/// As PHP's `php_raw_url_decode`: `%` and two hexadecimal digits are a byte, anything else stays.
fn percent_decoded(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, behind)) = rest.split_first() {
        let byte = match behind {
            [high, low, ..] if first == b'%' => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match byte {
            Some((high, low)) => {
                decoded.push(high << 4 | low);
                rest = &behind[2..];
            }
            None => {
                decoded.push(first);
                rest = behind;
            }
        }
    }
    decoded
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}
