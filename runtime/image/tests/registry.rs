//! Against Debian's `docker-registry`, filled by `skopeo`: plain, and with htpasswd over TLS.
//!
//! Skipped loudly where they are missing; an error under `SAMPAN_TEST_REQUIRE=all`.

#![allow(clippy::unwrap_used, reason = "tests: a panic is the answer")]
#![allow(clippy::disallowed_methods, reason = "a test is told by its environment what it must not skip")]

mod support;

use image::{Artifact, Images, Keyring, Policy};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};
use support::*;
use tempfile::{TempDir, tempdir};

/// `user:secret`.
const HTPASSWD: &str = "user:$2b$04$o3GSAXuIokxw6rMYolzPi.H/A16DfBWOu873Dy/TO/wmFiTNldREK\n";

fn tools() -> bool {
    let missing: Vec<_> = [["docker-registry", "--version"], ["skopeo", "--version"]]
        .iter()
        .filter(|[tool, argument]| Command::new(tool).arg(argument).output().is_err())
        .map(|[tool, _]| *tool)
        .collect();
    if missing.is_empty() {
        return true;
    }
    let text = format!("SKIPPED: not installed: {}", missing.join(", "));
    assert!(std::env::var("SAMPAN_TEST_REQUIRE").as_deref() != Ok("all"), "{text}");
    eprintln!("{text}");
    false
}

struct Registry {
    child: Child,
    folder: TempDir,
    address: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    /// Starts a registry on a free loopback port; `ca`: the PEM of its authority, over TLS and with a password.
    fn start(secure: bool) -> (Self, Option<String>) {
        let folder = tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let mut http = json!({"addr": "127.0.0.1:0", "secret": "s"});
        let mut config = json!({
            "version": 0.1,
            "log": {"level": "info", "formatter": "json"},
            "storage": {"filesystem": {"rootdirectory": path("data")}},
        });
        let mut ca = None;
        if secure {
            let (authority, certificate, key) = certificates();
            fs::write(folder.path().join("cert.pem"), certificate).unwrap();
            fs::write(folder.path().join("key.pem"), key).unwrap();
            fs::write(folder.path().join("htpasswd"), HTPASSWD).unwrap();
            http["tls"] = json!({"certificate": path("cert.pem"), "key": path("key.pem")});
            config["auth"] = json!({"htpasswd": {"realm": "test", "path": path("htpasswd")}});
            ca = Some(authority);
        }
        config["http"] = http;
        fs::write(folder.path().join("config.yml"), config.to_string()).unwrap();
        let mut child = Command::new("docker-registry")
            .args(["serve", &path("config.yml")])
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines.by_ref().find_map(|line| {
            let message = serde_json::from_str::<Value>(&line.unwrap()).ok()?["msg"].as_str()?.to_owned();
            Some(message.strip_prefix("listening on ")?.split(',').next()?.to_owned())
        });
        std::thread::spawn(move || lines.for_each(drop)); // it must never wait for its log to be read
        (Self { child, folder, address: address.expect("it says where it listens") }, ca)
    }

    fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    /// Puts an image there with skopeo.
    fn fill(&self, rest: &str, blobs: &Blobs, top: &Value) {
        let layout = self.folder.path().join(rest.replace(['/', ':'], "-"));
        blobs.layout(&layout, top);
        let to = format!("docker://{}", self.name(rest));
        self.skopeo(&[
            "copy",
            "--all",
            "--preserve-digests",
            "--dest-tls-verify=false",
            "--dest-creds=user:secret",
            &format!("oci:{}", layout.display()),
            &to,
        ]);
    }

