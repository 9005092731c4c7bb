//! Manifests from files, folders and standard input, and the images in them that are files.

use crate::out;
use anyhow::{Context, bail};
use image::Reference;
use serde_json::{Value, json};
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

/// The maximum size of a manifest in bytes.
const MAX_FILE: u64 = 16 << 20;

/// An object of a manifest, with its origin.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) object: Value,
    pub(crate) source: String,
    /// The folder that relative image paths refer to.
    pub(crate) folder: PathBuf,
}

/// Reads all objects of files, folders (`*.yaml`, `*.yml`, `*.json`, sorted; subfolders only if `recursive`) and `-`.
pub(crate) fn read(paths: &[PathBuf], recursive: bool) -> anyhow::Result<Vec<Manifest>> {
    let mut all = Vec::new();
    for path in paths {
        let before = all.len();
        if path.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin().take(MAX_FILE).read_to_string(&mut text).context("cannot read standard input")?;
            parse(&text, "standard input", &std::env::current_dir()?, &mut all)?;
        } else if let Some(url) = path.to_str().filter(|text| is_url(text)) {
            bail!("manifests are not read from the network; download it first: curl -fLO {}", out::shell(url.as_ref()));
        } else if path.is_dir() {
            let files = files(path, recursive)?;
            if files.is_empty() {
                let folders = fs::read_dir(path).into_iter().flatten().flatten().any(|entry| entry.path().is_dir());
                let hint = if folders && !recursive { "; -R searches its sub-folders too" } else { "" };
                bail!("no manifests (*.yaml, *.yml, *.json) in {}{hint}", path.display());
            }
            for file in files {
                read_file(&file, &mut all)?;
            }
        } else {
            read_file(path, &mut all)?;
        }
        if all.len() == before {
            let shown = if path.as_os_str() == "-" { "standard input".to_owned() } else { path.display().to_string() };
            bail!("no objects in {shown}");
        }
    }
    Ok(all)
}

/// The manifests of a folder, in order.
fn files(folder: &Path, recursive: bool) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect());
    let mut entries: Vec<PathBuf> = entries.with_context(|| format!("cannot read {}", folder.display()))?;
    entries.sort();
    let mut found = Vec::new();
    for entry in entries {
        let manifest = entry.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if manifest && entry.is_file() {
            // A kustomization selects other files, and may have neither kind nor apiVersion.
            if entry.file_stem().is_some_and(|stem| stem == "kustomization") {
                let (file, folder) = (entry.display(), out::shell(folder));
                bail!("{file} makes the folder a kustomization, which only kubectl builds: kubectl apply -k {folder}");
            }
            found.push(entry);
        } else if recursive && entry.is_dir() && !entry.is_symlink() {
            found.extend(files(&entry, recursive)?);
        }
    }
    Ok(found)
}

fn is_url(text: &str) -> bool {
    ["http://", "https://"].iter().any(|start| text.starts_with(start))
}

fn read_file(path: &Path, all: &mut Vec<Manifest>) -> anyhow::Result<()> {
    let size = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    if size > MAX_FILE {
        bail!("{} is larger than {MAX_FILE} bytes", path.display());
    }
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let Ok(text) = String::from_utf8(text) else { bail!("{} is not a manifest: it is not UTF-8 text", path.display()) };
    let folder = std::path::absolute(path)?.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    parse(&text, &path.display().to_string(), &folder, all)
}

fn parse(text: &str, source: &str, folder: &Path, all: &mut Vec<Manifest>) -> anyhow::Result<()> {
    let documents = api::yaml::documents(text).map_err(|error| anyhow::anyhow!("{source}: {error}"))?;
    for (object, problems) in documents {
        if let Some(problem) = problems.first() {
            bail!("{source}: {problem}");
        }
        add(object, source, folder, all)?;
    }
    Ok(())
}

fn add(object: Value, source: &str, folder: &Path, all: &mut Vec<Manifest>) -> anyhow::Result<()> {
    if object.is_null() {
        return Ok(());
    }
    if object["kind"].as_str().is_some_and(|kind| kind.ends_with("List"))
        && let Some(items) = object["items"].as_array()
    {
        return items.iter().try_for_each(|item| add(item.clone(), source, folder, all));
    }
    if object["kind"] == "Kustomization" {
        bail!("{source} is a kustomization, which only kubectl builds: kubectl apply -k {}", out::shell(folder));
    }
    for field in ["apiVersion", "kind"] {
        if object[field].as_str().is_none_or(str::is_empty) {
            bail!("{source}: an object has no {field}");
        }
    }
    all.push(Manifest { object, source: source.into(), folder: folder.to_owned() });
    Ok(())
}

