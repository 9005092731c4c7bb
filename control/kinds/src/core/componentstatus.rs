//! ComponentStatus: whether the parts of the control plane live. Deprecated since 1.19, and still what `kubectl get cs` asks for. Objects are
//! made when somebody asks, from the Leases that the parts renew while they work: scheduler and controllers their own, and the server one that
//! it can renew only while the store takes its writes.

use crate::{at::At, cells};
use api::{GroupVersionResource, Object, Status};
use axum::body::Body;
use http::Response;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use server::{Action, Api, Call, Column, Names, Objects, Operation, Resource, TableConvertor, Verb};
use std::sync::Arc;

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Status", "Whether the component is healthy."),
    Column::new("Message", "What its check answered."),
    Column::new("Error", "Why its check failed."),
];

/// How old a renewal may be: more than twice the time between two.
const MAX_AGE: SignedDuration = SignedDuration::from_secs(30);

/// The resource, in the server of this identity.
pub(crate) fn resource(identity: &str) -> Resource {
    let components = Components { server: format!("apiserver-{identity}") };
    Resource::answered("", "v1", "componentstatuses", "ComponentStatus", Arc::new(components))
        .verbs(&[Verb::Get, Verb::List])
        .short(&["cs"])
        .cluster_scoped()
        .with_table(Table)
        .deprecated("v1 ComponentStatus is deprecated in v1.19+")
}

struct Components {
    /// The Lease of this server.
    server: String,
}

impl Components {
    /// The components, and the Lease of each.
    fn all(&self) -> [(&'static str, &str); 3] {
        [("controller-manager", "kube-controller-manager"), ("etcd-0", &self.server), ("scheduler", "kube-scheduler")]
    }
}

#[async_trait::async_trait]
impl Action for Components {
    async fn serve(&self, api: &dyn Api, call: Call, names: Arc<Names>) -> Result<Response<Body>, Status> {
        let now = api.context(&call, Operation::Connect, &names, false).now;
        let make = |(name, lease): (&str, &str)| {
            let stored = Objects::get(api, "coordination.k8s.io", "leases", "kube-system", lease);
            status(name, lease, stored.as_deref(), now)
        };
        if !call.info.named {
            return api.computed(&call, &names, self.all().into_iter().filter_map(make).collect());
        }
        let asked = self.all().into_iter().find(|(name, _)| *name == call.info.name);
        let object = asked.and_then(make).ok_or_else(|| {
            // Upstream names the kind here, not the resource.
            Status::not_found(&GroupVersionResource::new("", "v1", "componentstatus"), &call.info.name)
        })?;
        api.computed(&call, &names, vec![object])
    }
}

/// The status of a component.
fn status(name: &str, lease: &str, stored: Option<&Object>, now: Timestamp) -> Option<Object> {
    let problem = problem(lease, stored, now);
    let healthy = if problem.is_none() { "True" } else { "False" };
    let message = problem.unwrap_or_else(|| "ok".to_owned());
    let condition = json!({"type": "Healthy", "status": healthy, "message": message});
    let metadata = json!({"name": name});
    Object::from_value(
        json!({"apiVersion": "v1", "kind": "ComponentStatus", "metadata": metadata, "conditions": [condition]}),
    )
}

/// Why a component is not healthy.
fn problem(name: &str, lease: Option<&Object>, now: Timestamp) -> Option<String> {
    let held = lease.filter(|lease| lease.str_at(&["spec", "holderIdentity"]).is_some_and(|holder| !holder.is_empty()));
    let renewed = held.and_then(|lease| api::time::parse_micro(lease.str_at(&["spec", "renewTime"])?).ok());
    let Some(renewed) = renewed else { return Some(format!("nobody holds the Lease kube-system/{name}")) };
    let age = now.duration_since(renewed);
    (age > MAX_AGE).then(|| format!("the Lease kube-system/{name} was not renewed for {} s", age.as_secs()))
}

struct Table;

impl TableConvertor for Table {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, _now: Timestamp) -> Vec<Value> {
        let mut conditions = At::of(object, "conditions").items();
        let healthy = conditions.find(|condition| condition.get("type").str() == "Healthy");
        let said = |field: &'static str| healthy.map_or("", |condition| condition.get(field).str());
        let status = match (healthy.is_some(), said("status")) {
            (false, _) => "Unknown",
            (true, "True") => "Healthy",
            (true, _) => "Unhealthy",
        };
        vec![
            json!(cells::text(object, &["metadata", "name"])),
            json!(status),
            json!(said("message")),
            json!(said("error")),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{now, parse};
    use expect_test::expect;

    #[test]
    fn a_component_lives_while_it_renews_its_lease() {
        let lease = |spec: &str| Some(parse(&format!("{{metadata: {{name: kube-scheduler}}, spec: {spec}}}")));
        let shown = |lease: Option<Object>| {
            let object = status("scheduler", "kube-scheduler", lease.as_ref(), now()).expect("an object");
            Table
                .row(&object, now())
                .iter()
                .map(|cell| cell.as_str().unwrap_or_default().to_owned())
                .collect::<Vec<_>>()
                .join(" | ")
        };
        for (lease, expected) in [
            (
                lease("{holderIdentity: a, renewTime: '2026-01-01T00:00:35.000000Z'}"),
                expect!["scheduler | Healthy | ok | "],
            ),
            // The clock of another process may be ahead.
            (
                lease("{holderIdentity: a, renewTime: '2026-01-01T00:02:00.000000Z'}"),
                expect!["scheduler | Healthy | ok | "],
            ),
            (
                lease("{holderIdentity: a, renewTime: '2026-01-01T00:00:00.000000Z'}"),
                expect!["scheduler | Unhealthy | the Lease kube-system/kube-scheduler was not renewed for 60 s | "],
            ),
            (
                lease("{holderIdentity: '', renewTime: '2026-01-01T00:00:59.000000Z'}"),
                expect!["scheduler | Unhealthy | nobody holds the Lease kube-system/kube-scheduler | "],
            ),
            (
                lease("{holderIdentity: a, renewTime: soon}"),
                expect!["scheduler | Unhealthy | nobody holds the Lease kube-system/kube-scheduler | "],
            ),
            (None, expect!["scheduler | Unhealthy | nobody holds the Lease kube-system/kube-scheduler | "]),
        ] {
            expected.assert_eq(&shown(lease));
        }
        assert_eq!(Table.row(&parse("{metadata: {name: a}}"), now())[1], "Unknown");
    }

    #[test]
    fn the_components_are_upstreams() {
        let components = Components { server: "apiserver-x".to_owned() };
        assert_eq!(components.all().map(|(name, _)| name), ["controller-manager", "etcd-0", "scheduler"]);
    }
}
