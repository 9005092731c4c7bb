use super::*;

fn kind() -> Arc<Resource> {
    Arc::new(Resource {
        group: String::new(),
        version: "v1".into(),
        others: Vec::new(),
        resource: "things".into(),
        kind: "Thing".into(),
        namespaced: true,
        verbs: Vec::new(),
    })
}

fn owner(uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: "v1".into(),
        kind: "Thing".into(),
        name: uid.into(),
        uid: uid.into(),
        controller: None,
        block_owner_deletion: Some(true),
    }
}

fn object(uid: &str, owners: &[&str]) -> PartialObjectMetadata {
    PartialObjectMetadata {
        uid: uid.into(),
        name: uid.into(),
        owner_references: owners.iter().map(|uid| owner(uid)).collect(),
        ..PartialObjectMetadata::default()
    }
}

fn deleting(mut meta: PartialObjectMetadata, finalizer: &str) -> PartialObjectMetadata {
    meta.deletion_timestamp = Some("2026-01-01T00:00:00Z".into());
    meta.finalizers = if finalizer.is_empty() { Vec::new() } else { vec![finalizer.into()] };
    meta
}

fn delete(uid: &str) -> Task {
    Task::Delete(uid.into())
}

#[test]
fn dependents_are_looked_at_when_their_owner_is_gone() {
    let mut g = Graph::default();
    assert!(g.set(&kind(), object("a", &[])).tasks.is_empty());
    assert!(g.set(&kind(), object("b", &["a"])).tasks.is_empty(), "the owner is known");
    assert_eq!(g.remove("a"), [delete("b")]);
    assert!(g.is_absent(&owner("a"), ""));
    let decision = decide(&g, &object("b", &["a"]), &[("a".into(), OwnerState::Dangling)]);
    assert_eq!(decision, Decision::Delete { foreground: false });
    g.remove("b");
    assert!(!g.is_absent(&owner("a"), "") && g.nodes.is_empty(), "nothing is remembered for nobody");
}

#[test]
fn an_owner_that_was_never_seen_is_looked_for() {
    let mut g = Graph::default();
    assert_eq!(g.set(&kind(), object("b", &["ghost"])).tasks, [delete("b")]);
    assert!(g.set(&kind(), object("b", &["ghost"])).tasks.is_empty(), "once");
}

#[test]
fn foreground_deletion_waits_for_blocking_dependents() {
    let mut g = Graph::default();
    g.set(&kind(), object("a", &[]));
    g.set(&kind(), object("b", &["a"]));
    let waiting = deleting(object("a", &[]), FOREGROUND);
    assert_eq!(g.set(&kind(), waiting.clone()).tasks, [delete("a"), delete("b")]);
    assert_eq!(decide(&g, &waiting, &[]), Decision::Await(vec!["b".into()]));
    let decision = decide(&g, &object("b", &["a"]), &[("a".into(), OwnerState::Waiting)]);
    assert_eq!(decision, Decision::Delete { foreground: false }, "it has no dependents itself");
    assert_eq!(g.remove("b"), [delete("a")]);
    assert_eq!(decide(&g, &waiting, &[]), Decision::RemoveFinalizer);
}

#[test]
fn foreground_deletion_goes_down_the_tree() {
    let mut g = Graph::default();
    g.set(&kind(), object("a", &[]));
    g.set(&kind(), object("b", &["a"]));
    g.set(&kind(), object("c", &["b"]));
    let decision = decide(&g, &object("b", &["a"]), &[("a".into(), OwnerState::Waiting)]);
    assert_eq!(decision, Decision::Delete { foreground: true });
}

#[test]
fn a_dependent_that_stops_blocking_lets_its_owner_go() {
    let mut g = Graph::default();
    g.set(&kind(), object("a", &[]));
    g.set(&kind(), object("b", &["a"]));
    g.set(&kind(), deleting(object("a", &[]), FOREGROUND));
    let mut freed = object("b", &["a"]);
    freed.owner_references[0].block_owner_deletion = Some(false);
    assert!(g.set(&kind(), freed).tasks.contains(&delete("a")));
}

#[test]
fn orphaning_is_asked_for_once() {
    let mut g = Graph::default();
    g.set(&kind(), object("a", &[]));
    assert_eq!(g.set(&kind(), deleting(object("a", &[]), ORPHAN)).tasks, [Task::Orphan("a".into())]);
    assert!(g.set(&kind(), deleting(object("a", &[]), ORPHAN)).tasks.is_empty());
}

#[test]
fn an_object_with_one_living_owner_only_loses_the_others() {
    let g = Graph::default();
    let owners = [
        ("a".to_owned(), OwnerState::Present),
        ("b".to_owned(), OwnerState::Dangling),
        ("c".to_owned(), OwnerState::Waiting),
    ];
    assert_eq!(
        decide(&g, &object("x", &["a", "b", "c"]), &owners),
        Decision::RemoveOwners(vec!["b".into(), "c".into()])
    );
    assert_eq!(decide(&g, &object("x", &["a"]), &owners[..1]), Decision::Keep);
    assert_eq!(decide(&g, &deleting(object("x", &["b"]), ""), &owners[1..2]), Decision::Keep, "it goes already");
    assert_eq!(decide(&g, &object("x", &[]), &[]), Decision::Keep);
}

