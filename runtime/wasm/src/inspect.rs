//! Checks whether a Wasm file can run on this node, from the names that it imports and exports, without compiling it. The check reports an
//! error when an image is loaded or applied, instead of later in the pod's status. The compiler may still reject a file that passes.

use crate::{
    image::{COMPONENTS, ENTRY_FUNCTIONS, EXPECTED, NOT_OFFERED, list_names},
    preview::{FUNCTIONS, PREVIEW_1, UNSTABLE},
};
use wasmparser::{ComponentExternalKind, Encoding, ExternalKind, MemoryType, Parser, Payload, TypeRef};

/// The error for shared memories. Their use cannot be charged to a memory account, and their support in wasmtime is incomplete.
const SHARED_MEMORY_ERROR: &str =
    "it has a memory that threads share, which this node does not offer (atomics on other memories run)";

/// The packages that components may import from, in versions 0.2 and 0.3.
const PACKAGES: [&str; 7] =
    ["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:http/", "wasi:io/", "wasi:random/", "wasi:sockets/"];

/// The draft interfaces that components may import, in exactly these versions.
const DRAFTS: [&str; 7] = [
    "wasi:config/store@0.2.0-rc.1",
    "wasi:keyvalue/atomics@0.2.0-draft",
    "wasi:keyvalue/batch@0.2.0-draft",
    "wasi:keyvalue/store@0.2.0-draft",
    "wasi:tls/client@0.3.0-draft",
    "wasi:tls/types@0.2.0-draft",
    "wasi:tls/types@0.3.0-draft",
];

/// The functions that initialise a program before it is compiled, the first of them that it exports: Wizer's, and its older name, which
/// components cannot have.
pub(crate) const INITIALISERS: [&str; 2] = ["wizer-initialize", "wizer.initialize"];

/// Takes the place of `_start` after the initialiser. C programs export it: it does not run the constructors again.
const RESUME: &str = "wizer.resume";

/// The exported initialiser of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Initialiser {
    /// One of [`INITIALISERS`].
    pub(crate) name: &'static str,
    pub(crate) component: bool,
    /// The function that takes the place of `_start` afterwards, if the program exports it.
    pub(crate) resume: Option<&'static str>,
}

/// What the names of a module or component say.
#[derive(Default)]
pub(crate) struct Findings {
    /// As [`never_runs`].
    pub(crate) never_runs: Option<String>,
    pub(crate) initialiser: Option<Initialiser>,
}

/// Returns what the names say: nothing if `bytes` is not Wasm.
pub(crate) fn inspect(bytes: &[u8]) -> Findings {
    let names = Names::read(bytes);
    names.map_or_else(
        |_| Findings::default(),
        |names| Findings { never_runs: names.never_runs(), initialiser: names.initialiser() },
    )
}

/// Returns why a module or component can never run on this node. Returns `None` if the check finds no reason, or if `bytes` is not Wasm.
pub fn never_runs(bytes: &[u8]) -> Option<String> {
    inspect(bytes).never_runs
}

/// The most names of a kind that are kept: a hostile module may have millions.
const MAX_KEPT: usize = 1000;

fn keep(names: &mut Vec<String>, name: &str) {
    if names.len() < MAX_KEPT {
        names.push(name.to_owned());
    }
}

/// What the imports and exports of the outermost module or component say.
#[derive(Default)]
struct Names {
    component: bool,
    /// It exports what this node runs.
    has_entry: bool,
    /// The outermost module or component, or a nested module, has a shared memory.
    shares_memory: bool,
    /// The imports that this node does not offer. Those of a core module have the form `MODULE::NAME`.
    unknown: Vec<String>,
    exports: Vec<String>,
    /// The place of the exported initialiser in [`INITIALISERS`].
    initialiser: Option<usize>,
    resumes: bool,
}

