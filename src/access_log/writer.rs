//! The thread that writes one file.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::config::{LogKind, LogTarget, RequestLog, RequestLogFormat, RouteName};
use crate::counters::Count;
use crate::observe::Failures;
use crate::sys::{Errno, socket_file};

use super::{Bell, Entry, LOOK_INTERVAL, Queue, line};

/// What is written at one time: enough that calls cost little beside the lines, and what a pipe holds.
const BATCH_BYTES: usize = 64 * 1024;

/// How long the end of the daemon waits for what is left to be written. A disk that takes longer for some
/// megabytes has stopped; its lines are lost.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Who may read a file that is made here: URIs tell of people.
const FILE_MODE: u32 = 0o640;

/// Why a log of requests is not there.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum RequestLogError {
    #[error(
        "open the {kind} {target} (its directory must exist and be writable for the user who \
         runs the daemon; a FIFO must have a reader)"
    )]
    Open {
        kind: LogKind,
        target: LogTarget,
        source: Errno,
    },
    #[error("start the thread of the {kind} {target}")]
    Thread {
        kind: LogKind,
        target: LogTarget,
        source: io::Error,
    },
}

/// The files of all routes, and once they are started the threads that write them. Dropping it ends
/// them, after what is in the queues is written.
#[derive(Default)]
pub(crate) struct Writers {
    prepared: Vec<Writer>,
    running: Vec<Running>,
    all: Arc<Mutex<All>>,
}

/// What is told to all writers that run, and asked of them.
#[derive(Default)]
struct All {
    told: Vec<Arc<Told>>,
    /// Of writers that have ended.
    past_errors: u64,
}

struct Running {
    kind: LogKind,
    target: LogTarget,
    told: Arc<Told>,
    /// Hangs up when the thread has ended.
    ended: Receiver<()>,
}

/// What a writer is told.
#[derive(Default)]
struct Told {
    /// Everything that will ever be in the queues is: Release and Acquire see to that.
    end: AtomicBool,
    /// Open the file anew.
    reopen: AtomicBool,
    /// End once nobody is left who could have anything to be written.
    retire: AtomicBool,
    /// Queues that came since it last looked.
    joining: Mutex<Vec<Source>>,
    bell: Arc<Bell>,
    /// Writes that failed. The writer counts.
    errors: Count,
}

