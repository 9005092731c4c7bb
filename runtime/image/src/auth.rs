//! Credentials for registries, from the Docker configuration files inside imagePullSecrets, matched as the kubelet does.

use base64::Engine as _;
use serde::Deserialize;
use std::{collections::BTreeMap, fmt};

const DEFAULT_REGISTRY: &str = "index.docker.io";

/// A user name and password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credential {
    /// The user.
    pub username: String,
    /// The password or access token.
    pub password: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({}, …)", self.username)
    }
}

/// The credentials of a pod by registry and path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Keyring(BTreeMap<String, Vec<Credential>>);

#[derive(Deserialize)]
struct ConfigJson {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
}

impl Keyring {
    /// No credentials.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a secret of type `kubernetes.io/dockerconfigjson`: the bytes under `.dockerconfigjson`.
    pub fn add_docker_config_json(&mut self, json: &[u8]) -> Result<(), String> {
        let config: ConfigJson = serde_json::from_slice(json).map_err(unreadable)?;
        self.add(config.auths)
    }

    /// Adds a secret of type `kubernetes.io/dockercfg`: the bytes under `.dockercfg`.
    pub fn add_dockercfg(&mut self, json: &[u8]) -> Result<(), String> {
        self.add(serde_json::from_slice(json).map_err(unreadable)?)
    }

    fn add(&mut self, entries: BTreeMap<String, Entry>) -> Result<(), String> {
        for (location, entry) in entries {
            let credential = entry.credential().map_err(|error| format!("{location}: {error}"))?;
            self.0.entry(key(&location)).or_default().push(credential);
        }
        Ok(())
    }

    /// The credentials to try for a repository such as `docker.io/library/hello`, the most specific first.
    pub(crate) fn lookup(&self, repository: &str) -> Vec<Credential> {
        let mut keys: Vec<_> = self.0.iter().collect();
        keys.reverse();
        let found: Vec<_> = keys
            .into_iter()
            .filter(|(key, _)| matches(key, repository))
            .flat_map(|(_, credentials)| credentials.clone())
            .collect();
        let first = repository.split('/').next().unwrap_or_default();
        if found.is_empty() && matches!(first, "docker.io" | DEFAULT_REGISTRY) {
            return self.0.get(DEFAULT_REGISTRY).cloned().unwrap_or_default();
        }
        found
    }
}

