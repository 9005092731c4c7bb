//! TLS of connections that the server opens: to webhooks and to API servers that serve group versions for it. Configurations are kept: to read
//! authorities takes longer than a handshake.

use crate::{context::Objects, dialer::Unverified, pki::Pair};
use parking_lot::Mutex;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use rustls_platform_verifier::Verifier;
use sha2::{Digest, Sha256};
use std::{collections::HashMap, net::SocketAddr, sync::Arc};

/// The most configurations that are kept.
const MAX_KNOWN: usize = 128;

/// Finds the address of a port of a Service, by namespace and name; or says why there is none.
pub type Resolve = fn(&dyn Objects, &str, &str, u16) -> Result<SocketAddr, String>;

/// Whom the server believes to be who it calls, and as whom it calls.
#[derive(Clone, Copy, Default)]
pub(crate) struct Trust<'a> {
    /// The authorities that may have signed the certificate, in PEM; empty: those of the system.
    pub(crate) authorities: &'a [u8],
    /// Any certificate will do.
    pub(crate) insecure: bool,
    /// The client certificate.
    pub(crate) identity: Option<&'a Pair>,
}

impl Trust<'_> {
    /// Differs for different configurations.
    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update([u8::from(self.insecure), u8::from(self.identity.is_some())]);
        for part in [self.authorities, self.identity.map_or(&[][..], |pair| pair.certificate.as_bytes())] {
            digest.update(part.len().to_be_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }

    fn config(&self) -> Result<ClientConfig, String> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?;
        let builder = if self.insecure {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider)))
        } else if self.authorities.is_empty() {
            let verifier = Verifier::new(provider).map_err(|e| e.to_string())?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        } else {
            builder.with_root_certificates(roots(self.authorities)?)
        };
        let Some(pair) = self.identity else { return Ok(builder.with_no_client_auth()) };
        let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(|e| e.to_string())?;
        builder.with_client_auth_cert(chain.map_err(|e| e.to_string())?, key).map_err(|e| e.to_string())
    }
}

/// The configurations so far.
#[derive(Default)]
pub(crate) struct Configurations(Mutex<HashMap<[u8; 32], Arc<ClientConfig>>>);

impl Configurations {
    /// The one with this trust.
    ///
    /// # Errors
    /// The authorities cannot be read, or the client certificate cannot be used.
    pub(crate) fn get(&self, trust: &Trust<'_>) -> Result<Arc<ClientConfig>, String> {
        let key = trust.digest();
        if let Some(known) = self.0.lock().get(&key) {
            return Ok(known.clone());
        }
        let config = Arc::new(trust.config()?);
        let mut known = self.0.lock();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(key, config.clone());
        Ok(config)
    }
}

/// The authorities in PEM.
///
/// # Errors
/// Upstream's text: there is none, or one cannot be read.
pub fn roots(authorities: &[u8]) -> Result<RootCertStore, String> {
    const UNREADABLE: &str = "unable to load root certificates: unable to parse bytes as PEM block";
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities) {
        let certificate = certificate.map_err(|_| UNREADABLE.to_owned())?;
        roots.add(certificate).map_err(|e| format!("unable to load root certificates: {e}"))?;
    }
    if roots.is_empty() { Err(UNREADABLE.to_owned()) } else { Ok(roots) }
}
