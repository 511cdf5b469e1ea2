//! What goes wrong.

use broadcast_protocol::envelope::Message;
use bytes::Bytes;

use crate::agenda::{Actor, Event, Mend};
use crate::broker::{Payload, QueueId};
use crate::report::Seen;
use crate::world::World;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    CrashHeart,
    CrashAllHearts,
    PauseHeart,
    StopHeart,
    CutHeart,
    CrashPod,
    PausePod,
    StopPod,
    CutPod,
    TakePodAway,
    StartSecondPod,
    LoseDisk,
    RestoreDisk,
    FailDisk,
    CorruptDisk,
    ScaleUp,
    ScaleDown,
    CrashBroker,
    WipeBroker,
    /// With all hearts, while the node that is furthest on is away.
    WipeAllButOne,
    DeleteExchange,
    DeleteHead,
    PurgeHead,
    UnbindHead,
    DeleteQueue,
    PurgeQueue,
    UnbindQueue,
    Duplicate,
    Malformed,
    NewerVersion,
    JumpClock,
    CutPeers,
}

impl Fault {
    pub(crate) const ALL: [Self; 32] = [
        Self::CrashHeart,
        Self::CrashAllHearts,
        Self::PauseHeart,
        Self::StopHeart,
        Self::CutHeart,
        Self::CrashPod,
        Self::PausePod,
        Self::StopPod,
        Self::CutPod,
        Self::TakePodAway,
        Self::StartSecondPod,
        Self::LoseDisk,
        Self::RestoreDisk,
        Self::FailDisk,
        Self::CorruptDisk,
        Self::ScaleUp,
        Self::ScaleDown,
        Self::CrashBroker,
        Self::WipeBroker,
        Self::WipeAllButOne,
        Self::DeleteExchange,
        Self::DeleteHead,
        Self::PurgeHead,
        Self::UnbindHead,
        Self::DeleteQueue,
        Self::PurgeQueue,
        Self::UnbindQueue,
        Self::Duplicate,
        Self::Malformed,
        Self::NewerVersion,
        Self::JumpClock,
        Self::CutPeers,
    ];
}

impl World {
    pub(crate) fn strike(&mut self, fault: Fault) {
        self.ctx.tell("fault", || format!("{fault:?}"));
        match fault {
            Fault::CrashHeart => {
                if let Some(heart) = self.pick_heart() {
                    self.ctx.count(Seen::HeartCrashed);
                    self.crash_heart(heart);
                }
            }
            Fault::CrashAllHearts => {
                self.ctx.count(Seen::AllHeartsCrashed);
                (0..self.hearts.len()).for_each(|heart| self.crash_heart(heart));
            }
            Fault::PauseHeart => {
                if let Some(heart) = self.pick_heart() {
                    self.ctx.count(Seen::HeartPaused);
                    self.pause(Actor::Heart(heart));
                }
            }
            Fault::StopHeart => {
                if let Some(heart) = self.pick_heart() {
                    self.ctx.count(Seen::HeartStopped);
                    self.hearts[heart].stop(&mut self.ctx);
                }
            }
            Fault::CutHeart => {
                let heart = self.pick_heart();
                if let Some(conn) = heart.and_then(|heart| self.hearts[heart].connection()) {
                    self.ctx.count(Seen::HeartCut);
                    self.ctx.cut(conn);
                }
            }
            Fault::JumpClock => {
                let heart = self.ctx.rng.index(self.hearts.len());
                self.ctx.count(Seen::ClockJumped);
                let by = i64::try_from(self.ctx.rng.within(0, 20_000_000)).unwrap_or(0) - 10_000_000;
                self.hearts[heart].clock_offset += by;
            }
            Fault::CutPeers => {
                self.ctx.count(Seen::PeersCut);
                self.are_peers_cut = true;
                let until = self.ctx.rng.within(1_000, 15_000);
                self.ctx.plan_in(until, Event::Mend(Mend::Peers));
            }
            Fault::ScaleUp => self.scale_up(),
            Fault::ScaleDown => self.scale_down(),
            Fault::CrashBroker => {
                self.ctx.count(Seen::BrokerCrashed);
                let down = self.ctx.rng.within(0, 5_000);
                self.broker.crash(&mut self.ctx, down);
            }
            Fault::WipeBroker => {
                self.ctx.count(Seen::BrokerWiped);
                let down = self.ctx.rng.within(0, 5_000);
                self.broker.wipe(&mut self.ctx, down);
            }
            Fault::WipeAllButOne => self.wipe_all_but_one(),
            Fault::DeleteExchange => {
                self.ctx.count(Seen::ExchangeDeleted);
                self.broker.delete_exchange(&mut self.ctx);
            }
            Fault::DeleteHead => {
                self.ctx.count(Seen::HeadDeleted);
                self.broker.delete_queue(&mut self.ctx, QueueId::Head);
            }
            Fault::PurgeHead => {
                self.ctx.count(Seen::HeadPurged);
                self.broker.purge_queue(&mut self.ctx, QueueId::Head);
            }
            Fault::UnbindHead => {
                self.ctx.count(Seen::HeadUnbound);
                self.broker.unbind_queue(&mut self.ctx, QueueId::Head);
            }
            fault => {
                if let Some(node) = self.pick_node() {
                    self.strike_node(fault, node);
                }
            }
        }
    }

