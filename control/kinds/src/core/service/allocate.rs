//! Allocates cluster IPs and node ports for a Service and writes them into it. IPAddresses are written with the Service. The node ports of a
//! failed write are released; those that the old Service had and the new one lacks are released once the write is stored.

use super::{
    addresses::{self, Addresses},
    linked::{allocates_node_ports, needs_cluster_ip, needs_health_check_port},
    pool::{NodePorts, Refused},
};
use crate::{address, edit};
use api::{Cause, FieldPath, GroupVersionKind, Object, Status, invalid};
use serde_json::{Value, json};
use server::{Context, Objects, Reservation, strategy::Companion};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

/// The allocations of one write in progress.
struct PendingAllocation<'a> {
    addresses: &'a Arc<Addresses>,
    ports: &'a Arc<NodePorts>,
    objects: &'a dyn Objects,
    pick: &'a dyn Fn(u64) -> u64,
    reservation: Reservation,
}

pub(super) fn reserve(
    addresses: &Arc<Addresses>,
    ports: &Arc<NodePorts>,
    cx: &Context,
    object: &mut Object,
    old: Option<&Object>,
) -> Result<Reservation, Status> {
    families(addresses, object, old)?;
    let pick = |bound| cx.ids.below(bound);
    let (objects, reservation) = (cx.objects.as_ref(), Reservation::none());
    let mut taking = PendingAllocation { addresses, ports, objects, pick: &pick, reservation };
    taking.cluster_ip(object, old)?;
    taking.node_ports(object, old)?;
    taking.health_check_port(object, old)?;
    Ok(taking.release_after_commit(object, old))
}

/// Calls `address` and `port` for every cluster IP and node port of a Service.
pub(super) fn held(object: &Object, mut address: impl FnMut(IpAddr), mut port: impl FnMut(u16)) {
    if needs_cluster_ip(object) {
        object.list_at(&["spec", "clusterIPs"]).iter().filter_map(parse_ip).for_each(&mut address);
    }
    node_ports_of(object).into_iter().for_each(&mut port);
}

/// The IPAddresses of a Service that goes.
pub(super) fn leaving(objects: &dyn Objects, object: &Object) -> Vec<Companion> {
    let mut all = Vec::new();
    held(object, |ip| all.extend(addresses::deleted(objects, object, ip)), |_| ());
    all
}

fn parse_ip(value: &Value) -> Option<IpAddr> {
    address::parse(value.as_str()?)
}

