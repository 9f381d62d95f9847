//! The access log and the slow log: that their lines say what happened, whoever asks and whatever reads them.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod slow;

use std::fs::{self, File};
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use common::client::{assert_over, receive_to_eof};
use common::fastcgi::{Client, Heard, ONE, Request, end, prove, responder, stdout};
use common::http::Scrape;
use common::proxy::Builder;
use common::sys::{is_root, make_fifo};
use common::uninterrupted;
use common::wait::meanwhile;
use common::{Backend, Engine, Proxy, eventually, for_each_engine};
use serde_json::Value;
use slow::{
    a_request_that_waits_too_long_is_told_of_in_the_queue, a_script_that_sleeps_is_found,
    a_slow_log_comes_and_goes_with_a_reload,
    a_slow_request_has_a_line_while_it_runs_and_one_when_it_is_over,
    both_logs_may_have_one_file_and_a_signal_opens_it_anew,
};
use spliceway::fastcgi::push_stream_end;
use spliceway::fastcgi::{BeginRequest, Kind, Role, push_pair, push_record, push_stream};

for_each_engine!(
    each_request_has_a_line_that_says_what_happened,
    text_has_the_same_fields,
    standard_output_is_a_file_like_others,
    requests_without_an_answer_of_a_backend_have_lines,
    times_are_those_of_the_request,
    no_client_can_forge_a_line,
    on_a_signal_the_file_is_opened_anew,
    a_reader_that_stands_still_costs_lines_and_no_request,
    requests_that_finish_in_a_drain_have_lines,
    routes_share_a_file,
    fastcgi_metrics_equal_what_happened,
    bytes_of_requests_and_answers_are_counted_to_the_byte,
    a_request_that_is_sent_again_counts_as_sent_twice,
    an_endpoint_that_keeps_no_connections_is_counted,
    a_guard_rejection_says_who_asked,
    a_line_names_rule_and_parameter_of_a_rejection_and_no_name_forges_a_field,
    a_request_with_too_many_bytes_of_parameters_has_a_line,
    a_slow_request_has_a_line_while_it_runs_and_one_when_it_is_over,
    a_request_that_waits_too_long_is_told_of_in_the_queue,
    both_logs_may_have_one_file_and_a_signal_opens_it_anew,
    a_slow_log_comes_and_goes_with_a_reload,
    a_script_that_sleeps_is_found,
);

/// A proxy with a FastCGI route, and where its access log is.
fn logging(engine: Engine, format: &str) -> (Builder, PathBuf) {
    let builder = Proxy::builder().engine(engine);
    let path = builder.dir().join("access.log");
    let file = path.to_str().unwrap().to_owned();
    let builder = builder.args(["--protocol", "fastcgi", "--workers", "1"]);
    let builder = builder.args(["--access-log", &file, "--access-log-format", format]);
    (builder, path)
}

/// Waits until the file has so many lines.
#[track_caller]
fn lines(path: &Path, count: usize) -> Vec<String> {
    let read = || {
        let text = fs::read_to_string(path).unwrap_or_default();
        let lines = text.split_inclusive('\n').map(str::to_owned);
        lines.collect::<Vec<_>>()
    };
    let mut last = Vec::new();
    eventually(&format!("{count} lines in {}", path.display()), || {
        last = read();
        last.len() >= count
    });
    assert_eq!(last.len(), count, "{last:#?}");
    assert!(last.iter().all(|line| line.ends_with('\n')), "{last:#?}");
    last
}

#[track_caller]
fn objects(path: &Path, count: usize) -> Vec<Value> {
    let parse = |line: &String| serde_json::from_str(line).unwrap();
    lines(path, count).iter().map(parse).collect()
}

/// The value of `name=` in a line of text, with its quotes.
#[track_caller]
fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let start = format!("{name}=");
    let found = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix(&start));
    found.unwrap_or_else(|| panic!("no {name} in {line}"))
}

/// A backend that answers with the status that the path says.
fn with_status() -> Backend {
    Backend::scripted(|conversation| {
        conversation.respond(|heard: &Heard| {
            let text = format!("Status: {} Whatever\r\n\r\nbody", &heard.uri()[1..4]);
            let mut bytes = Vec::new();
            push_stream(&mut bytes, Kind::Stdout, heard.id, text.as_bytes());
            bytes.extend(end(heard.id));
            bytes
        })
    })
}

