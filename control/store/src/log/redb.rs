//! The embedded log: a redb file with the live records and the newest revision.
//!
//! Each commit is one redb transaction with immediate durability in one phase: redb writes data and header and calls `fdatasync` once;
//! after a crash, checksums select the newer header. Reads are served from the store's memory, so that redb's own cache is small. Each open
//! reads the file once and verifies the checksum of each page, and the replay verifies those of the records and their number. Damaged data
//! is refused and never served.

use super::{Action, Batch, Log, LogError, Record, Replay, record, space::Space};
use crate::FIRST;
use async_trait::async_trait;
use parking_lot::Mutex;
use redb::{
    CommitError, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageBackend, StorageError,
    Table, TableDefinition, TableError, TransactionError,
};
use std::{
    num::NonZeroU64,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Key → record, see [`record`].
pub(super) const RECORDS: TableDefinition<&str, &[u8]> = TableDefinition::new("records");
/// Name → number.
pub(super) const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");
pub(super) const REVISION: &str = "revision";
const FORMAT: &str = "format";
/// The number of records.
pub(super) const COUNT: &str = "count";
/// The sum of the records' checksums, modulo 2⁶⁴.
const SUM: &str = "sum";
/// The current layout. Files with a later layout are refused.
const FORMAT_NOW: u64 = 2;
/// The layout without checksums: three numbers, then the value.
const FORMAT_PLAIN: u64 = 1;
/// The size of redb's page cache in bytes, which suffices for the inner pages of the tree.
const CACHE: usize = 4 << 20;

type Opener = Arc<dyn Fn(bool) -> Result<(Database, Option<Space>), LogError> + Send + Sync>;

/// A log in a redb file.
pub struct Redb {
    /// Opens the database. The argument tells whether to discard the file's page cache.
    open: Opener,
    opened: Arc<Mutex<Opened>>,
}

struct Opened {
    /// `None` after close, and while reopening has not succeeded.
    database: Option<Database>,
    /// `None` if the storage is not a file.
    space: Option<Space>,
}

impl std::fmt::Debug for Redb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redb")
    }
}

impl Redb {
    /// Opens or creates the file. It is locked until the log is closed or dropped: a second open fails with [`LogError::Held`]. Blocks
    /// while it reads the file once.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, LogError> {
        let path = path.as_ref().to_owned();
        Self::new(Arc::new(move |mistrust| {
            let space = Space::open(&path)?;
            if mistrust {
                space.forget_cached()?;
            }
            let opening = |error| opening(error, path.clone());
            let database = builder().create_with_backend(space.backend().map_err(opening)?).map_err(opening)?;
            Ok((database, Some(space)))
        }))
    }

    /// Opens any storage, to test its failures.
    pub fn with_backend(backend: impl StorageBackend + Clone) -> Result<Self, LogError> {
        Self::new(Arc::new(move |_| {
            let database = builder().create_with_backend(backend.clone());
            Ok((database.map_err(|error| opening(error, PathBuf::new()))?, None))
        }))
    }

    fn new(open: Opener) -> Result<Self, LogError> {
        let opened = guarded(|| begin_use(&open, false))?;
        Ok(Self { open, opened: Arc::new(Mutex::new(opened)) })
    }

    /// Runs `work` with the database on a blocking thread.
    async fn blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Opened) -> Result<R, LogError> + Send + 'static,
    ) -> Result<R, LogError> {
        let opened = self.opened.clone();
        let task = tokio::task::spawn_blocking(move || guarded(|| work(&mut opened.lock())));
        task.await.unwrap_or_else(|error| Err(LogError::Io(std::io::Error::other(error))))
    }
}

impl Opened {
    fn database(&self) -> Result<&Database, LogError> {
        self.database.as_ref().ok_or(LogError::Closed)
    }
}

#[async_trait]
impl Log for Redb {
    async fn replay(&self) -> Result<Replay, LogError> {
        self.blocking(|opened| replay(opened.database()?)).await
    }

    async fn commit(&self, batch: Batch) -> Result<(), LogError> {
        self.blocking(move |opened| write(opened.database()?, &batch)).await
    }

    async fn reopen(&self) -> Result<Replay, LogError> {
        let open = self.open.clone();
        self.blocking(move |opened| {
            if let Some(database) = opened.database.take() {
                // Closing fails for the same reason for which the file is reopened.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(database)));
            }
            *opened = begin_use(&open, true)?;
            replay(opened.database()?)
        })
        .await
    }

