//! The subset of `tar` that `kubectl cp` needs: it creates POSIX archives with GNU long names, and extracts POSIX, GNU and pax archives into
//! writable volumes.

use super::{ToolContext, error_text};
use crate::files::budget::ENTRY_BYTES;
use rustix::{fs::FileType, io::Errno};
use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    io::{self, Read, Write},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Component, Path, PathBuf},
};

const BLOCK: usize = 512;

/// Most bytes of a long name or an extended header.
const MAX_HEADER: u64 = 64 << 10;

/// Length of the copy buffer, bytes.
const COPY_BUFFER: usize = 32 << 10;

/// Most nested folders.
const MAX_DEPTH: usize = 256;

/// The parsed arguments.
#[derive(Debug, Default)]
struct Options {
    create: bool,
    extract: bool,
    list: bool,
    verbose: bool,
    file: Option<String>,
    folder: Option<String>,
    names: Vec<String>,
}

pub(super) fn run(context: &mut ToolContext, args: &[String]) -> io::Result<i32> {
    let options = match options(args) {
        Ok(options) => options,
        Err(text) => {
            context.print_error(&format!("tar: {text}"))?;
            return Ok(2);
        }
    };
    if options.file.as_deref().is_some_and(|file| file != "-") {
        context.print_error("tar: only archives on the standard streams are read and written: f -")?;
        return Ok(2);
    }
    match (options.create, options.extract || options.list) {
        (true, false) if !options.names.is_empty() => create(context, &options),
        (true, false) => {
            context.print_error("tar: Cowardly refusing to create an empty archive")?;
            Ok(2)
        }
        (false, true) => extract(context, &options),
        _ => {
            context.print_error("tar: You must specify one of the '-ctx' options")?;
            Ok(2)
        }
    }
}

fn options(args: &[String]) -> Result<Options, String> {
    let (mut options, mut rest, mut first) = (Options::default(), args.iter().cloned().collect::<VecDeque<_>>(), true);
    while let Some(arg) = rest.pop_front() {
        let letters = match arg.strip_prefix('-') {
            Some(long) if long.starts_with('-') => {
                match long {
                    "-no-same-owner" | "-no-same-permissions" | "-no-overwrite-dir" | "-touch" => continue,
                    "-" => options.names.extend(rest.drain(..)),
                    other => return Err(format!("unrecognized option '-{other}'")),
                }
                continue;
            }
            Some("") => None,
            Some(letters) => Some(letters.to_owned()),
            None if first => Some(arg.clone()),
            None => None,
        };
        first = false;
        let Some(letters) = letters else {
            options.names.push(arg);
            continue;
        };
        for letter in letters.chars() {
            match letter {
                'c' => options.create = true,
                'x' => options.extract = true,
                't' => options.list = true,
                'v' => options.verbose = true,
                // ignored: times, owners and permissions are not restored, and links are stored unchanged
                'm' | 'p' | 'o' | 'P' => {}
                'f' => options.file = Some(rest.pop_front().ok_or("option requires an argument -- 'f'")?),
                'C' => options.folder = Some(rest.pop_front().ok_or("option requires an argument -- 'C'")?),
                other => return Err(format!("invalid option -- '{other}'")),
            }
        }
    }
    Ok(options)
}

fn create(context: &mut ToolContext, options: &Options) -> io::Result<i32> {
    let (mut code, base) = (0, PathBuf::from(options.folder.as_deref().unwrap_or("")));
    let mut prefix_reported = false;
    for name in &options.names {
        if name.starts_with('/') && !std::mem::replace(&mut prefix_reported, true) {
            context.print_error("tar: Removing leading `/' from member names")?;
        }
        add(context, options, &base.join(name), Path::new(name), 0, &mut code)?;
    }
    context.write(&[0; BLOCK * 2])?;
    Ok(code)
}

