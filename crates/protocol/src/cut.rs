//! Where a history went on without what came after, because a human accepted that loss.
//!
//! Whoever was away then may still have what was given up, and is further on than everybody else. A cut is how all who
//! meet a later reign know that its end is not the history's: it travels with every message of that reign and of all that
//! follow, and is stored with the rows. Only the newest counts: no end of a history is before its cut.

use serde::{Deserialize, Serialize};

use crate::report::Claim;

/// Everything beyond `last` that is of an epoch before `epoch` is given up. By default that is nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cut {
    /// The first epoch without it.
    pub epoch: u64,
    /// The last sequence number that was kept.
    pub last: u64,
}

impl Cut {
    /// Whether what somebody has is given up.
    pub fn gives_up(self, claim: Claim) -> bool {
        claim.epoch < self.epoch && claim.position.last > self.last
    }

    /// Whether nothing was ever given up.
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::Position;
    use crate::envelope::Term;

    #[test]
    fn what_is_beyond_a_cut_is_given_up_unless_it_is_of_a_later_epoch() {
        let claim =
            |epoch, last| Claim::new(Term::new(epoch, 1), Position { last, ..Position::genesis("c") });
        let cut = Cut { epoch: 8, last: 40 };
        for (epoch, last, given_up) in
            [(7, 41, true), (1, 60, true), (7, 40, false), (8, 41, false), (9, 60, false)]
        {
            assert_eq!(cut.gives_up(claim(epoch, last)), given_up, "{last} of {epoch}");
        }
        assert!(!Cut::default().gives_up(claim(0, 60)));
    }
}
