//! Custom resources: what a CustomResourceDefinition that is in force makes the server serve. Follows upstream's
//! `apiextensions-apiserver/pkg/registry/customresource`.

mod columns;
mod conversion;
mod form;
mod paths;

use self::{columns::Columns, conversion::Reviews, form::Form, paths::Scaled};
use crate::apiextensions::{customresourcedefinition::is_true, rules::Rules};
use api::{
    Cause, FieldPath, Object,
    jsonpath::JsonPath,
    names,
    schema::validate::{Validator, blocks_rules},
    version,
};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{
    Column, Context, Definitions, Resource, Strategy, TableConvertor, Verb,
    resource::OwnSchema,
    strategy::{Recheck, Scale, Selectable},
    webhook::Webhooks,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

/// Makes resources of CustomResourceDefinitions.
pub(crate) struct CustomResources(pub(crate) Webhooks);

impl Definitions for CustomResources {
    fn source(&self) -> (&'static str, &'static str) {
        ("apiextensions.k8s.io", "customresourcedefinitions")
    }

    fn resources(&self, definition: &Object) -> Vec<Resource> {
        if !is_true(definition, "Established") {
            return Vec::new();
        }
        let mut versions: Vec<&Value> = definition.list_at(&["spec", "versions"]).iter().collect();
        versions.sort_by(|a, b| version::compare(text(b, "name"), text(a, "name")));
        // What is being deleted can be listed, though no version may be served.
        let terminating = is_true(definition, "Terminating");
        let served =
            versions.iter().filter(|version| version["served"] == true || (terminating && version["storage"] == true));
        let schemas: Schemas =
            versions.iter().map(|version| (text(version, "name").to_owned(), schema_of(version))).collect();
        let schemas = Arc::new(schemas);
        served.map(|version| resource(&self.0, definition, version, (&versions, &schemas))).collect()
    }

    fn decisive(&self) -> &'static [&'static [&'static str]] {
        &[&["spec"], &["status", "acceptedNames"]]
    }
}

/// The schemas of a definition by version.
type Schemas = BTreeMap<String, Arc<OwnSchema>>;

fn schema_of(version: &Value) -> Arc<OwnSchema> {
    let schema = version.pointer("/schema/openAPIV3Schema").cloned();
    let schema = schema.unwrap_or_else(|| json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
    Arc::new(OwnSchema::new(&schema))
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn texts<'a>(object: &'a Object, path: &[&str]) -> Vec<&'a str> {
    object.list_at(path).iter().filter_map(Value::as_str).collect()
}

/// The verbs of a resource whose definition is being deleted: finalizers must come off.
const OF_TERMINATING: &[Verb] =
    &[Verb::Delete, Verb::DeleteCollection, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch];

/// The resource of one version.
fn resource(
    webhooks: &Webhooks,
    definition: &Object,
    version: &Value,
    (versions, schemas): (&[&Value], &Arc<Schemas>),
) -> Resource {
    let name = |field: &str| definition.str_at(&["status", "acceptedNames", field]).unwrap_or_default();
    let (group, plural) = (definition.str_at(&["spec", "group"]).unwrap_or_default(), name("plural"));
    let schema = schemas.get(text(version, "name")).cloned().unwrap_or_else(|| schema_of(version));
    let subresource = |name: &str| version.get("subresources").and_then(|all| all.get(name)).filter(|s| !s.is_null());
    let fields = version.get("selectableFields").and_then(Value::as_array).into_iter().flatten();
    let fields: Vec<&str> = fields.map(|field| text(field, "jsonPath")).collect();
    let scale = subresource("scale").map(Scaled::new);
    let has_status = subresource("status").is_some();
    let has_scale = scale.is_some();
    let strategy = CustomResource {
        columns: Columns::new(version),
        fields: fields.iter().map(|path| path.trim_start_matches('.').to_owned()).collect(),
        paths: fields.iter().map(|path| JsonPath::parse(path).ok()).collect(),
        scale,
        schema: schema.clone(),
        validator: OnceLock::new(),
        rules: OnceLock::new(),
    };
    let mut made = Resource::new(group, text(version, "name"), plural, name("kind"), strategy)
        .called(name("singular"), name("listKind"))
        .short(&texts(definition, &["status", "acceptedNames", "shortNames"]))
        .with_own_schema(schema.clone())
        .with_generation()
        .conditional_update_only();
    made.upstream_directory = format!("{group}/{plural}").into();
    for category in texts(definition, &["status", "acceptedNames", "categories"]) {
        made = made.category(category);
    }
    if definition.str_at(&["spec", "scope"]) == Some("Cluster") {
        made = made.cluster_scoped();
    }
    if is_true(definition, "Terminating") {
        made = made.verbs(OF_TERMINATING);
    }
    if has_status {
        made = made.with_status();
    }
    if has_scale {
        made = made.with_scale();
    }
    if let Some(warning) = deprecation(definition, version, versions) {
        made = made.deprecated(warning);
    }
    let stored = versions.iter().find(|version| version["storage"] == true).map_or("", |stored| text(stored, "name"));
    let is_storage = stored == text(version, "name");
    made.is_storage_version = is_storage;
    made.storage_version = format!("{group}/{stored}");
    let several = versions.len() > 1 || definition.generation() > 1;
    if is_storage && !several {
        // Everything stored was written by this schema.
        return made;
    }
    let form = format!("{}@{}/{}", made.form, definition.uid(), definition.generation());
    let reviews = Reviews::new(definition, webhooks.clone());
    let form_of = Form::new(schemas.clone(), made.gvr.api_version(), made.storage_version.clone(), reviews);
    made.read_by(form, form_of)
}

/// The warning of a deprecated version: the definition's own, or upstream's with the version to use instead.
fn deprecation(definition: &Object, version: &Value, versions: &[&Value]) -> Option<String> {
    if version["deprecated"] != true {
        return None;
    }
    if let Some(own) = version.get("deprecationWarning").and_then(Value::as_str) {
        return Some(own.to_owned());
    }
    let group = definition.str_at(&["spec", "group"]).unwrap_or_default();
    let kind = definition.str_at(&["spec", "names", "kind"]).unwrap_or_default();
    let this = text(version, "name");
    let better = versions.iter().find(|other| {
        other["served"] == true && other["deprecated"] != true && version::compare(text(other, "name"), this).is_gt()
    });
    let instead = better.map(|other| format!("; use {group}/{} {kind}", text(other, "name"))).unwrap_or_default();
    Some(format!("{group}/{this} {kind} is deprecated{instead}"))
}

/// The life cycle of the objects of one version.
struct CustomResource {
    columns: Columns,
    /// Names of the selectable fields, and where they are.
    fields: Vec<String>,
    paths: Vec<Option<JsonPath>>,
    scale: Option<Scaled>,
    schema: Arc<OwnSchema>,
    /// Compiled for the first write.
    validator: OnceLock<Option<Validator>>,
    rules: OnceLock<Option<Rules>>,
}

impl CustomResource {
    fn validator(&self) -> Option<&Validator> {
        let compile = || {
            // The definition was refused if its schema cannot be compiled.
            let made = Validator::new(&self.schema.document());
            made.inspect_err(|error| tracing::warn!(error, "a schema cannot be compiled")).ok()
        };
        self.validator.get_or_init(compile).as_ref()
    }

    /// Adds what the rules say, or that they were not asked because of what is wrong already.
    fn ask_rules(&self, cx: &Context, object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
        let rules = self.rules.get_or_init(|| Rules::new(&self.schema.document()));
        // A missing name is told by the checks of all metadata.
        let unnamed = object.pointer("/metadata/name").is_none_or(|name| name == "");
        let nameless = Cause::required(&FieldPath::default(), "");
        let blocked = if unnamed { blocks_rules(&[nameless]) } else { blocks_rules(causes) };
        match (rules, blocked) {
            (Some(_), Some(blocked)) => causes.push(blocked),
            (Some(rules), None) => causes.extend(rules.validate(object, old, &cx.warnings, &cx.deadline)),
            (None, _) => {}
        }
    }
}

impl Strategy for CustomResource {
    fn prepare_status(&self, _cx: &Context, object: &mut Object, old: &Object) {
        // Only the status can be set, and who manages it.
        let managed = object.remove(&["metadata", "managedFields"]);
        let status = object.remove(&["status"]);
        let version = object.resource_version().to_owned();
        *object = old.clone();
        object.remove(&["status"]);
        object.remove(&["metadata", "managedFields"]);
        object.set(&["metadata", "resourceVersion"], version);
        if let Some(managed) = managed {
            object.set(&["metadata", "managedFields"], managed);
        }
        if let Some(status) = status {
            object.set(&["status"], status);
        }
    }

    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Change
    }

    fn allows_any_finalizer(&self) -> bool {
        true
    }

    fn validate(&self, cx: &Context, object: &Object) -> Vec<Cause> {
        if cx.operation != server::Operation::Create {
            // A change is judged with the old object: what was wrong before may stay.
            return Vec::new();
        }
        let (value, at) = (Value::Object(object.0.clone()), FieldPath::default());
        let (validator, mut causes) = (self.validator(), Vec::new());
        causes.extend(validator.map(|v| v.validate(&at, &value)).unwrap_or_default());
        if let Some(scale) = &self.scale {
            scale.validate(object, true, &mut causes);
        }
        causes.extend(validator.map(|v| v.validate_embedded(&at, &value)).unwrap_or_default());
        causes.extend(validator.map(|v| v.validate_lists(&at, &value)).unwrap_or_default());
        self.ask_rules(cx, &value, None, &mut causes);
        causes
    }

    fn validate_update(&self, cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let (new, before) = (Value::Object(object.0.clone()), Value::Object(old.0.clone()));
        let (validator, at, mut causes) = (self.validator(), FieldPath::default(), Vec::new());
        causes.extend(validator.map(|v| v.validate_update(&at, &new, &before)).unwrap_or_default());
        if let Some(scale) = &self.scale {
            scale.validate(object, true, &mut causes);
        }
        causes.extend(validator.map(|v| v.validate_embedded(&at, &new)).unwrap_or_default());
        causes.extend(validator.map(|v| v.validate_lists_update(&at, &new, &before)).unwrap_or_default());
        self.ask_rules(cx, &new, Some(&before), &mut causes);
        causes
    }

    fn validate_status(&self, cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let (validator, mut causes) = (self.validator(), Vec::new());
        let (new, before) = (object.at(&["status"]), old.at(&["status"]).unwrap_or(&Value::Null));
        if let (Some(status), Some(new)) = (validator.and_then(|v| v.field("status")), new) {
            causes.extend(status.validate_update(&FieldPath::new("status"), new, before));
        }
        if let Some(scale) = &self.scale {
            scale.validate(object, false, &mut causes);
        }
        let (new, before) = (Value::Object(object.0.clone()), Value::Object(old.0.clone()));
        let lists = validator.map(|v| v.validate_lists_update(&FieldPath::default(), &new, &before));
        causes.extend(lists.unwrap_or_default());
        self.ask_rules(cx, &new, Some(&before), &mut causes);
        causes
    }

    fn warnings(&self, _cx: &Context, object: &Object, old: Option<&Object>) -> Vec<String> {
        let before = old.map(Object::finalizers).unwrap_or_default();
        let mut added: Vec<&str> = object.finalizers().into_iter().filter(|name| !before.contains(name)).collect();
        added.sort_unstable();
        added.dedup();
        added.into_iter().flat_map(finalizer_warnings).collect()
    }

    fn selectable(&self) -> Selectable<'_> {
        Selectable::Defined(&self.fields)
    }

    fn field(&self, object: &Object, label: &str) -> String {
        let at = self.fields.iter().position(|field| field == label);
        let Some(path) = at.and_then(|at| self.paths.get(at)?.as_ref()) else { return String::new() };
        let value = Value::Object(object.0.clone());
        match path.find(&value).first() {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        }
    }

    fn scale(&self, object: &Object) -> Scale {
        self.scale.as_ref().map(|scale| scale.of(object)).unwrap_or_default()
    }

    fn replicas_path(&self) -> Vec<&str> {
        self.scale.as_ref().map(Scaled::replicas).unwrap_or_default()
    }

    fn reset_fields(&self, subresource: &str) -> &[&'static [&'static str]] {
        if subresource == "status" { &[&["metadata"], &["spec"]] } else { &[] }
    }
}

/// What upstream warns of in the name of a new finalizer.
fn finalizer_warnings(name: &str) -> Vec<String> {
    let field = "metadata.finalizers";
    let mut out: Vec<String> =
        names::qualified_name(name).iter().map(|problem| format!("{field}: {name:?}: {problem}")).collect();
    if !name.contains('/') && !matches!(name, "orphan" | "foregroundDeletion" | "kubernetes") {
        let how = if name.contains('.') { " including a path (/)" } else { "" };
        out.push(format!(
            "{field}: {name:?}: prefer a domain-qualified finalizer name{how} to avoid accidental conflicts with other finalizer writers"
        ));
    }
    out
}

impl TableConvertor for CustomResource {
    fn columns(&self) -> &[Column] {
        self.columns.columns()
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        self.columns.row(object, now)
    }
}

#[cfg(test)]
mod tests;
