//! The Debian package: built from the programs that these tests run, installed by dpkg, used, purged.
//!
//! All of it happens on this machine's own system seen through an overlay, so what the package changes
//! is in a directory of its own and nothing is left of it.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use common::beside::{profile, program_beside};
use common::client::exchange_and_end;
use common::programs::start_server;
use common::proxy::{connect, fresh_dir};
use common::sys::{ChildSetup, demand_root, lacks_root};
use common::{Backend, KB, Pattern, Process, SPLICEWAY, eventually};
use serde_json::Value;
use tempfile::TempDir;

const PROGRAMS: [&str; 2] = ["spliceway", "spliceway-bench"];

/// What the second one is made of.
const SOURCES: &[&str] = &[
    "src",
    "crates/spliceway-common/src",
    "crates/spliceway-load/src",
    "crates/spliceway-bench/src",
];

/// The bytes of the package.
fn package() -> &'static [u8] {
    &made()[0]
}

/// Those of the package, of the one that has its programs' symbols, and of the bill of materials, made once for all
/// tests of this file. Nothing drops a static, so the directory that they were made in is not kept with them.
fn made() -> &'static [Vec<u8>; 3] {
    static BUILT: OnceLock<[Vec<u8>; 3]> = OnceLock::new();
    BUILT.get_or_init(|| {
        let dir = fresh_dir();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/package");
        let mut command = Command::new(script);
        program_beside(SPLICEWAY, "spliceway-bench", SOURCES);
        command
            .args(["--no-build", "--profile", profile_in_use(), "--output"])
            .arg(dir.path())
            .env("SOURCE_DATE_EPOCH", "1000000000");
        let output = succeed(&mut command);
        let paths = String::from_utf8(output.stdout).unwrap();
        let built: Vec<_> = paths.lines().map(|path| fs::read(path).unwrap()).collect();
        built.try_into().expect("two packages and a bill")
    })
}

/// The profile that this test and the programs were built with, by the directory that they are in.
fn profile_in_use() -> &'static str {
    let directory = Path::new(SPLICEWAY).parent();
    let name = directory.and_then(Path::file_name).and_then(OsStr::to_str);
    profile(name.unwrap())
}

#[track_caller]
fn succeed(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// This machine's system, whose changes go elsewhere.
struct System {
    holder: Process,
    root: PathBuf,
    changes: PathBuf,
    _dir: TempDir,
}

impl System {
    /// Mounts for as long as the process runs. They are in a namespace that ends with it.
    fn start() -> Self {
        const HOLD: &str = r#"
            set -e
            mount -t tmpfs tmpfs "$0/changes"
            mkdir "$0/changes/upper" "$0/changes/work"
            mount -t overlay overlay "$0/root" \
                -o "lowerdir=/,upperdir=$0/changes/upper,workdir=$0/changes/work"
            mount --bind /proc "$0/root/proc"
            mount --bind /dev "$0/root/dev"
            mount -t tmpfs tmpfs "$0/root/run"
            echo mounted >&2
            exec sleep infinity
        "#;
        demand_root();
        let dir = fresh_dir();
        for name in ["root", "changes"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", HOLD])
            .arg(dir.path())
            .stdin(Stdio::null());
        let setup = ChildSetup {
            death_signal: libc::SIGKILL,
            ..ChildSetup::default()
        };
        let holder = Process::start(command, setup);
        holder.wait_for_log("mounted");
        Self {
            root: dir.path().join("root"),
            changes: dir.path().join("changes/upper"),
            holder,
            _dir: dir,
        }
    }

    fn with_package() -> Self {
        let system = Self::start();
        system.install(package());
        system
    }

    fn install(&self, package: &[u8]) {
        let seen_inside = self.seen(Path::new("/tmp")).join("spliceway.deb");
        fs::write(seen_inside, package).unwrap();
        self.run(&["dpkg", "-i", "/tmp/spliceway.deb"]);
    }

    /// A program of this system.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg("--mount")
            .args(["--target", &self.holder.pid().to_string(), "chroot"])
            .arg(&self.root)
            .args(words)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("LC_ALL", "C.UTF-8");
        command
    }

    #[track_caller]
    fn run(&self, words: &[&str]) -> Output {
        succeed(&mut self.command(words))
    }

    #[track_caller]
    fn text(&self, words: &[&str]) -> String {
        String::from_utf8(self.run(words).stdout).unwrap()
    }

    /// A path of this system, from outside.
    fn seen(&self, path: &Path) -> PathBuf {
        self.outside(&self.root)
            .join(path.strip_prefix("/").unwrap())
    }

    fn outside(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.pid()));
        root.join(path.strip_prefix("/").unwrap())
    }

    /// The files that are other than the machine's: added, changed or, as device 0, removed.
    fn changed_files(&self) -> BTreeSet<String> {
        let top = self.outside(&self.changes);
        let mut files = BTreeSet::new();
        let mut directories = vec![top.clone()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory).unwrap() {
                let path = entry.unwrap().path();
                match path.symlink_metadata().unwrap().is_dir() {
                    true => directories.push(path),
                    false => {
                        let name = path.strip_prefix(&top).unwrap().to_str().unwrap();
                        files.insert(format!("/{name}"));
                    }
                }
            }
        }
        files
    }
}

