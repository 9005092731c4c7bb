//! The configuration of the engines, which the compiler and the node share so that their code is compatible.

use crate::{PoolOptions, functions::Functions};
use sha2::{Digest, Sha256};
use std::{
    hash::{Hash, Hasher},
    num::NonZeroUsize,
    sync::Arc,
};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, WasmBacktraceDetails,
};

/// The settings that determine generated code.
///
/// The proposals that `wasmtime run` enables, except shared memories: these escape the accounting of [`crate::memory`], and wasmtime calls
/// them unfinished. Atomics on other memories work. 64-bit memories have no guard pages, so that generated code checks their bounds.
pub(crate) fn code() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .wasm_threads(true)
        .shared_memory(false)
        .wasm_memory64(true)
        .wasm_wide_arithmetic(true)
        .wasm_component_model_memory64(false)
        .memory_reservation(4 << 30)
        .memory_guard_size(32 << 20)
        .memory_init_cow(true)
        .max_wasm_stack(STACK)
        .async_stack_size(STACK + HOST_STACK)
        // lines of the source are found after the trap, in a process of their own: [`crate::source`]
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        // of a trap, this only remembers what there is to dump: [`crate::core_dump`]
        .coredump_on_trap(true)
        .wasm_backtrace_max_frames(NonZeroUsize::new(32));
    config
}

/// The nice value of the guest threads and of the compiler, relative to the rest of the node. Both have the same value, so that compiling a
/// new image gets half of the CPU time even while guests keep all cores busy.
pub(crate) const NICE: i32 = 5;

/// Bytes of stack of pooled instances, which are never returned to the system.
const STACK: usize = 512 << 10;

/// Bytes of stack of single instances, such as commands. Epoch checks double the size of a frame, so that this allows the recursion depth of
/// `wasmtime run`.
const SINGLE_STACK: usize = 1 << 20;

/// Bytes of stack of host functions that a guest calls.
const HOST_STACK: usize = 512 << 10;

/// An engine for the compiler, which reserves no address space. It takes functions from a cache, if there is one.
pub(crate) fn compiler(functions: Option<Arc<Functions>>) -> wasmtime::Result<Engine> {
    let mut config = code();
    if let Some(functions) = functions {
        config.enable_incremental_compilation(functions)?;
    }
    Engine::new(&config)
}

/// Most bytes of a memory of the compiler's initialising engine, which are reserved: memories below never move.
pub(crate) const INITIALISER_MEMORY: usize = 256 << 20;

/// An engine for initialisers of programs, in the compiler: its address space is limited, and what it compiles runs once.
pub(crate) fn initialiser() -> wasmtime::Result<Engine> {
    let mut config = code();
    config
        .memory_reservation(INITIALISER_MEMORY as u64)
        .memory_reservation_for_growth(0)
        .memory_guard_size(0)
        .memory_init_cow(false)
        .coredump_on_trap(false)
        .cranelift_opt_level(OptLevel::None);
    Engine::new(&config)
}

/// Least instances of a pool. Its limits are not worth a smaller one.
const SMALLEST_POOL: u32 = 64;

/// Instances of the pool whose memory stays resident.
const RESIDENT: u32 = 64;

/// Bytes of an instance's memory that stay resident for the next one. With [`RESIDENT`] instances, a node holds at most 32 MiB so.
const RESIDENT_MEMORY: usize = 512 << 10;

/// The same for each of its tables.
const RESIDENT_TABLE: usize = 16 << 10;

/// The node's engines. Compiled code is compatible with all.
pub(crate) struct Engines {
    /// The engine with a small pool whose memory stays resident, and its number of instances. An instance there begins without page faults, in
    /// half of the time. `None` where the kernel cannot tell which pages were written (`PAGEMAP_SCAN`, Linux 6.7), or address space is short.
    pub(crate) resident: Option<(Engine, u32)>,
    /// The engine with a pool, and its number of instances; `None` where none is wanted, or address space is too short for it.
    pub(crate) pool: Option<(Engine, u32)>,
    /// The engine that allocates instances on demand, without limits of size.
    pub(crate) single: Engine,
    /// Why the pool is smaller than configured, if it is.
    pub(crate) problem: Option<String>,
}

