//! Who may use an image that is in the store: a private image that was pulled with one pod's secret does not run for pods without it.
//!
//! Follows KEP-2535 with its default policy, NeverVerifyPreloadedImages: what was loaded by hand is free for all. An image is known by its
//! digest, and a credential lets in where it was let in by the registry: for the same repository only.

use crate::{Credential, Digest, Keyring, Reference};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How an image came here.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// From a file.
    Loaded,
    /// From a registry that let in this credential; `None` when it asked for none.
    Pulled(Option<Credential>),
}

/// Who may use an image.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Access {
    /// It was loaded by hand.
    loaded: bool,
    /// By repository. Nothing is known of images that were pulled before this was kept: they are free.
    pulled: BTreeMap<String, Grants>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Grants {
    anonymous: bool,
    /// Digests of credentials that were let in.
    credentials: BTreeSet<Digest>,
}

impl Access {
    /// Notes how the image came here once more.
    pub(crate) fn grant(&mut self, reference: &Reference, origin: &Origin) {
        match origin {
            Origin::Loaded => self.loaded = true,
            Origin::Pulled(credential) => {
                let repository = reference.repository();
                let grants = self.pulled.entry(repository.clone()).or_default();
                match credential {
                    Some(credential) => drop(grants.credentials.insert(trace(&repository, credential))),
                    None => grants.anonymous = true,
                }
            }
        }
    }

    /// Whether a pod with these credentials may use it under this name.
    pub(crate) fn permits(&self, reference: &Reference, keyring: &Keyring) -> bool {
        if self.loaded || self.pulled.is_empty() {
            return true;
        }
        let repository = reference.repository();
        let Some(grants) = self.pulled.get(&repository) else { return false };
        let known = |credential: &Credential| grants.credentials.contains(&trace(&repository, credential));
        grants.anonymous || keyring.lookup(&repository).iter().any(known)
    }
}

/// What is kept of a credential.
fn trace(repository: &str, credential: &Credential) -> Digest {
    Digest::of(format!("{repository}\0{}\0{}", credential.username, credential.password).as_bytes())
}
