//! Which controllers run: a list of names as upstream's `--controllers`.

use std::{fmt, str::FromStr};

/// Every controller by upstream's name, with the older name that upstream takes too, and the ServiceAccount of `kube-system` as which it writes, as
/// upstream's; none is the controller manager itself. `scale-to-zero-controller` is our own.
const KNOWN: &[(&str, &str, &str)] = &[
    ("bootstrap-signer-controller", "bootstrapsigner", "bootstrap-signer"),
    ("certificatesigningrequest-approving-controller", "csrapproving", "certificate-controller"),
    ("certificatesigningrequest-cleaner-controller", "csrcleaner", "certificate-controller"),
    ("certificatesigningrequest-signing-controller", "csrsigning", "certificate-controller"),
    ("clusterrole-aggregation-controller", "clusterrole-aggregation", "clusterrole-aggregation-controller"),
    ("cronjob-controller", "cronjob", "cronjob-controller"),
    ("daemonset-controller", "daemonset", "daemon-set-controller"),
    ("deployment-controller", "deployment", "deployment-controller"),
    ("disruption-controller", "disruption", "disruption-controller"),
    ("endpoints-controller", "endpoint", "endpoint-controller"),
    ("endpointslice-controller", "endpointslice", "endpointslice-controller"),
    ("endpointslice-mirroring-controller", "endpointslicemirroring", "endpointslicemirroring-controller"),
    ("ephemeral-volume-controller", "ephemeral-volume", "ephemeral-volume-controller"),
    ("garbage-collector-controller", "garbagecollector", "generic-garbage-collector"),
    ("horizontal-pod-autoscaler-controller", "horizontalpodautoscaling", "horizontal-pod-autoscaler"),
    ("job-controller", "job", "job-controller"),
    (
        "legacy-serviceaccount-token-cleaner-controller",
        "legacy-service-account-token-cleaner",
        "legacy-service-account-token-cleaner",
    ),
    ("namespace-controller", "namespace", "namespace-controller"),
    ("node-ipam-controller", "nodeipam", "node-controller"),
    ("node-lifecycle-controller", "nodelifecycle", "node-controller"),
    ("persistentvolume-binder-controller", "persistentvolume-binder", "persistent-volume-binder"),
    ("persistentvolume-expander-controller", "persistentvolume-expander", "expand-controller"),
    ("persistentvolume-protection-controller", "pv-protection", "pv-protection-controller"),
    ("persistentvolumeclaim-protection-controller", "pvc-protection", "pvc-protection-controller"),
    ("pod-garbage-collector-controller", "podgc", "pod-garbage-collector"),
    ("replicaset-controller", "replicaset", "replicaset-controller"),
    ("replicationcontroller-controller", "replicationcontroller", "replication-controller"),
    ("resourcequota-controller", "resourcequota", "resourcequota-controller"),
    ("root-ca-certificate-publisher-controller", "root-ca-cert-publisher", "root-ca-cert-publisher"),
    ("scale-to-zero-controller", "scale-to-zero", "scale-to-zero-controller"),
    ("service-cidr-controller", "service-cidr-controller", "service-cidrs-controller"),
    ("serviceaccount-controller", "serviceaccount", "service-account-controller"),
    ("serviceaccount-token-controller", "serviceaccount-token", ""),
    ("statefulset-controller", "statefulset", "statefulset-controller"),
    ("taint-eviction-controller", "taint-eviction-controller", "node-controller"),
    ("token-cleaner-controller", "tokencleaner", "token-cleaner"),
    ("ttl-after-finished-controller", "ttl-after-finished", "ttl-after-finished-controller"),
    (
        "validatingadmissionpolicy-status-controller",
        "validatingadmissionpolicy-status-controller",
        "validatingadmissionpolicy-status-controller",
    ),
];

/// Those that always run, for they are a part of upstream's API server, with their ServiceAccounts.
const ALWAYS: &[(&str, &str)] = &[
    ("apiservice-availability-controller", "apiservice-controller"),
    ("crd-autoregister-controller", "apiservice-controller"),
    ("customresourcedefinition-controller", "customresourcedefinition-controller"),
    ("ipallocator-repair-controller", "ipallocator-repair-controller"),
];

