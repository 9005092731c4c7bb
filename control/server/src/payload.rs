//! What the store keeps with an object's stored bytes. The served bytes are the stored ones with the resourceVersion between two slices:
//! a GET, a list and a watch event copy memory and parse nothing, and no object is held twice. Labels and selectable fields are parsed on
//! first use and then shared by every reader and watcher.

use crate::{Resource, pick};
use api::{Object, Status};
use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;
use std::{cell::Cell, sync::OnceLock};
use store::{Payload, Revision};

/// The payload of every entry.
pub struct Item {
    view: View,
    /// The same object in the other versions of its resource.
    converted: OnceLock<Box<Converted>>,
}

/// An object in another form than the stored one; a linked list over the forms.
struct Converted {
    /// See [`Resource::form`].
    form: String,
    view: View,
    next: OnceLock<Box<Converted>>,
}

impl Payload for Item {
    fn publish(_key: &str, revision: Revision, stored: Bytes) -> Self {
        Self { view: View::new(stored, revision), converted: OnceLock::new() }
    }
}

impl Item {
    /// The object as `resource` serves it. Where that is not the stored form, `convert` must have been called before.
    pub fn view(&self, resource: &Resource) -> &View {
        if resource.convertor.is_none() {
            return &self.view;
        }
        let found = self.converted(&resource.form);
        debug_assert!(found.is_some(), "{resource:?} is read before it is converted");
        found.unwrap_or(&self.view)
    }

    fn converted(&self, form: &str) -> Option<&View> {
        let mut next = self.converted.get();
        while let Some(one) = next {
            if one.form == form {
                return Some(&one.view);
            }
            next = one.next.get();
        }
        None
    }

    /// Keeps the object in another form. The first one that is given for a form stays.
    fn keep(&self, form: String, view: View) {
        let mut made = Box::new(Converted { form, view, next: OnceLock::new() });
        let mut end = &self.converted;
        while let Err(back) = end.set(made) {
            let Some(taken) = end.get() else { return };
            if taken.form == back.form {
                return;
            }
            (made, end) = (back, &taken.next);
        }
    }
}

