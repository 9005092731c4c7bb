//! Layers of Linux images: what the kernel's overlay makes of them.

#![allow(clippy::unwrap_used, reason = "tests: a panic is the answer")]
#![allow(clippy::disallowed_methods, reason = "a test is told by its environment what it must not skip")]

mod support;

use image::{Artifact, Images, Options};
use rustix::fs::{FlockOperation, flock};
use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use support::{scene::*, *};
use tempfile::tempdir;

/// Mounts layers as the runtime does, and runs a script in the merged folder. `None` where that is not possible.
fn mounted(layers: &[PathBuf], script: &str) -> Option<String> {
    let nothing = tempdir().unwrap();
    let at = tempdir().unwrap();
    // An overlay without an upper folder has two lower ones.
    let all: Vec<_> = layers.iter().rev().map(PathBuf::as_path).chain([nothing.path()]).collect();
    let all: Vec<_> = all.iter().map(|path| path.display().to_string()).collect();
    let script = format!(
        "set -e; mount -t overlay overlay -o userxattr,lowerdir={} {}; cd {}; {script}",
        all.join(":"),
        at.path().display(),
        at.path().display()
    );
    let kind = if is_root() { "-m" } else { "-Urm" };
    if !Command::new("unshare").args([kind, "true"]).status().is_ok_and(|status| status.success()) {
        skip("no mount namespace");
        return None;
    }
    let output = Command::new("unshare").args([kind, "sh", "-c", &script]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && error.is_empty(), "{error}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What the kernel shows of layers, in a test that is [`alone`].
fn shown(layers: &[PathBuf]) -> String {
    let (nothing, at) = (tempdir().unwrap(), tempdir().unwrap());
    let all = layers.iter().rev().map(PathBuf::as_path).chain([nothing.path()]);
    let all: Vec<_> = all.map(|path| path.display().to_string()).collect();
    let options = format!("userxattr,lowerdir={}", all.join(":"));
    let mount = Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(at.path()).status();
    assert!(mount.unwrap().success());
    let tree = tree(at.path());
    assert!(Command::new("umount").arg(at.path()).status().unwrap().success());
    tree
}

/// All names with what they are: `NAME=CONTENT`, `NAME->TARGET`, `NAME/`.
fn tree(root: &Path) -> String {
    fn walk(folder: &Path, root: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            // It fails for a whiteout that is listed.
            let kind = fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{name}: {error}")).file_type();
            if kind.is_symlink() {
                found.push(format!("{name}->{}", fs::read_link(&path).unwrap().display()));
            } else if kind.is_dir() {
                found.push(name + "/");
                walk(&path, root, found);
            } else if kind.is_file() {
                found.push(format!("{name}={}", String::from_utf8_lossy(&fs::read(&path).unwrap())));
            } else {
                found.push(name + "?");
            }
        }
    }
    let mut found = Vec::new();
    walk(root, root, &mut found);
    found.sort();
    found.join(" ")
}

/// Runs a test again as a user without rights, who has all of it alone. True in there.
fn unprivileged(name: &str) -> bool {
    const INSIDE: &str = "SAMPAN_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() || !is_root() {
        return true;
    }
    let work = tempdir().unwrap();
    fs::set_permissions(work.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let program = work.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let user = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let mut command = Command::new("setpriv");
    command.args(user).arg(&program).args(["--exact", name, "--nocapture"]);
    match command.env(INSIDE, "1").env("TMPDIR", work.path()).status() {
        Ok(status) => assert!(status.success(), "{name} failed without rights"),
        Err(_) => drop(skip("setpriv is not installed")),
    }
    // Root of a user namespace that has nobody else has no more rights.
    let mut command = Command::new("unshare");
    command.arg("-Ur").arg(&program).args(["--exact", name, "--nocapture"]);
    match command.env(INSIDE, "1").env("TMPDIR", work.path()).status() {
        Ok(status) => assert!(status.success(), "{name} failed in a user namespace"),
        Err(_) => drop(skip("unshare is not installed")),
    }
    false
}

/// A capability set of version 2: `cap_net_bind_service=ep`.
const BIND: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn attributed() -> Vec<u8> {
    let attributes: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.user.note", b"line\nfeed"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.user.overlay.whiteout", b"y"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.security.selinux", b"system_u:object_r:etc_t:s0"),
        ("SCHILY.xattr.system.posix_acl_access", b"\x02\0\0\0"),
        ("SCHILY.xattr.security.capability", &BIND),
        ("mtime", b"1234567890.5"),
    ];
    let long = "d/".to_owned() + &"n".repeat(255);
    raw(&[
        Raw { mode: 0o1750, owner: (5, 6), ..Raw::folder("./") },
        Raw { mode: 0o2751, owner: (1, 2), ..Raw::folder("d") },
        Raw { mode: 0o4755, owner: (1000, 70_000), pax: attributes, ..Raw::file("d/setuid", b"s") },
        Raw { mode: 0o0000, pax: &[("uid", b"3000000"), ("gid", b"7")], ..Raw::file("d/none", b"x") },
        Raw { pax: &attributes[..6], owner: (3, 3), ..Raw::folder("closed") },
        Raw { owner: (8, 9), ..Raw::symlink("d/link", "../../../../etc/passwd") },
        Raw::hard_link("d/same", "/d/./setuid"),
        Raw::hard_link("d/samelink", "d/link"),
        Raw { mode: 0o666, owner: (4, 5), device: (1, 3), ..Raw::new("dev/null", b'3') },
        Raw { mode: 0o660, device: (7, 0), ..Raw::new("dev/loop0", b'4') },
        Raw { mode: 0o622, ..Raw::new("pipe", b'6') },
        Raw { name: b"latin-\xe4", ..Raw::file("", b"1") },
        Raw::file(&long, b"long"),
        Raw { mode: 0o755, ..Raw::new("old/", 0) },
        Raw { mode: 0o0111, ..Raw::folder("closed") },
        Raw::file("closed/x", b"x"),
    ])
}

