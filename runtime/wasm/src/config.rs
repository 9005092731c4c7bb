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
/// Threads (shared memory escapes the accounting of [`crate::memory`]) and 64-bit memories (no bounds checks by guard pages) are off.
pub(crate) fn code() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .wasm_threads(false)
        .shared_memory(false)
        .wasm_memory64(false)
        .wasm_component_model_memory64(false)
        .memory_reservation(4 << 30)
        .memory_guard_size(32 << 20)
        .memory_init_cow(true)
        .max_wasm_stack(512 << 10)
        .async_stack_size(1 << 20)
        .wasm_backtrace_max_frames(NonZeroUsize::new(32));
    config
}

/// An engine that only compiles: it reserves no address space.
pub(crate) fn compiler() -> wasmtime::Result<Engine> {
    Engine::new(&code())
}

/// Pools smaller than this are not worth their bounds.
const SMALLEST_POOL: u32 = 64;

/// The node's engine, and what is wrong with it if the pool had to shrink.
pub(crate) fn engine(pool: PoolOptions) -> wasmtime::Result<(Engine, Option<String>)> {
    let mut instances = pool.instances.max(1);
    loop {
        let mut config = code();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pooling(instances)));
        let error = match Engine::new(&config) {
            Ok(engine) if instances == pool.instances => return Ok((engine, None)),
            Ok(engine) => {
                let text = format!(
                    "address space is short: {instances} Wasm instances at a time instead of {} (check ulimit -v and \
                     vm.max_map_count)",
                    pool.instances
                );
                return Ok((engine, Some(text)));
            }
            Err(error) => error,
        };
        if instances / 2 < SMALLEST_POOL {
            let text = format!(
                "address space is too short for a pool of Wasm instances ({error:#}): they are allocated one by one, which is slower"
            );
            return Ok((Engine::new(&code())?, Some(text)));
        }
        instances /= 2;
    }
}

/// Interpreters built as components (CPython) are several core modules with tables each, so these are scarcer than instances.
fn pooling(instances: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(4))
        .total_memories(instances)
        .total_tables(instances.saturating_mul(4))
        .total_stacks(instances)
        .total_gc_heaps((instances / 8).max(8))
        .max_tables_per_module(8)
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
    fn compiler_and_node_agree_on_the_code() {
        let (node, problem) = engine(PoolOptions { instances: 64 }).unwrap();
        assert_eq!(problem, None);
        assert_eq!(compatibility(&node), compatibility(&compiler().unwrap()));
    }

    #[test]
    fn a_pool_that_does_not_fit_shrinks_and_says_so() {
        let (_, problem) = engine(PoolOptions { instances: 50_000 }).unwrap();
        let problem = problem.expect("50,000 x 4 GiB is more than a process can address");
        assert!(problem.contains("address space is short"), "{problem}");
    }
}
