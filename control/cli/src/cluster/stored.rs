//! Opens the store's file, with advice in errors, and reports when the store does not accept every write.

use crate::{
    data_dir::{DataDir, STORE},
    env,
};
use client::{EventType, Recorder};
use k8s_openapi::api::core::v1::ObjectReference;
use std::{fmt::Display, io::ErrorKind};
use store::{LogError, Redb, Store};

/// Opens the store. The error tells which file cannot be opened, and what to do.
pub(super) async fn open(dir: &DataDir) -> anyhow::Result<Store<server::Item>> {
    let path = dir.join(STORE);
    // An interrupted start leaves an empty file. If a cluster has run on it, the file is damaged.
    if std::fs::metadata(&path).is_ok_and(|file| file.len() == 0) && dir.join("kubeconfig").exists() {
        return Err(damaged(dir, &"it is empty"));
    }
    let opened = tokio::task::spawn_blocking({
        let path = path.clone();
        move || Redb::open(path)
    });
    let log = opened.await?.map_err(|error| match error {
        // `Held` names the file and its holder, and another file does not help against I/O errors
        LogError::Held { .. } => anyhow::Error::new(error),
        LogError::Io(ref io) if !is_damage(io) => unusable(dir, &error),
        LogError::Full(_) => full(dir, &error),
        error => damaged(dir, &error),
    })?;
    let clock = env::system_clock();
    let options = store::Options::new(store::Clock::new(move || clock.now()));
    Store::open(log, options).await.map_err(|error| match error {
        store::Error::Log(LogError::Io(ref io)) if !is_damage(io) => unusable(dir, &error),
        store::Error::Log(LogError::Full(_)) => full(dir, &error),
        error => damaged(dir, &error),
    })
}

/// Retrying does not help for a truncated or foreign file.
fn is_damage(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof)
}

fn unusable(dir: &DataDir, error: &dyn Display) -> anyhow::Error {
    anyhow::anyhow!("cannot read the store {}: {error}", dir.join(STORE).display())
}

fn full(dir: &DataDir, error: &dyn Display) -> anyhow::Error {
    anyhow::anyhow!("cannot open the store {}: {error}; free some space and start again", dir.join(STORE).display())
}

fn damaged(dir: &DataDir, error: &dyn Display) -> anyhow::Error {
    let path = dir.join(STORE);
    anyhow::anyhow!(
        "cannot read the store {}: {error}; save what is whole of it with `{}`, then move it away and put back a snapshot with `{}`, or begin anew with another --data-dir",
        path.display(),
        dir.client_command("snapshot save --salvage FILE"),
        dir.command("snapshot restore FILE")
    )
}

/// Records as events of the node what the store logs: that it does not accept every write, and that it does again.
pub(super) async fn record_events(store: Store<server::Item>, recorder: Recorder, node: ObjectReference) {
    let mut failures = store.failures();
    while let Ok(failure) = failures.wait_for(Option::is_some).await.map(|failure| failure.clone()) {
        let cause = failure.map(|failure| failure.to_string()).unwrap_or_default();
        let text = format!("the store does not take every write: {cause}");
        // A full disk may have no space for this event. The next one, which has, mentions both.
        recorder.event(&node, EventType::Warning, "StoreFailed", &text);
        if failures.wait_for(Option::is_none).await.is_err() {
            return;
        }
        let text = format!("the store takes every write again; it did not: {cause}");
        recorder.event(&node, EventType::Normal, "StoreRecovered", &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_damaged_store_is_named_with_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::open(Some(&folder.path().join("data"))).expect("made");
        std::fs::write(dir.join("kubeconfig"), "").expect("a cluster has run");
        for damage in [&b"not a database, but of a length that one might have".repeat(200)[..], b"short", b""] {
            std::fs::write(dir.join(STORE), damage).expect("written");
            let Err(error) = open(&dir).await else { panic!("taken for a store") };
            let error = format!("{error:#}");
            let path = dir.join(STORE).display().to_string();
            assert!(error.contains(&path), "{error}");
            assert!(error.contains("put back a snapshot with `sampan snapshot restore FILE --data-dir "), "{error}");
            assert!(
                error.contains("save what is whole of it with `sampan snapshot save --salvage FILE --data-dir "),
                "{error}"
            );
            assert!(error.contains("or begin anew with another --data-dir"), "{error}");
            assert_eq!(std::fs::read(dir.join(STORE)).expect("there"), damage, "left as it is");
        }
    }
}
