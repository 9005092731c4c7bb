//! The seam to images: what a worker needs of them, and the pull policies and texts around it. The registry protocol and the
//! content store are crate `image`'s.
//!
//! Follows <https://kubernetes.io/docs/concepts/containers/images/>.

use container::Artifact;

/// User and password for a registry, from one entry of an image pull secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Auth {
    /// Registry host, possibly with port and path, as written in the secret.
    pub registry: String,
    /// User.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Auth({}@{})", self.username, self.registry)
    }
}

/// What the image's configuration says about starting it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// Entry point; empty when the image names none.
    pub entrypoint: Vec<String>,
    /// Default arguments.
    pub arguments: Vec<String>,
    /// Environment.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub working_dir: Option<String>,
}

/// An image that is on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// What to run.
    pub artifact: Artifact,
    /// `repository@sha256:…`, or the digest alone: `imageID` of the status.
    pub image_id: String,
    /// Bytes of the image.
    pub size: u64,
    /// How to start it.
    pub command: Command,
    /// For people: `linux/amd64`, `wasm`.
    pub platform: String,
}

/// One image of the node's list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// All its names, by tag and by digest.
    pub names: Vec<String>,
    /// Bytes.
    pub size: u64,
}

/// Why there is no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// The reference cannot be read. A retry does not help.
    #[error("{0}")]
    InvalidName(String),
    /// It was pulled, and is nothing that can run: unknown type, hostile layers, wrong digest.
    #[error("{0}")]
    Rejected(String),
    /// The registry did not answer, or said no. A retry may help.
    #[error("{0}")]
    Failed(String),
}

/// Images of the node.
#[async_trait::async_trait]
pub trait Images: Send + Sync + 'static {
    /// The image if it is on the node; never asks a registry.
    async fn present(&self, image: &str) -> Result<Option<Pulled>, PullError>;
    /// Asks the registry for the image and downloads what is missing. However many ask at the same time, it is pulled once.
    /// Cancel-safe.
    async fn pull(&self, image: &str, auths: &[Auth]) -> Result<Pulled, PullError>;
    /// All images of the node.
    async fn list(&self) -> Vec<Listed>;
    /// Removes what no name in `used` needs, until at most `keep` bytes are left.
    async fn collect(&self, used: &[String], keep: u64);
}

/// The three pull policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Ask the registry at each start.
    Always,
    /// Only when absent.
    IfNotPresent,
    /// Never.
    Never,
}

impl Policy {
    /// Of a container; unset follows the tag as upstream: none or `latest` is Always.
    pub fn of(image: &str, policy: Option<&str>) -> Self {
        match policy {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            Some(_) => Self::IfNotPresent,
            None if image.contains('@') => Self::IfNotPresent,
            None => match image.rsplit('/').next().and_then(|last| last.split_once(':')) {
                Some((_, "latest")) | None => Self::Always,
                Some(_) => Self::IfNotPresent,
            },
        }
    }
}

/// Reads `.dockerconfigjson` or `.dockercfg` of an image pull secret.
pub fn auths(secret: &k8s_openapi::api::core::v1::Secret) -> Vec<Auth> {
    let values = crate::config::secret_values(secret);
    let parse = |key: &str| values.get(key).and_then(|v| serde_json::from_slice::<serde_json::Value>(v).ok());
    let entries = match (parse(".dockerconfigjson"), parse(".dockercfg")) {
        (Some(mut config), _) => config["auths"].take(),
        (None, Some(config)) => config,
        (None, None) => return Vec::new(),
    };
    let read = |(registry, entry): (&String, &serde_json::Value)| {
        let text = |key: &str| entry[key].as_str().map(str::to_owned);
        let (username, password) = match (text("username"), text("password"), text("auth")) {
            (Some(username), Some(password), _) => (username, password),
            (_, _, Some(auth)) => decode(&auth)?,
            _ => return None,
        };
        Some(Auth { registry: registry.clone(), username, password })
    };
    entries.as_object().into_iter().flatten().filter_map(read).collect()
}

fn decode(auth: &str) -> Option<(String, String)> {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::STANDARD.decode(auth.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_unset_policy_follows_the_tag() {
        for (image, expected) in [
            ("nginx", Policy::Always),
            ("nginx:latest", Policy::Always),
            ("nginx:1", Policy::IfNotPresent),
            ("host:5000/nginx", Policy::Always),
            ("host:5000/nginx:1", Policy::IfNotPresent),
            ("nginx@sha256:00", Policy::IfNotPresent),
        ] {
            assert_eq!(Policy::of(image, None), expected, "{image}");
        }
        assert_eq!(Policy::of("nginx", Some("Never")), Policy::Never);
    }

    #[test]
    fn pull_secrets_of_both_forms_are_read() {
        use base64::Engine;
        let encode = |t: &str| base64::engine::general_purpose::STANDARD.encode(t);
        let auth = json!({"r:5000": {"auth": encode("u:p:w")}});
        for (key, value) in [(".dockerconfigjson", json!({"auths": auth})), (".dockercfg", auth.clone())] {
            let secret = serde_json::from_value(json!({"data": {key: encode(&value.to_string())}})).unwrap();
            let expected = Auth { registry: "r:5000".into(), username: "u".into(), password: "p:w".into() };
            assert_eq!(auths(&secret), [expected.clone()]);
            assert!(!format!("{expected:?}").contains("p:w"), "no secret in a log");
        }
    }
}
