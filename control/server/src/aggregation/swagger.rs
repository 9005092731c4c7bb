//! What other servers add to the OpenAPI v2 document: the paths of their group versions, and the definitions that those need. Where both servers
//! have a definition, this server's stays. Pure.

use super::registration::Registration;
use crate::lazy::CompressedDocument;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use tokio::sync::Mutex;

/// The longest document that is read, bytes.
const MAX_LENGTH: usize = 4 << 20;

/// The part of a group version.
pub(crate) struct Part {
    paths: Map<String, Value>,
    definitions: Map<String, Value>,
    digest: [u8; 32],
}

/// The whole document, as JSON and as protobuf, each with the hash of what it was made of: the newest one.
#[derive(Default)]
pub(crate) struct Merged([Mutex<Option<(String, CompressedDocument)>>; 2]);

impl Merged {
    /// The document with this hash. It is made on a blocking thread, for all who wait. `None`: it cannot be made.
    pub(crate) async fn get(
        &self,
        protobuf: bool,
        hash: &str,
        make: impl FnOnce() -> Vec<u8> + Send + 'static,
    ) -> Option<CompressedDocument> {
        let [json, packed] = &self.0;
        let mut kept = if protobuf { packed } else { json }.lock().await;
        if let Some((_, document)) = kept.as_ref().filter(|(of, _)| of == hash) {
            return Some(document.clone());
        }
        let made = tokio::task::spawn_blocking(move || CompressedDocument::new(&make())).await;
        let document = made.ok()?.ok()?;
        *kept = Some((hash.to_owned(), document.clone()));
        Some(document)
    }
}

impl Part {
    /// Differs for different parts.
    pub(crate) fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The part of a group version in a server's document. `None`: it has none.
    pub(crate) fn read(body: &[u8], of: &Registration) -> Option<Self> {
        if body.len() > MAX_LENGTH {
            return None;
        }
        let Value::Object(mut document) = serde_json::from_slice(body).ok()? else { return None };
        let mut take = |name: &str| match document.remove(name) {
            Some(Value::Object(map)) => map,
            _ => Map::new(),
        };
        let prefix = format!("/apis/{}/{}/", of.group, of.version);
        let (mut paths, mut known) = (take("paths"), take("definitions"));
        paths.retain(|path, item| path.starts_with(&prefix) && item.is_object());
        if paths.is_empty() {
            return None;
        }
        let (mut open, mut definitions) = (Vec::new(), Map::new());
        paths.values().for_each(|item| references(item, &mut open));
        while let Some(name) = open.pop() {
            let Some(definition) = known.remove(&name).filter(Value::is_object) else { continue };
            references(&definition, &mut open);
            definitions.insert(name, definition);
        }
        let mut digest = Sha256::new();
        for map in [&paths, &definitions] {
            digest.update(serde_json::to_vec(map).expect("JSON values serialise"));
        }
        Some(Self { paths, definitions, digest: digest.finalize().into() })
    }
}

/// The names of the definitions that a value refers to. What is parsed is at most 128 deep.
fn references(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let name = map.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix("#/definitions/"));
            out.extend(name.map(str::to_owned));
            map.values().for_each(|value| references(value, out));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, out)),
        _ => {}
    }
}

/// Adds parts to this server's document.
pub(crate) fn merge(document: &mut Value, parts: &[Arc<Part>]) {
    for (name, of) in [("paths", 0), ("definitions", 1)] {
        let Some(map) = document.get_mut(name).and_then(Value::as_object_mut) else { continue };
        for part in parts {
            let added = if of == 0 { &part.paths } else { &part.definitions };
            for (key, value) in added {
                map.entry(key).or_insert_with(|| value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_part_has_the_paths_of_its_version_and_what_they_need() {
        let of = Registration { group: "g".to_owned(), version: "v1".to_owned(), ..Registration::default() };
        let reference = |name: &str| json!({"$ref": format!("#/definitions/{name}")});
        let theirs = json!({"swagger": "2.0", "paths": {
                "/apis/g/v1/things": {"get": {"responses": {"200": {"schema": reference("Thing")}}}},
                "/apis/g/v1x/things": {}, "/apis/g/v2/things": {}, "/api/v1/pods": {"evil": true}, "/apis/g/v1/bad": 1},
            "definitions": {"Thing": {"properties": {"meta": reference("Meta"), "self": reference("Thing"),
                "none": reference("None")}}, "Meta": {"theirs": true}, "Unused": {}}});
        let part = Part::read(theirs.to_string().as_bytes(), &of).expect("a part");
        assert_eq!(part.paths.keys().collect::<Vec<_>>(), ["/apis/g/v1/things"]);
        assert_eq!(part.definitions.keys().collect::<Vec<_>>(), ["Meta", "Thing"]);
        let mut ours = json!({"paths": {"/api/v1/pods": {}}, "definitions": {"Meta": {"ours": true}}});
        merge(&mut ours, &[Arc::new(part)]);
        assert_eq!(
            (ours["paths"].as_object().map(Map::len), &ours["definitions"]["Meta"]),
            (Some(2), &json!({"ours": true}))
        );
        assert!(ours["definitions"]["Thing"].is_object());
        for bad in ["", "[]", "{}", "{\"paths\": 1}", "{\"paths\": {\"/apis/g/v2/a\": {}}}"] {
            assert!(Part::read(bad.as_bytes(), &of).is_none(), "{bad}");
        }
        assert!(Part::read(&vec![b' '; MAX_LENGTH + 1], &of).is_none());
    }

    #[tokio::test]
    async fn the_whole_is_made_once_for_each_hash() {
        let merged = Merged::default();
        let get = async |hash: &str, text: &'static str| {
            let made = merged.get(false, hash, move || text.as_bytes().to_vec()).await;
            made.map(|document| document.decompress())
        };
        assert_eq!(get("a", "one").await.as_deref(), Some(&b"one"[..]));
        assert_eq!(get("a", "two").await.as_deref(), Some(&b"one"[..]));
        assert_eq!(get("b", "two").await.as_deref(), Some(&b"two"[..]));
        assert!(merged.get(true, "b", || panic!("on purpose")).await.is_none());
    }
}
