use broadcast_api::{PeerSpec, ResourcesSpec, StorageSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::*;
use crate::controller::annotations::Annotations;
use crate::controller::tokens::TokenSecret;
use crate::testing::{access, ids, other_access, valid};

fn resources(cluster: &ValidCluster) -> ClusterResources {
    build_resources(cluster, &ids([1, 3]), Some(&access()), &ObservedObjects::new()).unwrap()
}

#[test]
fn every_object_is_as_reviewed() {
    let OrderedObjects { foundations, heart, nodes } = resources(&valid()).into_ordered().unwrap();
    for object in foundations.iter().chain([&heart]).chain(nodes.values().flatten()) {
        let name = format!("{}_{}", object.kind.as_str(), object.name);
        insta::assert_yaml_snapshot!(name, object.body);
    }
}

#[test]
fn a_node_with_storage_has_a_claim_of_its_own() {
    let mut cluster = valid();
    let size = "10Gi".to_owned();
    cluster.storage = Some(StorageSpec { size, storage_class_name: Some("fast".to_owned()) });
    let limits = [("memory".to_owned(), Quantity("64Mi".to_owned()))].into();
    cluster.nodes.resources = Some(ResourcesSpec { limits, ..ResourcesSpec::default() });
    let nodes = resources(&cluster).into_ordered().unwrap().nodes;
    for object in nodes.values().next().unwrap() {
        insta::assert_yaml_snapshot!(format!("with_storage_{}", object.kind.as_str()), object.body);
    }
}

#[test]
fn scaling_changes_the_list_of_nodes_and_no_pod() {
    let before = build_resources(&valid(), &ids([1, 2]), Some(&access()), &ObservedObjects::new())
        .unwrap()
        .into_ordered()
        .unwrap();
    let after = build_resources(&valid(), &ids([1, 2, 3]), Some(&access()), &ObservedObjects::new())
        .unwrap()
        .into_ordered()
        .unwrap();
    let changed = |(one, other): &(&DesiredObject, &DesiredObject)| one != other;
    let names: Vec<_> = before
        .foundations
        .iter()
        .zip(&after.foundations)
        .filter(changed)
        .map(|(one, _)| one.name.as_str())
        .collect();
    assert_eq!(names, ["orders-nodes"]);
    assert_eq!(before.heart, after.heart);
    assert!(before.nodes.iter().all(|(id, objects)| after.nodes.get(id) == Some(objects)));
}

#[test]
fn an_accepted_loss_reaches_the_hearts_and_restarts_nobody() {
    let before = resources(&valid()).into_ordered().unwrap();
    let after = resources(&ValidCluster {
        annotations: Annotations { accepted_loss: Some(1041), ..Annotations::default() },
        ..valid()
    });
    let list = &after.node_list.data.as_ref().unwrap()["nodes.yaml"];
    assert!(list.contains("accepted_loss: 1041"), "{list}");
    let after = after.into_ordered().unwrap();
    assert_eq!((before.heart, before.nodes), (after.heart, after.nodes));
}

#[test]
fn a_changed_file_rolls_the_pods_that_read_it() {
    let mut cluster = valid();
    let before = resources(&cluster).into_ordered().unwrap();
    cluster.backlog_bytes /= 2;
    let after = resources(&cluster).into_ordered().unwrap();
    let pod = |object: &DesiredObject| object.body["spec"]["template"].clone();
    assert_eq!(pod(&before.heart), pod(&after.heart));
    let (before, after) = (before.nodes.values().flatten(), after.nodes.values().flatten());
    assert!(before.zip(after).all(|(before, after)| pod(before) != pod(after)));
}

#[test]
fn files_that_hearts_and_nodes_get_are_files_that_they_take() {
    use broadcast_protocol::config::{HeartConfig, NodeConfig, NodesFile};
    let built = resources(&valid());
    let config = built.config.data.unwrap();
    let heart = HeartConfig::parse("heart.yaml", &config["heart.yaml"]).unwrap();
    let node = NodeConfig::parse("node.yaml", &config["node.yaml"], Some("3")).unwrap();
    assert_eq!(heart.cluster, node.cluster);
    assert_eq!(heart.topology(), node.topology());
    assert!(!heart.genesis);
    let list = NodesFile::parse("nodes.yaml", &built.node_list.data.unwrap()["nodes.yaml"]).unwrap();
    assert_eq!(list.accepted_loss, None);
    assert_eq!(list.node_ids.into_iter().collect::<BTreeSet<_>>(), ids([1, 3]));
}

#[test]
fn the_password_is_in_the_secret_and_nowhere_else() {
    let OrderedObjects { foundations, heart, nodes } = resources(&valid()).into_ordered().unwrap();
    let url = access().files().remove("url").unwrap();
    let (text, encoded) =
        (String::from_utf8(url.clone()).unwrap(), serde_json::to_value(ByteString(url)).unwrap());
    for object in foundations.iter().chain([&heart]).chain(nodes.values().flatten()) {
        assert!(!object.body.to_string().contains(&text), "{object:?}");
        assert_eq!(object.body["data"]["url"] == encoded, object.kind == Kind::Secret, "{object:?}");
    }
}

#[test]
fn credentials_and_tls_change_the_secret_and_no_pod() {
    let build = |access: &BrokerAccess| {
        build_resources(&valid(), &ids([1, 2]), Some(access), &ObservedObjects::new())
            .unwrap()
            .into_ordered()
            .unwrap()
    };
    let (before, after) = (build(&access()), build(&other_access()));
    assert_eq!((before.heart, before.nodes), (after.heart, after.nodes));
    let changed: Vec<_> =
        before.foundations.iter().zip(&after.foundations).filter(|(one, other)| one != other).collect();
    let [(one, other), (policy, _)] = changed[..] else { panic!("{changed:?}") };
    assert_eq!((one.kind, other.kind, policy.kind), (Kind::Secret, Kind::Secret, Kind::NetworkPolicy));
    // Each way round: what is not needed any more is no difference by itself, but the address names it no more.
    for (wanted, found) in [(one, other), (other, one)] {
        let found = ObservedObjects::from([((Kind::Secret, found.name.clone()), found.body.clone())]);
        assert!(wanted.differs_from(&found));
    }
}

#[test]
fn an_operator_with_new_images_changes_nothing_that_is_there() {
    let cluster = valid();
    let before = resources(&cluster).into_ordered().unwrap();
    let observe = |objects: &OrderedObjects| -> ObservedObjects {
        let deployments = [&objects.heart].into_iter().chain(objects.nodes.values().flatten());
        deployments.map(|object| ((object.kind, object.name.clone()), object.body.clone())).collect()
    };
    let mut upgraded = cluster.clone();
    upgraded.heart.default_image = "heart:new".to_owned();
    upgraded.nodes.default_image = "node:new".to_owned();
    let build = |cluster: &ValidCluster, existing: &OrderedObjects| {
        let existing = observe(existing);
        build_resources(cluster, &ids([1, 2, 3]), Some(&access()), &existing).unwrap().into_ordered().unwrap()
    };
    let image =
        |object: &DesiredObject| object.body["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    let images = |objects: &OrderedObjects| -> Vec<_> {
        objects.nodes.values().map(|of_node| image(&of_node[0])).chain([image(&objects.heart)]).collect()
    };
    let after = build(&upgraded, &before);
    assert_eq!(
        (&after.heart, &after.nodes[&NodeId::new(1).unwrap()]),
        (&before.heart, &before.nodes[&NodeId::new(1).unwrap()])
    );
    assert_eq!(images(&after), ["node:test", "node:new", "node:test", "heart:test"]);
    upgraded.nodes.image = Some("node:named".to_owned());
    let named = build(&upgraded, &after);
    assert_eq!(images(&named), ["node:named", "node:named", "node:named", "heart:test"]);
    // What was named and is not any more was wanted for no other reason.
    upgraded.nodes.image = None;
    let unnamed = build(&upgraded, &named);
    assert_eq!(images(&unnamed), ["node:new", "node:new", "node:new", "heart:test"]);
    upgraded.nodes.default_image = "node:newer".to_owned();
    assert_eq!(images(&build(&upgraded, &unnamed)), images(&unnamed));
}

#[test]
fn tokens_are_mounted_where_they_are_wanted_and_change_no_pod_with_what_they_are() {
    let mut cluster = valid();
    let before = resources(&cluster).into_ordered().unwrap();
    cluster.tokens = Some(TokenSecret { name: "mine".to_owned(), is_generated: false });
    let built = resources(&cluster);
    let files = built.config.data.clone().unwrap();
    let after = built.into_ordered().unwrap();
    assert_eq!(before.foundations.len(), after.foundations.len(), "the Secret is nobody's to apply");
    for file in ["heart.yaml", "node.yaml"] {
        assert!(files[file].contains("auth:\n  tokens_dir: /etc/broadcast/tokens\n"), "{}", files[file]);
    }
    for object in [&after.heart].into_iter().chain(after.nodes.values().flatten()) {
        let pod = &object.body["spec"]["template"]["spec"];
        let of_tokens = |list: &serde_json::Value| {
            let named = list.as_array().unwrap().iter().find(|entry| entry["name"] == "tokens");
            named.cloned().unwrap()
        };
        let volume = of_tokens(&pod["volumes"]);
        assert_eq!(volume["secret"], serde_json::json!({"secretName": "mine", "defaultMode": 0o440}));
        let mount = of_tokens(&pod["containers"][0]["volumeMounts"]);
        assert_eq!(
            (&mount["mountPath"], &mount["readOnly"]),
            (&"/etc/broadcast/tokens".into(), &true.into())
        );
    }
}

fn policy_of(cluster: &ValidCluster, existing: &ObservedObjects) -> Option<DesiredObject> {
    let objects = build_resources(cluster, &ids([1]), None, existing).unwrap().into_ordered().unwrap();
    objects.foundations.into_iter().find(|object| object.kind == Kind::NetworkPolicy)
}

#[test]
fn who_is_named_is_let_in_and_an_empty_list_is_nobody() {
    let mut cluster = valid();
    let peer = PeerSpec { cidr: Some("10.0.0.0/8".to_owned()), ..PeerSpec::default() };
    let rules = cluster.network.as_mut().unwrap();
    (rules.clients, rules.monitoring) = (Some(vec![peer]), Some(Vec::new()));
    let policy = policy_of(&cluster, &ObservedObjects::new()).unwrap().body;
    let ingress = policy["spec"]["ingress"].as_array().unwrap();
    let ports: Vec<_> = ingress.iter().map(|rule| rule["ports"][0]["port"].as_u64().unwrap()).collect();
    assert_eq!(ports, [8080, 8080]);
    assert_eq!(ingress[1]["from"], serde_json::json!([{"ipBlock": {"cidr": "10.0.0.0/8"}}]));

    cluster.network = None;
    assert_eq!(policy_of(&cluster, &ObservedObjects::new()), None);
}

#[test]
fn while_no_address_is_known_the_port_of_the_broker_stays_as_it_is() {
    let cluster = valid();
    let ordered = resources(&cluster).into_ordered().unwrap();
    let made = ordered.foundations.into_iter().find(|object| object.kind == Kind::NetworkPolicy).unwrap();
    assert_eq!(made.body["spec"]["egress"][0]["ports"][0]["port"], 5672);
    let existing = ObservedObjects::from([((made.kind, made.name.clone()), made.body.clone())]);
    assert_eq!(policy_of(&cluster, &existing), Some(made));
    let without = policy_of(&cluster, &ObservedObjects::new()).unwrap();
    assert_eq!(without.body["spec"]["egress"].as_array().unwrap().len(), 2);
    let existing = ObservedObjects::from([((without.kind, without.name.clone()), without.body.clone())]);
    assert_eq!(policy_of(&cluster, &existing), Some(without));
}
