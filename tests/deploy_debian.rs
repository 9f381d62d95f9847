//! What the Debian package does with daemons that run while it is upgraded: its scripts, with a system of their own
//! (`DPKG_ROOT`) and with programs that write down how they were called.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::proxy::fresh_dir;
use tempfile::TempDir;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/debian");

const UNITS: [&str; 2] = ["spliceway.service", "spliceway@.service"];

/// A system with units and with programs that say what they were told.
struct System {
    dir: TempDir,
}

impl System {
    /// `runs` are the services that do; an upgrade of the daemons with these control sockets is done.
    fn new(runs: &[&str], upgraded: &[&str]) -> Self {
        let system = Self { dir: fresh_dir() };
        for directory in ["run/systemd/system", "usr/lib/systemd/system", "bin"] {
            fs::create_dir_all(system.path(directory)).unwrap();
        }
        for unit in UNITS {
            fs::write(system.unit(unit), "[Service]\n").unwrap();
        }
        let lines: Vec<_> = runs
            .iter()
            .map(|unit| format!("echo '{unit} loaded active running a daemon'"))
            .collect();
        let lists = lines.join("; ");
        system.program(
            "systemctl",
            &format!(r#"case "$1" in list-units) {lists}; : ;; esac"#),
        );
        let done = [&["nowhere"], upgraded].concat().join("|");
        system.program(
            "spliceway",
            &format!(r#"case "$3" in {done}) exit 0 ;; esac; exit 1"#),
        );
        system.program("systemd-sysusers", "");
        system
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn unit(&self, name: &str) -> PathBuf {
        self.path("usr/lib/systemd/system").join(name)
    }

    /// One that writes down how it was called, and does this. A shell makes it, so that no child of another test has it
    /// open for writing.
    fn program(&self, name: &str, lines: &str) {
        const WRITE: &str = r#"printf '%s\n' "$1" > "$0" && chmod 755 "$0""#;
        let calls = self.path("calls");
        let text = format!(
            "#!/bin/sh\necho \"{name} $*\" >> {}\n{lines}",
            calls.display()
        );
        let mut write = Command::new("/bin/sh");
        write
            .args(["-c", WRITE])
            .arg(self.path("bin").join(name))
            .arg(text);
        assert!(write.status().unwrap().success());
    }

    fn run(&self, script: &str, words: &[&str]) {
        let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
        let mut command = Command::new(Path::new(SCRIPTS).join(script));
        command
            .args(words)
            .env("PATH", path)
            .env("DPKG_ROOT", self.dir.path());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
    }

    /// What was done of which something comes; `meanwhile` is what the package brings.
    fn upgrade(&self, meanwhile: impl FnOnce()) -> Vec<String> {
        self.run("preinst", &["upgrade", "0.1.0", "0.2.0"]);
        meanwhile();
        self.run("postinst", &["configure", "0.1.0"]);
        assert!(
            !self.path("run/spliceway-units").exists(),
            "nothing is left behind"
        );
        self.renewals()
    }

    fn renewals(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let renews = |call: &&str| call.contains(" upgrade ") || call.contains("restart");
        calls.lines().filter(renews).map(str::to_owned).collect()
    }
}

const ONE: &str = "/run/spliceway/control.sock";
const INSTANCE: &str = "/run/spliceway@php/control.sock";

#[test]
fn what_runs_is_taken_over_by_the_new_program() {
    let system = System::new(
        &["spliceway.service", "spliceway@php.service"],
        &[ONE, INSTANCE],
    );
    let done = system.upgrade(|| ());
    let expected = [ONE, INSTANCE].map(|control| format!("spliceway upgrade --control {control}"));
    assert_eq!(done, expected);
}

#[test]
fn what_cannot_be_taken_over_is_restarted() {
    let system = System::new(&["spliceway.service", "spliceway@php.service"], &[INSTANCE]);
    let done = system.upgrade(|| ());
    let expected = [
        "spliceway upgrade --control /run/spliceway/control.sock",
        "systemctl try-restart spliceway.service",
        "spliceway upgrade --control /run/spliceway@php/control.sock",
    ];
    assert_eq!(done, expected);
}

/// What runs has the sandbox and the limits of the old unit.
#[test]
fn what_has_another_unit_now_is_restarted() {
    let system = System::new(&["spliceway.service"], &[ONE]);
    let done = system.upgrade(|| fs::write(system.unit(UNITS[1]), "[Service]\nUMask=0\n").unwrap());
    assert_eq!(done, ["systemctl try-restart spliceway.service"]);
}

#[test]
fn nothing_is_done_with_what_does_not_run_nor_when_the_package_is_new() {
    let system = System::new(&[], &[]);
    assert_eq!(system.upgrade(|| ()), [""; 0]);
    let system = System::new(&["spliceway.service"], &[ONE]);
    system.run("preinst", &["install"]);
    system.run("postinst", &["configure", ""]);
    assert_eq!(system.renewals(), [""; 0]);
}

#[test]
fn without_a_service_manager_nothing_is_asked() {
    let system = System::new(&["spliceway.service"], &[ONE]);
    fs::remove_dir_all(system.path("run/systemd")).unwrap();
    assert_eq!(system.upgrade(|| ()), [""; 0]);
}
