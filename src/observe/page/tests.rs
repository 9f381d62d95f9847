use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime;

use super::super::events::EventStatus;
use super::super::requests::RequestEntry;
use super::super::status::{EndpointState, RouteStatus, Status, samples};
use super::figures::{ENDPOINTS_MAX, ENDPOINTS_OF_ROUTE_MAX, EVENTS_MAX, ROUTES_MAX};
use super::slowest::{AtWork, ROWS_MAX, StateCount};
use super::*;
use crate::backend::Published;
use crate::observe::server::tests::observed;
use crate::session::SessionState;
use crate::worker::Look;

/// Twice what a page of a large daemon has: as the worst case is with control characters, which take six bytes each.
const JSON_BYTES_MAX: usize = 1 << 20;

fn json(status: Status, looked: Option<&Slowest>, audience: Audience) -> serde_json::Value {
    serde_json::to_value(Figures::new(status, looked, audience)).unwrap()
}

fn entry(uri: &str) -> RequestEntry {
    RequestEntry {
        route: "php".to_owned(),
        worker: 0,
        uid: Some(4242),
        gid: Some(4242),
        pid: Some(4242),
        state: SessionState::Sent,
        age_seconds: 31.0,
        connected_seconds: 31.0,
        queue_seconds: 0.0,
        method: Some("SECRET".to_owned()),
        uri: Some(uri.to_owned()),
        script: Some("/srv/SECRET.php".to_owned()),
        class: None,
        endpoint: Some("192.0.2.1:9000".to_owned()),
        request_bytes: None,
        response_bytes: None,
        stalled: None,
    }
}

fn looked(uri: &str) -> Slowest {
    let at_work = AtWork {
        age: Duration::from_secs(31),
        endpoint: None,
        words: Some(["SECRET".to_owned(), uri.to_owned()]),
    };
    Slowest {
        states: vec![StateCount {
            state: SessionState::Sent,
            count: 1,
        }],
        rows: (0..ROWS_MAX).map(|_| entry(uri)).collect(),
        at_work: [("php".to_owned(), at_work)].into(),
        ..Slowest::default()
    }
}

fn busy_with_events() -> Status {
    let mut status = samples::busy();
    let told = |message: &str, names_no_client| EventStatus {
        message: message.to_owned(),
        names_no_client,
        ..status.events[0].clone()
    };
    status.events = vec![
        told("endpoint left out", true),
        told("SECRET rejected", false),
    ];
    status
}

// --- the document -----------------------------------------------------------------------------------

#[test]
fn the_policy_names_what_stands_in_the_document() {
    let html = String::from_utf8(document().to_vec()).unwrap();
    let between = |start: &str, end: &str| {
        let (_, rest) = html.split_once(start).unwrap();
        let (content, rest) = rest.split_once(end).unwrap();
        assert!(!rest.contains(start), "one {start}");
        content.to_owned()
    };
    let policy = policy();
    for (directive, content) in [
        ("style-src", between("<style>", "</style>")),
        ("script-src", between("<script>", "</script>")),
    ] {
        let hash = base64(&Sha256::digest(&content));
        let expected = format!("; {directive} 'sha256-{hash}'; ");
        assert!(policy.contains(&expected), "no {expected} in {policy}");
        // Browsers read a carriage return as a line feed, and the hash is of what they have read.
        assert!(content.is_ascii() && !content.contains('\r'));
    }
    assert!(policy.starts_with("default-src 'none'; "), "{policy}");
    for forbidden in ["unsafe", "http", "*"] {
        assert!(!policy.contains(forbidden), "{forbidden} in {policy}");
    }
}

#[test]
fn bytes_are_written_as_rfc_4648_says() {
    for (bytes, text) in [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("fooba", "Zm9vYmE="),
        ("foobar", "Zm9vYmFy"),
    ] {
        assert_eq!(base64(bytes.as_bytes()), text);
    }
    assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    // As `printf '' | openssl dgst -sha256 -binary | base64` has it.
    assert_eq!(
        source_of(""),
        "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    );
}

/// Whatever makes markup, or a program, of text.
#[test]
fn the_script_puts_text_in_as_text() {
    for forbidden in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "DOMParser",
        "createContextualFragment",
        "srcdoc",
        "eval",
        "Function",
        "import(",
        "setAttribute('on",
        "setAttribute('style",
        "javascript:",
        "localStorage",
        "cookie",
        "</",
    ] {
        // The icon is the script's own, and an image.
        let script = SCRIPT.replace("</svg>", "");
        assert!(!script.contains(forbidden), "{forbidden}");
    }
    let html = document();
    let html = str::from_utf8(&html).unwrap();
    for forbidden in [
        " style=", " onload", " onclick", " onerror", "src=", "@import", "url(",
    ] {
        assert!(!html.contains(forbidden), "{forbidden}");
    }
}

