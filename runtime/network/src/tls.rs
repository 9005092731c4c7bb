//! TLS of outgoing requests of pods: trusted authorities.

use crate::config::{Config, Roots};
use container::net::{Error, Result};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use std::sync::Arc;
use tokio::sync::OnceCell;

/// Bundle files of trusted authorities on common systems.
const BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// The certificates of a PEM file; other entries are skipped.
pub fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(std::result::Result::ok).collect()
}

/// TLS configurations, built on first use, because the system's bundle takes a few hundred KiB.
pub(crate) struct Tls {
    cluster_roots: Vec<CertificateDer<'static>>,
    roots: Roots,
    inside: OnceCell<Arc<ClientConfig>>,
    outside: OnceCell<Arc<ClientConfig>>,
}

impl Tls {
    pub(crate) fn new(config: &Config) -> Self {
        let (cluster_roots, roots) = (config.cluster_roots.clone(), config.roots.clone());
        Self { cluster_roots, roots, inside: OnceCell::new(), outside: OnceCell::new() }
    }

    /// The configuration for servers `inside` of the cluster, or for others.
    pub(crate) async fn config(&self, inside: bool) -> Result<Arc<ClientConfig>> {
        let config = if inside {
            self.inside.get_or_try_init(async || client_config(self.cluster_roots.clone())).await
        } else {
            let make = async || match &self.roots {
                Roots::Given(roots) => client_config(roots.clone()),
                Roots::System => client_config(system_roots().await),
            };
            self.outside.get_or_try_init(make).await
        };
        config.cloned()
    }
}

async fn system_roots() -> Vec<CertificateDer<'static>> {
    for path in BUNDLES {
        if let Ok(pem) = tokio::fs::read(path).await {
            return certificates(&pem);
        }
    }
    tracing::warn!("no bundle of trusted authorities found: https to the outside will fail");
    Vec::new()
}

fn client_config(roots: Vec<CertificateDer<'static>>) -> Result<Arc<ClientConfig>> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| Error::Unsupported(format!("TLS: {e}")))?;
    let mut config = builder.with_root_certificates(store).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