impl Writers {
    /// Opens the file of a route, unless it is open for another one.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub(crate) fn open(&mut self, log: &RequestLog) -> Result<(), RequestLogError> {
        if self.has(&log.target) {
            return Ok(());
        }
        self.add(log, open(log)?);
        Ok(())
    }

    /// Whether it is open.
    pub(crate) fn has(&self, target: &LogTarget) -> bool {
        self.prepared(target).is_some() || self.running(target).is_some()
    }

    /// One that somebody else has opened.
    pub(crate) fn add(&mut self, log: &RequestLog, file: File) {
        self.prepared.push(Writer {
            kind: log.kind,
            target: log.target.clone(),
            file,
            sources: Vec::new(),
            told: Arc::default(),
            pending: String::with_capacity(BATCH_BYTES),
            is_mid_line: false,
            is_torn: false,
            failures: Failures::default(),
        });
    }

    /// A queue for one worker's requests of this route, whose file is open.
    ///
    /// # Panics
    /// If the file is not open.
    pub(crate) fn queue(&mut self, log: &RequestLog, route: &RouteName) -> Queue {
        let prepared = self.prepared(&log.target).map(|writer| &writer.told);
        let told = prepared.or_else(|| self.running(&log.target).map(|running| &running.told));
        let told = told.expect("a route's file is opened before it is served");
        let (queue, entries) = Queue::new(&told.bell);
        lock(&told.joining).push(Source {
            entries,
            route: route.clone(),
            format: log.format,
            is_gone: false,
        });
        told.bell.ring_loudly();
        queue
    }

    fn prepared(&self, target: &LogTarget) -> Option<&Writer> {
        self.prepared.iter().find(|writer| writer.target == *target)
    }

    fn running(&self, target: &LogTarget) -> Option<&Running> {
        let is_it = |running: &&Running| running.target == *target;
        let mut running = self.running.iter().filter(is_it);
        running.find(|running| !running.told.retire.load(Ordering::Relaxed))
    }

    /// Closes files that were opened and are not needed after all.
    pub(crate) fn forget_prepared(&mut self) {
        self.prepared.clear();
    }

    /// Files that nobody uses any more are closed, when what was to be written there is.
    pub(crate) fn retire_unused(&mut self, is_used: impl Fn(&LogTarget) -> bool) {
        for running in self.running.iter().filter(|r| !is_used(&r.target)) {
            running.told.retire.store(true, Ordering::Release);
            running.told.bell.ring_loudly();
        }
        let all = &mut *lock(&self.all);
        self.running.retain(|running| {
            let has_ended = running.ended.try_recv() == Err(TryRecvError::Disconnected);
            if has_ended {
                all.past_errors += running.told.errors.get();
                all.told.retain(|told| !Arc::ptr_eq(told, &running.told));
            }
            !has_ended
        });
    }

    /// Starts a thread for each file that has none. What `say_end` returns is dropped when the thread ends, however
    /// that ends, unless it was for want of anything to write: then it is given to `leave`.
    ///
    /// # Errors
    /// If the system has no room for a thread.
    pub(crate) fn start<E: Send + 'static>(
        &mut self,
        say_end: impl Fn() -> E,
        leave: fn(E),
    ) -> Result<(), RequestLogError> {
        for writer in self.prepared.drain(..) {
            let (kind, target) = (writer.kind, writer.target.clone());
            let told = Arc::clone(&writer.told);
            let (end, ended) = channel();
            let say_end = say_end();
            thread::Builder::new()
                .name("access-log".to_owned())
                .spawn(move || {
                    if writer.run(end) == Why::Retired {
                        leave(say_end);
                    }
                })
                .map_err(|source| RequestLogError::Thread {
                    kind,
                    target: target.clone(),
                    source,
                })?;
            lock(&self.all).told.push(Arc::clone(&told));
            self.running.push(Running {
                kind,
                target,
                told,
                ended,
            });
        }
        Ok(())
    }

    /// A way to have all files opened anew, for another thread or task.
    pub(crate) fn reopener(&self) -> impl Fn() + Send + Sync + use<> {
        let all = Arc::clone(&self.all);
        move || {
            for told in &lock(&all).told {
                told.reopen.store(true, Ordering::Release);
                told.bell.ring_loudly();
            }
        }
    }

    /// A way to ask how many writes have failed.
    pub(crate) fn errors(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let all = Arc::clone(&self.all);
        move || {
            let all = lock(&all);
            let errors = all.told.iter().map(|told| told.errors.get());
            all.past_errors + errors.sum::<u64>()
        }
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        for running in &self.running {
            running.told.end.store(true, Ordering::Release);
            running.told.bell.ring_loudly();
        }
        let by = Instant::now() + FLUSH_TIMEOUT;
        for running in &self.running {
            let left = by.saturating_duration_since(Instant::now());
            if running.ended.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                let Running { kind, target, .. } = running;
                tracing::warn!("write the {kind} {target}: it takes nothing; lines are lost");
            }
        }
    }
}

/// Nothing is half done under these locks, whoever has panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens its file, to be appended to.
///
/// # Errors
/// If that fails.
pub(crate) fn open(log: &RequestLog) -> Result<File, RequestLogError> {
    let file = match &log.target {
        LogTarget::Stdout => io::stdout().as_fd().try_clone_to_owned().map(File::from),
        LogTarget::File(path) => open_file(path),
    };
    file.map_err(|error| RequestLogError::Open {
        kind: log.kind,
        target: log.target.clone(),
        source: error.into(),
    })
}

/// Without waiting for the reader of a FIFO, now or later: then the thread can be told to end.
fn open_file(path: &Path) -> io::Result<File> {
    let mut how = OpenOptions::new();
    how.append(true)
        .create(true)
        .mode(FILE_MODE)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    socket_file::under_umask(|| how.open(path))
}

/// One file and the queues of those who have something to be written there.
struct Writer {
    /// What it was opened as first.
    kind: LogKind,
    target: LogTarget,
    file: File,
    sources: Vec<Source>,
    told: Arc<Told>,
    /// Lines that are to be written.
    pending: String,
    /// What was written last is a piece of a line.
    is_mid_line: bool,
    /// And the rest of that line is lost.
    is_torn: bool,
    failures: Failures,
}

/// One worker's queue.
struct Source {
    entries: Receiver<Box<Entry>>,
    route: RouteName,
    format: RequestLogFormat,
    /// Its worker has given it up, and it is empty.
    is_gone: bool,
}

/// Why a writer has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// The daemon ends.
    Told,
    /// Nobody has anything to be written there any more.
    Retired,
}

/// What a look at the queues came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    /// All that there was.
    All,
    /// As much as is written at one time.
    Batch,
}

/// What a write came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
    All,
    /// The pipe takes no more for now.
    Full,
}