/// A backend that keeps whoever asks for this path waiting.
fn holding(path: &'static str) -> Backend {
    Backend::scripted(move |conversation| {
        while let Some(heard) = conversation.request()? {
            if heard.uri() == path {
                conversation.wait_for_release()?;
            }
            conversation.send(&heard.page())?;
        }
        Ok(())
    })
}

#[track_caller]
fn wait_for_one_in_the_queue(proxy: &Proxy) {
    let depth = "spliceway_queue_depth{route=\"default\"}";
    eventually("one waits", || proxy.scrape().value(depth) == 1.0);
}

/// The one connection to the backend is ready for the next request; before, that would get another.
#[track_caller]
fn wait_until_it_rests(proxy: &Proxy) {
    let resting = "spliceway_fastcgi_upstreams{route=\"default\",state=\"resting\"}";
    eventually("the connection rests", || {
        proxy.scrape().value(resting) == 1.0
    });
}

fn script(request: Request) -> Request {
    request.param("SCRIPT_FILENAME", "/srv/index.php")
}

fn each_request_has_a_line_that_says_what_happened(engine: Engine) {
    let backend = with_status();
    let (builder, path) = logging(engine, "json");
    let proxy = builder.backend(&backend).observed().start();
    let client = Client::connect(&proxy);
    client.ask(&script(Request::get("/200?a=b")));
    wait_until_it_rests(&proxy);
    client.ask(&script(Request::post("/404", b"x=y")));
    let found = objects(&path, 2);
    for (number, (method, uri, status)) in [("GET", "/200?a=b", 200), ("POST", "/404", 404)]
        .into_iter()
        .enumerate()
    {
        let line = &found[number];
        assert_eq!(line["route"], "default");
        assert_eq!(line["pid"], process::id());
        assert_eq!(line["uid"], common::sys::own_uid());
        assert_eq!(line["method"], method);
        assert_eq!(line["uri"], uri);
        assert_eq!(line["script"], "/srv/index.php");
        assert_eq!(line["status"], status);
        assert_eq!(line["bytes"], "Status: 200 Whatever\r\n\r\nbody".len());
        assert_eq!(line["endpoint"], backend.to_string());
        assert_eq!(line["ending"], Value::Null);
        let time = |name: &str| line[name].as_f64().unwrap();
        assert!(time("total") >= time("first_byte"), "{line}");
        assert_eq!(time("queue"), 0.0, "{line}");
        assert!(humantime::parse_rfc3339(line["time"].as_str().unwrap()).is_ok());
    }
    assert_eq!(found[0]["upstream"], "new");
    assert_eq!(found[1]["upstream"], "reused");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o007, 0, "URIs are not for everybody");
}

fn text_has_the_same_fields(engine: Engine) {
    let backend = with_status();
    let (builder, path) = logging(engine, "text");
    let proxy = builder.backend(&backend).start();
    Client::connect(&proxy).ask(&script(Request::get("/503")));
    let lines = lines(&path, 1);
    let line = lines[0].as_str();
    let endpoint = format!("\"{backend}\"");
    let pid = process::id().to_string();
    for (name, value) in [
        ("route", "default"),
        ("pid", &pid),
        ("method", "\"GET\""),
        ("uri", "\"/503\""),
        ("script", "\"/srv/index.php\""),
        ("status", "503"),
        ("bytes", "28"),
        ("endpoint", &endpoint),
        ("upstream", "new"),
        ("queue", "0.000000"),
        ("ending", "-"),
    ] {
        assert_eq!(field(line, name), value, "{line}");
    }
}

/// The stream of the test's own that the proxy has as its standard output.
fn standard_output_is_a_file_like_others(engine: Engine) {
    let backend = responder();
    let builder = Proxy::builder().engine(engine);
    let path = builder.dir().join("stdout");
    let proxy = builder
        .stdout(File::create(&path).unwrap())
        .args(["--protocol", "fastcgi", "--access-log", "-"])
        .backend(&backend)
        .start();
    Client::connect(&proxy).ask(&Request::get("/out"));
    assert_eq!(field(&lines(&path, 1)[0], "uri"), "\"/out\"");
    // There is nothing to be opened anew, and nothing ends.
    proxy.process().signal(libc::SIGUSR1);
    Client::connect(&proxy).ask(&Request::get("/still"));
    assert_eq!(field(&lines(&path, 2)[1], "uri"), "\"/still\"");
}

