//! Service account tokens for projected volumes. They are requested by TokenRequest and cached until 80 % of their lifetime have passed. After a
//! start those that are still in the volumes take the place of the cache ([`super::kept_token`]).
//!
//! Follows <https://kubernetes.io/docs/concepts/storage/projected-volumes/#serviceaccounttoken>.

use super::kept_token::{Kept, Maker};
use client::Client;
use http::Method;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use parking_lot::Mutex;
use std::collections::HashMap;

/// The most audiences whose maker is known.
const MAX_MAKERS: usize = 64;

/// The parameters of a token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenSource {
    /// The pod's namespace.
    pub namespace: String,
    /// The name of the service account.
    pub account: String,
    /// The audience. Empty for the API server's own.
    pub audience: String,
    /// The requested lifetime in seconds.
    pub seconds: i64,
    /// Name and uid of the pod that the token is bound to.
    pub pod: (String, String),
}

impl TokenSource {
    /// Whether a token is bound to this pod and account.
    fn is_of(&self, kept: &Kept) -> bool {
        (&kept.namespace, &kept.account, &kept.pod) == (&self.namespace, &self.account, &self.pod)
    }
}

struct Token {
    text: String,
    refresh: Timestamp,
    expires: Timestamp,
}

/// The tokens of the node's pods.
pub struct Tokens {
    client: Client,
    cache: Mutex<HashMap<TokenSource, Token>>,
    /// By audience, who made the token that was requested last.
    makers: Mutex<HashMap<String, Maker>>,
}

impl Token {
    /// Like upstream's, it is refreshed after 80 % of its life, and at least once a day.
    fn new(text: String, made: Timestamp, expires: Timestamp) -> Self {
        let refresh = made.saturating_add(expires.duration_since(made) * 4 / 5).unwrap_or(expires);
        let day = made.saturating_add(SignedDuration::from_hours(24)).unwrap_or(expires);
        Self { text, refresh: refresh.min(day), expires }
    }
}

impl Tokens {
    /// Requests tokens through `client`.
    pub fn new(client: Client) -> Self {
        Self { client, cache: Mutex::default(), makers: Mutex::default() }
    }

    /// Returns a token and the time of its refresh. If the request fails, returns the cached token while it is valid. `kept` reads the token
    /// that is in the volume.
    pub async fn get(
        &self,
        source: &TokenSource,
        now: Timestamp,
        kept: impl Future<Output = Option<String>>,
    ) -> client::Result<(String, Timestamp)> {
        let maker = self.makers.lock().get(&source.audience).cloned();
        if let Some(maker) = maker.filter(|_| !self.cache.lock().contains_key(source))
            && let Some(text) = kept.await
            && let Some(kept) = maker.reads(&text).filter(|kept| kept.made <= now && source.is_of(kept))
        {
            self.cache.lock().insert(source.clone(), Token::new(text, kept.made, kept.expires));
        }
        if let Some(token) = self.cache.lock().get(source).filter(|t| now < t.refresh) {
            return Ok((token.text.clone(), token.refresh));
        }
        match self.request(source, now).await {
            Ok(token) => {
                let answer = (token.text.clone(), token.refresh);
                self.cache.lock().insert(source.clone(), token);
                Ok(answer)
            }
            Err(error) => match self.cache.lock().get(source).filter(|t| now < t.expires) {
                Some(token) => {
                    let soon = now.saturating_add(SignedDuration::from_secs(10)).unwrap_or(now);
                    Ok((token.text.clone(), soon.min(token.expires)))
                }
                None => Err(error),
            },
        }
    }

    async fn request(&self, source: &TokenSource, now: Timestamp) -> client::Result<Token> {
        let audiences = if source.audience.is_empty() { Vec::new() } else { vec![source.audience.clone()] };
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(audiences),
                expiration_seconds: Some(source.seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: Some(source.pod.0.clone()),
                    uid: Some(source.pod.1.clone()),
                }),
            }),
            ..TokenRequest::default()
        };
        let at = (source.namespace.as_str(), source.account.as_str(), "token");
        let answer: TokenRequest = self.client.subresource::<ServiceAccount, _, _>(Method::POST, at, &request).await?;
        let status = answer.status.and_then(|s| Some((s.token?, s.expiration_timestamp?.0)));
        let Some((text, expires)) = status else {
            return Err(client::Error::Decode("a TokenRequest without token and time".into()));
        };
        self.learn(&source.audience, Maker::of(&text));
        Ok(Token::new(text, now, expires))
    }

    /// How many audiences are known.
    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.makers.lock().len()
    }

    /// Notes who makes the tokens of an audience now. Users choose audiences: when there are many, all are forgotten, and tokens in volumes are
    /// requested again.
    fn learn(&self, audience: &str, maker: Option<Maker>) {
        let mut makers = self.makers.lock();
        if makers.len() >= MAX_MAKERS && !makers.contains_key(audience) {
            makers.clear();
        }
        match maker {
            Some(maker) => drop(makers.insert(audience.to_owned(), maker)),
            None => drop(makers.remove(audience)),
        }
    }

    /// Removes the tokens of a pod from the cache.
    pub fn forget(&self, uid: &str) {
        self.cache.lock().retain(|source, _| source.pod.1 != uid);
    }
}
