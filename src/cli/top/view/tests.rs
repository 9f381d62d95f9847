use std::time::Duration;

use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use unicode_width::UnicodeWidthChar;

use super::super::asking::Answer;
use super::super::keys::{Action, Scroll, Turn};
use super::super::samples;
use super::*;

/// The screen's rows, without what is blank at their ends.
fn screen(model: &Model, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let palette = Palette::new(true);
    let drawn = terminal.draw(|frame| {
        let area = frame.area();
        draw(model, Instant::now(), palette, area, frame.buffer_mut());
    });
    let buffer = drawn.unwrap().buffer.clone();
    let row = |y| {
        // The cell behind a wide character is blank.
        let mut row = String::new();
        let mut x = 0;
        while x < width {
            let symbol = buffer[(x, y)].symbol();
            row.push_str(symbol);
            let columns = symbol
                .chars()
                .map(|c| c.width().unwrap_or(0))
                .sum::<usize>();
            x += u16::try_from(columns.max(1)).unwrap();
        }
        row.trim_end().to_owned()
    };
    (0..height).map(row).collect()
}

/// One that has heard all that there is.
fn full() -> Model {
    heard(samples::busy(), samples::requests())
}

fn heard(status: Status, requests: crate::observe::Requests) -> Model {
    let mut model = samples::model();
    let now = Instant::now();
    let mut later = status.clone();
    later.uptime_seconds += 1.0;
    model.hear(Answer::Status(Ok(status)), now);
    let route = &mut later.routes[0];
    route.connections_accepted += 12;
    let fastcgi = route.fastcgi.as_mut().unwrap();
    *fastcgi.requests.get_mut("2xx").unwrap() += 40;
    *fastcgi.requests.get_mut("5xx").unwrap() += 2;
    fastcgi.request_time.buckets[8].count += 42;
    model.hear(Answer::Status(Ok(later)), now);
    model.hear(Answer::Requests(model.which.clone(), Ok(requests)), now);
    model
}

fn hostile() -> Model {
    let mut requests = samples::requests();
    requests.requests.push(samples::hostile_request());
    requests.silent_workers.push(1);
    requests.left_out = 7;
    heard(samples::hostile(), requests)
}

#[track_caller]
fn assert_mentions(rows: &[String], mentions: &[&str]) {
    let text = rows.join("\n");
    // Sentences may be broken.
    let words = text.replace('\n', " ");
    for mention in mentions {
        assert!(words.contains(mention), "no {mention:?} in\n{text}");
    }
}

#[test]
fn at_80_by_24_everything_is_there_in_part() {
    let rows = screen(&full(), 80, 24);
    assert_mentions(
        &rows,
        &[
            "spliceway 1.2.3, io_uring, serving for 3h12m; 11 of 8192 sessions",
            "all routes; 20 requests by age; every 1s, rates of 1s",
            "the last reload was refused",
            "ROUTE     STATE",
            "php       paused 42.5s",
            "ENDPOINT",
            "ejected 12.5s",
            "REQUEST",
            "GET /page?id=19",
            "more",
            "warn",
            "endpoint left out",
            "? help  q quit",
            "no room: ",
        ],
    );
}

#[test]
fn at_120_by_40_there_is_more_of_it() {
    let rows = screen(&full(), 120, 40);
    assert_mentions(
        &rows,
        &[
            "11 of 8192 sessions; pid 4711",
            "CONN/S",
            "42",
            "failing 2.5s",
            "old",
            "leaving",
            "uid 33 pid 819",
            "client down 7.25s",
            "route=busy  (2 times)",
        ],
    );
    let requests = rows.iter().filter(|row| row.contains("/page?id=")).count();
    let fewer = screen(&full(), 80, 24);
    let fewer = fewer.iter().filter(|row| row.contains("/page?id=")).count();
    assert!(requests > fewer && fewer >= 3, "{requests} and {fewer}");
}

