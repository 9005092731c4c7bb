//! Content negotiation: the representation of the response (JSON or YAML; whole objects, a Table or metadata only) and the media type of the
//! body. The server never answers in protobuf; every client that accepts it also accepts JSON.

use crate::request::Query;
use api::{Reason, Status};
use http::{HeaderMap, header};

/// The representation of objects in a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Form {
    /// Whole objects.
    #[default]
    Object,
    /// `meta.k8s.io Table`; the version is `v1` or `v1beta1`.
    Table(&'static str),
    /// `PartialObjectMetadata` and its list.
    Partial(&'static str),
}

/// The negotiated output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Output {
    /// YAML instead of JSON.
    pub yaml: bool,
    /// Indented.
    pub pretty: bool,
    /// Objects, rows or metadata.
    pub form: Form,
}

/// One clause of an Accept header.
#[derive(Debug)]
pub(crate) struct Clause<'a> {
    pub(crate) media: &'a str,
    pub(crate) parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl Clause<'_> {
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(k, _)| *k == name).map(|(_, v)| *v)
    }
}

/// The clauses of an Accept header, in the order of preference.
pub(crate) fn clauses(headers: &HeaderMap) -> Vec<Clause<'_>> {
    let mut found = Vec::new();
    for value in headers.get_all(header::ACCEPT) {
        for clause in value.to_str().unwrap_or_default().split(',') {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            if media.is_empty() {
                continue;
            }
            let parameters: Vec<_> =
                parts.filter_map(|p| p.split_once('=')).map(|(k, v)| (k, v.trim_matches('"'))).collect();
            let quality = parameters.iter().find(|(k, _)| *k == "q").and_then(|(_, v)| v.parse().ok()).unwrap_or(1.0);
            found.push(Clause { media, parameters, quality });
        }
    }
    found.retain(|c| c.quality > 0.0);
    found.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    found
}

/// The representations that an endpoint offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offers {
    /// Objects only: reviews, scale, binding.
    Objects,
    /// Also tables and metadata.
    Tables,
}

const ACCEPTED: &str = "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf";
const ACCEPTED_STREAMS: &str = "only the following media types are accepted: application/json;stream=watch, application/yaml;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";

/// Negotiates the output, or answers 406.
pub fn output(headers: &HeaderMap, query: &Query, offers: Offers, watch: bool) -> Result<Output, Status> {
    let pretty = pretty(headers, query);
    let clauses = clauses(headers);
    if clauses.is_empty() {
        return Ok(Output { pretty, ..Output::default() });
    }
    for clause in &clauses {
        let yaml = match clause.media {
            "*/*" | "application/*" | "application/json" => false,
            "application/yaml" | "application/x-yaml" if !watch => true,
            _ => continue,
        };
        let Some(form) = form(clause, offers) else { continue };
        let pretty = pretty || clause.parameter("pretty") == Some("1");
        return Ok(Output { yaml, pretty, form });
    }
    Err(Status::new(Reason::NotAcceptable, if watch { ACCEPTED_STREAMS } else { ACCEPTED }))
}

fn form(clause: &Clause<'_>, offers: Offers) -> Option<Form> {
    let Some(kind) = clause.parameter("as") else { return Some(Form::Object) };
    if offers == Offers::Objects || clause.parameter("g") != Some("meta.k8s.io") {
        return None;
    }
    let version = match clause.parameter("v") {
        Some("v1") => "v1",
        Some("v1beta1") => "v1beta1",
        _ => return None,
    };
    match kind {
        "Table" => Some(Form::Table(version)),
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(Form::Partial(version)),
        _ => None,
    }
}

/// Whether to indent: `pretty` is set, or the client prints the response for people (curl, a browser).
pub fn pretty(headers: &HeaderMap, query: &Query) -> bool {
    if query.get("pretty").is_some() {
        return query.flag("pretty");
    }
    let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|a| agent.starts_with(a))
}

/// The media type of a request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// `application/json`, also without a Content-Type.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

/// The media type of the body, without parameters.
pub fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

/// The media type of the body, or 415.
pub fn input(headers: &HeaderMap) -> Result<Input, Status> {
    match content_type(headers) {
        "" | "application/json" | "*/*" => Ok(Input::Json),
        "application/yaml" | "application/x-yaml" => Ok(Input::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Input::Protobuf),
        _ => Err(Status::new(
            Reason::UnsupportedMediaType,
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn accept(text: &str, offers: Offers, watch: bool) -> Result<Output, Status> {
        let mut headers = HeaderMap::new();
        if !text.is_empty() {
            headers.insert(header::ACCEPT, HeaderValue::from_str(text).expect("a header"));
        }
        output(&headers, &Query::default(), offers, watch)
    }

    #[test]
    fn the_first_clause_that_fits_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        for (text, form, yaml) in [
            ("", Form::Object, false),
            ("*/*", Form::Object, false),
            ("application/vnd.kubernetes.protobuf, */*", Form::Object, false),
            ("application/vnd.kubernetes.protobuf,application/json", Form::Object, false),
            ("application/yaml", Form::Object, true),
            ("application/json;q=0.5,application/yaml", Form::Object, true),
            (table, Form::Table("v1"), false),
            ("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", Form::Partial("v1"), false),
            ("application/json;profile=x", Form::Object, false),
        ] {
            let got = accept(text, Offers::Tables, false).expect("acceptable");
            assert_eq!((got.form, got.yaml), (form, yaml), "{text}");
        }
        assert_eq!(accept(table, Offers::Objects, false).expect("falls back").form, Form::Object);
    }

    #[test]
    fn what_does_not_fit_is_406_with_upstreams_text() {
        let status = accept("text/html", Offers::Tables, false).expect_err("not acceptable");
        assert_eq!((status.code, status.message.as_str()), (406, ACCEPTED));
        let only_table = accept("application/json;as=Table;v=v1;g=meta.k8s.io", Offers::Objects, false);
        assert_eq!(only_table.expect_err("no table of a review").code, 406);
    }

    #[test]
    fn unknown_bodies_are_415() {
        let mut headers = HeaderMap::new();
        assert_eq!(input(&headers).expect("json"), Input::Json);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/vnd.kubernetes.protobuf;x=1"));
        assert_eq!(input(&headers).expect("protobuf"), Input::Protobuf);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        assert_eq!(input(&headers).expect_err("unknown").code, 415);
    }
}
