//! AppArmor annotations, as before Kubernetes 1.30: copied to the field, compared with it, and warned about (KEP-24).

use super::containers;
use crate::{at::At, edit};
use api::{Cause, Object};
use serde_json::{Value, json};

const PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
const LOCALHOST: &str = "localhost/";
const MIRROR: &str = "kubernetes.io/config.mirror";
const MAX_LENGTH: usize = 4095;

/// The profile of an annotation, if it is valid for the field.
fn profile(annotation: &str) -> Option<Value> {
    let file = match annotation {
        "unconfined" => return Some(json!({"type": "Unconfined"})),
        "runtime/default" => return Some(json!({"type": "RuntimeDefault"})),
        other => other.strip_prefix(LOCALHOST)?,
    };
    let good = !file.is_empty() && file.trim() == file && file.len() <= MAX_LENGTH;
    good.then(|| json!({"type": "Localhost", "localhostProfile": file}))
}

/// The profile that an annotation gives to a container without a profile of its own or of the pod; an error if it is invalid.
fn wanted(spec: At<'_>, annotations: At<'_>, container: At<'_>) -> Option<Result<Value, ()>> {
    let key = format!("{PREFIX}{}", container.get("name").str());
    let annotation = annotations.value().get(&key)?.as_str()?;
    if container.down(&["securityContext", "appArmorProfile"]).is_set() {
        return None;
    }
    match profile(annotation) {
        None => Some(Err(())),
        Some(made) if edit::deep_equal(&made, spec.down(&["securityContext", "appArmorProfile"]).value()) => None,
        Some(made) => Some(Ok(made)),
    }
}

fn for_windows(spec: At<'_>) -> bool {
    spec.down(&["os", "name"]).str() == "windows"
}

fn warning(annotations: At<'_>, container: At<'_>) -> String {
    let key = format!("{PREFIX}{}", container.get("name").str());
    format!("{}: deprecated since v1.30; use the \"appArmorProfile\" field instead", annotations.field().key(&key))
}

/// Warnings about the annotations of a new Pod, before [`copy`], or of a template.
pub(crate) fn warnings(spec: At<'_>, annotations: At<'_>) -> Vec<String> {
    if annotations.is_empty() || for_windows(spec) {
        return Vec::new();
    }
    let deprecated = containers(spec).filter(|container| wanted(spec, annotations, *container).is_some());
    deprecated.map(|container| warning(annotations, container)).collect()
}

/// Copies the annotations of a new Pod to the corresponding fields.
pub(crate) fn copy(object: &mut Object) {
    if !object.annotations().any(|(key, _)| key.starts_with(PREFIX)) {
        return;
    }
    let mut made = Vec::new();
    {
        let (spec, annotations) = (At::of(object, "spec"), At::of(object, "metadata").get("annotations"));
        if for_windows(spec) {
            return;
        }
        for kind in super::CONTAINERS.iter().copied() {
            let all = spec.get(kind).items().map(|container| wanted(spec, annotations, container)).enumerate();
            made.extend(all.filter_map(|(index, wanted)| Some((kind, index, wanted?.ok()?))));
        }
    }
    let spec = edit::object(&mut object.0, "spec");
    for (kind, index, profile) in made {
        if let Some(container) = edit::objects(spec, kind).nth(index) {
            edit::object(container, "securityContext").insert("appArmorProfile".into(), profile);
        }
    }
}

/// Annotations must name existing containers and valid profiles.
pub(super) fn annotations(spec: At<'_>, annotations: At<'_>, out: &mut Vec<Cause>) {
    for (key, value) in annotations.entries() {
        let Some(name) = key.strip_prefix(PREFIX) else { continue };
        if !containers(spec).any(|container| container.get("name").str() == name) {
            out.push(Cause::invalid(&value.field(), &json!(name), "container not found"));
        }
        let known = matches!(value.str(), "" | "runtime/default" | "unconfined") || value.str().starts_with(LOCALHOST);
        if !known {
            out.push(value.or_empty().invalid(&format!("invalid AppArmor profile name: {:?}", value.str())));
        }
    }
}

/// On create, annotation and field must agree.
pub(crate) fn agree(spec: At<'_>, annotations: At<'_>, out: &mut Vec<Cause>) {
    if annotations.is_empty() || for_windows(spec) {
        return;
    }
    for container in containers(spec) {
        let own = container.down(&["securityContext", "appArmorProfile"]);
        let field =
            if own.is_set() { own } else { own.with(spec.down(&["securityContext", "appArmorProfile"]).value()) };
        let key = format!("{PREFIX}{}", container.get("name").str());
        let Some(annotation) = annotations.value().get(&key).and_then(Value::as_str) else { continue };
        let same = match field.get("type").str() {
            "Unconfined" => annotation == "unconfined",
            "RuntimeDefault" => annotation == "runtime/default",
            "Localhost" => annotation.starts_with(LOCALHOST),
            _ => continue,
        };
        if !same {
            out.push(field.get("type").forbidden("apparmor type in annotation and field must match"));
        } else if field.get("type").str() == "Localhost"
            && annotation.strip_prefix(LOCALHOST) != field.get("localhostProfile").value().as_str()
        {
            let text = "apparmor profile in annotation and field must match";
            out.push(field.get("localhostProfile").forbidden(text));
        }
    }
}

/// Annotations of a Pod are immutable.
pub(crate) fn fixed(new: At<'_>, old: At<'_>, out: &mut Vec<Cause>) {
    let what = |key: &str| match key {
        MIRROR => Some("mirror pod annotation"),
        key if key.starts_with(PREFIX) => Some("AppArmor annotations"),
        _ => None,
    };
    for (key, was) in old.entries() {
        if let Some(what) = what(key).filter(|_| new.key(key).value() != was.value()) {
            out.push(new.key(key).forbidden(&format!("may not remove or update {what}")));
        }
    }
    for (key, _) in new.entries().filter(|(key, _)| !old.key(key).is_set()) {
        if let Some(what) = what(key) {
            out.push(new.key(key).forbidden(&format!("may not add {what}")));
        }
    }
}

/// `appArmorProfile` of type `Localhost`.
pub(super) fn file(file: At<'_>, out: &mut Vec<Cause>) {
    if file.str().trim() != file.str() {
        out.push(file.invalid("must not be padded with whitespace"));
    } else if file.is_empty() {
        out.push(file.required("must be set when AppArmor type is Localhost"));
    }
    if file.str().len() > MAX_LENGTH {
        out.push(Cause::too_long(&file.field(), MAX_LENGTH));
    }
}