fn add(
    context: &mut ToolContext,
    options: &Options,
    path: &Path,
    name: &Path,
    depth: usize,
    code: &mut i32,
) -> io::Result<()> {
    let mut cannot = |context: &mut ToolContext, what: &str, error: &io::Error| {
        *code = 2;
        context.print_error(&format!("tar: {}: Cannot {what}: {}", name.display(), error_text(error)))
    };
    let entry = match context.tree.stat(path, false) {
        Ok(entry) => entry,
        Err(error) => return cannot(context, "stat", &error),
    };
    if options.verbose {
        context.print_error(&name.display().to_string())?;
    }
    match entry.kind {
        FileType::Directory => {
            context.write(&header(name, b'5', 0, entry.mode, entry.modified, None))?;
            if depth == MAX_DEPTH {
                return cannot(context, "open", &Errno::LOOP.into());
            }
            let names = match context.tree.list(path) {
                Ok(names) => names,
                Err(error) => return cannot(context, "open", &error),
            };
            for one in names {
                add(context, options, &path.join(&one), &name.join(&one), depth + 1, code)?;
            }
        }
        FileType::Symlink => match context.tree.link(path) {
            Ok(target) => context.write(&header(name, b'2', 0, 0o777, entry.modified, Some(&target)))?,
            Err(error) => return cannot(context, "readlink", &error),
        },
        FileType::RegularFile => match context.tree.read(path) {
            Ok((mut file, entry)) => {
                context.write(&header(name, b'0', entry.size, entry.mode, entry.modified, None))?;
                // the header has fixed the size: a file that grows is truncated, one that shrinks is padded with zeros
                let (mut left, mut buffer) = (entry.size, vec![0; COPY_BUFFER]);
                while left > 0 {
                    let length = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let count = match file.read(&mut buffer[..length]) {
                        Ok(0) | Err(_) => {
                            buffer[..length].fill(0);
                            length
                        }
                        Ok(count) => count,
                    };
                    context.write(&buffer[..count])?;
                    left -= count as u64;
                }
                context.write(&vec![0; padding(entry.size)])?;
            }
            Err(error) => return cannot(context, "open", &error),
        },
        _ => context.print_error(&format!("tar: {}: file ignored: it is no file, folder or link", name.display()))?,
    }
    Ok(())
}

fn padding(size: u64) -> usize {
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}

/// The header blocks of a member.
fn header(name: &Path, kind: u8, size: u64, mode: u32, modified: i64, link: Option<&OsStr>) -> Vec<u8> {
    let mut bytes = name.as_os_str().as_bytes();
    while let Some(rest) = bytes.strip_prefix(b"/") {
        bytes = rest;
    }
    let mut whole = if bytes.is_empty() { b".".to_vec() } else { bytes.to_vec() };
    if kind == b'5' {
        whole.push(b'/');
    }
    let target = link.map_or(&b""[..], |link| link.as_bytes());
    let mut out = Vec::new();
    for (text, kind) in [(target, b'K'), (&whole[..], b'L')] {
        if text.len() > 100 {
            out.extend(block(b"././@LongLink", kind, text.len() as u64 + 1, 0, 0, b""));
            out.extend_from_slice(text);
            out.extend(vec![0; 1 + padding(text.len() as u64 + 1)]);
        }
    }
    out.extend(block(&whole, kind, size, mode, modified, target));
    out
}

