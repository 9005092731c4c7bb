//! Server-side apply and field ownership (<https://kubernetes.io/docs/reference/using-api/server-side-apply/>, KEP-555).
//!
//! [`update`] runs on every create, update and patch: it compares the old with the new object and gives the changed fields to the writer.
//! [`apply`] merges an applied configuration into the live object, removes fields that the applier no longer applies and no other manager
//! owns, and refuses to change fields of others unless forced.
//!
//! Defaults, admission and validation are not here: they come before (the configuration is checked and pruned, not defaulted) or after (the
//! result is defaulted). Entries of another version of the kind are read as entries of this version: built-in kinds have one served version
//! here, or versions with the same field names.

mod managed;
mod merge;
#[cfg(test)]
mod properties_tests;
mod set;
#[cfg(test)]
mod tests;
mod types;
mod walk;

use crate::{Object, Reason, Status, StatusDetails, schema::Schema, show};
use jiff::Timestamp;
use managed::{Managed, Manager};
use serde_json::{Map, Value};
pub use set::{Error, FieldSet};
use std::sync::LazyLock;
use types::Type;
use walk::Diff;

/// The annotation of client-side apply.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Who owns the fields of an object that had no ownership when it was first applied to.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// `metadata.annotations` in total, as upstream bounds them, in bytes.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Fields that nobody owns.
static NEVER_TRACKED: LazyLock<FieldSet> = LazyLock::new(|| {
    FieldSet::from_fields(&[
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "clusterName"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ])
});

/// Who applies, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct ApplyOptions<'a> {
    /// `fieldManager`.
    pub manager: &'a str,
    /// Take fields over from others instead of failing with a conflict.
    pub force: bool,
    /// The time for the applier's entry, should it change.
    pub now: Timestamp,
    /// The subresource that is written (`status`), or empty.
    pub subresource: &'a str,
    /// The version that is written: `apps/v1`.
    pub api_version: &'a str,
    /// Fields that this resource or subresource resets, so that writing them owns nothing (`status` of the main resource).
    pub ignored: Option<&'a FieldSet>,
}

/// Who writes by create, update or patch.
#[derive(Clone, Copy, Debug, Default)]
pub struct UpdateOptions<'a> {
    /// `fieldManager`, or the user agent's name up to the first `/`.
    pub manager: &'a str,
    /// The subresource that is written (`status`), or empty.
    pub subresource: &'a str,
    /// The version that is written: `apps/v1`.
    pub api_version: &'a str,
    /// The time for the writer's entry, should it change.
    pub now: Timestamp,
    /// Fields that this resource or subresource resets, so that writing them owns nothing.
    pub ignored: Option<&'a FieldSet>,
}

/// Sets `metadata.managedFields` of `new` after a create (`live` is absent), update or patch.
///
/// `new` may bring `managedFields` of its own: they replace those of `live` if they can be read and the main resource is written;
/// an empty list or a list of one empty entry clears them. An object without ownership stays so until it is first applied to.
pub fn update(live: Option<&Object>, new: &mut Object, opts: &UpdateOptions<'_>, schema: &Schema) {
    let nothing = Map::new();
    let root = Type::of(schema);
    let sent = new.remove(&["metadata", "managedFields"]).filter(|list| !list.is_null());
    let kept = live.and_then(|live| live.at(&["metadata", "managedFields"])).filter(|list| !list.is_null());
    let difference = walk::diff(live.map_or(&nothing, |live| &live.0), &new.0, root);
    let untouched = sent.is_none() || sent.as_ref() == kept || !opts.subresource.is_empty();
    if difference.is_empty() && untouched && live.is_some() {
        if let Some(kept) = sent.filter(|sent| Some(sent) == kept).or_else(|| kept.cloned()) {
            new.set(&["metadata", "managedFields"], kept);
        }
        return;
    }
    let own = |list: Option<&Value>| list.and_then(|list| Managed::parse(list).ok()).unwrap_or_default();
    let mut managed = match &sent {
        Some(list) if opts.subresource.is_empty() => {
            if managed::is_reset(list) {
                Managed::default()
            } else {
                Managed::parse(list).ok().filter(|managed| !managed.0.is_empty()).unwrap_or_else(|| own(kept))
            }
        }
        _ => own(kept),
    };
    if managed.0.is_empty() && live.is_some_and(|live| !live.uid().is_empty()) {
        return;
    }
    let manager = Manager::new(opts.manager, false, opts.api_version, opts.subresource);
    record_update(&mut managed, difference.without(opts.ignored), &manager, &time(opts.now));
    managed.cap_updaters();
    store(new, managed);
}

