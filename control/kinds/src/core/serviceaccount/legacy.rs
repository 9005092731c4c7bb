//! Tokens of Secrets (`kubernetes.io/service-account-token`): they name a Secret, have no end, and are valid as long as that Secret holds them
//! and its account is there. Upstream calls them legacy tokens.

use api::{
    Object,
    legacytoken::{INVALID_SINCE, LAST_USED, day},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use server::{Objects, User};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The issuer of such tokens.
pub(crate) const ISSUER: &str = "kubernetes/serviceaccount";
/// The claims of the token of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LegacyClaims {
    /// [`ISSUER`].
    pub(crate) iss: String,
    /// Namespace of account and Secret.
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    pub(crate) namespace: String,
    /// Name of the Secret.
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    pub(crate) secret: String,
    /// Name of the account.
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub(crate) account: String,
    /// Uid of the account.
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub(crate) uid: String,
    /// `system:serviceaccount:ns:name`.
    pub(crate) sub: String,
}

impl LegacyClaims {
    /// The claims for an account and a Secret.
    pub(crate) fn new(namespace: &str, account: &str, uid: &str, secret: &str) -> Self {
        Self {
            iss: ISSUER.to_owned(),
            namespace: namespace.to_owned(),
            secret: secret.to_owned(),
            account: account.to_owned(),
            uid: uid.to_owned(),
            sub: format!("system:serviceaccount:{namespace}:{account}"),
        }
    }

    /// The user of a token whose signature was verified, and the label of the Secret that says when it was last used.
    pub(crate) fn user(&self, token: &str, objects: &dyn Objects) -> Option<(User, String)> {
        let named = [&self.namespace, &self.secret, &self.account, &self.uid].iter().all(|text| !text.is_empty());
        if !named || self.sub != format!("system:serviceaccount:{}:{}", self.namespace, self.account) {
            return None;
        }
        let lives = |object: &Object| object.str_at(&["metadata", "deletionTimestamp"]).is_none();
        let secret = objects.get("", "secrets", &self.namespace, &self.secret).filter(|secret| lives(secret))?;
        let held = BASE64_STANDARD.decode(secret.str_at(&["data", "token"])?).ok()?;
        // Digests are compared: how long that takes tells nothing of the token.
        if Sha256::digest(&held) != Sha256::digest(token) {
            return None;
        }
        let account = objects.get("", "serviceaccounts", &self.namespace, &self.account);
        account.filter(|account| lives(account) && account.uid() == self.uid)?;
        let label = |key: &str| secret.str_at(&["metadata", "labels", key]).unwrap_or_default();
        if !label(INVALID_SINCE).is_empty() {
            return None;
        }
        let user = User {
            name: self.sub.clone(),
            uid: self.uid.clone(),
            groups: vec![
                "system:serviceaccounts".into(),
                format!("system:serviceaccounts:{}", self.namespace),
                "system:authenticated".into(),
            ],
            extra: BTreeMap::new(),
        };
        Some((user, label(LAST_USED).to_owned()))
    }
}

/// What the label is to be, unless it says so or is a day ahead, because another server's clock is.
pub(crate) fn used_on(label: &str, now: Timestamp) -> Option<String> {
    let on = |time: Timestamp| day(time).to_string();
    let today = on(now);
    let tomorrow = now.checked_add(SignedDuration::from_hours(24)).map(on).unwrap_or_default();
    (label != today && label != tomorrow).then_some(today)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Stored;

    fn stored(secret: &str, account: &str) -> Stored {
        Stored::default().with("", "secrets", secret).with("", "serviceaccounts", account)
    }

    #[test]
    fn a_token_is_valid_while_its_secret_holds_it_and_its_account_is_there() {
        let claims = LegacyClaims::new("ns", "sa", "u", "s");
        let text = BASE64_STANDARD.encode("T");
        let secret = |rest: &str| format!("{{metadata: {{name: s, namespace: ns{rest}}}, data: {{token: {text}}}}}");
        let account = "{metadata: {name: sa, namespace: ns, uid: u}}";
        let (user, label) = claims.user("T", &stored(&secret(""), account)).expect("a user");
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("system:serviceaccount:ns:sa", "u"));
        assert!(user.extra.is_empty() && label.is_empty());
        let used = secret(&format!(", labels: {{{LAST_USED}: '2026-01-01'}}"));
        assert_eq!(claims.user("T", &stored(&used, account)).expect("a user").1, "2026-01-01");
        let deleted = ", deletionTimestamp: '2026-01-01T00:00:00Z'";
        for (token, secret, account) in [
            ("T2", secret(""), account.to_owned()),
            ("T", secret(deleted), account.to_owned()),
            ("T", secret(&format!(", labels: {{{INVALID_SINCE}: '2026-01-01'}}")), account.to_owned()),
            ("T", secret("").replace("name: s,", "name: t,"), account.to_owned()),
            ("T", secret("").replace("token:", "other:"), account.to_owned()),
            ("T", secret(""), account.replace("uid: u", "uid: v")),
            ("T", secret(""), account.replace("name: sa", "name: sb")),
            ("T", secret(""), account.replace("uid: u", &format!("uid: u{deleted}"))),
        ] {
            assert_eq!(claims.user(token, &stored(&secret, &account)), None, "{token} {secret} {account}");
        }
        let other = LegacyClaims { sub: "system:serviceaccount:ns:admin".into(), ..claims };
        assert_eq!(other.user("T", &stored(&secret(""), account)), None);
    }

    #[test]
    fn the_day_of_use_is_written_once_a_day() {
        let now: Timestamp = "2026-03-01T23:59:59Z".parse().expect("a time");
        for (label, expected) in
            [("", Some("2026-03-01")), ("2026-02-28", Some("2026-03-01")), ("2026-03-01", None), ("2026-03-02", None)]
        {
            assert_eq!(used_on(label, now).as_deref(), expected, "{label}");
        }
    }
}
