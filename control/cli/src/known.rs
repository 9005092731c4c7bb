//! The clusters that this user has started on this machine, with their data directories and copies of their kubeconfigs. `ls` lists the
//! stopped ones, a start renews the copies, and `down --purge` finds them even if the directory was removed.
//!
//! Each cluster has a small file in `$XDG_STATE_HOME/sampan/clusters` or `~/.local/state/sampan/clusters`. The records are optional:
//! without a home directory, or if nothing can be written, clusters work too.

use crate::{
    data_dir::{DataDir, canonical, note_private},
    env,
};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// The record of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    /// Its data directory.
    pub(crate) dir: PathBuf,
    /// The name of its entries in kubeconfigs.
    pub(crate) name: String,
    /// Its certificate authority in base64, which identifies its entries.
    pub(crate) authority: String,
    /// The kubeconfigs, other than its own, with entries of it.
    #[serde(default)]
    pub(crate) copies: Vec<PathBuf>,
}

/// The folder of the records.
#[derive(Clone, Debug)]
pub(crate) struct Clusters {
    /// `None` if there is no such folder.
    folder: Option<PathBuf>,
}

impl Clusters {
    /// The records of the user.
    pub(crate) fn of_user() -> Self {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let state = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")));
        Self { folder: state.map(|state| state.join("sampan/clusters")) }
    }

    /// All records, by directory, including those of removed directories.
    pub(crate) fn all(&self) -> Vec<Known> {
        let files = self.folder.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
        let mut all: Vec<Known> = files.filter_map(|file| read(&file.path())).collect();
        all.sort_by(|a, b| a.dir.cmp(&b.dir));
        all
    }

    /// The record of a data directory.
    pub(crate) fn get(&self, dir: &DataDir) -> Option<Known> {
        read(&self.file(&canonical(dir.path()))?)
    }

    /// Records the start of a cluster, and one more kubeconfig with entries of it.
    pub(crate) fn note(&self, dir: &DataDir, name: &str, authority: &str, copy: Option<&Path>) {
        let _lock = self.lock();
        let mut known = Known {
            dir: canonical(dir.path()),
            name: name.to_owned(),
            authority: authority.to_owned(),
            copies: self.get(dir).map(|known| known.copies).unwrap_or_default(),
        };
        if let Some(copy) = copy
            && !known.copies.iter().any(|there| there == copy)
        {
            known.copies.push(copy.to_owned());
        }
        self.put(&known);
    }

    /// Removes copies that no longer have entries of it.
    pub(crate) fn retain_copies(&self, dir: &DataDir, keep: impl Fn(&Path) -> bool) {
        let _lock = self.lock();
        if let Some(mut known) = self.get(dir) {
            let before = known.copies.len();
            known.copies.retain(|copy| keep(copy));
            if known.copies.len() < before {
                self.put(&known);
            }
        }
    }

    /// Removes the record of a data directory.
    pub(crate) fn forget(&self, dir: &DataDir) {
        self.file(&canonical(dir.path())).into_iter().for_each(|file| drop(fs::remove_file(file)));
    }

    /// Removes records of removed directories, mostly temporary ones, that no kubeconfig names any more. `names` tells whether a kubeconfig
    /// names a cluster.
    pub(crate) fn tidy(&self, names: impl Fn(&Path, &Known) -> bool) {
        for gone in self.all().into_iter().filter(|known| !known.dir.exists()) {
            if !gone.copies.iter().any(|copy| names(copy, &gone)) {
                self.file(&gone.dir).into_iter().for_each(|file| drop(fs::remove_file(file)));
            }
        }
    }

    /// Serializes changes: the folder is locked while the result is held. `None` if there is no folder.
    fn lock(&self) -> Option<fs::File> {
        let folder = self.folder.as_ref()?;
        fs::create_dir_all(folder).ok()?;
        let folder = fs::File::open(folder).ok()?;
        folder.lock().ok()?;
        Some(folder)
    }

