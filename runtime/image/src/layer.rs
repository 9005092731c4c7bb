//! Untrusted tar archives: layers, and archives given to `load`.
//!
//! Nothing here writes to a path from an archive: one file is found, or all files become blobs, and paths only select ([`crate::unpack`] makes
//! files). Sizes and counts are limited while reading, so that a decompression bomb costs no more than the limit.

use crate::{
    Limits,
    content::Content,
    error::{Fault, damaged},
};
use flate2::read::MultiGzDecoder;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::PathBuf,
};
use tar::EntryType;

/// Longest name of an entry, bytes.
const MAX_NAME: u64 = 64 << 10;
/// Longest extended header, bytes.
const MAX_HEADER: u64 = 1 << 20;
/// Largest window of a zstd frame, bytes, which is memory of the decoder.
const MAX_WINDOW: u64 = 16 << 20;
/// Most links that are followed to find a file.
const MAX_LINKS: usize = 8;

/// The rest of the limits while several archives are read.
pub(crate) struct Budget {
    bytes: u64,
    entries: usize,
    limit: u64,
}

impl Budget {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { bytes: limits.unpacked, entries: limits.entries, limit: limits.unpacked }
    }
}

/// An entry of an archive, with a clean, relative path.
pub(crate) struct Entry<'a> {
    pub path: String,
    pub kind: EntryType,
    pub link: String,
    pub size: u64,
    /// Permissions, not checked.
    pub mode: u32,
    /// When it was modified, seconds since 1970, not checked.
    pub modified: u64,
    pub data: &'a mut dyn Read,
}

