//! JSON patch (RFC 6902).

use super::PatchError;
use crate::tree::MAX_DEPTH;
use json_patch::{PatchErrorKind, PatchOperation};
use serde_json::Value;

/// Upstream's limit of operations in one patch.
const MAX_OPERATIONS: usize = 10_000;
/// Upstream's limit of bytes that the `copy` operations of one patch may add.
const MAX_COPIED: usize = 3 << 20;
/// Most list elements that the operations of one patch may shift; a visited value counts as eight. It is far more than a patch of the longest
/// lists needs, and takes well below a tenth of a second.
const MAX_WORK: usize = 16 << 20;

/// Applies a JSON patch, an array of operations. All or nothing.
///
/// # Errors
/// [`PatchError::Malformed`] if it is no list of operations, [`PatchError::TooMany`], and [`PatchError::Unprocessable`] where an
/// operation does not apply.
pub fn json(document: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Some(list) = patch.as_array() else {
        return Err(PatchError::Malformed(format!(
            "json: cannot unmarshal {} into Go value of type jsonpatch.Patch",
            kind_of(patch)
        )));
    };
    if list.len() > MAX_OPERATIONS {
        return Err(PatchError::TooMany { limit: MAX_OPERATIONS, count: list.len() });
    }
    let mut result = document.clone();
    let mut bounds = Bounds::default();
    for operation in list {
        let operation: PatchOperation =
            serde_json::from_value(complete(operation)).map_err(|e| malformed(operation, &e))?;
        let operation = lenient(&result, operation);
        bounds.admit(&result, &operation).map_err(PatchError::Unprocessable)?;
        // One operation at a time on a copy, so that the crate's undo log is not needed.
        if let Err(error) = json_patch::patch_unsafe(&mut result, std::slice::from_ref(&operation)) {
            return Err(PatchError::Unprocessable(explain(&result, &operation, &error.kind)));
        }
    }
    Ok(result)
}

/// The cost of the operations of one patch so far. An operation of a few bytes can copy a document into itself, shift a list of a million
/// elements or nest one level deeper, and a patch may have ten thousand of them.
#[derive(Default)]
struct Bounds {
    /// Bytes copied.
    copied: usize,
    /// List elements shifted, and values visited to measure their depth.
    work: usize,
}

impl Bounds {
    /// Counts an operation before it is applied; the error names the exceeded limit.
    fn admit(&mut self, document: &Value, operation: &PatchOperation) -> Result<(), String> {
        match operation {
            PatchOperation::Add(op) => {
                self.shift(document, op.path.as_str())?;
                self.nest(op.path.as_str(), &op.value)
            }
            PatchOperation::Replace(op) => self.nest(op.path.as_str(), &op.value),
            PatchOperation::Remove(op) => self.shift(document, op.path.as_str()),
            PatchOperation::Move(op) => {
                self.shift(document, op.from.as_str())?;
                self.shift(document, op.path.as_str())?;
                self.nest(op.path.as_str(), document.pointer(op.from.as_str()).unwrap_or(&Value::Null))
            }
            PatchOperation::Copy(op) => {
                let source = document.pointer(op.from.as_str()).unwrap_or(&Value::Null);
                self.copied += source.to_string().len();
                if self.copied > MAX_COPIED {
                    return Err(format!(
                        "Unable to complete the copy, the accumulated size increase of copy is {}, exceeding the limit {MAX_COPIED}",
                        self.copied
                    ));
                }
                self.shift(document, op.path.as_str())?;
                self.nest(op.path.as_str(), source)
            }
            PatchOperation::Test(_) => Ok(()),
        }
    }

    fn work(&mut self, amount: usize) -> Result<(), String> {
        self.work += amount;
        if self.work > MAX_WORK {
            return Err(
                "the JSON patch moves too much: its operations shift or nest long lists and large values".into()
            );
        }
        Ok(())
    }

    /// Counts the insertion or removal of a list element, which shifts the elements after it.
    fn shift(&mut self, document: &Value, path: &str) -> Result<(), String> {
        let Some((parent, last)) = path.rsplit_once('/') else { return Ok(()) };
        let length = document.pointer(parent).and_then(Value::as_array).map_or(0, Vec::len);
        self.work(length.saturating_sub(last.parse().unwrap_or(length)))
    }