fn requests_without_an_answer_of_a_backend_have_lines(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        while let Some(heard) = conversation.request()? {
            match heard.uri() {
                "/cut" => {
                    conversation.send(&stdout(heard.id, b"half"))?;
                    return conversation.half_close();
                }
                "/mute" => return conversation.half_close(),
                "/hold" => conversation.wait_for_release()?,
                _ => {}
            }
            conversation.send(&heard.page())?;
        }
        Ok(())
    });
    let (builder, path) = logging(engine, "json");
    let proxy = builder
        .args(["--per-endpoint-max", "1", "--queue-max", "1"])
        .args(["--eject-after", "off"])
        .backend(&backend)
        .observed()
        .start();

    let rejected = Request::get("/rejected").param("PHP_VALUE", "x=y");
    assert!(Client::connect(&proxy).ask(&rejected).says("403"));
    let found = objects(&path, 1);
    assert_eq!(
        (&found[0]["uri"], &found[0]["status"]),
        (&"/rejected".into(), &403.into())
    );
    assert_eq!(found[0]["ending"], "rejected");
    assert_eq!(
        (&found[0]["endpoint"], &found[0]["upstream"]),
        (&Value::Null, &Value::Null)
    );

    let client = Client::connect(&proxy);
    client.send(&Request::get("/cut").bytes());
    assert!(client.try_answer().is_err());
    let found = objects(&path, 2);
    assert_eq!(
        (&found[1]["uri"], &found[1]["status"]),
        (&"/cut".into(), &200.into())
    );
    assert_eq!(found[1]["ending"], "backend_reset");
    assert!(found[1]["bytes"].as_u64().unwrap() > 4);

    let client = Client::connect(&proxy);
    client.send(&Request::get("/mute").bytes());
    assert_over(&client.0);
    let found = objects(&path, 3);
    assert_eq!(
        (&found[2]["uri"], &found[2]["status"]),
        (&"/mute".into(), &Value::Null)
    );
    assert_eq!(found[2]["ending"], "backend_reset");
    assert_eq!(found[2]["first_byte"], Value::Null);

    let held = Client::connect(&proxy);
    held.send(&Request::get("/hold").bytes());
    backend.wait_until("it is held", |ledger| ledger.accepted == 3);
    let waiting = Client::connect(&proxy);
    waiting.send(&Request::get("/waiting").bytes());
    wait_for_one_in_the_queue(&proxy);
    let refused = Client::connect(&proxy).ask(&Request::get("/refused"));
    assert!(refused.says("503"));
    let found = objects(&path, 4);
    assert_eq!(
        (&found[3]["status"], &found[3]["ending"]),
        (&503.into(), &"queue_full".into())
    );
    drop(waiting);
    let found = objects(&path, 5);
    assert_eq!(
        (&found[4]["uri"], &found[4]["status"]),
        (&"/waiting".into(), &Value::Null)
    );
    assert_eq!(found[4]["ending"], "queue_left");
    backend.release(1);
    assert_eq!(held.answer().text(), "/hold");
    assert_eq!(objects(&path, 6)[5]["uri"], "/hold");
}

fn times_are_those_of_the_request(engine: Engine) {
    const HELD: Duration = Duration::from_secs(2);
    let backend = holding("/slow");
    let (builder, path) = logging(engine, "json");
    let proxy = builder
        .args(["--per-endpoint-max", "1"])
        .backend(&backend)
        .observed()
        .start();
    let slow = Client::connect(&proxy);
    slow.send(&Request::get("/slow").bytes());
    backend.wait_until("it is served", |ledger| ledger.accepted == 1);
    let queued = Client::connect(&proxy);
    queued.send(&Request::get("/queued").bytes());
    wait_for_one_in_the_queue(&proxy);
    meanwhile(HELD, || drop(proxy.scrape()));
    backend.release(1);
    slow.answer();
    queued.answer();
    let held = HELD.as_secs_f64();
    let found = objects(&path, 2);
    let time = |line: &Value, name: &str| line[name].as_f64().unwrap();
    assert_eq!(found[0]["uri"], "/slow");
    assert!(time(&found[0], "first_byte") >= held, "{}", found[0]);
    assert!(time(&found[0], "connect") < held, "{}", found[0]);
    assert_eq!(found[1]["uri"], "/queued");
    assert!(time(&found[1], "queue") >= held, "{}", found[1]);
    assert!(
        time(&found[1], "total") >= time(&found[1], "queue"),
        "{}",
        found[1]
    );
    assert_eq!(found[1]["upstream"], "reused");
}

