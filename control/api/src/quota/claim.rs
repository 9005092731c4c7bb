//! What a PersistentVolumeClaim uses.

use super::{Usage, amounts, one};
use serde_json::Value;

const SUFFIX: &str = ".storageclass.storage.k8s.io/";
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// Whether claims count for a limit: claims and storage, each of any class or of one.
pub(super) fn counts_for(name: &str) -> bool {
    let name = name.split_once(SUFFIX).map_or(name, |(_, name)| name);
    matches!(name, "persistentvolumeclaims" | "requests.storage")
}

/// What it uses.
pub(super) fn usage(claim: &Value) -> Usage {
    let mut usage: Usage =
        ["count/persistentvolumeclaims", "persistentvolumeclaims"].map(|name| (name.to_owned(), one())).into();
    let annotated = claim["metadata"]["annotations"][CLASS_ANNOTATION].as_str();
    let class = annotated.or_else(|| claim["spec"]["storageClassName"].as_str()).unwrap_or_default();
    if !class.is_empty() {
        usage.insert(format!("{class}{SUFFIX}persistentvolumeclaims"), one());
    }
    let Some(asked) = amounts(&claim["spec"]["resources"]["requests"]).remove("storage") else { return usage };
    // What was allocated for a size that is no longer asked for counts too.
    let allocated = amounts(&claim["status"]["allocatedResources"]).remove("storage");
    let storage = allocated.map_or(asked, |allocated| allocated.max(asked)).rounded_up(0);
    usage.insert("requests.storage".to_owned(), storage);
    if !class.is_empty() {
        usage.insert(format!("{class}{SUFFIX}requests.storage"), storage);
    }
    usage
}