/// Reads a plain, gzip or zstd archive, and calls `each` for every entry.
pub(crate) fn walk(
    file: impl Read + 'static,
    budget: &mut Budget,
    mut each: impl FnMut(Entry<'_>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut left = budget.entries;
    let reader = Limited { inner: decompress(BufReader::new(Box::new(file)))?, budget };
    let mut archive = tar::Archive::new(reader);
    let mut next = Names::default();
    for entry in archive.entries().map_err(damaged)?.raw(true) {
        let mut entry = entry.map_err(damaged)?;
        left = left.checked_sub(1).ok_or_else(|| Fault::content("the archive has too many entries"))?;
        let kind = entry.header().entry_type();
        let size = entry.header().size().map_err(damaged)?;
        if next.take(kind, size, &mut entry)? {
            continue;
        }
        if kind == EntryType::GNUSparse {
            return Err(Fault::content("the archive holds a sparse file"));
        }
        let names = std::mem::take(&mut next);
        let path = names.path.unwrap_or_else(|| text(&entry.header().path_bytes()));
        let link =
            names.link.unwrap_or_else(|| entry.header().link_name_bytes().map_or_else(String::new, |link| text(&link)));
        let path = clean("", &path)
            .ok_or_else(|| Fault::content(format!("the archive holds a path that climbs out: {path:?}")))?;
        let (mode, modified) = (entry.header().mode().unwrap_or(0o644), entry.header().mtime().unwrap_or(0));
        each(Entry { path, kind, link, size, mode, modified, data: &mut entry })?;
    }
    drop(archive);
    budget.entries = left;
    Ok(())
}

/// The names that extended headers give to the next entry.
#[derive(Default)]
struct Names {
    path: Option<String>,
    link: Option<String>,
}

impl Names {
    /// Reads an extended header; false if the entry is not one.
    fn take(&mut self, kind: EntryType, size: u64, data: &mut impl Read) -> Result<bool, Fault> {
        let limit = match kind {
            EntryType::GNULongName | EntryType::GNULongLink => MAX_NAME,
            EntryType::XHeader | EntryType::XGlobalHeader => MAX_HEADER,
            _ => return Ok(false),
        };
        if size > limit {
            return Err(Fault::content(format!("the archive has an extended header of {size} bytes")));
        }
        let mut bytes = Vec::new();
        data.read_to_end(&mut bytes).map_err(damaged)?;
        match kind {
            EntryType::GNULongName => self.path = Some(text(&bytes)),
            EntryType::GNULongLink => self.link = Some(text(&bytes)),
            EntryType::XHeader => {
                for record in tar::PaxExtensions::new(&bytes) {
                    let record = record.map_err(damaged)?;
                    match record.key_bytes() {
                        b"path" => self.path = Some(text(record.value_bytes())),
                        b"linkpath" => self.link = Some(text(record.value_bytes())),
                        b"size" => return Err(Fault::content("the archive holds a file of more than 8 GiB")),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(true)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

/// `path`, relative to the folder `from` unless it is absolute, without `.` and `..`; `None` if it leaves the root.
pub(crate) fn clean(from: &str, path: &str) -> Option<String> {
    let start = if path.starts_with('/') { "" } else { from };
    let mut parts = Vec::new();
    for part in start.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
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

type Source = BufReader<Box<dyn Read>>;

fn decompress(mut source: Source) -> Result<Box<dyn Read>, Fault> {
    let start = source.fill_buf().map_err(damaged)?;
    if start.starts_with(&[0x1f, 0x8b]) {
        Ok(Box::new(MultiGzDecoder::new(source)))
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Ok(Box::new(Zstd { source: Some(source), frame: None }))
    } else {
        Ok(Box::new(source))
    }
}

type Frame = ruzstd::decoding::StreamingDecoder<Source, ruzstd::decoding::FrameDecoder>;

/// All frames of a zstd file.
struct Zstd {
    source: Option<Source>,
    frame: Option<Box<Frame>>,
}

impl Read for Zstd {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(frame) = &mut self.frame {
                let count = frame.read(buffer)?;
                if count > 0 || buffer.is_empty() {
                    return Ok(count);
                }
                let (source, _) = self.frame.take().map(|frame| frame.into_parts()).expect("it is there");
                self.source = Some(source);
            }
            let Some(mut source) = self.source.take() else { return Ok(0) };
            if source.fill_buf()?.is_empty() {
                return Ok(0);
            }
            self.frame = Some(Box::new(Frame::new_with_max_window_size(source, MAX_WINDOW).map_err(io::Error::other)?));
        }
    }
}

/// The result of a look-up of a path in one layer.
enum Hit {
    File(crate::content::Incoming),
    Link(String),
    Hidden,
    Nothing,
}

/// Finds a file in stacked layers (the lowest first), following links inside them, and stores it as a blob.
pub(crate) fn find(
    content: &Content,
    layers: &[PathBuf],
    path: &str,
    limits: &Limits,
) -> Result<Option<(crate::Digest, u64)>, Fault> {
    let mut budget = Budget::new(limits);
    let climbs = |path: &str| Fault::content(format!("the path of the module climbs out of the image: {path:?}"));
    let mut path = clean("", path).ok_or_else(|| climbs(path))?;
    'links: for _ in 0..MAX_LINKS {
        for layer in layers.iter().rev() {
            match look(content, layer, &path, &mut budget, limits)? {
                Hit::Nothing => {}
                Hit::Hidden => return Ok(None),
                Hit::File(incoming) => return incoming.commit(None).map(Some),
                Hit::Link(to) => {
                    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                    path = clean(folder, &to).ok_or_else(|| climbs(&to))?;
                    continue 'links;
                }
            }
        }
        return Ok(None);
    }
    Err(Fault::content(format!("the path of the module is a link to a link, more than {MAX_LINKS} times")))
}

/// Most names in a message.
const NAMED: usize = 10;

/// The names of files in the layers for a message: the first few, Wasm before others.
pub(crate) fn names(layers: Vec<PathBuf>, limits: &Limits) -> Result<String, Fault> {
    let mut budget = Budget::new(limits);
    let (mut names, mut count) = (Vec::new(), 0);
    for layer in layers {
        walk(File::open(layer)?, &mut budget, |entry| {
            if matches!(entry.kind, EntryType::Regular | EntryType::Continuous) {
                count += 1;
                let wasm = [".wasm", ".wat"].iter().any(|end| entry.path.ends_with(end));
                if names.len() < NAMED || wasm {
                    names.push((!wasm, crate::registry::printable(&entry.path)));
                    names.sort();
                    names.truncate(NAMED);
                }
            }
            Ok(())
        })?;
    }
    let shown: Vec<String> = names.into_iter().map(|(_, name)| format!("{name:?}")).collect();
    Ok(match count - shown.len() {
        _ if count == 0 => "no files".into(),
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    })
}

fn look(content: &Content, layer: &PathBuf, path: &str, budget: &mut Budget, limits: &Limits) -> Result<Hit, Fault> {
    let mut hit = Hit::Nothing;
    let mut hidden = false;
    walk(File::open(layer)?, budget, |entry| {
        if entry.path == path {
            hit = match entry.kind {
                EntryType::Regular | EntryType::Continuous => {
                    Hit::File(content.receive(entry.data, entry.size, limits.module)?)
                }
                EntryType::Symlink => Hit::Link(entry.link),
                EntryType::Link => Hit::Link(format!("/{}", entry.link)),
                _ => return Err(Fault::content(format!("the module {path:?} is not a file"))),
            };
        } else {
            hidden |= hides(&entry.path, path);
        }
        Ok(())
    })?;
    Ok(if hidden && matches!(hit, Hit::Nothing) { Hit::Hidden } else { hit })
}

/// Whether an entry is a whiteout that hides `path`, or a folder above it, in the layers below.
fn hides(entry: &str, path: &str) -> bool {
    let (folder, name) = entry.rsplit_once('/').unwrap_or(("", entry));
    let Some(gone) = name.strip_prefix(".wh.") else { return false };
    let Some(inside) = path.strip_prefix(folder).filter(|_| folder.is_empty() || path[folder.len()..].starts_with('/'))
    else {
        return false;
    };
    let inside = inside.trim_start_matches('/');
    gone == ".wh..opq" || inside == gone || inside.strip_prefix(gone).is_some_and(|rest| rest.starts_with('/'))
}
