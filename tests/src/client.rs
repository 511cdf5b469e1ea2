//! A client of the HTTP interfaces: typed where the interface is documented, with nothing hidden or retried.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use crate::tokens::Tokens;

mod answers;

pub use answers::{
    Digests, Document, HeartStatus, NodeStatus, Recomputed, Refused, Rejected, ReportedNode, View, Written,
};

/// How long any answer may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);

/// Waits until `probe` has an answer; an error is the state so far, the last of which a failure shows.
pub async fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let end = Instant::now() + deadline;
    let mut last = "nothing yet".to_owned();
    loop {
        match timeout(deadline, probe()).await {
            Ok(Ok(answer)) => return answer,
            Ok(Err(state)) => last = state,
            Err(_) => last.push_str(" (and then no answer)"),
        }
        assert!(
            Instant::now() < end,
            "waited {}s for {what}; the last state: {last}",
            deadline.as_secs_f32()
        );
        sleep(Duration::from_millis(50)).await;
    }
}

/// A heart, or a node, at its base URL.
#[derive(Clone, Debug)]
pub struct Client {
    base: Url,
    http: reqwest::Client,
    tokens: Option<Tokens>,
}

impl Client {
    /// Of a process whose HTTP interface is at this port of loopback.
    pub fn new(port: u16) -> Self {
        let base = Url::parse(&format!("http://127.0.0.1:{port}/")).unwrap();
        // The server hangs up on a connection that is idle: one that was is not used again.
        let idle = Duration::from_secs(2);
        let builder = reqwest::Client::builder().pool_idle_timeout(idle).timeout(ANSWER_DEADLINE).no_proxy();
        let http = builder.build().unwrap();
        Self { base, http, tokens: None }
    }

    /// The same, showing tokens.
    #[must_use]
    pub fn showing(&self, tokens: &Tokens) -> Self {
        Self { tokens: Some(tokens.clone()), ..self.clone() }
    }

