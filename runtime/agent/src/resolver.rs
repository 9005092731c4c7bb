//! The resolver file of a Linux container (`/etc/resolv.conf`). Pure. Guests of WebAssembly ask the network itself.
//!
//! Follows <https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/#pod-s-dns-policy>, with upstream's limits.

use crate::pod;
use k8s_openapi::api::core::v1::Pod;
use std::{fmt::Write, net::IpAddr};

/// Most name servers of a pod, as the C library takes them.
const MAX_SERVERS: usize = 3;
/// Most domains of a search path.
const MAX_DOMAINS: usize = 32;
/// Most bytes of a search path.
const MAX_PATH: usize = 2048;
/// Shorter names are tried with the search path first: `service.namespace.svc` is of the cluster.
const NDOTS: &str = "ndots:5";

/// The names of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterDns {
    /// Its name servers, which know outside names as well. None where it has none: pods then have those of the node.
    pub servers: Vec<IpAddr>,
    /// Its domain, such as `cluster.local`.
    pub domain: String,
}

/// What a resolver file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Resolver {
    servers: Vec<String>,
    search: Vec<String>,
    options: Vec<String>,
}

impl Resolver {
    /// Reads a file. What is not known is left out, as resolvers do.
    fn read(text: &str) -> Self {
        let mut it = Self::default();
        for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => it.servers.extend(words.next()),
                // the last one counts
                Some("search" | "domain") => it.search = words.collect(),
                Some("options") => it.options.extend(words),
                _ => {}
            }
        }
        it
    }

    /// An option of the same name is replaced.
    fn add_option(&mut self, option: String) {
        let name = |option: &str| option.split(':').next().unwrap_or_default().to_owned();
        self.options.retain(|old| name(old) != name(&option));
        self.options.push(option);
    }

    /// Its text within the limits. What is said twice is said once.
    fn text(mut self) -> String {
        let mut room = MAX_PATH;
        let mut seen = Vec::new();
        self.search.retain(|domain| {
            let fits = !seen.contains(domain) && seen.len() < MAX_DOMAINS && domain.len() < room;
            if fits {
                room -= domain.len() + 1;
                seen.push(domain.clone());
            }
            fits
        });
        let mut servers = Vec::new();
        for server in self.servers {
            if !servers.contains(&server) && servers.len() < MAX_SERVERS {
                servers.push(server);
            }
        }
        let mut text = String::new();
        if !self.search.is_empty() {
            let _ = writeln!(text, "search {}", self.search.join(" "));
        }
        for server in servers {
            let _ = writeln!(text, "nameserver {server}");
        }
        if !self.options.is_empty() {
            let _ = writeln!(text, "options {}", self.options.join(" "));
        }
        text
    }
}

/// The domain that the pod's host name is in, if it has one: that of `subdomain`, its headless Service.
pub fn domain(pod: &Pod, cluster: &ClusterDns) -> Option<String> {
    let subdomain = pod::spec(pod).subdomain.as_ref().filter(|name| !name.is_empty())?;
    // a host name of its own is the whole one
    let is_whole = pod::spec(pod).hostname_override.is_some();
    (!is_whole).then(|| format!("{subdomain}.{}.svc.{}", pod::namespace(pod), cluster.domain))
}