/// A GET with any bytes.
fn raw_get(uri: &[u8]) -> Vec<u8> {
    let begin = BeginRequest {
        role: Role::Responder,
        keep_conn: true,
    };
    let (mut bytes, mut params) = (Vec::new(), Vec::new());
    push_pair(&mut params, b"REQUEST_METHOD", b"GET");
    push_pair(&mut params, b"REQUEST_URI", uri);
    push_record(&mut bytes, Kind::BeginRequest, ONE, &begin.encode());
    push_stream(&mut bytes, Kind::Params, ONE, &params);
    push_stream_end(&mut bytes, Kind::Params, ONE);
    push_stream_end(&mut bytes, Kind::Stdin, ONE);
    bytes
}

fn no_client_can_forge_a_line(engine: Engine) {
    let forged =
        b"/\" status=200\ntime=2026-01-01T00:00:00.000Z route=x\x1b[2J\\\xff\xfe\xc2\x9b31m";
    for format in ["text", "json"] {
        let backend = responder();
        let (builder, path) = logging(engine, format);
        let proxy = builder.backend(&backend).start();
        let client = Client::connect(&proxy);
        client.send(&raw_get(forged));
        client.answer();
        let long = [&b"/"[..], &[b'a'; 10_000]].concat();
        client.send(&raw_get(&long));
        client.answer();
        let lines = lines(&path, 2);
        for line in &lines {
            let is_printable = |byte: u8| (b' '..=b'~').contains(&byte);
            assert!(
                line.trim_end_matches('\n').bytes().all(is_printable),
                "{line}"
            );
        }
        assert!(lines[1].len() < 3000, "a long URI is cut");
        if format == "text" {
            let expected = r#" uri="/\" status=200\x0atime=2026-01-01T00:00:00.000Z route=x\x1b[2J\\\xff\xfe\xc2\x9b31m" script="" "#;
            assert!(lines[0].contains(expected), "{}", lines[0]);
        } else {
            let line: Value = serde_json::from_str(&lines[0]).unwrap();
            assert_eq!(line["uri"], String::from_utf8_lossy(forged).as_ref());
            assert_eq!(line["status"], 200);
        }
    }
}

fn on_a_signal_the_file_is_opened_anew(engine: Engine) {
    let backend = responder();
    let (builder, path) = logging(engine, "text");
    let proxy = builder.backend(&backend).start();
    let client = Client::connect(&proxy);
    client.ask(&Request::get("/before"));
    assert_eq!(field(&lines(&path, 1)[0], "uri"), "\"/before\"");
    let rotated = path.with_extension("1");
    fs::rename(&path, &rotated).unwrap();
    client.ask(&Request::get("/between"));
    assert_eq!(field(&lines(&rotated, 2)[1], "uri"), "\"/between\"");
    proxy.process().signal(libc::SIGUSR1);
    proxy.process().wait_for_log("opened anew");
    client.ask(&Request::get("/after"));
    assert_eq!(field(&lines(&path, 1)[0], "uri"), "\"/after\"");
    assert_eq!(lines(&rotated, 2).len(), 2);

    // Where it cannot be opened, lines go where they went.
    let dir = path.parent().unwrap();
    fs::rename(&path, &rotated).unwrap();
    fs::create_dir(&path).unwrap();
    proxy.process().signal(libc::SIGUSR1);
    proxy.process().wait_for_log("the old file is written on");
    client.ask(&Request::get("/old"));
    assert_eq!(field(&lines(&rotated, 2)[1], "uri"), "\"/old\"");
    assert!(dir.exists());
}

