//! From where on a reign has made its own history.
//!
//! When everything is well, nobody ever has anything else there. But a human may have accepted that something is lost which
//! a node that was away still has, or the head queue may have been tampered with before all hearts ended. Such a node is
//! further on than everybody else, and not with the history that clients have been answered for. A cut is how all know:
//! it travels with every message, and is stored with the rows. Only the newest counts: no history ends before its cut.
//!
//! A reign has one as soon as a node has applied something of it, which others can be rebuilt from: until then, whoever is
//! further on shows that the head was stale. One that begins with an accepted loss has it at once.

use serde::{Deserialize, Serialize};

use crate::report::Claim;

/// Everything beyond `last` that is of an epoch before `epoch` is not part of the history. By default that is nothing.
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
