//! Salvages a damaged file: reads all intact records, and finds out where some are missing.
//!
//! The index (the branch pages) leads to the live records, which are valid if their own checksum is. Where the index or a leaf is damaged,
//! the newest record of each key anywhere in the file between the two neighbouring keys is used. Such a record may be older than the lost
//! one, or may have been deleted, and is therefore reported separately. So are records that are newer than an outdated index.

use super::{
    Action, Batch, Change, Log, LogError, Record,
    pages::{PAGE, Page, Pages, table_root},
    record,
    redb::{COUNT, NUMBERS, RECORDS, REVISION, Redb},
};
use crate::{FIRST, Revision};
use redb::TableHandle;
use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    sync::Arc,
};

/// redb's trees are never deeper.
const MAX_DEPTH: usize = 32;
/// The maximum length of a page that is searched for records, in bytes: the largest record and more.
const MAX_VALUE_BYTES: usize = 64 << 20;
/// By how much the revision is increased if the newest is unknown, so that none is reused.
const SKIPPED: Revision = 1_000_000;

/// The salvaged content of a damaged file.
#[derive(Debug)]
pub struct Salvage {
    /// The newest revision, or a higher one that was never used.
    pub revision: Revision,
    /// The records, by key.
    pub records: BTreeMap<Arc<str>, Record>,
    /// The keys that the index does not lead to. Their records may be outdated or deleted.
    pub doubtful: Vec<Arc<str>>,
    /// The ranges of keys in which records were lost.
    pub lost: Vec<Gap>,
    /// The newest index is damaged and an older one was used, so that later deletions are lost.
    pub previous: bool,
    /// The number of records, if it can be read.
    pub count: Option<u64>,
}

/// Keys above `after` up to `until`, which may be prefixes of keys. `None` means no bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The exclusive lower bound.
    pub after: Option<Vec<u8>>,
    /// The inclusive upper bound.
    pub until: Option<Vec<u8>>,
}

impl Gap {
    const EVERYTHING: Gap = Gap { after: None, until: None };

    fn holds(&self, key: &[u8]) -> bool {
        self.after.as_deref().is_none_or(|after| key > after) && self.until.as_deref().is_none_or(|until| key <= until)
    }
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
        match (&self.after, &self.until) {
            (None, None) => f.write_str("anywhere"),
            (None, Some(until)) => write!(f, "up to {}", name(until)),
            (Some(after), None) => write!(f, "after {}", name(after)),
            (Some(after), Some(until)) => write!(f, "between {} and {}", name(after), name(until)),
        }
    }
}

impl Salvage {
    /// Reads a current or former store file without changing it. Blocks while it reads the file.
    pub fn read(path: &Path) -> Result<Self, LogError> {
        Ok(Self::of(&std::fs::read(path)?))
    }

    fn of(file: &[u8]) -> Self {
        let mut found = Self {
            revision: FIRST,
            records: BTreeMap::new(),
            doubtful: Vec::new(),
            lost: vec![Gap::EVERYTHING],
            previous: false,
            count: None,
        };
        let mut revision = None;
        if let Some(pages) = Pages::new(file) {
            let mut indexes = pages.roots().map(|root| tables(&pages, root)).enumerate();
            let index = indexes.find(|(_, tables)| tables.contains_key(RECORDS.name()));
            let (order, tables) = index.unwrap_or_default();
            found.previous = order > 0;
            if let Some(root) = tables.get(RECORDS.name()) {
                found.lost.clear();
                let mut walk = Walk { pages: &pages, seen: HashSet::new(), found: &mut found };
                if let Some(root) = root {
                    walk.descend(*root, Gap::EVERYTHING, 0);
                }
            }
            if let Some(Page::Leaf(leaf)) = tables.get(NUMBERS.name()).and_then(|root| pages.page((*root)?)) {
                let numbers: BTreeMap<_, _> = leaf.numbers().flatten().collect();
                revision = numbers.get(REVISION.as_bytes()).copied();
                found.count = numbers.get(COUNT.as_bytes()).copied();
            }
        }
        if found.lost.is_empty() && found.count.is_some_and(|count| count != found.records.len() as u64) {
            // An outdated page in place of the index leads to fewer records or to deleted ones.
            found.lost.push(Gap::EVERYTHING);
        }
        let newest = found.search(file, revision.unwrap_or(Revision::MAX));
        found.revision = match revision {
            Some(revision) if revision >= newest => revision,
            _ => newest.max(FIRST) + SKIPPED,
        };
        found
    }

