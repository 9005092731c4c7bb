//! What the first start on a data directory chose for good: the address ranges and the node's name. Pods, Services, certificates and the
//! Node have them in the store, which no flag changes: another range or name is refused, as upstream's are for good.

use super::Config;
use crate::data_dir::{DataDir, read_private, write_private};
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

const FILE: &str = "chosen.json";
/// Its name before it held the node's.
const OLD: &str = "ranges.json";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chosen {
    pods: String,
    services: String,
    /// Empty in a file of before names were kept.
    #[serde(default)]
    node: String,
}

impl Chosen {
    pub(super) fn of(config: &Config) -> Self {
        Self { pods: config.pod_cidr.to_string(), services: config.service_cidr.to_string(), node: config.node.clone() }
    }

    /// What was chosen, if there is a store that holds it.
    fn before(dir: &DataDir) -> anyhow::Result<Option<Self>> {
        if !dir.join(super::STORE).exists() {
            return Ok(None);
        }
        for name in [FILE, OLD] {
            let path = dir.join(name);
            if let Some(bytes) = read_private(&path)? {
                let what = || format!("{} is not readable; it names the node and the address ranges", path.display());
                return serde_json::from_slice(&bytes).map(Some).with_context(what);
            }
        }
        Ok(None)
    }

    /// The name of the node whose pods are in the store.
    pub(super) fn node(dir: &DataDir) -> anyhow::Result<Option<String>> {
        Ok(Self::before(dir)?.map(|before| before.node).filter(|name| !name.is_empty()))
    }

    /// Refuses what differs from what the objects that are there have.
    pub(super) fn check(&self, dir: &DataDir) -> anyhow::Result<()> {
        let Some(before) = Self::before(dir)? else { return Ok(()) };
        let dir = dir.path().display();
        let pairs = [
            ("--pod-cidr", &self.pods, before.pods, "pods"),
            ("--service-cidr", &self.services, before.services, "Services"),
        ];
        for (flag, now, before, whose) in pairs {
            if *now != before {
                bail!(
                    "{flag} {now}: the {whose} of the data directory {dir} have addresses of {before}, and keep them; start with \
                     {flag} {before}, or with another --data-dir"
                );
            }
        }
        let (flag, now, before) = ("--node-name", &self.node, before.node);
        if *now != before && !before.is_empty() {
            bail!(
                "{flag} {now}: the pods of the data directory {dir} are bound to node {before}, and stay there; start with \
                 {flag} {before} or without {flag}, or with another --data-dir"
            );
        }
        Ok(())
    }

    /// Notes it for later starts.
    pub(super) fn keep(&self, dir: &DataDir) -> anyhow::Result<()> {
        self.check(dir)?;
        write_private(&dir.join(FILE), &serde_json::to_vec(self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(pods: &str, services: &str, node: &str) -> Chosen {
        Chosen { pods: pods.to_owned(), services: services.to_owned(), node: node.to_owned() }
    }

    const PODS: &str = "10.32.0.0/11";
    const SERVICES: &str = "10.96.0.0/16";

    #[test]
    fn what_the_first_start_chose_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::open(Some(&folder.path().join("data"))).expect("made");
        let first = chosen(PODS, SERVICES, "n1");
        chosen("10.0.0.0/16", "10.1.0.0/16", "n0").keep(&dir).expect("nothing is there yet");
        first.keep(&dir).expect("still nothing: a start that failed binds nobody");
        assert_eq!(Chosen::node(&dir).expect("no store"), None);
        std::fs::write(dir.join(super::super::STORE), "").expect("a store");
        first.keep(&dir).expect("the same");
        assert_eq!(Chosen::node(&dir).expect("readable").as_deref(), Some("n1"));
        for (other, flag, right) in [
            (chosen("10.64.0.0/11", SERVICES, "n1"), "--pod-cidr 10.64.0.0/11", "start with --pod-cidr 10.32.0.0/11"),
            (chosen(PODS, "10.97.0.0/16", "n1"), "--service-cidr 10.97.0.0/16", "with --service-cidr 10.96.0.0/16"),
            (chosen(PODS, SERVICES, "n2"), "--node-name n2", "start with --node-name n1 or without --node-name"),
        ] {
            let error = other.check(&dir).expect_err("something else").to_string();
            assert!(
                error.starts_with(flag) && error.contains(right) && error.contains("another --data-dir"),
                "{error}"
            );
            assert!(other.keep(&dir).is_err());
        }
        first.check(&dir).expect("unchanged by those that were refused");
    }

    #[test]
    fn a_file_without_a_name_still_has_the_ranges() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::open(Some(&folder.path().join("data"))).expect("made");
        std::fs::write(dir.join(super::super::STORE), "").expect("a store");
        let old = format!("{{\"pods\":\"{PODS}\",\"services\":\"{SERVICES}\"}}");
        write_private(&dir.join(OLD), old.as_bytes()).expect("written");
        assert_eq!(Chosen::node(&dir).expect("readable"), None);
        assert!(chosen("10.64.0.0/11", SERVICES, "n1").check(&dir).is_err());
        chosen(PODS, SERVICES, "n1").keep(&dir).expect("any name is the first");
        assert!(chosen(PODS, SERVICES, "n2").check(&dir).is_err());
    }
}
