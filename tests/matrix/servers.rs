//! The FastCGI servers behind: what they are called, how they are started, what they can do.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::common::eventually;
use crate::common::process::Process;
use crate::common::programs::{program, start_fpm_pool, start_server};

/// The processes of a server that has one for each request.
pub(crate) const PROCESSES: usize = 4;

/// Requests at one time towards a server of threads.
const THREADS: usize = 16;

/// Keeps so many processes of a program running on the socket that is open as number 0, as a supervisor
/// does. A program that cannot be run is not tried again.
const SUPERVISE: &str = r#"
trap 'kill -KILL 0' TERM
exec 3<&0
count=$1
shift
while [ "$count" -gt 0 ]; do
  count=$((count - 1))
  (
    while :; do
      "$@" <&3 3<&-
      case $? in 126 | 127) exit ;; esac
    done
  ) &
done
wait
"#;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    FpmStatic,
    FpmDynamic,
    FpmOndemand,
    PhpCgi,
    Fcgiwrap,
    Perl,
    Libfcgi,
    FlupThreads,
    FlupFork,
    Flipflop,
    Go,
    Ruby,
    Uwsgi,
}

impl Server {
    pub(crate) const ALL: [Self; 13] = [
        Self::FpmStatic,
        Self::FpmDynamic,
        Self::FpmOndemand,
        Self::PhpCgi,
        Self::Fcgiwrap,
        Self::Perl,
        Self::Libfcgi,
        Self::FlupThreads,
        Self::FlupFork,
        Self::Flipflop,
        Self::Go,
        Self::Ruby,
        Self::Uwsgi,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::FpmStatic => "PHP-FPM, `pm = static`",
            Self::FpmDynamic => "PHP-FPM, `pm = dynamic`",
            Self::FpmOndemand => "PHP-FPM, `pm = ondemand`",
            Self::PhpCgi => "php-cgi",
            Self::Fcgiwrap => "fcgiwrap",
            Self::Perl => "Perl, FCGI",
            Self::Libfcgi => "C, libfcgi",
            Self::FlupThreads => "Python, flup with threads",
            Self::FlupFork => "Python, flup with processes",
            Self::Flipflop => "Python, flipflop",
            Self::Go => "Go, net/http/fcgi",
            Self::Ruby => "Ruby, fcgi",
            Self::Uwsgi => "uwsgi",
        }
    }

    pub(crate) const fn is_fpm(self) -> bool {
        matches!(self, Self::FpmStatic | Self::FpmDynamic | Self::FpmOndemand)
    }

    /// Whether a program has a way to FCGI_STDERR there. uwsgi and Go write to a log of their own.
    pub(crate) const fn has_stderr(self) -> bool {
        !matches!(self, Self::Go | Self::Uwsgi)
    }

    /// How many connections it serves at one time.
    pub(crate) const fn connections(self) -> usize {
        match self {
            Self::FlupThreads | Self::Go => THREADS,
            _ => PROCESSES,
        }
    }

    /// Puts the program where a web server that has `root` for its document root finds it.
    pub(crate) fn install(self, root: &Path) -> PathBuf {
        let script = root.join("x.php");
        match self {
            Self::Fcgiwrap => symlink(built_c(), &script).expect("the directory is fresh"),
            _ => {
                let text = fs::read_to_string(source("app.php")).expect("it is in the repository");
                fs::write(&script, text).expect("the directory is ours");
            }
        }
        script
    }

    /// Starts it with a directory of its own.
    pub(crate) fn start(self, dir: &Path, endpoint: &(String, u16)) -> Process {
        let python = |server: &str| {
            let mut words = vec!["/usr/bin/env".to_owned()];
            words.push(format!("PYTHONPATH={}", programs().display()));
            words.push("PYTHONDONTWRITEBYTECODE=1".to_owned());
            words.push(venv_python().display().to_string());
            words.push(source("serve.py").display().to_string());
            words.push(server.to_owned());
            words
        };
        let interpreted = |interpreter: &str, file: &str| {
            let interpreter = program(&[interpreter]).display().to_string();
            vec![interpreter, source(file).display().to_string()]
        };
        match self {
            Self::FpmStatic => fpm(dir, endpoint, "pm = static"),
            Self::FpmDynamic => fpm(
                dir,
                endpoint,
                "pm = dynamic\n\
                pm.start_servers = 1\n\
                pm.min_spare_servers = 1\n\
                pm.max_spare_servers = 2",
            ),
            Self::FpmOndemand => fpm(dir, endpoint, "pm = ondemand\npm.process_idle_timeout = 2s"),
            Self::PhpCgi => {
                let php = program(&["/usr/bin/php-cgi8.2", "/usr/bin/php-cgi"]);
                let mut words = vec!["/usr/bin/env".to_owned()];
                words.push(format!("PHP_FCGI_CHILDREN={PROCESSES}"));
                words.push("PHP_FCGI_MAX_REQUESTS=100000".to_owned());
                words.extend([php.display().to_string(), "-n".to_owned()]);
                words.extend(["-d".to_owned(), "post_max_size=64M".to_owned()]);
                spawn(endpoint, &words)
            }
            Self::Fcgiwrap => {
                let wrap = program(&["/usr/sbin/fcgiwrap"]).display().to_string();
                let words = [wrap, "-f".to_owned(), "-c".to_owned()];
                spawn(endpoint, &[&words[..], &[PROCESSES.to_string()]].concat())
            }
            Self::Perl => supervise(endpoint, PROCESSES, &interpreted("/usr/bin/perl", "app.pl")),
            Self::Libfcgi => supervise(endpoint, PROCESSES, &[built_c().display().to_string()]),
            Self::FlupThreads => supervise(endpoint, 1, &python("flup-threads")),
            Self::FlupFork => supervise(endpoint, 1, &python("flup-fork")),
            Self::Flipflop => supervise(endpoint, PROCESSES, &python("flipflop")),
            Self::Go => supervise(endpoint, 1, &[built_go().display().to_string()]),
            Self::Ruby => supervise(endpoint, PROCESSES, &interpreted("/usr/bin/ruby", "app.rb")),
            Self::Uwsgi => uwsgi(endpoint),
        }
    }
}

