//! What a request must be like for each signer of `kubernetes.io`, with upstream's texts. Pure.

use api::csr::Request;
use std::collections::BTreeSet;

/// Signs for clients of the API.
pub(super) const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Signs for kubelets as clients of the API.
pub(super) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signs for kubelets as servers.
pub(super) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// Signs anything: requests of the first version of the API.
pub(super) const LEGACY: &str = "kubernetes.io/legacy-unknown";

const SIGNATURE: &str = "digital signature";
const ENCIPHERMENT: &str = "key encipherment";

/// Whether a request fits its signer; `None` for a signer that others run.
pub(super) fn fits(signer: &str, request: &Request, usages: &[String]) -> Option<Result<(), String>> {
    match signer {
        KUBELET_SERVING => Some(kubelet_serving(request, usages)),
        KUBELET_CLIENT => Some(kubelet_client(request, usages)),
        API_CLIENT => Some(api_client(usages)),
        LEGACY => Some(Ok(())),
        _ => None,
    }
}

/// Whether the usages are these and [`SIGNATURE`], with or without [`ENCIPHERMENT`].
fn for_node(usages: &[String], purpose: &str) -> Result<(), String> {
    let usages: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    let mut wanted = BTreeSet::from([SIGNATURE, purpose]);
    if usages == wanted {
        return Ok(());
    }
    wanted.insert(ENCIPHERMENT);
    if usages == wanted {
        return Ok(());
    }
    Err(format!("usages did not match [{}]", wanted.into_iter().collect::<Vec<_>>().join(" ")))
}

fn of_nodes(request: &Request) -> Result<(), String> {
    if request.organizations == ["system:nodes"] {
        Ok(())
    } else {
        Err("subject organization is not system:nodes".to_owned())
    }
}

fn of_node(request: &Request) -> Result<(), String> {
    if request.common_name.starts_with("system:node:") {
        Ok(())
    } else {
        Err("subject common name does not begin with system:node:".to_owned())
    }
}

fn none<T>(names: &[T], form: &str) -> Result<(), String> {
    if names.is_empty() { Ok(()) } else { Err(format!("{form} subjectAltNames are not allowed")) }
}

fn kubelet_serving(request: &Request, usages: &[String]) -> Result<(), String> {
    of_nodes(request)?;
    if request.names.dns.is_empty() && request.names.addresses.is_empty() {
        return Err("DNS or IP subjectAltName is required".to_owned());
    }
    none(&request.names.emails, "Email")?;
    none(&request.names.uris, "URI")?;
    for_node(usages, "server auth")?;
    of_node(request)
}

/// Whether a request is one of a kubelet as a client.
pub(super) fn kubelet_client(request: &Request, usages: &[String]) -> Result<(), String> {
    of_nodes(request)?;
    none(&request.names.dns, "DNS")?;
    none(&request.names.emails, "Email")?;
    none(&request.names.addresses, "IP")?;
    none(&request.names.uris, "URI")?;
    of_node(request)?;
    for_node(usages, "client auth")
}

