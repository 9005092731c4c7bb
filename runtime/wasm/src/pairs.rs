//! The store of wasi:keyvalue: one table per pod in the node's memory, with a limit in bytes.

use crate::memory::{InstanceMemory, MemoryAccount};
use parking_lot::{Mutex, MutexGuard};
use std::{collections::BTreeMap, ops::Bound, sync::Arc};

/// Most bytes of the pairs of a pod, including [`ENTRY_OVERHEAD`].
const MAX_STORE_BYTES: u64 = 16 << 20;
/// Bytes charged for a pair in addition to its key and value.
const ENTRY_OVERHEAD: u64 = 128;
/// Most bytes of a key.
const MAX_KEY_BYTES: usize = 1 << 10;
/// Most keys in one response of `list-keys`.
const MAX_PAGE_KEYS: usize = 1_000;

/// A key and its value.
pub(crate) type Pair = (String, Vec<u8>);

/// The store of a pod.
pub(crate) struct Pairs(Mutex<Table>);

/// The locked store.
pub(crate) struct Table {
    pairs: BTreeMap<String, Vec<u8>>,
    /// The size of all pairs, as [`size`] counts it.
    bytes: u64,
    memory: InstanceMemory,
}

fn other<T>(text: impl Into<String>) -> Result<T, String> {
    Err(text.into())
}

/// Bytes charged for a pair.
fn size(key: &str, value: &[u8]) -> u64 {
    ENTRY_OVERHEAD + (key.len() + value.len()) as u64
}

impl Table {
    pub(crate) fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.pairs.get(key).cloned()
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.pairs.contains_key(key)
    }

    /// Sets a pair. Fails above the limit or when the memory account refuses the charge.
    pub(crate) fn set(&mut self, key: String, value: Vec<u8>) -> Result<(), String> {
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

    /// Removes a pair, if there is one.
    pub(crate) fn delete(&mut self, key: &str) {
        if let Some(value) = self.pairs.remove(key) {
            self.bytes -= size(key, &value);
            // Reducing a charge never fails.
            let _ = self.memory.set_host_bytes(self.bytes);
        }
    }

    /// Adds to a number, stored as decimal text. An absent key counts as 0.
    pub(crate) fn increment(&mut self, key: String, delta: u64) -> Result<u64, String> {
        let number = match self.pairs.get(&key) {
            None => Some(0),
            Some(value) => std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()),
        };
        let Some(number) = number else { return other("the value is no number") };
        let Some(sum) = u64::checked_add(number, delta) else { return other("the number would be too large") };
        self.set(key, sum.to_string().into_bytes())?;
        Ok(sum)
    }

    /// Returns one page of the sorted keys, beginning at the cursor, and the next cursor, if any.
    pub(crate) fn keys(&self, cursor: u64) -> (Vec<String>, Option<u64>) {
        let skip = usize::try_from(cursor).unwrap_or(usize::MAX);
        let keys: Vec<String> = self.pairs.keys().skip(skip).take(MAX_PAGE_KEYS).cloned().collect();
        let more = keys.last().is_some_and(|last| {
            self.pairs.range::<str, _>((Bound::Excluded(last.as_str()), Bound::Unbounded)).next().is_some()
        });
        let next = more.then(|| cursor.saturating_add(keys.len() as u64));
        (keys, next)
    }

    /// Returns the pairs of these keys, `None` for an absent key.
    pub(crate) fn get_many(&self, keys: Vec<String>) -> Result<Vec<Option<Pair>>, String> {
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

impl Pairs {
    /// Locks the store.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock()
    }

    /// Creates an empty store whose pairs are charged to `memory`, the account of the pod.
    pub(crate) fn new(memory: Arc<MemoryAccount>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Table { pairs: BTreeMap::new(), bytes: 0, memory: InstanceMemory::new(memory) })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(limit: Option<u64>) -> (Arc<MemoryAccount>, Table) {
        let memory = MemoryAccount::new("the pod", limit, None);
        (memory.clone(), Table { pairs: BTreeMap::new(), bytes: 0, memory: InstanceMemory::new(memory) })
    }

    fn text(result: Result<impl std::fmt::Debug, String>) -> String {
        result.unwrap_err()
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
            (cursor, pages) = (page.1, pages + 1);
            all.extend(page.0);
        }
        assert_eq!((pages, all.len(), all.is_sorted()), (3, 2500, true));
        assert_eq!(table.keys(u64::MAX).0.len(), 0);
        table.set("big".into(), vec![0; 1 << 20]).unwrap();
        let asked = |count| vec!["big".to_owned(); count];
        assert_eq!(table.get_many(asked(15)).unwrap().len(), 15);
        assert!(text(table.get_many(asked(17))).contains("ask for fewer"));
    }
}
