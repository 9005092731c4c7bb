//! Layers of Linux images: what no archive can do, whatever it says.

#![allow(clippy::unwrap_used, reason = "tests: a panic is the answer")]

mod support;

use image::{Error, Images, Keyring, Options, Policy};
use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, symlink},
        process::ExitStatusExt,
    },
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};
use support::{scene::*, *};
use tempfile::tempdir;

/// Why a layer above a plain one is refused; nothing of it is left then.
async fn refused(layer: &[Raw<'_>], change: impl FnOnce(&mut Options)) -> String {
    let scene = Scene::new(change);
    let error = scene.layers(&[raw(&[Raw::file("base", b"")]), raw(layer)]).await.unwrap_err();
    assert_eq!(error.reason(), "ErrImagePull", "{error}");
    assert!(scene.left("tmp") == 0 && scene.left("layers") <= 1, "{error}");
    error.to_string()
}

#[tokio::test]
async fn no_layer_reaches_what_is_outside() {
    let outside = tempdir().unwrap();
    fs::write(outside.path().join("kept"), "mine").unwrap();
    fs::create_dir(outside.path().join("deep")).unwrap();
    fs::write(outside.path().join("deep/kept"), "mine").unwrap();
    fs::set_permissions(outside.path().join("kept"), fs::Permissions::from_mode(0o600)).unwrap();
    let out = &outside.path().display().to_string();
    let kept = &format!("{out}/kept");
    let folder = "a link or a file, not a folder";
    let far = "../".repeat(40) + kept;
    let (wide, deep) = ("n".repeat(256), "d/".repeat(128) + "x");
    let long = format!("{}/", "n".repeat(200)).repeat(20) + "x";
    let cases: &[(&[Raw<'_>], &str)] = &[
        // names
        (&[Raw::file("../x", b"")], "a path that climbs out"),
        (&[Raw::file("a/../../x", b"")], "a path that climbs out"),
        (&[Raw::file("/../x", b"")], "a path that climbs out"),
        (&[Raw { pax: &[("path", b"../x")], ..Raw::file("x", b"") }], "a path that climbs out"),
        (&[Raw { pax: &[("path", b"a\0b")], ..Raw::file("x", b"") }], "its name is not valid"),
        (&[Raw::file(&wide, b"")], "its name is too long"),
        (&[Raw::file(&deep, b"")], "it is in more than 128 folders"),
        (&[Raw::file(&long, b"")], "its name is too long"),
        // through links, of this layer or replaced on the way (CVE-2021-38511 of tar, CVE-2021-32760 of containerd)
        (&[Raw::symlink("a", out), Raw::file("a/x", b"")], folder),
        (&[Raw::symlink("a", out), Raw::folder("a/x")], folder),
        (&[Raw::symlink("a", out), Raw::symlink("a/x", "y")], folder),
        (&[Raw::symlink("a", out), Raw::new("a/x", b'6')], folder),
        (&[Raw::symlink("a", out), Raw { device: (1, 3), ..Raw::new("a/x", b'3') }, Raw::file("a/y", b"")], folder),
        (&[Raw::folder("a"), Raw::symlink("a", out), Raw::file("a/kept", b"")], folder),
        (&[Raw::symlink("a", out), Raw::file("a/deep/x", b"")], folder),
        (&[Raw::symlink("a", out), Raw::folder("a/deep/x")], folder),
        (&[Raw::symlink("a", out), Raw::hard_link("h", "a/deep/kept")], "which is no file"),
        (&[Raw::file("a/b/x", b""), Raw::symlink("a", out), Raw::file("a/b/x", b"")], folder),
        (&[Raw::symlink("a", "b"), Raw::folder("b"), Raw::file("a/x", b"")], folder),
        (&[Raw::new("p", b'6'), Raw::file("p/x", b"")], folder),
        // the root itself (CVE-2021-29136 of umoci)
        (&[Raw::symlink(".", out), Raw::file("x", b"")], "the root of an image is a folder"),
        (&[Raw::symlink("./", out)], "the root of an image is a folder"),
        (&[Raw::hard_link("/", kept)], "the root of an image is a folder"),
        (&[Raw::file("a/..", b"")], "the root of an image is a folder"),
        // hard links
        (&[Raw::hard_link("x", &far)], "a hard link that leads out of the image"),
        (&[Raw::hard_link("x", kept)], "which is no file"),
        (&[Raw::symlink("s", out), Raw::hard_link("x", "s/kept")], "which is no file"),
        (&[Raw::folder("f"), Raw::hard_link("x", "f")], "which is no file"),
        (&[Raw::hard_link("x", "")], "a hard link that leads out of the image"),
        (&[Raw::hard_link("x", "base")], "which is no file"), // of a layer below
        (&[Raw::file("a/x", b""), Raw::hard_link("a", "a/x")], "which is no file"),
        // whiteouts
        (&[Raw::file("a/.wh...", b"")], "a whiteout of nothing"),
        (&[Raw::file("a/.wh..", b"")], "a whiteout of nothing"),
        (&[Raw::file("a/.wh.", b"")], "a whiteout of nothing"),
        (&[Raw::file(".wh.a/x", b"")], "it is in a whiteout"),
        (&[Raw::file(".wh.a/.wh.x", b"")], "it is in a whiteout"),
        // what is of no use to anybody
        (&[Raw::symlink("s", "")], "a link whose target is not valid"),
        (&[Raw { pax: &[("linkpath", b"a\0b")], ..Raw::symlink("s", "x") }], "a link whose target is not valid"),
        (&[Raw { pax: &[("linkpath", &[b'a'; 4001])], ..Raw::symlink("s", "x") }], "a link whose target is not valid"),
        (&[Raw::new("x", b'Z')], "of the unknown type 'Z'"),
        (&[Raw::new("x", b'S')], "a sparse file"),
        (&[Raw { pax: &[("GNU.sparse.major", b"1")], ..Raw::file("x", b"") }], "a sparse file"),
        (&[Raw { pax: &[("SCHILY.xattr.user.a", &[0; 70_000])], ..Raw::file("x", b"") }], "extended attributes"),
    ];
    for (layer, why) in cases {
        let error = refused(layer, |_| {}).await;
        assert!(error.contains(why), "{why}: {error}");
    }
    if is_root() {
        for (record, value) in [("uid", b"4294967295"), ("gid", b"4294967296"), ("uid", b"9999999999")] {
            let error = refused(&[Raw { pax: &[(record, value)], ..Raw::file("x", b"") }], |_| {}).await;
            assert!(error.contains("its owner is not valid"), "{error}");
        }
    }
    // What is allowed does not reach it either: links to it, and what would change it through them.
    let scene = Scene::new(|_| {});
    let layer = raw(&[
        Raw::symlink("a", out),
        Raw::symlink("s", kept),
        Raw { mode: 0o777, owner: (7, 7), ..Raw::hard_link("h", "s") },
        Raw {
            mode: 0o777,
            owner: (7, 7),
            modified: 1,
            pax: &[("SCHILY.xattr.user.x", b"y")],
            ..Raw::symlink("t", kept)
        },
        Raw::file("a/.wh.kept", b""),
        Raw::file("a/.wh..wh..opq", b""),
        Raw::file("a/deep/.wh.kept", b""),
        Raw::file("a/deep/.wh..wh..opq", b""),
        Raw { pax: &[("mtime", b"9223372036854775807")], ..Raw::file("late", b"") },
        Raw { pax: &[("mtime", b"-9223372036854775808")], ..Raw::folder("early") },
    ]);
    let layers = scene.layers(&[raw(&[Raw::file("base", b"")]), layer]).await.unwrap();
    assert_eq!(fs::read_link(layers[1].join("h")).unwrap(), Path::new(kept));
    let found = fs::metadata(kept).unwrap();
    assert_eq!((found.mode() & 0o7777, found.uid(), fs::read(kept).unwrap()), (0o600, me().0, b"mine".to_vec()));
    assert!(found.mtime() > 1 && attribute(Path::new(kept), "user.x").is_none());
    let held = |folder: &Path| fs::read_dir(folder).unwrap().count();
    let deep = outside.path().join("deep");
    assert_eq!((held(outside.path()), held(&deep), attribute(&deep, "user.overlay.opaque")), (2, 1, None));
}

/// The size of an extended header decides where the next entry begins, for all who read (CVE-2025-62518 of other readers).
#[tokio::test]
async fn an_archive_within_a_file_stays_in_it() {
    let inner = raw(&[Raw::file("hidden", b"x")]);
    let length = inner.len().to_string();
    let mut layer = raw(&[Raw { pax: &[("size", length.as_bytes())], ..Raw::file("outer", b"") }]);
    layer.truncate(3 * 512);
    layer.extend(&inner);
    layer.extend(raw(&[Raw::file("next", b"n")]));
    let scene = Scene::new(|_| {});
    let layers = scene.layers(&[layer]).await.unwrap();
    assert_eq!(fs::read(layers[0].join("outer")).unwrap(), inner);
    assert!(!layers[0].join("hidden").exists() && layers[0].join("next").exists());
    // Links have no content, whatever their size says.
    let mut layer = raw(&[Raw { data: b"x", ..Raw::symlink("s", "t") }]);
    layer.drain(512..1024);
    layer.splice(512..512, raw(&[Raw::file("next", b"n")]));
    let scene = Scene::new(|_| {});
    let layers = scene.layers(&[layer]).await.unwrap();
    assert!(layers[0].join("next").exists());
}

#[tokio::test]
async fn bombs_are_refused_by_their_bounds() {
    let few = |options: &mut Options| (options.limits.linux_entries, options.limits.linux_unpacked) = (50, 3 << 20);
    let names: Vec<String> = (0..60).map(|n| format!("f{n}")).collect();
    let many: Vec<_> = names.iter().map(|name| Raw::file(name, b"")).collect();
    assert!(refused(&many, few).await.contains("too many entries"));
    // One entry makes many folders.
    let deep = "d/".repeat(60) + "x";
    assert!(refused(&[Raw::file(&deep, b"")], few).await.contains("too many folders"));
    let zeros = vec![0; 4 << 20];
    assert!(refused(&[Raw::file("zeros", &zeros)], few).await.contains("it unpacks to more than 3145728 bytes"));
    // of all layers together, unpacked now or before
    let scene = Scene::new(few);
    let layer = |name| raw(&[Raw::file(name, &zeros[..2 << 20])]);
    scene.layers(&[layer("a")]).await.unwrap();
    let error = scene.layers(&[layer("a"), layer("b")]).await.unwrap_err().to_string();
    assert!(error.contains("it unpacks to more than 3145728 bytes"), "{error}");
    let half = |n: usize| raw(&many[n..n + 30]);
    let error = Scene::new(few).layers(&[half(0), half(30)]).await.unwrap_err().to_string();
    assert!(error.contains("too many entries"), "{error}");
    // a size that is no size
    let mut endless = raw(&[Raw { pax: &[("size", b"18446744073709551615")], ..Raw::file("x", b"") }]);
    endless.truncate(3 * 512);
    let error = Scene::new(|_| {}).layers(&[endless]).await.unwrap_err().to_string();
    assert!(error.contains("ends within it") || error.contains("without end"), "{error}");
    // more of the disk than there is: nothing is written
    let disk = rustix::fs::statvfs(std::env::temp_dir().as_path()).unwrap();
    let more = (disk.f_bavail * disk.f_frsize + 1).to_string();
    let mut large = raw(&[Raw { pax: &[("size", more.as_bytes())], ..Raw::file("x", b"") }]);
    large.truncate(3 * 512);
    large.extend(&zeros);
    let scene = Scene::new(|_| {});
    let error = scene.layers(&[large]).await.unwrap_err().to_string();
    assert!(error.contains("the archive ends within it") && scene.left("tmp") == 0, "{error}");
}

/// What an archive unpacks to is compared with the digests of the config.
#[tokio::test]
async fn layers_are_what_the_config_says() {
    let layer = raw(&[Raw::file("a", b"1")]);
    let with_rest = [layer.clone(), b"rest".to_vec()].concat();
    let ids = |of: &[&[u8]]| of.iter().map(|bytes| image::Digest::of(bytes).to_string()).collect::<Vec<_>>();
    let load = async |media_type: &'static str, packed: Vec<u8>, diffs: serde_json::Value| -> Result<(), Error> {
        let scene = Scene::new(|_| {});
        let mut blobs = Blobs::default();
        let (config_type, mut config) = config(here(), &["/bin/sh"]);
        config["rootfs"] = serde_json::json!({"type": "layers", "diff_ids": diffs});
        let top = blobs.image((config_type, config), &[(media_type, packed)]);
        blobs.layout(&scene.folder.path().join("layout"), &top);
        let loaded = scene.images.load(scene.folder.path().join("layout"), Some("a:1")).await?;
        let layers = scene.images.layers(&loaded).await;
        assert_eq!(scene.left("tmp"), 0);
        layers.map(drop)
    };
    load(TAR, layer.clone(), ids(&[&layer]).into()).await.unwrap();
    load(GZIP, gzip(&layer), ids(&[&layer]).into()).await.unwrap();
    load(ZSTD, zstd(&with_rest), ids(&[&with_rest]).into()).await.unwrap();
    for (media_type, packed, diffs, why) in [
        (GZIP, gzip(&layer), ids(&[b"other"]).into(), "has the content sha256:"),
        (TAR, with_rest.clone(), ids(&[&layer, b""])[..1].to_vec().into(), "has the content sha256:"),
        (TAR, layer.clone(), serde_json::json!([]), "its manifest has 1 layers, and its config 0 of them"),
        (TAR, layer.clone(), serde_json::Value::Null, "its manifest has 1 layers, and its config 0 of them"),
        (TAR, layer.clone(), ids(&[&layer, &layer]).into(), "its manifest has 1 layers, and its config 2 of them"),
        (TAR, layer.clone(), serde_json::json!(["sha512:00"]), "a diff ID of its config cannot be read"),
        (TAR, layer.clone(), serde_json::json!(["sha256:../../../../x"]), "a diff ID of its config cannot be read"),
        ("application/vnd.in-toto+json", layer.clone(), ids(&[&layer]).into(), "a layer has the unknown type"),
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", layer.clone(), ids(&[&layer]).into(), "unknown type"),
        (TAR, b"no tar".repeat(200), ids(&[&b"no tar".repeat(200)]).into(), "the archive cannot be read"),
        (GZIP, gzip(&layer)[..60].to_vec(), ids(&[&layer[..]]).into(), "the archive cannot be read"),
    ] {
        let error = match load(media_type, packed, diffs).await {
            Err(error) => error.to_string(),
            Ok(()) => panic!("{why}"),
        };
        assert!(error.contains(why), "{error}");
    }
}

/// A process that unpacks is killed, again and again: what it has not completed is not there, and what it has is whole.
#[tokio::test]
#[allow(clippy::disallowed_methods, reason = "a test finds out where it runs")]
async fn who_is_killed_while_it_unpacks_leaves_nothing_half() {
    const STORE: &str = "SAMPAN_TEST_STORE";
    if let Some(folder) = std::env::var_os(STORE) {
        let images = Images::open(folder, Options::default()).unwrap();
        let image = images.get("a:1").unwrap().unwrap();
        images.layers(&image).await.unwrap();
        return;
    }
    let scene = Scene::new(|_| {});
    let names: Vec<String> = (0..500).map(|n| format!("folder{}/file{n}", n % 50)).collect();
    let many: Vec<_> = names.iter().map(|name| Raw::file(name, name.as_bytes())).collect();
    let layers = [(GZIP, raw(&many)), (ZSTD, raw(&[many, vec![Raw::file("folder7/.wh.gone", b"")]].concat()))];
    let loaded = scene.load("a:1", &layers).await.unwrap();
    let root = scene.folder.path().join("store");
    let test = "who_is_killed_while_it_unpacks_leaves_nothing_half";
    let mut killed = 0;
    for after in [0, 4, 9, 15, 25] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let mut child = command.args(["--exact", test]).env(STORE, &root).stdout(Stdio::null()).spawn().unwrap();
        // from the moment on when there is something
        while scene.left("tmp") == 0 && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(after));
        child.kill().unwrap();
        killed += usize::from(child.wait().unwrap().signal().is_some());
        let whole =
            |layer: &Path| names.iter().all(|name| fs::read(layer.join(name)).is_ok_and(|it| it == name.as_bytes()));
        for layer in fs::read_dir(root.join("layers")).unwrap() {
            assert!(whole(&layer.unwrap().path().join("fs")), "after {after} ms");
        }
        // The next one clears up, and completes it.
        let images = Images::open(&root, Options::default()).unwrap();
        assert_eq!(scene.left("tmp"), 0);
        assert!(images.layers(&loaded).await.unwrap().unwrap().iter().all(|layer| whole(layer)));
        for layer in fs::read_dir(root.join("layers")).unwrap() {
            // not removed: some file systems are slow to make what was just removed
            let layer = layer.unwrap();
            fs::rename(layer.path(), scene.folder.path().join(format!("{after}-{}", layer.file_name().display())))
                .unwrap();
        }
    }
    assert!(killed > 2, "{killed}");
}

