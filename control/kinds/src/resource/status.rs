//! The status of a claim: which devices it has, who uses it, and what drivers say of the devices.

use super::{
    claims::{self, MAX_CONFIGS, Requests},
    config, lists, names, taints,
};
use crate::{address, at::At, edit, podspec, quantities, rules};
use api::{Cause, Object};
use serde_json::{Value, json};
use server::Context;
use std::collections::HashSet;

/// The most users of a claim.
const MAX_USERS: usize = 256;
/// The most devices of a claim.
const MAX_RESULTS: usize = 32;
/// The most conditions of a device.
const MAX_CONDITIONS: usize = 8;
/// The longest data of a device, in bytes.
const MAX_DATA: usize = 10 * 1024;
/// The most addresses of a device, and the longest names.
const MAX_ADDRESSES: usize = 16;
const MAX_INTERFACE: usize = 256;
const MAX_HARDWARE: usize = 128;

/// What tells the devices of a claim apart, as upstream shows it.
fn device_key(device: At<'_>) -> String {
    let text = |name| Value::from(device.get(name).str());
    let (driver, pool, name, share) = (text("driver"), text("pool"), text("device"), text("shareID"));
    format!("{{\"Driver\":{driver},\"Pool\":{pool},\"Device\":{name},\"ShareID\":{share}}}")
}

fn results(object: &Object) -> At<'_> {
    At::of(object, "status").down(&["allocation", "devices", "results"])
}

/// The amounts of a status in canonical form.
pub(super) fn default(object: &mut Object) {
    let Some(status) = edit::object_if(&mut object.0, "status") else { return };
    let devices = edit::object_if(status, "allocation").and_then(|allocation| edit::object_if(allocation, "devices"));
    for result in devices.into_iter().flat_map(|devices| edit::objects(devices, "results")) {
        let amounts = edit::object_if(result, "consumedCapacity");
        amounts.into_iter().flatten().for_each(|(_, amount)| quantities::canonicalize_one(amount));
    }
}

/// What is said of devices that the claim had and has no more goes.
pub(super) fn forget_deallocated(object: &mut Object, old: &Object) {
    let kept: HashSet<String> = results(object).items().map(device_key).collect();
    let gone: HashSet<String> = results(old).items().map(device_key).filter(|key| !kept.contains(key)).collect();
    let Some(status) = edit::object_if(&mut object.0, "status") else { return };
    if let Some(Value::Array(devices)) = status.get_mut("devices") {
        devices.retain(|device| !gone.contains(&device_key(At::root(device))));
        if devices.is_empty() {
            status.remove("devices");
        }
    }
}

/// The faults of a status.
pub(super) fn validate(cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
    let (mut out, status, before) = (Vec::new(), At::of(object, "status"), At::of(old, "status"));
    admin(cx, object, old, &mut out);
    let (users, allocation) = (status.get("reservedFor"), status.get("allocation"));
    lists::set(users, MAX_USERS, user, lists::by("uid"), &mut out);
    let allocated: HashSet<String> = results(object).items().map(device_key).collect();
    let check = |device: At<'_>, out: &mut Vec<Cause>| device_status(device, &allocated, out);
    lists::set(status.get("devices"), usize::MAX, check, device_key, &mut out);
    if !users.is_empty() && !allocation.is_set() {
        out.push(users.forbidden("may not be specified when `allocated` is not set"));
    } else if !users.is_empty() && object.is_deleting() {
        let had: HashSet<Value> =
            before.get("reservedFor").items().map(|one| edit::without_empty(one.value())).collect();
        if users.items().any(|one| !had.contains(&edit::without_empty(one.value()))) {
            let text = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            out.push(users.forbidden(text));
        }
    }
    let allocated_before = before.get("allocation");
    if !allocation.is_set() {
        return out;
    }
    if !allocated_before.is_set() {
        self::allocation(allocation, &Requests::of(At::of(object, "spec")), &mut out);
    } else if !edit::deep_equal(allocation.value(), allocated_before.value()) {
        let shown = allocation.printed("io.k8s.api.resource.v1.AllocationResult");
        out.push(Cause::invalid_shown(&allocation.field(), &shown, "field is immutable"));
    }
    out
}

