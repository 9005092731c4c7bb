//! Decodes request bodies: JSON, YAML or protobuf, checked against the schema as Go's decoder does, with upstream's texts.

use crate::{
    negotiate::{self, Input},
    request::Query,
    typemeta,
};
use api::{Cause, FieldPath, GroupVersionKind, Object, Reason, Status, invalid, schema::Schema};
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Value, json};

/// Largest request body, bytes.
pub(crate) const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// Largest body of a review from a user who is not exempt from limits, bytes.
pub(crate) const REVIEW_LIMIT: usize = 64 * 1024;

/// Bodies from this length on, bytes, are expensive: to parse one may take longer than other requests of the thread should wait.
pub(crate) const EXPENSIVE_BODY: usize = 32 * 1024;

/// What it costs to decode a body, bytes: its length, but YAML with an anchor is always expensive, because aliases multiply its content.
pub(crate) fn decode_cost(headers: &HeaderMap, body: &[u8]) -> usize {
    let kind = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let yaml = kind.windows(4).any(|word| word.eq_ignore_ascii_case(b"yaml"));
    if yaml && body.contains(&b'&') { body.len().max(EXPENSIVE_BODY) } else { body.len() }
}

/// What to do about unknown and duplicate fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// The query parameters of a write.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// Nothing is stored.
    pub dry_run: bool,
    /// The field manager.
    pub manager: String,
    pub(crate) force: Option<bool>,
    pub(crate) field_validation: FieldValidation,
    /// `fieldManager` and `fieldValidation` as the client gave them.
    pub(crate) given_manager: Option<String>,
    pub(crate) given_validation: Option<&'static str>,
}

impl WriteOptions {
    /// Parses the options; `kind` is `CreateOptions`, `UpdateOptions` or `PatchOptions`. `apply`: `fieldManager` is required, `force` allowed.
    pub(crate) fn parse(kind: &str, query: &Query, headers: &HeaderMap, apply: bool) -> Result<Self, Status> {
        let mut causes = Vec::new();
        let dry_run = dry_run(query.all("dryRun"), &mut causes);
        let field_validation = match query.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                let supported = ["", "Ignore", "Strict", "Warn"];
                causes.push(Cause::not_supported(&FieldPath::new("fieldValidation"), &json!(other), &supported));
                FieldValidation::Warn
            }
        };
        let field = FieldPath::new("fieldManager");
        let manager = query.get("fieldManager").unwrap_or_default();
        if manager.len() > 128 {
            causes.push(Cause::too_long(&field, 128));
        }
        if manager.chars().any(|c| c.is_control() || c == '\u{fffd}') {
            causes.push(Cause::invalid(&field, &json!(manager), "should not contain unprintable characters"));
        }
        if apply && manager.is_empty() {
            causes.push(Cause::required(&field, "is required for apply patch"));
        }
        let force = query.given("force").map(|_| query.flag("force"));
        if kind == "PatchOptions" && !apply && force.is_some() {
            causes.push(Cause::forbidden(&FieldPath::new("force"), "may not be specified for non-apply patch"));
        }
        if !causes.is_empty() {
            return Err(invalid(&GroupVersionKind::new("meta.k8s.io", "v1", kind), "", &causes));
        }
        let given_manager = Some(manager).filter(|manager| !manager.is_empty()).map(str::to_owned);
        let manager = given_manager.clone().unwrap_or_else(|| user_agent_name(headers));
        let given_validation = query.get("fieldValidation").map(|_| match field_validation {
            FieldValidation::Ignore => "Ignore",
            FieldValidation::Warn => "Warn",
            FieldValidation::Strict => "Strict",
        });
        Ok(Self { dry_run, manager, force, field_validation, given_manager, given_validation })
    }
}

/// `dryRun=All`, or a cause.
pub(crate) fn dry_run<'a>(values: impl Iterator<Item = &'a str>, causes: &mut Vec<Cause>) -> bool {
    let mut wanted = false;
    for value in values {
        match value {
            "All" => wanted = true,
            "" => {}
            other => causes.push(Cause::not_supported(&FieldPath::new("dryRun"), &json!(other), &["All"])),
        }
    }
    wanted
}

/// The manager of a write that gives none: the client's name from its User-Agent.
fn user_agent_name(headers: &HeaderMap) -> String {
    let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let name = agent.split('/').next().unwrap_or_default();
    let name: String = name.chars().filter(|c| !c.is_control()).take(128).collect();
    if name.is_empty() { "unknown".into() } else { name }
}

