//! Sockets and their files: nobody finds one closed, and nobody removes what is another's.

use std::fs::{self, Permissions};
use std::net::Shutdown;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::common::activation::{Activation, unix_listener};
use crate::common::client::{
    assert_eof, exchange, exchange_and_end, receive_exact, receive_to_eof, send,
};
use crate::common::http;
use crate::common::proxy::{connect, connect_abstract, fresh_abstract_name, fresh_dir};
use crate::common::wait::SetOnDrop;
use crate::common::{Backend, Engine, KB, Pattern, Proxy, eventually};
use crate::peer::Line;
use crate::stage::{Daemon, listens, route, wait_for_end};

const BANNER: &[u8] = b"the other one\n";

pub(crate) fn files_stay_as_they_are(engine: Engine) {
    let echo = Backend::echo();
    let daemon = Daemon::start(engine, &route("raw", &echo, "mode = \"0640\""));
    let look = || {
        ["raw.sock", "control.sock"].map(|name| {
            let file = fs::metadata(daemon.socket(name)).unwrap();
            (file.ino(), file.mode(), file.uid(), file.gid())
        })
    };
    let (before, files) = (look(), daemon.files());
    let mut pid = daemon.pid();
    for number in 0..3 {
        let session = daemon.connect("raw.sock");
        exchange(&session, Pattern::new(number), KB);
        let next = daemon.upgrade();
        let serving = ["raw.sock", "control.sock"].map(|name| listens(&daemon.socket(name)));
        assert_eq!(serving, [next; 2]);
        exchange_and_end(&session, Pattern::new(number), KB);
        wait_for_end(pid);
        assert_eq!(look(), before);
        assert_eq!(
            daemon.files(),
            files,
            "nothing is gone, and no lock is left"
        );
        exchange_and_end(&daemon.connect("raw.sock"), Pattern::new(number), KB);
        pid = next;
    }
    // The last one removes them.
    crate::common::sys::signal(pid, libc::SIGTERM).unwrap();
    wait_for_end(pid);
    assert_eq!(daemon.files(), ["spliceway.toml"]);
}

/// And not if it does not come to serve.
pub(crate) fn files_come_to_be_for_whom_the_new_one_is_configured(engine: Engine) {
    let echo = Backend::echo();
    let with = |mode: &str, more: &str| {
        format!(
            "{}{more}",
            route("raw", &echo, &format!("mode = \"{mode}\""))
        )
    };
    let daemon = Daemon::start(engine, &with("0600", ""));
    let file = || fs::metadata(daemon.socket("raw.sock")).unwrap();
    let mode = || file().permissions().mode() & 0o777;
    let inode = file().ino();
    daemon.write(&with(
        "0666",
        "[route.b]\nlisten = \"inherit\"\nbackend = \"127.0.0.1:1\"\n",
    ));
    daemon.refused(&["upgrade"], 1, &[]);
    assert_eq!(mode(), 0o600);
    // What one has done that fails at last is undone.
    let line = Line::to(&daemon.control());
    let offered = line.be_offered();
    line.take(&offered);
    fs::set_permissions(daemon.socket("raw.sock"), Permissions::from_mode(0o644)).unwrap();
    drop((line, offered));
    eventually("it is as it was", || mode() == 0o600);
    daemon.write(&with("0666", ""));
    daemon.upgrade();
    assert_eq!((mode(), file().ino()), (0o666, inode));
    daemon.write(&with("0640", ""));
    daemon.upgrade();
    assert_eq!((mode(), file().ino()), (0o640, inode));
}

pub(crate) fn routes_come_and_go(engine: Engine) {
    let (echo, held, other) = (Backend::echo(), Backend::hold(), Backend::banner(BANNER));
    let before = [route("kept", &echo, ""), route("gone", &held, "")].concat();
    // There is a place for one client, so that the next one is in the backlog.
    let head = "workers = 1\nconnections-max = 1";
    let daemon = Daemon::start_with(engine, head, &before);
    let first = daemon.pid();
    let served = daemon.connect_listening("gone.sock");
    held.wait_until("it is served", |ledger| ledger.open == 1);
    let in_the_backlog = daemon.connect_listening("gone.sock");
    let after = [route("kept", &echo, ""), route("new", &other, "")].concat();
    daemon.write_with("workers = 2", &after);
    daemon.upgrade();
    assert_eq!(daemon.banner("new.sock"), BANNER);
    exchange_and_end(&daemon.connect("kept.sock"), Pattern::new(1), KB);
    eventually("nobody finds it any more", || {
        !daemon.socket("gone.sock").exists()
    });
    held.release(2);
    for client in [&served, &in_the_backlog] {
        assert_eq!(receive_to_eof(client), b"done");
    }
    wait_for_end(first);
    let files = ["control.sock", "kept.sock", "new.sock", "spliceway.toml"];
    assert_eq!(daemon.files(), files);
}

pub(crate) fn abstract_sockets_are_handed_over(engine: Engine) {
    let echo = Backend::echo();
    let name = fresh_abstract_name();
    let routes = format!("[route.raw]\nlisten = \"unix:@{name}\"\nbackend = \"{echo}\"\n");
    let daemon = Daemon::start(engine, &routes);
    let session = connect_abstract(&name).unwrap();
    exchange(&session, Pattern::new(1), KB);
    for number in 2..5 {
        let pid = daemon.upgrade();
        let client = connect_abstract(&name).unwrap();
        assert_eq!(crate::common::sys::peer_pid(&client).unwrap(), pid);
        exchange_and_end(&client, Pattern::new(number), KB);
    }
    exchange_and_end(&session, Pattern::new(5), KB);
}

