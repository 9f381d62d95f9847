//! Which parameter a name stands for.
//!
//! PHP-FPM compares names byte by byte (`fcgi_hash_get`), but not every reader is that strict, and one
//! who takes a name for another is enough:
//!
//! - `$_SERVER` has names as PHP makes variables of them (`php_register_variable_ex`): spaces in
//!   front are left out, ` `, `.` and an unclosed `[` become `_`, and `[` begins an index;
//! - libfcgi (fcgiwrap, perl's FCGI) keeps `NAME=VALUE` strings and finds a name up to the first
//!   `=` (`FCGX_GetParam`);
//! - environment variables have no case on Windows, nor in some frameworks.
//!
//! So names are compared after all of this was undone. Ordinary names need nothing of it: they are
//! looked up as they are.

use std::fmt;

use super::{GuardError, Kept, Rule};

/// How many names decide about security.
pub(super) const DECISIVE: usize = 21;

/// The longest name in a rule. Nothing that web servers send comes near it.
pub const NAME_BYTES_MAX: usize = 128;

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    name: Vec<u8>,
    last: u8,
    /// Rejected, by this rule.
    pub(super) deny: Option<Rule>,
    /// Left out.
    pub(super) strip: bool,
    /// Left out because the program sets it itself.
    own: bool,
    /// Of its copies one counts.
    pub(super) decisive: Option<Decisive>,
}

/// What a value is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    ContentLength,
    ScriptFilename,
    PathTranslated,
    /// A path that PHP puts behind `doc_root` or takes PATH_INFO from.
    Relative,
}

/// A name that decides about security: a backend gets one copy of it, and that one was judged. Where
/// both of two were read, a check and its use could see different ones: PHP-FPM keeps the last
/// (`fcgi_hash_set`), libfcgi finds the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decisive(u8);

/// The names, and what their values are about.
const NAMES: [(&str, Option<Meaning>); DECISIVE] = [
    // What is run: PHP-FPM's `init_request_info` makes the path from these.
    ("SCRIPT_FILENAME", Some(Meaning::ScriptFilename)),
    ("PATH_TRANSLATED", Some(Meaning::PathTranslated)),
    ("SCRIPT_NAME", Some(Meaning::Relative)),
    ("PATH_INFO", Some(Meaning::Relative)),
    ("REDIRECT_URL", Some(Meaning::Relative)),
    // Where PHP looks for .user.ini, and what applications build paths from.
    ("DOCUMENT_ROOT", None),
    // Which settings of php.ini count ([HOST=…]), and which site an application takes itself for.
    ("SERVER_NAME", None),
    // "Microsoft-IIS" changes what PATH_INFO means.
    ("SERVER_SOFTWARE", None),
    // What was asked for, which is what access rules are about.
    ("REQUEST_METHOD", None),
    ("REQUEST_URI", None),
    ("QUERY_STRING", None),
    // Where the body ends, what it is, and which file it is taken from instead.
    ("CONTENT_LENGTH", Some(Meaning::ContentLength)),
    ("CONTENT_TYPE", None),
    ("REQUEST_BODY_FILE", None),
    // Who asks, and over what.
    ("REMOTE_USER", None),
    ("AUTH_TYPE", None),
    ("REMOTE_ADDR", None),
    ("HTTPS", None),
    // php-cgi's `cgi.force_redirect` asks for it.
    ("REDIRECT_STATUS", None),
    // Settings of PHP, where some are allowed.
    ("PHP_VALUE", None),
    ("PHP_ADMIN_VALUE", None),
];

/// Those whose values are checked.
const WITH_PART: u32 = {
    let (mut bits, mut number) = (0, 0);
    while number < DECISIVE {
        bits |= (NAMES[number].1.is_some() as u32) << number;
        number += 1;
    }
    bits
};

