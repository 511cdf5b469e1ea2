use axum::body::{Body, to_bytes};
use broadcast_protocol::envelope::{Link, Message};
use tower::ServiceExt;

use super::super::router;
use super::super::tests::{ask, stage};
use super::*;
use crate::role::Role;

#[tokio::test]
async fn the_log_is_served_as_a_node_serves_it_whatever_the_role() {
    let mut stage = stage();
    stage.api.history = crate::memory::tests::filled(3, 1);
    stage.api.history.with(|memory| memory.retained.forget_through(1));
    stage.role.send_replace(Role::Standby { active: None });
    let get = async |path: &str| {
        let request = axum::http::Request::builder().uri(path).body(Body::empty()).unwrap();
        router(stage.api.clone()).oneshot(request).await.unwrap()
    };
    for (after, firsts) in [(1, vec![2, 3]), (2, vec![3]), (3, vec![]), (9, vec![])] {
        let response = get(&format!("/v1/log?after={after}")).await;
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "application/x-ndjson");
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        let lines: Vec<&[u8]> = body.split(|byte| *byte == b'\n').collect();
        let (rest, lines) = lines.split_last().unwrap();
        assert!(rest.is_empty(), "every line is ended");
        let found: Vec<u64> = lines
            .iter()
            .map(|line| match Message::decode("c", &Bytes::copy_from_slice(line)) {
                Ok(Message::Link(Link::Write(message))) => message.first,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(found, firsts);
    }
    let answer = ask(&stage.api, "GET", "/v1/log?after=0", &[], "").await;
    assert_eq!((answer.status, &answer.body["error"]["code"]), (410, &"gone".into()));
    assert!(answer.body["error"]["message"].as_str().unwrap().contains("the oldest kept is 2"));

    let unread = get("/v1/log?after=1").await;
    let answer = ask(&stage.api, "GET", "/v1/log?after=1", &[], "").await;
    assert_eq!((answer.status, answer.retry_after.as_deref()), (503, Some("1")), "{}", answer.body);
    drop(unread);
    assert_eq!(get("/v1/log?after=1").await.status().as_u16(), 200);
}
