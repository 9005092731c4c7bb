//! The machine itself, with a resource, an action, an admission plugin and an authorizer that it has never heard of: what holds for the
//! built-in kinds holds for any other.

use super::*;
use api::{GroupVersionKind, Object, Status};
use parking_lot::Mutex;
use server::{
    Action, Api, Call, Context, Convertor, Names, Objects, Operation, Query, Resource, Verb,
    admission::{Admission, Attributes, forbidden},
    audit::{Audit, Event},
    authz::{self, Authorizer, Decision, Rules},
    strategy::Plain,
};

/// Between the stored form, which has a `size`, and versions that call it otherwise.
struct Renamed(&'static str);

#[async_trait::async_trait]
impl Convertor for Renamed {
    async fn to_storage(&self, mut object: Object) -> Result<Object, Status> {
        tokio::task::yield_now().await;
        if let Some(value) = object.remove(&["spec", self.0]) {
            object.set(&["spec", "size"], value);
        }
        Ok(object)
    }

    async fn from_storage(&self, mut objects: Vec<Object>) -> Result<Vec<Object>, Status> {
        tokio::task::yield_now().await;
        for object in &mut objects {
            let value = object.remove(&["spec", "size"]).unwrap_or_default();
            if value == json!("broken") {
                return Err(Status::internal("the conversion failed"));
            }
            object.set(&["spec", self.0], value);
        }
        Ok(objects)
    }
}

fn schema(field: &str) -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {field: {"type": "string"}}}}})
}

/// `example.com` widgets in three versions, with an action.
fn widgets() -> [Resource; 3] {
    let version = |version: &str, field| {
        Resource::new("example.com", version, "widgets", "Widget", Plain).with_schema(&schema(field)).with_generation()
    };
    let kind = GroupVersionKind::new("example.com", "v1", "Widget");
    [
        version("v1", "size").with_action("turn", kind, &[Verb::Create], Turn),
        version("v2", "length").stored_as("example.com", "widgets", "example.com/v1", Renamed("length")),
        version("v3", "height").stored_as("example.com", "widgets", "example.com/v1", Renamed("height")),
    ]
}

/// Answers with the body that it reads as it comes.
struct Turn;

#[async_trait::async_trait]
impl Action for Turn {
    async fn serve(&self, api: &dyn Api, call: Call, names: Arc<Names>) -> Result<Response<Body>, Status> {
        let cx: Context = api.context(&call, Operation::Connect, &names, false);
        let body = call.stream.into_inner().collect().await.map_err(Status::internal)?.to_bytes();
        Ok(Response::new(Body::from(format!("{} turned {}", cx.name, String::from_utf8_lossy(&body)))))
    }

    fn is_long_running(&self, _query: &Query) -> bool {
        true
    }

    fn connection(&self, _call: &Call) -> Option<Object> {
        Some(Object::default())
    }
}

/// Lets nobody connect to what is called `closed`.
struct Closed;

#[async_trait::async_trait]
impl Admission for Closed {
    fn name(&self) -> &'static str {
        "Closed"
    }

    fn handles(&self, attributes: &Attributes) -> bool {
        attributes.context.operation == Operation::Connect
    }

    async fn validate(&self, attributes: &Attributes, object: &Object) -> Result<(), Status> {
        match attributes.context.name.as_str() {
            "closed" => Err(forbidden(attributes, object, "it is closed")),
            _ => Ok(()),
        }
    }
}

async fn with_widgets() -> Cluster {
    Cluster::with(|_, parts| {
        parts.resources.extend(widgets());
        parts.admission.push(Arc::new(Closed));
    })
    .await
}

fn path(version: &str, name: &str) -> String {
    format!("/apis/example.com/{version}/namespaces/default/widgets{name}")
}

