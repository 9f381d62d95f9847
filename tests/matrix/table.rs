//! The part of `docs/compatibility.md` that is made of what was measured.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cases::Case;
use crate::common::Engine;
use crate::fronts::Front;
use crate::notes::{Claim, NOTES, explanation};
use crate::rows::{Cell, Row};
use crate::servers::Server;

const BEGIN: &str = "<!-- What stands between these two lines is written by tests/matrix. -->\n";
const END: &str = "<!-- It ends here. -->\n";

/// The environment variable that has the document written.
const WRITE: &str = "SPLICEWAY_WRITE_MATRIX";

/// Compares the document with what was measured, or writes it.
#[track_caller]
pub(crate) fn assert_documented(rows: &[&Row]) {
    let path = document();
    let text = fs::read_to_string(&path).expect("the document is in the repository");
    let whole = with_measured(&text, &measured(rows));
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, whole).expect("the repository can be written");
        return;
    }
    assert!(
        text == whole,
        "{} is not what was measured. If that is meant: {WRITE}=1 cargo test --test matrix\n{}",
        path.display(),
        measured(rows)
    );
}

fn document() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/compatibility.md")
}

/// The text with this in place of what stands between the lines.
fn with_measured(text: &str, measured: &str) -> String {
    let (before, rest) = text.split_once(BEGIN).expect("the first line is there");
    let (_, after) = rest.split_once(END).expect("the second line is there");
    [before, BEGIN, measured, END, after].concat()
}

fn measured(rows: &[&Row]) -> String {
    let mut notes = Numbered::default();
    let mut text = "\n### Servers\n\n".to_owned();
    let fronts = [Front::NGINX, Front::Records];
    let of = |row: &&&Row| fronts.contains(&row.pair.front);
    push_table(
        &mut text,
        "server",
        rows.iter().filter(of),
        &mut notes,
        |row| {
            let front = match row.pair.front {
                Front::Records => "records",
                _ => "nginx",
            };
            format!("{}; {front}", row.pair.server.name())
        },
    );
    text += "\n### Web servers\n\n";
    let of = |row: &&&Row| row.pair.server == Server::FpmStatic;
    push_table(
        &mut text,
        "in front",
        rows.iter().filter(of),
        &mut notes,
        |row| row.pair.front.name().to_owned(),
    );
    text.push('\n');
    for (number, note) in notes.0.iter().enumerate() {
        writeln!(text, "{}. {}", number + 1, NOTES[*note].text).expect("a string takes everything");
    }
    text.push('\n');
    text
}

/// The notes that were needed, in the order in which they were.
#[derive(Default)]
struct Numbered(Vec<usize>);

impl Numbered {
    fn of(&mut self, note: usize) -> usize {
        let known = self.0.iter().position(|other| *other == note);
        known.unwrap_or_else(|| {
            self.0.push(note);
            self.0.len() - 1
        }) + 1
    }
}

fn push_table<'a>(
    text: &mut String,
    first: &str,
    rows: impl Iterator<Item = &'a &'a Row>,
    notes: &mut Numbered,
    name: impl Fn(&Row) -> String,
) {
    let heads = Case::ALL.map(Case::name).join(" | ");
    writeln!(text, "| {first} | {heads} |").expect("a string takes everything");
    writeln!(text, "|---|{}", ":-:|".repeat(Case::ALL.len())).expect("a string takes everything");
    for row in rows {
        let cells = Case::ALL.map(|case| shown(row, case, notes)).join(" | ");
        writeln!(text, "| {} | {cells} |", name(row)).expect("a string takes everything");
    }
}

/// The worse of the two engines.
fn shown(row: &Row, case: Case, notes: &mut Numbered) -> String {
    let cells = [Engine::IoUring, Engine::Epoll].map(|engine| row.cell(engine, case));
    let rank = |cell: &&Cell| match cell {
        Cell::Absent => 0,
        Cell::Right => 1,
        Cell::AsDirect(_) => 2,
        Cell::Differs(_) => 3,
    };
    let cell = cells.into_iter().max_by_key(rank).expect("there are two");
    let note = explanation(row.pair, case, cell);
    let varies = note.is_some_and(|note| NOTES[note].claim == Claim::NowAndThen);
    let words = match cell {
        Cell::Absent => "–",
        Cell::Right if varies => "as direct",
        Cell::Right => "yes",
        Cell::AsDirect(_) => "as direct",
        Cell::Differs(_) => "**no**",
    };
    match note {
        Some(note) => format!("{words} ({})", notes.of(note)),
        None => words.to_owned(),
    }
}
