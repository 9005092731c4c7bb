use super::*;
use crate::GroupVersionKind;
use serde_json::json;

/// A scene: one object and what happens to it.
pub(super) struct Scene {
    pub(super) live: Option<Object>,
    pub(super) schema: Schema,
    api_version: String,
    second: i64,
}

pub(super) type Outcome = Result<(), Status>;

impl Scene {
    pub(super) fn new(api_version: &str, kind: &str) -> Self {
        let gvk = GroupVersionKind::from_api_version(api_version, kind);
        let schema = Schema::for_kind(&gvk).expect("a built-in kind");
        Self { live: None, schema, api_version: api_version.into(), second: 0 }
    }

    fn now(&mut self) -> Timestamp {
        self.second += 1;
        Timestamp::from_second(self.second).expect("a time")
    }

    pub(super) fn apply_with(&mut self, manager: &str, force: bool, subresource: &str, config: Value) -> Outcome {
        let now = self.now();
        let opts = ApplyOptions { manager, force, now, subresource, api_version: &self.api_version, ignored: None };
        let config = Object::from_value(config).expect("an object");
        let mut object = apply(self.live.as_ref(), &config, &opts, &self.schema)?;
        if self.live.is_none() {
            object.set(&["metadata", "uid"], "u");
        }
        self.live = Some(object);
        Ok(())
    }

    pub(super) fn apply(&mut self, manager: &str, config: Value) -> Outcome {
        self.apply_with(manager, false, "", config)
    }

    fn update_with(&mut self, manager: &str, subresource: &str, new: Value) {
        let now = self.now();
        let opts = UpdateOptions { manager, subresource, api_version: &self.api_version, now, ignored: None };
        let mut new = Object::from_value(new).expect("an object");
        update(self.live.as_ref(), &mut new, &opts, &self.schema);
        new.set(&["metadata", "uid"], "u");
        self.live = Some(new);
    }

    pub(super) fn update(&mut self, manager: &str, new: Value) {
        self.update_with(manager, "", new);
    }

    /// Writes the live object changed by `change`.
    fn patch(&mut self, manager: &str, subresource: &str, change: impl FnOnce(&mut Object)) {
        let mut new = self.live.clone().expect("an object");
        change(&mut new);
        self.update_with(manager, subresource, new.into_value());
    }

    pub(super) fn object(&self) -> Object {
        let mut object = self.live.clone().expect("an object");
        object.remove(&["metadata", "managedFields"]);
        object
    }

    /// `manager/operation[/subresource]` to its fields.
    pub(super) fn owners(&self) -> Value {
        let list = self.live.as_ref().expect("an object").list_at(&["metadata", "managedFields"]);
        let entries = list.iter().map(|entry| {
            let text = |name: &str| entry[name].as_str().unwrap_or_default();
            let mut name = format!("{}/{}", text("manager"), text("operation"));
            if !text("subresource").is_empty() {
                name = format!("{name}/{}", text("subresource"));
            }
            (name, entry["fieldsV1"].clone())
        });
        Value::Object(entries.collect())
    }

    fn time_of(&self, manager: &str) -> &str {
        let list = self.live.as_ref().expect("an object").list_at(&["metadata", "managedFields"]);
        let entry = list.iter().find(|e| e["manager"] == manager).expect("an entry");
        entry["time"].as_str().expect("a time")
    }
}

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})
}

pub(super) fn pod(containers: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": containers}})
}

fn service(ports: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": ports}})
}

#[test]
fn create_gives_the_writer_what_upstream_gives() {
    let mut scene = Scene::new("apps/v1", "Deployment");
    scene.update(
        "kubectl-create",
        json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "d", "namespace": "default", "labels": {"app": "d"}},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "d"}},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
                "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"restartPolicy": "Always", "securityContext": {},
                    "containers": [{"name": "a", "image": "x", "resources": {}, "env": [{"name": "E", "value": "1"}],
                        "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}}}}),
    );
    assert_eq!(
        scene.owners(),
        json!({"kubectl-create/Update": {
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:replicas": {}, "f:selector": {},
                "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}}, "f:type": {}},
                "f:template": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {
                    "f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}, "f:name": {}, "f:resources": {},
                        "f:env": {".": {}, "k:{\"name\":\"E\"}": {".": {}, "f:name": {}, "f:value": {}}},
                        "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}":
                            {".": {}, "f:containerPort": {}, "f:protocol": {}}}}},
                    "f:restartPolicy": {}, "f:securityContext": {}}}}}})
    );
    let entry = &scene.live.as_ref().expect("live").list_at(&["metadata", "managedFields"])[0];
    assert_eq!(entry["apiVersion"], "apps/v1");
    assert_eq!(entry["fieldsType"], "FieldsV1");
    assert_eq!(entry["time"], "1970-01-01T00:00:01Z");
    assert!(entry.get("subresource").is_none());
}

