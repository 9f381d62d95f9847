//! Small made-up results for the tests of the report and the plots.

use super::matrix::{Carry, Cell, Key};
use super::results::{
    CellResult, DIRECT_TCP, Effort, Fastcgi, Growth, GrowthPages, GrowthSeries, Idle, Latency,
    LinkUse, Machine, Network, Outcome, Overload, OverloadPoint, OverloadSample, OverloadWay,
    PageSweep, PathInfo, PathResult, Php, PhpCell, PhpPath, PhpSample, Pm, Reload, ReloadPath,
    ReloadRound, ReloadSample, Remote, RemoteCell, RemoteWay, Results, Routes, RoutesOf, Sample,
    SecondClient, Sweep, SweepPath, SweepPoint, Variant,
};

/// Path, name, requests per second; slower paths use more CPU.
const PATHS: [(&str, &str, f64); 5] = [
    (DIRECT_TCP, "direct, TCP", 20_000.0),
    ("unix", "direct, Unix", 60_000.0),
    ("haproxy", "HAProxy", 10_000.0),
    ("spliceway", "spliceway raw, io_uring", 15_000.0),
    ("spliceway-epoll", "spliceway raw, epoll", 9_000.0),
];

fn sample(per_second: f64) -> Sample {
    Sample {
        requests: 1_000,
        seconds: 1_000.0 / per_second,
        bytes: 4_600_000,
        latency_us: Latency {
            p50: 1e6 / per_second,
            p90: 2e6 / per_second,
            p99: 4e6 / per_second,
            p999: 8e6 / per_second,
            max: 9e6 / per_second,
        },
        counted_requests: 1_000.0,
        cpu_us: Some(1e9 / per_second),
        responder_cpu_us: None,
        client_cpu_us: 5e8 / per_second,
        busy_us: 2e9 / per_second,
        window_seconds: 1_000.0 / per_second,
        memory_kb: Some(4096),
        link: None,
        void: None,
    }
}

fn rounds(per_second: f64) -> Vec<Outcome> {
    vec![Ok(sample(per_second)), Ok(sample(per_second))]
}

fn cell() -> CellResult {
    let path = |&(key, _, rate): &(&str, &str, f64)| PathResult {
        path: key.to_owned(),
        rounds: rounds(rate),
        distribution: vec![
            (0.0, 50.0),
            (0.5, 1e6 / rate),
            (0.9, 2e6 / rate),
            (0.99, 9e6 / rate),
        ],
    };
    CellResult {
        cell: Cell::new(Carry::New, Key::Small, 16),
        paths: PATHS.iter().map(path).collect(),
    }
}

/// The FastCGI mode, which is twice as fast as the direct path; with epoll it is slower.
fn fastcgi() -> Fastcgi {
    let rates = [
        (DIRECT_TCP, 20_000.0),
        ("haproxy", 10_000.0),
        ("fastcgi", 40_000.0),
        ("fastcgi-epoll", 18_000.0),
    ];
    let path = |(key, rate): (&str, f64)| PathResult {
        path: key.to_owned(),
        rounds: rounds(rate),
        distribution: Vec::new(),
    };
    Fastcgi {
        paths: rates.map(|(key, _)| info(key, key, None)).into(),
        cells: vec![CellResult {
            cell: Cell::new(Carry::New, Key::Small, 16),
            paths: rates.map(path).into(),
        }],
    }
}

/// The FastCGI mode is twice as fast as the direct path with new connections, and a fifth slower than
/// that with kept ones, where the link has lost a packet.
fn remote() -> Remote {
    let behind = |per_second, dropped| {
        let link = LinkUse {
            packets: 10,
            late_us: 20.0,
            dropped,
            cpu_us: 1.0,
        };
        vec![Ok(Sample {
            link: Some(link),
            ..sample(per_second)
        })]
    };
    let way = |path: &str, carry, per_second, dropped| RemoteWay {
        path: path.to_owned(),
        carry,
        rounds: behind(per_second, dropped),
    };
    Remote {
        paths: vec![
            info(DIRECT_TCP, "direct, TCP", None),
            info("fastcgi", "FastCGI", None),
        ],
        endpoint_max: 64,
        cells: vec![RemoteCell {
            round_trip_ms: 10,
            key: Key::Page,
            concurrency: 16,
            ways: vec![
                way(DIRECT_TCP, Carry::New, 400.0, 0),
                way(DIRECT_TCP, Carry::Kept, 1_000.0, 0),
                way("fastcgi", Carry::New, 800.0, 0),
                way("fastcgi", Carry::Kept, 800.0, 1),
            ],
        }],
    }
}

