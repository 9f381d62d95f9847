//! A client that goes to another process, and one that stays and wants nothing more of a server.

use crate::driver::{Driver, Sock};
use crate::session::{Context, Ending, LetsGo, Step};

use super::client::Reading;
use super::{Exchange, GONE, Stage};

impl<D: Driver> Exchange<D> {
    /// Clients are handed over. This one leaves if it waits for a head, or for the rest of one: another process begins
    /// with what was read of that, or with its next byte. A receive that is in flight may have taken that byte already,
    /// so it is taken back first. Where what was read does not go with a client, it stays if there is any.
    pub fn let_go(&mut self, cx: &mut Context<'_, D>) -> Step {
        let may_leave = matches!(self.stage, Stage::Head) && self.client.may_leave(cx.lets_go);
        match may_leave && self.client.stop_reading(&mut cx.hands.driver) {
            true => Step::End(Ending::HandedOver),
            false => Step::Continue,
        }
    }

    /// Whether it will want no place at an endpoint any more. After its answer, a client that may leave in the midst of
    /// its next request does so before that is looked at.
    pub fn wants_no_place(&self, lets_go: LetsGo) -> bool {
        match &self.stage {
            Stage::Farewell(_) | Stage::Breaking(_) => true,
            Stage::Deliver { .. } => lets_go == LetsGo::WithBytes,
            Stage::Head | Stage::Search(_) | Stage::Serve(_) => false,
            Stage::Gone => unreachable!("{GONE}"),
        }
    }

    /// Closes whatever it has but the client's socket, which is nothing, and returns that, with what was read of the
    /// client's next request.
    pub fn leave(self) -> (Sock, Vec<u8>) {
        assert!(
            matches!(self.stage, Stage::Head)
                && self.client.may_leave(LetsGo::WithBytes)
                && self.client.reading == Reading::Idle,
            "only a client without a request leaves"
        );
        (self.client.sock, self.client.unread())
    }
}
