//! Local files become images, with or without others at work in the same store.

#![allow(clippy::unwrap_used, reason = "tests: a panic is the answer")]
#![allow(clippy::disallowed_methods, reason = "a test is told by its environment what it must not skip")]

mod support;

use image::{Artifact, Error, Images, Keyring, Policy};
use serde_json::json;
use std::{
    collections::HashSet,
    fs,
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};
use support::*;
use tempfile::tempdir;

fn wasm(images: &Images, name: &str) -> Vec<u8> {
    match images.get(name).unwrap().unwrap().artifact {
        Artifact::Wasm { path, .. } => fs::read(path).unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn refused(images: &Images, path: &Path, name: Option<&str>) -> String {
    let error = images.load(path, name).await.unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error:?}");
    error.to_string()
}

#[tokio::test]
async fn a_module_is_packaged_the_same_each_time() {
    let folder = tempdir().unwrap();
    let images = store(&folder.path().join("store"), |_| {});
    let file = folder.path().join("Hello World_1.wasm");
    fs::write(&file, module("x")).unwrap();
    let first = images.load(&file, Some("hello:1")).await.unwrap();
    assert_eq!((&*first.name, first.layout), ("docker.io/library/hello:1", "Wasm artifact"));
    assert_eq!(wasm(&images, "hello:1"), module("x"));
    let second = images.load(&file, None).await.unwrap();
    assert_eq!(second.name, "localhost/hello-world-1:latest");
    assert_eq!(second.digest, first.digest);
    assert_eq!(first.digest.to_string(), second.id().split_once('@').unwrap().1);
    // By digest, whatever the repository: what `up -f` writes into a manifest.
    let by_digest = format!("localhost/hello@{}", first.digest);
    let found = images.ensure(&by_digest, Policy::IfNotPresent, &Keyring::new()).await.unwrap();
    assert_eq!(found.artifact, first.artifact);
}

#[tokio::test]
async fn text_becomes_a_module_or_component() {
    let folder = tempdir().unwrap();
    let images = store(&folder.path().join("store"), |_| {});
    let file = folder.path().join("a.wat");
    fs::write(&file, "  (component)").unwrap();
    images.load(&file, Some("a")).await.unwrap();
    assert_eq!(wasm(&images, "a"), component());
    fs::write(&file, "(module (func (export \"x\") (bad)))").unwrap();
    let error = refused(&images, &file, Some("a")).await;
    assert!(error.starts_with(&file.display().to_string()) && error.contains("bad"), "{error}");
}

#[tokio::test]
async fn layouts_and_archives_of_every_kind_are_loaded() {
    let folder = tempdir().unwrap();
    let images = store(&folder.path().join("store"), |_| {});
    let code = module("layered");
    let layer = gzip(&tar(&[Item::File("app.wasm", &code)]));
    let mut blobs = Blobs::default();
    let platform = blobs.image(config("wasi/wasm", &["/app.wasm"]), &[(GZIP, layer.clone())]);
    let linux = json!({"mediaType": MANIFEST, "digest": image::Digest::of(b"left out"), "size": 8});
    let index = blobs.index(&[("linux/amd64", linux), ("wasi/wasm", platform.clone())]);
    let layout = folder.path().join("layout");
    blobs.layout(&layout, &index);
    let loaded = images.load(&layout, Some("layout")).await.unwrap();
    assert_eq!((loaded.digest, loaded.layout), (digest(&index), "WASI platform image"));
    assert_eq!(wasm(&images, "layout"), code);

    // The same as an archive that names itself.
    let mut named = platform.clone();
    named["annotations"] = json!({"io.containerd.image.name": "example.com/team/app:v1"});
    let layout_index = json!({"schemaVersion": 2, "manifests": [named]}).to_string();
    let mut items: Vec<(String, Vec<u8>)> =
        blobs.0.iter().map(|(digest, bytes)| (format!("blobs/sha256/{}", digest.hex()), bytes.clone())).collect();
    items.push(("index.json".into(), layout_index.into_bytes()));
    let items: Vec<_> = items.iter().map(|(name, bytes)| Item::File(name, bytes)).collect();
    for (n, packed) in [tar(&items), gzip(&tar(&items))].into_iter().enumerate() {
        let file = folder.path().join(format!("{n}.tar"));
        fs::write(&file, packed).unwrap();
        let images = store(&folder.path().join(format!("store{n}")), |_| {});
        assert_eq!(images.load(&file, None).await.unwrap().name, "example.com/team/app:v1");
        assert_eq!(wasm(&images, "example.com/team/app:v1"), code);
    }

    // What `docker save` wrote for a long time: layers by folder, repeated ones as links.
    let config = config("linux/amd64", &["/app.wasm"]).1.to_string();
    let saved = json!([{"Config": "c.json", "RepoTags": ["team/app:v2"], "Layers": ["1/layer.tar", "2/layer.tar"]}]);
    let saved = saved.to_string();
    let items = [
        Item::File("c.json", config.as_bytes()),
        Item::File("1/layer.tar", &layer),
        Item::Symlink("2/layer.tar", "../1/layer.tar"),
        Item::File("manifest.json", saved.as_bytes()),
    ];
    let file = folder.path().join("saved.tar");
    fs::write(&file, tar(&items)).unwrap();
    let loaded = images.load(&file, None).await.unwrap();
    assert_eq!((&*loaded.name, loaded.layout), ("docker.io/team/app:v2", "Wasm in a Linux image"));
    assert_eq!(wasm(&images, "team/app:v2"), code);
}

/// What `docker save` has written since version 25 (both lists), before it (folders of layers), and `podman save` (links).
#[tokio::test]
async fn archives_of_several_images_are_loaded_under_all_names() {
    let folder = tempdir().unwrap();
    let (one, two) = (raw(&[Raw::file("one", b"1")]), raw(&[Raw::file("two", b"2")]));
    let mut blobs = Blobs::default();
    let first = blobs.linux(&[(TAR, one.clone())]);
    let second = blobs.linux(&[(TAR, one.clone()), (TAR, two.clone())]);
    let config = |manifest: &serde_json::Value| {
        let bytes = &blobs.0.iter().find(|(blob, _)| *blob == digest(manifest)).unwrap().1;
        let manifest: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        format!("blobs/sha256/{}", digest(&manifest["config"]).hex())
    };
    let path = |layer: &[u8]| format!("blobs/sha256/{}", image::Digest::of(layer).hex());
    let named = |descriptor: &serde_json::Value, full: &str, short: &str| {
        let mut named = descriptor.clone();
        named["annotations"] = json!({"io.containerd.image.name": full, "org.opencontainers.image.ref.name": short});
        named
    };
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        named(&first, "docker.io/library/one:1", "1"),
        named(&first, "docker.io/library/one:latest", "latest"),
        named(&second, "example.com/two:2", "2"),
        second.clone(),
    ]});
    let manifests = json!([
        {"Config": config(&first), "RepoTags": ["one:1", "one:latest"], "Layers": [path(&one)]},
        {"Config": config(&second), "RepoTags": ["example.com/two:2"], "Layers": [path(&one), path(&two)]},
    ]);
    let (index, manifests) = (index.to_string(), manifests.to_string());
    let all: Vec<_> = blobs.0.iter().map(|(digest, bytes)| (format!("blobs/sha256/{}", digest.hex()), bytes)).collect();
    let all: Vec<_> = all.iter().map(|(name, bytes)| Raw::file(name, bytes)).collect();
    let (index, list) = (Raw::file("index.json", index.as_bytes()), Raw::file("manifest.json", manifests.as_bytes()));
    let without_manifests: Vec<_> =
        all.iter().filter(|blob| !blob.data.starts_with(br#"{"config""#)).cloned().collect();
    assert_eq!(without_manifests.len(), all.len() - 2);
    let cases = [
        ("oci", [&all[..], std::slice::from_ref(&index)].concat()),
        ("both", [&[list.clone()][..], &all, std::slice::from_ref(&index)].concat()),
        ("docker", [&all[..], std::slice::from_ref(&list)].concat()),
        ("lacking", [&[index][..], &without_manifests, &[list]].concat()),
    ];
    for (kind, entries) in cases {
        let images = store(&folder.path().join(kind), |_| {});
        let file = folder.path().join(format!("{kind}.tar"));
        fs::write(&file, gzip(&raw(&entries))).unwrap();
        let error = refused(&images, &file, Some("x")).await;
        assert!(error.contains("it holds 2 images (") && error.contains("example.com/two:2"), "{error}");
        assert_eq!(images.list().await.unwrap(), [], "{kind}");
        let mut names: Vec<_> = images.load_all(&file).await.unwrap().into_iter().map(|one| one.name).collect();
        names.sort();
        assert_eq!(names, ["docker.io/library/one:1", "docker.io/library/one:latest", "example.com/two:2"], "{kind}");
        let get = |name: &str| images.get(name).unwrap().unwrap();
        assert_eq!(get("one:1").digest, get("one").digest);
        let [ones, twos] = [get("one"), get("example.com/two:2")];
        let ones = images.layers(&ones).await.unwrap().unwrap();
        let twos = images.layers(&twos).await.unwrap().unwrap();
        assert_eq!((ones.len(), twos.len(), &ones[0]), (1, 2, &twos[0]), "{kind}");
        assert_eq!(fs::read(twos[1].join("two")).unwrap(), b"2");
        // One image is loaded by either.
        assert_eq!(images.list().await.unwrap().len(), 2);
    }
    // The platforms of one name are one image.
    let foreign = json!({"mediaType": MANIFEST, "digest": image::Digest::of(b"left out"), "size": 8, "platform": {
        "os": "linux", "architecture": "s390x"}});
    let mut own = first.clone();
    own["platform"] = json!({"os": "linux", "architecture": here().split_once('/').unwrap().1});
    let manifests = [named(&foreign, "one:1", "1"), named(&own, "one:1", "1")];
    let index = json!({"schemaVersion": 2, "manifests": manifests}).to_string();
    let file = folder.path().join("platforms.tar");
    fs::write(&file, raw(&[&all[..], &[Raw::file("index.json", index.as_bytes())]].concat())).unwrap();
    let images = store(&folder.path().join("platforms"), |_| {});
    let loaded = images.load(&file, None).await.unwrap();
    assert_eq!(images.layers(&loaded).await.unwrap().unwrap().len(), 1);
    // A list that climbs.
    let list =
        json!([{"Config": config(&first), "RepoTags": ["a:1"], "Layers": ["../../../../etc/passwd"]}]).to_string();
    let file = folder.path().join("climbs.tar");
    fs::write(&file, raw(&[&all[..], &[Raw::file("manifest.json", list.as_bytes())]].concat())).unwrap();
    assert!(refused(&images, &file, None).await.contains("the archive lacks \"../../../../etc/passwd\""));
    let list = json!(vec![json!({"Config": "c", "Layers": []}); 257]).to_string();
    fs::write(&file, raw(&[Raw::file("manifest.json", list.as_bytes())])).unwrap();
    assert!(refused(&images, &file, None).await.contains("it holds more than 256 images"));
}

/// What others write, as they write it.
#[tokio::test]
async fn archives_of_skopeo_are_loaded() {
    let folder = tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (one, two) = (raw(&[Raw::file("one", b"1")]), raw(&[Raw::file("two", b"2")]));
    let mut blobs = Blobs::default();
    let top = blobs.linux(&[(GZIP, one.clone()), (GZIP, two), (GZIP, one)]);
    blobs.layout(&folder.path().join("layout"), &top);
    let from = format!("oci:{}", path("layout"));
    for (kind, to, name, more) in [
        (
            "docker",
            format!("docker-archive:{}:box:1", path("docker")),
            "docker.io/library/box:1",
            &["--additional-tag=box:2"][..],
        ),
        ("oci", format!("oci-archive:{}:example.com/box:1", path("oci")), "example.com/box:1", &[]),
        ("plain", format!("oci-archive:{}:box:1", path("plain")), "docker.io/library/box:1", &["--dest-decompress"]),
        (
            "zstd",
            format!("oci-archive:{}:box:1", path("zstd")),
            "docker.io/library/box:1",
            &["--dest-compress-format=zstd"],
        ),
    ] {
        let skopeo = Command::new("skopeo").args(["--insecure-policy", "copy"]).args(more).args([&from, &to]).output();
        let Ok(output) = skopeo else {
            let text = "SKIPPED: skopeo is not installed";
            assert!(std::env::var("SAMPAN_TEST_REQUIRE").as_deref() != Ok("all"), "{text}");
            eprintln!("{text}");
            return;
        };
        assert!(output.status.success(), "{kind}: {}", String::from_utf8_lossy(&output.stderr));
        let images = store(&folder.path().join(format!("store-{kind}")), |_| {});
        let loaded = images.load_all(path(kind)).await.unwrap();
        assert_eq!((loaded[0].name.as_str(), loaded[0].layout), (name, "Linux image"), "{kind}");
        if kind == "docker" {
            assert_eq!(loaded[1].name, "docker.io/library/box:2");
        }
        let layers = images.layers(&loaded[0]).await.unwrap().unwrap();
        let held: Vec<_> =
            ["one", "two", "one"].iter().zip(&layers).map(|(name, layer)| layer.join(name).exists()).collect();
        assert_eq!((held, layers.len()), (vec![true; 3], 3), "{kind}");
    }
}

#[tokio::test]
async fn files_that_are_no_images_are_refused_with_the_reason() {
    let folder = tempdir().unwrap();
    let images = store(&folder.path().join("store"), |options| options.limits = small());
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let zeros = vec![0; 8 << 20];
    let index = json!({"schemaVersion": 2, "manifests": []}).to_string();
    let cases = [
        (folder.path().join("absent.wasm"), "No such file"),
        (folder.path().to_owned(), "the folder is no OCI layout"),
        (file("elf.wasm", b"\x7fELF and more"), "it is not WebAssembly"),
        (file("short.wasm", b"\0asm"), "the module is not WebAssembly"),
        (file("large.wasm", &zeros), "it has 8388608 bytes, 524288 are allowed"),
        (file("text.txt", b"hello"), "it is none of: .wasm, .wat, an OCI layout folder"),
        (file("empty", b""), "it is none of"),
        (file("other.tar", &tar(&[Item::File("readme", b"x")])), "it is none of"),
        (file("climbs.tar", &tar(&[Item::File("../x", b"x")])), "climbs out"),
        (file("link.tar", &tar(&[Item::Symlink("a", "../../etc/passwd")])), "a link that climbs out"),
        (file("bomb.tar", &gzip(&tar(&[Item::File("a", &zeros)]))), "8388608 bytes"),
        (file("none.tar", &tar(&[Item::File("index.json", index.as_bytes())])), "holds no image"),
        (
            file("false.tar", &tar(&[Item::File(&format!("blobs/sha256/{}", "0".repeat(64)), b"x")])),
            "has digest sha256:",
        ),
        (file("two.tar", &tar(&[Item::File("manifest.json", b"[]")])), "the archive holds 0 images"),
        (
            file("lacks.tar", &tar(&[Item::File("manifest.json", br#"[{"Config":"c","Layers":[]}]"#)])),
            "the archive lacks \"c\"",
        ),
    ];
    for (path, text) in cases {
        let error = refused(&images, &path, Some("x")).await;
        assert!(error.contains(text) && error.starts_with(&path.display().to_string()), "{error}");
        assert_eq!(images.get("x").unwrap(), None);
    }
    let mut blobs = Blobs::default();
    let top = blobs.artifact(module("x"));
    let layout = folder.path().join("layout");
    blobs.layout(&layout, &top);
    assert!(refused(&images, &layout, None).await.contains("the image has no name, give one"));
    let mut blobs = Blobs::default();
    let top = blobs.artifact(module("left out"));
    blobs.0.remove(1);
    let layout = folder.path().join("lacking");
    blobs.layout(&layout, &top);
    assert!(refused(&images, &layout, Some("x")).await.contains("is missing"));
}

#[tokio::test]
async fn names_move_on_and_images_go_with_their_last_name() {
    let folder = tempdir().unwrap();
    let images = store(&folder.path().join("store"), |_| {});
    let file = folder.path().join("a.wasm");
    let blobs = || fs::read_dir(folder.path().join("store/blobs/sha256")).unwrap().count();
    fs::write(&file, module("one")).unwrap();
    let one = images.load(&file, Some("app")).await.unwrap();
    images.load(&file, Some("app:old")).await.unwrap();
    fs::write(&file, module("two")).unwrap();
    let two = images.load(&file, Some("app")).await.unwrap();
    let listed: HashSet<_> =
        images.list().await.unwrap().into_iter().map(|listed| (listed.names, listed.digest)).collect();
    let names = |name: &str| vec![format!("docker.io/library/app:{name}")];
    assert_eq!(listed, [(names("old"), one.digest), (names("latest"), two.digest)].into());
    assert_eq!(blobs(), 6);
    images.remove("app:old").await.unwrap();
    assert_eq!((images.get("app:old").unwrap(), blobs()), (None, 3));
    assert_eq!(wasm(&images, "app"), module("two"));
    let error = images.remove("app:old").await.unwrap_err();
    assert_eq!(error.to_string(), "app:old: no such image in the store");
    images.remove(&two.digest.to_string()).await.unwrap();
    assert_eq!((images.list().await.unwrap(), blobs()), (vec![], 0));
}

#[tokio::test]
async fn collection_spares_what_is_used_and_waits_for_who_loads() {
    let folder = tempdir().unwrap();
    let images = store(&folder.path().join("store"), |_| {});
    let mut digests = Vec::new();
    for n in 0..4 {
        let file = folder.path().join(format!("{n}.wasm"));
        fs::write(&file, module(&format!("{n}"))).unwrap();
        digests.push(images.load(&file, Some(&format!("app:{n}"))).await.unwrap().digest);
    }
    let stray = folder.path().join("store/blobs/sha256").join("0".repeat(64));
    fs::write(&stray, "stray").unwrap();

    // Another process, or this one, is putting an image together.
    let lock = fs::File::options().write(true).open(folder.path().join("store/lock")).unwrap();
    lock.lock_shared().unwrap();
    let collected = images.collect(HashSet::new(), u64::MAX).await.unwrap();
    assert!(collected.busy && stray.exists());
    drop(lock);

    let collected = images.collect(HashSet::new(), 0).await.unwrap();
    assert_eq!((collected.busy, collected.images.len(), collected.freed), (false, 0, 5));
    assert!(!stray.exists());
    // What was loaded is not deleted while its name stands for it: no registry has it.
    let collected = images.collect(HashSet::new(), u64::MAX).await.unwrap();
    assert_eq!(collected.images, []);
    let file = folder.path().join("next.wasm");
    fs::write(&file, module("next")).unwrap();
    for n in 0..4 {
        images.load(&file, Some(&format!("app:{n}"))).await.unwrap();
    }
    // File systems count time in ticks of milliseconds: loaded within one, nobody is the oldest.
    for (n, digest) in (0..).zip(&digests) {
        let record = folder.path().join("store/images").join(format!("{}.json", digest.hex()));
        let loaded = SystemTime::UNIX_EPOCH + Duration::from_secs(n);
        fs::File::options().write(true).open(record).unwrap().set_modified(loaded).unwrap();
    }
    // The oldest that nobody uses goes first, and no more than needed.
    let used = HashSet::from([digests[0]]);
    let collected = images.collect(used.clone(), 1).await.unwrap();
    assert_eq!(collected.images, [digests[1]]);
    assert!(collected.freed > 0);
    let collected = images.collect(used, u64::MAX).await.unwrap();
    assert_eq!(collected.images, [digests[2], digests[3]]);
    assert_eq!(images.list().await.unwrap().len(), 2);
    assert_eq!(wasm(&images, "app:0"), module("next"));
    assert!(images.get(&format!("app@{}", digests[0])).unwrap().is_some());
}

#[tokio::test]
async fn two_stores_on_one_folder_see_each_other() {
    let folder = tempdir().unwrap();
    let (cluster, command) = (store(&folder.path().join("s"), |_| {}), store(&folder.path().join("s"), |_| {}));
    let file = folder.path().join("a.wasm");
    fs::write(&file, module("x")).unwrap();
    let loads = (0..10).map(|n| {
        let images = if n % 2 == 0 { cluster.clone() } else { command.clone() };
        let file = file.clone();
        tokio::spawn(async move { images.load(&file, Some(&format!("app:{n}"))).await.unwrap() })
    });
    for load in loads.collect::<Vec<_>>() {
        load.await.unwrap();
    }
    for n in 0..10 {
        assert_eq!(wasm(&cluster, &format!("app:{n}")), module("x"));
        assert!(command.get(&format!("app:{n}")).unwrap().is_some());
    }
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(folder.path().join("s")).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn a_layout_leads_nowhere_else_and_holds_no_more_than_it_tells() {
    use std::os::unix::fs::symlink;
    let folder = tempdir().unwrap();
    let images = store(&folder.path().join("store"), |_| {});
    let layout = folder.path().join("layout");
    let mut blobs = Blobs::default();
    let top = blobs.artifact(module("x"));
    blobs.layout(&layout, &top);
    let (digest, bytes) = blobs.0[0].clone();
    let path = layout.join("blobs/sha256").join(digest.hex());
    for target in [Path::new("/dev/zero"), &folder.path().join("outside")] {
        std::fs::write(folder.path().join("outside"), &bytes).unwrap();
        std::fs::remove_file(&path).unwrap();
        symlink(target, &path).unwrap();
        let error = refused(&images, &layout, Some("a:1")).await;
        assert!(error.contains("leads out of the folder"), "{error}");
    }
    // within the folder links are fine
    std::fs::remove_file(&path).unwrap();
    std::fs::write(layout.join("elsewhere"), &bytes).unwrap();
    symlink("../../elsewhere", &path).unwrap();
    images.load(&layout, Some("a:1")).await.unwrap();
    // more than it tells is not read to its end
    images.remove("a:1").await.unwrap();
    let huge = std::fs::File::create(layout.join("elsewhere")).unwrap();
    huge.set_len(1 << 40).unwrap();
    let error = refused(&images, &layout, Some("a:1")).await;
    assert!(error.contains("more than the"), "{error}");
}

#[tokio::test]
async fn a_damaged_name_hides_no_other() {
    let folder = tempdir().unwrap();
    let images = store(folder.path(), |_| {});
    let file = folder.path().join("m.wasm");
    std::fs::write(&file, module("x")).unwrap();
    images.load(&file, Some("a:1")).await.unwrap();
    std::fs::write(folder.path().join("names/damaged.json"), "{").unwrap();
    let listed = images.list().await.unwrap();
    assert_eq!(listed.iter().map(|one| &*one.names[0]).collect::<Vec<_>>(), ["docker.io/library/a:1"]);
    assert!(!images.collect(HashSet::new(), u64::MAX).await.unwrap().busy);
    assert!(images.get("a:1").unwrap().is_some(), "it was loaded by hand");
}
