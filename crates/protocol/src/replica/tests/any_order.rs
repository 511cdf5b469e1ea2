use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// What a database holds, and which deliveries are done with.
struct Database {
    history: Vec<WriteMessage>,
    applied: usize,
    kept: Vec<Kept>,
    done: BTreeSet<u64>,
}

impl Database {
    fn carry_out(&mut self, steps: Vec<Step<u64>>) {
        for step in steps {
            let ack = match step {
                Step::Ack(tag, _) => Some(tag),
                Step::Do { ack, change } => {
                    self.change(change);
                    ack
                }
                step => panic!("{step:?}"),
            };
            assert!(ack.is_none_or(|tag| self.done.insert(tag)), "acknowledged twice: {ack:?}");
        }
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Apply(message) => self.apply(message.position),
            Change::ApplyKept(position) => {
                self.discard(position);
                self.apply(position);
            }
            Change::Discard(position) => self.discard(position),
            Change::Keep(message) => {
                self.kept.retain(|kept| kept.position != message.position);
                let WriteMessage { term, previous, position, .. } = message;
                self.kept.push(Kept { term, previous, position, bytes: message.body().len() as u64 });
            }
        }
    }

    fn apply(&mut self, position: Position) {
        assert_eq!(self.history[self.applied].position, position);
        self.applied += 1;
    }

    fn discard(&mut self, position: Position) {
        let before = self.kept.len();
        self.kept.retain(|kept| kept.position != position);
        assert_eq!(self.kept.len() + 1, before);
    }

    /// Whether the message at this index of the history cannot be lost any more.
    fn has(&self, index: usize) -> bool {
        index < self.applied || self.kept.iter().any(|kept| kept.position == self.history[index].position)
    }

    fn restart(&self) -> Replica<u64> {
        let position = match self.applied {
            0 => Position::genesis(CLUSTER),
            applied => self.history[applied - 1].position,
        };
        Replica::new(
            CLUSTER,
            Applied { position, epoch: u64::from(self.applied > 0), cut: Cut::default() },
            self.kept.clone(),
            KEEP_BYTES,
        )
    }
}

proptest! {
    /// Whatever the broker repeats, reorders or loses, and whenever the process restarts: what is applied is a prefix of
    /// the history, each write once, and no delivery is acknowledged while it could still be needed.
    #[test]
    fn whatever_is_delivered_only_the_history_is_applied(order in proptest::collection::vec(0_usize..26, 1..80)) {
        let history = chain(1, 12);
        let mut database =
            Database { history: history.clone(), applied: 0, kept: Vec::new(), done: BTreeSet::new() };
        let mut replica = database.restart();
        // What the broker has given and would give again, by tag.
        let mut given: BTreeMap<u64, usize> = BTreeMap::new();
        for (tag, index) in (0_u64..).zip(order) {
            if index >= 24 {
                replica = database.restart();
                given.clear();
                continue;
            }
            let message = &history[index / 2];
            let body = if index % 2 == 0 { message.body().clone() } else { mark(1, message.position) };
            given.insert(tag, index);
            database.carry_out(replica.receive(tag, &body));
            for done in database.done.iter().filter(|done| given.get(done).is_some_and(|index| index % 2 == 0)) {
                let index = given[done] / 2;
                let is_here = given.iter().any(|(tag, other)| *other == index * 2 && !database.done.contains(tag));
                prop_assert!(database.has(index) || is_here, "{} is lost", index + 1);
            }
        }
        while database.applied < 12 {
            let next = history[database.applied].clone();
            database.carry_out(replica.repair(next).unwrap());
        }
        prop_assert!(given.keys().all(|tag| database.done.contains(tag)));
        prop_assert_eq!((database.kept.len(), replica.position()), (0, history[11].position));
    }
}
