//! An object store that speaks S3, on a port of the loopback interface.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, Method, Request, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{HttpError, HttpResponse};
use tokio::runtime::Runtime;
use tokio::sync::RwLock;

use super::folder::Folder;
use super::server::Server;
use super::wait_until;

/// The bucket, and the prefix in it that the servers use.
const BUCKET: &str = "plant-models";
const SITE: &str = "site-1";

/// An object store with its objects in a folder.
pub(crate) struct ObjectStore {
    port: u16,
    /// While it is set, requests get no response.
    pub(crate) hangs: Arc<AtomicBool>,
    runtime: Option<Runtime>,
}

impl ObjectStore {
    /// Starts on this port, or on any free one for port 0.
    pub(crate) fn start(folder: &Folder, port: u16) -> Self {
        std::fs::create_dir_all(folder.path().join(BUCKET)).expect("a bucket");
        let objects = s3s_fs::FileSystem::new(folder.path()).expect("a folder");
        let mut builder = S3ServiceBuilder::new(objects);
        builder.set_auth(SimpleAuth::from_single("test-key", "test-secret"));
        let service = builder.build();
        let gate = Arc::new(RwLock::new(()));
        let hangs = Arc::new(AtomicBool::new(false));

        let mut listener = TcpListener::bind(("127.0.0.1", port));
        if port != 0 {
            // Earlier connections may hold the port for a moment.
            wait_until("the port is free again", || {
                listener.is_ok() || {
                    listener = TcpListener::bind(("127.0.0.1", port));
                    listener.is_ok()
                }
            });
        }
        let listener = listener.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        listener.set_nonblocking(true).expect("a socket");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("threads");
        let hanging = Arc::clone(&hangs);
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
            while let Ok((stream, _)) = listener.accept().await {
                let (service, gate) = (service.clone(), Arc::clone(&gate));
                let hanging = Arc::clone(&hanging);
                let answer = hyper::service::service_fn(move |request| {
                    let (service, gate) = (service.clone(), Arc::clone(&gate));
                    let hangs = hanging.load(Ordering::Relaxed);
                    async move {
                        if hangs {
                            std::future::pending::<()>().await;
                        }
                        answer(service, &gate, request).await
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), answer));
            }
        });
        Self {
            port,
            hangs,
            runtime: Some(runtime),
        }
    }

    /// Closes the port and all connections and returns the port.
    pub(crate) fn stop(mut self) -> u16 {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
        self.port
    }

    /// The folder of the objects of that server.
    pub(crate) fn folder(folder: &Folder) -> PathBuf {
        folder.path().join(BUCKET).join(SITE)
    }

    /// The command of a server on this store.
    pub(crate) fn command(&self, options: &[&str]) -> Command {
        command_for(self.port, options)
    }
}

/// Adds two things that S3 has and this object store lacks: an atomic write-if-absent, and status
/// 304 for an unchanged object.
async fn answer(
    service: S3Service,
    gate: &RwLock<()>,
    request: Request<Incoming>,
) -> Result<HttpResponse, HttpError> {
    let field = |headers: &HeaderMap, name: HeaderName| headers.get(name).cloned();
    let known = field(request.headers(), header::IF_NONE_MATCH);
    let is_get = request.method() == Method::GET;
    let request = request.map(s3s::Body::from);
    let response = if is_get {
        let _shared = gate.read().await;
        service.call(request).await?
    } else {
        let _exclusive = gate.write().await;
        service.call(request).await?
    };
    let now = field(response.headers(), header::ETAG);
    if is_get && response.status() == StatusCode::OK && now.is_some() && now == known {
        let mut unchanged = HttpResponse::new(s3s::Body::empty());
        *unchanged.status_mut() = StatusCode::NOT_MODIFIED;
        unchanged
            .headers_mut()
            .extend(now.map(|now| (header::ETAG, now)));
        return Ok(unchanged);
    }
    Ok(response)
}

/// The command of a server on the object store at this port.
pub(crate) fn command_for(port: u16, options: &[&str]) -> Command {
    let store = format!("s3://{BUCKET}/{SITE}");
    let mut command = Server::command(&["--store", &store]);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    command
        .env("AWS_ENDPOINT", format!("http://127.0.0.1:{port}"))
        .env("AWS_ALLOW_HTTP", "true")
        .env("AWS_ACCESS_KEY_ID", "test-key")
        .env("AWS_SECRET_ACCESS_KEY", "test-secret")
        .env("AWS_REGION", "eu-central-1")
        .env("NO_PROXY", "127.0.0.1")
        .args(options);
    command
}