/// The FastCGI mode is faster than direct TCP with a small page and slower with a larger one, and wrk
/// has held HAProxy back.
fn php() -> Php {
    let path = |key: &str, name: &str, per_second: f64, wrk_cpu_us| PhpPath {
        key: key.to_owned(),
        name: name.to_owned(),
        rounds: vec![Ok(PhpSample {
            requests: 100,
            seconds: 1.0,
            per_second,
            p99_us: 1e6 / per_second,
            wrk_cpu_us,
            ..PhpSample::default()
        })],
        ..PhpPath::default()
    };
    let cell = |pm, kb, mode_per_second| PhpCell {
        pm,
        kb,
        paths: vec![
            path("php-tcp", "direct, TCP", 10_000.0, 0.0),
            path("php-haproxy", "HAProxy", 11_000.0, 1e6),
            path("php-spliceway", "spliceway raw, io_uring", 9_000.0, 0.0),
            path(
                "php-fastcgi",
                "spliceway FastCGI, io_uring",
                mode_per_second,
                0.0,
            ),
        ],
    };
    let mut small = cell(Pm::Static, 2, 13_000.0);
    let second = |answered, lost| SecondClient {
        answered,
        lost,
        seconds: 2.0,
        longest_ms: 5.0,
    };
    for path in &mut small.paths {
        path.second_client = Some(second(3, 1));
    }
    small.paths[3].second_beside = Some(second(4, 0));
    Php {
        versions: vec!["PHP 8.2".to_owned()],
        connections: 16,
        workers: 8,
        rounds: 1,
        seconds: 1,
        cells: vec![small, cell(Pm::Ondemand, 10, 9_000.0)],
    }
}

fn info(key: &str, name: &str, missing: Option<&str>) -> PathInfo {
    PathInfo {
        key: key.to_owned(),
        name: name.to_owned(),
        version: "1.0".to_owned(),
        threads_default: "one thread".to_owned(),
        missing: missing.map(str::to_owned),
    }
}

fn paths() -> Vec<PathInfo> {
    let mut paths: Vec<PathInfo> = PATHS
        .iter()
        .map(|(key, name, _)| info(key, name, None))
        .collect();
    paths.push(info(
        "socat",
        "socat (fork)",
        Some("/usr/bin/socat is not there"),
    ));
    paths
}

fn sweep() -> Sweep {
    let point = |share: f64, rate: f64| SweepPoint {
        share,
        rate: share * 20_000.0,
        rounds: rounds(rate),
    };
    let path = |&(key, _, rate): &(&str, &str, f64)| SweepPath {
        path: key.to_owned(),
        points: [0.2, 0.5, 0.8]
            .map(|share| point(share, rate.min(share * 20_000.0)))
            .into(),
    };
    Sweep {
        capacity: 20_000.0,
        paths: PATHS.iter().map(path).collect(),
    }
}

fn growth() -> Growth {
    let series = |carry| GrowthSeries {
        path: "spliceway".to_owned(),
        carry,
        points: [1, 64, 4096]
            .map(|clients| (clients, rounds(15_000.0)))
            .into(),
    };
    Growth {
        series: Carry::ALL.map(series).into(),
        pages: vec![GrowthPages {
            path: "spliceway".to_owned(),
            carry: Carry::New,
            concurrency: 64,
            points: vec![(Key::Page10, rounds(12_000.0))],
        }],
        variants: vec![Variant {
            path: "spliceway".to_owned(),
            what: "2 workers".to_owned(),
            carry: Carry::New,
            concurrency: 64,
            rounds: vec![Err("it would not start".to_owned())],
        }],
    }
}

/// A quiet route that a neighbour makes three quarters slower, and metrics that cost nothing.
fn routes() -> Routes {
    Routes {
        rate: 2_000.0,
        clients: 200,
        places: 8,
        service_ms: 20.0,
        engines: vec![RoutesOf {
            path: "spliceway".to_owned(),
            alone: rounds(14_000.0),
            beside: rounds(8_000.0),
            apart: rounds(8_000.0),
            page_alone: rounds(12_000.0),
            page_beside: rounds(6_000.0),
            longest_ms: vec![Some(600.0), None],
            unwatched: rounds(15_000.0),
            watched: rounds(15_000.0),
        }],
    }
}

