//! `metadata.managedFields`: its entries, their managers, order and limit.

use super::set::FieldSet;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Most entries of operation `Update`; beyond that the oldest are joined.
const MAX_UPDATE_MANAGERS: usize = 10;
/// The manager of joined entries.
const ANCIENT: &str = "ancient-changes";

/// A manager: the identity of an entry. The version of an applier is not part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manager {
    pub(super) name: String,
    pub(super) applies: bool,
    pub(super) api_version: String,
    pub(super) subresource: String,
}

impl Manager {
    pub(super) fn new(name: &str, applies: bool, api_version: &str, subresource: &str) -> Self {
        let name = if name.is_empty() { "unknown" } else { name };
        Self { name: name.into(), applies, api_version: api_version.into(), subresource: subresource.into() }
    }

    fn is(&self, other: &Self) -> bool {
        self.name == other.name
            && self.applies == other.applies
            && self.subresource == other.subresource
            && (self.applies || self.api_version == other.api_version)
    }

    /// The manager as conflicts name it.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if !self.applies {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }

    /// Orders managers as upstream's identifiers do.
    pub(super) fn order(&self) -> (&str, bool, &str, &str) {
        let version = if self.applies { "" } else { self.api_version.as_str() };
        (&self.name, !self.applies, version, &self.subresource)
    }
}

/// One entry.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) manager: Manager,
    /// RFC 3339 in seconds, UTC, so that text order is time order. Empty if unknown.
    time: String,
    pub(super) fields: FieldSet,
    /// The entry as it was parsed, so that an unchanged entry keeps its bytes; dropped with the first change.
    raw: Option<Value>,
}

impl Entry {
    /// Appliers first, then by time, then by name.
    fn order(&self) -> (bool, &str, &str, &str, &str) {
        let manager = &self.manager;
        (!manager.applies, &self.time, &manager.name, &manager.api_version, &manager.subresource)
    }

    /// Removes fields.
    pub(super) fn remove_fields(&mut self, fields: &FieldSet) {
        if self.fields.subtract(fields) {
            self.raw = None;
        }
    }

    /// Replaces the fields, if they differ.
    fn set_fields(&mut self, fields: FieldSet) {
        if self.fields != fields {
            self.fields = fields;
            self.raw = None;
        }
    }

    fn into_value(self) -> Value {
        if let Some(raw) = self.raw {
            return raw;
        }
        let mut entry = Map::new();
        entry.insert("manager".into(), self.manager.name.into());
        entry.insert("operation".into(), if self.manager.applies { "Apply" } else { "Update" }.into());
        entry.insert("apiVersion".into(), self.manager.api_version.into());
        if !self.time.is_empty() {
            entry.insert("time".into(), self.time.into());
        }
        entry.insert("fieldsType".into(), "FieldsV1".into());
        entry.insert("fieldsV1".into(), self.fields.into_value());
        if !self.manager.subresource.is_empty() {
            entry.insert("subresource".into(), self.manager.subresource.into());
        }
        Value::Object(entry)
    }
}

/// All entries of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Managed(pub(super) Vec<Entry>);

impl Managed {
    /// Parses `managedFields`.
    pub(super) fn parse(list: &Value) -> Result<Self, String> {
        let list = match list {
            Value::Null => return Ok(Self::default()),
            list => list.as_array().ok_or("managedFields is not a list")?,
        };
        let mut managed = Self::default();
        for (i, raw) in list.iter().enumerate() {
            let text = |name: &str| raw.get(name).and_then(Value::as_str).unwrap_or_default();
            let applies = match text("operation") {
                "Apply" => true,
                "Update" => false,
                _ => return Err("operation must be `Apply` or `Update`".into()),
            };
            if text("apiVersion").is_empty() {
                return Err("apiVersion must not be empty".into());
            }
            match text("fieldsType") {
                "FieldsV1" => {}
                "" => return Err(format!("missing fieldsType in managed fields entry {i}")),
                other => return Err(format!("invalid fieldsType {other:?} in managed fields entry {i}")),
            }
            let fields = match raw.get("fieldsV1") {
                None | Some(Value::Null) => FieldSet::new(),
                Some(fields) => FieldSet::parse(fields).map_err(|e| format!("error decoding set: {e}"))?,
            };
            let manager = Manager {
                name: text("manager").into(),
                applies,
                api_version: text("apiVersion").into(),
                subresource: text("subresource").into(),
            };
            managed.0.push(Entry { manager, time: text("time").into(), fields, raw: Some(raw.clone()) });
        }
        // The last of equal entries counts, as in a map.
        let mut seen = HashSet::new();
        let last: Vec<bool> = managed.0.iter().rev().map(|entry| seen.insert(entry.manager.order())).collect();
        let mut last = last.into_iter().rev();
        managed.0.retain(|_| last.next().unwrap_or(true));
        Ok(managed)
    }

