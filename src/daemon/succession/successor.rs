//! The predecessor's side: a process has come that wants the daemon's place.
//!
//! ```text
//!          hello           ready               all workers have       serving
//!   Met -----------> Offered -------> Ready ------------------> Yielded --------> the drain
//!    |                  |               |      left the sockets     |
//!    +------------------+---------------+---------------------------+--> nothing has happened
//! ```
//!
//! A task talks with it, so that nobody waits for it; the main loop hears what it comes to ([`Step`]), and says what
//! is to be said. The connection's end before `serving` means that it does not come; after that, that it is gone.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as Connection;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time;

use super::super::helpers::Helpers;
use super::line::{Line, Said};
use super::wire::{Hello, Message, Ready, SCHEMA};

/// How long a successor may take to say what it is: it does so at once.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it may take to be ready. It binds, opens logs, makes rings and starts threads.
pub(super) const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long it may take from when the sockets are its own until it accepts: nobody does meanwhile.
const SERVING_TIMEOUT: Duration = Duration::from_secs(10);

/// A process that is to take the daemon's place, for the main loop.
pub(in super::super) struct Successor {
    steps: UnboundedReceiver<Step>,
    say: UnboundedSender<Said>,
    /// Nothing more is to be said.
    end: Arc<Notify>,
}

/// What a successor has come to.
#[derive(Debug)]
pub(in super::super) enum Step {
    /// It is this process of this version. It waits for what it is offered.
    Met { pid: u32, version: String },
    /// It needs nothing more but the sockets that it has named.
    Ready(Ready),
    /// It accepts clients.
    Serving,
    /// It does not come, and why.
    Failed(Failure),
    /// After it has served: it is gone.
    Gone,
}

/// Why a successor does not come.
#[derive(Debug)]
pub(in super::super) enum Failure {
    /// It has left, for reasons of its own.
    Left(String),
    /// The daemon has sent it away.
    SentAway(String),
    /// It says nothing, and may be there for ever.
    Hangs(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Left(why) | Self::SentAway(why) | Self::Hangs(why) => f.write_str(why),
        }
    }
}

impl Successor {
    /// Talks with whoever is at the other end. To be called on the runtime.
    ///
    /// # Errors
    /// If the runtime cannot wait for it.
    pub(super) fn meet(connection: OwnedFd, helpers: &Helpers) -> io::Result<Self> {
        let connection = Connection::from(connection);
        connection.set_nonblocking(true)?;
        let line = Line::new(UnixStream::from_std(connection)?);
        let (tell, steps) = unbounded_channel();
        let (say, said) = unbounded_channel();
        let end = Arc::new(Notify::new());
        let talk = Talk {
            line,
            tell,
            said,
            end: Arc::clone(&end),
        };
        helpers.spawn("the task that talks with a successor", talk.hold());
        Ok(Self { steps, say, end })
    }

    /// What it comes to next.
    pub(super) async fn next(&mut self) -> Step {
        let step = self.steps.recv().await;
        step.unwrap_or_else(|| {
            let why = "the task that talks with it has ended".to_owned();
            Step::Failed(Failure::Left(why))
        })
    }

    /// Says something to it. If it is gone, that is heard of.
    pub(super) fn say(&self, message: Message, descriptor: Option<OwnedFd>) {
        let _ = self.say.send((message, descriptor));
    }

    /// A way to say something to it, for others.
    pub(super) fn sayer(&self) -> UnboundedSender<Said> {
        self.say.clone()
    }

    /// Waits until all that was to be said to it is said, clients among that, or it is gone.
    pub(in super::super) async fn part(mut self) {
        self.end.notify_one();
        while !matches!(self.next().await, Step::Gone | Step::Failed(_)) {}
    }

    /// It is to hear why it cannot come.
    pub(super) fn refuse(&self, line: String) {
        self.say(Message::Refused { line }, None);
    }
}

/// The task's part.
struct Talk {
    line: Line,
    /// Nobody hears it any more when the daemon ends, or has sent the successor away.
    tell: UnboundedSender<Step>,
    said: UnboundedReceiver<Said>,
    end: Arc<Notify>,
}

