//! What clients do, in the words of the tests.

use super::wait::uninterrupted;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;

use super::pattern::Pattern;

/// Sends `count` bytes and receives them back at the same time; panics at a wrong one.
#[track_caller]
pub(crate) fn exchange(stream: &UnixStream, pattern: Pattern, count: u64) {
    let received = thread::scope(|scope| {
        scope.spawn(|| {
            pattern
                .send(&mut &*stream, count)
                .expect("everything can be sent")
        });
        pattern.receive(&mut &*stream, count)
    });
    received.unwrap_or_else(|error| panic!("{pattern:?}, {count} bytes: {error}"));
}

/// [`exchange`], then both ends of the session: what we half-close, the echo answers with its own.
#[track_caller]
pub(crate) fn exchange_and_end(stream: &UnixStream, pattern: Pattern, count: u64) {
    exchange(stream, pattern, count);
    stream
        .shutdown(Shutdown::Write)
        .expect("the session is open");
    assert_eof(stream);
}

/// The stream ends cleanly, without another byte.
#[track_caller]
pub(crate) fn assert_eof(mut stream: &UnixStream) {
    let mut byte = [0];
    let count = uninterrupted(|| stream.read(&mut byte)).expect("a clean end");
    assert_eq!(count, 0, "a byte where the end should be: {byte:?}");
}

/// The session is over, without another byte. On AF_UNIX a peer that closes with bytes of ours
/// unread is reported as a reset, so both kinds of end will do.
#[track_caller]
pub(crate) fn assert_over(mut stream: &UnixStream) {
    let mut byte = [0];
    match uninterrupted(|| stream.read(&mut byte)) {
        Ok(0) => {}
        Ok(_) => panic!("a byte where the end should be: {byte:?}"),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
    }
}

/// Nothing has come and nothing has ended: the session, or the wait for it, goes on.
#[track_caller]
pub(crate) fn assert_waiting(mut stream: &UnixStream) {
    stream
        .set_nonblocking(true)
        .expect("a socket's mode can be changed");
    let error = stream
        .read(&mut [0])
        .expect_err("nothing may have come yet");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
    stream
        .set_nonblocking(false)
        .expect("a socket's mode can be changed");
}

#[track_caller]
pub(crate) fn receive_exact(mut stream: &UnixStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).expect("the bytes come");
    bytes
}

#[track_caller]
pub(crate) fn send(mut stream: &UnixStream, bytes: &[u8]) {
    stream.write_all(bytes).expect("everything can be sent");
}

/// Everything until the clean end.
#[track_caller]
pub(crate) fn receive_to_eof(mut stream: &UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("a clean end");
    bytes
}