impl Writer {
    /// Until it is told to end. Dropping `end` says that it has.
    fn run(mut self, end: Sender<()>) -> Why {
        self.told.bell.writer.get_or_init(thread::current);
        let why = loop {
            // Read before the queues: what was put in before that is found.
            let ends = self.told.end.load(Ordering::Acquire);
            if self.told.reopen.swap(false, Ordering::Acquire) {
                self.reopen();
            }
            // Likewise: who has joined by then, and is gone, has nothing more to say.
            let retires = self.told.retire.load(Ordering::Acquire);
            let found = self.look();
            match (self.write(), found) {
                (Written::Full, _) => thread::park_timeout(LOOK_INTERVAL),
                (Written::All, Found::Nothing) if ends => break Why::Told,
                (Written::All, Found::Nothing) if retires && self.sources.is_empty() => {
                    break Why::Retired;
                }
                // The last of those who have a queue give it up without a word.
                (Written::All, Found::Nothing) if retires => thread::park_timeout(LOOK_INTERVAL),
                (Written::All, Found::Nothing) => self.sleep(),
                (Written::All, Found::All) if !ends => thread::park_timeout(LOOK_INTERVAL),
                (Written::All, Found::All | Found::Batch) => {}
            }
        };
        drop(end);
        why
    }

    /// Until somebody rings, unless somebody would have.
    fn sleep(&mut self) {
        self.told.bell.lie_down();
        let all = [&self.told.end, &self.told.reopen, &self.told.retire];
        let is_told = all.iter().any(|told| told.load(Ordering::Acquire));
        if !is_told && self.look() == Found::Nothing {
            thread::park();
        }
        self.told.bell.get_up();
    }

