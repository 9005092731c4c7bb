//! The certificates of the cluster: an authority, a serving certificate and client certificates, all ECDSA P-256. The caller gives the times;
//! the composition root writes the files.

mod issue;

pub use issue::issue_for;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use std::{net::IpAddr, time::Duration};

/// A certificate and its private key, PEM.
#[derive(Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The private key, PKCS #8.
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pair")
    }
}

/// An error of making a certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An error of the library.
    #[error("cannot make a certificate: {0}")]
    Rcgen(#[from] rcgen::Error),
    /// More than one group was asked for.
    #[error("cannot make a certificate: it can name one group only")]
    Groups,
    /// The times are out of the range of certificates.
    #[error("cannot make a certificate: the validity is out of range")]
    Validity,
    /// The authority cannot sign requests.
    #[error("cannot make a certificate: the authority cannot be used: {0}")]
    Authority(&'static str),
    /// The authority has ended.
    #[error("cannot make a certificate: the signer has expired: NotAfter={0}")]
    Ended(Timestamp),
    /// A usage that no certificate has.
    #[error("cannot make a certificate: unrecognized usage values: {0:?}")]
    Usage(String),
}

/// The validity of a certificate.
#[derive(Clone, Copy, Debug)]
pub struct Validity {
    /// Not before.
    pub from: Timestamp,
    /// Not after.
    pub until: Timestamp,
}

fn parameters(common_name: &str, organisations: &[&str], validity: Validity) -> Result<CertificateParams, Error> {
    let mut parameters = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    match organisations {
        [] => {}
        [one] => name.push(DnType::OrganizationName, *one),
        // The library keeps one value per attribute.
        _ => return Err(Error::Groups),
    }
    parameters.distinguished_name = name;
    let seconds = |t: Timestamp| u64::try_from(t.as_second()).map(Duration::from_secs).map_err(|_| Error::Validity);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    parameters.not_before = epoch + seconds(validity.from)?;
    parameters.not_after = epoch + seconds(validity.until)?;
    Ok(parameters)
}

/// A new key for signing tokens or certificates, PKCS #8 PEM.
///
/// # Errors
/// The system has no randomness.
pub fn key() -> Result<String, Error> {
    Ok(KeyPair::generate()?.serialize_pem())
}

/// A new certificate authority.
///
/// # Errors
/// The system has no randomness, or the times are out of range.
pub fn authority(name: &str, validity: Validity) -> Result<Pair, Error> {
    let key = KeyPair::generate()?;
    let mut parameters = parameters(name, &[], validity)?;
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyCertSign];
    let certificate = parameters.self_signed(&key)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// The subject alternative names of a serving certificate.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
}

impl Names {
    /// Those of the API server: loopback, the names of Service `default/kubernetes`, and the given ones (the address of the Service, the
    /// addresses and the name of the node).
    pub fn api_server(addresses: impl IntoIterator<Item = IpAddr>, names: impl IntoIterator<Item = String>) -> Self {
        let mut made = Self::default();
        let service =
            ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
        let known = ["localhost"].iter().chain(&service).map(|n| (*n).to_owned());
        for name in known.chain(names) {
            if !made.dns.contains(&name) {
                made.dns.push(name);
            }
        }
        let loopback = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])];
        for address in loopback.into_iter().chain(addresses) {
            if !made.addresses.contains(&address) {
                made.addresses.push(address);
            }
        }
        made
    }
}

/// A serving certificate.
///
/// # Errors
/// The authority cannot be parsed, a name is invalid, or the system has no randomness.
pub fn server(authority: &Pair, common_name: &str, names: &Names, validity: Validity) -> Result<Pair, Error> {
    let mut parameters = parameters(common_name, &[], validity)?;
    for name in &names.dns {
        parameters.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
    }
    parameters.subject_alt_names.extend(names.addresses.iter().map(|a| SanType::IpAddress(*a)));
    issue(authority, parameters, ExtendedKeyUsagePurpose::ServerAuth)
}

/// A client certificate: the user's name and group (at most one).
///
/// # Errors
/// The authority cannot be parsed, or the system has no randomness.
pub fn client(authority: &Pair, user: &str, groups: &[&str], validity: Validity) -> Result<Pair, Error> {
    issue(authority, parameters(user, groups, validity)?, ExtendedKeyUsagePurpose::ClientAuth)
}

fn issue(authority: &Pair, mut parameters: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Result<Pair, Error> {
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, KeyPair::from_pem(&authority.key)?)?;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![usage];
    parameters.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = parameters.signed_by(&key, &issuer)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::{CertificateDer, pem::PemObject};

    fn validity() -> Validity {
        Validity {
            from: Timestamp::from_second(1_700_000_000).expect("a time"),
            until: Timestamp::from_second(2_000_000_000).expect("a time"),
        }
    }

    #[test]
    fn certificates_carry_what_they_are_for() {
        let ca = authority("ca", validity()).expect("an authority");
        let admin = client(&ca, "admin", &["system:masters"], validity()).expect("a client");
        let der = CertificateDer::from_pem_slice(admin.certificate.as_bytes()).expect("a certificate");
        let user = crate::authn::user_of_certificate(&der).expect("a user");
        assert_eq!(user.name, "admin");
        assert_eq!(user.groups, ["system:masters", "system:authenticated"]);
        let names = Names::api_server(["10.96.0.1".parse().expect("an address")], ["node".into()]);
        let served = server(&ca, "apiserver", &names, validity()).expect("a serving certificate");
        let der = CertificateDer::from_pem_slice(served.certificate.as_bytes()).expect("a certificate");
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).expect("X.509");
        let sans = parsed.subject_alternative_name().expect("readable").expect("there");
        let text = format!("{:?}", sans.value.general_names);
        for name in ["localhost", "kubernetes.default.svc.cluster.local", "node"] {
            assert!(text.contains(name), "{text}");
        }
        assert_eq!(parsed.validity().not_before.timestamp(), 1_700_000_000);
        assert_eq!(sans.value.general_names.len(), 9);
    }
}
