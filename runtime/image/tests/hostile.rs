//! What a registry or an image may do wrong ends in the right reason, with words a user can act on, and costs no more than
//! its limit.

#![allow(clippy::unwrap_used, reason = "tests: a panic is the answer")]

mod support;

use image::{Artifact, Error, Images, Keyring, Policy, Pulled};
use serde_json::json;
use std::time::Duration;
use support::{fake::*, *};
use tempfile::{TempDir, tempdir};

struct Scene {
    fake: Fake,
    folder: TempDir,
    images: Images,
}

async fn scene() -> Scene {
    let folder = tempdir().unwrap();
    let images = store(folder.path(), |options| options.limits = small());
    Scene { fake: Fake::start().await, folder, images }
}

impl Scene {
    async fn pull(&self) -> Result<Pulled, Error> {
        self.images.pull(&self.fake.name(), &Keyring::new()).await
    }

    /// The failure of a pull: its reason, and that its message has `text`. Nothing half-made is left.
    async fn fails(&self, reason: &str, text: &str) {
        let error = self.pull().await.unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
        assert!(error.to_string().contains(text), "{error}");
        assert!(error.to_string().contains(&self.fake.name()), "{error}");
        assert_eq!(self.images.get(&self.fake.name()).unwrap(), None);
        assert_eq!(std::fs::read_dir(self.folder.path().join("tmp")).unwrap().count(), 0);
    }

    /// Serves an image with these layers and entry point.
    fn serve(&self, platform: &str, entrypoint: &[&str], layers: &[(&str, Vec<u8>)]) {
        let mut blobs = Blobs::default();
        let top = blobs.image(config(platform, entrypoint), layers);
        self.fake.serve(&blobs, digest(&top));
    }
}

