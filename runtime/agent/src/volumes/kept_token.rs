//! Tokens that are still in the volume of a pod when the agent starts again: one that is still good is not requested again, as long as it was
//! made as those are that the API server makes now. The signature is not verified: nobody but the agent writes to these volumes.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde_json::Value;

/// What all tokens of an audience have in common: the key by its id, the algorithm, the issuer, the audiences, the node.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Maker {
    header: String,
    signature: usize,
    claims: [Value; 3],
}

/// A token that is in a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// When it was made.
    pub(super) made: Timestamp,
    /// Until when it is to be used.
    pub(super) expires: Timestamp,
    /// The namespace of account and pod.
    pub(super) namespace: String,
    /// The name of the service account.
    pub(super) account: String,
    /// Name and uid of the pod.
    pub(super) pod: (String, String),
}

impl Maker {
    /// Of a token that was requested; `None` if it is of a form that nobody here knows.
    pub(super) fn of(token: &str) -> Option<Self> {
        read(token).map(|(maker, _)| maker)
    }

    /// Reads a token that this maker made for a pod; `None`: it is of another form, damaged, or of another key.
    pub(super) fn reads(&self, token: &str) -> Option<Kept> {
        let (maker, claims) = read(token)?;
        if maker != *self {
            return None;
        }
        let bound = &claims["kubernetes.io"];
        let time = |value: &Value| Timestamp::from_second(value.as_i64()?).ok();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Some(Kept {
            made: time(&claims["iat"])?,
            // One that lives longer than was asked for says until when it is meant to be used.
            expires: time(&bound["warnafter"]).or_else(|| time(&claims["exp"]))?,
            namespace: text(&bound["namespace"])?,
            account: text(&bound["serviceaccount"]["name"])?,
            pod: (text(&bound["pod"]["name"])?, text(&bound["pod"]["uid"])?),
        })
    }
}

/// Maker and claims of a JSON web token.
fn read(token: &str) -> Option<(Maker, Value)> {
    let mut parts = token.split('.');
    let (header, payload, signature, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else {
        return None;
    };
    let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).ok()?.len();
    let claims: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    let common = [&claims["iss"], &claims["aud"], &claims["kubernetes.io"]["node"]].map(Value::clone);
    Some((Maker { header: header.to_owned(), signature, claims: common }, claims))
}

#[cfg(test)]
mod tests {
    use super::{
        super::token::{TokenSource, Tokens},
        *,
    };
    use crate::tests::FakeApi;
    use jiff::SignedDuration;

    fn of(pod: &str) -> TokenSource {
        TokenSource {
            namespace: "ns".into(),
            account: "robot".into(),
            audience: "jwt".into(),
            seconds: 1000,
            pod: (pod.into(), format!("uid-{pod}")),
        }
    }

    /// What a node that starts has for pod `a`, after it has asked for the token of another one.
    async fn restarted(api: &FakeApi, source: &TokenSource, kept: &str, now: Timestamp) -> (String, Timestamp) {
        let tokens = Tokens::new(api.client());
        tokens.get(&of("b"), now, async { None }).await.expect("a token");
        tokens.get(source, now, async { Some(kept.to_owned()) }).await.expect("a token")
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_is_still_good_is_not_requested_again() {
        let (api, begin) = (FakeApi::new(), crate::tests::epoch());
        let (kept, refresh) = Tokens::new(api.client()).get(&of("a"), begin, async { None }).await.expect("a token");
        assert_eq!(refresh, begin + SignedDuration::from_secs(800));
        let later = begin + SignedDuration::from_secs(799);
        assert_eq!(restarted(&api, &of("a"), &kept, later).await, (kept.clone(), refresh));
        assert_eq!(api.tokens(), 2, "its own, and that of the other pod");
        // who has not seen yet how tokens are made now does not know
        let other = Tokens::new(api.client()).get(&of("a"), later, async { Some(kept.clone()) }).await;
        assert_ne!(other.expect("a token").0, kept);

        let changed = |change: fn(&mut TokenSource)| {
            let mut source = of("a");
            change(&mut source);
            source
        };
        let cut = &kept[..kept.len() - 1];
        let zeros = format!("{}{}", &kept[..kept.len() - 2], "\0\0");
        for (what, source, text, seconds) in [
            ("is to be refreshed", of("a"), &*kept, 800),
            ("of the future", of("a"), &kept, -1),
            ("of another pod of that name", changed(|s| s.pod.1 = "other".into()), &kept, 1),
            ("of another account", changed(|s| s.account = "other".into()), &kept, 1),
            ("of another namespace", changed(|s| s.namespace = "other".into()), &kept, 1),
            ("for another audience", changed(|s| s.audience = "other".into()), &kept, 1),
            ("cut", of("a"), cut, 1),
            ("half written", of("a"), &zeros, 1),
            ("nothing", of("a"), "", 1),
            ("no token", of("a"), "a.b.c", 1),
        ] {
            let (text, _) = restarted(&api, &source, text, begin + SignedDuration::from_secs(seconds)).await;
            assert_ne!(text, kept, "{what}");
        }
        // the cluster has another key
        api.sign_with("other");
        assert_ne!(restarted(&api, &of("a"), &kept, begin).await.0, kept);
    }

    #[tokio::test(start_paused = true)]
    async fn audiences_that_users_choose_are_known_up_to_a_bound() {
        let (api, now) = (FakeApi::new(), crate::tests::epoch());
        let tokens = Tokens::new(api.client());
        for number in 0..200 {
            let source = TokenSource { audience: format!("jwt-{number}"), ..of("a") };
            tokens.get(&source, now, async { None }).await.expect("a token");
            assert!(tokens.known() <= 64, "after {number}");
        }
        assert!(tokens.known() > 0);
    }
}
