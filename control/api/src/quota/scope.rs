//! The scopes of a quota.

use super::pod;
use serde_json::Value;

/// A requirement for objects that count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// `BestEffort`, `PriorityClass`.
    pub name: String,
    /// `Exists`, `In`, `NotIn` or `DoesNotExist`.
    pub operator: String,
    /// The values of the operator.
    pub values: Vec<String>,
}

/// The requirements of a quota's spec.
pub(super) fn of(spec: &Value) -> Vec<Scope> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let plain = list(&spec["scopes"]).into_iter().map(|name| Scope {
        name: text(&name),
        operator: "Exists".to_owned(),
        values: Vec::new(),
    });
    let selected = list(&spec["scopeSelector"]["matchExpressions"]).into_iter().map(|one| Scope {
        name: text(&one["scopeName"]),
        operator: text(&one["operator"]),
        values: list(&one["values"]).iter().map(text).collect(),
    });
    plain.chain(selected).collect()
}

impl Scope {
    /// Whether an object of a resource fits. Scopes are for pods, and one is for claims.
    pub(super) fn fits(&self, group: &str, resource: &str, object: &Value) -> bool {
        match (group, resource) {
            ("", "pods") => self.fits_pod(object),
            ("", "persistentvolumeclaims") => self.name == "VolumeAttributesClass" && self.fits_names(&classes(object)),
            _ => false,
        }
    }

    fn fits_pod(&self, pod: &Value) -> bool {
        match self.name.as_str() {
            "Terminating" => pod::has_deadline(pod),
            "NotTerminating" => !pod::has_deadline(pod),
            "BestEffort" => pod::is_best_effort(pod),
            "NotBestEffort" => !pod::is_best_effort(pod),
            "PriorityClass" => {
                let class = pod["spec"]["priorityClassName"].as_str().filter(|class| !class.is_empty());
                self.fits_names(&class.into_iter().collect::<Vec<_>>())
            }
            "CrossNamespacePodAffinity" => pod::looks_beyond_its_namespace(pod),
            _ => false,
        }
    }

    /// As a label selector: the value of the label is one of `names`; there is none where they are empty.
    fn fits_names(&self, names: &[&str]) -> bool {
        let listed = || names.iter().any(|name| self.values.iter().any(|value| value == name));
        match self.operator.as_str() {
            "Exists" => !names.is_empty(),
            "DoesNotExist" => names.is_empty(),
            "In" => listed(),
            "NotIn" => names.is_empty() || !listed(),
            _ => false,
        }
    }
}

/// The VolumeAttributesClasses of a claim: which it asks for, has, and is being changed to.
fn classes(claim: &Value) -> Vec<&str> {
    let status = &claim["status"];
    let all = [
        &claim["spec"]["volumeAttributesClassName"],
        &status["currentVolumeAttributesClassName"],
        &status["modifyVolumeStatus"]["targetVolumeAttributesClassName"],
    ];
    all.into_iter().filter_map(Value::as_str).filter(|name| !name.is_empty()).collect()
}
