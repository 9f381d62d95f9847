//! What the documents about security promise is tried by tests, which are there.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

const DOCUMENTS: [&str; 2] = ["SECURITY.md", "docs/security.md"];

/// Where words in backticks begin that name files of the repository.
const FOLDERS: [&str; 5] = ["src/", "tests/", "crates/", "scripts/", "deploy/"];

/// What stands in backticks on this line, except for what is no path of ours.
fn references(line: &str) -> impl Iterator<Item = &str> {
    let quoted = line.split('`').skip(1).step_by(2);
    quoted.filter(|word| FOLDERS.iter().any(|folder| word.starts_with(folder)))
}

/// What is wrong with a reference: a file, or a test of one as `FILE: NAME`.
fn fault(reference: &str) -> Option<String> {
    let (file, test) = match reference.split_once(": ") {
        Some((file, test)) => (file, Some(test)),
        // A command has its words behind it.
        None => (reference.split(' ').next().unwrap(), None),
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let Some(test) = test else {
        return (!path.exists()).then(|| format!("there is no {file}"));
    };
    let Ok(text) = fs::read_to_string(path) else {
        return Some(format!("there is no {file}"));
    };
    // Where tests are made of it for both engines, its file is a module of the one that lists it.
    (!text.contains(&format!("fn {test}("))).then(|| format!("{file} has no {test}"))
}

#[test]
fn every_test_and_file_that_is_named_exists() {
    let mut count = 0;
    for document in DOCUMENTS {
        let text = fs::read_to_string(document).unwrap();
        for (line, number) in text.lines().zip(1..) {
            for reference in references(line) {
                count += usize::from(reference.contains(": "));
                assert_eq!(fault(reference), None, "{document}, line {number}");
            }
        }
    }
    assert!(count > 50, "only {count} tests were found");
}

#[test]
fn every_attack_that_is_promised_to_fail_is_tried() {
    let text = fs::read_to_string("SECURITY.md").unwrap();
    let (_, promised) = text.split_once("\n## What is promised\n").unwrap();
    let (promised, _) = promised.split_once("\n## ").unwrap();
    let rows = promised.lines().filter(|line| line.starts_with("| "));
    let rows: Vec<_> = rows.filter(|row| *row != "| attack | tests |").collect();
    assert!(rows.len() > 20, "{rows:?}");
    for row in rows {
        let tests = references(row).filter(|reference| reference.contains(": "));
        assert_ne!(tests.count(), 0, "{row}");
    }
}

#[test]
fn what_is_not_there_is_found() {
    assert_eq!(fault("tests/who.rs: users_and_groups_add_up"), None);
    assert_eq!(fault("tests/who.rs"), None);
    assert_eq!(fault("scripts/package --check-reproducible"), None);
    for gone in [
        "tests/who.rs: users_and_groups",
        "tests/whom.rs",
        "tests/whom.rs: a",
    ] {
        assert!(fault(gone).is_some(), "{gone}");
    }
}