#[tokio::test]
async fn a_layer_has_what_its_archive_says() {
    if !is_root() {
        skip("owners and devices need root");
        return;
    }
    let scene = Scene::new(|_| {});
    let layers = scene.layers(&[attributed()]).await.unwrap();
    let [layer] = &layers[..] else { panic!("{layers:?}") };
    let look = |name: &str| {
        let found = fs::symlink_metadata(layer.join(name)).unwrap();
        format!("{:o} {}:{} {}", found.mode(), found.uid(), found.gid(), found.mtime())
    };
    for (name, want) in [
        (".", "41750 5:6 1000000000"),
        ("d", "42751 1:2 1000000000"),
        ("d/setuid", "104755 1000:70000 1234567890"),
        ("d/none", "100000 3000000:7 1000000000"),
        ("d/link", "120777 8:9 1000000000"),
        ("dev", "40755 0:0"),
        ("dev/null", "20666 4:5 1000000000"),
        ("dev/loop0", "60660 0:0 1000000000"),
        ("pipe", "10622 0:0 1000000000"),
        ("old", "40755 0:0 1000000000"),
        ("closed", "40111 0:0 1000000000"),
    ] {
        let found = look(name);
        assert!(found.starts_with(want), "{name}: {found}");
    }
    assert_eq!(fs::metadata(layer.join("d/setuid")).unwrap().mtime_nsec(), 500_000_000);
    assert_eq!(fs::symlink_metadata(layer.join("dev/null")).unwrap().rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(fs::symlink_metadata(layer.join("dev/loop0")).unwrap().rdev(), rustix::fs::makedev(7, 0));
    assert_eq!(fs::read_link(layer.join("d/link")).unwrap(), Path::new("../../../../etc/passwd"));
    let inode = |name: &str| fs::symlink_metadata(layer.join(name)).unwrap().ino();
    assert_eq!((inode("d/same"), inode("d/samelink")), (inode("d/setuid"), inode("d/link")));
    use std::os::unix::ffi::OsStrExt;
    assert_eq!(fs::read(layer.join(std::ffi::OsStr::from_bytes(b"latin-\xe4"))).unwrap(), b"1");
    assert_eq!(fs::read(layer.join("d").join("n".repeat(255))).unwrap(), b"long");
    for (name, kept) in [("d/setuid", true), ("closed", false)] {
        let path = layer.join(name);
        assert_eq!(attribute(&path, "user.note").as_deref(), Some(&b"line\nfeed"[..]));
        assert_eq!(attribute(&path, "security.capability").is_some(), kept, "{name}");
        for stripped in [
            "user.overlay.opaque",
            "user.overlay.redirect",
            "user.overlay.whiteout",
            "trusted.overlay.opaque",
            "security.selinux",
            "system.posix_acl_access",
        ] {
            assert_eq!(attribute(&path, stripped), None, "{stripped} of {name}");
        }
    }
}

#[tokio::test]
async fn without_rights_everything_belongs_to_the_only_user() {
    if !unprivileged("without_rights_everything_belongs_to_the_only_user") {
        return;
    }
    let scene = Scene::new(|_| {});
    let whiteout = raw(&[Raw::file("closed/.wh.x", b""), Raw::file("d/.wh..wh..opq", b""), Raw::file("closed/y", b"")]);
    let layers = scene.layers(&[attributed(), whiteout]).await.unwrap();
    let look = |name: &str| {
        let found = fs::symlink_metadata(layers[0].join(name)).unwrap();
        assert_eq!((found.uid(), found.gid()), me(), "{name}");
        format!("{:o}", found.mode())
    };
    for (name, want) in
        [(".", "41750"), ("d/setuid", "104755"), ("d/none", "100000"), ("closed", "40111"), ("pipe", "10622")]
    {
        assert_eq!(look(name), want, "{name}");
    }
    assert_eq!(attribute(&layers[0].join("d/setuid"), "security.capability"), None);
    assert_eq!(attribute(&layers[0].join("d/setuid"), "user.note").as_deref(), Some(&b"line\nfeed"[..]));
    assert!(!layers[0].join("dev/null").exists());
    // The folder cannot be looked into: that a whiteout is there is no harm.
    if let Some(shown) = mounted(&layers, "ls closed; ls d; stat -c %u:%g closed/y") {
        assert_eq!(shown, "y\n0:0\n");
    }
    // What nobody may enter is removed all the same.
    scene.images.remove("a:1").await.unwrap();
    assert_eq!((scene.left("layers"), scene.left("tmp"), scene.left("blobs/sha256")), (0, 0, 0));
}

#[tokio::test]
async fn upper_layers_hide_and_replace_what_is_below() {
    if !alone("upper_layers_hide_and_replace_what_is_below") {
        return;
    }
    let lower = || {
        vec![
            Raw::file("a/one", b"1"),
            Raw::file("a/two", b"2"),
            Raw::file("a/deep/three", b"3"),
            Raw::file("b", b"b"),
            Raw::symlink("link", "a"),
        ]
    };
    let base = "a/ a/deep/ a/deep/three=3 a/one=1 a/two=2 b=b link->a";
    let white = |name| Raw::file(name, b"");
    let cases: &[(&[&[Raw<'_>]], &str)] = &[
        (&[&[]], base),
        (&[&[white("a/.wh.one")]], "a/ a/deep/ a/deep/three=3 a/two=2 b=b link->a"),
        (&[&[white(".wh.a")]], "b=b link->a"),
        (&[&[white(".wh.a")], &[Raw::file("a/new", b"n")]], "a/ a/new=n b=b link->a"),
        // nothing to hide: the kernel would list the whiteout
        (&[&[white(".wh.none"), white("none/.wh.x"), white("a/.wh.none"), white("new/.wh.x"), Raw::folder("new")]], {
            "a/ a/deep/ a/deep/three=3 a/one=1 a/two=2 b=b link->a new/"
        }),
        (&[&[white(".wh.link")]], "a/ a/deep/ a/deep/three=3 a/one=1 a/two=2 b=b"),
        (&[&[white("link/.wh.one")]], base),
        (&[&[white("b/.wh.one")]], base),
        (&[&[white("a/.wh..wh..opq")]], "a/ b=b link->a"),
        (&[&[Raw::file("a/new", b"n"), white("a/.wh..wh..opq")]], "a/ a/new=n b=b link->a"),
        (&[&[white("a/.wh..wh..opq"), Raw::file("a/new", b"n")]], "a/ a/new=n b=b link->a"),
        (&[&[white("a/.wh..wh..opq"), white("a/.wh.one"), white("a/deep/.wh.three")]], "a/ b=b link->a"),
        (&[&[white("a/.wh..wh..opq"), Raw::folder("a/deep")]], "a/ a/deep/ b=b link->a"),
        (&[&[white("none/.wh..wh..opq")]], base),
        (&[&[white("link/.wh..wh..opq")]], base),
        // of the root
        (&[&[white(".wh..wh..opq"), Raw::file("new", b"n")]], "new=n"),
        (&[&[white(".wh..wh..opq")], &[white(".wh.b"), Raw::folder("a")]], "a/"),
        // the same name in one layer: what it has stays, what is below goes
        (&[&[white("a/.wh.one"), Raw::file("a/one", b"n")]], "a/ a/deep/ a/deep/three=3 a/one=n a/two=2 b=b link->a"),
        (&[&[white(".wh.a"), white("a/deep/.wh..wh..opq")]], "b=b link->a"),
        (
            &[&[Raw::file("a/deep/new", b"n"), white("a/.wh.deep")]],
            "a/ a/deep/ a/deep/new=n a/one=1 a/two=2 b=b link->a",
        ),
        (&[&[white(".wh.a"), Raw::file("a/deep/new", b"n")]], "a/ a/deep/ a/deep/new=n b=b link->a"),
        (&[&[white(".wh.a"), Raw::symlink("a", "b")]], "a->b b=b link->a"),
        // kinds change, and back
        (&[&[Raw::file("a", b"file")]], "a=file b=b link->a"),
        (&[&[Raw::file("a", b"file")], &[Raw::folder("a")]], "a/ b=b link->a"),
        (&[&[Raw::symlink("a", "/etc")], &[Raw::file("a/x", b"x")]], "a/ a/x=x b=b link->a"),
        (&[&[Raw::file("link/x", b"x")]], "a/ a/deep/ a/deep/three=3 a/one=1 a/two=2 b=b link/ link/x=x"),
        (&[&[Raw::file("link", b"no link")]], "a/ a/deep/ a/deep/three=3 a/one=1 a/two=2 b=b link=no link"),
        (&[&[Raw::file("a", b"f"), white("a/.wh..wh..opq"), white("a/.wh.one")]], "a=f b=b link->a"),
        // devices that are whiteouts, and notes of AUFS
        (&[&[Raw::new("a", b'3'), Raw::new("none", b'3')]], "b=b link->a"),
        (&[&[white("a/.wh..wh.plnk"), white(".wh..wh.aufs")]], base),
    ];
    for (uppers, want) in cases {
        let scene = Scene::new(|_| {});
        let layers: Vec<_> = [raw(&lower())].into_iter().chain(uppers.iter().map(|upper| raw(upper))).collect();
        let merged = tree(&scene.folder(&layers).await.unwrap());
        let layers = scene.layers(&layers).await.unwrap();
        let found = shown(&layers);
        let names: Vec<_> = uppers.iter().flat_map(|upper| upper.iter().map(|one| one.name.escape_ascii())).collect();
        let names = names.iter().map(|name| format!("{name} ")).collect::<String>();
        assert_eq!((&*found, &*merged), (*want, *want), "{names}");
    }
}

/// Numbers that are the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

/// Entries of a layer, no name twice, and nothing below a file.
fn random_layer(random: &mut Random) -> Vec<(String, u8)> {
    let mut entries: BTreeMap<String, u8> = BTreeMap::new();
    for _ in 0..random.below(8) {
        let depth = 1 + random.below(3);
        let parts: Vec<_> = (0..depth).map(|_| ["a", "b", "c"][random.below(3) as usize]).collect();
        let path = parts.join("/");
        let (kind, path) = match random.below(6) {
            0 => (b'5', path),
            1 => (b'2', path),
            2 => (b'w', [&parts[..parts.len() - 1], &[&format!(".wh.{}", parts[parts.len() - 1])]].concat().join("/")),
            3 => (b'o', format!("{path}/.wh..wh..opq")),
            _ => (b'0', path),
        };
        let under = |other: &String| path.starts_with(&format!("{other}/")) || other.starts_with(&format!("{path}/"));
        let clash = |(other, known): (&String, &u8)| {
            *other == path || under(other) && (matches!(known, b'0' | b'2') || matches!(kind, b'0' | b'2'))
        };
        if !entries.iter().any(clash) {
            entries.insert(path, kind);
        }
    }
    let mut entries: Vec<_> = entries.into_iter().collect();
    for at in (1..entries.len()).rev() {
        entries.swap(at, random.below(at as u64 + 1) as usize);
    }
    entries
}

/// Two unpackers, one of which applies layer after layer, and the kernel with the other one, have to agree.
#[tokio::test]
async fn the_kernel_shows_what_applying_one_layer_after_the_other_makes() {
    if !alone("the_kernel_shows_what_applying_one_layer_after_the_other_makes") {
        return;
    }
    let (mut random, mut compared) = (Random(0x5eed), 0);
    for round in 0..40 {
        let scene = Scene::new(|_| {});
        let mut layers = vec![raw(&[Raw::file("app.wasm", &module("m"))])];
        let mut told = String::new();
        for number in 0..1 + random.below(4) {
            let entries = random_layer(&mut random);
            let text = format!("{number}");
            let made = entries.iter().map(|(path, kind)| match kind {
                b'5' => Raw::folder(path),
                b'2' => Raw::symlink(path, &text),
                _ => Raw::file(path, text.as_bytes()),
            });
            layers.push(raw(&made.collect::<Vec<_>>()));
            told += &format!(
                "{:?}\n",
                entries.iter().map(|(path, kind)| format!("{path} {}", *kind as char)).collect::<Vec<_>>()
            );
        }
        let mut blobs = Blobs::default();
        let packed: Vec<_> = layers.iter().map(|layer| (TAR, layer.clone())).collect();
        let top = blobs.image(config("wasi/wasm", &["/app.wasm"]), &packed);
        let layout = scene.folder.path().join("wasm");
        blobs.layout(&layout, &top);
        let merged = scene.images.load(&layout, Some("wasm:1")).await.unwrap();
        // It refuses what is below a link of another layer, which an overlay replaces.
        let Ok(files) = scene.images.files(&merged).await else { continue };
        let overlay = scene.layers(&layers).await.unwrap();
        assert_eq!(shown(&overlay), tree(&files.unwrap()), "round {round}:\n{told}");
        let folder = scene.folder(&layers).await.unwrap();
        assert_eq!(shown(&overlay), tree(&folder), "round {round}, in one folder:\n{told}");
        compared += 1;
    }
    assert!(compared > 25, "{compared}");
}

#[tokio::test]
async fn what_a_layer_leaves_open_comes_from_below() {
    if !is_root() {
        skip("owners need root");
        return;
    }
    let scene = Scene::new(|_| {});
    let below = raw(&[
        Raw { mode: 0o711, owner: (7, 8), ..Raw::folder("./") },
        Raw { mode: 0o1777, owner: (1, 2), ..Raw::folder("tmp") },
        Raw { mode: 0o700, owner: (3, 4), ..Raw::folder("home/user") },
        Raw { mode: 0o700, owner: (5, 5), ..Raw::folder("gone") },
        Raw { mode: 0o700, owner: (5, 5), ..Raw::folder("opaque/folder") },
    ]);
    let middle = [Raw::file(".wh.gone", b""), Raw::symlink("link", "tmp"), Raw::file("opaque/.wh..wh..opq", b"")];
    let middle = raw(&middle);
    let upper = raw(&[
        Raw::file("tmp/x", b""),
        Raw::file("home/user/.wh..wh..opq", b""),
        Raw::file("gone/x", b""),
        Raw::file("link/x", b""),
        Raw::file("new/x", b""),
        Raw::file("opaque/folder/x", b""),
    ]);
    let layers = scene.layers(&[below, middle, upper]).await.unwrap();
    for (name, want) in [
        ("", (0o711, 7, 8, 1_000_000_000)),
        ("tmp", (0o1777, 1, 2, 1_000_000_000)),
        ("home/user", (0o700, 3, 4, 1_000_000_000)),
        ("home", (0o755, 0, 0, 0)),
        ("gone", (0o755, 0, 0, 0)),
        ("link", (0o755, 0, 0, 0)),
        ("new", (0o755, 0, 0, 0)),
        ("opaque/folder", (0o755, 0, 0, 0)),
    ] {
        let found = fs::symlink_metadata(layers[2].join(name)).unwrap();
        let time = if want.3 == 0 { 0 } else { found.mtime() };
        assert_eq!((found.mode() & 0o7777, found.uid(), found.gid(), time), want, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_share_layers_and_keep_them_until_the_last_goes() {
    let scene = Scene::new(|_| {});
    let base = (GZIP, raw(&[Raw::file("base", &[7; 100_000])]));
    let one = (GZIP, raw(&[Raw::file("one", &[1; 50_000])]));
    let two = (ZSTD, raw(&[Raw::file("two", &[2; 20_000])]));
    let first = scene.load("one:1", &[base.clone(), one.clone()]).await.unwrap();
    let second = scene.load("two:1", &[base.clone(), two]).await.unwrap();
    assert_eq!(first.artifact, Artifact::Linux { platform: here().into() });
    let listed = |images: Vec<image::Listed>| {
        images.into_iter().map(|one| (one.names[0].clone(), one.size)).collect::<BTreeMap<_, _>>()
    };
    let before = listed(scene.images.list().await.unwrap());
    // Many ask at a time.
    let asked: Vec<_> = (0..16)
        .map(|n| {
            let (images, image) = (scene.images.clone(), if n % 2 == 0 { first.clone() } else { second.clone() });
            tokio::spawn(async move { images.layers(&image).await.unwrap().unwrap() })
        })
        .collect();
    let mut answers = Vec::new();
    for one in asked {
        answers.push(one.await.unwrap());
    }
    assert!(answers.chunks(2).all(|pair| pair[0] == answers[0] && pair[1] == answers[1]));
    let (ones, twos) = (&answers[0], &answers[1]);
    assert_eq!((ones[0] == twos[0], ones[1] == twos[1]), (true, false));
    assert_eq!((scene.left("layers"), scene.left("tmp")), (3, 0));
    let inode = fs::metadata(&ones[0]).unwrap().ino();
    // Another process, and a start after one.
    let again = Images::open(scene.folder.path().join("store"), Options::default()).unwrap();
    assert_eq!(again.layers(&first).await.unwrap().as_ref(), Some(ones));
    assert_eq!(fs::metadata(&ones[0]).unwrap().ino(), inode);
    // The same layer above another one is another.
    let alone = scene.load("alone:1", &[one]).await.unwrap();
    assert_ne!(scene.images.layers(&alone).await.unwrap().unwrap()[0], ones[1]);
    scene.images.remove("alone:1").await.unwrap();
    // Both take all of what they share; who goes frees what is its own.
    let after = listed(scene.images.list().await.unwrap());
    for (name, content) in [("docker.io/library/one:1", 150_000), ("docker.io/library/two:1", 120_000)] {
        let unpacked = after[name] - before[name];
        assert!((content..content + 8 * 4096).contains(&unpacked), "{name}: {unpacked}");
    }
    let freed = scene.images.remove("one:1").await.unwrap();
    assert!((50_000..80_000).contains(&freed), "{freed}");
    assert!(ones[0].exists() && !ones[1].exists() && twos[1].exists());
    assert_eq!(scene.images.layers(&second).await.unwrap().as_ref(), Some(twos));
    // A layer that is mounted stays when its image goes.
    let lock = File::open(&twos[1]).unwrap();
    flock(&lock, FlockOperation::LockShared).unwrap();
    let freed = scene.images.remove("two:1").await.unwrap();
    assert!((100_000..140_000).contains(&freed), "{freed}");
    assert!(!twos[0].exists() && twos[1].join("two").exists());
    assert_eq!(scene.images.collect(HashSet::new(), 0).await.unwrap().freed, 0);
    drop(lock);
    // Other tests start programs, which have copies of all locks until they are programs.
    let mut freed = 0;
    for _ in 0..200 {
        freed += scene.images.collect(HashSet::new(), 0).await.unwrap().freed;
        if freed > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!((20_000..40_000).contains(&freed), "{freed}");
    assert_eq!((scene.left("layers"), scene.left("blobs/sha256"), scene.left("tmp")), (0, 0, 0));
    let error = scene.images.layers(&second).await.unwrap_err().to_string();
    assert!(error.contains("no longer in the store"), "{error}");
}

#[tokio::test]
async fn an_image_is_one_folder_that_has_the_files_of_its_layers() {
    // and with rights
    unprivileged("an_image_is_one_folder_that_has_the_files_of_its_layers");
    let scene = Scene::new(|_| {});
    let folder = |mode| Raw { mode, ..Raw::folder("d") };
    let base = raw(&[folder(0o711), Raw { mode: 0o604, ..Raw::file("d/f", &[7; 100_000]) }]);
    let upper = raw(&[folder(0o2750), Raw::file("d/g", b"g"), Raw::symlink("d/link", "f")]);
    let layers = [base.clone(), upper];
    let at = scene.folder(&layers).await.unwrap();
    assert_eq!(tree(&at).replace(&"\u{7}".repeat(100_000), "7"), "d/ d/f=7 d/g=g d/link->f");
    let found = |path: &str| fs::symlink_metadata(at.join(path)).unwrap();
    assert_eq!(found("d").permissions().mode() & 0o777, 0o750);
    assert_eq!(found("d/f").permissions().mode() & 0o777, 0o604);
    let unpacked = scene.layers(&layers).await.unwrap();
    assert_eq!(found("d/f").ino(), fs::metadata(unpacked[0].join("d/f")).unwrap().ino(), "it takes no room");
    assert_eq!(scene.folder(&layers).await.unwrap(), at);
    assert_eq!((scene.left("files"), scene.left("tmp")), (1, 0));
    // A layer that is alone needs no other folder.
    let alone = scene.load("alone:1", &[(GZIP, base)]).await.unwrap();
    let layers = scene.images.layers(&alone).await.unwrap().unwrap();
    assert_eq!(scene.images.folder(&alone).await.unwrap(), layers.first().cloned());
    for image in ["a:1", "alone:1"] {
        scene.images.remove(image).await.unwrap();
    }
    assert_eq!((scene.left("files"), scene.left("layers"), scene.left("tmp")), (0, 0, 0));
}

/// An image of a program, made by hand: it runs in what the kernel shows.
#[tokio::test]
async fn a_program_runs_in_its_layers() {
    let found = ["/bin/busybox", "/usr/bin/busybox"].iter().find_map(|path| fs::read(path).ok());
    // One that needs libraries does not run alone.
    let Some(busybox) = found.filter(|program| !program.windows(6).any(|bytes| bytes == b"/ld-li")) else {
        skip("busybox-static is not installed");
        return;
    };
    let scene = Scene::new(|_| {});
    let program = Raw { mode: 0o755, ..Raw::file("usr/bin/busybox", &busybox) };
    let base = raw(&[
        Raw::folder("usr/bin"),
        program,
        Raw::symlink("bin", "usr/bin"),
        Raw::symlink("usr/bin/sh", "busybox"),
        Raw::hard_link("usr/bin/cat", "usr/bin/busybox"),
        Raw::file("etc/motd", b"old"),
        Raw::file("etc/gone", b"gone"),
    ]);
    let upper = raw(&[Raw::file("etc/motd", b"new"), Raw::file("etc/.wh.gone", b"")]);
    let loaded = scene.load("box:1", &[(GZIP, base), (ZSTD, upper)]).await.unwrap();
    assert_eq!(loaded.config.entrypoint, ["/bin/sh"]);
    let layers = scene.images.layers(&loaded).await.unwrap().unwrap();
    let script = "chroot . /bin/sh -c 'cat /etc/motd; busybox ls /etc /; busybox id -u'";
    if let Some(told) = mounted(&layers, script) {
        let told: Vec<_> = told.split_whitespace().collect();
        assert_eq!(told, ["new/:", "bin", "etc", "usr", "/etc:", "motd", "0"]);
    }
}