#[test]
fn apply_creates_and_owns_what_it_says() {
    let mut scene = Scene::new("v1", "ConfigMap");
    scene.apply("a", config_map(json!({"k": "1"}))).expect("applied");
    assert_eq!(scene.owners(), json!({"a/Apply": {"f:data": {"f:k": {}}}}));
    assert_eq!(scene.object().at(&["data"]), Some(&json!({"k": "1"})));
}

#[test]
fn two_appliers_share_a_field_with_the_same_value() {
    let mut scene = Scene::new("v1", "ConfigMap");
    scene.apply("a", config_map(json!({"k": "1"}))).expect("applied");
    scene.apply("b", config_map(json!({"k": "1"}))).expect("shared");
    assert_eq!(scene.owners(), json!({"a/Apply": {"f:data": {"f:k": {}}}, "b/Apply": {"f:data": {"f:k": {}}}}));
    scene.apply("a", config_map(json!({}))).expect("given up");
    assert_eq!(scene.object().at(&["data"]), Some(&json!({"k": "1"})));
    scene.apply("b", config_map(json!({}))).expect("removed");
    assert_eq!(scene.object().at(&["data", "k"]), None);
}

#[test]
fn one_conflict_is_told_in_one_line() {
    let mut scene = Scene::new("v1", "ConfigMap");
    scene.update("kubectl-edit", config_map(json!({"k": "1"})));
    let status = scene.apply("me", config_map(json!({"k": "2"}))).expect_err("a conflict");
    assert_eq!((status.code, status.reason), (409, Reason::Conflict));
    assert_eq!(status.message, "Apply failed with 1 conflict: conflict with \"kubectl-edit\" using v1: .data.k");
    let causes = &status.details.as_ref().expect("details").causes;
    assert_eq!(causes.len(), 1);
    assert_eq!(causes[0].reason, "FieldManagerConflict");
    assert_eq!(causes[0].message, "conflict with \"kubectl-edit\" using v1");
    assert_eq!(causes[0].field, ".data.k");
}

#[test]
fn to_apply_something_empty_in_the_place_of_what_another_owns_is_a_conflict() {
    let mut scene = Scene::new("v1", "Service");
    let service = |selector: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"selector": selector}});
    scene.update("u", service(json!({"a": "b"})));
    let status = scene.apply("me", service(json!({}))).expect_err("a conflict");
    assert_eq!(status.message, "Apply failed with 1 conflict: conflict with \"u\" using v1: .spec.selector");
    let mut scene = Scene::new("v1", "Pod");
    let tolerant = |list: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"tolerations": list}});
    scene.update("u", tolerant(json!([{"operator": "Exists"}])));
    let status = scene.apply("me", tolerant(json!([]))).expect_err("a conflict");
    assert_eq!(status.message, "Apply failed with 1 conflict: conflict with \"u\" using v1: .spec.tolerations");
    // Labels are owned one by one, so that none of them is in the way.
    let mut scene = Scene::new("v1", "ConfigMap");
    let labelled =
        |labels: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "labels": labels}});
    scene.update("u", labelled(json!({"a": "b"})));
    scene.apply("me", labelled(json!({}))).expect("no conflict");
}

#[test]
fn to_apply_an_empty_structure_again_takes_nothing_out_of_it() {
    let mut scene = Scene::new("v1", "Node");
    let node = |spec: Value| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": spec});
    scene.update(
        "u",
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": {"a": "b"}}, "spec": {}}),
    );
    // Admission adds what nobody owns.
    scene.live.as_mut().expect("a node").set(&["spec", "taints"], json!([{"key": "k", "effect": "NoSchedule"}]));
    for _ in 0..2 {
        scene.apply("b", node(json!({}))).expect("applies");
        assert_eq!(scene.owners()["b/Apply"], json!({"f:spec": {}}));
        assert_eq!(scene.object().at(&["spec", "taints"]).map(Value::is_array), Some(true));
    }
}

