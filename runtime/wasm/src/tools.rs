//! Built-in tools for `kubectl exec` and `kubectl cp`: a Wasm container has one program and no shell. The tools see the mounts of the program
//! and its root ([`tree`]), and their CPU time and memory are charged to the container. All but `tar x` only read.

mod tar;
pub(crate) mod tree;

use crate::{
    files::budget::{DiskSpace, InstanceFiles},
    guest::{Io, Shared},
    memory::InstanceMemory,
    pool::{MAX_TOOLS, Pool},
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

/// Bytes that a tool is charged, for its buffers and lists.
const TOOL_MEMORY: u64 = 256 << 10;

/// Most files that a tool has open at a time.
const TOOL_FILES: usize = 4;

/// Most nested folders.
const MAX_DEPTH: usize = 256;

pub(crate) struct Tool {
    name: &'static str,
    run: fn(&mut ToolContext, &[String]) -> io::Result<i32>,
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

/// Finds the tool of a name or path; its folder does not matter.
pub(crate) fn find(program: &str) -> Option<&'static Tool> {
    let name = program.rsplit('/').next()?;
    TOOLS.iter().find(|tool| tool.name == name)
}

/// The names of all tools, for messages.
pub(crate) fn names() -> String {
    TOOLS.each_ref().map(|tool| tool.name).join(", ")
}

/// The streams, files and limits of one run of a tool.
struct ToolContext {
    tree: Tree,
    shared: Arc<Shared>,
    space: Arc<DiskSpace>,
    input: Option<DuplexStream>,
    out: Output,
    errors: Output,
    meter: ThreadMeter,
    threads: Handle,
}

/// Runs a tool on a separate thread: a slow reader of its output then blocks no thread of file calls that guests need. The tool ends when its
/// output is closed or its input is closed.
pub(crate) fn start(pool: &Pool, shared: &Arc<Shared>, tool: &'static Tool, io: Io) -> JoinHandle<Result<i32>> {
    let (shared, threads, place) = (shared.clone(), pool.handle().clone(), pool.tools.clone().try_acquire_owned());
    let run = move || {
        let _place = place.map_err(|_| Error::Exhausted(format!("{MAX_TOOLS} tools run on this node already")))?;
        let (mut memory, mut files) =
            (InstanceMemory::new(shared.memory.clone()), InstanceFiles::new(shared.files.clone(), TOOL_FILES));
        memory.set_host_bytes(TOOL_MEMORY).map_err(|full| Error::Exhausted(full.to_string()))?;
        if !files.open(TOOL_FILES, || 0) {
            return Err(Error::Exhausted("guests of this node hold too many files open".into()));
        }
        let mut context = ToolContext {
            tree: Tree::new(&shared.spec, shared.root.clone(), shared.space.clone()),
            space: shared.space.clone(),
            meter: ThreadMeter::new(shared.quota.clone()),
            input: io.stdin.map(|(input, _)| input),
            out: io.stdout,
            errors: io.stderr,
            threads,
            shared,
        };
        let ended = (tool.run)(&mut context, &io.args[1..]);
        context.meter.throttle();
        // the output was closed: the exit code of SIGPIPE
        Ok(ended.unwrap_or(141))
    };
    let (sender, receiver) = oneshot::channel();
    let thread = std::thread::Builder::new().name("tool".into()).spawn(move || drop(sender.send(run())));
    pool.handle().spawn(async move {
        thread.map_err(|error| Error::Other(error.into()))?;
        receiver.await.map_err(|error| Error::Other(error.into()))?
    })
}

/// The text of an error without its number.
fn error_text(error: &io::Error) -> String {
    let text = error.to_string();
    text.find(" (os error").map_or(text.as_str(), |at| &text[..at]).to_owned()
}

/// Errors of these functions are errors of the streams. Tools report errors of paths themselves.
impl ToolContext {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.meter.throttle();
        self.out.write_all_blocking(bytes)
    }

    fn print(&mut self, line: &str) -> io::Result<()> {
        self.write(format!("{line}\n").as_bytes())
    }

    fn print_error(&mut self, line: &str) -> io::Result<()> {
        self.errors.write_all_blocking(format!("{line}\n").as_bytes())
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.meter.throttle();
        match &mut self.input {
            Some(input) => self.threads.block_on(input.read(buffer)),
            None => Ok(0),
        }
    }

    /// Reads until the buffer is full or the input ends. Returns the length.
    fn read_full(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(filled)
    }

    /// Skips input. Returns false if it ends earlier.
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

    /// Reads to the end of the input, so that its writer gets no broken pipe.
    fn drain(&mut self) -> io::Result<()> {
        while self.skip(1 << 20)? {}
        Ok(())
    }
}

