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
//! - of a path, everything counts that PHP may make of it (`script`);
//! - of a name that decides about security a backend gets one copy, the one that was judged: that is the
//!   last of several, as PHP has it, and the others are cut out. Web servers send such copies as a matter
//!   of course, because nginx adds to what an included file sets. Two spellings of one name, of which
//!   applications may take either, are never let through.
//!
//! It sees names and paths, not files: a symbolic link under the script root leads where it leads.

mod names;
mod pages;
mod rule;
mod script;
mod settings;

use std::ops::Range;

use super::head::{Head, decimal};
use names::{DECISIVE, Entry, Meaning, Names};
use pages::Pages;
use script::{ScriptRule, Strictness};
use settings::Settings;
use spliceway_common::fastcgi::{Pairs, Role};

pub use names::{Decisive, NAME_BYTES_MAX};
pub use pages::FPM_PAGES;
pub use rule::{Rejection, Rule, shown_value};

/// The default bound on the number of parameters. A server adds about 30 of its own to a request's
/// headers, of which Apache takes 100 (`LimitRequestFields`) and nginx as many as 32 KiB hold; the
/// bound on bytes (`PARAMS_BYTES_MAX`) leaves 256 bytes for each of these 1,024.
pub const PARAMS_MAX: usize = 1024;

/// What becomes of a second copy of a name that decides about security.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Duplicates {
    /// The last copy counts, and is the only one that a backend gets.
    #[default]
    Last,
    /// The request is rejected.
    Reject,
}

/// What the guard is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardOptions {
    /// Names that are rejected, beside PHP_VALUE, PHP_ADMIN_VALUE and REQUEST_BODY_FILE.
    pub deny: Vec<String>,
    /// Names that are left out, beside HTTP_PROXY.
    pub strip: Vec<String>,
    /// Names that only the program itself sets: what comes under them is left out.
    pub own: Vec<String>,
    /// Names with the one value each with which they are neither rejected nor left out.
    pub allow: Vec<(String, String)>,
    /// Settings of PHP that PHP_VALUE and PHP_ADMIN_VALUE may change.
    pub allow_settings: Vec<String>,
    /// Whether REQUEST_BODY_FILE may pass.
    pub allow_body_file: bool,
    /// The paths of PHP-FPM's own pages, which nobody gets.
    pub fpm_pages: Vec<String>,
    /// What becomes of second copies.
    pub duplicates: Duplicates,
    /// The directories under one of which scripts must be.
    pub script_roots: Vec<String>,
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
            own: Vec::new(),
            allow: Vec::new(),
            allow_settings: Vec::new(),
            allow_body_file: false,
            fpm_pages: FPM_PAGES.map(str::to_owned).to_vec(),
            duplicates: Duplicates::Last,
            script_roots: Vec::new(),
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
    /// A name that the program cannot have for itself.
    #[error(
        "keep the parameter '{name}' for the program's own value: {reason} (choose another name)"
    )]
    Own {
        /// The parameter.
        name: String,
        /// Why it cannot.
        reason: &'static str,
    },
    /// A setting of PHP of which not every value can be allowed.
    #[error(
        "read the PHP setting '{name}': {reason} (remove it, or allow exactly one value with --allow-param \
         PHP_VALUE={name}=VALUE)"
    )]
    Setting {
        /// The setting.
        name: String,
        /// Why it cannot be allowed.
        reason: &'static str,
    },
    /// A page of PHP-FPM's that is no path.
    #[error(
        "read the page of PHP-FPM '{0}': it must begin with '/' (write it as in pm.status_path, or 'none')"
    )]
    FpmPage(String),
    /// A script root that is no absolute path, or one with `..`.
    #[error("read the script root '{0}': it must be an absolute path without '..'")]
    ScriptRoot(String),
    /// A script suffix that no last component of a path can have.
    #[error("read the script suffix '{0}': it must have a character and no '/' (try .php)")]
    ScriptSuffix(String),
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes as it is.
    Pass,
    /// It passes without some of its parameters.
    PassWithout(Cut),
    /// Nothing of it reaches a backend.
    Reject(Rejection),
}