    fn put(&self, known: &Known) {
        let (Some(folder), Some(file), Ok(text)) =
            (&self.folder, self.file(&known.dir), serde_json::to_vec_pretty(known))
        else {
            return;
        };
        // A failure is ignored: the cluster is only not listed, and its kubeconfigs are not renewed.
        if let Err(error) = fs::create_dir_all(folder).map_err(Into::into).and_then(|()| note_private(&file, &text)) {
            tracing::info!("{error}; the cluster is not listed when it is stopped");
        }
    }

    /// The file of a data directory, named after its whole path, because many paths have the same last component.
    fn file(&self, dir: &Path) -> Option<PathBuf> {
        let hash = digest(&SHA256, dir.as_os_str().as_bytes());
        let name: String = hash.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Some(self.folder.as_ref()?.join(format!("{name}.json")))
    }
}

/// `None` if it is unreadable or invalid.
fn read(file: &Path) -> Option<Known> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn what_was_started_is_known_until_it_is_forgotten() {
        let place = tempfile::tempdir().expect("a folder");
        let clusters = Clusters { folder: Some(place.path().join("state")) };
        assert!(clusters.all().is_empty());
        let dir = |name: &str| DataDir::open(Some(&place.path().join(name))).expect("made");
        let (a, b) = (dir("a"), dir("b"));
        clusters.note(&a, "sampan-a", "one", Some(Path::new("/copy")));
        clusters.note(&a, "sampan-a", "one", Some(Path::new("/other")));
        clusters.note(&a, "sampan-a", "one", Some(Path::new("/copy")));
        clusters.note(&b, "sampan-b", "two", None);
        let known = clusters.get(&a).expect("noted");
        assert_eq!((known.name.as_str(), known.authority.as_str()), ("sampan-a", "one"));
        assert_eq!(known.copies, [Path::new("/copy"), Path::new("/other")]);
        assert_eq!(clusters.all().len(), 2);
        clusters.retain_copies(&a, |copy| copy == Path::new("/other"));
        assert_eq!(clusters.get(&a).expect("noted").copies, [Path::new("/other")]);

        fs::remove_dir_all(a.path()).expect("removed");
        assert_eq!(clusters.get(&a).map(|known| known.name), Some("sampan-a".into()), "found though it is gone");
        clusters.tidy(|copy, known| copy == Path::new("/other") && known.authority == "one");
        assert_eq!(clusters.all().len(), 2, "a kubeconfig names it");
        clusters.tidy(|_, _| false);
        assert_eq!(clusters.all().len(), 1);
        clusters.forget(&b);
        assert!(clusters.all().is_empty());
    }

    #[test]
    fn copies_that_are_noted_at_once_are_all_known() {
        let place = tempfile::tempdir().expect("a folder");
        let clusters = Clusters { folder: Some(place.path().join("state")) };
        let dir = DataDir::open(Some(&place.path().join("a"))).expect("made");
        let copies: Vec<PathBuf> = (0..16).map(|n| format!("/copy-{n:02}").into()).collect();
        std::thread::scope(|threads| {
            for copy in &copies {
                threads.spawn(|| clusters.note(&dir, "sampan-a", "one", Some(copy)));
            }
        });
        let mut known = clusters.get(&dir).expect("noted").copies;
        known.sort();
        assert_eq!(known, copies);
    }

    #[test]
    fn without_a_place_nothing_is_known_and_nothing_fails() {
        let place = tempfile::tempdir().expect("a folder");
        let dir = DataDir::open(Some(&place.path().join("a"))).expect("made");
        fs::write(place.path().join("file"), "").expect("written");
        for folder in [None, Some(place.path().join("file/below"))] {
            let clusters = Clusters { folder };
            clusters.note(&dir, "sampan-a", "one", None);
            clusters.tidy(|_, _| true);
            clusters.forget(&dir);
            assert!(clusters.all().is_empty() && clusters.get(&dir).is_none());
        }
    }
}
