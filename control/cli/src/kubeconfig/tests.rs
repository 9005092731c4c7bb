use super::*;

fn ours(ca: &str, name: &str) -> Value {
    let access = Access {
        address: "127.0.0.1:6443".parse().expect("an address"),
        ca_pem: ca,
        certificate_pem: "cert",
        key_pem: "key",
    };
    document(&access, name)
}

fn names(path: &Path) -> Vec<String> {
    let (merged, _) = api::yaml::parse(&fs::read(path).expect("read")).expect("YAML");
    let clusters = merged["clusters"].as_array().expect("a list").iter();
    clusters.map(|c| c["name"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn what_cannot_be_merged_into_is_told_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, config) = (folder.path().join("file"), folder.path().join("home/.kube/config"));
    let dir = DataDir::locate(Some(&folder.path().join("data"))).expect("a path");
    let check = |path: &Path| super::check(path, &dir, "ca");
    fs::write(&file, "- 1\n").expect("written");
    check(&config).expect("it can be made");
    assert_eq!(fs::read_dir(folder.path().join("home/.kube")).expect("made").count(), 0, "nothing is left there");
    let error = check(&file).expect_err("a list").to_string();
    assert_eq!(error, format!("{} is not a kubeconfig; it was left as it is", file.display()));
    fs::write(&file, "").expect("written");
    check(&file).expect("it can be replaced");
    assert_eq!(fs::read(&file).expect("there"), b"", "it was not replaced yet");
    fs::write(&file, "clusters: [{name: sampan-data, cluster: {certificate-authority-data: other}}]").expect("written");
    let error = check(&file).expect_err("another's").to_string();
    assert!(error.contains("its cluster \"sampan-data\" is of another cluster"), "{error}");
    fs::write(&file, "clusters: [{name: sampan-data, cluster: {certificate-authority-data: ca}}]").expect("written");
    check(&file).expect("its own can be replaced");
    // Home directories that nobody can write to.
    let error = check(Path::new("/proc/none/.kube/config")).expect_err("no folder can be made there").to_string();
    assert!(error.starts_with("cannot make /proc/none/.kube: "), "{error}");
    let error = check(Path::new("/proc/config")).expect_err("no file can be made there").to_string();
    assert!(error.starts_with("cannot write /proc/config"), "{error}");
}

#[test]
fn merging_keeps_what_others_wrote_and_replaces_our_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config");
    let ca = STANDARD.encode("ca");
    let theirs = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: other\nclusters:\n- name: other\n  cluster: {{server: https://o}}\n\
         - name: sampan\n  cluster: {{server: https://old, certificate-authority-data: {ca}}}\n"
    );
    fs::write(&path, theirs).expect("written");
    let told = merge(&path, &ours("ca", "sampan"), false).expect("merged");
    assert!(told.contains("\"sampan\" (https://127.0.0.1:6443)") && told.contains("config"), "{told}");
    let (merged, _) = api::yaml::parse(&fs::read(&path).expect("read")).expect("YAML");
    assert_eq!(merged["current-context"], "sampan");
    assert_eq!(names(&path), ["other", "sampan"]);
    assert_eq!(merged["clusters"][1]["cluster"]["server"], "https://127.0.0.1:6443");
}

#[test]
fn entries_of_another_cluster_are_replaced_by_force_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config");
    merge(&path, &ours("first", "sampan"), false).expect("new");
    let before = fs::read(&path).expect("read");
    let error = merge(&path, &ours("second", "sampan"), false).expect_err("another's").to_string();
    assert!(error.contains("--force") && error.contains("cluster \"sampan\""), "{error}");
    assert_eq!(fs::read(&path).expect("read"), before, "left as it is");
    merge(&path, &ours("second", "sampan-two"), false).expect("beside it");
    assert_eq!(names(&path), ["sampan", "sampan-two"]);
    merge(&path, &ours("second", "sampan"), true).expect("by force");
    for others in ["users: [{name: sampan, user: {}}]", "contexts: [{name: sampan, context: {cluster: other}}]"] {
        fs::write(&path, others).expect("written");
        merge(&path, &ours("ca", "sampan"), false).expect_err(others);
    }
}

#[test]
fn an_absent_kubeconfig_is_told_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = DataDir::open(Some(&folder.path().join("data"))).expect("made");
    let up = format!("`sampan up --data-dir {}`", dir.path().display());
    assert!(absent(&dir).to_string().contains(&format!("start a cluster first with {up}")));
    let mut lock = dir.lock().expect("free");
    assert!(absent(&dir).to_string().contains("is starting"));
    assert!(!is_personal(&dir.join("kubeconfig")) && is_personal(&folder.path().join("kubeconfig")));
    lock.announce("127.0.0.1:6443", 10, Default::default()).expect("written");
    let running = absent(&dir).to_string();
    assert!(
        running.contains("is gone") && running.contains("`sampan down --data-dir ") && running.contains(&up),
        "{running}"
    );
}

#[test]
fn our_entries_are_forgotten_and_no_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config");
    let forget = |document: &Value| forget(&path, name_of(document), authority_of(document));
    let (first, second) = (ours("first", "sampan"), ours("second", "sampan-two"));
    assert!(forget(&first).expect("no file").is_none());
    merge(&path, &second, false).expect("new");
    merge(&path, &first, false).expect("beside it");
    assert!(forget(&ours("third", "sampan")).expect("another's").is_none());
    assert_eq!(names(&path), ["sampan-two", "sampan"]);
    let told = forget(&first).expect("written").expect("it was there");
    assert!(told.contains("\"sampan\"") && told.contains("no context is current"), "{told}");
    assert_eq!(names(&path), ["sampan-two"]);
    let (left, _) = api::yaml::parse(&fs::read(&path).expect("read")).expect("YAML");
    assert_eq!(left["current-context"], "");
}

