//! End to end: wrk → nginx → a way → PHP-FPM.
//!
//! Whoever keeps connections has a pool of PHP-FPM of its own, because idle ones hold workers: nginx
//! holds all of its pool's for good, which is what the second client shows, and spliceway's FastCGI mode
//! for a second after its last request.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use spliceway::bench::load::Target;
use spliceway::sys::child::spawn_bound;
use spliceway::sys::namespace::effective_ids;

use super::client;
use super::fleet::{Fleet, Shape};
use super::ground::PHP_PORT;
use super::matrix::Carry;
use super::peers::{
    Engine, Fastcgi, Guard, Haproxy, Peer, Spliceway, Threads, find_one, nginx_program, output_of,
    word_after,
};
use super::progress::Progress;
use super::results::{Php, PhpPath, PhpSample, SecondClient};
use super::rounds::one_line;
use super::server::Server;

/// Of each pool of PHP-FPM.
const WORKERS: usize = 8;

/// wrk's connections to nginx.
const CONNECTIONS: usize = 16;

/// On the way that keeps connections to PHP-FPM, nginx keeps as many as there are workers.
const KEPT: usize = WORKERS;

/// Those to spliceway's FastCGI mode hold no workers: as many as wrk has.
const KEPT_BY_FASTCGI: usize = CONNECTIONS;

/// The pools of PHP-FPM have a port each, from [`PHP_PORT`] on: one for whoever does not keep
/// connections, and one for each way that does.
const POOLS: u16 = 6;

/// nginx has one port for each way, from here on.
const NGINX_PORT: u16 = PHP_PORT + 10;

/// Whose processes serve web pages on Debian.
const WEB_USER: &str = "www-data";

/// 2 KB, made by the interpreter.
const SCRIPT: &str = "<?php echo str_repeat('0123456789abcdef', 128);\n";

/// How long the second client waits for an answer, and between two requests.
const SECOND_WAIT: Duration = Duration::from_secs(1);
const SECOND_PAUSE: Duration = Duration::from_millis(50);

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// What nginx speaks to.
#[derive(Clone, Copy)]
enum Way {
    /// PHP-FPM's Unix socket.
    Unix,
    /// PHP-FPM's port.
    Tcp,
    /// The same, with connections that nginx keeps.
    Kept,
    Haproxy,
    Spliceway(Engine),
    /// spliceway's FastCGI mode, with at most as many connections as there are workers. nginx makes a
    /// new connection to it for each request, or keeps some.
    Fastcgi(Engine, Carry),
}

const WAYS: [Way; 10] = [
    Way::Unix,
    Way::Tcp,
    Way::Kept,
    Way::Haproxy,
    Way::Spliceway(Engine::IoUring),
    Way::Spliceway(Engine::Epoll),
    Way::Fastcgi(Engine::IoUring, Carry::New),
    Way::Fastcgi(Engine::IoUring, Carry::Kept),
    Way::Fastcgi(Engine::Epoll, Carry::New),
    Way::Fastcgi(Engine::Epoll, Carry::Kept),
];

impl Way {
    /// The program in between, if there is one.
    fn peer(self) -> Option<Box<dyn Peer>> {
        match self {
            Self::Unix | Self::Tcp | Self::Kept => None,
            Self::Haproxy => Some(Box::new(Haproxy::plain())),
            Self::Spliceway(engine) => Some(Box::new(Spliceway::raw(engine))),
            Self::Fastcgi(engine, _) => {
                let route = Fastcgi {
                    guard: Guard::On,
                    endpoint_max: Some(WORKERS),
                };
                Some(Box::new(Spliceway::fastcgi(engine, route)))
            }
        }
    }

    fn key(self) -> String {
        match self {
            Self::Unix => "php-unix".to_owned(),
            Self::Tcp => "php-tcp".to_owned(),
            Self::Kept => "php-tcp-kept".to_owned(),
            Self::Haproxy | Self::Spliceway(_) | Self::Fastcgi(..) => {
                let key = self.peer().map(|peer| peer.key());
                let kept = match self {
                    Self::Fastcgi(_, Carry::Kept) => "-kept",
                    _ => "",
                };
                format!("php-{}{kept}", key.unwrap_or_default())
            }
        }
    }

