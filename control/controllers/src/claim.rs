//! Adoption and release: who controls an object that matches a selector. Pure.
//!
//! Follows "Non-Template Pod acquisitions" of <https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/>.

use api::selector::Selector;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::meta;

/// What an owner does about one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is ours and matches.
    Keep,
    /// It matches and has no controller: make it ours.
    Adopt,
    /// It is ours and matches no longer: give it free.
    Release,
    /// It is none of our business.
    Ignore,
}

/// Decides for `owner`, which selects by `selector`, about `object`.
pub fn claim(owner: &ObjectMeta, selector: &Selector, object: &ObjectMeta) -> Claim {
    let deleting = owner.deletion_timestamp.is_some();
    let matches = meta::matches(selector, object.labels.as_ref());
    match meta::controller_of(object) {
        Some(r) if Some(&r.uid) != owner.uid.as_ref() => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        Some(_) if deleting => Claim::Ignore,
        Some(_) => Claim::Release,
        None if deleting || !matches || object.deletion_timestamp.is_some() => Claim::Ignore,
        None if object.namespace != owner.namespace => Claim::Ignore,
        None => Claim::Adopt,
    }
}
