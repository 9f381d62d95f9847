//! What goes over to a successor, and in which order.

use std::fs;
use std::net::Shutdown;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::{Arc, Mutex};

use hickory_proto::rr::RecordType;

use crate::common::activation::{Activation, Notified, unix_listener, wait_until_ready};
use crate::common::client::{assert_waiting, exchange, exchange_and_end, receive_to_eof, send};
use crate::common::fastcgi::{Request, responder};
use crate::common::name_server::Reply;
use crate::common::proxy::{connect, fresh_dir};
use crate::common::sys;
use crate::common::{Backend, Engine, KB, NameServer, Pattern, eventually};
use crate::stage::{Daemon, fastcgi, listens, route, route_to, wait_for_end};

/// A backend that notes the first byte of whoever comes to be served, and lets each go when it is released.
struct Counter {
    backend: Backend,
    came: Arc<Mutex<Vec<u8>>>,
}

impl Counter {
    fn new() -> Self {
        let came: Arc<Mutex<Vec<u8>>> = Arc::default();
        let noted = Arc::clone(&came);
        let backend = Backend::scripted(move |conversation| {
            let number = conversation.receive_exact(1)?[0];
            noted.lock().unwrap().push(number);
            conversation.wait_for_release()?;
            conversation.send(b"done")
        });
        Self { backend, came }
    }

    /// A client of this number, which sends no more.
    fn client(&self, daemon: &Daemon, number: u8) -> UnixStream {
        let client = daemon.connect("line.sock");
        send(&client, &[number]);
        client.shutdown(Shutdown::Write).unwrap();
        client
    }

    fn came(&self) -> Vec<u8> {
        self.came.lock().unwrap().clone()
    }

    #[track_caller]
    fn wait_for(&self, expected: &[u8]) {
        eventually("they come to be served", || {
            self.came().len() >= expected.len()
        });
        assert_eq!(self.came(), expected);
    }
}

/// Each of three processes has some of the permits, and the queue goes from one to the next.
pub(crate) fn permits_and_the_queue_go_on_over_a_chain_of_processes(engine: Engine) {
    let counter = Counter::new();
    let limits = "per-endpoint-max = 2\nqueue-max = 100\nqueue-timeout = \"60s\"";
    let daemon = Daemon::start(engine, &route("line", &counter.backend, limits));
    let mut clients = Vec::new();
    let mut come = |daemon: &Daemon| {
        let number = u8::try_from(clients.len()).unwrap();
        clients.push(counter.client(daemon, number));
    };
    come(&daemon);
    counter.wait_for(&[0]);
    come(&daemon);
    counter.wait_for(&[0, 1]);
    come(&daemon);
    eventually("it waits", || daemon.waiting("line") == 1);
    for waiting in [2, 3] {
        daemon.upgrade();
        come(&daemon);
        eventually("all wait at the new process", || {
            daemon.waiting("line") == waiting
        });
    }
    assert_eq!(
        counter.came(),
        [0, 1],
        "both places are taken, in the first process"
    );
    for served in 3..=5 {
        counter.backend.release(1);
        let expected: Vec<u8> = (0..served).collect();
        counter.wait_for(&expected);
    }
    counter.backend.release(2);
    for client in &clients {
        assert_eq!(receive_to_eof(client), b"done");
    }
    assert_eq!(counter.backend.ledger().open_most, 2);
}

pub(crate) fn a_limit_that_is_new_counts_what_runs_in_the_old_process(engine: Engine) {
    let counter = Counter::new();
    let daemon = Daemon::start(engine, &route("line", &counter.backend, ""));
    let clients = [0_u8, 1, 2].map(|number| {
        let client = counter.client(&daemon, number);
        counter.wait_for(&(0..=number).collect::<Vec<_>>());
        client
    });
    let limits = "per-endpoint-max = 2\nqueue-max = 100\nqueue-timeout = \"60s\"";
    daemon.write(&route("line", &counter.backend, limits));
    daemon.upgrade();
    let late = counter.client(&daemon, 3);
    eventually("it waits", || daemon.waiting("line") == 1);
    counter.backend.release(1);
    // Two of the three are left, and two is all that there may be.
    eventually("one has gone", || counter.backend.ledger().open == 2);
    assert_waiting(&late);
    assert_eq!(daemon.waiting("line"), 1);
    counter.backend.release(1);
    counter.wait_for(&[0, 1, 2, 3]);
    counter.backend.release(2);
    for client in clients.iter().chain([&late]) {
        assert_eq!(receive_to_eof(client), b"done");
    }
}

