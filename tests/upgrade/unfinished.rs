//! FastCGI clients that are slow with a head, or with an answer: what they hold starves nobody, and they lose nothing.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use spliceway_common::fastcgi::{Header, Kind, RequestId, push_pair};

use crate::common::client::{assert_eof, assert_waiting};
use crate::common::fastcgi::{Client, Heard, ONE, Request, page, record};
use crate::common::wait::{LOOK_INTERVAL, pause};
use crate::common::{Backend, Conversation, Engine, eventually, sys};
use crate::stage::{Daemon, fastcgi, wait_for_end};

const KB: usize = 1 << 10;

fn limited(max: usize) -> String {
    format!("per-endpoint-max = {max}\nqueue-timeout = \"60s\"\nqueue-order = \"fifo\"")
}

/// Says of each request what was asked for, and how much came with it.
fn sizes(heard: &Heard) -> Vec<u8> {
    let text = format!("{} {}", heard.uri(), heard.body.len());
    page(heard.id, text.as_bytes())
}

/// Requests that a backend is at work on. A ledger has its connections, and takes some that the proxy has closed for
/// open until they are read from.
#[derive(Clone, Default)]
struct Busy(Arc<Mutex<(usize, usize)>>);

impl Busy {
    /// Now, and the most that there were.
    fn now_and_most(&self) -> (usize, usize) {
        *self.0.lock().unwrap()
    }

    /// Is at work on a request for as long as this takes.
    fn during(&self, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        {
            let (now, most) = &mut *self.0.lock().unwrap();
            *now += 1;
            *most = (*most).max(*now);
        }
        let done = work();
        self.0.lock().unwrap().0 -= 1;
        done
    }

    /// A backend that answers some requests only when it may: those with `slow` in their URI.
    fn backend(&self) -> Backend {
        let busy = self.clone();
        Backend::scripted(move |conversation| {
            while let Some(heard) = conversation.request()? {
                busy.during(|| wait_if_slow(conversation, &heard))?;
                conversation.send(&sizes(&heard))?;
            }
            Ok(())
        })
    }
}

fn wait_if_slow(conversation: &mut Conversation, heard: &Heard) -> io::Result<()> {
    match heard.uri().contains("slow") {
        true => conversation.wait_for_release(),
        false => Ok(()),
    }
}

#[track_caller]
fn assert_served(daemon: &Daemon, uri: &str) {
    let client = daemon.client("php.sock");
    assert_eq!(client.ask(&Request::get(uri)).text(), format!("{uri} 0"));
}

/// As many as there are places, and more: none of them is kept for them.
pub(crate) fn half_heads_leave_and_starve_nobody(engine: Engine) {
    for (count, max) in [(4, 1), (7, 1), (4, 2), (7, 2), (4, 4), (7, 4)] {
        let busy = Busy::default();
        let pages = busy.backend();
        let daemon = Daemon::start(engine, &fastcgi("php", &pages, &limited(max)));
        let first = daemon.pid();
        let bytes = Request::get("/slow").bytes();
        let (half, rest) = bytes.split_at(20);
        let clients: Vec<_> = (0..count).map(|_| daemon.client("php.sock")).collect();
        clients.iter().for_each(|client| client.send(half));
        // The workers read from each in the order in which they heard of it.
        assert_served(&daemon, "/before");
        daemon.upgrade();
        assert_served(&daemon, "/after");
        // Nothing of them is left there.
        wait_for_end(first);
        daemon.upgrade();
        for client in &clients {
            assert_waiting(&client.0);
            client.send(rest);
        }
        for answered in 0..count {
            let running = max.min(count - answered);
            eventually("all places are taken", || {
                busy.now_and_most() == (running, max)
            });
            pages.release(1);
        }
        for client in &clients {
            assert_eq!(client.answer().text(), "/slow 0");
        }
        assert_eq!(busy.now_and_most(), (0, max));
    }
}

/// One record, with padding that would be taken for a header if it was read.
fn padded(kind: Kind, content: &[u8], padding_len: u8) -> Vec<u8> {
    let header = Header {
        kind,
        request_id: ONE,
        content_len: u16::try_from(content.len()).unwrap(),
        padding_len,
    };
    let padding = vec![1; usize::from(padding_len)];
    [&header.encode()[..], content, &padding].concat()
}

