//! What Services and EndpointSlices have in common: protocols and addresses. Pure.

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use std::{net::IpAddr, sync::Arc};

/// Transport protocol of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    pub(crate) fn parse(text: Option<&str>) -> Option<Self> {
        match text.unwrap_or("TCP") {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            _ => None, // SCTP is not done here
        }
    }
}

/// The addresses of texts, each once; what is none is left out.
pub(crate) fn addresses<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = Vec::new();
    for address in texts.into_iter().filter_map(|text| text.parse().ok()) {
        if !all.contains(&address) {
            all.push(address);
        }
    }
    all
}

/// All endpoints with an address.
pub(crate) fn all(slices: &[Arc<EndpointSlice>]) -> impl Iterator<Item = (&EndpointSlice, &Endpoint)> {
    let slices = slices.iter().filter(|slice| slice.address_type != "FQDN");
    slices.flat_map(|slice| slice.endpoints.iter().flatten().map(move |endpoint| (&**slice, endpoint)))
}