    async fn check_space(&self) -> Result<(), LogError> {
        if self.opened.lock().space.as_ref().is_none_or(Space::is_secured) {
            return Ok(());
        }
        self.blocking(|opened| opened.space.as_ref().map_or(Ok(()), Space::secure)).await
    }

    async fn close(&self) -> Result<(), LogError> {
        self.blocking(|opened| match opened.database.take() {
            None => Ok(()),
            Some(database) => {
                database.close().map_err(|error| opening(error, PathBuf::new()))?;
                opened.space.iter().for_each(Space::keep);
                Ok(())
            }
        })
        .await
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
    builder
}

/// redb treats some damage as an internal error and panics. It is reported as damage.
fn guarded<R>(work: impl FnOnce() -> Result<R, LogError>) -> Result<R, LogError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(LogError::Corrupt(format!("reading it fails: {}", text.unwrap_or_default())))
    })
}

/// Opens the database and converts it to the current layout.
fn begin_use(open: &Opener, mistrust: bool) -> Result<Opened, LogError> {
    let (database, space) = open(mistrust)?;
    let read = database.begin_read().map_err(transaction)?;
    let format = match read.open_table(NUMBERS) {
        Err(TableError::TableDoesNotExist(_)) => None,
        Err(error) => return Err(table(error)),
        Ok(numbers) => Some(numbers.get(FORMAT).map_err(storage)?.map(|found| found.value())),
    };
    drop(read);
    match format {
        Some(Some(FORMAT_NOW)) => {}
        None => begin_file(&database)?,
        Some(Some(FORMAT_PLAIN)) => add_checksums(&database)?,
        Some(format) => {
            let text = format!("it has format {}, this version reads {FORMAT_NOW}", format.unwrap_or_default());
            return Err(LogError::Corrupt(text));
        }
    }
    Ok(Opened { database: Some(database), space })
}

fn begin_file(database: &Database) -> Result<(), LogError> {
    let write = begin(database)?;
    {
        let mut numbers = write.open_table(NUMBERS).map_err(table)?;
        for (name, number) in [(FORMAT, FORMAT_NOW), (REVISION, FIRST), (COUNT, 0), (SUM, 0)] {
            numbers.insert(name, number).map_err(storage)?;
        }
        write.open_table(RECORDS).map_err(table)?;
    }
    write.commit().map_err(commit)
}

/// Rewrites all records of the old layout, in one transaction.
fn add_checksums(database: &Database) -> Result<(), LogError> {
    let write = begin(database)?;
    {
        let mut records = write.open_table(RECORDS).map_err(table)?;
        let mut plain = Vec::new();
        for row in records.iter().map_err(storage)? {
            let (key, value) = row.map_err(storage)?;
            plain.push((key.value().to_owned(), value.value().to_vec()));
        }
        let mut totals = Totals { count: 0, sum: 0 };
        for (key, bytes) in plain {
            let Some((numbers, value)) = bytes.split_at_checked(24) else {
                return Err(LogError::Corrupt(format!("the record {key} is cut short")));
            };
            let number = |at: usize| numbers[at..at + 8].iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
            records.remove(&*key).map_err(storage)?;
            totals.put(&mut records, &key, [number(0), number(8), number(16)], value)?;
        }
        let mut numbers = write.open_table(NUMBERS).map_err(table)?;
        numbers.insert(FORMAT, FORMAT_NOW).map_err(storage)?;
        totals.write(&mut numbers)?;
    }
    write.commit().map_err(commit)
}

/// The number of records and the sum of their checksums.
struct Totals {
    count: u64,
    sum: u64,
}

impl Totals {
    fn read(numbers: &impl ReadableTable<&'static str, u64>) -> Result<Self, LogError> {
        let read = |name| match numbers.get(name).map_err(storage)? {
            Some(number) => Ok(number.value()),
            None => Err(LogError::Corrupt(format!("it has no {name}"))),
        };
        Ok(Self { count: read(COUNT)?, sum: read(SUM)? })
    }

    fn write(&self, numbers: &mut Table<'_, &'static str, u64>) -> Result<(), LogError> {
        for (name, number) in [(COUNT, self.count), (SUM, self.sum)] {
            numbers.insert(name, number).map_err(storage)?;
        }
        Ok(())
    }

    fn forget(&mut self, key: &str, old: &[u8]) -> Result<(), LogError> {
        let sum = record::stored_checksum(old);
        let sum = sum.ok_or_else(|| LogError::Corrupt(format!("the record {key} is cut short")))?;
        self.count = self.count.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(sum.into());
        Ok(())
    }

