//! Server-side apply: `[kind or schema, step, step…]`. A step is `{"manager", "force", "status", "update", "object"}`.
#![no_main]

use api::{
    Object,
    apply::{ApplyOptions, FieldSet, UpdateOptions, apply, check_ownership, update},
    schema::Schema,
};
use fuzz::{assert_survives_json, mutate, parts, schema_of};
use jiff::Timestamp;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use serde_json::Value;

const WORDS: &str = "manager force update status object a b kubectl metadata labels annotations finalizers name namespace spec \
    template containers env value image ports containerPort protocol TCP UDP volumes data v1/ConfigMap \
    apps/v1/Deployment v1/Pod v1/Service apiVersion kind replicas selector matchLabels ownerReferences uid \
    managedFields fieldsV1 f:metadata f:spec f:data . k:{\"name\":\"c\"} v:\"a\" c 1 properties items type array \
    string integer x-kubernetes-list-type map set atomic key x-kubernetes-list-map-keys x-kubernetes-map-type \
    additionalProperties default nullable granular operation Apply x-kubernetes-preserve-unknown-fields \
    kubectl.kubernetes.io/last-applied-configuration subresource fieldsType FieldsV1";
const MOST_STEPS: usize = 6;

fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| { mutate(data, size, max, seed, WORDS) });

fuzz_target!(|data: &[u8]| {
    let Some(parts) = parts(data) else { return };
    let [kind, steps @ ..] = parts.as_slice() else { return };
    let Some(schema) = schema_of(kind) else { return };
    let mut live = None;
    for (second, step) in (0..).zip(steps.iter().take(MOST_STEPS)) {
        let Some(object) = step.get("object").and_then(Value::as_object) else { continue };
        let given = Object(object.clone());
        // The server knows the version of what it writes.
        if given.api_version().is_empty() {
            continue;
        }
        live = step_from(live, given, step, Timestamp::from_second(second).expect("a time"), &schema);
    }
});

/// The object after a step: as it was where the step is refused.
fn step_from(live: Option<Object>, given: Object, step: &Value, now: Timestamp, schema: &Schema) -> Option<Object> {
    let flag = |name: &str| step.get(name) == Some(&Value::Bool(true));
    let manager = step.get("manager").and_then(Value::as_str).unwrap_or_default();
    let version = given.api_version().to_owned();
    let subresource = if flag("status") { "status" } else { "" };
    let later = now + jiff::SignedDuration::from_secs(100);
    if flag("update") {
        let options = UpdateOptions { manager, subresource, api_version: &version, now, ignored: None };
        let mut new = canonical(given, schema)?;
        update(live.as_ref(), &mut new, &options, schema);
        let mut again = new.clone();
        update(Some(&new), &mut again, &UpdateOptions { now: later, ..options }, schema);
        assert_eq!(again, new, "updated to itself");
        return Some(sound(new));
    }
    let options =
        ApplyOptions { manager, force: flag("force"), now, subresource, api_version: &version, ignored: None };
    let Ok(applied) = apply(live.as_ref(), &given, &options, schema) else { return live };
    let Some(applied) = canonical(applied, schema) else { return live };
    // Keys of list elements that are applied as null are stored as nothing or as zero, which validation refuses.
    if applied.list_at(&["metadata", "managedFields"]).iter().any(|entry| entry.to_string().contains(":null")) {
        return live;
    }
    if applied.list_at(&["metadata", "managedFields"]).is_empty() {
        return Some(applied); // An object that nobody owns is given to `before-first-apply` by the next apply, as upstream does it.
    }
    let again = apply(Some(&applied), &given, &ApplyOptions { now: later, ..options }, schema).expect("applies again");
    let again = canonical(again, schema).expect("as before");
    assert_eq!(without_times(again), without_times(applied.clone()), "applied again");
    Some(sound(applied))
}

/// Without the times of its owners: the server puts them back where nothing else changes.
fn without_times(mut object: Object) -> Object {
    if let Value::Array(entries) = object.entry(&["metadata", "managedFields"]) {
        entries.iter_mut().filter_map(Value::as_object_mut).for_each(|entry| drop(entry.remove("time")));
    }
    object
}

/// As the server stores it: in the form of Go's types.
fn canonical(object: Object, schema: &Schema) -> Option<Object> {
    let mut value = object.into_value();
    schema.convert_check(&mut value).ok()?;
    schema.leave_out_empty(&mut value);
    schema.default(&mut value);
    Object::from_value(value)
}

/// Asserts that an object and its ownership can be read.
fn sound(object: Object) -> Object {
    check_ownership(&object).expect("ownership can be read");
    for entry in object.list_at(&["metadata", "managedFields"]) {
        let fields = FieldSet::parse(&entry["fieldsV1"]).expect("fields");
        assert_eq!(FieldSet::parse(&fields.clone().into_value()).as_ref(), Ok(&fields));
    }
    assert_survives_json(&object.clone().into_value());
    object
}
