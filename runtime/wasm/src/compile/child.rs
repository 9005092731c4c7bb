//! The child process: it runs one job.

use crate::{
    compile::{
        initialise,
        process::{Job, Report, Task},
    },
    config, dwarf,
    functions::Functions,
    inspect, priority,
};
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, RestrictionStatus, Ruleset, RulesetAttr, RulesetError,
    Scope,
};
use rustix::process::{Resource, Rlimit, Signal};
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

/// Bytes of stack of the compiling thread: the compiler recurses into nested blocks.
const STACK: usize = 32 << 20;

/// The files of a job. The process opens no other.
struct Files {
    input: io::Result<File>,
    report: File,
    outputs: Option<Outputs>,
}

/// The files of a compilation.
struct Outputs {
    code: File,
    /// The functions of the last artifact, if there are any, and the file for those of the present one.
    functions: Option<(Option<File>, File)>,
}

impl Files {
    fn open(job: &Job) -> io::Result<Self> {
        let outputs = match &job.task {
            Task::Compile { output, functions, .. } => Some(Outputs {
                code: File::create(output)?,
                functions: match functions {
                    // the last ones may have been evicted since
                    Some(files) => {
                        let last = files.last.as_ref().and_then(|path| File::open(path).ok());
                        Some((last, File::create(&files.present)?))
                    }
                    None => None,
                },
            }),
            Task::Locate { .. } => None,
        };
        Ok(Self { input: File::open(&job.input), report: File::create(&job.report)?, outputs })
    }
}

/// The main function of the compiler's child process, for a hidden subcommand: reads one job from standard input, lowers its limits, compiles.
///
/// The result is the report file, not the exit code.
pub fn child_main() -> ExitCode {
    let mut text = String::new();
    let read = io::stdin().take(64 << 10).read_to_string(&mut text);
    let job = read.and_then(|_| Ok(serde_json::from_str::<Job>(&text)?));
    let job = match job {
        Ok(job) => job,
        Err(error) => return fail(&format!("no order on standard input: {error}")),
    };
    if let Err(error) = limit(&job) {
        return fail(&format!("cannot limit itself: {error}"));
    }
    let files = match Files::open(&job) {
        Ok(files) => files,
        Err(error) => return fail(&format!("cannot open its files: {error}")),
    };
    if let Err(error) = confine() {
        return fail(&format!("cannot confine itself: {error}"));
    }
    if let Err(error) = rayon::ThreadPoolBuilder::new().num_threads(job.threads.max(1)).stack_size(STACK).build_global()
    {
        return fail(&format!("cannot start threads: {error}"));
    }
    let worker = std::thread::Builder::new().stack_size(STACK).spawn(move || run_job(&job, files));
    match worker.map(|worker| worker.join()) {
        Ok(Ok(Ok(()))) => ExitCode::SUCCESS,
        Ok(Ok(Err(error))) => fail(&format!("cannot write its result: {error}")),
        Ok(Err(_)) => ExitCode::FAILURE,
        Err(error) => fail(&format!("cannot start a thread: {error}")),
    }
}

fn fail(text: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "{text}");
    ExitCode::FAILURE
}

fn limit(job: &Job) -> io::Result<()> {
    let bound = |value| Rlimit { current: Some(value), maximum: Some(value) };
    rustix::process::setrlimit(Resource::As, bound(job.memory))?;
    rustix::process::setrlimit(Resource::Cpu, Rlimit { current: Some(job.cpu), maximum: Some(job.cpu + 5) })?;
    rustix::process::setrlimit(Resource::Core, bound(0))?;
    rustix::process::setrlimit(Resource::Fsize, bound(2 << 30))?;
    // no privileges by exec, and no child that outlives the node
    rustix::thread::set_no_new_privs(true)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::process::nice(config::NICE)?;
    priority::compute();
    Ok(())
}

/// Gives up all files that this process has not opened, TCP, and signals to other processes, as far as the kernel can (Landlock, Linux 5.13 for
/// files). Holds for the calling thread, and for those that it starts.
fn confine() -> std::result::Result<RestrictionStatus, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V6))?
        .handle_access(AccessNet::from_all(ABI::V6))?
        .scope(Scope::from_all(ABI::V6))?
        .create()?
        .restrict_self()
}

