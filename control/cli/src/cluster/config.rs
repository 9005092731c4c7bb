//! The configuration of a cluster, with all settings resolved.

use super::chosen::Chosen;
use crate::{data_dir::DataDir, machine, parse, settings::Settings};
use agent::Machine;
use anyhow::bail;
use api::quantity::Quantity;
use ipnet::{IpNet, Ipv4Net};
use std::{net::IpAddr, path::PathBuf, time::Duration};

/// The validated settings.
pub(crate) struct Config {
    pub(super) dir: DataDir,
    pub(super) node: String,
    pub(super) node_address: IpAddr,
    pub(super) drain: Duration,
    pub(super) controllers: controllers::Selection,
    pub(super) scheduler: scheduler::Configuration,
    pub(super) machine: Machine,
    pub(super) reserved_cpu: Quantity,
    pub(super) reserved_memory: Quantity,
    pub(super) max_pods: u32,
    pub(super) pod_cidr: IpNet,
    pub(super) node_cidr: IpNet,
    pub(super) service_cidr: IpNet,
    pub(super) oci_runtime: PathBuf,
    pub(super) hollow_nodes: u32,
    pub(super) hollow_cidr: Ipv4Net,
    pub(super) allow_egress: Vec<IpNet>,
    pub(super) tls_san: Vec<String>,
}

impl Config {
    /// Resolves and validates all settings before a port is bound.
    ///
    /// # Errors
    /// The settings differ from the permanent ones of the data directory, or are invalid.
    pub(crate) fn new(settings: &Settings, dir: &DataDir) -> anyhow::Result<Self> {
        let mut machine = machine::read(dir.path());
        let node = match &settings.node_name {
            Some(name) => name.clone(),
            None => Chosen::node(dir)?.unwrap_or_else(|| machine::node_name(&machine.hostname)),
        };
        // A host name need not be a valid node name.
        if let Some(problem) = api::names::dns1123_subdomain(&node).first() {
            bail!("--node-name {node:?}: {problem}");
        }
        if let Some(cpu) = settings.cpu {
            machine.cpus = u32::try_from(cpu.value()).unwrap_or(u32::MAX);
        }
        if let Some(memory) = settings.memory {
            machine.memory = u64::try_from(memory.value()).unwrap_or(0);
        }
        let scheduler = match &settings.scheduler_config {
            None => scheduler::Configuration::default(),
            Some(path) => match parse::scheduler_configuration(path) {
                Ok(configuration) => configuration,
                Err(why) => bail!("--scheduler-config {}: {why}", path.display()),
            },
        };
        let config = Self {
            dir: dir.clone(),
            node,
            node_address: settings.node_address(),
            drain: Duration::from_secs(settings.drain().into()),
            controllers: settings.controllers(),
            scheduler,
            machine,
            reserved_cpu: settings.reserved_cpu(),
            reserved_memory: settings.reserved_memory(),
            max_pods: settings.max_pods(),
            pod_cidr: settings.pod_cidr(),
            node_cidr: settings.node_cidr(),
            service_cidr: settings.service_cidr(),
            oci_runtime: settings.oci_runtime(),
            hollow_nodes: settings.hollow_nodes(),
            hollow_cidr: settings.hollow_cidr(),
            tls_san: settings.tls_san.clone(),
            allow_egress: settings.allow_egress.clone(),
        };
        config.chosen().check(dir)?;
        Ok(config)
    }

    /// The name of the node.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    /// The settings that the data directory keeps.
    pub(super) fn chosen(&self) -> Chosen {
        Chosen {
            pods: self.pod_cidr,
            services: self.service_cidr,
            mask: Some(self.node_cidr.prefix_len()),
            node: self.node.clone(),
            listen: None,
            node_address: Some(self.node_address),
        }
    }
}