/// Its bytes are with the kernel, and its backend is told of it what it would have been told.
pub(crate) fn a_client_that_waits_is_introduced_as_it_came(engine: Engine) {
    let heard: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let noted = Arc::clone(&heard);
    let backend = Backend::scripted(move |conversation| {
        let mut all = Vec::new();
        while !all.ends_with(b"end") {
            let received = conversation.receive()?.to_vec();
            if received.is_empty() {
                break;
            }
            all.extend(received);
        }
        noted.lock().unwrap().push(all);
        conversation.wait_for_release()
    });
    let more =
        "proxy-protocol = \"v2\"\nper-endpoint-max = 1\nqueue-max = 100\nqueue-timeout = \"60s\"";
    let daemon = Daemon::start(engine, &route("a", &backend, more));
    let first = daemon.connect("a.sock");
    send(&first, b"bytes end");
    first.shutdown(Shutdown::Write).unwrap();
    eventually("it is served", || heard.lock().unwrap().len() == 1);
    let second = daemon.connect("a.sock");
    send(&second, b"bytes ");
    eventually("it waits", || daemon.waiting("a") == 1);
    daemon.upgrade();
    eventually("it waits at the new process", || daemon.waiting("a") == 1);
    send(&second, b"end");
    second.shutdown(Shutdown::Write).unwrap();
    backend.release(1);
    eventually("it is served", || heard.lock().unwrap().len() == 2);
    backend.release(1);
    let heard = heard.lock().unwrap();
    assert_eq!(
        heard[0], heard[1],
        "the header, and what the client has sent"
    );
    assert!(heard[0].len() > 16 && heard[0].starts_with(b"\r\n\r\n\0\r\nQUIT\n"));
    drop((first, second));
}

/// Whatever of its next request has come by then.
pub(crate) fn a_kept_client_goes_over_between_two_requests(engine: Engine) {
    let pages = responder();
    let daemon = Daemon::start(engine, &fastcgi("php", &pages, "per-endpoint-max = 3"));
    let first = daemon.first().pid();
    let asked = Request::get("/a.php");
    let clients = [(); 3].map(|()| daemon.client("php.sock"));
    for client in &clients {
        client.ask(&asked);
    }
    // One rests, of one a part of the next request was read, and one has sent none so far.
    let bytes = asked.bytes();
    let (half, rest) = bytes.split_at(bytes.len() / 2);
    let [rests, in_the_middle, _] = &clients;
    in_the_middle.send(half);
    let new = daemon.client("php.sock");
    for _ in 0..2 {
        daemon.upgrade();
        rests.ask(&asked);
    }
    in_the_middle.send(rest);
    assert_eq!(in_the_middle.answer().text(), "/a.php");
    for client in clients.iter().chain([&new]) {
        client.ask(&asked);
        client.ask(&asked);
    }
    wait_for_end(first);
    let accepted = |name: &str| daemon.route(name)["sessions_active"].as_u64();
    assert_eq!(
        accepted("php"),
        Some(4),
        "all of them are at the last process"
    );
}

