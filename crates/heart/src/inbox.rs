//! What comes to the active heart's inbox, told apart: anybody who may publish can write to it, so nothing in it is
//! trusted to be what its type says.

use std::collections::VecDeque;

use broadcast_protocol::envelope::{Link, Message, WriteMessage};
use broadcast_protocol::report::{Claim, REPORT_KIND, Report, TIP_KIND, WHO_KIND};
use bytes::Bytes;

/// What is kept of tips, in bytes. Nodes that have the same tip share one copy.
const MAX_TIP_BYTES: usize = 64 << 20;

/// A message of the inbox.
#[derive(Debug)]
pub enum Letter {
    /// Where a node is.
    Report(Box<Report>),
    /// The message that a report names.
    Tip(WriteMessage),
    /// A standby asks who is active.
    Question {
        /// What it has confirmed in its time.
        claim: Option<Claim>,
        /// Where the answer goes.
        reply_to: String,
    },
    /// Nothing of this cluster.
    Foreign,
}

/// The newest tips, until reports name them.
#[derive(Debug, Default)]
pub struct Tips {
    messages: VecDeque<WriteMessage>,
    bytes: usize,
}

impl Letter {
    /// Reads a delivery of this cluster's inbox.
    pub fn read(cluster: &str, kind: &str, reply_to: Option<&str>, body: &Bytes) -> Self {
        let letter = match (kind, reply_to) {
            (REPORT_KIND, _) => serde_json::from_slice::<Report>(body)
                .ok()
                .filter(|report| report.cluster == cluster)
                .map(|report| Self::Report(Box::new(report))),
            (TIP_KIND, _) => match Message::decode(cluster, body) {
                Ok(Message::Link(Link::Write(message))) => Some(Self::Tip(message)),
                _ => None,
            },
            (WHO_KIND, Some(reply_to)) => {
                // Without a body it is the question of a heart that has confirmed nothing.
                let claim = if body.is_empty() { Ok(None) } else { serde_json::from_slice(body) };
                claim.ok().map(|claim| Self::Question { claim, reply_to: reply_to.to_owned() })
            }
            _ => None,
        };
        letter.unwrap_or(Self::Foreign)
    }
}

impl Tips {
    /// Keeps a tip, and forgets the oldest ones when they are too many.
    pub fn keep(&mut self, tip: WriteMessage) {
        if self.find(claim(&tip)).is_some() {
            return;
        }
        self.bytes += tip.body().len();
        self.messages.push_back(tip.without_decoded());
        while self.bytes > MAX_TIP_BYTES {
            let Some(oldest) = self.messages.pop_front() else { break };
            self.bytes -= oldest.body().len();
        }
    }

    /// The tip that a report names.
    pub fn find(&self, named: Claim) -> Option<&WriteMessage> {
        self.messages.iter().find(|tip| claim(tip) == named)
    }
}

fn claim(tip: &WriteMessage) -> Claim {
    Claim::new(tip.term, tip.position)
}

#[cfg(test)]
mod tests {
    use broadcast_protocol::chain::Position;

    use super::*;
    use crate::census::tests::report;
    use crate::memory::tests::message;

    fn read(kind: &str, reply_to: Option<&str>, body: impl Into<Bytes>) -> Letter {
        Letter::read("c", kind, reply_to, &body.into())
    }

    #[test]
    fn each_kind_of_letter_is_read_and_whatever_else_somebody_sends_is_foreign() {
        let (tip, own) = (message(Position::genesis("c"), 1), report(1, 7));
        let encoded = serde_json::to_vec(&own).unwrap();
        let Letter::Report(found) = read(REPORT_KIND, None, encoded.clone()) else { panic!() };
        assert_eq!(*found, own);
        let Letter::Tip(found) = read(TIP_KIND, None, tip.body().clone()) else { panic!() };
        assert_eq!(found.position, tip.position);
        for (body, expected) in
            [(Vec::new(), None), (serde_json::to_vec(&claim(&tip)).unwrap(), Some(claim(&tip)))]
        {
            let Letter::Question { claim, reply_to } = read(WHO_KIND, Some("asker"), body) else { panic!() };
            assert_eq!((claim, reply_to.as_str()), (expected, "asker"));
        }
        let others = serde_json::to_vec(&Report { cluster: "d".to_owned(), ..own }).unwrap();
        for (kind, reply_to, body) in [
            (REPORT_KIND, None, others),
            (REPORT_KIND, None, b"{}".to_vec()),
            (TIP_KIND, None, encoded.clone()),
            (WHO_KIND, None, Vec::new()),
            (WHO_KIND, Some("asker"), b"{}".to_vec()),
            ("write", None, tip.body().to_vec()),
            ("", None, encoded),
        ] {
            assert!(matches!(read(kind, reply_to, body.clone()), Letter::Foreign), "{kind} {body:?}");
        }
    }

    #[test]
    fn a_tip_is_found_by_whoever_names_it_and_the_oldest_are_forgotten() {
        let mut tips = Tips::default();
        let first = message(Position::genesis("c"), 200_000);
        let mut last = first.clone();
        tips.keep(first.clone());
        tips.keep(first.clone());
        assert_eq!(tips.messages.len(), 1, "nodes share a tip");
        for _ in 0..MAX_TIP_BYTES / 200_000 {
            last = message(last.position, 200_000);
            tips.keep(last.clone());
        }
        assert!(tips.find(claim(&first)).is_none() && tips.bytes <= MAX_TIP_BYTES);
        assert!(tips.find(claim(&last)).is_some());
        let other_reign = Claim { epoch: 2, ..claim(&last) };
        assert!(tips.find(other_reign).is_none());
    }
}
