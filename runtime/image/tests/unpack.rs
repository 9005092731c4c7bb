//! The files of an image: unpacked once, whatever its layers hold, and never beside their folder.

#![allow(clippy::unwrap_used, reason = "tests: a panic is the answer")]

mod support;

use image::{Error, Images, Limits, Options};
use std::{
    collections::{BTreeMap, HashSet},
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};
use support::*;
use tar::EntryType;
use tempfile::{TempDir, tempdir};

/// Loads an image of these layers, whose module is `app.wasm` in the first, and unpacks it.
async fn unpack(layers: &[&[Item<'_>]], change: impl FnOnce(&mut Options)) -> (TempDir, Result<PathBuf, Error>) {
    let folder = tempdir().unwrap();
    let images = store(&folder.path().join("store"), change);
    let code = module("unpacked");
    let mut archives = vec![(GZIP, gzip(&tar(&[Item::File("app.wasm", &code)])))];
    archives.extend(layers.iter().map(|items| (GZIP, gzip(&tar(items)))));
    let mut blobs = Blobs::default();
    let top = blobs.image(config("wasi/wasm", &["/app.wasm"]), &archives);
    let layout = folder.path().join("layout");
    blobs.layout(&layout, &top);
    let files = match images.load(&layout, Some("a:1")).await {
        Ok(loaded) => images.files(&loaded).await.map(|files| files.expect("an image of files")),
        // The search for the module has met it.
        Err(error) => Err(error),
    };
    (folder, files)
}

/// All that is in a folder: files with their content, links with `-> ` and their target, folders with `/`.
fn tree(root: &Path) -> BTreeMap<String, String> {
    fn walk(folder: &Path, root: &Path, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type().unwrap())).unwrap();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            if kind.is_symlink() {
                found.insert(name, format!("-> {}", fs::read_link(&path).unwrap().display()));
            } else if kind.is_dir() {
                found.insert(name + "/", String::new());
                walk(&path, root, found);
            } else {
                found.insert(name, String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

/// What is there but the module, as `NAME=CONTENT`.
async fn shown(layers: &[&[Item<'_>]]) -> String {
    let (_folder, files) = unpack(layers, |_| {}).await;
    let mut tree = tree(&files.unwrap());
    assert!(tree.remove("app.wasm").is_some_and(|module| module.starts_with('\0')));
    tree.into_iter().map(|(name, text)| format!("{name}={text}")).collect::<Vec<_>>().join(" ")
}

/// Why layers are refused; nothing of them is left then.
async fn refused(layers: &[&[Item<'_>]], change: impl FnOnce(&mut Options)) -> String {
    let (folder, files) = unpack(layers, change).await;
    let error = files.unwrap_err();
    assert_eq!(error.reason(), "ErrImagePull");
    for left in ["tmp", "files"] {
        assert_eq!(fs::read_dir(folder.path().join("store").join(left)).unwrap().count(), 0, "{left}");
    }
    error.to_string()
}

#[tokio::test]
async fn files_folders_and_links_are_there_as_the_layers_have_them() {
    let (_folder, files) = unpack(
        &[&[
            Item::Folder("etc/"),
            Item::File("etc/one", b"1"),
            Item::File("./made/on/the/way", b"2"),
            Item::File("/absolute", b"3"),
            Item::Symlink("etc/link", "../made"),
            Item::Symlink("out", "/etc/passwd"),
            Item::HardLink("etc/same", "etc/one"),
            Item::Other("dev/null", EntryType::Char),
            Item::Other("pipe", EntryType::Fifo),
        ]],
        |_| {},
    )
    .await;
    let files = files.unwrap();
    let mut found = tree(&files);
    found.remove("app.wasm").unwrap();
    let text: Vec<_> = found.iter().map(|(name, text)| format!("{name}={text}")).collect();
    let expected = "absolute=3 etc/= etc/link=-> ../made etc/one=1 etc/same=1 made/= made/on/= made/on/the/= made/on/the/way=2 \
                    out=-> /etc/passwd";
    assert_eq!(text.join(" "), expected);
    let inode = |name: &str| fs::metadata(files.join(name)).unwrap().ino();
    assert_eq!(inode("etc/one"), inode("etc/same"));
}

#[tokio::test]
async fn later_layers_replace_and_hide() {
    let lower: &[Item<'_>] = &[
        Item::File("a/one", b"1"),
        Item::File("a/two", b"2"),
        Item::File("a/deep/three", b"3"),
        Item::File("b", b"b"),
        Item::Symlink("link", "a"),
    ];
    let base = "a/= a/deep/= a/deep/three=3 a/one=1 a/two=2 b=b link=-> a";
    for (upper, expected) in [
        (&[][..], base),
        (&[Item::File("a/.wh.one", b"")], "a/= a/deep/= a/deep/three=3 a/two=2 b=b link=-> a"),
        (&[Item::File(".wh.a", b"")], "b=b link=-> a"),
        (&[Item::File(".wh.none", b""), Item::File("none/.wh.x", b"")], base),
        // of a link, not of what it leads to
        (&[Item::File(".wh.link", b"")], "a/= a/deep/= a/deep/three=3 a/one=1 a/two=2 b=b"),
        (&[Item::File("link/.wh.one", b"")], base),
        (&[Item::File("a/.wh..wh..opq", b"")], "a/= b=b link=-> a"),
        // only what is below is hidden, wherever the whiteout stands in the layer
        (&[Item::File("a/new", b"n"), Item::File("a/.wh..wh..opq", b"")], "a/= a/new=n b=b link=-> a"),
        (&[Item::File("a/.wh..wh..opq", b""), Item::File("a/new", b"n")], "a/= a/new=n b=b link=-> a"),
        (
            &[Item::File("a/deep/new", b"n"), Item::File("a/.wh..wh..opq", b"")],
            "a/= a/deep/= a/deep/new=n b=b link=-> a",
        ),
        (
            &[Item::File("a/.wh.one", b""), Item::File("a/one", b"n")],
            "a/= a/deep/= a/deep/three=3 a/one=n a/two=2 b=b link=-> a",
        ),
        (&[Item::File("a", b"file")], "a=file b=b link=-> a"),
        (
            &[Item::Folder("b"), Item::Folder("link"), Item::File("link/x", b"x")],
            "a/= a/deep/= a/deep/three=3 a/one=1 a/two=2 b/= link/= link/x=x",
        ),
        (&[Item::File("link", b"no link")], "a/= a/deep/= a/deep/three=3 a/one=1 a/two=2 b=b link=no link"),
        (&[Item::File("a/.wh..wh.plnk", b"")], base),
    ] {
        let names: Vec<_> = upper
            .iter()
            .map(|item| match item {
                Item::File(name, _) | Item::Folder(name) => *name,
                _ => "",
            })
            .collect();
        assert_eq!(shown(&[lower, upper]).await, expected, "{names:?}");
    }
}

#[tokio::test]
async fn nothing_is_written_outside_of_the_folder() {
    let outside = tempdir().unwrap();
    let target = outside.path().display().to_string();
    for (layers, why) in [
        (&[&[Item::File("../x", b"")][..]][..], "a path that climbs out"),
        (&[&[Item::File("a/../../x", b"")]], "a path that climbs out"),
        (&[&[Item::Symlink("a", &target), Item::File("a/x", b"")]], r#""a" is a link or a file, not a folder"#),
        (&[&[Item::Symlink("a", &target)], &[Item::File("a/x", b"")]], r#""a" is a link or a file, not a folder"#),
        (
            &[&[Item::Symlink("a", "b"), Item::Folder("b"), Item::Folder("a/x")]],
            r#""a" is a link or a file, not a folder"#,
        ),
        (&[&[Item::File("a", b""), Item::File("a/x", b"")]], r#""a" is a link or a file, not a folder"#),
        (&[&[Item::HardLink("x", "../../../etc/passwd")]], "a hard link that leads out of the image"),
        (&[&[Item::HardLink("x", "/etc/passwd")]], r#"a hard link to "etc/passwd", which is no file"#),
        (&[&[Item::Symlink("s", "/etc/passwd"), Item::HardLink("x", "s")]], r#"a hard link to "s", which is no file"#),
        (
            &[&[Item::Symlink("s", "/etc"), Item::HardLink("x", "s/passwd")]],
            r#"a hard link to "s/passwd", which is no file"#,
        ),
        (&[&[Item::Folder("f"), Item::HardLink("x", "f")]], r#"a hard link to "f", which is no file"#),
        (&[&[Item::File("a/.wh...", b"")]], "a whiteout of nothing"),
        (&[&[Item::File("a/.wh.", b"")]], "a whiteout of nothing"),
        (&[&[Item::File(".wh.a/x", b"")]], "it is in a whiteout"),
    ] {
        let error = refused(layers, |_| {}).await;
        assert!(error.contains(why), "{error}");
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    // A whiteout through a link removes nothing there either.
    fs::write(outside.path().join("kept"), "").unwrap();
    let layer: &[Item<'_>] =
        &[Item::Symlink("a", &target), Item::File("a/.wh.kept", b""), Item::File("a/.wh..wh..opq", b"")];
    shown(&[layer]).await;
    assert!(outside.path().join("kept").exists());
}

#[tokio::test]
async fn bombs_are_refused_by_their_bounds() {
    let many: Vec<String> = (0..200).map(|n| format!("f{n}")).collect();
    let many: Vec<_> = many.iter().map(|name| Item::File(name, b"")).collect();
    let few = |options: &mut Options| options.limits = Limits { entries: 150, ..Limits::default() };
    assert!(refused(&[&many], few).await.contains("the archive has too many entries"));
    let links: Vec<_> = (0..60).map(|_| Item::HardLink("l", "f")).collect();
    let halves: Vec<_> = [Item::File("f", b"")].into_iter().chain(links).collect();
    let error = refused(&[&halves, &halves, &halves], few).await;
    assert!(error.contains("the archive has too many entries"), "of all layers together: {error}");
    let zeros = vec![0; 1 << 20];
    let small = |options: &mut Options| options.limits.unpacked = 3 << 20;
    let error =
        refused(&[&[Item::File("a", &zeros), Item::File("b", &zeros)], &[Item::File("c", &zeros)]], small).await;
    assert!(error.contains("it unpacks to more than 3145728 bytes"), "{error}");
    let deep = "d/".repeat(45) + "x";
    assert_eq!(shown(&[&[Item::File(&deep, b"")]]).await.split(' ').count(), 46);
}

/// The parts of names are longer than the field of a plain header.
#[tokio::test]
async fn names_of_any_length_and_depth_are_refused_by_their_bounds() {
    let long = |name: &str| {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &b""[..]).unwrap();
        builder.into_inner().unwrap()
    };
    for (name, why) in [
        ("n".repeat(255), None),
        ("n".repeat(256), Some("its name is too long")),
        ("d/".repeat(127) + "x", None),
        ("d/".repeat(128) + "x", Some("it is in more than 128 folders")),
        (format!("{}/", "n".repeat(200)).repeat(20) + "x", Some("its name is too long")),
    ] {
        let folder = tempdir().unwrap();
        let images = store(&folder.path().join("store"), |_| {});
        let mut blobs = Blobs::default();
        let code = tar(&[Item::File("app.wasm", &module("deep"))]);
        let top = blobs.image(config("wasi/wasm", &["/app.wasm"]), &[(TAR, code), (ZSTD, zstd(&long(&name)))]);
        blobs.layout(&folder.path().join("layout"), &top);
        let loaded = images.load(&folder.path().join("layout"), Some("a:1")).await.unwrap();
        match (images.files(&loaded).await, why) {
            (Ok(Some(files)), None) => assert!(files.join(&name).is_file()),
            (Err(error), Some(why)) => assert!(error.to_string().contains(why), "{error}"),
            (other, _) => panic!("{} {other:?}", name.len()),
        }
    }
}

#[tokio::test]
async fn only_the_owner_can_write_and_no_bit_gives_rights() {
    let folder = tempdir().unwrap();
    let images = store(&folder.path().join("store"), |_| {});
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, mode) in [
        ("d", EntryType::Directory, 0o1777),
        ("d/all", EntryType::Regular, 0o6777),
        ("d/none", EntryType::Regular, 0),
        ("closed", EntryType::Directory, 0),
        ("closed/x", EntryType::Regular, 0o444),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_000_000_000);
        header.set_size(0);
        builder.append_data(&mut header, name, &b""[..]).unwrap();
    }
    let mut blobs = Blobs::default();
    let layers = [(TAR, tar(&[Item::File("app.wasm", &module("modes"))])), (TAR, builder.into_inner().unwrap())];
    let top = blobs.image(config("wasi/wasm", &["/app.wasm"]), &layers);
    blobs.layout(&folder.path().join("layout"), &top);
    let loaded = images.load(&folder.path().join("layout"), Some("a:1")).await.unwrap();
    let files = images.files(&loaded).await.unwrap().unwrap();
    let modes = ["", "d", "d/all", "d/none", "closed", "closed/x"]
        .map(|name| format!("{:o}", fs::metadata(files.join(name)).unwrap().permissions().mode() & 0o7777));
    assert_eq!(modes, ["755", "755", "755", "600", "700", "644"]);
    assert_eq!(fs::metadata(files.join("d/all")).unwrap().mtime(), 1_000_000_000);
}

#[tokio::test]
async fn files_are_unpacked_once_kept_with_the_image_and_cleared_after_a_crash() {
    let (folder, files) = unpack(&[&[Item::File("data", b"1")]], |_| {}).await;
    let (root, files) = (folder.path().join("store"), files.unwrap());
    let made = fs::metadata(&files).unwrap().ino();
    let images = Images::open(&root, Options::default()).unwrap();
    let pulled = images.get("a:1").unwrap().unwrap();
    let again = [images.files(&pulled).await.unwrap(), images.clone().files(&pulled).await.unwrap()];
    assert_eq!(again, [Some(files.clone()), Some(files.clone())]);
    assert_eq!(fs::metadata(&files).unwrap().ino(), made);
    // What a process left that was killed while it unpacked.
    let half = root.join("tmp/1-1/deep/er");
    fs::create_dir_all(&half).unwrap();
    fs::write(half.join("file"), "half").unwrap();
    let images = Images::open(&root, Options::default()).unwrap();
    assert_eq!(fs::read_dir(root.join("tmp")).unwrap().count(), 0);
    assert!(images.collect(HashSet::new(), 0).await.unwrap().images.is_empty() && files.join("data").exists());
    images.remove("a:1").await.unwrap();
    assert_eq!(fs::read_dir(root.join("files")).unwrap().count(), 0);
    // A plain artifact has no files.
    let file = folder.path().join("a.wasm");
    fs::write(&file, module("plain")).unwrap();
    let loaded = images.load(&file, Some("b:1")).await.unwrap();
    assert_eq!(images.files(&loaded).await.unwrap(), None);
}
