//! The keys of the cluster under test.

use api::csr::Request;
use jiff::{SignedDuration, Timestamp};
use kinds::Tokens;
use server::pki::{self, Pair, Validity};

/// What controllers sign with.
#[derive(Clone)]
pub struct Keys {
    pub tokens: Tokens,
    /// The authority of certificates, whose own one is valid for ten years.
    pub authority: Pair,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

impl Keys {
    /// A new authority, and the key of the server's tokens.
    pub fn new(tokens: &Tokens, now: Timestamp) -> Self {
        let validity = Validity { from: now, until: now + SignedDuration::from_hours(10 * 365 * 24) };
        Self { tokens: tokens.clone(), authority: pki::authority("test", validity).unwrap() }
    }
}

impl controllers::Keys for Keys {
    fn token(&self, namespace: &str, account: &str, uid: &str, secret: &str) -> anyhow::Result<String> {
        Ok(self.tokens.sign_legacy(namespace, account, uid, secret)?)
    }

    fn certificate(
        &self,
        request: &Request,
        usages: &[String],
        from: Timestamp,
        until: Timestamp,
    ) -> anyhow::Result<String> {
        Ok(pki::issue_for(&self.authority, request, usages, Validity { from, until })?)
    }
}
