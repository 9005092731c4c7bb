//! The address ranges of a data directory: chosen by its first start, kept from then on. Pods, Services, certificates and the Node have
//! addresses of them in the store, which no flag changes: another range is refused, as upstream's are for good.

use super::Config;
use crate::data_dir::{DataDir, read_private, write_private};
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

const FILE: &str = "ranges.json";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ranges {
    pods: String,
    services: String,
}

impl Ranges {
    pub(super) fn of(config: &Config) -> Self {
        Self { pods: config.pod_cidr.to_string(), services: config.service_cidr.to_string() }
    }

    /// Refuses ranges other than those of the objects that are there.
    pub(super) fn check(&self, dir: &DataDir) -> anyhow::Result<()> {
        if !dir.join(super::STORE).exists() {
            return Ok(());
        }
        let Some(bytes) = read_private(&dir.join(FILE))? else { return Ok(()) };
        let before: Self = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is not readable; it names the address ranges", dir.join(FILE).display()))?;
        let pairs = [
            ("--pod-cidr", &self.pods, before.pods, "pods"),
            ("--service-cidr", &self.services, before.services, "Services"),
        ];
        for (flag, now, before, whose) in pairs {
            if *now != before {
                bail!(
                    "{flag} {now}: the {whose} of the data directory {} have addresses of {before}, and keep them; start with \
                     {flag} {before}, or with another --data-dir",
                    dir.path().display()
                );
            }
        }
        Ok(())
    }

    /// Notes them for later starts.
    pub(super) fn keep(&self, dir: &DataDir) -> anyhow::Result<()> {
        self.check(dir)?;
        write_private(&dir.join(FILE), &serde_json::to_vec(self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranges_of_a_store_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::open(Some(&folder.path().join("data"))).expect("made");
        let ranges = |pods: &str, services: &str| Ranges { pods: pods.to_owned(), services: services.to_owned() };
        let first = ranges("10.32.0.0/11", "10.96.0.0/16");
        ranges("10.0.0.0/16", "10.1.0.0/16").keep(&dir).expect("nothing is there yet");
        first.keep(&dir).expect("still nothing: a start that failed binds nobody");
        std::fs::write(dir.join(super::super::STORE), "").expect("a store");
        first.keep(&dir).expect("the same");
        for (other, flag, right) in [
            (ranges("10.64.0.0/11", "10.96.0.0/16"), "--pod-cidr 10.64.0.0/11", "start with --pod-cidr 10.32.0.0/11"),
            (
                ranges("10.32.0.0/11", "10.97.0.0/16"),
                "--service-cidr 10.97.0.0/16",
                "start with --service-cidr 10.96.0.0/16",
            ),
        ] {
            let error = other.check(&dir).expect_err("other addresses").to_string();
            assert!(
                error.starts_with(flag) && error.contains(right) && error.contains("another --data-dir"),
                "{error}"
            );
            assert!(other.keep(&dir).is_err());
        }
        first.check(&dir).expect("unchanged by those that were refused");
    }
}
