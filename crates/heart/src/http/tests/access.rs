use broadcast_service::auth::TokenReader;

use super::*;

/// A token for each role, and which folder they are in.
fn guarded(stage: &mut Stage, peer: &str) -> (tempfile::TempDir, TokenReader) {
    let folder = tempfile::tempdir().unwrap();
    for (role, token) in [("write", token("write")), ("read", token("read")), ("peer", peer.to_owned())] {
        std::fs::write(folder.path().join(role), token).unwrap();
    }
    let (keeper, reader) = Gatekeeper::open(folder.path()).unwrap();
    stage.api.gatekeeper = keeper;
    (folder, reader)
}

fn token(role: &str) -> String {
    format!("{role}-token-0123456789")
}

#[tokio::test]
async fn each_route_is_open_to_its_roles_alone() {
    let mut stage = stage();
    let _kept = guarded(&mut stage, &token("peer"));
    stage.role.send_replace(Role::TakingOver);
    let all = &["read", "write", "peer"][..];
    for (method, path, passed_on, allowed) in [
        ("POST", "/v1/writes", false, &["write"][..]),
        ("PUT", "/v1/collections/users/1", false, &["write"]),
        ("DELETE", "/v1/collections/users/1", false, &["write"]),
        ("DELETE", "/v1/collections/users/1", true, &["peer"]),
        ("POST", "/v1/dead-letters/replay", false, &["write"]),
        ("GET", "/v1/dead-letters", false, &["read"]),
        ("GET", "/v1/log?after=x", false, &["peer"]),
        ("GET", "/v1/status", false, all),
    ] {
        for role in all {
            let token = format!("Bearer {}", token(role));
            let mut headers = vec![("authorization", token.as_str()), JSON];
            headers.extend(passed_on.then_some(("broadcast-forwarded", "1")));
            let status = ask(&stage.api, method, path, &headers, "1").await.status;
            assert_eq!(
                status != 403,
                allowed.contains(role),
                "{method} {path} with a token for {role}: {status}"
            );
            assert_ne!(status, 401, "{method} {path}");
        }
        let answer = ask(&stage.api, method, path, &[JSON], "1").await;
        assert_eq!(
            (answer.status, &answer.body["error"]["code"]),
            (401, &"unauthorized".into()),
            "{method} {path}"
        );
    }
    assert_eq!(ask(&stage.api, "GET", "/v1/nothing", &[], "").await.status, 404);
}

#[tokio::test]
async fn a_standby_looks_at_the_clients_token_and_shows_its_own() {
    for (own, others, expected) in [
        (token("peer"), token("peer"), 200),
        // While tokens are changed: one of those that it has is known there.
        (format!("{}\n{}", token("new-peer"), token("peer")), token("peer"), 200),
        (token("new-peer"), token("peer"), 503),
    ] {
        let (mut active, mut standby) = (stage(), stage());
        let _kept = (guarded(&mut active, &others), guarded(&mut standby, &own));
        let url = serve(&active).await;
        standby.role.send_replace(Role::Standby { active: Some(url) });
        let (write, read) = (format!("Bearer {}", token("write")), format!("Bearer {}", token("read")));
        let put = async |header: &str| {
            ask(&standby.api, "PUT", "/v1/collections/users/1", &[("authorization", header)], "1").await
        };
        assert_eq!(put(&read).await.status, 403);
        let confirm = async {
            if expected == 200 {
                active.confirm(5).await;
            }
        };
        let (answer, ()) = tokio::join!(put(&write), confirm);
        assert_eq!(answer.status, expected, "{}", answer.body);
        if expected == 503 {
            let message = answer.body["error"]["message"].as_str().unwrap();
            assert!(
                message.contains("takes none of the peer tokens of this one; nothing was written"),
                "{message}"
            );
        }
    }
}