/// The text of a pod's file. `host` is that of the node's own.
pub fn file(pod: &Pod, cluster: &ClusterDns, host: &str) -> String {
    let spec = pod::spec(pod);
    let policy = match (spec.dns_policy.as_deref(), spec.host_network == Some(true)) {
        (None | Some("ClusterFirst"), true) => "Default",
        (Some("ClusterFirstWithHostNet") | None, _) => "ClusterFirst",
        (Some(policy), _) => policy,
    };
    let mut host = Resolver::read(host);
    let is_own = |server: &String| server.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    host.servers.retain(|server| !is_own(server));
    let mut made = match policy {
        "None" => Resolver::default(),
        "Default" => {
            // the loopback of a pod is another: the cluster asks in its place
            if host.servers.is_empty() {
                host.servers = cluster.servers.iter().map(IpAddr::to_string).collect();
            }
            host
        }
        _ if cluster.servers.is_empty() => host,
        _ => {
            let domain = &cluster.domain;
            let own = [format!("{}.svc.{domain}", pod::namespace(pod)), format!("svc.{domain}"), domain.clone()];
            Resolver {
                servers: cluster.servers.iter().map(IpAddr::to_string).collect(),
                search: own.into_iter().chain(host.search).collect(),
                options: vec![NDOTS.into()],
            }
        }
    };
    if let Some(config) = &spec.dns_config {
        made.servers.extend(config.nameservers.iter().flatten().cloned());
        made.search.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let Some(name) = option.name.as_ref().filter(|name| !name.is_empty()) else { continue };
            let value = option.value.as_ref().filter(|value| !value.is_empty());
            made.add_option(value.map_or_else(|| name.clone(), |value| format!("{name}:{value}")));
        }
    }
    made.text()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const HOST: &str =
        "# a comment\ndomain old.example\nsearch corp.example\nnameserver 192.0.2.53\noptions timeout:1 ndots:2\n";

    fn of(spec: Value, host: &str) -> String {
        let mut spec = spec;
        spec["containers"] = json!([]);
        let pod = serde_json::from_value(json!({"metadata": {"namespace": "shop"}, "spec": spec})).expect("a pod");
        let cluster =
            ClusterDns { servers: vec!["10.96.0.10".parse().expect("an address")], domain: "cluster.local".into() };
        file(&pod, &cluster, host)
    }

    #[test]
    fn the_policy_decides_whom_a_pod_asks() {
        let cluster = "search shop.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.96.0.10\n\
                       options ndots:5\n";
        let node = "search corp.example\nnameserver 192.0.2.53\noptions timeout:1 ndots:2\n";
        for (spec, expected) in [
            (json!({}), cluster),
            (json!({"dnsPolicy": "ClusterFirst"}), cluster),
            (json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), node),
            (json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}), cluster),
            (json!({"dnsPolicy": "Default"}), node),
            (json!({"dnsPolicy": "None"}), ""),
        ] {
            assert_eq!(of(spec.clone(), HOST), expected, "{spec}");
        }
        let on_loopback = of(json!({"dnsPolicy": "Default"}), "nameserver 127.0.0.53\nnameserver ::1\n");
        assert_eq!(on_loopback, "nameserver 10.96.0.10\n", "a pod's loopback is another");
    }

    #[test]
    fn what_the_pod_says_is_added_within_the_limits() {
        let config = json!({"nameservers": ["192.0.2.1", "192.0.2.1", "192.0.2.2"], "searches": ["svc.cluster.local", "a.example"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]});
        let none = of(json!({"dnsPolicy": "None", "dnsConfig": config}), HOST);
        assert_eq!(
            none,
            "search svc.cluster.local a.example\nnameserver 192.0.2.1\nnameserver 192.0.2.2\noptions ndots:2 edns0\n"
        );
        let added = of(json!({"dnsConfig": config}), HOST);
        assert_eq!(
            added,
            "search shop.svc.cluster.local svc.cluster.local cluster.local corp.example a.example\nnameserver 10.96.0.10\n\
             nameserver 192.0.2.1\nnameserver 192.0.2.2\noptions ndots:2 edns0\n"
        );
        let many = Value::from((0..40).map(|i| json!(format!("d{i}.example"))).collect::<Vec<_>>());
        let many = of(json!({"dnsPolicy": "None", "dnsConfig": {"searches": many}}), "");
        assert_eq!(many.split_whitespace().count(), 1 + MAX_DOMAINS);
        let long = json!([format!("{}.example", "x".repeat(2000)), "y".repeat(100), "z"]);
        let long = of(json!({"dnsPolicy": "None", "dnsConfig": {"searches": long}}), "");
        assert!(long.len() < MAX_PATH + 20 && long.ends_with(" z\n") && !long.contains('y'), "{long}");
    }

    #[test]
    fn a_subdomain_is_that_of_a_headless_service() {
        let cluster = ClusterDns { domain: "cluster.local".into(), ..ClusterDns::default() };
        let pod = |spec: Value| {
            serde_json::from_value(json!({"metadata": {"name": "web-0", "namespace": "shop"}, "spec": spec})).unwrap()
        };
        let with = pod(json!({"containers": [], "subdomain": "web"}));
        assert_eq!(domain(&with, &cluster).as_deref(), Some("web.shop.svc.cluster.local"));
        assert_eq!(domain(&pod(json!({"containers": []})), &cluster), None);
        assert_eq!(
            domain(&pod(json!({"containers": [], "subdomain": "web", "hostnameOverride": "x"})), &cluster),
            None
        );
    }
}
