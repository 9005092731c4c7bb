//! Reads untrusted tar archives: layers, and archives given to `load`.
//!
//! Nothing is written here, and paths only name. Sizes and counts are limited while reading, so that a decompression bomb costs no more than
//! the limit.

use crate::{
    Digest, Limits,
    decompress::decompress,
    error::{Fault, damaged},
    pax::Extended,
};
use sha2::{Digest as _, Sha256};
use std::io::{self, Read};
use tar::{EntryType, Header};

/// Bytes of a header, and what contents are padded to.
const BLOCK: usize = 512;
/// Where a header tells the type.
const TYPE: usize = 156;

/// The rest of the limits while several archives are read.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    /// Bytes, unpacked.
    pub(crate) bytes: u64,
    pub(crate) entries: usize,
    /// The limit of bytes that is told.
    pub(crate) limit: u64,
}

impl Budget {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { bytes: limits.unpacked, entries: limits.entries, limit: limits.unpacked }
    }

    /// Counts what was read before or elsewhere.
    pub(crate) fn spend(&mut self, bytes: u64, entries: usize) -> Result<(), Fault> {
        let too_large = || Fault::content(format!("it unpacks to more than {} bytes", self.limit));
        let too_many = || Fault::content("the archive has too many entries");
        self.bytes = self.bytes.checked_sub(bytes).ok_or_else(too_large)?;
        self.entries = self.entries.checked_sub(entries).ok_or_else(too_many)?;
        Ok(())
    }
}

/// An entry of an archive, with a clean, relative path.
pub(crate) struct Entry {
    /// Any bytes, as names of files are.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: EntryType,
    pub(crate) link: Vec<u8>,
    pub(crate) size: u64,
    /// Permissions, not checked.
    pub(crate) mode: u32,
    /// User and group; `None` if they are no ids.
    pub(crate) owner: Option<(u32, u32)>,
    /// When it was modified, seconds since 1970 and nanoseconds, not checked.
    pub(crate) modified: (i64, u32),
    /// Numbers of a device, major and minor.
    pub(crate) device: Option<(u32, u32)>,
    /// Extended attributes, not checked.
    pub(crate) attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads a plain, gzip or zstd archive, and calls `each` for every entry with its content.
pub(crate) fn walk(
    file: impl Read + 'static,
    budget: &mut Budget,
    each: impl FnMut(Entry, &mut dyn Read) -> Result<(), Fault>,
) -> Result<(), Fault> {
    entries(decompress(file)?, budget, each).map(drop)
}

/// Like [`walk`], and reads what follows the archive too. Returns the digest of all that was unpacked, which images call a diff ID.
pub(crate) fn walk_all(
    file: impl Read + 'static,
    budget: &mut Budget,
    each: impl FnMut(Entry, &mut dyn Read) -> Result<(), Fault>,
) -> Result<Digest, Fault> {
    let hashed = Hashed { inner: decompress(file)?, hasher: Sha256::new() };
    let mut rest = entries(hashed, budget, each)?;
    io::copy(&mut rest, &mut io::sink()).map_err(damaged)?;
    Ok(Digest::finish(rest.inner.hasher))
}

fn entries<R: Read>(
    reader: R,
    budget: &mut Budget,
    mut each: impl FnMut(Entry, &mut dyn Read) -> Result<(), Fault>,
) -> Result<Limited<'_, R>, Fault> {
    let mut archive = Limited { inner: reader, budget };
    let mut next = Extended::default();
    while let Some(header) = next_header(&mut archive)? {
        let left = archive.budget.entries.checked_sub(1);
        archive.budget.entries = left.ok_or_else(|| Fault::content("the archive has too many entries"))?;
        let kind = header.entry_type();
        if let Some(limit) = Extended::limit(kind) {
            let size = header.size().map_err(damaged)?;
            if size > limit {
                return Err(Fault::content(format!("the archive has an extended header of {size} bytes")));
            }
            let mut content = Vec::new();
            with_content(&mut archive, size, |data| data.read_to_end(&mut content).map(drop).map_err(damaged))?;
            next.take(kind, &content)?;
            continue;
        }
        let entry = Entry::new(&header, std::mem::take(&mut next))?;
        with_content(&mut archive, entry.size, |data| each(entry, data))?;
    }
    Ok(archive)
}

