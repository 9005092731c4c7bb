//! `networking.k8s.io`: NetworkPolicy, Ingress, IngressClass, IPAddress, ServiceCIDR.

pub(crate) mod ingress;
pub(crate) mod ingressclass;
pub(crate) mod ipaddress;
pub(crate) mod networkpolicy;
pub(crate) mod servicecidr;
