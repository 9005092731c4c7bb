//! Content negotiation: the representation of the response (JSON, YAML or protobuf; whole objects, a Table or metadata only) and the media type
//! of the body.
//!
//! Protobuf is the last choice, wherever a client lists it: only who accepts nothing else gets it. Objects are stored as the bytes of their
//! JSON, which an answer copies; protobuf has to be made of them each time. A list of 1,000 pods of 4 KB is 0.2 ms as JSON, and 50 ms as protobuf
//! (28 of them to parse the JSON), which is half as long: 2.0 instead of 4.0 MB (`tests/bench/encoding.rs`).

use crate::{names::Names, request::Query};
use api::{Reason, Status};
use http::{HeaderMap, HeaderValue, header};

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

/// The media type of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Media {
    /// `application/json`.
    #[default]
    Json,
    /// `application/yaml`.
    Yaml,
    /// [`PROTOBUF`].
    Protobuf,
}

/// Protobuf in the envelope of Kubernetes.
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// The events of a watch, each with its length before it.
pub(crate) const PROTOBUF_STREAM: &str = "application/vnd.kubernetes.protobuf;stream=watch";

/// The negotiated output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Output {
    /// JSON, YAML or protobuf.
    pub media: Media,
    /// Indented, where it is JSON.
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
pub enum Offers<'a> {
    /// Objects only: reviews, scale, binding.
    Objects,
    /// Objects only, of a kind that has no protobuf form.
    Json,
    /// Also tables and metadata.
    Tables,
    /// Also tables and metadata, of a resource, whose kind may have no protobuf form.
    Resource(&'a Names),
}

const ACCEPTED: &str = "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf";
/// For a watch in YAML, which cannot be a stream.
const ACCEPTED_STREAMS: &str = "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";

/// Negotiates the output, or answers 406.
pub fn output(headers: &HeaderMap, query: &Query, offers: Offers<'_>, watch: bool) -> Result<Output, Status> {
    let pretty = pretty(headers, query);
    let clauses = clauses(headers);
    if clauses.is_empty() {
        return Ok(Output { pretty, ..Output::default() });
    }
    for clause in &clauses {
        let media = match clause.media {
            "*/*" | "application/*" | "application/json" => Media::Json,
            "application/yaml" | "application/x-yaml" if !watch => Media::Yaml,
            _ => continue,
        };
        let Some(form) = form(clause, offers) else { continue };
        let pretty = pretty || clause.parameter("pretty") == Some("1");
        return Ok(Output { media, pretty, form });
    }
    let mut forms = clauses.iter().filter(|clause| clause.media == PROTOBUF).filter_map(|clause| form(clause, offers));
    if let Some(form) = forms.find(|form| has_protobuf(*form, offers)) {
        return Ok(Output { media: Media::Protobuf, pretty: false, form });
    }
    let yaml = clauses.iter().any(|clause| matches!(clause.media, "application/yaml" | "application/x-yaml"));
    Err(Status::new(Reason::NotAcceptable, if watch && yaml { ACCEPTED_STREAMS } else { ACCEPTED }))
}

/// Whether there is a protobuf form: not of tables, and not of custom resources, but of their metadata.
fn has_protobuf(form: Form, offers: Offers<'_>) -> bool {
    match (form, offers) {
        (Form::Table(_), _) | (_, Offers::Json) => false,
        (Form::Object, Offers::Resource(names)) => api::protobuf::has_form(&names.gvk()),
        _ => true,
    }
}

/// The output of an error: JSON, but protobuf for a client that accepts nothing else.
pub(crate) fn error_output(accepted: Option<&HeaderValue>, pretty: bool) -> Output {
    let headers: HeaderMap = accepted.map(|value| (header::ACCEPT, value.clone())).into_iter().collect();
    let found = output(&headers, &Query::default(), Offers::Objects, false);
    let media = found.map(|output| output.media).ok().filter(|media| *media == Media::Protobuf);
    Output { media: media.unwrap_or_default(), pretty, ..Output::default() }
}

