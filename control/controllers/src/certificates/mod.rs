//! Requests for certificates: who may have one without a question, their certificates, and their end.
//!
//! Follows <https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/>.

pub(crate) mod approving;
pub(crate) mod cleaner;
mod recognize;
pub(crate) mod signing;
#[cfg(test)]
mod testing;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

/// Whether a request has a condition of a type.
fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    let conditions = request.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == kind)
}

/// The certificate, or nothing.
fn certificate(request: &CertificateSigningRequest) -> &[u8] {
    request.status.as_ref().and_then(|status| status.certificate.as_ref()).map_or(&[], |bytes| &bytes.0)
}