/// Nobody reads the FIFO that the lines go to, so they fill it, then the queue.
fn a_reader_that_stands_still_costs_lines_and_no_request(engine: Engine) {
    const REQUESTS: usize = 12_000;
    let backend = responder();
    let (builder, path) = logging(engine, "text");
    make_fifo(&path).unwrap();
    // Opened without waiting for a writer, which in turn needs a reader.
    let mut reader = common::sys::open_nonblocking(&path).unwrap();
    let mut proxy = builder.backend(&backend).observed().start();
    let client = Client::connect(&proxy);
    for number in 0..REQUESTS {
        let uri = format!("/{number}");
        assert_eq!(client.ask(&Request::get(&uri)).text(), uri);
    }
    // The line of the last request comes after its answer, and before the end of its session.
    drop(client);
    let active = "spliceway_sessions_active{route=\"default\"}";
    eventually("the session is over", || {
        proxy.scrape().value(active) == 0.0
    });
    let series = "spliceway_access_log_lines_dropped_total{route=\"default\"}";
    let dropped = proxy.scrape().value(series);
    assert!(dropped > 0.0, "the queue was never full");
    assert_eq!(
        proxy.status()["routes"][0]["fastcgi"]["access_log_lines_dropped"],
        dropped
    );
    // Whatever was not dropped is there, whole, once somebody reads and the daemon ends.
    let mut text = Vec::new();
    proxy.terminate();
    eventually("the proxy ends", || {
        let mut buffer = [0; 1 << 16];
        while let Ok(count @ 1..) = uninterrupted(|| reader.read(&mut buffer)) {
            text.extend_from_slice(&buffer[..count]);
        }
        !proxy.is_running()
    });
    let mut rest = [0; 1 << 16];
    while let Ok(count @ 1..) = uninterrupted(|| reader.read(&mut rest)) {
        text.extend_from_slice(&rest[..count]);
    }
    let text = String::from_utf8(text).unwrap();
    assert!(text.ends_with('\n'));
    assert_eq!(text.lines().count() as f64 + dropped, REQUESTS as f64);
    assert!(text.lines().all(|line| line.starts_with("time=")));
}

fn requests_that_finish_in_a_drain_have_lines(engine: Engine) {
    let backend = holding("/last");
    let (builder, path) = logging(engine, "text");
    let mut proxy = builder.backend(&backend).observed().start();
    let clients: Vec<_> = (0..20).map(|_| Client::connect(&proxy)).collect();
    for client in &clients {
        client.ask(&Request::get("/soon"));
    }
    let last = Client::connect(&proxy);
    last.send(&Request::get("/last").bytes());
    let busy = "spliceway_fastcgi_upstreams{route=\"default\",state=\"busy\"}";
    eventually("it is served", || proxy.scrape().value(busy) == 1.0);
    proxy.terminate();
    proxy.process().wait_for_log("draining");
    backend.release(1);
    assert_eq!(last.answer().text(), "/last");
    assert!(proxy.wait().success());
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 21);
    assert_eq!(field(text.lines().last().unwrap(), "uri"), "\"/last\"");
}

