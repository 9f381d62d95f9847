//! Lines about requests that take long.

use super::*;
use crate::common::SPLICEWAY;
use crate::common::programs::{fresh_endpoint, start_fpm};
use crate::common::proxy::{connect, fresh_dir};

/// Long enough that a request which nobody holds is over before.
const AFTER: Duration = Duration::from_secs(1);

/// A proxy with a FastCGI route, and where its slow log is.
fn watching(engine: Engine, format: &str) -> (Builder, PathBuf) {
    let builder = Proxy::builder().engine(engine);
    let path = builder.dir().join("slow.log");
    let file = path.to_str().unwrap().to_owned();
    let builder = builder.args(["--protocol", "fastcgi", "--workers", "1"]);
    let builder = builder.args(["--slow-log", &file, "--slow-log-format", format]);
    (builder.args(["--slow-after", "1s"]), path)
}

#[track_caller]
fn seconds(line: &Value, name: &str) -> f64 {
    line[name].as_f64().unwrap_or_else(|| panic!("{line}"))
}

pub(super) fn a_slow_request_has_a_line_while_it_runs_and_one_when_it_is_over(engine: Engine) {
    let backend = holding("/slow?x=y");
    let (builder, path) = watching(engine, "json");
    let proxy = builder.backend(&backend).observed().start();
    let client = Client::connect(&proxy);
    client.ask(&script(Request::get("/quick")));
    wait_until_it_rests(&proxy);
    client.send(&script(Request::get("/slow?x=y")).bytes());
    let line = &objects(&path, 1)[0];
    assert_eq!(
        (&line["state"], &line["uri"], &line["script"]),
        (
            &"sent".into(),
            &"/slow?x=y".into(),
            &"/srv/index.php".into()
        )
    );
    assert_eq!(
        (&line["status"], &line["ending"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(line["pid"], process::id());
    assert_eq!(line["upstream"], "reused");
    assert!(seconds(line, "total") >= AFTER.as_secs_f64(), "{line}");
    backend.release(1);
    client.answer();
    let line = &objects(&path, 2)[1];
    assert_eq!(
        (&line["state"], &line["uri"], &line["status"]),
        (&"over".into(), &"/slow?x=y".into(), &200.into())
    );
    let metrics = proxy.scrape();
    let slow = "spliceway_fastcgi_slow_requests_total{route=\"default\"}";
    assert_eq!(metrics.value(slow), 1.0);
    let first_byte = "spliceway_fastcgi_request_first_byte_seconds";
    let sum = metrics.value(&format!("{first_byte}_sum{{route=\"default\"}}"));
    let count = metrics.value(&format!("{first_byte}_count{{route=\"default\"}}"));
    assert!(
        sum >= AFTER.as_secs_f64() && count == 2.0,
        "{sum} of {count}"
    );
}

pub(super) fn a_request_that_waits_too_long_is_told_of_in_the_queue(engine: Engine) {
    let backend = holding("/first");
    let (builder, path) = watching(engine, "text");
    let proxy = builder
        .args(["--per-endpoint-max", "1"])
        .backend(&backend)
        .observed()
        .start();
    let first = Client::connect(&proxy);
    first.send(&Request::get("/first").bytes());
    backend.wait_until("it is served", |ledger| ledger.accepted == 1);
    let waiting = Client::connect(&proxy);
    waiting.send(&Request::get("/waiting").bytes());
    let found = lines(&path, 2);
    assert_eq!(field(&found[0], "state"), "sent");
    let line = &found[1];
    assert_eq!(
        (field(line, "uri"), field(line, "state")),
        ("\"/waiting\"", "queued")
    );
    assert_eq!(field(line, "endpoint"), "-");
    // Its wait goes on, and is told as it is at that moment.
    let queue: f64 = field(line, "queue").parse().unwrap();
    assert!(queue >= 0.9 * AFTER.as_secs_f64(), "{line}");
    // A client that leaves is the end of its request.
    drop(waiting);
    let line = &lines(&path, 3)[2];
    assert_eq!(
        (field(line, "state"), field(line, "ending")),
        ("over", "queue_left")
    );
    backend.release(1);
    first.answer();
    lines(&path, 4);
    let waits = "spliceway_fastcgi_request_wait_seconds_sum{route=\"default\"}";
    assert!(proxy.scrape().value(waits) >= 0.9 * AFTER.as_secs_f64());
}

pub(super) fn both_logs_may_have_one_file_and_a_signal_opens_it_anew(engine: Engine) {
    let backend = holding("/slow");
    let (builder, path) = watching(engine, "text");
    let file = path.to_str().unwrap().to_owned();
    let proxy = builder
        .args(["--access-log", &file])
        .backend(&backend)
        .start();
    let client = Client::connect(&proxy);
    client.send(&Request::get("/slow").bytes());
    assert_eq!(field(&lines(&path, 1)[0], "state"), "sent");
    let rotated = path.with_extension("1");
    fs::rename(&path, &rotated).unwrap();
    proxy.process().signal(libc::SIGUSR1);
    proxy.process().wait_for_log("opened anew");
    backend.release(1);
    client.answer();
    let found = lines(&path, 2);
    let over = found.iter().filter(|line| line.contains(" state=over "));
    assert_eq!(over.count(), 1, "{found:#?}");
    assert!(found.iter().all(|line| field(line, "status") == "200"));
    lines(&rotated, 1);
}

pub(super) fn a_slow_log_comes_and_goes_with_a_reload(engine: Engine) {
    let backend = holding("/slow");
    let builder = Proxy::builder().engine(engine);
    let dir = builder.dir().to_owned();
    let text = |more: &str| {
        let socket = dir.join("php.sock");
        let path = dir.join("slow.log");
        format!(
            "[route.php]\nlisten = \"unix:{}\"\nbackend = \"{backend}\"\nprotocol = \"fastcgi\"\n{}",
            socket.display(),
            more.replace("{path}", path.to_str().unwrap())
        )
    };
    let proxy = builder.config(&text("")).observed().start();
    let become_of = |more: &str| {
        fs::write(dir.join("spliceway.toml"), text(more)).unwrap();
        let mut command = process::Command::new(SPLICEWAY);
        command.arg("reload").arg("--control").arg(proxy.control());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let slow_one = || {
        let client = Client(connect(&dir.join("php.sock")).unwrap());
        client.send(&Request::get("/slow").bytes());
        client
    };
    const LOG: &str = "slow-log = \"{path}\"\nslow-after = \"1s\"\n";
    // Nothing was kept of what began before there was a log.
    let before = slow_one();
    backend.wait_until("it is served", |ledger| ledger.accepted == 1);
    become_of(LOG);
    let path = dir.join("slow.log");
    assert!(lines(&path, 0).is_empty());
    let logged = slow_one();
    assert_eq!(field(&lines(&path, 1)[0], "state"), "sent");
    // One that runs is not told of where there is no log any more.
    become_of("");
    backend.release(2);
    before.answer();
    logged.answer();
    become_of(LOG);
    let again = slow_one();
    assert_eq!(field(&lines(&path, 2)[1], "state"), "sent");
    backend.release(1);
    again.answer();
    assert_eq!(field(&lines(&path, 3)[2], "state"), "over");
}

/// What PHP-FPM's own slow log is for, without its rights.
pub(super) fn a_script_that_sleeps_is_found(engine: Engine) {
    let endpoint = fresh_endpoint();
    let (builder, path) = watching(engine, "json");
    let dir = fresh_dir();
    let file = dir.path().join("sleep.php");
    fs::write(&file, "<?php usleep(1500000); echo 'slept';").unwrap();
    let _fpm = start_fpm(dir.path(), &endpoint);
    let proxy = builder
        .backend(format!("{}:{}", endpoint.0, endpoint.1))
        .start();
    let request =
        Request::get("/sleep.php?who=me").param("SCRIPT_FILENAME", file.to_str().unwrap());
    assert!(
        Client::connect(&proxy)
            .ask(&request)
            .text()
            .ends_with("slept")
    );
    let found = objects(&path, 2);
    for (line, state) in found.iter().zip(["sent", "over"]) {
        assert_eq!(
            (&line["state"], &line["uri"]),
            (&state.into(), &"/sleep.php?who=me".into())
        );
        assert_eq!(line["script"], file.to_str().unwrap());
    }
}
