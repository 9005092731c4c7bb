//! `/scale` of a custom resource: where its definition says the replicas are.

use api::{Cause, FieldPath, Object};
use serde_json::{Value, json};
use server::strategy::Scale;

/// The paths of `subresources.scale`, without the leading dot.
pub(super) struct Scaled {
    spec: String,
    status: String,
    selector: Option<String>,
}

impl Scaled {
    pub(super) fn new(scale: &Value) -> Self {
        let path =
            |name: &str| scale.get(name).and_then(Value::as_str).map(|path| path.trim_start_matches('.').to_owned());
        Self {
            spec: path("specReplicasPath").unwrap_or_default(),
            status: path("statusReplicasPath").unwrap_or_default(),
            selector: path("labelSelectorPath").filter(|path| !path.is_empty()),
        }
    }

    /// Where the wanted replicas are.
    pub(super) fn replicas(&self) -> Vec<&str> {
        self.spec.split('.').collect()
    }

    pub(super) fn of(&self, object: &Object) -> Scale {
        let number = |path: &str| object.int_at(&path.split('.').collect::<Vec<_>>()).unwrap_or(0);
        let selector = self.selector.as_ref().and_then(|path| object.str_at(&path.split('.').collect::<Vec<_>>()));
        Scale {
            replicas: number(&self.spec),
            observed: number(&self.status),
            selector: selector.unwrap_or_default().to_owned(),
        }
    }

    /// Checks the numbers and the selector. `with_spec`: the wanted replicas, too.
    pub(super) fn validate(&self, object: &Object, with_spec: bool, out: &mut Vec<Cause>) {
        for path in [&self.spec, &self.status].into_iter().skip(usize::from(!with_spec)) {
            let field = FieldPath::new(&format!(".{path}"));
            let number = match found(object, path) {
                Ok(None) => continue,
                Ok(Some(value)) => value.as_i64().ok_or_else(|| wrong(path, value, "int64")),
                Err(problem) => Err(problem),
            };
            let (value, problem) = match number {
                Err(problem) => (0, problem),
                Ok(n) if n < 0 => (n, "should be a non-negative integer".to_owned()),
                Ok(n) if n > i64::from(i32::MAX) => (n, format!("should be less than or equal to {}", i32::MAX)),
                Ok(_) => continue,
            };
            out.push(Cause::invalid(&field, &json!(value), &problem));
        }
        let Some(path) = &self.selector else { return };
        let problem = match found(object, path) {
            Ok(Some(value)) if !value.is_string() => wrong(path, value, "string"),
            Ok(_) => return,
            Err(problem) => problem,
        };
        out.push(Cause::invalid(&FieldPath::new(&format!(".{path}")), &json!(""), &problem));
    }
}

/// The value at a path; an error where something on the way is no object.
fn found<'a>(object: &'a Object, path: &str) -> Result<Option<&'a Value>, String> {
    let mut parts = path.split('.');
    let mut at = parts.next().and_then(|first| object.0.get(first));
    for part in parts {
        at = match at {
            None => return Ok(None),
            Some(Value::Object(map)) => map.get(part),
            Some(other) => return Err(wrong(path, other, "map[string]interface{}")),
        };
    }
    Ok(at)
}

fn wrong(path: &str, value: &Value, wanted: &str) -> String {
    format!(
        ".{path} accessor error: {} is of the type {}, expected {wanted}",
        api::patch::go_text(value),
        api::go_type(value)
    )
}
