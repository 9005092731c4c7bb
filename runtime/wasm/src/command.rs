//! Runs programs to completion: the container's program and the commands of [`crate::exec`].

use crate::{
    exit::{self, End},
    guest::{self, Guest, Io, Shared},
    image::{ENTRY_FUNCTIONS, Image, Target, list_names},
    pool::{EngineLinkers, Pool},
};
use std::sync::Arc;
use wasmtime::{
    InstancePre, Store,
    component::{self, Val},
};
use wasmtime_wasi::p3;

/// Prefix of a command that names an exported function to call instead of the program.
const FUNCTION: char = '@';

/// Runs a program to completion: the exported function that `io` names, or the entry function of the image.
pub(crate) async fn run(pool: &Arc<Pool>, shared: &Arc<Shared>, image: &Arc<Image>, io: Io) -> wasmtime::Result<End> {
    let slot = || pool.slots.command(&shared.slots, image.slot_requirements());
    let Some(slot) = slot().or_else(|| shared.memory.reclaim_node().then(slot).flatten()) else {
        let all = pool.slots.count().0;
        return Ok(End::cannot_run(format!(
            "this node runs as many Wasm instances as it can: it has places for {all}"
        )));
    };
    let cannot = |error| Ok(End::cannot_run(exit::describe(&error)));
    let target = match image.target(pool, slot.kind).await {
        Ok(target) => target,
        Err(error) => return cannot(error),
    };
    let Some(side) = pool.side(slot.kind) else { return Ok(End::cannot_run("there is no such engine")) };
    let function = io.function.clone();
    let pre = match target {
        Target::Core(pre) => {
            let mut store = match guest::core_store(&side.engine, shared, io) {
                Ok(store) => store,
                Err(error) => return cannot(error),
            };
            let ran = module(&mut store, pre, function.as_deref()).await;
            return ran.map_err(|error| store.data().with_cause(error));
        }
        Target::Command(pre) => pre.instance_pre(),
        Target::Command3(pre) => pre,
        Target::Http(_) if function.is_none() => {
            let tools = crate::tools::names();
            return Ok(End::cannot_run(format!(
                "executable file not found: a handler of HTTP is no command; there are {tools}"
            )));
        }
        Target::Http(pre) => pre.instance_pre(),
    };
    let mut store = match guest::store(&side.engine, shared, io) {
        Ok(store) => store,
        Err(error) => return cannot(error),
    };
    let ran = match (target, function) {
        (Target::Command(pre), None) => {
            let ran = async {
                let command = pre.instantiate_async(&mut store).await?;
                command.wasi_cli_run().call_run(&mut store).await
            };
            ran.await.map(|returned| End::exited(i32::from(returned.is_err())))
        }
        (Target::Command3(pre), None) => asynchronous(&mut store, pre).await,
        (_, name) => component_function(side, &mut store, pre, name.as_deref().unwrap_or_default()).await,
    };
    ran.map_err(|error| store.data().with_cause(error))
}

/// A command of WASI 0.3.
async fn asynchronous(store: &mut Store<Guest>, pre: &component::InstancePre<Guest>) -> wasmtime::Result<End> {
    let instance = pre.instantiate_async(&mut *store).await?;
    let command = p3::bindings::Command::new(&mut *store, &instance)?;
    let ran = store.run_concurrent(async |store| command.wasi_cli_run().call_run(store).await).await??;
    Ok(End::exited(i32::from(ran.is_err())))
}

async fn module(
    store: &mut Store<guest::CoreGuest>,
    pre: &InstancePre<guest::CoreGuest>,
    function: Option<&str>,
) -> wasmtime::Result<End> {
    let instance = pre.instantiate_async(&mut *store).await?;
    let entry = match function {
        Some(name) => Some(name),
        None => ENTRY_FUNCTIONS.into_iter().find(|name| instance.get_func(&mut *store, name).is_some()),
    };
    for name in ["_initialize"].into_iter().chain(entry) {
        let found = instance.get_func(&mut *store, name);
        let Some(found) = found else {
            if Some(name) == function {
                let exports: Vec<_> =
                    pre.module().exports().filter(|it| it.ty().func().is_some()).map(|it| it.name()).collect();
                return Ok(no_function(name, &exports));
            }
            continue;
        };
        let Ok(found) = found.typed::<(), ()>(&*store) else {
            return Ok(End::cannot_run(format!("the function {name} takes parameters or gives results")));
        };
        found.call_async(&mut *store, ()).await?;
    }
    Ok(End::exited(0))
}

/// Calls an exported function of a component, given as `NAME` or `INTERFACE#NAME`.
async fn component_function(
    side: &EngineLinkers,
    store: &mut Store<Guest>,
    pre: &component::InstancePre<Guest>,
    name: &str,
) -> wasmtime::Result<End> {
    let instance = pre.instantiate_async(&mut *store).await?;
    let (interface, inner) = name.split_once('#').map_or((None, name), |(interface, inner)| (Some(interface), inner));
    let within = interface.map(|name| instance.get_export_index(&mut *store, None, name));
    let found = match within {
        Some(None) => None,
        within => instance.get_export_index(&mut *store, within.flatten().as_ref(), inner),
    };
    let Some(found) = found.and_then(|index| instance.get_func(&mut *store, index)) else {
        let ty = pre.component().component_type();
        let exports: Vec<_> = ty.exports(&side.engine).map(|(name, _)| name).collect();
        return Ok(no_function(name, &exports));
    };
    let ty = found.ty(&*store);
    if ty.params().len() > 0 {
        return Ok(End::cannot_run(format!("the function {name} takes parameters")));
    }
    let mut results = vec![Val::Bool(false); ty.results().len()];
    found.call_async(&mut *store, &[], &mut results).await?;
    Ok(End::exited(i32::from(matches!(results.first(), Some(Val::Result(Err(_)))))))
}

fn no_function(name: &str, exports: &[&str]) -> End {
    End::cannot_run(format!("there is no function {name}; it exports {}", list_names(exports)))
}

/// The exported function that a command names, if it begins with [`FUNCTION`].
pub(crate) fn function_name(args: &[String]) -> Option<String> {
    args.first()?.strip_prefix(FUNCTION).map(str::to_owned)
}

/// Converts the result of a run to an exit, and counts traps.
pub(crate) async fn end(result: wasmtime::Result<End>, shared: &Shared) -> End {
    let error = match result {
        Ok(end) => return end,
        Err(error) => error,
    };
    if !exit::is_trap(&error) {
        return End::of(&error, &[]);
    }
    shared.metrics.traps.inc();
    End::of(&error, &shared.source_calls(&error).await)
}
