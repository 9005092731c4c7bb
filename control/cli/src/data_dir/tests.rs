use super::*;

#[test]
fn one_cluster_at_a_time_and_the_second_is_told_who() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("data");
    let dir = DataDir::open(Some(&path)).expect("made");
    let mut lock = dir.lock().expect("free");
    lock.announce("127.0.0.1:6443", 10, BTreeMap::new()).expect("written");
    let error = dir.lock().expect_err("taken").to_string();
    assert!(error.contains(&format!("process {} (https://127.0.0.1:6443)", std::process::id())), "{error}");
    assert_eq!(dir.holder().expect("read").map(|h| h.address), Some("127.0.0.1:6443".to_owned()));
    drop(lock);
    assert_eq!(dir.holder().expect("read"), None);
    dir.lock().expect("free again");
}

#[test]
fn a_kubeconfig_leads_to_the_directory_that_holds_it() {
    let folder = open_folder(&["lock", "kubeconfig", "other"]);
    let of = |name: &str| DataDir::of_kubeconfig(&folder.path().join(name));
    assert_eq!(of("kubeconfig"), Some(folder.path().to_owned()));
    assert_eq!((of("other"), of("sub/kubeconfig")), (None, None));
    let elsewhere = open_folder(&["kubeconfig"]);
    assert_eq!(DataDir::of_kubeconfig(&elsewhere.path().join("kubeconfig")), None, "no data directory");
}

#[test]
fn a_lock_knows_when_its_directory_was_removed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("data");
    let dir = DataDir::open(Some(&path)).expect("made");
    let lock = dir.lock().expect("free");
    assert!(lock.is_there(&dir));
    fs::remove_dir_all(&path).expect("removed");
    assert!(!lock.is_there(&dir));
    let anew = DataDir::open(Some(&path)).expect("made again").lock().expect("free");
    assert!(!lock.is_there(&dir) && anew.is_there(&dir), "another one is not ours");
}

#[test]
fn what_is_ours_is_removed_and_nothing_else() {
    let folder = open_folder(&["lock", "cluster.redb", "images/blobs/x", "chosen.tmp77", "agent/notes"]);
    let dir = DataDir { path: folder.path().to_owned() };
    assert!(dir.remove().expect("removed").is_empty());
    assert!(!folder.path().exists());
    assert!(dir.remove().expect("nothing is there").is_empty());
    let mixed = open_folder(&["cluster.redb", "notes.txt"]);
    let dir = DataDir { path: mixed.path().to_owned() };
    assert_eq!(dir.remove().expect("removed"), ["notes.txt"]);
    assert!(mixed.path().join("notes.txt").exists() && !mixed.path().join("cluster.redb").exists());
    let foreign = open_folder(&["notes.txt"]);
    DataDir { path: foreign.path().to_owned() }.remove().expect_err("not ours");
    let running = open_folder(&["cluster.redb"]);
    let dir = DataDir { path: running.path().to_owned() };
    let _lock = dir.lock().expect("free");
    dir.remove().expect_err("in use");
    assert!(running.path().join("cluster.redb").exists());
}