/// Splits arguments into option letters and operands. Fails with the first unknown letter.
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

fn unknown(context: &mut ToolContext, tool: &str, letter: char) -> io::Result<i32> {
    context.print_error(&format!("{tool}: invalid option -- '{letter}'"))?;
    Ok(if tool == "ls" { 2 } else { 1 })
}

fn cat(context: &mut ToolContext, args: &[String]) -> io::Result<i32> {
    let (_, files) = match options(args, "u") {
        Ok(read) => read,
        Err(letter) => return unknown(context, "cat", letter),
    };
    let (input, mut code, mut buffer) = ("-".to_owned(), 0, vec![0; 32 << 10]);
    for name in if files.is_empty() { vec![&input] } else { files } {
        let mut file = None;
        if name != "-" {
            match context.tree.read(Path::new(name)) {
                Ok((opened, _)) => file = Some(opened),
                Err(error) => {
                    code = 1;
                    context.print_error(&format!("cat: {name}: {}", error_text(&error)))?;
                    continue;
                }
            }
        }
        loop {
            let count = match &mut file {
                Some(file) => file.read(&mut buffer),
                None => context.read(&mut buffer),
            };
            match count {
                Ok(0) => break,
                Ok(count) => context.write(&buffer[..count])?,
                Err(error) => {
                    code = 1;
                    context.print_error(&format!("cat: {name}: {}", error_text(&error)))?;
                    break;
                }
            }
        }
    }
    Ok(code)
}

fn echo(context: &mut ToolContext, args: &[String]) -> io::Result<i32> {
    match args.split_first() {
        Some((first, rest)) if first == "-n" => context.write(rest.join(" ").as_bytes())?,
        _ => context.print(&args.join(" "))?,
    }
    Ok(0)
}

fn env(context: &mut ToolContext, args: &[String]) -> io::Result<i32> {
    if let Some(word) = args.first() {
        context.print_error(&format!("env: {word}: it only shows the environment here"))?;
        return Ok(125);
    }
    for (name, value) in context.shared.clone().spec.env.iter() {
        context.print(&format!("{name}={value}"))?;
    }
    Ok(0)
}

/// Lists the container's program, which is its only process.
fn ps(context: &mut ToolContext, _: &[String]) -> io::Result<i32> {
    let seconds = Duration::from_nanos(context.shared.quota.used()).as_secs();
    let spec = &context.shared.spec;
    let command = if spec.args.is_empty() { spec.name.clone() } else { spec.args.join(" ") };
    let line = format!("    1 {:>2}:{:02} {command}", seconds / 60, seconds % 60);
    context.print("  PID  TIME COMMAND")?;
    context.print(&line)?;
    Ok(0)
}

fn ls(context: &mut ToolContext, args: &[String]) -> io::Result<i32> {
    let (letters, paths) = match options(args, "1aAdhlR") {
        Ok(read) => read,
        Err(letter) => return unknown(context, "ls", letter),
    };
    let has = |letter| letters.contains(letter);
    let here = ".".to_owned();
    let paths = if paths.is_empty() { vec![&here] } else { paths };
    let (mut code, mut folders, titles) = (0, Vec::new(), paths.len() > 1 || has('R'));
    let mut first = true;
    for path in paths {
        let path = PathBuf::from(path);
        match context.tree.stat(&path, true).or_else(|_| context.tree.stat(&path, false)) {
            Ok(entry) if entry.kind == FileType::Directory && !has('d') => folders.push((path, 0)),
            Ok(entry) => {
                first = false;
                let line = line(context, &path, &path.display().to_string(), entry, &letters);
                context.print(&line)?;
            }
            Err(error) => {
                code = 2;
                context.print_error(&format!("ls: cannot access '{}': {}", path.display(), error_text(&error)))?;
            }
        }
    }
    folders.reverse();
    while let Some((path, depth)) = folders.pop() {
        if titles {
            let gap = if std::mem::replace(&mut first, false) { "" } else { "\n" };
            context.print(&format!("{gap}{}:", path.display()))?;
        }
        let subfolders = folder(context, &path, &letters, &mut code)?;
        if has('R') && depth < MAX_DEPTH {
            folders.extend(subfolders.into_iter().rev().map(|path| (path, depth + 1)));
        }
    }
    Ok(code)
}

