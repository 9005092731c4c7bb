//! `Status`: the only error that the API returns, with upstream's texts, because clients branch on `reason` and people search for the message.

use crate::{GroupVersionKind, GroupVersionResource, show};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, collections::HashSet, fmt};

/// `metav1.StatusReason`, on which clients branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Reason {
    #[serde(rename = "")]
    Unknown,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    ServerTimeout,
    StoreReadError,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    Expired,
    ServiceUnavailable,
}

impl Reason {
    /// The HTTP status code of the reason.
    pub fn code(self) -> u16 {
        match self {
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::NotAcceptable => 406,
            Self::AlreadyExists | Self::Conflict => 409,
            Self::Gone | Self::Expired => 410,
            Self::RequestEntityTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Invalid => 422,
            Self::TooManyRequests => 429,
            Self::BadRequest => 400,
            Self::ServiceUnavailable => 503,
            Self::Timeout => 504,
            Self::Unknown | Self::ServerTimeout | Self::StoreReadError | Self::InternalError => 500,
        }
    }
}

/// The path of a field as errors print it: `spec.containers[0].env[A].name`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct FieldPath(String);

impl FieldPath {
    /// A top-level field; may be dotted.
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// A field of this one.
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self::new(name) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// An element of this list.
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// An entry of this map.
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The kind of a field error. `field.ErrorType` upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum CauseKind {
    Required,
    Invalid,
    NotSupported,
    Forbidden,
    Duplicate,
    NotFound,
    TooLong,
    TooMany,
    TypeInvalid,
    Internal,
}

impl CauseKind {
    /// The `reason` of a `StatusCause`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::Duplicate => "FieldValueDuplicate",
            Self::NotFound => "FieldValueNotFound",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }
}

/// One violation found by validation, which returns all of them in the order of the fields. `field.Error` upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The kind of violation.
    pub kind: CauseKind,
    /// The path of the field.
    pub field: FieldPath,
    /// The message without the field: `Required value: …`.
    pub message: String,
}

impl Cause {
    fn new(kind: CauseKind, field: &FieldPath, message: String) -> Self {
        // A detail may repeat what the user sent.
        let message = match show::cut(&message) {
            Cow::Borrowed(_) => message,
            Cow::Owned(cut) => cut,
        };
        Self { kind, field: field.clone(), message }
    }

    /// `f: Required value[: detail]`.
    pub fn required(field: &FieldPath, detail: &str) -> Self {
        let tail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
        Self::new(CauseKind::Required, field, format!("Required value{tail}"))
    }

    /// `f: Invalid value: <value>: detail`. Strings are quoted, numbers and booleans plain, objects and lists compact JSON.
    pub fn invalid(field: &FieldPath, value: &serde_json::Value, detail: &str) -> Self {
        Self::shown(CauseKind::Invalid, field, &show(value), detail)
    }

    /// As [`Cause::invalid`], without the value: `f: Invalid value: detail`. `field.OmitValueType` upstream.
    pub fn invalid_unshown(field: &FieldPath, detail: &str) -> Self {
        Self::new(CauseKind::Invalid, field, format!("Invalid value: {detail}"))
    }

    /// A cause with the value already formatted: for structs, whose fields Go prints in the order of the type, and for internal types by Go
    /// names.
    pub fn shown(kind: CauseKind, field: &FieldPath, shown: &str, detail: &str) -> Self {
        let title = match kind {
            CauseKind::Duplicate => "Duplicate value",
            CauseKind::NotSupported => "Unsupported value",
            _ => "Invalid value",
        };
        let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
        Self::new(kind, field, format!("{title}: {}{detail}", show::cut(shown)))
    }

    /// As [`Cause::invalid`], with the value already formatted.
    pub fn invalid_shown(field: &FieldPath, shown: &str, detail: &str) -> Self {
        Self::shown(CauseKind::Invalid, field, shown, detail)
    }

    /// `f: Unsupported value: "v": supported values: "A", "B"`. The values are printed sorted as given.
    pub fn not_supported(field: &FieldPath, value: &serde_json::Value, supported: &[&str]) -> Self {
        let list = supported.iter().map(|s| format!("\"{s}\"")).collect::<Vec<_>>().join(", ");
        Self::new(
            CauseKind::NotSupported,
            field,
            format!("Unsupported value: {}: supported values: {list}", show(value)),
        )
    }

