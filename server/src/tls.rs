//! The certificate, which can be read again while the server runs.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use saequel_engine::ErrorKind;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;

use crate::error::{Failure, Result, io_failure};
use crate::options::TlsFiles;

/// TLS of all doors. Cheap to clone; clones share the certificate.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    provider: Arc<CryptoProvider>,
    current: Arc<Current>,
    files: Arc<TlsFiles>,
}

/// What new connections are shown.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Tls {
    /// Reads certificate and key, or says why not: there is no way back to plain text.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] for files that hold no certificate and key that belong together, or what the disk says.
    pub(crate) fn open(files: &TlsFiles) -> Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let current = Arc::new(Current(RwLock::new(Arc::new(read(files, &provider)?))));
        Ok(Self { provider, current, files: Arc::new(files.clone()) })
    }

    /// Reads the files again; if they cannot be used, the certificate stays as it is.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn reload(&self) -> Result<()> {
        let read = Arc::new(read(&self.files, &self.provider)?);
        *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = read;
        Ok(())
    }

    /// The configuration of a door that speaks these protocols (ALPN).
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] if TLS has no version that both sides can speak.
    pub(crate) fn config(&self, protocols: &[&str]) -> Result<Arc<ServerConfig>> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| Failure::new(ErrorKind::Internal, format!("tls: {error}")))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Ok(Arc::new(config))
    }
}

fn read(files: &TlsFiles, provider: &CryptoProvider) -> Result<CertifiedKey> {
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
    CertifiedKey::from_der(certificates, key, provider).map_err(|error| {
        bad(&files.certificate, format!("cannot be used with the key in {}: {error}", files.key.display()))
    })
}
