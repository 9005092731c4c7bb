//! Approves requests of kubelets for client certificates, where the authorizer allows their user to have one without a question.

use super::{
    certificate, has,
    recognize::{KUBELET_CLIENT, kubelet_client},
};
use crate::{Context, meta};
use api::{Clock, csr::Request};
use client::{Client, Controller, Informer, Key, Next, Wakeups};
use http::Method;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use serde_json::{Value, json};
use std::time::Duration;

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
/// The longest time until somebody who may not have a certificate is looked at again.
const MAX_PAUSE: Duration = Duration::from_secs(1000);

/// Approves requests. Upstream's `certificatesigningrequest-approving-controller`.
pub(crate) struct ApprovingController {
    client: Client,
    clock: Clock,
    requests: Informer<CertificateSigningRequest>,
}

impl ApprovingController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        Self { client: cx.client.clone(), clock: cx.options.clock.clone(), requests: cx.informers.of() }
    }

    /// Whether the user of a request may create a subresource of requests.
    async fn allows(&self, request: &CertificateSigningRequest, subresource: &str) -> anyhow::Result<bool> {
        let body = review(request, subresource).to_string().into_bytes();
        let answer = self.client.raw(Method::POST, REVIEWS, Some(("application/json", body))).await?;
        let answer: Value = serde_json::from_slice(&answer)?;
        Ok(answer["status"]["allowed"] == true)
    }
}

/// The question to the authorizer.
fn review(request: &CertificateSigningRequest, subresource: &str) -> Value {
    let spec = &request.spec;
    let wanted = json!({"group": "certificates.k8s.io", "resource": "certificatesigningrequests", "verb": "create",
        "subresource": subresource, "version": "*"});
    json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
        "user": spec.username, "uid": spec.uid, "groups": spec.groups, "extra": spec.extra, "resourceAttributes": wanted}})
}

/// As what a request is recognised: subresources whose permission approves it, with the message.
fn recognized(request: &CertificateSigningRequest) -> Vec<(&'static str, &'static str)> {
    let spec = &request.spec;
    let decided = has(request, "Approved") || has(request, "Denied") || !certificate(request).is_empty();
    if decided || spec.signer_name != KUBELET_CLIENT {
        return Vec::new();
    }
    let Ok(parsed) = Request::parse(&spec.request.0) else { return Vec::new() };
    if kubelet_client(&parsed, spec.usages.as_deref().unwrap_or_default()).is_err() {
        return Vec::new();
    }
    let own = ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.");
    let other = ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.");
    if spec.username.as_deref() == Some(parsed.common_name.as_str()) { vec![own, other] } else { vec![other] }
}

fn approved(request: &CertificateSigningRequest, message: &str) -> CertificateSigningRequest {
    let mut request = request.clone();
    let condition = CertificateSigningRequestCondition {
        type_: "Approved".to_owned(),
        status: "True".to_owned(),
        reason: Some("AutoApproved".to_owned()),
        message: Some(message.to_owned()),
        ..CertificateSigningRequestCondition::default()
    };
    request.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
    request
}

#[async_trait::async_trait]
impl Controller for ApprovingController {
    const NAME: &'static str = "certificatesigningrequest-approving-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.requests);
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let Some(request) = self.requests.find(key) else { return Ok(Next::Done) };
        let recognized = recognized(&request);
        for (subresource, message) in &recognized {
            if !self.allows(&request, subresource).await? {
                continue;
            }
            let object = approved(&request, message);
            let place = ("", key.name.as_str(), "approval");
            let written: Result<CertificateSigningRequest, _> =
                self.client.subresource::<CertificateSigningRequest, _, _>(Method::PUT, place, &object).await;
            return match written {
                Err(error) if !error.is_not_found() => Err(error.into()),
                _ => Ok(Next::Done),
            };
        }
        if recognized.is_empty() {
            return Ok(Next::Done);
        }
        // The permission may be given yet. The older the request, the longer that has not happened.
        let age = meta::non_negative(self.clock.now().duration_since(meta::created(&request.metadata)));
        Ok(Next::After(age.clamp(Duration::from_secs(1), MAX_PAUSE)))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::stored, *};
    use rcgen::{CertificateParams, DnType, KeyPair};

    fn asked(username: &str, name: &str, change: Value, status: Value) -> Vec<&'static str> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        parameters.distinguished_name.push(DnType::CommonName, name);
        let pem = parameters.serialize_request(&KeyPair::generate().expect("a key")).expect("made").pem().expect("PEM");
        let request = serde_json::to_value(k8s_openapi::ByteString(pem.into_bytes())).expect("JSON");
        let mut spec = json!({"username": username, "request": request, "signerName": KUBELET_CLIENT,
            "usages": ["client auth", "digital signature"]});
        if let (Value::Object(spec), Value::Object(change)) = (&mut spec, change) {
            spec.extend(change);
        }
        recognized(&stored(spec, status)).into_iter().map(|(subresource, _)| subresource).collect()
    }

    #[test]
    fn only_kubelets_are_recognized_and_only_while_nothing_is_decided() {
        let none = || json!({});
        let node = "system:node:a";
        assert_eq!(asked(node, node, none(), none()), ["selfnodeclient", "nodeclient"]);
        assert_eq!(asked("system:bootstrap:b", node, none(), none()), ["nodeclient"]);
        let nobody: [&str; 0] = [];
        assert_eq!(asked(node, "jane", none(), none()), nobody);
        assert_eq!(asked(node, node, json!({"signerName": "kubernetes.io/kubelet-serving"}), none()), nobody);
        assert_eq!(asked(node, node, json!({"usages": ["server auth"]}), none()), nobody);
        assert_eq!(asked(node, node, json!({"request": "eA=="}), none()), nobody);
        for kind in ["Approved", "Denied"] {
            assert_eq!(asked(node, node, none(), json!({"conditions": [{"type": kind, "status": "True"}]})), nobody);
        }
        assert_eq!(asked(node, node, none(), json!({"certificate": "eA=="})), nobody);
    }

    #[test]
    fn the_authorizer_is_asked_about_who_made_the_request() {
        let spec = json!({"username": "u", "uid": "i", "groups": ["g"], "extra": {"k": ["v"]}});
        let asked = review(&stored(spec, json!({})), "nodeclient");
        assert_eq!(asked["spec"]["extra"]["k"], json!(["v"]));
        assert_eq!((&asked["spec"]["user"], &asked["spec"]["uid"]), (&json!("u"), &json!("i")));
        assert_eq!(asked["spec"]["resourceAttributes"]["subresource"], "nodeclient");
    }
}