#[tokio::test]
async fn a_full_disk_is_told_and_freed() {
    if !alone("a_full_disk_is_told_and_freed") {
        return;
    }
    let scene = Scene::new(|_| {});
    let disk = scene.folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(&disk).status();
    assert!(mount.unwrap().success());
    let images = store(&disk.join("store"), |_| {});
    let mut blobs = Blobs::default();
    let small = raw(&[Raw::file("small", &[1; 1 << 20])]);
    let top = blobs.linux(&[(GZIP, small), (GZIP, raw(&[Raw::file("large", &[2; 9 << 20])]))]);
    blobs.layout(&scene.folder.path().join("layout"), &top);
    let loaded = images.load(scene.folder.path().join("layout"), Some("a:1")).await.unwrap();
    let error = images.layers(&loaded).await.unwrap_err().to_string();
    assert!(error.contains("no space left on device") && error.contains("sampan image prune"), "{error}");
    let left = |folder: &str| fs::read_dir(disk.join("store").join(folder)).unwrap().count();
    assert_eq!((left("tmp"), left("layers")), (0, 1));
    images.remove("a:1").await.unwrap();
    assert_eq!((left("layers"), left("blobs/sha256")), (0, 0));
}

#[tokio::test]
async fn what_a_crash_leaves_does_not_count() {
    let scene = Scene::new(|_| {});
    let layer = raw(&[Raw { mode: 0o555, ..Raw::folder("closed") }, Raw::file("closed/x", b"x")]);
    let loaded = scene.load("a:1", &[(TAR, layer.clone())]).await.unwrap();
    let root = scene.folder.path().join("store");
    // while it unpacked, or while it removed
    for half in ["tmp/1-1/fs/closed/deep", "tmp/1-2/fs"] {
        fs::create_dir_all(root.join(half)).unwrap();
    }
    symlink(scene.folder.path(), root.join("tmp/1-2/fs/link")).unwrap();
    fs::set_permissions(root.join("tmp/1-1/fs/closed"), fs::Permissions::from_mode(0o000)).unwrap();
    let images = Images::open(&root, Options::default()).unwrap();
    assert_eq!((scene.left("tmp"), scene.left("layers")), (0, 0));
    assert!(scene.folder.path().join("layout").exists(), "through no link");
    assert!(images.get("a:1").unwrap().is_some());
    images.layers(&loaded).await.unwrap();
    // Its blob is not needed any more, until it is to be unpacked again.
    let blob = root.join("blobs/sha256").join(image::Digest::of(&layer).hex());
    fs::remove_file(&blob).unwrap();
    assert!(images.get("a:1").unwrap().is_some());
    images.layers(&loaded).await.unwrap();
    for layer in fs::read_dir(root.join("layers")).unwrap() {
        let layer = layer.unwrap().path();
        fs::rename(&layer, scene.folder.path().join("taken")).unwrap();
    }
    assert_eq!(images.get("a:1").unwrap(), None);
    let error = images.layers(&loaded).await.unwrap_err().to_string();
    assert!(error.contains("is missing: pull or load the image again"), "{error}");
    let error = images.ensure("a:1", Policy::Never, &Keyring::new()).await.unwrap_err();
    assert_eq!(error.reason(), "ErrImageNeverPull");
    // The record of an earlier version, which fetched no layers.
    let loaded = scene.load("a:1", &[(TAR, layer)]).await.unwrap();
    let record = root.join("images").join(format!("{}.json", loaded.digest.hex()));
    let mut old: serde_json::Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    old.as_object_mut().unwrap().remove("layers").expect("the layers");
    fs::write(&record, old.to_string()).unwrap();
    assert_eq!(images.get("a:1").unwrap(), None);
}
