//! Addresses, TLS, connections and their end: what all doors share below their protocols.
//!
//! HTTP and Flight SQL (gRPC) share one port, the PostgreSQL wire has another.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::middleware;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
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
use crate::options::ServeOptions;
use crate::patience::{Patient, give_up_after};
use crate::signals::Signals;
use crate::tls::Tls;
use crate::{flight_sql, http, mcp, postgres};

/// Time for a TLS handshake, and for the head of a request.
const SHAKE_HANDS: Duration = Duration::from_secs(10);
/// Time to tell clients that their query was cancelled because the server stops.
const TELL: Duration = Duration::from_secs(1);

/// Where a request comes from; an extension of every request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// A server that listens but does not answer yet.
pub struct Server {
    gate: Gate,
    listener: TcpListener,
    postgres: Option<TcpListener>,
    tls: Option<Tls>,
}

/// Reads again what may change while a server runs.
pub(crate) struct Reload {
    gate: Gate,
    tls: Option<Tls>,
}

impl Reload {
    /// Opens the audit log anew, and reads the certificate again. What cannot be had stays as it was, and the log tells.
    pub(crate) fn now(&self) {
        let told = |what: &str, outcome: Result<()>| match outcome {
            Ok(()) => tracing::info!(what, "read again"),
            Err(failure) => tracing::error!(what, error = failure.line(), "could not be read again"),
        };
        if self.gate.options().audit_log.is_some() {
            told("audit log", self.gate.reopen_audit_log());
        }
        if let Some(tls) = &self.tls {
            told("certificate", tls.reload());
        }
    }
}

impl Server {
    /// Takes the addresses.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] for an address that other machines can reach without tokens and TLS, [`ErrorKind::Io`] if an
    /// address is taken, [`ErrorKind::Data`] for certificates that cannot be used.
    pub async fn bind(engine: Engine, options: ServeOptions) -> Result<Self> {
        let tls = options.tls.as_ref().map(Tls::open).transpose()?;
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

    /// What SIGHUP does.
    pub(crate) fn reload(&self) -> Reload {
        Reload { gate: self.gate.clone(), tls: self.tls.clone() }
    }

    /// Answers until `stop` is done; then takes no new request and lets running ones finish for a while, and cancels what is
    /// left.
    ///
    /// # Errors
    /// If a listener breaks.
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        self.run_until(stop, std::future::pending()).await
    }

    /// The same; with `at_once`, nothing is waited for any more.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(crate) async fn run_until(
        self,
        stop: impl Future<Output = ()> + Send + 'static,
        at_once: impl Future<Output = ()> + Send + 'static,
    ) -> Result<()> {
        let Self { gate, listener, postgres, tls } = self;
        let config = |protocols: &[&str]| tls.as_ref().map(|tls| tls.config(protocols)).transpose();
        let (http_tls, postgres_tls) = (config(&["h2", "http/1.1"])?, config(&["postgresql"])?);
        let stopping = CancellationToken::new();
        let router = http::router(gate.clone())
            .merge(flight_sql::routes(gate.clone()))
            .merge(mcp::routes(gate.clone(), stopping.clone()))
            .layer(middleware::from_fn(http::rest::take_rest));
        let http = tokio::spawn(serve_http(gate.clone(), listener, http_tls, router, stopping.clone()));
        let postgres = postgres
            .map(|listener| tokio::spawn(serve_postgres(gate.clone(), listener, postgres_tls, stopping.clone())));
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
        tokio::pin!(ended, at_once);
        tokio::select! {
            () = &mut ended => return Ok(()),
            () = &mut at_once => gate.cancel_all(),
            () = tokio::time::sleep(drain) => {
                tracing::warn!(seconds = drain.as_secs_f64(), "some queries did not end in time and are cancelled");
                gate.cancel_all();
                // The clients are told.
                tokio::select! {
                    () = ended => {}
                    () = at_once => {}
                    () = tokio::time::sleep(TELL) => {}
                }
            }
        }
        Ok(())
    }
}

/// Serves `engine` until SIGINT or SIGTERM; the second one does not wait for running queries.
///
/// # Errors
/// As [`Server::bind`] and [`Server::run`].
pub async fn serve(engine: Engine, options: ServeOptions) -> Result<()> {
    let server = Server::bind(engine, options).await?;
    Signals::take()?.run(server).await
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
                // A query ends at its deadline, whoever reads; soon after, its connection does.
                give_up_after(&stream, gate.options().timeout.saturating_add(SHAKE_HANDS));
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
    let stream = TokioIo::new(Patient::new(stream, SHAKE_HANDS));
    let connection = builder.serve_connection_with_upgrades(stream, service).into_owned();
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
    let tls = tls.map(TlsAcceptor::from);
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
