use broadcast_service::auth::Gatekeeper;

use super::*;

#[tokio::test]
async fn each_route_is_open_to_its_roles_alone() {
    let folder = TempDir::new().unwrap();
    let roles = ["write", "read", "peer"];
    let token = |role: &str| format!("{role}-token-0123456789");
    for role in roles {
        std::fs::write(folder.path().join(role), token(role)).unwrap();
    }
    let (gatekeeper, _reader) = Gatekeeper::open(folder.path()).unwrap();
    let mut node = Node::new();
    node.apply(&[put("users", "42", "1")]);
    let (wishes, _findings) = Findings::channel();
    let api = Api::new(NodeId::new(7).unwrap(), node.status.subscribe(), node.store.readers(), wishes);
    node.router = api_router(Api { gatekeeper, ..api });
    for (path, allowed) in [
        ("/v1/collections/users/42", &["read"][..]),
        ("/v1/collections/users", &["read"]),
        ("/v1/collections", &["read"]),
        ("/v1/status", &roles),
        ("/v1/digest", &roles),
        ("/v1/log?after=0", &["peer"]),
        ("/v1/snapshot", &["peer"]),
    ] {
        for role in roles {
            let header = format!("Bearer {}", token(role));
            let answer = node.ask(Request::get(path).header("authorization", header)).await;
            let expected = if allowed.contains(&role) { 200 } else { 403 };
            assert_eq!(answer.status, expected, "{path} with a token for {role}");
        }
        let answer = node.get(path).await;
        assert_eq!(answer.code(), (401, "unauthorized".into()), "{path}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{path}");
    }
    for (role, expected) in [("read", 403), ("peer", 403)] {
        let header = format!("Bearer {}", token(role));
        let answer = node.ask(Request::post("/v1/rebuild").header("authorization", header)).await;
        assert_eq!(answer.code(), (expected, "forbidden".into()), "{role}");
    }
}
