//! A program in a terminal, and what a person sees there.

use std::fs::File;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::common::eventually;
use crate::common::sys::pty::{self, Modes, Pty};

/// A program whose standard streams are one terminal.
pub(crate) struct InTerminal {
    /// Left out once the window is closed.
    person: Option<File>,
    program: Option<OwnedFd>,
    /// Reads until its pipe is closed.
    reader: Option<(PipeWriter, JoinHandle<()>)>,
    child: Child,
    seen: Arc<Mutex<Seen>>,
    /// Before the program ran.
    modes_before: Modes,
}

/// What has come out of the terminal.
struct Seen {
    parser: vt100::Parser,
    bytes: Vec<u8>,
}

impl InTerminal {
    /// The terminal is nobody's in particular: signals come from the test alone, and the kernel does not reset the
    /// terminal's modes at the program's end.
    pub(crate) fn start(command: Command, columns: u16, rows: u16) -> Self {
        Self::start_with(command, columns, rows, false)
    }

    /// The terminal is the program's own, as a person's is: changes of its size and its end are signals.
    pub(crate) fn start_as_own(command: Command, columns: u16, rows: u16) -> Self {
        Self::start_with(command, columns, rows, true)
    }

    fn start_with(mut command: Command, columns: u16, rows: u16, is_own: bool) -> Self {
        let pty = Pty::new(columns, rows).expect("the system has terminals");
        let modes_before = pty::modes(&pty.person).expect("it is a terminal");
        let stream = || Stdio::from(pty.program.try_clone().expect("descriptors are left"));
        command.stdin(stream()).stdout(stream()).stderr(stream());
        pty::in_own_session(&mut command, is_own);
        let child = command.spawn().expect("the program starts");
        // It holds clones of the program's end.
        drop(command);
        // Of unknown size, it is a usual one.
        let (columns, rows) = match (columns, rows) {
            (0, _) | (_, 0) => (80, 24),
            known => known,
        };
        let seen = Arc::new(Mutex::new(Seen {
            parser: vt100::Parser::new(rows, columns, 0),
            bytes: Vec::new(),
        }));
        let (mut from, to) = (pty.person.try_clone().expect("the same"), Arc::clone(&seen));
        let (stop, stopping) = io::pipe().expect("descriptors are left");
        let read = move || {
            let mut bytes = [0; 4096];
            while pty::wait_for_output(&from, &stop).expect("both are open") {
                // The end of a terminal is an error to who reads it.
                let Ok(count @ 1..) = from.read(&mut bytes) else {
                    return;
                };
                let mut seen = to.lock().unwrap_or_else(PoisonError::into_inner);
                seen.parser.process(&bytes[..count]);
                seen.bytes.extend_from_slice(&bytes[..count]);
            }
        };
        let reader = Some((stopping, thread::spawn(read)));
        Self {
            person: Some(pty.person),
            program: Some(pty.program),
            reader,
            child,
            seen,
            modes_before,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn person(&self) -> &File {
        self.person.as_ref().expect("the window is open")
    }

    /// What a person presses.
    pub(crate) fn press(&self, keys: &str) {
        self.person()
            .write_all(keys.as_bytes())
            .expect("a terminal takes keys");
    }

    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.parser.screen_mut().set_size(rows, columns);
        drop(seen);
        pty::resize(self.person(), columns, rows).expect("it is a terminal");
    }

    /// What is written from now on waits.
    pub(crate) fn stop_output(&self) {
        let program = self.program.as_ref().expect("the window is open");
        pty::stop_output(program).expect("it is a terminal");
    }

    /// Closes the window.
    pub(crate) fn close(&mut self) {
        if let Some((stop, reader)) = self.reader.take() {
            drop(stop);
            reader.join().expect("it panics nowhere");
        }
        self.program = None;
        self.person = None;
    }

    fn look<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What stands on the screen.
    pub(crate) fn text(&self) -> String {
        self.look(|seen| seen.parser.screen().contents())
    }

    /// All bytes that the program has written.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.look(|seen| seen.bytes.clone())
    }

    /// The same in one line, as long sentences are broken: words with one space between them.
    fn words(&self) -> String {
        one_line(&self.text())
    }

    /// Waits for all of this to stand on the screen.
    #[track_caller]
    pub(crate) fn wait_for(&self, parts: &[&str]) {
        eventually(&format!("{parts:?} on the screen"), || {
            let words = self.words();
            parts.iter().all(|part| words.contains(&one_line(part)))
        });
    }

    /// Waits until none of this stands on the screen.
    #[track_caller]
    pub(crate) fn wait_until_gone(&self, part: &str) {
        eventually(&format!("no {part:?} on the screen"), || {
            !self.words().contains(&one_line(part))
        });
    }

    /// Whether the screen is the program's, and keys are told one by one.
    pub(crate) fn is_taken(&self) -> bool {
        self.look(|seen| seen.parser.screen().alternate_screen())
            && pty::modes(self.person()).expect("it is a terminal") != self.modes_before
    }

    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut ended = None;
        eventually("it ends", || {
            ended = self.child.try_wait().expect("it is our child");
            ended.is_some()
        });
        ended.expect("it has ended")
    }

    /// It is as it was: another program may have it.
    #[track_caller]
    pub(crate) fn assert_given_back(&self) {
        eventually("the screen is given back", || {
            self.look(|seen| {
                let screen = seen.parser.screen();
                !screen.alternate_screen() && !screen.hide_cursor()
            })
        });
        self.assert_modes_restored();
        let bytes = self.bytes();
        let last = |sequence: &[u8]| bytes.windows(sequence.len()).rposition(|it| it == sequence);
        // Lines are wrapped again.
        assert!(last(b"\x1b[?7h") > last(b"\x1b[?7l"));
    }

    #[track_caller]
    pub(crate) fn assert_modes_restored(&self) {
        let modes = pty::modes(self.person()).expect("it is a terminal");
        assert_eq!(modes, self.modes_before);
    }
}

fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}

impl Drop for InTerminal {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- on the screen ---\n{}", self.text());
        }
        // It has ended already, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
