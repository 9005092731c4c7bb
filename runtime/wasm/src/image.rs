//! A compiled artifact, linked: what its containers start instances from.

use crate::{
    guest::{CoreGuest, Guest},
    pool::Pool,
};
use container::{Artifact, Error, Prepared, Result};
use std::fmt;
use wasmtime::{
    InstancePre, Module, ResourcesRequired,
    component::{Component, types::ComponentItem},
};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

/// A prepared artifact: one `InstancePre` for all containers of the image.
pub(crate) struct Image {
    artifact: Artifact,
    pub(crate) target: Target,
    /// Bytes of memory and tables that an instance begins with at most, 0 if unknown.
    pub(crate) initial_memory: u64,
}

/// What the artifact's exports make it.
pub(crate) enum Target {
    /// `wasi:http/incoming-handler`.
    Http(ProxyPre<Guest>),
    /// `wasi:cli/run`.
    Command(CommandPre<Guest>),
    /// `_start`.
    Core(InstancePre<CoreGuest>),
}

pub(crate) const EXPECTED: &str = "expected a component that exports wasi:http/incoming-handler@0.2 or wasi:cli/run@0.2, or a core module \
                        with the function _start (WASI preview 1)";

impl Image {
    pub(crate) fn component(pool: &Pool, artifact: Artifact, component: &Component) -> Result<Self> {
        let ty = component.component_type();
        let exports: Vec<&str> = ty
            .exports(&pool.engine)
            .filter(|(_, item)| {
                matches!(item.ty, ComponentItem::ComponentInstance(_) | ComponentItem::ComponentFunc(_))
            })
            .map(|(name, _)| name)
            .collect();
        let exported = |interface: &str| exports.iter().any(|name| name.starts_with(interface));
        let (http, run) = (exported("wasi:http/incoming-handler@0.2."), exported("wasi:cli/run@0.2."));
        if !http && !run {
            let later = exports.iter().any(|name| name.starts_with("wasi:") && name.contains("@0.3."));
            let hint = if later { "; WASI 0.3 is not supported yet" } else { "" };
            return Err(invalid(format!("this component exports {}{hint}", listed(&exports))));
        }
        let pre = pool.components.instantiate_pre(component).map_err(unlinkable)?;
        let target = if http {
            Target::Http(ProxyPre::new(pre).map_err(unlinkable)?)
        } else {
            Target::Command(CommandPre::new(pre).map_err(unlinkable)?)
        };
        let initial_memory = component.resources_required().as_ref().map_or(0, initial);
        Ok(Self { artifact, target, initial_memory })
    }

    pub(crate) fn module(pool: &Pool, artifact: Artifact, module: &Module) -> Result<Self> {
        let entry = module.get_export("_start").and_then(|export| export.func().cloned());
        let Some(entry) = entry else {
            let exports: Vec<&str> = module.exports().map(|export| export.name()).collect();
            return Err(invalid(format!("this core module exports {}", listed(&exports))));
        };
        if entry.params().len() + entry.results().len() > 0 {
            return Err(invalid("this core module's _start takes parameters or gives results".to_string()));
        }
        let pre = pool.modules.instantiate_pre(module).map_err(unlinkable)?;
        let initial_memory = initial(&module.resources_required());
        Ok(Self { artifact, target: Target::Core(pre), initial_memory })
    }
}

/// An upper bound: each memory and table counts as the largest.
fn initial(needs: &ResourcesRequired) -> u64 {
    // In pages; other page sizes are not enabled.
    let memories = u64::from(needs.num_memories) * needs.max_initial_memory_size.unwrap_or(0) * (64 << 10);
    let tables = u64::from(needs.num_tables) * needs.max_initial_table_size.unwrap_or(0) * size_of::<usize>() as u64;
    memories + tables
}

fn invalid(found: String) -> Error {
    Error::Invalid(format!("{found}; {EXPECTED}"))
}

fn unlinkable(error: wasmtime::Error) -> Error {
    Error::Invalid(format!("{NOT_OFFERED}: {error:#}"))
}

pub(crate) const NOT_OFFERED: &str =
    "it imports what this node does not offer (WASI preview 1 for modules, WASI 0.2 with wasi:http for components)";

/// At most a handful of names: a hostile module has a million.
pub(crate) fn listed(names: &[&str]) -> String {
    const MOST: usize = 8;
    if names.is_empty() {
        return "nothing".to_string();
    }
    let mut text =
        names.iter().take(MOST).map(|name| name.chars().take(80).collect()).collect::<Vec<String>>().join(", ");
    if names.len() > MOST {
        text.push_str(&format!(" and {} more", names.len() - MOST));
    }
    text
}

impl Prepared for Image {
    fn artifact(&self) -> &Artifact {
        &self.artifact
    }

    fn target(&self) -> &'static str {
        match self.target {
            Target::Http(_) => "http",
            Target::Command(_) => "command",
            Target::Core(_) => "core",
        }
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({} {})", self.target(), self.artifact.digest())
    }
}
