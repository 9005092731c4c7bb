//! Finds where in the source code comes from, by the DWARF sections of a module or component.
//!
//! The sections are hostile input, so that this runs in a child process with limits of memory and CPU time ([`crate::compile`]). See
//! <https://yurydelendik.github.io/webassembly-dwarf/>: DWARF addresses are offsets in the code section.

use addr2line::{
    Context,
    gimli::{Dwarf, EndianSlice, LittleEndian, SectionId},
};
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, ops::Range};
use wasmparser::{Encoding, KnownCustom, Name, Parser, Payload, TypeRef};
use wasmtime::FrameInfo;

/// Most calls at one offset: a function, and those that are inlined in it.
const MAX_INLINED: usize = 16;

/// Most characters of a name or path.
const MAX_NAME: usize = 256;

/// A call at a place of the code, by its source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceCall {
    pub(crate) function: Option<String>,
    pub(crate) file: Option<String>,
    pub(crate) line: Option<u32>,
    pub(crate) column: Option<u32>,
}

/// A core module, alone or in a component.
#[derive(Default)]
struct Module<'a> {
    core: bool,
    code: Option<Range<u64>>,
    sections: HashMap<&'a str, &'a [u8]>,
}

/// A frame of a backtrace, by the file that was compiled: the artifact, or the artifact with the state of its initialiser
/// ([`crate::compile`]), which has other offsets, and the same functions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Frame {
    /// The place in the file; `u64::MAX` where it is not known.
    offset: u64,
    /// The name of the core module.
    module: Option<String>,
    function: u32,
    function_name: Option<String>,
    /// The place in the function.
    function_offset: u64,
}

impl Frame {
    pub(crate) fn of(frame: &FrameInfo) -> Self {
        let place = |offset: Option<usize>| offset.map_or(u64::MAX, |offset| offset as u64);
        Self {
            offset: place(frame.module_offset()),
            module: frame.module().name().map(cut),
            function: frame.func_index(),
            function_name: frame.func_name().map(cut),
            function_offset: place(frame.func_offset()),
        }
    }
}

/// Returns the calls at each frame, the innermost first. None where the artifact does not tell. `initialised`: whether it was compiled with
/// the state of its initialiser.
pub(crate) fn locate(wasm: &[u8], initialised: bool, frames: &[Frame]) -> Vec<Vec<SourceCall>> {
    let modules = if initialised { functions(wasm) } else { Vec::new() };
    let offset = |frame: &Frame| if initialised { artifact_offset(frame, &modules) } else { frame.offset };
    let offsets: Vec<u64> = frames.iter().map(offset).collect();
    locate_offsets(wasm, &offsets)
}

/// The names of a core module and of its functions, the number of functions that it imports, and where in the file its own are.
#[derive(Default)]
struct Functions<'a> {
    name: Option<&'a str>,
    names: HashMap<u32, &'a str>,
    imported: u32,
    bodies: Vec<Range<u64>>,
}

