//! The commands and configuration files in the documents are taken by the parser.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Stop, parse_with};

/// What `--config` names in commands of the documents.
const FILE: &str = "[route.a]\nlisten = \"unix:/a\"\nbackend = \"b:1\"\n";

/// README.md, and the pages for users.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md")];
    for directory in [
        "docs",
        "deploy/systemd",
        "deploy/docker",
        "deploy/kubernetes",
        "deploy/selinux",
    ] {
        let files = fs::read_dir(root.join(directory)).unwrap();
        let files = files.map(|entry| entry.unwrap().path());
        pages.extend(files.filter(|path| path.extension().is_some_and(|it| it == "md")));
    }
    pages
}

/// The code blocks of a language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut current: Option<String> = None;
    for line in page.lines() {
        match (&mut current, line.trim_start().strip_prefix("```")) {
            (None, Some(found)) => {
                current = (found == language)
                    .then(String::new)
                    .or_else(|| Some("\0".to_owned()))
            }
            (Some(_), Some(_)) => {
                blocks.extend(current.take().filter(|block| !block.starts_with('\0')))
            }
            (Some(block), None) => {
                block.push_str(line.trim());
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}

/// The words of each command of ours in a shell script; enough of a shell for documents.
fn commands(script: &str) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    for line in script.replace("\\\n", " ").lines() {
        let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
        let mut comment = false;
        for c in line.chars().chain([' ']) {
            match (quote, c) {
                _ if comment => {}
                (Some(open), c) if c == open => quote = None,
                (Some(_), c) => word.push(c),
                (None, '\'' | '"') => quote = Some(c),
                (None, '#') if word.is_empty() => comment = true,
                (None, ' ') => {
                    words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty()))
                }
                (None, ';') => {
                    words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty()));
                    words.push(";".to_owned());
                }
                (None, c) => word.push(c),
            }
        }
        let ends =
            |word: &String| [";", "&&", "||", "|", "{", "}", ">", "&"].contains(&word.as_str());
        commands.extend(words.split(ends).map(<[_]>::to_vec));
    }
    let ours = commands.into_iter().map(|mut words: Vec<String>| {
        if words.first().is_some_and(|word| word == "sudo") {
            words.remove(0);
        }
        words
    });
    ours.filter(|words| words.len() > 1 && words[0] == "spliceway")
        .collect()
}

#[test]
fn the_commands_in_the_documents_are_right() {
    let mut checked = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for command in blocks(&text, "sh").iter().flat_map(|block| commands(block)) {
            checked += 1;
            let words = command.iter().map(OsString::from);
            match parse_with(words, |_| Ok(FILE.as_bytes().to_vec())) {
                Ok(_) | Err(Stop::Answer(_)) => {}
                Err(stop) => panic!("{}: {}: {stop:?}", page.display(), command.join(" ")),
            }
        }
    }
    assert!(checked > 30, "{checked} commands were found");
}

#[test]
fn the_configuration_files_in_the_documents_are_right() {
    let mut checked = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let files = blocks(&text, "toml");
        // Others are parts of one.
        for file in files
            .iter()
            .filter(|file| file.contains("listen =") && file.contains("backend ="))
        {
            checked += 1;
            let words = ["spliceway", "check", "--config", "f"].map(OsString::from);
            if let Err(stop) = parse_with(words, |_| Ok(file.clone().into_bytes())) {
                panic!("{}: {stop:?} in\n{file}", page.display());
            }
        }
    }
    assert!(checked > 3, "{checked} files were found");
}
