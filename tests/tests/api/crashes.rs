//! An operator that is killed after any of its actions: the next one comes to the same end as one that was never killed, and no queue goes
//! that a node may use.

use std::sync::Arc;
use std::time::Duration;

use broadcast_tests::api_server::snapshot::{Snapshot, describe_difference};
use broadcast_tests::client::wait_for;
use broadcast_tests::report::tell;
use futures_util::future::join_all;
use serde_json::json;

use crate::stage::{Gated, PATIENCE, RUNTIME, Stage, World};

/// How many of a lifecycle's runs are begun together.
const BATCH: usize = 4;

/// For so long an operator does nothing that has nothing left to do: longer than it waits for what nobody tells it.
const QUIET: Duration = Duration::from_secs(3);

#[derive(Clone, Copy)]
enum Lifecycle {
    Creation,
    ScaleUp,
    ScaleDown,
    RollOut,
    Rotation,
    Deletion,
}

#[test]
fn a_creation_that_is_interrupted_anywhere_comes_to_the_same_end() {
    interrupt_everywhere(Lifecycle::Creation, "creation");
}

#[test]
fn a_scale_up_that_is_interrupted_anywhere_comes_to_the_same_end() {
    interrupt_everywhere(Lifecycle::ScaleUp, "scale-up");
}

#[test]
fn a_scale_down_that_is_interrupted_anywhere_comes_to_the_same_end() {
    interrupt_everywhere(Lifecycle::ScaleDown, "scale-down");
}

#[test]
fn a_roll_out_that_is_interrupted_anywhere_comes_to_the_same_end() {
    interrupt_everywhere(Lifecycle::RollOut, "roll-out");
}

#[test]
fn a_rotation_of_credentials_that_is_interrupted_anywhere_comes_to_the_same_end() {
    interrupt_everywhere(Lifecycle::Rotation, "rotation");
}

#[test]
fn a_deletion_that_is_interrupted_anywhere_comes_to_the_same_end() {
    interrupt_everywhere(Lifecycle::Deletion, "deletion");
}

/// Kills the operator after its first action, after its second, and so on, until it comes to the end before it is killed.
fn interrupt_everywhere(lifecycle: Lifecycle, name: &str) {
    RUNTIME.block_on(async {
        let stage = Stage::shared().await;
        let uninterrupted = format!("{name}-0");
        let (end, actions) = lifecycle.run_uninterrupted(&stage, &uninterrupted).await;
        let mut interrupted = 0;
        loop {
            let limits = interrupted + 1..=interrupted + BATCH;
            let runs = limits.map(async |limit| {
                lifecycle.run_interrupted(&stage, &format!("{name}-{limit}"), limit, &end).await
            });
            let runs = join_all(runs).await;
            let killed = runs.iter().filter(|was_killed| **was_killed).count();
            interrupted += killed;
            if killed < BATCH {
                break;
            }
        }
        assert!(interrupted > 0, "it did nothing: {actions:?}");
        check_broker(&stage, name, &uninterrupted, interrupted).await;
        tell(&format!(
            "{name}: killed after each of {interrupted} actions; without that they are {actions:#?}"
        ));
    });
}

impl Lifecycle {
    async fn run_uninterrupted(self, stage: &Arc<Stage>, namespace: &str) -> (Snapshot, Vec<String>) {
        let world = World::open(stage, namespace).await;
        self.prepare(&world).await;
        let operator = world.start_operator(usize::MAX).await;
        if !matches!(self, Self::Deletion) {
            wait_until_quiet(&operator).await;
            world.wait_until_ready().await;
        }
        let end = wait_for("what is not wanted any more to be gone", PATIENCE, async || {
            let snapshot = world.snapshot().await;
            let is_left = |key: &&String| matches!(self, Self::Deletion) && *key != "Secret rabbitmq";
            let left: Vec<_> = snapshot.keys().filter(is_left).cloned().collect();
            if left.is_empty() { Ok(snapshot) } else { Err(left.join(", ")) }
        })
        .await;
        assert_eq!(world.model.violations(), [""; 0]);
        (end, operator.kill())
    }

    /// Whether the operator was killed.
    async fn run_interrupted(
        self,
        stage: &Arc<Stage>,
        namespace: &str,
        limit: usize,
        end: &Snapshot,
    ) -> bool {
        let world = World::open(stage, namespace).await;
        self.prepare(&world).await;
        let operator = world.start_operator(limit).await;
        let was_killed = tokio::select! {
            () = operator.gate.wait_until_closed() => true,
            () = wait_for_end(&world, end, "without being killed") => false,
        };
        let done = operator.kill();
        if was_killed {
            let after = format!("killed after {done:#?}");
            let operator = world.start_operator(usize::MAX).await;
            wait_for_end(&world, end, &after).await;
            operator.kill();
        }
        assert_eq!(world.model.violations(), [""; 0], "{done:#?}");
        was_killed
    }

    /// Asks for what is to be done, while there is no operator.
    async fn prepare(self, world: &World) {
        let nodes = if matches!(self, Self::ScaleDown) { 3 } else { 2 };
        world.create_cluster(nodes).await;
        if matches!(self, Self::Creation) {
            return;
        }
        let operator = world.start_operator(usize::MAX).await;
        world.wait_until_ready().await;
        operator.kill();
        match self {
            Self::Creation => {}
            Self::ScaleUp => world.patch_cluster(json!({"spec": {"nodes": {"replicas": 3}}})).await,
            Self::ScaleDown => world.patch_cluster(json!({"spec": {"nodes": {"replicas": 2}}})).await,
            Self::RollOut => {
                let image = json!({"image": "registry.example/other:1"});
                world.patch_cluster(json!({"spec": {"nodes": image, "heart": image}})).await;
            }
            Self::Rotation => world.rotate_credentials().await,
            Self::Deletion => world.delete_cluster().await,
        }
    }
}

async fn wait_for_end(world: &World, end: &Snapshot, after: &str) {
    let what = format!("the same end of {} {after}", world.namespace);
    wait_for(&what, PATIENCE, async || describe_difference(&world.snapshot().await, end).map_or(Ok(()), Err))
        .await;
}

async fn wait_until_quiet(operator: &Gated) {
    wait_for("the operator to have nothing left to do", PATIENCE, async || {
        let before = operator.gate.done().len();
        tokio::time::sleep(QUIET).await;
        let after = operator.gate.done();
        if after.len() == before { Ok(()) } else { Err(format!("{:?}", &after[before..])) }
    })
    .await;
}

/// What all runs left on the broker is the same.
async fn check_broker(stage: &Stage, name: &str, uninterrupted: &str, interrupted: usize) {
    let mut lines = Vec::new();
    for question in [
        &["list_exchanges", "name", "type", "durable", "arguments"][..],
        &["list_queues", "name", "durable", "arguments", "messages"],
        &["list_bindings", "source_name", "destination_name", "routing_key", "arguments"],
    ] {
        lines.extend(stage.broker.ask(question).await);
    }
    let of = |namespace: &str| {
        let belongs = |field: &str| {
            let rest = field.strip_prefix(namespace);
            rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
        };
        let own = lines.iter().filter(|line| line.split('\t').any(belongs));
        let mut own: Vec<_> = own.map(|line| line.replace(namespace, "NAMESPACE")).collect();
        own.sort();
        own
    };
    let expected = of(uninterrupted);
    for limit in 1..=interrupted {
        assert_eq!(of(&format!("{name}-{limit}")), expected, "killed after {limit} actions");
    }
    assert_eq!(expected.is_empty(), name == "deletion", "{expected:?}");
}
