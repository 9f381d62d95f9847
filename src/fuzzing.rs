//! The bodies of the fuzz targets in `fuzz/`.
//!
//! Compiled for the fuzzer (`--cfg fuzzing`) and for the crate's own tests, which run them over the
//! corpus and over random bytes, so that they keep building and passing on stable Rust.

use std::ffi::OsString;
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
    match cli::parse_from(line) {
        Err(cli::Stop::Usage(error)) => {
            let text = error.to_string();
            assert!(!text.contains('\n'), "more than a line: {text:?}");
        }
        Ok(_) | Err(cli::Stop::Answer(_) | cli::Stop::NoArguments(_)) => {}
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
        fn any_bytes_are_a_script_that_breaks_no_rule(
            data in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            sessions(&data);
        }
    }
}