/// Checks that `metadata.managedFields` can be read.
///
/// # Errors
/// Why it cannot.
pub fn check_ownership(object: &Object) -> Result<(), String> {
    object.at(&["metadata", "managedFields"]).map_or(Ok(()), |list| Managed::parse(list).map(drop))
}

/// Gives changed fields to the writer and takes them, and removed ones, from everybody else.
fn record_update(managed: &mut Managed, difference: Diff, manager: &Manager, now: &str) {
    take_away(managed, &difference, None);
    let mut own = difference.changed;
    own.subtract(&NEVER_TRACKED);
    if !own.is_empty() {
        if let Some(before) = managed.get(manager) {
            own.add(before.fields.clone());
        }
        managed.put(manager, own, Some(now));
    }
}

/// Takes changed and removed fields from all entries but that of `except`.
fn take_away(managed: &mut Managed, difference: &Diff, except: Option<&Manager>) {
    let except = except.and_then(|manager| managed.get(manager)).map(|entry| entry.manager.clone());
    for entry in &mut managed.0 {
        if except.as_ref() != Some(&entry.manager) {
            entry.remove_fields(&difference.changed);
            entry.remove_fields(&difference.removed);
        }
    }
    managed.drop_empty();
}

fn time(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn store(object: &mut Object, managed: Managed) {
    match managed.into_value() {
        Some(list) => object.set(&["metadata", "managedFields"], list),
        None => {
            object.remove(&["metadata", "managedFields"]);
        }
    }
}

/// A field that somebody else owns with another value.
struct Conflict {
    manager: Manager,
    fields: FieldSet,
}

/// Checks a configuration as it was written.
///
/// # Errors
/// The text of structured-merge-diff: `.spec.replicas: expected numeric (int or float), got string`, several of them below `errors:`.
pub fn check(config: &Map<String, Value>, schema: &Schema) -> Result<(), String> {
    let problems = merge::check(config, Type::of(schema));
    match problems.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => {
            let mut room = show::Budget::default();
            let mut named: Vec<String> = many.iter().take_while(|p| room.takes(p.len())).cloned().collect();
            named.extend(show::omitted(many.len() - named.len()));
            Err(format!("errors:\n  {}", named.join("\n  ")))
        }
    }
}