#[test]
fn several_conflicts_are_grouped_by_owner() {
    let mut scene = Scene::new("apps/v1", "Deployment");
    let config = |replicas: i64, paused: bool| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
            "spec": {"replicas": replicas, "paused": paused}, "status": {"observedGeneration": replicas}})
    };
    scene
        .apply(
            "other",
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"paused": true}}),
        )
        .expect("applied");
    scene.patch("hpa", "scale", |o| o.set(&["spec", "replicas"], 5));
    scene.patch("ctl", "status", |o| o.set(&["status", "observedGeneration"], 9));
    let status = scene.apply("me", config(1, false)).expect_err("conflicts");
    assert_eq!(
        status.message,
        "Apply failed with 3 conflicts: conflicts with \"ctl\" with subresource \"status\" using apps/v1:\n\
         - .status.observedGeneration\n\
         conflicts with \"hpa\" with subresource \"scale\" using apps/v1:\n- .spec.replicas\n\
         conflicts with \"other\":\n- .spec.paused"
    );
}

#[test]
fn force_takes_fields_over() {
    let mut scene = Scene::new("v1", "ConfigMap");
    scene.apply("a", config_map(json!({"k": "1", "mine": "1"}))).expect("applied");
    scene.apply_with("b", true, "", config_map(json!({"k": "2"}))).expect("forced");
    assert_eq!(scene.owners(), json!({"a/Apply": {"f:data": {"f:mine": {}}}, "b/Apply": {"f:data": {"f:k": {}}}}));
    assert_eq!(scene.object().at(&["data", "k"]), Some(&json!("2")));
}

#[test]
fn an_update_takes_ownership_from_an_applier() {
    let mut scene = Scene::new("v1", "ConfigMap");
    scene.apply("a", config_map(json!({"k": "1", "l": "1"}))).expect("applied");
    scene.patch("kubectl-edit", "", |o| o.set(&["data", "k"], "2"));
    assert_eq!(
        scene.owners(),
        json!({"a/Apply": {"f:data": {"f:l": {}}}, "kubectl-edit/Update": {"f:data": {"f:k": {}}}})
    );
    scene.apply("a", config_map(json!({"k": "1", "l": "1"}))).expect_err("a conflict");
    scene.apply("a", config_map(json!({"k": "2", "l": "1"}))).expect("the same value is no conflict");
    scene.apply("a", config_map(json!({"l": "1"}))).expect("given up");
    assert_eq!(scene.object().at(&["data", "k"]), Some(&json!("2")), "the updater still owns it");
}

#[test]
fn removing_by_update_removes_ownership() {
    let mut scene = Scene::new("v1", "ConfigMap");
    scene.apply("a", config_map(json!({"k": "1", "l": "1"}))).expect("applied");
    scene.patch("u", "", |o| drop(o.remove(&["data", "k"])));
    assert_eq!(scene.owners(), json!({"a/Apply": {"f:data": {"f:l": {}}}}));
}

#[test]
fn what_an_applier_no_longer_says_goes() {
    let mut scene = Scene::new("v1", "Pod");
    let full =
        pod(json!([{"name": "a", "image": "x", "env": [{"name": "E", "value": "1"}, {"name": "F", "value": "2"}],
        "livenessProbe": {"tcpSocket": {"port": 1}}}, {"name": "b", "image": "y"}]));
    scene.apply("a", full).expect("applied");
    scene.apply("a", pod(json!([{"name": "a", "image": "x", "env": [{"name": "F", "value": "2"}]}]))).expect("applied");
    assert_eq!(
        scene.object().at(&["spec", "containers"]),
        Some(&json!([{"name": "a", "image": "x", "env": [{"name": "F", "value": "2"}]}]))
    );
}