pub(crate) fn engines(pool: PoolOptions) -> wasmtime::Result<Engines> {
    let single = Engine::new(code().max_wasm_stack(SINGLE_STACK).async_stack_size(SINGLE_STACK + HOST_STACK))?;
    if pool.pooled == 0 {
        return Ok(Engines { resident: None, pool: None, single, problem: None });
    }
    let mut instances = pool.pooled;
    let resident = resident(RESIDENT.min(instances));
    loop {
        let error = match pooled(pooling(instances)) {
            Ok(engine) => {
                let problem = (instances != pool.pooled).then(|| {
                    format!(
                        "address space is short: {instances} Wasm instances in the pool at a time instead of {} (check \
                         ulimit -v and vm.max_map_count)",
                        pool.pooled
                    )
                });
                return Ok(Engines { resident, pool: Some((engine, instances)), single, problem });
            }
            Err(error) => error,
        };
        if instances / 2 < SMALLEST_POOL {
            let text = format!(
                "address space is too short for a pool of Wasm instances ({error:#}): they are allocated one by one, which is slower"
            );
            return Ok(Engines { resident: None, pool: None, single, problem: Some(text) });
        }
        instances /= 2;
    }
}

fn pooled(pool: PoolingAllocationConfig) -> wasmtime::Result<Engine> {
    let mut config = code();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config)
}

fn resident(instances: u32) -> Option<(Engine, u32)> {
    if !PoolingAllocationConfig::is_pagemap_scan_available() {
        return None;
    }
    let mut pool = pooling(instances);
    pool.pagemap_scan(Enabled::Yes)
        .max_unused_warm_slots(instances)
        .linear_memory_keep_resident(RESIDENT_MEMORY)
        .table_keep_resident(RESIDENT_TABLE);
    let engine =
        pooled(pool).inspect_err(|error| tracing::debug!(error = %format_args!("{error:#}"), "no resident pool"));
    Some((engine.ok()?, instances))
}

/// Most core instances of one pooled component. Interpreters built as components (CPython) consist of many core modules. Larger components run
/// as single instances.
const CORE_INSTANCES: u32 = 32;
/// Most tables of one pooled component. Components, also CPython, have two: of the main module and of the imports. Each table costs an idle node
/// 56 bytes per instance of the pool.
const TABLES: u32 = 4;

/// The pool's limits. Each instance has its own memory, tables and stack, so that the number of instances is the only limit to schedule by, and no
/// component takes resources of another.
fn pooling(instances: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .max_core_instances_per_component(CORE_INSTANCES)
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES))
        .max_memories_per_component(1)
        // the GC heap is a memory too
        .total_memories(instances.saturating_mul(2))
        .total_gc_heaps(instances)
        .max_tables_per_component(TABLES)
        .max_tables_per_module(TABLES)
        .total_tables(instances.saturating_mul(TABLES))
        .total_stacks(instances)
        .table_elements(20_000)
        .max_memory_size(4 << 30)
        .max_unused_warm_slots(64)
        .linear_memory_keep_resident(0)
        .table_keep_resident(0);
    pool
}

/// What becomes of the same program in the same engine: 1 since its initialiser is run before it is compiled ([`crate::compile`]).
const PREPARATION: &[u8] = b"preparation 1";

/// Identifies the code that a compiler produces and an engine accepts: version, settings, CPU features and preparation, as 32 hexadecimal
/// digits.
pub(crate) fn compatibility(engine: &Engine) -> String {
    struct Stable(Sha256);
    impl Hasher for Stable {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update((bytes.len() as u64).to_le_bytes());
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut hasher = Stable(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.write(PREPARATION);
    hex::encode(&hasher.0.finalize()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compiler_and_all_engines_agree_on_the_code() {
        let engines = engines(PoolOptions { pooled: 64, unpooled: 0 }).unwrap();
        assert_eq!(engines.problem, None);
        let code = compatibility(&compiler(None).unwrap());
        assert_eq!(compatibility(&engines.pool.unwrap().0), code);
        assert_eq!(compatibility(&engines.single), code);
        assert!(engines.resident.is_none_or(|(engine, _)| compatibility(&engine) == code));
    }

    #[test]
    fn a_pool_that_does_not_fit_shrinks_and_says_so() {
        let engines = engines(PoolOptions { pooled: 50_000, unpooled: 0 }).unwrap();
        let problem = engines.problem.expect("100,000 x 4 GiB is more than a process can address");
        assert!(problem.contains("address space is short"), "{problem}");
        assert!(engines.pool.unwrap().1 < 50_000);
    }
}