fn api_client(usages: &[String]) -> Result<(), String> {
    let odd = |usage: &&String| ![SIGNATURE, ENCIPHERMENT, "client auth"].contains(&usage.as_str());
    if let Some(usage) = usages.iter().find(odd) {
        return Err(format!("invalid usage for client certificate: {usage}"));
    }
    if usages.iter().any(|usage| usage == "client auth") {
        Ok(())
    } else {
        Err("missing required usage for client certificate: client auth".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::csr::Names;

    fn request(organizations: &[&str], name: &str, change: fn(&mut Names)) -> Request {
        let mut names = Names::default();
        change(&mut names);
        Request {
            common_name: name.to_owned(),
            organizations: organizations.iter().map(|one| (*one).to_owned()).collect(),
            names,
            subject: Vec::new(),
            public_key: Vec::new(),
        }
    }

    fn judged(signer: &str, request: &Request, usages: &[&str]) -> String {
        let usages: Vec<String> = usages.iter().map(|one| (*one).to_owned()).collect();
        match fits(signer, request, &usages) {
            None => "not ours".to_owned(),
            Some(Ok(())) => "fits".to_owned(),
            Some(Err(why)) => why,
        }
    }

    const NODES: &[&str] = &["system:nodes"];
    const NODE: &str = "system:node:a";
    const CLIENT: &[&str] = &["client auth", "digital signature"];
    const SERVER: &[&str] = &["key encipherment", "server auth", "digital signature"];

    #[test]
    fn each_signer_takes_only_what_is_its_own() {
        let dns = |names: &mut Names| names.dns.push("a".into());
        let address = |names: &mut Names| names.addresses.push([127, 0, 0, 1].into());
        let email = |names: &mut Names| {
            names.dns.push("a".into());
            names.emails.push("a@b".into());
        };
        let uri = |names: &mut Names| {
            names.addresses.push([127, 0, 0, 1].into());
            names.uris.push("u:a".into());
        };
        let plain = |_: &mut Names| {};
        for (signer, request, usages, expected) in [
            (KUBELET_CLIENT, request(NODES, NODE, plain), CLIENT, "fits"),
            (KUBELET_CLIENT, request(NODES, NODE, plain), &[CLIENT, &["key encipherment"]].concat(), "fits"),
            (KUBELET_CLIENT, request(&[], NODE, plain), CLIENT, "subject organization is not system:nodes"),
            (
                KUBELET_CLIENT,
                request(&["system:nodes", "x"], NODE, plain),
                CLIENT,
                "subject organization is not system:nodes",
            ),
            (
                KUBELET_CLIENT,
                request(NODES, "a", plain),
                CLIENT,
                "subject common name does not begin with system:node:",
            ),
            (KUBELET_CLIENT, request(NODES, NODE, dns), CLIENT, "DNS subjectAltNames are not allowed"),
            (KUBELET_CLIENT, request(NODES, NODE, address), CLIENT, "IP subjectAltNames are not allowed"),
            (
                KUBELET_CLIENT,
                request(NODES, NODE, plain),
                SERVER,
                "usages did not match [client auth digital signature key encipherment]",
            ),
            (KUBELET_SERVING, request(NODES, NODE, address), SERVER, "fits"),
            (KUBELET_SERVING, request(NODES, NODE, dns), &SERVER[1..], "fits"),
            (KUBELET_SERVING, request(NODES, NODE, plain), SERVER, "DNS or IP subjectAltName is required"),
            (KUBELET_SERVING, request(NODES, NODE, email), SERVER, "Email subjectAltNames are not allowed"),
            (KUBELET_SERVING, request(NODES, NODE, uri), SERVER, "URI subjectAltNames are not allowed"),
            (KUBELET_SERVING, request(&["x"], NODE, dns), SERVER, "subject organization is not system:nodes"),
            (KUBELET_SERVING, request(NODES, "x", dns), SERVER, "subject common name does not begin with system:node:"),
            (
                KUBELET_SERVING,
                request(NODES, NODE, dns),
                CLIENT,
                "usages did not match [digital signature key encipherment server auth]",
            ),
            (API_CLIENT, request(&["devs", "ops"], "jane", email), &["client auth"], "fits"),
            (API_CLIENT, request(&[], "jane", plain), SERVER, "invalid usage for client certificate: server auth"),
            (
                API_CLIENT,
                request(&[], "jane", plain),
                &["digital signature"],
                "missing required usage for client certificate: client auth",
            ),
            (LEGACY, request(&[], "", plain), SERVER, "fits"),
            ("a.example/b", request(NODES, NODE, plain), CLIENT, "not ours"),
        ] {
            assert_eq!(judged(signer, &request, usages), expected, "{signer} {request:?} {usages:?}");
        }
    }
}
