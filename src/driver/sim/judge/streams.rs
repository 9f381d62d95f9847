//! What peers are given: the right bytes of the right stream, once and in order, and its end behind them.

use std::ops::Range;

use crate::driver::{OWN_BYTES_MAX, Sock};

use super::super::fastcgi::Speech;
use super::super::is_client;
use super::super::peer::{Peer, stream_byte};
use super::super::scenario::MARK;
use super::super::world::World;

/// Whether these bytes are the next ones of an introduction, in which a letter stands for the mark.
fn is_part_of(introduction: &[u8], bytes: &[u8]) -> bool {
    let is_next = |(due, byte): (&u8, &u8)| match *due {
        MARK => byte.is_ascii_lowercase(),
        due => due == *byte,
    };
    bytes.len() <= introduction.len() && introduction.iter().zip(bytes).all(is_next)
}

impl World {
    pub(super) fn judge_given(&self, peer: usize, source: u8, bytes: &Range<u64>) {
        let to = &self.peers[peer];
        let from = self.by_key(source);
        rule!(
            "stays_on_its_route",
            from.route == to.route,
            "peer {} of route {} is given bytes of {source}, of route {}",
            to.key,
            to.route,
            from.route
        );
        let by = from.accepted_by..=from.served_by;
        rule!(
            "one_configuration",
            to.generation.is_none_or(|made_by| by.contains(&made_by)),
            "peer {} is connected to by rules {:?} for client {source}, which is served by some of {by:?}",
            to.key,
            to.generation
        );
        let linked = to.source.unwrap_or(source);
        rule!(
            "bytes_in_order",
            linked == source && to.given == bytes.start,
            "peer {} has {} bytes of {linked} and is given {bytes:?} of {source}",
            to.key,
            to.given
        );
        rule!(
            "end_told_after_last_byte",
            !to.told_end,
            "peer {} gets more after its end",
            to.key
        );
        let is_other = |p: &Peer| p.key != to.key && p.source == Some(source) && p.given > 0;
        rule!(
            "sent_once",
            !self.peers.iter().any(is_other),
            "peer {} is given {bytes:?} of {source}, and another had some of it",
            to.key
        );
    }

    /// A client goes to another worker, which begins where this one has stopped.
    pub(super) fn judge_leave(&self, sock: Sock, peer: usize) {
        let socket = self.sockets.peek(sock);
        rule!(
            "leaves_at_rest",
            socket.read.is_none() && socket.write.is_none(),
            "{sock:?} leaves, and something is in flight on it"
        );
        let client = &self.peers[peer];
        let is_at_rest = match &client.speech {
            // What was taken of its next requests goes with it, which shows there.
            Speech::Client(speech) if self.lets_go_with_bytes => !speech.is_within_answer(),
            Speech::Client(speech) => speech.rests_at(client.taken),
            Speech::Pattern => client.taken == 0,
            Speech::Server(_) => false,
        };
        rule!(
            "leaves_at_rest",
            is_at_rest && !client.told_end,
            "client {} leaves, and {} of its bytes were taken",
            client.key,
            client.taken
        );
    }

    /// Whose stream these bytes are part of, given how much the receiver has of it.
    pub(in super::super) fn recognise(&self, peer: usize, bytes: &[u8]) -> u8 {
        let to = &self.peers[peer];
        let source = to.source.filter(|_| to.given > 0).unwrap_or(bytes[0]);
        let known = self.peers.iter().any(|p| p.key == source);
        rule!(
            "bytes_in_order",
            known,
            "peer {} gets a stream that nobody sends",
            to.key
        );
        let expected = (to.given..).map(|offset| stream_byte(source, offset));
        let right = bytes
            .iter()
            .copied()
            .zip(expected)
            .all(|(got, want)| got == want);
        rule!(
            "bytes_in_order",
            right,
            "peer {} gets wrong bytes after {}",
            to.key,
            to.given
        );
        source
    }

    /// Whether the peer that `to` receives from has ended in order, and `to` was given all of it.
    /// For a peer that got nothing yet: whether somebody could be the one.
    pub(super) fn source_is_done(&self, to: &Peer) -> bool {
        let done = |from: &Peer| from.ended_in_order() && from.sent == to.given;
        match to.source {
            Some(source) => done(self.by_key(source)),
            None => self.peers.iter().any(|from| {
                is_client(from.key) != is_client(to.key)
                    && from.route == to.route
                    && from.source.is_none()
                    && done(from)
            }),
        }
    }

    pub(super) fn judge_introduction(&self, peer: usize, bytes: &[u8]) {
        let to = &self.peers[peer];
        rule!(
            "introduced_first",
            is_part_of(&self.route_of(to).introduction[to.introduced..], bytes),
            "backend {} gets something else before the introduction",
            to.key
        );
        let marks = self.route_of(to).introduction[to.introduced..].iter();
        let marked = marks.zip(bytes).find(|(mark, _)| **mark == MARK);
        let introduced_by = marked.map(|(_, letter)| usize::from(letter - b'a'));
        rule!(
            "one_configuration",
            introduced_by.is_none() || introduced_by == to.generation,
            "backend {} is introduced by rules {introduced_by:?} and connected to by {:?}",
            to.key,
            to.generation
        );
    }

    pub(super) fn judge_rest_of_introduction(&self, peer: usize) {
        rule!(
            "introduced_first",
            false,
            "backend {} gets more than the introduction",
            self.peers[peer].key
        );
    }

    pub(super) fn judge_end_told(&self, peer: usize) {
        let peer = &self.peers[peer];
        self.judge_end_of_answer(peer);
        rule!(
            "end_told_after_last_byte",
            self.ledger.has(peer.route) || peer.gone || self.source_is_done(peer),
            "{peer:?} is told of an end; its source is {:?}",
            peer.source.map(|key| self.by_key(key))
        );
        let introduction = self.route_of(peer).introduction;
        let untold = !is_client(peer.key) && peer.introduced < introduction.len();
        rule!(
            "introduced_first",
            !untold || peer.gone,
            "{peer:?} is told of an end before the introduction"
        );
    }

    pub(super) fn judge_fill(&self, held: usize, is_used: bool) {
        rule!(
            "bytes_in_order",
            !is_used && held <= OWN_BYTES_MAX,
            "a pipe with bytes in it is filled"
        );
    }

    pub(super) fn judge_flush(&self, to: Sock) {
        rule!(
            "copied_into_unix",
            self.splices_into(to),
            "{to:?} is given bytes out of a pipe"
        );
    }
}
