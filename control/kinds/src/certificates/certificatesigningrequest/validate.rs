//! What a request for a certificate may say, with upstream's texts (`pkg/apis/certificates/validation`).

use super::{APPROVED, DENIED, FAILED};
use crate::{at::At, edit, rules::full};
use api::{
    Cause, FieldPath, Object,
    csr::{self, Request},
    names,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

const LEGACY: &str = "kubernetes.io/legacy-unknown";
/// Shortest validity that can be asked for, seconds.
const MIN_SECONDS: i64 = 600;
/// Limits of a signer's name: the domain, and all of it.
const MAX_DOMAIN: usize = 253;
const MAX_SIGNER: usize = MAX_DOMAIN + 1 + 253 + 1 + 63;

/// Everything but the certificate.
pub(super) fn whole(object: &Object, out: &mut Vec<Cause>) {
    let spec = At::of(object, "spec");
    let request = spec.get("request");
    if let Err(error) = Request::parse(&bytes(request)) {
        // bytes that are absent are null
        let shown = if request.is_set() { request } else { request.with(&Value::Null) };
        out.push(shown.invalid(&error.to_string()));
    }
    usages(spec.get("usages"), out);
    let signer = spec.get("signerName");
    if signer.str() == LEGACY {
        out.push(signer.invalid("the legacy signerName is not allowed via this API version"));
    } else {
        signer_name(signer, out);
    }
    let seconds = spec.get("expirationSeconds");
    if seconds.int().is_some_and(|seconds| seconds < MIN_SECONDS) {
        out.push(seconds.invalid("may not specify a duration less than 600 seconds (10 minutes)"));
    }
    conditions(At::of(object, "status").get("conditions"), out);
}

/// The bytes of a field.
pub(super) fn bytes(at: At<'_>) -> Vec<u8> {
    BASE64_STANDARD.decode(at.str()).unwrap_or_default()
}

fn usages(all: At<'_>, out: &mut Vec<Cause>) {
    if all.is_empty() {
        out.push(all.required(""));
    }
    for usage in all.items().filter(|usage| !USAGES.contains(&usage.str())) {
        if full(out) {
            return;
        }
        out.push(usage.or_empty().not_supported(USAGES));
    }
    let mut seen = BTreeSet::new();
    out.extend(all.items().filter(|usage| !seen.insert(usage.str())).map(At::duplicate));
}

/// A signer's name: `example.com/signer-name`.
fn signer_name(at: At<'_>, out: &mut Vec<Cause>) {
    let name = at.str();
    if name.is_empty() {
        out.push(at.required(""));
        return;
    }
    let parts: Vec<&str> = name.split('/').collect();
    let [domain, path] = parts.as_slice() else {
        out.push(at.invalid("must be a fully qualified domain and path of the form 'example.com/signer-name'"));
        return;
    };
    let mut first = |whole: &str, check: fn(&str) -> Vec<String>| {
        let faults = whole.split('.').map(|label| (label, check(label))).find(|(_, faults)| !faults.is_empty());
        for (label, fault) in faults.iter().flat_map(|(label, all)| all.iter().map(move |fault| (label, fault))) {
            let text = format!("validating label {label:?}: {fault}");
            out.push(Cause::invalid(&at.field(), &json!(whole), &text));
        }
    };
    if domain.len() <= MAX_DOMAIN {
        first(domain, names::dns1123_label);
    }
    if path.len() <= MAX_SIGNER {
        first(path, names::dns1123_subdomain);
    }
    if domain.len() > MAX_DOMAIN {
        out.push(Cause::too_long(&at.field(), MAX_DOMAIN));
    }
    if !domain.contains('.') {
        let text = "should be a domain with at least two segments separated by dots";
        out.push(Cause::invalid(&at.field(), &json!(domain), text));
    }
    if name.len() > MAX_SIGNER {
        out.push(Cause::too_long(&at.field(), MAX_SIGNER));
    }
}

fn conditions(all: At<'_>, out: &mut Vec<Cause>) {
    let (mut seen, mut decided) = (BTreeSet::new(), BTreeSet::new());
    for condition in all.items() {
        if full(out) {
            return;
        }
        let (kind, status) = (condition.get("type"), condition.get("status"));
        if kind.str().is_empty() {
            out.push(kind.required(""));
        }
        let allowed: &[&str] =
            if [APPROVED, DENIED, FAILED].contains(&kind.str()) { &["True"] } else { &["False", "True", "Unknown"] };
        status.one_of(allowed, out);
        if [APPROVED, DENIED].contains(&kind.str()) {
            decided.insert(kind.str());
            if decided.len() == 2 {
                let text = "Approved and Denied conditions are mutually exclusive";
                out.push(Cause::invalid(&all.field(), kind.value(), text));
            }
        }
        if !seen.insert(kind.str()) {
            out.push(kind.or_empty().duplicate());
        }
    }
}

/// The certificate, where there is one.
pub(super) fn certificate(object: &Object, out: &mut Vec<Cause>) {
    let certificate = At::of(object, "status").get("certificate");
    if certificate.is_empty() {
        return;
    }
    if let Err(error) = csr::check_certificates(&bytes(certificate)) {
        out.push(Cause::invalid(&certificate.field(), &json!("<certificate data>"), &error.to_string()));
    }
}

fn of_type<'a>(object: &'a Object, kind: &str) -> Vec<&'a Value> {
    let all = object.list_at(&["status", "conditions"]).iter();
    all.filter(|condition| condition.get("type").and_then(Value::as_str) == Some(kind)).collect()
}

/// What a write of the status or the approval may change.
pub(super) fn change(object: &Object, old: &Object, approval: bool, out: &mut Vec<Cause>) {
    let path = FieldPath::new("status").child("conditions");
    let count = |kind: &str| (of_type(object, kind).len(), of_type(old, kind).len());
    for kind in [APPROVED, DENIED, FAILED] {
        let (new, old) = count(kind);
        if new < old {
            out.push(Cause::forbidden(&path, &format!("updates may not remove a condition of type {kind:?}")));
        }
    }
    for kind in [APPROVED, DENIED].iter().filter(|_| !approval) {
        let (new, old) = count(kind);
        if new > old {
            out.push(Cause::forbidden(&path, &format!("updates may not add a condition of type {kind:?}")));
        }
    }
    let certificate = At::of(object, "status").get("certificate");
    let before = At::of(old, "status").get("certificate");
    if !edit::deep_equal(certificate.or_empty().value(), before.or_empty().value()) {
        if approval {
            out.push(certificate.forbidden("updates may not set certificate content"));
        } else if !before.is_empty() {
            out.push(certificate.forbidden("updates may not modify existing certificate content"));
        }
    }
}
