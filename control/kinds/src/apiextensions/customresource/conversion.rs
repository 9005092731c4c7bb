//! Conversion by a webhook: a ConversionReview for all objects at once. Follows upstream's
//! `apiextensions-apiserver/pkg/apiserver/conversion/webhook_converter.go`.

use api::{GroupVersionKind, Object, Status, names};
use serde_json::{Value, json};
use server::webhook::{Endpoint, Webhooks};
use std::time::Duration;

/// How long a conversion may take. Upstream waits for half a minute, the time of its client.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The webhook of a definition.
pub(super) struct Reviews {
    webhooks: Webhooks,
    endpoint: Endpoint,
    /// Of the review, the first that is known.
    version: Option<&'static str>,
}

impl Reviews {
    /// `None`: versions differ in nothing but their names.
    pub(super) fn new(definition: &Object, webhooks: Webhooks) -> Option<Self> {
        if definition.str_at(&["spec", "conversion", "strategy"]) != Some("Webhook") {
            return None;
        }
        let endpoint = Endpoint::parse(definition.at(&["spec", "conversion", "webhook", "clientConfig"])?)?;
        let versions = definition.list_at(&["spec", "conversion", "webhook", "conversionReviewVersions"]);
        let version = versions.iter().find_map(|version| match version.as_str() {
            Some("v1") => Some("v1"),
            Some("v1beta1") => Some("v1beta1"),
            _ => None,
        });
        Some(Self { webhooks, endpoint, version })
    }

    /// Converts objects that are in another version to `desired`.
    ///
    /// # Errors
    /// 500 with upstream's text.
    pub(super) async fn convert(&self, mut objects: Vec<Object>, desired: &str) -> Result<Vec<Object>, Status> {
        let places: Vec<usize> = objects
            .iter()
            .enumerate()
            .filter(|(_, object)| object.api_version() != desired)
            .map(|(at, _)| at)
            .collect();
        let Some(first) = places.first().and_then(|at| objects.get(*at)) else { return Ok(objects) };
        let kind = shown(&first.gvk());
        let version = self.version.ok_or_else(|| Status::internal("no supported conversion review versions"))?;
        let uid = self.webhooks.uid();
        let sent: Vec<Value> =
            places.iter().filter_map(|at| objects.get(*at)).map(|object| Value::Object(object.0.clone())).collect();
        let review = json!({"kind": "ConversionReview", "apiVersion": format!("apiextensions.k8s.io/{version}"),
            "request": {"uid": uid, "desiredAPIVersion": desired, "objects": sent}});
        let failed = |why: &str| Status::internal(format!("conversion webhook for {kind} failed: {why}"));
        let answer = self.webhooks.call(&self.endpoint, "", &review, TIMEOUT).await.map_err(|why| failed(&why))?;
        let converted = answered(&answer, version, &uid).map_err(|why| failed(&why))?;
        if converted.len() != places.len() {
            let (got, expected) = (converted.len(), places.len());
            let text = format!("conversion webhook for {kind} returned {got} objects, expected {expected}");
            return Err(Status::internal(text));
        }
        for (index, (at, new)) in places.into_iter().zip(converted).enumerate() {
            let Some(old) = objects.get_mut(at) else { continue };
            *old = checked(old, new, desired).map_err(|why| {
                let text =
                    format!("conversion webhook for {kind} returned invalid converted object at index {index}: {why}");
                Status::internal(text)
            })?;
        }
        Ok(objects)
    }
}

/// As Go prints a kind.
fn shown(kind: &GroupVersionKind) -> String {
    format!("{}/{}, Kind={}", kind.group, kind.version, kind.kind)
}

/// The converted objects of an answer.
fn answered(answer: &Value, version: &str, uid: &str) -> Result<Vec<Value>, String> {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let response = answer.get("response").filter(|response| response.is_object());
    if version == "v1" {
        let (api_version, kind) = (text(answer, "apiVersion"), text(answer, "kind"));
        if api_version != "apiextensions.k8s.io/v1" || kind != "ConversionReview" {
            let got = shown(&GroupVersionKind::from_api_version(&api_version, &kind));
            return Err(format!(
                "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got {got}"
            ));
        }
    }
    let response = response.ok_or("no response provided")?;
    let given = text(response, "uid");
    if version == "v1" && given != uid {
        return Err(format!("expected response.uid={uid:?}, got {given:?}"));
    }
    let result = response.get("result").cloned().unwrap_or_default();
    let (status, message) = (text(&result, "status"), text(&result, "message"));
    match (status.as_str(), message.as_str()) {
        ("Success", _) => {}
        (_, "") => return Err(format!("response.result.status was '{status}', not 'Success'")),
        (_, message) => return Err(message.to_owned()),
    }
    Ok(response.get("convertedObjects").and_then(Value::as_array).cloned().unwrap_or_default())
}

