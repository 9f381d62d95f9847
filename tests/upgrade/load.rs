//! Clients of all kinds at work while processes come and go: nobody notices.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, Scope};
use std::time::Duration;

use crate::common::client::{assert_eof, exchange, exchange_and_end, receive_to_eof, send};
use crate::common::fastcgi::{Client, Request};
use crate::common::wait::{SetOnDrop, meanwhile};
use crate::common::{Backend, Conversation, Engine, KB, Pattern, eventually};
use crate::stage::{Daemon, fastcgi, route, wait_for_end};

/// `per-endpoint-max` of the routes that have one.
const PLACES: usize = 3;

/// What a client of the limited route sends and gets back.
const EXCHANGED: u64 = 20 * KB;

/// Clients in each line of [`Work::keep_order`].
const LINE: u8 = 5;

/// For how long something counts as running, at the least: others get in its way if they may.
const RUNNING: Duration = Duration::from_micros(300);

/// How many of something run at one time.
#[derive(Clone, Default)]
struct Running(Arc<(AtomicUsize, AtomicUsize)>);

impl Running {
    fn begin(&self) {
        let (now, most) = &*self.0;
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
    }

    /// To be called before the proxy can know of it.
    fn end(&self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }

    fn most(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }
}

/// The backends, and what they have seen.
pub(crate) struct Work {
    echo: Backend,
    limited: Backend,
    connections: Running,
    pages: Backend,
    requests: Running,
    /// Serves one client of the line after the other.
    line: Backend,
    came: Arc<Mutex<Vec<u8>>>,
    is_over: AtomicBool,
    served: [AtomicU64; KINDS.len()],
}

/// Kinds of clients.
#[derive(Clone, Copy)]
enum Kind {
    Raw,
    Limited,
    KeptRaw,
    FastCgi,
    KeptFastCgi,
    Line,
}

const KINDS: [Kind; 6] = [
    Kind::Raw,
    Kind::Limited,
    Kind::KeptRaw,
    Kind::FastCgi,
    Kind::KeptFastCgi,
    Kind::Line,
];

impl Work {
    pub(crate) fn new() -> Self {
        let (connections, requests) = (Running::default(), Running::default());
        let came = Arc::new(Mutex::new(Vec::new()));
        Self {
            echo: Backend::echo(),
            limited: counting_echo(connections.clone()),
            connections,
            pages: counting_responder(requests.clone()),
            requests,
            line: line(Arc::clone(&came)),
            came,
            is_over: AtomicBool::new(false),
            served: Default::default(),
        }
    }

    pub(crate) fn routes(&self) -> String {
        let limits = |max| {
            format!(
                "per-endpoint-max = {max}\nqueue-max = 1000\nqueue-timeout = \"60s\"\nqueue-order = \"fifo\""
            )
        };
        [
            route("raw", &self.echo, ""),
            route("limited", &self.limited, &limits(PLACES)),
            fastcgi("php", &self.pages, &limits(PLACES)),
            route("line", &self.line, &limits(1)),
        ]
        .concat()
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Waits until more clients of each kind were served.
    #[track_caller]
    pub(crate) fn goes_on(&self) {
        let count = |kind: Kind| self.served[kind as usize].load(Ordering::Relaxed);
        let before = KINDS.map(count);
        let is_more = |(kind, before): (Kind, u64)| count(kind) > before + 2;
        // One that has failed says why.
        eventually("clients are served", || {
            self.is_over() || KINDS.into_iter().zip(before).all(is_more)
        });
        assert!(!self.is_over(), "a client has failed, and says why");
    }

    /// Runs `act` beside clients of all kinds. None of them fails, and none of those that keep their connections sees
    /// an end.
    pub(crate) fn go_on_during(&self, daemon: &Daemon, act: impl FnOnce()) {
        thread::scope(|scope| {
            let over = SetOnDrop(&self.is_over);
            self.start_raw(daemon, scope);
            self.start_fastcgi(daemon, scope);
            scope.spawn(|| self.until_over(Kind::Line, || self.keep_order(daemon)));
            self.goes_on();
            act();
            self.goes_on();
            drop(over);
        });
        self.check();
    }

    /// Does it again and again. Where it panics, everything ends.
    fn until_over(&self, kind: Kind, mut act: impl FnMut()) {
        let over = SetOnDrop(&self.is_over);
        while !self.is_over() {
            act();
            self.served[kind as usize].fetch_add(1, Ordering::Relaxed);
        }
        drop(over);
    }

    fn start_raw<'s>(&'s self, daemon: &'s Daemon, scope: &'s Scope<'s, '_>) {
        for (kind, name) in [(Kind::Raw, "raw.sock"), (Kind::Limited, "limited.sock")] {
            for number in 0..4 {
                let pattern = Pattern::new(number);
                scope.spawn(move || {
                    self.until_over(kind, || {
                        exchange_and_end(&daemon.connect(name), pattern, EXCHANGED);
                    });
                });
            }
        }
        scope.spawn(|| {
            let kept = daemon.connect("raw.sock");
            self.until_over(Kind::KeptRaw, || exchange(&kept, Pattern::new(8), 4 * KB));
            kept.shutdown(Shutdown::Write).expect("it is open");
            assert_eof(&kept);
        });
    }

