//! All files of an image in one folder, for those who mount it as a volume and have no overlay of the kernel: WebAssembly, and nodes that are not
//! root.
//!
//! The layers of a Linux image are merged as the kernel's overlay would do it. Files are hard links to those of the layers, and take no room of
//! their own; folders have the owner, mode and time of the uppermost layer that has them.

use crate::{
    Error, Images, Pulled,
    below::{OPAQUE_ATTRIBUTE, is_whiteout_file},
    content::{blocking, rename},
    error::Fault,
    images::Inner,
    removal::remove_all,
};
use rustix::{fs::lgetxattr, process::geteuid};
use std::{
    collections::HashSet,
    ffi::OsString,
    fs::{self, DirBuilder, File, FileTimes, Metadata},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, lchown},
    path::{Path, PathBuf},
    sync::Arc,
};

impl Images {
    /// The folder with all files of an image, which is made now if it is not there; `None` for an artifact, which is a module only. Nobody may
    /// change it. It stays as long as the image is stored.
    pub async fn folder(&self, image: &Pulled) -> Result<Option<PathBuf>, Error> {
        let Some(mut layers) = self.layers(image).await? else { return self.files(image).await };
        let Some(record) = self.0.content.record(&image.digest)? else {
            return Err(Error::Refused(format!("{}: no such image in the store", image.name)));
        };
        // A layer that is alone hides nothing.
        if let ([one], Some([_])) = (&*layers, record.layers.as_deref()) {
            return Ok(Some(one.clone()));
        }
        let target = self.0.content.files(&record.manifest.digest);
        if target.is_dir() {
            return Ok(Some(target));
        }
        layers.reverse();
        let held = (self.0.unpacking.clone().lock_owned().await, self.0.content.shared().await?);
        let (this, to) = (self.0.clone(), target.clone());
        let merge = move || {
            // Whoever asked may be gone before it is done.
            let _held = held;
            this.merge(&layers, &to)
        };
        Ok(blocking(merge).await.map(|()| Some(target))?)
    }
}

impl Inner {
    /// Merges layers, the uppermost first, to `target`, which appears when it is complete.
    fn merge(self: &Arc<Self>, layers: &[PathBuf], target: &Path) -> Result<(), Fault> {
        if target.is_dir() {
            return Ok(());
        }
        let ((), path) = self.content.temporary(|path| DirBuilder::new().mode(0o700).create(path))?;
        let merged = merge(layers, &path).and_then(|()| {
            if let Some(top) = layers.first() {
                give(&path, &top.metadata()?)?;
            }
            Ok(rustix::fs::syncfs(File::open(&path)?)?)
        });
        let placed = merged.map_err(Fault::from).and_then(|()| match rename(&path, target) {
            // another process was faster
            Err(_) if target.is_dir() => remove_all(&path),
            placed => Ok(placed?),
        });
        placed.inspect_err(|_| drop(remove_all(&path)))
    }
}

/// Fills `target` with what the folders show together, the uppermost first. They are of layers, which nobody changes, and no deeper than
/// [`crate::tree::MAX_DEPTH`], and so is the recursion.
fn merge(folders: &[PathBuf], target: &Path) -> io::Result<()> {
    let mut seen: HashSet<OsString> = HashSet::new();
    for (number, folder) in folders.iter().enumerate() {
        for entry in fs::read_dir(folder)? {
            let (entry, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
            let found = entry.symlink_metadata()?;
            if !seen.insert(name.clone()) || is_whiteout_file(&found) {
                continue;
            }
            let to = target.join(&name);
            if !found.is_dir() {
                // a link itself, not what it leads to
                fs::hard_link(&entry, &to)?;
                continue;
            }
            let mut same = vec![entry];
            for below in &folders[number + 1..] {
                if same.last().is_some_and(|upper| is_opaque(upper)) {
                    break;
                }
                let below = below.join(&name);
                match below.symlink_metadata() {
                    Ok(found) if found.is_dir() => same.push(below),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                    Ok(_) => break,
                }
            }
            DirBuilder::new().mode(0o700).create(&to)?;
            merge(&same, &to)?;
            give(&to, &found)?;
        }
    }
    Ok(())
}

/// Whether a folder hides those below it.
fn is_opaque(folder: &Path) -> bool {
    lgetxattr(folder, OPAQUE_ATTRIBUTE, &mut [0u8; 8][..]).is_ok_and(|length| length > 0)
}

/// Gives a folder owner, mode and time of another one.
fn give(folder: &Path, of: &Metadata) -> io::Result<()> {
    if geteuid().is_root() {
        lchown(folder, Some(of.uid()), Some(of.gid()))?;
    }
    let opened = File::open(folder)?;
    opened.set_permissions(of.permissions())?;
    // A time that the file system cannot keep is not worth more.
    let _ = of.modified().and_then(|at| opened.set_times(FileTimes::new().set_modified(at)));
    Ok(())
}
