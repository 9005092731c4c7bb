//! Images from a real registry, in a pod: plain on loopback, and with a password over TLS; and every way that a pull goes wrong.

use crate::{guests, harness::*};
use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
};

/// `user:secret`.
const HTPASSWD: &str = "user:$2b$04$o3GSAXuIokxw6rMYolzPi.H/A16DfBWOu873Dy/TO/wmFiTNldREK\n";

/// Debian's docker-registry on a free port of the test's address, with its own configuration.
struct Registry {
    child: Child,
    folder: tempfile::TempDir,
    address: String,
    secure: bool,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    fn start(machine: &Machine, secure: bool) -> Option<Self> {
        let program = tool("DOCKER_REGISTRY", "docker-registry")?;
        tool("SKOPEO", "skopeo")?;
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let mut http = serde_json::json!({"addr": format!("{}:0", machine.address), "secret": "s"});
        let mut config = serde_json::json!({
            "version": 0.1,
            "log": {"level": "info", "formatter": "json"},
            "storage": {"filesystem": {"rootdirectory": path("data")}},
        });
        if secure {
            let openssl = tool("OPENSSL", "openssl")?;
            fs::write(folder.path().join("htpasswd"), HTPASSWD).expect("written");
            certificate(&openssl, folder.path(), &machine.address);
            http["tls"] = serde_json::json!({"certificate": path("cert.pem"), "key": path("key.pem")});
            config["auth"] = serde_json::json!({"htpasswd": {"realm": "test", "path": path("htpasswd")}});
        }
        config["http"] = http;
        fs::write(folder.path().join("config.yml"), config.to_string()).expect("written");
        let mut command = Command::new(program);
        command.args(["serve", &path("config.yml")]).stderr(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().expect("the registry starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let message: serde_json::Value = serde_json::from_str(&line).ok()?;
            Some(message["msg"].as_str()?.strip_prefix("listening on ")?.split(',').next()?.to_owned())
        });
        // It must never wait for its log to be read.
        thread::spawn(move || lines.for_each(drop));
        Some(Self { child, folder, address: address.expect("it says where it listens"), secure })
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Puts the hello guest there as `NAME:TAG`, through skopeo, and returns its full name.
    fn fill(&self, machine: &Machine, name: &str) -> String {
        let full = format!("{}/{name}", self.address);
        let wasm = fs::read(sample("hello", &machine.path("work")).join("hello.wasm")).expect("the sample");
        let layout = self.folder.path().join("layout");
        let digest = |bytes: &[u8]| {
            let file = self.folder.path().join("blob");
            fs::create_dir_all(layout.join("blobs/sha256")).expect("a folder");
            fs::write(&file, bytes).expect("written");
            let sum = Command::new("sha256sum").arg(&file).output().expect("sha256sum runs");
            let hex = String::from_utf8_lossy(&sum.stdout).split_whitespace().next().expect("a sum").to_owned();
            fs::rename(&file, layout.join("blobs/sha256").join(&hex)).expect("renamed");
            serde_json::json!({"digest": format!("sha256:{hex}"), "size": bytes.len()})
        };
        let described = |media: &str, bytes: &[u8]| {
            let mut described = digest(bytes);
            described["mediaType"] = media.into();
            described
        };
        let layer = described("application/wasm", &wasm);
        let config =
            serde_json::json!({"architecture": "wasm", "os": "wasip2", "layerDigests": [layer["digest"]]}).to_string();
        let config = described("application/vnd.wasm.config.v0+json", config.as_bytes());
        let media = "application/vnd.oci.image.manifest.v1+json";
        let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": media, "config": config, "layers": [layer]});
        let manifest = described(media, manifest.to_string().as_bytes());
        fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).expect("written");
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [manifest]});
        fs::write(layout.join("index.json"), index.to_string()).expect("written");
        let mut copy = Command::new(tool("SKOPEO", "skopeo").expect("checked"));
        copy.args(["--insecure-policy", "copy", "--preserve-digests", "--dest-tls-verify=false"]);
        if self.secure {
            copy.args(["--dest-creds", "user:secret"]);
        }
        copy.arg(format!("oci:{}", layout.display())).arg(format!("docker://{full}"));
        let output = copy.bounded();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        full
    }
}

