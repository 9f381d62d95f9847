//! A child process that cannot outlive its test, what it wrote to stderr, and what `/proc` knows of it.

use std::fs::{self, ReadDir};
use std::io::{BufRead, BufReader, ErrorKind};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use super::sys::{self, ChildSetup};
use super::wait::{GUARD, eventually, pause};

/// How long [`Process::assert_comes_to_rest`] watches at a time.
const REST_WINDOW: Duration = Duration::from_millis(500);

/// What a process at rest may burn in one window, in ticks of 10 ms: a timer here and there. One
/// that spins gets dozens, even when it has to share two cores with other tests.
const REST_TICKS_MAX: u64 = 3;

/// How many lines of its stderr a failing test shows.
const SHOWN_LINES_MAX: usize = 60;

/// A running child with its stderr captured.
pub(crate) struct Process {
    name: String,
    child: Child,
    ended: Option<ExitStatus>,
    log: Log,
}

impl Process {
    /// Starts `command`. stdout and stdin are as the command has them.
    pub(crate) fn start(mut command: Command, setup: ChildSetup) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        setup.prepare(&mut command);
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("start {name}: {error}"));
        let stderr = child.stderr.take().expect("stderr was asked for");
        Self {
            name,
            child,
            ended: None,
            log: Log::of(stderr),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    pub(crate) fn signal(&self, signal: libc::c_int) {
        assert!(self.ended.is_none(), "{} has ended already", self.name);
        sys::signal(self.pid(), signal).expect("a child that was not reaped can be signalled");
    }

    /// Signals the process and all that it has started.
    pub(crate) fn signal_group(&self, signal: libc::c_int) {
        assert!(self.ended.is_none(), "{} has ended already", self.name);
        sys::signal_group(self.pid(), signal).expect("a group of ours can be signalled");
    }

    pub(crate) fn is_running(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("a child can be waited for");
        }
        self.ended.is_none()
    }

    /// Waits for the end of the process and of its stderr.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        eventually(&format!("{} ends", self.name), || !self.is_running());
        self.log.wait_for_the_end();
        self.ended.expect("it is not running")
    }

    /// Waits for a line of stderr that contains `part`.
    #[track_caller]
    pub(crate) fn wait_for_log(&self, part: &str) {
        self.log
            .wait_for(&format!("a line with {part:?}"), |line| line.contains(part));
    }

    /// What it has of the machine's memory (proc_pid_status(5)).
    #[track_caller]
    pub(crate) fn resident_kilobytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        number
            .and_then(|number| number.parse().ok())
            .expect("the kernel tells it")
    }

    pub(crate) fn open_descriptors(&self) -> usize {
        self.descriptors().len()
    }

    /// The number that the next descriptor of the process would have.
    pub(crate) fn lowest_free_descriptor(&self) -> u64 {
        let open = self.descriptors();
        (0..)
            .find(|number| !open.contains(number))
            .expect("numbers do not run out")
    }

    /// What the process holds at this moment.
    pub(crate) fn holdings(&self) -> Holdings {
        let pipes = self.count_pipes();
        Holdings {
            pipes,
            descriptors_beside_pipes: self.open_descriptors().saturating_sub(pipes),
            threads: self.threads(),
            memory_kb: self.memory_kb(),
        }
    }

    fn count_pipes(&self) -> usize {
        let entries = self.listed_descriptors();
        // One that is closed between the listing and the look is none.
        let targets = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        targets
            .filter(|target| target.to_string_lossy().starts_with("pipe:"))
            .count()
    }

    /// Resident memory that belongs to no file: the program's own pages come and go as the kernel
    /// likes.
    fn memory_kb(&self) -> u64 {
        let status = self.status();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .expect("Linux 4.5 and later say it");
        let figure = line.trim().trim_end_matches(" kB");
        figure.parse().expect("a number of kB")
    }

    /// Whether SIGSTOP has taken hold of the process itself.
    pub(crate) fn is_stopped(&self) -> bool {
        self.status()
            .lines()
            .any(|line| line.starts_with("State:\tT"))
    }

    fn status(&self) -> String {
        let path = format!("/proc/{}/status", self.pid());
        fs::read_to_string(path).expect("the process runs")
    }

    /// The id of the thread with this name.
    pub(crate) fn thread(&self, name: &str) -> u32 {
        let path = format!("/proc/{}/task", self.pid());
        let threads = fs::read_dir(path).expect("the process runs");
        let id = |thread: fs::DirEntry| {
            let found = fs::read_to_string(thread.path().join("comm")).ok()?;
            let is_it = found.trim_end() == name;
            is_it.then(|| thread.file_name().to_str()?.parse().ok())?
        };
        let found = threads.filter_map(Result::ok).find_map(id);
        found.unwrap_or_else(|| panic!("no thread {name}"))
    }

    pub(crate) fn threads(&self) -> usize {
        let path = format!("/proc/{}/task", self.pid());
        fs::read_dir(path).expect("the process runs").count()
    }

    /// User and system time of the whole process, kernel threads of its rings included, in ticks of
    /// 10 ms.
    pub(crate) fn cpu_ticks(&self) -> u64 {
        let path = format!("/proc/{}/stat", self.pid());
        let stat = fs::read_to_string(path).expect("the process runs");
        let (_, fields) = stat
            .rsplit_once(") ")
            .expect("the name stands in parentheses");
        // proc_pid_stat(5): utime and stime are fields 14 and 15, and `fields` begins with field 3.
        let ticks = fields.split(' ').skip(11).take(2);
        ticks
            .map(|field| field.parse::<u64>().expect("a number"))
            .sum()
    }

    /// Waits for a stretch of time in which the process burns next to nothing. One that spins never
    /// has it.
    #[track_caller]
    pub(crate) fn assert_comes_to_rest(&self) {
        eventually(&format!("{} comes to rest", self.name), || {
            let before = self.cpu_ticks();
            pause(REST_WINDOW);
            self.cpu_ticks() - before <= REST_TICKS_MAX
        });
    }

    fn listed_descriptors(&self) -> ReadDir {
        let listed = fs::read_dir(format!("/proc/{}/fd", self.pid()));
        if let Err(error) = &listed
            && error.kind() == ErrorKind::PermissionDenied
        {
            // The daemon is not to be looked into by others of its own user. Tools may be.
            sys::demand_root();
        }
        listed.expect("the process runs and is ours")
    }

    fn descriptors(&self) -> Vec<u64> {
        let entries = self.listed_descriptors();
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            // The whole group: nginx and PHP-FPM have workers. The leader is not reaped yet, so the
            // number is still its own.
            let _ = sys::signal_group(self.pid(), libc::SIGKILL);
            let _ = self.child.wait();
        } else if !self.log.is_complete() {
            // Somebody whom it has started is left, and has its group.
            let _ = sys::signal_group(self.pid(), libc::SIGKILL);
        }
        if thread::panicking() {
            eprintln!("--- stderr of {} ---\n{}", self.name, self.log.tail());
        }
    }
}