    /// Counts a value that is placed at a path.
    fn nest(&mut self, path: &str, value: &Value) -> Result<(), String> {
        let above = path.matches('/').count();
        let (depth, seen) = depth_of(value, MAX_DEPTH.saturating_sub(above));
        self.work(seen * 8)?;
        if depth + above > MAX_DEPTH {
            return Err("exceeded max depth".into());
        }
        Ok(())
    }
}

/// The depth of a value, as far as just beyond `most`, and the number of visited values.
fn depth_of(value: &Value, most: usize) -> (usize, usize) {
    let children: &mut dyn Iterator<Item = &Value> = match value {
        Value::Array(list) => &mut list.iter(),
        Value::Object(map) => &mut map.values(),
        _ => return (0, 1),
    };
    let (mut deepest, mut seen) = (1, 1);
    if most == 0 {
        return (deepest, seen);
    }
    for child in children {
        let (depth, count) = depth_of(child, most - 1);
        deepest = deepest.max(depth + 1);
        seen += count;
    }
    (deepest, seen)
}

/// As in upstream's library, `replace` also adds an absent member of an object.
fn lenient(document: &Value, operation: PatchOperation) -> PatchOperation {
    match operation {
        PatchOperation::Replace(op) if document.pointer(op.path.as_str()).is_none() => {
            let parent = op.path.as_str().rsplit_once('/').and_then(|(parent, _)| document.pointer(parent));
            match parent {
                Some(Value::Object(_)) => {
                    PatchOperation::Add(json_patch::AddOperation { path: op.path, value: op.value })
                }
                _ => PatchOperation::Replace(op),
            }
        }
        other => other,
    }
}

/// An operation without a value has the value null, as in Go.
fn complete(operation: &Value) -> Value {
    let mut operation = operation.clone();
    if let Some(map) = operation.as_object_mut() {
        map.entry("value").or_insert(Value::Null);
    }
    operation
}

fn malformed(operation: &Value, error: &serde_json::Error) -> PatchError {
    match operation.get("op").and_then(Value::as_str) {
        Some("add" | "remove" | "replace" | "move" | "copy" | "test") => PatchError::Malformed(error.to_string()),
        Some(other) => PatchError::Unprocessable(format!("Unexpected kind: {other}")),
        None if operation.is_object() => PatchError::Unprocessable("Unexpected kind: unknown".into()),
        None => PatchError::Malformed(format!(
            "json: cannot unmarshal {} into Go value of type jsonpatch.Operation",
            kind_of(operation)
        )),
    }
}

