//! The settings that a data directory keeps. The address ranges and the node's name are permanent: pods, Services, certificates and the
//! Node in the store contain them, and other values are rejected. The addresses of the API and of node ports are kept until others are
//! given, because kubeconfigs and bookmarks contain them.

use crate::{
    data_dir::{DataDir, STORE, read_private, write_private},
    settings::{Settings, default_mask_size},
};
use anyhow::{Context, bail};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

const FILE: &str = "chosen.json";
/// The file's name in earlier versions, which had only the ranges.
const OLD: &str = "ranges.json";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chosen {
    #[serde(with = "range")]
    pub(super) pods: IpNet,
    #[serde(with = "range")]
    pub(super) services: IpNet,
    /// The prefix length of the node's part of the addresses of pods. In a file of an earlier version it is missing: there it was the default.
    #[serde(default)]
    pub(super) mask: Option<u8>,
    /// Empty in a file of an earlier version.
    #[serde(default)]
    pub(super) node: String,
    /// The address of the API, with the chosen port.
    #[serde(default)]
    pub(super) listen: Option<SocketAddr>,
    #[serde(default)]
    pub(super) node_address: Option<IpAddr>,
}

/// The prefix length of the node's part of a range, unless another was chosen.
fn usual_mask(pods: &IpNet) -> u8 {
    pods.prefix_len().max(default_mask_size())
}