#[test]
fn a_list_item_stays_while_somebody_else_owns_it() {
    let mut scene = Scene::new("v1", "Pod");
    scene.apply("a", pod(json!([{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]))).expect("applied");
    scene.apply("other", pod(json!([{"name": "b", "workingDir": "/"}]))).expect("applied");
    scene.apply("a", pod(json!([{"name": "a", "image": "x"}]))).expect("applied");
    assert_eq!(
        scene.object().at(&["spec", "containers"]),
        Some(&json!([{"name": "a", "image": "x"}, {"name": "b", "workingDir": "/"}]))
    );
}

#[test]
fn a_list_item_goes_if_others_own_only_fields_in_it() {
    let mut scene = Scene::new("v1", "Pod");
    scene.apply("a", pod(json!([{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]))).expect("applied");
    scene.patch("u", "", |o| o.entry(&["spec", "containers"])[1]["workingDir"] = "/".into());
    scene.apply("a", pod(json!([{"name": "a", "image": "x"}]))).expect("applied");
    assert_eq!(scene.object().at(&["spec", "containers"]), Some(&json!([{"name": "a", "image": "x"}])));
    assert_eq!(scene.owners().get("u/Update"), None, "and with it what they owned");
}

#[test]
fn unowned_fields_of_a_removed_item_go_with_it() {
    let mut scene = Scene::new("v1", "Pod");
    scene.apply("a", pod(json!([{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]))).expect("applied");
    // As defaulting does: after ownership was recorded, owned by nobody.
    scene.live.as_mut().expect("live").entry(&["spec", "containers"])[1]["terminationMessagePath"] = "/dev/log".into();
    scene.apply("a", pod(json!([{"name": "a", "image": "x"}]))).expect("applied");
    assert_eq!(scene.object().at(&["spec", "containers"]), Some(&json!([{"name": "a", "image": "x"}])));
}

#[test]
fn nested_keys_are_defaulted() {
    let mut scene = Scene::new("v1", "Service");
    scene.apply("a", service(json!([{"port": 80, "name": "w"}]))).expect("applied");
    let key = "k:{\"port\":80,\"protocol\":\"TCP\"}";
    assert_eq!(
        scene.owners(),
        json!({"a/Apply": {"f:spec": {"f:ports": {key: {".": {}, "f:name": {}, "f:port": {}}}}}})
    );
    // The default is written into the object, and the next apply without it means the same item.
    scene.live.as_mut().expect("live").entry(&["spec", "ports"])[0]["protocol"] = "TCP".into();
    scene
        .apply("a", service(json!([{"port": 80, "name": "v"}, {"port": 80, "protocol": "UDP", "name": "u"}])))
        .expect("applied");
    assert_eq!(
        scene.object().at(&["spec", "ports"]),
        Some(&json!([{"port": 80, "name": "v", "protocol": "TCP"}, {"port": 80, "protocol": "UDP", "name": "u"}]))
    );
}

#[test]
fn duplicate_keys_are_refused() {
    let mut scene = Scene::new("v1", "Service");
    let status =
        scene.apply("a", service(json!([{"port": 80}, {"port": 80, "protocol": "TCP"}]))).expect_err("duplicates");
    assert_eq!(
        (status.code, status.message.as_str()),
        (
            500,
            "failed to create typed patch object (/s; /v1, Kind=Service): .spec.ports: duplicate entries for key [port=80,protocol=\"TCP\"]"
        )
    );
}

#[test]
fn a_key_that_is_left_out_is_the_zero_that_go_writes() {
    let mut scene = Scene::new("v1", "Service");
    scene.apply("a", service(json!([{"name": "x"}]))).expect("validation is not apply's");
    let twice = scene.apply("a", service(json!([{"name": "x"}, {"port": 0}]))).expect_err("both are port 0");
    assert!(twice.message.contains("duplicate entries for key [port=0,protocol=\"TCP\"]"), "{}", twice.message);
}

#[test]
fn atomic_lists_are_owned_and_replaced_whole() {
    let mut scene = Scene::new("v1", "Pod");
    scene.apply("a", pod(json!([{"name": "a", "args": ["1", "2"]}]))).expect("applied");
    scene.apply("b", pod(json!([{"name": "a", "args": ["1"]}]))).expect_err("a conflict");
    scene.apply_with("b", true, "", pod(json!([{"name": "a", "args": ["3"]}]))).expect("forced");
    assert_eq!(scene.object().at(&["spec", "containers"]), Some(&json!([{"name": "a", "args": ["3"]}])));
    let key = "k:{\"name\":\"a\"}";
    assert_eq!(scene.owners()["a/Apply"]["f:spec"]["f:containers"][key], json!({".": {}, "f:name": {}}));
    assert_eq!(scene.owners()["b/Apply"]["f:spec"]["f:containers"][key], json!({".": {}, "f:name": {}, "f:args": {}}));
}

#[test]
fn atomic_maps_are_owned_and_replaced_whole() {
    let mut scene = Scene::new("v1", "Service");
    let config = |selector: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"selector": selector}});
    scene.apply("a", config(json!({"x": "1", "y": "1"}))).expect("applied");
    assert_eq!(scene.owners(), json!({"a/Apply": {"f:spec": {"f:selector": {}}}}));
    scene.apply("a", config(json!({"x": "1"}))).expect("applied");
    assert_eq!(scene.object().at(&["spec", "selector"]), Some(&json!({"x": "1"})));
}