    /// `f: Forbidden: detail`.
    pub fn forbidden(field: &FieldPath, detail: &str) -> Self {
        Self::new(CauseKind::Forbidden, field, format!("Forbidden: {detail}"))
    }

    /// `f: Duplicate value: "v"`.
    pub fn duplicate(field: &FieldPath, value: &serde_json::Value) -> Self {
        Self::new(CauseKind::Duplicate, field, format!("Duplicate value: {}", show(value)))
    }

    /// `f: Not found: "v"`.
    pub fn not_found(field: &FieldPath, value: &serde_json::Value) -> Self {
        Self::new(CauseKind::NotFound, field, format!("Not found: {}", show(value)))
    }

    /// `f: Too long: may not be more than N bytes`.
    pub fn too_long(field: &FieldPath, max: usize) -> Self {
        let unit = if max == 1 { "byte" } else { "bytes" };
        Self::new(CauseKind::TooLong, field, format!("Too long: may not be more than {max} {unit}"))
    }

    /// `f: Too many: N: must have at most M items`.
    pub fn too_many(field: &FieldPath, actual: usize, max: usize) -> Self {
        let unit = if max == 1 { "item" } else { "items" };
        Self::new(CauseKind::TooMany, field, format!("Too many: {actual}: must have at most {max} {unit}"))
    }

    /// `f: Invalid value: <value>: field is immutable`.
    pub fn immutable(field: &FieldPath, value: &serde_json::Value) -> Self {
        Self::invalid(field, value, "field is immutable")
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.0.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.field, self.message) }
    }
}

fn show(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => show::quoted(text),
        other => show::json(other),
    }
}

/// `metav1.StatusDetails`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusDetails {
    /// Name of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Group of the resource.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The resource (plural), or the kind where the reason is `Invalid`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Uid of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The causes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<StatusCause>,
    /// When to retry, seconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

/// `metav1.StatusCause`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusCause {
    /// `FieldValueInvalid` and so on.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The field.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// A failure of the API. `Display` is the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The reason, on which clients branch.
    pub reason: Reason,
    /// HTTP status code.
    pub code: u16,
    /// For people.
    pub message: String,
    /// Absent in simple errors.
    pub details: Option<Box<StatusDetails>>,
    /// `metadata.continue`: a new token with which a list can continue at a later revision.
    pub continue_token: Option<String>,
    /// `Warning` headers of the request that failed.
    pub warnings: Vec<String>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