fn routes_share_a_file(engine: Engine) {
    let backend = responder();
    let builder = Proxy::builder().engine(engine);
    let dir = builder.dir().to_owned();
    let route = |name: &str, format: &str| {
        format!(
            "[route.{name}]\nlisten = \"unix:{}\"\nbackend = \"{backend}\"\nprotocol = \"fastcgi\"\n\
             access-log = \"{}\"\naccess-log-format = \"{format}\"\n",
            dir.join(format!("{name}.sock")).display(),
            dir.join("access.log").display()
        )
    };
    let config = [route("one", "text"), route("two", "json")].concat();
    let mut proxy = builder.config(&config).start();
    let log = dir.join("access.log");
    for (name, count) in [("one", 1), ("two", 2)] {
        let socket = dir.join(format!("{name}.sock"));
        let client = Client(common::proxy::connect(&socket).unwrap());
        client.ask(&Request::get("/shared"));
        // Two workers' lines are in no order.
        lines(&log, count);
    }
    let lines = lines(&log, 2);
    assert_eq!(field(&lines[0], "route"), "one");
    assert!(lines[1].contains(r#""route":"two""#), "{lines:?}");
    proxy.terminate();
    assert!(proxy.wait().success());
}

fn fastcgi_metrics_equal_what_happened(engine: Engine) {
    let backend = with_status();
    let proxy = Proxy::builder()
        .engine(engine)
        .args([
            "--protocol",
            "fastcgi",
            "--workers",
            "1",
            "--idle-upstream",
            "1h",
        ])
        .backend(&backend)
        .observed()
        .start();
    let client = Client::connect(&proxy);
    for uri in ["/200", "/200", "/302", "/404", "/500"] {
        client.ask(&Request::get(uri));
        wait_until_it_rests(&proxy);
    }
    drop(client);
    let rejected = Request::get("/200").param("PHP_ADMIN_VALUE", "x=y");
    assert!(Client::connect(&proxy).ask(&rejected).says("403"));
    let mut scrape = proxy.scrape();
    eventually("everybody is gone", || {
        scrape = proxy.scrape();
        scrape.value("spliceway_sessions_active{route=\"default\"}") == 0.0
    });
    let of = |name: &str, label: &str| {
        scrape.value(&format!(
            "spliceway_fastcgi_{name}{{route=\"default\",{label}}}"
        ))
    };
    for (class, count) in [
        ("none", 0.0),
        ("1xx", 0.0),
        ("2xx", 2.0),
        ("3xx", 1.0),
        ("4xx", 2.0),
        ("5xx", 1.0),
    ] {
        assert_eq!(
            of("requests_total", &format!("status=\"{class}\"")),
            count,
            "{class}"
        );
    }
    assert_eq!(of("requests_sent_total", "upstream=\"new\""), 1.0);
    assert_eq!(of("requests_sent_total", "upstream=\"reused\""), 4.0);
    assert_eq!(of("upstreams", "state=\"busy\""), 0.0);
    assert_eq!(of("upstreams", "state=\"settling\""), 0.0);
    assert_eq!(
        of("guard_rejections_total", "rule=\"php_admin_value\""),
        1.0
    );
    assert_eq!(
        scrape.sum("spliceway_fastcgi_guard_rejections_total", &[]),
        1.0
    );
    assert_eq!(of("own_answers_total", "status=\"403\""), 1.0);
    let of_route =
        |name: &str| scrape.value(&format!("spliceway_fastcgi_{name}{{route=\"default\"}}"));
    assert_eq!(of_route("retries_total"), 0.0);
    assert_eq!(of_route("doubtful_endpoints"), 0.0);
    assert_eq!(of_route("settle_time_seconds_count"), 5.0);
    // Bytes are those that the backend got, fences included, and that clients got.
    let relayed = |direction: &str| {
        let direction = format!("direction=\"{direction}\"");
        scrape.sum(
            "spliceway_relayed_bytes_total",
            &[&direction, "path=\"copied\""],
        )
    };
    assert_eq!(relayed("to_backend"), backend.ledger().received as f64);
    assert!(relayed("to_client") > 5.0 * 28.0);
    assert_eq!(
        scrape.value("spliceway_connect_time_seconds_count{route=\"default\"}"),
        1.0
    );
    assert_eq!(proxy.status()["routes"][0]["fastcgi"]["requests"]["2xx"], 2);
}

/// Small ones and bulk, one that breaks off, an answer of the proxy's own, and several requests on one
/// connection.
fn bytes_of_requests_and_answers_are_counted_to_the_byte(engine: Engine) {
    const BULK: usize = 3 * 1024 * 1024;
    let backend = Backend::scripted(|conversation| {
        while let Some(heard) = conversation.request()? {
            let size = if heard.uri() == "/small" { 5 } else { BULK };
            let text = [b"Status: 200 OK\r\n\r\n", &vec![b'x'; size][..]].concat();
            let mut bytes = Vec::new();
            push_stream(&mut bytes, Kind::Stdout, heard.id, &text);
            if heard.uri() == "/broken" {
                conversation.send(&bytes[..BULK / 2])?;
                // It has read what it was sent: a fence that comes with the request, for one.
                conversation.half_close()?;
                return conversation.discard_until_eof();
            }
            bytes.extend(end(heard.id));
            conversation.send(&bytes)?;
        }
        Ok(())
    });
    let proxy = Proxy::builder()
        .engine(engine)
        .args(["--protocol", "fastcgi", "--workers", "1"])
        .backend(&backend)
        .observed()
        .start();
    let mut received = 0;
    for requests in [
        vec![Request::get("/small").closing()],
        vec![Request::get("/bulk").closing()],
        vec![Request::get("/broken").closing()],
        vec![Request::post("/small", &vec![b'y'; BULK]).closing()],
        vec![
            Request::get("/small"),
            Request::get("/bulk"),
            Request::get("/small").closing(),
        ],
        vec![Request::get("/small").param("PHP_VALUE", "x=y")],
    ] {
        let client = Client::connect(&proxy);
        for request in &requests {
            client.send(&request.bytes());
        }
        received += receive_to_eof(&client.0).len();
    }
    assert!(received > 2 * BULK);
    let relayed = |scrape: &Scrape, direction: &str| {
        let direction = format!("direction=\"{direction}\"");
        scrape.sum("spliceway_relayed_bytes_total", &[&direction])
    };
    let mut scrape = proxy.scrape();
    eventually(
        "all are over, and the backend has read what it was sent",
        || {
            scrape = proxy.scrape();
            scrape.value("spliceway_sessions_active{route=\"default\"}") == 0.0
                && relayed(&scrape, "to_backend") == backend.ledger().received as f64
        },
    );
    assert_eq!(relayed(&scrape, "to_client"), received as f64);
    for direction in ["to_client", "to_backend"] {
        let direction = format!("direction=\"{direction}\"");
        let of = [&*direction, "path=\"spliced\""];
        let spliced = scrape.sum("spliceway_relayed_bytes_total", &of);
        assert!(spliced > 0.0, "bulk is spliced: {direction}");
    }
}

/// The proxy is held while the backend closes the connection that a request on its way would be given.
fn a_request_that_is_sent_again_counts_as_sent_twice(engine: Engine) {
    const ROUNDS: usize = 4;
    let backend = Backend::scripted(|conversation| {
        while let Some(heard) = conversation.request()? {
            conversation.finish(&heard.page())?;
            if heard.uri() == "/last" {
                conversation.wait_for_release()?;
                // So that the end is on its way when the test hears of it.
                return conversation.half_close();
            }
        }
        Ok(())
    });
    let proxy = Proxy::builder()
        .engine(engine)
        .args(["--protocol", "fastcgi", "--workers", "1"])
        .args(["--settle-timeout", "30s"])
        .backend(&backend)
        .observed()
        .start();
    prove(&proxy);
    let client = Client::connect(&proxy);
    for round in 0..ROUNDS {
        for uri in ["/first", "/last"] {
            assert_eq!(client.ask(&Request::get(uri)).text(), uri);
            wait_until_it_rests(&proxy);
        }
        proxy.process().signal(libc::SIGSTOP);
        eventually("the proxy is stopped", || proxy.process().is_stopped());
        client.send(&Request::get("/next").bytes());
        backend.release(1);
        let _ = backend.wait_for_end(round);
        proxy.process().signal(libc::SIGCONT);
        assert_eq!(client.answer().text(), "/next");
        wait_until_it_rests(&proxy);
    }
    // The last one is counted after the client has its answer.
    let requests = (2 + 3 * ROUNDS) as f64;
    let mut scrape = proxy.scrape();
    eventually("all are over", || {
        scrape = proxy.scrape();
        scrape.sum("spliceway_fastcgi_requests_total", &[]) == requests
    });
    let sum = |name: &str| scrape.sum(&format!("spliceway_fastcgi_{name}_total"), &[]);
    assert_eq!(sum("requests_sent"), sum("requests") + sum("retries"));
    let new = scrape.sum(
        "spliceway_fastcgi_requests_sent_total",
        &["upstream=\"new\""],
    );
    assert_eq!(new, backend.ledger().accepted as f64);
}

fn an_endpoint_that_keeps_no_connections_is_counted(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        let heard = conversation.request()?.expect("a request");
        conversation.send(&heard.page())
    });
    let proxy = Proxy::builder()
        .engine(engine)
        .args(["--protocol", "fastcgi", "--workers", "1"])
        .backend(&backend)
        .observed()
        .start();
    let client = Client::connect(&proxy);
    let doubtful = "spliceway_fastcgi_doubtful_endpoints{route=\"default\"}";
    assert_eq!(proxy.scrape().value(doubtful), 0.0);
    eventually("it is found out", || {
        assert_eq!(client.ask(&Request::get("/page")).text(), "/page");
        proxy.scrape().value(doubtful) == 1.0
    });
    let settled = "spliceway_fastcgi_settle_time_seconds_count{route=\"default\"}";
    assert_eq!(proxy.scrape().value(settled), 0.0);
}

