//! Signs the kubeconfig in ConfigMap `kube-public/cluster-info` with each bootstrap token that may, so that who has the token can trust it.

use super::{secrets, time_left, value};
use crate::{Context, meta};
use api::Clock;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use client::{Client, Controller, Informer, Key, Next, Target, Wakeups};
use hmac::{Hmac, Mac};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::json;
use sha2::Sha256;
use std::{collections::BTreeMap, sync::Arc};

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
const CONTENT: &str = "kubeconfig";
const PREFIX: &str = "jws-kubeconfig-";

/// Signs. Upstream's `bootstrap-signer-controller`.
pub(crate) struct BootstrapSignerController {
    client: Client,
    clock: Clock,
    secrets: Informer<Secret>,
    maps: Informer<ConfigMap>,
}

impl BootstrapSignerController {
    /// Over informers of its own, which watch only tokens and the ConfigMap.
    pub(crate) fn new(cx: &Context) -> Self {
        let target = Target::of::<ConfigMap>().named(NAMESPACE, NAME);
        Self {
            client: cx.client.clone(),
            clock: cx.options.clock.clone(),
            secrets: secrets(&cx.informers),
            maps: cx.informers.over(target),
        }
    }
}

/// Id and secret of a token that signs now.
fn token(secret: &Secret, now: Timestamp) -> Option<(&str, &str)> {
    let id = meta::name(&secret.metadata).strip_prefix("bootstrap-token-")?;
    let plain = id.len() == 6 && id.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let text = value(secret, "token-secret");
    let lives = time_left(secret, now).is_none_or(|left| left.is_positive());
    let signs = value(secret, "usage-bootstrap-signing") == "true";
    (plain && value(secret, "token-id") == id && !text.is_empty() && lives && signs).then_some((id, text))
}

/// A JSON web signature without the content, by which it is checked again.
fn signature(content: &str, id: &str, secret: &str) -> String {
    let header = BASE64_URL_SAFE_NO_PAD.encode(json!({"alg": "HS256", "kid": id}).to_string());
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key may have any length");
    mac.update(format!("{header}.{}", BASE64_URL_SAFE_NO_PAD.encode(content)).as_bytes());
    format!("{header}..{}", BASE64_URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

/// The ConfigMap with the signatures that it should have, and no others; `None` when it has them or nothing to sign.
fn plan(map: &ConfigMap, tokens: &[Arc<Secret>], now: Timestamp) -> Option<ConfigMap> {
    let data = map.data.as_ref()?;
    let content = data.get(CONTENT)?;
    let mut wanted: BTreeMap<String, String> = data
        .iter()
        .filter(|(key, _)| !key.starts_with(PREFIX))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    for (id, secret) in tokens.iter().filter_map(|secret| token(secret, now)) {
        wanted.insert(format!("{PREFIX}{id}"), signature(content, id, secret));
    }
    (*data != wanted).then(|| ConfigMap { data: Some(wanted), ..map.clone() })
}

#[async_trait::async_trait]
impl Controller for BootstrapSignerController {
    const NAME: &'static str = "bootstrap-signer-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on(&self.maps, |_| vec![Key::new(NAMESPACE, NAME)]);
        wakeups.on(&self.secrets, |_| vec![Key::new(NAMESPACE, NAME)]);
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let Some(map) = self.maps.find(key) else { return Ok(Next::Done) };
        let (now, tokens) = (self.clock.now(), self.secrets.list());
        if let Some(map) = plan(&map, &tokens, now) {
            match self.client.update(&map).await {
                Err(error) if !(error.is_conflict() || error.is_not_found()) => return Err(error.into()),
                _ => {}
            }
        }
        // Nobody has to delete a token that has ended for its signature to go.
        let ends = tokens.iter().filter_map(|secret| time_left(secret, now)).filter(|left| left.is_positive());
        Ok(ends.min().map_or(Next::Done, |left| Next::After(meta::non_negative(left))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use serde_json::Value;

    fn secret(name: &str, change: &[(&str, &str)]) -> Arc<Secret> {
        let mut data: BTreeMap<String, ByteString> = BTreeMap::new();
        let whole = [("token-id", "abcdef"), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-signing", "true")];
        for (key, value) in whole.iter().chain(change) {
            data.insert((*key).to_owned(), ByteString(value.as_bytes().to_vec()));
        }
        let mut secret = Secret { data: Some(data), ..Secret::default() };
        secret.metadata.name = Some(name.to_owned());
        Arc::new(secret)
    }

    fn map(data: Value) -> ConfigMap {
        serde_json::from_value(json!({"metadata": {"name": NAME, "namespace": NAMESPACE}, "data": data}))
            .expect("a map")
    }

    #[test]
    fn a_signature_is_what_openssl_computes() {
        // printf '%s' "$HEADER.$(printf hello | base64url)" | openssl dgst -sha256 -hmac SECRET -binary | base64url
        let expected = "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..MxsnbCjBaYzcbNIFa06F-wuF9LX26rhMlrL4zA1511s";
        assert_eq!(signature("hello", "abcdef", "0123456789abcdef"), expected);
    }

    #[test]
    fn each_token_that_may_signs_and_others_do_not() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let name = "bootstrap-token-abcdef";
        let signed = |secret: Arc<Secret>| {
            let plan = plan(&map(json!({"kubeconfig": "x"})), &[secret], now);
            plan.is_some_and(|map| map.data.expect("data").contains_key("jws-kubeconfig-abcdef"))
        };
        assert!(signed(secret(name, &[])));
        assert!(signed(secret(name, &[("expiration", "2026-01-01T00:00:01Z")])));
        for (name, change) in [
            ("bootstrap-token-ABCDEF", &[][..]),
            ("token-abcdef", &[]),
            (name, &[("token-id", "other1")]),
            (name, &[("token-secret", "")]),
            (name, &[("usage-bootstrap-signing", "false")]),
            (name, &[("expiration", "2026-01-01T00:00:00Z")]),
            (name, &[("expiration", "soon")]),
        ] {
            assert!(!signed(secret(name, change)), "{name} {change:?}");
        }
    }

    #[test]
    fn signatures_follow_content_and_tokens() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let tokens = [secret("bootstrap-token-abcdef", &[])];
        let made = plan(&map(json!({"kubeconfig": "x", "other": "y"})), &tokens, now).expect("a change");
        assert_eq!(plan(&made, &tokens, now), None, "it stays");
        let mut changed = made.clone();
        changed.data.get_or_insert_default().insert(CONTENT.to_owned(), "z".to_owned());
        assert_ne!(plan(&changed, &tokens, now).expect("a change").data, made.data);
        let gone = plan(&made, &[], now).expect("a change").data.expect("data");
        assert_eq!(gone.keys().collect::<Vec<_>>(), ["kubeconfig", "other"]);
        assert_eq!(plan(&map(json!({"other": "y"})), &tokens, now), None, "there is nothing to sign");
    }
}
