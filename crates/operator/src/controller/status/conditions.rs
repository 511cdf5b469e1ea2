//! The conditions: each is decided by itself, and `Ready` is the sum.

use std::collections::BTreeMap;

use broadcast_api::{ConditionType, NodePhase, NodeStatus};
use broadcast_protocol::names::NodeId;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::controller::error::{Class, Problem, ReconcileError};
use crate::controller::status::Findings;
use crate::names::{ACCEPT_LOSS_ANNOTATION, PAUSED_ANNOTATION};

/// Nodes are at different positions, as usual under load.
const NOT_COMPARABLE: &str = "NotComparable";

/// How a condition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    True,
    False,
    Unknown,
}

/// A condition before it has a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    type_: ConditionType,
    standing: Standing,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn new(
        type_: ConditionType,
        standing: Standing,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { type_, standing, reason, message: message.into() }
    }
}

/// The conditions after a pass.
pub(super) fn decide_conditions(findings: &Findings<'_>, nodes: &[NodeStatus]) -> Vec<Verdict> {
    let mut verdicts = vec![
        decide_conflict(findings),
        decide_broker_reachable(findings),
        decide_topology_declared(findings),
        decide_heart_available(findings),
        decide_nodes_ready(findings, nodes),
        decide_consistent(nodes),
        decide_data_loss(findings),
        decide_paused(findings),
    ];
    let of_tokens = failure_of_tokens(findings);
    let ready = decide_ready(&verdicts, findings.failure.or(of_tokens.as_ref()));
    let class = blocking_class(findings);
    let work =
        if ready.standing == Standing::True { describe_work(findings) } else { Some(reason_of(&ready)) };
    verdicts.extend(decide_progress(class, work));
    verdicts.push(ready);
    verdicts
}

/// What only looking can tell.
const FOUND: [ConditionType; 7] = [
    ConditionType::BrokerReachable,
    ConditionType::TopologyDeclared,
    ConditionType::HeartAvailable,
    ConditionType::NodesReady,
    ConditionType::Consistent,
    ConditionType::DataLoss,
    ConditionType::Conflict,
];

/// The conditions after a pass that found out nothing; what was found before is too old to stand if `stale`.
pub(super) fn decide_failure_conditions(failure: &ReconcileError, stale: bool) -> Vec<Verdict> {
    let ready = Verdict::new(ConditionType::Ready, Standing::False, failure.reason(), failure.to_string());
    let mut verdicts = decide_progress(Some(failure.class()), Some(reason_of(&ready)));
    verdicts.push(ready);
    if stale {
        let unknown = |type_| Verdict::new(type_, Standing::Unknown, failure.reason(), "not known any more");
        verdicts.extend(FOUND.map(unknown));
    }
    verdicts
}

fn problem_of<'a>(findings: &'a Findings<'_>) -> Option<&'a Problem> {
    match findings.failure {
        Some(ReconcileError::Problem(problem)) => Some(problem),
        _ => findings.observed.broker.as_ref().err(),
    }
}

fn blocking_class(findings: &Findings<'_>) -> Option<Class> {
    let of_tokens = || failure_of_tokens(findings).as_ref().map(ReconcileError::class);
    let of_problem = || problem_of(findings).map(Problem::class).or_else(of_tokens);
    findings.failure.map(ReconcileError::class).or_else(of_problem)
}

fn failure_of_tokens(findings: &Findings<'_>) -> Option<ReconcileError> {
    findings.observed.tokens.as_ref().err().cloned().map(ReconcileError::Tokens)
}

fn decide_conflict(findings: &Findings<'_>) -> Verdict {
    let type_ = ConditionType::Conflict;
    match problem_of(findings) {
        Some(problem @ Problem::Conflict(_)) => {
            Verdict::new(type_, Standing::True, problem.reason(), problem.to_string())
        }
        _ => Verdict::new(type_, Standing::False, "NoConflict", "no older resource uses the same names"),
    }
}

fn decide_broker_reachable(findings: &Findings<'_>) -> Verdict {
    let type_ = ConditionType::BrokerReachable;
    match problem_of(findings) {
        None | Some(Problem::ForeignHistory { .. }) => {}
        Some(Problem::Broker(error)) if error.is_refusal() => {}
        Some(problem @ Problem::Conflict(_)) => {
            return Verdict::new(type_, Standing::Unknown, problem.reason(), "not tried");
        }
        Some(problem) => return Verdict::new(type_, Standing::False, problem.reason(), problem.to_string()),
    }
    let url = findings.observed.access.as_ref().map(|access| format!("{access:?}")).unwrap_or_default();
    Verdict::new(type_, Standing::True, "Connected", url)
}

