//! The cache of compiled functions, which a compiler reads and writes while it compiles an artifact: of an edited program, whose engine or
//! libraries are the same, only the functions that changed are compiled again.
//!
//! A file holds the functions of the last artifact of one [`Scope`]. What a compiler writes becomes machine code of later artifacts of that
//! scope: a scope is what one owner deploys, so that a hostile module that takes over its compiler reaches no module of another owner. The
//! node authenticates the file as it does compiled code.
//!
//! The format is a sequence of entries: key (32 bytes, made by the compiler of the function's intermediate code, the target and its own
//! version), length (4 bytes, little endian), bytes.

use parking_lot::Mutex;
use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    fs::File,
    io::{self, BufWriter, Read, Write},
    ops::Range,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};
use wasmtime::CacheStore;

/// Least bytes of Wasm for which functions are kept: smaller programs compile in less than a second, and would only fill the disk.
pub(crate) const MIN_INPUT: u64 = 1 << 20;

/// Most bytes of functions that are kept of one artifact.
const MAX_BYTES: usize = 256 << 20;

const KEY: usize = 32;
const HEADER: usize = KEY + 4;

type Key = [u8; KEY];

/// The functions of the scope's last artifact, and those of the present one.
pub(crate) struct Functions {
    known: Vec<u8>,
    index: HashMap<Key, Range<usize>>,
    present: Mutex<Present>,
    used: AtomicU64,
    compiled: AtomicU64,
}

#[derive(Default)]
struct Present {
    bytes: usize,
    functions: HashMap<Key, Function>,
}

enum Function {
    Known(Range<usize>),
    New(Vec<u8>),
}

impl Functions {
    /// Reads the functions of the last artifact. A file that ends within an entry has the entries before it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn read(last: Option<&mut File>) -> io::Result<Self> {
        let mut known = Vec::new();
        if let Some(file) = last {
            file.take(MAX_BYTES as u64).read_to_end(&mut known)?;
        }
        let mut index = HashMap::new();
        let mut at = 0;
        while let Some(header) = known.get(at..at + HEADER)
            && let Some((key, length)) = header.split_first_chunk::<KEY>()
            && let Ok(length) = <[u8; 4]>::try_from(length)
            && let start = at + HEADER
            && let Some(end) = start.checked_add(u32::from_le_bytes(length) as usize).filter(|end| *end <= known.len())
        {
            index.insert(*key, start..end);
            at = end;
        }
        let (used, compiled) = Default::default();
        Ok(Self { known, index, present: Mutex::default(), used, compiled })
    }

    /// How many functions were taken from the last artifact, and how many were compiled.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.used.load(Relaxed), self.compiled.load(Relaxed))
    }

    /// Writes the functions of the present artifact.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write(&self, file: File) -> io::Result<()> {
        let mut file = BufWriter::with_capacity(256 << 10, file);
        for (key, function) in &self.present.lock().functions {
            let bytes = match function {
                Function::Known(range) => self.known.get(range.clone()).unwrap_or_default(),
                Function::New(bytes) => bytes,
            };
            let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
            file.write_all(key)?;
            file.write_all(&length.to_le_bytes())?;
            file.write_all(bytes)?;
        }
        file.flush()
    }
}

impl Present {
    /// Adds a function if there is room for it.
    fn insert(&mut self, key: Key, length: usize, function: Function) -> bool {
        let bytes = self.bytes.saturating_add(HEADER).saturating_add(length);
        if bytes > MAX_BYTES || u32::try_from(length).is_err() {
            return false;
        }
        if self.functions.insert(key, function).is_none() {
            self.bytes = bytes;
        }
        true
    }
}

impl CacheStore for Functions {
    fn get(&self, key: &[u8]) -> Option<Cow<'_, [u8]>> {
        let key = Key::try_from(key).ok()?;
        if let Some(range) = self.index.get(&key) {
            self.used.fetch_add(1, Relaxed);
            self.present.lock().insert(key, range.len(), Function::Known(range.clone()));
            return self.known.get(range.clone()).map(Cow::Borrowed);
        }
        // A program may contain a function twice.
        match self.present.lock().functions.get(&key)? {
            Function::New(bytes) => Some(Cow::Owned(bytes.clone())),
            Function::Known(_) => None,
        }
    }

    fn insert(&self, key: &[u8], value: Vec<u8>) -> bool {
        let Ok(key) = Key::try_from(key) else { return false };
        self.compiled.fetch_add(1, Relaxed);
        self.present.lock().insert(key, value.len(), Function::New(value))
    }
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Functions({} known)", self.index.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Seek;

    fn written(functions: &Functions) -> File {
        let mut file = tempfile::tempfile().unwrap();
        functions.write(file.try_clone().unwrap()).unwrap();
        file.rewind().unwrap();
        file
    }

    #[test]
    fn what_the_last_artifact_had_is_known_and_what_the_present_one_uses_is_kept() {
        let first = Functions::read(None).unwrap();
        assert!(first.get(&[1; 32]).is_none());
        assert!(first.insert(&[1; 32], b"one".to_vec()) && first.insert(&[2; 32], b"two".to_vec()));
        assert_eq!(first.get(&[1; 32]).as_deref(), Some(&b"one"[..]), "a program may contain a function twice");
        let second = Functions::read(Some(&mut written(&first))).unwrap();
        assert_eq!(second.get(&[1; 32]).as_deref(), Some(&b"one"[..]));
        assert!(second.insert(&[3; 32], Vec::new()));
        let third = Functions::read(Some(&mut written(&second))).unwrap();
        assert_eq!(third.get(&[1; 32]).as_deref(), Some(&b"one"[..]));
        assert_eq!(third.get(&[3; 32]).as_deref(), Some(&b""[..]));
        assert!(third.get(&[2; 32]).is_none(), "the second artifact did not use it");
    }

    #[test]
    fn a_file_that_ends_early_has_what_comes_before() {
        let functions = Functions::read(None).unwrap();
        functions.insert(&[1; 32], b"one".to_vec());
        let mut bytes = Vec::new();
        written(&functions).read_to_end(&mut bytes).unwrap();
        for entry in [&[2; 32][..], &[[2; 32].as_slice(), &u32::MAX.to_le_bytes(), b"short"].concat()] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&[&bytes, entry].concat()).unwrap();
            file.rewind().unwrap();
            let read = Functions::read(Some(&mut file)).unwrap();
            assert_eq!(read.get(&[1; 32]).as_deref(), Some(&b"one"[..]));
            assert!(read.get(&[2; 32]).is_none());
        }
    }

    #[test]
    fn keys_of_another_length_and_more_bytes_than_are_kept_are_refused() {
        let functions = Functions::read(None).unwrap();
        assert!(!functions.insert(b"short", Vec::new()) && functions.get(b"short").is_none());
        assert!(functions.insert(&[1; 32], vec![0; MAX_BYTES - HEADER]));
        assert!(!functions.insert(&[2; 32], Vec::new()));
    }
}