/// With it a reload lets running requests finish.
const FPM_GLOBAL: &str = "process_control_timeout = 10s";

fn fpm(dir: &Path, endpoint: &(String, u16), pm: &str) -> Process {
    let settings = [
        "post_max_size=64M",
        "memory_limit=256M",
        "output_buffering=0",
    ];
    let settings = settings.map(str::to_owned);
    let lines = format!("{pm}\n[global]\n{FPM_GLOBAL}\n[pool]\n");
    start_fpm_pool(dir, endpoint, PROCESSES, &lines, &settings)
}

fn uwsgi((host, port): &(String, u16)) -> Process {
    let mut command = Command::new(program(&["/usr/bin/uwsgi", "/usr/bin/uwsgi-core"]));
    command
        .args([
            "--plugin",
            "python3",
            "--master",
            "--need-app",
            "--die-on-term",
        ])
        .args(["--processes", &PROCESSES.to_string()])
        .args(["--fastcgi-socket", &format!("{host}:{port}")])
        .arg("--wsgi-file")
        .arg(source("app.py"))
        // Signals of a process that a request has killed need no words of its own.
        .args(["--disable-logging", "--buffer-size", "32768"])
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let uwsgi = start_server(command);
    uwsgi.wait_for_log("spawned uWSGI worker 4");
    uwsgi
}

/// spawn-fcgi opens the socket and becomes a supervisor of so many processes.
fn supervise(endpoint: &(String, u16), processes: usize, words: &[String]) -> Process {
    let shell = ["/bin/sh", "-c", SUPERVISE, "supervise"].map(str::to_owned);
    let whole = [&shell[..], &[processes.to_string()], words].concat();
    spawn(endpoint, &whole)
}

/// spawn-fcgi opens the socket and becomes the program.
fn spawn((host, port): &(String, u16), words: &[String]) -> Process {
    let mut command = Command::new(program(&["/usr/bin/spawn-fcgi"]));
    command
        .args(["-n", "-a", host, "-p", &port.to_string(), "--"])
        .args(words);
    let mut process = start_server(command);
    eventually("spawn-fcgi listens", || {
        assert!(process.is_running(), "{words:?} has ended");
        TcpStream::connect((&**host, *port)).is_ok()
    });
    process
}

// --- what they run ------------------------------------------------------------------------------

fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/matrix/programs")
}

fn source(file: &str) -> PathBuf {
    programs().join(file)
}

/// The interpreter with the packages of scripts/lib/servers.txt.
fn venv_python() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/servers/bin/python");
    assert!(
        path.exists(),
        "{} is missing: run scripts/test",
        path.display()
    );
    path
}

fn built_c() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut command = Command::new(program(&["/usr/bin/cc"]));
        command.args(["-Wall", "-Wextra", "-Werror", "-O1"]);
        let mut build = Build::new(command, "matrix-libfcgi");
        build.compiler.arg(source("app.c")).arg("-lfcgi");
        build.run()
    })
}

/// The standard library is all it needs, and nothing may be fetched.
fn built_go() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut command = Command::new(program(&["/usr/bin/go"]));
        command
            .arg("build")
            .env("GO111MODULE", "off")
            .env("GOPROXY", "off")
            .env("GOFLAGS", "-mod=mod")
            .env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go"));
        let mut build = Build::new(command, "matrix-go");
        build.compiler.arg(source("app.go"));
        build.run()
    })
}

/// A compiler and the file that it is to make.
struct Build {
    compiler: Command,
    path: PathBuf,
}

impl Build {
    /// The number keeps apart what two runs of the tests build at one time.
    fn new(mut compiler: Command, name: &str) -> Self {
        let name = format!("{name}-{}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        compiler.arg("-o").arg(&path);
        Self { compiler, path }
    }

    fn run(mut self) -> PathBuf {
        let output = self.compiler.output().expect("the compiler can be started");
        assert!(
            output.status.success(),
            "{:?}: {}",
            self.compiler,
            String::from_utf8_lossy(&output.stderr)
        );
        self.path
    }
}
