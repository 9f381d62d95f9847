//! Whether backends that leave Nagle's algorithm on wait for our kernel, while the proxy waits for them.

use std::collections::HashMap;

use super::super::peer::SEGMENT_BYTES;
use super::super::world::{InFlight, Kind, World};

/// By backend: how often it has waited, and behind how many bytes the last time.
#[derive(Default)]
pub(super) struct Waits(HashMap<usize, (u32, u64)>);

impl Waits {
    /// The workers have done all that they can do, and what they wait for waits until our kernel acknowledges what came
    /// before. Where peers speak FastCGI, it is known at any time that an answer is to go on; of bytes it is learned
    /// that they come in pieces.
    pub(super) fn judge(&mut self, world: &World) {
        for &sock in &world.live {
            let socket = world.sockets.peek(sock);
            let (Kind::Upstream(Some(index)), None) = (socket.kind, socket.closing) else {
                continue;
            };
            let peer = &world.peers[index];
            let is_waited_for = socket
                .read
                .as_ref()
                .is_some_and(|op| !InFlight::is_finished(op));
            let is_held_back = peer.acknowledged_at(world.now).is_some();
            if !is_waited_for || !is_held_back || peer.waiting() > 0 || !peer.owes_more() {
                continue;
            }
            let (waits, behind) = self.0.entry(index).or_insert((0, 0));
            if *waits > 0 && *behind == peer.sent {
                continue;
            }
            (*waits, *behind) = (*waits + 1, peer.sent);
            rule!(
                "nothing_waits_for_us",
                *waits <= u32::from(!world.speaks_fastcgi(index)),
                "what {peer:?} sends behind {behind}, less than {SEGMENT_BYTES} bytes, waits for an \
                 acknowledgement"
            );
        }
    }
}
