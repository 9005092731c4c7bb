use super::{
    set::FieldSet,
    tests::{Scene, pod},
    types::Type,
    *,
};
use proptest::prelude::*;
use serde_json::json;

/// Pods of few names and values, so that they often meet.
fn pods() -> impl Strategy<Value = Value> {
    let env = prop::collection::btree_map("[ab]", "[12]", 0..3);
    let ports = prop::collection::btree_set(80..82u16, 0..3);
    let container = (env, ports, prop::option::of("[xy]"), prop::collection::vec("[pq]", 0..3)).prop_map(
        |(env, ports, image, args)| {
            let mut container = json!({});
            if !env.is_empty() {
                container["env"] = env.into_iter().map(|(k, v)| json!({"name": k, "value": v})).collect();
            }
            if !ports.is_empty() {
                container["ports"] = ports.into_iter().map(|p| json!({ "containerPort": p })).collect();
            }
            if let Some(image) = image {
                container["image"] = image.into();
            }
            if !args.is_empty() {
                container["args"] = args.into();
            }
            container
        },
    );
    let labels = prop::collection::btree_map("[lm]", "[12]", 0..3);
    (prop::collection::btree_map("[ab]", container, 0..3), labels, prop::collection::btree_set("[fg]", 0..3)).prop_map(
        |(containers, labels, finalizers)| {
            let list = containers.into_iter().map(|(name, mut c)| {
                c["name"] = name.into();
                c
            });
            let list: Vec<Value> = list.collect();
            let none = list.is_empty();
            let mut pod = pod(list.into());
            if none {
                // An empty list is something to Go, and yet has no field to own when it is applied.
                pod["spec"].as_object_mut().expect("a spec").remove("containers");
            }
            if !labels.is_empty() {
                pod["metadata"]["labels"] = json!(labels);
            }
            if !finalizers.is_empty() {
                pod["metadata"]["finalizers"] = json!(finalizers);
            }
            pod
        },
    )
}

/// The fields of all entries, and those of the object with all its inner nodes.
fn assert_owned_exist(scene: &Scene) {
    let object = scene.object();
    let root = Type::of(&scene.schema);
    let there = merge::with_structs(&walk::fields(&object.0, root), root);
    let all = |set: &FieldSet| set.elements().into_iter().collect::<Vec<_>>();
    let mut there: Vec<Vec<String>> = all(&there);
    // An empty list that Go always writes is owned by who wrote it, although it has no fields.
    there.extend(all(&walk::diff(&Map::new(), &object.0, root).changed));
    for (owner, fields) in scene.owners().as_object().expect("owners") {
        for path in all(&FieldSet::parse(fields).expect("FieldsV1")) {
            let exists = there.iter().any(|other| other.starts_with(&path));
            assert!(exists, "{owner} owns {path:?}, which is not in {}", Value::Object(object.0.clone()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn applying_twice_is_applying_once(steps in prop::collection::vec((0..3u8, pods()), 1..6)) {
        let mut scene = Scene::new("v1", "Pod");
        for (who, config) in steps {
            let manager = ["a", "b", "u"][usize::from(who)];
            if who == 2 {
                scene.update(manager, config);
            } else {
                scene.apply_with(manager, true, "", config.clone()).expect("forced");
                let once = scene.live.clone();
                scene.apply(manager, config.clone()).expect("no conflict with oneself");
                prop_assert_eq!(&scene.live, &once);
                // All that was applied is in the object.
                let root = Type::of(&scene.schema);
                let merged = merge::merge(&scene.object().0, config.as_object().expect("an object"), root);
                prop_assert!(walk::diff(&scene.object().0, &merged, root).is_empty());
            }
            assert_owned_exist(&scene);
        }
    }

    #[test]
    fn a_difference_is_empty_exactly_for_equal_objects(a in pods(), b in pods()) {
        let scene = Scene::new("v1", "Pod");
        let root = Type::of(&scene.schema);
        let (a, b) = (a.as_object().expect("an object"), b.as_object().expect("an object"));
        prop_assert!(walk::diff(a, a, root).is_empty());
        prop_assert_eq!(walk::diff(a, b, root).is_empty(), a == b);
    }

    #[test]
    fn sets_obey_their_algebra(a in pods(), b in pods()) {
        let scene = Scene::new("v1", "Pod");
        let root = Type::of(&scene.schema);
        let (a, b) = (walk::fields(a.as_object().expect("an object"), root), walk::fields(b.as_object().expect("an object"), root));
        prop_assert_eq!(FieldSet::parse(&a.clone().into_value()), Ok(a.clone()));
        prop_assert_eq!(a.union(&b), b.union(&a));
        prop_assert_eq!(a.difference(&b).union(&a.intersection(&b)), a.clone());
        prop_assert!(a.difference(&b).intersection(&b).is_empty());
        prop_assert!(a.without(&a).is_empty());
    }
}