fn form(clause: &Clause<'_>, offers: Offers<'_>) -> Option<Form> {
    let Some(kind) = clause.parameter("as") else { return Some(Form::Object) };
    if matches!(offers, Offers::Objects | Offers::Json) || clause.parameter("g") != Some("meta.k8s.io") {
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
        PROTOBUF => Ok(Input::Protobuf),
        _ => Err(Status::new(
            Reason::UnsupportedMediaType,
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTIAL: &str = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";

    fn accept(text: &str, offers: Offers<'_>, watch: bool) -> Result<Output, Status> {
        let mut headers = HeaderMap::new();
        if !text.is_empty() {
            headers.insert(header::ACCEPT, HeaderValue::from_str(text).expect("a header"));
        }
        output(&headers, &Query::default(), offers, watch)
    }

    #[test]
    fn the_first_clause_that_fits_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        for (text, form, media) in [
            ("", Form::Object, Media::Json),
            ("*/*", Form::Object, Media::Json),
            ("application/vnd.kubernetes.protobuf, */*", Form::Object, Media::Json),
            ("application/vnd.kubernetes.protobuf,application/json", Form::Object, Media::Json),
            ("application/json;q=0.1,application/vnd.kubernetes.protobuf", Form::Object, Media::Json),
            ("application/vnd.kubernetes.protobuf,application/json;q=0", Form::Object, Media::Protobuf),
            ("application/vnd.kubernetes.protobuf", Form::Object, Media::Protobuf),
            ("text/html, application/vnd.kubernetes.protobuf;q=0.2", Form::Object, Media::Protobuf),
            (PARTIAL, Form::Partial("v1"), Media::Protobuf),
            ("application/yaml", Form::Object, Media::Yaml),
            ("application/json;q=0.5,application/yaml", Form::Object, Media::Yaml),
            (table, Form::Table("v1"), Media::Json),
            ("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", Form::Partial("v1"), Media::Json),
            ("application/json;profile=x", Form::Object, Media::Json),
        ] {
            let got = accept(text, Offers::Tables, false).expect("acceptable");
            assert_eq!((got.form, got.media), (form, media), "{text}");
        }
        assert_eq!(accept(table, Offers::Objects, false).expect("falls back").form, Form::Object);
        let watch = accept(PROTOBUF_STREAM, Offers::Tables, true).expect("acceptable");
        assert_eq!(watch.media, Media::Protobuf);
    }

    #[test]
    fn only_built_in_kinds_and_metadata_have_a_protobuf_form() {
        let (pods, backups) =
            (Names::new("", "v1", "pods", "Pod"), Names::new("example.com", "v1", "backups", "Backup"));
        let table = "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io";
        let media = |text: &str, offers| accept(text, offers, false).map(|output| (output.form, output.media));
        assert_eq!(media(PROTOBUF, Offers::Resource(&pods)).ok(), Some((Form::Object, Media::Protobuf)));
        assert_eq!(media(PARTIAL, Offers::Resource(&backups)).ok(), Some((Form::Partial("v1"), Media::Protobuf)));
        // Of a custom resource the second clause is the first that fits.
        let both = format!("{PROTOBUF}, {PARTIAL}");
        assert_eq!(media(&both, Offers::Resource(&backups)).ok(), Some((Form::Partial("v1"), Media::Protobuf)));
        for (text, offers) in [
            (PROTOBUF, Offers::Resource(&backups)),
            (PROTOBUF, Offers::Json),
            (table, Offers::Resource(&pods)),
            (table, Offers::Tables),
            (PARTIAL, Offers::Objects),
        ] {
            let status = media(text, offers).expect_err("not acceptable");
            assert_eq!((status.code, status.message.as_str()), (406, ACCEPTED), "{text}");
        }
    }

    #[test]
    fn errors_are_protobuf_for_who_accepts_nothing_else() {
        let media = |text: &'static str| error_output(Some(&HeaderValue::from_static(text)), true).media;
        assert_eq!((media(PROTOBUF), media(PROTOBUF_STREAM)), (Media::Protobuf, Media::Protobuf));
        for text in
            ["application/vnd.kubernetes.protobuf,application/json", "", "application/yaml", "text/html", PARTIAL]
        {
            assert_eq!(media(text), Media::Json, "{text}");
        }
        assert_eq!(error_output(None, false), Output::default());
    }

    #[test]
    fn what_does_not_fit_is_406_with_upstreams_text() {
        let status = accept("text/html", Offers::Tables, false).expect_err("not acceptable");
        assert_eq!((status.code, status.message.as_str()), (406, ACCEPTED));
        assert_eq!(accept("text/html", Offers::Tables, true).expect_err("no stream either").message, ACCEPTED);
        assert_eq!(accept("application/yaml", Offers::Tables, true).expect_err("no stream").message, ACCEPTED_STREAMS);
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
