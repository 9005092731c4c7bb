use super::*;
use k8s_openapi::api::core::v1::ConfigMap;

fn object(name: &str, uid: &str, revision: u64) -> ConfigMap {
    let mut object = ConfigMap::default();
    object.metadata.namespace = Some("n".into());
    object.metadata.name = Some(name.into());
    object.metadata.uid = Some(uid.into());
    object.metadata.resource_version = Some(revision.to_string());
    object
}

fn watched() -> (Informer<ConfigMap>, Arc<Mutex<Vec<String>>>) {
    let informer = Informer::new();
    let log = Arc::new(Mutex::new(Vec::new()));
    let lines = log.clone();
    informer.subscribe(move |delta: &Delta<ConfigMap>| {
        let word = match delta {
            Delta::Added(_) => "added",
            Delta::Modified { .. } => "modified",
            Delta::Deleted(_) => "deleted",
        };
        let meta = &delta.object().metadata;
        lines.lock().push(format!(
            "{word} {} {}",
            meta.name.as_deref().unwrap_or(""),
            meta.uid.as_deref().unwrap_or("")
        ));
    });
    (informer, log)
}

#[test]
fn a_fresh_list_tells_deletions_and_recreations() {
    let (informer, log) = watched();
    informer.replace(vec![object("a", "1", 1), object("b", "2", 2), object("c", "3", 3)], 3);
    log.lock().clear();
    informer.replace(vec![object("b", "2", 2), object("c", "9", 8)], 9);
    assert_eq!(*log.lock(), ["deleted a 1", "deleted c 3", "added c 9"]);
    assert_eq!(informer.revision(), 9);
}

#[test]
fn a_late_handler_is_told_what_is_there() {
    let informer = Informer::new();
    informer.replace(vec![object("a", "1", 1)], 1);
    let count = Arc::new(Mutex::new(0));
    let seen = count.clone();
    informer.subscribe(move |_| *seen.lock() += 1);
    informer.apply(WatchEvent::Modified(object("a", "1", 2)));
    assert_eq!(*count.lock(), 2);
}

#[test]
fn indexes_follow_changes() {
    let informer = Informer::new();
    informer.replace(vec![object("a", "1", 1)], 1);
    informer.index("uid", |o: &ConfigMap| o.metadata.uid.clone().into_iter().collect());
    assert_eq!(informer.by_index("uid", "1").len(), 1);
    informer.apply(WatchEvent::Modified(object("a", "2", 2)));
    assert!(informer.by_index("uid", "1").is_empty());
    assert_eq!(informer.by_index("uid", "2").len(), 1);
    informer.apply(WatchEvent::Deleted(object("a", "2", 3)));
    assert!(informer.by_index("uid", "2").is_empty());
    assert_eq!(informer.revision(), 3);
}

fn bad(name: &str, uid: &str, revision: u64) -> Undecodable {
    Undecodable {
        key: Key::new("n", name),
        uid: uid.into(),
        revision: Some(revision),
        error: "a year of six digits".into(),
    }
}

#[test]
fn what_cannot_be_read_stays_as_it_was_known_until_it_is_gone_or_another() {
    let (informer, log) = watched();
    informer.replace(vec![object("a", "1", 1), object("b", "2", 2), object("c", "3", 3)], 3);
    log.lock().clear();
    informer.apply(WatchEvent::Undecodable(bad("a", "1", 4)));
    informer.apply(WatchEvent::Undecodable(bad("never-seen", "9", 5)));
    assert_eq!((log.lock().len(), informer.len(), informer.revision()), (0, 3, 5));
    let count = || informer.undecodable().len();
    assert_eq!(count(), 2);
    informer.cache.replace(vec![object("b", "2", 2)], &[bad("a", "1", 4), bad("c", "7", 6)], 6);
    assert_eq!((std::mem::take(&mut *log.lock()), count()), (vec!["deleted c 3".to_owned()], 2));
    informer.apply(WatchEvent::Modified(object("a", "1", 7)));
    informer.apply(WatchEvent::DeletedUndecodable(bad("b", "2", 8)));
    informer.apply(WatchEvent::Undecodable(bad("a", "5", 9)));
    assert_eq!(*log.lock(), ["modified a 1", "deleted b 2", "deleted a 1"]);
    informer.apply(WatchEvent::DeletedUndecodable(bad("a", "5", 10)));
    informer.replace(Vec::new(), 11);
    assert_eq!((count(), informer.revision()), (0, 11));
}

#[test]
fn a_handler_that_panics_keeps_nothing_from_the_others() {
    let (informer, log) = watched();
    let first = Informer::<ConfigMap>::clone(&informer);
    first.subscribe(|_| panic!("over this one"));
    informer.replace(vec![object("a", "1", 1), object("b", "2", 2)], 2);
    assert_eq!((log.lock().len(), informer.revision()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_with_the_revision() {
    let informer = Informer::new();
    informer.replace(vec![object("a", "1", 1)], 1);
    let waiting = tokio::spawn({
        let informer = informer.clone();
        async move { informer.wait_for(5).await }
    });
    informer.apply(WatchEvent::Bookmark("5".into()));
    waiting.await.expect("seen");
}
