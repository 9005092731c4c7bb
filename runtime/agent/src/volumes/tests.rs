use super::*;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;

async fn sync(root: &Path, volume: Value) -> Result<SyncedVolume, String> {
    let mut volume = volume;
    volume["name"] = "v".into();
    let pod = json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "b"}},
        "spec": {"volumes": [volume], "containers": [{"name": "c", "resources": {"limits": {"memory": "64Mi"}}}]}
    });
    let object = |data: Value| serde_json::from_value(json!({"data": data})).unwrap();
    let configs = Configs {
        config_maps: [
            ("cm".to_owned(), Some(Arc::new(object(json!({"a": "1", "b": "2"}))))),
            ("none".to_owned(), None),
            ("big".to_owned(), Some(Arc::new(object(json!({"k": "x".repeat(1 << 20)}))))),
        ]
        .into(),
        secrets: [("s".to_owned(), Some(Arc::new(serde_json::from_value(json!({"data": {"k": "Mg=="}})).unwrap())))]
            .into(),
        services: Vec::new(),
    };
    let cx = Context {
        pod: Arc::new(serde_json::from_value(pod).unwrap()),
        configs: Arc::new(configs),
        facts: Arc::default(),
        allocatable: Arc::default(),
        tokens: Arc::new(Tokens::new(crate::tests::FakeApi::new().client())),
        persistent: Arc::default(),
        now: Timestamp::UNIX_EPOCH,
        dir: root.to_owned(),
        private: PrivateDir::new(root.join("none")),
        budget: FileBudget::default(),
    };
    Ok(sync_all(&plugins(), &cx, root).await?.remove("v").unwrap())
}

/// Names, contents and modes of a volume's files.
fn shown(path: &Path) -> Vec<(String, String, u32)> {
    let visible = |e: &std::fs::DirEntry| !e.file_name().to_string_lossy().starts_with("..");
    let mut all: Vec<_> = std::fs::read_dir(path)
        .unwrap()
        .flatten()
        .filter(visible)
        .map(|e| {
            let mode = e.path().metadata().unwrap().permissions().mode() & 0o777;
            (e.file_name().into_string().unwrap(), std::fs::read_to_string(e.path()).unwrap(), mode)
        })
        .collect();
    all.sort();
    all
}

#[tokio::test]
async fn one_object_does_not_become_any_amount_of_files() {
    let volume = |count: usize| {
        let items: Vec<_> = (0..count).map(|i| json!({"key": "k", "path": format!("f{i}")})).collect();
        json!({"projected": {"sources": [{"configMap": {"name": "big", "items": items}}]}})
    };
    let root = tempfile::tempdir().unwrap();
    let recorded = sync(root.path(), volume(3)).await.unwrap();
    assert_eq!(shown(&recorded.path).len(), 3);
    let root = tempfile::tempdir().unwrap();
    let error = sync(root.path(), volume(65)).await.unwrap_err();
    assert!(error.contains("more than 64 MiB together"), "{error}");
    assert!(!root.path().join("v").exists(), "nothing is written");
}

#[tokio::test]
async fn a_source_that_this_program_does_not_know_is_refused() {
    // The API server sets emptyDir if a volume has no source. Without any known source, the volume has one of a newer API.
    let root = tempfile::tempdir().unwrap();
    let error = sync(root.path(), json!({"quantumDisk": {}})).await.unwrap_err();
    assert!(error.contains("no volume plugin matched"), "{error}");
    assert!(!root.path().join("v").exists(), "nothing is made");
}

#[tokio::test]
async fn each_source_shows_its_files() {
    for (volume, expected) in [
        (json!({"configMap": {"name": "cm"}}), vec![("a", "1", 0o644), ("b", "2", 0o644)]),
        (
            json!({"configMap": {"name": "cm", "defaultMode": 0o400, "items": [{"key": "b", "path": "x", "mode": 0o600}, {"key": "a", "path": "y"}]}}),
            vec![("x", "2", 0o600), ("y", "1", 0o400)],
        ),
        (json!({"configMap": {"name": "none", "optional": true}}), vec![]),
        (json!({"secret": {"secretName": "s"}}), vec![("k", "2", 0o644)]),
        (
            json!({"downwardAPI": {"items": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                {"path": "mem", "resourceFieldRef": {"containerName": "c", "resource": "limits.memory", "divisor": "1Mi"}}]}}),
            vec![("labels", "a=\"b\"", 0o644), ("mem", "64", 0o644)],
        ),
        (
            json!({"projected": {"defaultMode": 0o440, "sources": [
                {"configMap": {"name": "cm", "items": [{"key": "a", "path": "a"}]}}, {"secret": {"name": "s"}}]}}),
            vec![("a", "1", 0o440), ("k", "2", 0o440)],
        ),
        (json!({"emptyDir": {"sizeLimit": "1Mi"}}), vec![]),
    ] {
        let root = tempfile::tempdir().unwrap();
        let synced = sync(root.path(), volume.clone()).await.unwrap();
        let expected: Vec<_> = expected.into_iter().map(|(n, t, m)| (n.to_owned(), t.to_owned(), m)).collect();
        assert_eq!(shown(&synced.path), expected, "{volume}");
    }
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let root = tempfile::tempdir().unwrap();
    for (volume, text) in [
        (json!({"configMap": {"name": "none"}}), "configmap \"none\" not found"),
        (json!({"secret": {"secretName": "none"}}), "secret \"none\" not found"),
        (
            json!({"configMap": {"name": "cm", "items": [{"key": "z", "path": "z"}]}}),
            "references non-existent config key: z",
        ),
        (
            json!({"secret": {"secretName": "s", "items": [{"key": "z", "path": "z"}]}}),
            "references non-existent secret key: z",
        ),
    ] {
        let error = sync(root.path(), volume).await.unwrap_err();
        assert_eq!(error, format!("MountVolume.SetUp failed for volume \"v\" : {text}"));
    }
    let error = sync(root.path(), json!({"nfs": {"server": "s", "path": "/"}})).await.unwrap_err();
    assert!(error.contains("no volume plugin matched"), "{error}");
}

#[tokio::test]
async fn host_paths_are_checked_by_type() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("file"), "").unwrap();
    for (path, kind, passes) in [
        ("none", "", true),
        ("new", "DirectoryOrCreate", true),
        ("new", "Directory", true),
        ("new", "File", false),
        ("file", "File", true),
        ("file", "DirectoryOrCreate", false),
        ("made", "FileOrCreate", true),
        ("none", "Socket", false),
        ("none", "Odd", false),
    ] {
        let synced = sync(root.path(), json!({"hostPath": {"path": at(path), "type": kind}})).await;
        assert_eq!(synced.is_ok(), passes, "{path} {kind}: {synced:?}");
    }
    let error = sync(root.path(), json!({"hostPath": {"path": at("file"), "type": "Directory"}})).await.unwrap_err();
    assert!(error.ends_with(&format!("hostPath type check failed: {} is not a directory", at("file"))), "{error}");
}
