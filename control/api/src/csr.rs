//! Requests for certificates (PKCS #10), as clients write them into CertificateSigningRequests, and the certificates that they get. Both are
//! untrusted: each is read by a parser that checks every length, its signature is verified, and what could be read in two ways is refused.

use jiff::Timestamp;
use std::net::IpAddr;
use x509_parser::{
    certificate::X509Certificate,
    certification_request::X509CertificationRequest,
    cri_attributes::ParsedCriAttribute,
    extensions::{GeneralName, ParsedExtension, SubjectAlternativeName},
    oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME,
    pem::Pem,
    prelude::FromDer,
    x509::X509Name,
};

/// Why a request or a certificate cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Upstream's text.
    #[error("PEM block type must be CERTIFICATE REQUEST")]
    NoRequest,
    /// It is not what the block says.
    #[error("x509: malformed certificate request: {0}")]
    Malformed(&'static str),
    /// The key did not sign it, or the algorithm is none that is verified here.
    #[error("x509: the signature of the certificate request cannot be verified: {0}")]
    Signature(String),
    /// Another block than a certificate.
    #[error("only CERTIFICATE PEM blocks are allowed, found {0:?}")]
    NotCertificate(String),
    /// A block of certificates has none.
    #[error("x509: malformed certificate")]
    Certificate,
    /// There is no block.
    #[error("must contain at least one CERTIFICATE PEM block")]
    Empty,
}

/// The names of a subject beside the subject itself: `subjectAltName`. Other forms of names are left out, as upstream's signers do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Email addresses.
    pub emails: Vec<String>,
    /// URIs.
    pub uris: Vec<String>,
}

/// A request for a certificate whose signature was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Common name of the subject, or empty.
    pub common_name: String,
    /// Organisations of the subject: the groups of a client.
    pub organizations: Vec<String>,
    /// Other names.
    pub names: Names,
    /// The subject, DER.
    pub subject: Vec<u8>,
    /// The public key with its algorithm (`SubjectPublicKeyInfo`), DER.
    pub public_key: Vec<u8>,
}

impl Request {
    /// Reads the first PEM block and verifies its signature.
    ///
    /// # Errors
    /// It is no request, is malformed, has a part twice, or is not signed by its own key.
    pub fn parse(pem: &[u8]) -> Result<Self, Error> {
        let block = Pem::read(std::io::Cursor::new(pem)).map_err(|_| Error::NoRequest)?.0;
        if block.label != "CERTIFICATE REQUEST" {
            return Err(Error::NoRequest);
        }
        let (rest, request) =
            X509CertificationRequest::from_der(&block.contents).map_err(|_| Error::Malformed("ASN.1"))?;
        if !rest.is_empty() {
            return Err(Error::Malformed("trailing data"));
        }
        request.verify_signature().map_err(|error| Error::Signature(error.to_string()))?;
        let info = &request.certification_request_info;
        let (common_name, organizations) = subject(&info.subject)?;
        Ok(Self {
            common_name,
            organizations,
            names: names(&request)?,
            subject: info.subject.as_raw().to_vec(),
            public_key: info.subject_pki.raw.to_vec(),
        })
    }
}

/// Common name and organisations.
fn subject(name: &X509Name<'_>) -> Result<(String, Vec<String>), Error> {
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        attribute.as_str().map(str::to_owned).map_err(|_| Error::Malformed("a name of the subject is no text"))
    };
    let common = name.iter_common_name().map(text).collect::<Result<Vec<_>, _>>()?;
    let organizations = name.iter_organization().map(text).collect::<Result<Vec<_>, _>>()?;
    // Readers disagree which one counts.
    if common.len() > 1 {
        return Err(Error::Malformed("the subject has several common names"));
    }
    Ok((common.into_iter().next().unwrap_or_default(), organizations))
}

fn names(request: &X509CertificationRequest<'_>) -> Result<Names, Error> {
    let attributes = request.certification_request_info.iter_attributes();
    let mut requested = attributes.filter_map(|attribute| match attribute.parsed_attribute() {
        ParsedCriAttribute::ExtensionRequest(requested) => Some(requested),
        _ => None,
    });
    let Some(extensions) = requested.next() else { return Ok(Names::default()) };
    if requested.next().is_some() {
        return Err(Error::Malformed("extensions are requested twice"));
    }
    let mut all = extensions.extensions.iter().filter(|one| one.oid == OID_X509_EXT_SUBJECT_ALT_NAME);
    let Some(extension) = all.next() else { return Ok(Names::default()) };
    if all.next().is_some() {
        return Err(Error::Malformed("there are subject alternative names twice"));
    }
    match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => alternative(names),
        _ => Err(Error::Malformed("the subject alternative names")),
    }
}

fn alternative(all: &SubjectAlternativeName<'_>) -> Result<Names, Error> {
    let mut names = Names::default();
    let ascii = |text: &str| {
        if text.is_ascii() {
            Ok(text.to_owned())
        } else {
            Err(Error::Malformed("a subject alternative name is not ASCII"))
        }
    };
    for name in &all.general_names {
        match name {
            GeneralName::DNSName(text) => names.dns.push(ascii(text)?),
            GeneralName::RFC822Name(text) => names.emails.push(ascii(text)?),
            GeneralName::URI(text) => names.uris.push(ascii(text)?),
            GeneralName::IPAddress(bytes) => names.addresses.push(address(bytes)?),
            GeneralName::Invalid(..) => return Err(Error::Malformed("a subject alternative name")),
            _ => {}
        }
    }
    Ok(names)
}

fn address(bytes: &[u8]) -> Result<IpAddr, Error> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Ok(IpAddr::from(four));
    }
    let sixteen = <[u8; 16]>::try_from(bytes).map_err(|_| Error::Malformed("an address has an invalid length"))?;
    Ok(IpAddr::from(sixteen))
}

/// Whether a text is certificates in PEM and nothing else, as a `status.certificate` has to be.
///
/// # Errors
/// Upstream's texts.
pub fn check_certificates(pem: &[u8]) -> Result<(), Error> {
    let mut found = false;
    for block in Pem::iter_from_buffer(pem) {
        // What follows the last block is no concern of upstream's decoder either.
        let Ok(block) = block else { break };
        if block.label != "CERTIFICATE" {
            return Err(Error::NotCertificate(block.label));
        }
        let (rest, _) = X509Certificate::from_der(&block.contents).map_err(|_| Error::Certificate)?;
        if !rest.is_empty() {
            return Err(Error::Certificate);
        }
        found = true;
    }
    if found { Ok(()) } else { Err(Error::Empty) }
}

/// The end of the validity of the first certificate of a PEM.
pub fn not_after(pem: &[u8]) -> Option<Timestamp> {
    let block = Pem::read(std::io::Cursor::new(pem)).ok()?.0;
    let (_, certificate) = X509Certificate::from_der(&block.contents).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

#[cfg(test)]
#[path = "csr_tests.rs"]
mod tests;
