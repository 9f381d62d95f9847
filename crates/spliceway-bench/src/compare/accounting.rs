//! What a program costs: CPU time and memory of all of its processes, and the time for which the
//! machine was busy.
//!
//! The CPU time of a control group (cgroup v2) is exact and has everything that was ever started in
//! it. Where no group can be made, /proc is added up over the tree of processes, which misses
//! children whose parent ended before them. Both include the kernel threads that io_uring starts on
//! a process's behalf (iou-wrk): they are threads of that process. Work that the kernel does in a
//! soft interrupt is charged to whoever was running, which on loopback is the sender; the busy time
//! of the machine has it all.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use spliceway_common::sys::process::ticks_per_second;

/// Directories of ours begin like this.
const GROUP_PREFIX: &str = "spliceway-bench-";

/// Where the costs of one program are added up.
pub(super) enum Ledger {
    /// A control group that holds the program and whatever it starts.
    Group(Group),
    /// A process and its descendants.
    Tree {
        /// The first of them.
        root: u32,
    },
}

impl Ledger {
    /// CPU time so far, user and system.
    pub(super) fn cpu(&self) -> io::Result<Duration> {
        match self {
            Self::Group(group) => group.cpu(),
            Self::Tree { root } => Ok(ticks(tree(*root)?.iter().map(|&pid| cpu_ticks(pid)).sum())),
        }
    }

    /// Resident memory in KiB; a page that n processes share counts 1/n.
    pub(super) fn memory_kb(&self) -> io::Result<u64> {
        let pids = match self {
            Self::Group(group) => group.pids()?,
            Self::Tree { root } => tree(*root)?,
        };
        Ok(pids.iter().filter_map(|&pid| pss_kb(pid)).sum())
    }
}

/// How CPU time is counted here, in words for the report.
pub(super) fn method() -> &'static str {
    if groups().is_some() {
        "cpu.stat of a control group (cgroup v2) for each program: exact, all its processes and \
         threads, those that have ended included"
    } else {
        "/proc/PID/stat added up over each program's tree of processes (no control group could be \
         made: run as root for exact figures)"
    }
}

/// A control group of our own; it goes when it is dropped, and takes along what still runs in it.
pub(super) struct Group {
    dir: PathBuf,
}

impl Group {
    /// `None` where none can be made.
    pub(super) fn create() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{GROUP_PREFIX}{}-{number}", std::process::id());
        let dir = groups()?.join(name);
        fs::create_dir(&dir).ok()?;
        Some(Self { dir })
    }

    /// Whoever writes 0 here becomes a member.
    pub(super) fn door(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    fn cpu(&self) -> io::Result<Duration> {
        let stat = fs::read_to_string(self.dir.join("cpu.stat"))?;
        let usage = stat
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "));
        let usec = usage.and_then(|text| text.trim().parse().ok());
        usec.map(Duration::from_micros)
            .ok_or_else(|| io::Error::other("cpu.stat has no usage_usec"))
    }

    fn pids(&self) -> io::Result<Vec<u32>> {
        let text = fs::read_to_string(self.door())?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        /// For processes that were killed to be gone: a few milliseconds each.
        const PATIENCE: Duration = Duration::from_secs(5);
        const STEP: Duration = Duration::from_millis(5);
        // Linux 5.14 and newer; before, what ignores its end stays.
        let _ = fs::write(self.dir.join("cgroup.kill"), "1");
        let mut waited = Duration::ZERO;
        while fs::remove_dir(&self.dir).is_err() && waited < PATIENCE {
            std::thread::sleep(STEP);
            waited += STEP;
        }
    }
}

/// The directory in which groups can be made, if there is one.
fn groups() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOUND.get_or_init(find_groups).as_deref()
}

fn find_groups() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find_map(cgroup2_mount)?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let dir = Path::new(mount).join(own);
    remove_stale(&dir);
    let trial = dir.join(format!("{GROUP_PREFIX}{}", std::process::id()));
    fs::create_dir(&trial).ok()?;
    let counts = fs::read_to_string(trial.join("cpu.stat"));
    // Opening is what permissions decide; nothing is written.
    let door = fs::OpenOptions::new()
        .write(true)
        .open(trial.join("cgroup.procs"));
    let usable = door.is_ok() && counts.is_ok_and(|stat| stat.contains("usage_usec"));
    let _ = fs::remove_dir(&trial);
    usable.then_some(dir)
}

/// A line of mountinfo: fields, a dash, the type (proc_pid_mountinfo(5)).
fn cgroup2_mount(line: &str) -> Option<&str> {
    let (fields, tail) = line.split_once(" - ")?;
    tail.starts_with("cgroup2 ").then_some(())?;
    fields.split(' ').nth(4)
}

/// Empties of runs that were killed; those in use cannot be removed.
fn remove_stale(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(GROUP_PREFIX));
        let owner = owner.and_then(|rest| rest.split('-').next());
        let runs = |pid: &str| Path::new("/proc").join(pid).exists();
        if owner.is_some_and(|pid| !runs(pid)) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// The processes that descend from `root`, itself first.
fn tree(root: u32) -> io::Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        if let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok())
            && let Some(parent) = stat_field(pid, PARENT)
        {
            parents.push((pid, parent));
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        let children = parents
            .iter()
            .filter(|(_, parent)| *parent == u64::from(pid));
        found.extend(children.map(|&(child, _)| child));
        next += 1;
    }
    Ok(found)
}

/// Fields of /proc/PID/stat after the name in parentheses, counted from 0 (proc_pid_stat(5)).
const PARENT: usize = 1;
const USER_TO_CHILDREN_SYSTEM: std::ops::Range<usize> = 11..15;
const CHILDREN: std::ops::Range<usize> = 13..15;

