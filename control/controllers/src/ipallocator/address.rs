//! Whether an IPAddress of the allocator belongs to a Service.

use super::{
    parent::{names_service, parent, text_of},
    service::{Told, cluster_ips},
};
use crate::{meta, serviceranges};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{core::v1::Service, networking::v1::IPAddress};
use std::{net::IpAddr, time::Duration};

/// How long one may be without its Service: as long as a request takes at most.
const GRACE: SignedDuration = SignedDuration::from_secs(60);

/// How long one may name a Service that does not have it: a write that was reverted.
const REVERT: SignedDuration = SignedDuration::from_secs(5);

/// What happens with an IPAddress.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It stays.
    Keep,
    /// It is looked at again after this time.
    Later(Duration),
    /// It goes.
    Delete(Told),
}

/// Decides; `service` is the one that it names.
pub(super) fn verdict(address: &IPAddress, service: Option<&Service>, now: Timestamp) -> Verdict {
    if !serviceranges::is_managed(address) || meta::is_deleting(&address.metadata) {
        return Verdict::Keep;
    }
    let ip = meta::name(&address.metadata);
    let delete = |reason: &'static str, message: String| Verdict::Delete(Told { reason, message });
    let parent = parent(address);
    if !names_service(parent) {
        let (group, namespace) = (text_of(&parent.group), text_of(&parent.namespace));
        let shown = format!(
            "&ParentReference{{Group:{group},Resource:{},Namespace:{namespace},Name:{},}}",
            parent.resource, parent.name
        );
        let text =
            format!("IPAddress {ip} appears to have been modified, not referencing a Service {shown}: cleaning up");
        return delete("IPAddressNotAllocated", text);
    }
    let of = format!("IPAddress: {ip} for Service {}/{}", text_of(&parent.namespace), parent.name);
    let created = meta::created(&address.metadata);
    let rest = |grace: SignedDuration| meta::non_negative(grace - now.duration_since(created));
    let Some(service) = service else {
        return match rest(GRACE) {
            Duration::ZERO => delete("IPAddressNotAllocated", format!("{of} appears to have leaked: cleaning up")),
            rest => Verdict::Later(rest),
        };
    };
    if ip.parse::<IpAddr>().is_ok_and(|ip| cluster_ips(service).any(|one| one.parse() == Ok(ip))) {
        return Verdict::Keep;
    }
    // The Service may get the address by a write that is on its way.
    let is_external = service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("ExternalName"));
    let grace = match created > meta::created(&service.metadata) {
        _ if is_external => GRACE,
        true => REVERT,
        false => SignedDuration::ZERO,
    };
    match rest(grace) {
        Duration::ZERO => delete("IPAddressWrongReference", format!("{of} has a wrong reference; cleaning up")),
        rest => Verdict::Later(rest),
    }
}