/// The files of all images that are paths (`./hello.wasm`, `/home/me/x.wat`, `hello.wasm` beside the manifest), each once. A missing file
/// and an invalid image name are errors: their pods could never run.
pub(crate) fn image_files(manifests: &mut [Manifest]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for manifest in manifests {
        let folder = manifest.folder.clone();
        let mut missing = None;
        each_container(&mut manifest.object, &mut |container| {
            let Some(image) = container["image"].as_str() else { return };
            let Some(file) = image_file(image, &folder) else {
                // The server validates an empty one.
                if !image.is_empty()
                    && let Err(error) = check_name(image)
                {
                    missing.get_or_insert_with(|| error.to_string());
                }
                return;
            };
            if !file.is_file() {
                let what = if file.is_dir() { "that is a folder" } else { "there is no such file" };
                let name = match is_path(image) {
                    true => String::new(),
                    false => format!("; if it is the name of an image, give its tag: {image}:TAG"),
                };
                missing
                    .get_or_insert_with(|| format!("image {image:?} is a path, {}, but {what}{name}", file.display()));
            } else if !files.contains(&file) {
                files.push(file);
            }
        });
        if let Some(missing) = missing {
            bail!("{}: {missing}", manifest.source);
        }
    }
    Ok(files)
}

/// Validates a name that users give. The error has advice.
pub(crate) fn check_name(name: &str) -> anyhow::Result<()> {
    let Err(error) = Reference::parse(name) else { return Ok(()) };
    let lower = name.to_lowercase();
    match lower != name && Reference::parse(&lower).is_ok() {
        true => bail!("{name:?} is no name of an image: names are in lower case, such as {lower}"),
        false => Err(error.into()),
    }
}

/// Replaces images that are this file by `name`, with `imagePullPolicy: IfNotPresent`.
pub(crate) fn replace_image(manifests: &mut [Manifest], file: &Path, name: &str) {
    for manifest in manifests {
        let folder = manifest.folder.clone();
        each_container(&mut manifest.object, &mut |container| {
            let image = container["image"].as_str();
            if image.and_then(|image| image_file(image, &folder)).is_some_and(|of| of == file) {
                container["image"] = json!(name);
                container["imagePullPolicy"] = json!("IfNotPresent");
            }
        });
    }
}