/// Converts entries to the served version where that is not the stored one. Each conversion happens once and is kept with its entry.
///
/// # Errors
/// The conversion failed.
pub(crate) async fn convert<'a>(resource: &Resource, items: impl IntoIterator<Item = &'a Item>) -> Result<(), Status> {
    let Some(convertor) = &resource.convertor else { return Ok(()) };
    let api_version = resource.gvr.api_version();
    let missing: Vec<&Item> = items.into_iter().filter(|item| item.converted(&resource.form).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let stored = missing.iter().map(|item| item.view.object()).collect();
    let served = convertor.from_storage(stored).await?;
    if served.len() != missing.len() {
        return Err(Status::internal(format!("{} objects were converted to {}", missing.len(), served.len())));
    }
    for (item, mut object) in missing.into_iter().zip(served) {
        object.set(&["apiVersion"], api_version.clone());
        object.set(&["kind"], resource.kind.clone());
        let form = stored_form(&object);
        // Most objects of a custom resource are read as they were written: no second copy of them is held.
        let bytes = if form == item.view.stored { item.view.stored.clone() } else { form };
        item.keep(resource.form.clone(), View::new(bytes, item.view.revision));
    }
    Ok(())
}

impl Item {
    /// The object as it is stored.
    pub fn stored(&self) -> &View {
        &self.view
    }

    /// Length of the object as it is stored, with its resourceVersion, bytes.
    pub fn length(&self) -> usize {
        self.view.length()
    }

    /// Whether the stored bytes begin and end like an object that this server wrote. Damage between is found by the checksums of the log.
    pub fn is_intact(&self) -> bool {
        let View { stored, at, .. } = &self.view;
        at.is_some() && stored.starts_with(b"{\"kind\":") && stored.ends_with(b"}")
    }
}

/// Keys and values, sorted.
type Labels = Box<[(Box<str>, Box<str>)]>;

/// One object in one version.
pub struct View {
    stored: Bytes,
    /// Where the fields of `metadata` begin; `None` for bytes that this server did not write.
    at: Option<usize>,
    revision: Revision,
    labels: OnceLock<Labels>,
    fields: OnceLock<Box<[Box<str>]>>,
}

impl View {
    fn new(stored: Bytes, revision: Revision) -> Self {
        let at = metadata_start(&stored);
        Self { stored, at, revision, labels: OnceLock::new(), fields: OnceLock::new() }
    }

    /// A view of an object that is not stored: the result of a dry run, or the last state of a deleted object.
    pub fn detached(object: &Object) -> Self {
        Self::new(stored_form(object), object.resource_version().parse().unwrap_or(0))
    }

    /// Length of the served JSON, bytes.
    pub fn length(&self) -> usize {
        let digits = self.revision.checked_ilog10().map_or(0, |log| log as usize + 1);
        let Some(at) = self.at.filter(|_| self.revision > 0) else { return self.stored.len() };
        let comma = usize::from(self.stored.get(at) != Some(&b'}'));
        self.stored.len() + "\"resourceVersion\":\"\"".len() + digits + comma
    }

    /// Appends the served JSON. `revision` replaces the resourceVersion: a deleted object has that of its deletion.
    pub fn write(&self, out: &mut impl BufMut, revision: Option<Revision>) {
        let (head, tail) = self.stored.split_at(self.at.unwrap_or(self.stored.len()));
        out.put_slice(head);
        if self.at.is_some() {
            self.put_revision(out, revision, tail.first() == Some(&b'}'));
        }
        out.put_slice(tail);
    }

    fn put_revision(&self, out: &mut impl BufMut, revision: Option<Revision>, last: bool) {
        let revision = revision.unwrap_or(self.revision);
        if revision == 0 {
            return;
        }
        out.put_slice(b"\"resourceVersion\":\"");
        out.put_slice(revision.to_string().as_bytes());
        out.put_slice(if last { b"\"" } else { b"\"," });
    }

    /// The served JSON.
    pub fn bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.length());
        self.write(&mut out, None);
        out.freeze()
    }

    /// Parses the object, at each call: parsed objects would take several times the memory of their bytes. Of bytes that cannot be read it
    /// returns type and metadata, or less: enough to show and to delete the object. See [`View::read`].
    pub fn object(&self) -> Object {
        self.read().unwrap_or_else(|error| {
            tracing::warn!(error, revision = self.revision, "a stored object cannot be read");
            self.with_revision(self.salvage())
        })
    }

    /// The whole object, for a caller that writes it back.
    ///
    /// # Errors
    /// The stored bytes cannot be read: another program wrote them, or the disk changed them.
    pub fn read(&self) -> Result<Object, String> {
        serde_json::from_slice(&self.stored).map(|object| self.with_revision(object)).map_err(|e| e.to_string())
    }

    fn with_revision(&self, mut object: Object) -> Object {
        if self.revision > 0 {
            object.set(&["metadata", "resourceVersion"], self.revision.to_string());
        }
        object
    }

    /// Type and metadata, as far as they can be read.
    fn salvage(&self) -> Object {
        #[derive(serde::Deserialize, Default)]
        #[serde(rename_all = "camelCase", default)]
        struct Type {
            kind: Value,
            api_version: Value,
        }
        let named: Type = serde_json::from_slice(&self.stored).unwrap_or_default();
        let metadata: Value = serde_json::from_slice(self.stored_metadata()).unwrap_or_default();
        let mut object = Object::default();
        for (field, value) in [("kind", named.kind), ("apiVersion", named.api_version), ("metadata", metadata)] {
            if !value.is_null() {
                object.set(&[field], value);
            }
        }
        object
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        let labels = self.labels.get_or_init(|| {
            let metadata = pick::field(self.stored_metadata(), "labels").unwrap_or_default();
            let pairs = metadata.get("labels").and_then(Value::as_object).into_iter().flatten();
            let mut pairs: Vec<(Box<str>, Box<str>)> =
                pairs.filter_map(|(k, v)| Some((k.as_str().into(), v.as_str()?.into()))).collect();
            pairs.sort();
            pairs.into()
        });
        labels.binary_search_by(|(k, _)| k.as_ref().cmp(key)).ok().map(|at| labels[at].1.as_ref())
    }

    /// The value of a selectable field of the resource, other than name and namespace.
    pub fn field(&self, resource: &Resource, label: &str) -> Option<&str> {
        let known = resource.strategy.selectable();
        let at = known.position(label)?;
        let fields = self.fields.get_or_init(|| {
            let object = self.parts(resource.strategy.field_sources()).unwrap_or_else(|| self.object());
            known.iter().map(|l| resource.strategy.field(&object, l).into_boxed_str()).collect()
        });
        fields.get(at).map(AsRef::as_ref)
    }

    /// The object with these fields of its parts only. `None`: there are none, or the stored bytes cannot be read.
    fn parts(&self, wanted: &[(&str, &str)]) -> Option<Object> {
        (!wanted.is_empty()).then(|| pick::parts(&self.stored, wanted).ok().map(Object))?
    }

    /// The raw JSON of `metadata` as stored, without resourceVersion.
    fn stored_metadata(&self) -> &[u8] {
        let Some(at) = self.at else { return b"{}" };
        &self.stored[at - 1..metadata_end(&self.stored, at - 1)]
    }

    /// Appends the object as `PartialObjectMetadata` in a version of `meta.k8s.io`.
    pub fn write_partial(&self, out: &mut impl BufMut, version: &str, revision: Option<Revision>) {
        out.put_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/");
        out.put_slice(version.as_bytes());
        out.put_slice(b"\",\"metadata\":{");
        let rest = &self.stored_metadata()[1..];
        self.put_revision(out, revision, rest.first() == Some(&b'}'));
        out.put_slice(rest);
        out.put_u8(b'}');
    }
}