    fn skopeo(&self, arguments: &[&str]) -> String {
        let output = Command::new("skopeo").arg("--insecure-policy").args(arguments).output().unwrap();
        assert!(output.status.success(), "skopeo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// An authority, and a certificate of it with key for 127.0.0.1.
fn certificates() -> (String, String, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().signed_by(&leaf_key, &issuer).unwrap();
    (authority, leaf.pem(), leaf_key.serialize_pem())
}

fn keyring(host: &str, password: &str) -> Keyring {
    let mut keyring = Keyring::new();
    let json = json!({"auths": {host: {"username": "user", "password": password}}});
    keyring.add_docker_config_json(json.to_string().as_bytes()).unwrap();
    keyring
}

fn content(images: &Images, name: &str) -> Vec<u8> {
    match images.get(name).unwrap().unwrap().artifact {
        Artifact::Wasm { path, .. } => fs::read(path).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_layout_is_pulled_by_tag_and_by_digest() {
    if !tools() {
        return;
    }
    let (registry, _) = Registry::start(false);
    let folder = tempdir().unwrap();
    let images = store(folder.path(), |_| {});
    let here = if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" };
    let code = component();
    let layer = || tar(&[Item::File("app.wasm", &code)]);
    let mut cases = Vec::new();

    let mut blobs = Blobs::default();
    let top = blobs.artifact(code.clone());
    cases.push(("cncf:v1", blobs, top, "Wasm artifact"));
    for (name, media_type) in [
        ("older:v1", "application/vnd.wasm.content.layer.v1+wasm"),
        ("draft:v1", "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm"),
    ] {
        let mut blobs = Blobs::default();
        let config =
            if name == "draft:v1" { config(here, &[]) } else { ("application/vnd.wasm.config.v1+json", json!({})) };
        let top = blobs.image(config, &[(media_type, code.clone())]);
        cases.push((name, blobs, top, "older Wasm artifact"));
    }
    let mut blobs = Blobs::default();
    let wasi = blobs.image(config("wasi/wasm", &["/app.wasm"]), &[(GZIP, gzip(&layer()))]);
    let linux = blobs.image(config(here, &["/bin/sh"]), &[(GZIP, gzip(&tar(&[])))]);
    let top = blobs.index(&[(here, linux), ("wasi/wasm", wasi)]);
    cases.push(("team/multi:v1", blobs, top, "WASI platform image"));
    let mut blobs = Blobs::default();
    let top = blobs.image(config(here, &["/app.wasm"]), &[(ZSTD, zstd(&layer()))]);
    cases.push(("compat:v1", blobs, top, "Wasm in a Linux image"));
    let mut blobs = Blobs::default();
    let plugin = tar(&[Item::File("./plugin.wasm", &code)]);
    let top = blobs.image(config(here, &[]), &[(GZIP, gzip(&plugin))]);
    cases.push(("plugin:v1", blobs, top, "Wasm in a Linux image"));

    for (name, blobs, top, layout) in cases {
        registry.fill(name, &blobs, &top);
        let full = registry.name(name);
        let pulled = images.pull(&full, &Keyring::new()).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((pulled.layout, pulled.digest), (layout, digest(&top)), "{name}");
        assert_eq!(content(&images, &full), code, "{name}");
        let by_digest = format!("{}@{}", full.split_once(":v1").unwrap().0, pulled.digest);
        let folder = tempdir().unwrap();
        let other = store(folder.path(), |_| {});
        assert_eq!(other.pull(&by_digest, &Keyring::new()).await.unwrap().digest, pulled.digest);
        assert_eq!(content(&other, &by_digest), code);
    }
    let error = images.pull(&registry.name("cncf:v2"), &Keyring::new()).await.unwrap_err();
    assert_eq!(error.reason(), "ErrImagePull");
    assert!(error.to_string().contains("cncf:v2: not found"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_linux_image_is_pulled_with_its_layers_whatever_its_format_and_pushed() {
    if !tools() {
        return;
    }
    let (registry, _) = Registry::start(false);
    let mut blobs = Blobs::default();
    let base = raw(&[Raw::folder("bin"), Raw { mode: 0o755, ..Raw::file("bin/sh", &vec![7; 100_000]) }]);
    let upper = raw(&[Raw::file("etc/motd", b"hello")]);
    let top = blobs.linux(&[(GZIP, base), (GZIP, upper)]);
    registry.fill("linux:oci", &blobs, &top);
    let foreign = blobs.linux(&[(GZIP, raw(&[Raw::file("foreign", b"")]))]);
    let index = blobs.index(&[("linux/s390x", foreign), (here(), top)]);
    registry.fill("linux:index", &blobs, &index);
    let from = format!("docker://{}", registry.name("linux:oci"));
    for (tag, arguments) in [
        ("linux:docker", &["--format", "v2s2"][..]),
        ("linux:zstd", &["--format", "oci", "--dest-compress-format", "zstd"]),
        ("linux:plain", &["--format", "oci", "--dest-decompress"]),
    ] {
        let to = format!("docker://{}", registry.name(tag));
        let both = ["copy", "--src-tls-verify=false", "--dest-tls-verify=false", &from, &to];
        registry.skopeo(&both.iter().chain(arguments).copied().collect::<Vec<_>>());
    }
    for tag in ["linux:oci", "linux:docker", "linux:zstd", "linux:plain", "linux:index"] {
        let folder = tempdir().unwrap();
        let images = store(folder.path(), |_| {});
        let name = registry.name(tag);
        let pulled = images.pull(&name, &Keyring::new()).await.unwrap_or_else(|error| panic!("{tag}: {error}"));
        assert_eq!(pulled.artifact, Artifact::Linux { platform: here().into() });
        let layers = images.layers(&pulled).await.unwrap().unwrap();
        assert_eq!(layers.len(), 2, "{tag}");
        assert_eq!(fs::read(layers[0].join("bin/sh")).unwrap(), [7; 100_000]);
        assert_eq!(fs::read_to_string(layers[1].join("etc/motd")).unwrap(), "hello");
        assert_eq!(images.ensure(&name, Policy::Never, &Keyring::new()).await.unwrap(), pulled);
        // It goes back as it came; of an index what is here.
        let to = registry.name("back:v1");
        let pushed = images.push(&name, Some(&to), &Keyring::new()).await.unwrap();
        assert_eq!(pushed == pulled.digest, tag != "linux:index", "{tag}");
        let back = images.pull(&to, &Keyring::new()).await.unwrap();
        assert_eq!((back.digest, images.layers(&back).await.unwrap().unwrap()), (pushed, layers));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_over_tls_opens_and_everything_else_is_refused_with_the_reason() {
    if !tools() {
        return;
    }
    let (registry, ca) = Registry::start(true);
    let mut blobs = Blobs::default();
    let top = blobs.artifact(module("secret"));
    registry.fill("team/app:v1", &blobs, &top);
    let name = registry.name("team/app:v1");
    let folder = tempdir().unwrap();
    let images = store(folder.path(), |options| options.roots = vec![ca.clone().unwrap().into_bytes()]);

    let error = images.pull(&name, &Keyring::new()).await.unwrap_err();
    assert_eq!(error.reason(), "ErrImagePull");
    let text = error.to_string();
    assert!(text.contains("pull access denied, repository does not exist or may require authorization"), "{text}");
    assert!(text.contains(&format!("no imagePullSecret of the pod is for {}", registry.address)), "{text}");
    let error = images.pull(&name, &keyring(&registry.address, "wrong")).await.unwrap_err();
    assert!(error.to_string().contains("pull access denied") && !error.to_string().contains("wrong"), "{error}");
    assert!(images.pull(&name, &keyring("elsewhere.io", "secret")).await.is_err());

    let mut both = keyring(&format!("{}/team", registry.address), "wrong");
    let right = json!({"auths": {format!("https://{}", registry.address): {"auth": "dXNlcjpzZWNyZXQ="}}});
    both.add_docker_config_json(right.to_string().as_bytes()).unwrap();
    for keyring in [keyring(&registry.address, "secret"), both] {
        let pulled = images.ensure(&name, Policy::Always, &keyring).await.unwrap();
        assert_eq!(pulled.digest, digest(&top));
    }
    // Without the authority the registry is not trusted, and no password leaves.
    let folder = tempdir().unwrap();
    let images = store(folder.path(), |_| {});
    let error = images.pull(&name, &keyring(&registry.address, "secret")).await.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loaded_image_is_pushed_and_comes_back_the_same() {
    if !tools() {
        return;
    }
    for secure in [false, true] {
        let (registry, ca) = Registry::start(secure);
        let folder = tempdir().unwrap();
        let roots: Vec<_> = ca.into_iter().map(String::into_bytes).collect();
        let images = store(&folder.path().join("s"), |options| options.roots = roots.clone());
        let keyring = if secure { keyring(&registry.address, "secret") } else { Keyring::new() };
        let file = folder.path().join("a.wasm");
        // Larger than one piece of an upload.
        fs::write(&file, module(&"x".repeat(9 << 20)).as_slice()).unwrap_or_else(|error| panic!("{error}"));
        let loaded = images.load(&file, Some("app")).await.unwrap();
        let target = registry.name("pushed/app:v1");
        assert_eq!(images.push("app", Some(&target), &keyring).await.unwrap(), loaded.digest);
        let inspected = registry.skopeo(&[
            "inspect",
            "--raw",
            "--tls-verify=false",
            "--creds=user:secret",
            &format!("docker://{target}"),
        ]);
        assert_eq!(image::Digest::of(inspected.as_bytes()), loaded.digest);
        let other = store(&folder.path().join("other"), |options| options.roots = roots);
        let pulled = other.pull(&target, &keyring).await.unwrap();
        assert_eq!(pulled.digest, loaded.digest);
        assert_eq!(content(&other, &target), fs::read(&file).unwrap());
        if secure {
            let error = images.push("app", Some(&target.replace(":v1", ":v2")), &Keyring::new()).await.unwrap_err();
            assert!(error.to_string().contains("access denied"), "{error}");
        }
        let error = images.push("absent", None, &keyring).await.unwrap_err();
        assert_eq!(error.to_string(), "docker.io/library/absent:latest: no such image in the store");
    }
}
