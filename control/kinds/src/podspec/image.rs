//! Image references, as far as defaulting needs them: validity, tag and digest. Follows the grammar of `github.com/distribution/reference`
//! (`ParseNormalizedNamed`), from which upstream derives the default pull policy.

/// Longest name including the registry, bytes.
const MAX_LENGTH: usize = 255;
const DEFAULT_REGISTRY: &str = "docker.io";

/// Tag and digest of a reference; `None` for an invalid one.
pub(super) fn parse(image: &str) -> Option<(Option<&str>, Option<&str>)> {
    if image.len() == 64 && image.bytes().all(is_lower_hex) {
        return None; // the id of an image
    }
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    let registry = rest.split_once('/').map(|(first, _)| first).filter(|first| is_registry(first));
    let path = registry.map_or(rest, |registry| &rest[registry.len() + 1..]);
    let (path, tag) = match path.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (path, None),
    };
    let library = if registry.is_none() && !path.contains('/') { "library/".len() } else { 0 };
    let name = registry.unwrap_or(DEFAULT_REGISTRY).len() + 1 + library + path.len();
    let fits = name <= MAX_LENGTH
        && registry.is_none_or(is_domain)
        && path.split('/').all(is_component)
        && tag.is_none_or(is_tag)
        && digest.is_none_or(is_digest);
    fits.then_some((tag, digest))
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// Whether the text before the first slash is a registry, not the first part of a path.
fn is_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.chars().any(char::is_uppercase)
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else { return false };
            let inside = !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
            return inside && (port.is_empty() || port.strip_prefix(':').is_some_and(is_number));
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let label = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.split('.').all(label) && port.is_none_or(is_number)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Lower-case letters and digits, separated by one dot, one or two underscores, or any number of dashes.
fn is_component(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = text.bytes().next().is_some_and(plain) && text.bytes().last().is_some_and(plain);
    let separators = text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).filter(|s| !s.is_empty());
    let known = |s: &str| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-');
    ends && text.is_ascii() && separators.into_iter().all(known)
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= 128
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    hex.len() == length && hex.bytes().all(is_lower_hex)
}