impl Decisive {
    pub(super) const CONTENT_LENGTH: Self = Self::of("CONTENT_LENGTH");
    pub(super) const SCRIPT_FILENAME: Self = Self::of("SCRIPT_FILENAME");
    pub(super) const SCRIPT_NAME: Self = Self::of("SCRIPT_NAME");
    pub(super) const PATH_INFO: Self = Self::of("PATH_INFO");
    pub(super) const PATH_TRANSLATED: Self = Self::of("PATH_TRANSLATED");
    pub(super) const REDIRECT_URL: Self = Self::of("REDIRECT_URL");

    /// All of them, in the order of their numbers.
    pub const ALL: [Self; DECISIVE] = {
        let mut all = [Self(0); DECISIVE];
        let mut number = 1;
        while number < DECISIVE {
            all[number] = Self(all[number - 1].0 + 1);
            number += 1;
        }
        all
    };

    /// The name, as web servers write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        NAMES[self.number()].0
    }

    /// Its place among all.
    #[must_use]
    pub const fn number(self) -> usize {
        self.0 as usize
    }

    /// The one of this name, which has to be one of them.
    const fn of(name: &str) -> Self {
        let mut number = 0;
        while !names_equal(NAMES[number].0.as_bytes(), name.as_bytes()) {
            number += 1;
        }
        Self::ALL[number]
    }

    /// Those among the names of `bits` whose values are checked.
    pub(super) fn with_part(bits: u32) -> impl Iterator<Item = (Self, Meaning)> {
        let mut left = bits & WITH_PART;
        std::iter::from_fn(move || {
            let number = (left != 0).then(|| left.trailing_zeros() as usize)?;
            left &= left - 1;
            Some((Self::ALL[number], NAMES[number].1?))
        })
    }

    /// A bit of its own.
    pub(super) const fn bit(self) -> u32 {
        1 << self.0
    }
}

const fn names_equal(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut at = 0;
    while at < one.len() {
        if one[at] != other[at] {
            return false;
        }
        at += 1;
    }
    true
}

impl fmt::Display for Decisive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The names that a guard knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    /// By length, because that tells most names apart. A name of `len` bytes is in `by_len[len]`.
    by_len: Vec<Vec<Entry>>,
}

impl Names {
    /// What holds for every guard.
    pub(super) fn of_php() -> Self {
        let mut names = Self {
            by_len: vec![Vec::new(); NAME_BYTES_MAX + 1],
        };
        for decisive in Decisive::ALL {
            names.entry(decisive.name()).decisive = Some(decisive);
        }
        // httpoxy: a request header "Proxy" becomes what programs take for their proxy.
        names.entry("HTTP_PROXY").strip = true;
        names.entry("PHP_VALUE").deny = Some(Rule::PhpValue);
        names.entry("PHP_ADMIN_VALUE").deny = Some(Rule::PhpAdminValue);
        names.entry("REQUEST_BODY_FILE").deny = Some(Rule::BodyFile);
        names
    }

    /// REQUEST_BODY_FILE is like any other name.
    pub(super) fn allow_body_file(&mut self) {
        self.entry("REQUEST_BODY_FILE").deny = None;
    }

    pub(super) fn deny(&mut self, name: &str) -> Result<(), GuardError> {
        self.check(name)?;
        self.entry(name).deny.get_or_insert(Rule::DeniedParam);
        Ok(())
    }

    pub(super) fn strip(&mut self, name: &str) -> Result<(), GuardError> {
        self.check(name)?;
        self.entry(name).strip = true;
        Ok(())
    }

    /// Only the program itself sets it, once.
    pub(super) fn own(&mut self, name: &str) -> Result<(), GuardError> {
        self.check(name)?;
        let entry = self.entry(name);
        let reason = match entry {
            Entry { own: true, .. } => "it has another one by this name",
            Entry {
                decisive: Some(_), ..
            } => "applications and the guard decide by it",
            Entry { deny: Some(_), .. } => "it is denied",
            Entry { strip: true, .. } => "it is left out of every request",
            Entry { .. } => {
                (entry.own, entry.strip) = (true, true);
                return Ok(());
            }
        };
        let name = name.to_owned();
        Err(GuardError::Own { name, reason })
    }

