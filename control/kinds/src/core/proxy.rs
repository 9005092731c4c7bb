//! `pods/proxy`, `services/proxy` and `nodes/proxy`: HTTP servers of the cluster through the API server. The choice of the address and the
//! messages follow upstream (`ResourceLocation` of each kind). Beyond upstream, a request to a Service that was scaled to zero because it was
//! idle goes to the Service's own address, where the node's network holds it and wakes the Service.

use api::{GroupVersionKind, Object, Status, annotations::SCALED_TO_ZERO};
use axum::body::Body;
use http::{Request, Response, Uri};
use serde_json::Value;
use server::{Action, Api, Backend, Call, Names, Objects, Operation, Query, Subresource, Verb, action::Serve};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// The label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const VERBS: &[Verb] = &[Verb::Create, Verb::Delete, Verb::Get, Verb::Patch, Verb::Update];

/// The subresource of `kind`.
pub(crate) fn of(kind: Kind) -> Subresource {
    let options = GroupVersionKind::new("", "v1", kind.options());
    Subresource::new("proxy", options, VERBS, Serve::Action(Arc::new(Proxy(kind))))
}

/// The kinds with a `proxy` subresource.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Pod,
    Service,
    Node,
}

impl Kind {
    fn options(self) -> &'static str {
        match self {
            Self::Pod => "PodProxyOptions",
            Self::Service => "ServiceProxyOptions",
            Self::Node => "NodeProxyOptions",
        }
    }
}

struct Proxy(Kind);

#[async_trait::async_trait]
impl Action for Proxy {
    async fn serve(&self, api: &dyn Api, call: Call, names: Arc<Names>) -> Result<Response<Body>, Status> {
        let kind = match self.0 {
            Kind::Pod => "pod",
            Kind::Service => "service",
            Kind::Node => "node",
        };
        let invalid = || Status::bad_request(format!("invalid {kind} request {:?}", call.info.name));
        let target = Target::parse(&call.info.name).ok_or_else(invalid)?;
        let find = |resource: &str| {
            let found = Objects::get(api, "", resource, &call.info.namespace, target.name);
            let gvr = api::GroupVersionResource { resource: resource.to_owned(), ..names.gvr.clone() };
            found.ok_or_else(|| Status::not_found(&gvr, target.name))
        };
        let address = match self.0 {
            Kind::Pod => pod_address(&*find("pods")?, &target)?,
            Kind::Service => {
                let number: Option<i64> = target.port.parse().ok();
                let port = number.map(|number| port_name(&*find("services")?, number)).transpose()?;
                let port = port.as_deref().unwrap_or(target.port);
                let pod = |name: &str| Objects::get(api, "", "pods", &call.info.namespace, name);
                let mut all = addresses(&*find("endpoints")?, port, &pod);
                if all.is_empty() {
                    let slices = || Objects::list(api, "discovery.k8s.io", "endpointslices", &call.info.namespace);
                    all.extend(find("services").ok().and_then(|service| asleep(&service, port, slices)));
                }
                if all.is_empty() {
                    let text = format!("no endpoints available for service {:?}", call.info.name);
                    return Err(Status::unavailable(text));
                }
                let ids = api.context(&call, Operation::Connect, &names, false).ids;
                let any = ids.below(all.len() as u64);
                all.swap_remove(usize::try_from(any).unwrap_or_default())
            }
            Kind::Node => match node_address(&*find("nodes")?, &target)? {
                Some(address) => address,
                None => return kubelet(api, target.name.to_owned(), call).await,
            },
        };
        let backend = Backend { address, tls: target.tls };
        api.proxy(&backend, call).await
    }

    fn is_long_running(&self, _query: &Query) -> bool {
        true
    }

    fn connection(&self, call: &Call) -> Option<Object> {
        let mut options = Object::default();
        options.set(&["kind"], self.0.options());
        options.set(&["apiVersion"], "v1");
        if !call.info.rest.is_empty() {
            options.set(&["path"], call.info.rest.clone());
        }
        Some(options)
    }

    fn takes_path(&self) -> bool {
        true
    }
}

/// `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`.
#[derive(Debug, PartialEq, Eq)]
struct Target<'a> {
    tls: bool,
    name: &'a str,
    /// A number, or for Services a name; empty if absent.
    port: &'a str,
}

impl<'a> Target<'a> {
    fn parse(id: &'a str) -> Option<Self> {
        let parts: Vec<&str> = id.split(':').collect();
        let (scheme, name, port) = match parts[..] {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme, name, port] => (scheme, name, port),
            _ => return None,
        };
        let known = matches!(scheme, "" | "http" | "https");
        (known && !name.is_empty()).then_some(Self { tls: scheme == "https", name, port })
    }

    /// The number of the port, or the default port of the scheme.
    fn number(&self, port: &str) -> Result<u16, Status> {
        match (port, self.tls) {
            ("", true) => Ok(443),
            ("", false) => Ok(80),
            (port, _) => port.parse().map_err(|_| {
                Status::unavailable(format!("error trying to reach service: dial tcp: lookup tcp/{port}: unknown port"))
            }),
        }
    }
}

