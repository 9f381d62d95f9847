//! The terminal: drawn on, and left as it was found.
//!
//! A thread writes what is drawn, one frame at a time: a terminal that takes nothing (a connection that hangs, a window
//! that is stopped) holds up neither keys nor signals, and is sent no frame that is old by the time that it is taken.

use std::io::{self, Write};
use std::mem;
use std::os::fd::AsFd;
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::Duration;

use ratatui::backend::{Backend, ClearType, CrosstermBackend};
use ratatui::buffer::Buffer;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::terminal::{
    DisableLineWrap, EnableLineWrap, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
    enable_raw_mode,
};
use ratatui::crossterm::{execute, queue};
use ratatui::layout::Rect;
use tokio::sync::Notify;

use crate::sys::terminal;

/// Larger terminals are drawn on in part: no screen is, and a frame stays a bounded piece of memory.
const COLUMNS_MAX: u16 = 1000;
const ROWS_MAX: u16 = 400;

/// What a terminal has that does not know: a serial line, or one that nobody has told.
const COLUMNS_USUAL: u16 = 80;
const ROWS_USUAL: u16 = 24;

/// How long the terminal has for what is written last.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether the terminal is ours. The thread that draws writes it, and so does one that panics; an exchange decides
/// between them who gives it back.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// A terminal that is drawn on. Dropped, it is given back.
pub(super) struct Screen {
    backend: CrosstermBackend<Frames>,
    /// What the terminal shows, once all frames are written.
    shown: Buffer,
    written: Arc<Written>,
}

impl Screen {
    /// Takes the terminal.
    pub(super) fn take() -> io::Result<Self> {
        give_back_at_a_panic();
        let written = Arc::<Written>::default();
        let frames = Frames::new(Arc::clone(&written))?;
        let mut screen = Self {
            backend: CrosstermBackend::new(frames),
            shown: Buffer::empty(Rect::ZERO),
            written,
        };
        screen.take_again()?;
        Ok(screen)
    }

    /// After it was given back, or after somebody else may have changed it.
    pub(super) fn take_again(&mut self) -> io::Result<()> {
        IS_TAKEN.store(true, Ordering::SeqCst);
        enable_raw_mode()?;
        queue!(self.backend, EnterAlternateScreen, DisableLineWrap, Hide)?;
        self.forget();
        Ok(())
    }

    /// The next frame is drawn whole.
    pub(super) fn forget(&mut self) {
        self.shown = Buffer::empty(Rect::ZERO);
    }

    /// What can be drawn on.
    pub(super) fn area() -> Rect {
        let size = terminal::size(io::stdout().as_fd());
        let (columns, rows) = size.unwrap_or((COLUMNS_USUAL, ROWS_USUAL));
        Rect::new(0, 0, columns.min(COLUMNS_MAX), rows.min(ROWS_MAX))
    }

    /// Whether the last frame is written: there may be another one.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.written.lock();
        state.written == state.sent
    }

    /// Waits until a frame is written.
    ///
    /// # Errors
    /// If one could not be.
    pub(super) async fn written(&self) -> io::Result<()> {
        self.written.news.notified().await;
        self.written.result()
    }

    /// Draws what is different from what is there.
    pub(super) fn draw(&mut self, next: Buffer) -> io::Result<()> {
        if next.area != self.shown.area {
            self.backend.clear_region(ClearType::All)?;
            self.shown = Buffer::empty(next.area);
        }
        self.backend.draw(self.shown.diff(&next).into_iter())?;
        self.shown = next;
        Write::flush(&mut self.backend)
    }

    /// Gives the terminal back as it was.
    pub(super) fn give_back(&mut self) {
        if !IS_TAKEN.swap(false, Ordering::SeqCst) {
            return;
        }
        // A terminal that is gone needs nothing.
        let _ = restore_on(&mut self.backend);
        self.written.wait_for_all();
        let _ = disable_raw_mode();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.give_back();
    }
}

fn restore_on(terminal: &mut impl Write) -> io::Result<()> {
    execute!(terminal, EnableLineWrap, LeaveAlternateScreen, Show)
}

/// What is said of a panic is to be read.
fn give_back_at_a_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if IS_TAKEN.swap(false, Ordering::SeqCst) {
                let _ = restore_on(&mut io::stdout());
                let _ = disable_raw_mode();
            }
            before(info);
        }));
    });
}

/// Collects a frame, and hands it to the thread that writes.
struct Frames {
    frame: Vec<u8>,
    to: SyncSender<Vec<u8>>,
    written: Arc<Written>,
}

impl Frames {
    fn new(written: Arc<Written>) -> io::Result<Self> {
        // One that is not taken yet, and the last words behind it.
        let (to, from) = sync_channel(2);
        let of_writer = Arc::clone(&written);
        thread::Builder::new()
            .name("screen".to_owned())
            .spawn(move || write_all_of(&from, &of_writer))?;
        Ok(Self {
            frame: Vec::new(),
            to,
            written,
        })
    }
}

impl Write for Frames {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.frame.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    /// The frame is complete.
    fn flush(&mut self) -> io::Result<()> {
        if self.frame.is_empty() {
            return Ok(());
        }
        let frame = mem::take(&mut self.frame);
        // Before it may be written.
        self.written.lock().sent += 1;
        self.to.try_send(frame).map_err(|_| {
            io::Error::new(
                io::ErrorKind::TimedOut,
                "the terminal takes nothing any more",
            )
        })
    }
}

/// Until nobody draws any more, or the terminal is gone.
fn write_all_of(frames: &Receiver<Vec<u8>>, written: &Written) {
    for frame in frames {
        let mut terminal = io::stdout().lock();
        let result = terminal.write_all(&frame).and_then(|()| terminal.flush());
        drop(terminal);
        let is_over = result.is_err();
        written.add(result);
        if is_over {
            return;
        }
    }
}

/// How many frames there are. The thread that draws counts those that it sends, the one that writes those that are
/// written.
#[derive(Default)]
struct Written {
    state: Mutex<WrittenState>,
    changed: Condvar,
    news: Notify,
}

#[derive(Default)]
struct WrittenState {
    sent: usize,
    written: usize,
    error: Option<io::Error>,
}

impl Written {
    fn lock(&self) -> MutexGuard<'_, WrittenState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, result: io::Result<()>) {
        let mut state = self.lock();
        state.written += 1;
        state.error = result.err();
        drop(state);
        self.changed.notify_all();
        self.news.notify_one();
    }

    fn result(&self) -> io::Result<()> {
        self.lock().error.take().map_or(Ok(()), Err)
    }

    /// For as long as the terminal may take.
    fn wait_for_all(&self) {
        let is_missing =
            |state: &mut WrittenState| state.written < state.sent && state.error.is_none();
        // What is not written then, nobody reads.
        let _ = self
            .changed
            .wait_timeout_while(self.lock(), PATIENCE, is_missing);
    }
}
