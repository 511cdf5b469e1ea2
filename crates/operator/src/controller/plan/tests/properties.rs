//! Whatever there is and whatever is wanted: the passes end, with all that is wanted and nothing else.

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::controller::plan::tests::world::node_of;

/// What a user may change.
#[derive(Debug, Clone)]
struct Wish {
    replicas: u32,
    remove_first: Vec<u32>,
    image: &'static str,
    retains: bool,
    /// After how many steps the operator is killed.
    survived: usize,
}

fn wishes() -> impl Strategy<Value = Vec<Wish>> {
    let remove_first = subsequence((1..=6).collect::<Vec<u32>>(), 0..=3).prop_shuffle();
    let wish = (1..=6_u32, remove_first, select(vec!["node:1", "node:2"]), any::<bool>(), 0..40_usize);
    let wish = wish.prop_map(|(replicas, remove_first, image, retains, survived)| Wish {
        replicas,
        remove_first,
        image,
        retains,
        survived,
    });
    proptest::collection::vec(wish, 1..5)
}

/// What somebody may do to it by hand.
#[derive(Debug, Clone)]
struct Damage {
    objects: Vec<usize>,
    queues: Vec<usize>,
    exchanges: bool,
}

fn damages() -> impl Strategy<Value = Damage> {
    let some = || proptest::collection::vec(0..40_usize, 0..4);
    (some(), some(), any::<bool>()).prop_map(|(objects, queues, exchanges)| Damage {
        objects,
        queues,
        exchanges,
    })
}

impl Damage {
    fn befall(&self, world: &mut World) {
        for index in &self.objects {
            if let Some(key) = world.objects.keys().nth(*index).cloned() {
                let removed = world.objects.remove(&key);
                // A Deployment that is gone takes its pod along.
                if key.0 == Kind::Deployment
                    && let Some(id) = removed.as_ref().and_then(node_of)
                {
                    world.pods.remove(&id);
                }
            }
        }
        for index in &self.queues {
            if let Some(name) = world.queues.keys().nth(*index).cloned() {
                world.queues.remove(&name);
            }
        }
        if self.exchanges {
            world.exchanges.clear();
        }
    }
}

fn build(wish: &Wish) -> ValidCluster {
    let mut cluster = sized(wish.replicas);
    cluster.nodes.image = Some(wish.image.to_owned());
    cluster.retains = wish.retains;
    cluster.annotations.remove_first = wish.remove_first.iter().filter_map(|id| NodeId::new(*id)).collect();
    cluster
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// `World` checks each step: no queue goes under a pod, no pod comes without its queue.
    #[test]
    fn every_wish_comes_true_and_then_nothing_is_left_to_do(wishes in wishes(), damage in damages()) {
        let mut world = World::default();
        for wish in &wishes {
            let mut cluster = build(wish);
            let existing = world.observed(&cluster).node_ids();
            // What it names may be gone by the time: an annotation stays, and refuses the next removal.
            cluster.annotations.remove_first.retain(|id| existing.contains(id));
            world.settle(&cluster, wish.survived);
            damage.befall(&mut world);
            world.settle(&cluster, usize::MAX);
            prop_assert_eq!(world.pods.len(), usize::try_from(wish.replicas).unwrap());
            prop_assert_eq!(world.node_queues().len(), world.pods.len());
            let steps = plan(&cluster, &world.observed(&cluster)).unwrap().steps;
            prop_assert!(steps.iter().all(Step::is_repeated), "{:?}", steps);
        }
    }

    #[test]
    fn no_pass_leaves_a_cluster_without_a_ready_node(wishes in wishes(), down in subsequence((1..=6).collect::<Vec<u32>>(), 0..=6)) {
        let mut world = World::default();
        world.settle(&build(&wishes[0]), usize::MAX);
        for id in down {
            if let Some(node) = world.objects.get_mut(&(Kind::Deployment, format!("orders-node-{id}"))) {
                node["status"]["readyReplicas"] = json!(null);
            }
        }
        let cluster = build(wishes.last().unwrap());
        let observed = world.observed(&cluster);
        let ready = |id: &NodeId| observed.is_ready(&cluster.names.node(*id));
        let before = observed.node_ids().iter().filter(|id| ready(id)).count();
        let plan = plan(&cluster, &observed).unwrap();
        let leavers = plan.members.leaving.iter().filter(|id| ready(id)).count();
        prop_assert!(before == 0 || leavers < before, "{:?}", plan);
    }
}
