//! The embedded log: one redb file with the live records and the newest revision.
//!
//! Each commit is one redb transaction with immediate durability in one phase: redb writes data and header, then
//! calls `fdatasync` once; after a crash checksums choose the newer of the two headers. Reads go to the store's memory, so
//! redb's own cache is small. After a crash the first open walks the file once.

use super::{Action, Batch, Log, LogError, Record, Replay};
use crate::FIRST;
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use redb::{
    CommitError, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageBackend, StorageError,
    TableDefinition, TableError, TransactionError,
};
use std::{
    num::NonZeroU64,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Key → revision, created, expires (three little-endian u64, 0 for none), then the value.
const RECORDS: TableDefinition<&str, &[u8]> = TableDefinition::new("records");
/// Name → number: [`REVISION`] and [`FORMAT`].
const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");
const REVISION: &str = "revision";
const FORMAT: &str = "format";
/// The layout above. A file of a later layout is refused instead of misread.
const FORMAT_NOW: u64 = 1;
const HEADER: usize = 24;
/// redb's page cache, bytes: enough for the inner pages of the tree.
const CACHE: usize = 4 << 20;

/// A log in a redb file.
#[derive(Debug)]
pub struct Redb {
    /// `None` once closed.
    database: Arc<Mutex<Option<Database>>>,
}

impl Redb {
    /// Opens or makes the file. It is locked until the log is closed or dropped: a second open, by whomever, fails with
    /// [`LogError::Held`]. Blocks for as long as it takes to read the file once if the last user crashed.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, LogError> {
        let path = path.as_ref();
        let database = builder().create(path).map_err(|error| opening(error, path.to_owned()))?;
        Self::new(database)
    }

    /// The same over any storage, for tests of its failures.
    pub fn with_backend(backend: impl StorageBackend) -> Result<Self, LogError> {
        let database = builder().create_with_backend(backend).map_err(|error| opening(error, PathBuf::new()))?;
        Self::new(database)
    }

    fn new(database: Database) -> Result<Self, LogError> {
        let read = database.begin_read().map_err(transaction)?;
        match read.open_table(NUMBERS) {
            Err(TableError::TableDoesNotExist(_)) => {
                let write = begin(&database)?;
                {
                    let mut numbers = write.open_table(NUMBERS).map_err(table)?;
                    numbers.insert(FORMAT, FORMAT_NOW).map_err(storage)?;
                    numbers.insert(REVISION, FIRST).map_err(storage)?;
                    write.open_table(RECORDS).map_err(table)?;
                }
                write.commit().map_err(commit)?;
            }
            Err(error) => return Err(table(error)),
            Ok(numbers) => {
                let format = numbers.get(FORMAT).map_err(storage)?.map(|found| found.value());
                if format != Some(FORMAT_NOW) {
                    let text = format!("it has format {format:?}, this version reads {FORMAT_NOW}");
                    return Err(LogError::Corrupt(text));
                }
            }
        }
        drop(read);
        Ok(Self { database: Arc::new(Mutex::new(Some(database))) })
    }

    /// Runs `work` with the database on a thread that may block.
    async fn blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<R, LogError> + Send + 'static,
    ) -> Result<R, LogError> {
        let database = self.database.clone();
        let task = tokio::task::spawn_blocking(move || work(database.lock().as_ref().ok_or(LogError::Closed)?));
        task.await.unwrap_or_else(|error| Err(LogError::Io(std::io::Error::other(error))))
    }
}

#[async_trait]
impl Log for Redb {
    async fn replay(&self) -> Result<Replay, LogError> {
        self.blocking(replay).await
    }

    async fn commit(&self, batch: Batch) -> Result<(), LogError> {
        self.blocking(move |database| write(database, &batch)).await
    }

    async fn close(&self) -> Result<(), LogError> {
        let database = self.database.clone();
        let task = tokio::task::spawn_blocking(move || match database.lock().take() {
            None => Ok(()),
            Some(database) => database.close().map_err(|error| opening(error, PathBuf::new())),
        });
        task.await.unwrap_or_else(|error| Err(LogError::Io(std::io::Error::other(error))))
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE);
    builder
}

fn begin(database: &Database) -> Result<redb::WriteTransaction, LogError> {
    let mut write = database.begin_write().map_err(transaction)?;
    write.set_durability(Durability::Immediate).expect("no savepoint is ever made");
    Ok(write)
}

fn write(database: &Database, batch: &Batch) -> Result<(), LogError> {
    let write = begin(database)?;
    {
        let mut records = write.open_table(RECORDS).map_err(table)?;
        for change in &batch.changes {
            match &change.action {
                Action::Delete => {
                    records.remove(&*change.key).map_err(storage)?;
                }
                Action::Put { created, expires, value } => {
                    let mut space = records.insert_reserve(&*change.key, HEADER + value.len()).map_err(storage)?;
                    let space = space.as_mut();
                    space[..8].copy_from_slice(&change.revision.to_le_bytes());
                    space[8..16].copy_from_slice(&created.to_le_bytes());
                    space[16..24].copy_from_slice(&expires.map_or(0, NonZeroU64::get).to_le_bytes());
                    space[HEADER..].copy_from_slice(value);
                }
            }
        }
        write.open_table(NUMBERS).map_err(table)?.insert(REVISION, batch.revision).map_err(storage)?;
    }
    write.commit().map_err(commit)
}

fn replay(database: &Database) -> Result<Replay, LogError> {
    let read = database.begin_read().map_err(transaction)?;
    let numbers = read.open_table(NUMBERS).map_err(table)?;
    let revision = numbers.get(REVISION).map_err(storage)?.map(|found| found.value());
    let revision = revision.ok_or_else(|| LogError::Corrupt("it has no revision".into()))?;
    let mut records = Vec::new();
    for row in read.open_table(RECORDS).map_err(table)?.iter().map_err(storage)? {
        let (key, value) = row.map_err(storage)?;
        records.push(decode(key.value(), value.value())?);
    }
    Ok(Replay { revision, records })
}

fn decode(key: &str, value: &[u8]) -> Result<Record, LogError> {
    let number = |at: usize| {
        let bytes = value.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u64::from_le_bytes).ok_or_else(|| LogError::Corrupt(format!("the record {key} is cut short")))
    };
    Ok(Record {
        key: key.into(),
        revision: number(0)?,
        created: number(8)?,
        expires: NonZeroU64::new(number(16)?),
        value: Bytes::copy_from_slice(&value[HEADER..]),
    })
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
        write.open_table(NUMBERS).unwrap().insert(FORMAT, 2).unwrap();
        write.commit().unwrap();
        drop(database);
        assert!(matches!(Redb::open(&path), Err(LogError::Corrupt(_))));
    }

    #[test]
    fn a_record_that_is_cut_short_is_corrupt() {
        assert!(matches!(decode("/a", &[0; 23]), Err(LogError::Corrupt(_))));
        assert!(decode("/a", &[0; 24]).unwrap().value.is_empty());
    }
}
