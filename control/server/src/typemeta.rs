//! `apiVersion` and `kind` of a body, read as upstream's serializers do, with upstream's errors.

use api::{GroupVersionKind, schema};
use serde_json::Value;

/// Metadata fields that upstream's internal types have at the top level, besides `apiVersion` and `kind`.
const PROMOTED: &[&str] = &[
    "annotations",
    "apiVersion",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "kind",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// The type of a value; an absent part is empty.
///
/// # Errors
/// The error of upstream's serializer.
pub(crate) fn interpret(value: &Value) -> Result<GroupVersionKind, String> {
    let text = |field: &str| match value.get(field) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(other) => Err(format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go struct field .{field} of type string",
            schema::json_kind(other)
        )),
    };
    let (version, kind) = (text("apiVersion")?, text("kind")?);
    if version.matches('/').count() > 1 {
        return Err(format!("unexpected GroupVersion string: {version}"));
    }
    Ok(GroupVersionKind::from_api_version(if version == "/" { "" } else { version }, kind))
}

/// The problems of strict decoding of a value without a version, which upstream decodes as the internal type, whose fields have other names.
pub(crate) fn internal_problems(value: &Value) -> Vec<String> {
    let mut names: Vec<&String> = value.as_object().into_iter().flat_map(|map| map.keys()).collect();
    names.retain(|name| PROMOTED.binary_search(&name.as_str()).is_err());
    names.sort_unstable();
    names.into_iter().map(|name| format!("unknown field {name:?}")).collect()
}

/// Upstream's error for an object of another type: it is not registered, or has no conversion to `wanted`.
pub(crate) fn no_conversion(given: &GroupVersionKind, wanted: &GroupVersionKind) -> String {
    if schema::Schema::for_kind(given).is_none() {
        return format!(
            "no kind {:?} is registered for version {:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
            given.kind,
            given.api_version()
        );
    }
    let group = match wanted.group.as_str() {
        // Both kinds of events have one internal type.
        "" | "events.k8s.io" => "core",
        group => group.split('.').next().unwrap_or_default(),
    };
    format!("converting ({}.{}) to ({group}.{}): unknown conversion", given.version, given.kind, wanted.kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_type_is_read_as_upstream_reads_it() {
        let read = |value: Value| interpret(&value).map(|kind| kind.to_string());
        assert_eq!(read(json!({"apiVersion": "apps/v1", "kind": "Deployment"})), Ok("apps/v1, Kind=Deployment".into()));
        assert_eq!(read(json!({"apiVersion": null})), Ok("/, Kind=".into()));
        assert_eq!(read(json!({"apiVersion": "a/b/c"})), Err("unexpected GroupVersion string: a/b/c".into()));
        assert_eq!(
            read(json!({"apiVersion": "v1", "kind": 1.5})),
            Err("couldn't get version/kind; json parse error: json: cannot unmarshal number into Go struct field .kind of type string".into())
        );
    }

    #[test]
    fn what_is_of_another_type_is_refused_in_upstreams_words() {
        let revision = GroupVersionKind::new("events.k8s.io", "v1", "Event");
        assert_eq!(
            no_conversion(&GroupVersionKind::new("", "v1", "Pod"), &revision),
            "converting (v1.Pod) to (core.Event): unknown conversion"
        );
        assert_eq!(
            no_conversion(&GroupVersionKind::new("", "10%", "Pod"), &revision),
            "no kind \"Pod\" is registered for version \"10%\" in scheme \"pkg/api/legacyscheme/scheme.go:30\""
        );
    }
}
