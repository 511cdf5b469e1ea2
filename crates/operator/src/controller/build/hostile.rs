//! Resources and Secrets by somebody who means harm: what is made of them is text that is read as what it was.

use broadcast_api::{BroadcastCluster, SecretReference, StorageSpec, TlsSpec};
use k8s_openapi::api::core::v1::Secret;

use super::*;
use crate::controller::validate::validate;
use crate::secret::{SecretError, parse_secret};
use crate::testing::{access, cluster, ids, installation};

/// What could end a text, a line, a label, a path or a query, and begin something else.
const BREAKOUTS: [&str; 16] = [
    "a\"b",
    "a'b",
    "a\nb: c",
    "a\r\nb",
    "a\0b",
    "a: b",
    "a #b",
    "{{ a }}",
    "- a",
    "&a *b",
    "../../secrets",
    "a/b?c=d",
    "a%2fb",
    "a@b",
    "a b",
    "ä😀",
];

/// Where a text of the resource becomes part of a name, a label, a path or an address, and how it is put there.
type Field = (&'static str, fn(&mut BroadcastCluster, &str));

const NAMING_FIELDS: [Field; 8] = [
    ("metadata.name", |cluster, text| cluster.metadata.name = Some(text.to_owned())),
    ("spec.exchange", |cluster, text| text.clone_into(&mut cluster.spec.exchange)),
    ("spec.queueName", |cluster, text| text.clone_into(&mut cluster.spec.queue_name)),
    ("spec.historyId", |cluster, text| cluster.spec.history_id = Some(text.to_owned())),
    ("spec.rabbitmq.secretRef.name", |cluster, text| {
        text.clone_into(&mut cluster.spec.rabbitmq.secret_ref.name);
    }),
    ("spec.rabbitmq.tls.serverName", |cluster, text| {
        cluster.spec.rabbitmq.tls =
            Some(TlsSpec { server_name: Some(text.to_owned()), ..TlsSpec::default() });
    }),
    ("spec.rabbitmq.tls.caSecretRef.name", |cluster, text| {
        let ca_secret_ref = Some(SecretReference { name: text.to_owned() });
        cluster.spec.rabbitmq.tls = Some(TlsSpec { ca_secret_ref, ..TlsSpec::default() });
    }),
    ("spec.backlog.maxBytes", |cluster, text| text.clone_into(&mut cluster.spec.backlog.max_bytes)),
];

#[test]
fn what_becomes_part_of_a_name_is_refused_in_one_line() {
    for (field, put) in NAMING_FIELDS {
        for text in BREAKOUTS.iter().copied().chain([""]) {
            let mut cluster = cluster();
            put(&mut cluster, text);
            let problems = validate(&cluster, &installation()).unwrap_err().0;
            assert_eq!(problems.len(), 1, "{field} {text:?}: {problems:?}");
            assert!(problems[0].starts_with(&format!("{field}: ")), "{problems:?}");
            assert!(!problems[0].contains(['\n', '\r', '\0']), "{problems:?}");
        }
    }
}

#[test]
fn names_at_their_limits_fit_for_a_hundred_nodes() {
    let mut cluster = cluster();
    cluster.metadata.name = Some("n".repeat(40));
    (cluster.spec.exchange, cluster.spec.queue_name) = ("x".repeat(200), "q".repeat(200));
    (cluster.spec.nodes.replicas, cluster.spec.history_id) = (100, Some("h".repeat(63)));
    cluster.spec.nodes.storage = Some(StorageSpec { size: "1Gi".to_owned(), storage_class_name: None });
    let valid = validate(&cluster, &installation()).unwrap();
    let all = ids(1..=100);
    let objects = build_resources(&valid, &all, Some(&access()), &ObservedObjects::new()).unwrap();
    let OrderedObjects { foundations, heart, nodes } = objects.into_ordered().unwrap();
    assert_eq!(nodes.len(), 100);
    for object in foundations.iter().chain([&heart]).chain(nodes.values().flatten()) {
        let metadata = &object.body["metadata"];
        assert!(object.name.len() <= 63, "{object:?}");
        for labels in [&metadata["labels"], &object.body["spec"]["template"]["metadata"]["labels"]] {
            let values = labels.as_object().into_iter().flat_map(|labels| labels.values());
            assert!(values.clone().all(|value| value.as_str().unwrap().len() <= 63), "{object:?}: {labels}");
        }
    }
    // A short string of AMQP.
    let queues = all.iter().map(|id| valid.topology.names().node_queue(*id));
    let names = valid.topology.names();
    let others = [names.head_queue(), names.dead_queue(), names.dead_exchange()];
    assert!(queues.chain(others).all(|name| name.len() <= 255));
}

#[test]
fn any_text_that_is_not_part_of_a_name_arrives_as_it_is() {
    for text in BREAKOUTS {
        let mut cluster = cluster();
        for image in [&mut cluster.spec.heart.image, &mut cluster.spec.nodes.image] {
            *image = Some(text.to_owned());
        }
        let valid = validate(&cluster, &installation()).unwrap();
        let resources = build_resources(&valid, &ids([1]), None, &ObservedObjects::new()).unwrap();
        let OrderedObjects { heart, nodes, .. } = resources.into_ordered().unwrap();
        let node = nodes.into_values().flatten().next().unwrap();
        for deployment in [heart, node] {
            assert_eq!(deployment.body["spec"]["template"]["spec"]["containers"][0]["image"], text);
        }
    }
}

/// Reads a Secret with these values.
fn parse(values: &[(&str, &str)], vhost: Option<&str>) -> Result<BrokerAccess, SecretError> {
    let data = values.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())));
    parse_secret("rabbitmq", &Secret { data: Some(data.collect()), ..Secret::default() }, vhost, false)
}

#[test]
fn credentials_cannot_lead_to_another_broker() {
    for text in BREAKOUTS {
        let values = [("host", "broker"), ("username", text), ("password", text)];
        let access = parse(&values, Some(text)).unwrap();
        assert_eq!(access.url().address(), "broker:5672", "{text:?}");
        assert_eq!((access.url().user(), access.url().vhost()), (text, text));
        let url = String::from_utf8(access.files()["url"].clone()).unwrap();
        assert!(url.is_ascii() && !url.contains(['\n', '\r', '"', ' ']), "{url:?}");
        let same = parse(&[("uri", &url)], None).unwrap();
        assert_eq!((same.url().user(), same.url().vhost()), (text, text));

        let error = parse(&[("host", text), ("username", "u"), ("password", "p4ssw0rd")], None);
        let message = error.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(message.starts_with(r#"Secret "rabbitmq", key "host": neither"#), "{text:?}: {message:?}");
    }
}
