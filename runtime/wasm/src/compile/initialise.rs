//! Runs a program's initialiser once, before the program is compiled, and returns the program as the initialiser left it: its memories and
//! variables begin with what they held at the end ([Wizer](https://docs.rs/wasmtime-wizer)).
//!
//! A program asks for it by its export [`INITIALISERS`](crate::inspect::INITIALISERS). An import that the initialiser calls is an error,
//! also one with a harmless answer: the answer (no variables of the environment, no folders, a time, random bytes) would be kept, and be the
//! same in every instance of every pod. The initialiser has no input, so that what it leaves depends on the program alone.

use crate::{config, exit, inspect::Initialiser};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};
use wasmparser::ValType;
use wasmtime::{
    Engine, Instance, Module, ResourceLimiter, Store, Trap, Val, WasmBacktrace,
    component::{self, Component, Lift, WasmList},
};
use wasmtime_wizer::{ComponentInstanceState, InstanceState, SnapshotVal, Wizer};

/// Most bytes of memory and tables that the initialiser may have. A guest's instances begin with as much.
const MAX_MEMORY: usize = config::INITIALISER_MEMORY;

/// Most bytes that the initialised program may be larger than the program: what is not zero in its memories.
const MAX_GROWTH: usize = 64 << 20;

/// Most CPU time of the initialiser.
const MAX_CPU: Duration = Duration::from_secs(10);

/// The part of the compiler's CPU time that the initialiser may use, if that is less.
const CPU_SHARE: u32 = 4;

/// Handles that a call of a component itself takes: that of its thread.
const CALL_HANDLES: usize = 1;

/// How often the CPU time is looked at.
const TICK: Duration = Duration::from_millis(20);

/// Most characters of an error.
const MAX_ERROR: usize = 2_000;

/// Runs the initialiser, and returns the initialised program. `cpu`: of the compiler.
///
/// # Errors
/// Why the program cannot be initialised, as a sentence about it.
pub(super) fn run(wasm: &[u8], initialiser: &Initialiser, cpu: Duration) -> Result<Vec<u8>, String> {
    let cpu = MAX_CPU.min(cpu / CPU_SHARE);
    let name = initialiser.name;
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| error.to_string())?;
    let initialised = AssertUnwindSafe(|| {
        runtime.block_on(async {
            let engine = config::initialiser()?;
            match initialiser.component {
                true => component(&engine, wasm, name, cpu).await,
                false => module(&engine, wasm, initialiser, cpu).await,
            }
        })
    });
    // Wizer panics at some shapes of programs
    match catch_unwind(initialised) {
        Err(_) => {
            Err(format!("its initialiser {name} cannot be run: the program has a shape that Wizer does not know"))
        }
        Ok(Err(error)) => {
            let text = format!("its initialiser {name} {}", describe(&error, cpu));
            Err(text.chars().take(MAX_ERROR).collect())
        }
        Ok(Ok(initialised)) if initialised.len().saturating_sub(wasm.len()) > MAX_GROWTH => {
            Err(format!("its initialiser {name} leaves more than {} MiB that is not zero in memory", MAX_GROWTH >> 20))
        }
        Ok(Ok(initialised)) => Ok(initialised),
    }
}

/// What went wrong, after the name of the initialiser.
fn describe(error: &wasmtime::Error, cpu: Duration) -> String {
    let root = error.root_cause().to_string();
    let import = root.strip_prefix("unknown import: `").and_then(|rest| rest.split('`').next());
    let what = match (import, error.downcast_ref::<Trap>()) {
        _ if error.is::<TooLarge>() => return root,
        (_, Some(Trap::Interrupt)) => format!("takes more than {} ms of CPU time", cpu.as_millis()),
        (Some(import), _) if import.contains("random") => format!(
            "calls {import}: what is drawn before there are instances would be the same in all of them. Draw it in the program \
             (a hash map with random keys draws too: use one with fixed keys, or a sorted one)"
        ),
        (Some(import), _) => format!(
            "calls {import}: it runs once, before there are instances, without environment, arguments, files, clocks and network. \
             Do that in the program"
        ),
        _ => return format!("fails: {}", exit::describe(error)),
    };
    match error.downcast_ref::<WasmBacktrace>() {
        Some(backtrace) => format!("{what}\n{backtrace}"),
        None => what,
    }
}

#[derive(Debug, thiserror::Error)]
#[error("needs more than {} MiB of memory", MAX_MEMORY >> 20)]
struct TooLarge;

/// Limits memories and tables, in bytes.
#[derive(Default)]
struct Limits(usize);

impl Limits {
    fn grow(&mut self, bytes: usize) -> wasmtime::Result<bool> {
        self.0 = self.0.saturating_add(bytes);
        if self.0 > MAX_MEMORY { Err(TooLarge.into()) } else { Ok(true) }
    }
}

impl ResourceLimiter for Limits {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.grow(desired.saturating_sub(current))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.grow(desired.saturating_sub(current).saturating_mul(size_of::<usize>()))
    }
}

fn store(engine: &Engine) -> Store<Limits> {
    let mut store = Store::new(engine, Limits::default());
    store.limiter(|limits| limits);
    // handles are in tables of the host, which are new for each instance: a kept handle would be one of nothing
    store.set_max_component_handles(CALL_HANDLES);
    // traps at the next epoch
    store.set_epoch_deadline(1);
    store
}

