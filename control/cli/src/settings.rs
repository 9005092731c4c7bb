//! The settings of a cluster that only a start changes, by flags of `up` or fields of a `--config` file.
//!
//! Each is parsed once into its type, and is `None` if it was omitted; the defaults are in this module too. A running cluster records its
//! settings in its lock, so that an `up -f` for it can reject different ones and accept equal ones.

mod file;

use crate::{
    data_dir::{DataDir, Holder},
    machine, parse,
};
use api::quantity::{Format, Quantity};
use clap::Args;
#[cfg(test)]
pub(crate) use file::FIELDS;
pub(crate) use file::{is_input, name_fields, read};
use ipnet::{IpNet, Ipv4Net};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

/// The separator of multiple values of a setting in a lock.
const SEPARATOR: &str = ",";

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct Settings {
    /// Where the API listens; port 0 chooses a free one [default: as at the last start, at first 127.0.0.1:6443]
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse::listen)]
    pub(crate) listen: Option<SocketAddr>,
    /// Where NodePorts listen; 0.0.0.0 is every address of this machine [default: as at the last start, at first 127.0.0.1]
    #[arg(long, value_name = "IP", value_parser = parse::node_address)]
    pub(crate) node_address: Option<IpAddr>,
    /// Another name or address by which clients reach the API; may be repeated, and is remembered [default: none]
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = parse::tls_san)]
    pub(crate) tls_san: Vec<String>,
    /// How long pods may take to end at Ctrl-C or `sampan down`, such as 30s, within their own grace periods [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = parse::drain, allow_negative_numbers = true)]
    pub(crate) drain: Option<u32>,
    /// Which controllers run, by name: * is all but those of bootstrap tokens, -x all but x, such as *,-job-controller [default: *]
    #[arg(long, value_name = "LIST", value_parser = parse::controllers, allow_hyphen_values = true)]
    pub(crate) controllers: Option<controllers::Selection>,
    /// A KubeSchedulerConfiguration in YAML: profiles, plugins, weights [default: upstream's, as default-scheduler]
    #[arg(long, value_name = "FILE", value_parser = parse::scheduler_config)]
    pub(crate) scheduler_config: Option<PathBuf>,
    /// Name of the node [default: this machine's host name]
    #[arg(long, value_name = "NAME", value_parser = parse::node_name, help_heading = "Node")]
    pub(crate) node_name: Option<String>,
    /// CPUs of the node, such as 2 or 500m (thousandths), rounded up to whole ones [default: this machine's]
    #[arg(long, value_name = "QUANTITY", value_parser = parse::cpu, allow_negative_numbers = true, help_heading = "Node")]
    pub(crate) cpu: Option<Quantity>,
    /// Memory of the node in bytes, such as 512Mi or 2Gi; at least 64Mi [default: this machine's]
    #[arg(long, value_name = "QUANTITY", value_parser = parse::memory, allow_negative_numbers = true, help_heading = "Node")]
    pub(crate) memory: Option<Quantity>,
    /// The most pods that the node takes [default: 10000]
    #[arg(long, value_name = "N", value_parser = parse::max_pods, allow_negative_numbers = true, help_heading = "Node")]
    pub(crate) max_pods: Option<u32>,
    /// CPUs of the node kept for the cluster itself, such as 100m (thousandths) [default: 100m]
    #[arg(
        long, value_name = "QUANTITY", value_parser = parse::reserved_cpu, allow_negative_numbers = true, help_heading = "Node"
    )]
    pub(crate) reserved_cpu: Option<Quantity>,
    /// Memory of the node kept for the cluster itself, in bytes, such as 256Mi [default: 256Mi]
    #[arg(
        long, value_name = "QUANTITY", value_parser = parse::reserved_memory, allow_negative_numbers = true, help_heading = "Node"
    )]
    pub(crate) reserved_memory: Option<Quantity>,
    /// Addresses of pods, IPv4, which this machine does not use [default: the first start's, there 10.32.0.0/11]
    #[arg(long, value_name = "CIDR", value_parser = parse::pod_cidr, help_heading = "Node")]
    pub(crate) pod_cidr: Option<IpNet>,
    /// Length of the prefix of a node's part of --pod-cidr: 16 has addresses for 65533 pods [default: the first start's, there 16]
    #[arg(long, value_name = "BITS", value_parser = parse::node_cidr_mask_size, allow_negative_numbers = true, help_heading = "Node")]
    pub(crate) node_cidr_mask_size: Option<u8>,
    /// Addresses of Services, IPv4, at least 8, apart from those of pods [default: the first start's, there 10.96.0.0/16]
    #[arg(long, value_name = "CIDR", value_parser = parse::service_cidr, help_heading = "Node")]
    pub(crate) service_cidr: Option<IpNet>,
    /// The OCI runtime of Linux containers, with the command line of runc: a path, or a name that is looked for [default: runc]
    #[arg(long, value_name = "PATH", value_parser = parse::oci_runtime, help_heading = "Node")]
    pub(crate) oci_runtime: Option<PathBuf>,
    /// Nodes that hold pods without running them, hollow-0 and so on, to try a scheduler or plan a cluster [default: 0]
    #[arg(long, value_name = "N", value_parser = parse::hollow_nodes, allow_negative_numbers = true, help_heading = "Hollow nodes")]
    pub(crate) hollow_nodes: Option<u32>,
    /// Addresses of these nodes and their pods, 256 for each node, which nobody dials [default: 240.0.0.0/8]
    #[arg(long, value_name = "CIDR", value_parser = parse::hollow_cidr, help_heading = "Hollow nodes")]
    pub(crate) hollow_cidr: Option<Ipv4Net>,
    /// Let guests reach this range of refused ones (this machine's, link-local, multicast); may be repeated [default: none]
    #[arg(long, value_name = "CIDR", value_parser = parse::allow_egress, help_heading = "Node")]
    pub(crate) allow_egress: Vec<IpNet>,
}