/// Applies a configuration to the live object, or makes the object where there is none. The result has its `managedFields`; it
/// equals `live` when there was nothing to do.
///
/// # Errors
/// 409 with the owners when others own fields that would change; 400 when the configuration is of another kind or version or has
/// `managedFields`; 500 (as upstream answers) when a list of it has items without their key or with the same one.
pub fn apply(
    live: Option<&Object>,
    config: &Object,
    opts: &ApplyOptions<'_>,
    schema: &Schema,
) -> Result<Object, Status> {
    if config.at(&["metadata", "managedFields"]).is_some_and(|list| !list.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let other_kind = live.is_some_and(|live| !live.kind().is_empty() && live.kind() != config.kind());
    if other_kind || config.api_version() != opts.api_version {
        return Err(Status::bad_request(format!("invalid object type: {}", config.gvk())));
    }
    let root = Type::of(schema);
    if let Err(text) = check(&config.0, schema) {
        let what = format!("{}/{}; {}", config.namespace(), config.name(), config.gvk());
        return Err(Status::new(Reason::Unknown, format!("failed to create typed patch object ({what}): {text}")));
    }
    let base = base(live, config, opts, root)?;
    let outcome = match apply_once(&base, config, opts, root, opts.force) {
        Err(conflicts) => {
            let left = not_last_applied(conflicts, &base.object, opts, root);
            if left.is_empty() { apply_once(&base, config, opts, root, true) } else { Err(left) }
        }
        outcome => outcome,
    };
    let mut object = outcome.map_err(|conflicts| conflict_status(&conflicts))?;
    if opts.manager == "kubectl" {
        follow_last_applied(&mut object, config);
    }
    Ok(object)
}

/// Merges a configuration into an object as [`apply`] does, but owns nothing: what is not in the configuration stays.
///
/// # Errors
/// The configuration is not of the schema, or it has a list or map that is owned as a whole: what it does not mention there would be lost.
pub fn merge_unowned(live: &Object, config: &Object, schema: &Schema) -> Result<Object, String> {
    let root = Type::of(schema);
    check(&config.0, schema).map_err(|text| format!("failed to convert patch object to typed object: {text}"))?;
    let atomics = merge::atomics(&config.0, root);
    if !atomics.is_empty() {
        let named = atomics.join(", ");
        return Err(format!("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {named}"));
    }
    Ok(Object(merge::merge(&live.0, &config.0, root)))
}

/// What an apply starts from.
struct Base {
    /// The live object, or next to nothing, without its `managedFields`.
    object: Object,
    managed: Managed,
    /// Whether the object exists.
    exists: bool,
}

fn base(live: Option<&Object>, config: &Object, opts: &ApplyOptions<'_>, root: Type<'_>) -> Result<Base, Status> {
    let Some(live) = live else {
        let mut object = Object::default();
        for name in ["apiVersion", "kind"] {
            if let Some(value) = config.at(&[name]) {
                object.set(&[name], value.clone());
            }
        }
        return Ok(Base { object, managed: Managed::default(), exists: false });
    };
    let mut object = live.clone();
    let list = object.remove(&["metadata", "managedFields"]).unwrap_or_default();
    let mut managed = Managed::parse(&list)
        .map_err(|e| Status::new(Reason::Unknown, format!("failed to decode managed fields: {e}")))?;
    if managed.0.is_empty() {
        let difference = walk::diff(&Map::new(), &object.0, root).without(opts.ignored);
        let manager = Manager::new(BEFORE_FIRST_APPLY, false, opts.api_version, opts.subresource);
        record_update(&mut managed, difference, &manager, &time(opts.now));
    }
    Ok(Base { object, managed, exists: true })
}

fn apply_once(
    base: &Base,
    config: &Object,
    opts: &ApplyOptions<'_>,
    root: Type<'_>,
    force: bool,
) -> Result<Object, Vec<Conflict>> {
    let manager = Manager::new(opts.manager, true, opts.api_version, opts.subresource);
    let mut managed = base.managed.clone();
    let before = managed.get(&manager).map(|entry| entry.fields.clone());
    let mut applied = walk::fields(&config.0, root);
    if let Some(ignored) = opts.ignored {
        applied = applied.without(ignored);
    }
    let mut merged = merge::merge(&base.object.0, &config.0, root);
    if let Some(before) = before.as_ref().filter(|before| !before.is_empty()) {
        let own = managed.get(&manager).map(|entry| &entry.manager);
        let others = managed.0.iter().filter(|entry| Some(&entry.manager) != own);
        let others = others.map(|entry| entry.fields.clone());
        let owned = FieldSet::union_all(std::iter::once(applied.clone()).chain(others));
        let pruned = prune(merged, before, &owned, root);
        // A map or list that lost its last entry stays, empty, if it is applied empty.
        merged = merge::merge(&pruned, &config.0, root);
    }
    let difference = walk::diff(&base.object.0, &merged, root.as_written()).without(opts.ignored);
    if !force {
        let conflicts = conflicts(&managed, &difference, &manager);
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
    }
    take_away(&mut managed, &difference, Some(&manager));
    let applied = applied.difference(&NEVER_TRACKED);
    let same = base.exists && difference.is_empty() && before.as_ref() == Some(&applied);
    let now = time(opts.now);
    managed.put(&manager, applied, (!same).then_some(&now));
    let mut object = Object(merged);
    store(&mut object, managed);
    Ok(object)
}

/// Takes out what the applier owned before and neither it nor anybody else owns now.
fn prune(merged: Map<String, Value>, before: &FieldSet, owned: &FieldSet, root: Type<'_>) -> Map<String, Value> {
    let before = merge::with_structs(before, root);
    let first = merge::remove_to_null(&merged, &before, root);
    if first == merged {
        return merged;
    }
    let all = merge::with_structs(&walk::fields(&merged, root), root);
    let left = merge::with_structs(&walk::fields(&first, root), root);
    // What is below a removed item but owned by somebody comes back, and so does the item.
    let stays = left.union(&merge::with_structs(owned, root));
    let second = merge::remove_to_null(&merged, &all.difference(&stays), root);
    // What nobody owns comes back unless the applier once owned it.
    let left = merge::with_structs(&walk::fields(&second, root), root);
    merge::remove(&merged, &all.difference(&left).intersection(&before), root)
}

fn conflicts(managed: &Managed, difference: &Diff, manager: &Manager) -> Vec<Conflict> {
    let own = managed.get(manager).map(|entry| &entry.manager);
    let others = managed.0.iter().filter(|entry| Some(&entry.manager) != own);
    let mut conflicts: Vec<Conflict> = others
        .map(|entry| Conflict {
            manager: entry.manager.clone(),
            fields: entry.fields.intersection(&difference.changed),
        })
        .filter(|conflict| !conflict.fields.is_empty())
        .collect();
    // By the text of upstream's identifiers, in which one with a subresource comes before one without.
    let whole = |manager: &Manager| manager.subresource.is_empty();
    conflicts.sort_by(|a, b| {
        let (x, y) = (a.manager.order(), b.manager.order());
        (x.0, x.1, x.2, whole(&a.manager), x.3).cmp(&(y.0, y.1, y.2, whole(&b.manager), y.3))
    });
    conflicts
}

/// The conflicts that stay when `kubectl` changes from client-side to server-side apply: what it applied last by the annotation, and
/// what is still so, it may take over.
fn not_last_applied(conflicts: Vec<Conflict>, live: &Object, opts: &ApplyOptions<'_>, root: Type<'_>) -> Vec<Conflict> {
    if opts.manager != "kubectl" {
        return conflicts;
    }
    let last = live.annotation(LAST_APPLIED).and_then(|text| serde_json::from_str::<Object>(text).ok());
    let Some(last) = last.filter(|last| last.api_version() == opts.api_version) else { return conflicts };
    let difference = walk::diff(&last.0, &live.0, root);
    let mine = walk::fields(&last.0, root).difference(&difference.changed).difference(&difference.removed);
    let rest = conflicts.into_iter().map(|c| Conflict { fields: c.fields.difference(&mine), ..c });
    rest.filter(|conflict| !conflict.fields.is_empty()).collect()
}

/// Keeps the annotation of client-side apply in step, where there is one, so that an older kubectl can go on with it.
fn follow_last_applied(object: &mut Object, config: &Object) {
    if object.annotation(LAST_APPLIED).is_none_or(str::is_empty) {
        return;
    }
    let mut config = config.clone();
    config.remove(&["metadata", "annotations", LAST_APPLIED]);
    let text = serde_json::to_string(&config).expect("an object is plain JSON") + "\n";
    object.set(&["metadata", "annotations", LAST_APPLIED], text);
    let total: usize = object.annotations().map(|(key, value)| key.len() + value.len()).sum();
    if total > MAX_ANNOTATIONS {
        object.remove(&["metadata", "annotations", LAST_APPLIED]);
    }
}

fn conflict_status(conflicts: &[Conflict]) -> Status {
    let all: Vec<(String, Vec<String>)> = conflicts.iter().map(|c| (c.manager.describe(), c.fields.paths())).collect();
    let count: usize = all.iter().map(|(_, paths)| paths.len()).sum();
    let mut status = Status::new(Reason::Conflict, "");
    status.details = Some(Box::<StatusDetails>::default());
    let mut room = show::Budget::default();
    let (mut lines, mut named) = (Vec::new(), 0);
    for (manager, paths) in &all {
        let fits: Vec<&String> = paths.iter().take_while(|path| room.takes(path.len() + manager.len())).collect();
        if !fits.is_empty() {
            lines.push(format!("conflicts with {manager}:"));
            lines.extend(fits.iter().map(|path| format!("- {path}")));
        }
        for path in &fits {
            status = status.with_cause("FieldManagerConflict", &format!("conflict with {manager}"), path);
        }
        named += fits.len();
    }
    if let Some(more) = show::omitted(count - named) {
        status = status.with_cause("FieldManagerConflict", &more, "...");
        lines.push(more);
    }
    status.message = match all.as_slice() {
        [(manager, paths)] if paths.len() == 1 => {
            format!("Apply failed with 1 conflict: conflict with {manager}: {}", paths[0])
        }
        _ => format!("Apply failed with {count} conflicts: {}", lines.join("\n")),
    };
    status
}