/// What a backend does not get of a request's parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// The bytes, in order: an argument of [`Head::write`].
    pub ranges: Vec<Range<usize>>,
    /// Which names came with different values, each once.
    pub overridden: Vec<Overridden>,
}

/// A name that came with different values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overridden {
    /// The name.
    pub param: Decisive,
    /// Where in the parameters the value is that was cut out; of several the last.
    pub ignored: Range<usize>,
    /// Where the one is that counts.
    pub counted: Range<usize>,
}

/// The policy of one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    names: Names,
    allow: Vec<(Vec<u8>, Vec<u8>)>,
    settings: Settings,
    duplicates: Duplicates,
    pages: Pages,
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
        if options.allow_body_file {
            names.allow_body_file();
        }
        for name in &options.deny {
            names.deny(name)?;
        }
        for name in &options.strip {
            names.strip(name)?;
        }
        for (name, _) in &options.allow {
            names.check(name)?;
        }
        for name in &options.own {
            names.own(name)?;
        }
        if let Some((name, _)) = options.allow.iter().find(|(name, _)| names.is_own(name)) {
            return Err(GuardError::Own {
                name: name.clone(),
                reason: "--allow-param lets clients set it",
            });
        }
        let mut settings = Settings::default();
        for name in &options.allow_settings {
            settings.allow(name)?;
        }
        let bytes = |text: &String| text.as_bytes().to_vec();
        Ok(Self {
            names,
            allow: options
                .allow
                .iter()
                .map(|(name, value)| (bytes(name), bytes(value)))
                .collect(),
            settings,
            duplicates: options.duplicates,
            pages: Pages::new(&options.fpm_pages)?,
            script: ScriptRule::new(&options.script_roots, options.script_suffix.as_deref())?,
            params_max: options.params_max,
            roles: options.roles.clone(),
        })
    }

    /// Lets scripts be under one more directory, if they are restricted.
    ///
    /// # Errors
    ///
    /// [`GuardError::ScriptRoot`].
    pub fn add_script_root(&mut self, root: &[u8]) -> Result<(), GuardError> {
        match &mut self.script {
            Some(script) => script.add_root(root),
            None => Ok(()),
        }
    }

    /// Whether scripts are restricted to directories or to a suffix.
    #[must_use]
    pub fn restricts_scripts(&self) -> bool {
        self.script.is_some()
    }

    /// Judges a request by its head.
    ///
    /// # Panics
    ///
    /// If the head is not complete: the reader tells of it only when its pairs were read.
    #[must_use]
    pub fn judge(&self, head: &Head) -> Verdict {
        match self.rejected(head) {
            Ok(cut) if cut.ranges.is_empty() => Verdict::Pass,
            Ok(cut) => Verdict::PassWithout(cut),
            Err(rejection) => Verdict::Reject(rejection),
        }
    }

    /// What to leave out, or why not to pass.
    fn rejected(&self, head: &Head) -> Result<Cut, Rejection> {
        if !self.roles.contains(&head.role()) {
            return Err(Rejection::new(Rule::Role, b""));
        }
        let bytes = head.params();
        let mut seen = Seen::of(bytes);
        let mut pairs = Pairs::new(bytes);
        let mut start = 0;
        while let Some(pair) = pairs.next() {
            let (name, value) = pair.expect("a head is told of when its pairs were read");
            let end = bytes.len() - pairs.left();
            let param = Param { name, value, start };
            seen.params += 1;
            match self.param(&param, &mut seen) {
                Ok(Kept::Yes) => {}
                Ok(Kept::No) => seen.cut.ranges.push(start..end),
                Err(rule) => return Err(Rejection::new(rule, name)),
            }
            start = end;
        }
        self.judge_kept(&seen)?;
        seen.leave_out_unknown_length();
        Ok(seen.into_cut())
    }

    fn param(&self, param: &Param<'_>, seen: &mut Seen<'_>) -> Result<Kept, Rule> {
        if seen.params > self.params_max {
            return Err(Rule::ParamsMax);
        }
        if param.value.contains(&0) {
            return Err(Rule::Nul);
        }
        let name = param.name;
        let judge = |entry: &Entry| self.named(entry, param, seen);
        if names::is_plain(name) {
            return self.names.exactly(name).map_or(Ok(Kept::Yes), judge);
        }
        if name.contains(&0) {
            return Err(Rule::Nul);
        }
        self.names.alike(name, judge)
    }

    /// A parameter whose name some application takes for that of `entry`. Every copy has to get past
    /// the rules about names; those about values are for the one that is left ([`Guard::judge_kept`]).
    fn named(&self, entry: &Entry, param: &Param<'_>, seen: &mut Seen<'_>) -> Result<Kept, Rule> {
        if (entry.deny.is_some() || entry.strip) && !self.allows(param) {
            if let Some(rule) = entry.deny {
                return Err(rule);
            }
            if entry.strip {
                if let Some(decisive) = entry.decisive {
                    seen.strip(decisive)?;
                }
                // Nobody will see it, so nothing else matters.
                return Ok(Kept::No);
            }
        }
        if let Some(decisive) = entry.decisive {
            seen.keep(decisive, param, self.duplicates)?;
        }
        Ok(Kept::Yes)
    }

    /// Judges the values that a backend gets.
    fn judge_kept(&self, seen: &Seen<'_>) -> Result<(), Rejection> {
        let mut has_script = false;
        for (decisive, part) in Decisive::with_part(seen.kept) {
            let param = seen.kept(decisive).expect("its bit is set");
            has_script |= param.name == b"SCRIPT_FILENAME";
            let verdict = self.part(part, param.value, seen);
            verdict.map_err(|rule| Rejection::new(rule, param.name))?;
        }
        let suffix = self.script.as_ref().and_then(ScriptRule::suffix);
        if let Some(decisive) = self.pages.named_by(seen, suffix) {
            return Err(Rejection::new(Rule::FpmPage, decisive.name().as_bytes()));
        }
        if self.script.is_some() && !has_script {
            return Err(Rejection::new(Rule::ScriptMissing, b""));
        }
        Ok(())
    }

    fn part(&self, part: Meaning, value: &[u8], seen: &Seen<'_>) -> Result<(), Rule> {
        match (part, &self.script) {
            (Meaning::ContentLength, _) if value.is_empty() || value == UNKNOWN_LENGTH => Ok(()),
            (Meaning::ContentLength, _) => decimal(value).map(drop).ok_or(Rule::ContentLength),
            (_, None) => Ok(()),
            (Meaning::ScriptFilename, Some(script)) => script.check(value, Strictness::File),
            (Meaning::PathTranslated, Some(script)) => {
                script.check(value, seen.strictness_of_path_translated())
            }
            (Meaning::Relative, Some(_)) => script::check_relative(value),
        }
    }

    fn allows(&self, param: &Param<'_>) -> bool {
        let is_setting = matches!(param.name, b"PHP_VALUE" | b"PHP_ADMIN_VALUE");
        if is_setting && self.settings.allow_value(param.value) {
            return true;
        }
        let mut pairs = self.allow.iter();
        pairs.any(|(name, value)| name == param.name && value == param.value)
    }
}

