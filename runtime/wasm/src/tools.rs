//! A few well-known tools, built in: a Wasm container holds one program and no shell, and people (and `kubectl cp`) still look into its
//! volumes. They see what the program sees ([`tree`]); what they use of CPU is charged to the container. But for `tar x` they only read.

mod tar;
mod tree;

use crate::{
    files::budget::{DiskSpace, InstanceFiles},
    guest::{Io, Shared},
    memory::InstanceMemory,
    pool::{Pool, RUNNING},
    quota::ThreadMeter,
    stdio::Output,
};
use container::{Error, Result, log::timestamp};
use rustix::fs::FileType;
use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncReadExt, DuplexStream},
    runtime::Handle,
    sync::oneshot,
    task::JoinHandle,
};
use tree::{Entry, Tree};

/// A tool's own: what it holds in buffers and lists.
const MEMORY: u64 = 256 << 10;

/// Files that a tool has open at a time.
const FILES: usize = 4;

/// Folders within folders.
const DEEP: usize = 256;

pub(crate) struct Tool {
    name: &'static str,
    run: fn(&mut Desk, &[String]) -> io::Result<i32>,
}

const TOOLS: [Tool; 9] = [
    Tool { name: "cat", run: cat },
    Tool { name: "echo", run: echo },
    Tool { name: "env", run: env },
    Tool { name: "ls", run: ls },
    Tool { name: "ps", run: ps },
    Tool { name: "stat", run: stat },
    Tool { name: "tar", run: tar::run },
    Tool { name: "test", run: test },
    Tool { name: "true", run: |_, _| Ok(0) },
];

/// The tool of that name, whatever folder it is said to be in.
pub(crate) fn find(program: &str) -> Option<&'static Tool> {
    let name = program.rsplit('/').next()?;
    TOOLS.iter().find(|tool| tool.name == name)
}

/// All of them, for people.
pub(crate) fn names() -> String {
    TOOLS.each_ref().map(|tool| tool.name).join(", ")
}

/// What a tool works with.
struct Desk {
    tree: Tree,
    shared: Arc<Shared>,
    space: Arc<DiskSpace>,
    input: Option<DuplexStream>,
    out: Output,
    errors: Output,
    meter: ThreadMeter,
    threads: Handle,
}

/// Runs a tool on a thread of its own: whoever reads its output may be slow, and guests are not to wait for the threads of files meanwhile. It
/// ends when nobody takes its output or gives its input any more.
pub(crate) fn start(pool: &Pool, shared: &Arc<Shared>, tool: &'static Tool, io: Io) -> JoinHandle<Result<i32>> {
    let (shared, threads, place) = (shared.clone(), pool.handle().clone(), pool.tools.clone().try_acquire_owned());
    let run = move || {
        let _place = place.map_err(|_| Error::Exhausted(format!("{RUNNING} tools run on this node already")))?;
        let (mut memory, mut files) =
            (InstanceMemory::new(shared.memory.clone()), InstanceFiles::new(shared.files.clone(), FILES));
        memory.set_host_bytes(MEMORY).map_err(|full| Error::Exhausted(full.to_string()))?;
        if !files.open(FILES, || 0) {
            return Err(Error::Exhausted("guests of this node hold too many files open".into()));
        }
        let mut desk = Desk {
            tree: Tree::new(&shared.spec.mounts, shared.spec.cwd.as_deref()),
            space: shared.space.clone(),
            meter: ThreadMeter::new(shared.quota.clone()),
            input: io.stdin.map(|(input, _)| input),
            out: io.stdout,
            errors: io.stderr,
            threads,
            shared,
        };
        let ended = (tool.run)(&mut desk, &io.args[1..]);
        desk.meter.throttle();
        // nobody takes its output: as of SIGPIPE
        Ok(ended.unwrap_or(141))
    };
    let (sender, receiver) = oneshot::channel();
    let thread = std::thread::Builder::new().name("tool".into()).spawn(move || drop(sender.send(run())));
    pool.handle().spawn(async move {
        thread.map_err(|error| Error::Other(error.into()))?;
        receiver.await.map_err(|error| Error::Other(error.into()))?
    })
}

