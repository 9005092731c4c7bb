//! Which pods may use a stored image: a private image that was pulled with the secret of one pod does not run for pods without that secret.
//!
//! Follows KEP-2535 with its default policy, NeverVerifyPreloadedImages: every pod may use images that were loaded by hand. An image is
//! identified by its digest, and a credential grants access only to the repository for which the registry accepted it.

use crate::{Credential, Digest, Keyring, Reference};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How an image came into the store.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// From a file.
    Loaded,
    /// From a registry that accepted this credential; `None` when it required none.
    Pulled(Option<Credential>),
}

/// The grants of an image.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Access {
    /// It was loaded by hand.
    loaded: bool,
    /// By repository. Every pod may use images that were pulled before grants were recorded.
    pulled: BTreeMap<String, Grants>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Grants {
    anonymous: bool,
    /// Digests of credentials that the registry accepted.
    credentials: BTreeSet<Digest>,
}

impl Access {
    /// Records another origin of the image.
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

    /// Whether a pod with these credentials may use the image under this name.
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

/// The digest of a credential, which is stored instead of it.
fn trace(repository: &str, credential: &Credential) -> Digest {
    Digest::of(format!("{repository}\0{}\0{}", credential.username, credential.password).as_bytes())
}
