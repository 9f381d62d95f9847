//! Settings of PHP that a web server may send: PHP_VALUE and PHP_ADMIN_VALUE with nothing but those.
//!
//! PHP-FPM reads the value as a piece of php.ini (`zend_parse_ini_string`): a line ends with `\n` or
//! `\r`; quotes may hold several lines; `[` begins a section or an index, `;` a comment or an end;
//! `${}`, `|`, `&`, `~`, `!` and `()` compute. So only lines of `name=value` pass that hold none of it,
//! and mean to PHP what they say.
//!
//! An allowed setting may have any value, and whoever may write to the socket chooses it. So not every
//! setting can be allowed. What loads or runs code is no closed list, since extensions have settings of
//! their own; what only bounds, formats or switches something harmless can be listed, and is ([`HARMLESS`]).
//! For others there is the allowance of one exact value.

use super::GuardError;

/// The settings that can be allowed: whatever their value, PHP runs, reads and writes no other file for
/// it. `open_basedir` is among them because applications' own recipes set it; whoever may send it may
/// also widen it.
const HARMLESS: &[&str] = &[
    "date.timezone",
    "default_charset",
    "default_mimetype",
    "default_socket_timeout",
    "display_errors",
    "display_startup_errors",
    "error_reporting",
    "expose_php",
    "file_uploads",
    "gd.jpeg_ignore_warning",
    "hard_timeout",
    "html_errors",
    "ignore_repeated_errors",
    "ignore_repeated_source",
    "ignore_user_abort",
    "implicit_flush",
    "intl.default_locale",
    "intl.error_level",
    "log_errors",
    "log_errors_max_len",
    "max_execution_time",
    "max_file_uploads",
    "max_input_nesting_level",
    "max_input_time",
    "max_input_vars",
    "max_multipart_body_parts",
    "mbstring.detect_order",
    "mbstring.encoding_translation",
    "mbstring.http_input",
    "mbstring.http_output",
    "mbstring.internal_encoding",
    "mbstring.language",
    "mbstring.strict_detection",
    "mbstring.substitute_character",
    "memory_limit",
    "open_basedir",
    "output_buffering",
    "pcre.backtrack_limit",
    "pcre.jit",
    "pcre.recursion_limit",
    "post_max_size",
    "precision",
    "realpath_cache_size",
    "realpath_cache_ttl",
    "serialize_precision",
    "session.auto_start",
    "session.cache_expire",
    "session.cache_limiter",
    "session.cookie_domain",
    "session.cookie_httponly",
    "session.cookie_lifetime",
    "session.cookie_path",
    "session.cookie_samesite",
    "session.cookie_secure",
    "session.gc_divisor",
    "session.gc_maxlifetime",
    "session.gc_probability",
    "session.lazy_write",
    "session.name",
    "session.referer_check",
    "session.sid_bits_per_character",
    "session.sid_length",
    "session.use_cookies",
    "session.use_only_cookies",
    "session.use_strict_mode",
    "session.use_trans_sid",
    "soap.wsdl_cache_enabled",
    "soap.wsdl_cache_limit",
    "soap.wsdl_cache_ttl",
    "upload_max_filesize",
    "zlib.output_compression",
    "zlib.output_compression_level",
];

const RUNS: &str = "PHP runs what it names";
const LOADS: &str = "it decides which code PHP loads";
const OPENS: &str = "it opens to a script what is closed to it";
const WRITES: &str = "PHP writes what a client sends to where it leads";
const UNKNOWN: &str =
    "it is none of those that are known to load or run no code, whatever their value";

/// Why the best known of the others cannot be allowed, by the beginning of their names.
const REASONS: &[(&str, &str)] = &[
    ("auto_prepend_file", RUNS),
    ("auto_append_file", RUNS),
    ("assert.", RUNS),
    ("mail.force_extra_parameters", RUNS),
    ("output_handler", RUNS),
    ("sendmail_", RUNS),
    ("unserialize_callback_func", RUNS),
    ("zlib.output_handler", RUNS),
    ("allow_url_include", LOADS),
    ("doc_root", LOADS),
    ("enable_dl", LOADS),
    ("extension", LOADS),
    ("ffi.", LOADS),
    ("include_path", LOADS),
    ("mbstring.func_overload", LOADS),
    ("opcache.", LOADS),
    ("session.save_", LOADS),
    ("session.serialize_handler", LOADS),
    ("short_open_tag", LOADS),
    ("user_dir", LOADS),
    ("user_ini.", LOADS),
    ("zend", LOADS),
    ("allow_url_fopen", OPENS),
    ("cgi.", OPENS),
    ("disable_classes", OPENS),
    ("disable_functions", OPENS),
    ("phar.", OPENS),
    ("register_argc_argv", OPENS),
    ("error_log", WRITES),
    ("mail.log", WRITES),
    ("session.upload_progress.", WRITES),
    ("sys_temp_dir", WRITES),
    ("upload_tmp_dir", WRITES),
];

/// The settings that are allowed on a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings(Vec<&'static str>);

impl Settings {
    pub(super) fn allow(&mut self, name: &str) -> Result<(), GuardError> {
        match HARMLESS.iter().find(|harmless| **harmless == name) {
            Some(harmless) => {
                self.0.push(harmless);
                Ok(())
            }
            None => Err(GuardError::Setting {
                name: name.to_owned(),
                reason: reason(name),
            }),
        }
    }

    /// Whether a value of PHP_VALUE or PHP_ADMIN_VALUE sets nothing but these.
    pub(super) fn allow_value(&self, value: &[u8]) -> bool {
        let mut lines = value.split(|&byte| byte == b'\n');
        !self.0.is_empty() && lines.all(|line| self.allow_line(line))
    }

    fn allow_line(&self, line: &[u8]) -> bool {
        let line = trimmed(line);
        let Some(equals) = line.iter().position(|&byte| byte == b'=') else {
            return line.is_empty();
        };
        let (name, value) = (trimmed(&line[..equals]), trimmed(&line[equals + 1..]));
        let is_allowed = self.0.iter().any(|allowed| allowed.as_bytes() == name);
        is_allowed && !value.is_empty() && value.iter().all(is_plain)
    }
}

fn reason(name: &str) -> &'static str {
    let lower = name.to_ascii_lowercase();
    let known = REASONS.iter().find(|(start, _)| lower.starts_with(start));
    known.map_or(UNKNOWN, |(_, reason)| reason)
}

/// Without the spaces that PHP leaves out around names and values. No other byte is one.
fn trimmed(bytes: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = bytes.iter().position(|byte| !is_space(byte));
    let end = bytes.iter().rposition(|byte| !is_space(byte));
    match (start, end) {
        (Some(start), Some(end)) => &bytes[start..=end],
        _ => &[],
    }
}

/// What numbers, sizes, paths and words are made of.
const fn is_plain(byte: &u8) -> bool {
    matches!(byte, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'/' | b':' | b',' | b'+' | b'-')
}