/// An error without the number that people do not know.
fn why(error: &io::Error) -> String {
    let text = error.to_string();
    text.find(" (os error").map_or(text.as_str(), |at| &text[..at]).to_owned()
}

/// What went wrong is an error of the stream; what a path lacks is told by the tools.
impl Desk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.meter.throttle();
        self.out.write_all_blocking(bytes)
    }

    fn say(&mut self, line: &str) -> io::Result<()> {
        self.write(format!("{line}\n").as_bytes())
    }

    fn complain(&mut self, line: &str) -> io::Result<()> {
        self.errors.write_all_blocking(format!("{line}\n").as_bytes())
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.meter.throttle();
        match &mut self.input {
            Some(input) => self.threads.block_on(input.read(buffer)),
            None => Ok(0),
        }
    }

    /// As much as there is, up to all of it.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(filled)
    }

    /// False: the input has ended before.
    fn skip(&mut self, mut bytes: u64) -> io::Result<bool> {
        let mut buffer = [0; 4_096];
        while bytes > 0 {
            let most = buffer.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
            match self.read(&mut buffer[..most])? {
                0 => return Ok(false),
                count => bytes -= count as u64,
            }
        }
        Ok(true)
    }

    /// Reads to the end of the input, so that who writes it is not told of a broken pipe.
    fn drain(&mut self) -> io::Result<()> {
        while self.skip(1 << 20)? {}
        Ok(())
    }
}

/// The letters of all options in `args` and the rest of them; the first letter that is not among those known.
fn options<'a>(args: &'a [String], known: &str) -> std::result::Result<(String, Vec<&'a String>), char> {
    let (mut letters, mut rest, mut over) = (String::new(), Vec::new(), false);
    for arg in args {
        match arg.strip_prefix('-') {
            Some("-") if !over => over = true,
            Some(some) if !over && !some.is_empty() => match some.chars().find(|letter| !known.contains(*letter)) {
                Some(unknown) => return Err(unknown),
                None => letters.push_str(some),
            },
            _ => rest.push(arg),
        }
    }
    Ok((letters, rest))
}

fn unknown(desk: &mut Desk, tool: &str, letter: char) -> io::Result<i32> {
    desk.complain(&format!("{tool}: invalid option -- '{letter}'"))?;
    Ok(if tool == "ls" { 2 } else { 1 })
}

fn cat(desk: &mut Desk, args: &[String]) -> io::Result<i32> {
    let (_, files) = match options(args, "u") {
        Ok(read) => read,
        Err(letter) => return unknown(desk, "cat", letter),
    };
    let (input, mut code, mut buffer) = ("-".to_owned(), 0, vec![0; 32 << 10]);
    for name in if files.is_empty() { vec![&input] } else { files } {
        let mut file = None;
        if name != "-" {
            match desk.tree.read(Path::new(name)) {
                Ok((opened, _)) => file = Some(opened),
                Err(error) => {
                    code = 1;
                    desk.complain(&format!("cat: {name}: {}", why(&error)))?;
                    continue;
                }
            }
        }
        loop {
            let count = match &mut file {
                Some(file) => file.read(&mut buffer),
                None => desk.read(&mut buffer),
            };
            match count {
                Ok(0) => break,
                Ok(count) => desk.write(&buffer[..count])?,
                Err(error) => {
                    code = 1;
                    desk.complain(&format!("cat: {name}: {}", why(&error)))?;
                    break;
                }
            }
        }
    }
    Ok(code)
}

fn echo(desk: &mut Desk, args: &[String]) -> io::Result<i32> {
    match args.split_first() {
        Some((first, rest)) if first == "-n" => desk.write(rest.join(" ").as_bytes())?,
        _ => desk.say(&args.join(" "))?,
    }
    Ok(0)
}

