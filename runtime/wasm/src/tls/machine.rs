//! The certificate authorities of the machine, and bundles of them.

use parking_lot::Mutex;
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, pem::PemObject},
};
use std::{fmt, fs::File, io::Read, sync::Arc};

/// Bundle files of common systems: Debian, Fedora and its older form, SUSE, Alpine.
pub(super) const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The environment variable that names a bundle, as OpenSSL and Go read it.
pub(super) const VARIABLE: &str = "SSL_CERT_FILE";

/// Most bytes of a bundle: five times the common one, and as much as a ConfigMap holds.
pub(super) const MAX_BUNDLE: u64 = 1 << 20;

/// The certificate authorities of the machine, read at their first use.
#[derive(Clone, Default)]
pub struct MachineRoots(Arc<Mutex<Machine>>);

#[derive(Default)]
struct Machine {
    file: Option<File>,
    config: Option<Arc<ClientConfig>>,
}

impl MachineRoots {
    /// Opens the machine's bundle, for a process that cannot do so later.
    pub fn opened() -> Self {
        Self::of(BUNDLES.iter().find_map(|path| File::open(path).ok()))
    }

    pub(super) fn of(file: Option<File>) -> Self {
        Self(Arc::new(Mutex::new(Machine { file, config: None })))
    }

    pub(super) fn config(&self) -> Result<Arc<ClientConfig>, String> {
        let mut machine = self.0.lock();
        if let Some(config) = &machine.config {
            return Ok(config.clone());
        }
        let file = machine.file.take().or_else(|| BUNDLES.iter().find_map(|path| File::open(path).ok()));
        let Some(file) = file else {
            let where_to = "name a file of them in the environment variable";
            return Err(format!(
                "neither its image nor the machine has certificate authorities: {where_to} {VARIABLE}"
            ));
        };
        let config = client_config(&pem(&file)?).map_err(|error| format!("the machine's authorities: {error}"))?;
        machine.config = Some(config.clone());
        Ok(config)
    }
}

impl fmt::Debug for MachineRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MachineRoots")
    }
}

pub(super) fn pem(file: &File) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    file.take(MAX_BUNDLE + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    match bytes.len() as u64 > MAX_BUNDLE {
        true => Err(format!("it is longer than {} KiB", MAX_BUNDLE >> 10)),
        false => Ok(bytes),
    }
}

/// Trusts the certificates of a PEM file; other entries are skipped.
pub(super) fn client_config(pem: &[u8]) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).filter_map(Result::ok));
    if added == 0 {
        return Err("it has no certificate in PEM form".into());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}