/// Begins the next epoch when the process has used so much CPU time, unless this is dropped before.
struct Watch {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    fn start(engine: &Engine, cpu: Duration) -> std::io::Result<Self> {
        let (engine, ended) = (engine.clone(), Arc::new(AtomicBool::new(false)));
        let (begin, over) = (process_cpu(), ended.clone());
        let watch = move || {
            while !over.load(Relaxed) {
                if process_cpu().saturating_sub(begin) >= cpu {
                    return engine.increment_epoch();
                }
                std::thread::park_timeout(TICK);
            }
        };
        Ok(Self { ended, thread: Some(std::thread::Builder::new().spawn(watch)?) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ended.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // it does not panic
            let _ = thread.join();
        }
    }
}

fn process_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

async fn module(engine: &Engine, wasm: &[u8], initialiser: &Initialiser, cpu: Duration) -> wasmtime::Result<Vec<u8>> {
    let mut wizer = Wizer::new();
    wizer.init_func(initialiser.name);
    if let Some(resume) = initialiser.resume {
        wizer.func_rename("_start", resume);
    }
    let (context, instrumented) = wizer.instrument(wasm)?;
    let module = Module::new(engine, &instrumented)?;
    let mut linker = wasmtime::Linker::new(engine);
    linker.define_unknown_imports_as_traps(&module)?;
    let mut store = store(engine);
    let watch = Watch::start(engine, cpu)?;
    let instance = linker.instantiate_async(&mut store, &module).await?;
    // as Wizer does, which takes both away
    for name in ["_initialize", initialiser.name] {
        if module.get_export(name).is_some() {
            instance.get_typed_func::<(), ()>(&mut store, name)?.call_async(&mut store, ()).await?;
        }
    }
    drop(watch);
    wizer.snapshot(&context, &mut ModuleState { store, instance }).await
}

struct ModuleState {
    store: Store<Limits>,
    instance: Instance,
}

/// What an instrumented module exports is there: a failure would be Wizer's own, and is a panic as in its own implementation.
#[allow(clippy::expect_used)]
impl InstanceState for ModuleState {
    async fn global_get(&mut self, name: &str, _: ValType) -> SnapshotVal {
        let global = self.instance.get_global(&mut self.store, name).expect("an export of Wizer");
        match global.get(&mut self.store) {
            Val::I32(value) => SnapshotVal::I32(value),
            Val::I64(value) => SnapshotVal::I64(value),
            Val::F32(value) => SnapshotVal::F32(value),
            Val::F64(value) => SnapshotVal::F64(value),
            Val::V128(value) => SnapshotVal::V128(value.as_u128()),
            _ => unreachable!("Wizer refuses references"),
        }
    }

    async fn memory_contents(&mut self, name: &str, contents: impl FnOnce(&[u8]) + Send) {
        let memory = self.instance.get_memory(&mut self.store, name).expect("an export of Wizer");
        contents(memory.data(&self.store));
    }
}

async fn component(engine: &Engine, wasm: &[u8], name: &str, cpu: Duration) -> wasmtime::Result<Vec<u8>> {
    let mut wizer = Wizer::new();
    // Wizer would take the function away from the module as well, where the component still refers to it
    wizer.init_func(name).keep_init_func(true);
    let (context, instrumented) = wizer.instrument_component(wasm)?;
    let component = Component::new(engine, &instrumented)?;
    let mut linker = component::Linker::new(engine);
    linker.define_unknown_imports_as_traps(&component)?;
    let mut store = store(engine);
    let watch = Watch::start(engine, cpu)?;
    let instance = linker.instantiate_async(&mut store, &component).await?;
    instance.get_typed_func::<(), ()>(&mut store, name)?.call_async(&mut store, ()).await?;
    drop(watch);
    wizer.snapshot_component(&context, &mut ComponentState { store, instance }).await
}

struct ComponentState {
    store: Store<Limits>,
    instance: component::Instance,
}

impl ComponentState {
    /// As [`ModuleState`]: the functions are Wizer's.
    #[allow(clippy::expect_used)]
    async fn call<T: Lift + Send + Sync + 'static>(&mut self, instance: &str, function: &str) -> T {
        let store = &mut self.store;
        let instance_export = self.instance.get_export_index(&mut *store, None, instance).expect("an export of Wizer");
        let function =
            self.instance.get_export_index(&mut *store, Some(&instance_export), function).expect("a function of Wizer");
        let function = self.instance.get_typed_func::<(), (T,)>(&mut *store, function).expect("its type");
        function.call_async(store, ()).await.expect("there is a page of memory left").0
    }
}

impl ComponentInstanceState for ComponentState {
    async fn call_func_ret_list_u8(&mut self, instance: &str, function: &str, contents: impl FnOnce(&[u8]) + Send) {
        let list: WasmList<u8> = self.call(instance, function).await;
        contents(list.as_le_slice(&self.store));
    }

    async fn call_func_ret_s32(&mut self, instance: &str, function: &str) -> i32 {
        self.call(instance, function).await
    }

    async fn call_func_ret_s64(&mut self, instance: &str, function: &str) -> i64 {
        self.call(instance, function).await
    }

    async fn call_func_ret_f32(&mut self, instance: &str, function: &str) -> u32 {
        self.call::<f32>(instance, function).await.to_bits()
    }

    async fn call_func_ret_f64(&mut self, instance: &str, function: &str) -> u64 {
        self.call::<f64>(instance, function).await.to_bits()
    }
}