fn admin(cx: &Context, object: &Object, old: &Object, out: &mut Vec<Cause>) {
    let granted = |object| results(object).items().find(|result| result.get("adminAccess").bool());
    if let (Some(result), None) = (granted(object), granted(old)) {
        claims::admin(cx, object, &result.get("adminAccess").field(), out);
    }
}

fn user(user: At<'_>, out: &mut Vec<Cause>) {
    for name in ["resource", "name", "uid"] {
        if user.get(name).is_empty() {
            out.push(user.get(name).required(""));
        }
    }
}

fn allocation(allocation: At<'_>, known: &Requests<'_>, out: &mut Vec<Cause>) {
    let devices = allocation.get("devices");
    let result = |result: At<'_>, out: &mut Vec<Cause>| {
        known.reference(result.get("request"), out);
        device_names(result, out);
        taints::binding(result, out);
        names::share(result.get("shareID"), out);
    };
    lists::each(devices.get("results"), MAX_RESULTS, result, out);
    let configuration = |config: At<'_>, out: &mut Vec<Cause>| {
        config.get("source").one_of(&["FromClaim", "FromClass"], out);
        known.references(config.get("requests"), out);
        config::configuration(config, out);
    };
    lists::each(devices.get("config"), 2 * MAX_CONFIGS, configuration, out);
    let selector = allocation.get("nodeSelector");
    if selector.is_set() {
        podspec::node_selector(selector, out);
    }
}

fn device_names(device: At<'_>, out: &mut Vec<Cause>) {
    names::driver(device.get("driver"), out);
    names::pool(device.get("pool"), out);
    rules::label_name(device.get("device"), out);
}

fn device_status(device: At<'_>, allocated: &HashSet<String>, out: &mut Vec<Cause>) {
    device_names(device, out);
    names::share(device.get("shareID"), out);
    let key = device_key(device);
    if !allocated.contains(&key) {
        out.push(Cause::invalid_shown(&device.field(), &key, "must be an allocated device in the claim"));
    }
    let conditions = device.get("conditions");
    lists::fits(conditions, MAX_CONDITIONS, out);
    rules::conditions(conditions, out);
    let data = device.get("data");
    if data.is_set() {
        config::parameters(data, MAX_DATA, out);
    }
    let network = device.get("networkData");
    for (name, most) in [("interfaceName", MAX_INTERFACE), ("hardwareAddress", MAX_HARDWARE)] {
        if network.get(name).str().len() > most {
            out.push(Cause::too_long(&network.get(name).field(), most));
        }
    }
    lists::set(network.get("ips"), MAX_ADDRESSES, address, lists::itself, out);
}

/// An address of an interface: `10.9.8.7/24`.
fn address(at: At<'_>, out: &mut Vec<Cause>) {
    let (text, field) = (at.str(), at.field());
    let canonical = text.split_once('/').and_then(|(address, length)| {
        let ip = address::parse(address)?;
        let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
        let bits: u8 = length.parse().ok().filter(|_| digits)?;
        let wide = address.contains(':');
        if bits > if wide { 128 } else { 32 } {
            return None;
        }
        let bits = if ip.is_ipv4() && wide && bits > 32 { bits.saturating_sub(96) } else { bits };
        Some(format!("{ip}/{bits}"))
    });
    match canonical {
        None => out.push(Cause::invalid(
            &field,
            &json!(text),
            "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)",
        )),
        Some(right) if right != text => {
            out.push(Cause::invalid(&field, &json!(text), &format!("must be in canonical form ({right:?})")));
        }
        Some(_) => {}
    }
}