    fn put(
        &mut self,
        records: &mut Table<'_, &'static str, &'static [u8]>,
        key: &str,
        numbers: [u64; 3],
        value: &[u8],
    ) -> Result<(), LogError> {
        if let Some(old) = records.get(key).map_err(storage)? {
            self.forget(key, old.value())?;
        }
        let mut space = records.insert_reserve(key, record::length(value.len())).map_err(storage)?;
        self.count += 1;
        self.sum = self.sum.wrapping_add(record::encode(space.as_mut(), key, numbers, value).into());
        Ok(())
    }
}

fn begin(database: &Database) -> Result<redb::WriteTransaction, LogError> {
    let mut write = database.begin_write().map_err(transaction)?;
    write.set_durability(Durability::Immediate).expect("no savepoint is ever made");
    Ok(write)
}

fn write(database: &Database, batch: &Batch) -> Result<(), LogError> {
    let write = begin(database)?;
    {
        let mut numbers = write.open_table(NUMBERS).map_err(table)?;
        let mut totals = Totals::read(&numbers)?;
        let mut records = write.open_table(RECORDS).map_err(table)?;
        for change in &batch.changes {
            match &change.action {
                Action::Delete => {
                    if let Some(old) = records.remove(&*change.key).map_err(storage)? {
                        totals.forget(&change.key, old.value())?;
                    }
                }
                Action::Put { created, expires, value } => {
                    let stamps = [change.revision, *created, expires.map_or(0, NonZeroU64::get)];
                    totals.put(&mut records, &change.key, stamps, value)?;
                }
            }
        }
        numbers.insert(REVISION, batch.revision).map_err(storage)?;
        totals.write(&mut numbers)?;
    }
    write.commit().map_err(commit)
}

fn replay(database: &Database) -> Result<Replay, LogError> {
    let read = database.begin_read().map_err(transaction)?;
    let numbers = read.open_table(NUMBERS).map_err(table)?;
    let revision = numbers.get(REVISION).map_err(storage)?.map(|found| found.value());
    let revision = revision.ok_or_else(|| LogError::Corrupt("it has no revision".into()))?;
    let totals = Totals::read(&numbers)?;
    let mut records: Vec<Record> = Vec::new();
    let mut sum = 0u64;
    for row in read.open_table(RECORDS).map_err(table)?.iter().map_err(storage)? {
        let (key, value) = row.map_err(storage)?;
        let (record, checksum) = record::decode(key.value(), value.value())?;
        sum = sum.wrapping_add(checksum.into());
        records.push(record);
    }
    if (records.len() as u64, sum) != (totals.count, totals.sum) {
        let text = format!("it holds {} records, and not the {} that were written", records.len(), totals.count);
        return Err(LogError::Corrupt(text));
    }
    Ok(Replay { revision, records })
}

fn opening(error: DatabaseError, path: PathBuf) -> LogError {
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => LogError::Held { path },
        DatabaseError::Storage(error) => storage(error),
        other => LogError::Corrupt(other.to_string()),
    }
}

fn storage(error: StorageError) -> LogError {
    match error {
        StorageError::Io(error) => error.into(),
        StorageError::Corrupted(text) => LogError::Corrupt(text),
        StorageError::DatabaseClosed => LogError::Closed,
        other => LogError::Io(std::io::Error::other(other.to_string())),
    }
}

fn transaction(error: TransactionError) -> LogError {
    match error {
        TransactionError::Storage(error) => storage(error),
        other => LogError::Io(std::io::Error::other(other.to_string())),
    }
}

fn table(error: TableError) -> LogError {
    match error {
        TableError::Storage(error) => storage(error),
        other => LogError::Corrupt(other.to_string()),
    }
}