/// The namespace of SVG is a name, and nothing is loaded from there.
#[test]
fn the_document_has_nothing_of_elsewhere() {
    let html = document();
    let html = str::from_utf8(&html).unwrap();
    let addresses = html.matches("http").count();
    assert_eq!(
        addresses,
        html.matches("http://www.w3.org/2000/svg").count()
    );
    assert!(html.len() < 64 << 10, "{} bytes", html.len());
}

// --- the figures ------------------------------------------------------------------------------------

#[test]
fn everybody_is_told_nothing_of_clients() {
    let looked = looked("/SECRET?token=SECRET");
    let fastcgi = |status: &Status| status.routes[0].fastcgi.clone().unwrap();
    let mut status = busy_with_events();
    let mut told = fastcgi(&status);
    for pool in &mut told.fpm {
        pool.path = "/SECRET".to_owned();
        (pool.error, pool.warning) = (Some("SECRET".to_owned()), Some("SECRET".to_owned()));
        if let Some(pool) = &mut pool.pool {
            pool.pool = "SECRET".to_owned();
        }
    }
    assert!(told.fpm.iter().any(|pool| pool.pool.is_some()));
    status.routes[0].fastcgi = Some(told);
    let pools = json(status, None, Audience::Everybody).to_string();
    assert!(!pools.contains("SECRET"), "{pools}");
    let public = json(busy_with_events(), Some(&looked), Audience::Everybody).to_string();
    for secret in ["SECRET", "4242", "4711", "/run/php.sock"] {
        assert!(!public.contains(secret), "{secret} in {public}");
    }
    assert!(public.contains("endpoint left out"), "{public}");
    assert!(public.contains("192.0.2.2:9000"), "{public}");
    let trusted = json(busy_with_events(), Some(&looked), Audience::Trusted);
    assert_eq!(
        trusted["requests"]["rows"][0]["uri"],
        "/SECRET?token=SECRET"
    );
    assert_eq!(trusted["requests"]["rows"][0]["uid"], 4242);
    assert_eq!(trusted["pid"], 4711);
    assert_eq!(trusted["events"][1]["message"], "SECRET rejected");
    assert_eq!(trusted["routes"][0]["listeners"][0], "unix:/run/php.sock");
}

#[test]
fn what_drives_or_turns_text_is_escaped_before_it_leaves() {
    let mut status = busy_with_events();
    let hostile = "</script><img src=x onerror=alert(1)>\u{202e}\0\u{9b}";
    status.routes[0].endpoints[0].address = hostile.to_owned();
    status.routes[0].name = hostile.to_owned();
    status.events[0].message = hostile.to_owned();
    let shown = "</script><img src=x onerror=alert(1)>\\u{202e}\\x00\\u{9b}";
    let looked = looked(hostile);
    let figures = json(status, Some(&looked), Audience::Trusted);
    let route = &figures["routes"][0];
    let addresses = route["endpoints"].as_array().unwrap().iter();
    assert!(
        addresses
            .map(|endpoint| &endpoint["address"])
            .any(|address| address == shown)
    );
    assert_eq!(route["name"], shown);
    assert_eq!(figures["events"][0]["message"], shown);
    assert_eq!(figures["requests"]["rows"][0]["uri"], shown);
}

/// Routes and endpoints as many as there may be, or more.
fn large() -> Status {
    let mut status = samples::busy();
    let route = &mut status.routes[0];
    let hostile = "\u{202e}\u{1}".repeat(2000);
    let endpoint = route.endpoints[0].clone();
    route.endpoints = (0..4096)
        .map(|number| {
            let mut endpoint = endpoint.clone();
            endpoint.address = format!("{number} {hostile}");
            endpoint.state = match number {
                4000 => EndpointState::Down,
                _ => EndpointState::Ok,
            };
            endpoint
        })
        .collect();
    route.lookups.failing_seconds = None;
    let route: RouteStatus = route.clone();
    status.routes = (0..1000)
        .map(|number| {
            let mut route = route.clone();
            route
                .endpoints
                .truncate(if number == 900 { 4096 } else { 60 });
            route.endpoints.iter_mut().for_each(|e| e.drained = false);
            route.queue.depth = 0;
            route.pause_left_seconds = None;
            route.name = format!("route-{number}");
            route
        })
        .collect();
    let event = status.events[0].clone();
    status.events = (0..64)
        .map(|number| EventStatus {
            message: format!("{number} {hostile}"),
            ..event.clone()
        })
        .collect();
    status
}

