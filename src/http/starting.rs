//! The API while the server starts. It answers probes at once, so that a supervisor does not mistake a
//! long training for a hang. All other requests wait for the models.

use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either};
use tokio::sync::watch;
use tower::Service;

use super::api::Api;
use super::error::ApiError;
use super::requests::ResponseFuture;
use super::{paths, probes};

/// An [`Api`] that becomes available later.
#[derive(Clone)]
pub struct StartingApi {
    /// Each connection takes it over at its first request after the start.
    api: Option<Api>,
    started: watch::Receiver<Option<Api>>,
}

impl StartingApi {
    /// Also returns the channel that takes the API once the models are loaded.
    pub fn new() -> (Self, watch::Sender<Option<Api>>) {
        let (sender, started) = watch::channel(None);
        (Self { api: None, started }, sender)
    }
}

impl Service<Request> for StartingApi {
    type Response = Response;
    type Error = Infallible;
    type Future = Either<ResponseFuture, BoxFuture<'static, Result<Response, Infallible>>>;

    // An API is always ready.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        if self.api.is_none() {
            self.api.clone_from(&self.started.borrow());
        }
        match &mut self.api {
            Some(api) => Either::Left(api.call(request)),
            None => Either::Right(start(self.started.clone(), request).boxed()),
        }
    }
}

async fn start(
    mut started: watch::Receiver<Option<Api>>,
    request: Request,
) -> Result<Response, Infallible> {
    let starting = || {
        let reason = "the server is starting: the model default is not yet loaded or trained";
        ApiError::not_ready(reason).into_response()
    };
    match request.uri().path() {
        paths::HEALTH => return Ok(probes::health().await),
        paths::READY => return Ok(starting()),
        _ => {}
    }
    let api = match started.wait_for(Option::is_some).await {
        Ok(api) => api.clone(),
        // The start has failed.
        Err(_) => None,
    };
    match api {
        Some(mut api) => api.call(request).await,
        None => Ok(starting()),
    }
}