    /// Makes lines of what is in the queues.
    fn look(&mut self) -> Found {
        let (now, clock) = (Instant::now(), SystemTime::now());
        self.sources.append(&mut lock(&self.told.joining));
        let mut found = Found::Nothing;
        let mut gone = false;
        for source in &mut self.sources {
            while self.pending.len() < BATCH_BYTES {
                let entry = match source.entries.try_recv() {
                    Ok(entry) => entry,
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        (source.is_gone, gone) = (true, true);
                        break;
                    }
                };
                if std::mem::take(&mut self.is_torn) {
                    self.pending.push('\n');
                }
                let time = clock - now.saturating_duration_since(entry.at);
                let route = source.route.as_str();
                line::push(&mut self.pending, source.format, route, time, &entry);
                found = Found::All;
            }
        }
        if gone {
            self.sources.retain(|source| !source.is_gone);
        }
        match self.pending.len() {
            BATCH_BYTES.. => Found::Batch,
            _ => found,
        }
    }

    fn write(&mut self) -> Written {
        while !self.pending.is_empty() {
            match self.file.write(self.pending.as_bytes()) {
                Ok(0) => self.lose(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.is_mid_line = self.pending.as_bytes()[written - 1] != b'\n';
                    self.pending.drain(..written);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Written::Full,
                Err(error) => self.lose(error),
            }
        }
        Written::All
    }

    /// The lines that were to be written are lost; those that follow may fare better.
    fn lose(&mut self, error: io::Error) {
        self.told.errors.add(1);
        self.pending.clear();
        self.is_torn = self.is_mid_line;
        if let Some(failed) = self.failures.count(Instant::now()) {
            tracing::warn!(
                failed,
                "write the {} {}: {}; lines are lost",
                self.kind,
                self.target,
                Errno::from(error)
            );
        }
    }

    fn reopen(&mut self) {
        let LogTarget::File(path) = &self.target else {
            return;
        };
        match open_file(path) {
            Ok(file) => {
                self.file = file;
                self.is_mid_line = false;
                self.is_torn = false;
                tracing::info!("{} {} opened anew", self.kind, self.target);
            }
            Err(error) => tracing::warn!(
                "open the {} {} anew: {}; the old file is written on",
                self.kind,
                self.target,
                Errno::from(error)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;

    use super::super::entry::{Words, sample};
    use super::*;

    fn log(path: &Path, format: RequestLogFormat) -> RequestLog {
        RequestLog {
            kind: LogKind::Access,
            target: LogTarget::File(path.to_owned()),
            format,
        }
    }

    fn entry(uri: &str) -> Box<Entry> {
        Box::new(Entry {
            words: Words::new(b"GET", uri.as_bytes(), b""),
            ..sample()
        })
    }

    #[test]
    fn routes_with_one_file_share_it_and_all_lines_are_there_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let route = |name: &str| name.parse::<RouteName>().unwrap();
        let mut writers = Writers::default();
        let logs = [
            log(&path, RequestLogFormat::Text),
            log(&path, RequestLogFormat::Json),
        ];
        logs.iter().for_each(|log| writers.open(log).unwrap());
        let queues = [
            writers.queue(&logs[0], &route("one")),
            writers.queue(&logs[1], &route("two")),
        ];
        writers.start(|| (), drop).unwrap();
        for number in 0..1000 {
            let queue = &queues[number % 2];
            queue.push(entry(&format!("/{number}"))).unwrap();
        }
        drop(writers);
        let text = fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count(), 1000);
        let of = |start: &str| text.lines().filter(|line| line.contains(start)).count();
        assert_eq!((of(" route=one "), of("\"route\":\"two\"")), (500, 500));
    }

    #[test]
    fn files_come_and_go_while_others_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let logs = ["one.log", "two.log"];
        let logs = logs.map(|name| log(&dir.path().join(name), RequestLogFormat::Text));
        let (left, leaving) = channel();
        let start = |writers: &mut Writers| {
            writers
                .start(|| left.clone(), |left| left.send(()).unwrap())
                .unwrap();
        };
        let mut writers = Writers::default();
        writers.open(&logs[0]).unwrap();
        let first = writers.queue(&logs[0], &RouteName::default());
        start(&mut writers);
        // Another route, and another queue, come to a file that is written.
        writers.open(&logs[0]).unwrap();
        let second = writers.queue(&logs[0], &"second".parse().unwrap());
        writers.open(&logs[1]).unwrap();
        let third = writers.queue(&logs[1], &RouteName::default());
        start(&mut writers);
        second.push(entry("/second")).unwrap();
        drop(second);
        third.push(entry("/third")).unwrap();
        // Whoever has a queue is waited for, and what is in it is written.
        writers.retire_unused(|target| *target == logs[0].target);
        assert!(leaving.try_recv().is_err());
        third.push(entry("/fourth")).unwrap();
        drop(third);
        leaving.recv_timeout(Duration::from_secs(60)).unwrap();
        let read = |log: &RequestLog| match &log.target {
            LogTarget::File(path) => fs::read_to_string(path).unwrap(),
            LogTarget::Stdout => unreachable!(),
        };
        assert_eq!(read(&logs[1]).lines().count(), 2);
        // It is opened again for who wants it again.
        writers.retire_unused(|target| *target == logs[0].target);
        writers.open(&logs[1]).unwrap();
        let fifth = writers.queue(&logs[1], &RouteName::default());
        start(&mut writers);
        fifth.push(entry("/fifth")).unwrap();
        first.push(entry("/first")).unwrap();
        drop(writers);
        assert_eq!(read(&logs[1]).lines().count(), 3);
        let shared = read(&logs[0]);
        assert!(
            shared.contains(" route=second ") && shared.contains("/first"),
            "{shared}"
        );
        assert!(leaving.try_recv().is_err(), "the others were told to end");
    }

    #[test]
    fn what_cannot_be_opened_is_an_error_that_names_it() {
        let path = Path::new("/nonexistent/access.log");
        let error = Writers::default()
            .open(&log(path, RequestLogFormat::Text))
            .unwrap_err();
        assert!(error.to_string().contains("/nonexistent/access.log"));
    }

    /// A writer with a pipe in place of its file, which holds at most 64 KiB.
    fn on_a_pipe() -> (Writer, Queue, io::PipeReader) {
        let (reader, pipe) = io::pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(pipe));
        let told = Arc::<Told>::default();
        let (queue, entries) = Queue::new(&told.bell);
        let source = Source {
            entries,
            route: RouteName::default(),
            format: RequestLogFormat::Text,
            is_gone: false,
        };
        let writer = Writer {
            kind: LogKind::Access,
            target: LogTarget::Stdout,
            file,
            sources: vec![source],
            told,
            pending: String::new(),
            is_mid_line: false,
            is_torn: false,
            failures: Failures::default(),
        };
        (writer, queue, reader)
    }

    #[test]
    fn a_write_that_fails_is_counted_and_the_next_lines_are_written() {
        let (mut writer, queue, reader) = on_a_pipe();
        drop(reader);
        queue.push(entry("/lost")).unwrap();
        assert!(writer.look() == Found::All && writer.write() == Written::All);
        assert_eq!(writer.told.errors.get(), 1);
        let (mut reader, pipe) = io::pipe().unwrap();
        writer.file = File::from(std::os::fd::OwnedFd::from(pipe));
        queue.push(entry("/there")).unwrap();
        assert!(writer.look() == Found::All && writer.write() == Written::All);
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert!(text.contains("/there") && !text.contains("/lost"), "{text}");
    }

    #[test]
    fn a_writer_that_sleeps_is_woken_by_an_entry() {
        let (writer, queue, mut reader) = on_a_pipe();
        let told = Arc::clone(&writer.told);
        let (end, ended) = channel();
        let thread = thread::spawn(move || writer.run(end));
        for _ in 0..3 {
            queue.push(entry("/woken")).unwrap();
            let mut line = [0; 16];
            reader.read_exact(&mut line).unwrap();
            while !told.bell.sleeps.load(Ordering::SeqCst) {
                thread::yield_now();
            }
        }
        told.end.store(true, Ordering::Release);
        told.bell.ring_loudly();
        assert_eq!(ended.recv(), Err(std::sync::mpsc::RecvError));
        thread.join().unwrap();
    }
}