fn question() -> Vec<u8> {
    let mut pairs = Vec::new();
    push_pair(&mut pairs, b"FCGI_MAX_CONNS", b"");
    record(Kind::GetValues, RequestId::MANAGEMENT, &pairs)
}

pub(crate) fn a_head_that_is_cut_anywhere_is_answered_once(engine: Engine) {
    const BODY: usize = 2048 * KB;
    let pages = Backend::scripted(|conversation| conversation.respond(sizes));
    let daemon = Daemon::start(engine, &fastcgi("php", &pages, &limited(2)));
    let whole = Request::post("/cut", &[b'x'; 10]).head();
    // BEGIN_REQUEST has 16 bytes; behind it stand PARAMS, and their end.
    let params = &whole[24..24 + usize::from(whole[21])];
    let params = String::from_utf8_lossy(params).replace("10", "2097152");
    let mut params = params.into_bytes();
    // The length of that value has its own byte.
    let at = params
        .windows(14)
        .position(|name| name == b"CONTENT_LENGTH")
        .unwrap();
    params[at - 1] = 7;
    let (one, two) = params.split_at(params.len() / 2);
    let question = question();
    let head = [
        question.clone(),
        padded(Kind::BeginRequest, &[0, 1, 1, 0, 0, 0, 0, 0], 5),
        padded(Kind::Params, one, 200),
        padded(Kind::Params, two, 3),
        padded(Kind::Params, b"", 9),
    ];
    let mut ends = vec![0];
    for part in &head {
        ends.push(ends[ends.len() - 1] + part.len());
    }
    let last = ends[head.len()];
    // Between records, in headers, behind them, in contents and in paddings.
    let near = ends
        .iter()
        .flat_map(|end| [*end, end + 1, end + 7, end + 8, end + 9, end + 15]);
    let paddings = ends
        .iter()
        .flat_map(|end| [end.saturating_sub(1), end.saturating_sub(2)]);
    let mut cuts: Vec<_> = near
        .chain(paddings)
        .filter(|cut| (1..last).contains(cut))
        .collect();
    cuts.sort_unstable();
    cuts.dedup();
    let head = head.concat();
    let body: Vec<u8> = vec![b'x'; 60_000];
    let bodies = (BODY / body.len(), BODY % body.len());
    let clients: Vec<_> = cuts.iter().map(|_| daemon.client("php.sock")).collect();
    for (client, cut) in clients.iter().zip(&cuts) {
        client.send(&head[..*cut]);
    }
    assert_served(&daemon, "/before");
    let first = daemon.pid();
    daemon.upgrade();
    wait_for_end(first);
    for (client, cut) in clients.iter().zip(&cuts) {
        client.send(&head[*cut..]);
        (0..bodies.0).for_each(|_| client.send(&padded(Kind::Stdin, &body, 7)));
        client.send(&padded(Kind::Stdin, &body[..bodies.1], 0));
        client.send(&padded(Kind::Stdin, b"", 4));
        let values = client.record();
        assert_eq!(values.kind, Kind::GetValuesResult, "cut at {cut}");
        // No second answer to the question comes.
        assert_eq!(
            client.answer().text(),
            format!("/cut {BODY}"),
            "cut at {cut}"
        );
    }
}

/// A request that does not wait for the answer to the one before it.
pub(crate) fn what_is_pipelined_goes_over_with_its_client(engine: Engine) {
    let busy = Busy::default();
    let pages = busy.backend();
    let daemon = Daemon::start(engine, &fastcgi("php", &pages, &limited(1)));
    let first = daemon.pid();
    let client = daemon.client("php.sock");
    let slow = Request::get("/slow").bytes();
    let next = Request::post("/next", b"body").bytes();
    let (half, rest) = next.split_at(next.len() / 2);
    client.send(&[&slow, half].concat());
    eventually("it runs", || busy.now_and_most().0 == 1);
    daemon.upgrade();
    let other = daemon.client("php.sock");
    other.send(&Request::get("/other").bytes());
    eventually("it waits", || daemon.waiting("php") == 1);
    assert_waiting(&other.0);
    pages.release(1);
    assert_eq!(client.answer().text(), "/slow 0");
    assert_eq!(other.answer().text(), "/other 0");
    wait_for_end(first);
    client.send(rest);
    assert_eq!(client.answer().text(), "/next 4");
    assert_eq!(busy.now_and_most(), (0, 1));
}

