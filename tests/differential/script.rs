//! Scripts: what each peer of a session does, drawn from a seed so that the outcome is determined.
//!
//! Each direction has a sender and a receiver, and each of these is a thread with steps of its own.
//! Steps are drawn one after the other, as if everything happened in that order. A wait refers only
//! to what was drawn before it: bytes that have been read by then, an end that has been read, or
//! sent bytes of which so few are unread that the sockets hold them ([`HELD_BYTES`]). So whatever
//! the threads do, all steps before a wait can be finished without any step after it: no script
//! locks up by itself, however little a proxy buffers.
//!
//! Then the session is ended in one of six ways, whose conditions the last steps establish.

use crate::common::{KB, MB, Pattern, Random};

use super::outcome::{Bytes, Ending, Outcome, Verdict};

/// What the sockets on the way hold for certain while nobody reads: a small part of the 200 KB that
/// the Unix socket alone takes.
const HELD_BYTES: u64 = 32 * KB;

const STEPS_MAX: u64 = 24;
const WRITE_BYTES_MAX: u64 = MB;

/// In one direction. A script with more of it finds nothing new, only later.
const STREAM_BYTES_MAX: u64 = 12 * MB;

/// Full writes that come together: more than the 2.6 MB that a TCP socket on loopback takes unsent,
/// so that a sender finds it full.
const FLOOD_MAX: u64 = 8;

/// Writes that come together to be small segments in a row.
const BURST_MAX: u64 = 60;
const BURST_WRITE_BYTES_MAX: u64 = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Client,
    Backend,
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// From the client to the backend.
    Up,
    Down,
}

/// A step of a stream's sender.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Send {
    Write(u64),
    /// Until the stream's receiver has this many bytes: a pause until the peer has seen them.
    AwaitDelivered(u64),
    /// Until the sender's own peer has received this many bytes of the other stream: an answer.
    AwaitReceived(u64),
    /// Until the sender's own peer has read the end of the other stream.
    AwaitEnd,
    HalfClose,
}

/// A step of a stream's receiver.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Receive {
    Read(u64),
    /// Until the stream's sender has handed over this many bytes: they pile up unread.
    AwaitSent(u64),
    /// The clean end, without another byte.
    ReadEnd,
}

/// What a peer does after its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// Reads to the end, whichever it is, and closes.
    AfterTheEnd,
    /// Reads to the end, and writes then until it is refused.
    AfterWritingOn,
    /// Closes, with nothing unread and nothing to come.
    Early,
    /// Closes with bytes unread: an abort on AF_UNIX, a reset on TCP.
    WithBytesUnread,
    /// Resets; TCP only.
    WithReset,
}

#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) seed: u64,
    pub(crate) up: Course,
    pub(crate) down: Course,
    pub(crate) client: Leaving,
    pub(crate) backend: Leaving,
    pub(crate) outcome: Outcome,
}

/// What happens in one direction.
#[derive(Debug, Default)]
pub(crate) struct Course {
    pub(crate) sender: Vec<Send>,
    pub(crate) receiver: Vec<Receive>,
}

impl Peer {
    pub(crate) fn sends(self) -> Stream {
        match self {
            Self::Client => Stream::Up,
            Self::Backend => Stream::Down,
        }
    }

    pub(crate) fn receives(self) -> Stream {
        self.sends().other()
    }
}

impl Stream {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
        }
    }

    pub(crate) fn index(self) -> usize {
        match self {
            Self::Up => 0,
            Self::Down => 1,
        }
    }
}

impl Script {
    pub(crate) fn generate(seed: u64) -> Self {
        let mut draft = Draft::new(seed);
        for _ in 0..draft.random.within(0..=STEPS_MAX) {
            draft.add_step();
        }
        draft.finish()
    }

    pub(crate) fn course(&self, stream: Stream) -> &Course {
        match stream {
            Stream::Up => &self.up,
            Stream::Down => &self.down,
        }
    }

    pub(crate) fn leaving(&self, peer: Peer) -> Leaving {
        match peer {
            Peer::Client => self.client,
            Peer::Backend => self.backend,
        }
    }

    pub(crate) fn pattern(&self, stream: Stream) -> Pattern {
        Pattern::new(2 * self.seed + stream.index() as u64)
    }
}

/// A script in the making, and where it stands if everything happened as drawn.
struct Draft {
    seed: u64,
    random: Random,
    streams: [Progress; 2],
}

#[derive(Default)]
struct Progress {
    course: Course,
    sent: u64,
    received: u64,
    ended: bool,
    end_read: bool,
}

impl Progress {
    fn unread(&self) -> u64 {
        self.sent - self.received
    }
}

