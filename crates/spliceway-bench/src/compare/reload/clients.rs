//! Clients that ask at fixed times, whatever becomes of their requests: the load generator ends with the
//! first failure, and failures are what is counted here.

use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use spliceway_load::responder::PARAM_RESPONSE_BYTES;

use crate::compare::client;
use crate::compare::matrix::Carry;

/// Clients at one time, for each kind of connection.
pub(super) const CLIENTS: u32 = 8;

/// Between two requests of a client: together they take about a quarter of two cores, so that what is
/// measured is not a queue.
const PERIOD: Duration = Duration::from_millis(5);

/// Requests per second of all clients with one kind of connection.
pub(super) const RATE: f64 = 1e3 / PERIOD.as_millis() as f64 * CLIENTS as f64;

/// A request that is not answered within this time is lost.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Of an answer.
const RESPONSE_BYTES: u64 = 4096;

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Answered,
    /// Nothing took the connection.
    Refused,
    /// The connection ended before the answer was complete, or a kept one before the request.
    Broken,
    /// Not answered in time, or not even sent for that reason.
    Lost,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    /// When it was to be sent.
    pub(super) due: Instant,
    pub(super) end: Instant,
    pub(super) fate: Fate,
}

/// One client: what it asks, and when.
pub(super) struct Client<'a> {
    pub(super) socket: &'a Path,
    pub(super) carry: Carry,
    /// Of those with the same kind of connection, from 0 on.
    pub(super) number: u32,
    pub(super) start: Instant,
    /// Nothing is due from then on.
    pub(super) end: Instant,
}

impl Client<'_> {
    /// Asks until the end. It is bounded: once nothing is due, one more answer is waited for at most.
    pub(super) fn run(&self) -> Vec<Record> {
        let length = RESPONSE_BYTES.to_string();
        let params = [(PARAM_RESPONSE_BYTES, length.as_str())];
        let request = client::request(self.carry == Carry::Kept, &params);
        let mut records = Vec::new();
        let mut kept = None;
        // Clients ask one after the other, and not all at one time.
        let mut due = self.start + PERIOD * self.number / CLIENTS;
        while due < self.end {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let fate = if Instant::now() < self.end + ANSWER_MAX {
                self.ask(&request, &mut kept)
            } else {
                Err(Fate::Lost)
            };
            let (fate, end) = match fate {
                Ok(end) => (Fate::Answered, end),
                Err(fate) => (fate, Instant::now()),
            };
            records.push(Record { due, end, fate });
            due += PERIOD;
        }
        records
    }

    /// When the answer was complete. A connection that failed is not used again.
    fn ask(&self, request: &[u8], kept: &mut Option<UnixStream>) -> Result<Instant, Fate> {
        let stream = match kept.take() {
            Some(stream) => stream,
            None => connect(self.socket).map_err(|_| Fate::Refused)?,
        };
        let length = client::exchange(&stream, request).map_err(|error| fate(&error))?;
        let end = Instant::now();
        if length != RESPONSE_BYTES {
            return Err(Fate::Broken);
        }
        match self.carry {
            Carry::Kept => *kept = Some(stream),
            // Whoever closes first keeps the port for a while: that is to be the responder. How the
            // connection ends behind a complete answer is of no account.
            Carry::New => drop((&stream).read(&mut [0])),
        }
        Ok(end)
    }
}

fn connect(socket: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    Ok(stream)
}

/// Of a request that has failed on its connection.
fn fate(error: &io::Error) -> Fate {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Fate::Lost,
        _ => Fate::Broken,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixListener;

    use super::*;

    /// What becomes of three requests where `serve` accepts. What it gives back goes on to listen.
    fn fates(carry: Carry, serve: impl FnOnce(UnixListener) -> Option<UnixListener>) -> Vec<Fate> {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("0.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let start = Instant::now();
        let client = Client {
            socket: &socket,
            carry,
            number: 0,
            start,
            end: start + PERIOD * 3,
        };
        thread::scope(|scope| {
            let client = scope.spawn(|| client.run());
            let _listener = serve(listener);
            client
                .join()
                .unwrap()
                .iter()
                .map(|record| record.fate)
                .collect()
        })
    }

    #[test]
    fn connections_that_end_are_told_from_those_that_nothing_takes() {
        let fates = fates(Carry::New, |listener| {
            let first = listener.accept();
            // A program that another test starts may have the listener for another moment, but not its file.
            let address = listener.local_addr().unwrap();
            fs::remove_file(address.as_pathname().unwrap()).unwrap();
            drop(listener);
            drop(first);
            None
        });
        assert_eq!(fates, [Fate::Broken, Fate::Refused, Fate::Refused]);
    }

    #[test]
    fn requests_without_an_answer_are_lost_and_all_of_them_count() {
        let fates = fates(Carry::Kept, Some);
        assert_eq!(fates, [Fate::Lost; 3]);
    }
}