#[test]
fn every_coordinate_of_a_reference_counts() {
    let there = |namespace: &str| PartialObjectMetadata { namespace: namespace.into(), ..object("a", &[]) };
    type Wrong = fn(&mut OwnerReference);
    let wrongs: [Wrong; 4] = [
        |o| o.name = "b".into(),
        |o| o.kind = "Other".into(),
        |o| o.api_version = "v2".into(),
        |o| o.api_version = "g/v1".into(),
    ];
    for wrong in wrongs {
        let mut reference = owner("a");
        wrong(&mut reference);
        let dependent = PartialObjectMetadata {
            namespace: "n".into(),
            owner_references: vec![reference.clone()],
            ..object("d", &[])
        };
        let mut g = Graph::default();
        g.set(&kind(), there("n"));
        let change = g.set(&kind(), dependent.clone());
        assert_eq!((change.tasks, change.misplaced.len()), (vec![delete("d")], 0), "the owner first: {reference:?}");
        let mut g = Graph::default();
        g.set(&kind(), dependent);
        let change = g.set(&kind(), there("n"));
        assert_eq!((change.tasks, change.misplaced.len()), (vec![delete("d")], 0), "the owner last: {reference:?}");
        assert_eq!(g.remove("a"), [delete("d")]);
        assert!(!g.is_absent(&reference, "n"), "what was seen to go is not what is named");
        assert!(g.is_absent(&owner("a"), "n") && !g.is_absent(&owner("a"), "m"));
    }
}

#[test]
fn an_owner_in_another_namespace_is_told_of_once() {
    let at =
        |namespace: &str, meta: PartialObjectMetadata| PartialObjectMetadata { namespace: namespace.into(), ..meta };
    for owner_first in [true, false] {
        for namespace in ["m", ""] {
            let mut g = Graph::default();
            let (a, b) = (at("n", object("a", &[])), at(namespace, object("b", &["a"])));
            let (first, second) = if owner_first { (a, b.clone()) } else { (b.clone(), a) };
            assert!(g.set(&kind(), first).misplaced.is_empty());
            let told = g.set(&kind(), second);
            assert_eq!(told.tasks, [delete("b")]);
            let told: Vec<_> = told.misplaced.into_iter().map(|(n, o)| (n.meta.uid.clone(), o.uid)).collect();
            assert_eq!(told, [("b".to_owned(), "a".to_owned())]);
            assert!(g.set(&kind(), b).misplaced.is_empty(), "once");
            g.set(&kind(), at("n", deleting(object("a", &[]), FOREGROUND)));
            let decision = decide(&g, &at("n", deleting(object("a", &[]), FOREGROUND)), &[]);
            assert_eq!(decision, Decision::RemoveFinalizer, "it is not held from another namespace");
        }
    }
}

#[test]
fn a_circle_of_owners_that_wait_for_each_other_is_opened() {
    let mut g = Graph::default();
    let ring = [("a", "c"), ("b", "a"), ("c", "b")];
    for (uid, owner) in &ring {
        g.set(&kind(), object(uid, &[owner]));
    }
    let waiting = |uid, owner| deleting(object(uid, &[owner]), FOREGROUND);
    g.set(&kind(), waiting("a", "c"));
    assert_eq!(decide(&g, &waiting("a", "c"), &[]), Decision::Await(vec!["b".into()]), "nothing is closed yet");
    let decision = decide(&g, &object("b", &["a"]), &[("a".into(), OwnerState::Waiting)]);
    assert_eq!(decision, Decision::Delete { foreground: true });
    g.set(&kind(), waiting("b", "a"));
    assert_eq!(g.set(&kind(), waiting("c", "b")).tasks, [delete("c"), delete("a")]);
    assert_eq!(decide(&g, &waiting("c", "b"), &[]), Decision::Unblock);
    let mut open = waiting("c", "b");
    open.owner_references[0].block_owner_deletion = Some(false);
    assert!(g.set(&kind(), open.clone()).tasks.contains(&delete("b")));
    assert_eq!(decide(&g, &waiting("b", "a"), &[]), Decision::RemoveFinalizer);
    assert_eq!(decide(&g, &waiting("a", "c"), &[]), Decision::Await(Vec::new()));
    assert!(g.remove("b").contains(&delete("a")));
    assert_eq!(decide(&g, &waiting("a", "c"), &[]), Decision::RemoveFinalizer);
    assert!(g.remove("a").contains(&delete("c")));
    assert_eq!(decide(&g, &open, &[]), Decision::RemoveFinalizer);
}

#[test]
fn a_kind_that_is_no_longer_served_takes_nothing_with_it() {
    let mut g = Graph::default();
    let other = Arc::new(Resource { kind: "Other".into(), ..(*kind()).clone() });
    g.set(&kind(), object("a", &[]));
    g.set(&other, object("b", &["a"]));
    g.forget(&kind());
    assert!(g.get("a").is_none() && g.get("b").is_some() && !g.is_absent(&owner("a"), ""));
}