#[test]
fn the_figures_are_bounded_and_the_worst_comes_first() {
    let looked = looked(&"\u{202e}\u{1}".repeat(1000));
    let figures = json(large(), Some(&looked), Audience::Trusted);
    let routes = figures["routes"].as_array().unwrap();
    assert_eq!(routes.len(), ROUTES_MAX);
    assert_eq!(figures["routes_more"], 1000 - ROUTES_MAX);
    assert_eq!(routes[0]["name"], "route-900");
    assert_eq!(routes[1]["name"], "route-0");
    let endpoints = routes[0]["endpoints"].as_array().unwrap();
    assert_eq!(endpoints.len(), ENDPOINTS_OF_ROUTE_MAX);
    assert_eq!(endpoints[0]["state"], "down");
    assert_eq!(routes[0]["endpoints_more"], 4096 - ENDPOINTS_OF_ROUTE_MAX);
    let all = routes
        .iter()
        .map(|r| r["endpoints"].as_array().unwrap().len());
    assert_eq!(all.sum::<usize>(), ENDPOINTS_MAX);
    assert_eq!(figures["events"].as_array().unwrap().len(), EVENTS_MAX);
    let last = figures["events"][EVENTS_MAX - 1]["message"]
        .as_str()
        .unwrap();
    assert!(last.starts_with("63 "), "{last}");
    let bytes = ascii_of_json(&figures.to_string()).len();
    assert!(bytes < JSON_BYTES_MAX, "{bytes} bytes");
}

// --- what it costs ----------------------------------------------------------------------------------

/// Two workers, and how often they were asked to tell.
fn asked_observed() -> (Observed, Arc<AtomicUsize>) {
    let alive = Arc::new(AtomicBool::new(true));
    let mut observed = observed(&alive, &Arc::new(Published::new(|| {})));
    let asked = Arc::new(AtomicUsize::new(0));
    for worker in &mut observed.workers {
        let asked = Arc::clone(&asked);
        worker.look = Box::new(move |look: Look| {
            asked.fetch_add(1, Ordering::Relaxed);
            drop(look);
        });
    }
    (observed, asked)
}

fn on_a_runtime<T>(act: impl Future<Output = T>) -> T {
    let runtime = runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(act)
}

/// How often workers may have been asked since then: at once, and again after each second.
fn looks_since(began: Instant) -> usize {
    1 + usize::try_from(began.elapsed().as_secs()).unwrap()
}

/// As after a second.
async fn let_all_grow_old(observed: &Observed) {
    let mut kept = observed.page.0.lock().await;
    (kept.everybody, kept.trusted, kept.look_again_at) = (None, None, None);
}

#[test]
fn many_pages_cost_workers_one_look_a_second() {
    let (observed, asked) = asked_observed();
    let workers = observed.workers.len();
    let began = Instant::now();
    on_a_runtime(async {
        for number in 0..200 {
            let audience = match number % 2 {
                0 => Audience::Everybody,
                _ => Audience::Trusted,
            };
            observed.page_figures(audience).await.unwrap();
        }
        let looks = asked.load(Ordering::Relaxed) / workers;
        assert!((1..=looks_since(began)).contains(&looks), "{looks} looks");
        let_all_grow_old(&observed).await;
        observed.page_figures(Audience::Trusted).await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), (looks + 1) * workers);
    });
}

/// Whoever leaves before the answer is there has begun a look all the same.
#[test]
fn who_does_not_wait_for_the_answer_has_no_more_looks() {
    let (mut observed, asked) = asked_observed();
    let (workers, began) = (observed.workers.len(), Instant::now());
    let kept = Arc::new(std::sync::Mutex::new(Vec::new()));
    for worker in &mut observed.workers {
        let (asked, kept) = (Arc::clone(&asked), Arc::clone(&kept));
        worker.look = Box::new(move |look: Look| {
            asked.fetch_add(1, Ordering::Relaxed);
            // It tells nothing, and may yet.
            kept.lock().unwrap().push(look);
        });
    }
    on_a_runtime(async {
        for _ in 0..100 {
            let asks = observed.page_figures(Audience::Everybody);
            let gone = tokio::time::timeout(Duration::from_millis(1), asks).await;
            // The first one waits for the workers, and those that follow are answered without them.
            drop(gone);
        }
        let looks = asked.load(Ordering::Relaxed) / workers;
        assert!((1..=looks_since(began)).contains(&looks), "{looks} looks");
    });
}

/// `spliceway requests` comes first.
#[test]
fn who_asks_for_all_requests_is_not_held_up() {
    let (observed, asked) = asked_observed();
    on_a_runtime(async {
        let turn = observed.look_turn.try_take().unwrap();
        let answer = observed.page_figures(Audience::Trusted).await.unwrap();
        let figures: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(figures["requests"], serde_json::Value::Null);
        assert_eq!(asked.load(Ordering::Relaxed), 0);
        drop(turn);
        let_all_grow_old(&observed).await;
        let answer = observed.page_figures(Audience::Trusted).await.unwrap();
        let figures: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(figures["requests"]["count"], 0);
        // They have dropped the question.
        assert_eq!(
            figures["requests"]["silent_workers"],
            serde_json::json!([0, 1])
        );
    });
}