/// The name server is silent, and what was changed by hand holds.
pub(crate) fn what_was_known_of_endpoints_goes_over(engine: Engine) {
    let fleet = Backend::fleet(2);
    let names = NameServer::start();
    let ips: Vec<_> = fleet.iter().map(Backend::ip).collect();
    let ips: Vec<_> = ips.iter().map(String::as_str).collect();
    names.a("app.test", &ips).aaaa("app.test", &[]);
    let routes = route_to(
        "app",
        &format!("\"app.test:{}\"", fleet[0].port()),
        &format!("nameserver = [\"{}\"]", names.address),
    );
    let daemon = Daemon::start(engine, &routes);
    eventually("the name is answered", || endpoints(&daemon).len() == 2);
    daemon.done(&["drain", "app", &fleet[0].address().to_string()]);
    daemon.done(&["weight", "app", &fleet[1].address().to_string(), "7"]);
    names.set("app.test", RecordType::A, Reply::Silence);
    names.set("app.test", RecordType::AAAA, Reply::Silence);
    let before = names.asked("app.test", RecordType::A);
    for _ in 0..2 {
        daemon.upgrade();
        let endpoints = endpoints(&daemon);
        assert_eq!(endpoints.len(), 2, "{endpoints:?}");
        assert_eq!(endpoints[0]["drained"], true, "{endpoints:?}");
        assert_eq!(endpoints[1]["weight"], 7, "{endpoints:?}");
        for _ in 0..4 {
            exchange_and_end(&daemon.connect("app.sock"), Pattern::new(1), KB);
        }
    }
    assert_eq!(fleet[0].ledger().accepted, 0, "it is drained");
    eventually("it asks again", || {
        names.asked("app.test", RecordType::A) > before
    });
    names.a("app.test", &ips[1..]);
    eventually("the answer counts", || {
        let now = endpoints_in_use(&daemon);
        now == [fleet[1].address().to_string()]
    });
}

fn endpoints(daemon: &Daemon) -> Vec<serde_json::Value> {
    let mut route = daemon.route("app");
    let mut all = route["endpoints"].as_array_mut().unwrap().clone();
    all.sort_by_key(|endpoint| endpoint["address"].to_string());
    all
}

fn endpoints_in_use(daemon: &Daemon) -> Vec<String> {
    let all = endpoints(daemon).into_iter();
    let used = all.filter(|endpoint| endpoint["state"] != "removed");
    used.map(|endpoint| endpoint["address"].as_str().unwrap().to_owned())
        .collect()
}

/// A file is removed by the process that owns it, and by no other one.
pub(crate) fn sockets_stay_come_and_go_with_the_configuration(engine: Engine) {
    let (echo, other) = (Backend::echo(), Backend::echo());
    let both = [route("a", &echo, ""), route("b", &echo, "")].concat();
    let daemon = Daemon::start(engine, &both);
    let inode = |name: &str| fs::metadata(daemon.socket(name)).map(|found| found.ino());
    let mode = |name: &str| {
        fs::metadata(daemon.socket(name))
            .unwrap()
            .permissions()
            .mode()
    };
    let (a, control) = (
        inode("a.sock").unwrap(),
        fs::metadata(daemon.control()).unwrap().ino(),
    );
    let old = daemon.connect("b.sock");
    exchange(&old, Pattern::new(1), KB);
    let first = daemon.pid();
    daemon.write(&[route("a", &echo, "mode = \"0600\""), route("c", &other, "")].concat());
    daemon.upgrade();
    assert_eq!(inode("a.sock").unwrap(), a);
    assert_eq!(fs::metadata(daemon.control()).unwrap().ino(), control);
    assert_eq!(mode("a.sock") & 0o777, 0o600);
    assert!(inode("b.sock").is_err(), "no route listens there any more");
    exchange_and_end(&daemon.connect("c.sock"), Pattern::new(2), KB);
    exchange_and_end(&daemon.connect("a.sock"), Pattern::new(3), KB);
    let second = daemon.pid();
    assert_eq!(
        listens(&daemon.socket("a.sock")),
        second,
        "who called listen(2) last"
    );
    // Its session holds the first process up, which leaves all that is there alone when it ends.
    exchange_and_end(&old, Pattern::new(4), KB);
    wait_for_end(first);
    exchange_and_end(&daemon.connect("a.sock"), Pattern::new(5), KB);
    let files = daemon.files();
    assert!(
        files.iter().all(|name| !name.ends_with(".lock")),
        "{files:?}"
    );
    daemon.upgrade();
    wait_for_end(second);
    assert_eq!(daemon.files(), files);
    exchange_and_end(&daemon.connect("c.sock"), Pattern::new(6), KB);
}

