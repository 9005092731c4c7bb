use super::*;
use serde_json::{Value, json};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

async fn sync(root: &Path, volume: Value) -> Result<SyncedVolume, String> {
    let cx = context(root, volume);
    Ok(sync_all(&plugins(), &cx, root).await?.remove("v").unwrap())
}

fn context(root: &Path, volume: Value) -> Context {
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
    Context {
        pod: Arc::new(serde_json::from_value(pod).unwrap()),
        configs: Arc::new(configs),
        facts: Arc::default(),
        allocatable: Arc::default(),
        tokens: Arc::new(Tokens::new(crate::tests::FakeApi::new().client())),
        persistent: Arc::default(),
        linux: false,
        first: true,
        ownership: Ownership::default(),
        now: Timestamp::UNIX_EPOCH,
        dir: root.to_owned(),
        private: PrivateDir::new(root.join("none")),
        budget: FileBudget::default(),
    }
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

#[tokio::test]
async fn a_volume_of_memory_has_the_least_of_three_sizes() {
    for (limit, of_node, expected) in [
        (json!(null), json!({}), Some(64 << 20)),
        (json!("1Mi"), json!({"memory": "1Gi"}), Some(1 << 20)),
        (json!("65Mi"), json!({"memory": "1Gi"}), Some(64 << 20)),
        (json!("0"), json!({"memory": "32Mi"}), Some(32 << 20)),
    ] {
        let volume = json!({"emptyDir": {"medium": "Memory", "sizeLimit": limit}});
        let mut cx = context(Path::new("/none"), volume);
        cx.allocatable = Arc::new(serde_json::from_value(of_node).unwrap());
        let source = pod::spec(&cx.pod).volumes.as_ref().unwrap()[0].empty_dir.clone().unwrap();
        assert_eq!(empty_dir::size(&cx, &source), expected, "{limit}");
    }
}

/// Statistics of a path: mode, user, group.
fn owned(path: &Path) -> (u32, u32, u32) {
    let found = path.metadata().unwrap();
    (found.mode() & 0o7777, found.uid(), found.gid())
}

#[tokio::test]
async fn the_group_of_a_pod_has_its_volumes() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    let of = |volume: Value, linux: bool, first: bool| {
        let mut cx = context(root.path(), volume);
        let mut pod = Pod::clone(&cx.pod);
        let spec = pod.spec.as_mut().unwrap();
        spec.security_context = serde_json::from_value(json!({"fsGroup": 1001, "runAsUser": 1000})).unwrap();
        (cx.ownership, cx.linux, cx.first) = (Ownership::of(&pod, linux), linux, first);
        let claim = json!({"v": {"spec": {"csi": {"driver": LOCAL_VOLUMES, "volumeHandle": "claim"}}}});
        cx.persistent =
            Arc::new(PersistentVolumes { volumes: serde_json::from_value(claim).unwrap(), root: at("kept") });
        cx.pod = Arc::new(pod);
        cx
    };
    let (secret, claim) = (
        json!({"secret": {"secretName": "s", "defaultMode": 0o400}}),
        json!({"persistentVolumeClaim": {"claimName": "c"}}),
    );
    let token = json!({"projected": {"defaultMode": 0o644, "sources": [{"serviceAccountToken": {"path": "token"}}]}});
    let all = plugins();
    sync_all(&all, &of(secret.clone(), false, true), root.path()).await.unwrap();
    assert_eq!(owned(&at("v/k")), (0o400, 0, 0), "modules have no users");
    sync_all(&all, &of(secret, true, false), root.path()).await.unwrap();
    assert_eq!(owned(&at("v/k")), (0o440, 0, 1001));
    sync_all(&all, &of(token, true, true), root.path()).await.unwrap();
    assert_eq!(owned(&at("v/token")), (0o640, 1000, 1001));
    tree::remove(&at("v")).unwrap();
    sync_all(&all, &of(json!({"emptyDir": {}}), true, true), root.path()).await.unwrap();
    assert_eq!(owned(&at("v")), (0o2777, 0, 1001));

    std::fs::create_dir_all(at("kept/claim")).unwrap();
    std::fs::write(at("kept/claim/file"), "").unwrap();
    std::fs::set_permissions(at("kept/claim/file"), std::fs::Permissions::from_mode(0o600)).unwrap();
    sync_all(&all, &of(claim.clone(), true, false), root.path()).await.unwrap();
    assert_eq!(owned(&at("kept/claim/file")), (0o600, 0, 0), "once, when it is set up");
    let read_only = json!({"persistentVolumeClaim": {"claimName": "c", "readOnly": true}});
    sync_all(&all, &of(read_only, true, true), root.path()).await.unwrap();
    assert_eq!(owned(&at("kept/claim/file")), (0o600, 0, 0), "whoever may not write gives nothing");
    sync_all(&all, &of(claim, true, true), root.path()).await.unwrap();
    assert_eq!(owned(&at("kept/claim/file")), (0o660, 0, 1001));
}

#[test]
fn what_a_pod_asks_for_in_vain_is_told() {
    let notice = Some(Notice { reason: "MemoryVolumeOnDisk", text: "t".into() });
    let synced =
        |notice| SyncedVolume { path: "/v".into(), owner: Owner::Pod, read_only: false, resync_at: None, notice };
    let volumes = [("a", synced(None)), ("b", synced(notice.clone())), ("c", synced(notice))];
    let volumes = volumes.map(|(name, volume)| (name.to_owned(), volume)).into();
    let reasons = |refused| {
        let ownership = Ownership { refused, ..Ownership::default() };
        notices(&ownership, &volumes).into_iter().map(|notice| notice.reason).collect::<Vec<_>>()
    };
    assert_eq!(reasons(false), ["MemoryVolumeOnDisk"]);
    assert_eq!(reasons(true), ["FSGroupNotGiven", "MemoryVolumeOnDisk"]);
}
