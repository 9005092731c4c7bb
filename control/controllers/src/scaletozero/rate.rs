//! The requests per second of the pods of a Deployment, as any client reads them.

use crate::meta;
use api::quantity::Quantity;
use client::Client;
use http::Method;
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::Value;

/// In thousandths, of each pod of which they are known.
///
/// # Errors
/// The metric cannot be read; the text says why.
pub(super) async fn of_pods(client: &Client, deployment: &Deployment) -> Result<Vec<i64>, String> {
    let selector = deployment.spec.as_ref().map(|spec| meta::selector(&spec.selector)).transpose()?;
    let selector = selector.map(|selector| selector.to_string()).unwrap_or_default();
    let namespace = client::escape(meta::namespace(&deployment.metadata));
    let url = format!(
        "/apis/custom.metrics.k8s.io/v1beta2/namespaces/{namespace}/pods/*/http_requests_per_second?labelSelector={}",
        client::escape(&selector)
    );
    let body = client.raw(Method::GET, &url, None).await.map_err(|error| error.to_string())?;
    let list: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    let value = |item: &Value| Some(Quantity::parse(item["value"].as_str()?).ok()?.milli_value());
    Ok(list["items"].as_array().into_iter().flatten().filter_map(value).collect())
}
