//! Finds the module of an image in its layers, which are untrusted archives: paths only select.

use crate::{
    Limits,
    content::Content,
    error::Fault,
    walk::{Budget, clean_text, walk},
};
use std::{fs::File, path::PathBuf};
use tar::EntryType;

/// Most links that are followed to find a file.
const MAX_LINKS: usize = 8;

/// The result of a look-up of a path in one layer.
enum Hit {
    File(crate::content::Incoming),
    Link(String),
    Hidden,
    Nothing,
}

/// Finds a file in stacked layers (the lowest first), following links inside them, and stores it as a blob.
pub(crate) fn find(
    content: &Content,
    layers: &[PathBuf],
    path: &str,
    limits: &Limits,
) -> Result<Option<(crate::Digest, u64)>, Fault> {
    let mut budget = Budget::new(limits);
    let climbs = |path: &str| Fault::content(format!("the path of the module climbs out of the image: {path:?}"));
    let mut path = clean_text("", path).ok_or_else(|| climbs(path))?;
    'links: for _ in 0..MAX_LINKS {
        for layer in layers.iter().rev() {
            match look(content, layer, &path, &mut budget, limits)? {
                Hit::Nothing => {}
                Hit::Hidden => return Ok(None),
                Hit::File(incoming) => return incoming.commit(None).map(Some),
                Hit::Link(to) => {
                    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                    path = clean_text(folder, &to).ok_or_else(|| climbs(&to))?;
                    continue 'links;
                }
            }
        }
        return Ok(None);
    }
    Err(Fault::content(format!("the path of the module is a link to a link, more than {MAX_LINKS} times")))
}

/// Most names in a message.
const NAMED: usize = 10;

/// The names of files in the layers for a message: the first few, Wasm before others.
pub(crate) fn names(layers: Vec<PathBuf>, limits: &Limits) -> Result<String, Fault> {
    let mut budget = Budget::new(limits);
    let (mut names, mut count) = (Vec::new(), 0);
    for layer in layers {
        walk(File::open(layer)?, &mut budget, |entry, _| {
            if matches!(entry.kind, EntryType::Regular | EntryType::Continuous) {
                count += 1;
                let path = String::from_utf8_lossy(&entry.path);
                let wasm = [".wasm", ".wat"].iter().any(|end| path.ends_with(end));
                if names.len() < NAMED || wasm {
                    names.push((!wasm, crate::registry::printable(&path)));
                    names.sort();
                    names.truncate(NAMED);
                }
            }
            Ok(())
        })?;
    }
    let shown: Vec<String> = names.into_iter().map(|(_, name)| format!("{name:?}")).collect();
    Ok(match count - shown.len() {
        _ if count == 0 => "no files".into(),
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    })
}

fn look(content: &Content, layer: &PathBuf, path: &str, budget: &mut Budget, limits: &Limits) -> Result<Hit, Fault> {
    let mut hit = Hit::Nothing;
    let mut hidden = false;
    walk(File::open(layer)?, budget, |entry, data| {
        let link = || String::from_utf8_lossy(&entry.link).into_owned();
        if entry.path == path.as_bytes() {
            hit = match entry.kind {
                EntryType::Regular | EntryType::Continuous => {
                    Hit::File(content.receive(data, entry.size, limits.module)?)
                }
                EntryType::Symlink => Hit::Link(link()),
                EntryType::Link => Hit::Link(format!("/{}", link())),
                _ => return Err(Fault::content(format!("the module {path:?} is not a file"))),
            };
        } else {
            hidden |= std::str::from_utf8(&entry.path).is_ok_and(|entry| hides(entry, path));
        }
        Ok(())
    })?;
    Ok(if hidden && matches!(hit, Hit::Nothing) { Hit::Hidden } else { hit })
}

/// Whether an entry is a whiteout that hides `path`, or a folder above it, in the layers below.
fn hides(entry: &str, path: &str) -> bool {
    let (folder, name) = entry.rsplit_once('/').unwrap_or(("", entry));
    let Some(gone) = name.strip_prefix(".wh.") else { return false };
    let Some(inside) = path.strip_prefix(folder).filter(|_| folder.is_empty() || path[folder.len()..].starts_with('/'))
    else {
        return false;
    };
    let inside = inside.trim_start_matches('/');
    gone == ".wh..opq" || inside == gone || inside.strip_prefix(gone).is_some_and(|rest| rest.starts_with('/'))
}