const METADATA: &[u8] = b"\"metadata\":{";

/// Most bytes that a thread keeps to write the next object into.
const SCRATCH: usize = 64 << 10;

/// The stored form: kind, apiVersion and metadata first, no resourceVersion. [`View::write`] and [`View::write_partial`] rely on the order.
///
/// It takes exactly as much memory as it is long: objects stay in memory, and so does the history.
pub fn stored_form(object: &Object) -> Bytes {
    thread_local!(static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) });
    let mut out = BUFFER.take();
    write_stored_form(&mut out, object);
    let form = Bytes::copy_from_slice(&out);
    out.clear();
    out.shrink_to(SCRATCH);
    BUFFER.set(out);
    form
}

fn write_stored_form(out: &mut Vec<u8>, object: &Object) {
    out.extend_from_slice(b"{\"kind\":");
    write(out, object.0.get("kind").unwrap_or(&Value::Null));
    out.extend_from_slice(b",\"apiVersion\":");
    write(out, object.0.get("apiVersion").unwrap_or(&Value::Null));
    out.extend_from_slice(b",\"metadata\":{");
    let mut first = true;
    for (key, value) in object.0.get("metadata").and_then(Value::as_object).into_iter().flatten() {
        if key != "resourceVersion" {
            pair(out, &mut first, key, value);
        }
    }
    out.push(b'}');
    let mut first = false;
    for (key, value) in &object.0 {
        if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
            pair(out, &mut first, key, value);
        }
    }
    out.push(b'}');
}

fn write(out: &mut Vec<u8>, value: &impl serde::Serialize) {
    let mut serializer = serde_json::Serializer::with_formatter(out, GoNumbers);
    value.serialize(&mut serializer).expect("JSON values serialise");
}

/// Compact JSON with numbers as Go writes them: `3` for 3.0.
struct GoNumbers;

impl serde_json::ser::Formatter for GoNumbers {
    fn write_u64<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, value: u64) -> std::io::Result<()> {
        // What is no int64 is a float64.
        writer.write_all(api::json::go_number(&value.into()).as_bytes())
    }

    fn write_f64<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, value: f64) -> std::io::Result<()> {
        let text = serde_json::Number::from_f64(value).map(|number| api::json::go_number(&number));
        writer.write_all(text.as_deref().unwrap_or("null").as_bytes())
    }
}

fn pair(out: &mut Vec<u8>, first: &mut bool, key: &str, value: &Value) {
    if !*first {
        out.push(b',');
    }
    *first = false;
    write(out, &key);
    out.push(b':');
    write(out, value);
}

/// Where the fields of `metadata` begin.
fn metadata_start(bytes: &[u8]) -> Option<usize> {
    bytes.windows(METADATA.len()).position(|w| w == METADATA).map(|at| at + METADATA.len())
}