/// What cannot be had is found out before anything changes.
pub(crate) fn a_successor_that_cannot_have_all_leaves_all_as_it_was(engine: Engine) {
    let echo = Backend::echo();
    let daemon = Daemon::start(engine, &route("a", &echo, ""));
    let (serving, files) = (daemon.pid(), daemon.files());
    let missing = "[route.b]\nlisten = \"unix:{dir}/missing/b.sock\"\nbackend = \"127.0.0.1:1\"\n";
    daemon.write(&[&route("a", &echo, "mode = \"0600\""), missing].concat());
    daemon.refused(&["upgrade"], 1, &["has ended with exit code 1"]);
    daemon.write("[route.a]\nlisten = 7\n");
    daemon.refused(&["upgrade"], 2, &["has ended with exit code 2"]);
    daemon.write(&route("a", &echo, ""));
    daemon.done(&["pause", "a", "--for", "60s"]);
    daemon.refused(
        &["upgrade"],
        1,
        &["route a is paused", "spliceway resume a"],
    );
    let by_hand = daemon.successor();
    by_hand.log().wait_for("why it does not come", |line| {
        line.contains("route a is paused")
    });
    daemon.done(&["resume", "a"]);
    let mode = fs::metadata(daemon.socket("a.sock"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
    assert_eq!((daemon.pid(), daemon.files()), (serving, files));
    exchange_and_end(&daemon.connect("a.sock"), Pattern::new(1), KB);
    daemon.upgrade();
    exchange_and_end(&daemon.connect("a.sock"), Pattern::new(2), KB);
}

/// A socket that the service manager has passed, and what the manager hears.
pub(crate) fn a_service_manager_follows_from_one_process_to_the_next(engine: Engine) {
    let echo = Backend::echo();
    let dir = fresh_dir();
    let mut notified = Notified::at(UnixDatagram::bind(dir.path().join("notify")).unwrap());
    let (listener, path) = unix_listener(dir.path());
    let control = dir.path().join("control.sock");
    let words = [
        "--listen",
        "inherit:web",
        "--backend",
        &echo.to_string(),
        "--control",
        control.to_str().unwrap(),
    ];
    let first = Activation::run(engine, &words)
        .passing(&[(&listener, "web")])
        .env("NOTIFY_SOCKET", dir.path().join("notify"))
        .spawn();
    wait_until_ready(&first);
    notified.wait_for("READY=1");
    let session = connect(&path).unwrap();
    exchange(&session, Pattern::new(1), KB);
    let mut last = first.pid();
    for _ in 0..2 {
        let upgraded = std::process::Command::new(crate::common::SPLICEWAY)
            .args(["upgrade", "--control"])
            .arg(&control)
            .output()
            .unwrap();
        assert!(upgraded.status.success(), "{upgraded:?}");
        let pid = listens(&control);
        assert_ne!(pid, last);
        last = pid;
        let main = format!("MAINPID={pid}");
        notified.wait_for(&main);
        exchange_and_end(&connect(&path).unwrap(), Pattern::new(2), KB);
    }
    exchange_and_end(&session, Pattern::new(3), KB);
    wait_for_end(first.pid());
    assert_eq!(
        notified.count("STOPPING=1"),
        0,
        "only the last one would say so"
    );
    // The manager has the socket all the time, whoever serves.
    sys::signal(last, libc::SIGTERM).unwrap();
    wait_for_end(last);
    notified.wait_for("STOPPING=1");
    let client = connect(&path).unwrap();
    send(&client, b"x");
    assert_waiting(&client);
    drop(listener);
}
