//! `spliceway-bench compare` from end to end, in small: whether it measures and writes everything
//! that it says, not what comes out.

// For the helpers beside the tests.
#![allow(clippy::unwrap_used)]

#[path = "../../../tests/common/mod.rs"]
mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use common::beside::program_beside;
use serde_json::Value;
use spliceway_common::sys::child::send_signal;
use spliceway_common::sys::namespace::effective_ids;

const PROGRAM: &str = env!("CARGO_BIN_EXE_spliceway-bench");

/// What the proxy is made of.
const PROXY_SOURCES: &[&str] = &[
    "src",
    "crates/spliceway-common/src",
    "crates/spliceway-load/src",
];

/// Where there is no network of one's own to be had, two comparisons would want the same port.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// One cell, one round, a tenth of a second, without other people's programs.
fn compare(dir: &Path, more: &[&str]) -> Output {
    let _one = ONE_AT_A_TIME.lock();
    // It compares the proxy that it finds beside itself.
    program_beside(PROGRAM, "spliceway", PROXY_SOURCES);
    let mut command = Command::new(PROGRAM);
    command
        .current_dir(dir)
        .args(["compare", "--only=new-4k-16", "--rounds=1", "--seconds=0.1"])
        .args(["--peers=unix,spliceway,spliceway-epoll"])
        .args(["--output=out", "--results=RESULTS.md"])
        .args(more);
    command.output().expect("the program starts")
}

fn written(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

#[track_caller]
fn assert_has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no '{part}' in:\n{text}");
    }
}

