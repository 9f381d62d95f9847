//! Places at endpoints while several daemons have some: together never more than there are, and all of them.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use crate::common::client::{assert_waiting, receive_to_eof, send};
use crate::common::fastcgi::{Client, Request};
use crate::common::wait::SetOnDrop;
use crate::common::{Backend, Engine, eventually};
use crate::stage::{Daemon, fastcgi, is_over, route, wait_for_end};

fn limited(max: usize) -> String {
    format!("per-endpoint-max = {max}\nqueue-timeout = \"60s\"\nqueue-order = \"fifo\"")
}

/// Releases one after the other, and looks whether one of those that wait has its place each time, as long as some do.
#[track_caller]
fn each_makes_room_for_one(held: &Backend, clients: &[&UnixStream], max: usize) {
    for released in 0..clients.len() {
        let accepted = clients.len().min(max + released);
        held.wait_until("all places are taken", |ledger| {
            ledger.accepted == accepted && ledger.open == accepted - released
        });
        held.release(1);
    }
    for client in clients {
        assert_eq!(receive_to_eof(client), b"done");
    }
    assert_eq!(held.ledger().open_most, max);
}

pub(crate) fn who_comes_has_what_others_leave(engine: Engine) {
    let held = Backend::hold();
    let daemon = Daemon::start(engine, &route("raw", &held, &limited(3)));
    let first = daemon.pid();
    let old: Vec<_> = (0..3)
        .map(|_| daemon.connect_listening("raw.sock"))
        .collect();
    held.wait_until("all places are taken", |ledger| ledger.open == 3);
    daemon.upgrade();
    let new: Vec<_> = (0..4)
        .map(|_| daemon.connect_listening("raw.sock"))
        .collect();
    eventually("they wait", || daemon.waiting("raw") == 4);
    new.iter().for_each(assert_waiting);
    assert!(!is_over(first));
    let all: Vec<_> = old.iter().chain(&new).collect();
    each_makes_room_for_one(&held, &all, 3);
    wait_for_end(first);
}

/// A line of clients over three daemons, of which one is served at a time.
pub(crate) fn the_line_is_served_in_order(engine: Engine) {
    let came = Arc::new(Mutex::new(Vec::new()));
    let held = {
        let came = Arc::clone(&came);
        Backend::scripted(move |conversation| {
            let number = conversation.receive_exact(1)?[0];
            came.lock().unwrap().push(number);
            conversation.wait_for_release()?;
            conversation.send(b"done")
        })
    };
    let daemon = Daemon::start(engine, &route("raw", &held, &limited(1)));
    let come = |number: u8| {
        let client = daemon.connect("raw.sock");
        send(&client, &[number]);
        client.shutdown(Shutdown::Write).unwrap();
        client
    };
    let mut clients = vec![come(0)];
    eventually("one is served", || came.lock().unwrap().len() == 1);
    for _ in 0..3 {
        let waiting = daemon.waiting("raw");
        for more in 1..=4 {
            clients.push(come(u8::try_from(clients.len()).unwrap()));
            eventually("it waits", || daemon.waiting("raw") == waiting + more);
        }
        daemon.upgrade();
        // Those that waited, who have come to be the new one's, are before who comes now.
        clients.push(come(u8::try_from(clients.len()).unwrap()));
        let waiting = u64::try_from(clients.len() - 1).unwrap();
        eventually("all wait", || daemon.waiting("raw") == waiting);
    }
    held.release(clients.len());
    clients
        .iter()
        .for_each(|client| drop(receive_to_eof(client)));
    let expected: Vec<_> = (0..u8::try_from(clients.len()).unwrap()).collect();
    assert_eq!(*came.lock().unwrap(), expected);
    assert_eq!(held.ledger().open_most, 1);
}

pub(crate) fn a_limit_that_comes_counts_those_before_it(engine: Engine) {
    let held = Backend::hold();
    let daemon = Daemon::start(engine, &route("raw", &held, ""));
    let old: Vec<_> = (0..4)
        .map(|_| daemon.connect_listening("raw.sock"))
        .collect();
    held.wait_until("all are served", |ledger| ledger.open == 4);
    daemon.write(&route("raw", &held, &limited(2)));
    daemon.upgrade();
    let new = daemon.connect_listening("raw.sock");
    eventually("it waits", || daemon.waiting("raw") == 1);
    for left in [3, 2] {
        held.release(1);
        held.wait_until("one has gone", |ledger| ledger.open == left);
        assert_waiting(&new);
        assert_eq!(held.ledger().accepted, 4);
    }
    held.release(1);
    held.wait_until("there is a place", |ledger| ledger.accepted == 5);
    held.release(2);
    for client in old.iter().chain([&new]) {
        assert_eq!(receive_to_eof(client), b"done");
    }
}

/// Each of three daemons has some, and those that wait at the last one get what any of them gives back.
pub(crate) fn a_chain_shares_what_there_is(engine: Engine) {
    let held = Backend::hold();
    let daemon = Daemon::start(engine, &route("raw", &held, &limited(3)));
    let mut clients = Vec::new();
    let mut pids = vec![daemon.pid()];
    for served in 1..=3 {
        clients.push(daemon.connect_listening("raw.sock"));
        held.wait_until("it is served", |ledger| ledger.open == served);
        pids.push(daemon.upgrade());
    }
    clients.extend((0..4).map(|_| daemon.connect_listening("raw.sock")));
    eventually("they wait", || daemon.waiting("raw") == 4);
    assert!(pids.iter().all(|pid| !is_over(*pid)));
    let all: Vec<_> = clients.iter().collect();
    each_makes_room_for_one(&held, &all, 3);
    pids.pop();
    pids.into_iter().for_each(wait_for_end);
}