#[test]
fn in_a_wide_terminal_all_columns_are_there() {
    let rows = screen(&full(), 220, 60);
    let titles = rows.iter().find(|row| row.starts_with("ROUTE")).unwrap();
    for column in &ROUTE_COLUMNS {
        assert!(titles.contains(column.title), "{titles}");
    }
    assert!(!rows.join("\n").contains("no room"));
    let php = rows.iter().find(|row| row.starts_with("php")).unwrap();
    let figures: Vec<&str> = php.split_whitespace().collect();
    // Requests, 2xx, 3xx, 4xx, 5xx, none; connections, failures.
    assert_eq!(figures[3..11], ["42", "40", "0", "0", "2", "0", "12", "0"]);
}

#[test]
fn at_40_by_10_there_are_requests_at_least() {
    let rows = screen(&full(), 40, 10);
    assert_mentions(&rows, &["spliceway 1.2.3", "REQUEST", "more", "no room: "]);
    assert!(
        rows.iter().any(|row| row.contains("GET /page?id=19")),
        "{rows:?}"
    );
}

#[test]
fn at_20_by_5_there_is_one_request() {
    let rows = screen(&full(), 20, 5);
    assert!(rows[0].starts_with("spliceway 1.2.3"), "{rows:?}");
    assert_mentions(&rows, &["AGE", "19 more", "no room"]);
}

#[test]
fn where_there_is_one_line_for_all_it_says_what_is_wrong() {
    let mut model = full();
    model.hear(Answer::Status(Err(samples::no_answer())), Instant::now());
    let rows = screen(&model, 60, 5);
    assert!(
        rows[0].starts_with("no answer for 0s: ask /no-such"),
        "{rows:?}"
    );
}

#[test]
fn before_the_first_answer_it_says_that_there_is_none() {
    let mut model = samples::model();
    assert_mentions(
        &screen(&model, 80, 24),
        &["no daemon has answered yet", "not told", "no rates yet"],
    );
    let now = Instant::now();
    model.hear(Answer::Status(Err(samples::no_answer())), now);
    model.hear(
        Answer::Requests(model.which.clone(), Err(samples::no_answer())),
        now,
    );
    let rows = screen(&model, 80, 24);
    assert_mentions(&rows, &["no answer for", "no such socket"]);
    // The same is wrong with requests, and said once.
    assert!(!rows.join("\n").contains("requests: ask"), "{rows:?}");
}

#[test]
fn what_was_shown_stays_while_the_daemon_is_away_and_is_said_to_be_old() {
    let mut model = full();
    let long_ago = Instant::now() - Duration::from_secs(12);
    model.hear(Answer::Status(Err(samples::no_answer())), long_ago);
    assert_mentions(
        &screen(&model, 100, 30),
        &["no answer for 12s", "php       paused", "GET /page?id=19"],
    );
}

#[test]
fn another_process_is_said_to_be_one() {
    let mut model = full();
    let mut other = samples::busy();
    other.pid = 5000;
    model.hear(Answer::Status(Ok(other)), Instant::now());
    let rows = screen(&model, 120, 40);
    assert_mentions(
        &rows,
        &["another process than 4711 answers", "no rates yet"],
    );
}

#[test]
fn why_requests_are_not_told_stands_beside_the_status() {
    let mut model = samples::model();
    let now = Instant::now();
    model.hear(Answer::Status(Ok(samples::busy())), now);
    model.hear(
        Answer::Requests(model.which.clone(), Err(samples::no_answer())),
        now,
    );
    assert_mentions(
        &screen(&model, 120, 40),
        &["requests: ask", "php       paused", "not told"],
    );
}

#[test]
fn workers_that_tell_nothing_and_rows_without_room_are_named() {
    assert_mentions(
        &screen(&hostile(), 120, 40),
        &["worker 1 does not turn", "and 7 more", "28 requests by age"],
    );
}

#[test]
fn a_route_that_there_is_not_is_said_not_to_be() {
    let mut model = full();
    model.which.route = Some("nobody".to_owned());
    assert_mentions(
        &screen(&model, 120, 40),
        &[
            "no route nobody (it has php, other)",
            "route nobody",
            "0 requests",
        ],
    );
}

