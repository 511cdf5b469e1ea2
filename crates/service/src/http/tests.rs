use axum::body::{Body, to_bytes};
use axum::http::Request;
use axum::routing::get;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::ServiceExt;

use super::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    limit: Option<u32>,
    #[serde(rename = "after")]
    _after: Option<String>,
}

fn router() -> Router {
    let limit = async |StrictQuery(query): StrictQuery<Parameters>| query.limit.unwrap_or(7).to_string();
    with_json_fallbacks(Router::new().route("/items", get(limit)))
}

async fn ask(method: &str, path: &str) -> (StatusCode, String) {
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    let response = router().oneshot(request).await.unwrap();
    let status = response.status();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn wrong_requests_get_an_error_of_one_shape_that_says_what_is_allowed() {
    assert_eq!(ask("GET", "/items?limit=3").await, (StatusCode::OK, "3".to_owned()));
    for (method, path, status, code, message) in [
        (
            "GET",
            "/items?limits=3",
            400,
            "invalid_query",
            "unknown field `limits`, expected `limit` or `after`",
        ),
        ("GET", "/items?limit=x", 400, "invalid_query", "limit: invalid digit"),
        ("GET", "/items?limit=1&limit=2", 400, "invalid_query", "duplicate field `limit`"),
        ("PUT", "/items", 405, "method_not_allowed", "/items does not take PUT"),
        ("GET", "/other", 404, "not_found", "nothing at /other"),
    ] {
        let (found, body) = ask(method, path).await;
        assert_eq!(found.as_u16(), status, "{path}: {body}");
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["error"]["code"], code, "{path}");
        assert!(body["error"]["message"].as_str().unwrap().contains(message), "{path}: {body}");
    }
}

#[test]
fn retry_after_is_in_whole_seconds_rounded_up() {
    for (milliseconds, header) in [(500, "1"), (1000, "1"), (1001, "2")] {
        let error = ApiError::unavailable("overloaded", "full", Duration::from_millis(milliseconds));
        assert_eq!(error.into_response().headers()[header::RETRY_AFTER], header);
    }
}

#[test]
fn durations_have_a_unit_and_a_bound() {
    let longest = Duration::from_mins(1);
    for (text, milliseconds) in [("5s", 5000), ("500ms", 500), ("0s", 0), ("60s", 60_000)] {
        assert_eq!(parse_duration(text, longest), Ok(Duration::from_millis(milliseconds)));
    }
    for text in ["", "5", "s", "5m", "-1s", "61s", "1.5s", "99999999999999999999s"] {
        assert!(parse_duration(text, longest).unwrap_err().contains("at most 60s"), "{text}");
    }
}

#[tokio::test]
async fn a_server_stops_within_its_deadline_though_a_client_stays() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let token = CancellationToken::new();
    let (started, mut waiting) = tokio::sync::mpsc::channel(1);
    let forever = async move || {
        started.send(()).await.unwrap();
        std::future::pending::<String>().await
    };
    let router = Router::new().route("/", get(forever));
    let server = tokio::spawn(serve(listener, router, token.clone(), Duration::from_millis(20)));
    let client = tokio::spawn(http_client().unwrap().get(format!("http://{address}/")).send());
    waiting.recv().await.unwrap();
    token.cancel();
    tokio::time::timeout(Duration::from_secs(10), server).await.unwrap().unwrap().unwrap();
    client.abort();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_or_never_ends_its_headers_is_hung_up_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let token = CancellationToken::new();
    let server = tokio::spawn(serve(listener, router(), token.clone(), Duration::from_secs(1)));
    for said in ["", "GET /items HTTP/1.1\r\nHost: a\r\n", "GET /items HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(said.as_bytes()).await.unwrap();
        let mut heard = String::new();
        let end = client.read_to_string(&mut heard);
        tokio::time::timeout(HEADER_DEADLINE * 3, end).await.expect("the server hangs up").unwrap();
    }
    token.cancel();
    server.await.unwrap().unwrap();
}