    fn name(self) -> String {
        match self {
            Self::Unix => "direct, Unix".to_owned(),
            Self::Tcp => "direct, TCP".to_owned(),
            Self::Kept => format!("direct, TCP, `fastcgi_keep_conn on; keepalive {KEPT}`"),
            Self::Haproxy | Self::Spliceway(_) | Self::Fastcgi(..) => {
                let name = self.peer().map(|peer| peer.name()).unwrap_or_default();
                match self {
                    Self::Fastcgi(_, Carry::Kept) => {
                        format!("{name}, nginx keeps {KEPT_BY_FASTCGI}")
                    }
                    _ => name,
                }
            }
        }
    }

    /// How many connections nginx keeps.
    fn keeps(self) -> Option<usize> {
        match self {
            Self::Kept => Some(KEPT),
            Self::Fastcgi(_, Carry::Kept) => Some(KEPT_BY_FASTCGI),
            Self::Unix
            | Self::Tcp
            | Self::Haproxy
            | Self::Spliceway(_)
            | Self::Fastcgi(_, Carry::New) => None,
        }
    }

    /// PHP-FPM's port for it, where it has one.
    fn pool(self) -> SocketAddr {
        let number = match self {
            Self::Unix | Self::Tcp | Self::Haproxy | Self::Spliceway(_) => 0,
            Self::Kept => 1,
            Self::Fastcgi(Engine::IoUring, Carry::New) => 2,
            Self::Fastcgi(Engine::IoUring, Carry::Kept) => 3,
            Self::Fastcgi(Engine::Epoll, Carry::New) => 4,
            Self::Fastcgi(Engine::Epoll, Carry::Kept) => 5,
        };
        loopback(PHP_PORT + number)
    }

    /// Where the second client meets it: at PHP-FPM itself.
    fn fpm(self, dir: &Path) -> Target {
        match self {
            Self::Unix => Target::Unix(fpm_socket(dir)),
            _ => Target::Tcp(self.pool()),
        }
    }

    /// Whether its program shares connections among all who ask it.
    fn shares(self) -> bool {
        matches!(self, Self::Fastcgi(..))
    }
}

/// How many measurements a round is.
pub(super) const fn count() -> usize {
    WAYS.len()
}

/// Runs all ways in rounds of whole seconds: wrk takes no others.
pub(super) fn run(
    fleet: &mut Fleet,
    rounds: usize,
    seconds: u64,
    progress: &Progress,
) -> anyhow::Result<Php> {
    let programs = Programs::find()?;
    for way in WAYS {
        if let Some(peer) = way.peer() {
            let shape = Shape {
                backends: vec![way.pool()],
                ..Shape::plain(Threads::Exactly(1))
            };
            fleet.add(&way.key(), peer, shape);
        }
    }
    let paths = measure(fleet, &programs, rounds, seconds, progress);
    for way in WAYS {
        fleet.remove(&way.key());
    }
    Ok(Php {
        versions: programs.versions(),
        connections: CONNECTIONS,
        workers: WORKERS,
        paths: paths?,
    })
}

struct Programs {
    wrk: PathBuf,
    nginx: PathBuf,
    fpm: PathBuf,
}

impl Programs {
    fn find() -> anyhow::Result<Self> {
        const FPM: [&str; 3] = [
            "/usr/sbin/php-fpm8.2",
            "/usr/sbin/php-fpm8.4",
            "/usr/sbin/php-fpm",
        ];
        Ok(Self {
            wrk: find_one(&["/usr/bin/wrk"], "wrk").map_err(|missing| anyhow!(missing))?,
            nginx: nginx_program().map_err(|missing| anyhow!(missing))?,
            fpm: find_one(&FPM, "php8.2-fpm").map_err(|missing| anyhow!(missing))?,
        })
    }

    fn versions(&self) -> Vec<String> {
        let version = |program, name: &str, before| {
            format!("{name} {}", word_after(&output_of(program, "-v"), before))
        };
        vec![
            version(&self.fpm, "PHP", "PHP "),
            version(&self.nginx, "nginx", "nginx/"),
            version(&self.wrk, "wrk", "wrk "),
        ]
    }
}

