//! PHP-FPM's pools on the status page, as operators see them.

use super::Stage;
use crate::common::backend::Refusing;
use crate::common::chromium::Browser;
use crate::common::{Engine, Proxy, eventually};

const DESK: (u32, u32) = (1100, 900);

/// A narrow phone.
const PHONE: (u32, u32) = (320, 600);

/// As many pools of a route are shown.
const SHOWN_MAX: usize = 8;

fn open(proxy: &Proxy) -> Browser {
    let mut browser = Browser::new(DESK.0, DESK.1);
    browser.navigate(&format!("http://{}/", proxy.metrics_address()));
    browser
}

fn rows(browser: &mut Browser) -> usize {
    let rows = browser.value("document.querySelectorAll('.pools tbody tr').length");
    usize::try_from(rows.as_u64().unwrap()).unwrap()
}

#[track_caller]
fn assert_is_read_anywhere(browser: &mut Browser) {
    for (width, height) in [DESK, PHONE] {
        browser.resize(width, height);
        let wide = browser.value("document.documentElement.scrollWidth");
        assert!(wide.as_u64() <= Some(u64::from(width)), "{wide} of {width}");
    }
    let complaints = browser.complaints();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// All that is said of each, however many there are, and the one that says nothing first.
#[test]
fn each_pool_has_a_row_and_one_that_is_down_is_trouble() {
    let stage = Stage::start(2, "");
    let gone = Refusing::new();
    let args = ["--per-endpoint-max", "4", "--fpm-status", &gone.to_string()];
    let proxy = stage.proxy(Engine::Epoll, &[&args[..], &["--status-details"]].concat());
    let mut browser = open(&proxy);
    let down = format!("PHP-FPM at {gone} for route default does not tell how its pool fares");
    let small = format!(
        "PHP-FPM at {} for route default: pm.max_children is 2",
        stage.status
    );
    browser.wait_for_text("#troubles", &[&down, "(is PHP-FPM running", &small]);
    eventually("both have a row", || rows(&mut browser) == 2);
    let first = browser.text(".pools tbody tr:first-child");
    let last = browser.text(".pools tbody tr:last-child");
    for part in [
        &gone.to_string(),
        "no answer yet: connect: ",
        "ECONNREFUSED",
    ] {
        assert!(first.contains(part), "no {part:?} in {first:?}");
    }
    for part in [
        &stage.status,
        "static",
        "answered ",
        " ago; pm.max_children is 2",
        "2 of 2, ",
        "0 of ",
    ] {
        assert!(last.contains(part), "no {part:?} in {last:?}");
    }
    assert_is_read_anywhere(&mut browser);

    // Where clients' words are not shown, what is said instead of an answer is not either.
    let proxy = stage.proxy(Engine::Epoll, &args);
    let mut browser = open(&proxy);
    browser.wait_for_text("#troubles", &[&down]);
    eventually("both have a row", || rows(&mut browser) == 2);
    let all = browser.text("#troubles") + &browser.text(".pools");
    assert!(
        !all.contains("ECONNREFUSED") && !all.contains("pm.max_children is 2"),
        "{all}"
    );
}

#[test]
fn of_many_pools_it_is_said_how_many_more_there_are() {
    let gone: Vec<_> = (0..SHOWN_MAX + 3).map(|_| Refusing::new()).collect();
    let mut builder = Proxy::builder()
        .engine(Engine::Epoll)
        .backend(&gone[0])
        .args(["--protocol", "fastcgi", "--status-details"])
        .observed();
    for pool in &gone {
        builder = builder.args(["--fpm-status", &pool.to_string()]);
    }
    let proxy = builder.start();
    let mut browser = open(&proxy);
    browser.wait_for_text(
        "#troubles",
        &["and 8 more pools of PHP-FPM for route default"],
    );
    eventually("as many as there is room for have a row", || {
        rows(&mut browser) == SHOWN_MAX
    });
    browser.wait_for_text(".route", &["and 3 pools more"]);
    assert_is_read_anywhere(&mut browser);
}