fn a_guard_rejection_says_who_asked(engine: Engine) {
    let backend = responder();
    let proxy = Proxy::builder()
        .engine(engine)
        .args(["--protocol", "fastcgi"])
        .backend(&backend)
        .start();
    let rejected = Request::get("/").param("PHP_VALUE", "x=y");
    for _ in 0..3 {
        assert!(Client::connect(&proxy).ask(&rejected).says("403"));
    }
    let pid = format!("pid={}", process::id());
    let uid = format!("uid={}", common::sys::own_uid());
    let log = proxy.process().log();
    log.wait_for("the line of the guard", |line| {
        [
            "guard",
            "rule=php_value",
            "param=\"PHP_VALUE\"",
            "--allow-php-setting",
            &pid,
            &uid,
        ]
        .iter()
        .all(|part| line.contains(part))
    });
    assert_eq!(log.count("request rejected"), 1, "one line in a while");
}

fn a_line_names_rule_and_parameter_of_a_rejection_and_no_name_forges_a_field(engine: Engine) {
    let hostile = "PHP_VALUE[\" rule=- param=\"A\nB\\";
    for format in ["text", "json"] {
        let backend = responder();
        let (builder, path) = logging(engine, format);
        let proxy = builder.backend(&backend).start();
        for name in ["PHP_VALUE", hostile] {
            let rejected = Request::get("/").param(name, "x=y");
            assert!(Client::connect(&proxy).ask(&rejected).says("403"));
        }
        Client::connect(&proxy).ask(&Request::get("/"));
        let lines = lines(&path, 3);
        if format == "text" {
            let ends = [
                " status=403 ",
                "ending=rejected rule=php_value param=\"PHP_VALUE\" class=-\n",
                r#"param="PHP_VALUE[\" rule=- param=\"A\x0aB\\" class=-"#,
                "ending=- rule=- param=- class=-\n",
            ];
            assert!(lines[0].contains(ends[0]) && lines[0].ends_with(ends[1]));
            assert!(lines[1].trim_end().ends_with(ends[2]), "{}", lines[1]);
            assert!(lines[2].ends_with(ends[3]));
        } else {
            let line = |number: usize| -> Value { serde_json::from_str(&lines[number]).unwrap() };
            assert_eq!(line(0)["rule"], "php_value");
            assert_eq!(line(0)["param"], "PHP_VALUE");
            assert_eq!(line(1)["param"], r#"PHP_VALUE[\" rule=- param=\"A\x0aB\\"#);
            assert_eq!(line(2)["rule"], Value::Null);
        }
        // In the log, one field is one field as well.
        let log = proxy.process().log();
        log.wait_for("the rejection", |line| {
            line.contains("rule=php_value param=\"PHP_VALUE\" uid=")
        });
    }
}

fn a_request_with_too_many_bytes_of_parameters_has_a_line(engine: Engine) {
    let backend = responder();
    let (builder, path) = logging(engine, "text");
    let proxy = builder.backend(&backend).start();
    let request = script(Request::get("/long")).param("X", &"x".repeat(300 << 10));
    assert!(Client::connect(&proxy).ask(&request).says("431"));
    let lines = lines(&path, 1);
    for (name, value) in [
        ("method", "\"GET\""),
        ("uri", "\"/long\""),
        ("script", "\"/srv/index.php\""),
        ("status", "431"),
        ("upstream", "-"),
        ("ending", "bad_request"),
    ] {
        assert_eq!(field(&lines[0], name), value, "{}", lines[0]);
    }
}

/// Nobody accepts there, so that it is only the port that is needed.
fn any_backend() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

#[test]
fn a_file_that_cannot_be_opened_stops_the_start() {
    let backend = any_backend();
    let outcome = Proxy::builder()
        .backend(backend.local_addr().unwrap())
        .args([
            "--protocol",
            "fastcgi",
            "--access-log",
            "/nonexistent/access.log",
        ])
        .run_to_the_end();
    outcome.assert_error_line(
        1,
        &["open the access log /nonexistent/access.log", "ENOENT"],
    );
    if is_root() {
        let outcome = Proxy::builder()
            .user(common::proxy::NOBODY)
            .backend(backend.local_addr().unwrap())
            .args(["--protocol", "fastcgi", "--access-log", "/access.log"])
            .run_to_the_end();
        outcome.assert_error_line(
            1,
            &["open the access log /access.log", "EACCES", "writable"],
        );
    }
}

#[test]
fn without_an_access_log_the_signal_ends_nothing() {
    let backend = responder();
    let proxy = Proxy::builder()
        .args(["--protocol", "fastcgi"])
        .backend(&backend)
        .start();
    proxy.process().signal(libc::SIGUSR1);
    assert_eq!(
        Client::connect(&proxy).ask(&Request::get("/on")).text(),
        "/on"
    );
}

/// /dev/full takes no byte (full(4)).
#[test]
fn a_write_that_fails_is_counted_and_told_and_ends_nothing() {
    let backend = responder();
    let proxy = Proxy::builder()
        .args(["--protocol", "fastcgi", "--access-log", "/dev/full"])
        .backend(&backend)
        .observed()
        .start();
    let client = Client::connect(&proxy);
    assert_eq!(client.ask(&Request::get("/one")).text(), "/one");
    eventually("a failed write is counted", || {
        proxy
            .scrape()
            .value("spliceway_access_log_write_errors_total")
            >= 1.0
    });
    proxy
        .process()
        .wait_for_log("write the access log /dev/full");
    assert_eq!(client.ask(&Request::get("/two")).text(), "/two");
}