/// Parses a number as Go's `ParseUint`, with its errors; Rust would accept a sign.
pub(crate) fn parse_uint(text: &str) -> Result<u64, String> {
    let why = match text.parse() {
        Ok(number) if !text.starts_with('+') => return Ok(number),
        Err(error) if *error.kind() == std::num::IntErrorKind::PosOverflow && !text.starts_with('+') => {
            "value out of range"
        }
        _ => "invalid syntax",
    };
    Err(format!("strconv.ParseUint: parsing {text:?}: {why}"))
}

/// What a body must be.
pub(crate) struct Expected {
    pub(crate) kind: GroupVersionKind,
    pub(crate) schema: Schema,
    /// Lists may have any length.
    pub(crate) long_lists: bool,
    /// A custom resource, whose bodies must name their type.
    pub(crate) own: bool,
}

impl Expected {
    /// An object of a kind that Kubernetes publishes.
    pub(crate) fn published(kind: &GroupVersionKind) -> Self {
        let schema = Schema::for_kind(kind).unwrap_or_else(Schema::any);
        Self { kind: kind.clone(), schema, long_lists: false, own: false }
    }
}

/// A decoded body.
pub(crate) struct Decoded {
    /// The object: types checked, unknown fields pruned, schema-borne defaults set.
    pub(crate) object: Object,
    /// The problems of strict decoding.
    pub(crate) problems: Vec<String>,
}

/// Decodes a body as an object of `kind`.
pub(crate) fn decode(headers: &HeaderMap, body: &[u8], expected: &Expected) -> Result<Decoded, Status> {
    let kind = &expected.kind;
    let input = negotiate::input(headers)?;
    let (mut value, duplicates) = parse(input, body, kind)?;
    if expected.own {
        check_own_type(&value, kind, body)?;
    }
    check_type(&mut value, kind, body)?;
    let unknown = check(&mut value, expected, (input == Input::Json).then_some(body))?;
    let problems = match input {
        // In the order in which Go's decoder finds them.
        Input::Json if !unknown.is_empty() || !duplicates.is_empty() => {
            api::json::in_document_order(body, duplicates, unknown)
        }
        _ => duplicates.into_iter().chain(unknown).collect(),
    };
    let object = Object::from_value(value).ok_or_else(|| unrecognised(kind, "not an object", body))?;
    Ok(Decoded { object, problems })
}

fn parse(input: Input, body: &[u8], kind: &GroupVersionKind) -> Result<(Value, Vec<String>), Status> {
    read(input, body, kind).map_err(|e| unrecognised(kind, &e, body))
}

fn read(input: Input, body: &[u8], kind: &GroupVersionKind) -> Result<(Value, Vec<String>), String> {
    match input {
        Input::Json => api::json::parse(body).map_err(|e| format!("couldn't get version/kind; json parse error: {e}")),
        Input::Yaml => api::yaml::parse(body).map_err(|e| format!("couldn't get version/kind; json parse error: {e}")),
        Input::Protobuf => api::protobuf::decode_as(body, Some(kind)).map(|v| (v, Vec::new())),
    }
}

fn unrecognised(kind: &GroupVersionKind, error: &str, body: &[u8]) -> Status {
    let summary = match body {
        [] => "<empty>".to_owned(),
        [b'{', ..] => {
            let text = String::from_utf8_lossy(&body[..body.len().min(30)]).into_owned();
            if body.len() > 30 { format!("{text} ...") } else { text }
        }
        _ if body.len() > 30 => format!("{} ...", hex::encode(&body[..30])),
        _ => hex::encode(body),
    };
    Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {}): {error} ({summary})",
        kind.kind
    ))
}

/// Custom resources must name their type: upstream reads them without a type that could fill it in.
fn check_own_type(value: &Value, kind: &GroupVersionKind, body: &[u8]) -> Result<(), Status> {
    if !value.is_object() || typemeta::interpret(value).is_err() {
        return Ok(());
    }
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let given = text("kind");
    if given.is_empty() {
        let shown = String::from_utf8_lossy(&body[..body.len().min(4096)]);
        return Err(unrecognised(kind, &format!("Object 'Kind' is missing in '{shown}'"), body));
    }
    let (version, expected) = (text("apiVersion"), kind.api_version());
    if version.is_empty() {
        return Err(Status::bad_request(format!(
            "the API version in the data () does not match the expected API version ({expected})"
        )));
    }
    if version == expected && given != kind.kind {
        let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let cause =
            api::Cause::invalid(&FieldPath::new("kind"), &Value::from(given), &format!("must be {}", kind.kind));
        let other = GroupVersionKind { kind: given.to_owned(), ..kind.clone() };
        return Err(api::invalid(&other, name, &[cause]));
    }
    Ok(())
}