fn stat_fields(pid: u32) -> Option<Vec<u64>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    // The state is a letter, and some fields may be negative: not those that are asked for.
    let number = |field: &str| field.parse().unwrap_or(0);
    Some(fields.split_ascii_whitespace().map(number).collect())
}

fn stat_field(pid: u32, index: usize) -> Option<u64> {
    stat_fields(pid)?.get(index).copied()
}

/// User and system time of a process, and of its children that have ended and were waited for.
fn cpu_ticks(pid: u32) -> u64 {
    let fields = stat_fields(pid).unwrap_or_default();
    fields
        .get(USER_TO_CHILDREN_SYSTEM)
        .unwrap_or_default()
        .iter()
        .sum()
}

/// CPU time of this program's children that have ended and were waited for, to a hundredth of a
/// second.
pub(super) fn ended_children_cpu() -> io::Result<Duration> {
    let fields = stat_fields(std::process::id());
    let children = fields.as_ref().and_then(|fields| fields.get(CHILDREN));
    let children = children.ok_or_else(|| io::Error::other("/proc has nothing of this process"))?;
    Ok(ticks(children.iter().sum()))
}

fn ticks(count: u64) -> Duration {
    Duration::from_secs_f64(count as f64 / ticks_per_second() as f64)
}

fn pss_kb(pid: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

/// The time for which all processors together were not idle, interrupts, soft interrupts and time
/// stolen by a hypervisor included; waiting for a disk is idle.
pub(super) fn machine_busy() -> io::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let total = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let fields = total.ok_or_else(|| io::Error::other("/proc/stat has no total"))?;
    Ok(ticks(busy_ticks(fields)))
}

/// user nice system idle iowait irq softirq steal guest guest_nice (proc_stat(5)); guests are in
/// user and nice already.
fn busy_ticks(fields: &str) -> u64 {
    const IDLE: usize = 3;
    const IOWAIT: usize = 4;
    const GUEST: usize = 8;
    let counts = fields.split_ascii_whitespace().take(GUEST).enumerate();
    let busy = counts.filter(|(index, _)| ![IDLE, IOWAIT].contains(index));
    busy.filter_map(|(_, count)| count.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    /// Burns CPU, partly in a child that ends.
    const BURN: &str = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; \
                        sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done'; \
                        echo burnt; exec sleep 600";

    /// Far below what the loops take, far above what starting a shell does.
    const BURNT_MIN: Duration = Duration::from_millis(30);

    struct Burner(Child);

    impl Burner {
        fn start(command: &mut Command) -> Self {
            let mut child = command
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = String::new();
            let stdout = child.stdout.take().unwrap();
            io::BufRead::read_line(&mut io::BufReader::new(stdout), &mut line).unwrap();
            assert_eq!(line, "burnt\n");
            Self(child)
        }
    }

    impl Drop for Burner {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn a_tree_has_the_cpu_time_of_a_child_that_ended() {
        let busy_before = machine_busy().unwrap();
        let burner = Burner::start(Command::new("sh").args(["-c", BURN]));
        let ledger = Ledger::Tree {
            root: burner.0.id(),
        };
        assert!(ledger.cpu().unwrap() >= BURNT_MIN);
        assert!(ledger.memory_kb().unwrap() > 0);
        assert!(machine_busy().unwrap() - busy_before >= BURNT_MIN);
    }

    #[test]
    fn a_group_has_the_cpu_time_of_a_child_that_ended() {
        let Some(group) = Group::create() else {
            return; // not permitted here: the tree is what is used then
        };
        let script = format!("echo 0 >'{}'; {BURN}", group.door().display());
        let dir = group.dir.clone();
        let burner = Burner::start(Command::new("sh").args(["-c", &script]));
        let ledger = Ledger::Group(group);
        assert!(ledger.cpu().unwrap() >= BURNT_MIN);
        assert!(ledger.memory_kb().unwrap() > 0);
        drop(burner);
        drop(ledger);
        assert!(!dir.exists());
    }

    #[test]
    fn a_child_that_was_waited_for_is_counted() {
        let before = ended_children_cpu().unwrap();
        let burn = BURN.replace("exec sleep 600", "exit");
        let status = Command::new("sh").args(["-c", &burn]).status().unwrap();
        assert!(status.success());
        assert!(ended_children_cpu().unwrap() - before >= BURNT_MIN);
    }

    #[test]
    fn a_tree_has_children_and_grandchildren() {
        let mut child = Command::new("sh")
            .args(["-c", "sleep 600 & wait"])
            .spawn()
            .unwrap();
        while tree(child.id()).unwrap().len() < 2 {
            std::thread::yield_now();
        }
        let own = tree(std::process::id()).unwrap();
        let below = tree(child.id()).unwrap();
        assert!(below.iter().all(|pid| own.contains(pid)));
        for pid in below.into_iter().skip(1) {
            spliceway_common::sys::child::terminate(pid).unwrap();
        }
        child.wait().unwrap();
    }

    #[test]
    fn busy_is_all_but_idle_and_waiting() {
        assert_eq!(busy_ticks(" 1 2 4 1000 2000 8 16 32 4000 8000"), 63);
    }

    #[test]
    fn the_mount_of_control_groups_is_found() {
        let line = "42 33 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw";
        assert_eq!(cgroup2_mount(line), Some("/sys/fs/cgroup"));
        assert_eq!(cgroup2_mount("1 2 0:3 / /proc rw - proc proc rw"), None);
    }
}