/// Those that `*` does not mean, as upstream.
const OFF_BY_DEFAULT: &[&str] = &["bootstrap-signer-controller", "token-cleaner-controller"];

/// The names of all controllers, sorted.
pub fn names() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().map(|(name, _, _)| *name)
}

/// The ServiceAccount of `kube-system` as which a controller writes; empty is the controller manager.
pub fn account(controller: &str) -> &'static str {
    let known = KNOWN.iter().map(|(name, _, account)| (name, account));
    let mut all = known.chain(ALWAYS.iter().map(|(name, account)| (name, account)));
    all.find(|(name, _)| **name == controller).map_or("", |(_, account)| account)
}

/// The upstream program that a controller is a part of: the manager of the fields that it writes.
pub(crate) fn program(controller: &str) -> &'static str {
    if ALWAYS.iter().any(|(name, _)| *name == controller) { "kube-apiserver" } else { "kube-controller-manager" }
}

/// Which controllers run. `*` is all of them that are on by default, `-x` all but x where there is a `*` too, and `x` that one; the first that
/// names one counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection(Vec<Item>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    All,
    With(&'static str),
    Without(&'static str),
}

impl Default for Selection {
    fn default() -> Self {
        Self(vec![Item::All])
    }
}

impl Selection {
    /// Whether a controller runs.
    pub fn includes(&self, name: &str) -> bool {
        let named = self.0.iter().find_map(|item| match item {
            Item::With(one) if *one == name => Some(true),
            Item::Without(one) if *one == name => Some(false),
            _ => None,
        });
        named.unwrap_or_else(|| self.0.contains(&Item::All) && !OFF_BY_DEFAULT.contains(&name))
    }
}

impl FromStr for Selection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let items = text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(item);
        let items = items.collect::<Result<Vec<Item>, String>>()?;
        if items.is_empty() { Err("it names no controller; * is all of them".to_owned()) } else { Ok(Self(items)) }
    }
}

fn item(text: &str) -> Result<Item, String> {
    if text == "*" {
        return Ok(Item::All);
    }
    let plain = text.strip_prefix('-').unwrap_or(text);
    let known = KNOWN.iter().find(|(name, older, _)| *name == plain || *older == plain);
    let Some((name, _, _)) = known else {
        let all = names().collect::<Vec<_>>().join(", ");
        return Err(format!("{plain:?} is not in the list of known controllers; there are {all}"));
    };
    Ok(if plain == text { Item::With(name) } else { Item::Without(name) })
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, item) in self.0.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { "," })?;
            match item {
                Item::All => f.write_str("*")?,
                Item::With(name) => f.write_str(name)?,
                Item::Without(name) => write!(f, "-{name}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_names_a_controller_counts() {
        for (text, job, cronjob) in [
            ("*", true, true),
            ("*,-job-controller", false, true),
            ("-job-controller,*", false, true),
            ("*,-job", false, true),
            ("job", true, false),
            (" job-controller , cronjob", true, true),
            ("-job,job,*", false, true),
            ("job,-job", true, false),
            ("-job", false, false),
        ] {
            let selection: Selection = text.parse().expect("a selection");
            assert_eq!(
                (selection.includes("job-controller"), selection.includes("cronjob-controller")),
                (job, cronjob),
                "{text}"
            );
            assert_eq!(selection.to_string().parse(), Ok(selection), "{text}");
        }
        assert!(Selection::default().includes("job-controller"));
        for (text, cleaner) in
            [("*", false), ("*,token-cleaner-controller", true), ("*,tokencleaner", true), ("job", false)]
        {
            let selection: Selection = text.parse().expect("a selection");
            assert_eq!(selection.includes("token-cleaner-controller"), cleaner, "{text}");
            assert!(!selection.includes("bootstrap-signer-controller"), "{text}");
        }
    }

    #[test]
    fn a_name_that_nobody_has_is_an_error_with_those_that_are() {
        for text in ["*,-jobs", "jobs", "*,--job", "*,Job"] {
            let error = text.parse::<Selection>().expect_err(text);
            assert!(
                error.contains("is not in the list of known controllers; there are bootstrap-signer-controller, "),
                "{error}"
            );
        }
        assert!("".parse::<Selection>().is_err() && ",".parse::<Selection>().is_err());
        assert!(names().is_sorted(), "people look for one");
    }
}