/// A range as text.
mod range {
    use ipnet::IpNet;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(range: &IpNet, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(range)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNet, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Chosen {
    /// Fills omitted settings with the kept values. Returns those that differ from the defaults, as flags.
    pub(crate) fn fill_in(dir: &DataDir, settings: Settings) -> anyhow::Result<(Settings, Vec<String>)> {
        let Some(before) = Self::load(dir)? else { return Ok((settings, Vec::new())) };
        let ordinary = settings.clone();
        let settings = settings.or(Settings {
            pod_cidr: Some(before.pods),
            node_cidr_mask_size: before.mask.filter(|mask| *mask != usual_mask(&before.pods)),
            service_cidr: Some(before.services),
            listen: before.listen,
            node_address: before.node_address,
            ..Settings::default()
        });
        let mut remembered = Vec::new();
        let mut note = |flag: &str, ordinary: String, value: String| {
            if value != ordinary {
                remembered.push(format!("{flag} {value}"));
            }
        };
        note("--listen", ordinary.listen().to_string(), settings.listen().to_string());
        note("--node-address", ordinary.node_address().to_string(), settings.node_address().to_string());
        note("--pod-cidr", ordinary.pod_cidr().to_string(), settings.pod_cidr().to_string());
        let usual = settings.pod_cidr().prefix_len().max(ordinary.node_cidr_mask_size());
        note("--node-cidr-mask-size", usual.to_string(), settings.node_cidr().prefix_len().to_string());
        note("--service-cidr", ordinary.service_cidr().to_string(), settings.service_cidr().to_string());
        Ok((settings, remembered))
    }

    /// The prefix length of the node's range.
    fn mask(&self) -> u8 {
        self.mask.unwrap_or_else(|| usual_mask(&self.pods))
    }

    /// Reads the kept settings, if there is a store that depends on them.
    fn load(dir: &DataDir) -> anyhow::Result<Option<Self>> {
        if !dir.join(STORE).exists() {
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
        Ok(Self::load(dir)?.map(|before| before.node).filter(|name| !name.is_empty()))
    }

    /// The address of the cluster's node ports, now or at its last start.
    pub(crate) fn node_address(dir: &DataDir) -> anyhow::Result<Option<IpAddr>> {
        Ok(Self::load(dir)?.and_then(|before| before.node_address))
    }

    /// Rejects values that differ from those in the stored objects.
    pub(super) fn check(&self, dir: &DataDir) -> anyhow::Result<()> {
        let Some(before) = Self::load(dir)? else { return Ok(()) };
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
        let (flag, now, kept) = ("--node-cidr-mask-size", self.mask(), before.mask());
        if now != kept {
            bail!(
                "{flag} {now}: the node of the data directory {dir} has a /{kept} of the addresses of pods, and keeps it; start with \
                 {flag} {kept}, or with another --data-dir"
            );
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

    /// Saves the settings for later starts.
    pub(super) fn keep(&self, dir: &DataDir) -> anyhow::Result<()> {
        self.check(dir)?;
        match write_private(&dir.join(FILE), &serde_json::to_vec(self)?) {
            // The permanent settings are saved already, and a full disk must not prevent a start.
            Err(error) if Self::load(dir)?.is_some() => eprintln!("warning: {error}; an older one stays"),
            result => result?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(pods: &str, services: &str, node: &str) -> Chosen {
        Chosen {
            pods: pods.parse().expect("a range"),
            services: services.parse().expect("a range"),
            mask: None,
            node: node.to_owned(),
            listen: None,
            node_address: None,
        }
    }

    fn up(flags: &[&str]) -> Settings {
        use clap::Parser;
        let all = ["sampan", "up"].iter().chain(flags);
        let crate::args::Command::Up(args) = crate::args::Cli::parse_from(all).command else { panic!("not up") };
        args.settings
    }

    #[test]
    fn flags_that_are_left_out_are_those_of_the_last_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::open(Some(&folder.path().join("data"))).expect("made");
        assert!(Chosen::fill_in(&dir, up(&[])).expect("no store").1.is_empty());
        std::fs::write(dir.join(STORE), "").expect("a store");
        let mut first = chosen("10.64.0.0/11", SERVICES, "n");
        first.listen = Some("127.0.0.1:42000".parse().expect("an address"));
        first.node_address = Some("127.0.0.2".parse().expect("an address"));
        first.mask = Some(14);
        first.keep(&dir).expect("kept");
        let (settings, remembered) = Chosen::fill_in(&dir, up(&[])).expect("readable");
        let want = [
            "--listen 127.0.0.1:42000",
            "--node-address 127.0.0.2",
            "--pod-cidr 10.64.0.0/11",
            "--node-cidr-mask-size 14",
        ];
        assert_eq!(remembered, want);
        assert_eq!(settings.listen().port(), 42000);
        let given = up(&["--listen", "127.0.0.1:7", "--node-address", "127.0.0.3", "--pod-cidr", "10.64.0.0/11"]);
        let (given, remembered) = Chosen::fill_in(&dir, given).expect("readable");
        assert_eq!(remembered, ["--node-cidr-mask-size 14"], "what is given counts");
        assert_eq!((given.listen().port(), given.node_address().to_string().as_str()), (7, "127.0.0.3"));
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
        std::fs::write(dir.join(STORE), "").expect("a store");
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
        let other = Chosen { mask: Some(18), ..chosen(PODS, SERVICES, "n1") };
        let error = other.check(&dir).expect_err("a smaller part").to_string();
        assert!(
            error.starts_with("--node-cidr-mask-size 18: ") && error.contains("start with --node-cidr-mask-size 16")
        );
        Chosen { mask: Some(16), ..chosen(PODS, SERVICES, "n1") }.keep(&dir).expect("what it was by default");
        first.check(&dir).expect("unchanged by those that were refused");
    }

    #[test]
    fn a_file_without_a_name_still_has_the_ranges() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::open(Some(&folder.path().join("data"))).expect("made");
        std::fs::write(dir.join(STORE), "").expect("a store");
        let old = format!("{{\"pods\":\"{PODS}\",\"services\":\"{SERVICES}\"}}");
        write_private(&dir.join(OLD), old.as_bytes()).expect("written");
        assert_eq!(Chosen::node(&dir).expect("readable"), None);
        assert!(chosen("10.64.0.0/11", SERVICES, "n1").check(&dir).is_err());
        chosen(PODS, SERVICES, "n1").keep(&dir).expect("any name is the first");
        assert!(chosen(PODS, SERVICES, "n2").check(&dir).is_err());
    }
}