/// Values with defaults.
impl Settings {
    /// Where the API listens.
    pub(crate) fn listen(&self) -> SocketAddr {
        self.listen.unwrap_or(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 6443))
    }

    /// Where node ports listen.
    pub(crate) fn node_address(&self) -> IpAddr {
        self.node_address.unwrap_or(Ipv4Addr::LOCALHOST.into())
    }

    /// How long pods may take to stop, in seconds.
    pub(crate) fn drain(&self) -> u32 {
        self.drain.unwrap_or(10)
    }

    /// Which controllers run.
    pub(crate) fn controllers(&self) -> controllers::Selection {
        self.controllers.clone().unwrap_or_default()
    }

    /// The CPUs of the node.
    pub(crate) fn cpu(&self) -> Quantity {
        self.cpu.unwrap_or_else(|| Quantity::new(machine::cpus().into(), Format::DecimalSi))
    }

    /// The memory of the node in bytes. The maximum if the machine's memory cannot be read.
    pub(crate) fn memory(&self) -> Quantity {
        let machine = || i64::try_from(machine::total_memory()).ok().filter(|bytes| *bytes > 0).unwrap_or(i64::MAX);
        self.memory.unwrap_or_else(|| Quantity::new(machine(), Format::BinarySi))
    }

    /// The OCI runtime of Linux containers.
    pub(crate) fn oci_runtime(&self) -> PathBuf {
        self.oci_runtime.clone().unwrap_or_else(|| runc::NAME.into())
    }

    /// The maximum number of pods of the node.
    pub(crate) fn max_pods(&self) -> u32 {
        self.max_pods.unwrap_or(10_000)
    }

    /// CPUs that are reserved for the cluster.
    pub(crate) fn reserved_cpu(&self) -> Quantity {
        self.reserved_cpu.unwrap_or(Quantity::from_milli(100, Format::DecimalSi))
    }

    /// Memory that is reserved for the cluster, in bytes.
    pub(crate) fn reserved_memory(&self) -> Quantity {
        self.reserved_memory.unwrap_or(Quantity::new(256 << 20, Format::BinarySi))
    }

    /// The range of pod addresses.
    pub(crate) fn pod_cidr(&self) -> IpNet {
        self.pod_cidr.unwrap_or_else(|| network().pod_cidr)
    }

    /// The prefix length of a node's range, unless the range of all pods is smaller.
    pub(crate) fn node_cidr_mask_size(&self) -> u8 {
        self.node_cidr_mask_size.unwrap_or_else(default_mask_size)
    }

    /// The part of the range that this node uses: the first, with the size of a node's range.
    pub(crate) fn node_cidr(&self) -> IpNet {
        let pods = self.pod_cidr();
        let length = pods.prefix_len().max(self.node_cidr_mask_size());
        IpNet::new_assert(pods.network(), length)
    }

    /// How many nodes hold pods without running them.
    pub(crate) fn hollow_nodes(&self) -> u32 {
        self.hollow_nodes.unwrap_or(0)
    }

    /// The range of addresses of these nodes and their pods.
    pub(crate) fn hollow_cidr(&self) -> Ipv4Net {
        self.hollow_cidr.unwrap_or_else(hollow::default_cidr)
    }

    /// The range of Service addresses.
    pub(crate) fn service_cidr(&self) -> IpNet {
        self.service_cidr.unwrap_or_else(|| network().service_cidr)
    }
}

