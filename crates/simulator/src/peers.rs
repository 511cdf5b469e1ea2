//! What peers give: their logs and whole databases, those of hearts included.

use broadcast_protocol::chain::Position;
use broadcast_protocol::cut::Cut;
use broadcast_protocol::envelope::WriteMessage;
use broadcast_protocol::replica::Halt;
use broadcast_protocol::report::Claim;
use broadcast_protocol::sequencer::RetainedAfter;

use crate::agenda::{Actor, Event, Fetched, PodEvent};
use crate::database::{LogPage, Snapshot};
use crate::world::World;

impl World {
    /// A pod asks its peers, for a log or a snapshot.
    pub(crate) fn ask_peers(&mut self, pod: usize, generation: u64) {
        let (answer, delay) = if let Some(after) = self.pods[pod].asks_after(generation) {
            (PodEvent::Fetched(self.fetch(pod, after)), self.ctx.latency() + self.ctx.latency())
        } else if let Some(after) = self.pods[pod].wants_snapshot_after(generation) {
            let snapshot = self.fetch_snapshot(pod, after).map(Box::new);
            (PodEvent::Snapshot(snapshot), self.ctx.rng.within(1, 300))
        } else {
            return;
        };
        self.ctx.plan_in(delay, Event::Pod(pod, generation, answer));
    }

    /// The pods that answer, in any order.
    fn reachable(&mut self, asker: usize) -> Vec<usize> {
        let mut pods: Vec<usize> = (0..self.pods.len())
            .filter(|pod| *pod != asker && !self.are_peers_cut)
            .filter(|pod| self.pods[*pod].is_up() && !self.is_stopped(Actor::Pod(*pod)))
            .collect();
        if !pods.is_empty() {
            let by = self.ctx.rng.index(pods.len());
            pods.rotate_left(by);
        }
        pods
    }

    fn fetch(&mut self, asker: usize, after: Position) -> Fetched {
        let cut = self.pods[asker].status.cut;
        let (mut is_out_of_reach, mut has_node) = (false, false);
        for pod in self.reachable(asker) {
            let pod = &self.pods[pod];
            let is_of_other_history = matches!(pod.status.divergence, Some(Halt::Diverged { .. }));
            let disk = self.disks.get(&pod.node).filter(|disk| disk.works && !is_of_other_history);
            match disk.map(|disk| disk.log_after(after.last)) {
                Some(LogPage::Messages(messages)) => {
                    let linked = linked(after, cut, messages.into_iter());
                    if !linked.is_empty() {
                        return Fetched::Messages(linked);
                    }
                }
                Some(LogPage::Gone) => {
                    is_out_of_reach = true;
                    has_node |= !matches!(pod.status.divergence, Some(Halt::GivenUp { .. }));
                }
                None => {}
            }
        }
        for heart in 0..self.hearts.len() {
            if self.are_peers_cut || !self.hearts[heart].is_up() || self.is_stopped(Actor::Heart(heart)) {
                continue;
            }
            match self.hearts[heart].memory.retained.after(after.last) {
                RetainedAfter::Messages(messages) => {
                    let linked = linked(after, cut, messages);
                    if !linked.is_empty() {
                        return Fetched::Messages(linked);
                    }
                }
                RetainedAfter::Gone { .. } => is_out_of_reach = true,
            }
        }
        if is_out_of_reach { Fetched::OutOfReach { has_node } } else { Fetched::Nobody }
    }

    fn fetch_snapshot(&mut self, asker: usize, after: u64) -> Option<Snapshot> {
        let cut = self.pods[asker].status.cut;
        self.reachable(asker).into_iter().find_map(|pod| {
            let pod = &self.pods[pod];
            let disk = self.disks.get(&pod.node)?;
            // Rows that are not what their digest says are refused by whoever reads them.
            let is_given = disk.works && pod.status.divergence.is_none() && !disk.content.is_corrupt;
            let is_wanted = disk.applied().position.last > after && !cut.gives_up(disk.applied().claim());
            (is_given && is_wanted).then(|| disk.content.clone())
        })
    }
}

/// The messages up to the first that is not the next link, or was given up.
fn linked<'a>(
    after: Position,
    cut: Cut,
    messages: impl Iterator<Item = &'a WriteMessage>,
) -> Vec<WriteMessage> {
    let mut position = after;
    let is_next = |message: &&WriteMessage| {
        let is_next = message.previous == position;
        position = message.position;
        is_next
    };
    let counts = |message: &&WriteMessage| !cut.gives_up(Claim::new(message.term, message.position));
    messages.take_while(is_next).take_while(counts).cloned().collect()
}
