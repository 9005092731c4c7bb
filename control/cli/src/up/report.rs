//! The report of `up` when the cluster is ready and the manifests are applied: text, or a JSON object.

use super::{DataDir, Form, NotReady, PathBuf, down};
use crate::{out, remote::Outcome, settle};
use serde_json::{Value, json};
use std::{net::IpAddr, time::Instant};

/// The result of the manifests.
pub(super) enum Filled {
    Ready(Vec<Outcome>),
    NotReady(Vec<Outcome>, NotReady),
    NotApplied(anyhow::Error),
}

/// A cluster and its manifests.
pub(super) struct Report {
    pub(super) form: Form,
    /// `up --detach` reads standard output.
    pub(super) background: bool,
    pub(super) api: String,
    /// The address at which the API listens.
    pub(super) listen: IpAddr,
    pub(super) node_address: IpAddr,
    pub(super) dir: DataDir,
    pub(super) kubeconfig: PathBuf,
    /// Flags of the last start.
    pub(super) remembered: Vec<String>,
    pub(super) started: Instant,
    /// `None` if there were no manifests.
    pub(super) filled: Option<Filled>,
}

impl Report {
    /// Reports that the API is ready.
    pub(super) fn ready(&self) {
        if self.form == Form::Json {
            return;
        }
        let seconds = self.started.elapsed().as_secs_f64();
        self.say(&format!("ready {} (the API) in {seconds:.3} s; node ports are at {}", self.api, self.node_address));
        if let Some(line) = open_to_the_network(self.listen) {
            self.say(&line);
        }
        // On the same stream, because the order of two streams is undefined.
        if !self.remembered.is_empty() {
            self.say(&format!("  as at the last start: {}", self.remembered.join(" ")));
        }
    }

    /// Reports the result. `files` are the manifests, as given.
    pub(super) fn end(&self, files: &[PathBuf]) {
        let trouble = self.trouble();
        match &self.filled {
            Some(Filled::NotReady(_, error)) => {
                crate::exit::print_text(&format!("{error}\nthe cluster is running and goes on trying"));
            }
            Some(Filled::NotApplied(error)) => {
                let files: Vec<String> = files.iter().map(|file| format!(" -f {}", out::shell(file))).collect();
                let again = format!("{}{}", self.dir.client_command("apply"), files.concat());
                crate::exit::print(error);
                eprintln!("the cluster is running; fix the manifest and run: {again}");
            }
            _ => self.applied(),
        }
        match self.form {
            Form::Json => self.say(&self.json().to_string()),
            Form::Text => self.export(),
        }
        if self.background {
            if trouble {
                out::say_always(down::LACKING);
            }
            out::say_always(down::REPORTED);
        } else if !out::is_quiet() {
            let next = match self.filled {
                Some(_) => "kubectl get pods".to_owned(),
                None => format!("kubectl get nodes, or {} -f FILE", self.dir.client_command("apply")),
            };
            eprintln!("Ctrl-C stops the cluster; in another terminal: {next}");
        }
    }

    /// Reports that the cluster was already running and continues.
    pub(super) fn joined(self) -> anyhow::Result<()> {
        if self.form == Form::Json {
            self.say(&self.json().to_string());
        }
        match self.filled {
            Some(Filled::NotReady(_, error)) => Err(error.into()),
            Some(Filled::NotApplied(error)) => Err(error),
            _ => {
                self.applied();
                self.export();
                Ok(())
            }
        }
    }

    /// How kubectl finds the cluster.
    fn export(&self) {
        if self.form == Form::Text {
            self.say(&format!("  export KUBECONFIG={}", out::shell(&self.kubeconfig)));
        }
    }

    fn say(&self, line: &str) {
        // `up --detach` prints the report of a background cluster.
        if self.background || self.form == Form::Json { out::say_always(line) } else { out::say(line) }
    }

    fn trouble(&self) -> bool {
        matches!(self.filled, Some(Filled::NotReady(..) | Filled::NotApplied(_)))
    }

    fn applied(&self) {
        let Some(Filled::Ready(outcomes)) = &self.filled else { return };
        if self.form == Form::Json {
            return;
        }
        let objects = if outcomes.len() == 1 { "object" } else { "objects" };
        let seconds = self.started.elapsed().as_secs_f64();
        self.say(&format!("applied {} {objects} in {seconds:.3} s", outcomes.len()));
        for (_, name, url) in self.urls() {
            self.say(&format!("  {name}  {url}"));
        }
    }

    fn outcomes(&self) -> &[Outcome] {
        match &self.filled {
            Some(Filled::Ready(outcomes) | Filled::NotReady(outcomes, _)) => outcomes,
            _ => &[],
        }
    }

    /// The URLs of ready Services: the cluster's process listens on all of them.
    fn urls(&self) -> Vec<(&str, &str, String)> {
        match &self.filled {
            Some(Filled::Ready(outcomes)) => settle::urls(outcomes, Some(self.node_address)),
            _ => Vec::new(),
        }
    }

    fn json(&self) -> Value {
        let services: Vec<Value> = self
            .urls()
            .into_iter()
            .map(|(namespace, name, url)| json!({"namespace": namespace, "name": name, "url": url}))
            .collect();
        let objects: Vec<Value> =
            self.outcomes().iter().map(|outcome| json!({"object": outcome.label, "outcome": outcome.verb})).collect();
        let error = match &self.filled {
            Some(Filled::NotReady(_, error)) => json!(error.to_string()),
            Some(Filled::NotApplied(error)) => json!(crate::exit::text(error)),
            _ => Value::Null,
        };
        json!({
            "api": self.api,
            "kubeconfig": self.kubeconfig.display().to_string(),
            "dataDirectory": self.dir.path().display().to_string(),
            "nodeAddress": self.node_address.to_string(),
            "pid": self.dir.holder().ok().flatten().map(|holder| holder.pid),
            "seconds": self.started.elapsed().as_secs_f64(),
            "ready": error.is_null(),
            "error": error,
            "applied": objects,
            "services": services,
        })
    }
}

/// The note about an API that other machines can reach: the shown address may be local.
fn open_to_the_network(listen: IpAddr) -> Option<String> {
    let at = match listen {
        ip if ip.is_loopback() => return None,
        ip if ip.is_unspecified() => "every address of this machine".to_owned(),
        ip => ip.to_string(),
    };
    Some(format!("  the API is open to the network: it listens at {at}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_that_the_network_reaches_is_told() {
        let told = |ip: &str| open_to_the_network(ip.parse().expect("an address"));
        let all = "  the API is open to the network: it listens at every address of this machine";
        assert_eq!((told("0.0.0.0").as_deref(), told("::").as_deref()), (Some(all), Some(all)));
        assert_eq!(told("192.0.2.1").as_deref(), Some("  the API is open to the network: it listens at 192.0.2.1"));
        assert_eq!((told("127.0.0.1"), told("127.0.0.2"), told("::1")), (None, None, None));
    }
}
