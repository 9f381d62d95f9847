//! The documents: their links lead somewhere, every page can be found, the first ones are short, and what they quote of the
//! log is what the program writes.

// For the helpers beside the tests.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

/// What a first reader takes the time for.
const README_LINES_MAX: usize = 250;
const ARCHITECTURE_LINES_MAX: usize = 220;

/// A first reader has seen a command by here.
const FIRST_COMMAND_LINES_MAX: usize = 15;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// All files with this extension below a directory of the repository, without what builds leave.
fn files(under: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![root().join(under)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let is_ours = name == ".github" || !(name.starts_with('.') || name == "target");
            if path.is_dir() && is_ours {
                directories.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A page without its code blocks.
fn prose(markdown: &str) -> String {
    let mut text = String::new();
    let mut in_block = false;
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// Prose without what is between backticks.
fn without_code(prose: &str) -> String {
    let mut text = String::new();
    let mut rest = prose;
    while let Some(at) = rest.find('`') {
        text.push_str(&rest[..at]);
        let ticks = rest[at..].chars().take_while(|c| *c == '`').count();
        let (fence, behind) = rest[at..].split_at(ticks);
        rest = match behind.split_once(fence) {
            Some((_, behind)) => behind,
            None => behind,
        };
    }
    text + rest
}

/// Where links of a page lead, as they are written.
fn links(markdown: &str) -> Vec<String> {
    let text = without_code(&prose(markdown));
    let targets = text.split("](").skip(1);
    let targets = targets.filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target.to_owned()).collect()
}

/// The anchors of headings, as GitHub makes them.
fn anchors(markdown: &str) -> BTreeSet<String> {
    let mut times = HashMap::new();
    let prose = prose(markdown);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    let headings = headings.filter_map(|line| line.trim_start_matches('#').strip_prefix(' '));
    headings
        .map(|heading| {
            let is_kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
            let kept: String = heading
                .trim()
                .to_lowercase()
                .chars()
                .filter(is_kept)
                .collect();
            let anchor = kept.replace(' ', "-");
            let seen: &mut u32 = times.entry(anchor.clone()).or_default();
            *seen += 1;
            match *seen {
                1 => anchor,
                again => format!("{anchor}-{}", again - 1),
            }
        })
        .collect()
}

/// The file that a link of a page leads to, and the anchor in it; `None` for one that leads out of the repository.
fn target(page: &Path, link: &str) -> Option<(PathBuf, Option<String>)> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = match link.split_once('#') {
        Some((path, anchor)) => (path, Some(anchor.to_owned())),
        None => (link, None),
    };
    let file = match path {
        "" => page.to_path_buf(),
        path => page.parent().unwrap().join(path),
    };
    Some((file, anchor))
}

#[test]
fn every_link_leads_somewhere() {
    let mut wrong = Vec::new();
    let mut checked = 0;
    for page in files("", "md") {
        let name = page.strip_prefix(root()).unwrap().display().to_string();
        for link in links(&fs::read_to_string(&page).unwrap()) {
            let Some((file, anchor)) = target(&page, &link) else {
                continue;
            };
            checked += 1;
            let has_anchor =
                |anchor: &String| anchors(&fs::read_to_string(&file).unwrap()).contains(anchor);
            if !file.exists() {
                wrong.push(format!("{name}: {link}: there is no such file"));
            } else if anchor.is_some_and(|anchor| !has_anchor(&anchor)) {
                wrong.push(format!("{name}: {link}: there is no such heading"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 100, "{checked} links were found");
}

#[test]
fn every_page_is_reached_from_the_readme_and_the_contents() {
    let first = ["README.md", "docs/README.md"];
    let mut pages = first
        .map(|page| root().join(page).canonicalize().unwrap())
        .to_vec();
    let mut reached = BTreeSet::from_iter(pages.clone());
    while let Some(page) = pages.pop() {
        for link in links(&fs::read_to_string(&page).unwrap()) {
            let Some((file, _)) = target(&page, &link) else {
                continue;
            };
            let file = file.canonicalize().unwrap();
            let is_page = file.extension().is_some_and(|extension| extension == "md");
            if is_page && reached.insert(file.clone()) {
                pages.push(file);
            }
        }
    }
    for page in files("docs", "md") {
        assert!(
            reached.contains(&page.canonicalize().unwrap()),
            "no link leads to {}",
            page.display()
        );
    }
}

#[test]
fn the_first_pages_are_short_and_begin_with_a_command() {
    for (page, most) in [
        ("README.md", README_LINES_MAX),
        ("ARCHITECTURE.md", ARCHITECTURE_LINES_MAX),
    ] {
        let lines = read(page).lines().count();
        assert!(lines <= most, "{page} has {lines} lines");
    }
    let readme = read("README.md");
    let command = readme
        .lines()
        .position(|line| line.starts_with("spliceway "));
    assert!(
        command.is_some_and(|line| line < FIRST_COMMAND_LINES_MAX),
        "{command:?}"
    );
}

#[test]
fn the_maps_have_every_folder() {
    let maps = ["ARCHITECTURE.md", "docs/design/code-map.md"].map(|page| (page, read(page)));
    for parent in ["src", "crates"] {
        for entry in fs::read_dir(root().join(parent)).unwrap() {
            let entry = entry.unwrap();
            if !entry.file_type().unwrap().is_dir() {
                continue;
            }
            let folder = format!("`{parent}/{}/`", entry.file_name().to_str().unwrap());
            for (page, map) in &maps {
                assert!(map.contains(&folder), "{page} lacks {folder}");
            }
        }
    }
}

#[test]
fn what_is_quoted_of_the_log_is_written_by_the_program() {
    let sources: String = files("src", "rs")
        .into_iter()
        .map(|file| joined(&fs::read_to_string(file).unwrap()))
        .collect();
    let page = read("docs/troubleshooting.md");
    let quotes: Vec<_> = page.split("**Log:** ").skip(1).flat_map(quotes).collect();
    assert!(quotes.len() > 40, "{} quotes", quotes.len());
    for quote in quotes {
        for part in quote.split('…').filter(|part| !part.is_empty()) {
            assert!(
                sources.contains(part),
                "nothing writes '{part}' of '{quote}'"
            );
        }
    }
}

/// A source in which strings of several lines have one.
fn joined(source: &str) -> String {
    let mut pieces = source.split("\\\n");
    let first = pieces.next().unwrap().to_owned();
    pieces.fold(first, |joined, piece| joined + piece.trim_start())
}

/// What stands between backticks at the beginning of an entry, up to its explanation.
fn quotes(entry: &str) -> Vec<String> {
    let paragraph = entry.split("\n\n").next().unwrap();
    let said = paragraph.split(" — ").next().unwrap();
    let said = said.split("` The ").next().unwrap().replace('\n', " ");
    let pieces = said.split('`').skip(1).step_by(2);
    pieces
        .map(|piece| piece.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}
