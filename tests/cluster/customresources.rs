//! Custom resources with all controllers: names, owners, namespaces and the end of a definition.

use crate::world::{World, condition};
use serde_json::{Value, json};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const GROUP: &str = "apiextensions.k8s.io";

fn definition(plural: &str, kind: &str, scope: &str) -> Value {
    json!({"metadata": {"name": format!("{plural}.example.com")}, "spec": {"group": "example.com", "scope": scope,
        "names": {"plural": plural, "kind": kind},
        "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}})
}

fn established(world: &World, name: &str) -> bool {
    world.find(GROUP, "customresourcedefinitions", name).is_some_and(|one| condition(&one, "Established") == "True")
}

async fn define(world: &World, plural: &str, kind: &str, scope: &str) {
    world.call("POST", DEFINITIONS, definition(plural, kind, scope)).await;
    let name = format!("{plural}.example.com");
    world.until(&format!("{name} is in force"), |w| established(w, &name)).await;
}

fn items(list: &Value) -> usize {
    list["items"].as_array().map_or(0, Vec::len)
}

#[tokio::test(start_paused = true)]
async fn names_are_taken_once_and_given_back() {
    let world = World::empty(1).await;
    define(&world, "as", "A", "Cluster").await;
    world.call("POST", DEFINITIONS, definition("others", "A", "Cluster")).await;
    let says = |w: &World, what: &str| {
        let found = w.find(GROUP, "customresourcedefinitions", "others.example.com");
        found.is_some_and(|one| condition(&one, "NamesAccepted") == what)
    };
    world.until("the kind is refused", |w| says(w, "False")).await;
    assert!(!established(&world, "others.example.com"));
    // The controller is a part of upstream's API server.
    let status = world.find(GROUP, "customresourcedefinitions", "as.example.com").expect("a definition");
    let managers: Vec<&Value> = status["metadata"]["managedFields"].as_array().expect("managers").iter().collect();
    assert!(managers.iter().any(|m| m["manager"] == "kube-apiserver" && m["subresource"] == "status"), "{managers:?}");
    assert!(world.try_call("GET", "/apis/example.com/v1/others", Value::Null).await.is_err());
    world.call("DELETE", &format!("{DEFINITIONS}/as.example.com"), Value::Null).await;
    world.until("the kind is free", |w| says(w, "True") && established(w, "others.example.com")).await;
    world.call("GET", "/apis/example.com/v1/others", Value::Null).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_definition_takes_its_objects_along() {
    let world = World::empty(2).await;
    define(&world, "as", "A", "Namespaced").await;
    let path = "/apis/example.com/v1/namespaces/default/as";
    for name in ["one", "two"] {
        world
            .call("POST", path, json!({"kind": "A", "apiVersion": "example.com/v1", "metadata": {"name": name}}))
            .await;
    }
    let held = json!({"kind": "A", "apiVersion": "example.com/v1", "metadata": {"name": "held", "finalizers": ["example.com/hold"]}});
    world.call("POST", path, held).await;
    world.call("DELETE", &format!("{DEFINITIONS}/as.example.com"), Value::Null).await;
    world.pass(3).await;
    let list = world.call("GET", path, Value::Null).await;
    assert_eq!(
        (items(&list), &list["items"][0]["metadata"]["name"]),
        (1, &json!("held")),
        "it waits for the finalizer"
    );
    let left = world.find(GROUP, "customresourcedefinitions", "as.example.com").unwrap();
    assert_eq!(condition(&left, "Terminating"), "True");
    world.call("PATCH", &format!("{path}/held"), json!({"metadata": {"finalizers": null}})).await;
    world
        .until("the definition is gone", |w| w.find(GROUP, "customresourcedefinitions", "as.example.com").is_none())
        .await;
    assert!(world.try_call("GET", path, Value::Null).await.is_err());
    // The same names are free, and there are no objects of old.
    define(&world, "as", "A", "Namespaced").await;
    assert_eq!(items(&world.call("GET", path, Value::Null).await), 0);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn owners_and_namespaces_take_custom_objects_along() {
    let world = World::empty(3).await;
    define(&world, "as", "A", "Namespaced").await;
    world.call("POST", "/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await;
    let path = "/apis/example.com/v1/namespaces/n/as";
    let owner = world
        .call("POST", path, json!({"kind": "A", "apiVersion": "example.com/v1", "metadata": {"name": "owner"}}))
        .await;
    let owned =
        json!([{"apiVersion": "example.com/v1", "kind": "A", "name": "owner", "uid": owner["metadata"]["uid"]}]);
    let map = json!({"metadata": {"name": "owned", "ownerReferences": owned}});
    world.call("POST", "/api/v1/namespaces/n/configmaps", map).await;
    world.call("POST", path, json!({"kind": "A", "apiVersion": "example.com/v1", "metadata": {"name": "child", "ownerReferences": owned}})).await;
    // The collector discovers new kinds every 30 seconds, as upstream's.
    world.pass(40).await;
    world.call("DELETE", &format!("{path}/owner"), Value::Null).await;
    let maps = |w: &World| w.all_in("n", "", "configmaps").iter().any(|map| map["metadata"]["name"] == "owned");
    world.until("the dependents are gone", |w| !maps(w)).await;
    world.pass(5).await;
    assert_eq!(items(&world.call("GET", path, Value::Null).await), 0);
    world.call("POST", path, json!({"kind": "A", "apiVersion": "example.com/v1", "metadata": {"name": "last"}})).await;
    world.call("DELETE", "/api/v1/namespaces/n", Value::Null).await;
    world.until("the namespace is gone", |w| w.find("", "namespaces", "n").is_none()).await;
    assert_eq!(items(&world.call("GET", path, Value::Null).await), 0);
    world.end().await;
}
