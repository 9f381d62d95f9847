//! The files in the repository: what the raw data beside them gives, short, with links that lead somewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::super::plots;
use super::super::results::{Results, Void};
use super::contests;
use super::{CELLS, Companions, LINES_MAX, TARGETS, render, render_cells, render_targets};

const DIR: &str = "docs/results";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn text(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn results() -> Results {
    let mut results: Results = serde_json::from_str(&text("docs/results/data.json")).unwrap();
    results.judge();
    results
}

fn companions() -> Companions {
    Companions::beside(DIR, &repository().join(DIR))
}

#[test]
fn they_are_what_the_raw_data_gives() {
    let (results, companions) = (results(), companions());
    let mut made = vec![
        ("RESULTS.md".to_owned(), render(&results, &companions)),
        (
            format!("{DIR}/{CELLS}"),
            render_cells(&results, &companions),
        ),
        (format!("{DIR}/{TARGETS}"), render_targets(&results)),
    ];
    let drawn = plots::render(&results).unwrap();
    made.extend(
        drawn
            .into_iter()
            .map(|(file, svg)| (format!("{DIR}/{file}"), svg)),
    );
    for (path, made) in made {
        assert!(
            text(&path) == made,
            "{path} is not what docs/results/data.json gives: run scripts/bench --render docs/results/data.json"
        );
    }
    // And nothing that is made no more.
    let is_made = |name: &str| plots::FILES.contains(&name);
    for entry in fs::read_dir(repository().join(DIR)).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.ends_with(".svg") || is_made(&name), "{name}");
    }
}

#[test]
fn the_report_is_short() {
    let report = text("RESULTS.md");
    assert!(
        report.lines().count() <= LINES_MAX,
        "{} lines",
        report.lines().count()
    );
}

#[test]
fn plots_are_readable() {
    for (file, svg) in plots::render(&results()).unwrap() {
        plots::assert_readable(file, &svg);
    }
}

#[test]
fn every_workload_is_in_the_page_of_cells() {
    let (results, page) = (results(), text("docs/results/cells.md"));
    let has = |part: &str| assert!(page.contains(part), "no '{part}'");
    for cell in results.cells.iter().chain(&results.defaults) {
        has(&format!("### {} (`{}`)", cell.cell.title(), cell.cell.id()));
    }
    // Those of a section under its own title.
    let mode = page
        .split("\n## ")
        .find(|part| part.starts_with("The FastCGI mode"));
    let mode = mode.expect("the FastCGI mode has a section");
    for cell in results.fastcgi.iter().flat_map(|mode| &mode.cells) {
        let title = format!("(`{}`)", cell.cell.id());
        assert!(mode.contains(&title), "no {title}");
    }
    for cell in results.remote.iter().flat_map(|remote| &remote.cells) {
        has(&format!(
            "<summary>{}</summary>",
            super::remote::title(cell)
        ));
    }
    for cell in results.php.iter().flat_map(|php| &php.cells) {
        let (pm, kb) = (cell.pm.word(), cell.kb);
        has(&format!("<summary>{pm}, pages of {kb} KB</summary>"));
    }
    for page in &results.page_sweeps {
        has(&format!(
            "New connections, {}, requests sent",
            page.key.response()
        ));
    }
    for way in results.overload.iter().flat_map(|overload| &overload.ways) {
        has(&format!("| {} ", way.name));
    }
    for section in [
        "Idle connections",
        "Latency under load",
        "Several routes, and metrics",
        "Reloads under load",
        "Overload",
        "Growth",
    ] {
        has(&format!("## {section}\n"));
    }
}

#[test]
fn void_rounds_are_marked_and_their_figures_are_shown() {
    let (results, page) = (results(), text("docs/results/cells.md"));
    let cells = results.cells.iter().chain(&results.defaults);
    let cells = cells.chain(results.fastcgi.iter().flat_map(|mode| &mode.cells));
    let voids = cells.flat_map(|cell| &cell.paths).map(|path| path.void());
    let remote = results.remote.iter().flat_map(|remote| &remote.cells);
    let remote = remote
        .flat_map(|cell| &cell.ways)
        .map(|way| Void::of(&way.rounds));
    let marked = voids.chain(remote).filter(|void| void.count() > 0).count();
    assert!(marked > 0);
    let marks = page.matches("(void: ").count();
    assert_eq!(marks, marked);
}

#[test]
fn every_contest_has_a_path_of_ours_and_each_path_a_name() {
    for contest in contests::all(&results()) {
        let names: BTreeSet<&str> = contest.lanes.iter().map(|lane| &*lane.name).collect();
        assert_eq!(names.len(), contest.lanes.len(), "{}", contest.id);
        let is_ours = contest.lanes.iter().any(|lane| lane.role.is_ours());
        assert!(is_ours, "{}", contest.id);
    }
}

/// As GitHub makes them of headings.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let words = line.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter_map(|letter| match letter {
            ' ' => Some('-'),
            '-' | '_' => Some(letter),
            letter => letter.is_alphanumeric().then_some(letter),
        });
        kept.collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn links_lead_somewhere() {
    let pages = [
        "RESULTS.md",
        "docs/results/cells.md",
        "docs/results/targets.md",
    ];
    let mut checked = 0;
    for page in pages {
        let written = text(page);
        for link in written.split("](").skip(1) {
            let link = link.split(')').next().unwrap_or_default();
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let from = Path::new(page).parent().unwrap();
            let path = match file {
                "" => Path::new(page).to_owned(),
                file => from.join(file),
            };
            let target = repository().join(&path);
            assert!(target.is_file(), "{page}: {link}");
            if !anchor.is_empty() {
                let target = fs::read_to_string(target).unwrap();
                assert!(anchors(&target).contains(anchor), "{page}: {link}");
            }
            checked += 1;
        }
    }
    assert!(checked >= 10, "{checked} links");
}