/// Reloads that cost spliceway nothing and HAProxy two requests; epoll's p99 is three times as long.
fn reload() -> Reload {
    let path = |path: &str, name: &str, carry, times: f64, broken| {
        let p99 = |p99| Latency {
            p99,
            ..Latency::default()
        };
        let sample = |broken| ReloadSample {
            requests: 800,
            broken,
            latency_us: p99(400.0),
            ..ReloadSample::default()
        };
        ReloadPath {
            path: path.to_owned(),
            name: name.to_owned(),
            carry,
            rounds: vec![Ok(ReloadRound {
                reloads: 10,
                done: 9,
                without: sample(0),
                with: sample(broken),
                during: p99(times * 400.0),
            })],
        }
    };
    Reload {
        rate: 800.0,
        clients: 8,
        interval_ms: 200.0,
        window_ms: 50.0,
        seconds: 1.0,
        paths: vec![
            path("haproxy", "HAProxy", Carry::Kept, 5.0, 2),
            path("spliceway", "spliceway raw, io_uring", Carry::New, 1.25, 0),
            path(
                "spliceway-epoll",
                "spliceway raw, epoll",
                Carry::New,
                3.0,
                0,
            ),
        ],
    }
}

/// With twice as much as can be done, first come first served answers nobody in time, and the newest first every second one.
fn overload() -> Overload {
    let way = |path: &str, name: &str, sample: OverloadSample| OverloadWay {
        path: path.to_owned(),
        name: name.to_owned(),
        points: vec![OverloadPoint {
            load: 2.0,
            rounds: vec![Ok(sample)],
        }],
    };
    let fifo = OverloadSample {
        requests: 400,
        gave_up: 400,
        seconds: 1.0,
        ..OverloadSample::default()
    };
    let latency = |us: f64| {
        Some(Latency {
            p50: us,
            p99: us,
            ..Latency::default()
        })
    };
    let adaptive = OverloadSample {
        requests: 400,
        answered: 200,
        sent_away: 200,
        seconds: 1.0,
        answered_us: latency(41_000.0),
        sent_away_us: latency(501_000.0),
        ..OverloadSample::default()
    };
    Overload {
        workers: 8,
        backlog: 511,
        service_ms: 40.0,
        patience_seconds: 2.0,
        capacity: 200.0,
        warm_up_seconds: 4.0,
        seconds: 1.0,
        commit: "0123456789ab".to_owned(),
        date: "2026-11-28 20:00".to_owned(),
        ways: vec![
            way("overload-fpm", "PHP-FPM's backlog", fifo.clone()),
            way("overload-fifo", "spliceway, fifo", fifo),
            way("overload-adaptive", "spliceway, adaptive", adaptive),
        ],
    }
}

/// All sections, in small.
pub(super) fn results() -> Results {
    let mut results = measured();
    results.judge();
    results
}

fn measured() -> Results {
    Results {
        machine: Machine {
            command: "spliceway-bench compare --quick".to_owned(),
            kernel: "6.18.0".to_owned(),
            cores: 2,
            client_threads: 1,
            responder_threads: 1,
            ..Machine::default()
        },
        network: Network {
            isolation: "a network namespace of its own".to_owned(),
            sysctls: vec![(
                "net.ipv4.tcp_congestion_control".to_owned(),
                "cubic".to_owned(),
            )],
            refused: Vec::new(),
        },
        effort: Effort {
            quick: true,
            rounds: 2,
            seconds: 0.5,
        },
        paths: paths(),
        remote: Some(remote()),
        cells: vec![cell()],
        fastcgi: Some(fastcgi()),
        defaults: Vec::new(),
        idle: vec![Idle {
            path: "spliceway".to_owned(),
            asked: 4_000,
            held: 3_000,
            refusal: Some("timed out".to_owned()),
            memory_before_kb: 2_000,
            memory_kb: 5_000,
            cpu_us: 0.0,
            seconds: 1.0,
        }],
        sweep: Some(sweep()),
        page_sweeps: vec![PageSweep {
            key: Key::Page50,
            sweep: sweep(),
        }],
        growth: Some(growth()),
        routes: Some(routes()),
        reload: Some(reload()),
        overload: Some(overload()),
        php: Some(php()),
        not_measured: Vec::new(),
    }
}