impl Draft {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            random: Random::new(seed),
            streams: Default::default(),
        }
    }

    fn at(&mut self, stream: Stream) -> &mut Progress {
        &mut self.streams[stream.index()]
    }

    // --- the middle ---------------------------------------------------------------------------

    /// Adds a step, or none where the one that was drawn would make no sense.
    fn add_step(&mut self) {
        let stream = self.random.pick(&[Stream::Up, Stream::Down]);
        match self.random.within(0..=23) {
            0..=5 => self.write(stream, WRITE_BYTES_MAX),
            6 | 7 => {
                for _ in 0..self.random.within(2..=BURST_MAX) {
                    self.write(stream, BURST_WRITE_BYTES_MAX);
                }
            }
            8 => {
                for _ in 0..self.random.within(2..=FLOOD_MAX) {
                    self.write_exactly(stream, WRITE_BYTES_MAX);
                }
            }
            9..=14 => self.read_some(stream),
            15 | 16 => {
                let received = self.at(stream).received;
                let step = Send::AwaitDelivered(received);
                self.at(stream).course.sender.push(step);
            }
            17 | 18 => {
                let received = self.at(stream.other()).received;
                let step = Send::AwaitReceived(received);
                self.at(stream).course.sender.push(step);
            }
            19..=21 => {
                let progress = self.at(stream);
                let held = progress.unread().min(HELD_BYTES);
                let step = Receive::AwaitSent(progress.received + held);
                progress.course.receiver.push(step);
            }
            _ => self.end_or_read_end(stream),
        }
    }

    fn write(&mut self, stream: Stream, bytes_max: u64) {
        let count = self.random.size(bytes_max);
        self.write_exactly(stream, count);
    }

    fn write_exactly(&mut self, stream: Stream, count: u64) {
        let progress = self.at(stream);
        if !progress.ended && progress.sent + count <= STREAM_BYTES_MAX {
            progress.sent += count;
            progress.course.sender.push(Send::Write(count));
        }
    }

    fn read_some(&mut self, stream: Stream) {
        let unread = self.at(stream).unread();
        if unread > 0 && self.random.one_in(2) {
            let count = self.random.within(1..=unread);
            self.read(stream, count);
        } else {
            self.read(stream, unread);
        }
    }

    fn read(&mut self, stream: Stream, count: u64) {
        let progress = self.at(stream);
        if count > 0 {
            progress.received += count;
            progress.course.receiver.push(Receive::Read(count));
        }
    }

    fn read_all(&mut self, stream: Stream) {
        let unread = self.at(stream).unread();
        self.read(stream, unread);
    }

    /// Ends a stream; one that has ended already is read to its end, and its reader's own stream
    /// goes on only then.
    fn end_or_read_end(&mut self, stream: Stream) {
        let progress = self.at(stream);
        if !progress.ended {
            self.end(stream);
        } else if !progress.end_read {
            self.read_all(stream);
            let progress = self.at(stream);
            progress.end_read = true;
            progress.course.receiver.push(Receive::ReadEnd);
            self.at(stream.other()).course.sender.push(Send::AwaitEnd);
        }
    }

    fn end(&mut self, stream: Stream) {
        let progress = self.at(stream);
        if !progress.ended {
            progress.ended = true;
            progress.course.sender.push(Send::HalfClose);
        }
    }

    // --- the end ------------------------------------------------------------------------------

    fn finish(mut self) -> Script {
        match self.random.within(0..=9) {
            0 => self.client_leaves_early(),
            1 => self.backend_leaves_early(),
            2 | 3 if self.has_unread(Stream::Down) && !self.at(Stream::Up).ended => {
                self.client_aborts()
            }
            4 => self.backend_breaks_off(Leaving::WithReset),
            5 if self.has_unread(Stream::Up) => self.backend_breaks_off(Leaving::WithBytesUnread),
            _ => self.both_end(),
        }
    }

    /// Whether there are bytes to be left unread, if need be new ones.
    fn has_unread(&mut self, stream: Stream) -> bool {
        if self.at(stream).unread() == 0 {
            self.write(stream, WRITE_BYTES_MAX);
        }
        self.at(stream).unread() > 0
    }

    /// Each direction ends after its last byte. The last end may be told by closing.
    fn both_end(mut self) -> Script {
        let mut open = vec![Stream::Up, Stream::Down];
        open.retain(|&stream| !self.at(stream).ended);
        if self.random.one_in(2) {
            open.reverse();
        }
        if self.random.one_in(3) {
            // It is closed once the other one's end was read.
            open.pop();
        }
        for stream in open {
            if self.random.one_in(2) {
                self.read_some(stream);
            }
            self.end(stream);
        }
        let (up, down) = (self.all(Stream::Up), self.all(Stream::Down));
        let end = || (Leaving::AfterTheEnd, Verdict::Exactly(Ending::End));
        self.script(up, down, end(), end())
    }

    /// It has read everything, so this is not an abort, and what it wrote arrives. What the backend
    /// writes after that is refused.
    fn client_leaves_early(mut self) -> Script {
        self.read_all(Stream::Down);
        let backend = self.stays(Stream::Down);
        let (up, down) = (self.all(Stream::Up), self.all(Stream::Down));
        let client = (Leaving::Early, Verdict::Exactly(Ending::Left));
        self.script(up, down, client, backend)
    }

    /// The same from the other side.
    fn backend_leaves_early(mut self) -> Script {
        self.read_all(Stream::Up);
        let client = self.stays(Stream::Up);
        let (up, down) = (self.all(Stream::Up), self.all(Stream::Down));
        let backend = (Leaving::Early, Verdict::Exactly(Ending::Left));
        self.script(up, down, client, backend)
    }

    /// The part of the peer that sends `stream` while the other one leaves early.
    fn stays(&mut self, stream: Stream) -> (Leaving, Verdict) {
        if self.at(stream).ended || self.random.one_in(2) {
            (Leaving::AfterTheEnd, Verdict::Exactly(Ending::End))
        } else {
            let refused = Ending::EndThenRefused;
            (Leaving::AfterWritingOn, Verdict::Exactly(refused))
        }
    }

    /// The backend's connection is reset: bytes for the client were lost. The client must not have
    /// half-closed before. Nobody would hear of its close then, if all bytes have reached its socket.
    fn client_aborts(mut self) -> Script {
        let up = self.settle(Stream::Up);
        let down = Bytes::Exactly(self.at(Stream::Down).received);
        let client = (Leaving::WithBytesUnread, Verdict::Exactly(Ending::Left));
        let backend = (Leaving::AfterTheEnd, Verdict::Exactly(Ending::Broken));
        self.script(up, down, client, backend)
    }

    fn backend_breaks_off(mut self, leaving: Leaving) -> Script {
        let down = self.settle(Stream::Down);
        let up = Bytes::Exactly(self.at(Stream::Up).received);
        let client = (Leaving::AfterTheEnd, Verdict::Over);
        let backend = (leaving, Verdict::Exactly(Ending::Left));
        self.script(up, down, client, backend)
    }

    /// Before its sender breaks off: either everything is waited for, or a part may be lost.
    fn settle(&mut self, stream: Stream) -> Bytes {
        if self.random.one_in(2) {
            return Bytes::AtMost(self.at(stream).sent);
        }
        self.read_all(stream);
        let progress = self.at(stream);
        let step = Send::AwaitDelivered(progress.received);
        progress.course.sender.push(step);
        Bytes::Exactly(progress.sent)
    }

    fn all(&mut self, stream: Stream) -> Bytes {
        Bytes::Exactly(self.at(stream).sent)
    }

    fn script(
        self,
        up: Bytes,
        down: Bytes,
        client: (Leaving, Verdict),
        backend: (Leaving, Verdict),
    ) -> Script {
        let outcome = Outcome {
            up,
            down,
            client: client.1,
            backend: backend.1,
        };
        let [up, down] = self.streams.map(|progress| progress.course);
        Script {
            seed: self.seed,
            up,
            down,
            client: client.0,
            backend: backend.0,
            outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_makes_the_same_script() {
        let twice = [(); 2].map(|()| format!("{:?}", Script::generate(7)));
        assert_eq!(twice[0], twice[1]);
    }

    #[test]
    fn every_way_to_leave_is_drawn() {
        let scripts: Vec<_> = (0..200).map(Script::generate).collect();
        let drawn = |client, backend| {
            let fits = |script: &&Script| (script.client, script.backend) == (client, backend);
            scripts.iter().filter(fits).count()
        };
        use Leaving::*;
        for (client, backend) in [
            (AfterTheEnd, AfterTheEnd),
            (Early, AfterTheEnd),
            (Early, AfterWritingOn),
            (AfterTheEnd, Early),
            (AfterWritingOn, Early),
            (WithBytesUnread, AfterTheEnd),
            (AfterTheEnd, WithReset),
            (AfterTheEnd, WithBytesUnread),
        ] {
            assert!(drawn(client, backend) >= 3, "{client:?}, {backend:?}");
        }
    }

    #[test]
    fn bulk_and_silence_are_both_drawn() {
        let sent = |script: &Script| match script.outcome.down {
            Bytes::Exactly(count) | Bytes::AtMost(count) => count,
        };
        let all: Vec<_> = (0..200).map(|seed| sent(&Script::generate(seed))).collect();
        assert!(all.contains(&0));
        assert!(all.iter().any(|&count| count > MB));
    }
}