impl Entry {
    fn credential(self) -> Result<Credential, String> {
        if self.auth.is_empty() {
            return Ok(Credential { username: self.username, password: self.password });
        }
        let engine = base64::engine::GeneralPurpose::new(
            &base64::alphabet::STANDARD,
            base64::engine::GeneralPurposeConfig::new()
                .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
        );
        let text = engine.decode(self.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let text = text.ok_or("field auth is not base64 of text")?;
        let (username, password) = text.split_once(':').ok_or("field auth is not user:password")?;
        Ok(Credential { username: username.into(), password: password.trim_end_matches('\0').into() })
    }
}

/// A parse error without the content, which is secret.
fn unreadable(error: serde_json::Error) -> String {
    format!("not a Docker configuration file (line {}, column {})", error.line(), error.column())
}

/// Host, port and path without scheme; `/v1/` and `/v2/` are the registry itself.
fn key(location: &str) -> String {
    let location = location.strip_prefix("https://").or_else(|| location.strip_prefix("http://")).unwrap_or(location);
    let (host, path) = location.find('/').map_or((location, ""), |at| location.split_at(at));
    let path = if path.starts_with("/v1/") || path.starts_with("/v2/") { &path[3..] } else { path };
    let path = if path == "/" { "" } else { path };
    format!("{host}{path}")
}

/// Whether a key matches a repository: its host may contain `*` and `?` within labels, and its path must be a prefix.
fn matches(key: &str, repository: &str) -> bool {
    let split = |text: &str| {
        let (host, path) = text.find('/').map_or((text, ""), |at| text.split_at(at));
        let (name, port) = host.rsplit_once(':').unwrap_or((host, ""));
        (name.to_owned(), port.to_owned(), path.to_owned())
    };
    let ((key_host, key_port, key_path), (host, port, path)) = (split(key), split(repository));
    let (key_labels, labels): (Vec<_>, Vec<_>) = (key_host.split('.').collect(), host.split('.').collect());
    key_port == port
        && path.starts_with(&key_path)
        && key_labels.len() == labels.len()
        && key_labels.iter().zip(&labels).all(|(pattern, label)| glob(pattern.as_bytes(), label.as_bytes()))
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|skip| glob(rest, &text[skip..])),
        Some((b'?', rest)) => !text.is_empty() && glob(rest, &text[1..]),
        Some((byte, rest)) => text.first() == Some(byte) && glob(rest, &text[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(keyring: &Keyring, repository: &str) -> Vec<String> {
        keyring.lookup(repository).into_iter().map(|credential| credential.username).collect()
    }

    fn keyring(keys: &[&str]) -> Keyring {
        let mut keyring = Keyring::new();
        for key in keys {
            let json = format!(r#"{{"auths":{{"{key}":{{"username":"{key}","password":"p"}}}}}}"#);
            keyring.add_docker_config_json(json.as_bytes()).unwrap();
        }
        keyring
    }

    #[test]
    fn keys_match_as_the_kubelet_matches_them() {
        let cases = [
            ("r.io", "r.io/a", true),
            ("https://r.io", "r.io/a", true),
            ("https://r.io/v2/", "r.io/a", true),
            ("r.io/a", "r.io/a/b", true),
            ("r.io/a", "r.io/ab", true),
            ("r.io/b", "r.io/a", false),
            ("r.io", "r.io:5000/a", false),
            ("r.io:5000", "r.io:5000/a", true),
            ("*.r.io", "x.r.io/a", true),
            ("*.r.io", "r.io/a", false),
            ("*.r.io", "x.y.r.io/a", false),
            ("prefix*.r.io", "prefix-1.r.io/a", true),
            ("https://index.docker.io/v1/", "docker.io/library/a", true),
            ("docker.io", "docker.io/library/a", true),
            ("https://index.docker.io/v1/", "r.io/a", false),
            ("127.0.0.1:5000", "127.0.0.1:5000/a", true),
        ];
        for (key, repository, want) in cases {
            assert_eq!(!names(&keyring(&[key]), repository).is_empty(), want, "{key} {repository}");
        }
    }

    #[test]
    fn the_most_specific_key_is_tried_first() {
        let keyring = keyring(&["r.io", "r.io/team/app", "r.io/team"]);
        assert_eq!(names(&keyring, "r.io/team/app"), ["r.io/team/app", "r.io/team", "r.io"]);
        assert_eq!(names(&keyring, "r.io/other"), ["r.io"]);
    }

    #[test]
    fn all_forms_of_a_secret_are_read() {
        let mut keyring = Keyring::new();
        keyring.add_docker_config_json(br#"{"auths":{"a.io":{"auth":"dXNlcjpwYTpzcw=="}}}"#).unwrap();
        keyring.add_docker_config_json(br#"{"auths":{"b.io":{"auth":"dXNlcjpwYTpzcw"}},"credsStore":"x"}"#).unwrap();
        keyring.add_dockercfg(br#"{"c.io":{"username":"user","password":"pa:ss","email":"e"}}"#).unwrap();
        let want = Credential { username: "user".into(), password: "pa:ss".into() };
        for host in ["a.io", "b.io", "c.io"] {
            assert_eq!(keyring.lookup(&format!("{host}/x")), std::slice::from_ref(&want), "{host}");
        }
        assert!(!format!("{keyring:?}").contains("pa:ss"));
        for bad in [&b"x"[..], br#"{"auths":{"a.io":{"auth":"!"}}}"#, br#"{"auths":{"a.io":{"auth":"dXNlcg=="}}}"#] {
            assert!(Keyring::new().add_docker_config_json(bad).is_err());
        }
    }
}