#[test]
fn a_copy_is_renewed_where_it_names_the_cluster_and_nowhere_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config");
    let first = ours("first", "sampan");
    assert_eq!(renew(&path, &first).expect("no file"), Renewed::NotOurs);
    merge(&path, &first, false).expect("new");
    merge(&path, &ours("second", "sampan-two"), false).expect("beside it");
    assert_eq!(renew(&path, &first).expect("readable"), Renewed::Right);
    let mut moved = first.clone();
    moved["clusters"][0]["cluster"]["server"] = json!("https://127.0.0.1:7");
    moved["users"][0]["user"]["client-key-data"] = json!("new");
    assert_eq!(renew(&path, &moved).expect("written"), Renewed::Written);
    let whole = read(&path).expect("readable");
    assert_eq!(whole["current-context"], "sampan-two", "the choice of the user");
    assert_eq!((&whole["clusters"][0], &whole["users"][0]), (&moved["clusters"][0], &moved["users"][0]));
    assert_eq!(names(&path), ["sampan", "sampan-two"]);
    let before = fs::read(&path).expect("read");
    assert_eq!(renew(&path, &ours("third", "sampan")).expect("another's"), Renewed::NotOurs);
    assert_eq!(fs::read(&path).expect("read"), before);
    assert!(super::names(&path, "sampan", authority_of(&first)) && !is_current(&path, "sampan", authority_of(&first)));
}

#[test]
fn each_data_directory_has_its_own_name() {
    let named = |path: &str| DataDir::locate(Some(path.as_ref())).expect("a path").name();
    assert_eq!(named("/tmp/two clusters"), "sampan-two-clusters");
    let default = crate::data_dir::default_path().expect("a home");
    assert_eq!(DataDir::locate(Some(&default)).expect("a path").name(), "sampan");
}

#[test]
fn a_link_to_a_kubeconfig_stays_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, link) = (folder.path().join("dotfiles"), folder.path().join("config"));
    fs::write(&file, "apiVersion: v1\nkind: Config\n").expect("written");
    std::os::unix::fs::symlink(&file, &link).expect("linked");
    merge(&link, &ours("ca", "sampan"), false).expect("merged");
    assert!(link.is_symlink());
    assert_eq!(names(&file), ["sampan"]);
}

#[test]
fn something_else_is_left_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config");
    fs::write(&path, "- just a list\n").expect("written");
    assert!(merge(&path, &ours("ca", "sampan"), true).is_err());
    assert_eq!(fs::read_to_string(&path).expect("read"), "- just a list\n");
}

#[test]
fn those_who_write_at_once_lose_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("new/config");
    let all: Vec<String> = (0..16).map(|n| format!("sampan-{n:02}")).collect();
    std::thread::scope(|threads| {
        for name in &all {
            threads.spawn(|| merge(&path, &ours(name, name), false).expect("merged"));
        }
    });
    let mut there = names(&path);
    there.sort();
    assert_eq!(there, all);
    std::thread::scope(|threads| {
        for name in &all[1..] {
            let document = ours(name, name);
            let path = &path;
            threads
                .spawn(move || forget(path, name, authority_of(&document)).expect("forgotten").expect("it was there"));
        }
    });
    assert_eq!(names(&path), [all[0].as_str()]);
    assert_eq!(fs::read_dir(path.parent().expect("a folder")).expect("read").count(), 1, "no lock is left");
}

#[test]
fn a_lock_of_kubectl_is_respected_and_named_if_it_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config");
    let lock = folder.path().join("config.lock");
    fs::write(&lock, "").expect("written");
    let Err(error) = FileLock::take(&path, Duration::ZERO) else { panic!("it is taken") };
    assert!(error.to_string().contains(&format!("{} is there", lock.display())), "{error}");
    assert!(lock.exists(), "another's");
    fs::remove_file(&lock).expect("removed");
    drop(FileLock::take(&path, Duration::ZERO).expect("free"));
    assert!(!lock.exists());
    let document = ours("ca", "sampan");
    merge(&path, &document, false).expect("merged");
    fs::write(&lock, "").expect("written");
    merge(&path, &document, false).expect("nothing is to be written, so nobody is waited for");
    assert_eq!(renew(&path, &document).expect("readable"), Renewed::Right);
}

#[test]
fn who_means_no_cluster_is_told_which_ones_run() {
    let dir = DataDir::locate(Some(Path::new("/d"))).expect("a path");
    let told = |running: &[&str]| {
        let running: Vec<PathBuf> = running.iter().map(PathBuf::from).collect();
        none_ever(&dir, &running).to_string()
    };
    let first = "no kubeconfig at /d/kubeconfig: start a cluster first with `sampan up --data-dir /d`";
    assert_eq!(told(&[]), first);
    assert_eq!(told(&["/my data"]), format!("{first}, or name the one that runs: --data-dir '/my data'"));
    let both = format!("{first}, or name one of those that run: --data-dir /a, --data-dir /b");
    assert_eq!(told(&["/a", "/b"]), both);
}
