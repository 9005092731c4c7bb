//! wasi:config from the environment variables of the container, and wasi:keyvalue in the memory of the node, one store per pod.
//!
//! All containers of a pod share the store, which survives container restarts and ends with the pod. The pairs are charged to the pod's
//! memory account and have a separate limit. wasmtime-wasi-keyvalue is not used, because each of its buckets is a copy, so that instances
//! do not see each other's changes, and because it has no limit.

use crate::{
    guest::{Here, Shared, View},
    memory::{InstanceMemory, MemoryAccount},
};
use parking_lot::Mutex;
use std::{collections::BTreeMap, ops::Bound, sync::Arc};
use wasmtime::component::{Linker, Resource};

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::too_many_lines)]
mod bindings {
    wasmtime::component::bindgen!({
        inline: r#"
            package sampan:host;

            world imports {
                import wasi:config/store@0.2.0-rc.1;
                import wasi:keyvalue/store@0.2.0-draft;
                import wasi:keyvalue/atomics@0.2.0-draft;
                import wasi:keyvalue/batch@0.2.0-draft;
            }

            package wasi:config@0.2.0-rc.1 {
                interface store {
                    variant error {
                        upstream(string),
                        io(string),
                    }
                    get: func(key: string) -> result<option<string>, error>;
                    get-all: func() -> result<list<tuple<string, string>>, error>;
                }
            }

            package wasi:keyvalue@0.2.0-draft {
                interface store {
                    variant error {
                        no-such-store,
                        access-denied,
                        other(string),
                    }
                    record key-response {
                        keys: list<string>,
                        cursor: option<u64>,
                    }
                    open: func(identifier: string) -> result<bucket, error>;
                    resource bucket {
                        get: func(key: string) -> result<option<list<u8>>, error>;
                        set: func(key: string, value: list<u8>) -> result<_, error>;
                        delete: func(key: string) -> result<_, error>;
                        exists: func(key: string) -> result<bool, error>;
                        list-keys: func(cursor: option<u64>) -> result<key-response, error>;
                    }
                }
                interface atomics {
                    use store.{bucket, error};
                    increment: func(bucket: borrow<bucket>, key: string, delta: u64) -> result<u64, error>;
                }
                interface batch {
                    use store.{bucket, error};
                    get-many: func(bucket: borrow<bucket>, keys: list<string>) -> result<list<option<tuple<string, list<u8>>>>, error>;
                    set-many: func(bucket: borrow<bucket>, key-values: list<tuple<string, list<u8>>>) -> result<_, error>;
                    delete-many: func(bucket: borrow<bucket>, keys: list<string>) -> result<_, error>;
                }
            }
        "#,
        imports: { default: trappable },
        with: { "wasi:keyvalue/store.bucket": super::Bucket },
    });
}

use bindings::wasi::{
    config::store as config,
    keyvalue::{
        atomics, batch,
        store::{self, Error, KeyResponse},
    },
};

/// Most bytes of the pairs of a pod, including [`ENTRY_OVERHEAD`].
const MAX_STORE_BYTES: u64 = 16 << 20;
/// Bytes charged for a pair in addition to its key and value.
const ENTRY_OVERHEAD: u64 = 128;
/// Most bytes of a key.
const MAX_KEY_BYTES: usize = 1 << 10;
/// Most keys in one response of `list-keys`.
const MAX_PAGE_KEYS: usize = 1_000;

/// Adds the interfaces to a linker.
pub(crate) fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: for<'a> fn(&'a mut T) -> View<'a>,
) -> wasmtime::Result<()> {
    config::add_to_linker::<T, Here>(linker, view)?;
    store::add_to_linker::<T, Here>(linker, view)?;
    atomics::add_to_linker::<T, Here>(linker, view)?;
    batch::add_to_linker::<T, Here>(linker, view)
}

/// A guest's handle to the store of its pod.
#[allow(unreachable_pub, reason = "the bindings re-export it")]
pub struct Bucket;

/// The store of a pod.
pub(crate) struct Pairs(Mutex<Table>);

struct Table {
    pairs: BTreeMap<String, Vec<u8>>,
    /// The size of all pairs, as [`size`] counts it.
    bytes: u64,
    memory: InstanceMemory,
}

fn other<T>(text: impl Into<String>) -> Result<T, Error> {
    Err(Error::Other(text.into()))
}

/// Bytes charged for a pair.
fn size(key: &str, value: &[u8]) -> u64 {
    ENTRY_OVERHEAD + (key.len() + value.len()) as u64
}

