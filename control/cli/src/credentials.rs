//! Keys and certificates of the cluster. The authority and the token key are made once and kept in DIR/pki (0600); everything
//! they sign is made anew at each start, so that addresses are right and nothing expires in a file.

use crate::data_dir::{DataDir, read_private, write_private};
use anyhow::{Context, bail};
use jiff::{SignedDuration, Timestamp};
use server::{
    pki::{self, Names, Pair, Validity},
    tokens::Tokens,
};
use std::net::IpAddr;

/// Issuer of ServiceAccount tokens: upstream's default for clusters without a public name.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// Everything that proves who is who.
pub(crate) struct Credentials {
    pub(crate) authority: Pair,
    pub(crate) serving: Pair,
    pub(crate) administrator: Pair,
    pub(crate) tokens: Tokens,
}

impl Credentials {
    /// Reads what is kept, makes what is not. `addresses` and `names` are those of the API besides loopback and Service
    /// `kubernetes`.
    pub(crate) fn open(
        dir: &DataDir,
        now: Timestamp,
        addresses: Vec<IpAddr>,
        names: Vec<String>,
    ) -> anyhow::Result<Self> {
        let folder = dir.private_folder("pki")?;
        let authority = authority(&folder, now)?;
        let key = match read_private(&folder.join("sa.key"))? {
            Some(key) => String::from_utf8(key).ok().with_context(|| damaged(&folder, "sa.key"))?,
            None => {
                let key = pki::key()?;
                write_private(&folder.join("sa.key"), key.as_bytes())?;
                key
            }
        };
        let year = validity(now, 365)?;
        let serving = pki::server(&authority, "kube-apiserver", &Names::api_server(addresses, names), year);
        let serving = serving.with_context(|| damaged(&folder, "ca.crt and ca.key"))?;
        let administrator = pki::client(&authority, "kubernetes-admin", &["system:masters"], year)?;
        let tokens = Tokens::new(&key, ISSUER).with_context(|| damaged(&folder, "sa.key"))?;
        Ok(Self { authority, serving, administrator, tokens })
    }
}

/// What to do about keys that cannot be used.
fn damaged(folder: &DataDir, files: &str) -> String {
    format!("{files} in {} cannot be used; put them back, or remove them to get new ones", folder.path().display())
}

fn authority(folder: &DataDir, now: Timestamp) -> anyhow::Result<Pair> {
    let (certificate, key) = (folder.join("ca.crt"), folder.join("ca.key"));
    match (read_private(&certificate)?, read_private(&key)?) {
        (Some(certificate), Some(key)) => Ok(Pair {
            certificate: String::from_utf8(certificate).ok().with_context(|| damaged(folder, "ca.crt"))?,
            key: String::from_utf8(key).ok().with_context(|| damaged(folder, "ca.key"))?,
        }),
        (None, None) => {
            let made = pki::authority("sampan", validity(now, 3650)?)?;
            write_private(&key, made.key.as_bytes())?;
            write_private(&certificate, made.certificate.as_bytes())?;
            Ok(made)
        }
        // The key is written first: a key alone is a start that was cut short.
        (None, Some(_)) => {
            std::fs::remove_file(&key)?;
            authority(folder, now)
        }
        (Some(_), None) => bail!(
            "{} is there, but its key is not; put the key back, or remove the certificate to get a new authority",
            certificate.display()
        ),
    }
}

/// From an hour ago, for clocks that differ.
fn validity(now: Timestamp, days: i32) -> anyhow::Result<Validity> {
    let until =
        DAY.checked_mul(days).and_then(|span| now.checked_add(span).ok()).context("the clock is out of range")?;
    Ok(Validity { from: now.checked_sub(SignedDuration::from_hours(1))?, until })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_keys_are_named_with_what_to_do() {
        let parent = tempfile::tempdir().expect("a folder");
        let dir = DataDir::open(Some(&parent.path().join("data"))).expect("made");
        let now = Timestamp::from_second(1_800_000_000).expect("in range");
        let open = || Credentials::open(&dir, now, Vec::new(), Vec::new());
        assert!(open().is_ok(), "made");
        for file in ["ca.crt", "sa.key"] {
            let path = dir.join("pki").join(file);
            let good = read_private(&path).expect("read").expect("there");
            for bad in [&b"garbage"[..], b"\xff"] {
                write_private(&path, bad).expect("written");
                let error = crate::exit::told(&open().err().expect(file));
                let pki = dir.join("pki").display().to_string();
                assert!(
                    error.contains(file) && error.contains(&pki) && error.contains("remove them"),
                    "{file}: {error}"
                );
            }
            write_private(&path, &good).expect("written");
        }
        assert!(open().is_ok(), "as before");
    }
}