/// `apiVersion` and `kind` must be those of the resource; absent ones are filled in.
fn check_type(value: &mut Value, kind: &GroupVersionKind, body: &[u8]) -> Result<(), Status> {
    if !value.is_object() {
        let error = format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
            api::schema::json_kind(value)
        );
        return Err(unrecognised(kind, &error, body));
    };
    let expected = kind.api_version();
    if value["apiVersion"] == expected && value["kind"] == kind.kind {
        return Ok(());
    }
    if let Err(error) = typemeta::interpret(&*value) {
        return Err(unrecognised(kind, &error, body));
    }
    let Some(map) = value.as_object_mut() else { return Ok(()) };
    for (key, wanted) in [("apiVersion", expected.as_str()), ("kind", kind.kind.as_str())] {
        let given = map.get(key).and_then(Value::as_str).unwrap_or_default();
        if given.is_empty() {
            map.insert(key.into(), Value::from(wanted));
        }
    }
    let version = map["apiVersion"].as_str().unwrap_or_default();
    let given = map["kind"].as_str().unwrap_or_default();
    if version != expected {
        return Err(Status::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({expected})"
        )));
    }
    if given != kind.kind {
        let other = GroupVersionKind { kind: given.to_owned(), ..kind.clone() };
        return Err(Status::bad_request(format!(
            "{given} in version {:?} cannot be handled as a {}: {}",
            kind.version,
            kind.kind,
            typemeta::no_conversion(&other, kind)
        )));
    }
    Ok(())
}

/// Checks types, prunes unknown fields and sets the defaults of the schema. Returns the problems of strict decoding. `document` is the JSON text
/// of the value.
pub(crate) fn check(value: &mut Value, expected: &Expected, document: Option<&[u8]>) -> Result<Vec<String>, Status> {
    let Expected { kind, schema, long_lists, .. } = expected;
    if let Some(cause) = too_long(value, &FieldPath::default()).filter(|_| !long_lists) {
        let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        return Err(api::invalid(kind, name, &[cause]));
    }
    let checked = match document {
        Some(document) => schema.decode_check_in(value, document),
        None => schema.decode_check(value),
    };
    let problems = checked.map_err(|e| cannot_be_handled(kind, &e))?;
    schema.leave_out_empty(value);
    schema.default(value);
    Ok(problems)
}

/// 400 for a body whose types are wrong or which strict decoding refuses.
pub(crate) fn cannot_be_handled(kind: &GroupVersionKind, error: &str) -> Status {
    Status::bad_request(format!(
        "{} in version \"{}\" cannot be handled as a {}: {error}",
        kind.kind, kind.version, kind.kind
    ))
}

/// The text of strict decoding.
pub(crate) fn strict_error(problems: &[String]) -> String {
    format!("strict decoding error: {}", problems.join(", "))
}

/// Longest list, elements (not for Endpoints, which may have more). Rules and merges compare elements pair by pair, so that a body of 3 MiB
/// could otherwise keep a core busy for minutes. Kubernetes' own limits are far below.
const MAX_LIST: usize = 2_000;

/// The first list that is too long.
pub(crate) fn too_long(value: &Value, at: &FieldPath) -> Option<Cause> {
    match value {
        Value::Array(list) if list.len() > MAX_LIST => Some(Cause::too_many(at, list.len(), MAX_LIST)),
        Value::Array(list) => list.iter().enumerate().find_map(|(index, one)| too_long(one, &at.index(index))),
        Value::Object(map) => map.iter().find_map(|(name, one)| match one {
            Value::Array(_) | Value::Object(_) => too_long(one, &at.child(name)),
            _ => None,
        }),
        _ => None,
    }
}