impl Table {
    fn set(&mut self, key: String, value: Vec<u8>) -> Result<(), Error> {
        if key.len() > MAX_KEY_BYTES {
            return other(format!("a key has at most {MAX_KEY_BYTES} bytes"));
        }
        let before = self.pairs.get(&key).map_or(0, |value| size(&key, value));
        let bytes = self.bytes - before + size(&key, &value);
        if bytes > MAX_STORE_BYTES {
            return other(format!("the pairs of a pod have at most {MAX_STORE_BYTES} bytes"));
        }
        if let Err(full) = self.memory.set_host_bytes(bytes) {
            return other(full.to_string());
        }
        self.bytes = bytes;
        self.pairs.insert(key, value.into_boxed_slice().into_vec());
        Ok(())
    }

    fn delete(&mut self, key: &str) {
        if let Some(value) = self.pairs.remove(key) {
            self.bytes -= size(key, &value);
            // Reducing a charge never fails.
            let _ = self.memory.set_host_bytes(self.bytes);
        }
    }

    fn increment(&mut self, key: String, delta: u64) -> Result<u64, Error> {
        let number = match self.pairs.get(&key) {
            None => Some(0),
            Some(value) => std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()),
        };
        let Some(number) = number else { return other("the value is no number") };
        let Some(sum) = u64::checked_add(number, delta) else { return other("the number would be too large") };
        self.set(key, sum.to_string().into_bytes())?;
        Ok(sum)
    }

    fn keys(&self, cursor: u64) -> KeyResponse {
        let skip = usize::try_from(cursor).unwrap_or(usize::MAX);
        let keys: Vec<String> = self.pairs.keys().skip(skip).take(MAX_PAGE_KEYS).cloned().collect();
        let more = keys.last().is_some_and(|last| {
            self.pairs.range::<str, _>((Bound::Excluded(last.as_str()), Bound::Unbounded)).next().is_some()
        });
        KeyResponse { cursor: more.then(|| cursor.saturating_add(keys.len() as u64)), keys }
    }

    fn get_many(&self, keys: Vec<String>) -> Result<Vec<Option<Pair>>, Error> {
        let mut bytes = 0;
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            let value = self.pairs.get(&key).cloned();
            bytes += value.as_ref().map_or(0, |value| size(&key, value));
            if bytes > MAX_STORE_BYTES {
                return other(format!("the values are above {MAX_STORE_BYTES} bytes: ask for fewer"));
            }
            found.push(value.map(|value| (key, value)));
        }
        Ok(found)
    }
}

/// A key and its value.
type Pair = (String, Vec<u8>);

impl Pairs {
    /// Creates an empty store whose pairs are charged to `memory`, the account of the pod.
    pub(crate) fn new(memory: Arc<MemoryAccount>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Table { pairs: BTreeMap::new(), bytes: 0, memory: InstanceMemory::new(memory) })))
    }
}

type Answer<T> = wasmtime::Result<Result<T, Error>>;

impl View<'_> {
    /// Calls a function with the locked store.
    ///
    /// # Errors
    /// The handle is not a bucket of this instance.
    fn pairs<T>(&mut self, bucket: &Resource<Bucket>, call: impl FnOnce(&mut Table) -> Result<T, Error>) -> Answer<T> {
        self.table.get(bucket)?;
        Ok(call(&mut self.shared.pairs.0.lock()))
    }
}

impl config::Host for View<'_> {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, config::Error>> {
        Ok(Ok(variable(self.shared, &key)))
    }

    fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, config::Error>> {
        Ok(Ok(self.shared.spec.env.clone()))
    }
}

fn variable(shared: &Shared, name: &str) -> Option<String> {
    shared.spec.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
}

impl store::Host for View<'_> {
    /// A pod has one store. Its identifier is `default` or empty.
    fn open(&mut self, identifier: String) -> Answer<Resource<Bucket>> {
        if !["", "default"].contains(&identifier.as_str()) {
            return Ok(Err(Error::NoSuchStore));
        }
        Ok(Ok(self.table.push(Bucket)?))
    }
}