fn block(name: &[u8], kind: u8, size: u64, mode: u32, modified: i64, link: &[u8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, length: usize, text: &[u8]| {
        let length = text.len().min(length);
        block[at..at + length].copy_from_slice(&text[..length]);
    };
    put(0, 100, name);
    put(100, 7, format!("{:07o}", mode & 0o7777).as_bytes());
    put(108, 7, b"0000000");
    put(116, 7, b"0000000");
    if size < 1 << 33 {
        put(124, 11, format!("{size:011o}").as_bytes());
    } else {
        put(124, 4, &[0x80, 0, 0, 0]);
        put(128, 8, &size.to_be_bytes());
    }
    put(136, 11, format!("{:011o}", modified.max(0) & 0o77_777_777_777).as_bytes());
    put(148, 8, b"        ");
    put(156, 1, &[kind]);
    put(157, 100, link);
    put(257, 8, b"ustar  \0");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// The header of a member.
struct Member {
    name: Vec<u8>,
    link: Vec<u8>,
    kind: u8,
    size: u64,
    mode: u32,
}

/// Fields of long-name and extended headers, which apply to the next member.
#[derive(Default)]
struct Overrides {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

fn extract(context: &mut ToolContext, options: &Options) -> io::Result<i32> {
    let (mut code, mut overrides) = (0, Overrides::default());
    let base = PathBuf::from(options.folder.as_deref().unwrap_or(""));
    if let Err(error) = context.tree.stat(&base, true) {
        context.print_error(&format!("tar: {}: Cannot open: {}", base.display(), error_text(&error)))?;
        return Ok(2);
    }
    loop {
        let mut block = [0; BLOCK];
        match context.read_full(&mut block)? {
            0 => return Ok(code),
            BLOCK => {}
            _ => {
                context.print_error("tar: Unexpected EOF in archive")?;
                return Ok(2);
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            context.drain()?;
            return Ok(code);
        }
        let Some(mut member) = member(&block) else {
            context.print_error("tar: This does not look like a tar archive")?;
            return Ok(2);
        };
        if matches!(member.kind, b'L' | b'K' | b'x' | b'g') {
            if member.size > MAX_HEADER {
                context.print_error("tar: a header is too long")?;
                return Ok(2);
            }
            let mut text = vec![0; member.size as usize + padding(member.size)];
            if context.read_full(&mut text)? < text.len() {
                context.print_error("tar: Unexpected EOF in archive")?;
                return Ok(2);
            }
            text.truncate(member.size as usize);
            overrides.apply(member.kind, &text);
            continue;
        }
        let Overrides { name, link, size } = std::mem::take(&mut overrides);
        member.name = name.unwrap_or(member.name);
        member.link = link.unwrap_or(member.link);
        member.size = size.unwrap_or(member.size);
        let shown = OsStr::from_bytes(&member.name).display().to_string();
        if options.list {
            context.print(&shown)?;
        } else if options.verbose {
            context.print_error(&shown)?;
        }
        if !extract_member(context, options, &base, &member, &shown, &mut code)? {
            context.print_error("tar: Unexpected EOF in archive")?;
            return Ok(2);
        }
    }
}

/// Extracts a member. Returns false if the archive ends before the member does.
fn extract_member(
    context: &mut ToolContext,
    options: &Options,
    base: &Path,
    member: &Member,
    shown: &str,
    code: &mut i32,
) -> io::Result<bool> {
    let file = matches!(member.kind, b'0' | 0 | b'7');
    let mut left = if file { member.size } else { 0 };
    if options.list {
        return context.skip(left + padding(left) as u64);
    }
    let name = Path::new(OsStr::from_bytes(&member.name));
    let below: PathBuf = name.components().filter(|it| matches!(it, Component::Normal(_))).collect();
    let outside = name.components().any(|it| it == Component::ParentDir);
    let path = base.join(&below);
    let made = match member.kind {
        _ if outside => Err(io::Error::other("Member name contains '..'")),
        _ if !context.space.take(ENTRY_BYTES) => Err(Errno::NOSPC.into()),
        b'5' => context.tree.make_folder(&path).map(|()| None),
        b'2' => {
            let target = OsString::from_vec(member.link.clone());
            let folder = path.parent().map_or(Ok(()), |parent| context.tree.make_folder(parent));
            folder.and_then(|()| context.tree.make_link(&path, &target)).map(|()| None)
        }
        _ if file => {
            let folder = path.parent().map_or(Ok(()), |parent| context.tree.make_folder(parent));
            folder.and_then(|()| context.tree.create(&path, member.mode)).map(Some)
        }
        _ => Err(io::Error::other("it is no file, folder or link")),
    };
    let mut file = match made {
        Ok(file) => file,
        Err(error) => {
            *code = 2;
            context.print_error(&format!("tar: {shown}: Cannot open: {}", error_text(&error)))?;
            None
        }
    };
    let (mut buffer, end) = (vec![0; COPY_BUFFER], padding(left));
    while left > 0 {
        let length = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if context.read_full(&mut buffer[..length])? < length {
            return Ok(false);
        }
        left -= length as u64;
        if let Some(to) = &mut file {
            let written = match context.space.take(length as u64) {
                true => to.write_all(&buffer[..length]),
                false => Err(Errno::NOSPC.into()),
            };
            if let Err(error) = written {
                *code = 2;
                context.print_error(&format!("tar: {shown}: Cannot write: {}", error_text(&error)))?;
                file = None;
            }
        }
    }
    context.skip(end as u64)
}

/// Parses the header block of a member; `None` if its checksum is wrong.
fn member(block: &[u8; BLOCK]) -> Option<Member> {
    let text = |from: usize, length: usize| {
        let field = &block[from..from + length];
        field[..field.iter().position(|byte| *byte == 0).unwrap_or(length)].to_vec()
    };
    let sum: u64 =
        block.iter().enumerate().map(|(at, b)| u64::from(if (148..156).contains(&at) { b' ' } else { *b })).sum();
    if number(&block[148..156])? != sum {
        return None;
    }
    let (mut name, prefix) = (text(0, 100), text(345, 155));
    if block[257..263] == *b"ustar\0" && !prefix.is_empty() {
        name = [prefix, name].join(&b'/');
    }
    let (size, mode) = (number(&block[124..136])?, number(&block[100..108])?);
    Some(Member { name, link: text(157, 100), kind: block[156], size, mode: (mode & 0o777) as u32 })
}

/// Parses a number in octal digits, or in GNU's binary form, whose first bit is set.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let rest = field.len().checked_sub(8)?;
        return field.get(rest..)?.try_into().ok().map(u64::from_be_bytes).filter(|_| field.len() > 8);
    }
    let digits = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

impl Overrides {
    fn apply(&mut self, kind: u8, text: &[u8]) {
        let name = |text: &[u8]| Some(text.strip_suffix(b"\0").unwrap_or(text).to_vec());
        match kind {
            b'L' => self.name = name(text),
            b'K' => self.link = name(text),
            b'x' => self.records(text),
            _ => {}
        }
    }

    /// Applies pax records: `LENGTH KEY=VALUE\n`, repeated.
    fn records(&mut self, mut text: &[u8]) {
        while let Some(space) = text.iter().position(|byte| *byte == b' ') {
            let length = std::str::from_utf8(&text[..space]).ok().and_then(|it| it.parse::<usize>().ok());
            let Some(record) = length.and_then(|length| text.get(space + 1..length)) else { return };
            let record = record.strip_suffix(b"\n").unwrap_or(record);
            if let Some(at) = record.iter().position(|byte| *byte == b'=') {
                let value = &record[at + 1..];
                match &record[..at] {
                    b"path" => self.name = Some(value.to_vec()),
                    b"linkpath" => self.link = Some(value.to_vec()),
                    b"size" => self.size = std::str::from_utf8(value).ok().and_then(|it| it.parse().ok()),
                    _ => {}
                }
            }
            text = &text[length.unwrap_or(text.len())..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_as_tar_does() {
        let read = |text: &str| options(&text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let out = read("cf - /data/x").unwrap();
        assert!(out.create && out.file.as_deref() == Some("-") && out.names == ["/data/x"]);
        let into = read("--no-same-permissions --no-same-owner -xmf - -C /data").unwrap();
        assert!(into.extract && into.file.as_deref() == Some("-") && into.folder.as_deref() == Some("/data"));
        assert_eq!(read("-z").unwrap_err(), "invalid option -- 'z'");
        assert_eq!(read("--zstd").unwrap_err(), "unrecognized option '--zstd'");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let long = "a/".repeat(80) + "end";
        for (name, size) in [("data/x", 5), (long.as_str(), 0), ("big", 1 << 40)] {
            let bytes = header(Path::new(name), b'0', size, 0o644, 7, None);
            let last: &[u8; BLOCK] = bytes.last_chunk().unwrap();
            let found = member(last).unwrap();
            assert_eq!((found.kind, found.size, found.mode), (b'0', size, 0o644), "{name}");
            assert_eq!(bytes.len() / BLOCK, if name.len() > 100 { 3 } else { 1 });
            assert!(name.as_bytes().starts_with(&found.name));
        }
        let mut overrides = Overrides::default();
        overrides.apply(b'x', b"18 path=some/file\n12 size=123\n");
        assert_eq!((overrides.name.as_deref(), overrides.size), (Some(&b"some/file"[..]), Some(123)));
        overrides.apply(b'x', b"999 path=x\n");
        overrides.apply(b'x', b"3 path=x\n");
        assert!(member(&[b'x'; BLOCK]).is_none());
    }
}