    fn start_fastcgi<'s>(&'s self, daemon: &'s Daemon, scope: &'s Scope<'s, '_>) {
        let asked = Request::get("/a.php");
        let ask = move |client: &Client| assert_eq!(client.ask(&asked).text(), "/a.php");
        for _ in 0..3 {
            let ask = ask.clone();
            scope.spawn(move || self.until_over(Kind::FastCgi, || ask(&daemon.client("php.sock"))));
        }
        for _ in 0..3 {
            let ask = ask.clone();
            scope.spawn(move || {
                let kept = daemon.client("php.sock");
                self.until_over(Kind::KeptFastCgi, || ask(&kept));
            });
        }
    }

    /// Some come one after the other to where only one is served at a time.
    fn keep_order(&self, daemon: &Daemon) {
        self.came.lock().expect("scripts do not panic").clear();
        let clients: Vec<_> = (0..LINE).map(|number| in_line(daemon, number)).collect();
        self.line.release(clients.len());
        for client in &clients {
            assert_eq!(receive_to_eof(client), b"done");
        }
        let came = self.came.lock().expect("scripts do not panic");
        let expected: Vec<_> = (0..LINE).collect();
        assert_eq!(*came, expected, "first come, first served");
    }

    /// Never more than there are places.
    fn check(&self) {
        for (what, running) in [
            ("connections", &self.connections),
            ("requests", &self.requests),
        ] {
            let most = running.most();
            assert!((2..=PLACES).contains(&most), "{most} {what} at one time");
        }
        assert_eq!(self.line.ledger().open_most, 1);
    }
}

fn in_line(daemon: &Daemon, number: u8) -> UnixStream {
    let client = daemon.connect("line.sock");
    send(&client, &[number]);
    client.shutdown(Shutdown::Write).expect("it is connected");
    client
}

/// Echoes what it can count on to be all, and counts the connection until before it ends its side: nobody else gets
/// the place any earlier.
fn counting_echo(running: Running) -> Backend {
    Backend::scripted(move |conversation| {
        running.begin();
        let echoed = echo_all(conversation);
        running.end();
        echoed.and_then(|()| conversation.half_close())
    })
}

fn echo_all(conversation: &mut Conversation) -> io::Result<()> {
    loop {
        let received = conversation.receive()?.to_vec();
        if received.is_empty() {
            return Ok(());
        }
        conversation.send(&received)?;
    }
}

/// Counts requests until before they are answered.
fn counting_responder(running: Running) -> Backend {
    Backend::scripted(move |conversation| {
        conversation.respond(|heard| {
            running.begin();
            meanwhile(RUNNING, thread::yield_now);
            running.end();
            heard.page()
        })
    })
}

/// Says which clients have come to be served, each of which goes when it is released.
fn line(came: Arc<Mutex<Vec<u8>>>) -> Backend {
    Backend::scripted(move |conversation| {
        let number = conversation.receive_exact(1)?[0];
        came.lock().expect("it is only pushed to").push(number);
        conversation.wait_for_release()?;
        conversation.send(b"done")
    })
}

pub(crate) fn nobody_notices_twenty_upgrades(engine: Engine) {
    const UPGRADES: usize = 20;
    let work = Work::new();
    let daemon = Daemon::start(engine, &work.routes());
    let mut pids = vec![daemon.first().pid()];
    work.go_on_during(&daemon, || {
        for _ in 0..UPGRADES {
            let pid = daemon.upgrade();
            assert_eq!(daemon.pid(), pid);
            pids.push(pid);
            work.goes_on();
        }
    });
    let last = pids.pop().expect("there was one at the start");
    for pid in pids {
        wait_for_end(pid);
    }
    assert_eq!(daemon.pid(), last);
    for route in daemon.status()["routes"].as_array().expect("it has routes") {
        let ended = route["sessions_ended"].as_object();
        for (outcome, count) in ended.expect("they are counted") {
            let is_well = ["complete", "client_closed", "client_left"].contains(&&**outcome);
            assert!(is_well || *count == 0, "{outcome}: {route}");
        }
    }
}
