//! What the tests of the view begin with.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::runtime;

use super::TopCommand;
use super::model::Model;
use crate::observe::client::{AskError, ask};
use crate::observe::requests::{RequestEntry, StalledEntry};
pub(super) use crate::observe::status::samples::busy;
use crate::observe::{RequestOrder, Requests, Status};
use crate::session::{SessionState, StalledBy, StalledWhat};

/// What drives terminals, ends lines, changes directions and joins what is beside it.
pub(super) const HOSTILE: &str =
    "\u{1b}[2J\u{1b}]0;x\u{7}\n\r\t\u{9b}2J\u{202e}e\u{301}\u{200d}\u{4e2d}\u{1f468}\u{feff}";

pub(super) fn model() -> Model {
    Model::new(&TopCommand {
        control: PathBuf::from("/c"),
        route: None,
        idle: false,
        sort: RequestOrder::Age,
        interval: Duration::from_secs(1),
        count: None::<NonZeroU32>,
    })
}

/// With one of its routes, and nothing that is wrong.
pub(super) fn small() -> Status {
    let mut status = busy();
    status.routes.truncate(1);
    status.retired_routes.clear();
    status
}

/// Everything that others chose, as hostile as it can be.
pub(super) fn hostile() -> Status {
    let mut status = busy();
    status.version = HOSTILE.to_owned();
    status.engine = HOSTILE.to_owned();
    status.config.hash = HOSTILE.to_owned();
    for route in &mut status.routes {
        route.name = HOSTILE.to_owned();
        for endpoint in &mut route.endpoints {
            endpoint.address = HOSTILE.repeat(100);
        }
    }
    status.retired_routes[0].name = HOSTILE.to_owned();
    status.events[0].message = HOSTILE.repeat(100);
    status.events[0].fields = [(HOSTILE.to_owned(), HOSTILE.to_owned())].into();
    status
}

fn entry(number: u32, state: SessionState) -> RequestEntry {
    RequestEntry {
        route: "php".to_owned(),
        worker: 0,
        uid: Some(33),
        gid: Some(33),
        pid: Some(800 + number),
        state,
        age_seconds: f64::from(number) * 1.5,
        connected_seconds: 100.0,
        queue_seconds: f64::from(40 - number.min(40)),
        method: Some("GET".to_owned()),
        uri: Some(format!("/page?id={number}")),
        script: Some("/srv/www/index.php".to_owned()),
        class: None,
        endpoint: (state != SessionState::Queued).then(|| "192.0.2.1:9000".to_owned()),
        request_bytes: Some(1126),
        response_bytes: Some(0),
        stalled: (state == SessionState::Answering).then_some(StalledEntry {
            by: StalledBy::Client,
            what: StalledWhat::Download,
            seconds: 7.25,
        }),
    }
}

/// Twenty of them, in no order.
pub(super) fn requests() -> Requests {
    let states = [
        SessionState::Sent,
        SessionState::Queued,
        SessionState::Answering,
    ];
    let numbers = (0..20).map(|number| number * 7 % 20);
    let of = |number: u32| entry(number, states[number as usize % states.len()]);
    Requests {
        program: Status::PROGRAM.to_owned(),
        schema: Status::SCHEMA,
        version: "1.2.3".to_owned(),
        routes: vec!["php".to_owned(), "other".to_owned()],
        silent_workers: Vec::new(),
        incomplete_workers: Vec::new(),
        left_out: 0,
        requests: numbers.map(of).collect(),
    }
}

/// One whose client has chosen everything.
pub(super) fn hostile_request() -> RequestEntry {
    RequestEntry {
        route: HOSTILE.to_owned(),
        method: Some(HOSTILE.to_owned()),
        uri: Some(HOSTILE.repeat(100)),
        script: Some(HOSTILE.to_owned()),
        endpoint: Some(HOSTILE.to_owned()),
        ..entry(30, SessionState::Answering)
    }
}

/// As it is said of a socket that is not there.
pub(super) fn no_answer() -> AskError {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let asked = ask(Path::new("/no-such-directory/control.sock"));
    runtime.block_on(asked).unwrap_err()
}
