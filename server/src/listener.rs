//! Addresses, TLS, connections and their end: what all doors share below their protocols.
//!
//! HTTP and Flight SQL (gRPC) share one port, the PostgreSQL wire has another.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use saequel_engine::{Engine, ErrorKind};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::error::{Failure, Result, io_failure};
use crate::gate::{Door, Gate, OfDoor};
use crate::options::{ServeOptions, TlsFiles};
use crate::{flight_sql, http, mcp, postgres};

/// Time for a TLS handshake, and for the head of a request.
const SHAKE_HANDS: Duration = Duration::from_secs(10);

/// Where a request comes from; an extension of every request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// A server that listens but does not answer yet.
pub struct Server {
    gate: Gate,
    listener: TcpListener,
    postgres: Option<TcpListener>,
    tls: Option<Arc<ServerConfig>>,
}

impl Server {
    /// Takes the addresses.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] for an address that other machines can reach without tokens and TLS, [`ErrorKind::Io`] if an
    /// address is taken, [`ErrorKind::Data`] for certificates that cannot be used.
    pub async fn bind(engine: Engine, options: ServeOptions) -> Result<Self> {
        let tls = options.tls.as_ref().map(tls_config).transpose()?;
        let (listen, postgres) = (options.listen, options.postgres);
        let gate = Gate::new(engine, options)?;
        for (flag, address) in [("--listen", Some(listen)), ("--postgres", postgres)] {
            may_listen(&gate, flag, address)?;
        }
        if gate.options().write && gate.engine().options().read_only {
            return Err(Failure::new(ErrorKind::Denied, "serve: expected an engine that can write"));
        }
        Ok(Self {
            listener: bind("--listen", listen).await?,
            postgres: match postgres {
                Some(address) => Some(bind("--postgres", address).await?),
                None => None,
            },
            tls,
            gate,
        })
    }

    /// The address of HTTP and Flight SQL, with the port that was found for port 0.
    ///
    /// # Errors
    /// If the operating system does not tell.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        self.listener.local_addr().map_err(|error| io_failure("listen", &error))
    }

    /// The address of the PostgreSQL wire.
    ///
    /// # Errors
    /// If the operating system does not tell.
    pub fn postgres_addr(&self) -> Result<Option<SocketAddr>> {
        let address = self.postgres.as_ref().map(TcpListener::local_addr).transpose();
        address.map_err(|error| io_failure("listen", &error))
    }

    /// What the doors share.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Answers until `stop` is done; then takes no new request and lets running ones finish for a while, and cancels what is
    /// left.
    ///
    /// # Errors
    /// If a listener breaks.
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        let Self { gate, listener, postgres, tls } = self;
        let stopping = CancellationToken::new();
        let router = http::router(gate.clone())
            .merge(flight_sql::routes(gate.clone()))
            .merge(mcp::routes(gate.clone(), stopping.clone()));
        let http = tokio::spawn(serve_http(gate.clone(), listener, tls.clone(), router, stopping.clone()));
        let postgres =
            postgres.map(|listener| tokio::spawn(serve_postgres(gate.clone(), listener, tls, stopping.clone())));
        stop.await;
        gate.stop();
        stopping.cancel();
        let ended = async {
            let _ = http.await;
            if let Some(postgres) = postgres {
                let _ = postgres.await;
            }
        };
        let drain = gate.options().drain;
        if tokio::time::timeout(drain, ended).await.is_err() {
            tracing::warn!(seconds = drain.as_secs_f64(), "some queries did not end in time and are cancelled");
            gate.cancel_all();
            tokio::time::sleep(Duration::from_millis(200)).await; // the clients are told
        }
        Ok(())
    }
}

/// Serves `engine` until SIGINT or SIGTERM.
///
/// # Errors
/// As [`Server::bind`] and [`Server::run`].
pub async fn serve(engine: Engine, options: ServeOptions) -> Result<()> {
    Server::bind(engine, options).await?.run(stop_signal()).await
}

/// Ends with the first SIGINT or SIGTERM. Both are caught from the call on, not from the first poll.
pub(crate) fn stop_signal() -> impl Future<Output = ()> + Send + 'static {
    use tokio::signal::unix::{SignalKind, signal};
    let (interrupt, terminate) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    async move {
        match (interrupt, terminate) {
            (Ok(mut interrupt), Ok(mut terminate)) => {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            }
            _ => {
                let _ = tokio::signal::ctrl_c().await;
            }
        }
    }
}

