//! What operators have changed of a route's endpoints by hand: which get nothing new, and how much of all others get.
//!
//! It belongs to the address, whatever set that is in: an endpoint that leaves DNS and comes back is as it was. It is
//! gone when the daemon ends.

use std::collections::HashMap;
use std::num::NonZeroU16;

use super::{Address, Endpoint};

/// The most addresses of which something is remembered. People give them one by one, so these are many more than
/// anybody keeps in mind; a script that goes on and on is told.
pub const ADJUSTED_MAX: usize = 256;

/// What is changed of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adjustment {
    /// It gets nothing new.
    pub is_drained: bool,
    /// Its weight, instead of that from the configuration or from DNS.
    pub weight: Option<NonZeroU16>,
}

/// What became of a wish to change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adjusted {
    /// It is so now.
    Changed,
    /// It was so before.
    AlreadySo,
}

/// Why nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdjustError {
    /// There is no such endpoint, and nothing is remembered of one.
    Unknown,
    /// [`ADJUSTED_MAX`] others are remembered.
    TooMany,
}

/// What is remembered, by address.
#[derive(Debug, Default)]
pub(super) struct ByHand(HashMap<Address, Adjustment>);

impl ByHand {
    /// What is changed of this endpoint.
    pub(super) fn of(&self, address: Address) -> Adjustment {
        self.0.get(&address).copied().unwrap_or_default()
    }

    /// All of which something is.
    pub(super) fn all(&self) -> impl Iterator<Item = (Address, Adjustment)> {
        self.0
            .iter()
            .map(|(address, adjustment)| (*address, *adjustment))
    }

    /// Begins with what another process remembered: as much of it as is remembered at all.
    pub(super) fn restore(&mut self, adjusted: impl IntoIterator<Item = (Address, Adjustment)>) {
        let is_change = |adjustment: &Adjustment| *adjustment != Adjustment::default();
        let changed = adjusted.into_iter().filter(|(_, a)| is_change(a));
        self.0.extend(changed.take(ADJUSTED_MAX));
    }

    /// Changes something of the endpoint at `address`, which is one of `there`, or of which something is
    /// remembered.
    pub(super) fn adjust(
        &mut self,
        address: Address,
        there: &[Endpoint],
        change: impl FnOnce(&mut Adjustment),
    ) -> Result<Adjusted, AdjustError> {
        let is_there = |address: Address| there.iter().any(|e| e.address == address);
        let is_remembered = self.0.contains_key(&address);
        if !is_remembered && !is_there(address) {
            return Err(AdjustError::Unknown);
        }
        let before = self.of(address);
        let mut after = before;
        change(&mut after);
        if after == before {
            return Ok(Adjusted::AlreadySo);
        }
        if after == Adjustment::default() {
            self.0.remove(&address);
            return Ok(Adjusted::Changed);
        }
        if !is_remembered && self.0.len() >= ADJUSTED_MAX {
            // The weight of one that is gone is missed least.
            self.0
                .retain(|other, adjusted| adjusted.is_drained || is_there(*other));
        }
        if !is_remembered && self.0.len() >= ADJUSTED_MAX {
            return Err(AdjustError::TooMany);
        }
        self.0.insert(address, after);
        Ok(Adjusted::Changed)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn address(number: u16) -> Address {
        SocketAddr::from(([192, 0, 2, 1], number)).into()
    }

    fn drain(
        by_hand: &mut ByHand,
        number: u16,
        there: &[Endpoint],
    ) -> Result<Adjusted, AdjustError> {
        by_hand.adjust(address(number), there, |a| a.is_drained = true)
    }

    #[test]
    fn what_is_remembered_can_be_changed_when_it_is_gone() {
        let mut by_hand = ByHand::default();
        let there = [Endpoint::from(address(1))];
        assert_eq!(drain(&mut by_hand, 2, &there), Err(AdjustError::Unknown));
        assert_eq!(drain(&mut by_hand, 1, &there), Ok(Adjusted::Changed));
        assert_eq!(drain(&mut by_hand, 1, &[]), Ok(Adjusted::AlreadySo));
        let undrain = |a: &mut Adjustment| a.is_drained = false;
        assert_eq!(
            by_hand.adjust(address(1), &[], undrain),
            Ok(Adjusted::Changed)
        );
        assert_eq!(by_hand.all().count(), 0, "nothing is left to remember");
        assert_eq!(
            by_hand.adjust(address(1), &[], undrain),
            Err(AdjustError::Unknown)
        );
        assert_eq!(
            by_hand.adjust(address(1), &there, undrain),
            Ok(Adjusted::AlreadySo)
        );
    }

    #[test]
    fn only_so_many_are_remembered_and_drained_ones_stay() {
        let mut by_hand = ByHand::default();
        let max = u16::try_from(ADJUSTED_MAX).unwrap();
        let there: Vec<_> = (1..=max + 2).map(|n| Endpoint::from(address(n))).collect();
        for number in 1..max {
            assert_eq!(drain(&mut by_hand, number, &there), Ok(Adjusted::Changed));
        }
        let weigh = |a: &mut Adjustment| a.weight = NonZeroU16::new(7);
        assert_eq!(
            by_hand.adjust(address(max), &there, weigh),
            Ok(Adjusted::Changed)
        );
        assert_eq!(
            drain(&mut by_hand, max + 1, &there),
            Err(AdjustError::TooMany)
        );
        // The one with a weight is gone, so it makes room.
        let rest = [Endpoint::from(address(max + 1))];
        assert_eq!(drain(&mut by_hand, max + 1, &rest), Ok(Adjusted::Changed));
        assert_eq!(by_hand.of(address(max)), Adjustment::default());
        assert_eq!(
            drain(&mut by_hand, max + 2, &there),
            Err(AdjustError::TooMany)
        );
    }
}