fn measure(
    fleet: &mut Fleet,
    programs: &Programs,
    rounds: usize,
    seconds: u64,
    progress: &Progress,
) -> anyhow::Result<Vec<PhpPath>> {
    let fpm = start_fpm(&programs.fpm).context("PHP-FPM")?;
    // A program that is missing or does not start is refused by nginx's clients, not by nginx.
    let targets = WAYS.map(|way| (way, passed_to(fleet, fpm.dir(), way)));
    let _nginx = start_nginx(&programs.nginx, fpm.dir(), &targets).context("nginx")?;
    let mut paths = WAYS.map(|way| PhpPath {
        key: way.key(),
        name: way.name(),
        rounds: Vec::new(),
        second_client: SecondClient::default(),
        second_beside: way.shares().then(SecondClient::default),
    });
    for _ in 0..rounds {
        for (index, (path, (way, target))) in paths.iter_mut().zip(&targets).enumerate() {
            progress.now(&format!("nginx and PHP-FPM · {}", path.name));
            let sample = match target {
                Ok(_) => round(fleet, programs, fpm.dir(), *way, index, seconds, path),
                Err(error) => Err(anyhow!("{error:#}")),
            };
            path.rounds.push(sample.map_err(|error| one_line(&error)));
            progress.step(Duration::from_secs(seconds));
        }
    }
    Ok(paths.into())
}

/// One way in one round.
fn round(
    fleet: &mut Fleet,
    programs: &Programs,
    dir: &Path,
    way: Way,
    index: usize,
    seconds: u64,
    path: &mut PhpPath,
) -> anyhow::Result<PhpSample> {
    let mut asked = vec![way.fpm(dir)];
    if way.shares() {
        asked.push(fleet.target(&way.key())?);
    }
    let (sample, counts) = with_second_clients(&asked, dir, || {
        sample(fleet, programs, way, port(index), seconds)
    });
    let mut counts = counts.into_iter();
    let total = [&mut path.second_client].into_iter();
    for (total, round) in total.chain(&mut path.second_beside).zip(&mut counts) {
        *total = total.and(round);
    }
    sample
}

/// The address to which nginx connects.
fn passed_to(fleet: &mut Fleet, dir: &Path, way: Way) -> anyhow::Result<String> {
    match way {
        Way::Unix => Ok(format!("unix:{}", fpm_socket(dir).display())),
        Way::Tcp | Way::Kept => Ok(way.pool().to_string()),
        Way::Haproxy | Way::Spliceway(_) | Way::Fastcgi(..) => match fleet.target(&way.key())? {
            Target::Unix(path) => Ok(format!("unix:{}", path.display())),
            Target::Tcp(address) => Ok(address.to_string()),
            Target::Abstract(_) => bail!("nginx does not connect to abstract sockets"),
        },
    }
}

fn port(index: usize) -> u16 {
    NGINX_PORT + u16::try_from(index).expect("there are ten")
}

/// One run of wrk.
fn sample(
    fleet: &Fleet,
    programs: &Programs,
    way: Way,
    port: u16,
    seconds: u64,
) -> anyhow::Result<PhpSample> {
    let before = fleet.cpu(&way.key())?;
    let mut command = Command::new(&programs.wrk);
    command
        .args([
            "-t1",
            "--latency",
            &format!("-c{CONNECTIONS}"),
            &format!("-d{seconds}s"),
        ])
        .arg(format!("http://{}/", loopback(port)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = spawn_bound(&mut command)?
        .wait_with_output()
        .context("run wrk")?;
    let after = fleet.cpu(&way.key())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut sample = read_wrk(&text).with_context(|| format!("read what wrk says: {text}"))?;
    let cpu = after
        .zip(before)
        .map(|(after, before)| after.saturating_sub(before));
    sample.cpu_us = cpu.map(|cpu| cpu.as_secs_f64() * 1e6);
    ensure!(
        sample.requests > sample.errors,
        "{} errors, nothing else",
        sample.errors
    );
    Ok(sample)
}

/// Meanwhile, somebody else asks each of `asked` for something now and then.
fn with_second_clients<T>(
    asked: &[Target],
    dir: &Path,
    work: impl FnOnce() -> T,
) -> (T, Vec<SecondClient>) {
    let over = AtomicBool::new(false);
    let script = script(dir).display().to_string();
    let request = client::request(
        false,
        &[("SCRIPT_FILENAME", &script), ("REQUEST_METHOD", "GET")],
    );
    thread::scope(|scope| {
        let (over, request) = (&over, &request);
        let ask = |target| scope.spawn(move || ask_until(over, target, request));
        let clients: Vec<_> = asked.iter().map(ask).collect();
        let result = work();
        over.store(true, Ordering::Relaxed);
        let counts = clients.into_iter().map(|client| client.join());
        let counts = counts.map(|counts| counts.expect("it does not panic"));
        (result, counts.collect())
    })
}

fn ask_until(over: &AtomicBool, target: &Target, request: &[u8]) -> SecondClient {
    let started = Instant::now();
    let mut counts = SecondClient::default();
    while !over.load(Ordering::Relaxed) {
        let asked = Instant::now();
        if is_answered(target, request) {
            let ms = asked.elapsed().as_secs_f64() * 1e3;
            counts.answered += 1;
            counts.longest_ms = counts.longest_ms.max(ms);
        } else {
            counts.lost += 1;
        }
        thread::sleep(SECOND_PAUSE);
    }
    counts.seconds = started.elapsed().as_secs_f64();
    counts
}

fn is_answered(target: &Target, request: &[u8]) -> bool {
    let ask = || match target {
        Target::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, SECOND_WAIT)?;
            stream.set_read_timeout(Some(SECOND_WAIT))?;
            client::exchange(&stream, request)
        }
        Target::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(SECOND_WAIT))?;
            client::exchange(&stream, request)
        }
        Target::Abstract(_) => Err(io::ErrorKind::Unsupported.into()),
    };
    ask().is_ok_and(|length| length > 0)
}

