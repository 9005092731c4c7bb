//! Names of images, parsed as Docker and Kubernetes do: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`.

use crate::{Digest, Error};
use std::fmt;

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const MAX_NAME: usize = 255;

/// The full name of an image, with defaults.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Host and port of the registry.
    pub domain: String,
    /// The repository within the registry.
    pub path: String,
    /// The tag; `latest` if neither tag nor digest was given.
    pub tag: Option<String>,
    /// The digest; if present, it alone identifies the image.
    pub digest: Option<Digest>,
}

impl Reference {
    /// Parses the name of an image.
    pub fn parse(image: &str) -> Result<Self, Error> {
        parse(image).map_err(|cause| Error::InvalidImageName { image: image.into(), cause })
    }

    /// Host and repository, without tag and digest.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// Whether the default imagePullPolicy of this image is Always.
    pub fn is_latest(&self) -> bool {
        self.tag.as_deref() == Some("latest")
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

const INVALID: &str = "invalid reference format";

fn parse(image: &str) -> Result<Reference, String> {
    if image.len() == 64 && image.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(format!("invalid repository name ({image}), cannot specify 64-byte hexadecimal strings"));
    }
    let (domain, rest) = split_domain(image);
    let (named, digest) = match rest.split_once('@') {
        Some((named, digest)) => (named, Some(digest)),
        None => (&*rest, None),
    };
    let (path, tag) = match named.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (named, None),
    };
    if path.contains(|c: char| c.is_uppercase()) {
        return Err(format!("{INVALID}: repository name ({path}) must be lowercase"));
    }
    if !is_domain(&domain) || !path.split('/').all(is_component) || !tag.is_none_or(is_tag) {
        return Err(INVALID.into());
    }
    if path.len() > MAX_NAME {
        return Err(format!("repository name must not be more than {MAX_NAME} characters"));
    }
    let digest = digest.map(str::parse).transpose()?;
    let tag = match (tag, digest) {
        (None, None) => Some("latest".to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(Reference { domain, path: path.to_owned(), tag, digest })
}

fn split_domain(image: &str) -> (String, String) {
    let (domain, rest) = match image.split_once('/') {
        Some((LEGACY_DOMAIN, rest)) => (DEFAULT_DOMAIN, rest),
        Some((first, rest))
            if first == "localhost" || first.contains(['.', ':']) || first.contains(|c: char| c.is_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, image),
    };
    if domain == DEFAULT_DOMAIN && !rest.contains('/') {
        return (domain.to_owned(), format!("library/{rest}"));
    }
    (domain.to_owned(), rest.to_owned())
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !domain.ends_with(']') => (host, Some(port)),
        _ => (domain, None),
    };
    let port_ok = port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    if let Some(v6) = host.strip_prefix('[') {
        return port_ok && v6.strip_suffix(']').is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok());
    }
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    port_ok && host.split('.').all(label)
}

/// Letters and digits, separated by one of `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    alphanumeric(*first)
        && alphanumeric(*last)
        && component
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .filter(|separator| !separator.is_empty())
            .all(|separator| matches!(separator, "." | "_" | "__") || separator.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = tag.as_bytes();
    bytes.len() <= 128
        && bytes.first().is_some_and(|b| word(*b))
        && bytes.iter().all(|b| word(*b) || matches!(b, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_filled_in_as_upstream_does() {
        let hex = "f".repeat(64);
        let cases = [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("test.com:tag", "docker.io/library/test.com:tag".into()),
            ("test.com/repo:tag", "test.com/repo:tag".into()),
            ("test:5000/repo", "test:5000/repo:latest".into()),
            ("localhost/hello", "localhost/hello:latest".into()),
            ("local/hello", "docker.io/local/hello:latest".into()),
            ("Local/hello", "Local/hello:latest".into()),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest".into()),
            ("docker.io/busybox:1", "docker.io/library/busybox:1".into()),
            ("127.0.0.1:5000/a/b/c:V_1.0-x", "127.0.0.1:5000/a/b/c:V_1.0-x".into()),
            ("[::1]:5000/a", "[::1]:5000/a:latest".into()),
            ("a/b__c.d---e:t", "docker.io/a/b__c.d---e:t".into()),
            (&format!("r.io/a@sha256:{hex}"), format!("r.io/a@sha256:{hex}")),
            (&format!("r.io/a:1@sha256:{hex}"), format!("r.io/a:1@sha256:{hex}")),
        ];
        for (image, want) in cases {
            assert_eq!(Reference::parse(image).unwrap().to_string(), want, "{image}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused_in_upstreams_words() {
        let long = format!("r.io/{}", "a".repeat(256));
        let cases = [
            ("", INVALID),
            (":tag", INVALID),
            ("a:", INVALID),
            ("a b", INVALID),
            ("../a", INVALID),
            ("-a/b.c/d", INVALID),
            ("a..b", INVALID),
            ("a___b", INVALID),
            ("a/", INVALID),
            ("r.io:x/a", INVALID),
            ("https://r.io/a", INVALID),
            ("a:tag:tag", INVALID),
            ("hello/World", "invalid reference format: repository name (hello/World) must be lowercase"),
            ("World", "invalid reference format: repository name (library/World) must be lowercase"),
            ("a@sha256:00", "invalid checksum digest length"),
            (&format!("a@md5:{}", "0".repeat(64)), "unsupported digest algorithm"),
            (&format!("a@sha256:{}", "g".repeat(64)), "invalid checksum digest format"),
            (&long, "repository name must not be more than 255 characters"),
            (
                &"a".repeat(64),
                &format!("invalid repository name ({}), cannot specify 64-byte hexadecimal strings", "a".repeat(64)),
            ),
        ];
        for (image, want) in cases {
            let error = Reference::parse(image).unwrap_err();
            assert_eq!(error.reason(), "InvalidImageName");
            let want =
                format!("Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": {want}");
            assert_eq!(error.to_string(), want);
        }
    }
}