/// An authority (`ca.pem`) and a certificate of it for an address (`cert.pem`, `key.pem`).
fn certificate(openssl: &std::path::Path, folder: &std::path::Path, address: &str) {
    let run = |args: &[&str]| {
        let output = Command::new(openssl).args(args).current_dir(folder).output().expect("openssl runs");
        assert!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    fs::write(folder.join("san"), format!("subjectAltName=IP:{address}\n")).expect("written");
    let new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    run(&[
        &["req", "-x509", "-days", "2", "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem"],
        &new[..],
    ]
    .concat());
    run(&[&["req", "-subj", "/CN=registry", "-keyout", "key.pem", "-out", "request.pem"], &new[..]].concat());
    run(&[
        "x509",
        "-req",
        "-in",
        "request.pem",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "san",
        "-out",
        "cert.pem",
    ]);
}

fn waiting(cluster: &Cluster<'_>, pod: &str) -> (String, String) {
    let part = |what: &str| {
        cluster.field(&format!("pod/{pod}"), &format!("{{.status.containerStatuses[0].state.waiting.{what}}}"))
    };
    (part("reason"), part("message"))
}

fn waits_with(cluster: &Cluster<'_>, pod: &str, reason: &str) -> String {
    cluster.eventually(&format!("{pod} waits with {reason}"), || {
        let (found, message) = waiting(cluster, pod);
        Some(message).filter(|_| found == reason)
    })
}

#[test]
fn a_pod_pulls_from_a_plain_registry_on_loopback_by_tag_and_digest() {
    let machine = Machine::new();
    let (Some(_), Some(registry)) = (kubectl(), Registry::start(&machine, false)) else { return };
    let image = registry.fill(&machine, "team/hello:v1");
    let cluster = machine.up(&[]);
    cluster.kubectl(&["run", "tag", &format!("--image={image}"), "--port=8080"]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/tag", "--timeout=100s"]);
    let id = cluster.field("pod/tag", "{.status.containerStatuses[0].imageID}");
    assert!(id.starts_with(&format!("{}/team/hello@sha256:", registry.address)), "{id}");
    cluster.kubectl(&["run", "digest", &format!("--image={id}"), "--port=8080"]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/digest", "--timeout=100s"]);
    let events = cluster.kubectl(&["get", "events"]);
    assert!(events.contains(&format!("Successfully pulled image \"{image}\" in ")), "{events}");
    assert!(events.contains("already present on machine"), "{events}");

    // A tag that is not there: the reason, the back-off and the message, and it runs as soon as the tag is.
    let absent = format!("{}/team/hello:v2", registry.address);
    cluster.kubectl(&["run", "absent", &format!("--image={absent}"), "--port=8080"]);
    let message = waits_with(&cluster, "absent", "ErrImagePull");
    assert!(message.contains(&absent) && message.contains("not found"), "{message}");
    let message = waits_with(&cluster, "absent", "ImagePullBackOff");
    assert!(
        message.starts_with(&format!("Back-off pulling image \"{absent}\"")) && message.contains("not found"),
        "{message}"
    );
    assert!(cluster.kubectl(&["get", "pod", "absent"]).contains("ImagePullBackOff"));
    registry.fill(&machine, "team/hello:v2");
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/absent", "--timeout=100s"]);
}

#[test]
fn a_pod_pulls_with_its_secret_from_a_private_registry_over_tls() {
    let mut machine = Machine::new();
    let (Some(_), Some(registry)) = (kubectl(), Registry::start(&machine, true)) else { return };
    let image = registry.fill(&machine, "private:v1");
    let ca = machine.path("work").join("ca.pem");
    fs::copy(registry.ca(), &ca).expect("copied");
    machine.environment.push(("SSL_CERT_FILE".into(), ca.display().to_string()));
    let cluster = machine.up(&[]);
    let secret = |name: &str, password: &str| {
        cluster.kubectl(&[
            "create",
            "secret",
            "docker-registry",
            name,
            "--docker-username=user",
            &format!("--docker-password={password}"),
            &format!("--docker-server={}", registry.address),
        ]);
    };
    secret("right", "secret");
    secret("wrong", "guess");
    let run = |name: &str, secret: &str| {
        let overrides = format!("{{\"spec\": {{\"imagePullSecrets\": [{{\"name\": \"{secret}\"}}]}}}}");
        cluster.kubectl(&[
            "run",
            name,
            &format!("--image={image}"),
            "--port=8080",
            "--image-pull-policy=Always",
            "--overrides",
            &overrides,
        ]);
    };
    run("allowed", "right");
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/allowed", "--timeout=100s"]);
    run("denied", "wrong");
    run("without", "absent");
    for pod in ["denied", "without"] {
        let message = waits_with(&cluster, pod, "ErrImagePull");
        assert!(message.contains("imagePullSecret"), "{message}");
        assert!(!message.contains("guess"), "no password is told: {message}");
    }
    cluster.eventually("the missing secret is told", || {
        let events = cluster.kubectl(&["get", "events", "--field-selector=involvedObject.name=without"]);
        Some(()).filter(|()| events.contains("Unable to retrieve some image pull secrets (absent)"))
    });
    // A ServiceAccount brings its secrets to pods that name none.
    cluster.kubectl(&["patch", "serviceaccount", "default", "-p", r#"{"imagePullSecrets": [{"name": "right"}]}"#]);
    cluster.kubectl(&["run", "by-account", &format!("--image={image}"), "--port=8080", "--image-pull-policy=Always"]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/by-account", "--timeout=100s"]);
}

#[test]
fn images_that_cannot_be_had_say_why_and_what_to_do() {
    if kubectl().is_none() {
        return;
    }
    let machine = Machine::new();
    guests::load(&machine, "spin");
    let work = machine.path("work");
    fs::write(work.join("empty.wat"), "(module (memory (export \"memory\") 1))").expect("written");
    assert!(machine.run(&["image", "load", "empty.wat", "-t", "empty:1"]).status.success());
    let cluster = machine.up(&[]);
    let closed = format!("{}:9/gone:v1", machine.address);
    cluster.kubectl(&["run", "unreachable", &format!("--image={closed}")]);
    cluster.kubectl(&["run", "never", "--image=absent:1", "--image-pull-policy=Never"]);
    cluster.kubectl(&["run", "library", "--image=empty:1"]);
    cluster.kubectl_with(&["apply", "-f", "-"], "apiVersion: v1\nkind: Pod\nmetadata: {name: invalid}\nspec: {containers: [{name: c, image: 'Not//Valid:::'}]}\n");
    let message = waits_with(&cluster, "unreachable", "ErrImagePull");
    assert!(message.contains(&closed) && message.to_lowercase().contains("refused"), "{message}");
    let message = waits_with(&cluster, "never", "ErrImageNeverPull");
    assert!(
        message.contains("is not present with pull policy of Never") && message.contains("sampan image load"),
        "{message}"
    );
    let message = waits_with(&cluster, "invalid", "InvalidImageName");
    assert!(message.contains("couldn't parse image name"), "{message}");
    let message = waits_with(&cluster, "library", "CreateContainerError");
    assert!(message.contains("_start"), "what it would need: {message}");
}

/// Loads an image of two layers as `NAME:1`: the module of a guest as `/app.wasm`, and `/etc/data`.
fn load_layers(machine: &Machine, guest: &str) {
    guests::load(machine, guest);
    let work = machine.path("work");
    let blobs = fs::read_dir(machine.data().join("images/blobs/sha256")).expect("a store").flatten();
    let module = blobs.filter_map(|blob| fs::read(blob.path()).ok()).find(|bytes| bytes.starts_with(b"\0asm\x01"));
    let layout = work.join("layered");
    fs::create_dir_all(layout.join("blobs/sha256")).expect("a folder");
    let blob = |media: &str, bytes: Vec<u8>| {
        let file = work.join("blob");
        fs::write(&file, &bytes).expect("written");
        let sum = Command::new("sha256sum").arg(&file).output().expect("sha256sum runs");
        let hex = String::from_utf8_lossy(&sum.stdout).split_whitespace().next().expect("a sum").to_owned();
        fs::rename(&file, layout.join("blobs/sha256").join(&hex)).expect("renamed");
        serde_json::json!({"mediaType": media, "digest": format!("sha256:{hex}"), "size": bytes.len()})
    };
    let layer = |name: &str, content: &[u8]| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(&path, content).expect("written");
        let top = name.split('/').next().expect("a name");
        let tar = Command::new("tar").args(["cf", "-", top]).current_dir(folder.path()).output().expect("tar runs");
        blob("application/vnd.oci.image.layer.v1.tar", tar.stdout)
    };
    let layers = [layer("app.wasm", &module.expect("the module")), layer("etc/data", b"of the image\n")];
    let config = serde_json::json!({
        "os": "wasi", "architecture": "wasm", "config": {"Entrypoint": ["/app.wasm"]},
        "rootfs": {"type": "layers", "diff_ids": []},
    });
    let config = blob("application/vnd.oci.image.config.v1+json", config.to_string().into_bytes());
    let media = "application/vnd.oci.image.manifest.v1+json";
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": media, "config": config, "layers": layers});
    let manifest = blob(media, manifest.to_string().into_bytes());
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).expect("written");
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(layout.join("index.json"), index.to_string()).expect("written");
    let load = machine.run(&["image", "load", &layout.display().to_string(), "-t", &format!("{guest}:1")]);
    assert!(load.status.success(), "{}", String::from_utf8_lossy(&load.stderr));
}

#[test]
fn the_files_of_an_image_are_the_root_until_they_are_written() {
    if kubectl().is_none() {
        return;
    }
    let machine = Machine::new();
    load_layers(&machine, "remember");
    let cluster = machine.up(&[]);
    let pods = r#"
apiVersion: v1
kind: Pod
metadata: {name: again}
spec: {containers: [{name: c, image: 'remember:1'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: refused}
spec: {restartPolicy: Never, containers: [{name: c, image: 'remember:1', securityContext: {readOnlyRootFilesystem: true}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: stays}
spec:
  volumes: [{name: v, emptyDir: {}}]
  containers: [{name: c, image: 'remember:1', args: [stay], stdin: true, volumeMounts: [{name: v, mountPath: /data}]}]
"#;
    cluster.kubectl_with(&["apply", "-f", "-"], pods);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/stays", "--timeout=100s"]);
    let said = cluster.eventually("it has written", || {
        Some(cluster.kubectl(&["exec", "stays", "--", "ls", "/"])).filter(|said| said.contains("state"))
    });
    // with where the volume, the termination message and the token are mounted
    assert_eq!(said, "app.wasm\ndata\ndev\netc\nstate\nvar\n");
    assert_eq!(cluster.kubectl(&["exec", "stays", "--", "cat", "etc/data"]), "of the image\n");
    assert_eq!(cluster.kubectl(&["logs", "stays"]), "of the image\n");
    let code = |pod: &str, state: &str| {
        cluster.field(&format!("pod/{pod}"), &format!("{{.status.containerStatuses[0].{state}.terminated.exitCode}}"))
    };
    cluster.eventually("it may not write", || Some(()).filter(|()| code("refused", "state") == "6"));
    // The second attempt has ended as well when it is waited for the third: it has found the image again.
    cluster.eventually("it has run again", || {
        let restarts = cluster.field("pod/again", "{.status.containerStatuses[0].restartCount}");
        Some(()).filter(|()| restarts == "1" && waiting(&cluster, "again").0 == "CrashLoopBackOff")
    });
    assert_eq!(code("again", "lastState"), "7");
}