fn fpm_socket(dir: &Path) -> PathBuf {
    dir.join("fpm.sock")
}

fn script(dir: &Path) -> PathBuf {
    dir.join("page.php")
}

fn is_root() -> bool {
    effective_ids().0 == 0
}

/// PHP-FPM with a pool for the Unix socket, and those with ports. Those that have nothing to do sleep.
fn start_fpm(program: &Path) -> anyhow::Result<Server> {
    let user = if is_root() {
        format!("user = {WEB_USER}\ngroup = {WEB_USER}\n")
    } else {
        String::new()
    };
    let pool = |name: &str, listen: &str| {
        format!(
            "[{name}]\nlisten = {listen}\nlisten.mode = 0666\n{user}pm = static\n\
             pm.max_children = {WORKERS}\n"
        )
    };
    Server::start(
        |dir| {
            fs::write(script(dir), SCRIPT)?;
            let mut config = "[global]\ndaemonize = no\nerror_log = /proc/self/fd/2\n".to_owned();
            config += &pool("unix", &fpm_socket(dir).display().to_string());
            for port in pool_ports() {
                config += &pool(&format!("tcp-{port}"), &loopback(port).to_string());
            }
            let file = dir.join("php-fpm.conf");
            fs::write(&file, config)?;
            let mut command = Command::new(program);
            // -n: no php.ini of this machine; -O: the log goes to our file.
            command.args(["-n", "-F", "-O", "-y"]).arg(file);
            Ok(command)
        },
        |dir| {
            UnixStream::connect(fpm_socket(dir)).is_ok()
                && pool_ports().all(|port| TcpStream::connect(loopback(port)).is_ok())
        },
    )
}

fn pool_ports() -> std::ops::Range<u16> {
    PHP_PORT..PHP_PORT + POOLS
}

/// nginx with one server for each way.
fn start_nginx(
    program: &Path,
    fpm_dir: &Path,
    targets: &[(Way, anyhow::Result<String>)],
) -> anyhow::Result<Server> {
    let mut servers = String::new();
    for (index, (way, target)) in targets.iter().enumerate() {
        if let Ok(target) = target {
            servers += &nginx_server(port(index), target, way.keeps(), fpm_dir);
        }
    }
    Server::start(
        |dir| {
            let file = dir.join("nginx.conf");
            fs::write(&file, nginx_config(dir, &servers))?;
            let mut command = Command::new(program);
            command
                .args(["-e", "stderr", "-p"])
                .arg(dir)
                .arg("-c")
                .arg(file);
            Ok(command)
        },
        |_| TcpStream::connect(loopback(NGINX_PORT)).is_ok(),
    )
}