#[test]
fn a_small_comparison_writes_a_report_with_all_parts() {
    let dir = tempfile::tempdir().unwrap();
    let output = compare(dir.path(), &[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");

    assert_has(
        &written(dir.path(), "RESULTS.md"),
        &[
            "spliceway-bench compare --only=new-4k-16",
            "## In short",
            "| here, 4 KB new × 16 ",
            "(out/machine.svg)",
            "## Method",
            "[cells.md](out/cells.md)",
        ],
    );
    assert_has(
        &written(dir.path(), "out/cells.md"),
        &[
            "## What was not measured",
            "### 600 B → 4 KB, new connection per request, 16 at a time (`new-4k-16`)",
            "| direct, TCP ",
            "| spliceway raw, io_uring ",
            "| spliceway raw, epoll ",
            "HAProxy: not asked for",
            "net.ipv4.tcp_congestion_control",
        ],
    );
    assert_has(
        &written(dir.path(), "out/targets.md"),
        &["## The raw mode, here", "## Where spliceway is behind"],
    );
    assert!(dir.path().join("out/machine.svg").exists());
    let data = fs::read(dir.path().join("out/data.json")).unwrap();
    let data: Value = serde_json::from_slice(&data).unwrap();
    let paths = data["cells"][0]["paths"].as_array().unwrap();
    assert_eq!(paths.len(), 4);
    for path in paths {
        let round = &path["rounds"][0]["Ok"];
        assert!(round["requests"].as_u64().unwrap() > 0, "{path}");
        let through_a_program = path["path"].as_str().unwrap().starts_with("spliceway");
        assert_eq!(round["cpu_us"].is_number(), through_a_program, "{path}");
    }
}

#[test]
fn the_fastcgi_mode_has_cells_and_targets_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let more = [
        "--only=fastcgi-new-4k-16,fastcgi-kept-4k-16,fastcgi-kept-40p",
        "--peers=fastcgi,fastcgi-epoll,fastcgi-unguarded,fastcgi-epoll-unguarded",
    ];
    let output = compare(dir.path(), &more);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");

    let data = fs::read(dir.path().join("out/data.json")).unwrap();
    let data: Value = serde_json::from_slice(&data).unwrap();
    let cells = data["fastcgi"]["cells"].as_array().unwrap();
    let modes = ["fastcgi", "fastcgi-epoll"];
    let expected = [
        [&["tcp", "spliceway"][..], &modes].concat(),
        [&["tcp", "tcp-new"][..], &modes].concat(),
        [
            "fastcgi",
            "fastcgi-unguarded",
            "fastcgi-epoll",
            "fastcgi-epoll-unguarded",
        ]
        .into(),
    ];
    assert_eq!(cells.len(), expected.len());
    for (cell, expected) in cells.iter().zip(expected) {
        let paths = cell["paths"].as_array().unwrap();
        let names: Vec<&str> = paths
            .iter()
            .filter_map(|path| path["path"].as_str())
            .collect();
        assert_eq!(names, expected);
        for path in paths {
            let round = &path["rounds"][0]["Ok"];
            assert!(round["requests"].as_u64().unwrap_or(0) > 0, "{path}");
        }
    }
    assert_has(
        &written(dir.path(), "out/cells.md"),
        &[
            "## The FastCGI mode",
            "| spliceway FastCGI, io_uring ",
            "| spliceway FastCGI, epoll, guard off ",
            "| direct, TCP, new connections ",
        ],
    );
    let targets = written(dir.path(), "out/targets.md");
    assert_has(&targets, &["## The FastCGI mode, here"]);
}

/// Whether a link can be made: as root, where there is the device. Without, the report says why not.
fn has_link() -> bool {
    effective_ids().0 == 0 && Path::new("/dev/net/tun").exists()
}

#[test]
fn backends_behind_a_link_come_first_and_take_its_round_trip() {
    let dir = tempfile::tempdir().unwrap();
    let more = [
        "--only=remote-10ms-4k-1,php-static-2k",
        "--peers=spliceway,fastcgi,fastcgi-epoll",
    ];
    let output = compare(dir.path(), &more);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");

    let cells = written(dir.path(), "out/cells.md");
    if !has_link() {
        assert_has(&cells, &["- backends behind a link, all: "]);
        return;
    }
    let first = cells.lines().find(|line| line.starts_with("## "));
    assert_eq!(first, Some("## Backends behind a link"));
    let parts = [
        "| spliceway FastCGI, epoll, kept ",
        "<summary>10 ms, 4 KB × 1</summary>",
    ];
    assert_has(&cells, &parts);
    let targets = written(dir.path(), "out/targets.md");
    assert_has(&targets, &["| 10 ms, 4 KB × 16, raw, new "]);
    let report = written(dir.path(), "RESULTS.md");
    let plots: Vec<&str> = report.split("](out/").skip(1).collect();
    assert!(
        plots[0].starts_with("cells.md") && plots[1].starts_with("remote.svg"),
        "{report}"
    );
    let data = fs::read(dir.path().join("out/data.json")).unwrap();
    let data: Value = serde_json::from_slice(&data).unwrap();
    let cells = data["remote"]["cells"].as_array().unwrap();
    // "remote-10ms-4k-1" is how that of sixteen clients begins as well.
    assert_eq!(cells.len(), 2);
    for cell in cells {
        let ways = cell["ways"].as_array().unwrap();
        assert_eq!(ways.len(), 2 * 5);
        for way in ways {
            let round = &way["rounds"][0]["Ok"];
            let connects =
                way["carry"] == "new" && !way["path"].as_str().unwrap().starts_with("fastcgi");
            let round_trips = if connects { 2.0 } else { 1.0 };
            let p50 = round["latency_us"]["p50"].as_f64().unwrap();
            assert!(p50 >= round_trips * 10_000.0, "{way}");
            assert!(round["link"]["packets"].as_u64().unwrap() > 0, "{way}");
        }
    }
}

/// Waits for what comes sooner or later.
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    const PATIENCE: Duration = Duration::from_secs(60);
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "no {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The children of a process, of which all have been started by its first thread.
fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let list = list.unwrap_or_default();
    list.split_ascii_whitespace().flat_map(str::parse).collect()
}

/// In which network a process is, unless it has ended: one that is not waited for has none, either.
fn network_of(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/net")).ok()
}