fn env(desk: &mut Desk, args: &[String]) -> io::Result<i32> {
    if let Some(word) = args.first() {
        desk.complain(&format!("env: {word}: it only shows the environment here"))?;
        return Ok(125);
    }
    for (name, value) in desk.shared.clone().spec.env.iter() {
        desk.say(&format!("{name}={value}"))?;
    }
    Ok(0)
}

/// One program runs in a container, and whoever looks.
fn ps(desk: &mut Desk, _: &[String]) -> io::Result<i32> {
    let seconds = Duration::from_nanos(desk.shared.quota.used()).as_secs();
    let spec = &desk.shared.spec;
    let command = if spec.args.is_empty() { spec.name.clone() } else { spec.args.join(" ") };
    let line = format!("    1 {:>2}:{:02} {command}", seconds / 60, seconds % 60);
    desk.say("  PID  TIME COMMAND")?;
    desk.say(&line)?;
    Ok(0)
}

fn ls(desk: &mut Desk, args: &[String]) -> io::Result<i32> {
    let (letters, paths) = match options(args, "1aAdhlR") {
        Ok(read) => read,
        Err(letter) => return unknown(desk, "ls", letter),
    };
    let has = |letter| letters.contains(letter);
    let here = ".".to_owned();
    let paths = if paths.is_empty() { vec![&here] } else { paths };
    let (mut code, mut folders, titles) = (0, Vec::new(), paths.len() > 1 || has('R'));
    let mut first = true;
    for path in paths {
        let path = PathBuf::from(path);
        match desk.tree.look(&path, true).or_else(|_| desk.tree.look(&path, false)) {
            Ok(entry) if entry.kind == FileType::Directory && !has('d') => folders.push((path, 0)),
            Ok(entry) => {
                first = false;
                let line = line(desk, &path, &path.display().to_string(), entry, &letters);
                desk.say(&line)?;
            }
            Err(error) => {
                code = 2;
                desk.complain(&format!("ls: cannot access '{}': {}", path.display(), why(&error)))?;
            }
        }
    }
    folders.reverse();
    while let Some((path, deep)) = folders.pop() {
        if titles {
            let gap = if std::mem::replace(&mut first, false) { "" } else { "\n" };
            desk.say(&format!("{gap}{}:", path.display()))?;
        }
        let within = folder(desk, &path, &letters, &mut code)?;
        if has('R') && deep < DEEP {
            folders.extend(within.into_iter().rev().map(|path| (path, deep + 1)));
        }
    }
    Ok(code)
}

/// Lists one folder. Returns the folders in it, where they are asked for.
fn folder(desk: &mut Desk, path: &Path, letters: &str, code: &mut i32) -> io::Result<Vec<PathBuf>> {
    let has = |letter| letters.contains(letter);
    let mut within = Vec::new();
    let names = match desk.tree.list(path) {
        Ok(names) => names,
        Err(error) => {
            *code = 2;
            desk.complain(&format!("ls: cannot open directory '{}': {}", path.display(), why(&error)))?;
            return Ok(within);
        }
    };
    let dots = if has('a') { vec![".".into(), "..".into()] } else { Vec::new() };
    for name in dots.into_iter().chain(names) {
        let (text, dot) = (name.display().to_string(), name == "." || name == "..");
        if text.starts_with('.') && !has('a') && !has('A') {
            continue;
        }
        if !has('l') && !has('R') {
            desk.say(&text)?;
            continue;
        }
        let one = path.join(&name);
        match desk.tree.look(&one, false) {
            Ok(entry) => {
                let line = line(desk, &one, &text, entry, letters);
                desk.say(&line)?;
                if !dot && entry.kind == FileType::Directory {
                    within.push(one);
                }
            }
            Err(error) => {
                *code = 2;
                desk.complain(&format!("ls: cannot access '{}': {}", one.display(), why(&error)))?;
            }
        }
    }
    Ok(within)
}

