use std::sync::Mutex;

use axum::body::Body;
use axum::routing::get;
use tower::ServiceExt;

use super::*;

const WRITE: &str = "write-token-0123456789";
const READ: &str = "read-token-0123456789";
const PEER: &str = "peer-token-0123456789";

/// A folder with a token of each kind.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (role, text) in [("write", WRITE), ("read", READ), ("peer", PEER)] {
        write(&folder, role, text);
    }
    folder
}

fn write(folder: &tempfile::TempDir, role: &str, text: &str) {
    std::fs::write(folder.path().join(role), text).unwrap();
}

async fn ask(keeper: &Gatekeeper, headers: &[(HeaderName, &str)]) -> (u16, String) {
    let needed: Needed =
        |headers| if headers.contains_key("passed-on") { &[Role::Peer] } else { &[Role::Read, Role::Peer] };
    let router = keeper.guard(needed, Router::new().route("/", get(async || "in")));
    let mut request = Request::get("/");
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    let response = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let challenge = response.headers().get(header::WWW_AUTHENTICATE);
    assert_eq!(challenge, (status == 401).then_some(&HeaderValue::from_static("Bearer")));
    let body = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn who_has_a_token_for_it_is_let_in_and_nobody_else() {
    let folder = folder();
    let (keeper, reader) = Gatekeeper::open(folder.path()).unwrap();
    let mut registry = Registry::default();
    keeper.register(&mut registry);
    let authorization = |text: String| vec![(header::AUTHORIZATION, text)];
    let other = |text: String| vec![(OTHER_HEADER, text)];
    let passed_on = |token: &str| {
        vec![
            (header::AUTHORIZATION, format!("Bearer {token}")),
            (HeaderName::from_static("passed-on"), "1".to_owned()),
        ]
    };
    for (headers, status, told) in [
        (authorization(format!("Bearer {READ}")), 200, "in"),
        (authorization(format!("bearer  {PEER}")), 200, "in"),
        (other(format!("Bearer {READ}")), 200, "in"),
        (passed_on(PEER), 200, "in"),
        (passed_on(READ), 403, "the token is one for read; the right ones are under the key peer of"),
        (
            authorization(format!("Bearer {WRITE}")),
            403,
            "is one for write; the right ones are under the key read or peer",
        ),
        (authorization(format!("Basic {READ}")), 401, "a token is needed"),
        (authorization(READ.to_owned()), 401, "a token is needed"),
        (authorization("Bearer ".to_owned()), 401, "a token is needed"),
        (
            authorization("Bearer nobody-has-this-one".to_owned()),
            401,
            "not one of those that are valid now; the right ones",
        ),
        (
            authorization(format!("Bearer {}", &READ[..READ.len() - 1])),
            401,
            "not one of those that are valid now",
        ),
        (
            Vec::new(),
            401,
            "Authorization: Bearer TOKEN; the right ones are under the key read or peer of the cluster's Secret",
        ),
    ] {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.clone(), value.as_str())).collect();
        let (found, body) = ask(&keeper, &headers).await;
        assert_eq!(found, status, "{headers:?}: {body}");
        assert!(body.contains(told), "{headers:?}: {body}");
        assert!(status == 200 || body.starts_with(r#"{"error":{"code":""#), "{body}");
        assert!(!body.contains("0123456789") && !body.contains("nobody"), "{body}");
    }
    let mut counted = String::new();
    prometheus_client::encoding::text::encode(&mut counted, &registry).unwrap();
    for line in [r#"{reason="unauthorized"} 6"#, r#"{reason="forbidden"} 2"#] {
        let line = format!("broadcast_http_requests_refused_total{line}");
        assert!(counted.lines().any(|found| found == line), "{line} is not in {counted}");
    }
    assert_eq!(keeper.peer_tokens(), [format!("Bearer {PEER}")]);
    assert!(!format!("{keeper:?} {reader:?} {:?}", keeper.peer_tokens()).contains("0123456789"));
}

#[tokio::test]
async fn without_a_folder_everybody_is_let_in() {
    let (keeper, reader) = Gatekeeper::open_if(None).unwrap();
    assert_eq!(ask(&keeper, &[]).await.0, 200);
    assert_eq!((keeper.peer_tokens().len(), reader.is_some()), (0, false));
}

#[tokio::test(start_paused = true)]
async fn two_tokens_are_valid_while_one_takes_the_others_place() {
    let folder = folder();
    let (keeper, reader) = Gatekeeper::open(folder.path()).unwrap();
    let reading = tokio::spawn(reader.run(CancellationToken::new()));
    let mut tokens = keeper.tokens.clone().unwrap();
    let next = "another-read-token-0123456789";
    for (text, old, new) in [
        (format!("{next}\n\n{READ}\n"), 200, 200),
        // What cannot be used changes nothing.
        ("short\n".to_owned(), 200, 200),
        (next.to_owned(), 401, 200),
    ] {
        write(&folder, "read", &text);
        let _ = tokio::time::timeout(READ_EVERY * 3, tokens.changed()).await;
        for (token, expected) in [(READ, old), (next, new)] {
            let header = format!("Bearer {token}");
            assert_eq!(ask(&keeper, &[(header::AUTHORIZATION, &header)]).await.0, expected, "{text}");
        }
    }
    reading.abort();
}

#[test]
fn what_is_no_token_is_told_by_its_line_and_never_shown() {
    let good = "good-token-0123456789";
    let many = format!("{good}\n").repeat(MAX_TOKENS + 1);
    for (text, told) in [
        ("", "there is no token in it"),
        ("\n\n", "there is no token in it"),
        ("short", "line 1: a token has 16 to 512 characters"),
        (&"x".repeat(513), "line 1: a token has 16 to 512 characters"),
        (" good-token-0123456789", "line 1: there is a space, a tab or a carriage return around the token"),
        ("good-token-0123456789 ", "line 1: there is a space"),
        ("good-token-0123456789\r\n", "line 1: there is a space, a tab or a carriage return"),
        ("\n \n", "line 2: there is a space"),
        ("good-token-0123456789\n\tgood-token-0123456789", "line 2: there is a space, a tab"),
        ("good token 0123456789", "line 1: a token consists of visible ASCII characters"),
        (
            "good\u{7}token-0123456789",
            "line 1: a token consists of visible ASCII characters, and there is a space, a control",
        ),
        ("good\0token-0123456789", "line 1: a token consists of visible ASCII characters"),
        ("tökén-0123456789-tökén", "line 1: a token consists of visible ASCII characters"),
        (&many, "more than 16 tokens"),
    ] {
        let problem = parse_tokens(text.as_bytes()).unwrap_err().to_string();
        assert!(problem.starts_with(told) || problem.contains(told), "{text:?}: {problem}");
        assert!(!problem.contains("0123456789"), "{problem}");
    }
    assert_eq!(parse_tokens(&[0xff; 20]), Err(TokenProblem::Characters(1)));
    let tokens = parse_tokens(format!("{good}\nanother-{good}\n").as_bytes()).unwrap();
    assert_eq!(tokens, [format!("Bearer {good}"), format!("Bearer another-{good}")]);
}

#[test]
fn a_file_that_cannot_be_used_is_named() {
    let folder = folder();
    write(&folder, "read", "good-token-0123456789\nshort");
    let error = Gatekeeper::open(folder.path()).unwrap_err().to_string();
    assert!(error.ends_with("/read: line 2: a token has 16 to 512 characters"), "{error}");
    write(&folder, "read", READ);
    std::fs::remove_file(folder.path().join("peer")).unwrap();
    let error = Gatekeeper::open(folder.path()).unwrap_err().to_string();
    assert!(error.starts_with("cannot read ") && error.contains("/peer: No such file"), "{error}");
}

#[tokio::test]
async fn a_token_that_the_other_side_does_not_know_is_followed_by_the_next() {
    let tokens = parse_tokens(b"new-token-0123456789\nold-token-0123456789").unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (knows, heard) = (tokens[1].clone(), seen.clone());
    let answer = async move |headers: HeaderMap| {
        let shown = headers.get(header::AUTHORIZATION).cloned();
        heard.lock().unwrap().push(shown.clone());
        if shown == Some(knows) { StatusCode::OK } else { StatusCode::UNAUTHORIZED }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let router = Router::new().route("/", get(answer));
    let stop = CancellationToken::new();
    let server = tokio::spawn(crate::http::serve(listener, router, stop.clone(), Duration::ZERO));
    let client = crate::http::http_client().unwrap();
    let send = async |tokens: &[HeaderValue]| {
        let answer = send_with_tokens(tokens, || client.get(&url)).await.unwrap();
        (answer.status().as_u16(), std::mem::take(&mut *seen.lock().unwrap()))
    };
    let [new, old] = [0, 1].map(|index| Some(tokens[index].clone()));
    assert_eq!(send(&tokens).await, (200, vec![new.clone(), old.clone()]));
    assert_eq!(send(&tokens[1..]).await, (200, vec![old]));
    assert_eq!(send(&tokens[..1]).await, (401, vec![new]));
    assert_eq!(send(&[]).await, (401, vec![None]));
    stop.cancel();
    server.await.unwrap().unwrap();
}