/// The default of `--node-cidr-mask-size`.
pub(crate) fn default_mask_size() -> u8 {
    network().node_cidr.prefix_len()
}

/// The defaults of the network.
fn network() -> network::Config {
    network::Config::new(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0))
}

impl Settings {
    /// Merges these settings with others, which apply where these are `None`.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            listen: self.listen.or(other.listen),
            node_address: self.node_address.or(other.node_address),
            tls_san: if self.tls_san.is_empty() { other.tls_san } else { self.tls_san },
            drain: self.drain.or(other.drain),
            controllers: self.controllers.or(other.controllers),
            scheduler_config: self.scheduler_config.or(other.scheduler_config),
            node_name: self.node_name.or(other.node_name),
            cpu: self.cpu.or(other.cpu),
            memory: self.memory.or(other.memory),
            max_pods: self.max_pods.or(other.max_pods),
            reserved_cpu: self.reserved_cpu.or(other.reserved_cpu),
            reserved_memory: self.reserved_memory.or(other.reserved_memory),
            pod_cidr: self.pod_cidr.or(other.pod_cidr),
            node_cidr_mask_size: self.node_cidr_mask_size.or(other.node_cidr_mask_size),
            service_cidr: self.service_cidr.or(other.service_cidr),
            oci_runtime: self.oci_runtime.or(other.oci_runtime),
            hollow_nodes: self.hollow_nodes.or(other.hollow_nodes),
            hollow_cidr: self.hollow_cidr.or(other.hollow_cidr),
            allow_egress: if self.allow_egress.is_empty() { other.allow_egress } else { self.allow_egress },
        }
    }

    /// Each given value with its flag. Repeated flags occur once per value.
    pub(crate) fn given(&self) -> Vec<(&'static str, String)> {
        let mut all = Vec::new();
        let mut one = |flag: &'static str, value: Option<String>| all.extend(value.map(|value| (flag, value)));
        one("--listen", self.listen.map(|it| it.to_string()));
        one("--node-address", self.node_address.map(|it| it.to_string()));
        one("--drain", self.drain.map(|seconds| format!("{seconds}s")));
        one("--controllers", self.controllers.as_ref().map(ToString::to_string));
        one("--scheduler-config", self.scheduler_config.as_ref().map(|path| path.display().to_string()));
        one("--node-name", self.node_name.clone());
        one("--cpu", self.cpu.map(|it| it.to_string()));
        one("--memory", self.memory.map(|it| it.to_string()));
        one("--max-pods", self.max_pods.map(|it| it.to_string()));
        one("--reserved-cpu", self.reserved_cpu.map(|it| it.to_string()));
        one("--reserved-memory", self.reserved_memory.map(|it| it.to_string()));
        one("--pod-cidr", self.pod_cidr.map(|it| it.to_string()));
        one("--node-cidr-mask-size", self.node_cidr_mask_size.map(|bits| bits.to_string()));
        one("--service-cidr", self.service_cidr.map(|it| it.to_string()));
        one("--oci-runtime", self.oci_runtime.as_ref().map(|path| path.display().to_string()));
        one("--hollow-nodes", self.hollow_nodes.map(|it| it.to_string()));
        one("--hollow-cidr", self.hollow_cidr.map(|it| it.to_string()));
        all.extend(self.tls_san.iter().map(|name| ("--tls-san", name.clone())));
        all.extend(self.allow_egress.iter().map(|range| ("--allow-egress", range.to_string())));
        all
    }

    /// The effective settings of a start by flag, for the lock. `node` is the node's name, `names` are all names of the API.
    pub(crate) fn of_cluster(&self, node: &str, names: Vec<String>) -> BTreeMap<String, String> {
        let whole = Self {
            listen: Some(self.listen()),
            node_address: Some(self.node_address()),
            tls_san: names,
            drain: Some(self.drain()),
            controllers: Some(self.controllers()),
            scheduler_config: self.scheduler_config.clone(),
            node_name: Some(node.to_owned()),
            cpu: Some(self.cpu()),
            memory: Some(self.memory()),
            max_pods: Some(self.max_pods()),
            reserved_cpu: Some(self.reserved_cpu()),
            reserved_memory: Some(self.reserved_memory()),
            pod_cidr: Some(self.pod_cidr()),
            node_cidr_mask_size: Some(self.node_cidr().prefix_len()),
            service_cidr: Some(self.service_cidr()),
            oci_runtime: Some(self.oci_runtime()),
            hollow_nodes: Some(self.hollow_nodes()),
            hollow_cidr: Some(self.hollow_cidr()),
            allow_egress: self.allow_egress.clone(),
        };
        let mut flags = BTreeMap::<String, String>::new();
        for (flag, value) in whole.given() {
            let values = flags.entry(flag.to_owned()).or_default();
            if !values.is_empty() {
                values.push_str(SEPARATOR);
            }
            values.push_str(&value);
        }
        flags
    }

    /// Rejects settings that the running cluster cannot adopt.
    pub(crate) fn check_running(&self, dir: &DataDir, running: &Holder) -> anyhow::Result<()> {
        let differs =
            |(flag, value): &(&str, String)| !running.flags.get(*flag).is_some_and(|now| is_so(flag, value, now));
        let differing: Vec<String> =
            self.given().into_iter().filter(differs).map(|(flag, value)| format!("{flag} {value}")).collect();
        if differing.is_empty() {
            return Ok(());
        }
        anyhow::bail!(
            "the cluster of {} runs already (process {}), without {}; stop it first with `{}`",
            dir.path().display(),
            running.pid,
            differing.join(" "),
            dir.client_command("down")
        )
    }
}

/// Whether a running cluster with `now` satisfies `value`.
fn is_so(flag: &str, value: &str, now: &str) -> bool {
    let quantity = |text: &str| Quantity::parse(text).ok();
    value == now
        || match flag {
            // Port 0 means any port.
            "--listen" => {
                value.strip_suffix(":0").is_some_and(|ip| now.rsplit_once(':').is_some_and(|(at, _)| at == ip))
            }
            // Equal amounts can be written in several ways.
            "--cpu" | "--memory" | "--reserved-cpu" | "--reserved-memory" => {
                quantity(value).is_some_and(|value| quantity(now) == Some(value))
            }
            "--tls-san" | "--allow-egress" => now.split(SEPARATOR).any(|now| now == value),
            _ => false,
        }
}

#[cfg(test)]
mod tests;
