//! CertificateSigningRequest: who asks for a certificate, whether that was approved, and the certificate. The subresource `approval` changes
//! the conditions, `status` the certificate.

mod validate;

use crate::{at::At, cells, edit};
use api::{Cause, Object};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use server::{Column, Context, Resource, Scope, Strategy, TableConvertor, Verb};

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::age(),
    Column::new(
        "SignerName",
        "Requested signer for the request. It is a qualified name in the form: `scope-hostname.io/name`. If empty, it will be defaulted:\n 1. If it's a kubelet client certificate, it is assigned\n    \"kubernetes.io/kube-apiserver-client-kubelet\".\n 2. If it's a kubelet serving certificate, it is assigned\n    \"kubernetes.io/kubelet-serving\".\n 3. Otherwise, it is assigned \"kubernetes.io/legacy-unknown\".\nDistribution of trust for signers happens out of band. You can select on this field using `spec.signerName`.",
    ),
    Column::new("Requestor", "Base64-encoded PKCS#10 CSR data"),
    Column::new(
        "RequestedDuration",
        "expirationSeconds is the requested duration of validity of the issued certificate. The certificate signer may issue a certificate with a different validity duration so a client must check the delta between the notBefore and and notAfter fields in the issued certificate to determine the actual duration.\n\nThe v1.22+ in-tree implementations of the well-known Kubernetes signers will honor this field as long as the requested duration is not greater than the maximum duration they will honor per the --cluster-signing-duration CLI flag to the Kubernetes controller manager.\n\nCertificate signers may not honor this field for various reasons:\n\n  1. Old signer that is unaware of the field (such as the in-tree\n     implementations prior to v1.22)\n  2. Signer whose configured maximum is shorter than the requested duration\n  3. Signer whose configured minimum is longer than the requested duration\n\nThe minimum valid value for expirationSeconds is 600, i.e. 10 minutes.",
    ),
    Column::new("Condition", "Conditions applied to the request, such as approval or denial."),
];

const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";

/// The fields of the spec that say who asks. What the client says there is ignored.
const REQUESTER: [&str; 4] = ["username", "uid", "groups", "extra"];

struct Requests;

/// The resource.
pub(crate) fn resource() -> Resource {
    Resource::new("certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest", Requests)
        .short(&["csr"])
        .cluster_scoped()
        .with_scope("approval", &[Verb::Get, Verb::Patch, Verb::Update], Scope::Status)
        .with_status()
}

impl Strategy for Requests {
    fn default(&self, object: &mut Object) {
        edit::object(&mut object.0, "status");
    }

    fn validate_name(&self, _name: &str, _prefix: bool) -> Vec<String> {
        Vec::new()
    }

    fn prepare_create(&self, cx: &Context, object: &mut Object) {
        let spec = edit::object(&mut object.0, "spec");
        REQUESTER.iter().for_each(|field| drop(spec.remove(*field)));
        let user = &cx.user;
        spec.insert("username".into(), json!(user.name));
        if !user.uid.is_empty() {
            spec.insert("uid".into(), json!(user.uid));
        }
        if !user.groups.is_empty() {
            spec.insert("groups".into(), json!(user.groups));
        }
        if !user.extra.is_empty() {
            spec.insert("extra".into(), json!(user.extra));
        }
        // Nobody makes a request that is approved already.
        object.set(&["status"], json!({}));
    }

    fn prepare_update(&self, _cx: &Context, object: &mut Object, old: &Object) {
        edit::keep_at(object, old, &["spec"]);
        edit::keep_at(object, old, &["status"]);
    }

    fn prepare_status(&self, cx: &Context, object: &mut Object, old: &Object) {
        if cx.subresource == "approval" {
            let conditions = object.at(&["status", "conditions"]).cloned();
            edit::keep_at(object, old, &["status"]);
            match conditions {
                Some(conditions) => object.set(&["status", "conditions"], conditions),
                None => drop(object.remove(&["status", "conditions"])),
            }
        } else {
            [APPROVED, DENIED].iter().for_each(|kind| preserve(object, old, kind));
        }
        stamp(object, old, cx.now);
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        validate::whole(object, &mut out);
        validate::certificate(object, &mut out);
        out
    }

