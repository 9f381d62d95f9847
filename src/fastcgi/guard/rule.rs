//! Why a request is rejected, and what to do about it.

use std::fmt;

use super::super::answer::Answer;
use crate::shown::Shown;

/// How much of a parameter's name is shown in the log.
const SHOWN_NAME_CHARS_MAX: usize = 64;

/// How much of a value is shown there: enough to know where it came from.
const SHOWN_VALUE_CHARS_MAX: usize = 80;

/// A reason to reject a request; also a label of the counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// PHP_VALUE: it changes the settings of PHP.
    PhpValue,
    /// PHP_ADMIN_VALUE: it changes all settings of PHP.
    PhpAdminValue,
    /// REQUEST_BODY_FILE: PHP reads the body from that file.
    BodyFile,
    /// A page of PHP-FPM's own: its status, or its ping.
    FpmPage,
    /// A name that the operator denies.
    DeniedParam,
    /// A NUL, at which programs in C end a string.
    Nul,
    /// A name that decides about security comes again, and it is not said which copy counts, or
    /// applications would differ in it.
    Duplicate,
    /// A CONTENT_LENGTH that is no number: programs differ in where the body ends.
    ContentLength,
    /// No SCRIPT_FILENAME, though scripts are restricted: PHP would look elsewhere.
    ScriptMissing,
    /// A path outside the script roots, or one of which PHP might make such a path.
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
    pub const ALL: [Self; 13] = [
        Self::PhpValue,
        Self::PhpAdminValue,
        Self::BodyFile,
        Self::FpmPage,
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

    /// Its place among all.
    #[must_use]
    pub const fn number(self) -> usize {
        self as usize
    }

    /// Its name in metrics and in the log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PhpValue => "php_value",
            Self::PhpAdminValue => "php_admin_value",
            Self::BodyFile => "body_file",
            Self::FpmPage => "fpm_page",
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

    /// What the client gets.
    #[must_use]
    pub const fn answer(self) -> Answer {
        match self {
            Self::ParamsMax => Answer::HeadTooLarge,
            Self::PhpValue
            | Self::PhpAdminValue
            | Self::BodyFile
            | Self::FpmPage
            | Self::DeniedParam
            | Self::Nul
            | Self::Duplicate
            | Self::ContentLength
            | Self::ScriptMissing
            | Self::ScriptRoot
            | Self::ScriptSuffix
            | Self::Role => Answer::Forbidden,
        }
    }

    /// What is wrong and what to do, if the request was meant well.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::PhpValue => {
                "PHP_VALUE changes PHP's settings; if the web server sends it, remove fastcgi_param \
                 PHP_VALUE, or allow each of its settings with --allow-php-setting"
            }
            Self::PhpAdminValue => {
                "PHP_ADMIN_VALUE changes PHP's settings; if the web server sends it, remove \
                 fastcgi_param PHP_ADMIN_VALUE, or allow each of its settings with \
                 --allow-php-setting"
            }
            Self::BodyFile => {
                "PHP would read the request's body from the file that it names; remove fastcgi_param \
                 REQUEST_BODY_FILE, or give --allow-body-file"
            }
            Self::FpmPage => {
                "PHP-FPM may answer with its status or ping, which tell of others' requests; ask it \
                 directly, or name its pages with --fpm-pages ('none' lets all pass, which is right where \
                 no pool has pm.status_path or ping.path)"
            }
            Self::DeniedParam => {
                "--deny-param names it; remove that option, or keep the web server from sending it"
            }
            Self::Nul => "there is a NUL in it, which no web server sends; see who the client is",
            Self::Duplicate => {
                "it came twice; have the web server set it once, under one spelling: with nginx remove the \
                 second fastcgi_param of that name from the location or from the file that it includes \
                 (nginx sends both); copies of one spelling pass with --duplicates last"
            }
            Self::ContentLength => {
                "it is no number; set fastcgi_param CONTENT_LENGTH $content_length"
            }
            Self::ScriptMissing => {
                "there is no SCRIPT_FILENAME; set fastcgi_param SCRIPT_FILENAME \
                 $document_root$fastcgi_script_name, or remove --script-root and --script-suffix"
            }
            Self::ScriptRoot => {
                "it is no path under a --script-root, or has '..'; give the directory as another \
                 --script-root, with $realpath_root also --resolve-script-root, or leave out a \
                 PATH_TRANSLATED that nobody needs with --strip-param"
            }
            Self::ScriptSuffix => {
                "no component ends with --script-suffix; keep the web server from passing such files \
                 on, or change the option"
            }
            Self::ParamsMax => "the request has more parameters than that; raise --max-params",
            Self::Role => "the FastCGI role is not among --roles; add it there",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
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
    pub(super) fn new(rule: Rule, name: &[u8]) -> Self {
        Self {
            rule,
            param: shown(name, SHOWN_NAME_CHARS_MAX),
        }
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

/// A parameter's value for the log: printable ASCII without quotes that are not escaped, and not long.
#[must_use]
pub fn shown_value(value: &[u8]) -> String {
    shown(value, SHOWN_VALUE_CHARS_MAX)
}

fn shown(bytes: &[u8], chars_max: usize) -> String {
    Shown::quoted(bytes, chars_max).to_string()
}