/// Kept connections need an `upstream` block.
fn nginx_server(port: u16, target: &str, keeps: Option<usize>, fpm_dir: &Path) -> String {
    let (keep, keepalive) = match keeps {
        Some(count) => ("fastcgi_keep_conn on;", format!("keepalive {count};")),
        None => ("", String::new()),
    };
    format!(
        "upstream way-{port} {{ server {target}; {keepalive} }}
        server {{
            listen 127.0.0.1:{port};
            location / {{
                fastcgi_pass way-{port};
                {keep}
                fastcgi_param SCRIPT_FILENAME {script};
                fastcgi_param REQUEST_METHOD $request_method;
                fastcgi_param QUERY_STRING $query_string;
                fastcgi_param REQUEST_URI $request_uri;
                fastcgi_param SERVER_PROTOCOL $server_protocol;
                fastcgi_param REMOTE_ADDR $remote_addr;
            }}
        }}
        ",
        script = script(fpm_dir).display(),
    )
}

fn nginx_config(dir: &Path, servers: &str) -> String {
    let user = if is_root() { "user root root;" } else { "" };
    format!(
        "daemon off;
        {user}
        worker_processes auto;
        pid {dir}/nginx.pid;
        error_log stderr crit;
        events {{ worker_connections 1024; }}
        http {{
            access_log off;
            # So that wrk never has to connect again.
            keepalive_requests 100000000;
            client_body_temp_path {dir}/body;
            fastcgi_temp_path {dir}/fastcgi;
            proxy_temp_path {dir}/proxy;
            uwsgi_temp_path {dir}/uwsgi;
            scgi_temp_path {dir}/scgi;
            {servers}
        }}
        ",
        dir = dir.display(),
    )
}

/// The figures in what wrk writes.
fn read_wrk(text: &str) -> anyhow::Result<PhpSample> {
    let percentile = |percent: &str| {
        let mut lines = text.lines().map(str::trim);
        let value = lines.find_map(|line| line.strip_prefix(percent));
        value
            .and_then(microseconds)
            .ok_or_else(|| anyhow!("there is no {percent}"))
    };
    let word = |line_start: &str, index: usize| {
        let mut lines = text.lines().map(str::trim);
        let line = lines.find(|line| line.starts_with(line_start))?;
        line.split_ascii_whitespace().nth(index)
    };
    let requests = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in "));
    let (requests, _) = requests.ok_or_else(|| anyhow!("there is no number of requests"))?;
    let per_second = word("Requests/sec:", 1).ok_or_else(|| anyhow!("there is no rate"))?;
    Ok(PhpSample {
        requests: requests.parse().context("the number of requests")?,
        per_second: per_second.parse().context("the rate")?,
        p50_us: percentile("50%")?,
        p90_us: percentile("90%")?,
        p99_us: percentile("99%")?,
        max_us: word("Latency", 3)
            .and_then(microseconds)
            .unwrap_or_default(),
        errors: errors(text),
        cpu_us: None,
    })
}

/// `Non-2xx or 3xx responses: 3` and `Socket errors: connect 0, read 1, write 0, timeout 2`.
fn errors(text: &str) -> u64 {
    let counted = ["Non-2xx or 3xx responses:", "Socket errors:"];
    let lines = text.lines().filter_map(|line| {
        counted
            .iter()
            .find_map(|start| line.trim().strip_prefix(start))
    });
    let words = lines.flat_map(|line| line.split(|c: char| !c.is_ascii_digit()));
    words.filter_map(|word| word.parse::<u64>().ok()).sum()
}

/// `700.00us`, `1.08ms`, `1.20s`.
fn microseconds(text: &str) -> Option<f64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 60e6,
        _ => return None,
    };
    Some(digits.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str = "\
Running 2s test @ http://127.0.0.1:9110/
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.08ms    2.35ms 697.20ms   97.92%
    Req/Sec    15.42k     1.03k   17.07k    75.00%
  Latency Distribution
     50%  700.00us
     75%    1.00ms
     90%    1.20ms
     99%    1.2s
  30692 requests in 2.00s, 67.14MB read
  Socket errors: connect 0, read 1, write 0, timeout 2
  Non-2xx or 3xx responses: 4
Requests/sec:  15338.27
Transfer/sec:     33.55MB
";

    #[test]
    fn figures_are_read_from_what_wrk_writes() {
        let expected = PhpSample {
            requests: 30_692,
            per_second: 15_338.27,
            p50_us: 700.0,
            p90_us: 1_200.0,
            p99_us: 1_200_000.0,
            max_us: 697_200.0,
            errors: 7,
            cpu_us: None,
        };
        assert_eq!(read_wrk(WRK).unwrap(), expected);
    }

    #[test]
    fn an_answer_without_figures_is_an_error() {
        assert!(read_wrk("unable to connect").is_err());
    }
}