#[test]
fn the_package_is_installed_serves_and_is_purged_without_a_trace() {
    if lacks_root() {
        return;
    }
    let system = System::with_package();
    let listed = system.text(&["dpkg", "-L", "spliceway"]);
    for path in [
        "/usr/bin/spliceway",
        "/usr/bin/spliceway-bench",
        "/usr/lib/systemd/system/spliceway.service",
        "/usr/lib/systemd/system/spliceway@.service",
        "/usr/lib/systemd/system/spliceway@.socket",
        "/etc/spliceway/spliceway.toml",
        "/usr/share/man/man8/spliceway-run.8.gz",
    ] {
        assert!(
            listed.lines().any(|line| line == path),
            "no {path} in {listed}"
        );
    }
    let conffiles = system.text(&["dpkg-query", "-W", "-f", "${Conffiles}", "spliceway"]);
    assert!(
        conffiles.contains("/etc/spliceway/spliceway.toml"),
        "{conffiles}"
    );

    serve(&system);
    leave_traces(&system);

    system.run(&["dpkg", "-r", "spliceway"]);
    let kept = system.seen(Path::new("/etc/spliceway/spliceway.toml"));
    assert!(kept.exists(), "a configuration stays until the purge");
    system.run(&["dpkg", "--purge", "spliceway"]);
    let output = system.command(&["getent", "passwd", "spliceway"]).output();
    assert!(output.unwrap().stdout.is_empty(), "the user is still there");
    // What dpkg, and the programs that keep users, have written again.
    let anyones = |file: &String| {
        let starts = ["/var/lib/dpkg/", "/var/log/", "/var/cache/", "/tmp/"];
        let accounts = ["passwd", "shadow", "group", "gshadow", "subuid", "subgid"];
        let account = file.strip_prefix("/etc/").map(|f| f.trim_end_matches('-'));
        starts.iter().any(|start| file.starts_with(start))
            || account.is_some_and(|f| accounts.contains(&f) || f == ".pwd.lock")
    };
    let left: Vec<_> = system
        .changed_files()
        .into_iter()
        .filter(|f| !anyones(f))
        .collect();
    assert_eq!(left, Vec::<String>::new());
    for file in system.changed_files() {
        assert!(
            !file.contains("spliceway") || file == "/tmp/spliceway.deb",
            "{file}"
        );
    }
    for file in ["passwd", "group", "shadow"] {
        let text = fs::read_to_string(system.seen(&Path::new("/etc").join(file))).unwrap();
        assert!(!text.contains("spliceway"), "{file}");
    }
}