/// One line of `ls`. Users and groups are not told: those of the node say nothing here.
fn line(desk: &Desk, path: &Path, name: &str, entry: Entry, letters: &str) -> String {
    if !letters.contains('l') {
        return name.to_owned();
    }
    let size = if letters.contains('h') { human(entry.size) } else { entry.size.to_string() };
    let link = match entry.kind {
        FileType::Symlink => desk.tree.link(path).map_or(String::new(), |to| format!(" -> {}", to.display())),
        _ => String::new(),
    };
    let time = time(entry.modified);
    let (date, clock) = (&time[..10], &time[11..16]);
    format!("{} {:>3} {size:>10} {date} {clock} {name}{link}", entry.letters(), entry.links)
}

fn time(seconds: i64) -> String {
    timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap_or(0)))
}

fn human(size: u64) -> String {
    let (mut size, mut units) = (size as f64, "KMGTP".chars());
    if size < 1024.0 {
        return size.to_string();
    }
    let mut unit = ' ';
    while size >= 1024.0 {
        (size, unit) = (size / 1024.0, units.next().unwrap_or('E'));
    }
    if size < 10.0 { format!("{size:.1}{unit}") } else { format!("{size:.0}{unit}") }
}

fn stat(desk: &mut Desk, args: &[String]) -> io::Result<i32> {
    let (mut format, mut paths, mut follow, mut rest) = (None, Vec::new(), false, args.iter());
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "-c" => format = rest.next(),
            "-L" => follow = true,
            path => paths.push(path),
        }
    }
    if paths.is_empty() {
        desk.complain("stat: missing operand")?;
        return Ok(1);
    }
    let mut code = 0;
    for path in paths {
        let entry = match desk.tree.look(Path::new(path), follow) {
            Ok(entry) => entry,
            Err(error) => {
                code = 1;
                desk.complain(&format!("stat: cannot statx '{path}': {}", why(&error)))?;
                continue;
            }
        };
        let text = format
            .map_or("  File: %n\n  Size: %s\t%F\n Inode: %i\tLinks: %h\nAccess: (0%a/%A)\nModify: %y", String::as_str);
        let shown = filled(text, path, &entry);
        desk.say(&shown)?;
    }
    Ok(code)
}

fn filled(format: &str, path: &str, entry: &Entry) -> String {
    let (mut text, mut letters) = (String::new(), format.chars());
    while let Some(letter) = letters.next() {
        match if letter == '%' { letters.next() } else { None } {
            Some('n') => text.push_str(path),
            Some('s') => text.push_str(&entry.size.to_string()),
            Some('F') => text.push_str(entry.word()),
            Some('a') => text.push_str(&format!("{:o}", entry.mode)),
            Some('A') => text.push_str(&entry.letters()),
            Some('i') => text.push_str(&entry.inode.to_string()),
            Some('h') => text.push_str(&entry.links.to_string()),
            Some('Y') => text.push_str(&entry.modified.to_string()),
            Some('y') => text.push_str(&time(entry.modified)),
            Some(other) => text.push(other),
            None => text.push(letter),
        }
    }
    text
}

/// `test -d PATH` and its like; `kubectl cp` asks so.
fn test(desk: &mut Desk, args: &[String]) -> io::Result<i32> {
    let [what, path] = args else {
        desk.complain("test: only -d, -e, -f, -h, -L, -r, -s and a path are known here")?;
        return Ok(2);
    };
    let link = matches!(what.as_str(), "-h" | "-L");
    let found = desk.tree.look(Path::new(path), !link);
    let holds = found.is_ok_and(|entry| match what.as_str() {
        "-e" | "-r" => true,
        "-d" => entry.kind == FileType::Directory,
        "-f" => entry.kind == FileType::RegularFile,
        "-s" => entry.size > 0,
        _ => link && entry.kind == FileType::Symlink,
    });
    Ok(i32::from(!holds))
}
