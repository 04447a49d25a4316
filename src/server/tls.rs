//! TLS, with a certificate that is read again when it changes.

use std::future::{Future, poll_fn};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::connections::{OpenConnection, Waiting};
use crate::reload::{Reload, WatchedFiles};

/// Maximum time for a handshake; otherwise a client that says nothing holds its connection.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A certificate and its key, with which connections are encrypted.
#[derive(Debug)]
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    config: RwLock<Arc<ServerConfig>>,
    files: Mutex<WatchedFiles<2>>,
}

/// A certificate or a key that cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("certificate or its key: {0}")]
    Read(String),
    /// The certificate file is not as it must be.
    #[error("{}: there is no certificate in PEM form (BEGIN CERTIFICATE): {reason}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The key file is not as it must be.
    #[error(
        "{}: there is no unencrypted private key in PEM form (BEGIN PRIVATE KEY): {reason}",
        path.display()
    )]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The certificate and the key do not belong together, or are of an unsupported kind.
    #[error("cannot use the certificate {} with the key {}: {reason}", cert.display(), key.display())]
    Pair {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What is wrong with them.
        reason: String,
    },
}

impl Tls {
    /// Reads a certificate, followed by those that lead to its authority, and its key, both in PEM
    /// form.
    ///
    /// # Errors
    ///
    /// [`TlsError`] if one of them cannot be read, or they do not belong together.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let (files, contents) = WatchedFiles::open([cert.to_owned(), key.to_owned()]);
        let contents = contents.map_err(TlsError::Read)?;
        Ok(Self {
            cert: cert.to_owned(),
            key: key.to_owned(),
            config: RwLock::new(Arc::new(config(cert, key, &contents)?)),
            files: Mutex::new(files),
        })
    }

    async fn handshake(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner));
        timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream))
            .await
            .map_err(|_| {
                io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long")
            })?
    }
}

impl Reload for Tls {
    fn reload(&self) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(contents) = files.changed() else {
            return;
        };
        let config = contents
            .map_err(TlsError::Read)
            .and_then(|contents| config(&self.cert, &self.key, &contents));
        match config {
            Ok(config) => {
                *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                tracing::info!("read the certificate {} again", self.cert.display());
            }
            Err(error) => tracing::error!("the TLS certificate stays as it was: {error}"),
        }
    }
}

fn config(cert: &Path, key: &Path, contents: &[Vec<u8>; 2]) -> Result<ServerConfig, TlsError> {
    let [chain, private] = contents;
    let bad_cert = |reason: String| TlsError::Certificate {
        path: cert.to_owned(),
        reason,
    };
    let bad_pair = |reason| TlsError::Pair {
        cert: cert.to_owned(),
        key: key.to_owned(),
        reason,
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| bad_cert(error.to_string()))?;
    if chain.is_empty() {
        return Err(bad_cert("no such section".to_owned()));
    }
    let private = PrivateKeyDer::from_pem_slice(private).map_err(|error| TlsError::Key {
        path: key.to_owned(),
        reason: error.to_string(),
    })?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| {
            config
                .with_no_client_auth()
                .with_single_cert(chain, private)
        })
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                bad_pair("they do not belong together".to_owned())
            }
            error => bad_pair(error.to_string()),
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// A connection, encrypted or not.
pub(super) enum Stream {
    Plain(TcpStream),
    // Its buffers make it large.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Makes an encrypted connection of a new one if there is a certificate. A handshake ends when the
/// server stops, and when the connection is evicted.
pub(super) async fn accept(
    stream: TcpStream,
    tls: Option<&Tls>,
    open: &OpenConnection,
    mut stop: watch::Receiver<()>,
) -> io::Result<Stream> {
    let Some(tls) = tls else {
        return Ok(Stream::Plain(stream));
    };
    let mut handshake = pin!(tls.handshake(stream));
    let mut stopped = pin!(stop.changed());
    open.wait(Waiting::Client, Instant::now());
    poll_fn(|cx| {
        open.set_waker(cx.waker());
        if open.is_evicted() || stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        handshake
            .as_mut()
            .poll(cx)
            .map_ok(|stream| Stream::Tls(Box::new(stream)))
    })
    .await
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buffer),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