/// As its service runs it: its user, its directories, its configuration file.
fn serve(system: &System) {
    let backend = Backend::echo();
    let configuration = system.seen(Path::new("/etc/spliceway/spliceway.toml"));
    let route = format!(
        "control = \"/run/spliceway/control.sock\"\n\
        [route.test]\n\
        listen = \"unix:/run/spliceway/test.sock\"\n\
        backend = \"{backend}\"\n"
    );
    fs::write(&configuration, route).unwrap();
    system.run(&[
        "install",
        "-d",
        "-o",
        "spliceway",
        "-m",
        "711",
        "/run/spliceway",
    ]);
    let unit = system.seen(Path::new("/usr/lib/systemd/system/spliceway.service"));
    let unit = fs::read_to_string(unit).unwrap();
    let start = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="));
    let start: Vec<_> = start.unwrap().split(' ').collect();
    let user = [
        "setpriv",
        "--reuid=spliceway",
        "--regid=spliceway",
        "--clear-groups",
        "--",
    ];
    let words = [&user[..], &start].concat();
    let mut daemon = start_server(system.command(&words));
    daemon.wait_for_log("ready");
    let socket = system.seen(Path::new("/run/spliceway/test.sock"));
    let owner = fs::metadata(&socket).unwrap();
    let uid = system.text(&["id", "-u", "spliceway"]);
    assert_eq!(owner.uid().to_string(), uid.trim());
    assert_eq!(owner.permissions().mode() & 0o7777, 0o660);
    for seed in 0..10 {
        exchange_and_end(&connect(&socket).unwrap(), Pattern::new(seed), 100 * KB);
    }
    let status = system.text(&["spliceway", "status"]);
    assert!(status.contains("test"), "{status}");
    daemon.signal(libc::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    eventually("the socket is gone", || !socket.exists());
}

/// What is there when the service and an instance are enabled and have run.
fn leave_traces(system: &System) {
    let units = ["spliceway.service", "spliceway@php.socket"];
    system.run(&[&["systemctl", "enable"], &units[..]].concat());
    for link in [
        "multi-user.target.wants/spliceway.service",
        "sockets.target.wants/spliceway@php.socket",
    ] {
        let link = system.seen(&Path::new("/etc/systemd/system").join(link));
        assert!(link.is_symlink(), "{}", link.display());
    }
    for directory in ["/var/log/spliceway", "/var/log/private/spliceway@php"] {
        system.run(&["mkdir", "-p", directory]);
        system.run(&["touch", &format!("{directory}/access.log")]);
    }
    let instance = ["private/spliceway@php", "/var/log/spliceway@php"];
    system.run(&[&["ln", "-s"], &instance[..]].concat());
}

#[test]
fn the_example_configuration_is_one() {
    if lacks_root() {
        return;
    }
    let system = System::with_package();
    let words = [
        "spliceway",
        "check",
        "--config",
        "/etc/spliceway/spliceway.toml",
    ];
    let output = system.command(&words).output().unwrap();
    // Its names do not resolve here, which is 1; a mistake would be 2.
    assert_ne!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("[route.php]"));
}

#[test]
fn every_manual_page_is_well_formed_and_names_its_program() {
    if lacks_root() {
        return;
    }
    let system = System::with_package();
    let listed = system.text(&["dpkg", "-L", "spliceway"]);
    let pages: Vec<_> = listed
        .lines()
        .filter(|line| line.ends_with(".8.gz"))
        .collect();
    assert!(pages.len() >= 10, "{pages:?}");
    for page in pages {
        // "mandoc" without its remarks about style, which are not for those who generate pages.
        let mut lint = system.command(&["mandoc", "-T", "lint", "-W", "error", page]);
        succeed(&mut lint);
        let mut man = system.command(&["man", "--warnings", "-E", "UTF-8", "-l", page]);
        let output = succeed(man.env("MANROFFSEQ", "").env("MANWIDTH", "80"));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{page}");
        let name = Path::new(page).file_name().and_then(OsStr::to_str).unwrap();
        let name = name.strip_suffix(".8.gz").unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        // Lines are filled with spaces to one length.
        let text: Vec<_> = text.split_whitespace().collect();
        let text = text.join(" ");
        assert!(text.contains(&format!("{name} - ")), "{page}: {text}");
    }
}

#[test]
fn the_shells_complete_both_programs() {
    if lacks_root() {
        return;
    }
    let system = System::with_package();
    for program in PROGRAMS {
        let bash = format!("/usr/share/bash-completion/completions/{program}");
        let script = format!("set -eu; source {bash}; complete -p {program}");
        let defined = system.text(&["bash", "-c", &script]);
        assert!(defined.trim_end().ends_with(program), "{defined}");
        let zsh = format!("/usr/share/zsh/vendor-completions/_{program}");
        system.run(&["zsh", "-n", &zsh]);
        let fish = format!("/usr/share/fish/vendor_completions.d/{program}.fish");
        system.run(&["fish", "--no-execute", &fish]);
    }
    // The first letters of a subcommand, as bash asks.
    let script = "source /usr/share/bash-completion/completions/spliceway
        COMP_WORDS=(spliceway sta) COMP_CWORD=1
        _spliceway spliceway sta spliceway
        printf '%s\\n' \"${COMPREPLY[@]}\"";
    assert_eq!(system.text(&["bash", "-c", script]).trim(), "status");
}

