//! Signs approved requests for the four signers of `kubernetes.io` with the authority of the cluster.

use super::{certificate, has, recognize};
use crate::{Context, context::Keys};
use api::{Clock, csr::Request};
use client::{Client, Controller, Informer, Key, Next, Wakeups};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString,
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};
use std::sync::Arc;

/// The longest validity: upstream's `--cluster-signing-duration`.
const LIFETIME: SignedDuration = SignedDuration::from_hours(365 * 24);
/// The shortest, whatever is asked for.
const SHORTEST: SignedDuration = SignedDuration::from_mins(10);
/// How long before now a certificate begins, for clocks that differ.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// A certificate that lives shorter than this does not end earlier because it began earlier.
const SHORT: SignedDuration = SignedDuration::from_hours(8);

/// Signs requests. Upstream's `certificatesigningrequest-signing-controller`.
pub(crate) struct SigningController {
    client: Client,
    clock: Clock,
    keys: Arc<dyn Keys>,
    requests: Informer<CertificateSigningRequest>,
}

impl SigningController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context, keys: Arc<dyn Keys>) -> Self {
        Self { client: cx.client.clone(), clock: cx.options.clock.clone(), keys, requests: cx.informers.of() }
    }
}

/// What is to be done with a request.
#[derive(Debug, PartialEq)]
enum Plan {
    /// Nothing.
    Leave,
    /// It gets the condition Failed, with this message.
    Fail(String),
    /// It gets a certificate between these times.
    Sign(Box<Request>, Timestamp, Timestamp),
}

fn plan(stored: &CertificateSigningRequest, now: Timestamp) -> Plan {
    let ready = has(stored, "Approved") && !has(stored, "Denied") && !has(stored, "Failed");
    if !ready || !certificate(stored).is_empty() {
        return Plan::Leave;
    }
    let spec = &stored.spec;
    let Ok(request) = Request::parse(&spec.request.0) else { return Plan::Leave };
    match recognize::fits(&spec.signer_name, &request, spec.usages.as_deref().unwrap_or_default()) {
        None => Plan::Leave,
        Some(Err(why)) => Plan::Fail(why),
        Some(Ok(())) => {
            let (from, until) = validity(spec.expiration_seconds, now);
            Plan::Sign(Box::new(request), from, until)
        }
    }
}

/// From when until when a certificate is valid.
fn validity(asked: Option<i32>, now: Timestamp) -> (Timestamp, Timestamp) {
    let lifetime =
        asked.map_or(LIFETIME, |seconds| SignedDuration::from_secs(seconds.into()).clamp(SHORTEST, LIFETIME));
    let lifetime = if lifetime < SHORT { lifetime } else { lifetime - BACKDATE };
    let at = |shift: SignedDuration| now.saturating_add(shift).unwrap_or(now);
    (at(-BACKDATE), at(lifetime))
}

#[async_trait::async_trait]
impl Controller for SigningController {
    const NAME: &'static str = "certificatesigningrequest-signing-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.requests);
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let Some(stored) = self.requests.find(key) else { return Ok(Next::Done) };
        let now = self.clock.now();
        let mut changed = (*stored).clone();
        let status = changed.status.get_or_insert_default();
        match plan(&stored, now) {
            Plan::Leave => return Ok(Next::Done),
            Plan::Fail(why) => {
                status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
                    type_: "Failed".to_owned(),
                    status: "True".to_owned(),
                    reason: Some("SignerValidationFailure".to_owned()),
                    message: Some(why),
                    last_update_time: Some(Time(now)),
                    last_transition_time: None,
                });
            }
            Plan::Sign(request, from, until) => {
                let usages = stored.spec.usages.as_deref().unwrap_or_default();
                let made = self.keys.certificate(&request, usages, from, until)?;
                status.certificate = Some(ByteString(made.into_bytes()));
            }
        }
        match self.client.update_status(&changed).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(Next::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::stored, *};
    use rcgen::{CertificateParams, DnType, KeyPair};
    use serde_json::{Value, json};

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn planned(signer: &str, usages: &[&str], status: Value) -> String {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, "jane");
        let pem = parameters.serialize_request(&KeyPair::generate().expect("a key")).expect("made").pem().expect("PEM");
        let request = serde_json::to_value(ByteString(pem.into_bytes())).expect("JSON");
        let spec = json!({"request": request, "signerName": signer, "usages": usages});
        match plan(&stored(spec, status), at("2026-01-01T00:00:00Z")) {
            Plan::Leave => "leave".to_owned(),
            Plan::Fail(why) => why,
            Plan::Sign(request, _, until) => format!("{} until {until}", request.common_name),
        }
    }

    #[test]
    fn only_what_is_approved_and_fits_is_signed() {
        let client = "kubernetes.io/kube-apiserver-client";
        let with = |kinds: &[&str]| json!({"conditions": kinds.iter().map(|kind| json!({"type": kind, "status": "True"})).collect::<Vec<_>>()});
        let approved = || with(&["Approved"]);
        let issued = json!({"conditions": approved()["conditions"], "certificate": "eA=="});
        for (signer, usages, status, expected) in [
            (client, &["client auth"][..], approved(), "jane until 2026-12-31T23:55:00Z"),
            ("kubernetes.io/legacy-unknown", &["any"], approved(), "jane until 2026-12-31T23:55:00Z"),
            (client, &["client auth"], json!({}), "leave"),
            (client, &["client auth"], with(&["Denied"]), "leave"),
            (client, &["client auth"], with(&["Approved", "Failed"]), "leave"),
            (client, &["client auth"], issued, "leave"),
            (client, &["server auth"], approved(), "invalid usage for client certificate: server auth"),
            ("kubernetes.io/kubelet-serving", &["server auth"], approved(), "subject organization is not system:nodes"),
            ("a.example/b", &["client auth"], approved(), "leave"),
        ] {
            assert_eq!(planned(signer, usages, status), expected, "{signer} {usages:?}");
        }
    }

    #[test]
    fn a_certificate_begins_five_minutes_ago_and_a_short_one_lives_as_long_as_asked() {
        let now = at("2026-01-01T00:00:00Z");
        for (asked, until) in [
            (None, "2026-12-31T23:55:00Z"),
            (Some(i32::MAX), "2026-12-31T23:55:00Z"),
            (Some(600), "2026-01-01T00:10:00Z"),
            (Some(1), "2026-01-01T00:10:00Z"),
            (Some(8 * 3600 - 1), "2026-01-01T07:59:59Z"),
            (Some(8 * 3600), "2026-01-01T07:55:00Z"),
        ] {
            assert_eq!(validity(asked, now), (at("2025-12-31T23:55:00Z"), at(until)), "{asked:?}");
        }
    }
}