/// Lists one folder. Returns its subfolders if `letters` contains `R` or `l`.
fn folder(context: &mut ToolContext, path: &Path, letters: &str, code: &mut i32) -> io::Result<Vec<PathBuf>> {
    let has = |letter| letters.contains(letter);
    let mut subfolders = Vec::new();
    let names = match context.tree.list(path) {
        Ok(names) => names,
        Err(error) => {
            *code = 2;
            context.print_error(&format!("ls: cannot open directory '{}': {}", path.display(), error_text(&error)))?;
            return Ok(subfolders);
        }
    };
    let dots = if has('a') { vec![".".into(), "..".into()] } else { Vec::new() };
    for name in dots.into_iter().chain(names) {
        let (text, dot) = (name.display().to_string(), name == "." || name == "..");
        if text.starts_with('.') && !has('a') && !has('A') {
            continue;
        }
        if !has('l') && !has('R') {
            context.print(&text)?;
            continue;
        }
        let one = path.join(&name);
        match context.tree.stat(&one, false) {
            Ok(entry) => {
                let line = line(context, &one, &text, entry, letters);
                context.print(&line)?;
                if !dot && entry.kind == FileType::Directory {
                    subfolders.push(one);
                }
            }
            Err(error) => {
                *code = 2;
                context.print_error(&format!("ls: cannot access '{}': {}", one.display(), error_text(&error)))?;
            }
        }
    }
    Ok(subfolders)
}

/// Formats a line of `ls`, without user and group: those of the node mean nothing to a guest.
fn line(context: &ToolContext, path: &Path, name: &str, entry: Entry, letters: &str) -> String {
    if !letters.contains('l') {
        return name.to_owned();
    }
    let size = if letters.contains('h') { human(entry.size) } else { entry.size.to_string() };
    let link = match entry.kind {
        FileType::Symlink => context.tree.link(path).map_or(String::new(), |to| format!(" -> {}", to.display())),
        _ => String::new(),
    };
    let time = time(entry.modified);
    let (date, clock) = (&time[..10], &time[11..16]);
    format!("{} {:>3} {size:>10} {date} {clock} {name}{link}", entry.mode_text(), entry.links)
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

fn stat(context: &mut ToolContext, args: &[String]) -> io::Result<i32> {
    let (mut format, mut paths, mut follow, mut rest) = (None, Vec::new(), false, args.iter());
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "-c" => format = rest.next(),
            "-L" => follow = true,
            path => paths.push(path),
        }
    }
    if paths.is_empty() {
        context.print_error("stat: missing operand")?;
        return Ok(1);
    }
    let mut code = 0;
    for path in paths {
        let entry = match context.tree.stat(Path::new(path), follow) {
            Ok(entry) => entry,
            Err(error) => {
                code = 1;
                context.print_error(&format!("stat: cannot statx '{path}': {}", error_text(&error)))?;
                continue;
            }
        };
        let text = format
            .map_or("  File: %n\n  Size: %s\t%F\n Inode: %i\tLinks: %h\nAccess: (0%a/%A)\nModify: %y", String::as_str);
        let shown = formatted(text, path, &entry);
        context.print(&shown)?;
    }
    Ok(code)
}

fn formatted(format: &str, path: &str, entry: &Entry) -> String {
    let (mut text, mut letters) = (String::new(), format.chars());
    while let Some(letter) = letters.next() {
        match if letter == '%' { letters.next() } else { None } {
            Some('n') => text.push_str(path),
            Some('s') => text.push_str(&entry.size.to_string()),
            Some('F') => text.push_str(entry.kind_name()),
            Some('a') => text.push_str(&format!("{:o}", entry.mode)),
            Some('A') => text.push_str(&entry.mode_text()),
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
fn test(context: &mut ToolContext, args: &[String]) -> io::Result<i32> {
    let [what, path] = args else {
        context.print_error("test: only -d, -e, -f, -h, -L, -r, -s and a path are known here")?;
        return Ok(2);
    };
    let link = matches!(what.as_str(), "-h" | "-L");
    let found = context.tree.stat(Path::new(path), !link);
    let holds = found.is_ok_and(|entry| match what.as_str() {
        "-e" | "-r" => true,
        "-d" => entry.kind == FileType::Directory,
        "-f" => entry.kind == FileType::RegularFile,
        "-s" => entry.size > 0,
        _ => link && entry.kind == FileType::Symlink,
    });
    Ok(i32::from(!holds))
}