    /// Adds records anywhere in the file that are in a gap, or newer than those of the index, or newer than `known`, the revision of the
    /// index. Returns the newest revision found.
    fn search(&mut self, file: &[u8], known: Revision) -> Revision {
        let (mut newest, mut best) = (0, BTreeMap::<Arc<str>, Record>::new());
        for start in (0..file.len()).step_by(PAGE) {
            let end = file.len().min(start + MAX_VALUE_BYTES);
            let Some(Page::Leaf(leaf)) = Page::read(&file[start..end]) else { continue };
            for record in leaf.entries().map_while(|entry| entry).filter_map(decode) {
                newest = newest.max(record.revision);
                let is_wanted = match best.get(&record.key).or_else(|| self.records.get(&record.key)) {
                    Some(other) => other.revision < record.revision,
                    None => record.revision > known || self.lost.iter().any(|gap| gap.holds(record.key.as_bytes())),
                };
                if is_wanted {
                    best.insert(record.key.clone(), record);
                }
            }
        }
        self.previous |= newest > known;
        self.doubtful = best.keys().cloned().collect();
        self.records.extend(best);
        newest
    }

    /// Writes the salvaged content to a new file, which a store can open.
    pub async fn write(&self, path: &Path) -> Result<(), LogError> {
        let change = |record: &Record| Change {
            key: record.key.clone(),
            revision: record.revision,
            action: Action::Put { created: record.created, expires: record.expires, value: record.value.clone() },
        };
        let changes = self.records.values().map(change).collect();
        let path = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || Redb::open(path)).await;
        let log = opened.unwrap_or_else(|error| Err(LogError::Io(std::io::Error::other(error))))?;
        log.commit(Batch { revision: self.revision, changes }).await?;
        log.close().await
    }
}

/// The roots of the tables in a table of tables.
fn tables(pages: &Pages<'_>, root: u64) -> BTreeMap<String, Option<u64>> {
    let Some(Page::Leaf(leaf)) = pages.page(root) else { return BTreeMap::new() };
    let table = |(name, entry): (&[u8], &[u8])| Some((String::from_utf8(name.to_vec()).ok()?, table_root(entry)?));
    leaf.entries().flatten().filter_map(table).collect()
}

fn decode((key, value): (&[u8], &[u8])) -> Option<Record> {
    Some(record::decode(str::from_utf8(key).ok()?, value).ok()?.0)
}

/// A traversal of the index.
struct Walk<'a> {
    pages: &'a Pages<'a>,
    /// Records that a damaged index leads to twice count once.
    seen: HashSet<u64>,
    found: &'a mut Salvage,
}

impl Walk<'_> {
    /// Collects the entries below a page whose keys lie in `range`.
    fn descend(&mut self, number: u64, range: Gap, depth: usize) {
        let page = Some(number).filter(|number| depth < MAX_DEPTH && self.seen.insert(*number));
        match page.and_then(|number| self.pages.page(number)) {
            None => self.found.lost.push(range),
            Some(Page::Leaf(leaf)) => self.take(leaf.entries().map(|entry| entry.and_then(decode)), range),
            Some(Page::Branch(branch)) => {
                let mut after = range.after;
                for child in branch.children() {
                    let Some((child, key)) = child else { break };
                    let until = key.map_or_else(|| range.until.clone(), |key| Some(key.to_vec()));
                    self.descend(child, Gap { after, until: until.clone() }, depth + 1);
                    after = until;
                    if key.is_none() {
                        return;
                    }
                }
                self.found.lost.push(Gap { after, until: range.until });
            }
        }
    }

    /// Adds the records of a leaf. A damaged or misplaced record leaves a gap between its neighbours.
    fn take(&mut self, records: impl Iterator<Item = Option<Record>>, range: Gap) {
        let (mut after, mut whole, mut any) = (range.after.clone(), true, false);
        for record in records {
            any = true;
            let Some(record) = record.filter(|record| range.holds(record.key.as_bytes())) else {
                whole = false;
                continue;
            };
            let key = Some(record.key.as_bytes().to_vec());
            if !whole {
                self.found.lost.push(Gap { after, until: key.clone() });
            }
            (after, whole) = (key, true);
            self.found.records.insert(record.key.clone(), record);
        }
        if !whole || !any {
            self.found.lost.push(Gap { after, until: range.until });
        }
    }
}
