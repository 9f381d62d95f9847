//! Plays a script: one peer with its two threads, and what peers know of each other.

use crate::common::uninterrupted;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use crate::common::sys::{half_close, reset_on_close, wait_for_bytes};
use crate::common::{GUARD, KB, MB, Pattern};

use super::outcome::Ending;
use super::script::{Leaving, Peer, Receive, Script, Send, Stream};

/// A write call of a script takes at most this many bytes, so that others see how far it has come.
const WRITE_BYTES: u64 = 64 * KB;
const READ_BYTES: usize = 256 * 1024;

/// More than all sockets and pipes on the way: whoever may write this much is not refused.
const WRITTEN_ON_BYTES_MAX: u64 = 64 * MB;

/// How far a session has come, for those who wait.
#[derive(Default)]
pub(crate) struct Stage {
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default)]
struct Progress {
    backend_connected: bool,
    /// Of the streams, by [`Stream::index`].
    sent: [Half; 2],
    received: [Half; 2],
}

/// One stream at one of its ends.
#[derive(Clone, Copy, Default)]
struct Half {
    bytes: u64,
    /// The end was read.
    end: bool,
    /// Its thread does nothing more.
    over: bool,
}

/// How the steps of a sender or a receiver came out.
enum Played {
    /// To the last one.
    Done,
    /// What it waited for will not happen any more: the session was ended before.
    CutShort,
    /// The receiver read the end of the stream, be it earlier than the script says.
    End,
    /// The connection is reset, or refuses what is sent.
    Broken,
    Wrong(String),
}

impl Stage {
    pub(crate) fn backend_is_connected(&self) {
        self.change(|progress| progress.backend_connected = true);
    }

    /// Bytes of the streams that were received.
    pub(crate) fn received(&self) -> [u64; 2] {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.received.map(|half| half.bytes)
    }

    fn change(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// Waits for something that `half` is to reach; false if it never will.
    fn wait_for(
        &self,
        half: impl Fn(&Progress) -> Half,
        reached: impl Fn(Half) -> bool,
    ) -> io::Result<bool> {
        let looks = |progress: &Progress| reached(half(progress)) || half(progress).over;
        let progress = self.wait_until(looks)?;
        Ok(reached(half(&progress)))
    }

    fn wait_until(&self, holds: impl Fn(&Progress) -> bool) -> io::Result<Progress> {
        let deadline = Instant::now() + GUARD;
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        while !holds(&progress) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::other("waited in vain for the other threads"));
            }
            let waited = self.changed.wait_timeout(progress, left);
            progress = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(*progress)
    }
}

/// Plays the part of `peer` on its socket, to the close.
pub(crate) fn play<S>(script: &Script, peer: Peer, socket: S, stage: &Stage) -> Ending
where
    S: AsRawFd + Sync,
    for<'a> &'a S: Read + Write,
{
    let mut sender = Sender::new(script, peer, &socket, stage);
    let mut receiver = Receiver::new(script, peer, &socket, stage);
    let to_the_end = match script.leaving(peer) {
        Leaving::AfterTheEnd | Leaving::AfterWritingOn => true,
        Leaving::Early | Leaving::WithBytesUnread | Leaving::WithReset => false,
    };
    let (sent, received) = thread::scope(|scope| {
        let sent = scope.spawn(|| sender.play());
        let received = receiver.play(to_the_end);
        (sent.join().expect("a sender does not panic"), received)
    });
    let left = leave(script.leaving(peer), &socket, &mut sender, stage);
    ending(script.leaving(peer), [sent, received, left])
}

/// What a peer does after its steps. The close itself is the caller's.
fn leave<S>(leaving: Leaving, socket: &S, sender: &mut Sender<'_, S>, stage: &Stage) -> Played
where
    S: AsRawFd,
    for<'a> &'a S: Write,
{
    let played = match leaving {
        Leaving::AfterTheEnd => Ok(Played::Done),
        Leaving::AfterWritingOn => sender
            .write(WRITTEN_ON_BYTES_MAX)
            .map(|()| Played::Wrong("nothing was refused".into())),
        // A client that leaves before its backend is connected need not get one.
        Leaving::Early => stage
            .wait_until(|progress| progress.backend_connected)
            .map(|_| Played::Done),
        Leaving::WithBytesUnread => wait_for_bytes(socket).map(|some| match some {
            true => Played::Done,
            false => Played::Wrong("no byte came to be left unread".into()),
        }),
        Leaving::WithReset => reset_on_close(socket).map(|()| Played::Done),
    };
    played.unwrap_or_else(|error| Played::of(&error))
}

/// What a peer would report of its session.
fn ending(leaving: Leaving, played: [Played; 3]) -> Ending {
    let mut broken = [false; 3];
    let mut end = false;
    for (broken, played) in broken.iter_mut().zip(played) {
        match played {
            Played::Wrong(what) => return Ending::Wrong(what),
            Played::Broken => *broken = true,
            Played::End => end = true,
            Played::Done | Played::CutShort => {}
        }
    }
    match (leaving, broken) {
        (Leaving::AfterWritingOn, [false, false, true]) if end => Ending::EndThenRefused,
        (_, [false, false, false]) if end => Ending::End,
        (Leaving::Early | Leaving::WithBytesUnread | Leaving::WithReset, [false, false, false]) => {
            Ending::Left
        }
        _ => Ending::Broken,
    }
}

impl Played {
    fn of(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::NotConnected => {
                Self::Broken
            }
            ErrorKind::WouldBlock => Self::Wrong("a socket that never became ready".into()),
            _ => Self::Wrong(error.to_string()),
        }
    }
}