#[test]
fn the_store_is_removed_first_and_the_lock_last() {
    let files =
        ["agent/notes", "cluster.redb", "cluster.redb.reserve", "images/blobs/x", "lock", "pki/sa.key", "sampan.log"];
    let folder = open_folder(&files);
    let (ours, left) = DataDir { path: folder.path().to_owned() }.entries().expect("read");
    let names: Vec<_> = ours.iter().filter_map(|path| path.file_name()?.to_str()).collect();
    assert_eq!((names.len(), names[0], names[6]), (7, "cluster.redb", "lock"), "{names:?}");
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn of_a_link_the_link_is_removed_and_what_is_ours_behind_it() {
    let (folder, place) = (open_folder(&["lock", "cluster.redb"]), tempfile::tempdir().expect("a folder"));
    let link = place.path().join("data");
    std::os::unix::fs::symlink(folder.path(), &link).expect("linked");
    assert!(DataDir { path: link.clone() }.remove().expect("removed").is_empty());
    assert!(!link.is_symlink());
    assert_eq!(fs::read_dir(folder.path()).expect("the folder stays").count(), 0);
}

#[test]
fn a_lock_is_of_the_file_that_is_there() {
    let folder = open_folder(&["cluster.redb"]);
    let dir = DataDir { path: folder.path().to_owned() };
    // As if the directory were removed after the file was opened: the lock of the old file is free but worthless.
    let stale = dir.open_lock().expect("made");
    fs::remove_file(dir.join(LOCK)).expect("removed");
    assert!(!Lock { file: stale }.is_there(&dir));
    let held = dir.lock().expect("free");
    assert!(held.is_there(&dir));
    dir.lock().expect_err("held");
}

#[test]
fn hints_name_the_directory_that_is_meant() {
    let dir = DataDir::locate(Some(Path::new("/tmp/my data"))).expect("a path");
    assert_eq!(dir.command("down"), "sampan down --data-dir '/tmp/my data'");
    assert_eq!(dir.client_command("apply"), "sampan apply --data-dir '/tmp/my data'");
    assert_eq!(
        dir.complete("not present; load it with: sampan image load FILE -t a:1"),
        "not present; load it with: sampan image load FILE --data-dir '/tmp/my data' -t a:1"
    );
    assert_eq!(dir.kubectl(), "kubectl --kubeconfig '/tmp/my data/kubeconfig'");
}

#[test]
fn a_private_file_is_written_only_if_it_differs() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file");
    write_private(&path, b"one").expect("written");
    let inode = fs::metadata(&path).expect("there").ino();
    // No file can be created in the folder, as on a full disk.
    let closed = |to: u32| fs::set_permissions(folder.path(), fs::Permissions::from_mode(to)).expect("changed");
    closed(0o500);
    write_private(&path, b"one").expect("nothing is to be done");
    closed(0o700);
    assert_eq!(fs::metadata(&path).expect("there").ino(), inode);
    write_private(&path, b"two").expect("written");
    assert_eq!(fs::read(&path).expect("read"), b"two");
    assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 1, "nothing is left beside it");
}

#[test]
fn keys_that_others_may_read_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("key");
    write_private(&key, b"secret").expect("written");
    assert_eq!(read_private(&key).expect("private"), Some(b"secret".to_vec()));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("changed");
    assert!(read_private(&key).expect_err("readable").to_string().contains("chmod 600"));
}

/// A folder with mode 755 and these files.
fn open_folder(files: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for file in files {
        let file = folder.path().join(file);
        fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        fs::write(file, "x").expect("written");
    }
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("changed");
    folder
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").mode() & 0o777
}

#[test]
fn an_empty_directory_is_taken_and_closed() {
    let folder = open_folder(&[]);
    DataDir::open(Some(folder.path())).expect("taken");
    assert_eq!(mode(folder.path()), 0o700);
    let mounted = open_folder(&[]);
    fs::create_dir(mounted.path().join("lost+found")).expect("made");
    DataDir::open(Some(mounted.path())).expect("a new file system is empty");
    assert_eq!(mode(mounted.path()), 0o700);
}

#[test]
fn ours_but_open_is_refused_with_the_command_that_mends_it() {
    for files in [&["lock"][..], &["lock", "pki/ca.key"], &["cluster.redb", "notes.txt"], &["images/blobs/x"]] {
        let folder = open_folder(files);
        let error = DataDir::open(Some(folder.path())).expect_err("open").to_string();
        assert!(error.ends_with(&format!(": chmod 700 {}", folder.path().display())), "{files:?}: {error}");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("changed");
        DataDir::open(Some(folder.path())).expect("as told");
    }
}

#[test]
fn a_directory_with_foreign_files_is_left_as_it_is() {
    for files in [&["notes.txt"][..], &["pki/ca-trust", "passwd"], &["images/cat.jpeg", "notes.txt"]] {
        let folder = open_folder(files);
        for bits in [0o755, 0o700] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(bits)).expect("changed");
            let before = fs::read_dir(folder.path()).expect("read").count();
            let error = DataDir::open(Some(folder.path())).expect_err("foreign").to_string();
            assert!(error.contains("not sampan's") && error.contains("--data-dir"), "{files:?}: {error}");
            assert_eq!((mode(folder.path()), fs::read_dir(folder.path()).expect("read").count()), (bits, before));
        }
    }
}

#[test]
fn a_look_makes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("absent");
    let dir = DataDir::locate(Some(&path)).expect("a path");
    assert_eq!(dir.holder().expect("nobody"), None);
    assert!(!path.exists());
}
