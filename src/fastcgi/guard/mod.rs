//! The guard: which parameters may reach a backend.
//!
//! Whoever may write to a FastCGI socket decides what the application runs and with which settings:
//! PHP_ADMIN_VALUE alone is enough to run code of the client's own. The guard reads every parameter of
//! a request before anything of it is sent, and answers with a [`Verdict`]: pass, pass without some
//! parameters, or reject.
//!
//! It judges what an application reads, not what a client wrote:
//!
//! - the parameters are those of the whole stream, decoded, so neither records nor padding nor the
//!   form of a length can hide one; and they are framed anew for the backend ([`Head::write`]);
//! - a name counts as every name that some application takes it for (`names`);
//! - of a path, everything counts that PHP may make of it (`script`).
//!
//! It sees names and paths, not files: a symbolic link under the script root leads where it leads.

mod names;
mod script;

use std::fmt;
use std::ops::Range;

use super::body::Role;
use super::head::{Head, decimal};
use super::params::Pairs;
use names::{Entry, Names, Part};
use script::{ScriptRule, Strictness};

pub use names::NAME_BYTES_MAX;

/// The default bound on the number of parameters. A server adds about 30 of its own to a request's
/// headers, of which Apache takes 100 (`LimitRequestFields`) and nginx as many as 32 KiB hold; the
/// bound on bytes (`PARAMS_BYTES_MAX`) leaves 64 bytes for each of these 1,024.
pub const PARAMS_MAX: usize = 1024;

/// How much of a parameter's name is shown in the log.
const SHOWN_BYTES_MAX: usize = 64;

/// What the guard is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardOptions {
    /// Names that are rejected, beside PHP_VALUE and PHP_ADMIN_VALUE.
    pub deny: Vec<String>,
    /// Names that are left out, beside HTTP_PROXY.
    pub strip: Vec<String>,
    /// Names with the one value each with which they are neither rejected nor left out.
    pub allow: Vec<(String, String)>,
    /// The directory under which scripts must be.
    pub script_root: Option<String>,
    /// How the names of scripts must end.
    pub script_suffix: Option<String>,
    /// The most parameters of a request.
    pub params_max: usize,
    /// The roles that a client may ask for.
    pub roles: Vec<Role>,
}

impl Default for GuardOptions {
    fn default() -> Self {
        Self {
            deny: Vec::new(),
            strip: Vec::new(),
            allow: Vec::new(),
            script_root: None,
            script_suffix: None,
            params_max: PARAMS_MAX,
            roles: vec![Role::Responder, Role::Authorizer, Role::Filter],
        }
    }
}

/// Why options are no guard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    /// A name that no parameter can have, or a longer one than is ever compared.
    #[error(
        "read a parameter's name '{0}': it must have 1 to {NAME_BYTES_MAX} of the characters A-Z, a-z, \
         0-9, '_' and '-'"
    )]
    Name(String),
    /// A script root that is no absolute path, or one with `..`.
    #[error("read the script root '{0}': it must be an absolute path without '..'")]
    ScriptRoot(String),
    /// A script suffix that no last component of a path can have.
    #[error("read the script suffix '{0}': it must have a character and no '/' (try .php)")]
    ScriptSuffix(String),
}

/// A reason to reject a request; also a label of the counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// PHP_VALUE: it changes the settings of PHP.
    PhpValue,
    /// PHP_ADMIN_VALUE: it changes all settings of PHP.
    PhpAdminValue,
    /// A name that the operator denies.
    DeniedParam,
    /// A NUL, at which programs in C end a string.
    Nul,
    /// A name that decides about security comes twice, and applications differ in which one they take.
    Duplicate,
    /// A CONTENT_LENGTH that is no number: programs differ in where the body ends.
    ContentLength,
    /// No SCRIPT_FILENAME, though scripts are restricted: PHP would look elsewhere.
    ScriptMissing,
    /// A path outside the script root, or one of which PHP might make such a path.
    ScriptRoot,
    /// A path without the script suffix.
    ScriptSuffix,
    /// Too many parameters.
    ParamsMax,
    /// A role that is not served here.
    Role,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::PhpValue,
        Self::PhpAdminValue,
        Self::DeniedParam,
        Self::Nul,
        Self::Duplicate,
        Self::ContentLength,
        Self::ScriptMissing,
        Self::ScriptRoot,
        Self::ScriptSuffix,
        Self::ParamsMax,
        Self::Role,
    ];

    /// Its name in metrics and in the log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PhpValue => "php_value",
            Self::PhpAdminValue => "php_admin_value",
            Self::DeniedParam => "denied_param",
            Self::Nul => "nul",
            Self::Duplicate => "duplicate",
            Self::ContentLength => "content_length",
            Self::ScriptMissing => "script_missing",
            Self::ScriptRoot => "script_root",
            Self::ScriptSuffix => "script_suffix",
            Self::ParamsMax => "params_max",
            Self::Role => "role",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes as it is.
    Pass,
    /// It passes without these bytes of its parameters, in order: an argument of [`Head::write`].
    PassWithout(Vec<Range<usize>>),
    /// Nothing of it reaches a backend.
    Reject(Rejection),
}

/// Which rule a request broke, and with which parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The rule.
    pub rule: Rule,
    /// The parameter's name, escaped and not long; empty where it is not about one.
    pub param: String,
}

