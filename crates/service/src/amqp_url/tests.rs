use super::*;

fn source(pairs: &[(&str, &str)]) -> AmqpUrlSource {
    AmqpUrlSource::from_environment(|name| {
        pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    })
}

#[test]
fn a_file_goes_before_a_text_and_a_text_before_the_default() {
    let url = source(&[]).fetch().unwrap();
    assert_eq!((url.address().as_str(), url.user(), url.vhost()), ("127.0.0.1:5672", "guest", "/"));
    let url = source(&[("AMQP_URL", "amqp://ada:secret@broker:1/orders")]).fetch().unwrap();
    assert_eq!((url.address().as_str(), url.user(), url.vhost()), ("broker:1", "ada", "orders"));
    let url = source(&[("AMQP_URL", "amqp://[::1]:5/%2f")]).fetch().unwrap();
    assert_eq!(url.address(), "::1:5");
    let both = source(&[("AMQP_URL", "amqp://broker"), ("AMQP_URL_FILE", "/does/not/exist")]);
    assert!(both.fetch().unwrap_err().to_string().starts_with("AMQP_URL_FILE /does/not/exist: "));
}

#[test]
fn no_text_contains_the_password() {
    let url: AmqpUrl = "amqp://ada:s3cret@broker/%2f".parse().unwrap();
    assert_eq!(url.to_string(), "amqp://ada@broker:5672 (virtual host \"/\")");
    assert!(!format!("{url:?} {:?}", source(&[("AMQP_URL", "s3cret")])).contains("s3cret"));
    for text in [
        "",
        "s3cret",
        "amqp:s3cret",
        "http://a:s3cret@b",
        "amqp://a:s3cret@b:port",
        "amqp://a:s3cret@b:1/%ff",
    ] {
        let error = text.parse::<AmqpUrl>().unwrap_err().to_string();
        assert!(error.contains("expected amqp://") && !error.contains("s3cret"), "{text}: {error}");
    }
}

#[test]
fn an_amqps_address_names_its_files_and_what_is_wrong_with_them_is_told_with_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new([]).unwrap().self_signed(&key).unwrap();
    for (name, text) in
        [("ca.crt", certificate.pem()), ("tls.crt", certificate.pem()), ("tls.key", key.serialize_pem())]
    {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let path = folder.path().join("url");
    let fetch = |address: &str| {
        std::fs::write(&path, address).unwrap();
        AmqpUrlSource::File(path.clone()).fetch()
    };
    let all = "amqps://ada:s3cret@broker/%2f?heartbeat=9&verify=verify_peer&cacertfile=ca.crt&certfile=tls.crt\
               &keyfile=tls.key&server_name_indication=mq.example\n";
    let url = fetch(all).unwrap();
    assert_eq!(url.to_string(), "amqps://ada@broker:5671 (virtual host \"/\")");
    let tls = url.tls().unwrap();
    assert_eq!((tls.server_name(), tls.has_certificate()), ("mq.example", true));
    assert_eq!(fetch(all).unwrap(), url);
    assert_eq!(fetch("amqps://broker").unwrap().tls().unwrap().server_name(), "broker");
    assert_eq!(fetch("amqp://broker").unwrap().tls(), None);

    let absolute = format!("amqps://broker?cacertfile={}", folder.path().join("ca.crt").display());
    assert!(source(&[("AMQP_URL", &absolute)]).fetch().is_ok());
    std::fs::write(folder.path().join("ca.crt"), "other").unwrap();
    for (address, parts) in [
        (absolute.as_str(), ["cacertfile /", "ca.crt: no certificate in PEM"]),
        ("amqps://a:s3cret@b?cacertfile=none.crt", ["cacertfile /", "none.crt: No such file"]),
        ("amqps://a:s3cret@b?certfile=tls.crt", ["keyfile: ", "missing"]),
        ("amqps://a:s3cret@b?server_name_indication=a%20b", ["server_name_indication", "neither a DNS name"]),
        ("amqps://a:s3cret@b?verify=verify_none", ["AMQP_URL_FILE /", "only verify_peer is supported"]),
        ("amqp://a:s3cret@b?cacertfile=ca.crt", ["AMQP_URL_FILE /", "needs amqps://"]),
        ("", ["AMQP_URL_FILE /", "empty; expected amqp://"]),
    ] {
        let error = fetch(address).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{address}: {error}");
        assert!(!error.contains("s3cret"), "{error}");
    }
}

#[test]
fn what_is_changed_in_a_file_makes_another_address() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = || {
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertificateParams::new([]).unwrap().self_signed(&key).unwrap().pem()
    };
    let ca = folder.path().join("ca.crt");
    std::fs::write(&ca, certificate()).unwrap();
    let source = source(&[("AMQP_URL", &format!("amqps://broker?cacertfile={}", ca.display()))]);
    let before = source.fetch().unwrap();
    assert_eq!(source.fetch().unwrap(), before);
    std::fs::write(&ca, certificate()).unwrap();
    assert_ne!(source.fetch().unwrap(), before);
}

#[test]
fn what_an_address_says_of_tls_is_taken_out_and_put_back() {
    let query = TlsQuery {
        ca: Some("a/ca.crt".to_owned()),
        certificate: Some("tls.crt".to_owned()),
        key: Some("tls.key".to_owned()),
        server_name: Some("mq".to_owned()),
    };
    for address in
        ["amqps://a:p%2f%40@mq:5671/x%20y", "amqps://a:b@[::1]/%2f?heartbeat=9&auth_mechanism=external"]
    {
        let joined = query.join(address);
        assert!(joined.contains("certfile=tls.crt"), "{joined}");
        assert_eq!(TlsQuery::split_off(&joined), Ok((address.to_owned(), query.clone())));
        assert_eq!(TlsQuery::default().join(address), address);
        assert_eq!(TlsQuery::split_off(address), Ok((address.to_owned(), TlsQuery::default())));
    }
}
