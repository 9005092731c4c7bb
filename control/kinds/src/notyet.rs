//! Subresources that Kubernetes has and this server has not yet: the streams into pods.

use api::{GroupVersionKind, Reason, Status};
use axum::body::Body;
use http::Response;
use server::{Action, Api, Call, Names, Objects, Query, Subresource, Verb, action::Serve};
use std::sync::Arc;

/// Answers 501, and says what serves the purpose meanwhile: kubectl shows it to the user.
pub(crate) struct NotYet {
    subresource: &'static str,
    instead: &'static str,
}

const LOGS: &str = ": a Wasm container has no shell; kubectl logs shows what it prints";
const NODE_PORT: &str = ": reach it by the NodePort of a Service, such as kubectl patch service NAME -p '{\"spec\":{\"type\":\"NodePort\"}}'";

/// The streams into pods.
pub(crate) fn streams() -> [Subresource; 3] {
    [("exec", LOGS), ("attach", LOGS), ("portforward", NODE_PORT)].map(|(name, instead)| unlisted(name, instead))
}

fn unlisted(subresource: &'static str, instead: &'static str) -> Subresource {
    let serve = Serve::Action(Arc::new(NotYet { subresource, instead }));
    let kind = GroupVersionKind::new("", "v1", "Status");
    Subresource { listed: false, ..Subresource::new(subresource, kind, Verb::ALL, serve) }
}

#[async_trait::async_trait]
impl Action for NotYet {
    async fn serve(&self, api: &dyn Api, call: Call, names: Arc<Names>) -> Result<Response<Body>, Status> {
        let gvr = &names.gvr;
        let there = || Objects::get(api, &gvr.group, &gvr.resource, &call.info.namespace, &call.info.name).is_some();
        if !there() {
            return Err(Status::not_found(gvr, &call.info.name));
        }
        let text = format!("{}/{} is not implemented yet{}", gvr.resource, self.subresource, self.instead);
        Err(Status { code: 501, ..Status::new(Reason::Unknown, text) })
    }

    fn is_long_running(&self, _query: &Query) -> bool {
        true
    }

    fn connects(&self) -> bool {
        true
    }
}
