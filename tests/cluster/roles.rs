//! ClusterRoles whose rules are those of others.

use crate::world::World;
use serde_json::{Value, json};

const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";

fn role(name: &str, labels: Value, resources: &[&str]) -> Value {
    let rules: Vec<Value> =
        resources.iter().map(|one| json!({"verbs": ["get"], "apiGroups": [""], "resources": [one]})).collect();
    json!({"metadata": {"name": name, "labels": labels}, "rules": rules})
}

fn resources(world: &World, name: &str) -> Vec<Value> {
    let role = world.find("rbac.authorization.k8s.io", "clusterroles", name).unwrap();
    role["rules"].as_array().into_iter().flatten().map(|rule| rule["resources"][0].clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn the_rules_of_an_aggregated_role_follow_those_that_it_selects() {
    let world = World::empty(1).await;
    let mut whole = role("system:whole", json!({}), &["never"]);
    whole["aggregationRule"] =
        json!({"clusterRoleSelectors": [{"matchLabels": {"to": "whole"}}, {"matchLabels": {"also": "whole"}}]});
    world.call("POST", ROLES, whole).await;
    world.call("POST", ROLES, role("b", json!({"to": "whole"}), &["pods", "nodes"])).await;
    world.call("POST", ROLES, role("a", json!({"to": "whole", "also": "whole"}), &["secrets", "pods"])).await;
    world.call("POST", ROLES, role("c", json!({"also": "whole"}), &["leases"])).await;
    world.call("POST", ROLES, role("d", json!({}), &["events"])).await;
    let wait = async |what: &[&str]| {
        world.until(&format!("{what:?}"), |w| resources(w, "system:whole") == what).await;
    };
    wait(&["secrets", "pods", "nodes", "leases"]).await;
    let stored = world.find("rbac.authorization.k8s.io", "clusterroles", "system:whole").unwrap();
    let managers = stored["metadata"]["managedFields"].as_array().unwrap();
    let own = managers.iter().find(|one| one["manager"] == "clusterrole-aggregation-controller").unwrap();
    assert_eq!((&own["operation"], &own["fieldsV1"]), (&json!("Apply"), &json!({"f:rules": {}})));
    // What somebody writes there does not stay.
    world.call("PATCH", &format!("{ROLES}/system:whole"), json!({"rules": role("", json!({}), &["x"])["rules"]})).await;
    wait(&["secrets", "pods", "nodes", "leases"]).await;
    world.call("PATCH", &format!("{ROLES}/a"), json!({"metadata": {"labels": {"to": null, "also": null}}})).await;
    wait(&["pods", "nodes", "leases"]).await;
    world.call("DELETE", &format!("{ROLES}/b"), Value::Null).await;
    wait(&["leases"]).await;
    world.call("DELETE", &format!("{ROLES}/c"), Value::Null).await;
    wait(&[]).await;
    let quiet = world.find("rbac.authorization.k8s.io", "clusterroles", "system:whole");
    world.pass(600).await;
    assert_eq!(world.find("rbac.authorization.k8s.io", "clusterroles", "system:whole"), quiet);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn every_controller_has_a_role_of_its_own() {
    let world = World::empty(1).await;
    let group = "rbac.authorization.k8s.io";
    let has_role = |world: &World, account: &str| {
        let bindings = ["clusterrolebindings", "rolebindings"].map(|resource| world.all_in("", group, resource));
        bindings.iter().flatten().any(|binding| {
            let name = binding["metadata"]["name"].as_str().unwrap();
            let of = |one: &Value| one["name"] == account && one["namespace"] == "kube-system";
            let own = name.ends_with(&format!("controller:{account}"));
            own && binding["subjects"].as_array().into_iter().flatten().any(of)
        })
    };
    for name in controllers::names() {
        let account = controllers::account(name);
        assert_eq!(account.is_empty(), name == "serviceaccount-token-controller", "{name}");
        if !account.is_empty() {
            world.until(&format!("the role of {name}, {account}"), |w| has_role(w, account)).await;
        }
    }
    world.end().await;
}