    /// Whether only the program itself sets it.
    pub(super) fn is_own(&self, name: &str) -> bool {
        let name = name.to_ascii_uppercase();
        self.exactly(name.as_bytes()).is_some_and(|entry| entry.own)
    }

    /// Whether a rule can be about this name.
    pub(super) fn check(&self, name: &str) -> Result<(), GuardError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        let ok = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed);
        ok.then_some(())
            .ok_or_else(|| GuardError::Name(name.to_owned()))
    }

    fn entry(&mut self, name: &str) -> &mut Entry {
        let name = name.to_ascii_uppercase().into_bytes();
        let same_len = &mut self.by_len[name.len()];
        let place = same_len.iter().position(|entry| entry.name == name);
        let place = place.unwrap_or_else(|| {
            same_len.push(Entry {
                last: name.last().copied().unwrap_or_default(),
                name,
                deny: None,
                strip: false,
                own: false,
                decisive: None,
            });
            same_len.len() - 1
        });
        &mut same_len[place]
    }

    /// Asks `judge` about every entry that `name`, which is not plain, may stand for. It stays if all
    /// of them let it.
    pub(super) fn alike(
        &self,
        name: &[u8],
        mut judge: impl FnMut(&Entry) -> Result<Kept, Rule>,
    ) -> Result<Kept, Rule> {
        let mut ask = |name: &[u8]| self.exactly(name).map_or(Ok(Kept::Yes), &mut judge);
        let mut buffer = [0; NAME_BYTES_MAX];
        let mut len = 0;
        let name = name.trim_ascii_start();
        for &byte in name.iter().take_while(|&&byte| byte != b'=') {
            // Either the name is over here, or this is a letter like others.
            if byte == b'[' && ask(&buffer[..len])? == Kept::No {
                return Ok(Kept::No);
            }
            let Some(place) = buffer.get_mut(len) else {
                return Ok(Kept::Yes);
            };
            *place = folded(byte);
            len += 1;
        }
        if ask(&buffer[..len])? == Kept::No {
            return Ok(Kept::No);
        }
        self.as_a_header(&mut buffer[..len], judge)
    }

    /// Applications that make headers of names again (`HTTP_A_B` is `A-B`) take dashes and underscores for the same. Only
    /// what the program sets itself is kept from those: nobody else's copy may stand beside it.
    fn as_a_header(
        &self,
        name: &mut [u8],
        judge: impl FnOnce(&Entry) -> Result<Kept, Rule>,
    ) -> Result<Kept, Rule> {
        if !name.contains(&b'-') {
            return Ok(Kept::Yes);
        }
        let dashes = name.iter_mut().filter(|byte| **byte == b'-');
        dashes.for_each(|byte| *byte = b'_');
        let own = self.exactly(name).filter(|entry| entry.own);
        own.map_or(Ok(Kept::Yes), judge)
    }

    /// The entry of a plain name.
    pub(super) fn exactly(&self, name: &[u8]) -> Option<&Entry> {
        let same_len = self.by_len.get(name.len())?;
        // The last byte tells most names of the same length apart without a call.
        let last = name.last()?;
        let same_end = same_len.iter().filter(|entry| entry.last == *last);
        same_end.into_iter().find(|entry| entry.name == name)
    }
}

/// Whether every byte stands for itself whoever reads it. Looks at all of them, because that way
/// they are compared many at a time.
pub(super) fn is_plain(name: &[u8]) -> bool {
    let odd = |byte: &u8| !matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_');
    !name.iter().fold(false, |any, byte| any | odd(byte))
}

/// What a byte of a name is taken for.
const fn folded(byte: u8) -> u8 {
    match byte {
        b' ' | b'.' | b'[' => b'_',
        byte => byte.to_ascii_uppercase(),
    }
}
