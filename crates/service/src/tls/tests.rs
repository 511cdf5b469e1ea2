use rcgen::{CertificateParams, KeyPair};

use super::*;

fn certificate() -> (Vec<u8>, Vec<u8>) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["heart".to_owned()]).unwrap().self_signed(&key).unwrap();
    (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
}

#[test]
fn what_fits_together_is_taken() {
    let (certificate, key) = certificate();
    let ca = [b"# a comment\n".as_slice(), &certificate, &self::certificate().0].concat();
    let with_all = TlsMaterial {
        ca: Some(ca),
        certificate: Some(certificate),
        key: Some(key),
        server_name: Some("other.example".to_owned()),
    };
    assert_eq!(Tls::new(TlsMaterial::default(), "broker").unwrap().server_name(), "broker");
    let tls = Tls::new(with_all.clone(), "broker").unwrap();
    assert_eq!((tls.server_name(), tls.has_certificate()), ("other.example", true));
    assert_eq!(tls, Tls::new(with_all.clone(), "10.0.0.1").unwrap(), "the name stands for the host");
    assert_ne!(tls, Tls::new(TlsMaterial { ca: None, ..with_all }, "broker").unwrap());
    for host in ["10.0.0.1", "::1", "rabbitmq.default.svc"] {
        assert!(Tls::new(TlsMaterial::default(), host).is_ok(), "{host}");
    }
}

#[test]
fn what_is_wrong_is_named_and_not_repeated() {
    let (certificate, key) = certificate();
    let other_key = self::certificate().1;
    let s3cret = b"-----BEGIN PRIVATE KEY-----\ns3cret\n-----END PRIVATE KEY-----\n".to_vec();
    let not_x509 = b"-----BEGIN CERTIFICATE-----\nczNjcmV0\n-----END CERTIFICATE-----\n".to_vec();
    let ca = |ca: &[u8]| TlsMaterial { ca: Some(ca.to_vec()), ..TlsMaterial::default() };
    let identity = |certificate: Option<&Vec<u8>>, key: Option<&Vec<u8>>| TlsMaterial {
        certificate: certificate.cloned(),
        key: key.cloned(),
        ..TlsMaterial::default()
    };
    let named = |name: &str| TlsMaterial { server_name: Some(name.to_owned()), ..TlsMaterial::default() };
    for (material, part, problem) in [
        (ca(b"s3cret"), TlsPart::Ca, "no certificate in PEM"),
        (ca(b""), TlsPart::Ca, "no certificate in PEM"),
        (ca(&key), TlsPart::Ca, "no certificate in PEM"),
        (ca(&not_x509), TlsPart::Ca, "not an X.509 certificate"),
        (ca(b"-----BEGIN CERTIFICATE-----\ns3cret"), TlsPart::Ca, "no certificate in PEM"),
        (identity(Some(&certificate), None), TlsPart::Key, "missing"),
        (identity(None, Some(&key)), TlsPart::Certificate, "missing"),
        (identity(Some(&key), Some(&key)), TlsPart::Certificate, "no certificate in PEM"),
        (identity(Some(&not_x509), Some(&key)), TlsPart::Certificate, "not an X.509 certificate"),
        (identity(Some(&certificate), Some(&certificate)), TlsPart::Key, "no private key in PEM"),
        (identity(Some(&certificate), Some(&s3cret)), TlsPart::Key, "private key"),
        (identity(Some(&certificate), Some(&other_key)), TlsPart::Key, "not the key of"),
        (named("two words"), TlsPart::ServerName, "neither a DNS name nor"),
        (named(""), TlsPart::ServerName, "neither a DNS name nor"),
    ] {
        let error = Tls::new(material.clone(), "broker").unwrap_err();
        assert_eq!(error.part, part, "{error}");
        assert!(error.problem.contains(problem), "{error} does not say {problem:?}");
        assert!(!format!("{error:?} {material:?}").contains("s3cret"), "{error:?}");
    }
}

#[test]
fn a_failed_handshake_says_who_refuses_what() {
    use rustls::Error;
    let name = CertificateError::NotValidForNameContext {
        expected: ServerName::try_from("broker").unwrap(),
        presented: vec!["DnsName(\"other\")".to_owned()],
    };
    for (error, has_certificate, expected) in [
        (
            Error::InvalidCertificate(CertificateError::UnknownIssuer),
            false,
            "not signed by a CA that is trusted",
        ),
        (
            Error::InvalidCertificate(CertificateError::BadSignature),
            false,
            "not signed by a CA that is trusted",
        ),
        (
            Error::InvalidCertificate(name),
            false,
            "not valid for name \"broker\"; certificate is only valid for DnsName(\"other\")",
        ),
        (Error::InvalidMessage(InvalidMessage::InvalidContentType), false, "does not speak TLS at this port"),
        (Error::AlertReceived(AlertDescription::CertificateRequired), false, "wants a client certificate"),
        (
            Error::AlertReceived(AlertDescription::HandshakeFailure),
            false,
            "may want a client certificate: HandshakeFailure",
        ),
        (Error::AlertReceived(AlertDescription::CertificateExpired), true, "refuses the client certificate"),
        (Error::AlertReceived(AlertDescription::CertificateExpired), true, "CertificateExpired"),
    ] {
        let text = describe_failure(&error, has_certificate);
        assert!(text.contains(expected), "{text}");
    }
}
