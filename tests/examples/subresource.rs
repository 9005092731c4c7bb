//! A subresource that does something of its own: `POST …/backups/NAME/run`.

use api::Status;
use axum::body::Body;
use http::{Response, header};
use serde_json::json;
use server::{Action, Api, Call, Names, Objects};
use std::sync::Arc;

/// Begins a backup.
pub struct Run;

#[async_trait::async_trait]
impl Action for Run {
    async fn serve(&self, api: &dyn Api, call: Call, names: Arc<Names>) -> Result<Response<Body>, Status> {
        let (gvr, namespace, name) = (&names.gvr, &call.info.namespace, &call.info.name);
        let backup = Objects::get(api, &gvr.group, &gvr.resource, namespace, name);
        let backup = backup.ok_or_else(|| Status::not_found(gvr, name))?;
        let message = format!("a backup of {} has begun", backup.str_at(&["spec", "claim"]).unwrap_or_default());
        let answer =
            json!({"kind": "Status", "apiVersion": "v1", "status": "Success", "message": message, "code": 201});
        let response = Response::builder().status(201).header(header::CONTENT_TYPE, "application/json");
        response.body(answer.to_string().into()).map_err(Status::internal)
    }
}
