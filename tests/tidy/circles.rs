//! Which files of a crate use one another in a circle, read from their `use`s and paths.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// What a file is as a module: `verbs/mod.rs` is `verbs`, the root is empty.
fn module(path: &Path) -> String {
    let path = path.with_extension("");
    let mut parts: Vec<_> = path.iter().filter_map(|part| part.to_str()).collect();
    if matches!(parts.last(), Some(&("mod" | "lib" | "main"))) {
        parts.pop();
    }
    parts.join("::")
}

/// `a::{b, c::{d, e}}` as one path each.
fn expand(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else { return vec![tree.to_owned()] };
    let rest = rest.strip_suffix('}').unwrap_or(rest);
    let (mut parts, mut depth, mut from) = (Vec::new(), 0, 0);
    for (at, letter) in rest.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&rest[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&rest[from..]);
    let parts = parts.into_iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(expand).map(|part| format!("{head}{part}")).collect()
}

/// The code that is shipped: no comments, no tests.
fn shipped(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// What a file names, each as a path from the root of its crate.
fn named(module: &str, code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for start in ["use crate::", "use super::", "use self::"] {
        for rest in code.split(start).skip(1) {
            let tree = rest.split(';').next().unwrap_or_default();
            found.extend(expand(&format!("{}{tree}", &start[4..])));
        }
    }
    let in_path = |letter: char| letter.is_alphanumeric() || "_:".contains(letter);
    for path in code.split(|letter| !in_path(letter)) {
        if path.starts_with("crate::") || path.starts_with("super::") {
            found.push(path.trim_end_matches(':').to_owned());
        }
    }
    found.iter().map(|path| from_root(module, path)).collect()
}

fn from_root(module: &str, path: &str) -> String {
    let path = path.trim().split(" as ").next().unwrap_or_default().trim();
    if let Some(path) = path.strip_prefix("crate::") {
        return path.to_owned();
    }
    let (mut base, mut path) = (module, path.strip_prefix("self::").unwrap_or(path));
    while let Some(rest) = path.strip_prefix("super::") {
        base = base.rsplit_once("::").map_or("", |(up, _)| up);
        path = rest;
    }
    if base.is_empty() { path.to_owned() } else { format!("{base}::{path}") }
}

/// The file that a path leads to: the longest module that it begins with, or where the root takes its name from.
fn file<'a>(path: &str, files: &'a BTreeMap<String, String>, root: &BTreeMap<String, String>) -> Option<&'a str> {
    let mut rest = path;
    loop {
        if let Some((module, _)) = files.get_key_value(rest) {
            return Some(module);
        }
        match rest.rsplit_once("::") {
            Some((up, _)) => rest = up,
            None => break,
        }
    }
    let first = path.split("::").next()?;
    root.get(first).filter(|to| to.split("::").next() != Some(first)).and_then(|to| file(to, files, root))
}

/// Names that the root of the crate gives on, and where they are.
fn given_on(root: &str) -> BTreeMap<String, String> {
    let uses = root.split("pub use ").skip(1).flat_map(|rest| expand(rest.split(';').next().unwrap_or_default()));
    uses.filter_map(|path| {
        let (path, name) = path.split_once(" as ").map_or((path.as_str(), None), |(path, name)| (path, Some(name)));
        let (module, last) = path.trim().trim_start_matches("crate::").rsplit_once("::")?;
        let last = if last == "self" { module.rsplit("::").next()? } else { last };
        Some((name.unwrap_or(last).trim().to_owned(), module.to_owned()))
    })
    .collect()
}

/// The circles among `sources` (paths below the crate's `src`, and texts): each the modules that all use one another.
pub fn circles<'a>(sources: impl Iterator<Item = (&'a Path, &'a str)>) -> Vec<Vec<String>> {
    let is_test = |module: &str| module.ends_with("_tests") || module.split("::").any(|part| part == "tests");
    let files: BTreeMap<String, String> =
        sources.map(|(path, text)| (module(path), shipped(text))).filter(|(module, _)| !is_test(module)).collect();
    let root = given_on(files.get("").map_or("", String::as_str));
    let uses: BTreeMap<&str, BTreeSet<&str>> = files
        .iter()
        .filter(|(module, _)| !module.is_empty())
        .map(|(module, code)| {
            let to = named(module, code).into_iter().filter_map(|path| file(&path, &files, &root));
            (module.as_str(), to.filter(|to| to != module && !to.is_empty()).collect())
        })
        .collect();
    let reached: BTreeMap<&str, BTreeSet<&str>> = uses
        .keys()
        .map(|from| {
            let (mut seen, mut next) = (BTreeSet::new(), vec![*from]);
            while let Some(to) = next.pop().and_then(|module| uses.get(module)) {
                next.extend(to.iter().copied().filter(|to| seen.insert(*to)));
            }
            (*from, seen)
        })
        .collect();
    let circle = |module: &str| -> Vec<String> {
        let back = |other: &&&str| reached[**other].contains(module);
        reached[module].iter().filter(back).map(|other| (*other).to_owned()).collect()
    };
    let mut all: Vec<_> = reached.keys().map(|module| circle(module)).filter(|circle| circle.len() > 1).collect();
    all.sort();
    all.dedup();
    all
}

#[test]
fn a_circle_is_found_however_its_files_name_one_another() {
    let files = [
        ("lib.rs", "mod a; mod b; mod c; mod d; pub use c::{Thing, other as Other};"),
        ("a.rs", "use crate::{b::{self, X}, Thing};"),
        ("b/mod.rs", "mod inner;\nfn f() { super::c::g() }"),
        ("b/inner.rs", "use super::super::d; // use crate::a;"),
        ("c.rs", "fn g() { crate::a::h() }\n#[cfg(test)]\nuse crate::d;"),
        ("d.rs", "use std::fmt;"),
        ("tests.rs", "use crate::a;"),
    ];
    let found = circles(files.iter().map(|(path, text)| (Path::new(path), *text)));
    assert_eq!(found, [["a", "b", "c"]]);
    let pair = [("x.rs", "use crate::y::Y;"), ("y.rs", "use super::x::{X};")];
    assert_eq!(circles(pair.iter().map(|(path, text)| (Path::new(path), *text))), [["x", "y"]]);
    assert_eq!(expand("a::{b, c::{d, e as f}}"), ["a::b", "a::c::d", "a::c::e as f"]);
}
