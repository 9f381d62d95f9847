//! `--per-endpoint-max auto`: how many workers there are is found out, daemons share them, and servers of which it cannot
//! be found out are served all the same.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use common::fastcgi::{Client, Request, responder};
use common::process::Process;
use common::programs::{fresh_endpoint, start_fpm_pool};
use common::proxy::fresh_dir;
use common::wait::{SetOnDrop, pause};
use common::{Backend, Engine, Proxy, SPLICEWAY, eventually, for_each_engine};
use serde_json::Value;
use tempfile::TempDir;

for_each_engine!(
    as_many_connections_are_open_as_there_are_workers,
    a_request_takes_whichever_connection_is_free_first,
    where_it_cannot_be_found_out_there_are_as_many_as_there_may_be,
    a_number_becomes_auto_and_a_number_again_while_the_daemon_runs,
    all_workers_of_php_fpm_are_found_and_no_more,
    workers_that_php_fpm_starts_when_they_are_needed_are_found,
    two_daemons_share_php_fpm,
);

const WORKERS: usize = 8;

// --- a pool of our own ------------------------------------------------------------------------------

/// Takes as long as this many milliseconds to answer each request, on as many connections as there are workers: the
/// others wait, as in PHP-FPM's backlog.
fn pool(workers: usize, milliseconds: u64) -> Backend {
    let free = Arc::new((Mutex::new(workers), Condvar::new()));
    Backend::scripted(move |conversation| {
        let (count, changed) = &*free;
        let taken = changed.wait_while(count.lock().unwrap(), |free| *free == 0);
        *taken.unwrap() -= 1;
        let done = conversation.respond(|heard| {
            pause(Duration::from_millis(milliseconds));
            heard.page()
        });
        *count.lock().unwrap() += 1;
        changed.notify_one();
        done
    })
}

fn daemon(engine: Engine, backend: &str, more: &[&str]) -> Proxy {
    let builder = Proxy::builder().engine(engine).backend(backend);
    let builder = builder.args(["--protocol", "fastcgi", "--queue-timeout", "off"]);
    builder.args(more.iter().copied()).observed().start()
}

/// What the status says of the only endpoint.
fn endpoint(proxy: &Proxy) -> Value {
    proxy.status()["routes"][0]["endpoints"][0].clone()
}

fn limit(proxy: &Proxy) -> Option<u64> {
    endpoint(proxy)["connections_limit"].as_u64()
}

fn connections(proxy: &Proxy) -> u64 {
    endpoint(proxy)["connections"].as_u64().unwrap()
}

/// Clients that ask again as soon as they have been answered, until they are told to stop. Returns their answers while
/// `act` runs.
fn under_load(proxy: &Proxy, clients: usize, request: &Request, act: impl FnOnce(&AtomicUsize)) {
    let (stop, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _stop = SetOnDrop(&stop);
        for _ in 0..clients {
            scope.spawn(|| {
                let client = Client::connect(proxy);
                while !stop.load(Ordering::Acquire) {
                    let answer = client.ask(request).text();
                    assert!(answer.ends_with("/page") || answer == "done\n", "{answer}");
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        act(&answers);
    });
}

/// So many looks at something, and in how many of them it is so.
fn looks(count: usize, mut is_so: impl FnMut() -> bool) -> usize {
    let look = |_| {
        pause(Duration::from_millis(20));
        is_so()
    };
    (0..count).map(look).filter(|is_so| *is_so).count()
}

fn as_many_connections_are_open_as_there_are_workers(engine: Engine) {
    for workers in [1, 3, WORKERS] {
        let backend = pool(workers, 5);
        let proxy = daemon(
            engine,
            &backend.to_string(),
            &["--per-endpoint-max", "auto:1-20"],
        );
        let workers = workers as u64;
        under_load(&proxy, 20, &Request::get("/page"), |_| {
            eventually("all workers are found", || limit(&proxy) == Some(workers));
            let found = looks(100, || {
                assert!(connections(&proxy) <= workers + 1);
                limit(&proxy).is_some_and(|limit| limit.abs_diff(workers) <= 1)
            });
            assert!(found > 60, "{found} of 100 looks");
        });
        let series = "spliceway_endpoint_connections_limit";
        let shown = proxy.scrape().sum(series, &["route=\"default\""]);
        assert!(shown >= 1.0, "{shown}");
    }
}

/// The only worker is busy with the first request, and the connection that is opened for the second one waits: it is served
/// on the first one's.
fn a_request_takes_whichever_connection_is_free_first(engine: Engine) {
    let backend = pool(1, 0);
    let proxy = daemon(
        engine,
        &backend.to_string(),
        &["--per-endpoint-max", "auto"],
    );
    common::fastcgi::prove(&proxy);
    for _ in 0..20 {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let client = Client::connect(&proxy);
                client.send(&Request::get("/page").bytes());
                client
            })
            .collect();
        for client in clients {
            assert_eq!(client.answer().text(), "/page");
        }
    }
}

/// It answers requests, and neither keeps connections nor answers anything else.
fn where_it_cannot_be_found_out_there_are_as_many_as_there_may_be(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        if let Some(heard) = conversation.request()? {
            conversation.send(&heard.page())?;
            if heard.keep_conn {
                // Whatever else comes, it has nothing to say.
                conversation.discard_until_eof()?;
            }
        }
        Ok(())
    });
    let proxy = daemon(
        engine,
        &backend.to_string(),
        &["--per-endpoint-max", "auto:2-6", "--settle-timeout", "20ms"],
    );
    under_load(&proxy, 10, &Request::get("/page"), |answers| {
        eventually("it is told", || limit(&proxy) == Some(6));
        let before = answers.load(Ordering::Relaxed);
        eventually("all are served", || {
            answers.load(Ordering::Relaxed) > before + 200
        });
    });
    let line = "how many workers it has cannot be found out";
    proxy.process().wait_for_log(line);
    assert_eq!(proxy.process().log().count(line), 1);
}