#[test]
fn one_route_has_its_own_alone() {
    let mut model = full();
    model.act(Action::Route(Turn::Next), Instant::now());
    model.act(Action::Route(Turn::Next), Instant::now());
    let rows = screen(&model, 120, 40);
    assert_mentions(&rows, &["route other", "no endpoint"]);
    let text = rows.join("\n");
    assert!(
        !text.contains("192.0.2.1:9000") && !text.contains("paused 42"),
        "{text}"
    );
}

#[test]
fn a_pause_is_seen() {
    let mut model = full();
    model.act(Action::Pause, Instant::now() - Duration::from_secs(5));
    assert_mentions(&screen(&model, 80, 24), &["PAUSED for 5s"]);
}

#[test]
fn rows_are_scrolled_to_the_last_one() {
    let mut model = full();
    let seen = |model: &mut Model| {
        let area = Rect::new(0, 0, 80, 24);
        let mut buffer = Buffer::empty(area);
        model.extent = draw(
            model,
            Instant::now(),
            Palette::new(false),
            area,
            &mut buffer,
        );
        screen(model, 80, 24).join("\n")
    };
    assert!(!seen(&mut model).contains("/page?id=0 "));
    model.act(Action::Scroll(Scroll::Last), Instant::now());
    let text = seen(&mut model);
    assert!(
        text.contains("/page?id=0") && text.contains(" before"),
        "{text}"
    );
    assert!(!text.contains("/page?id=19"), "{text}");
    model.act(Action::Scroll(Scroll::LineUp), Instant::now());
    let text = seen(&mut model);
    assert!(text.contains(" before, 1 more"), "{text}");
}

#[test]
fn the_help_names_every_key_and_can_be_scrolled() {
    let mut model = full();
    model.act(Action::Help, Instant::now());
    let rows = screen(&model, 100, 40);
    for (keys, _) in HELP {
        assert_mentions(&rows, &[keys]);
    }
    assert_mentions(&screen(&model, 40, 10), &["more", "? or q: back"]);
}

#[test]
fn colours_only_add_to_words() {
    let draw_with = |has_colours| {
        let area = Rect::new(0, 0, 120, 40);
        let mut buffer = Buffer::empty(area);
        draw(
            &full(),
            Instant::now(),
            Palette::new(has_colours),
            area,
            &mut buffer,
        );
        buffer
    };
    let (with, without) = (draw_with(true), draw_with(false));
    let symbols = |buffer: &Buffer| -> Vec<String> {
        let cells = buffer.content.iter();
        cells.map(|cell| cell.symbol().to_owned()).collect()
    };
    assert_eq!(symbols(&with), symbols(&without));
    assert!(with.content.iter().any(|cell| cell.fg == Color::Red));
    let is_plain =
        |cell: &ratatui::buffer::Cell| cell.fg == Color::Reset && cell.bg == Color::Reset;
    assert!(without.content.iter().all(is_plain));
}

#[test]
fn nothing_that_others_say_drives_the_terminal() {
    for (width, height) in [(20, 5), (40, 10), (80, 24), (120, 40), (200, 60)] {
        let rows = screen(&hostile(), width, height);
        for character in rows.iter().flat_map(|row| row.chars()) {
            assert!(matches!(character.width(), Some(1 | 2)), "{character:?}");
            assert!(
                !character.is_control() && character != '\u{202e}',
                "{rows:?}"
            );
        }
    }
    assert_mentions(&screen(&hostile(), 200, 60), &["\\x1b[2J", "\\u{202e}"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn it_fits_any_screen(
        width in 1_u16..=200,
        height in 1_u16..=60,
        part in 0_usize..4,
        is_help_shown: bool,
        is_hostile: bool,
        scrolled in 0_usize..50,
    ) {
        let mut model = if is_hostile { hostile() } else { full() };
        model.part = Part::ALL[part];
        model.is_help_shown = is_help_shown;
        model.extent = Extent { page: scrolled, last: scrolled };
        model.act(Action::Scroll(Scroll::Last), Instant::now());
        let rows = screen(&model, width, height);
        prop_assert_eq!(rows.len(), usize::from(height));
        for row in rows {
            let columns: usize = row.chars().map(|c| c.width().unwrap_or(0)).sum();
            prop_assert!(columns <= usize::from(width), "{}", row);
        }
    }
}
