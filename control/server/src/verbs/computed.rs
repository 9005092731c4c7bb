//! GET and LIST of objects that are computed when they are asked for, and never stored (metrics.k8s.io). They have no resourceVersion, and
//! a list of them is one page.

use crate::{
    Resource, Server,
    call::Call,
    limits,
    negotiate::{Form, Offers},
    payload::View,
    reply,
    select::Filter,
    table::{self, IncludeObject, Representation},
};
use api::{Object, Status};
use axum::body::Body;
use bytes::{BufMut, BytesMut};
use http::{Response, StatusCode};

pub(super) fn answer(
    server: &Server,
    call: &Call,
    resource: &Resource,
    objects: &[Object],
) -> Result<Response<Body>, Status> {
    let output = call.output(Offers::Resource(&resource.names))?;
    let views: Vec<_> = objects.iter().map(|object| (object, View::detached(object))).collect();
    // a list has a name as well where its field selector does
    if call.info.named {
        let (_, view) = views.first().ok_or_else(|| Status::not_found(&resource.gvr, &call.info.name))?;
        return super::answer(server, call, StatusCode::OK, output, resource, view);
    }
    let filter = Filter::parse(&call.query, resource, None)?;
    let representation =
        Representation { form: output.form, include: IncludeObject::parse(&call.query)?, now: server.clock().now() };
    let mut out = BytesMut::new();
    out.put_slice(head(resource, output.form).as_bytes());
    let mut first = true;
    for (object, view) in &views {
        if filter.is_empty() || filter.matches(resource, object.namespace(), object.name(), view) {
            if !std::mem::take(&mut first) {
                out.put_u8(b',');
            }
            representation.write_item(&mut out, resource, view);
        }
    }
    out.put_slice(b"]}\n");
    let room = server.limits().reserve_response_memory(out.len())?;
    Ok(limits::hold_memory_until_sent(reply::json(StatusCode::OK, output, out.freeze()), room))
}

/// A list up to its first item.
fn head(resource: &Resource, form: Form) -> String {
    let start =
        |kind: &str, version: &str| format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",\"metadata\":{{}},");
    match form {
        Form::Object => start(&resource.list_kind, &resource.gvr.api_version()) + "\"items\":[",
        Form::Partial(version) => start("PartialObjectMetadataList", &format!("meta.k8s.io/{version}")) + "\"items\":[",
        Form::Table(version) => {
            let columns = table::columns(resource.table.columns());
            start("Table", &format!("meta.k8s.io/{version}")) + &format!("\"columnDefinitions\":{columns},\"rows\":[")
        }
    }
}