/// Refuses an address that other machines can reach, unless they need a token and nobody can read it on the way.
fn may_listen(gate: &Gate, flag: &str, address: Option<SocketAddr>) -> Result<()> {
    let Some(address) = address.filter(|address| !address.ip().is_loopback()) else { return Ok(()) };
    let denied = |message: String, hint: &str| Err(Failure::new(ErrorKind::Denied, message).hint(hint));
    if !gate.tokens().needed()? {
        let message = format!("{flag}: {address} can be reached from other machines, and there is no token");
        return denied(message, "make one with `saequel token create NAME`, or listen on 127.0.0.1");
    }
    if gate.options().tls.is_none() && !gate.options().plain_text {
        let message =
            format!("{flag}: {address} can be reached from other machines, and without TLS tokens can be read");
        return denied(message, "give --tls-cert and --tls-key, or --plain-text if a proxy in front has TLS");
    }
    Ok(())
}

async fn bind(flag: &str, address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let failure = io_failure(format!("{flag}: {address}"), &error);
        match error.kind() {
            std::io::ErrorKind::AddrInUse => failure.hint(format!("choose another port with {flag} 127.0.0.1:PORT")),
            _ => failure,
        }
    })
}

/// Certificate and key, or why not: there is no way back to plain text.
fn tls_config(files: &TlsFiles) -> Result<Arc<ServerConfig>> {
    let bad = |path: &Path, what: String| {
        Failure::new(ErrorKind::Data, format!("tls: {}: {what}", path.display()))
            .hint("expected PEM files: the certificate with its chain, and its private key")
    };
    let read =
        |path: &Path| std::fs::read(path).map_err(|error| io_failure(format!("tls: {}", path.display()), &error));
    let certificates = CertificateDer::pem_slice_iter(&read(&files.certificate)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad(&files.certificate, error.to_string()))?;
    if certificates.is_empty() {
        return Err(bad(&files.certificate, "no certificate".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|error| bad(&files.key, error.to_string()))?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(&files.certificate, error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(|error| bad(&files.certificate, error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Takes connections until `stopping`, at most so many at once; further ones wait in the system's queue.
async fn each_connection<F>(gate: &Gate, door: Door, listener: &TcpListener, stopping: &CancellationToken, mut take: F)
where
    F: FnMut(TcpStream, SocketAddr, Connected),
{
    let slots = Arc::new(Semaphore::new(gate.options().max_connections));
    loop {
        let slot = tokio::select! {
            () = stopping.cancelled() => return,
            slot = Arc::clone(&slots).acquire_owned() => slot,
        };
        let Ok(slot) = slot else { return };
        let accepted = tokio::select! {
            () = stopping.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                let gauge = gate.metrics().connections.get_or_create(&OfDoor { door: door.name() }).clone();
                gauge.inc();
                take(stream, peer, Connected { _slot: slot, gauge });
            }
            // Out of file descriptors, or a client that went away: neither ends the server.
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// An open connection.
struct Connected {
    _slot: tokio::sync::OwnedSemaphorePermit,
    gauge: prometheus_client::metrics::gauge::Gauge<i64, std::sync::atomic::AtomicI64>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

async fn serve_http(
    gate: Gate,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    router: Router,
    stopping: CancellationToken,
) {
    let tls = tls.map(TlsAcceptor::from);
    let graceful = Arc::new(GracefulShutdown::new());
    each_connection(&gate, Door::Http, &listener, &stopping, |stream, peer, connected| {
        let (router, tls, watcher) = (router.clone(), tls.clone(), graceful.watcher());
        tokio::spawn(async move {
            let _connected = connected;
            match tls {
                None => serve_connection(stream, peer, router, watcher).await,
                Some(tls) => match tokio::time::timeout(SHAKE_HANDS, tls.accept(stream)).await {
                    Ok(Ok(stream)) => serve_connection(stream, peer, router, watcher).await,
                    Ok(Err(error)) => tracing::debug!(%error, %peer, "TLS handshake"),
                    Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
                },
            }
        });
    })
    .await;
    drop(listener);
    if let Ok(graceful) = Arc::try_unwrap(graceful).map_err(drop) {
        graceful.shutdown().await;
    }
}

async fn serve_connection<S>(
    stream: S,
    peer: SocketAddr,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        let router = router.clone();
        async move {
            Ok::<_, Infallible>(router.oneshot(request.map(Body::new)).await.unwrap_or_else(|never| match never {}))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(SHAKE_HANDS);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Duration::from_secs(30));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, %peer, "connection");
    }
}

async fn serve_postgres(
    gate: Gate,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    stopping: CancellationToken,
) {
    let tls = tls.map(|config| {
        let mut config = config.as_ref().clone();
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    });
    let door = postgres::Postgres::new(gate.clone(), stopping.clone());
    let mut connections = tokio::task::JoinSet::new();
    each_connection(&gate, Door::Postgres, &listener, &stopping, |stream, peer, connected| {
        let (door, tls) = (door.clone(), tls.clone());
        while connections.try_join_next().is_some() {} // forget those that ended
        connections.spawn(async move {
            let _connected = connected;
            door.serve(stream, peer, tls).await;
        });
    })
    .await;
    drop(listener);
    while connections.join_next().await.is_some() {}
}
