//! The parts of pages in docs/ that are generated from the code.
//!
//! A part stands between two comments that name it. Its test makes it anew and compares; with `SPLICEWAY_BLESS=1`, it
//! is written instead.

use std::env;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// What has parts written.
const BLESS: &str = "SPLICEWAY_BLESS";

/// Parts of one page are written one after the other.
static WRITING: Mutex<()> = Mutex::new(());

/// Checks that the part of the page, by its path in the repository, is this text.
pub(crate) fn assert_part(page: &str, part: &str, text: &str) {
    let _turn = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let whole = fs::read_to_string(&path).unwrap();
    let begin = format!("<!-- generated: {part} -->\n");
    let end = format!("<!-- end of {part} -->\n");
    let (before, rest) = whole
        .split_once(&begin)
        .unwrap_or_else(|| panic!("{page} lacks {begin}"));
    let (found, after) = rest
        .split_once(&end)
        .unwrap_or_else(|| panic!("{page} lacks {end}"));
    let wanted = format!("\n{text}\n");
    if found == wanted {
        return;
    }
    if env::var_os(BLESS).is_some() {
        fs::write(&path, [before, &begin, &wanted, &end, after].concat()).unwrap();
        return;
    }
    let differs = found
        .lines()
        .zip(wanted.lines())
        .find(|(found, wanted)| found != wanted);
    panic!(
        "the part '{part}' of {page} is not what the code says: {BLESS}=1 with this test writes it anew; {differs:?}"
    );
}

/// Text in a cell of a table.
pub(crate) fn cell(text: &str) -> String {
    text.replace('|', r"\|").replace('\n', " ")
}
