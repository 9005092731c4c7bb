//! `sampan url`: prints the URLs of a Service.

use super::{Reached, connect, finder::Finder, get::escape};
use crate::{args::UrlArgs, exit::usage, out, port};
use anyhow::bail;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};

/// `sampan url`.
pub(crate) async fn run(args: &UrlArgs) -> anyhow::Result<()> {
    let name = match args.service.split_once('/') {
        None => args.service.as_str(),
        Some(("service" | "services" | "svc", name)) => name,
        Some((kind, _)) => return Err(usage(format!("only Services have URLs, not {kind}: expected 'url SERVICE'"))),
    };
    let reached = connect(&args.target).await?;
    let forward = reached.command("port-forward");
    let finder = Finder::new(Reached { dir: None, ..reached });
    let path = format!("/api/v1/namespaces/{}/services/{}", finder.namespace, escape(name));
    let service = finder.get(&path).await?;
    let nodes = finder.get("/api/v1/nodes").await?;
    let Some(node) = node_address(&nodes) else { bail!("no node has told its address yet") };
    let urls = urls(&service, node);
    if urls.is_empty() {
        let ports = service["spec"]["ports"].as_array().into_iter().flatten();
        let first = ports.filter_map(|port| port["port"].as_u64()).next().unwrap_or(80);
        bail!(
            "service/{name} answers only inside the cluster: it is of type {}; to reach it from here: {forward} -n {} service/{name} :{first}",
            service["spec"]["type"].as_str().unwrap_or("ClusterIP"),
            finder.namespace
        );
    }
    for url in urls {
        out::line(&url)?;
    }
    Ok(())
}

/// The address of the first node that has one.
fn node_address(nodes: &Value) -> Option<IpAddr> {
    let nodes = nodes["items"].as_array().into_iter().flatten();
    let addresses = nodes.flat_map(|node| node["status"]["addresses"].as_array().into_iter().flatten());
    addresses.filter(|it| it["type"] == "InternalIP").find_map(|it| it["address"].as_str()?.parse().ok())
}

/// A URL per TCP node port. Like ingress controllers, uses the port's name or `appProtocol` to decide on TLS.
fn urls(service: &Value, node: IpAddr) -> Vec<String> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let url = |port: &Value| {
        let number = u16::try_from(port["nodePort"].as_u64()?).ok().filter(|number| *number > 0)?;
        let tcp = port["protocol"].as_str().is_none_or(|protocol| protocol == "TCP");
        let secure = ["name", "appProtocol"].iter().any(|field| port[*field] == "https") || port["port"] == 443;
        let scheme = if secure { "https" } else { "http" };
        tcp.then(|| format!("{scheme}://{}", port::reachable(SocketAddr::new(node, number))))
    };
    ports.filter_map(url).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_tcp_node_port_has_a_url() {
        let service = json!({"spec": {"ports": [
            {"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 443, "nodePort": 30443},
            {"port": 8443, "name": "https", "nodePort": 30444}, {"port": 53, "protocol": "UDP", "nodePort": 30053},
            {"port": 81}]}});
        let urls = urls(&service, "127.0.0.1".parse().expect("an address"));
        assert_eq!(urls, ["http://127.0.0.1:30080", "https://127.0.0.1:30443", "https://127.0.0.1:30444"]);
        let v6 = super::urls(&service, "::1".parse().expect("an address"));
        assert_eq!(v6[0], "http://[::1]:30080");
    }

    #[test]
    fn the_node_is_the_first_that_told_its_address() {
        let nodes = json!({"items": [
            {"status": {}}, {"status": {"addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "127.0.0.2"}]}}]});
        assert_eq!(node_address(&nodes), Some("127.0.0.2".parse().expect("an address")));
        assert_eq!(node_address(&json!({"items": []})), None);
    }
}