fn node_ports_of(object: &Object) -> Vec<u16> {
    let ports = object.list_at(&["spec", "ports"]).iter().map(|p| p["nodePort"].as_i64().unwrap_or(0));
    let check = needs_health_check_port(object).then(|| object.int_at(&["spec", "healthCheckNodePort"]).unwrap_or(0));
    let mut all: Vec<u16> = ports.chain(check).filter_map(|p| u16::try_from(p).ok()).filter(|p| *p != 0).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn is_headless(object: &Object) -> bool {
    object.list_at(&["spec", "clusterIPs"]).first().is_some_and(|ip| ip == "None")
}

fn refuse(object: &Object, causes: &[Cause]) -> Status {
    invalid(&GroupVersionKind::new("", "v1", "Service"), object.name(), causes)
}

/// Sets `ipFamilies` and `ipFamilyPolicy` for this single-stack cluster.
fn families(addresses: &Addresses, object: &mut Object, old: Option<&Object>) -> Result<(), Status> {
    if !needs_cluster_ip(object) {
        return Ok(());
    }
    let selectorless = object.at(&["spec", "selector"]).is_none_or(|s| edit::deep_equal(s, &Value::Null));
    let headless = object.str_at(&["spec", "clusterIP"]) == Some("None");
    if object.str_at(&["spec", "ipFamilyPolicy"]).is_none() {
        let before = old.and_then(|old| old.str_at(&["spec", "ipFamilyPolicy"]));
        let policy =
            before.unwrap_or(if headless && selectorless { "RequireDualStack" } else { "SingleStack" }).to_owned();
        object.set(&["spec", "ipFamilyPolicy"], policy);
    }
    let causes = super::validate::cluster_ips(object, old);
    if !causes.is_empty() {
        return Err(refuse(object, &causes));
    }
    let spec = FieldPath::new("spec");
    let own = addresses.family();
    let mut causes = Vec::new();
    let mut families = families_of_ips(object, own, &mut causes);
    let ips = object.list_at(&["spec", "clusterIPs"]);
    let policy = object.str_at(&["spec", "ipFamilyPolicy"]).unwrap_or_default().to_owned();
    let place = spec.child("ipFamilyPolicy");
    if policy == "SingleStack" {
        const NEEDED: &str = "must be 'RequireDualStack' or 'PreferDualStack' when multiple";
        for (many, what) in [(ips.len() == 2, "cluster IPs"), (families.len() == 2, "IP families")] {
            if many {
                causes.push(Cause::invalid(&place, &json!(policy), &format!("{NEEDED} {what} are specified")));
            }
        }
    }
    if causes.is_empty() && headless && selectorless {
        if families.is_empty() {
            families.push(own.to_owned());
        }
        if families.len() == 1 && policy != "SingleStack" {
            families.push(if families[0] == "IPv4" { "IPv6" } else { "IPv4" }.to_owned());
        }
        object.set(&["spec", "ipFamilies"], json!(families));
        return Ok(());
    }
    if policy == "RequireDualStack" {
        causes.push(Cause::invalid(&place, &json!(policy), "this cluster is not configured for dual-stack services"));
    }
    for (i, family) in families.iter().enumerate().filter(|(_, family)| *family != own) {
        causes.push(Cause::invalid(
            &spec.child("ipFamilies").index(i),
            &json!(family),
            "not configured on this cluster",
        ));
    }
    if !causes.is_empty() {
        return Err(refuse(object, &causes));
    }
    object.set(&["spec", "ipFamilies"], json!([own]));
    Ok(())
}

/// The families of the object, and those of its further addresses.
fn families_of_ips(object: &Object, own: &str, causes: &mut Vec<Cause>) -> Vec<String> {
    let named = object.list_at(&["spec", "ipFamilies"]).iter();
    let mut families: Vec<String> = named.filter_map(|family| family.as_str().map(str::to_owned)).collect();
    let ips = object.list_at(&["spec", "clusterIPs"]);
    for (i, ip) in ips.iter().enumerate().filter(|(_, ip)| *ip != "None") {
        let family = if parse_ip(ip).is_some_and(|ip| ip.is_ipv4()) { "IPv4" } else { "IPv6" };
        if i >= families.len() {
            if family != own {
                let text = format!("{family} is not configured on this cluster");
                let place = FieldPath::new("spec").child("clusterIPs").index(i);
                causes.push(Cause::invalid(&place, &json!(ips), &text));
            } else {
                families.push(family.to_owned());
            }
        }
    }
    families
}

impl PendingAllocation<'_> {
    fn undo(&mut self, undo: impl FnOnce() + Send + 'static) {
        self.reservation = std::mem::take(&mut self.reservation).and(undo);
    }

    fn cluster_ip(&mut self, object: &mut Object, old: Option<&Object>) -> Result<(), Status> {
        if !needs_cluster_ip(object) || is_headless(object) {
            return Ok(());
        }
        // A Service keeps its cluster IP; validation refuses a change.
        if old.is_some_and(needs_cluster_ip) {
            return Ok(());
        }
        let asked = object.list_at(&["spec", "clusterIPs"]).first().cloned();
        let ip = match asked.as_ref().and_then(parse_ip) {
            Some(ip) => self.addresses.take(self.objects, ip).map(|()| ip).map_err(|refused| {
                let text = format!("failed to allocate IP {ip}: {refused}");
                refuse(object, &[Cause::invalid(&FieldPath::new("spec.clusterIPs"), &json!([ip.to_string()]), &text)])
            })?,
            None => self.addresses.take_any(self.objects, self.pick).map_err(|refused| {
                Status::internal(format!("failed to allocate a serviceIP for Service \"{}\": {refused}", object.name()))
            })?,
        };
        let (undone, stored) = (self.addresses.clone(), self.addresses.clone());
        self.undo(move || undone.forget(ip));
        self.reservation = std::mem::take(&mut self.reservation)
            .after_commit(move || stored.forget(ip))
            .with(addresses::created(object, ip));
        let text = asked.and_then(|ip| ip.as_str().map(str::to_owned)).unwrap_or_else(|| ip.to_string());
        object.set(&["spec", "clusterIP"], text.clone());
        object.set(&["spec", "clusterIPs"], json!([text]));
        Ok(())
    }

    fn take_port(&mut self, port: u16) -> Result<(), Refused> {
        self.ports.take(port)?;
        let ports = self.ports.clone();
        self.undo(move || ports.release(port));
        Ok(())
    }

    fn take_any_port(&mut self) -> Result<u16, Refused> {
        let port = self.ports.take_any(self.pick)?;
        let ports = self.ports.clone();
        self.undo(move || ports.release(port));
        Ok(port)
    }

    fn node_ports(&mut self, object: &mut Object, old: Option<&Object>) -> Result<(), Status> {
        if !matches!(object.str_at(&["spec", "type"]), Some("NodePort" | "LoadBalancer")) {
            return Ok(());
        }
        let had: Vec<u16> = old.map(node_ports_of).unwrap_or_default();
        let allocate = allocates_node_ports(object);
        let asked: Vec<(i64, u16)> = object.list_at(&["spec", "ports"]).iter().map(numbers).collect();
        // The same port with TCP and UDP shares a node port.
        let mut by_port: BTreeMap<i64, u16> = BTreeMap::new();
        let mut taken: Vec<u16> = Vec::new();
        let mut result = Vec::with_capacity(asked.len());
        for (i, (port, wanted)) in asked.iter().enumerate() {
            let mut number = *wanted;
            if number == 0 && allocate {
                let shared = by_port.get(port).copied().or_else(|| {
                    let later = asked.iter().find(|(other, number)| other == port && *number != 0);
                    later.map(|(_, number)| *number).filter(|_| old.is_none())
                });
                number = match shared.filter(|_| old.is_none()) {
                    Some(number) => number,
                    None => {
                        let number = self
                            .take_any_port()
                            .map_err(|refused| Status::internal(format!("failed to allocate a nodePort: {refused}")))?;
                        taken.push(number);
                        number
                    }
                };
            }
            if number != 0 && !had.contains(&number) && !taken.contains(&number) {
                self.take_port(number).map_err(|refused| {
                    let place = FieldPath::new("spec.ports").index(i).child("nodePort");
                    refuse(object, &[Cause::invalid(&place, &json!(number), &refused.to_string())])
                })?;
                taken.push(number);
            }
            by_port.entry(*port).or_insert(number);
            result.push(number);
        }
        let list = object.entry(&["spec", "ports"]).as_array_mut();
        for (port, number) in list.into_iter().flatten().zip(result).filter(|(_, number)| *number != 0) {
            port["nodePort"] = json!(number);
        }
        Ok(())
    }

    fn health_check_port(&mut self, object: &mut Object, old: Option<&Object>) -> Result<(), Status> {
        if !needs_health_check_port(object) || old.is_some_and(needs_health_check_port) {
            return Ok(());
        }
        let wanted = object.int_at(&["spec", "healthCheckNodePort"]).unwrap_or(0);
        let number = match u16::try_from(wanted) {
            Ok(0) => self.take_any_port().map_err(|refused| {
                Status::internal(format!("failed to allocate a HealthCheck NodePort 0: {refused}"))
            })?,
            asked => {
                let port = asked.unwrap_or(0);
                self.take_port(port).map_err(|refused| {
                    Status::internal(format!("failed to allocate requested HealthCheck NodePort {wanted}: {refused}"))
                })?;
                port
            }
        };
        object.set(&["spec", "healthCheckNodePort"], number);
        Ok(())
    }

    /// The reservation, which also deletes the IPAddresses, and releases after the commit the ports, that the old Service had and the new one lacks.
    fn release_after_commit(self, object: &Object, old: Option<&Object>) -> Reservation {
        let Some(old) = old else { return self.reservation };
        let mut kept_ips = Vec::new();
        let mut gone_ips = Vec::new();
        held(object, |ip| kept_ips.push(ip), |_| ());
        held(old, |ip| gone_ips.push(ip), |_| ());
        gone_ips.retain(|ip| !kept_ips.contains(ip));
        let kept = node_ports_of(object);
        let gone: Vec<u16> = node_ports_of(old).into_iter().filter(|port| !kept.contains(port)).collect();
        let mut reservation = self.reservation;
        for companion in gone_ips.iter().filter_map(|ip| addresses::deleted(self.objects, old, *ip)) {
            reservation = reservation.with(companion);
        }
        if gone.is_empty() && gone_ips.is_empty() {
            return reservation;
        }
        let (addresses, ports) = (self.addresses.clone(), self.ports.clone());
        reservation.after_commit(move || {
            gone_ips.into_iter().for_each(|ip| addresses.release(ip));
            gone.into_iter().for_each(|port| ports.release(port));
        })
    }
}

/// Port and node port; an invalid node port becomes one that is outside of every range.
fn numbers(port: &Value) -> (i64, u16) {
    let node = port["nodePort"].as_i64().unwrap_or(0);
    (port["port"].as_i64().unwrap_or(0), u16::try_from(node).unwrap_or(1))
}