/// Upstream's error for an operation that does not apply.
fn explain(document: &Value, operation: &PatchOperation, kind: &PatchErrorKind) -> String {
    let parent_of = |path: &str| path.rsplit_once('/').map_or("", |(parent, _)| parent).to_owned();
    let key_of = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let has_parent = |path: &str| document.pointer(&parent_of(path)).is_some_and(|p| p.is_object() || p.is_array());
    let missing = "missing value";
    match operation {
        PatchOperation::Add(op) => {
            let path = op.path.as_str();
            if has_parent(path) {
                format!("error in add for path: '{path}': unable to access invalid index: invalid index referenced")
            } else {
                format!("add operation does not apply: doc is missing path: \"{path}\": {missing}")
            }
        }
        PatchOperation::Remove(op) => {
            let path = op.path.as_str();
            if has_parent(path) {
                format!(
                    "error in remove for path: '{path}': Unable to remove nonexistent key: {}: {missing}",
                    key_of(path)
                )
            } else {
                format!("remove operation does not apply: doc is missing path: \"{path}\": {missing}")
            }
        }
        PatchOperation::Replace(op) => {
            let path = op.path.as_str();
            let what = if has_parent(path) { "key" } else { "path" };
            format!("replace operation does not apply: doc is missing {what}: {path}: {missing}")
        }
        PatchOperation::Move(op) => {
            format!("move operation does not apply: doc is missing from path: {}: {missing}", op.from)
        }
        PatchOperation::Copy(op) => {
            format!("copy operation does not apply: doc is missing from path: {}: {missing}", op.from)
        }
        PatchOperation::Test(op) => match kind {
            PatchErrorKind::TestFailed => format!("testing value {} failed: test failed", op.path),
            _ if has_parent(op.path.as_str()) => format!("testing value {} failed: test failed", op.path),
            _ => format!("test operation does not apply: is missing path: {}: {missing}", op.path),
        },
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn operations_apply_in_order() {
        let document = json!({"a": [1, 2], "b": {"c/d": 1, "e~f": 2}});
        let patch = json!([
            {"op": "test", "path": "/a/0", "value": 1},
            {"op": "add", "path": "/a/-", "value": 3},
            {"op": "add", "path": "/a/0", "value": 0},
            {"op": "replace", "path": "/b/c~1d", "value": 9},
            {"op": "remove", "path": "/b/e~0f"},
            {"op": "copy", "from": "/b", "path": "/c"},
            {"op": "move", "from": "/b", "path": "/d"},
            {"op": "add", "path": "/n"}
        ]);
        let result = json(&document, &patch).expect("applies");
        assert_eq!(result, json!({"a": [0, 1, 2, 3], "c": {"c/d": 9}, "d": {"c/d": 9}, "n": null}));
    }

    #[test]
    fn failures_have_upstreams_text() {
        let document = json!({"spec": {"replicas": 1, "list": []}});
        for (patch, error) in [
            (
                json!({"op": "test", "path": "/spec/replicas", "value": 2}),
                "testing value /spec/replicas failed: test failed",
            ),
            (
                json!({"op": "remove", "path": "/spec/x"}),
                "error in remove for path: '/spec/x': Unable to remove nonexistent key: x: missing value",
            ),
            (
                json!({"op": "remove", "path": "/x/y"}),
                "remove operation does not apply: doc is missing path: \"/x/y\": missing value",
            ),
            (
                json!({"op": "replace", "path": "/x/y", "value": 1}),
                "replace operation does not apply: doc is missing path: /x/y: missing value",
            ),
            (
                json!({"op": "add", "path": "/x/y", "value": 1}),
                "add operation does not apply: doc is missing path: \"/x/y\": missing value",
            ),
            (
                json!({"op": "copy", "from": "/x", "path": "/y"}),
                "copy operation does not apply: doc is missing from path: /x: missing value",
            ),
            (json!({"op": "jump", "path": "/y"}), "Unexpected kind: jump"),
        ] {
            assert_eq!(json(&document, &json!([patch])), Err(PatchError::Unprocessable(error.into())));
        }
        assert!(json(&document, &json!([{"op": "add", "path": "/spec/list/5", "value": 1}])).is_err());
        assert!(matches!(json(&document, &json!({})), Err(PatchError::Malformed(_))));
        assert!(matches!(json(&document, &json!([1])), Err(PatchError::Malformed(_))));
    }

    #[test]
    fn size_is_bounded() {
        let many = vec![json!({"op": "test", "path": "", "value": {}}); 10_001];
        let error = json(&json!({}), &Value::Array(many)).expect_err("too many");
        assert_eq!(error.to_string(), "The allowed maximum operations in a JSON patch is 10000, got 10001");
        // Doubling the document 100 times must not double its memory.
        let doubling: Vec<Value> =
            (0..100).map(|i| json!({"op": "copy", "from": "", "path": format!("/x{i}")})).collect();
        let error = json(&json!({"a": "x".repeat(1000)}), &Value::Array(doubling)).expect_err("too large");
        assert!(error.to_string().starts_with("Unable to complete the copy"), "{error}");
    }

    proptest! {
        #[test]
        fn any_operation_applies_or_is_refused(op in "add|remove|replace|move|copy|test", path in "(/[a-c0-2~-]{0,2}){0,3}", from in "(/[a-c0-2-]{0,2}){0,3}") {
            let document = json!({"a": {"b": [1, {"c": 2}]}, "c": [[]], "": 1});
            let _ = json(&document, &json!([{"op": op, "path": path, "from": from, "value": 1}]));
        }
    }
}
