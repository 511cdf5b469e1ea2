use std::collections::BTreeSet;

use broadcast_api::{AuthSpec, SecretReference};
use serde_json::{Value, json};

use super::*;
use crate::controller::validate::validate;
use crate::testing::api_server::{Exchange, api_server, expect, refuse};
use crate::testing::{cluster, installation};

const SECRETS: &str = "/api/v1/namespaces/shop/secrets";
const GOOD: &str = "good-token-0123456789";

fn wanting(secret: Option<&str>) -> ValidCluster {
    let mut cluster = cluster();
    let secret_ref = secret.map(|name| SecretReference { name: name.to_owned() });
    cluster.spec.auth = Some(AuthSpec { secret_ref });
    validate(&cluster, &installation()).unwrap()
}

/// A Secret with these values beside good ones.
fn secret(values: &[(&str, Option<&str>)]) -> Secret {
    let mut data: std::collections::BTreeMap<_, _> =
        Role::ALL.map(|role| (role.as_str().to_owned(), ByteString(GOOD.into()))).into();
    for (key, value) in values {
        match value {
            Some(value) => _ = data.insert((*key).to_owned(), ByteString(value.as_bytes().to_vec())),
            None => _ = data.remove(*key),
        }
    }
    Secret { data: Some(data), ..Secret::default() }
}

async fn fetch(
    cluster: &ValidCluster,
    exchanges: Vec<Exchange>,
) -> Result<Result<ObservedTokens, SecretError>, ReconcileError> {
    let (client, server) = api_server(exchanges);
    let found = fetch_tokens(&client, cluster).await;
    drop(client);
    server.await.unwrap();
    found
}

#[test]
fn what_is_made_can_be_read_is_the_resources_own_and_has_another_token_for_each() {
    let cluster = wanting(None);
    let mut count = 0;
    let made = build_tokens(&cluster, "orders-auth", || {
        count += 1;
        [count, 7]
    });
    assert!(is_own(&made, &cluster));
    assert_eq!(read_tokens("orders-auth", &made).unwrap(), [format!("Bearer {:032x}{:032x}", 2, 7)]);
    let values: BTreeSet<_> = made.data.unwrap().into_values().map(|value| value.0).collect();
    assert_eq!(values.len(), 3);
    let random: BTreeSet<_> = (0..3)
        .map(|_| build_tokens(&cluster, "orders-auth", rand::random).data.unwrap()["read"].0.clone())
        .collect();
    assert_eq!(random.len(), 3);
}

#[test]
fn a_secret_that_cannot_be_used_is_told_with_its_key_and_without_what_it_holds() {
    for (values, told) in [
        (&[("read", None)][..], "lacks read: each of the keys write, read and peer needs tokens, one a line"),
        (&[("read", None), ("peer", None)], "lacks read, peer: each of the keys"),
        (&[("write", Some(""))], "key \"write\": there is no token in it"),
        (&[("peer", Some("\n"))], "key \"peer\": there is no token in it"),
        (&[("peer", Some("short"))], "key \"peer\": line 1: a token has 16 to 512 characters"),
        (
            &[("read", Some("good-token-0123456789\n good-token-0123456789"))],
            "key \"read\": line 2: there is a space",
        ),
        (
            &[("read", Some("good-token-0123456789\r\n"))],
            "key \"read\": line 1: there is a space, a tab or a carriage return",
        ),
        (
            &[("read", Some("good-token\t0123456789"))],
            "key \"read\": line 1: a token consists of visible ASCII characters",
        ),
        (
            &[("read", Some("good-token\u{1b}0123456789"))],
            "key \"read\": line 1: a token consists of visible ASCII",
        ),
    ] {
        let error = read_tokens("mine", &secret(values)).unwrap_err().to_string();
        assert!(error.starts_with("Secret \"mine\"") && error.contains(told), "{values:?}: {error}");
        assert!(!error.contains("0123456789"), "{error}");
    }
    let two = secret(&[("read", Some("new-token-0123456789\nold-token-0123456789\n"))]);
    let tokens = read_tokens("mine", &two).unwrap();
    assert_eq!(tokens, ["Bearer new-token-0123456789", "Bearer old-token-0123456789"]);
    assert!(!format!("{:?}", ObservedTokens::Present(tokens)).contains("0123456789"));
}

#[tokio::test]
async fn a_secret_of_the_users_has_to_be_there_and_one_that_is_made_has_to_be_its_own() {
    let (mine, made) = (wanting(Some("mine")), wanting(None));
    let get = |name: &str| format!("GET {SECRETS}/{name}");
    let missing = fetch(&mine, vec![refuse(&get("mine"), 404)]).await.unwrap();
    assert_eq!(missing, Err(SecretError::Missing("mine".to_owned())));
    let missing = fetch(&made, vec![refuse(&get("orders-auth"), 404)]).await.unwrap();
    assert_eq!(missing, Ok(ObservedTokens::Missing));

    let of_nobody = serde_json::to_value(secret(&[])).unwrap();
    let present = ObservedTokens::Present(parse_tokens(GOOD.as_bytes()).unwrap());
    assert_eq!(fetch(&mine, vec![expect(&get("mine"), of_nobody.clone())]).await.unwrap(), Ok(present));
    let taken = fetch(&made, vec![expect(&get("orders-auth"), of_nobody)]).await.unwrap_err();
    assert_eq!(
        taken.to_string(),
        "Secret \"orders-auth\" exists and does not belong to this BroadcastCluster"
    );
    let own = serde_json::to_value(build_tokens(&made, "orders-auth", rand::random)).unwrap();
    let found = fetch(&made, vec![expect(&get("orders-auth"), own)]).await.unwrap();
    assert!(matches!(found, Ok(ObservedTokens::Present(tokens)) if tokens.len() == 1));
}

#[tokio::test]
async fn a_secret_that_somebody_was_faster_to_make_is_left_as_it_is() {
    let cluster = wanting(None);
    let request = format!("POST {SECRETS}?");
    let is_whole = |body: &Value| assert_eq!(body["metadata"]["name"], json!("orders-auth"));
    for (exchange, succeeds) in [
        (expect(&request, json!({"apiVersion": "v1", "kind": "Secret", "metadata": {}})), true),
        (refuse(&request, 409), true),
        (refuse(&request, 403), false),
    ] {
        let (client, server) = api_server(vec![exchange.checked(is_whole)]);
        let created = create_tokens(&client, &cluster, "orders-auth").await;
        drop(client);
        server.await.unwrap();
        assert_eq!(created.is_ok(), succeeds, "{created:?}");
    }
}