fn pod_address(pod: &Object, target: &Target<'_>) -> Result<SocketAddr, Status> {
    let ports = pod.list_at(&["spec", "containers"]).iter().filter_map(|container| container["ports"].as_array());
    let first = ports.flatten().find_map(|port| port["containerPort"].as_u64()).map(|port| port.to_string());
    let port = match (target.port, &first) {
        ("", Some(first)) => first,
        (port, _) => port,
    };
    let ip = pod.list_at(&["status", "podIPs"]).first().and_then(|ip| ip["ip"].as_str());
    Ok(SocketAddr::new(allowed(ip.or(pod.str_at(&["status", "podIP"])))?, target.number(port)?))
}

/// Parses an address that the proxy may forward to: no loopback, link-local or multicast address.
fn allowed(text: Option<&str>) -> Result<IpAddr, Status> {
    let ip = text.and_then(|text| text.parse::<IpAddr>().ok()).map(|ip| ip.to_canonical());
    ip.filter(is_global_unicast).ok_or_else(|| Status::bad_request("address not allowed"))
}

/// As Go's `IsGlobalUnicast`.
fn is_global_unicast(ip: &IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local)
}

/// The name of the Service port with this number.
fn port_name(service: &Object, number: i64) -> Result<String, Status> {
    let port = service.list_at(&["spec", "ports"]).iter().find(|port| port["port"].as_i64() == Some(number));
    let port = port.ok_or_else(|| {
        Status::unavailable(format!("no service port {number} found for service {:?}", service.name()))
    })?;
    Ok(port["name"].as_str().unwrap_or_default().to_owned())
}

/// The address of a Service's own port, where its slices say that it was scaled to zero because it was idle. A headless one has none.
fn asleep(service: &Object, port: &str, slices: impl FnOnce() -> Vec<Arc<Object>>) -> Option<SocketAddr> {
    let ports = service.list_at(&["spec", "ports"]);
    let named = ports.iter().find(|one| one["name"].as_str().unwrap_or_default() == port)?;
    let number = u16::try_from(named["port"].as_u64()?).ok()?;
    let address = allowed(service.str_at(&["spec", "clusterIP"])).ok()?;
    let text = |object: &Object, map: &str, key: &str| object.0["metadata"][map][key].as_str().map(str::to_owned);
    let tells = |slice: &Arc<Object>| {
        text(slice, "labels", SERVICE_NAME).as_deref() == Some(service.name())
            && text(slice, "annotations", SCALED_TO_ZERO).is_some()
    };
    slices().iter().any(tells).then(|| SocketAddr::new(address, number))
}

/// The addresses behind a port of the Endpoints that belong to ready pods of the same namespace.
fn addresses(endpoints: &Object, port: &str, pod: &dyn Fn(&str) -> Option<Arc<Object>>) -> Vec<SocketAddr> {
    let is_pods = |address: &Value, ip: &str| {
        let to = address.get("targetRef").filter(|to| to["namespace"].as_str() == Some(endpoints.namespace()));
        let pod = to.and_then(|to| to["name"].as_str()).and_then(pod);
        pod.is_some_and(|pod| pod.list_at(&["status", "podIPs"]).iter().any(|own| own["ip"].as_str() == Some(ip)))
    };
    let mut found = Vec::new();
    for subset in endpoints.list_at(&["subsets"]) {
        let list = |field: &str| subset[field].as_array().map(Vec::as_slice).unwrap_or_default();
        let named = |p: &&Value| p["name"].as_str().unwrap_or_default() == port;
        let number = list("ports").iter().find(named).and_then(|p| u16::try_from(p["port"].as_u64()?).ok());
        let Some(number) = number else { continue };
        for address in list("addresses") {
            let ip = address["ip"].as_str().filter(|ip| is_pods(address, ip));
            found.extend(allowed(ip).ok().map(|ip| SocketAddr::new(ip, number)));
        }
    }
    found
}

/// The address of a server on the node; `None` for the kubelet.
fn node_address(node: &Object, target: &Target<'_>) -> Result<Option<SocketAddr>, Status> {
    let kubelet = node.0["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().map(|port| port.to_string());
    if target.port.is_empty() || kubelet.as_deref() == Some(target.port) {
        return Ok(None);
    }
    let internal = |address: &&Value| address["type"].as_str() == Some("InternalIP");
    let ip =
        node.list_at(&["status", "addresses"]).iter().find(internal).and_then(|address| address["address"].as_str());
    Ok(Some(SocketAddr::new(allowed(ip)?, target.number(target.port)?)))
}

/// Forwards a call to the node's kubelet.
async fn kubelet(api: &dyn Api, node: String, call: Call) -> Result<Response<Body>, Status> {
    let query = call.parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let target: Uri = format!("/{}{query}", call.info.rest)
        .parse()
        .map_err(|e| Status::bad_request(format!("the path cannot be passed on: {e}")))?;
    let mut request = Request::new(std::mem::take(&mut *call.stream.lock()));
    *request.method_mut() = call.method().clone();
    *request.uri_mut() = target;
    let answer = api.kubelet(&node).send(request).await;
    answer.map_err(|e| Status::unavailable(format!("error trying to reach service: {e}")))
}