    fn strike_node(&mut self, fault: Fault, node: u32) {
        let queue = QueueId::Node(node);
        let Some(pod) = self.pod_of(node) else { return };
        match fault {
            Fault::CrashPod | Fault::TakePodAway => {
                let is_away = fault == Fault::TakePodAway;
                self.ctx.count(if is_away { Seen::PodAway } else { Seen::PodCrashed });
                self.pods[pod].crash(&mut self.ctx);
                let delay =
                    if is_away { self.ctx.rng.within(8_000, 60_000) } else { self.ctx.rng.within(10, 5_000) };
                self.ctx.plan_in(delay, Event::PodUp(pod));
            }
            Fault::PausePod => {
                self.ctx.count(Seen::PodPaused);
                self.pause(Actor::Pod(pod));
            }
            Fault::StopPod => {
                self.ctx.count(Seen::PodStopped);
                self.pods[pod].stop(&mut self.ctx);
                let delay = self.ctx.rng.within(10, 5_000);
                self.ctx.plan_in(delay, Event::PodUp(pod));
            }
            Fault::CutPod => {
                if let Some(conn) = self.pods[pod].connection() {
                    self.ctx.count(Seen::PodCut);
                    self.ctx.cut(conn);
                }
            }
            Fault::StartSecondPod => self.start_second_pod(node),
            Fault::LoseDisk => self.lose_disk(node),
            Fault::RestoreDisk => self.restore_disk(node),
            Fault::FailDisk => {
                self.ctx.count(Seen::DiskFails);
                if let Some(disk) = self.disks.get_mut(&node) {
                    disk.works = false;
                }
                let until = self.ctx.rng.within(100, 8_000);
                self.ctx.plan_in(until, Event::Mend(Mend::Disk(node)));
            }
            Fault::CorruptDisk => self.corrupt_disk(node),
            Fault::DeleteQueue => {
                self.ctx.count(Seen::QueueDeleted);
                self.broker.delete_queue(&mut self.ctx, queue);
            }
            Fault::PurgeQueue => {
                self.ctx.count(Seen::QueuePurged);
                self.broker.purge_queue(&mut self.ctx, queue);
            }
            Fault::UnbindQueue => {
                self.ctx.count(Seen::QueueUnbound);
                self.broker.unbind_queue(&mut self.ctx, queue);
            }
            Fault::Duplicate => {
                self.ctx.count(Seen::Duplicated);
                self.broker.duplicate(&mut self.ctx, queue);
            }
            Fault::Malformed => {
                self.ctx.count(Seen::Malformed);
                let bodies = ["", "{}", r#"{"v":1,"cluster":"other","epoch":9,"at":1,"last":9,"hash":"00"}"#];
                let body = self.ctx.rng.pick(&bodies).unwrap_or_default();
                self.insert_foreign(queue, body);
            }
            Fault::NewerVersion => {
                self.ctx.count(Seen::NewerVersion);
                self.insert_foreign(queue, r#"{"v":2,"cluster":"sim","surprise":true}"#);
            }
            _ => {}
        }
    }

    fn insert_foreign(&mut self, queue: QueueId, body: &'static str) {
        let payload = Payload { body: Bytes::from_static(body.as_bytes()), carried: None };
        self.broker.insert(&mut self.ctx, queue, payload);
    }

    fn pick_heart(&mut self) -> Option<usize> {
        let up: Vec<usize> = (0..self.hearts.len()).filter(|heart| self.hearts[*heart].is_up()).collect();
        // Most of what happens to a standby is without interest.
        let reigning = up.iter().copied().find(|heart| self.hearts[*heart].is_reigning());
        if self.ctx.rng.chance(600) && reigning.is_some() { reigning } else { self.ctx.rng.pick(&up) }
    }

    fn pick_node(&mut self) -> Option<u32> {
        let nodes: Vec<u32> = self.members.iter().copied().collect();
        self.ctx.rng.pick(&nodes)
    }

    fn wipe_all_but_one(&mut self) {
        let last = |node: &u32| self.disks.get(node).map(|disk| disk.applied().position.last);
        let Some(node) = self.members.iter().copied().max_by_key(last) else { return };
        self.ctx.count(Seen::AllWipedButOne);
        self.strike_node(Fault::TakePodAway, node);
        (0..self.hearts.len()).for_each(|heart| self.crash_heart(heart));
        self.broker.wipe(&mut self.ctx, 0);
    }

    fn start_second_pod(&mut self, node: u32) {
        if self.pods.iter().any(|pod| pod.node == node && pod.is_second) {
            return;
        }
        self.ctx.count(Seen::SecondPod);
        let pod = self.add_pod(node);
        self.pods[pod].is_second = true;
        let (start, end) = (self.ctx.rng.within(0, 100), self.ctx.rng.within(500, 8_000));
        self.ctx.plan_in(start, Event::PodUp(pod));
        self.ctx.plan_in(end, Event::Mend(Mend::SecondPod(pod)));
    }

    fn lose_disk(&mut self, node: u32) {
        if !self.is_dispensable(node) {
            return;
        }
        self.ctx.count(Seen::DiskLost);
        self.stop_pods_hard(node);
        self.replace_disk(node, crate::database::Database::new());
    }

    /// The pod of a node, with an older copy of its disk.
    fn restore_disk(&mut self, node: u32) {
        let Some(backup) = self.backups.get(&node).cloned() else { return };
        if !self.is_dispensable(node) {
            return;
        }
        self.ctx.count(Seen::DiskRestored);
        self.stop_pods_hard(node);
        self.replace_disk(node, backup);
    }

    /// One at a time, and only where the others are more: nobody could tell who is right.
    fn corrupt_disk(&mut self, node: u32) {
        let is_alone = self.members.len() < 3 || self.disks.values().any(|disk| disk.content.is_corrupt);
        let has_rows = |disk: &&mut crate::database::Database| disk.applied().position.last > 0;
        if let Some(disk) = self.disks.get_mut(&node).filter(has_rows).filter(|_| !is_alone) {
            self.ctx.count(Seen::DiskCorrupt);
            disk.corrupt();
        }
    }

    /// The operator's way to begin a history.
    pub(crate) fn publish_genesis(&mut self, message: &Message) {
        self.broker.insert(&mut self.ctx, QueueId::Head, Payload::of(message));
    }
}
