//! The fields that the node agent, the scheduler and the controllers of this cluster honour, as data: `cli` collects them and passes them to the
//! kinds. An accepted field that no component honours gets a `Warning:` header, because a silently ignored field would be worse than a refused
//! one. A component that implements a field lists it, which removes the warning.

use crate::at::At;
use std::{collections::BTreeSet, sync::Arc};

/// The honoured fields of pods, Services, Jobs and so on, each as `kubectl explain` names it (`pod.spec.volumes.emptyDir`,
/// `job.spec.successPolicy`). `containers` includes init and ephemeral containers, and `pod.spec` the spec of a template.
#[derive(Clone, Debug, Default)]
pub struct Capabilities(Arc<BTreeSet<&'static str>>);

impl Capabilities {
    /// These fields are honoured.
    pub fn new(fields: impl IntoIterator<Item = &'static str>) -> Self {
        Self(Arc::new(fields.into_iter().collect()))
    }

    /// The warning on a write of a kind that is served but on which no component acts yet. `kind` is the kind's name; it is acted on once its name
    /// in lower case is among what is honoured.
    pub(crate) fn nothing_acts_on(&self, kind: &str) -> Vec<String> {
        if self.0.contains(kind.to_lowercase().as_str()) {
            return Vec::new();
        }
        vec![format!("{kind} is stored, but nothing in this cluster acts on it yet")]
    }

    /// Collects warnings about fields below `root`, which `kubectl explain` calls `name`; at most `most` of them.
    pub(crate) fn warn<'a>(
        &'a self,
        name: &'a str,
        root: At<'a>,
        most: usize,
        out: &'a mut Vec<String>,
    ) -> FieldWarnings<'a> {
        FieldWarnings { honoured: &self.0, name, root, most, out }
    }
}

/// Collects warnings about fields that no component honours.
pub(crate) struct FieldWarnings<'a> {
    honoured: &'a BTreeSet<&'static str>,
    name: &'a str,
    root: At<'a>,
    most: usize,
    out: &'a mut Vec<String>,
}

impl FieldWarnings<'_> {
    /// Warns about a value, whatever is honoured.
    pub(crate) fn always(&mut self, at: At<'_>, text: &str) {
        if self.out.len() < self.most {
            self.out.push(format!("{}: {text}", at.field()));
        }
    }

    /// Warns unless the field is honoured.
    pub(crate) fn unless_honoured(&mut self, at: At<'_>, text: &str) {
        if !self.honoured.contains(self.explain_name(at).as_str()) {
            self.always(at, text);
        }
    }

    /// Warns unless the field is empty or honoured.
    pub(crate) fn if_set(&mut self, at: At<'_>, text: &str) {
        if !at.is_empty() {
            self.unless_honoured(at, text);
        }
    }

    /// Warns if the field is true and not honoured.
    pub(crate) fn if_true(&mut self, at: At<'_>, text: &str) {
        if at.bool() {
            self.unless_honoured(at, text);
        }
    }

    fn explain_name(&self, at: At<'_>) -> String {
        at.names_below(self.root).fold(self.name.to_owned(), |path, name| match name {
            "initContainers" | "ephemeralContainers" => path + ".containers",
            name => path + "." + name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_kind_is_warned_of_until_somebody_acts_on_it() {
        let capabilities = Capabilities::new(["ingress"]);
        assert!(capabilities.nothing_acts_on("Ingress").is_empty());
        let said = "NetworkPolicy is stored, but nothing in this cluster acts on it yet";
        assert_eq!(capabilities.nothing_acts_on("NetworkPolicy"), [said]);
    }

    #[test]
    fn a_field_is_warned_of_until_somebody_honours_it() {
        let value = json!({"spec": {"initContainers": [{"tty": true, "stdin": true}], "dnsPolicy": "None"}});
        let said = |fields: &[&'static str]| {
            let (root, mut out) = (At::root(&value).get("spec"), Vec::new());
            let capabilities = Capabilities::new(fields.iter().copied());
            let mut warn = capabilities.warn("pod.spec", root, 10, &mut out);
            let container = root.get("initContainers").index(0);
            warn.if_true(container.get("tty"), "no");
            warn.if_true(container.get("stdin"), "no");
            warn.if_set(root.get("dnsPolicy"), "no");
            warn.if_set(root.get("absent"), "no");
            warn.always(root.get("dnsPolicy"), "odd");
            out
        };
        let (tty, stdin) = ("spec.initContainers[0].tty: no", "spec.initContainers[0].stdin: no");
        let (dns, odd) = ("spec.dnsPolicy: no", "spec.dnsPolicy: odd");
        assert_eq!(said(&[]), [tty, stdin, dns, odd]);
        assert_eq!(said(&["pod.spec.containers.tty", "pod.spec.dnsPolicy"]), [stdin, odd]);
        assert_eq!(said(&["pod.spec.tty", "job.spec.dnsPolicy", "tty", "pod.spec.containers"]), [tty, stdin, dns, odd]);
    }
}
