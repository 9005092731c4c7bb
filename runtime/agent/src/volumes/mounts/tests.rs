use super::*;
use serde_json::{Value, json};
use std::os::unix::fs::symlink;

/// A pod's volumes on disk: `v` is an emptyDir, `cm` a volume that the agent writes.
struct Node(tempfile::TempDir);

impl Node {
    fn new() -> Self {
        let node = Self(tempfile::tempdir().expect("a folder"));
        for name in ["data/pki", "data/v", "outside"] {
            std::fs::create_dir_all(node.at(name)).expect("made");
        }
        std::fs::write(node.at("outside/secret"), "secret").expect("written");
        std::fs::write(node.at("data/pki/ca.key"), "key").expect("written");
        node.update("1");
        node
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Changes the content of the ConfigMap.
    fn update(&self, text: &str) {
        let file = super::super::File { data: text.as_bytes().to_vec(), mode: 0o640, user: None };
        let files = [("dir/file".to_owned(), file.clone()), ("top".to_owned(), file)].into();
        super::super::write(&self.at("data/cm"), &files, text, None).expect("written");
    }

    fn mounts(&self, mounts: Value, variables: &[(&str, &str)]) -> Result<Vec<Mount>, String> {
        self.mounts_of(mounts, variables, &self.at("outside"))
    }

    fn mounts_of(&self, mounts: Value, variables: &[(&str, &str)], host: &Path) -> Result<Vec<Mount>, String> {
        let volume = |path: PathBuf, owner| SyncedVolume {
            path,
            owner,
            read_only: owner == Owner::Agent,
            resync_at: None,
            notice: None,
        };
        let volumes = [
            ("v".to_owned(), volume(self.at("data/v"), Owner::Pod)),
            ("cm".to_owned(), volume(self.at("data/cm"), Owner::Agent)),
            ("host".to_owned(), volume(host.to_owned(), Owner::Host)),
        ];
        let container = json!({"name": "c", "volumeMounts": mounts});
        let variables: Vec<_> = variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        super::mounts(&MountRequest {
            single_files: false,
            pod: &Pod::default(),
            container: &serde_json::from_value(container).expect("a container"),
            volumes: &volumes.into(),
            variables: &variables,
            scratch: &self.at("data/scratch"),
            private: &PrivateDir::new(self.at("data")),
        })
    }

    fn one(&self, mount: Value) -> Result<Mount, String> {
        let mut mount = mount;
        mount["mountPath"] = "/m/f".into();
        self.mounts(json!([mount]), &[]).map(|mut all| all.remove(0))
    }
}

/// The content of a file below an open mount.
fn text(mount: &Mount, name: &str) -> String {
    let at = OwnedFd::from(mount.open().expect("it opens"));
    let mut file = File::from(openat(at, name, OFlags::RDONLY, Mode::empty()).expect("a file"));
    std::io::read_to_string(&mut file).expect("text")
}

#[test]
fn a_link_that_a_guest_put_there_before_leads_to_nothing() {
    let node = Node::new();
    symlink("../../outside", node.at("data/v/sub")).expect("made");
    symlink("../../outside/secret", node.at("data/v/file")).expect("made");
    symlink(node.at("outside/secret"), node.at("data/v/absolute")).expect("made");
    for sub in ["sub", "sub/secret", "file", "absolute"] {
        let error = node.one(json!({"name": "v", "subPath": sub})).expect_err("it leads out");
        let expected = "failed to prepare subPath for volumeMount \"v\" of container \"c\": it leads out of the volume";
        assert_eq!(error, expected, "{sub}");
    }
}

#[test]
fn a_link_put_there_later_is_found_at_the_opening() {
    let node = Node::new();
    let mount = node.one(json!({"name": "v", "subPath": "a/b"})).expect("made");
    assert!(mount.open().is_ok());
    std::fs::rename(node.at("data/v/a"), node.at("data/v/old")).expect("renamed");
    std::fs::create_dir(node.at("outside/b")).expect("made");
    symlink("../../outside", node.at("data/v/a")).expect("made");
    assert!(mount.open().is_err());
}

#[test]
fn a_file_is_copied_from_what_was_found_not_from_its_path() {
    let node = Node::new();
    std::fs::write(node.at("data/v/file"), "mine").expect("written");
    let Ok(Found::File(file)) = beneath::find(&node.at("data/v"), Path::new("file"), None, |_| Ok(())) else {
        panic!("a file")
    };
    std::fs::remove_file(node.at("data/v/file")).expect("removed");
    symlink("../../outside/secret", node.at("data/v/file")).expect("made");
    let mount: VolumeMount = serde_json::from_value(json!({"name": "v", "mountPath": "/m/f"})).expect("a mount");
    let (mut files, folder) = (BTreeMap::new(), node.at("copies"));
    add_file(&mount, file, true, &folder, &mut files).expect("copied");
    assert_eq!(std::fs::read_to_string(folder.join("f")).expect("there"), "mine");
    // No symbolic link is followed at the destination either.
    let again = File::open(node.at("outside/secret")).expect("there");
    std::fs::remove_file(folder.join("f")).expect("removed");
    symlink(node.at("outside/new"), folder.join("f")).expect("made");
    assert!(copy_file(again, &folder.join("f")).is_err());
    assert!(!node.at("outside/new").exists());
}

#[test]
fn single_files_are_as_read_only_as_they_are_asked_to_be() {
    let node = Node::new();
    std::fs::write(node.at("data/v/file"), "x").expect("written");
    for (mount, read_only) in [
        (json!({"name": "v", "subPath": "file"}), false),
        (json!({"name": "v", "subPath": "file", "readOnly": true}), true),
        (json!({"name": "cm", "subPath": "top"}), true),
    ] {
        let mount = node.one(mount).expect("mounted");
        assert_eq!((mount.read_only, &*mount.target), (read_only, "/m"));
    }
    let error = node
        .mounts(
            json!([
                {"name": "v", "subPath": "file", "mountPath": "/m/a"},
                {"name": "v", "subPath": "file", "mountPath": "/m/b", "readOnly": true}
            ]),
            &[],
        )
        .expect_err("one folder cannot be both");
    assert!(error.contains("single files of /m cannot be mounted some read-only and some not"), "{error}");
}

#[test]
fn a_folder_of_a_config_map_stays_as_it_was_when_the_container_began() {
    let node = Node::new();
    let mounts = json!([
        {"name": "cm", "subPath": "dir", "mountPath": "/dir"},
        {"name": "cm", "subPath": "top", "mountPath": "/one/top"},
        {"name": "cm", "mountPath": "/whole"},
    ]);
    let mounts = node.mounts(mounts, &[]).expect("mounted");
    let find = |target: &str| mounts.iter().find(|m| m.target == target).expect("there");
    let shown = || ["/dir", "/one", "/whole"].map(|t| text(find(t), if t == "/dir" { "file" } else { "top" }));
    assert_eq!(shown(), ["1", "1", "1"]);
    node.update("2");
    assert_eq!(shown(), ["1", "1", "2"], "as upstream: subPath mounts are not updated, and go on working");
    let mode = node.at("data/scratch/folder-0/file").metadata().expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    let error = node.one(json!({"name": "cm", "subPath": "none"})).expect_err("not there");
    assert!(error.ends_with("none does not exist"), "{error}");
}

#[test]
fn variables_of_a_sub_path_must_be_set() {
    let node = Node::new();
    let expr = |text: &str| json!([{"name": "v", "subPathExpr": text, "mountPath": "/m"}]);
    let variables = [("A", "x"), ("EMPTY", ""), ("UP", ".."), ("ROOT", "/etc")];
    for (text, below) in
        [("$(A)", "x"), ("a/$(A)-$(A)", "a/x-x"), ("$$(NOPE)", "$(NOPE)"), ("$(A", "$(A"), ("$A", "$A"), ("", "")]
    {
        let mounts = node.mounts(expr(text), &variables).expect("mounted");
        assert_eq!(mounts[0].below, Path::new(below), "{text}");
    }
    for (text, error) in [
        ("$(NOPE)", "missing value for NOPE"),
        ("$(Z)/$(NOPE)/$(A)/$(Z)", "missing value for NOPE, Z"),
        ("$(EMPTY)", "missing value for EMPTY"),
        ("x$()", "missing value for "),
        ("$(UP)/x", "unable to provision SubPath `../x`: must not contain '..'"),
        ("$(ROOT)", "error SubPath `/etc` must not be an absolute path"),
    ] {
        assert_eq!(node.mounts(expr(text), &variables).expect_err(text), error);
    }
}

#[test]
fn a_host_path_that_leads_to_the_data_directory_shows_nothing() {
    let node = Node::new();
    symlink(node.at("data/pki"), node.at("link")).expect("made");
    symlink(node.at("data/pki/ca.key"), node.at("key")).expect("made");
    let mount = json!([{"name": "host", "mountPath": "/h/f"}]);
    for (path, why) in [
        ("data/pki", "lies in"),
        ("data/pki/ca.key", "lies in"),
        ("link", "lies in"),
        ("key", "lies in"),
        ("", "holds"),
    ] {
        let error = node.mounts_of(mount.clone(), &[], &node.at(path)).expect_err(path);
        assert!(error.contains(&format!("{why} {}", "the data directory of this node")) || why == "holds", "{error}");
        assert!(error.contains(why), "{error}");
    }
    assert!(node.mounts_of(mount.clone(), &[], &node.at("outside")).is_ok());
    let file = node.mounts_of(mount, &[], &node.at("outside/secret")).expect("a file elsewhere");
    assert_eq!(text(&file[0], "f"), "secret");
}

#[test]
fn a_copy_belongs_to_whom_its_file_does() {
    let node = Node::new();
    let (from, to) = (node.at("data/cm/..data/dir"), node.at("copy"));
    let shown = |path: PathBuf| {
        let found = path.metadata().expect("there");
        (found.mode() & 0o7777, found.uid(), found.gid())
    };
    let owner = if geteuid().is_root() { (5, 6) } else { (geteuid().as_raw(), rustix::process::getegid().as_raw()) };
    for (path, mode) in [(from.clone(), 0o2750), (from.join("file"), 0o440)] {
        std::os::unix::fs::lchown(&path, Some(owner.0), Some(owner.1)).expect("changed");
        std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("changed");
    }
    copy_folder(&beneath::root(&from).expect("open"), &to).expect("copied");
    assert_eq!(shown(to.clone()), (0o2750, owner.0, owner.1));
    assert_eq!(shown(to.join("file")), (0o440, owner.0, owner.1));
}