/// A converted object, which may differ from the old one in everything but its identity; of the metadata only labels and annotations are taken.
fn checked(old: &Object, new: Value, desired: &str) -> Result<Object, String> {
    let mut new = Object::from_value(new).ok_or("it is no object")?;
    let group_version = |api_version: &str| api_version.to_owned();
    if new.api_version() != desired {
        let got = group_version(new.api_version());
        return Err(format!("invalid groupVersion (expected {desired}, received {got})"));
    }
    if new.kind() != old.kind() {
        return Err(format!("invalid kind (expected {}, received {})", old.kind(), new.kind()));
    }
    for (what, before, after) in [
        ("name", old.name(), new.name()),
        ("namespace", old.namespace(), new.namespace()),
        ("UID", old.uid(), new.uid()),
    ] {
        if before != after {
            return Err(format!("must have the same {what}: {before} != {after}"));
        }
    }
    let mut metadata = old.at(&["metadata"]).cloned().unwrap_or_else(|| json!({}));
    for name in ["labels", "annotations"] {
        let given = new.at(&["metadata", name]).filter(|value| !value.is_null()).cloned();
        let Some(map) = metadata.as_object_mut() else { continue };
        match given {
            None => drop(map.remove(name)),
            Some(Value::Object(pairs)) => {
                for (key, value) in &pairs {
                    let Some(value) = value.as_str() else {
                        return Err(format!("metadata.{name}[{key}] must be a string, but is not in converted object"));
                    };
                    let mut problems = names::qualified_name(&key.to_lowercase());
                    if name == "labels" {
                        problems = names::qualified_name(key);
                        problems.extend(names::label_value(value));
                    }
                    if let Some(problem) = problems.first() {
                        return Err(format!("metadata.{name}: Invalid value: {key:?}: {problem}"));
                    }
                }
                map.insert(name.to_owned(), Value::Object(pairs));
            }
            Some(_) => return Err(format!("invalid metadata.{name} in converted object")),
        }
    }
    new.set(&["metadata"], metadata);
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        Object::from_value(value).expect("an object")
    }

    #[test]
    fn an_answer_must_be_for_the_request() {
        let answer = |response: Value| json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response});
        let good = json!({"uid": "u", "result": {"status": "Success"}, "convertedObjects": [{}]});
        assert_eq!(answered(&answer(good), "v1", "u"), Ok(vec![json!({})]));
        for (answer, expected) in [
            (json!({}), "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got /, Kind="),
            (answer(Value::Null), "no response provided"),
            (answer(json!({"uid": "w"})), "expected response.uid=\"u\", got \"w\""),
            (answer(json!({"uid": "u"})), "response.result.status was '', not 'Success'"),
            (answer(json!({"uid": "u", "result": {"status": "Failure", "message": "no"}})), "no"),
        ] {
            assert_eq!(answered(&answer, "v1", "u"), Err(expected.to_owned()));
        }
    }

    #[test]
    fn identity_stays_and_labels_may_change() {
        let old = object(
            json!({"apiVersion": "a.b/v1", "kind": "T", "metadata": {"name": "n", "uid": "u", "generation": 3, "labels": {"a": "b"}}, "spec": 1}),
        );
        let new = |metadata: Value| json!({"apiVersion": "a.b/v2", "kind": "T", "metadata": metadata, "spec": 2});
        let made =
            checked(&old, new(json!({"name": "n", "uid": "u", "generation": 9, "annotations": {"c": "d"}})), "a.b/v2");
        let expected = json!({"apiVersion": "a.b/v2", "kind": "T",
            "metadata": {"name": "n", "uid": "u", "generation": 3, "annotations": {"c": "d"}}, "spec": 2});
        assert_eq!(made, Ok(object(expected)));
        for (value, expected) in [
            (new(json!({"name": "m", "uid": "u"})), "must have the same name: n != m"),
            (new(json!({"name": "n"})), "must have the same UID: u != "),
            (json!({"apiVersion": "a.b/v1", "kind": "T"}), "invalid groupVersion (expected a.b/v2, received a.b/v1)"),
            (json!({"apiVersion": "a.b/v2", "kind": "S"}), "invalid kind (expected T, received S)"),
            (
                new(json!({"name": "n", "uid": "u", "labels": {"a": 1}})),
                "metadata.labels[a] must be a string, but is not in converted object",
            ),
            (json!([]), "it is no object"),
        ] {
            assert_eq!(checked(&old, value, "a.b/v2"), Err(expected.to_owned()));
        }
    }
}
