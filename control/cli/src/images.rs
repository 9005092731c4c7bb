//! `sampan image`, the packaging of relative images; the node agent has the same store. It is plain files with a lock
//! for collection, so all of it works with the cluster up or down.

use crate::{
    data_dir::DataDir,
    env,
    manifests::{self, Manifest},
};
use anyhow::Context;
use image::{Images, Keyring, Options, Proxies};
use std::{path::Path, sync::Arc};

/// Opens the content store of a data directory.
pub(crate) fn open(dir: &DataDir) -> anyhow::Result<Images> {
    let text = |names: [&str; 2]| names.iter().find_map(|n| env::var_os(n)).and_then(|v| v.into_string().ok());
    let proxies = Proxies {
        https: text(["HTTPS_PROXY", "https_proxy"]),
        http: text(["HTTP_PROXY", "http_proxy"]),
        no_proxy: text(["NO_PROXY", "no_proxy"]),
    };
    let roots = match env::var_os("SSL_CERT_FILE") {
        Some(path) => {
            vec![std::fs::read(&path).with_context(|| format!("cannot read {}", Path::new(&path).display()))?]
        }
        None => Vec::new(),
    };
    Ok(Images::open(dir.join("images"), Options { roots, proxies, ..Options::default() })?)
}

/// What the API server may tell who applies a manifest: that an image of the store is a Linux image.
pub(crate) fn advice(images: &Images) -> server::ImageAdvice {
    let images = images.clone();
    Arc::new(move |name| match images.get(name).ok().flatten()?.artifact {
        image::Artifact::Wasm { .. } => None,
        image::Artifact::Linux { platform } => {
            Some(format!("{name:?} is a Linux image ({platform}), which this node cannot run yet; its pods will wait"))
        }
    })
}

/// `sampan image load`.
pub(crate) async fn load(dir: DataDir, file: &Path, tag: &str) -> anyhow::Result<()> {
    let loaded = open(&dir)?.load(file, Some(tag)).await?;
    println!("loaded {} {} ({} bytes, {})", loaded.name, loaded.digest, loaded.size, loaded.layout);
    Ok(())
}

/// `sampan image ls`.
pub(crate) async fn list(dir: DataDir) -> anyhow::Result<()> {
    for one in open(&dir)?.list().await? {
        let names = if one.names.is_empty() { vec!["<none>".to_owned()] } else { one.names };
        for name in names {
            println!("{name}  {}  {}  {}", one.digest, one.size, one.layout);
        }
    }
    Ok(())
}

/// `sampan image rm`.
pub(crate) async fn remove(dir: DataDir, names: &[String]) -> anyhow::Result<()> {
    let images = open(&dir)?;
    for name in names {
        images.remove(name).await?;
        println!("removed {name}");
    }
    Ok(())
}

/// `sampan image push`, with the credentials of ~/.docker/config.json if there are any.
pub(crate) async fn push(dir: DataDir, name: &str) -> anyhow::Result<()> {
    let mut keyring = Keyring::new();
    let config = env::var_os("HOME").map(|home| Path::new(&home).join(".docker/config.json"));
    if let Some(path) = config.filter(|path| path.exists()) {
        let add = keyring.add_docker_config_json(&std::fs::read(&path)?);
        add.map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
    }
    let digest = open(&dir)?.push(name, None, &keyring).await?;
    println!("pushed {name} {digest}");
    Ok(())
}

/// Packages and loads every relative image of the manifests, and names it there by its digest.
pub(crate) async fn package(dir: &DataDir, manifests: &mut [Manifest]) -> anyhow::Result<()> {
    let images = open(dir)?;
    for path in manifests::relative_images(manifests)? {
        let loaded = images.load(&path, None).await?;
        manifests::replace_image(manifests, &path, &loaded.id());
    }
    Ok(())
}