/// Visits every container of every pod spec.
fn each_container(value: &mut Value, visit: &mut dyn FnMut(&mut Value)) {
    match value {
        Value::Object(map) => {
            for (name, child) in map.iter_mut() {
                match child.as_array_mut() {
                    Some(list) if name == "containers" || name == "initContainers" => {
                        list.iter_mut().for_each(&mut *visit)
                    }
                    _ => each_container(child, visit),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|child| each_container(child, visit)),
        _ => {}
    }
}

/// The file of an image that is a path: with an explicit path, or with the extension of a guest and either existing or without anything
/// that only names have.
fn image_file(image: &str, folder: &Path) -> Option<PathBuf> {
    let file: PathBuf = folder.join(image).components().collect();
    let guest = [".wasm", ".wat"].iter().any(|ending| image.ends_with(ending));
    (is_path(image) || guest && (file.is_file() || !image.contains(['/', ':', '@']))).then_some(file)
}

/// Whether it is an explicit path: no registry's name starts with a dot or a slash.
fn is_path(image: &str) -> bool {
    ["./", "../", "/"].iter().any(|start| image.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_read_in_order_and_lists_are_opened() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("b.yaml"), "apiVersion: v1\nkind: B\n---\n---\napiVersion: v1\nkind: C\n")
            .expect("written");
        let list = r#"{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "A"}]}"#;
        fs::write(folder.path().join("a.json"), list).expect("written");
        fs::write(folder.path().join("notes.txt"), "no").expect("written");
        let kinds: Vec<Value> = read(&[folder.path().to_owned()], false)
            .expect("read")
            .into_iter()
            .map(|m| m.object["kind"].clone())
            .collect();
        assert_eq!(kinds, ["A", "B", "C"]);
    }

    #[test]
    fn sub_folders_are_searched_when_asked_and_told_of_when_not() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(folder.path().join("a/b")).expect("made");
        fs::write(folder.path().join("a/b/m.yaml"), "apiVersion: v1\nkind: A\n").expect("written");
        let given = [folder.path().to_owned()];
        assert!(read(&given, false).expect_err("none").to_string().ends_with("; -R searches its sub-folders too"));
        assert_eq!(read(&given, true).expect("found").len(), 1);
        let empty = folder.path().join("empty.yaml");
        fs::write(&empty, "# nothing\n").expect("written");
        let error = read(&[folder.path().join("a/b/m.yaml"), empty], false).expect_err("one is empty").to_string();
        assert!(error.starts_with("no objects in ") && error.ends_with("empty.yaml"), "{error}");
    }

    #[test]
    fn errors_name_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("bad.yaml");
        for text in ["kind: Pod\n", "a: [1\n"] {
            fs::write(&file, text).expect("written");
            let error = format!("{:#}", read(std::slice::from_ref(&file), false).expect_err("refused"));
            assert!(error.contains("bad.yaml"), "{error}");
        }
        assert!(read(&[folder.path().join("absent.yaml")], false).is_err());
    }

    #[test]
    fn kustomizations_and_urls_are_refused_with_what_to_do() {
        let refused = |path: &Path| read(&[path.to_owned()], false).expect_err("refused").to_string();
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("kustomization.yaml");
        fs::write(&file, "resources: [a.yaml]\n").expect("written");
        let hint = format!("kubectl apply -k {}", folder.path().display());
        assert!(refused(folder.path()).ends_with(&hint), "{}", refused(folder.path()));
        let other = folder.path().join("k.yaml");
        fs::write(&other, "kind: Kustomization\n").expect("written");
        assert!(refused(&other).ends_with(&hint), "{}", refused(&other));
        let url = "https://example.com/m.yaml?a=1&b=2";
        assert!(refused(url.as_ref()).ends_with(&format!("curl -fLO '{url}'")), "{}", refused(url.as_ref()));
    }

    #[test]
    fn relative_images_are_packaged_wherever_pods_are_described() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("hello.wasm"), "x").expect("written");
        let object = json!({"kind": "Deployment", "spec": {"template": {"spec": {
            "containers": [{"image": "./hello.wasm", "imagePullPolicy": "Always"}, {"image": "nginx"}]}}}});
        let mut all = [Manifest { object, source: "m".into(), folder: folder.path().to_owned() }];
        let files = image_files(&mut all).expect("there");
        assert_eq!(files, [folder.path().join("./hello.wasm")]);
        replace_image(&mut all, &files[0], "hello@sha256:1");
        let containers = &mut all[0].object["spec"]["template"]["spec"]["containers"];
        assert_eq!(containers[0], json!({"image": "hello@sha256:1", "imagePullPolicy": "IfNotPresent"}));
        assert_eq!(containers[1], json!({"image": "nginx"}));
    }

    #[test]
    fn paths_are_told_from_names_and_must_be_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let there = folder.path().join("count.wasm");
        fs::write(&there, "x").expect("written");
        fs::create_dir_all(folder.path().join("sub")).expect("made");
        fs::write(folder.path().join("sub/two.wat"), "x").expect("written");
        let files = |image: &str| {
            let object = json!({"kind": "Pod", "spec": {"containers": [{"image": image}]}});
            image_files(&mut [Manifest { object, source: "m.yaml".into(), folder: folder.path().to_owned() }])
                .map_err(|error| error.to_string())
        };
        let absolute = there.display().to_string();
        for image in ["count.wasm", "./count.wasm", &absolute, "sub/two.wat"] {
            assert_eq!(files(image), Ok(vec![folder.path().join(image)]), "{image}");
        }
        for name in ["nginx", "count:1", "registry.example/sub/absent.wasm", "localhost/count.wasm:1"] {
            assert_eq!(files(name), Ok(Vec::new()), "{name}");
        }
        for absent in ["./absent.wasm", "/absent/x.wasm", "absent.wasm", "./sub"] {
            let error = files(absent).expect_err(absent);
            assert!(error.starts_with("m.yaml: image ") && error.contains(absent), "{error}");
            assert_eq!(error.contains("absent.wasm:TAG"), absent == "absent.wasm", "{error}");
        }
        let capitals = files("Hello:2").expect_err("no name");
        assert!(capitals.starts_with("m.yaml: \"Hello:2\" is no name of an image: "), "{capitals}");
        assert_eq!(files(""), Ok(Vec::new()), "what the server refuses");
    }

    #[test]
    fn names_in_capitals_are_told_how_they_would_be_right() {
        let error = check_name("Hello:2").expect_err("capitals").to_string();
        assert_eq!(error, "\"Hello:2\" is no name of an image: names are in lower case, such as hello:2");
        assert!(check_name("hello:V2").is_ok());
        assert!(!check_name("a b").expect_err("no name").to_string().contains("lower case"));
    }
}
