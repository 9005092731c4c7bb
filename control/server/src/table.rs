//! Tables (`meta.k8s.io Table`): column definitions, rows made from objects, and the object part of each row.

use crate::{Column, Resource, negotiate::Form, payload::View, request::Query};
use api::{Object, Reason, Status};
use bytes::{BufMut, BytesMut};
use jiff::Timestamp;
use serde_json::{Value, json};

/// What a row carries besides its cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// The metadata; the default.
    Metadata,
    /// The whole object.
    Object,
}

impl Include {
    /// From `includeObject`.
    pub fn parse(query: &Query) -> Result<Self, Status> {
        match query.get("includeObject") {
            None | Some("Metadata") => Ok(Self::Metadata),
            Some("None") => Ok(Self::None),
            Some("Object") => Ok(Self::Object),
            Some(other) => Err(Status::new(Reason::BadRequest, format!("unrecognized includeObject value: {other:?}"))),
        }
    }
}

/// `columnDefinitions` of a resource.
pub fn columns(columns: &[Column]) -> Value {
    let one = |c: &Column| json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority});
    Value::Array(columns.iter().map(one).collect())
}

/// Appends one row.
pub fn row(
    out: &mut BytesMut,
    resource: &Resource,
    object: &Object,
    view: &View,
    include: Include,
    version: &str,
    now: Timestamp,
    revision: Option<u64>,
) {
    let cells = resource.strategy.row(object, now);
    out.put_slice(b"{\"cells\":");
    put(out, &cells);
    let conditions = resource.strategy.row_conditions(object);
    if !conditions.is_empty() {
        out.put_slice(b",\"conditions\":");
        put(out, &conditions);
    }
    out.put_slice(b",\"object\":");
    match include {
        Include::None => out.put_slice(b"null"),
        Include::Metadata => view.write_partial(out, version, revision),
        Include::Object => view.write(out, revision),
    }
    out.put_u8(b'}');
}

/// Appends a table of one row: the answer to a GET, or the object of a watch event.
#[allow(clippy::too_many_arguments)]
pub fn single(
    out: &mut BytesMut,
    resource: &Resource,
    view: &View,
    include: Include,
    version: &str,
    now: Timestamp,
    head: bool,
    revision: Option<u64>,
) {
    let object = view.object();
    let rv = revision.map_or_else(|| object.resource_version().to_owned(), |r| r.to_string());
    out.put_slice(format!("{{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/{version}\",\"metadata\":{{\"resourceVersion\":\"{rv}\"}},\"columnDefinitions\":").as_bytes());
    if head {
        put(out, &columns(&resource.columns));
    } else {
        out.put_slice(b"null");
    }
    out.put_slice(b",\"rows\":[");
    row(out, resource, &object, view, include, version, now, revision);
    out.put_slice(b"]}");
}

fn put(out: &mut BytesMut, value: &impl serde::Serialize) {
    serde_json::to_writer(out.writer(), value).expect("writing JSON values to memory");
}

/// Appends an object in the form that was asked for.
pub fn write(
    out: &mut BytesMut,
    resource: &Resource,
    view: &View,
    form: Form,
    include: Include,
    now: Timestamp,
    head: bool,
    revision: Option<u64>,
) {
    match form {
        Form::Object => view.write(out, revision),
        Form::Partial(version) => view.write_partial(out, version, revision),
        Form::Table(version) => single(out, resource, view, include, version, now, head, revision),
    }
}
