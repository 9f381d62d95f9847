//! The defects that `scripts/soak planted` plants can be planted: their patches are of the code as it is.

// For the helpers beside the tests.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// Of seeds, as in SPLICEWAY_SIM_BACKENDS; of each there are those on the epoll driver.
const KINDS: [&str; 13] = [
    "tcp",
    "inherited",
    "mixed",
    "families",
    "limited",
    "users",
    "fastcgi",
    "auto",
    "byhand",
    "routes",
    "workers",
    "successions",
    "reloads",
];

fn patches() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/planted");
    // Where all are found, there is no directory of those that are not.
    let dirs = [root.join("missed"), root].into_iter();
    let all = dirs.filter(|dir| dir.exists()).flat_map(|dir| {
        let entries = fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().path())
    });
    all.filter(|path| path.extension().is_some_and(|ext| ext == "patch"))
        .collect()
}

/// What the files of a patch are to have, hunk by hunk: its context, and what it takes away.
fn before(patch: &str) -> Vec<(&str, String)> {
    let (mut file, mut hunks) = ("", Vec::new());
    for line in patch.lines() {
        if let Some(name) = line.strip_prefix("--- a/") {
            file = name.split_whitespace().next().unwrap();
        } else if line.starts_with("@@") {
            hunks.push((file, String::new()));
        } else if let Some((_, text)) = hunks.last_mut()
            && !line.starts_with(['+', '\\'])
        {
            // An editor may have taken the blank of an empty line.
            text.push_str(line.get(1..).unwrap_or_default());
            text.push('\n');
        }
    }
    hunks
}

#[test]
fn each_defect_can_be_planted_and_says_what_it_is() {
    let patches = patches();
    assert!(patches.len() > 20, "{patches:?}");
    let rules = fs::read_to_string("src/driver/sim/mod.rs").unwrap();
    for path in patches {
        let patch = fs::read_to_string(&path).unwrap();
        let head = |name: &str| {
            let mut lines = patch.lines().take_while(|line| !line.starts_with("---"));
            let found = lines.find_map(|line| line.strip_prefix(name));
            found.unwrap_or_else(|| panic!("{}: no line {name}", path.display()))
        };
        assert!(!head("Defect: ").is_empty());
        let kind = head("Seeds: ");
        let of = kind.strip_prefix("epoll-").unwrap_or(kind);
        assert!(KINDS.contains(&of), "{}: {kind}", path.display());
        for rule in head("Rules: ").split(", ") {
            let is_listed = rule == "assertion" || rules.contains(&format!("`{rule}`"));
            assert!(is_listed, "{}: no rule {rule}", path.display());
        }
        let hunks = before(&patch);
        assert!(!hunks.is_empty(), "{}: no hunk", path.display());
        for (file, text) in hunks {
            let code = fs::read_to_string(file).unwrap();
            let is_there = code.contains(&text);
            assert!(is_there, "{}: {file} has no\n{text}", path.display());
        }
    }
}