/// Connections that rest at the old one are nobody's place; requests that run there are.
pub(crate) fn slow_requests_keep_their_places(engine: Engine) {
    let pages = Backend::scripted(|conversation| {
        while let Some(heard) = conversation.request()? {
            if heard.uri() == "/slow" {
                conversation.wait_for_release()?;
            }
            conversation.send(&heard.page())?;
        }
        Ok(())
    });
    let daemon = Daemon::start(engine, &fastcgi("php", &pages, &limited(2)));
    let first = daemon.pid();
    let ask = |client: &Client, uri: &str| client.send(&Request::get(uri).bytes());
    let clients: Vec<_> = (0..4).map(|_| daemon.client("php.sock")).collect();
    for client in &clients {
        assert_eq!(client.ask(&Request::get("/quick")).text(), "/quick");
    }
    let running = || daemon.route("php")["endpoints"][0]["connections"].clone();
    ask(&clients[0], "/slow");
    ask(&clients[1], "/slow");
    eventually("they run", || running() == 2);
    daemon.upgrade();
    // Whose connection was kept, which may have sent something before it left, and who comes now.
    ask(&clients[2], "/quick");
    let new = daemon.client("php.sock");
    ask(&new, "/quick");
    eventually("they wait", || daemon.waiting("php") >= 1);
    assert_waiting(&clients[2].0);
    assert_waiting(&new.0);
    pages.release(1);
    assert_eq!(clients[2].answer().text(), "/quick");
    assert_eq!(new.answer().text(), "/quick");
    pages.release(1);
    for client in &clients[..2] {
        assert_eq!(client.answer().text(), "/slow");
    }
    // They are the new one's now.
    wait_for_end(first);
    for client in &clients {
        assert_eq!(client.ask(&Request::get("/again")).text(), "/again");
    }
}

/// The process that comes has what is kept for a class, while the one that leaves has places and keeps nothing.
pub(crate) fn what_is_kept_for_a_class_is_kept_from_what_is_left(engine: Engine) {
    let pages = Backend::scripted(|conversation| {
        while let Some(heard) = conversation.request()? {
            if heard.uri() != "/admin" {
                conversation.wait_for_release()?;
            }
            conversation.send(&heard.page())?;
        }
        Ok(())
    });
    let class = "[route.php.class.admin]\nmatch = \"REQUEST_URI=/admin\"\nreserve = 1";
    let daemon = Daemon::start(
        engine,
        &fastcgi("php", &pages, &format!("{}\n{class}", limited(3))),
    );
    let first = daemon.pid();
    let come = || {
        let client = daemon.client("php.sock");
        client.send(&Request::get("/slow").bytes());
        client
    };
    let mut clients: Vec<_> = (0..2).map(|_| come()).collect();
    pages.wait_until("two are served", |ledger| ledger.open == 2);
    daemon.upgrade();
    clients.push(come());
    eventually("it waits", || daemon.waiting("php") == 1);
    let admin = daemon.client("php.sock");
    for _ in 0..20 {
        assert_eq!(admin.ask(&Request::get("/admin")).text(), "/admin");
    }
    assert_waiting(&clients[2].0);
    pages.release(3);
    for client in &clients {
        assert_eq!(client.answer().text(), "/slow");
    }
    wait_for_end(first);
    assert!(pages.ledger().open_most <= 3);
}

/// Each process finds out anew how many workers there are, while the one before it gives its own back.
pub(crate) fn a_limit_is_found_out_anew(engine: Engine) {
    const WORKERS: usize = 4;
    let free = Arc::new((Mutex::new(WORKERS), Condvar::new()));
    let pages = Backend::scripted(move |conversation| {
        let (count, changed) = &*free;
        let taken = changed.wait_while(count.lock().unwrap(), |free| *free == 0);
        *taken.unwrap() -= 1;
        let done = conversation.respond(|heard| heard.page());
        *count.lock().unwrap() += 1;
        changed.notify_one();
        done
    });
    let auto = "per-endpoint-max = \"auto:1-20\"\nqueue-timeout = \"off\"\nqueue-order = \"fifo\"";
    let daemon = Daemon::start(engine, &fastcgi("php", &pages, auto));
    let (stop, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _stop = SetOnDrop(&stop);
        for _ in 0..12 {
            scope.spawn(|| {
                let client = daemon.client("php.sock");
                while !stop.load(Ordering::Acquire) {
                    assert_eq!(client.ask(&Request::get("/page")).text(), "/page");
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..3 {
            let limit = || daemon.route("php")["endpoints"][0]["connections_limit"].as_u64();
            eventually("all workers are found", || limit() == Some(WORKERS as u64));
            let (before, first) = (answers.load(Ordering::Relaxed), daemon.pid());
            daemon.upgrade();
            wait_for_end(first);
            eventually("requests are served", || {
                answers.load(Ordering::Relaxed) > before + 200
            });
        }
    });
}