/// A peer's sending thread.
struct Sender<'a, S> {
    steps: &'a [Send],
    pattern: Pattern,
    stream: Stream,
    socket: &'a S,
    stage: &'a Stage,
    position: u64,
}

impl<'a, S> Sender<'a, S>
where
    S: AsRawFd,
    for<'b> &'b S: Write,
{
    fn new(script: &'a Script, peer: Peer, socket: &'a S, stage: &'a Stage) -> Self {
        let stream = peer.sends();
        Self {
            steps: &script.course(stream).sender,
            pattern: script.pattern(stream),
            stream,
            socket,
            stage,
            position: 0,
        }
    }

    fn play(&mut self) -> Played {
        let played = self.play_steps().unwrap_or_else(|error| Played::of(&error));
        let index = self.stream.index();
        self.stage
            .change(|progress| progress.sent[index].over = true);
        played
    }

    fn play_steps(&mut self) -> io::Result<Played> {
        let (own, other) = (self.stream.index(), self.stream.other().index());
        let delivered = |progress: &Progress| progress.received[own];
        let received = |progress: &Progress| progress.received[other];
        for step in self.steps {
            let goes_on = match *step {
                Send::Write(count) => self.write(count).map(|()| true)?,
                Send::AwaitDelivered(count) => {
                    self.stage.wait_for(delivered, |half| half.bytes >= count)?
                }
                Send::AwaitReceived(count) => {
                    self.stage.wait_for(received, |half| half.bytes >= count)?
                }
                Send::AwaitEnd => self.stage.wait_for(received, |half| half.end)?,
                Send::HalfClose => half_close(self.socket).map(|()| true)?,
            };
            if !goes_on {
                return Ok(Played::CutShort);
            }
        }
        Ok(Played::Done)
    }

    fn write(&mut self, count: u64) -> io::Result<()> {
        let end = self.position + count;
        while self.position < end {
            let now = WRITE_BYTES.min(end - self.position);
            self.pattern
                .send_range(&mut &*self.socket, self.position, now)?;
            self.position += now;
            let index = self.stream.index();
            self.stage
                .change(|progress| progress.sent[index].bytes += now);
        }
        Ok(())
    }
}

/// A peer's receiving thread.
struct Receiver<'a, S> {
    steps: &'a [Receive],
    pattern: Pattern,
    stream: Stream,
    socket: &'a S,
    stage: &'a Stage,
    buffer: Vec<u8>,
    position: u64,
}

impl<'a, S> Receiver<'a, S>
where
    S: AsRawFd,
    for<'b> &'b S: Read,
{
    fn new(script: &'a Script, peer: Peer, socket: &'a S, stage: &'a Stage) -> Self {
        let stream = peer.receives();
        Self {
            steps: &script.course(stream).receiver,
            pattern: script.pattern(stream),
            stream,
            socket,
            stage,
            buffer: vec![0; READ_BYTES],
            position: 0,
        }
    }

    fn play(&mut self, to_the_end: bool) -> Played {
        let steps = self.play_steps().unwrap_or_else(|error| Played::of(&error));
        let played = match steps {
            Played::Done | Played::CutShort if to_the_end => self
                .read_to_the_end()
                .unwrap_or_else(|error| Played::of(&error)),
            played => played,
        };
        let index = self.stream.index();
        self.stage
            .change(|progress| progress.received[index].over = true);
        played
    }

    fn play_steps(&mut self) -> io::Result<Played> {
        let sent = self.stream.index();
        for step in self.steps {
            match *step {
                Receive::Read(count) => {
                    let end = self.position + count;
                    while self.position < end {
                        if self.read(end - self.position)? == 0 {
                            return Ok(Played::End);
                        }
                    }
                }
                Receive::AwaitSent(count) => {
                    let sent = |progress: &Progress| progress.sent[sent];
                    if !self.stage.wait_for(sent, |half| half.bytes >= count)? {
                        return Ok(Played::CutShort);
                    }
                }
                Receive::ReadEnd => {
                    if self.read(1)? != 0 {
                        return Ok(Played::Wrong("a byte where the end should be".into()));
                    }
                }
            }
        }
        Ok(Played::Done)
    }

    fn read_to_the_end(&mut self) -> io::Result<Played> {
        while self.read(u64::MAX)? > 0 {}
        Ok(Played::End)
    }

    /// Reads at most `most` bytes, all of them right; 0 is the end.
    fn read(&mut self, most: u64) -> io::Result<usize> {
        let room = usize::try_from(most).unwrap_or(READ_BYTES).min(READ_BYTES);
        let mut socket = self.socket;
        let count = uninterrupted(|| socket.read(&mut self.buffer[..room]))?;
        if let Some(position) = self.pattern.mismatch(self.position, &self.buffer[..count]) {
            let what = format!("the byte at {position} of {:?} is wrong", self.stream);
            return Err(io::Error::other(what));
        }
        self.position += count as u64;
        let index = self.stream.index();
        self.stage.change(|progress| {
            progress.received[index].bytes += count as u64;
            progress.received[index].end = count == 0;
        });
        Ok(count)
    }
}
