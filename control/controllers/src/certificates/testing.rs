//! Requests for the tests of this folder.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use serde_json::{Value, json};

/// A stored request with this spec and status.
pub(super) fn stored(spec: Value, status: Value) -> CertificateSigningRequest {
    let metadata = json!({"name": "r", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"});
    let mut whole = json!({"signerName": "a.example/b", "request": "eA=="});
    if let (Value::Object(whole), Value::Object(spec)) = (&mut whole, spec) {
        whole.extend(spec);
    }
    serde_json::from_value(json!({"metadata": metadata, "spec": whole, "status": status})).expect("a request")
}