#[test]
fn finalizers_are_a_set() {
    let mut scene = Scene::new("v1", "ConfigMap");
    let config = |finalizers: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "finalizers": finalizers}});
    scene.apply("a", config(json!(["x/a"]))).expect("applied");
    scene.apply("b", config(json!(["x/b"]))).expect("applied");
    assert_eq!(scene.object().finalizers(), ["x/a", "x/b"]);
    assert_eq!(scene.owners()["b/Apply"], json!({"f:metadata": {"f:finalizers": {"v:\"x/b\"": {}}}}));
    scene.apply("a", config(json!([]))).expect("applied");
    assert_eq!(scene.object().finalizers(), ["x/b"]);
}

#[test]
fn items_follow_the_order_of_the_configuration() {
    let mut scene = Scene::new("v1", "Pod");
    let containers = |names: &[&str]| pod(names.iter().map(|name| json!({ "name": name })).collect());
    let order = |scene: &Scene| -> Vec<String> {
        let object = scene.object();
        object
            .list_at(&["spec", "containers"])
            .iter()
            .map(|c| c["name"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    for (live, config, expected) in [
        (&["a", "b", "c"][..], &["c", "a"][..], &["b", "c", "a"][..]),
        (&["a", "b"], &["b", "a", "d"], &["b", "a", "d"]),
        (&["a", "b", "c"], &["d", "b"], &["a", "d", "b", "c"]),
        (&["a"], &["x", "a", "y"], &["x", "a", "y"]),
        (&[], &["b", "a"], &["b", "a"]),
    ] {
        scene.live = None;
        if !live.is_empty() {
            scene.update("u", containers(live));
        }
        scene.apply("a", containers(config)).expect("applied");
        assert_eq!(order(&scene), expected, "{live:?} + {config:?}");
    }
}

#[test]
fn status_has_an_entry_of_its_own() {
    let mut scene = Scene::new("v1", "Pod");
    scene.update("kubectl-run", pod(json!([{"name": "a", "image": "x"}])));
    scene.patch("kubelet", "status", |o| {
        o.set(&["status", "phase"], "Running");
        o.set(&["status", "conditions"], json!([{"type": "Ready", "status": "True"}]));
    });
    assert_eq!(
        scene.owners()["kubelet/Update/status"],
        json!({"f:status": {"f:phase": {}, "f:conditions": {".": {}, "k:{\"type\":\"Ready\"}": {".": {}, "f:type": {}, "f:status": {}}}}})
    );
    scene.patch("kubelet", "status", |o| o.set(&["status", "podIP"], "10.0.0.1"));
    assert_eq!(scene.owners()["kubelet/Update/status"]["f:status"]["f:podIP"], json!({}));
    assert_eq!(scene.owners().as_object().map(Map::len), Some(2));
}

#[test]
fn ignored_fields_are_owned_by_nobody() {
    let mut scene = Scene::new("v1", "Pod");
    let ignored = FieldSet::from_fields(&[&["status"]]);
    let mut new = Object::from_value(pod(json!([{"name": "a"}]))).expect("an object");
    new.set(&["status", "phase"], "Running");
    let opts = UpdateOptions {
        manager: "m",
        api_version: "v1",
        now: scene.now(),
        ignored: Some(&ignored),
        ..Default::default()
    };
    update(None, &mut new, &opts, &scene.schema);
    scene.live = Some(new);
    assert_eq!(scene.owners()["m/Update"].get("f:status"), None);
}

#[test]
fn a_no_op_changes_nothing_at_all() {
    let mut scene = Scene::new("v1", "ConfigMap");
    scene.apply("a", config_map(json!({"k": "1"}))).expect("applied");
    let before = scene.live.clone();
    scene.apply("a", config_map(json!({"k": "1"}))).expect("applied");
    assert_eq!(scene.live, before);
    scene.patch("u", "", |_| {});
    assert_eq!(scene.live, before);
    scene.patch("u", "", |o| drop(o.remove(&["metadata", "managedFields"])));
    assert_eq!(scene.live, before, "a client that does not know managedFields does not remove them");
    assert_eq!(scene.time_of("a"), "1970-01-01T00:00:01Z");
    scene.apply("a", config_map(json!({"k": "2"}))).expect("applied");
    assert_eq!(scene.time_of("a"), "1970-01-01T00:00:05Z");
}

#[test]
fn untouched_entries_keep_their_time() {
    let mut scene = Scene::new("v1", "ConfigMap");
    scene.update("u", config_map(json!({"k": "1", "l": "1"})));
    scene.patch("v", "", |o| o.set(&["data", "k"], "2"));
    assert_eq!(scene.time_of("u"), "1970-01-01T00:00:01Z", "losing a field is not writing");
    assert_eq!(scene.time_of("v"), "1970-01-01T00:00:02Z");
}

#[test]
fn fields_from_before_the_first_apply_are_owned() {
    let mut scene = Scene::new("v1", "ConfigMap");
    let mut object = Object::from_value(config_map(json!({"k": "1", "l": "1"}))).expect("an object");
    object.set(&["metadata", "uid"], "u");
    scene.live = Some(object);
    scene.patch("u", "", |o| o.set(&["data", "k"], "0"));
    assert_eq!(scene.owners(), json!({}), "an object without ownership stays so");
    let status = scene.apply("a", config_map(json!({"k": "2"}))).expect_err("a conflict");
    assert_eq!(status.message, "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.k");
    scene.apply_with("a", true, "", config_map(json!({"k": "2"}))).expect("forced");
    assert_eq!(
        scene.owners(),
        json!({"a/Apply": {"f:data": {"f:k": {}}}, "before-first-apply/Update": {"f:data": {".": {}, "f:l": {}}}})
    );
}

#[test]
fn the_oldest_updaters_become_ancient() {
    let mut scene = Scene::new("v1", "ConfigMap");
    scene.update("u00", config_map(json!({"k00": "1"})));
    for i in 1..14 {
        scene.patch(&format!("u{i:02}"), "", |o| o.set(&["data", &format!("k{i:02}")], "1"));
    }
    let owners = scene.owners();
    let names: Vec<&String> = owners.as_object().expect("owners").keys().collect();
    assert_eq!(names.len(), 10);
    assert_eq!(
        owners["ancient-changes/Update"],
        json!({"f:data": {".": {}, "f:k00": {}, "f:k01": {}, "f:k02": {}, "f:k03": {}, "f:k04": {}}})
    );
    assert_eq!(scene.time_of("ancient-changes"), "1970-01-01T00:00:05Z");
}

#[test]
fn ownership_can_be_cleared_and_set_but_not_by_a_subresource() {
    for list in [json!([]), json!([{}])] {
        let mut scene = Scene::new("v1", "ConfigMap");
        scene.update("u", config_map(json!({"k": "1"})));
        scene.patch("v", "", |o| o.set(&["metadata", "managedFields"], list.clone()));
        assert_eq!(scene.owners(), json!({}), "{list}");
    }
    let mut scene = Scene::new("v1", "ConfigMap");
    scene.update("u", config_map(json!({"k": "1"})));
    let entry = json!([{"manager": "x", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:k": {}}}}]);
    scene.patch("v", "status", |o| o.set(&["metadata", "managedFields"], json!([{}])));
    assert_eq!(scene.owners(), json!({"u/Update": {"f:data": {".": {}, "f:k": {}}}}));
    scene.patch("v", "", |o| o.set(&["metadata", "managedFields"], json!([{"manager": "broken"}])));
    assert_eq!(scene.owners(), json!({"u/Update": {"f:data": {".": {}, "f:k": {}}}}));
    scene.patch("v", "", |o| o.set(&["metadata", "managedFields"], entry.clone()));
    assert_eq!(scene.owners(), json!({"x/Apply": {"f:data": {"f:k": {}}}}));
}

#[test]
fn kubectl_takes_over_from_its_client_side_self() {
    let last = config_map(json!({"k": "1"})).to_string();
    let mut live = config_map(json!({"k": "1"}));
    live["metadata"]["annotations"] = json!({ LAST_APPLIED: last });
    let mut scene = Scene::new("v1", "ConfigMap");
    scene.update("kubectl-client-side-apply", live.clone());
    scene.apply("other", config_map(json!({"k": "2"}))).expect_err("only for kubectl");
    scene.apply("kubectl", config_map(json!({"k": "2"}))).expect("no conflict with itself");
    let object = scene.object();
    let text = object.annotation(LAST_APPLIED).expect("still there");
    assert_eq!(serde_json::from_str::<Value>(text).expect("JSON"), config_map(json!({"k": "2"})));

    scene.live = None;
    scene.update("kubectl-client-side-apply", live);
    scene.patch("edit", "", |o| o.set(&["data", "k"], "3"));
    scene.apply("kubectl", config_map(json!({"k": "2"}))).expect_err("somebody changed it since");
}

#[test]
fn bad_configurations_are_refused() {
    let mut scene = Scene::new("v1", "ConfigMap");
    let mut with = config_map(json!({}));
    with["metadata"]["managedFields"] = json!([]);
    assert_eq!(scene.apply("a", with).expect_err("refused").message, "metadata.managedFields must be nil");
    let other = json!({"apiVersion": "v2", "kind": "ConfigMap", "metadata": {"name": "c"}});
    let status = scene.apply("a", other).expect_err("refused");
    assert_eq!((status.code, status.message.as_str()), (400, "invalid object type: /v2, Kind=ConfigMap"));
}

#[test]
fn an_applier_that_says_nothing_owns_nothing() {
    let mut scene = Scene::new("v1", "ConfigMap");
    scene.apply("a", config_map(json!({"k": "1"}))).expect("applied");
    scene.apply("a", json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}})).expect("applied");
    assert_eq!(scene.owners(), json!({}));
    assert_eq!(scene.object().at(&["data"]), None);
}

#[test]
fn labels_of_several_owners_stay_apart() {
    let mut scene = Scene::new("v1", "ConfigMap");
    let config =
        |labels: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "labels": labels}});
    scene.apply("a", config(json!({"a": "1"}))).expect("applied");
    scene.apply("b", config(json!({"b": "1"}))).expect("applied");
    scene.apply("a", config(json!({}))).expect("applied");
    assert_eq!(scene.object().at(&["metadata", "labels"]), Some(&json!({"b": "1"})));
}