impl Rejection {
    fn new(rule: Rule, name: &[u8]) -> Self {
        let shown = &name[..name.len().min(SHOWN_BYTES_MAX)];
        let mut param = shown.escape_ascii().to_string();
        if shown.len() < name.len() {
            param.push('…');
        }
        Self { rule, param }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.param.as_str() {
            "" => write!(f, "{}", self.rule),
            param => write!(f, "{} ({param})", self.rule),
        }
    }
}

/// The policy of one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    names: Names,
    allow: Vec<(Vec<u8>, Vec<u8>)>,
    script: Option<ScriptRule>,
    params_max: usize,
    roles: Vec<Role>,
}

impl Guard {
    /// The guard of these options.
    ///
    /// # Errors
    ///
    /// [`GuardError`], for the first option that cannot be meant.
    pub fn new(options: &GuardOptions) -> Result<Self, GuardError> {
        let mut names = Names::of_php();
        for name in &options.deny {
            names.deny(name)?;
        }
        for name in &options.strip {
            names.strip(name)?;
        }
        for (name, _) in &options.allow {
            names.check(name)?;
        }
        let bytes = |text: &String| text.as_bytes().to_vec();
        Ok(Self {
            names,
            allow: options
                .allow
                .iter()
                .map(|(name, value)| (bytes(name), bytes(value)))
                .collect(),
            script: ScriptRule::new(
                options.script_root.as_deref(),
                options.script_suffix.as_deref(),
            )?,
            params_max: options.params_max,
            roles: options.roles.clone(),
        })
    }

    /// Judges a request by its head.
    ///
    /// # Panics
    ///
    /// If the head is not complete: the reader tells of it only when its pairs were read.
    #[must_use]
    pub fn judge(&self, head: &Head) -> Verdict {
        match self.rejected(head) {
            Ok(gaps) if gaps.is_empty() => Verdict::Pass,
            Ok(gaps) => Verdict::PassWithout(gaps),
            Err(rejection) => Verdict::Reject(rejection),
        }
    }

    /// The ranges to leave out, or why not to pass.
    fn rejected(&self, head: &Head) -> Result<Vec<Range<usize>>, Rejection> {
        if !self.roles.contains(&head.role()) {
            return Err(Rejection::new(Rule::Role, b""));
        }
        let bytes = head.params();
        let mut gaps = Vec::new();
        let mut seen = Seen::default();
        let mut pairs = Pairs::new(bytes);
        let mut start = 0;
        while let Some(pair) = pairs.next() {
            let (name, value) = pair.expect("a head is told of when its pairs were read");
            let end = bytes.len() - pairs.left();
            seen.params += 1;
            match self.param(name, value, &mut seen) {
                Ok(Kept::Yes) => {}
                Ok(Kept::No) => gaps.push(start..end),
                Err(rule) => return Err(Rejection::new(rule, name)),
            }
            start = end;
        }
        if self.script.is_some() && !seen.script {
            return Err(Rejection::new(Rule::ScriptMissing, b""));
        }
        Ok(gaps)
    }

    fn param(&self, name: &[u8], value: &[u8], seen: &mut Seen) -> Result<Kept, Rule> {
        if seen.params > self.params_max {
            return Err(Rule::ParamsMax);
        }
        if value.contains(&0) {
            return Err(Rule::Nul);
        }
        let judge = |entry: &Entry| self.named(entry, name, value, seen);
        if names::is_plain(name) {
            return self.names.exactly(name).map_or(Ok(Kept::Yes), judge);
        }
        if name.contains(&0) {
            return Err(Rule::Nul);
        }
        self.names.alike(name, judge)
    }

    /// A parameter whose name some application takes for that of `entry`.
    fn named(
        &self,
        entry: &Entry,
        name: &[u8],
        value: &[u8],
        seen: &mut Seen,
    ) -> Result<Kept, Rule> {
        if (entry.deny.is_some() || entry.strip) && !self.allows(name, value) {
            if let Some(rule) = entry.deny {
                return Err(rule);
            }
            if entry.strip {
                // Nobody will see it, so nothing else matters.
                return Ok(Kept::No);
            }
        }
        if let Some(bit) = entry.unique {
            if seen.unique & bit != 0 {
                return Err(Rule::Duplicate);
            }
            seen.unique |= bit;
        }
        self.part(entry.part, name, value, seen)?;
        Ok(Kept::Yes)
    }

    fn part(
        &self,
        part: Option<Part>,
        name: &[u8],
        value: &[u8],
        seen: &mut Seen,
    ) -> Result<(), Rule> {
        match (part, &self.script) {
            (Some(Part::ContentLength), _) if value.is_empty() => Ok(()),
            (Some(Part::ContentLength), _) => decimal(value).map(drop).ok_or(Rule::ContentLength),
            (Some(Part::ScriptFilename), Some(script)) => {
                seen.script |= name == b"SCRIPT_FILENAME";
                script.check(value, Strictness::File)
            }
            (Some(Part::PathTranslated), Some(script)) => {
                script.check(value, Strictness::FileOrRoot)
            }
            (Some(Part::Relative), Some(_)) => script::check_relative(value),
            (Some(_), None) | (None, _) => Ok(()),
        }
    }

    fn allows(&self, name: &[u8], value: &[u8]) -> bool {
        let mut pairs = self.allow.iter();
        pairs.any(|(allowed, exactly)| allowed == name && exactly == value)
    }
}

/// Whether a parameter stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Yes,
    No,
}

/// What of a head was read.
#[derive(Debug, Default)]
struct Seen {
    params: usize,
    /// The bits of the names that may come once.
    unique: u64,
    script: bool,
}

#[cfg(test)]
mod tests;
