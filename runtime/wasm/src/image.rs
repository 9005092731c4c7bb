//! A compiled and linked artifact, of which containers start instances.

use crate::{
    guest::{CoreGuest, Guest},
    pool::{EngineLinkers, Pool},
    slots::{SlotKind, SlotRequirements},
};
use container::{Artifact, Error, Prepared, Result};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::sync::OnceCell;
use wasmtime::{
    InstancePre, Module, ResourcesRequired,
    component::{self, Component, types::ComponentItem},
};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::{p2::bindings::ProxyPre, p3::bindings::ServicePre};

/// A prepared artifact: one `InstancePre` for all containers of the image, on each engine that it runs on.
pub(crate) struct Image {
    artifact: Artifact,
    pub(crate) kind: Kind,
    /// `None` if it exceeds the pool's limits.
    pool: Option<Target>,
    /// Loaded after some requests, for a handler that fits the pool.
    resident: OnceCell<Target>,
    /// Requests that asked for [`Image::resident`] before it was loaded.
    asked: AtomicUsize,
    /// Loaded at the first use, for a handler that fits the pool.
    single: OnceCell<Target>,
    load: Load,
    /// Upper bound of the initial memory and tables of an instance, bytes; 0 if unknown.
    pub(crate) initial_memory: u64,
    memories: usize,
}

/// Loads the code for another engine. Blocks on the disk.
pub(crate) type Load = Box<dyn Fn(&EngineLinkers) -> wasmtime::Result<Target> + Send + Sync>;

/// Requests after which a handler is loaded for the resident pool. Most handlers of a node answer none for a long time.
const RESIDENT_AFTER: usize = 16;

/// The kind of guest, which its exports determine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `wasi:http/incoming-handler` or `wasi:http/handler`.
    Http,
    /// `wasi:cli/run`.
    Command,
    /// `_start`.
    Core,
}

/// A linked guest on one engine.
pub(crate) enum Target {
    Http(ProxyPre<Guest>),
    /// `wasi:http/handler` of WASI 0.3, whose function is asynchronous.
    Http3(ServicePre<Guest>),
    Command(CommandPre<Guest>),
    /// `wasi:cli/run` of WASI 0.3, whose function is asynchronous.
    Command3(component::InstancePre<Guest>),
    Core(InstancePre<CoreGuest>),
}

/// A linked guest, and the resources that an instance requires.
pub(crate) struct Loaded {
    pub(crate) target: Target,
    needs: Option<ResourcesRequired>,
}

/// Compiled code on one engine.
pub(crate) enum Code {
    Component(Component),
    Module(Module),
}

pub(crate) const EXPECTED: &str = "expected a component that exports wasi:http/incoming-handler@0.2, wasi:http/handler@0.3, or wasi:cli/run@0.2 or \
                        @0.3, or a core module with the function _start (WASI preview 1)";

/// The entry functions of core modules. The first one that is exported is called, as by `wasmtime run`.
pub(crate) const ENTRY_FUNCTIONS: [&str; 2] = ["", "_start"];

const HANDLER: &str = "wasi:http/incoming-handler@0.2.";
const HANDLER3: &str = "wasi:http/handler@0.3.";
const RUN: &str = "wasi:cli/run@0.2.";
const RUN3: &str = "wasi:cli/run@0.3.";

/// The interfaces of a component that may be its program, the first of them that it has, without the last number of their versions. A Rust
/// program that exports `wasi:cli/run@0.3` has one of 0.2 as well, which the compiler adds for `main`: as in `wasmtime run`, 0.3 is called.
pub(crate) const COMPONENTS: [&str; 4] = [HANDLER, HANDLER3, RUN3, RUN];

impl Image {
    /// An image of code that was loaded for the pool, for single instances, or both.
    pub(crate) fn new(artifact: Artifact, load: Load, pool: Option<Loaded>, single: Option<Loaded>) -> Result<Self> {
        let Some(known) = pool.as_ref().or(single.as_ref()) else {
            return Err(Error::Other(anyhow::anyhow!("nothing was loaded")));
        };
        let kind = known.target.kind();
        let initial_memory = known.needs.as_ref().map_or(0, initial_bytes);
        let memories = known.needs.as_ref().map_or(1, |it| it.num_memories.max(1)) as usize;
        let single = OnceCell::new_with(single.map(|it| it.target));
        let (resident, asked) = (OnceCell::new(), AtomicUsize::new(0));
        let pool = pool.map(|it| it.target);
        Ok(Self { artifact, kind, pool, resident, asked, single, load, initial_memory, memories })
    }

    /// Whether it is a handler of WASI 0.3, an instance of which may answer several requests at the same time.
    pub(crate) fn is_concurrent(&self) -> bool {
        matches!(self.pool.as_ref().or_else(|| self.single.get()), Some(Target::Http3(_)))
    }

    /// The slots that an instance needs.
    pub(crate) fn slot_requirements(&self) -> SlotRequirements {
        SlotRequirements { fits_pool: self.pool.is_some(), single: self.memories }
    }

    /// The guest to instantiate in a slot of the pool or of single instances.
    pub(crate) async fn target(self: &Arc<Self>, pool: &Arc<Pool>, kind: SlotKind) -> wasmtime::Result<&Target> {
        if kind == SlotKind::Pool {
            return self.pool.as_ref().ok_or_else(|| wasmtime::format_err!("it does not fit the pool"));
        }
        let load = async || {
            let (this, node) = (self.clone(), pool.clone());
            let load = move || (this.load)(&node.single);
            pool.handle().spawn_blocking(load).await?
        };
        self.single.get_or_try_init(load).await
    }

