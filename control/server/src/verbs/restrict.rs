//! Limits a write to its scope.

use crate::{Resource, metadata, scope::Scope};
use api::Object;
use serde_json::Value;

/// The fields that a write of a status may change.
const PARTS: [&str; 2] = ["metadata", "status"];

/// The part of an object that a write of its status may change, with its type.
pub(super) fn status_part(object: &Object) -> Object {
    let own = |field: &str| PARTS.contains(&field) || ["apiVersion", "kind"].contains(&field);
    let own = object.0.iter().filter(|(field, _)| own(field));
    Object(own.map(|(field, value)| (field.clone(), value.clone())).collect())
}

/// Restores what a write in the scope may not change.
pub(super) fn restrict(scope: Scope, resource: &Resource, object: &mut Object, old: &Object) {
    match scope {
        Scope::Main => {
            if resource.subresource("status").is_some() {
                metadata::copy(object, old, &["status"]);
            }
        }
        Scope::Status => {
            object.0.retain(|field, _| PARTS.contains(&field.as_str()));
            let others = old.0.iter().filter(|(field, _)| !PARTS.contains(&field.as_str()));
            object.0.extend(others.map(|(field, value)| (field.clone(), value.clone())));
            if !object.0.contains_key("metadata") {
                metadata::copy(object, old, &["metadata"]);
            }
            for field in ["ownerReferences", "deletionTimestamp", "deletionGracePeriodSeconds"] {
                metadata::copy(object, old, &["metadata", field]);
            }
        }
        Scope::Fields(paths) => {
            let changed = std::mem::replace(object, old.clone());
            // Who wrote what is told of this write too.
            metadata::copy(object, &changed, &["metadata", "managedFields"]);
            for path in paths {
                match path {
                    [list @ .., "*", field] => copy_each(object, &changed, list, field),
                    path => metadata::copy(object, &changed, path),
                }
            }
        }
        Scope::Action => {}
    }
}

/// Copies a field of each element of a list, or the list if its elements are others.
fn copy_each(object: &mut Object, from: &Object, list: &[&str], field: &str) {
    let (own, theirs) = (object.list_at(list), from.list_at(list));
    let same = own.len() == theirs.len() && own.iter().zip(theirs).all(|(own, theirs)| own["name"] == theirs["name"]);
    if !same {
        return metadata::copy(object, from, list);
    }
    if own.is_empty() {
        return;
    }
    let elements = object.entry(list).as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut);
    for (own, theirs) in elements.zip(theirs) {
        match theirs.get(field) {
            Some(value) => drop(own.insert(field.to_owned(), value.clone())),
            None => drop(own.remove(field)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::Plain;
    use serde_json::json;

    #[test]
    fn a_field_of_each_element_is_taken_and_nothing_else() {
        let paths: &[&[&str]] = &[&["spec", "list", "*", "size"], &["spec", "none", "*", "size"]];
        let resource = Resource::new("", "v1", "tests", "Test", Plain);
        let object = |list: Value| {
            Object::from_value(json!({"metadata": {"name": "a"}, "spec": {"list": list, "other": 1}}))
                .expect("an object")
        };
        let old = object(json!([{"name": "a", "size": 1, "color": "red"}, {"name": "b", "size": 2}]));
        for (what, new, expected) in [
            (
                "each",
                json!([{"name": "a", "size": 3, "color": "blue"}, {"name": "b"}]),
                json!([{"name": "a", "size": 3, "color": "red"}, {"name": "b"}]),
            ),
            ("fewer", json!([{"name": "a", "color": "blue"}]), json!([{"name": "a", "color": "blue"}])),
            ("others", json!([{"name": "b"}, {"name": "a"}]), json!([{"name": "b"}, {"name": "a"}])),
            ("none", json!(null), json!(null)),
        ] {
            let mut object = object(new);
            object.set(&["spec", "other"], 2);
            object.set(&["metadata", "labels"], json!({"a": "b"}));
            restrict(Scope::Fields(paths), &resource, &mut object, &old);
            assert_eq!(object.at(&["spec"]), Some(&json!({"list": expected, "other": 1})), "{what}");
            assert_eq!(object.at(&["metadata"]), old.at(&["metadata"]), "{what}");
        }
    }
}
