//! What the node agent, the scheduler and the controllers of this cluster honour, as data: `cli` asks them and gives the answer to the
//! kinds. A field that is accepted and honoured by nobody is answered with a `Warning:` header, since a field that is dropped in silence
//! would be worse than one that is refused. When the capability comes, whoever has it names the field, and the warning goes.

use crate::at::At;
use std::{collections::BTreeSet, sync::Arc};

/// Fields of pods, Services, Jobs and the like that are honoured, each as `kubectl explain` names it (`pod.spec.volumes.emptyDir`,
/// `job.spec.successPolicy`). `containers` stands for init and ephemeral containers as well, and a pod's spec for that of a template.
#[derive(Clone, Debug, Default)]
pub struct Capabilities(Arc<BTreeSet<&'static str>>);

impl Capabilities {
    /// All of these fields.
    pub fn new(fields: impl IntoIterator<Item = &'static str>) -> Self {
        Self(Arc::new(fields.into_iter().collect()))
    }

    /// Warnings about what stands below `root`, which `kubectl explain` calls `name`; at most `most` of them.
    pub(crate) fn warn<'a>(&'a self, name: &'a str, root: At<'a>, most: usize, out: &'a mut Vec<String>) -> Warn<'a> {
        Warn { honoured: &self.0, name, root, most, out }
    }
}

/// Collects warnings about fields that nobody honours.
pub(crate) struct Warn<'a> {
    honoured: &'a BTreeSet<&'static str>,
    name: &'a str,
    root: At<'a>,
    most: usize,
    out: &'a mut Vec<String>,
}

impl Warn<'_> {
    /// Warns of a value whatever anybody can do.
    pub(crate) fn advise(&mut self, at: At<'_>, text: &str) {
        if self.out.len() < self.most {
            self.out.push(format!("{}: {text}", at.field()));
        }
    }

    /// Warns unless the field is honoured.
    pub(crate) fn say(&mut self, at: At<'_>, text: &str) {
        if !self.honoured.contains(self.explained(at).as_str()) {
            self.advise(at, text);
        }
    }

    /// Says it where something is there.
    pub(crate) fn of(&mut self, at: At<'_>, text: &str) {
        if !at.is_empty() {
            self.say(at, text);
        }
    }

    /// Says it where something is switched on.
    pub(crate) fn on(&mut self, at: At<'_>, text: &str) {
        if at.bool() {
            self.say(at, text);
        }
    }

    fn explained(&self, at: At<'_>) -> String {
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
    fn a_field_is_warned_of_until_somebody_honours_it() {
        let value = json!({"spec": {"initContainers": [{"tty": true, "stdin": true}], "dnsPolicy": "None"}});
        let said = |fields: &[&'static str]| {
            let (root, mut out) = (At::root(&value).get("spec"), Vec::new());
            let capabilities = Capabilities::new(fields.iter().copied());
            let mut warn = capabilities.warn("pod.spec", root, 10, &mut out);
            let container = root.get("initContainers").index(0);
            warn.on(container.get("tty"), "no");
            warn.on(container.get("stdin"), "no");
            warn.of(root.get("dnsPolicy"), "no");
            warn.of(root.get("absent"), "no");
            warn.advise(root.get("dnsPolicy"), "odd");
            out
        };
        let (tty, stdin) = ("spec.initContainers[0].tty: no", "spec.initContainers[0].stdin: no");
        let (dns, odd) = ("spec.dnsPolicy: no", "spec.dnsPolicy: odd");
        assert_eq!(said(&[]), [tty, stdin, dns, odd]);
        assert_eq!(said(&["pod.spec.containers.tty", "pod.spec.dnsPolicy"]), [stdin, odd]);
        assert_eq!(said(&["pod.spec.tty", "job.spec.dnsPolicy", "tty", "pod.spec.containers"]), [tty, stdin, dns, odd]);
    }
}
