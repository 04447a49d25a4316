//! The requests of one connection, as the service takes them: with the client's address, for the
//! audit log.

use std::cell::RefCell;
use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;

use super::service::RequestBody;

/// A service that adds the client's address to the requests of one connection, and boxes their
/// bodies.
pub(super) struct WithClient<S> {
    /// Owned by the connection: a service that is cloned for each request, as hyper-util's adapter
    /// does, counts references that all threads share.
    inner: RefCell<S>,
    address: Option<SocketAddr>,
}

impl<S> WithClient<S> {
    pub(super) fn new(inner: S, address: Option<SocketAddr>) -> Self {
        Self {
            inner: RefCell::new(inner),
            address,
        }
    }
}

impl<S: tower::Service<Request<Body>>> hyper::service::Service<Request<RequestBody>>
    for WithClient<S>
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, request: Request<RequestBody>) -> S::Future {
        let mut request = request.map(Body::new);
        if let Some(address) = self.address {
            request.extensions_mut().insert(ConnectInfo(address));
        }
        self.inner.borrow_mut().call(request)
    }
}