fn run_job(job: &Job, files: Files) -> io::Result<()> {
    let Files { input, mut report, outputs } = files;
    let mut wasm = Vec::new();
    let result = match (input.and_then(|mut input| input.read_to_end(&mut wasm)), &job.task, outputs) {
        (Err(error), ..) => unreadable(&job.input, &error),
        (Ok(_), Task::Compile { digest, .. }, Some(outputs)) => {
            let (Ok(report) | Err(report)) = compile(&wasm, job, digest, outputs);
            report
        }
        (Ok(_), Task::Locate { frames }, _) => {
            Report::Located(dwarf::locate(&wasm, inspect::inspect(&wasm).initialiser.is_some(), frames))
        }
        (Ok(_), Task::Compile { .. }, None) => return Err(io::Error::other("its output is not open")),
    };
    report.write_all(&serde_json::to_vec(&result)?)
}

fn unreadable(input: &Path, error: &dyn std::fmt::Display) -> Report {
    Report::Unreadable(format!("{}: {error}", input.display()))
}

fn compile(wasm: &[u8], job: &Job, digest: &str, mut outputs: Outputs) -> std::result::Result<Report, Report> {
    let input = &job.input;
    if hex::encode(Sha256::digest(wasm)) != digest.to_ascii_lowercase() {
        return Err(unreadable(input, &format!("is not what its digest sha256:{digest} says")));
    }
    let found = inspect::inspect(wasm);
    if let Some(why) = found.never_runs {
        return Err(Report::NeverRuns(why));
    }
    let initialised;
    let wasm = match found.initialiser {
        Some(initialiser) => {
            let cpu = Duration::from_secs(job.cpu);
            initialised = initialise::run(wasm, &initialiser, cpu).map_err(Report::NeverRuns)?;
            &initialised
        }
        None => wasm,
    };
    let io = |error: io::Error| unreadable(input, &error);
    let invalid = |error: wasmtime::Error| Report::Invalid(format!("{error:#}"));
    let functions = match &mut outputs.functions {
        Some((last, _)) => Some(Arc::new(Functions::read(last.as_mut()).map_err(io)?)),
        None => None,
    };
    let engine = config::compiler(functions.clone()).map_err(invalid)?;
    // bytes 4 to 8 are version and layer; a component has layer 1
    let code = match wasm.get(4..8) {
        Some([1, 0, 0, 0]) => engine.precompile_module(wasm).map_err(invalid)?,
        Some([_, _, 1, 0]) => engine.precompile_component(wasm).map_err(invalid)?,
        version => return Err(Report::Invalid(format!("unknown version of WebAssembly: {version:x?}"))),
    };
    outputs.code.write_all(&code).map_err(io)?;
    let (functions_cached, functions_compiled) = functions.as_ref().map_or((0, 0), |functions| functions.counts());
    if let (Some(functions), Some((_, present))) = (functions, outputs.functions) {
        functions.write(present).map_err(io)?;
    }
    Ok(Report::Compiled { compatibility: config::compatibility(&engine), functions_cached, functions_compiled })
}

#[cfg(test)]
mod tests {
    use super::*;
    use landlock::RulesetStatus;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    #[test]
    fn a_confined_compiler_has_the_files_it_opened_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("input");
        std::fs::write(&path, "input").unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        // Confinement holds for a thread, and for those that it starts.
        let confined = std::thread::spawn(move || {
            let mut file = File::open(&path).unwrap();
            if confine().unwrap().ruleset == RulesetStatus::NotEnforced {
                return Vec::new();
            }
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, "input");
            let (mut created, inner) = (path.clone(), path.clone());
            created.set_file_name("created");
            let opened = std::thread::spawn(move || File::open(&inner).map(drop)).join().unwrap();
            let refused = [
                opened,
                File::create(&path).map(drop),
                File::create(&created).map(drop),
                std::fs::remove_file(&path),
                std::fs::read_dir("/").map(drop),
                std::process::Command::new("/bin/true").status().map(drop),
                TcpStream::connect(address).map(drop),
                TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map(drop),
            ];
            refused.into_iter().map(|result| result.map_err(|error| error.kind())).collect()
        });
        for (at, result) in confined.join().unwrap().into_iter().enumerate() {
            assert_eq!(result, Err(io::ErrorKind::PermissionDenied), "{at}");
        }
    }
}