fn content(pulled: &Pulled) -> Vec<u8> {
    match &pulled.artifact {
        Artifact::Wasm { path, .. } => std::fs::read(path).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_image_that_is_not_there_says_so_and_how_to_load_a_local_one() {
    let scene = scene().await;
    let name = scene.fake.name();
    scene.fails("ErrImagePull", &format!("failed to resolve reference \"{name}\": {name}: not found")).await;
    scene
        .fails("ErrImagePull", &format!("; if it is a local image, load it with: sampan image load FILE -t {name}"))
        .await;
}

#[tokio::test]
async fn a_refused_connection_and_a_broken_registry_are_told_apart() {
    let scene = scene().await;
    scene.fake.on("/v2/a/manifests/t", [Answer::new(503, "busy")]);
    scene.fails("RegistryUnavailable", "because the registry is unavailable: 503 Service Unavailable: busy").await;
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = scene.images.pull(&format!("{free}/a"), &Keyring::new()).await.unwrap_err();
    assert_eq!(error.reason(), "ErrImagePull");
    assert!(error.to_string().contains("onnection refused"), "{error}");
    let hint = "imagePullPolicy: IfNotPresent, because :latest and no tag mean Always";
    assert!(error.to_string().contains(hint), "{error}");
}

#[tokio::test]
async fn content_with_a_wrong_digest_is_refused() {
    let scene = scene().await;
    let mut blobs = Blobs::default();
    let wasm = module("right");
    let top = blobs.artifact(wasm.clone());
    scene.fake.serve(&blobs, digest(&top));
    let layer = format!("/v2/a/blobs/{}", image::Digest::of(&wasm));
    let mut wrong = wasm.clone();
    *wrong.last_mut().unwrap() ^= 1;
    scene.fake.on(&layer, [Answer::new(200, wrong)]);
    scene.fails("ErrImagePull", "has digest sha256:").await;
    scene.fake.on(&layer, [Answer::new(200, [&wasm[..], b"more"].concat())]);
    scene.fails("ErrImagePull", "has more than its").await;
    // A manifest asked for by digest, and one that the registry's own header contradicts.
    let by_digest = format!("{}/a@{}", scene.fake.address, digest(&top));
    scene.fake.on(&format!("/v2/a/manifests/{}", digest(&top)), [Answer::new(200, r#"{"schemaVersion":2}"#)]);
    let error = scene.images.pull(&by_digest, &Keyring::new()).await.unwrap_err();
    assert!(error.to_string().contains("has digest sha256:"), "{error}");
    let header = image::Digest::of(b"other").to_string();
    scene.fake.on("/v2/a/manifests/t", [Answer::new(200, "{}").header("docker-content-digest", &header)]);
    scene.fails("ErrImagePull", &format!("the manifest of {header} has digest")).await;
    // Nothing wrong was kept: with the right content it works.
    scene.fake.serve(&blobs, digest(&top));
    assert_eq!(content(&scene.pull().await.unwrap()), wasm);
}

#[tokio::test]
async fn a_download_that_breaks_off_is_resumed() {
    let scene = scene().await;
    let mut blobs = Blobs::default();
    let wasm = module(&"x".repeat(100_000));
    let top = blobs.artifact(wasm.clone());
    scene.fake.serve(&blobs, digest(&top));
    let layer = image::Digest::of(&wasm);
    let whole = Answer::new(200, wasm.clone());
    let cut = Answer { cut: Some(40_000), ..whole.clone() };
    scene.fake.on(&format!("/v2/a/blobs/{layer}"), [cut.clone(), cut, whole.clone()]);
    assert_eq!(content(&scene.pull().await.unwrap()), wasm);
    let asked = scene.fake.asked();
    let starts: Vec<_> = asked.iter().filter_map(|asked| asked.strip_prefix(&format!("blobs/{layer}"))).collect();
    assert_eq!(starts, ["", " bytes=40000-", " bytes=80000-"]);

    // A later pull goes on where a failed one ended, also with a registry that knows no ranges.
    let second = tempdir().unwrap();
    let partial = second.path().join("partial").join(layer.hex());
    let images = store(second.path(), |_| {});
    std::fs::write(&partial, &wasm[..5000]).unwrap();
    scene.fake.on(&format!("/v2/a/blobs/{layer}"), [Answer { ranges: false, ..whole }]);
    assert_eq!(content(&images.pull(&scene.fake.name(), &Keyring::new()).await.unwrap()), wasm);
    // One whose beginning is wrong is thrown away, and the next attempt is right.
    let third = tempdir().unwrap();
    let images = store(third.path(), |_| {});
    std::fs::write(third.path().join("partial").join(layer.hex()), vec![7; wasm.len()]).unwrap();
    let error = images.pull(&scene.fake.name(), &Keyring::new()).await.unwrap_err();
    assert!(error.to_string().contains("has digest"), "{error}");
    assert_eq!(content(&images.pull(&scene.fake.name(), &Keyring::new()).await.unwrap()), wasm);
}

#[tokio::test]
async fn an_image_that_the_disk_has_no_room_for_is_refused_before_it_fills_it() {
    const SIZE: u64 = 1 << 50;
    let scene = scene().await;
    let mut blobs = Blobs::default();
    let wasm = module("short");
    let mut layer = blobs.add("application/wasm", wasm.clone());
    layer["size"] = json!(SIZE);
    let config = json!({"architecture": "wasm", "os": "wasip1", "layerDigests": [image::Digest::of(&wasm)]});
    let config = blobs.add(WASM_CONFIG, config.to_string().into_bytes());
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]});
    let top = blobs.add(MANIFEST, manifest.to_string().into_bytes());
    scene.fake.serve(&blobs, digest(&top));
    let limits = image::Limits { image: u64::MAX, module: u64::MAX, unpacked: u64::MAX, ..image::Limits::default() };
    let folder = tempdir().unwrap();
    let images = store(folder.path(), |options| options.limits = limits);
    let partial = folder.path().join("partial").join(image::Digest::of(&wasm).hex());
    std::fs::write(&partial, &wasm[..4]).unwrap();
    let error = images.pull(&scene.fake.name(), &Keyring::new()).await.unwrap_err();
    assert_eq!(error.reason(), "ErrImagePull");
    let wanted = format!("content store: no space left on device: {} bytes are needed, and images may take ", SIZE - 4);
    assert!(error.to_string().starts_with(&wanted), "{error}");
    assert!(
        error
            .to_string()
            .ends_with("; free some space on its disk, or remove images that no pod uses: sampan image prune"),
        "{error}"
    );
    assert!(!partial.exists(), "what had arrived makes room");
    assert!(!scene.fake.asked().iter().any(|asked| asked.starts_with(&format!("blobs/{}", image::Digest::of(&wasm)))));
}

#[tokio::test]
async fn a_download_that_always_breaks_off_fails_in_the_end() {
    let scene = scene().await;
    let mut blobs = Blobs::default();
    let wasm = module("short");
    let top = blobs.artifact(wasm.clone());
    scene.fake.serve(&blobs, digest(&top));
    let layer = format!("/v2/a/blobs/{}", image::Digest::of(&wasm));
    scene.fake.on(&layer, [Answer { cut: Some(0), ..Answer::new(200, wasm) }]);
    scene.fails("ErrImagePull", "broke off").await;
}

#[tokio::test]
async fn a_registry_that_says_nothing_ends_in_time() {
    let folder = tempdir().unwrap();
    let images = store(folder.path(), |options| {
        options.limits.answer = Duration::from_millis(100);
        options.limits.idle = Duration::from_millis(100);
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let name = format!("{}/a:t", listener.local_addr().unwrap());
    let held = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok(stream) = listener.accept().await {
            held.push(stream);
        }
    });
    let error = images.pull(&name, &Keyring::new()).await.unwrap_err();
    assert_eq!(error.reason(), "ErrImagePull");
    held.abort();
}

#[tokio::test]
async fn documents_beyond_their_bounds_are_refused() {
    let scene = scene().await;
    scene.fake.on("/v2/a/manifests/t", [Answer::new(200, vec![b' '; (4 << 20) + 1])]);
    scene.fails("ErrImagePull", "the registry's answer is longer than 4194304 bytes").await;
    let descriptor = json!({"mediaType": "application/wasm", "digest": image::Digest::of(b""), "size": 1});
    let manifest = |layers: serde_json::Value, config: u64| {
        let config = json!({"mediaType": WASM_CONFIG, "digest": image::Digest::of(b""), "size": config});
        Answer::new(200, json!({"schemaVersion": 2, "config": config, "layers": layers}).to_string())
    };
    let cases = [
        (manifest(json!(vec![descriptor.clone(); 129]), 1), "it has 129 layers, 128 are allowed"),
        (manifest(json!([]), 5 << 20), "its config has 5242880 bytes"),
        (
            manifest(json!([{"mediaType": GZIP, "digest": image::Digest::of(b""), "size": 17u64 << 30}]), 1),
            "its layers have 18253611008 bytes, 17179869184 are allowed",
        ),
        (Answer::new(200, "[]"), "the manifest cannot be read"),
        (Answer::new(200, r#"{"schemaVersion":1}"#), "schemaVersion 2"),
        (Answer::new(200, r#"{"schemaVersion":2,"mediaType":"x/y","layers":[]}"#), "unknown manifest type \"x/y\""),
        (Answer::new(200, r#"{"schemaVersion":2}"#), "neither an image nor an index"),
        (Answer::new(200, format!("{}1", "[".repeat(100_000))), "the manifest cannot be read"),
    ];
    for (answer, text) in cases {
        scene.fake.on("/v2/a/manifests/t", [answer]);
        scene.fails("ErrImagePull", text).await;
    }
}

#[tokio::test]
async fn a_module_that_is_too_large_or_no_module_is_refused() {
    let scene = scene().await;
    let elf = [b"\x7fELF\x02\x01\x01\0".as_slice(), &[0; 100]].concat();
    let odd = b"\0asm\x07\0\0\0".to_vec();
    for (wasm, text) in [
        (elf, "the module is not WebAssembly"),
        (b"\0as".to_vec(), "the module is not WebAssembly"),
        (odd, "the module has the unknown version [07, 00, 00, 00]"),
        (vec![0; (1 << 19) + 1], "its module has 524289 bytes, 524288 are allowed"),
    ] {
        let mut blobs = Blobs::default();
        let top = blobs.artifact(wasm);
        scene.fake.serve(&blobs, digest(&top));
        scene.fails("ErrImagePull", text).await;
    }
}

#[tokio::test]
async fn an_unknown_type_and_a_foreign_platform_are_named() {
    let scene = scene().await;
    let mut blobs = Blobs::default();
    let top = blobs.image(("application/vnd.cncf.helm.config.v1+json", json!({})), &[("application/x", vec![1])]);
    scene.fake.serve(&blobs, digest(&top));
    scene.fails("ErrImagePull", "unknown type: config \"application/vnd.cncf.helm.config.v1+json\"").await;
    scene.serve("windows/amd64", &["cmd.exe"], &[(TAR, tar(&[]))]);
    scene.fails("ErrImagePull", "no match for platform in manifest: the image is for windows/amd64").await;
    let mut blobs = Blobs::default();
    let image = blobs.artifact(module("x"));
    let inner = blobs.index(&[("wasi/wasm", image)]);
    let outer = blobs.index(&[("wasi/wasm", inner)]);
    scene.fake.serve(&blobs, digest(&outer));
    scene.fails("ErrImagePull", "an index within an index").await;
}

#[tokio::test]
async fn a_tar_that_climbs_out_or_leads_out_is_refused() {
    let scene = scene().await;
    let wasm = module("x");
    let app = Item::File("app.wasm", &wasm);
    for name in ["../../etc/passwd", "a/../../b", "/../x"] {
        let layer = tar(&[Item::File(name, b"x"), Item::File("app.wasm", &wasm)]);
        scene.serve("wasi/wasm", &["/app.wasm"], &[(GZIP, gzip(&layer))]);
        scene.fails("ErrImagePull", "the archive holds a path that climbs out").await;
    }
    let layer = tar(&[Item::Symlink("app.wasm", "../../../etc/passwd")]);
    scene.serve("wasi/wasm", &["app.wasm"], &[(TAR, layer)]);
    scene.fails("ErrImagePull", "climbs out of the image").await;
    let layer = tar(&[Item::Symlink("a.wasm", "b.wasm"), Item::Symlink("b.wasm", "a.wasm")]);
    scene.serve("wasi/wasm", &["a.wasm"], &[(TAR, layer)]);
    scene.fails("ErrImagePull", "a link to a link").await;
    scene.serve("wasi/wasm", &["../../app.wasm"], &[(TAR, tar(&[app]))]);
    scene.fails("ErrImagePull", "climbs out of the image").await;
    scene.serve("wasi/wasm", &["/etc/passwd"], &[(TAR, tar(&[Item::Symlink("etc", "/etc")]))]);
    scene.fails("ErrImagePull", "the image has no file \"/etc/passwd\", which its entry point names").await;
}

#[tokio::test]
async fn a_bomb_costs_no_more_than_its_limit() {
    let scene = scene().await;
    let zeros = vec![0; 8 << 20];
    let bomb = tar(&[Item::File("zeros", &zeros)]);
    for (media_type, packed) in [(GZIP, gzip(&bomb)), (ZSTD, zstd(&bomb)), (TAR, bomb.clone())] {
        scene.serve("wasi/wasm", &["app.wasm"], &[(media_type, packed)]);
        scene.fails("ErrImagePull", "it unpacks to more than 1048576 bytes").await;
    }
    // A module within the budget but beyond what a module may have.
    let large = tar(&[Item::File("app.wasm", &zeros[..600 << 10])]);
    scene.serve("wasi/wasm", &["app.wasm"], &[(GZIP, gzip(&large))]);
    scene.fails("ErrImagePull", "the archive holds a file of 614400 bytes, 524288 are allowed").await;
    let many: Vec<_> = (0..101).map(|_| Item::File("x", b"")).collect();
    scene.serve("wasi/wasm", &["app.wasm"], &[(GZIP, gzip(&tar(&many)))]);
    scene.fails("ErrImagePull", "too many entries").await;
    for broken in [gzip(&bomb)[..100].to_vec(), vec![0x28, 0xb5, 0x2f, 0xfd, 1, 2, 3], b"no tar".repeat(200)] {
        scene.serve("wasi/wasm", &["app.wasm"], &[(GZIP, broken)]);
        scene.fails("ErrImagePull", "the archive cannot be read").await;
    }
}

#[tokio::test]
async fn files_are_found_through_layers_links_and_whiteouts() {
    let scene = scene().await;
    let (old, new) = (module("old"), module("new"));
    let low = gzip(&tar(&[Item::File("./bin/app.wasm", &old), Item::Symlink("run.wasm", "bin/app.wasm")]));
    let high = zstd(&tar(&[Item::File("bin/app.wasm", &new)]));
    let hidden = tar(&[Item::File("bin/.wh.app.wasm", b"")]);
    let opaque = tar(&[Item::File("bin/.wh..wh..opq", b"")]);
    type Layers<'a> = &'a [(&'static str, Vec<u8>)];
    let cases: [(&str, Layers<'_>, Option<&[u8]>); 6] = [
        ("/bin/app.wasm", &[(GZIP, low.clone())], Some(&old)),
        ("/run.wasm", &[(GZIP, low.clone())], Some(&old)),
        ("bin/app.wasm", &[(GZIP, low.clone()), (ZSTD, high.clone())], Some(&new)),
        ("/run.wasm", &[(GZIP, low.clone()), (ZSTD, high.clone())], Some(&new)),
        ("/bin/app.wasm", &[(GZIP, low.clone()), (TAR, hidden)], None),
        ("/bin/app.wasm", &[(GZIP, low.clone()), (TAR, opaque)], None),
    ];
    for (entrypoint, layers, want) in cases {
        scene.serve("wasi/wasm", &[entrypoint, "arg"], layers);
        match (scene.pull().await, want) {
            (Ok(pulled), Some(want)) => {
                assert_eq!(content(&pulled), want, "{entrypoint}");
                assert_eq!(pulled.config.entrypoint, [entrypoint, "arg"]);
                assert_eq!((&*pulled.config.env[0], &*pulled.config.working_dir), ("A=b", "/w"));
            }
            (Err(error), None) => {
                let error = error.to_string();
                assert!(error.contains("has no file") && error.contains("; it holds \""), "{error}");
            }
            (result, _) => panic!("{entrypoint}: {result:?}"),
        }
    }
}

#[tokio::test]
async fn one_pull_serves_all_who_wait_but_not_with_another_secret() {
    let scene = scene().await;
    let mut blobs = Blobs::default();
    let top = blobs.artifact(module("x"));
    scene.fake.serve(&blobs, digest(&top));
    let manifest = || scene.fake.asked().iter().filter(|asked| asked.starts_with("manifests/t")).count();
    let pulls = futures::future::join_all((0..20).map(|_| scene.pull())).await;
    assert!(pulls.iter().all(|pull| pull.as_ref().unwrap() == pulls[0].as_ref().unwrap()));
    assert_eq!(manifest(), 1);
    let mut keyring = Keyring::new();
    let json = json!({"auths": {scene.fake.address.to_string(): {"username": "u", "password": "p"}}});
    keyring.add_docker_config_json(json.to_string().as_bytes()).unwrap();
    let name = scene.fake.name();
    let (one, two) = tokio::join!(scene.pull(), scene.images.pull(&name, &keyring));
    one.unwrap();
    two.unwrap();
    assert_eq!(manifest(), 3);
    // What is stored is not fetched again.
    assert_eq!(scene.fake.asked().iter().filter(|asked| asked.starts_with("blobs/")).count(), 2);
}

#[tokio::test]
async fn tokens_are_fetched_where_the_registry_says_and_only_over_https_or_loopback() {
    let scene = scene().await;
    let mut blobs = Blobs::default();
    let top = blobs.artifact(module("x"));
    scene.fake.serve(&blobs, digest(&top));
    let manifest = Answer::new(200, blobs.0.last().unwrap().1.clone());
    let challenge = |realm: &str| {
        let value = format!("Bearer realm=\"{realm}\",service=\"s\",scope=\"repository:a:pull\"");
        Answer::new(401, "").header("www-authenticate", &value)
    };
    scene.fake.on("/v2/a/manifests/t", [challenge("http://auth.invalid/token")]);
    scene.fails("ErrImagePull", "the token service http://auth.invalid/token is not https").await;
    let realm = format!("http://{}/token", scene.fake.address);
    scene.fake.on("/token", [Answer::new(200, r#"{"token":"T"}"#)]);
    scene.fake.on("/v2/a/manifests/t", [challenge(&realm), manifest.clone()]);
    scene.pull().await.unwrap();
    assert!(scene.fake.asked().contains(&"manifests/t  Bearer T".to_owned()), "{:?}", scene.fake.asked());
    scene.fake.on("/token", [Answer::new(401, "")]);
    scene.fake.on("/v2/a/manifests/t", [challenge(&realm)]);
    let error = scene.pull().await.unwrap_err().to_string();
    assert!(error.contains("pull access denied") && error.contains("no imagePullSecret of the pod is for"), "{error}");
    scene.fake.on("/token", [Answer::new(200, vec![b' '; 100 << 10])]);
    assert!(scene.pull().await.unwrap_err().to_string().contains("longer than 65536 bytes"));
}

#[tokio::test]
async fn policies_decide_whether_the_registry_is_asked() {
    let scene = scene().await;
    let name = scene.fake.name();
    let ensure = async |policy| scene.images.ensure(&scene.fake.name(), policy, &Keyring::new()).await;
    let error = ensure(Policy::Never).await.unwrap_err();
    assert_eq!(error.reason(), "ErrImageNeverPull");
    let want = format!(
        "Container image \"{name}\" is not present with pull policy of Never; load it with: sampan image load FILE -t {name}"
    );
    assert_eq!(error.to_string(), want);
    assert!(scene.fake.asked().is_empty());
    let mut blobs = Blobs::default();
    let top = blobs.artifact(module("x"));
    scene.fake.serve(&blobs, digest(&top));
    ensure(Policy::IfNotPresent).await.unwrap();
    let asked = scene.fake.asked().len();
    let pulled = ensure(Policy::IfNotPresent).await.unwrap();
    assert_eq!(pulled, ensure(Policy::Never).await.unwrap());
    assert_eq!(scene.fake.asked().len(), asked);
    ensure(Policy::Always).await.unwrap();
    assert_eq!(scene.fake.asked().len(), asked + 1);
    assert_eq!(pulled.id(), format!("{}/a@{}", scene.fake.address, digest(&top)));
    // A failed pull of what is there says that it is there.
    scene.fake.on("/v2/a/manifests/t", [Answer::new(404, "")]);
    let error = ensure(Policy::Always).await.unwrap_err().to_string();
    assert!(error.ends_with("; a local image of this name exists: imagePullPolicy: IfNotPresent uses it"), "{error}");
    let error = scene.images.ensure("Bad:Name:x", Policy::Always, &Keyring::new()).await.unwrap_err();
    assert_eq!(error.reason(), "InvalidImageName");
    // A record that cannot be read.
    let record = std::fs::read_dir(scene.folder.path().join("images")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(record, "{").unwrap();
    assert_eq!(ensure(Policy::IfNotPresent).await.unwrap_err().reason(), "ImageInspectError");
}

#[tokio::test]
async fn what_others_say_whom_a_registry_leads_to_is_not_told() {
    let (scene, other) = (scene().await, Fake::start().await);
    other.on("/secret", [Answer::new(404, "the secret of another service")]);
    let to = |url: &str| Answer::new(307, "").header("location", url);
    scene.fake.on("/v2/a/manifests/t", [to(&format!("http://{}/secret", other.address))]);
    let error = scene.pull().await.unwrap_err().to_string();
    assert!(!error.contains("secret of another"), "{error}");
    // not even asked: neither this machine's plain services for others, nor plain HTTP elsewhere
    scene.fake.on("/v2/a/manifests/t", [to("http://registry.invalid/v2/")]);
    scene.fails("ErrImagePull", "the registry leads to an address that is not https").await;
}

#[tokio::test]
async fn a_private_image_runs_for_those_who_may_pull_it() {
    let scene = scene().await;
    let mut blobs = Blobs::default();
    let top = blobs.artifact(module("x"));
    scene.fake.serve(&blobs, digest(&top));
    let manifest = Answer::new(200, blobs.0.last().unwrap().1.clone());
    let challenge = Answer::new(401, "").header("www-authenticate", "Basic realm=\"r\"");
    let keyring = |user: &str| {
        let mut keyring = Keyring::new();
        let json = json!({"auths": {scene.fake.address.to_string(): {"username": user, "password": "p"}}});
        keyring.add_docker_config_json(json.to_string().as_bytes()).unwrap();
        keyring
    };
    let name = scene.fake.name();
    let ensure = async |policy, keyring: &Keyring| scene.images.ensure(&scene.fake.name(), policy, keyring).await;
    scene.fake.on("/v2/a/manifests/t", [challenge.clone(), manifest.clone()]);
    ensure(Policy::IfNotPresent, &keyring("owner")).await.unwrap();
    // the owner's other pods ask nobody
    let asked = scene.fake.asked().len();
    ensure(Policy::IfNotPresent, &keyring("owner")).await.unwrap();
    ensure(Policy::Never, &keyring("owner")).await.unwrap();
    assert_eq!(scene.fake.asked().len(), asked);
    // others must be let in by the registry, and do not learn that the image is here
    scene.fake.on("/v2/a/manifests/t", [challenge.clone()]);
    for other in [Keyring::new(), keyring("other")] {
        let error = ensure(Policy::IfNotPresent, &other).await.unwrap_err();
        assert_eq!(error.reason(), "ErrImagePull");
        assert!(error.to_string().contains("pull access denied"), "{error}");
        assert!(!error.to_string().contains("a local image of this name exists"), "{error}");
        assert_eq!(ensure(Policy::Never, &other).await.unwrap_err().reason(), "ErrImageNeverPull");
    }
    // nor by its digest under another name
    let elsewhere = format!("localhost:1/b@{}", digest(&top));
    assert_eq!(scene.images.usable(&elsewhere, &keyring("owner")).unwrap(), None);
    scene.fake.on("/v2/a/manifests/t", [challenge, manifest.clone()]);
    ensure(Policy::IfNotPresent, &keyring("other")).await.unwrap();
    for user in ["owner", "other"] {
        assert!(scene.images.usable(&name, &keyring(user)).unwrap().is_some(), "{user}");
    }
    assert!(scene.images.usable(&name, &Keyring::new()).unwrap().is_none());
    // once it is public it is for all
    scene.fake.on("/v2/a/manifests/t", [manifest]);
    ensure(Policy::IfNotPresent, &Keyring::new()).await.unwrap();
    assert!(scene.images.usable(&name, &keyring("third")).unwrap().is_some());
}
