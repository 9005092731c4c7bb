//! The engine's configuration: one for the compiler and for the node, else the code would not fit.

use crate::PoolOptions;
use sha2::{Digest, Sha256};
use std::{
    hash::{Hash, Hasher},
    num::NonZeroUsize,
};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// What generated code depends on.
///
/// What `wasmtime run` takes, but for memories that threads share: these escape the accounting of [`crate::memory`], and wasmtime calls
/// them unfinished. Atomics on other memories run. Bounds of 64-bit memories are checked by code, as they have no guard pages.
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
        .wasm_backtrace_max_frames(NonZeroUsize::new(32));
    config
}

/// Bytes of stack in the pool, where they are never given back.
const STACK: usize = 512 << 10;

/// The same of instances by themselves, where commands are. Frames that check the epoch are about twice as large: this is as deep as
/// `wasmtime run` goes.
const SINGLE_STACK: usize = 1 << 20;

/// Bytes of stack that the host has in a guest's calls.
const HOST_STACK: usize = 512 << 10;

/// An engine that only compiles: it reserves no address space.
pub(crate) fn compiler() -> wasmtime::Result<Engine> {
    Engine::new(&code())
}

/// Pools smaller than this are not worth their bounds.
const SMALLEST_POOL: u32 = 64;

/// The node's engines. Compiled code fits both.
pub(crate) struct Engines {
    /// Instances from a pool, and how many; `None` where address space is too short for one.
    pub(crate) pool: Option<(Engine, u32)>,
    /// Instances allocated one by one, of any shape.
    pub(crate) single: Engine,
    /// What is wrong, if the pool had to shrink.
    pub(crate) problem: Option<String>,
}

pub(crate) fn engines(pool: PoolOptions) -> wasmtime::Result<Engines> {
    let single = Engine::new(code().max_wasm_stack(SINGLE_STACK).async_stack_size(SINGLE_STACK + HOST_STACK))?;
    let mut instances = pool.pooled.max(1);
    loop {
        let mut config = code();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pooling(instances)));
        let error = match Engine::new(&config) {
            Ok(engine) => {
                let problem = (instances != pool.pooled.max(1)).then(|| {
                    format!(
                        "address space is short: {instances} Wasm instances in the pool at a time instead of {} (check \
                         ulimit -v and vm.max_map_count)",
                        pool.pooled
                    )
                });
                return Ok(Engines { pool: Some((engine, instances)), single, problem });
            }
            Err(error) => error,
        };
        if instances / 2 < SMALLEST_POOL {
            let text = format!(
                "address space is too short for a pool of Wasm instances ({error:#}): they are allocated one by one, which is slower"
            );
            return Ok(Engines { pool: None, single, problem: Some(text) });
        }
        instances /= 2;
    }
}

/// Core instances and tables of one component in the pool. Interpreters built as components (CPython) are many core modules. What needs
/// more is allocated by itself.
const CORE_INSTANCES: u32 = 32;
/// Components have two tables, CPython also: their main module's and that of the imports. Each costs the idle node 56 bytes for each
/// instance that there may be.
const TABLES: u32 = 4;

/// A place in the pool is all that an instance needs: whoever has one finds a memory, tables and a stack too. So there is one number to
/// share out, and no component can take what is another's by having many parts.
fn pooling(instances: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .max_core_instances_per_component(CORE_INSTANCES)
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES))
        .max_memories_per_component(1)
        // The heap of garbage-collected objects is a memory as well.
        .total_memories(instances.saturating_mul(2))
        .total_gc_heaps(instances)
        .max_tables_per_component(TABLES)
        .max_tables_per_module(TABLES)
        .total_tables(instances.saturating_mul(TABLES))
        .total_stacks(instances)
        .table_elements(20_000)
        .max_memory_size(4 << 30)
        .max_unused_warm_slots(64)
        // Nothing is kept resident: it saves no time (measured) and costs memory.
        .linear_memory_keep_resident(0)
        .table_keep_resident(0);
    pool
}

/// Names the code that this engine makes and takes: version, settings and CPU features, as 32 hexadecimal digits.
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
    hex::encode(&hasher.0.finalize()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compiler_and_both_engines_agree_on_the_code() {
        let engines = engines(PoolOptions { pooled: 64, unpooled: 0 }).unwrap();
        assert_eq!(engines.problem, None);
        let code = compatibility(&compiler().unwrap());
        assert_eq!(compatibility(&engines.pool.unwrap().0), code);
        assert_eq!(compatibility(&engines.single), code);
    }

    #[test]
    fn a_pool_that_does_not_fit_shrinks_and_says_so() {
        let engines = engines(PoolOptions { pooled: 50_000, unpooled: 0 }).unwrap();
        let problem = engines.problem.expect("100,000 x 4 GiB is more than a process can address");
        assert!(problem.contains("address space is short"), "{problem}");
        assert!(engines.pool.unwrap().1 < 50_000);
    }
}
