//! `pods/log`: reads the log of a container from the pod's node. The texts are upstream's.

mod options;

use api::{Object, Status};
use axum::body::Body;
use futures::StreamExt;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use server::{Action, AllowSlowReader, Api, Call, Names, Objects, Query, reply, text_of};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// GET of a container's log.
pub(crate) struct Log;

#[async_trait::async_trait]
impl Action for Log {
    async fn serve(&self, api: &dyn Api, call: Call, names: Arc<Names>) -> Result<Response<Body>, Status> {
        let options = options::parse(&call.query, &call.info.name)?;
        let pod = Objects::get(api, "", "pods", &call.info.namespace, &call.info.name);
        let pod = pod.ok_or_else(|| Status::not_found(&names.gvr, &call.info.name))?;
        let container = container(&pod, call.query.get("container"))?;
        let node = pod.str_at(&["spec", "nodeName"]).unwrap_or_default();
        if node.is_empty() {
            // A pod without a node has an empty log, as upstream.
            return Ok(reply::text(StatusCode::OK, ""));
        }
        let target = format!("/containerLogs/{}/{}/{}?{}", pod.namespace(), pod.name(), container, options);
        let mut request = Request::new(Body::empty());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = target.parse().map_err(|e| Status::bad_request(format!("invalid log request: {e}")))?;
        let answer = api.kubelet(node).send(request).await;
        let answer = answer.map_err(|e| Status::internal(format!("Get {target:?}: {e}")))?;
        pass_on(answer, api.shutdown()).await
    }

    fn is_long_running(&self, query: &Query) -> bool {
        query.flag("follow")
    }
}

/// Forwards the response of the node: a log streams until it ends or the server stops; an error becomes a Status with the node's text.
async fn pass_on(answer: Response<Body>, shutdown: CancellationToken) -> Result<Response<Body>, Status> {
    let (parts, body) = answer.into_parts();
    if parts.status.is_success() {
        let chunks = body.into_data_stream().take_until(shutdown.cancelled_owned());
        let mut response = Response::new(Body::from_stream(chunks));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        response.extensions_mut().insert(AllowSlowReader);
        return Ok(response);
    }
    let text = text_of(body).await?.trim_end().to_owned();
    Err(match parts.status {
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        StatusCode::NOT_FOUND => Status { code: 404, ..Status::new(api::Reason::NotFound, text) },
        _ => Status::internal(text),
    })
}

/// The names of containers in a field of the spec.
pub(super) fn names(pod: &Object, field: &str) -> Vec<String> {
    let list = pod.list_at(&["spec", field]).iter();
    list.filter_map(|c| c.get("name").and_then(|n| n.as_str()).map(str::to_owned)).collect()
}

/// The container whose log is read.
fn container(pod: &Object, asked: Option<&str>) -> Result<String, Status> {
    let names = |field| names(pod, field);
    let (regular, init, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    match asked {
        Some(name) if [&regular, &init, &ephemeral].iter().any(|list| list.iter().any(|n| n == name)) => {
            Ok(name.to_owned())
        }
        Some(name) => Err(Status::bad_request(format!("container {name} is not valid for pod {}", pod.name()))),
        None if regular.len() == 1 => Ok(regular[0].clone()),
        None => {
            let mut text = format!(
                "a container name must be specified for pod {}, choose one of: [{}]",
                pod.name(),
                regular.join(" ")
            );
            if !init.is_empty() {
                text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(Status::bad_request(text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_container_must_be_clear() {
        let pod = |containers: &[&str], init: &[&str]| {
            let list = |names: &[&str]| names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>();
            let value = json!({"metadata": {"name": "p"}, "spec": {"containers": list(containers), "initContainers": list(init)}});
            Object::from_value(value).expect("an object")
        };
        assert_eq!(container(&pod(&["a"], &[]), None).expect("the only one"), "a");
        assert_eq!(container(&pod(&["a"], &["i"]), Some("i")).expect("an init container"), "i");
        for (containers, init, asked, text) in [
            (&["a", "b"][..], &[][..], None, "a container name must be specified for pod p, choose one of: [a b]"),
            (
                &["a", "b"],
                &["i"],
                None,
                "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]",
            ),
            (&["a"], &[], Some("x"), "container x is not valid for pod p"),
        ] {
            assert_eq!(container(&pod(containers, init), asked).expect_err("refused").message, text);
        }
    }
}
