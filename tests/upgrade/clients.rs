//! FastCGI clients that keep their connections, at the very moment of the hand-over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::common::fastcgi::{Client, Request};
use crate::common::wait::SetOnDrop;
use crate::common::{Backend, Engine, eventually};
use crate::stage::{Daemon, fastcgi};

/// Answers each request with what it asks for, and counts them.
fn counting(count: &Arc<AtomicUsize>) -> Backend {
    let count = Arc::clone(count);
    Backend::scripted(move |conversation| {
        conversation.respond(|heard| {
            count.fetch_add(1, Ordering::SeqCst);
            heard.page()
        })
    })
}

/// Whatever part of a request was sent before the hand-over: the rest of it comes after.
pub(crate) fn a_request_that_is_cut_by_the_hand_over_is_answered_once(engine: Engine) {
    let count = Arc::new(AtomicUsize::new(0));
    let pages = counting(&count);
    let daemon = Daemon::start(engine, &fastcgi("php", &pages, "per-endpoint-max = 32"));
    let bytes = Request::post("/cut", b"a body").bytes();
    // Of its header, of its parameters, all of its head, and of its body.
    let head = Request::post("/cut", b"a body").head().len();
    let cuts = [0, 1, 7, 8, 16, 20, head - 1, head, head + 9, bytes.len()];
    let mut asked = 0;
    for _ in 0..3 {
        let clients = cuts.map(|_| daemon.client("php.sock"));
        for client in &clients {
            assert_eq!(client.ask(&Request::get("/first")).text(), "/first");
        }
        // Each is at rest then, or about to be.
        for (client, cut) in clients.iter().zip(cuts) {
            client.send(&bytes[..cut]);
        }
        daemon.upgrade();
        for (client, cut) in clients.iter().zip(cuts) {
            client.send(&bytes[cut..]);
            assert_eq!(client.answer().text(), "/cut", "cut at {cut}");
        }
        for client in &clients {
            assert_eq!(client.ask(&Request::get("/last")).text(), "/last");
        }
        asked += 3 * cuts.len();
        assert_eq!(count.load(Ordering::SeqCst), asked);
    }
}

/// Byte by byte, and whole, while one process takes the place of the other.
pub(crate) fn each_request_is_answered_once_whenever_it_comes(engine: Engine) {
    let count = Arc::new(AtomicUsize::new(0));
    let pages = counting(&count);
    let daemon = Daemon::start(engine, &fastcgi("php", &pages, "per-endpoint-max = 4"));
    let (is_over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let ask_on = &|client: Client, piece: usize| {
        let _over = SetOnDrop(&is_over);
        let bytes = Request::get("/page").bytes();
        while !is_over.load(Ordering::Relaxed) {
            bytes.chunks(piece).for_each(|piece| client.send(piece));
            assert_eq!(client.answer().text(), "/page");
            asked.fetch_add(1, Ordering::SeqCst);
        }
    };
    thread::scope(|scope| {
        let over = SetOnDrop(&is_over);
        for piece in [1, 1, 3, 8, 13, 4096] {
            let client = daemon.client("php.sock");
            scope.spawn(move || ask_on(client, piece));
        }
        for _ in 0..10 {
            let before = asked.load(Ordering::SeqCst);
            daemon.upgrade();
            let is_more = || asked.load(Ordering::SeqCst) > before + 12;
            eventually("they are answered", || {
                is_over.load(Ordering::Relaxed) || is_more()
            });
            assert!(!is_over.load(Ordering::Relaxed), "one of them says why");
        }
        drop(over);
    });
    assert_eq!(count.load(Ordering::SeqCst), asked.load(Ordering::SeqCst));
}