#[tokio::test]
async fn each_version_of_a_kind_is_served_in_its_own_form() {
    let cluster = with_widgets().await;
    let body = json!({"apiVersion": "example.com/v2", "kind": "Widget", "metadata": {"name": "w"},
        "spec": {"length": "3", "odd": 1}});
    let made = cluster.post(&path("v2", ""), body).await.ok();
    assert_eq!(made["spec"], json!({"length": "3"}), "what the schema does not know is not kept");
    for (version, spec) in
        [("v1", json!({"size": "3"})), ("v2", json!({"length": "3"})), ("v3", json!({"height": "3"}))]
    {
        let api_version = format!("example.com/{version}");
        let got = cluster.get(&path(version, "/w")).await.ok();
        assert_eq!((&got["apiVersion"], &got["spec"]), (&json!(api_version), &spec));
        assert_eq!(got["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
        let list = cluster.get(&path(version, "")).await.ok();
        assert_eq!((&list["items"][0]["apiVersion"], &list["items"][0]["spec"]), (&json!(api_version), &spec));
        let events = cluster.get(&format!("{}?watch=true&timeoutSeconds=-1", path(version, ""))).await.text();
        assert!(events.is_empty() || events.contains(&api_version), "{events}");
    }
    let put =
        json!({"apiVersion": "example.com/v3", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"height": "4"}});
    let put = cluster.send(&cluster.admin, "PUT", &path("v3", "/w"), &[], put.to_string()).await.ok();
    assert_eq!((&put["spec"], &put["metadata"]["generation"]), (&json!({"height": "4"}), &json!(2)));
    assert_eq!(cluster.get(&path("v1", "/w")).await.ok()["spec"], json!({"size": "4"}));
}

#[tokio::test]
async fn a_conversion_that_fails_fails_the_request_and_nothing_else() {
    let cluster = with_widgets().await;
    let body = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": "broken"}});
    cluster.post(&path("v1", ""), body).await.ok();
    for target in [path("v2", "/w"), path("v2", "")] {
        let (code, _, message) = cluster.get(&target).await.status();
        assert_eq!((code, message.contains("the conversion failed")), (500, true), "{message}");
    }
    cluster.get(&path("v1", "/w")).await.ok();
}

#[tokio::test]
async fn documents_belong_to_the_resources_and_their_schemas() {
    let hash = async |field: &'static str| {
        let resource = Resource::new("example.com", "v1", "widgets", "Widget", Plain).with_schema(&schema(field));
        let cluster = Cluster::with(|_, parts| parts.resources.push(resource)).await;
        let index = cluster.get("/openapi/v3").await.ok();
        let url = index["paths"]["apis/example.com/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
        let document = cluster.get(&url).await.ok();
        let definition = &document["components"]["schemas"]["com.example.v1.Widget"];
        assert_eq!(definition["properties"]["spec"]["properties"][field]["type"], "string", "{document}");
        assert_eq!(definition["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
        url
    };
    assert_ne!(hash("size").await, hash("weight").await, "another schema is another document");
}

#[tokio::test]
async fn an_action_reads_its_body_as_it_comes_and_admission_is_asked_first() {
    let cluster = with_widgets().await;
    let turn = async |name: &str| {
        let target = path("v1", &format!("/{name}/turn"));
        cluster.send(&cluster.admin, "POST", &target, &[], "left".to_owned()).await
    };
    assert_eq!(turn("w").await.text(), "w turned left");
    turn("closed").await.fails(403, "widgets.example.com \"closed\" is forbidden: it is closed");
    cluster
        .get(&path("v1", "/w/turn"))
        .await
        .fails(405, "the server does not allow this method on the requested resource");
}

/// Denies one user what all others may.
struct Barred;

#[async_trait::async_trait]
impl Authorizer for Barred {
    async fn authorize(&self, _: &dyn Objects, user: &User, _: &authz::Attributes<'_>) -> Decision {
        if user.name == "barred" { Decision::Deny("by name".to_owned()) } else { Decision::Allow }
    }

    async fn rules_for(&self, _: &dyn Objects, _: &User, _: &str) -> Rules {
        Rules::default()
    }
}

#[derive(Default)]
struct Notes(Mutex<Vec<Event>>);

impl Audit for Notes {
    fn answered(&self, event: Event) {
        self.0.lock().push(event);
    }
}

#[tokio::test]
async fn every_request_is_noted_once_with_its_answer() {
    let notes = Arc::new(Notes::default());
    let cluster = Cluster::with(|options, parts| {
        options.audit = Some(notes.clone());
        parts.authorizer = Arc::new(Barred);
    })
    .await;
    notes.0.lock().clear();
    let barred = cluster.server.service_for(User::new("barred", &[]));
    let as_jane = [("impersonate-user", "jane")];
    cluster.get("/api/v1/namespaces/default").await.ok();
    cluster.send(&cluster.admin, "GET", "/version", &as_jane, Body::empty()).await.ok();
    let refused = cluster.send(&barred, "DELETE", "/api/v1/namespaces/default", &[], Body::empty()).await;
    let text = "namespaces \"default\" is forbidden: User \"barred\" cannot delete resource \"namespaces\" in API group \"\" in the namespace \"default\": by name";
    refused.fails(403, text);
    cluster.get("/apis/nobody/v1/things").await;
    let network = cluster.server.service_for_network();
    cluster
        .send(&network, "GET", "/api", &[("authorization", "Bearer wrong")], Body::empty())
        .await
        .fails(401, "Unauthorized");
    let seen: Vec<_> = notes.0.lock().iter().map(note).collect();
    assert_eq!(
        seen,
        [
            "admin get /api/v1/namespaces/default 200",
            "admin as jane get /version 200",
            "barred delete /api/v1/namespaces/default 403",
            "admin list /apis/nobody/v1/things 404",
            "? get /api 401",
        ]
    );
    assert!(notes.0.lock().iter().all(|event| !event.id.is_empty()));
}

fn note(event: &Event) -> String {
    let user = event.user.as_ref().map_or("?", |user| user.name.as_str());
    let other = event.impersonated.as_ref().map(|user| format!(" as {}", user.name)).unwrap_or_default();
    format!("{user}{other} {} {} {}", event.verb, event.path, event.code)
}