#[test]
fn what_no_schema_knows_is_granular_with_atomic_lists() {
    let schema = Schema::any();
    let opts = UpdateOptions { manager: "m", api_version: "x/v1", ..Default::default() };
    let mut new = Object::from_value(json!({"apiVersion": "x/v1", "kind": "X", "metadata": {"name": "x"}, "spec": {"a": [{"name": "b"}], "c": {"d": 1}}}))
        .expect("an object");
    update(None, &mut new, &opts, &schema);
    assert_eq!(
        new.list_at(&["metadata", "managedFields"])[0]["fieldsV1"],
        json!({"f:spec": {".": {}, "f:a": {}, "f:c": {".": {}, "f:d": {}}}})
    );
}

#[test]
fn empty_maps_of_the_metadata_are_none() {
    let config_map = |annotations: Value, data: &str| {
        let metadata = json!({"name": "c", "annotations": annotations, "finalizers": []});
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"k": data}})
    };
    // What `kubectl diff` sends for an object without the annotation of client-side apply.
    let mut scene = Scene::new("v1", "ConfigMap");
    scene.update(
        "creator",
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"k": "1"}}),
    );
    scene.update("kubectl-client-side-apply", config_map(json!({}), "2"));
    assert_eq!(
        scene.owners(),
        json!({"creator/Update": {"f:data": {}}, "kubectl-client-side-apply/Update": {"f:data": {"f:k": {}}}})
    );
    // Whoever takes the last annotation away takes the map away, as `kubectl annotate a-` does.
    let mut scene = Scene::new("v1", "ConfigMap");
    scene.update("creator", config_map(json!({"a": "b"}), "1"));
    scene.update("kubectl-annotate", config_map(json!({}), "1"));
    assert_eq!(scene.owners(), json!({"creator/Update": {"f:data": {".": {}, "f:k": {}}}}));
    // One of several leaves the map with who made it.
    let mut scene = Scene::new("v1", "ConfigMap");
    scene.update("creator", config_map(json!({"a": "b", "c": "d"}), "1"));
    scene.update("other", config_map(json!({"a": "x", "c": "x"}), "1"));
    assert_eq!(
        scene.owners(),
        json!({"creator/Update": {"f:data": {".": {}, "f:k": {}}, "f:metadata": {"f:annotations": {}}},
            "other/Update": {"f:metadata": {"f:annotations": {"f:a": {}, "f:c": {}}}}})
    );
    // A configuration is no Go value: who applies an empty map owns it.
    let mut scene = Scene::new("v1", "ConfigMap");
    let applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "annotations": {}}});
    scene.apply("applier", applied).expect("applies");
    assert_eq!(scene.owners(), json!({"applier/Apply": {"f:metadata": {"f:annotations": {}}}}));
}

