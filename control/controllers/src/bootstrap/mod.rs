//! Bootstrap tokens: Secrets by which a new node finds and trusts the cluster. Off unless they are named in `--controllers`, as upstream.
//!
//! Follows <https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/>.

pub(crate) mod signer;
pub(crate) mod tokencleaner;

use client::{Informer, Informers, Target};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;

const TYPE: &str = "bootstrap.kubernetes.io/token";
const NAMESPACE: &str = "kube-system";

/// The tokens of the cluster. Others than those in `kube-system` count for nothing.
fn secrets(informers: &Informers) -> Informer<Secret> {
    informers.over(Target::of::<Secret>().fields(format!("type={TYPE}")).within(NAMESPACE))
}

/// A value of a token, or nothing.
fn value<'a>(secret: &'a Secret, key: &str) -> &'a str {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    bytes.and_then(|bytes| std::str::from_utf8(&bytes.0).ok()).unwrap_or_default()
}

/// How long a token lives yet: `None` for ever, zero for one that has ended, or whose end is no time.
fn time_left(secret: &Secret, now: Timestamp) -> Option<SignedDuration> {
    let end = value(secret, "expiration");
    if end.is_empty() {
        return None;
    }
    let end: Option<Timestamp> = end.parse().ok();
    Some(end.map_or(SignedDuration::ZERO, |end| end.duration_since(now).max(SignedDuration::ZERO)))
}
