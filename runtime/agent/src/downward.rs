//! The downward API: fields of a pod as text. Pure.
//!
//! Follows <https://kubernetes.io/docs/concepts/workloads/pods/downward-api/>.

use crate::pod;
use k8s_openapi::api::core::v1::Pod;
use std::{collections::BTreeMap, fmt::Write, net::IpAddr};

/// Values that the Pod object may not contain yet.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The node's name.
    pub node: String,
    /// The node's addresses, the primary first.
    pub host: Vec<IpAddr>,
    /// The pod's addresses, the primary first.
    pub addresses: Vec<IpAddr>,
}

/// The text of a `fieldRef`'s path. The error is upstream's message.
pub fn field(pod: &Pod, facts: &Facts, path: &str) -> Result<String, String> {
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let map = match map {
            "metadata.labels" => &pod.metadata.labels,
            "metadata.annotations" => &pod.metadata.annotations,
            _ => return Err(format!("fieldPath {path:?} does not support subscript")),
        };
        return Ok(map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    let join = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    Ok(match path {
        "metadata.name" => pod::name(pod).to_owned(),
        "metadata.namespace" => pod::namespace(pod).to_owned(),
        "metadata.uid" => pod::uid(pod).to_owned(),
        "metadata.labels" => lines(pod.metadata.labels.as_ref()),
        "metadata.annotations" => lines(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => facts.node.clone(),
        "spec.serviceAccountName" => pod::spec(pod).service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => join(facts.host.get(..1).unwrap_or_default()),
        "status.hostIPs" => join(&facts.host),
        "status.podIP" => join(facts.addresses.get(..1).unwrap_or_default()),
        "status.podIPs" => join(&facts.addresses),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// Lines of `key="value"`, with values quoted like Go's `%q`.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let mut out = String::new();
    for (key, value) in map.into_iter().flatten() {
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(key);
        out.push('=');
        quote(value, &mut out);
    }
    out
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                write!(out, "\\x{:02x}", c as u32).expect("a String takes everything");
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_read_as_upstream_prints_them() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"b": "2", "a": "x\"y\nz"}, "annotations": {"k": "v"}},
            "spec": {"containers": [], "serviceAccountName": "sa"}
        }))
        .unwrap();
        let ip = |s: &str| s.parse().unwrap();
        let facts =
            Facts { node: "node".into(), host: vec![ip("10.32.0.1")], addresses: vec![ip("10.32.0.2"), ip("fd00::2")] };
        for (path, expected) in [
            ("metadata.name", "p"),
            ("metadata.namespace", "n"),
            ("metadata.uid", "u"),
            ("metadata.labels", "a=\"x\\\"y\\nz\"\nb=\"2\""),
            ("metadata.labels['b']", "2"),
            ("metadata.labels['none']", ""),
            ("metadata.annotations['k']", "v"),
            ("spec.nodeName", "node"),
            ("spec.serviceAccountName", "sa"),
            ("status.hostIP", "10.32.0.1"),
            ("status.podIP", "10.32.0.2"),
            ("status.podIPs", "10.32.0.2,fd00::2"),
        ] {
            assert_eq!(field(&pod, &facts, path).as_deref(), Ok(expected), "{path}");
        }
        assert!(field(&pod, &facts, "spec.nodeSelector").is_err());
    }
}