/// Applies `fieldValidation` to the problems of strict decoding: refuses them, warns of them, or ignores them.
pub(crate) fn enforce_field_validation(
    decoded: &Decoded,
    kind: &GroupVersionKind,
    how: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<(), Status> {
    if decoded.problems.is_empty() {
        return Ok(());
    }
    match how {
        FieldValidation::Ignore => Ok(()),
        FieldValidation::Warn => {
            warnings.extend(decoded.problems.iter().cloned());
            Ok(())
        }
        FieldValidation::Strict => Err(cannot_be_handled(kind, &strict_error(&decoded.problems))),
    }
}

/// Decodes the options of a DELETE: the body if there is one, else the query.
pub(crate) fn decode_options(headers: &HeaderMap, body: &[u8]) -> Result<Value, Status> {
    let kind = GroupVersionKind::new("", "v1", "DeleteOptions");
    let (mut value, _) = read(negotiate::input(headers)?, body, &kind).map_err(Status::bad_request)?;
    options_kind(&value)?;
    if let Some(schema) = Schema::for_kind(&kind) {
        schema.decode_check(&mut value).map_err(Status::bad_request)?;
    }
    if !value.is_object() {
        return Err(unrecognised(&kind, "not an object", body));
    }
    Ok(value)
}

/// A DELETE accepts DeleteOptions of any group and no other kind, so that a body meant for another request deletes nothing.
fn options_kind(value: &Value) -> Result<(), Status> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).filter(|t| !t.is_empty());
    let version = text("apiVersion").unwrap_or("v1");
    match text("kind") {
        None | Some("DeleteOptions") => Ok(()),
        // The kinds that are registered with upstream's decoder of options.
        Some(
            kind @ ("CreateOptions" | "UpdateOptions" | "Status" | "APIVersions" | "APIGroup" | "APIGroupList"
            | "APIResourceList"),
        ) => Err(Status::bad_request(format!("converting (v1.{kind}) to (v1.DeleteOptions): unknown conversion"))),
        Some(kind) => Err(Status::bad_request(format!(
            "no kind {kind:?} is registered for version {version:?} in scheme \"pkg/apis/meta/internalversion/scheme/register.go:27\""
        ))),
    }
}

/// Adds `Warning` headers, each once, within upstream's limit.
pub(crate) fn add_warnings(headers: &mut HeaderMap, warnings: &[String]) {
    const LIMIT: usize = 4096;
    const CUT: usize = 256;
    let long = warnings.iter().map(|w| w.chars().count()).sum::<usize>() > LIMIT;
    let mut seen: Vec<&str> = Vec::new();
    let mut room = LIMIT;
    for text in warnings {
        if seen.contains(&text.as_str()) {
            continue;
        }
        seen.push(text);
        let text: String = if long { text.chars().take(CUT).collect() } else { text.clone() };
        let count = text.chars().count();
        if count > room {
            return;
        }
        room -= count;
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            headers.append(header::WARNING, value);
        }
    }
}

/// A patch that needs the merge keys of a published schema.
pub(crate) const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// The types of patches that a resource accepts; a defined one has no strategic merge.
pub(crate) fn patch_types(defined: bool) -> impl Iterator<Item = &'static str> {
    let all =
        ["application/json-patch+json", "application/merge-patch+json", STRATEGIC, "application/apply-patch+yaml"];
    all.into_iter().filter(move |media| !defined || *media != STRATEGIC)
}

/// 415 with the patch types that a resource accepts.
pub(crate) fn unsupported_patch(given: &str, defined: bool) -> Status {
    let types = patch_types(defined).collect::<Vec<_>>().join(", ");
    let text = format!("the body of the request was in an unknown format - accepted media types include: {types}");
    tracing::debug!(given, "unknown patch type");
    Status::new(Reason::UnsupportedMediaType, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_with_an_anchor_is_heavy() {
        let decode_cost = |kind: &str, body: &str| {
            let headers =
                HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_str(kind).expect("a header"))]);
            decode_cost(&headers, body.as_bytes())
        };
        let anchored = "a0: &a0 [x, x]\na1: &a1 [*a0, *a0]\n";
        for kind in
            ["application/yaml", "application/YAML", "application/apply-patch+yaml", "text/x-yaml; charset=utf-8"]
        {
            assert_eq!(decode_cost(kind, anchored), EXPENSIVE_BODY, "{kind}");
            assert_eq!(decode_cost(kind, "a: 1"), 4, "{kind}");
            assert_eq!(
                decode_cost(kind, &format!("a: &b {}", "x".repeat(EXPENSIVE_BODY))),
                EXPENSIVE_BODY + 6,
                "{kind}"
            );
        }
        assert_eq!(decode_cost("application/json", "{\"a\": \"&\"}"), 10);
        assert_eq!(super::decode_cost(&HeaderMap::new(), b"a&b"), 3);
    }
}