    /// `http://127.0.0.1:8080/`.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// What requests are sent with.
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// A request to a path with parameters (`v1/writes?ack=all`).
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.start(method, self.base.join(path).unwrap())
    }

    fn document(&self, method: Method, collection: &str, key: &str) -> RequestBuilder {
        let mut url = self.base.clone();
        url.path_segments_mut().unwrap().clear().extend(["v1", "collections", collection, key]);
        self.start(method, url)
    }

    fn start(&self, method: Method, url: Url) -> RequestBuilder {
        let token = self.tokens.as_ref().map(|tokens| tokens.choose(&method, url.path()).to_owned());
        token.into_iter().fold(self.http.request(method, url), RequestBuilder::bearer_auth)
    }

    /// Stores a value; `id` is the request id.
    pub async fn put(
        &self,
        collection: &str,
        key: &str,
        value: &Value,
        id: Option<&str>,
    ) -> Result<Written, Refused> {
        let request = self.document(Method::PUT, collection, key).json(value);
        send_write(with_id(request, id)).await
    }

    /// Stores a value, and wants this level of acknowledgement within this time (`5s`).
    pub async fn put_with_ack(
        &self,
        key: &str,
        value: &Value,
        ack: &str,
        timeout: &str,
    ) -> Result<Written, Refused> {
        let request = self.document(Method::PUT, "users", key).query(&[("ack", ack), ("timeout", timeout)]);
        send_write(request.json(value)).await
    }

    /// Removes a value; `id` is the request id.
    pub async fn delete(&self, collection: &str, key: &str, id: Option<&str>) -> Result<Written, Refused> {
        send_write(with_id(self.document(Method::DELETE, collection, key), id)).await
    }

    /// Sends writes in one request, as they stand in its list `writes`.
    pub async fn write(&self, writes: &[Value]) -> Result<Written, Refused> {
        let request = self.request(Method::POST, "v1/writes").json(&serde_json::json!({ "writes": writes }));
        send_write(request).await
    }

    /// The same, and wants this level of acknowledgement within this time (`5s`).
    pub async fn write_at_level(
        &self,
        writes: &[Value],
        ack: &str,
        timeout: &str,
    ) -> Result<Written, Refused> {
        let request = self.request(Method::POST, "v1/writes").query(&[("ack", ack), ("timeout", timeout)]);
        send_write(request.json(&serde_json::json!({ "writes": writes }))).await
    }

    /// Sends writes as NDJSON.
    pub async fn write_ndjson(&self, body: String) -> Result<Written, Refused> {
        let request = self.request(Method::POST, "v1/writes").header("content-type", "application/x-ndjson");
        send_write(request.body(body)).await
    }

    /// Reads a document from a node that has applied `at_least`, waiting at most `timeout` (`2s`) for it.
    pub async fn read(
        &self,
        collection: &str,
        key: &str,
        at_least: u64,
        timeout: &str,
    ) -> Result<Document, Refused> {
        let at_least = at_least.to_string();
        let request = self.document(Method::GET, collection, key);
        let answer = send(request.query(&[("at_least", at_least.as_str()), ("timeout", timeout)])).await?;
        let header = |name: &str| answer.headers()[name].to_str().unwrap().parse().unwrap();
        let (seq, position) = (header("broadcast-seq"), header("broadcast-position"));
        Ok(Document { value: answer.json().await.map_err(no_answer)?, seq, position })
    }

    /// Looks for a document at a node that has applied `at_least`, waiting at most `timeout` (`2s`) for it.
    pub async fn look(
        &self,
        collection: &str,
        key: &str,
        at_least: u64,
        timeout: &str,
    ) -> Result<View, Refused> {
        let request = self.document(Method::GET, collection, key);
        let request = request.query(&[("at_least", at_least.to_string().as_str()), ("timeout", timeout)]);
        let answer = request.send().await.map_err(no_answer)?;
        let header = |name: &str| Some(answer.headers().get(name)?.to_str().unwrap().parse().unwrap());
        let (status, position, seq) =
            (answer.status().as_u16(), header("broadcast-position"), header("broadcast-seq"));
        match (status, position, seq) {
            (200, Some(position), Some(seq)) => {
                Ok(View { position, row: Some((answer.json().await.map_err(no_answer)?, seq)) })
            }
            (404, Some(position), None) => Ok(View { position, row: None }),
            _ => Err(refusal(status, answer).await?),
        }
    }

    /// What is at a path, as JSON.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Refused> {
        send(self.request(Method::GET, path)).await?.json().await.map_err(no_answer)
    }

    /// What a process counts, where this is its admin port.
    pub async fn metric(&self, name: &str) -> u64 {
        let answer = self.request(Method::GET, "metrics").send().await;
        let text = answer.unwrap().text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// The status of a heart.
    pub async fn heart_status(&self) -> Result<HeartStatus, Refused> {
        self.get("v1/status").await
    }

    /// The status of a node.
    pub async fn node_status(&self) -> Result<NodeStatus, Refused> {
        self.get("v1/status").await
    }
}

fn with_id(request: RequestBuilder, id: Option<&str>) -> RequestBuilder {
    match id {
        Some(id) => request.header("idempotency-key", id),
        None => request,
    }
}

/// Sends a request that writes.
pub async fn send_write(request: RequestBuilder) -> Result<Written, Refused> {
    let answer = send(request).await?;
    let status = answer.status().as_u16();
    let written: Written = answer.json().await.map_err(no_answer)?;
    Ok(Written { status, ..written })
}

/// Sends any request; an answer of 400 and above is an error in the one shape that they all have.
pub async fn send(request: RequestBuilder) -> Result<Response, Refused> {
    let answer = request.send().await.map_err(no_answer)?;
    match answer.status().as_u16() {
        ..400 => Ok(answer),
        status => Err(refusal(status, answer).await?),
    }
}

/// What an answer that is an error says; it is an error itself not to get it whole.
async fn refusal(status: u16, answer: Response) -> Result<Refused, Refused> {
    #[derive(Deserialize)]
    struct Body {
        error: Detail,
    }
    #[derive(Deserialize)]
    struct Detail {
        code: String,
        message: String,
    }
    let retry_after =
        answer.headers().get("retry-after").map(|value| value.to_str().unwrap().parse().unwrap());
    let text = answer.text().await.map_err(no_answer)?;
    let Body { error } = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("the answer {status} is not in the shape of all errors ({error}): {text}")
    });
    Ok(Refused { status, code: error.code, message: error.message, retry_after })
}

#[expect(clippy::needless_pass_by_value, reason = "what map_err gives")]
fn no_answer(error: reqwest::Error) -> Refused {
    let message = format!("{error:?}");
    Refused { status: 0, code: String::new(), message, retry_after: None }
}