fn decide_topology_declared(findings: &Findings<'_>) -> Verdict {
    let type_ = ConditionType::TopologyDeclared;
    match problem_of(findings) {
        None if is_paused_without(findings) => {
            let missing = missing_of(findings).join(", ");
            Verdict::new(type_, Standing::False, "Missing", format!("while paused, there is no {missing}"))
        }
        None => {
            let exchange = findings.cluster.topology.names().exchange();
            let message = format!("exchange {exchange} with its queues and bindings");
            Verdict::new(type_, Standing::True, "Declared", message)
        }
        Some(problem @ Problem::ForeignHistory { .. }) => {
            Verdict::new(type_, Standing::False, problem.reason(), problem.to_string())
        }
        Some(Problem::Broker(error)) if error.is_refusal() => {
            Verdict::new(type_, Standing::False, error.source.reason(), error.to_string())
        }
        Some(problem) => Verdict::new(type_, Standing::Unknown, problem.reason(), "the broker was not asked"),
    }
}

fn missing_of(findings: &Findings<'_>) -> Vec<String> {
    findings.observed.missing(findings.cluster.topology.names())
}

fn is_paused_without(findings: &Findings<'_>) -> bool {
    findings.cluster.annotations.paused && !missing_of(findings).is_empty()
}

fn decide_paused(findings: &Findings<'_>) -> Verdict {
    let type_ = ConditionType::Paused;
    if findings.cluster.annotations.paused {
        let message = format!("nothing is changed until the annotation {PAUSED_ANNOTATION} goes");
        return Verdict::new(type_, Standing::True, "Paused", message);
    }
    Verdict::new(type_, Standing::False, "NotPaused", "changes are made")
}

fn decide_heart_available(findings: &Findings<'_>) -> Verdict {
    let type_ = ConditionType::HeartAvailable;
    match &findings.observed.heart {
        Ok(report) => {
            let message = format!("{} is active in epoch {}", report.pod, report.epoch);
            Verdict::new(type_, Standing::True, "Active", message)
        }
        Err(reason) => match failure_of_tokens(findings) {
            Some(failure) => Verdict::new(type_, Standing::Unknown, failure.reason(), failure.to_string()),
            None => Verdict::new(type_, Standing::False, "NoActiveHeart", reason),
        },
    }
}

fn decide_nodes_ready(findings: &Findings<'_>, nodes: &[NodeStatus]) -> Verdict {
    let type_ = ConditionType::NodesReady;
    let Findings { cluster, observed, members, .. } = findings;
    if let Some(refusal) = &members.refusal {
        return Verdict::new(type_, Standing::False, refusal.reason(), refusal.to_string());
    }
    let wanted = usize::try_from(cluster.nodes.replicas).unwrap_or(usize::MAX);
    let ready = nodes.iter().filter(|node| node.phase == NodePhase::Ready).count();
    if ready >= wanted {
        return Verdict::new(
            type_,
            Standing::True,
            "AllReady",
            format!("{ready} of {wanted} nodes are ready"),
        );
    }
    let describe = |node: &NodeStatus| {
        let name = NodeId::new(node.id).map(|id| cluster.names.node(id)).unwrap_or_default();
        if observed.is_being_replaced(&name) {
            return format!("node {} is being replaced", node.id);
        }
        format!("node {}: {:?}", node.id, node.phase)
    };
    let mut others: Vec<_> = nodes
        .iter()
        .filter(|node| !matches!(node.phase, NodePhase::Ready | NodePhase::Removing))
        .map(describe)
        .collect();
    others.extend(describe_outdated(findings));
    let message = format!("{ready} of {wanted} nodes are ready; {}", others.join(", "));
    Verdict::new(type_, Standing::False, "NodesNotReady", message.trim_end_matches("; "))
}

/// Nodes at the same position must have the same digest. Nodes that stand elsewhere prove nothing, and those that are
/// being removed are nobody's business any more.
fn decide_consistent(nodes: &[NodeStatus]) -> Verdict {
    let type_ = ConditionType::Consistent;
    let nodes: Vec<_> = nodes.iter().filter(|node| node.phase != NodePhase::Removing).collect();
    let mut at_position: BTreeMap<u64, Vec<(u32, &str)>> = BTreeMap::new();
    for node in &nodes {
        if let (Some(applied), Some(digest)) = (node.applied, &node.digest) {
            at_position.entry(applied).or_default().push((node.id, digest));
        }
    }
    for (position, digests) in &at_position {
        if digests.iter().any(|(_, digest)| *digest != digests[0].1) {
            let each: Vec<_> = digests.iter().map(|(id, digest)| format!("node {id} has {digest}")).collect();
            let message = format!("at position {position} {}", each.join(", "));
            return Verdict::new(type_, Standing::False, "DigestsDiffer", message);
        }
    }
    let most = at_position.iter().max_by_key(|(position, digests)| (digests.len(), **position));
    match most {
        Some((position, digests)) if digests.len() > 1 || nodes.len() == 1 => {
            let message = format!(
                "{} of {} nodes have the same digest at position {position}",
                digests.len(),
                nodes.len()
            );
            Verdict::new(type_, Standing::True, "DigestsEqual", message)
        }
        _ => {
            Verdict::new(type_, Standing::Unknown, NOT_COMPARABLE, "no two nodes stand at the same position")
        }
    }
}

