//! `DeleteOptions` (`meta.k8s.io/v1`), from the body or the query of a DELETE.

use crate::{codec, request::Query};
use api::{Cause, FieldPath, GroupVersionKind, Status, invalid};
use http::HeaderMap;
use serde_json::{Value, json};

/// `DeleteOptions`.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// `gracePeriodSeconds`; a negative one means one second.
    pub grace: Option<i64>,
    /// `propagationPolicy`.
    pub propagation: Option<String>,
    /// `preconditions.uid`.
    pub uid: Option<String>,
    /// `preconditions.resourceVersion`.
    pub revision: Option<String>,
    /// Nothing is deleted.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Parses the options of a DELETE: its body if there is one, else the query.
    pub(crate) fn parse(headers: &HeaderMap, query: &Query, body: &[u8]) -> Result<Self, Status> {
        let value = if body.is_empty() { from_query(query)? } else { codec::decode_options(headers, body)? };
        Self::of(&value, query)
    }

    /// From a decoded `DeleteOptions`, and the `dryRun` of the query.
    ///
    /// # Errors
    /// 422 for invalid values.
    pub fn of(value: &Value, query: &Query) -> Result<Self, Status> {
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let mut causes = Vec::new();
        let mut propagation = text("/propagationPolicy");
        let field = FieldPath::new("propagationPolicy");
        match (propagation.as_deref(), value.get("orphanDependents").and_then(Value::as_bool)) {
            (Some(_), Some(_)) => causes.push(Cause::invalid(
                &field,
                &json!(propagation),
                "orphanDependents and deletionPropagation cannot be both set",
            )),
            (None, Some(orphan)) => propagation = Some(if orphan { "Orphan" } else { "Background" }.to_owned()),
            (Some("Orphan" | "Background" | "Foreground"), None) | (None, None) => {}
            (Some(other), None) => {
                causes.push(Cause::not_supported(
                    &field,
                    &json!(other),
                    &["Foreground", "Background", "Orphan", "nil"],
                ));
            }
        }
        let dry: Vec<&str> =
            value.get("dryRun").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let dry_run = codec::dry_run(dry.into_iter().chain(query.all("dryRun")), &mut causes);
        if !causes.is_empty() {
            return Err(invalid(&GroupVersionKind::new("meta.k8s.io", "v1", "DeleteOptions"), "", &causes));
        }
        // A negative grace period means one second, as upstream.
        let grace = value.get("gracePeriodSeconds").and_then(Value::as_i64).map(|g| if g < 0 { 1 } else { g });
        Ok(Self {
            grace,
            propagation,
            uid: text("/preconditions/uid"),
            revision: text("/preconditions/resourceVersion"),
            dry_run,
        })
    }
}

fn from_query(query: &Query) -> Result<Value, Status> {
    let mut value = json!({});
    if let Some(seconds) = query.number("gracePeriodSeconds")? {
        value["gracePeriodSeconds"] = json!(seconds);
    }
    if let Some(policy) = query.given("propagationPolicy") {
        value["propagationPolicy"] = json!(policy);
    }
    if query.given("orphanDependents").is_some() {
        value["orphanDependents"] = json!(query.flag("orphanDependents"));
    }
    Ok(value)
}