impl Status {
    /// A failure with just a reason and a message.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            code: reason.code(),
            message: message.into(),
            details: None,
            continue_token: None,
            warnings: Vec::new(),
        }
    }

    fn about(reason: Reason, resource: &GroupVersionResource, name: &str, message: String) -> Self {
        let details = StatusDetails {
            name: name.into(),
            group: resource.group.clone(),
            kind: resource.resource.clone(),
            ..Default::default()
        };
        Self { details: Some(Box::new(details)), ..Self::new(reason, message) }
    }

    /// 404 for an object.
    pub fn not_found(resource: &GroupVersionResource, name: &str) -> Self {
        Self::about(Reason::NotFound, resource, name, format!("{} \"{name}\" not found", resource.group_resource()))
    }

    /// 404 for a path or resource that is not served; client-go prints this text for any 404 without a body.
    pub fn resource_not_found() -> Self {
        let mut status = Self::new(Reason::NotFound, "the server could not find the requested resource");
        status.details = Some(Box::default());
        status
    }

    /// 409 on create.
    pub fn already_exists(resource: &GroupVersionResource, name: &str) -> Self {
        Self::about(
            Reason::AlreadyExists,
            resource,
            name,
            format!("{} \"{name}\" already exists", resource.group_resource()),
        )
    }

    /// 409 with a free text: `Operation cannot be fulfilled on R "x": why`.
    pub fn conflict(resource: &GroupVersionResource, name: &str, why: &str) -> Self {
        let text = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", resource.group_resource());
        Self::about(Reason::Conflict, resource, name, text)
    }

    /// 409 because of a stale resourceVersion.
    pub fn modified(resource: &GroupVersionResource, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 403: `R "x" is forbidden: why`.
    pub fn forbidden(resource: &GroupVersionResource, name: &str, why: &str) -> Self {
        let text = match (resource.resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{} is forbidden: {why}", resource.group_resource()),
            (false, false) => format!("{} \"{name}\" is forbidden: {why}", resource.group_resource()),
        };
        Self::about(Reason::Forbidden, resource, name, text)
    }

    /// 400 with a free text.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(Reason::Unauthorized, "Unauthorized")
    }

    /// 410 for a list or watch at a revision that is no longer kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(Reason::Expired, message)
    }

    /// 500: `Internal error occurred: e`.
    pub fn internal(error: impl fmt::Display) -> Self {
        let details = StatusDetails {
            causes: vec![StatusCause { message: error.to_string(), ..Default::default() }],
            ..Default::default()
        };
        Self {
            details: Some(Box::new(details)),
            ..Self::new(Reason::InternalError, format!("Internal error occurred: {error}"))
        }
    }

    /// 413.
    pub fn too_large(limit: usize) -> Self {
        Self::new(Reason::RequestEntityTooLarge, format!("Request entity too large: limit is {limit}"))
    }

    /// 429, to be tried again.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let details = StatusDetails { retry_after_seconds, ..Default::default() };
        Self { details: Some(Box::new(details)), ..Self::new(Reason::TooManyRequests, message) }
    }

    /// 504: `Timeout: msg`.
    pub fn timeout(message: &str, retry_after_seconds: u32) -> Self {
        let details = StatusDetails { retry_after_seconds, ..Default::default() };
        Self { details: Some(Box::new(details)), ..Self::new(Reason::Timeout, format!("Timeout: {message}")) }
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Reason::ServiceUnavailable, message)
    }

    /// Adds a cause.
    pub fn with_cause(mut self, reason: &str, message: &str, field: &str) -> Self {
        let cause = StatusCause { reason: reason.into(), message: message.into(), field: field.into() };
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// The JSON body.
    pub fn to_json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Metadata<'a> {
            #[serde(rename = "continue", skip_serializing_if = "Option::is_none")]
            token: Option<&'a str>,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            kind: &'a str,
            api_version: &'a str,
            metadata: Metadata<'a>,
            status: &'a str,
            message: &'a str,
            #[serde(skip_serializing_if = "is_unknown")]
            reason: Reason,
            #[serde(skip_serializing_if = "Option::is_none")]
            details: Option<&'a StatusDetails>,
            code: u16,
        }
        fn is_unknown(reason: &Reason) -> bool {
            *reason == Reason::Unknown
        }
        let wire = Wire {
            kind: "Status",
            api_version: "v1",
            metadata: Metadata { token: self.continue_token.as_deref() },
            status: "Failure",
            message: &show::cut(&self.message),
            reason: self.reason,
            details: self.details.as_deref(),
            code: self.code,
        };
        serde_json::to_vec(&wire).expect("a status is plain data")
    }
}