/// Answers with as much as the URI says, and ends when the proxy does.
fn large() -> Backend {
    Backend::scripted(|conversation| {
        let Some(heard) = conversation.request()? else {
            return Ok(());
        };
        let size = heard.uri()[1..].parse().unwrap();
        conversation.send(&page(heard.id, &vec![b'x'; size]))?;
        while conversation.record()?.is_some() {}
        Ok(())
    })
}

/// A client that does not read its answer, and how long that is: the proxy has a part of it when its server is done.
/// `size` is what fits where the kernel holds it, or less; it comes to be more. In how many pieces an answer comes decides
/// on how much fits, so what fitted once may be too much the next time: then its server waits as well.
fn client_behind(daemon: &Daemon, pages: &Backend, size: &mut usize) -> (Client, usize) {
    /// Less than the proxy holds of an answer.
    const STEP: usize = 8 * KB;
    loop {
        let client = daemon.client("php.sock");
        let served = pages.ledger().accepted;
        client.send(&Request::get(&format!("/{size}")).bytes());
        pages.wait_until("it is served", |ledger| ledger.accepted == served + 1);
        let is_done = || pages.ledger().open == 0;
        let has_all = || sys::readable(&client.0).unwrap() >= *size;
        // Mostly it is in a moment.
        for _ in 0..100 {
            if is_done() && has_all() {
                break;
            }
            pause(LOOK_INTERVAL);
        }
        if !is_done() || !has_all() {
            // A part may be on its way.
            daemon.first().assert_comes_to_rest();
        }
        if !is_done() {
            drop(client);
            pages.wait_until("its server has given up", |ledger| ledger.open == 0);
            *size -= STEP * 3 / 2;
        } else if !has_all() {
            return (client, *size);
        } else {
            *size += STEP;
        }
    }
}

pub(crate) fn answers_that_nobody_reads_keep_no_place(engine: Engine) {
    const MAX: usize = 4;
    let pages = large();
    let more = format!("{}\nupstream-reuse = \"never\"", limited(MAX));
    let daemon = Daemon::start(engine, &fastcgi("php", &pages, &more));
    let first = daemon.pid();
    let mut size = 64 * KB;
    let clients: Vec<_> = (0..MAX + 3)
        .map(|_| {
            let behind = client_behind(&daemon, &pages, &mut size);
            // How much fits differs from one to the next.
            size -= 4 * 8 * KB;
            behind
        })
        .collect();
    daemon.upgrade();
    for _ in 0..2 {
        let client = daemon.client("php.sock");
        assert_eq!(client.ask(&Request::get("/5")).text(), "xxxxx");
    }
    assert!(!crate::stage::is_over(first), "their answers are there");
    for (client, size) in &clients {
        assert_eq!(client.answer().body().len(), *size);
    }
    wait_for_end(first);
}

/// What is asked for behind an answer that waits to be read: the question has its answer there, and the request goes over.
pub(crate) fn what_is_asked_behind_an_unread_answer_goes_over(engine: Engine) {
    let pages = large();
    // More than is held on the way, of which a pipe has a part, and ends at many places of one.
    let sizes: Vec<usize> = (0..12).map(|number| 1024 * KB + number * 11_003).collect();
    let more = format!("{}\nupstream-reuse = \"never\"", limited(sizes.len()));
    let daemon = Daemon::start(engine, &fastcgi("php", &pages, &more));
    let first = daemon.pid();
    let ask = |size: usize| {
        let client = daemon.client("php.sock");
        client.send(&Request::get(&format!("/{size}")).bytes());
        (client, size)
    };
    let clients: Vec<_> = sizes.into_iter().map(ask).collect();
    pages.wait_until("all are served", |ledger| ledger.open == clients.len());
    daemon.upgrade();
    let behind = [question(), Request::get("/5").bytes()].concat();
    clients.iter().for_each(|(client, _)| client.send(&behind));
    // It looks whether they are still there, and reads this.
    daemon.first().assert_comes_to_rest();
    for (client, size) in &clients {
        let (mut stdout, mut replies) = (vec![Vec::new()], 0);
        while stdout.len() < 3 {
            let record = client.record();
            match record.kind {
                Kind::Stdout => stdout.last_mut().unwrap().extend(record.content),
                Kind::EndRequest => stdout.push(Vec::new()),
                Kind::GetValuesResult => replies += 1,
                kind => panic!("{kind:?}"),
            }
        }
        assert!(stdout[0].len() > *size && stdout[1].ends_with(b"\nxxxxx"));
        assert_eq!(
            replies, 1,
            "at once or behind a record, but not behind a second answer"
        );
    }
    wait_for_end(first);
}

