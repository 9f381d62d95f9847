//! The bodies of the fuzz targets in `fuzz/`.
//!
//! Compiled for the fuzzer (`--cfg fuzzing`) and for the crate's own tests, which run them over the
//! corpus and over random bytes, so that they keep building and passing on stable Rust.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;

use crate::cli;
use crate::config::{BackendAddress, ListenAddress};
use crate::worker::simulation;

/// Addresses: whatever is accepted is printed so that it parses to the same again.
pub fn addresses(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(address) = text.parse::<ListenAddress>() {
        assert_eq!(address.to_string().parse(), Ok(address));
    }
    if let Ok(address) = text.parse::<BackendAddress>() {
        assert_eq!(address.to_string().parse(), Ok(address));
    }
}

/// The configuration, which is the command line: words separated by newlines. Whatever is refused
/// is refused in one line.
pub fn command_line(data: &[u8]) {
    let words = data.split(|&byte| byte == b'\n');
    let words = words.map(|word| OsString::from_vec(word.to_vec()));
    let line = std::iter::once(OsString::from("spliceway")).chain(words);
    // No file is read: what a name leads to is not for a fuzzer to find out.
    match cli::parse_with(line, |_| Err(io::ErrorKind::NotFound.into())) {
        Err(cli::Stop::Usage(error)) => {
            let text = error.to_string();
            assert!(!text.contains('\n'), "more than a line: {text:?}");
        }
        Err(cli::Stop::File(errors)) => assert_lines(&errors),
        Ok(_) | Err(cli::Stop::Answer(_) | cli::Stop::NoArguments(_)) => {}
    }
}

/// A configuration file. Whatever is refused is refused with a line for each mistake; whatever is taken
/// is printed so that it means the same again.
pub fn config_file(data: &[u8]) {
    let check = |content: &[u8]| {
        let line = ["spliceway", "check", "--config", "file"].map(OsString::from);
        match cli::parse_with(line, |_| Ok(content.to_vec())) {
            Ok(cli::Cli {
                command: cli::Command::Check(check),
            }) => Some(check),
            Err(cli::Stop::File(errors)) => {
                assert_lines(&errors);
                None
            }
            other => panic!("a file that is neither taken nor refused: {other:?}"),
        }
    };
    if let Some(first) = check(data) {
        let again = check(first.effective.as_bytes()).expect("what is printed is taken");
        assert_eq!(first.run.config, again.run.config);
        assert_eq!(first.run.logging, again.run.logging);
        assert_eq!(first.effective, again.effective);
    }
}

fn assert_lines(errors: &cli::FileErrors) {
    assert!(errors.lines().next().is_some(), "refused without a word");
    for line in errors.lines() {
        assert!(!line.contains('\n'), "more than a line: {line:?}");
    }
}

/// The session machine, in a simulated kernel whose every choice is a byte of the input.
pub fn sessions(data: &[u8]) {
    simulation::run_script(data);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    /// Every file of a target's corpus. There is at least one.
    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(target);
        let entries = fs::read_dir(&directory).unwrap();
        let files: Vec<_> = entries
            .map(|entry| fs::read(entry.unwrap().path()).unwrap())
            .collect();
        assert!(!files.is_empty(), "{} is empty", directory.display());
        files
    }

    #[test]
    fn the_corpus_passes() {
        corpus("addresses").iter().for_each(|data| addresses(data));
        corpus("command_line")
            .iter()
            .for_each(|data| command_line(data));
        corpus("config_file")
            .iter()
            .for_each(|data| config_file(data));
        corpus("sessions").iter().for_each(|data| sessions(data));
    }

    proptest! {
        #[test]
        fn any_text_is_an_address_or_refused(text in "(unix:|tcp:)?[@/\\[\\]a-z0-9.:_-]{0,60}") {
            addresses(text.as_bytes());
        }

        #[test]
        fn any_bytes_are_a_command_line_or_refused(
            data in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            command_line(&data);
        }

        #[test]
        fn any_bytes_are_a_file_or_refused(data in prop::collection::vec(any::<u8>(), 0..200)) {
            config_file(&data);
        }

        #[test]
        fn any_lines_are_a_file_or_refused(lines in prop::collection::vec(
            "\\[(route\\.[a-b]|defaults|.{0,5})\\]\
             |(listen|backend|mode|owner|check|shards|per-endpoint-max|removed-endpoint|workers|pin\
             |control|idle-timeout) = (\"(unix:/[ab]|b:1|off|8|660|5s|keep|.{0,9})\"|[0-9]{1,2}|true\
             |\\[(\"unix:/[ab]\"(, )?){0,2}\\])|.{0,12}",
            0..12,
        )) {
            config_file(lines.join("\n").as_bytes());
        }

        #[test]
        fn any_bytes_are_a_script_that_breaks_no_rule(
            data in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            sessions(&data);
        }
    }
}
