//! Lets a client of the API server write only while this process leads.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::Request;
use tower::{BoxError, Layer, Service};

use crate::lease::leadership::{Leadership, NotLeading};

/// The layer: requests that only read pass; all others are refused without leadership, and given up at its end.
#[derive(Clone)]
pub struct Gate(pub Leadership);

/// What the layer makes of a service.
#[derive(Clone)]
pub struct Gated<S> {
    inner: S,
    leadership: Leadership,
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { inner, leadership: self.0.clone() }
    }
}

impl<S, B> Service<Request<B>> for Gated<S>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let leadership = self.leadership.clone();
        let writes = !request.method().is_safe();
        if writes && !leadership.is_valid() {
            return Box::pin(async { Err(NotLeading.into()) });
        }
        let answer = self.inner.call(request);
        if writes {
            Box::pin(async move { leadership.guard(answer).await?.map_err(Into::into) })
        } else {
            Box::pin(async { answer.await.map_err(Into::into) })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{Method, Response};
    use tower::ServiceExt;
    use tower_test::mock;

    use super::*;

    /// What comes of a request, and whether it came through; a service that gets it does not answer.
    async fn send(method: Method, leadership: Leadership) -> (Option<Result<(), String>>, bool) {
        let (service, mut handle) = mock::pair::<Request<()>, Response<()>>();
        let request = Request::builder().method(method).body(()).unwrap();
        let sending = Gate(leadership).layer(service).oneshot(request);
        let sending = tokio::spawn(tokio::time::timeout(Duration::from_millis(200), sending));
        let received = handle.next_request().await;
        let outcome = sending.await.unwrap().ok();
        (outcome.map(|result| result.map(drop).map_err(|error| error.to_string())), received.is_some())
    }

    #[tokio::test]
    async fn without_leadership_nothing_passes_but_what_only_reads() {
        let refused = || Some(Err(NotLeading.to_string()));
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            assert_eq!(send(method.clone(), Leadership::none()).await, (refused(), false), "{method}");
            assert_eq!(send(method.clone(), Leadership::unlimited()).await, (None, true), "{method}");
        }
        assert_eq!(send(Method::GET, Leadership::none()).await, (None, true));
    }

    #[tokio::test]
    async fn a_write_that_is_not_answered_is_given_up_with_leadership() {
        let leadership = Leadership::none();
        leadership.last_until(leadership.now() + Duration::from_millis(20));
        let refused = Some(Err(NotLeading.to_string()));
        assert_eq!(send(Method::PATCH, leadership).await, (refused, true));
    }
}
