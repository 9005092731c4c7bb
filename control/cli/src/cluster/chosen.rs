//! What the first start on a data directory chose for good: the address ranges and the node's name. Pods, Services, certificates and the
//! Node have them in the store, which no flag changes: another range or name is refused, as upstream's are for good. And what the last
//! start chose until another is given: where the API and the node ports are, since kubeconfigs and bookmarks hold it.

use super::Config;
use crate::{
    args::UpArgs,
    data_dir::{DataDir, read_private, write_private},
};
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

const FILE: &str = "chosen.json";
/// Its name before it held the node's.
const OLD: &str = "ranges.json";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chosen {
    pods: String,
    services: String,
    /// Empty in a file of before names were kept.
    #[serde(default)]
    node: String,
    /// Where the API listened, with the port that it got.
    #[serde(default)]
    listen: Option<SocketAddr>,
    #[serde(default)]
    node_address: Option<IpAddr>,
}

impl Chosen {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            pods: config.pod_cidr.to_string(),
            services: config.service_cidr.to_string(),
            node: config.node.clone(),
            listen: None,
            node_address: Some(config.node_address),
        }
    }

    /// With the address at which the API listens.
    pub(super) fn at(mut self, address: SocketAddr) -> Self {
        self.listen = Some(address);
        self
    }

    /// Gives flags that were left out the values of before. Answers with those that are not the ordinary ones, as one would type them.
    pub(crate) fn recall(dir: &DataDir, args: &mut UpArgs) -> anyhow::Result<Vec<String>> {
        let Some(before) = Self::before(dir)? else { return Ok(Vec::new()) };
        let ordinary = (args.pod_cidr().to_owned(), args.service_cidr().to_owned(), args.listen(), args.node_address());
        args.node.pod_cidr.get_or_insert(before.pods);
        args.node.service_cidr.get_or_insert(before.services);
        args.listen = args.listen.or(before.listen);
        args.node_address = args.node_address.or(before.node_address);
        let mut recalled = Vec::new();
        let mut note = |flag: &str, differs: bool, value: String| {
            if differs {
                recalled.push(format!("{flag} {value}"));
            }
        };
        note("--listen", args.listen() != ordinary.2, args.listen().to_string());
        note("--node-address", args.node_address() != ordinary.3, args.node_address().to_string());
        note("--pod-cidr", args.pod_cidr() != ordinary.0, args.pod_cidr().to_owned());
        note("--service-cidr", args.service_cidr() != ordinary.1, args.service_cidr().to_owned());
        Ok(recalled)
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

    /// Where the node ports of the cluster are, or were at its last start.
    pub(crate) fn node_address(dir: &DataDir) -> anyhow::Result<Option<IpAddr>> {
        Ok(Self::before(dir)?.and_then(|before| before.node_address))
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
        Chosen {
            pods: pods.to_owned(),
            services: services.to_owned(),
            node: node.to_owned(),
            listen: None,
            node_address: None,
        }
    }

    fn up(flags: &[&str]) -> UpArgs {
        use clap::Parser;
        let all = ["sampan", "up"].iter().chain(flags);
        let crate::args::Command::Up(args) = crate::args::Cli::parse_from(all).command else { panic!("not up") };
        *args
    }

    #[test]
    fn flags_that_are_left_out_are_those_of_the_last_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::open(Some(&folder.path().join("data"))).expect("made");
        assert!(Chosen::recall(&dir, &mut up(&[])).expect("no store").is_empty());
        std::fs::write(dir.join(super::super::STORE), "").expect("a store");
        let mut first = chosen("10.64.0.0/11", SERVICES, "n").at("127.0.0.1:42000".parse().expect("an address"));
        first.node_address = Some("127.0.0.2".parse().expect("an address"));
        first.keep(&dir).expect("kept");
        let mut args = up(&[]);
        let recalled = Chosen::recall(&dir, &mut args).expect("readable");
        let want = ["--listen 127.0.0.1:42000", "--node-address 127.0.0.2", "--pod-cidr 10.64.0.0/11"];
        assert_eq!(recalled, want);
        assert_eq!(args.listen().port(), 42000);
        let mut given = up(&["--listen", "127.0.0.1:7", "--node-address", "127.0.0.3", "--pod-cidr", "10.64.0.0/11"]);
        assert!(Chosen::recall(&dir, &mut given).expect("readable").is_empty(), "what is given counts");
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