fn a_number_becomes_auto_and_a_number_again_while_the_daemon_runs(engine: Engine) {
    let backend = pool(4, 5);
    let builder = Proxy::builder().engine(engine);
    let (file, socket) = (builder.dir().join("spliceway.toml"), builder.socket());
    let text = |max: &str| {
        format!(
            "[route.default]\nlisten = \"unix:{}\"\nbackend = \"{backend}\"\nprotocol = \"fastcgi\"\n\
             queue-timeout = \"off\"\nper-endpoint-max = {max}\n",
            socket.display()
        )
    };
    let proxy = builder.config(&text("2")).observed().start();
    let reload = |max: &str| {
        fs::write(&file, text(max)).unwrap();
        let mut command = Command::new(SPLICEWAY);
        command.arg("reload").arg("--control").arg(proxy.control());
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    under_load(&proxy, 12, &Request::get("/page"), |answers| {
        eventually("two are open", || connections(&proxy) == 2);
        assert_eq!(limit(&proxy), None);
        reload("\"auto:1-12\"");
        eventually("all workers are found", || limit(&proxy) == Some(4));
        reload("\"auto:1-3\"");
        eventually("there may be fewer", || {
            limit(&proxy) == Some(3) && connections(&proxy) <= 4
        });
        reload("2");
        eventually("two are open again", || {
            limit(&proxy).is_none() && connections(&proxy) == 2
        });
        reload("\"auto\"");
        eventually("all workers are found again", || limit(&proxy) == Some(4));
        let before = answers.load(Ordering::Relaxed);
        eventually("requests are served", || {
            answers.load(Ordering::Relaxed) > before + 100
        });
    });
}

// --- PHP-FPM ----------------------------------------------------------------------------------------

/// As long as a page takes that asks a database: workers are what is scarce, and not processors.
const PAGE_PHP: &str = "<?php usleep(5000); echo \"done\\n\";";

struct Stage {
    dir: TempDir,
    backend: String,
    _fpm: Process,
}

impl Stage {
    fn start() -> Self {
        Self::start_with("")
    }

    /// With these lines in the configuration of the pool.
    fn start_with(lines: &str) -> Self {
        let dir = fresh_dir();
        fs::write(dir.path().join("page.php"), PAGE_PHP).unwrap();
        let endpoint = fresh_endpoint();
        let fpm = start_fpm_pool(dir.path(), &endpoint, WORKERS, lines, &[]);
        Self {
            backend: format!("{}:{}", endpoint.0, endpoint.1),
            dir,
            _fpm: fpm,
        }
    }

    fn daemon(&self, engine: Engine) -> Proxy {
        daemon(engine, &self.backend, &["--per-endpoint-max", "auto"])
    }

    fn request(&self) -> Request {
        let script = self.dir.path().join("page.php");
        Request::get("/").param("SCRIPT_FILENAME", script.to_str().unwrap())
    }
}

fn all_workers_of_php_fpm_are_found_and_no_more(engine: Engine) {
    let stage = Stage::start();
    let proxy = stage.daemon(engine);
    under_load(&proxy, 24, &stage.request(), |_| {
        eventually("all workers are found", || limit(&proxy) == Some(8));
        let mut used = 0;
        let found = looks(300, || {
            let open = connections(&proxy);
            assert!(open <= 9, "{open} connections");
            used += open;
            limit(&proxy) == Some(8)
        });
        assert!(found > 200, "{found} of 300 looks");
        assert!(used > 7 * 300, "{used} in 300 looks");
    });
    let line = "there are workers for so many connections";
    assert!(proxy.process().log().count(line) <= 1);
}

/// PHP-FPM starts another worker when a connection waits (`ondemand`), or once a second while too few are idle
/// (`dynamic`).
fn workers_that_php_fpm_starts_when_they_are_needed_are_found(engine: Engine) {
    const DYNAMIC: &str =
        "pm = dynamic\npm.start_servers = 2\npm.min_spare_servers = 1\npm.max_spare_servers = 3";
    for lines in ["pm = ondemand", DYNAMIC] {
        let stage = Stage::start_with(lines);
        let proxy = stage.daemon(engine);
        under_load(&proxy, 24, &stage.request(), |_| {
            eventually("all workers are found", || limit(&proxy) == Some(8));
            let found = looks(100, || {
                let open = connections(&proxy);
                assert!(open <= 9, "{open} connections");
                limit(&proxy) >= Some(6)
            });
            assert!(found > 90, "{found} of 100 looks");
        });
    }
}

fn two_daemons_share_php_fpm(engine: Engine) {
    let stage = Stage::start();
    let (first, second) = (stage.daemon(engine), stage.daemon(engine));
    let request = stage.request();
    under_load(&first, 24, &request, |of_first| {
        eventually("it has all workers", || connections(&first) >= 8);
        under_load(&second, 24, &request, |of_second| {
            // Not at one moment: what goes over from one to the other may be seen at both.
            let share = || [connections(&first), connections(&second)];
            eventually("the other one has its part", || {
                let [one, other] = share();
                other >= 3 && one + other <= 9
            });
            let answers = || [of_first, of_second].map(|answers| answers.load(Ordering::Relaxed));
            let before = answers();
            let mut last = before;
            // Parts go up and down over seconds.
            let within = looks(2000, || {
                let [one, other] = share();
                assert!(one + other <= 12, "{one} and {other}");
                assert!(one >= 1 && other >= 1, "{one} and {other}");
                one + other <= 9
            });
            assert!(within >= 1800, "{within} of 2000 looks");
            for _ in 0..4 {
                pause(Duration::from_millis(500));
                let now = answers();
                assert!((0..2).all(|it| now[it] > last[it]), "{last:?} to {now:?}");
                last = now;
            }
            let had = [last[0] - before[0], last[1] - before[1]];
            let all = had[0] + had[1];
            assert!(had.iter().all(|had| had * 5 >= all), "{had:?}");
        });
    });
}

#[test]
fn who_answers_at_any_time_gets_as_many_as_it_may() {
    let backend = responder();
    let proxy = daemon(
        Engine::Epoll,
        &backend.to_string(),
        &["--per-endpoint-max", "auto:1-5"],
    );
    under_load(&proxy, 12, &Request::get("/page"), |_| {
        eventually("it is the most", || limit(&proxy) == Some(5));
    });
}

#[test]
fn shards_find_a_part_each() {
    let backend = pool(6, 5);
    let proxy = daemon(
        Engine::Epoll,
        &backend.to_string(),
        &[
            "--per-endpoint-max",
            "auto:2-16",
            "--shards",
            "2",
            "--workers",
            "2",
        ],
    );
    under_load(&proxy, 24, &Request::get("/page"), |_| {
        eventually("all workers are used", || connections(&proxy) >= 6);
        assert!(looks(100, || connections(&proxy) <= 8) > 95);
    });
}