#[test]
fn a_comparison_that_is_ended_leaves_nothing_behind_the_link() {
    if !has_link() {
        return;
    }
    let _one = ONE_AT_A_TIME.lock();
    program_beside(PROGRAM, "spliceway", PROXY_SOURCES);
    let dir = tempfile::tempdir().unwrap();
    for signal in [libc::SIGINT, libc::SIGKILL] {
        let mut compare = Command::new(PROGRAM)
            .current_dir(dir.path())
            .args(["compare", "--only=remote-1ms", "--peers=spliceway"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It has a network of its own by then, and the responder has another one.
        let responder = wait_for("responder behind the link", || {
            let own = network_of(compare.id())?;
            let is_elsewhere = |pid: &u32| network_of(*pid).is_some_and(|of| of != own);
            let all = children(compare.id());
            // The first of the two responders is on this side.
            (all.len() >= 3).then(|| all.into_iter().find(is_elsewhere))?
        });
        let all = children(compare.id());
        send_signal(compare.id(), signal).unwrap();
        compare.wait().unwrap();
        assert!(all.contains(&responder));
        for pid in all {
            wait_for("end of what it has started", || {
                network_of(pid).is_none().then_some(())
            });
        }
    }
}

#[test]
fn pages_of_php_fpm_come_first_with_every_way_and_pool() {
    let dir = tempfile::tempdir().unwrap();
    let more = [
        "--only=php-static-2k,php-ondemand-10k",
        "--peers=fastcgi,nginx",
    ];
    let output = compare(dir.path(), &more);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");

    let data = fs::read(dir.path().join("out/data.json")).unwrap();
    let data: Value = serde_json::from_slice(&data).unwrap();
    let cells = data["php"]["cells"].as_array().unwrap();
    let expected = [("static", 2, "php-unix"), ("ondemand", 10, "php-nginx")];
    assert_eq!(cells.len(), expected.len());
    for (cell, (pm, kb, second)) in cells.iter().zip(expected) {
        assert_eq!((&cell["pm"], &cell["kb"]), (&pm.into(), &kb.into()));
        let paths = cell["paths"].as_array().unwrap();
        assert_eq!(paths[0]["key"], "php-tcp");
        assert_eq!(paths[1]["key"], second);
        for path in paths {
            let round = &path["rounds"][0]["Ok"];
            let figure = |name: &str| round[name].as_f64().unwrap_or_default();
            assert!(figure("requests") > 0.0, "{path}");
            for figures in ["p99_us", "nginx_cpu_us", "fpm_cpu_us", "busy_us"] {
                assert!(figure(figures) > 0.0, "{figures}: {path}");
            }
            // In hundredths of a second, which a few requests do not take.
            assert!(round["wrk_cpu_us"].is_number(), "{path}");
            let key = path["key"].as_str().unwrap();
            let through_a_program = !["php-tcp", "php-tcp-kept", "php-unix"].contains(&key);
            assert_eq!(round["cpu_us"].is_number(), through_a_program, "{path}");
            let has_second = pm == "static" && kb == 2;
            assert_eq!(path["second_client"].is_object(), has_second, "{path}");
        }
    }
    let cells = written(dir.path(), "out/cells.md");
    let first = cells.lines().find(|line| line.starts_with("## "));
    assert_eq!(first, Some("## nginx and PHP-FPM, end to end"));
    let parts = [
        "| static 2 | ondemand 10 |",
        "A second client of the same pool",
        "<summary>ondemand, pages of 10 KB</summary>",
    ];
    assert_has(&cells, &parts);
    let targets = written(dir.path(), "out/targets.md");
    assert_has(&targets, &["| ondemand, 10 KB ", "≥ 0.95"]);
    let report = written(dir.path(), "RESULTS.md");
    assert_has(
        &report,
        &["(out/pages.svg)", "| PHP-FPM static, pages of 2 KB "],
    );
    assert!(dir.path().join("out/pages.svg").exists());
}

#[test]
fn fixed_rates_are_asked_of_both_modes() {
    let dir = tempfile::tempdir().unwrap();
    let more = ["--only=sweep", "--peers=fastcgi,fastcgi-epoll", "--quick"];
    let output = compare(dir.path(), &more);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");

    let data = fs::read(dir.path().join("out/data.json")).unwrap();
    let data: Value = serde_json::from_slice(&data).unwrap();
    let names = |sweep: &Value| {
        let paths = sweep["paths"].as_array().unwrap().iter();
        let names = paths.map(|path| path["path"].as_str().unwrap().to_owned());
        names.collect::<Vec<String>>()
    };
    let others = ["tcp", "unix", "spliceway", "spliceway-epoll"];
    let modes = ["fastcgi", "fastcgi-epoll"];
    assert_eq!(names(&data["sweep"]), [&others[..], &modes].concat());
    for page in data["page_sweeps"].as_array().unwrap() {
        assert_eq!(names(&page["sweep"]), others);
    }
    assert!(dir.path().join("out/latency-under-load.svg").exists());
}

#[test]
fn routes_are_measured_with_and_without_their_neighbour_and_metrics() {
    let dir = tempfile::tempdir().unwrap();
    let output = compare(dir.path(), &["--only=routes"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");

    let data = fs::read(dir.path().join("out/data.json")).unwrap();
    let data: Value = serde_json::from_slice(&data).unwrap();
    let engines = data["routes"]["engines"].as_array().unwrap();
    let names: Vec<&Value> = engines.iter().map(|engine| &engine["path"]).collect();
    assert_eq!(names, ["spliceway", "spliceway-epoll"]);
    for engine in engines {
        for situation in [
            "alone",
            "beside",
            "apart",
            "page_alone",
            "page_beside",
            "unwatched",
            "watched",
        ] {
            let rounds = engine[situation].as_array().unwrap();
            assert!(!rounds.is_empty(), "{situation}");
            for round in rounds {
                let requests = round["Ok"]["requests"].as_u64();
                assert!(requests.unwrap_or(0) > 0, "{situation}: {round}");
            }
        }
        // Clients that wait for places of 20 ms.
        let longest_ms = engine["longest_ms"][0].as_f64().unwrap();
        assert!(longest_ms > 100.0, "{longest_ms}");
    }
    let cells = written(dir.path(), "out/cells.md");
    let parts = ["## Several routes, and metrics", "| in the same daemon "];
    assert_has(&cells, &parts);
    let targets = written(dir.path(), "out/targets.md");
    assert_has(&targets, &["| metrics asked for ten times a second "]);
}

#[test]
fn reloads_are_measured_with_every_program_that_can_be_told() {
    let dir = tempfile::tempdir().unwrap();
    let more = [
        "--only=reload",
        "--peers=haproxy,nginx,fastcgi,fastcgi-epoll",
    ];
    let output = compare(dir.path(), &more);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");

    let data = fs::read(dir.path().join("out/data.json")).unwrap();
    let data: Value = serde_json::from_slice(&data).unwrap();
    let paths = data["reload"]["paths"].as_array().unwrap();
    let names = |carry| {
        let of_carry = paths.iter().filter(move |path| path["carry"] == carry);
        of_carry
            .map(|path| path["path"].as_str().unwrap())
            .collect()
    };
    let programs = [
        "haproxy",
        "nginx",
        "spliceway",
        "spliceway-epoll",
        "fastcgi",
        "fastcgi-epoll",
    ];
    for carry in ["new", "kept"] {
        let names: Vec<&str> = names(carry);
        assert_eq!(names, programs);
    }
    let mut done = 0;
    for path in paths {
        let round = &path["rounds"][0]["Ok"];
        assert_eq!(round["reloads"], 1, "{path}");
        assert!(round["during"]["p99"].as_f64().unwrap() > 0.0, "{path}");
        let counts = |load: &str| ["refused", "broken", "lost"].map(|fate| &round[load][fate]);
        // Of the others this is what is to be found out.
        if path["name"].as_str().unwrap().starts_with("spliceway") {
            done += round["done"].as_u64().unwrap();
            assert_eq!(counts("with"), [&0, &0, &0], "{path}");
        }
        assert_eq!(counts("without"), [&0, &0, &0], "{path}");
    }
    // Not all of them: on a busy machine one may take longer than until it is looked at.
    assert!(done > 0, "{paths:?}");
    let cells = written(dir.path(), "out/cells.md");
    assert_has(
        &cells,
        &["## Reloads under load", "| spliceway raw, epoll "],
    );
    let targets = written(dir.path(), "out/targets.md");
    assert_has(&targets, &["| FastCGI, kept connections ", "≤ 2"]);
}

#[test]
fn a_report_can_be_made_again_from_the_raw_data() {
    let dir = tempfile::tempdir().unwrap();
    assert!(compare(dir.path(), &[]).status.success());
    let files = [
        "RESULTS.md",
        "out/cells.md",
        "out/targets.md",
        "out/machine.svg",
    ];
    let first = files.map(|file| written(dir.path(), file));
    for file in files {
        fs::remove_file(dir.path().join(file)).unwrap();
    }
    let mut command = Command::new(PROGRAM);
    command.current_dir(dir.path()).args([
        "compare",
        "--render=out/data.json",
        "--output=out",
        "--results=RESULTS.md",
    ]);
    assert!(command.output().unwrap().status.success());
    let again = files.map(|file| written(dir.path(), file));
    assert_eq!(first, again);
}

#[test]
fn a_wrong_choice_is_an_error_before_anything_is_started() {
    let dir = tempfile::tempdir().unwrap();
    for (more, problem) in [
        ("--peers=apache", "--peers apache: there is no such path"),
        (
            "--only=tuesday",
            "--only tuesday: neither a section nor in the name of a cell",
        ),
    ] {
        let output = compare(dir.path(), &[more]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(stderr.contains(problem), "{stderr}");
        assert!(!dir.path().join("RESULTS.md").exists());
    }
}