/// 422 with the causes: `Kind.group "x" is invalid: …`; equal causes appear once in the message. Only the first `show::MAX_ITEMS` causes appear,
/// followed by the number of the others, because a small hostile body can have a million errors.
pub fn invalid(kind: &GroupVersionKind, name: &str, causes: &[Cause]) -> Status {
    let mut room = show::Budget::default();
    let named: Vec<&Cause> = causes.iter().take_while(|c| room.takes(c.field.0.len() + c.message.len())).collect();
    let omitted = show::omitted(causes.len() - named.len());
    let mut seen = HashSet::new();
    let mut texts: Vec<String> = named.iter().map(ToString::to_string).collect();
    texts.retain(|text| seen.insert(text.clone()));
    texts.extend(omitted.clone());
    let what = if kind.group.is_empty() { kind.kind.clone() } else { format!("{}.{}", kind.kind, kind.group) };
    let text = match texts.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    let listed = named.iter().map(|c| StatusCause {
        reason: c.kind.reason().into(),
        message: c.message.clone(),
        field: c.field.to_string(),
    });
    // kubectl prints `field: message` of each.
    let more = omitted.map(|message| StatusCause { message, field: "...".into(), ..Default::default() });
    let details = StatusDetails {
        name: name.into(),
        group: kind.group.clone(),
        kind: kind.kind.clone(),
        causes: listed.chain(more).collect(),
        ..Default::default()
    };
    Status {
        details: Some(Box::new(details)),
        ..Status::new(Reason::Invalid, format!("{what} \"{name}\" is invalid: {text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn wire(status: &Status) -> Value {
        serde_json::from_slice(&status.to_json()).expect("JSON")
    }

    #[test]
    fn texts_are_upstreams() {
        let deployments = GroupVersionResource::new("apps", "v1", "deployments");
        let pods = GroupVersionResource::new("", "v1", "pods");
        for (status, code, text) in [
            (Status::not_found(&deployments, "x"), 404, r#"deployments.apps "x" not found"#),
            (Status::already_exists(&pods, "x"), 409, r#"pods "x" already exists"#),
            (Status::forbidden(&pods, "", "no"), 403, "pods is forbidden: no"),
            (Status::internal("boom"), 500, "Internal error occurred: boom"),
            (
                Status::modified(&pods, "x"),
                409,
                r#"Operation cannot be fulfilled on pods "x": the object has been modified; please apply your changes to the latest version and try again"#,
            ),
        ] {
            assert_eq!((status.code, status.message.as_str()), (code, text));
        }
    }

    #[test]
    fn the_body_has_upstreams_shape() {
        let status = Status::not_found(&GroupVersionResource::new("apps", "v1", "deployments"), "x");
        assert_eq!(
            wire(&status),
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "deployments.apps \"x\" not found", "reason": "NotFound",
                "details": {"name": "x", "group": "apps", "kind": "deployments"}, "code": 404})
        );
    }

    #[test]
    fn invalid_names_every_cause_once() {
        let spec = FieldPath::new("spec");
        let causes = [
            Cause::required(&spec.child("selector"), ""),
            Cause::invalid(&spec.child("replicas"), &json!(-1), "must be greater than or equal to 0"),
            Cause::required(&spec.child("selector"), ""),
        ];
        let status = invalid(&GroupVersionKind::new("apps", "v1", "Deployment"), "d", &causes);
        assert_eq!(
            status.message,
            "Deployment.apps \"d\" is invalid: [spec.selector: Required value, spec.replicas: Invalid value: -1: must be greater than or equal to 0]"
        );
        assert_eq!(wire(&status)["details"]["causes"][1]["reason"], "FieldValueInvalid");
        let one = invalid(&GroupVersionKind::new("", "v1", "Pod"), "p", &causes[..1]);
        assert_eq!(one.message, "Pod \"p\" is invalid: spec.selector: Required value");
    }

    #[test]
    fn of_very_many_causes_the_first_are_named() {
        let kind = GroupVersionKind::new("", "v1", "Pod");
        let cause = |i: usize| Cause::required(&FieldPath::new("spec.containers").index(i).child("name"), "");
        let causes: Vec<Cause> = (0..250).map(cause).collect();
        let status = invalid(&kind, "p", &causes);
        assert!(status.message.ends_with("spec.containers[99].name: Required value, and 150 more]"), "{status}");
        let listed = &status.details.as_ref().expect("details").causes;
        assert_eq!(listed.len(), 101);
        let last = listed.last().expect("the rest");
        assert_eq!((last.field.as_str(), last.message.as_str()), ("...", "and 150 more"));
        let status = invalid(&kind, "p", &causes[..100]);
        assert!(!status.message.contains("more"));
        // The same fault again and again is one.
        let status = invalid(&kind, "p", &vec![cause(0); 90]);
        assert_eq!(status.message, "Pod \"p\" is invalid: spec.containers[0].name: Required value");
    }

    #[test]
    fn an_answer_is_short_however_long_the_values_are() {
        let kind = GroupVersionKind::new("", "v1", "Pod");
        let long = json!("x".repeat(3 << 20));
        let causes: Vec<Cause> = (0..500).map(|i| Cause::invalid(&FieldPath::new("a").index(i), &long, "no")).collect();
        assert!(causes[0].message.ends_with("xxx...: no"), "{}", causes[0].message);
        assert!(invalid(&kind, "p", &causes).to_json().len() < 512 << 10);
        let field = FieldPath::new("labels").key(&"k".repeat(3 << 20));
        assert!(invalid(&kind, "p", &vec![Cause::required(&field, ""); 9]).to_json().len() < 4 << 20);
        assert!(Status::bad_request("x".repeat(3 << 20)).to_json().len() < 512 << 10);
    }
}