    /// The guest to instantiate in the resident pool: `None` until it is loaded, which its first requests cause.
    pub(crate) fn resident(self: &Arc<Self>, pool: &Arc<Pool>) -> Option<&Target> {
        let loaded = self.resident.get();
        if loaded.is_none() && self.asked.fetch_add(1, Relaxed) == RESIDENT_AFTER {
            let (this, node) = (self.clone(), pool.clone());
            pool.handle().spawn_blocking(move || {
                let Some(resident) = node.resident() else { return };
                match (this.load)(&resident.side) {
                    // set once only: there is one such task
                    Ok(target) => drop(this.resident.set(target)),
                    Err(error) => tracing::debug!(error = %format_args!("{error:#}"), "not for the resident pool"),
                }
            });
        }
        loaded
    }
}

impl Loaded {
    pub(crate) fn new(side: &EngineLinkers, code: &Code) -> Result<Self> {
        Ok(match code {
            Code::Component(component) => {
                Self { target: Target::component(side, component)?, needs: component.resources_required() }
            }
            Code::Module(module) => {
                Self { target: Target::module(side, module)?, needs: Some(module.resources_required()) }
            }
        })
    }
}

impl Target {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Http(_) | Self::Http3(_) => Kind::Http,
            Self::Command(_) | Self::Command3(_) => Kind::Command,
            Self::Core(_) => Kind::Core,
        }
    }

    fn component(side: &EngineLinkers, component: &Component) -> Result<Self> {
        let ty = component.component_type();
        let exports: Vec<&str> = ty
            .exports(&side.engine)
            .filter(|(_, item)| {
                matches!(item.ty, ComponentItem::ComponentInstance(_) | ComponentItem::ComponentFunc(_))
            })
            .map(|(name, _)| name)
            .collect();
        let exported = |interface: &str| exports.iter().any(|name| name.starts_with(interface));
        let Some(entry) = COMPONENTS.into_iter().find(|name| exported(name)) else {
            return Err(invalid(format!("this component exports {}", list_names(&exports))));
        };
        let pre = side.components.instantiate_pre(component).map_err(unlinkable)?;
        Ok(match entry {
            HANDLER => Self::Http(ProxyPre::new(pre).map_err(unlinkable)?),
            HANDLER3 => Self::Http3(ServicePre::new(pre).map_err(unlinkable)?),
            RUN => Self::Command(CommandPre::new(pre).map_err(unlinkable)?),
            _ => Self::Command3(pre),
        })
    }

    fn module(side: &EngineLinkers, module: &Module) -> Result<Self> {
        let mut entries =
            ENTRY_FUNCTIONS.iter().filter_map(|name| Some((name, module.get_export(name)?.func()?.clone())));
        let Some((name, entry)) = entries.next() else {
            let exports: Vec<&str> = module.exports().map(|export| export.name()).collect();
            return Err(invalid(format!("this core module exports {}", list_names(&exports))));
        };
        if entry.params().len() + entry.results().len() > 0 {
            return Err(invalid(format!("this core module's function `{name}` takes parameters or gives results")));
        }
        Ok(Self::Core(side.modules.instantiate_pre(module).map_err(unlinkable)?))
    }
}

/// Upper bound of the initial bytes: each memory and table counts as the largest one.
fn initial_bytes(needs: &ResourcesRequired) -> u64 {
    let bytes = |count: u32, most: Option<u64>, size: u64| {
        u64::from(count).saturating_mul(most.unwrap_or(0)).saturating_mul(size)
    };
    // in pages of 64 KiB: custom page sizes are disabled
    let memories = bytes(needs.num_memories, needs.max_initial_memory_size, 64 << 10);
    memories.saturating_add(bytes(needs.num_tables, needs.max_initial_table_size, size_of::<usize>() as u64))
}

fn invalid(found: String) -> Error {
    Error::Invalid(format!("{found}; {EXPECTED}"))
}

fn unlinkable(error: wasmtime::Error) -> Error {
    Error::Invalid(format!("{NOT_OFFERED}: {error:#}"))
}

pub(crate) const NOT_OFFERED: &str = "it imports what this node does not offer (WASI preview 1 for modules; WASI 0.2 and 0.3 with wasi:http, wasi:tls, wasi:config and wasi:keyvalue for components)";

/// Joins the first few names: a hostile module may have a million.
pub(crate) fn list_names(names: &[&str]) -> String {
    const MAX_NAMES: usize = 8;
    if names.is_empty() {
        return "nothing".to_string();
    }
    let mut text =
        names.iter().take(MAX_NAMES).map(|name| name.chars().take(80).collect()).collect::<Vec<String>>().join(", ");
    if names.len() > MAX_NAMES {
        text.push_str(&format!(" and {} more", names.len() - MAX_NAMES));
    }
    text
}

impl Prepared for Image {
    fn artifact(&self) -> &Artifact {
        &self.artifact
    }

    fn target(&self) -> &'static str {
        match self.kind {
            Kind::Http => "http",
            Kind::Command => "command",
            Kind::Core => "core",
        }
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({} {})", self.target(), self.artifact.digest())
    }
}