impl Names {
    fn read(bytes: &[u8]) -> wasmparser::Result<Self> {
        let (mut names, mut depth) = (Self::default(), 0_u32);
        for payload in Parser::new(0).parse_all(bytes) {
            match payload? {
                Payload::Version { encoding, .. } if depth == 0 => names.component = encoding == Encoding::Component,
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::MemorySection(section) => {
                    for memory in section {
                        names.shares_memory |= memory?.shared;
                    }
                }
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import?;
                        names.shares_memory |= matches!(import.ty, TypeRef::Memory(MemoryType { shared: true, .. }));
                        if depth == 0 {
                            names.import(&format!("{}::{}", import.module, import.name));
                        }
                    }
                }
                _ if depth > 0 => {}
                Payload::ExportSection(section) => {
                    for export in section {
                        let export = export?;
                        let function = export.kind == ExternalKind::Func;
                        names.has_entry |= function && ENTRY_FUNCTIONS.contains(&export.name);
                        names.function(function, export.name);
                        if function || !ENTRY_FUNCTIONS.contains(&export.name) {
                            keep(&mut names.exports, export.name);
                        }
                    }
                }
                Payload::ComponentImportSection(section) => {
                    for import in section {
                        names.import(import?.name.name);
                    }
                }
                Payload::ComponentExportSection(section) => {
                    for export in section {
                        let export = export?;
                        let name = export.name.name;
                        names.function(export.kind == ComponentExternalKind::Func, name);
                        names.has_entry |= COMPONENTS.iter().any(|known| name.starts_with(known));
                        keep(&mut names.exports, name);
                    }
                }
                _ => {}
            }
        }
        Ok(names)
    }

    /// Notes the functions of Wizer. The first name of the initialiser wins.
    fn function(&mut self, is_function: bool, name: &str) {
        let at = INITIALISERS.iter().position(|known| is_function && *known == name);
        self.initialiser = [self.initialiser, at].into_iter().flatten().min();
        self.resumes |= is_function && name == RESUME;
    }

    fn initialiser(&self) -> Option<Initialiser> {
        let name = INITIALISERS[self.initialiser?];
        Some(Initialiser { name, component: self.component, resume: self.resumes.then_some(RESUME) })
    }

    fn never_runs(&self) -> Option<String> {
        if self.shares_memory {
            return Some(SHARED_MEMORY_ERROR.to_owned());
        }
        if !self.has_entry {
            let exports: Vec<&str> = self.exports.iter().map(String::as_str).collect();
            let what = if self.component { "component" } else { "core module" };
            return Some(format!("this {what} exports {}; {EXPECTED}", list_names(&exports)));
        }
        let unknown: Vec<&str> = self.unknown.iter().map(String::as_str).collect();
        (!unknown.is_empty()).then(|| format!("{NOT_OFFERED}: {}", list_names(&unknown)))
    }

    fn import(&mut self, name: &str) {
        if !self.is_offered(name) {
            keep(&mut self.unknown, name);
        }
    }

    fn is_offered(&self, import: &str) -> bool {
        match self.component {
            true => {
                let version = ["@0.2.", "@0.3."].iter().any(|version| import.contains(version));
                version && PACKAGES.iter().any(|package| import.starts_with(package)) || DRAFTS.contains(&import)
            }
            false => import
                .split_once("::")
                .is_some_and(|(module, name)| [PREVIEW_1, UNSTABLE].contains(&module) && FUNCTIONS.contains(&name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Option<String> {
        never_runs(&wat::parse_str(text).expect("a module"))
    }

    #[test]
    fn a_module_needs_a_start_and_imports_that_are_there() {
        let offered = r#"(import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))"#;
        assert_eq!(told(&format!(r#"(module {offered} (func (export "_start")))"#)), None);
        let library = told(r#"(module (func (export "add")))"#).expect("no entry");
        assert!(library.starts_with("this core module exports add; expected"), "{library}");
        let foreign = told(r#"(module (import "env" "foo" (func)) (func (export "_start")))"#).expect("unknown");
        assert!(
            foreign.starts_with("it imports what this node does not offer") && foreign.ends_with(": env::foo"),
            "{foreign}"
        );
        let unheard = told(r#"(module (import "wasi_snapshot_preview1" "sock_open" (func)) (func (export "_start")))"#);
        assert!(unheard.is_some_and(|text| text.ends_with(": wasi_snapshot_preview1::sock_open")));
        let older = r#"(module (import "wasi_unstable" "proc_exit" (func (param i32))) (func (export "")))"#;
        assert_eq!(told(older), None, "the first name of preview 1, and a function without a name");
        assert_eq!(never_runs(b"no wasm at all"), None);
    }

    #[test]
    fn the_initialiser_is_an_exported_function_of_one_of_its_names() {
        let found = |text: &str| inspect(&wat::parse_str(text).expect("a module")).initialiser;
        let initialiser = |name, component, resume| Some(Initialiser { name, component, resume });
        let start = r#"(func (export "_start"))"#;
        let both = format!(r#"(module {start} (func (export "wizer.initialize") (export "wizer-initialize")))"#);
        assert_eq!(found(&both), initialiser("wizer-initialize", false, None));
        let older = format!(r#"(module {start} (func (export "wizer.initialize") (export "wizer.resume")))"#);
        assert_eq!(found(&older), initialiser("wizer.initialize", false, Some("wizer.resume")));
        assert_eq!(found(&format!(r#"(module {start} (memory (export "wizer-initialize") 1))"#)), None);
        assert_eq!(found(&format!("(module {start})")), None);
        let inner = r#"(core module $m (func (export "wizer-initialize"))) (core instance $i (instantiate $m))"#;
        assert_eq!(found(&format!("(component {inner})")), None, "what is inside is its own business");
        let lifted = r#"(func (export "wizer-initialize") (canon lift (core func $i "wizer-initialize")))"#;
        assert_eq!(found(&format!("(component {inner} {lifted})")), initialiser("wizer-initialize", true, None));
    }

    #[test]
    fn memories_that_threads_share_are_told_wherever_they_are() {
        for shared in [
            r#"(module (memory 1 1 shared) (func (export "_start")))"#,
            r#"(module (import "env" "memory" (memory 1 1 shared)) (func (export "_start")))"#,
            r#"(component (core module (memory 1 1 shared)) (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))"#,
        ] {
            assert_eq!(told(shared).as_deref(), Some(SHARED_MEMORY_ERROR), "{shared}");
        }
    }

    #[test]
    fn a_component_is_judged_by_its_outermost_names() {
        let run = r#"(instance $i) (export "wasi:cli/run@0.2.0" (instance $i))"#;
        let inner = r#"(core module (import "env" "foo" (func)))"#;
        assert_eq!(told(&format!("(component {inner} {run})")), None, "what is inside is its own business");
        let import = r#"(import "wasi:nn/graph@0.2.0" (instance))"#;
        let told_import = told(&format!("(component {import} {run})")).expect("unknown");
        assert!(told_import.ends_with(": wasi:nn/graph@0.2.0"), "{told_import}");
        assert_eq!(told(&format!(r#"(component (import "wasi:io/poll@0.2.3" (instance)) {run})"#)), None);
        assert_eq!(told(r#"(component (instance $i) (export "wasi:http/handler@0.3.0" (instance $i)))"#), None);
        let run3 = r#"(instance $i) (export "wasi:cli/run@0.3.0" (instance $i))"#;
        for offered in [
            "wasi:cli/stdout@0.3.2",
            "wasi:config/store@0.2.0-rc.1",
            "wasi:keyvalue/batch@0.2.0-draft",
            "wasi:tls/types@0.2.0-draft",
            "wasi:tls/client@0.3.0-draft",
        ] {
            assert_eq!(told(&format!(r#"(component (import "{offered}" (instance)) {run3})"#)), None, "{offered}");
        }
        let telemetry = told(&format!(r#"(component (import "wasi:otel/tracing@0.2.0-rc.2" (instance)) {run3})"#));
        assert!(telemetry.is_some_and(|text| text.ends_with(": wasi:otel/tracing@0.2.0-rc.2")));
        let draft = told(&format!(r#"(component (import "wasi:keyvalue/store@0.2.0-draft2" (instance)) {run3})"#));
        assert!(draft.is_some_and(|text| text.ends_with(": wasi:keyvalue/store@0.2.0-draft2")));
    }
}