fn commit(error: CommitError) -> LogError {
    match error {
        CommitError::Storage(error) => storage(error),
        other => LogError::Io(std::io::Error::other(other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::contract_suite!(crate::contract::reopen({
        let directory = tempfile::tempdir().unwrap();
        move || Redb::open(directory.path().join("store.redb"))
    }));

    #[test]
    fn a_second_open_says_that_it_is_in_use() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        let first = Redb::open(&path).unwrap();
        let error = Redb::open(&path).unwrap_err();
        assert!(matches!(&error, LogError::Held { path: held } if *held == path));
        assert_eq!(
            error.to_string(),
            format!("{} is already open: another process uses this data directory", path.display())
        );
        drop(first);
        Redb::open(&path).unwrap();
    }

    /// Space that is free while no cluster runs does not matter for the next start.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_store_that_was_closed_has_the_space_that_its_next_use_needs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        let put = |n: u64, length: usize| {
            let value = bytes::Bytes::from(vec![7; length]);
            let action = Action::Put { created: n, expires: None, value };
            Batch { revision: n, changes: vec![crate::Change { key: format!("/{n}").into(), revision: n, action }] }
        };
        let has_and_length = || {
            let metadata = std::fs::metadata(&path).unwrap();
            (std::os::unix::fs::MetadataExt::blocks(&metadata) * 512, metadata.len())
        };
        let log = Redb::open(&path).unwrap();
        for n in 2..150 {
            log.commit(put(n, 10_000)).await.unwrap();
            log.check_space().await.unwrap();
        }
        let (_, running) = has_and_length();
        log.close().await.unwrap();
        let (kept, closed) = has_and_length();
        assert!(closed < running, "closing shrinks the file, or there is nothing to test");
        let log = Redb::open(&path).unwrap();
        for n in 150..155 {
            log.commit(put(n, 1000)).await.unwrap();
        }
        let (has, length) = has_and_length();
        assert_eq!(has, kept, "nothing more was taken from the disk");
        assert!(has >= length + super::super::space::RESERVE_BYTES, "and nothing is missing: {has} for {length}");
    }

    #[test]
    fn a_file_that_is_not_a_log_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        let content = vec![b'x'; 8192];
        std::fs::write(&path, &content).unwrap();
        Redb::open(&path).unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }

    #[test]
    fn a_later_format_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        drop(Redb::open(&path).unwrap());
        let database = Database::open(&path).unwrap();
        let write = database.begin_write().unwrap();
        write.open_table(NUMBERS).unwrap().insert(FORMAT, FORMAT_NOW + 1).unwrap();
        write.commit().unwrap();
        drop(database);
        assert!(matches!(Redb::open(&path), Err(LogError::Corrupt(_))));
    }

    #[tokio::test]
    async fn a_file_of_the_layout_without_checksums_is_brought_to_this_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        let database = Database::create(&path).unwrap();
        let write = begin(&database).unwrap();
        {
            let mut numbers = write.open_table(NUMBERS).unwrap();
            numbers.insert(FORMAT, FORMAT_PLAIN).unwrap();
            numbers.insert(REVISION, 9).unwrap();
            let mut records = write.open_table(RECORDS).unwrap();
            for n in 2..9u64 {
                let mut bytes = [n, 1, 0].map(u64::to_le_bytes).concat();
                bytes.extend(b"value");
                records.insert(&*format!("/{n}"), &*bytes).unwrap();
            }
        }
        write.commit().unwrap();
        drop(database);
        for _ in 0..2 {
            let log = Redb::open(&path).unwrap();
            let replay = log.replay().await.unwrap();
            assert_eq!((replay.revision, replay.records.len()), (9, 7));
            let last = &replay.records[6];
            assert_eq!((&*last.key, last.revision, last.created, last.expires), ("/8", 8, 1, None));
            assert_eq!(&last.value[..], b"value");
            log.close().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_record_that_is_missing_or_came_back_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        let log = Redb::open(&path).unwrap();
        let value = bytes::Bytes::from_static(b"value");
        let change = |n: u64| crate::Change {
            key: format!("/{n}").into(),
            revision: n,
            action: Action::Put { created: n, expires: None, value: value.clone() },
        };
        log.commit(Batch { revision: 9, changes: (2..10).map(change).collect() }).await.unwrap();
        log.close().await.unwrap();
        for (what, key, with) in [("removed", "/4", None), ("another's", "/4", Some("/5"))] {
            std::fs::copy(&path, path.with_extension("copy")).unwrap();
            let database = Database::open(path.with_extension("copy")).unwrap();
            let write = begin(&database).unwrap();
            {
                let mut records = write.open_table(RECORDS).unwrap();
                let other = with.map(|other| records.get(other).unwrap().unwrap().value().to_vec());
                records.remove(key).unwrap();
                if let Some(other) = other {
                    records.insert(key, &*other).unwrap();
                }
            }
            write.commit().unwrap();
            drop(database);
            let error = Redb::open(path.with_extension("copy")).unwrap().replay().await.unwrap_err();
            assert!(matches!(&error, LogError::Corrupt(_)), "{what}: {error}");
        }
        Redb::open(&path).unwrap().replay().await.unwrap();
    }
}