/// Returns the functions of each core module of a file, up to the first error.
fn functions(wasm: &[u8]) -> Vec<Functions<'_>> {
    let mut modules: Vec<Functions<'_>> = Vec::new();
    for payload in Parser::new(0).parse_all(wasm).map_while(Result::ok) {
        if matches!(payload, Payload::Version { encoding: Encoding::Module, .. }) {
            modules.push(Functions::default());
        }
        // a component itself has none of these sections
        let Some(module) = modules.last_mut() else { continue };
        match payload {
            Payload::ImportSection(section) => {
                let imports = section.into_imports().map_while(Result::ok);
                module.imported = imports.filter(|import| matches!(import.ty, TypeRef::Func(_))).count() as u32;
            }
            Payload::CodeSectionEntry(body) => module.bodies.push(body.range().start as u64..body.range().end as u64),
            Payload::CustomSection(section) => {
                let KnownCustom::Name(names) = section.as_known() else { continue };
                for name in names.map_while(Result::ok) {
                    match name {
                        Name::Module { name, .. } => module.name = Some(name),
                        Name::Function(names) => {
                            module.names.extend(names.into_iter().map_while(Result::ok).map(|it| (it.index, it.name)));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    modules
}

impl Functions<'_> {
    /// Where a frame is in the file, if it can be one of this module.
    fn offset_of(&self, frame: &Frame) -> Option<u64> {
        let name = self.names.get(&frame.function).copied();
        let body = self.bodies.get(frame.function.checked_sub(self.imported)? as usize)?;
        let offset = body.start.checked_add(frame.function_offset)?;
        let same = self.name.map(cut) == frame.module && name.map(cut) == frame.function_name;
        (same && body.contains(&offset)).then_some(offset)
    }
}

/// Where a frame is in the artifact, if it can be one of one module only: of a component there are several.
fn artifact_offset(frame: &Frame, modules: &[Functions<'_>]) -> u64 {
    let mut found = modules.iter().filter_map(|module| module.offset_of(frame));
    match (found.next(), found.next()) {
        (Some(offset), None) => offset,
        _ => u64::MAX,
    }
}

/// Returns the calls at each offset of the file, the innermost first. None where the file does not tell.
fn locate_offsets(wasm: &[u8], offsets: &[u64]) -> Vec<Vec<SourceCall>> {
    let (mut calls, mut open) = (vec![Vec::new(); offsets.len()], Vec::new());
    for payload in Parser::new(0).parse_all(wasm) {
        match payload {
            Ok(Payload::Version { encoding, .. }) => {
                open.push(Module { core: encoding == Encoding::Module, ..Module::default() });
            }
            Ok(Payload::CodeSectionStart { range, .. }) => {
                if let Some(module) = open.last_mut() {
                    module.code = Some(range.start as u64..range.end as u64);
                }
            }
            Ok(Payload::CustomSection(section)) if section.name().starts_with(".debug_") => {
                if let Some(module) = open.last_mut().filter(|module| module.core) {
                    module.sections.insert(section.name(), section.data());
                }
            }
            Ok(Payload::End(_)) => {
                if let Some(module) = open.pop() {
                    module.locate(offsets, &mut calls);
                }
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    calls
}

impl Module<'_> {
    fn locate(&self, offsets: &[u64], calls: &mut [Vec<SourceCall>]) {
        let Some(code) = self.code.as_ref().filter(|code| offsets.iter().any(|offset| code.contains(offset))) else {
            return;
        };
        let section = |id: SectionId| {
            let data = self.sections.get(id.name()).copied().unwrap_or_default();
            Ok::<_, addr2line::gimli::Error>(EndianSlice::new(data, LittleEndian))
        };
        let Ok(context) = Dwarf::load(section).and_then(Context::from_dwarf) else { return };
        for (offset, calls) in offsets.iter().zip(calls) {
            if code.contains(offset) {
                *calls = at(&context, offset - code.start);
            }
        }
    }
}

fn at(context: &Context<EndianSlice<'_, LittleEndian>>, address: u64) -> Vec<SourceCall> {
    let Ok(mut frames) = context.find_frames(address).skip_all_loads() else { return Vec::new() };
    let mut calls = Vec::new();
    while let Ok(Some(frame)) = frames.next() {
        if calls.len() == MAX_INLINED {
            break;
        }
        let function = frame.function.as_ref().and_then(|function| function.raw_name().ok());
        let location = frame.location;
        calls.push(SourceCall {
            function: function.map(|name| cut(&demangle(&name))),
            file: location.as_ref().and_then(|location| location.file).map(cut),
            line: location.as_ref().and_then(|location| location.line),
            column: location.as_ref().and_then(|location| location.column),
        });
    }
    calls
}

fn demangle(name: &str) -> String {
    if let Ok(name) = rustc_demangle::try_demangle(name) {
        return name.to_string();
    }
    // without the prefix, `f` is the type float
    let mangled = Some(name).filter(|name| name.starts_with("_Z"));
    let demangled = mangled.and_then(|name| cpp_demangle::Symbol::new(name).ok()?.demangle().ok());
    demangled.unwrap_or_else(|| name.to_owned())
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_NAME).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wat::{GenerateDwarf, Parser};

    /// A module whose debug information names the lines of its text, as `trap.wat`.
    fn with_lines(text: &str) -> Vec<u8> {
        Parser::new().generate_dwarf(GenerateDwarf::Lines).parse_str(Some("trap.wat".as_ref()), text).unwrap()
    }

    fn offset_of(wasm: &[u8], operator: u8) -> u64 {
        let mut bodies = wasmparser::Parser::new(0).parse_all(wasm).filter_map(|payload| match payload.unwrap() {
            Payload::CodeSectionEntry(body) => Some(body.range()),
            _ => None,
        });
        let body = bodies.next().unwrap();
        // the last one: the body begins with the number of its locals
        (body.start + wasm[body].iter().rposition(|byte| *byte == operator).unwrap()) as u64
    }

    const TEXT: &str = "(module\n  (func $f\n    nop\n    unreachable))";

    #[test]
    fn a_place_of_the_code_has_a_line_in_the_source() {
        let wasm = with_lines(TEXT);
        let offset = offset_of(&wasm, 0);
        let calls = locate_offsets(&wasm, &[offset, 0, u64::MAX]);
        assert_eq!((calls[0].len(), calls[1].len(), calls[2].len()), (1, 0, 0));
        let call = &calls[0][0];
        assert!(call.file.as_ref().unwrap().ends_with("trap.wat"), "{call:?}");
        assert_eq!((call.line, call.column, call.function.as_deref()), (Some(4), Some(5), Some("f")));
    }

    #[test]
    fn a_place_in_a_component_is_found_in_its_module() {
        let module = with_lines(TEXT);
        let component = wat::parse_str("(component (core module) (core module))").unwrap();
        // a core module is a section of the component: its number, its size in LEB128, its bytes
        assert!((128..16384).contains(&module.len()));
        let size = [(module.len() & 0x7f) as u8 | 0x80, (module.len() >> 7) as u8];
        let within = component.len() + 3;
        let component = [&component[..], &[1], &size, &module].concat();
        let calls = locate_offsets(&component, &[within as u64 + offset_of(&module, 0)]);
        assert_eq!((calls[0].len(), calls[0][0].line), (1, Some(4)));
    }

    #[test]
    fn a_frame_of_an_initialised_program_is_found_by_its_function() {
        let module = |name: &str, function: &str| {
            format!(
                r#"core module {name} (import "" "f" (func)) (func {function} nop (drop (i32.const 7)) unreachable)"#
            )
        };
        let text = format!("(component ({}) ({}) ({}))", module("$a", "$f"), module("$b", "$f"), module("", ""));
        let wasm = wat::parse_str(text).unwrap();
        let modules = functions(&wasm);
        let mut frame = Frame {
            offset: 3,
            module: Some("b".into()),
            function: 1,
            function_name: Some("f".into()),
            function_offset: 5,
        };
        let offset = artifact_offset(&frame, &modules);
        assert_eq!((modules.len(), wasm[offset as usize]), (3, 0), "the last instruction but one");
        assert!(modules[1].bodies[0].contains(&offset));
        for (function, function_offset) in [(0, 5), (2, 5), (1, 7), (1, u64::MAX)] {
            assert_eq!(artifact_offset(&Frame { function, function_offset, ..frame.clone() }, &modules), u64::MAX);
        }
        frame.module = None;
        assert_eq!(artifact_offset(&frame, &modules), u64::MAX, "none has these names");
        frame.function_name = None;
        assert!(modules[2].bodies[0].contains(&artifact_offset(&frame, &modules)));
        let twice = [functions(&wasm), functions(&wasm)].into_iter().flatten().collect::<Vec<_>>();
        assert_eq!(artifact_offset(&frame, &twice), u64::MAX, "it is not known which");
        assert!(functions(b"no wasm").is_empty());
    }

    #[test]
    fn broken_debug_information_tells_nothing() {
        let wasm = with_lines(TEXT);
        let offset = offset_of(&wasm, 0);
        let debug = (offset as usize + 2)..wasm.len();
        for seed in 0..2000_u64 {
            let (mut broken, mut random) = (wasm.clone(), seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            for _ in 0..4 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                broken[debug.start + (random as usize % debug.len())] = (random >> 32) as u8;
            }
            assert!(locate_offsets(&broken, &[offset]).len() == 1);
        }
        assert_eq!(locate_offsets(&wasm[..20], &[offset]), [vec![]]);
        assert_eq!(locate_offsets(b"no wasm", &[3]), [vec![]]);
    }

    #[test]
    fn mangled_names_are_readable() {
        assert_eq!(
            demangle("_ZN4core9panicking5panic17h0123456789abcdefE"),
            "core::panicking::panic::h0123456789abcdef"
        );
        assert_eq!(demangle("_Z3addii"), "add(int, int)");
        assert_eq!(demangle("main.main"), "main.main");
        assert_eq!(demangle("f"), "f");
    }
}