/// What a node misses is lost when nobody whom it can ask has it. Nothing is skipped before a human says so.
fn decide_data_loss(findings: &Findings<'_>) -> Verdict {
    let type_ = ConditionType::DataLoss;
    let Ok(heart) = &findings.observed.heart else {
        return Verdict::new(type_, Standing::Unknown, "NoActiveHeart", "no heart says what the nodes miss");
    };
    let missing = heart.nodes.iter().filter_map(|node| node.missing.map(|seq| (seq, node.id))).min();
    let Some((seq, id)) = missing else {
        return Verdict::new(type_, Standing::False, "NothingMissing", "no node misses what nobody has");
    };
    let message = format!(
        "node {id} misses write {seq}, and no node or heart that it reached has it. If that stays so although all of them \
         run, the writes from {seq} on are lost; to go on without them annotate the resource with \
         {ACCEPT_LOSS_ANNOTATION}={seq}"
    );
    Verdict::new(type_, Standing::True, "WriteMissing", message)
}

fn decide_ready(others: &[Verdict], failure: Option<&ReconcileError>) -> Verdict {
    let type_ = ConditionType::Ready;
    let is_bad = |verdict: &&Verdict| match verdict.type_ {
        ConditionType::Conflict | ConditionType::DataLoss => verdict.standing == Standing::True,
        ConditionType::Paused => false,
        // Not comparable is the usual state under load.
        ConditionType::Consistent => verdict.standing == Standing::False,
        _ => verdict.standing != Standing::True,
    };
    if let Some(bad) = others.iter().find(is_bad) {
        return Verdict::new(type_, Standing::False, bad.reason, bad.message.clone());
    }
    if let Some(failure) = failure {
        return Verdict::new(type_, Standing::False, failure.reason(), failure.to_string());
    }
    Verdict::new(type_, Standing::True, "Ready", "the heart takes writes and every node applies them")
}

fn reason_of(verdict: &Verdict) -> (&'static str, String) {
    (verdict.reason, verdict.message.clone())
}

fn describe_outdated(findings: &Findings<'_>) -> Option<String> {
    let ids: Vec<_> = findings.members.outdated.iter().map(|id| format!("node {id}")).collect();
    (!ids.is_empty()).then(|| format!("to be replaced: {}", ids.join(", ")))
}

/// What is still done for a resource that is ready.
fn describe_work(findings: &Findings<'_>) -> Option<(&'static str, String)> {
    let ids: Vec<_> = findings.members.leaving.iter().map(|id| format!("node {id}")).collect();
    if findings.cluster.annotations.paused {
        return None;
    }
    if ids.is_empty() {
        return describe_outdated(findings).map(|message| ("ReplacingNodes", message));
    }
    Some(("RemovingNodes", format!("being removed: {}", ids.join(", "))))
}

/// What tools that wait for resources look at: at work, or stuck until somebody changes something.
fn decide_progress(class: Option<Class>, work: Option<(&'static str, String)>) -> Vec<Verdict> {
    let idle = |type_| Verdict::new(type_, Standing::False, "AsExpected", "");
    let Some((reason, message)) = work else {
        return vec![idle(ConditionType::Reconciling), idle(ConditionType::Stalled)];
    };
    if class == Some(Class::WaitForChange) {
        let stalled = Verdict::new(ConditionType::Stalled, Standing::True, reason, message);
        vec![idle(ConditionType::Reconciling), stalled]
    } else {
        let reconciling = Verdict::new(ConditionType::Reconciling, Standing::True, reason, message);
        vec![reconciling, idle(ConditionType::Stalled)]
    }
}

/// Conditions with times: one that stands as before keeps its time, and one that nothing was found out about stays.
pub(super) fn merge_conditions(
    recorded: &[Condition],
    verdicts: Vec<Verdict>,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let find = |type_: ConditionType| recorded.iter().find(|condition| condition.type_ == type_.as_str());
    let mut verdicts: BTreeMap<_, _> = verdicts.into_iter().map(|verdict| (verdict.type_, verdict)).collect();
    // Under load nodes are seen at the same position only now and then.
    if let (Some(verdict), Some(_)) =
        (verdicts.get(&ConditionType::Consistent), find(ConditionType::Consistent))
        && verdict.reason == NOT_COMPARABLE
    {
        verdicts.remove(&ConditionType::Consistent);
    }
    ConditionType::ALL
        .into_iter()
        .filter_map(|type_| {
            let old = find(type_);
            let Some(verdict) = verdicts.remove(&type_) else { return old.cloned() };
            let status = match verdict.standing {
                Standing::True => "True",
                Standing::False => "False",
                Standing::Unknown => "Unknown",
            };
            let unchanged = old.filter(|old| old.status == status);
            Some(Condition {
                type_: type_.as_str().to_owned(),
                status: status.to_owned(),
                reason: verdict.reason.to_owned(),
                message: verdict.message,
                observed_generation: generation,
                last_transition_time: unchanged.map_or(Time(now), |old| old.last_transition_time.clone()),
            })
        })
        .collect()
}
