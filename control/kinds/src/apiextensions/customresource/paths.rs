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

/// What Go calls a value of the wrong type.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
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
        for (path, _) in [(&self.spec, ()), (&self.status, ())].into_iter().skip(usize::from(!with_spec)) {
            let field = FieldPath::new(&format!(".{path}"));
            let Some(value) = object.at(&path.split('.').collect::<Vec<_>>()) else { continue };
            let problem = match value.as_i64() {
                None => format!(
                    ".{path} accessor error: {} is of the type {}, expected int64",
                    value.as_str().map_or_else(|| value.to_string(), str::to_owned),
                    go_type(value)
                ),
                Some(n) if n < 0 => "should be a non-negative integer".to_owned(),
                Some(n) if n > i64::from(i32::MAX) => format!("should be less than or equal to {}", i32::MAX),
                Some(_) => continue,
            };
            out.push(Cause::invalid(&field, &json!(value.as_i64().unwrap_or(0)), &problem));
        }
        let Some(path) = &self.selector else { return };
        if let Some(value) = object.at(&path.split('.').collect::<Vec<_>>()).filter(|value| !value.is_string()) {
            let text = format!(".{path} accessor error: {value} is of the type {}, expected string", go_type(value));
            out.push(Cause::invalid(&FieldPath::new(&format!(".{path}")), &json!(""), &text));
        }
    }
}