/// Where the object that opens at `start` ends, by counting braces outside of strings.
fn metadata_end(bytes: &[u8], start: usize) -> usize {
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for (at, byte) in bytes[start..].iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' if !quoted => depth += 1,
            b'}' if !quoted => {
                depth -= 1;
                if depth == 0 {
                    return start + at + 1;
                }
            }
            _ => {}
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Object {
        Object::from_value(value).expect("an object")
    }

    #[test]
    fn the_resource_version_is_spliced_in() {
        for (value, metadata) in [
            (
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}, "data": {"metadata": "\"}{"}}),
                json!({"resourceVersion": "7"}),
            ),
            (
                json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "a\"}\\", "resourceVersion": "3", "labels": {"z": "1"}}}),
                json!({"name": "a\"}\\", "labels": {"z": "1"}, "resourceVersion": "7"}),
            ),
        ] {
            let bytes = stored_form(&object(value.clone()));
            assert!(!String::from_utf8_lossy(&bytes).contains("resourceVersion"));
            let view = View::new(bytes, 7);
            let mut parsed: Value = serde_json::from_slice(&view.bytes()).expect("JSON");
            assert_eq!(view.length(), view.bytes().len());
            assert_eq!(parsed["metadata"], metadata);
            assert_eq!(view.object().into_value(), parsed);
            let mut out = Vec::new();
            view.write(&mut out, Some(12345));
            assert_eq!(serde_json::from_slice::<Value>(&out).expect("JSON")["metadata"]["resourceVersion"], "12345");
            let mut out = Vec::new();
            view.write_partial(&mut out, "v1", None);
            let partial =
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata});
            assert_eq!(serde_json::from_slice::<Value>(&out).expect("JSON"), partial);
            parsed["metadata"] = value["metadata"].clone();
            assert_eq!(parsed, value);
        }
    }

    #[test]
    fn whatever_is_stored_can_be_shown() {
        let deep = format!("{}1{}", "[".repeat(500), "]".repeat(500));
        let head = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"c","labels":{"a":"1"}}"#;
        for (bytes, name) in [
            (format!("{head},\"data\":{deep}}}"), "c"),
            (format!("{head},\"data\":{{"), "c"),
            (head.replace("}}", ""), ""),
            (String::from("{\"metadata\":{"), ""),
            (String::from("[]"), ""),
            (String::from("\u{0}\u{1}"), ""),
            (String::new(), ""),
        ] {
            let view = View::new(Bytes::from(bytes.clone()), 7);
            assert!(view.read().is_err(), "{bytes}");
            let object = view.object();
            assert_eq!((object.name(), object.resource_version()), (name, "7"), "{bytes}");
            assert_eq!(view.bytes().len(), view.length(), "{bytes}");
            let _ = view.label("a");
            view.write_partial(&mut Vec::new(), "v1", None);
            assert!(View::detached(&object).read().is_ok(), "{bytes}");
        }
    }

    #[test]
    fn fields_of_parts_are_read_without_the_others() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c"}], "nodeName": "n"}, "status": {"podIPs": [{"ip": "10.0.0.1"}], "x": {}}});
        let view = View::new(stored_form(&object(pod)), 7);
        let parts = view.parts(&[("spec", "nodeName"), ("spec", "x"), ("status", "podIPs")]).map(Object::into_value);
        assert_eq!(parts, Some(json!({"spec": {"nodeName": "n"}, "status": {"podIPs": [{"ip": "10.0.0.1"}]}})));
        assert!(view.parts(&[]).is_none());
        let odd = View::new(stored_form(&object(json!({"apiVersion": "v1", "kind": "Pod", "spec": []}))), 7);
        assert!(odd.parts(&[("spec", "nodeName")]).is_none(), "it is parsed as a whole then");
    }

    #[test]
    fn labels_are_read_from_bytes() {
        let bytes = stored_form(&object(
            json!({"apiVersion": "v1", "kind": "X", "metadata": {"labels": {"b": "2", "a": "1"}}}),
        ));
        let view = View::new(bytes, 1);
        assert_eq!((view.label("a"), view.label("b"), view.label("c")), (Some("1"), Some("2"), None));
    }

    #[test]
    fn numbers_are_gos() {
        let value = serde_json::json!({"kind": "T", "apiVersion": "v1", "metadata": {}, "n": [3.0, 2.5, 1e18, 1e30, -0.5, 7, 9_223_372_036_854_775_808_u64]});
        let object = Object::from_value(value).unwrap();
        let text = String::from_utf8(stored_form(&object).to_vec()).unwrap();
        assert!(text.ends_with(r#""n":[3,2.5,1000000000000000000,1e+30,-0.5,7,9223372036854776000]}"#), "{text}");
    }
}
