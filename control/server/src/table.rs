//! Tables (`meta.k8s.io Table`): column definitions, rows made from objects, and the object part of each row.

use crate::{Resource, columns::Column, negotiate::Form, payload::View, request::Query};
use api::{Object, Reason, Status};
use bytes::{BufMut, BytesMut};
use jiff::Timestamp;
use serde_json::{Value, json};

/// What a row of a table contains besides its cells (`includeObject`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IncludeObject {
    /// Nothing.
    None,
    /// The metadata; the default.
    Metadata,
    /// The whole object.
    Object,
}

impl IncludeObject {
    /// From `includeObject`.
    pub(crate) fn parse(query: &Query) -> Result<Self, Status> {
        match query.get("includeObject") {
            None | Some("Metadata") => Ok(Self::Metadata),
            Some("None") => Ok(Self::None),
            Some("Object") => Ok(Self::Object),
            Some(other) => Err(Status::new(Reason::BadRequest, format!("unrecognized includeObject value: {other:?}"))),
        }
    }
}

/// `columnDefinitions` of a resource.
pub(crate) fn columns(columns: &[Column]) -> Value {
    let one = |c: &Column| json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority});
    Value::Array(columns.iter().map(one).collect())
}

/// The representation of objects in one response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Representation {
    /// Object, table or metadata.
    pub form: Form,
    /// What rows of a table contain.
    pub include: IncludeObject,
    /// Ages are relative to this time.
    pub now: Timestamp,
}

impl Representation {
    /// Appends an object as an element of a list.
    pub(crate) fn write_item(&self, out: &mut BytesMut, resource: &Resource, view: &View) {
        match self.form {
            Form::Object => view.write(out, None),
            Form::Partial(version) => view.write_partial(out, version, None),
            Form::Table(version) => self.write_row(out, resource, (&view.object(), view), version, None),
        }
    }

    /// Appends an object by itself: a response, or the object of a watch event. `with_columns`: a table has column definitions.
    /// `revision` replaces the resourceVersion of the object (deletions).
    pub(crate) fn write_object(
        &self,
        out: &mut BytesMut,
        resource: &Resource,
        view: &View,
        with_columns: bool,
        revision: Option<u64>,
    ) {
        let version = match self.form {
            Form::Object => return view.write(out, revision),
            Form::Partial(version) => return view.write_partial(out, version, revision),
            Form::Table(version) => version,
        };
        let object = view.object();
        let rv = revision.map_or_else(|| object.resource_version().to_owned(), |r| r.to_string());
        let start = format!(
            "{{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/{version}\",\"metadata\":{{\"resourceVersion\":\"{rv}\"}},\"columnDefinitions\":"
        );
        out.put_slice(start.as_bytes());
        if with_columns {
            put_json(out, &columns(resource.table.columns()));
        } else {
            out.put_slice(b"null");
        }
        out.put_slice(b",\"rows\":[");
        self.write_row(out, resource, (&object, view), version, revision);
        out.put_slice(b"]}");
    }

    fn write_row(
        &self,
        out: &mut BytesMut,
        resource: &Resource,
        (object, view): (&Object, &View),
        version: &str,
        revision: Option<u64>,
    ) {
        out.put_slice(b"{\"cells\":");
        put_json(out, &resource.table.row(object, self.now));
        let conditions = resource.table.conditions(object);
        if !conditions.is_empty() {
            out.put_slice(b",\"conditions\":");
            put_json(out, &conditions);
        }
        out.put_slice(b",\"object\":");
        match self.include {
            IncludeObject::None => out.put_slice(b"null"),
            IncludeObject::Metadata => view.write_partial(out, version, revision),
            IncludeObject::Object => view.write(out, revision),
        }
        out.put_u8(b'}');
    }
}

fn put_json(out: &mut BytesMut, value: &impl serde::Serialize) {
    serde_json::to_writer(out.writer(), value).expect("writing JSON values to memory");
}