impl store::HostBucket for View<'_> {
    fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<Option<Vec<u8>>> {
        self.pairs(&bucket, |table| Ok(table.pairs.get(&key).cloned()))
    }

    fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Answer<()> {
        self.pairs(&bucket, |table| table.set(key, value))
    }

    fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<()> {
        self.pairs(&bucket, |table| {
            table.delete(&key);
            Ok(())
        })
    }

    fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<bool> {
        self.pairs(&bucket, |table| Ok(table.pairs.contains_key(&key)))
    }

    fn list_keys(&mut self, bucket: Resource<Bucket>, cursor: Option<u64>) -> Answer<KeyResponse> {
        self.pairs(&bucket, |table| Ok(table.keys(cursor.unwrap_or(0))))
    }

    fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for View<'_> {
    fn increment(&mut self, bucket: Resource<Bucket>, key: String, delta: u64) -> Answer<u64> {
        self.pairs(&bucket, |table| table.increment(key, delta))
    }
}

impl batch::Host for View<'_> {
    fn get_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Answer<Vec<Option<(String, Vec<u8>)>>> {
        self.pairs(&bucket, |table| table.get_many(keys))
    }

    /// Stops at the first pair that fails. The pairs before it remain set.
    fn set_many(&mut self, bucket: Resource<Bucket>, pairs: Vec<(String, Vec<u8>)>) -> Answer<()> {
        self.pairs(&bucket, |table| pairs.into_iter().try_for_each(|(key, value)| table.set(key, value)))
    }

    fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Answer<()> {
        self.pairs(&bucket, |table| {
            keys.iter().for_each(|key| table.delete(key));
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(limit: Option<u64>) -> (Arc<MemoryAccount>, Table) {
        let memory = MemoryAccount::new("the pod", limit, None);
        (memory.clone(), Table { pairs: BTreeMap::new(), bytes: 0, memory: InstanceMemory::new(memory) })
    }

    fn text(result: Result<impl std::fmt::Debug, Error>) -> String {
        match result {
            Err(Error::Other(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn pairs_count_as_memory_and_have_a_limit() {
        let (memory, mut table) = table(None);
        table.set("a".into(), vec![0; 1 << 20]).unwrap();
        assert_eq!(memory.used(), (1 << 20) + 1 + ENTRY_OVERHEAD);
        table.set("a".into(), vec![0; 1000]).unwrap();
        assert_eq!(memory.used(), 1001 + ENTRY_OVERHEAD);
        table.delete("none");
        table.delete("a");
        assert_eq!(memory.used(), 0);
        assert!(text(table.set("k".repeat(1025), vec![])).starts_with("a key has at most 1024 bytes"));
        for number in 0..15 {
            table.set(number.to_string(), vec![0; 1 << 20]).unwrap();
        }
        assert!(text(table.set("last".into(), vec![0; 1 << 20])).contains("at most 16777216 bytes"));
        assert_eq!(memory.used(), table.bytes, "what was refused is not charged");
        drop(table);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn the_pods_limit_of_memory_holds_for_pairs() {
        let (memory, mut table) = table(Some(1 << 20));
        assert!(text(table.set("a".into(), vec![0; 1 << 20])).starts_with("out of memory"));
        assert_eq!((memory.used(), table.pairs.len()), (0, 0));
    }

    #[test]
    fn numbers_are_added_and_kept_as_text() {
        let (_, mut table) = table(None);
        assert_eq!(table.increment("n".into(), 5).unwrap(), 5);
        assert_eq!(table.increment("n".into(), 7).unwrap(), 12);
        assert_eq!(table.pairs["n"], b"12");
        assert_eq!(text(table.increment("n".into(), u64::MAX)), "the number would be too large");
        table.set("t".into(), b"text".to_vec()).unwrap();
        assert_eq!(text(table.increment("t".into(), 1)), "the value is no number");
    }

    #[test]
    fn keys_come_in_pages_and_values_in_bounds() {
        let (_, mut table) = table(None);
        for number in 0..2500 {
            table.set(format!("{number:04}"), vec![]).unwrap();
        }
        let (mut cursor, mut pages, mut all) = (Some(0), 0, Vec::new());
        while let Some(at) = cursor {
            let page = table.keys(at);
            (cursor, pages) = (page.cursor, pages + 1);
            all.extend(page.keys);
        }
        assert_eq!((pages, all.len(), all.is_sorted()), (3, 2500, true));
        assert_eq!(table.keys(u64::MAX).keys.len(), 0);
        table.set("big".into(), vec![0; 1 << 20]).unwrap();
        let asked = |count| vec!["big".to_owned(); count];
        assert_eq!(table.get_many(asked(15)).unwrap().len(), 15);
        assert!(text(table.get_many(asked(17))).contains("ask for fewer"));
    }
}