/// The connection of a request is lost before anything of its answer: it has its place again, and nobody else has it
/// meanwhile for good.
pub(crate) fn a_request_that_is_sent_again_has_its_place(engine: Engine) {
    let busy = Busy::default();
    let pages = {
        let busy = busy.clone();
        Backend::scripted(move |conversation| {
            let mut requests = 0;
            while let Some(heard) = conversation.request()? {
                requests += 1;
                busy.during(|| wait_if_slow(conversation, &heard))?;
                if requests == 2 && heard.uri() == "/slow" {
                    return Ok(());
                }
                conversation.send(&sizes(&heard))?;
            }
            Ok(())
        })
    };
    let daemon = Daemon::start(engine, &fastcgi("php", &pages, &limited(1)));
    let first = daemon.pid();
    let client: Client = daemon.client("php.sock");
    assert_eq!(client.ask(&Request::get("/first")).text(), "/first 0");
    client.send(&Request::get("/slow").bytes());
    eventually("it runs", || busy.now_and_most().0 == 1);
    daemon.upgrade();
    let others: Vec<_> = (0..3).map(|_| daemon.client("php.sock")).collect();
    others
        .iter()
        .for_each(|other| other.send(&Request::get("/other").bytes()));
    eventually("they wait", || daemon.waiting("php") == 3);
    let connections = pages.ledger().accepted;
    pages.release(1);
    pages.wait_until("it has another one", |ledger| {
        ledger.accepted == connections + 1
    });
    eventually("it runs again", || busy.now_and_most().0 == 1);
    others.iter().for_each(|other| assert_waiting(&other.0));
    pages.release(1);
    assert_eq!(client.answer().text(), "/slow 0");
    for other in &others {
        assert_eq!(other.answer().text(), "/other 0");
    }
    wait_for_end(first);
    assert_eq!(busy.now_and_most(), (0, 1));
}

/// Those that one process lets in and those that the other one does, or had let in, may be more than one alone would.
pub(crate) fn who_was_let_in_stays_whatever_its_user_has(engine: Engine) {
    let limits = [
        ("", "connections-max-per-user = 2"),
        ("user-connections-max = 2", ""),
    ];
    for (of_daemon, of_route) in limits {
        let busy = Busy::default();
        let pages = busy.backend();
        let head = format!("workers = 2\n{of_daemon}");
        let daemon = Daemon::start_with(engine, &head, &fastcgi("php", &pages, of_route));
        let slow = daemon.client("php.sock");
        slow.send(&Request::get("/slow").bytes());
        eventually("it is served", || busy.now_and_most().0 == 1);
        let kept = daemon.client("php.sock");
        assert_eq!(kept.ask(&Request::get("/kept")).text(), "/kept 0");
        let first = daemon.pid();
        daemon.upgrade();
        assert_eq!(kept.ask(&Request::get("/kept")).text(), "/kept 0");
        let other = daemon.client("php.sock");
        assert_eq!(other.ask(&Request::get("/other")).text(), "/other 0");

        pages.release(1);
        assert_eq!(slow.answer().text(), "/slow 0");
        assert_eq!(slow.ask(&Request::get("/third")).text(), "/third 0");
        wait_for_end(first);
        // Whoever comes anew counts them all.
        assert_eof(&daemon.client("php.sock").0);
        drop((slow, kept));
        eventually("one more may come", || {
            let client = daemon.client("php.sock");
            let sent = (&client.0).write_all(&Request::get("/late").bytes());
            sent.and_then(|()| client.try_answer()).is_ok()
        });
    }
}