impl Talk {
    async fn hold(mut self) {
        if let Err(why) = self.until_it_serves().await {
            let _ = self.tell.send(Step::Failed(why));
            return;
        }
        let _ = self.tell.send(Step::Serving);
        self.until_its_end().await;
        let _ = self.tell.send(Step::Gone);
    }

    async fn until_it_serves(&mut self) -> Result<(), Failure> {
        let (pid, version) = self.greet().await?;
        let _ = self.tell.send(Step::Met { pid, version });
        let ready = within(READY_TIMEOUT, "to be ready", self.wait_for_ready()).await?;
        let _ = self.tell.send(Step::Ready(ready));
        // As long as the main loop takes to have all workers leave the sockets.
        while self.say_next().await? != Message::Yours {}
        within(SERVING_TIMEOUT, "to serve", self.wait_for_serving()).await
    }

    async fn greet(&mut self) -> Result<(u32, String), Failure> {
        let hello = within(HELLO_TIMEOUT, "to say what it is", hear(&mut self.line)).await?;
        let Message::Hello(Hello {
            schema,
            version,
            pid,
        }) = hello
        else {
            return Err(Failure::SentAway(format!("it began with {hello:?}")));
        };
        if schema != SCHEMA {
            let line = format!(
                "this is spliceway {}, which speaks version {SCHEMA} of this and not {schema} (restart instead)",
                env!("CARGO_PKG_VERSION")
            );
            let _ = self.line.say(&Message::Refused { line }, None).await;
            return Err(Failure::SentAway(format!(
                "it is of version {version}, which speaks version {schema} of this and not {SCHEMA}"
            )));
        }
        let hello = Message::Hello(Hello {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: process::id(),
        });
        self.line.say(&hello, None).await.map_err(broken)?;
        Ok((pid, version))
    }

    /// Says what it is offered, until it is ready.
    async fn wait_for_ready(&mut self) -> Result<Ready, Failure> {
        loop {
            if self.say_next().await? == Message::Offered {
                break;
            }
        }
        loop {
            if let Message::Ready(ready) = hear(&mut self.line).await? {
                return Ok(ready);
            }
        }
    }

    async fn wait_for_serving(&mut self) -> Result<(), Failure> {
        loop {
            if hear(&mut self.line).await? == Message::Serving {
                return Ok(());
            }
        }
    }

    /// Says the next thing that the main loop wants said, while it is heard whether anybody is there.
    async fn say_next(&mut self) -> Result<Message, Failure> {
        let said = loop {
            tokio::select! {
                said = self.said.recv() => break said,
                // What was said before is still received.
                () = self.end.notified() => self.said.close(),
                heard = hear(&mut self.line) => drop(heard?),
            }
        };
        let Some((message, descriptor)) = said else {
            let why = "the daemon has nothing more to say to it".to_owned();
            return Err(Failure::SentAway(why));
        };
        let descriptor = descriptor.as_ref().map(AsFd::as_fd);
        self.line.say(&message, descriptor).await.map_err(broken)?;
        match message {
            Message::Refused { line } => Err(Failure::SentAway(line)),
            message => Ok(message),
        }
    }

    /// Says what is to be said while the daemon drains.
    async fn until_its_end(&mut self) {
        loop {
            if let Err(why) = self.say_next().await {
                return tracing::debug!("the successor: {why}");
            }
        }
    }
}

/// The next message.
async fn hear(line: &mut Line) -> Result<Message, Failure> {
    match line.next().await {
        Ok(Some((message, _))) => Ok(message),
        Ok(None) => Err(Failure::Left(
            "it has ended the connection (see its lines in the log)".to_owned(),
        )),
        Err(error) => Err(broken(error)),
    }
}

fn broken(error: io::Error) -> Failure {
    let why = format!("the connection to it is broken: {error} (see its lines in the log)");
    match error.kind() {
        // It takes nothing of what it is told.
        io::ErrorKind::TimedOut => Failure::Hangs(why),
        _ => Failure::Left(why),
    }
}

async fn within<T>(
    time: Duration,
    what_for: &str,
    what: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    time::timeout(time, what).await.unwrap_or_else(|_| {
        Err(Failure::Hangs(format!(
            "it took longer than {} s {what_for} (see its lines in the log)",
            time.as_secs()
        )))
    })
}
