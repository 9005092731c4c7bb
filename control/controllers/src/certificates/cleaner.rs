//! Deletes old requests: decided ones after an hour, others after a day, and those whose certificate has ended.

use super::{certificate, has};
use crate::{Context, meta};
use api::{Clock, csr};
use client::{Client, Controller, DeleteOptions, Informer, Key, Next, Wakeups};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use std::time::Duration;

/// How often all requests are looked at.
const PERIOD: Duration = Duration::from_secs(3600);
/// How long a request with a certificate, a denied and a failed one are kept.
const DECIDED: SignedDuration = SignedDuration::from_hours(1);
/// How long one that nobody decides, or signs, is kept.
const PENDING: SignedDuration = SignedDuration::from_hours(24);

/// Deletes requests. Upstream's `certificatesigningrequest-cleaner-controller`.
pub(crate) struct CleanerController {
    client: Client,
    clock: Clock,
    requests: Informer<CertificateSigningRequest>,
}

impl CleanerController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        Self { client: cx.client.clone(), clock: cx.options.clock.clone(), requests: cx.informers.of() }
    }
}

/// Whether a request has had its time.
fn is_old(request: &CertificateSigningRequest, now: Timestamp) -> bool {
    let older = |time: Option<Timestamp>, age| time.is_some_and(|time| now.duration_since(time) > age);
    let conditions = request.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let since = |kind: &str, age: SignedDuration| {
        let mut of_type = conditions.iter().filter(|condition| condition.type_ == kind);
        of_type.any(|condition| older(condition.last_update_time.as_ref().map(|time| time.0), age))
    };
    let issued = certificate(request);
    let ended = has(request, "Approved") && csr::not_after(issued).is_some_and(|end| now > end);
    let approved = since("Approved", if issued.is_empty() { PENDING } else { DECIDED });
    let forgotten = conditions.is_empty() && older(Some(meta::created(&request.metadata)), PENDING);
    approved || ended || since("Denied", DECIDED) || since("Failed", DECIDED) || forgotten
}

#[async_trait::async_trait]
impl Controller for CleanerController {
    const NAME: &'static str = "certificatesigningrequest-cleaner-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.reads(&self.requests);
        wakeups.queue().add(Key::default());
    }

    async fn reconcile(&self, _: &Key) -> anyhow::Result<Next> {
        let now = self.clock.now();
        for request in self.requests.list().iter().filter(|request| is_old(request, now)) {
            let options = DeleteOptions::uid(meta::uid(&request.metadata));
            let name = meta::name(&request.metadata);
            match self.client.delete::<CertificateSigningRequest>("", name, &options).await {
                Err(error) if !error.is_conflict() => return Err(error.into()),
                _ => {}
            }
        }
        Ok(Next::After(PERIOD))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::stored, *};
    use rcgen::{CertificateParams, KeyPair};
    use serde_json::{Value, json};

    #[test]
    fn each_state_has_its_time() {
        let condition = |kind: &str| json!({"type": kind, "status": "True", "lastUpdateTime": "2026-01-01T00:00:00Z"});
        let with = |kind: &str| json!({"conditions": [condition(kind)]});
        let mut parameters = CertificateParams::default();
        parameters.not_after = rcgen::date_time_ymd(2025, 1, 1);
        let pem = parameters.self_signed(&KeyPair::generate().expect("a key")).expect("made").pem();
        let pem = serde_json::to_value(k8s_openapi::ByteString(pem.into_bytes())).expect("JSON");
        let ended = json!({"conditions": [condition("Approved")], "certificate": pem});
        let issued = json!({"conditions": [condition("Approved")], "certificate": "eA=="});
        for (status, seconds) in [
            (json!({}), 86_400),
            (with("Approved"), 86_400),
            (issued, 3600),
            (with("Denied"), 3600),
            (with("Failed"), 3600),
            (ended, -1),
            (with("Other"), i64::MAX),
        ] {
            let request = stored(Value::Null, status.clone());
            let begin: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
            let at = |seconds| is_old(&request, begin + SignedDuration::from_secs(seconds));
            match seconds {
                i64::MAX => assert!(!at(1 << 33), "{status}"),
                -1 => assert!(at(0), "{status}"),
                seconds => assert!(!at(seconds) && at(seconds + 1), "{status}"),
            }
        }
    }
}