/// What a process holds, as `/proc` counts it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holdings {
    /// Ends of pipes.
    pub(crate) pipes: usize,
    pub(crate) descriptors_beside_pipes: usize,
    pub(crate) threads: usize,
    pub(crate) memory_kb: u64,
}

/// The lines that a child has written to stderr so far.
#[derive(Clone)]
pub(crate) struct Log {
    shared: Arc<(Mutex<Lines>, Condvar)>,
}

#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    complete: bool,
}

impl Log {
    fn of(stderr: ChildStderr) -> Self {
        let log = Self {
            shared: Arc::default(),
        };
        let writer = log.clone();
        thread::spawn(move || writer.collect(stderr));
        log
    }

    fn collect(&self, stderr: ChildStderr) {
        for line in BufReader::new(stderr).split(b'\n') {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line).into_owned();
            self.change(|lines| lines.lines.push(line));
        }
        self.change(|lines| lines.complete = true);
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.lock().lines.clone()
    }

    pub(crate) fn count(&self, part: &str) -> usize {
        self.lock()
            .lines
            .iter()
            .filter(|line| line.contains(part))
            .count()
    }

    /// Waits for a line that fits.
    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str, fits: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + GUARD;
        let mut lines = self.lock();
        while !lines.lines.iter().any(|line| fits(line)) {
            let now = Instant::now();
            assert!(
                !lines.complete && now < deadline,
                "stderr never had {what}; it was:\n{}",
                lines.lines.join("\n")
            );
            let waited = self.shared.1.wait_timeout(lines, deadline - now);
            lines = waited.expect("no thread panics with the lines locked").0;
        }
    }

    fn wait_for_the_end(&self) {
        eventually("stderr is closed", || self.is_complete());
    }

    /// Nobody can write to it any more.
    fn is_complete(&self) -> bool {
        self.lock().complete
    }

    fn tail(&self) -> String {
        let lines = self.lines();
        lines[lines.len().saturating_sub(SHOWN_LINES_MAX)..].join("\n")
    }

    fn change(&self, change: impl FnOnce(&mut Lines)) {
        change(&mut self.lock());
        self.shared.1.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        // A failed assertion in `wait_for` poisons the lock; the lines are whole all the same, and
        // the guard above wants to print them.
        self.shared
            .0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