#[test]
fn backtraces_have_names_without_the_symbols_and_lines_with_them() {
    if lacks_root() {
        return;
    }
    let system = System::with_package();
    for program in PROGRAMS {
        let program = format!("/usr/bin/{program}");
        let sections = system.text(&["readelf", "--sections", "--wide", &program]);
        assert!(!sections.contains(" .debug_info "), "{program}: {sections}");
        // All that a frame of a backtrace is without the symbols: an address within a function with a name.
        let names = system.text(&["nm", "--demangle", &program]);
        let main = names.lines().find(|line| line.ends_with("::main"));
        let main = main.expect("the names of functions are there");
        let (address, _) = main.split_once(' ').unwrap();
        let place = || system.text(&["addr2line", "--exe", &program, address]);
        assert!(place().starts_with("??"), "{}", place());
        system.install(&made()[1]);
        assert!(place().contains("/src/main.rs:"), "{}", place());
        system.run(&["dpkg", "--purge", "spliceway-dbgsym"]);
    }
}

#[test]
fn the_bill_of_materials_has_what_the_programs_are_made_of_and_no_more() {
    let bill: Value = serde_json::from_slice(&made()[2]).unwrap();
    let components = bill["components"].as_array().unwrap();
    let scope = |name: &str| {
        let mut found = components.iter().filter(|c| c["name"] == name);
        found.next().map(|c| c["scope"].as_str().unwrap())
    };
    for within in ["spliceway", "spliceway-bench", "io-uring", "plotters"] {
        assert_eq!(scope(within), Some("required"), "{within}");
    }
    assert_eq!(scope("serde_derive"), Some("excluded"), "a macro");
    // Of the tests alone, and of a feature that nothing switches on.
    for other in ["proptest", "criterion", "ring"] {
        assert_eq!(scope(other), None, "{other}");
    }
    assert_eq!(bill["metadata"]["timestamp"], "2001-09-09T01:46:40Z");

    let mut names: BTreeSet<_> = components.iter().map(|c| &c["bom-ref"]).map(text).collect();
    assert_eq!(names.len(), components.len(), "each has a name of its own");
    names.insert(text(&bill["metadata"]["component"]["bom-ref"]));
    let dependencies = bill["dependencies"].as_array().unwrap();
    let needed = dependencies
        .iter()
        .flat_map(|d| d["dependsOn"].as_array().unwrap());
    for name in dependencies.iter().map(|d| &d["ref"]).chain(needed) {
        assert!(names.contains(text(name)), "{name} is no component");
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[test]
fn the_package_has_the_bill_of_materials_and_the_licences_of_what_is_in_it() {
    if lacks_root() {
        return;
    }
    let system = System::with_package();
    let documents = Path::new("/usr/share/doc/spliceway");
    let bill = system.seen(&documents.join("spliceway.cdx.json"));
    assert!(fs::read(bill).unwrap() == made()[2]);
    let licences = system.text(&["zcat", "/usr/share/doc/spliceway/licences.txt.gz"]);
    for owner in ["\nio-uring 0.7.", "\nplotters 0.", "\nrust 1."] {
        assert!(licences.contains(owner), "{owner}");
    }
    assert!(!licences.contains("(There is no file with the text.)"));
}

#[test]
fn the_package_is_as_debian_wants_it() {
    let dir = fresh_dir();
    let file = dir.path().join("spliceway.deb");
    fs::write(&file, package()).unwrap();
    let mut lintian = Command::new("lintian");
    lintian
        .args(["--allow-root", "--fail-on", "error", "--suppress-tags"])
        // The project has no address for mail. The names of functions are kept, for backtraces.
        .arg("bogus-mail-host,bogus-mail-host-in-debian-changelog,unstripped-binary-or-object")
        .arg(file);
    succeed(&mut lintian);
}
