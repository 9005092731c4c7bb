//! Tables (`meta.k8s.io Table`): column definitions, rows made from objects, and the object part of each row.

use crate::{Resource, columns::Column, negotiate::Form, payload::View, request::Query};
use api::{Object, Reason, Status};
use bytes::{BufMut, BytesMut};
use jiff::Timestamp;
use serde_json::{Value, json};

/// What a row carries besides its cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Include {
    /// Nothing.
    None,
    /// The metadata; the default.
    Metadata,
    /// The whole object.
    Object,
}

impl Include {
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

/// How objects are shown in one answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// Whole, as rows or as metadata.
    pub form: Form,
    /// What rows carry.
    pub include: Include,
    /// The time that ages are counted to.
    pub now: Timestamp,
}

impl Look {
    /// Appends an object as an element of a list.
    pub(crate) fn item(&self, out: &mut BytesMut, resource: &Resource, view: &View) {
        match self.form {
            Form::Object => view.write(out, None),
            Form::Partial(version) => view.write_partial(out, version, None),
            Form::Table(version) => self.row(out, resource, (&view.object(), view), version, None),
        }
    }

    /// Appends an object that stands alone: an answer, or the object of a watch event. `head`: a table carries its columns.
    /// `revision` replaces the object's own (deletions).
    pub(crate) fn single(
        &self,
        out: &mut BytesMut,
        resource: &Resource,
        view: &View,
        head: bool,
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
        if head {
            put(out, &columns(resource.table.columns()));
        } else {
            out.put_slice(b"null");
        }
        out.put_slice(b",\"rows\":[");
        self.row(out, resource, (&object, view), version, revision);
        out.put_slice(b"]}");
    }

    fn row(
        &self,
        out: &mut BytesMut,
        resource: &Resource,
        (object, view): (&Object, &View),
        version: &str,
        revision: Option<u64>,
    ) {
        out.put_slice(b"{\"cells\":");
        put(out, &resource.table.row(object, self.now));
        let conditions = resource.table.conditions(object);
        if !conditions.is_empty() {
            out.put_slice(b",\"conditions\":");
            put(out, &conditions);
        }
        out.put_slice(b",\"object\":");
        match self.include {
            Include::None => out.put_slice(b"null"),
            Include::Metadata => view.write_partial(out, version, revision),
            Include::Object => view.write(out, revision),
        }
        out.put_u8(b'}');
    }
}

fn put(out: &mut BytesMut, value: &impl serde::Serialize) {
    serde_json::to_writer(out.writer(), value).expect("writing JSON values to memory");
}