/// The CONTENT_LENGTH with which Go's programs, Caddy among them, say that they do not know it.
const UNKNOWN_LENGTH: &[u8] = b"-1";

/// Whether a parameter stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Yes,
    No,
}

/// A parameter, which begins at `start`.
struct Param<'a> {
    name: &'a [u8],
    value: &'a [u8],
    start: usize,
}

/// What of a head was read.
#[derive(Debug)]
struct Seen<'a> {
    bytes: &'a [u8],
    params: usize,
    /// The bits of the decisive names of which a copy is kept.
    kept: u32,
    /// Of those of which copies are left out, because the operator wants it.
    stripped: u32,
    /// Where the copies begin that are kept.
    starts: [usize; DECISIVE],
    cut: Cut,
}

impl<'a> Seen<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            params: 0,
            kept: 0,
            stripped: 0,
            starts: [0; DECISIVE],
            cut: Cut::default(),
        }
    }

    /// Keeps a copy instead of the one before it.
    fn keep(
        &mut self,
        decisive: Decisive,
        param: &Param<'_>,
        duplicates: Duplicates,
    ) -> Result<(), Rule> {
        if self.stripped & decisive.bit() != 0 {
            return Err(Rule::Duplicate);
        }
        let earlier = self.kept(decisive);
        self.kept |= decisive.bit();
        self.starts[decisive.number()] = param.start;
        let Some(earlier) = earlier else {
            return Ok(());
        };
        // Of two spellings, which one an application reads is its own affair.
        if duplicates == Duplicates::Reject || earlier.name != param.name {
            return Err(Rule::Duplicate);
        }
        let (pair, value) = self.ranges(earlier.start);
        if earlier.value != param.value {
            let cut = &mut self.cut.overridden;
            cut.retain(|other| other.param != decisive);
            cut.push(Overridden {
                param: decisive,
                ignored: value,
                // The last copy is not known before the end.
                counted: 0..0,
            });
        }
        self.cut.ranges.push(pair);
        Ok(())
    }

    /// Leaves a copy out. With one that is kept, it would be unclear which of them the body's length, for
    /// example, was taken from.
    fn strip(&mut self, decisive: Decisive) -> Result<(), Rule> {
        self.stripped |= decisive.bit();
        match self.kept & decisive.bit() {
            0 => Ok(()),
            _ => Err(Rule::Duplicate),
        }
    }

    /// PHP takes it for a length that no body reaches, and waits for the rest for ever: a client that uploads in
    /// chunks would hold a worker each time. Without a length it finds no body.
    fn leave_out_unknown_length(&mut self) {
        let length = self.kept(Decisive::CONTENT_LENGTH);
        if let Some(param) = length.filter(|param| param.value == UNKNOWN_LENGTH) {
            let (pair, _) = self.ranges(param.start);
            self.cut.ranges.push(pair);
        }
    }

    /// The copy that a backend gets.
    fn kept(&self, decisive: Decisive) -> Option<Param<'a>> {
        if self.kept & decisive.bit() == 0 {
            return None;
        }
        let start = self.starts[decisive.number()];
        let pair = Pairs::new(&self.bytes[start..]).next();
        let (name, value) = pair.and_then(Result::ok).expect("it was read before");
        Some(Param { name, value, start })
    }

    /// Where the pair is that begins at `start`, and where its value.
    fn ranges(&self, start: usize) -> (Range<usize>, Range<usize>) {
        let mut pairs = Pairs::new(&self.bytes[start..]);
        let pair = pairs.next().and_then(Result::ok);
        let (_, value) = pair.expect("it was read before");
        let end = self.bytes.len() - pairs.left();
        (start..end, end - value.len()..end)
    }

    /// PATH_TRANSLATED is what PHP runs if there is a REDIRECT_URL and SCRIPT_FILENAME has no prefix of
    /// Apache's (`script`).
    fn strictness_of_path_translated(&self) -> Strictness {
        let has_redirect = self.kept & Decisive::REDIRECT_URL.bit() != 0;
        let script = self.kept(Decisive::SCRIPT_FILENAME);
        let is_of_apache = script.is_some_and(|param| script::has_apache_prefix(param.value));
        match has_redirect && !is_of_apache {
            true => Strictness::FileOrRoot,
            false => Strictness::Anything,
        }
    }

    fn into_cut(mut self) -> Cut {
        for at in 0..self.cut.overridden.len() {
            let start = self.starts[self.cut.overridden[at].param.number()];
            self.cut.overridden[at].counted = self.ranges(start).1;
        }
        let mut cut = self.cut;
        // An earlier copy is found by a later one, and a name can be alike to two others.
        cut.ranges.sort_unstable_by_key(|range| range.start);
        cut.ranges.dedup();
        cut
    }
}

#[cfg(test)]
mod tests;
