use broadcast_api::TlsSpec;
use k8s_openapi::ByteString;
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;

use super::*;

type Pairs<'a> = &'a [(&'a str, &'a str)];

fn secret(pairs: Pairs<'_>) -> Secret {
    let data = pairs.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())));
    Secret { data: Some(data.collect()), ..Secret::default() }
}

fn parse(pairs: Pairs<'_>, vhost: Option<&str>, wants_tls: bool) -> Result<BrokerAccess, SecretError> {
    parse_secret("mq", &secret(pairs), vhost, wants_tls)
}

/// What pods get, as text.
fn texts(access: &BrokerAccess) -> BTreeMap<String, String> {
    access.files().into_iter().map(|(key, file)| (key, String::from_utf8(file).unwrap())).collect()
}

/// A certificate and its key.
fn certificate() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    (CertificateParams::new([]).unwrap().self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn tls_spec() -> TlsSpec {
    serde_json::from_value(json!({
        "caSecretRef": {"name": "ca"},
        "clientCertSecretRef": {"name": "client"},
        "serverName": "mq.example",
    }))
    .unwrap()
}

#[test]
fn every_form_gives_one_address() {
    let parts: Pairs<'_> = &[("host", "mq"), ("port", "5673"), ("username", "a"), ("password", "p/@:ü")];
    let with_vhost = [parts, &[("vhost", "own")]].concat();
    let cases: &[(Pairs<'_>, Option<&str>, &str)] = &[
        (&[("uri", "amqp://a:b@mq:5673/%2f")], None, "amqp://a:b@mq:5673/%2f"),
        (&[("uri", "amqp://a:b@mq\n")], None, "amqp://a:b@mq/%2f"),
        (&[("uri", "amqp://a:b@mq/own")], Some("x y"), "amqp://a:b@mq/x%20y"),
        (&[("uri", "amqp://a:b@mq/own?heartbeat=9")], None, "amqp://a:b@mq/own?heartbeat=9"),
        (&[("connection_string", "amqp://a:b@mq:5672/")], None, "amqp://a:b@mq:5672/%2f"),
        (parts, None, "amqp://a:p%2f%40%3a%c3%bc@mq:5673/%2f"),
        (&with_vhost, None, "amqp://a:p%2f%40%3a%c3%bc@mq:5673/own"),
        (&with_vhost, Some("/"), "amqp://a:p%2f%40%3a%c3%bc@mq:5673/%2f"),
        (&[("host", "::1"), ("username", "a"), ("password", "b")], None, "amqp://a:b@[::1]:5672/%2f"),
    ];
    for (pairs, vhost, expected) in cases {
        let access = parse(pairs, *vhost, false).unwrap();
        assert_eq!(texts(&access), [("url".to_owned(), (*expected).to_owned())].into());
        assert!(!format!("{access:?}").contains("p%2f"));
    }
    let access = parse(&with_vhost, None, false).unwrap();
    assert_eq!(access.identity(), ("mq:5673".to_owned(), "own".to_owned()));
}

#[test]
fn an_unusable_secret_is_told_apart_and_its_values_are_not_repeated() {
    let cases: &[(Pairs<'_>, &str, &str)] = &[
        (&[], "SecretLacksKeys", "lacks host, username, password"),
        (&[("host", "mq"), ("username", "s3cret")], "SecretLacksKeys", "\"mq\" lacks password:"),
        (&[("uri", " ")], "SecretLacksKeys", "either uri, or host"),
        (&[("uri", "s3cret")], "SecretInvalid", "key \"uri\": expected amqp://"),
        (
            &[("uri", "amqp://a:s3cret@b?cacertfile=ca.crt")],
            "SecretInvalid",
            "key \"uri\": what it says of TLS",
        ),
        (&[("uri", "amqps://a:s3cret@b?cacertfile=/ca.pem")], "SecretInvalid", "no key of this Secret"),
        (&[("uri", "amqps://a:s3cret@b?verify=verify_none")], "SecretInvalid", "only verify_peer"),
        (&[("uri", "amqps://a:s3cret@a..b/")], "SecretInvalid", "neither a DNS name"),
        (&[("uri", "http://a:s3cret@b")], "SecretInvalid", "key \"uri\": expected amqp://"),
        (&[("uri", "amqp://a:s3cret@b:port/")], "SecretInvalid", "key \"uri\""),
        (&[("host", "a b"), ("username", "a"), ("password", "s3cret")], "SecretInvalid", "key \"host\""),
        (
            &[("host", "a"), ("port", "s3cret"), ("username", "a"), ("password", "b")],
            "SecretInvalid",
            "key \"port\"",
        ),
    ];
    for (pairs, reason, expected) in cases {
        let error = parse(pairs, None, false).unwrap_err();
        assert_eq!(error.reason(), *reason, "{pairs:?}");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}

#[test]
fn tls_changes_the_scheme_and_the_usual_port_and_nothing_that_is_said() {
    let parts: Pairs<'_> = &[("host", "mq"), ("username", "a"), ("password", "b")];
    let with_port = [parts, &[("port", "5671")]].concat();
    let cases: &[(Pairs<'_>, bool, &str)] = &[
        (&[("uri", "amqp://a:b@mq/v")], true, "amqps://a@mq:5671 (virtual host \"v\")"),
        (&[("uri", "amqp://a:b@mq:5672/v")], true, "amqps://a@mq:5672 (virtual host \"v\")"),
        (&[("uri", "amqps://a:b@mq/v")], false, "amqps://a@mq:5671 (virtual host \"v\")"),
        (parts, true, "amqps://a@mq:5671 (virtual host \"/\")"),
        (parts, false, "amqp://a@mq:5672 (virtual host \"/\")"),
        (&with_port, true, "amqps://a@mq:5671 (virtual host \"/\")"),
    ];
    for (pairs, wants_tls, expected) in cases {
        assert_eq!(format!("{:?}", parse(pairs, None, *wants_tls).unwrap()), *expected);
    }
    let [plain, secure] = [false, true].map(|wants_tls| parse(parts, None, wants_tls).unwrap().identity());
    assert_eq!(plain, secure, "it is the same broker");
}

#[test]
fn what_the_named_secrets_hold_goes_into_the_pods_secret_and_comes_out_of_it_again() {
    let ((ca, _), (certificate, key)) = (certificate(), certificate());
    let plain = parse(&[("uri", "amqp://ada:s3cret@mq/v?heartbeat=9")], None, true).unwrap();
    let found = TlsSecrets::new(
        &tls_spec(),
        Some(secret(&[("ca.crt", &ca)])),
        Some(secret(&[("tls.crt", &certificate), ("tls.key", &key)])),
    );
    let access = plain.clone().secured(&found).unwrap();
    let files = texts(&access);
    let url = "amqps://ada:s3cret@mq/v?heartbeat=9&cacertfile=ca.crt&certfile=tls.crt&keyfile=tls.key\
               &server_name_indication=mq.example";
    let expected = [("url", url), ("ca.crt", &ca), ("tls.crt", &certificate), ("tls.key", &key)];
    assert_eq!(files, expected.map(|(key, file)| (key.to_owned(), file.to_owned())).into());

    let pairs: Vec<_> = files.iter().map(|(key, file)| (key.as_str(), file.as_str())).collect();
    let copy = parse_secret("orders-amqp", &secret(&pairs), None, false).unwrap();
    assert_eq!((copy.url(), copy.files()), (access.url(), access.files()));
    assert_ne!(plain.url(), access.url());
}

#[test]
fn what_is_wrong_with_a_named_secret_is_told_with_its_name_and_key() {
    let ((certificate, key), (_, other_key)) = (certificate(), certificate());
    let good_ca = [("ca.crt", certificate.as_str())];
    let cases: &[(Pairs<'_>, Pairs<'_>, [&str; 2])] = &[
        (&[], &[("tls.crt", &certificate), ("tls.key", &key)], ["Secret \"ca\", key \"ca.crt\"", "missing"]),
        (
            &[("ca.crt", "s3cret")],
            &[("tls.crt", &certificate), ("tls.key", &key)],
            ["Secret \"ca\", key \"ca.crt\"", "no certificate in PEM"],
        ),
        (&good_ca, &[("tls.crt", &certificate)], ["Secret \"client\", key \"tls.key\"", "missing"]),
        (&good_ca, &[("tls.key", &key)], ["Secret \"client\", key \"tls.crt\"", "missing"]),
        (
            &good_ca,
            &[("tls.crt", &certificate), ("tls.key", "s3cret")],
            ["Secret \"client\", key \"tls.key\"", "no private key in PEM"],
        ),
        (
            &good_ca,
            &[("tls.crt", &certificate), ("tls.key", &other_key)],
            ["Secret \"client\", key \"tls.key\"", "not the key of the client certificate"],
        ),
    ];
    for (ca, client, parts) in cases {
        let found = TlsSecrets::new(&tls_spec(), Some(secret(ca)), Some(secret(client)));
        let access = parse(&[("uri", "amqp://ada:s3cret@mq")], None, true).unwrap();
        let error = access.secured(&found).unwrap_err();
        assert_eq!(error.reason(), "SecretInvalid");
        let text = error.to_string();
        assert!(parts.iter().all(|part| text.contains(part)) && !text.contains("s3cret"), "{text}");
    }
}
