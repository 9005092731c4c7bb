//! Each captured scenario against a server that holds the objects of `state.json`.

use crate::{Answer, Wire, here, render};
use expect_test::expect_file;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fmt::Write, fs};

/// One captured request. `@` stands for what only the server knows: a revision or a continue token.
#[derive(Deserialize)]
struct Captured {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: Value,
    file: Option<String>,
}

/// A server with the captured objects, under new uids.
struct World {
    wire: Wire,
    uids: BTreeMap<String, String>,
    page: String,
}

const JSON: &str = "application/json";

impl World {
    async fn new() -> Self {
        let mut world = Self { wire: Wire::new().await, uids: BTreeMap::new(), page: String::new() };
        let state: Vec<Value> = serde_json::from_slice(&fs::read(here("state.json")).unwrap()).unwrap();
        for object in state {
            world.put(object).await;
        }
        world
    }

    /// Creates an object as it was captured, then gives it its status.
    async fn put(&mut self, object: Value) {
        let text = self.renamed(&object.to_string());
        let mut object: Value = serde_json::from_str(&text).unwrap();
        let word = |name: &str| object[name].as_str().unwrap().to_owned();
        let (kind, version) = (word("kind"), word("apiVersion"));
        let plural = match kind.as_str() {
            "Endpoints" => "endpoints".to_owned(),
            _ => format!("{}s", kind.to_lowercase()),
        };
        let root = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
        let place = match object["metadata"]["namespace"].as_str() {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}"),
            None => format!("{root}/{plural}"),
        };
        if kind == "Job" {
            // The server makes them of the new uid.
            object["spec"].as_object_mut().unwrap().remove("selector");
            object["spec"]["template"].as_object_mut().unwrap().remove("metadata");
        }
        let status = object["status"].take();
        let meta = object["metadata"].as_object_mut().unwrap();
        let (old, name) = (meta.remove("uid").unwrap(), meta["name"].as_str().unwrap().to_owned());
        meta.remove("resourceVersion");
        meta.remove("creationTimestamp");
        object.as_object_mut().unwrap().remove("status");
        let answer = self.send_json("POST", &place, JSON, &object).await;
        let created = answer.json();
        assert_eq!(answer.code, 201, "{name}: {created}");
        self.uids.insert(old.as_str().unwrap().into(), created["metadata"]["uid"].as_str().unwrap().into());
        if !status.is_null() {
            let target = format!("{place}/{name}/status");
            let answer =
                self.send_json("PATCH", &target, "application/merge-patch+json", &json!({"status": status})).await;
            assert_eq!(answer.code, 200, "{name}: {}", answer.json());
        }
    }

    async fn send_json(&self, method: &str, target: &str, media: &str, body: &Value) -> Answer {
        let headers = [("content-type".to_owned(), media.to_owned()), ("user-agent".to_owned(), "state".to_owned())];
        self.wire.send(method, target, &headers, body.to_string().into_bytes()).await
    }

    /// Captured uids become those of this server.
    fn renamed(&self, text: &str) -> String {
        self.uids.iter().fold(text.to_owned(), |text, (old, new)| text.replace(old, new))
    }

    async fn replay(&mut self, request: &Captured) -> Answer {
        let newest = self.wire.store.revision().to_string();
        let target = self.renamed(&request.path).replace("resourceVersion=@", &format!("resourceVersion={newest}"));
        let target = target.replace("continue=@", &format!("continue={}", self.page));
        let body = match (&request.file, &request.body) {
            (Some(file), _) => fs::read(here("requests").join(file)).unwrap(),
            (None, Value::Null) => Vec::new(),
            (None, Value::String(text)) => self.current(&target, text).await,
            (None, body) => self.current(&target, &body.to_string()).await,
        };
        let mut headers: Vec<(String, String)> = request.headers.clone().into_iter().collect();
        headers.push(("user-agent".into(), "kubectl/v1.32.4 (linux/amd64) kubernetes/59526cd".into()));
        let answer = self.wire.send(&request.method, &target, &headers, body).await;
        if let Some(page) = answer.json()["metadata"]["continue"].as_str() {
            self.page = page.to_owned();
        }
        answer
    }

    /// A body with the revision that its object has now.
    async fn current(&self, target: &str, body: &str) -> Vec<u8> {
        let mut body = self.renamed(body);
        if body.contains("\"resourceVersion\":\"@\"") {
            let object = self.wire.get(target.split('?').next().unwrap()).await;
            let revision = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            body = body.replace("\"resourceVersion\":\"@\"", &format!("\"resourceVersion\":\"{revision}\""));
        }
        body.into_bytes()
    }
}

fn captured(scenario: &str) -> Vec<Captured> {
    let text = fs::read_to_string(here("requests").join(format!("{scenario}.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// Replays a scenario after those it builds upon, and compares its answers.
async fn golden(scenario: &str, after: &[&str]) {
    let mut world = World::new().await;
    for before in after {
        for request in captured(before) {
            world.replay(&request).await;
        }
    }
    let mut text = String::new();
    for request in captured(scenario) {
        let answer = world.replay(&request).await;
        writeln!(text, "=== {} {}", request.method, request.path).unwrap();
        if let Some(accept) = request.headers.get("accept") {
            writeln!(text, "accept: {accept}").unwrap();
        }
        if let Some(media) = request.headers.get("content-type") {
            writeln!(text, "content-type: {media}").unwrap();
        }
        match (&request.file, &request.body) {
            (Some(file), _) => writeln!(text, "{file}").unwrap(),
            (None, Value::Null) => {}
            (None, body) => writeln!(text, "{body}").unwrap(),
        }
        writeln!(text, "---\n{}", render::answer(&answer)).unwrap();
    }
    expect_file![here("golden").join(format!("{scenario}.txt"))].assert_eq(&text);
}

macro_rules! scenarios {
    ($($test:ident: $name:literal after $after:expr;)*) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $test() {
                golden($name, &$after).await;
            }
        )*

        #[test]
        fn every_captured_scenario_is_replayed() {
            let mut files: Vec<String> = fs::read_dir(here("requests")).unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter_map(|name| name.strip_suffix(".jsonl").map(str::to_owned))
                .collect();
            files.sort();
            let mut names = vec![$($name),*];
            names.sort_unstable();
            assert_eq!(files, names);
        }
    };
}

scenarios! {
    kubectl_version: "version" after [];
    kubectl_api_resources: "api-resources" after [];
    kubectl_api_versions: "api-versions" after [];
    kubectl_explain: "explain" after [];
    kubectl_get: "get" after [];
    kubectl_get_watch: "watch" after [];
    kubectl_describe: "describe" after [];
    kubectl_apply: "apply" after [];
    kubectl_apply_server_side: "server-side" after [];
    kubectl_diff: "diff" after [];
    kubectl_create: "create" after [];
    kubectl_edit: "edit" after [];
    kubectl_patch: "patch" after [];
    kubectl_replace: "replace" after [];
    kubectl_label: "label" after [];
    kubectl_annotate: "annotate" after [];
    kubectl_set: "set" after [];
    kubectl_scale: "scale" after [];
    kubectl_expose: "expose" after [];
    kubectl_run: "run" after [];
    kubectl_rollout: "rollout" after [];
    kubectl_logs: "logs" after [];
    kubectl_wait: "wait" after [];
    kubectl_auth: "auth" after [];
    kubectl_cluster_info: "cluster-info" after [];
    kubectl_events: "events" after [];
    kubectl_delete: "delete" after ["apply", "create", "run", "expose", "label"];
    kubectl_raw: "raw" after [];
}
