//! When looks at a route's endpoints begin and end an outage.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use super::*;
use crate::checks::probe::Problem;
use crate::config::CheckKind;
use crate::sys::net::{TcpOptions, UnixKind, UnixName};

/// A route that is looked at again and again, at given times.
struct Course {
    looks: Looks,
    now: Instant,
    state: RouteState,
    /// What the last look came to.
    last: Option<Conclusion>,
}

impl Course {
    fn new() -> Self {
        Self {
            looks: Looks::default(),
            now: Instant::now(),
            state: RouteState {
                is_out: false,
                is_paused: false,
                endpoints: 2,
            },
            last: None,
        }
    }

    /// The next look, at its time. Whether the route is out then.
    fn look(&mut self, found: Found) -> bool {
        if let Some(last) = self.last {
            self.now = last.again_at;
        }
        let conclusion = self.looks.conclude(found, self.state, self.now);
        if let Some(is_out) = conclusion.is_out {
            assert_ne!(is_out, self.state.is_out, "a change is one");
            self.state.is_out = is_out;
        }
        self.last = Some(conclusion);
        self.state.is_out
    }

    fn is_well(&self) -> bool {
        self.last.is_some_and(|last| last.is_well)
    }
}

#[test]
fn one_refusal_is_no_outage_and_two_in_a_row_are() {
    let mut course = Course::new();
    let began = course.now;
    assert!(!course.look(Found::None));
    assert!(!course.is_well(), "it is looked at again");
    assert!(course.look(Found::None));
    assert_eq!(course.now - began, SECOND_LOOK_AFTER);
    // However long it lasts, that is told once.
    for _ in 0..10 {
        assert!(course.look(Found::None));
        assert_eq!(course.last.unwrap().is_out, None);
        assert!(!course.is_well());
    }
}

#[test]
fn an_outage_is_seen_within_a_tenth_of_a_second_and_so_is_its_end() {
    let mut course = Course::new();
    // The last endpoint goes right after a look, such as one that another endpoint's failures have begun.
    assert!(!course.look(Found::One));
    let began = course.now;
    while !course.look(Found::None) {}
    assert!(course.now - began <= Duration::from_millis(100));
    // An endpoint is back right after a look.
    let back = course.now;
    assert!(!course.look(Found::One));
    assert!(course.now - back <= Duration::from_millis(100));
    assert!(course.is_well(), "nobody looks while all is well");
}

#[test]
fn after_an_outage_the_next_one_takes_two_looks_again() {
    let mut course = Course::new();
    while !course.look(Found::None) {}
    assert!(!course.look(Found::One));
    // What comes then is another row of looks.
    course.looks = Looks::default();
    assert!(!course.look(Found::None));
    assert!(course.look(Found::None));
}

#[test]
fn what_cannot_be_told_neither_begins_nor_ends_an_outage() {
    let mut course = Course::new();
    for _ in 0..5 {
        assert!(!course.look(Found::Unknown));
        assert!(!course.is_well());
    }
    // Nor is it between two refusals what an endpoint would be.
    assert!(!course.look(Found::None));
    assert!(!course.look(Found::Unknown));
    assert!(course.look(Found::None));
    for _ in 0..5 {
        assert!(course.look(Found::Unknown));
        assert!(!course.is_well());
    }
    assert!(!course.look(Found::One));
}

#[test]
fn endpoints_that_are_drained_by_hand_are_no_outage_and_end_one() {
    let mut course = Course::new();
    assert!(!course.look(Found::None));
    assert!(!course.look(Found::Drained));
    assert!(course.is_well(), "another set begins the next look");
    // Refusals from before it count no more.
    assert!(!course.look(Found::None));
    assert!(course.look(Found::None));
    assert!(!course.look(Found::Drained));
}

#[test]
fn a_pause_is_no_outage_and_ends_one_whatever_is_found() {
    for found in [Found::None, Found::Unknown, Found::One, Found::Drained] {
        let mut course = Course::new();
        while !course.look(Found::None) {}
        course.state.is_paused = true;
        for _ in 0..5 {
            assert!(!course.look(found), "{found:?}");
        }
        // Whoever is away when it is over is away anew.
        course.state.is_paused = false;
        assert!(!course.look(Found::None), "{found:?}");
        assert!(course.look(Found::None), "{found:?}");
    }
}

#[test]
fn an_outage_that_another_process_knew_of_ends_with_the_first_endpoint_only() {
    let mut course = Course::new();
    course.state.is_out = true;
    assert!(course.look(Found::None));
    assert!(course.look(Found::Unknown));
    assert!(!course.look(Found::One));
}

#[test]
fn many_endpoints_get_no_more_connects_in_a_second_than_sixteen() {
    for (endpoints, rounds) in [(0, 1), (1, 1), (16, 1), (17, 2), (32, 2), (4096, 256)] {
        let mut course = Course::new();
        course.state.endpoints = endpoints;
        course.state.is_out = true;
        course.look(Found::None);
        let time = course.last.unwrap().again_at - course.now;
        assert_eq!(time, OUTAGE_PROBE_INTERVAL * rounds, "{endpoints}");
        let in_a_second = endpoints as f64 / time.as_secs_f64();
        assert!(in_a_second <= 16.0 * 20.0, "{endpoints}: {in_a_second}");
    }
}

#[test]
fn what_this_machine_lacks_says_nothing_of_an_endpoint() {
    let error = |errno| ProbeOutcome::Unknown(io::Error::from_raw_os_error(errno));
    for (outcome, found) in [
        (ProbeOutcome::Up, Found::One),
        (ProbeOutcome::Busy, Found::One),
        (ProbeOutcome::Down(Problem::Silence), Found::None),
        (
            ProbeOutcome::Down(Problem::Connection(Errno(libc::ECONNREFUSED))),
            Found::None,
        ),
        (error(libc::EMFILE), Found::Unknown),
        (error(libc::ENOMEM), Found::Unknown),
        // Nobody gets there, as long as that is so.
        (error(libc::EACCES), Found::None),
    ] {
        assert_eq!(judge(&outcome), found, "{outcome:?}");
    }
}

/// With endpoints that are there, or are not, in real time: what is known of it is only its order.
#[test]
fn a_route_whose_only_endpoint_goes_is_out_until_it_is_back() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("endpoint.sock");
        let name = UnixName::new(path.as_os_str().as_bytes(), UnixKind::Path);
        let published = Arc::new(Published::new(|| {}));
        published.publish([Address::Unix(name)], SystemTime::UNIX_EPOCH);
        let changes = Arc::new(AtomicUsize::new(0));
        let consequence = Consequence {
            when_down: WhenDown::Refuse,
            has_changed: Box::new({
                let changes = Arc::clone(&changes);
                move || {
                    changes.fetch_add(1, Ordering::Relaxed);
                }
            }),
        };
        let checks = Checks {
            kind: CheckKind::Tcp,
            interval: OUTAGE_PROBE_INTERVAL,
            tcp: TcpOptions::default(),
            introduction: Box::default(),
        };
        let watch = tokio::spawn(watch_outages(Arc::clone(&published), checks, consequence));
        until(|| published.is_out()).await;
        assert_eq!(changes.load(Ordering::Relaxed), 1);
        let _listener = UnixListener::bind(&path).unwrap();
        until(|| !published.is_out()).await;
        assert_eq!(changes.load(Ordering::Relaxed), 2);
        watch.abort();
    });
}

async fn until(is_so: impl Fn() -> bool) {
    let waits = async {
        while !is_so() {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    time::timeout(Duration::from_secs(30), waits).await.unwrap();
}