    fn validate_status(&self, cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        validate::whole(object, &mut out);
        if !edit::deep_equal_at(object, old, &["status", "certificate"]) {
            validate::certificate(object, &mut out);
        }
        validate::change(object, old, cx.subresource == "approval", &mut out);
        out
    }

    fn field_labels(&self) -> &[&'static str] {
        &["spec.signerName"]
    }

    fn reset_fields(&self, subresource: &str) -> &[&'static [&'static str]] {
        match subresource {
            "status" => &[&["spec"], &["status", "conditions"]],
            "approval" => &[&["spec"], &["status", "certificate"]],
            _ => &[&["spec"], &["status"]],
        }
    }
}

fn conditions(object: &mut Object) -> impl Iterator<Item = &mut Map<String, Value>> {
    edit::object_if(&mut object.0, "status").into_iter().flat_map(|status| edit::objects(status, "conditions"))
}

fn is_of(condition: &Map<String, Value>, kind: &str) -> bool {
    condition.get("type").and_then(Value::as_str).unwrap_or_default() == kind
}

/// Takes the conditions of a type from the old object, unless there are more or fewer of them.
fn preserve(object: &mut Object, old: &Object, kind: &str) {
    let before: Vec<Map<String, Value>> = old
        .list_at(&["status", "conditions"])
        .iter()
        .filter_map(Value::as_object)
        .filter(|one| is_of(one, kind))
        .cloned()
        .collect();
    if conditions(object).filter(|one| is_of(one, kind)).count() == before.len() {
        conditions(object).filter(|one| is_of(one, kind)).zip(before).for_each(|(new, old)| *new = old);
    }
}

/// Sets the times that a condition lacks. One that had its status before keeps the time of that change.
fn stamp(object: &mut Object, old: &Object, now: Timestamp) {
    let now = json!(api::time::rfc3339(now));
    let before: Vec<Map<String, Value>> =
        old.list_at(&["status", "conditions"]).iter().filter_map(Value::as_object).cloned().collect();
    for condition in conditions(object) {
        edit::fill(condition, "lastUpdateTime", now.clone());
        let same =
            |one: &&Map<String, Value>| ["type", "status"].iter().all(|field| one.get(*field) == condition.get(*field));
        let times = before.iter().filter(same).filter_map(|one| one.get("lastTransitionTime"));
        let since = times.into_iter().find(|time| !time.is_null()).unwrap_or(&now).clone();
        edit::fill(condition, "lastTransitionTime", since);
    }
}

/// The state as kubectl prints it.
fn state(object: &Object) -> String {
    let all = At::of(object, "status").get("conditions");
    let has = |kind: &str| all.items().any(|condition| condition.get("type").str() == kind);
    let mut state = if has(DENIED) {
        DENIED
    } else if has(APPROVED) {
        APPROVED
    } else {
        "Pending"
    }
    .to_owned();
    if has(FAILED) {
        state += ",Failed";
    }
    if !At::of(object, "status").get("certificate").is_empty() {
        state += ",Issued";
    }
    state
}

impl TableConvertor for Requests {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let signer = cells::text(object, &["spec", "signerName"]);
        let duration = object.int_at(&["spec", "expirationSeconds"]);
        let duration = duration.map(|seconds| api::time::human_duration(SignedDuration::from_secs(seconds)));
        vec![
            json!(object.name()),
            cells::age(object, now),
            json!(if signer.is_empty() { "<none>" } else { signer }),
            json!(cells::text(object, &["spec", "username"])),
            json!(duration.unwrap_or_else(|| "<none>".to_owned())),
            json!(state(object)),
        ]
    }
}

#[cfg(test)]
mod tests;