#[test]
fn empty_structures_and_other_lists_are_something() {
    let mut scene = Scene::new("v1", "Pod");
    let volume = json!([{"name": "v", "emptyDir": {}}]);
    scene.update("u", json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"volumes": volume, "nodeSelector": {}}}));
    let own =
        json!({"f:spec": {"f:volumes": {".": {}, "k:{\"name\":\"v\"}": {".": {}, "f:emptyDir": {}, "f:name": {}}}}});
    assert_eq!(scene.owners(), json!({ "u/Update": own }));
    let mut scene = Scene::new("discovery.k8s.io/v1", "EndpointSlice");
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "s"},
        "addressType": "IPv4", "endpoints": [], "ports": []});
    scene.update("u", slice);
    assert_eq!(scene.owners(), json!({"u/Update": {"f:addressType": {}, "f:endpoints": {}, "f:ports": {}}}));
}

#[test]
fn nobody_owns_what_go_always_writes_until_it_holds_something() {
    let owned = |kind: &str, mut object: Value| {
        let version = if kind == "Deployment" { "apps/v1" } else { "v1" };
        let mut scene = Scene::new(version, kind);
        for (key, value) in [("apiVersion", json!(version)), ("kind", json!(kind)), ("metadata", json!({"name": "x"}))]
        {
            object[key] = value;
        }
        scene.update("u", object);
        scene.owners()["u/Update"].clone()
    };
    // A time and a list that are null, structures and texts without anything in them.
    let event =
        json!({"firstTimestamp": null, "involvedObject": {}, "source": {}, "reportingComponent": "", "reason": "r"});
    assert_eq!(owned("Event", event), json!({"f:reason": {}}));
    let first = json!({"firstTimestamp": "2026-01-01T00:00:00Z", "source": {"host": "h"}});
    assert_eq!(owned("Event", first), json!({"f:firstTimestamp": {}, "f:source": {"f:host": {}}}));
    let deployment =
        json!({"spec": {"selector": null, "strategy": {}, "template": {"metadata": {}, "spec": {"containers": null}}}});
    assert_eq!(owned("Deployment", deployment), Value::Null);
    let selected = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}});
    assert_eq!(owned("Deployment", selected), json!({"f:spec": {"f:selector": {}}}));
    // What was not there before is new with all that is in it.
    let status = json!({"status": {"conditions": [{"type": "A", "status": "", "lastProbeTime": null}]}});
    let fields = json!({".": {}, "f:type": {}, "f:status": {}, "f:lastProbeTime": {}});
    assert_eq!(owned("Pod", status), json!({"f:status": {"f:conditions": {".": {}, "k:{\"type\":\"A\"}": fields}}}));
}