/// Also from one to which they were handed over.
pub(crate) fn passed_sockets_are_handed_over(engine: Engine) {
    crate::common::sys::adopt_orphans().unwrap();
    let (echo, other) = (Backend::echo(), Backend::banner(BANNER));
    let dir = fresh_dir();
    let (listener, path) = unix_listener(dir.path());
    fs::create_dir(dir.path().join("second")).unwrap();
    let (second, second_path) = unix_listener(&dir.path().join("second"));
    let (config, control) = (dir.path().join("f.toml"), dir.path().join("control.sock"));
    let routes = format!(
        "exit-idle-time = \"10m\"\n[route.a]\nlisten = \"inherit:a\"\nbackend = \"{echo}\"\n\
        [route.b]\nlisten = \"inherit:b\"\nbackend = \"{other}\"\n"
    );
    fs::write(&config, routes).unwrap();
    let words = [
        "--config",
        config.to_str().unwrap(),
        "--control",
        control.to_str().unwrap(),
    ];
    let first = Activation::run(engine, &words)
        .passing(&[(&listener, "a"), (&second, "b")])
        .start();
    let mut pid = first.pid();
    for number in 0..3 {
        let session = connect(&path).unwrap();
        exchange(&session, Pattern::new(number), KB);
        let said = std::process::Command::new(crate::common::SPLICEWAY)
            .args(["upgrade", "--control", control.to_str().unwrap()])
            .output()
            .unwrap();
        assert!(said.status.success(), "{said:?}");
        exchange_and_end(&session, Pattern::new(number), KB);
        wait_for_end(pid);
        pid = listens(&control);
        exchange_and_end(&connect(&path).unwrap(), Pattern::new(number), KB);
        let client = connect(&second_path).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(receive_to_eof(&client), BANNER);
    }
    assert!(path.exists() && second_path.exists());
}

/// Neither the metrics address nor the control socket is missing at any moment.
pub(crate) fn whoever_asks_is_answered_at_any_time(engine: Engine) {
    let echo = Backend::echo();
    let routes = route("raw", &echo, "");
    // Free a moment ago.
    let metrics = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let builder = Proxy::builder().engine(engine);
    let control = builder.control().display().to_string();
    let at = metrics.to_string();
    let builder = builder.args(["--control", &control, "--metrics", &at]);
    let daemon = Daemon::start_of(builder, engine, "workers = 2", &routes);
    let (is_over, counts) = (AtomicBool::new(false), [const { AtomicUsize::new(0) }; 3]);
    let until_over = |asker: usize, ask: &dyn Fn()| {
        let _over = SetOnDrop(&is_over);
        while !is_over.load(Ordering::Relaxed) {
            ask();
            counts[asker].fetch_add(1, Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        let over = SetOnDrop(&is_over);
        scope.spawn(|| until_over(0, &|| assert_eq!(http::get(metrics, "/metrics").code, 200)));
        scope.spawn(|| until_over(1, &|| drop(daemon.done(&["status"]))));
        scope.spawn(|| until_over(2, &|| drop(daemon.status())));
        for _ in 0..10 {
            let before = counts.each_ref().map(|count| count.load(Ordering::Relaxed));
            daemon.upgrade();
            eventually("each was answered", || {
                let is_more = |(count, before): (&AtomicUsize, usize)| {
                    count.load(Ordering::Relaxed) > before + 1
                };
                is_over.load(Ordering::Relaxed) || counts.iter().zip(before).all(is_more)
            });
            assert!(!is_over.load(Ordering::Relaxed), "one of them says why");
        }
        drop(over);
    });
}

/// A raw client that waits with what it has sent: the new one reads it from its first byte on.
pub(crate) fn bytes_of_those_that_wait_go_with_them(engine: Engine) {
    const HEADER: &[u8] = b"PROXY UNKNOWN\r\n";
    let backend = Backend::scripted(|conversation| {
        let header = conversation.receive_exact(HEADER.len())?;
        assert_eq!(header, HEADER);
        conversation.echo()
    });
    let limits = "per-endpoint-max = 1\nqueue-timeout = \"60s\"\nproxy-protocol = \"v1\"";
    let daemon = Daemon::start(engine, &route("raw", &backend, limits));
    let served = daemon.connect("raw.sock");
    send(&served, b"x");
    assert_eq!(receive_exact(&served, 1), b"x");
    let waiting = daemon.connect("raw.sock");
    Pattern::new(1).send(&mut &waiting, 10 * KB).unwrap();
    eventually("it waits", || daemon.waiting("raw") == 1);
    for _ in 0..3 {
        daemon.upgrade();
        eventually("it waits there", || daemon.waiting("raw") == 1);
    }
    served.shutdown(Shutdown::Write).unwrap();
    assert_eof(&served);
    Pattern::new(1).receive(&mut &waiting, 10 * KB).unwrap();
    exchange_and_end(&waiting, Pattern::new(2), KB);
}
