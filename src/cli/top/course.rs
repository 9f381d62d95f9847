//! The main loop of the view: answers, keys, signals and the time come in, and frames go out.

use std::env;
use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{self, MissedTickBehavior};

use super::TopCommand;
use super::asking::{Answer, ask_on};
use super::keys::action;
use super::model::{Effect, Model};
use super::screen::Screen;
use super::view::{self, Palette};
use crate::cli::status::Error;
use crate::sys::terminal;

/// How often what is said of the time is drawn anew, and the terminal looked after.
const CLOCK_INTERVAL: Duration = Duration::from_secs(1);

/// Keys that nobody has read yet. Whoever holds one down waits.
const KEYS_MAX: usize = 64;

/// Answers that wait: one of each question.
const ANSWERS_MAX: usize = 2;

/// Shows the view until somebody ends it.
///
/// # Errors
/// If the terminal cannot be driven.
pub(super) async fn run(command: &TopCommand) -> Result<(), Error> {
    let signals = Signals::new().map_err(Error::Signals)?;
    let screen = Screen::take().map_err(Error::Terminal)?;
    let mut course = Course {
        model: Model::new(command),
        screen,
        signals,
        palette: Palette::new(!is_without_colour()),
        is_old: true,
    };
    let (want, wanted) = watch::channel(course.model.wanted());
    let (tell, told) = mpsc::channel(ANSWERS_MAX);
    tokio::select! {
        () = ask_on(&command.control, command.interval, wanted, tell) => {
            unreachable!("somebody listens")
        }
        ended = course.run(told, read_events(), &want) => ended,
    }
}

/// <https://no-color.org>: whatever it says, unless it is empty.
fn is_without_colour() -> bool {
    env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// What the terminal says, from a thread that ends with the process: nothing else interrupts a read.
fn read_events() -> mpsc::Receiver<io::Result<Event>> {
    let (tell, told) = mpsc::channel(KEYS_MAX);
    thread::spawn(move || {
        loop {
            let event = event::read();
            let is_over = event.is_err();
            if tell.blocking_send(event).is_err() || is_over {
                return;
            }
        }
    });
    told
}

struct Course {
    model: Model,
    screen: Screen,
    signals: Signals,
    palette: Palette,
    /// Something is to be drawn.
    is_old: bool,
}

/// Whether to go on.
type Next = Result<Going, Error>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Going {
    On,
    End,
}

impl Course {
    async fn run(
        &mut self,
        mut told: mpsc::Receiver<Answer>,
        mut events: mpsc::Receiver<io::Result<Event>>,
        want: &watch::Sender<super::asking::Wanted>,
    ) -> Result<(), Error> {
        let mut clock = time::interval(CLOCK_INTERVAL);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.draw().map_err(Error::Output)?;
            let next = tokio::select! {
                Some(answer) = told.recv() => {
                    self.model.hear(answer, Instant::now());
                    self.is_old = true;
                    Ok(Going::On)
                }
                Some(event) = events.recv() => self.take_event(event),
                signal = self.signals.next() => self.take_signal(signal),
                written = self.screen.written() => {
                    written.map(|()| Going::On).map_err(Error::Output)
                }
                _ = clock.tick() => self.look_after_terminal(),
            };
            if next? == Going::End {
                return Ok(());
            }
            let wanted = self.model.wanted();
            want.send_if_modified(|before| {
                let is_new = *before != wanted;
                *before = wanted;
                is_new
            });
        }
    }

    /// If there is something to draw, and the terminal has taken what was there before.
    fn draw(&mut self) -> io::Result<()> {
        if !self.is_old || !self.screen.is_idle() {
            return Ok(());
        }
        let area = Screen::area();
        let mut buffer = Buffer::empty(area);
        let now = Instant::now();
        self.model.extent = view::draw(&self.model, now, self.palette, area, &mut buffer);
        self.is_old = false;
        self.screen.draw(buffer)
    }

    fn take_event(&mut self, event: io::Result<Event>) -> Next {
        self.is_old = true;
        let key = match event.map_err(Error::Terminal)? {
            Event::Key(key) => key,
            // What was drawn may have moved.
            Event::Resize(..) => {
                self.screen.forget();
                return Ok(Going::On);
            }
            Event::FocusGained | Event::FocusLost | Event::Mouse(_) | Event::Paste(_) => {
                return Ok(Going::On);
            }
        };
        let effect = action(key).map(|action| self.model.act(action, Instant::now()));
        match effect {
            None | Some(Effect::Nothing) => Ok(Going::On),
            Some(Effect::Quit) => Ok(Going::End),
            Some(Effect::Suspend) => self.suspend(),
            Some(Effect::Redraw) => {
                self.screen.forget();
                Ok(Going::On)
            }
        }
    }

    fn take_signal(&mut self, signal: Heard) -> Next {
        match signal {
            Heard::End => Ok(Going::End),
            Heard::Stop => self.suspend(),
            // The shell may have had the terminal meanwhile.
            Heard::GoOn => self.resume(),
        }
    }

    /// Back to the shell, until it has this go on.
    fn suspend(&mut self) -> Next {
        self.screen.give_back();
        terminal::stop().map_err(|errno| Error::Signals(errno.into()))?;
        self.resume()
    }

    fn resume(&mut self) -> Next {
        self.screen.take_again().map_err(Error::Terminal)?;
        self.is_old = true;
        Ok(Going::On)
    }

    /// Whoever reads keys does not notice that nobody is there any more.
    fn look_after_terminal(&mut self) -> Next {
        self.is_old = true;
        let is_gone = terminal::is_gone(io::stdout().as_fd());
        Ok(if is_gone { Going::End } else { Going::On })
    }
}

/// What is waited for.
struct Signals {
    ends: [Signal; 4],
    stop: Signal,
    go_on: Signal,
}

/// What a signal is for.
#[derive(Clone, Copy)]
enum Heard {
    End,
    Stop,
    GoOn,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            ends: [
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
                signal(SignalKind::quit())?,
            ],
            stop: signal(SignalKind::from_raw(libc::SIGTSTP))?,
            go_on: signal(SignalKind::from_raw(libc::SIGCONT))?,
        })
    }

    async fn next(&mut self) -> Heard {
        let [interrupt, terminate, hangup, quit] = &mut self.ends;
        tokio::select! {
            _ = interrupt.recv() => Heard::End,
            _ = terminate.recv() => Heard::End,
            _ = hangup.recv() => Heard::End,
            _ = quit.recv() => Heard::End,
            _ = self.stop.recv() => Heard::Stop,
            _ = self.go_on.recv() => Heard::GoOn,
        }
    }
}