/// The header of the next entry; `None` at the end of the archive, which is two blocks of zeros, or the end of the file.
fn next_header(archive: &mut impl Read) -> Result<Option<Header>, Fault> {
    let mut header = Header::new_old();
    for _ in 0..2 {
        let block = header.as_mut_bytes();
        let mut got = 0;
        while got < block.len() {
            match archive.read(&mut block[got..]).map_err(damaged)? {
                0 => break,
                count => got += count,
            }
        }
        match got {
            0 => return Ok(None),
            BLOCK => {}
            _ => return Err(Fault::content("the archive cannot be read: it ends within a header")),
        }
        if block.iter().any(|byte| *byte != 0) {
            let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
            let found = sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..]);
            return match header.cksum() {
                Ok(told) if told == found => Ok(Some(header)),
                _ => Err(Fault::content("the archive cannot be read: a header has a wrong sum")),
            };
        }
    }
    Ok(None)
}

/// Gives the content of an entry to read, and goes to the next header.
fn with_content(
    archive: &mut impl Read,
    size: u64,
    each: impl FnOnce(&mut dyn Read) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut data = archive.by_ref().take(size);
    each(&mut data)?;
    let rest = data.limit();
    let padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    let rest = rest.checked_add(padding).ok_or_else(|| Fault::content("the archive holds a file without end"))?;
    let skipped = io::copy(&mut archive.take(rest), &mut io::sink()).map_err(damaged)?;
    // The last one may lack its padding.
    match rest - skipped > padding {
        true => Err(Fault::content("the archive ends within a file")),
        false => Ok(()),
    }
}

impl Entry {
    fn new(header: &Header, extended: Extended) -> Result<Self, Fault> {
        let mut kind = header.entry_type();
        let (path, link, pax) = extended.into_parts();
        let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = link.or_else(|| header.link_name_bytes().map(|link| link.into_owned())).unwrap_or_default();
        if kind == EntryType::GNUSparse || pax.sparse {
            return Err(Fault::content("the archive holds a sparse file"));
        }
        // folders of the oldest archives
        if header.as_bytes()[TYPE] == 0 && path.ends_with(b"/") {
            kind = EntryType::Directory;
        }
        let size = match kind {
            // They have no content, whatever their size says.
            EntryType::Directory
            | EntryType::Link
            | EntryType::Symlink
            | EntryType::Char
            | EntryType::Block
            | EntryType::Fifo => 0,
            _ => pax.size.map_or_else(|| header.size().map_err(damaged), Ok)?,
        };
        let id = |told: Option<u64>, field: io::Result<u64>| told.or(field.ok()).and_then(|id| u32::try_from(id).ok());
        let user = id(pax.uid, header.uid().or(blank(&header.as_old().uid)));
        let group = id(pax.gid, header.gid().or(blank(&header.as_old().gid)));
        let modified = || Some((i64::try_from(header.mtime().ok()?).ok()?, 0));
        let number = |number: io::Result<Option<u32>>| number.ok().flatten();
        let path = clean(b"", &path).ok_or_else(|| {
            let path = String::from_utf8_lossy(&path);
            Fault::content(format!("the archive holds a path that climbs out: {path:?}"))
        })?;
        Ok(Self {
            path,
            kind,
            link,
            size,
            mode: header.mode().unwrap_or(0o644),
            // The system calls take the greatest for "as it is".
            owner: user.zip(group).filter(|(user, group)| *user != u32::MAX && *group != u32::MAX),
            modified: pax.modified.or_else(modified).unwrap_or_default(),
            device: number(header.device_major()).zip(number(header.device_minor())),
            attributes: pax.attributes,
        })
    }
}

/// A field that nobody filled in is zero.
fn blank(field: &[u8]) -> io::Result<u64> {
    match field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        true => Ok(0),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// `path`, relative to the folder `from` unless it is absolute, without `.` and `..`; `None` if it leaves the root.
pub(crate) fn clean(from: &[u8], path: &[u8]) -> Option<Vec<u8>> {
    let start: &[u8] = if path.starts_with(b"/") { b"" } else { from };
    let mut parts = Vec::new();
    for part in start.split(|byte| *byte == b'/').chain(path.split(|byte| *byte == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

/// [`clean`] of text.
pub(crate) fn clean_text(from: &str, path: &str) -> Option<String> {
    String::from_utf8(clean(from.as_bytes(), path.as_bytes())?).ok()
}

/// A reader that ends with an error when the budget is used up.
struct Limited<'a, R> {
    inner: R,
    budget: &'a mut Budget,
}

impl<R: Read> Read for Limited<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        match self.budget.bytes.checked_sub(count as u64) {
            Some(left) => self.budget.bytes = left,
            None => return Err(io::Error::other(format!("it unpacks to more than {} bytes", self.budget.limit))),
        }
        Ok(count)
    }
}

struct Hashed<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}
