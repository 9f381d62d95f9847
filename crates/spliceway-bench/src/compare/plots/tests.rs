use super::super::sample_results;
use super::style::CHAR_EM;
use super::*;

/// Every file.
pub(in super::super) const FILES: [&str; 6] = [
    "remote.svg",
    "pages.svg",
    "machine.svg",
    "overload.svg",
    "latency-under-load.svg",
    "growth.svg",
];

/// One text of a plot.
#[derive(Debug)]
struct Label {
    words: String,
    at: (f64, f64),
    anchor: String,
    size: f64,
    is_upright: bool,
}

fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
    rest.split('"').next()
}

fn number_of(tag: &str, name: &str) -> f64 {
    let text = attribute(tag, name).unwrap_or_else(|| panic!("no {name}: {tag}"));
    text.parse().unwrap_or_else(|_| panic!("{name}: {tag}"))
}

fn labels(svg: &str) -> Vec<Label> {
    let label = |element: &str| {
        let (tag, rest) = element.split_once('>').expect("a whole tag");
        let tag = format!(" {tag}");
        let words = rest.split("</text>").next().unwrap_or_default().trim();
        Label {
            words: words.replace("&apos;", "'").replace("&amp;", "&"),
            at: (number_of(&tag, "x"), number_of(&tag, "y")),
            anchor: attribute(&tag, "text-anchor")
                .unwrap_or_default()
                .to_owned(),
            size: number_of(&tag, "font-size"),
            is_upright: !tag.contains("rotate"),
        }
    };
    svg.split("<text ").skip(1).map(label).collect()
}

fn view_box(svg: &str) -> (f64, f64) {
    let tag = svg.split('>').next().unwrap_or_default();
    let numbers = attribute(tag, "viewBox").unwrap_or_default().split(' ');
    let numbers: Vec<f64> = numbers.filter_map(|number| number.parse().ok()).collect();
    let [left, top, width, height] = numbers[..] else {
        panic!("no viewBox: {tag}");
    };
    assert!(left == 0.0 && top == 0.0, "{tag}");
    (width, height)
}

/// Whether all of a text is within the picture, with the widest of common fonts.
fn is_within(label: &Label, (width, height): (f64, f64)) -> bool {
    let long = label.words.chars().count() as f64 * CHAR_EM * label.size;
    let (along, across) = match label.is_upright {
        true => ((label.at.0, width), (label.at.1, height)),
        // Rotated by a quarter about its own place.
        false => ((label.at.1, height), (label.at.0, width)),
    };
    let (from, to) = match label.anchor.as_str() {
        "start" => (along.0, along.0 + long),
        "middle" => (along.0 - long / 2.0, along.0 + long / 2.0),
        "end" => (along.0 - long, along.0),
        other => panic!("{other}: {label:?}"),
    };
    from >= 0.0
        && to <= along.1
        && across.0 >= 0.0
        && across.0 + label.size <= across.1 + label.size
}

#[track_caller]
pub(in super::super) fn assert_readable(file: &str, svg: &str) {
    let size = view_box(svg);
    let labels = labels(svg);
    assert!(labels.len() > 5, "{file}: {labels:?}");
    for label in &labels {
        assert!(is_within(label, size), "{file}: {label:?} in {size:?}");
        assert!(label.size >= 11.0, "{file}: too small: {label:?}");
    }
    // What a dark page has instead of each colour.
    let (_, rest) = svg
        .split_once("@media (prefers-color-scheme:dark){")
        .expect("a dark mode");
    let (rules, picture) = rest.split_once("</style>").expect("the style ends");
    for what in ["fill", "stroke"] {
        for colour in picture.split(&format!(" {what}=\"#")).skip(1) {
            let colour = colour.split('"').next().unwrap_or_default();
            let rule = format!("[{what}=\"#{colour}\"]{{{what}:#");
            assert!(rules.contains(&rule), "{file}: no {rule}");
        }
    }
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{file}");
}

#[test]
fn every_plot_is_readable_and_says_what_its_ranges_are() {
    let drawn = render(&sample_results::results()).unwrap();
    let files: Vec<&str> = drawn.iter().map(|(file, _)| *file).collect();
    assert_eq!(files, FILES);
    for (file, svg) in drawn {
        assert_readable(file, &svg);
        let words: Vec<String> = labels(&svg).into_iter().map(|label| label.words).collect();
        let words = words.join(" ");
        assert!(
            words.contains("from the lowest to the highest of"),
            "{file}: {words}"
        );
        assert!(
            words.contains("µs") || words.contains("per second") || words.contains("ms to"),
            "{file}: no unit"
        );
    }
}

#[test]
fn titles_say_what_the_figures_say() {
    let results = sample_results::results();
    for (plot, part) in [
        (
            Plot::Remote,
            "at 10\u{a0}ms, the FastCGI mode answers after\u{a0}1.25",
        ),
        (
            Plot::Pages,
            "FastCGI mode 1.30\u{a0}× and raw 0.90\u{a0}× at 2\u{a0}KB",
        ),
        (
            Plot::Machine,
            "the FastCGI mode serves 4.00 times as many requests of 4\u{a0}KB as HAProxy, the raw mode 1.50",
        ),
        (
            Plot::Overload,
            "At 2\u{a0}× PHP-FPM's capacity, its own backlog delivers 0 pages a second in time, the FastCGI mode's queue 200",
        ),
    ] {
        let title = plot.title(&results);
        assert!(title.contains(part), "{title}");
    }
}

#[test]
fn void_figures_are_not_drawn() {
    let mut results = sample_results::results();
    let svg = |results: &Results| {
        let drawn = render(results).unwrap();
        let machine = drawn.into_iter().find(|(file, _)| *file == "machine.svg");
        machine.expect("it is drawn").1
    };
    assert!(!svg(&results).contains("\nvoid\n"));
    for path in &mut results.cells[0].paths {
        for sample in path.rounds.iter_mut().flatten() {
            sample.client_cpu_us = sample.window_seconds * 1e6;
        }
    }
    results.judge();
    assert!(svg(&results).contains("\nvoid\n"));
}

#[test]
fn without_figures_there_are_no_plots() {
    assert!(render(&Results::default()).unwrap().is_empty());
}