#[test]
fn configurations_of_other_types_are_refused_in_upstreams_words() {
    let schema = Schema::for_kind(&crate::GroupVersionKind::new("", "v1", "Pod")).expect("a built-in kind");
    for (config, text) in [
        (json!({"spec": "x"}), ".spec: expected map, got &{x}"),
        (json!({"metadata": {"labels": 1}}), ".metadata.labels: expected map, got &{1}"),
        (
            json!({"metadata": {"name": {"x": "y"}}}),
            r#".metadata.name: expected string, got &value.valueUnstructured{Value:map[string]interface {}{"x":"y"}}"#,
        ),
        (json!({"spec": {"containers": 1}}), ".spec.containers: expected list, got &{1}"),
        (json!({"status": {"startTime": {"a": 1}}}), ".status.startTime: expected any scalar, got &{map[a:1]}"),
        (json!({"spec": {"priority": "1"}}), ".spec.priority: expected numeric (int or float), got string"),
        (json!({"spec": {"hostNetwork": "1"}}), ".spec.hostNetwork: expected boolean, got &{1}"),
        (
            json!({"spec": {"containers": ["x", "y"]}}),
            ".spec.containers: element 0: associative list with keys may not have non-map elements",
        ),
        (
            json!({"spec": {"containers": [{"name": "a", "command": [1]}]}}),
            r#".spec.containers[name="a"].command[0]: expected string, got &value.valueUnstructured{Value:1}"#,
        ),
        (
            json!({"spec": {"containers": [{"name": "a", "x": 1, "y": 2}]}}),
            "errors:\n  .spec.containers[name=\"a\"].x: field not declared in schema\n  .spec.containers[name=\"a\"].y: field not declared in schema",
        ),
        (
            json!({"spec": {"containers": [{"name": {"x": "y"}}]}}),
            r#".spec.containers[name=x="y"].name: expected string, got &value.valueUnstructured{Value:map[string]interface {}{"x":"y"}}"#,
        ),
        (json!({"spec": {"overhead": {"cpu": []}}}), ".spec.overhead.cpu: expected any scalar, got &{[]}"),
        (
            json!({"spec": {"nodeName": 1, "hostname": 2}}),
            "errors:\n  .spec.hostname: expected string, got &value.valueUnstructured{Value:2}\n  .spec.nodeName: expected string, got &value.valueUnstructured{Value:1}",
        ),
    ] {
        let fields = config.as_object().expect("an object");
        assert_eq!(check(fields, &schema).expect_err("refused"), text);
    }
    let fine =
        json!({"spec": {"nodeName": null, "overhead": {"cpu": 1}, "containers": [{"name": "a", "resources": null}]}});
    check(fine.as_object().expect("an object"), &schema).expect("nulls and scalars");
}
