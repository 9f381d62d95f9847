//! Content in which every byte depends on its position and on a seed: loss, duplication,
//! reordering, and bytes of another session all show.

use super::wait::uninterrupted;
use std::io::{self, Read, Write};

/// How many bytes the helpers move at once: larger than the proxy's buffers, so that it is the
/// proxy that cuts the stream into pieces.
const CHUNK: usize = 256 * 1024;

/// An endless stream of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    seed: u64,
}

impl Pattern {
    pub(crate) const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Writes the stream's bytes from position `start` into `out`.
    pub(crate) fn fill(self, start: u64, out: &mut [u8]) {
        let mut position = start;
        let mut rest = out;
        while !rest.is_empty() {
            let word = self.word(position / 8);
            let skip = (position % 8) as usize;
            let count = rest.len().min(8 - skip);
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(&word[skip..skip + count]);
            position += count as u64;
            rest = later;
        }
    }

    /// The stream's first `count` bytes.
    pub(crate) fn bytes(self, count: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize_of(count)];
        self.fill(0, &mut bytes);
        bytes
    }

    /// The position of the first byte that does not belong, where `bytes` should stand at `start`.
    pub(crate) fn mismatch(self, start: u64, bytes: &[u8]) -> Option<u64> {
        let mut expected = vec![0; bytes.len()];
        self.fill(start, &mut expected);
        if expected == bytes {
            return None;
        }
        let wrong = expected.iter().zip(bytes).position(|(a, b)| a != b);
        wrong.map(|offset| start + offset as u64)
    }

    /// Sends the first `count` bytes.
    pub(crate) fn send(self, to: &mut impl Write, count: u64) -> io::Result<()> {
        self.send_range(to, 0, count)
    }

    /// Sends `count` bytes from position `start`.
    pub(crate) fn send_range(self, to: &mut impl Write, start: u64, count: u64) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK.min(usize_of(count))];
        let mut sent = 0;
        while sent < count {
            let now = &mut chunk[..CHUNK.min(usize_of(count - sent))];
            self.fill(start + sent, now);
            to.write_all(now)?;
            sent += now.len() as u64;
        }
        Ok(())
    }

    /// Receives exactly the first `count` bytes; anything else is an error.
    pub(crate) fn receive(self, from: &mut impl Read, count: u64) -> io::Result<()> {
        self.receive_range(from, 0, count)
    }

    /// Receives exactly `count` bytes from position `start`; anything else is an error.
    pub(crate) fn receive_range(
        self,
        from: &mut impl Read,
        start: u64,
        count: u64,
    ) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK.min(usize_of(count))];
        let mut received = 0;
        while received < count {
            let room = CHUNK.min(usize_of(count - received));
            let now = uninterrupted(|| from.read(&mut chunk[..room]))
                .map_err(|error| at(start + received, start + count, &error))?;
            if now == 0 {
                return Err(ended(start + received, start + count));
            }
            if let Some(position) = self.mismatch(start + received, &chunk[..now]) {
                return Err(wrong(position));
            }
            received += now as u64;
        }
        Ok(())
    }

    /// Receives from position `start` until the stream ends in whatever way; says how many bytes
    /// came, all of them right.
    #[track_caller]
    pub(crate) fn receive_prefix(self, from: &mut impl Read, start: u64) -> u64 {
        let mut chunk = vec![0; CHUNK];
        let mut position = start;
        loop {
            match uninterrupted(|| from.read(&mut chunk)) {
                Ok(0) => return position - start,
                Ok(now) => {
                    assert_eq!(self.mismatch(position, &chunk[..now]), None, "wrong byte");
                    position += now as u64;
                }
                Err(error) => {
                    assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "it never ended");
                    return position - start;
                }
            }
        }
    }

    /// SplitMix64, a bijection of the index for each seed.
    fn word(self, index: u64) -> [u8; 8] {
        let mut z = self
            .seed
            .wrapping_mul(0xD134_2543_DE82_EF95)
            .wrapping_add(index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)).to_le_bytes()
    }
}

pub(crate) fn usize_of(count: u64) -> usize {
    usize::try_from(count).expect("counts in tests fit into memory")
}

fn at(received: u64, expected: u64, error: &io::Error) -> io::Error {
    let message = format!("{error} after {received} of {expected} bytes");
    io::Error::new(error.kind(), message)
}

fn ended(received: u64, expected: u64) -> io::Error {
    let message = format!("the stream ended after {received} of {expected} bytes");
    io::Error::new(io::ErrorKind::UnexpectedEof, message)
}

fn wrong(position: u64) -> io::Error {
    let message = format!("the byte at position {position} is not the one that was sent");
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// CRC-32 as zlib and PHP's `crc32b` have it.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    let update = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ ((crc & 1) * 0xEDB8_8320)
        })
    };
    !bytes.iter().fold(!0, update)
}