    /// As `managedFields`; `None` when there are no entries.
    pub(super) fn into_value(mut self) -> Option<Value> {
        if self.0.is_empty() {
            return None;
        }
        self.0.sort_by(|a, b| a.order().cmp(&b.order()));
        Some(self.0.into_iter().map(Entry::into_value).collect())
    }

    pub(super) fn get(&self, manager: &Manager) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.manager.is(manager))
    }

    /// Sets the fields of a manager; an empty set removes its entry. `now` is the new time, if it changes.
    pub(super) fn put(&mut self, manager: &Manager, fields: FieldSet, now: Option<&str>) {
        if fields.is_empty() {
            self.0.retain(|entry| !entry.manager.is(manager));
            return;
        }
        let at = match self.0.iter().position(|entry| entry.manager.is(manager)) {
            Some(at) => at,
            None => {
                let fields = FieldSet::new();
                self.0.push(Entry { manager: manager.clone(), time: String::new(), fields, raw: None });
                self.0.len() - 1
            }
        };
        let entry = &mut self.0[at];
        entry.set_fields(fields);
        if entry.manager != *manager {
            entry.manager = manager.clone();
            entry.raw = None;
        }
        if let Some(now) = now.filter(|now| entry.time != *now) {
            entry.time = now.to_owned();
            entry.raw = None;
        }
    }

    /// Removes entries without fields.
    pub(super) fn drop_empty(&mut self) {
        self.0.retain(|entry| !entry.fields.is_empty());
    }

    /// Joins the oldest updaters, per version, until at most ten remain.
    pub(super) fn cap_updaters(&mut self) {
        let mut updaters: Vec<(String, Manager)> =
            self.0.iter().filter(|e| !e.manager.applies).map(|e| (e.time.clone(), e.manager.clone())).collect();
        let mut count = updaters.len();
        if count <= MAX_UPDATE_MANAGERS {
            return;
        }
        updaters.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.order().cmp(&b.1.order())));
        // The joined managers by version. A single manager of a version is not joined.
        let mut firsts: HashMap<String, Manager> = HashMap::new();
        let mut joined: BTreeMap<String, (Vec<Manager>, String)> = BTreeMap::new();
        for (time, manager) in updaters {
            if count <= MAX_UPDATE_MANAGERS {
                break;
            }
            let version = manager.api_version.clone();
            let Some(first) = firsts.get(&version) else {
                firsts.insert(version, manager);
                continue;
            };
            let (members, latest) = joined.entry(version).or_insert_with(|| (vec![first.clone()], String::new()));
            members.push(manager);
            *latest = time;
            count -= 1;
        }
        for (version, (members, latest)) in joined {
            let bucket = Manager::new(ANCIENT, false, &version, "");
            let gone: HashSet<_> = members.iter().chain([&bucket]).map(Manager::order).collect();
            let (joined, kept) =
                std::mem::take(&mut self.0).into_iter().partition(|entry| gone.contains(&entry.manager.order()));
            self.0 = kept;
            let fields = FieldSet::union_all(Vec::into_iter(joined).map(|entry: Entry| entry.fields));
            self.put(&bucket, fields, Some(&latest));
        }
    }
}

/// Whether a request resets managedFields: an empty list, or a list of one empty entry.
pub(super) fn is_reset(list: &Value) -> bool {
    match list.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([only]) => only.as_object().is_some_and(Map::is_empty),
        _ => false,
    }
}
