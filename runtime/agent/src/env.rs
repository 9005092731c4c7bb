//! The environment, command line and working directory of a container. Pure.
//!
//! Follows <https://kubernetes.io/docs/tasks/inject-data-application/define-environment-variable-container/> and
//! <https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>.

use crate::{
    config::{Configs, config_map_value, secret_values},
    downward::{self, Facts},
    expand::expand,
    images::Command,
    pod, resources,
};
use k8s_openapi::{
    api::core::v1::{Container, EnvVarSource, Pod, Service},
    apimachinery::pkg::api::resource::Quantity,
};
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

/// The limit of a container's environment and arguments together, in bytes. The value is Linux's.
pub const MAX_BYTES: usize = 2 << 20;

/// Bytes that each string counts in addition to its length: its terminator and its pointer.
const ENTRY_OVERHEAD: usize = 16;

/// What remains of [`MAX_BYTES`]. Overridden variables count too, because they cost as much to compute.
struct SizeBudget(usize);

impl SizeBudget {
    fn charge(&mut self, bytes: usize) -> Result<(), String> {
        self.0 = self.0.checked_sub(bytes + ENTRY_OVERHEAD).ok_or_else(too_long)?;
        Ok(())
    }
}

fn too_long() -> String {
    format!("argument list too long: the environment and the arguments take more than {MAX_BYTES} bytes")
}

/// Variables by name, in insertion order.
#[derive(Default)]
struct Variables {
    list: Vec<(String, String)>,
    index: HashMap<String, usize>,
}

impl Variables {
    fn find(&self, name: &str) -> Option<&str> {
        self.index.get(name).map(|position| self.list[*position].1.as_str())
    }

    fn set(&mut self, name: &str, value: String) {
        match self.index.get(name) {
            Some(position) => self.list[*position].1 = value,
            None => {
                self.index.insert(name.to_owned(), self.list.len());
                self.list.push((name.to_owned(), value));
            }
        }
    }
}

/// The environment of a container, and the keys of `envFrom` that are no valid names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// The pod's variables and those of Services, in order, without duplicates. Only these can be referenced by `$(NAME)`.
    pub variables: Vec<(String, String)>,
    /// The image's variables that are not overridden.
    pub image: Vec<(String, String)>,
    /// Messages of events with the reason `InvalidEnvironmentVariableNames`.
    pub skipped: Vec<String>,
}

/// The variables of the program: the image's come first. Like container runtimes, adds `HOSTNAME` in front unless the pod or the image sets
/// it.
pub fn with_hostname(hostname: String, environment: Environment) -> Vec<(String, String)> {
    let mut variables = environment.image;
    variables.extend(environment.variables);
    if !variables.iter().any(|(name, _)| name == "HOSTNAME") {
        variables.insert(0, ("HOSTNAME".to_owned(), hostname));
    }
    variables
}

/// The input of an environment.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// The ConfigMaps, Secrets and Services of the API.
    pub configs: &'a Configs,
    /// The values of the downward API.
    pub facts: &'a Facts,
    /// The node's allocatable resources.
    pub allocatable: &'a BTreeMap<String, Quantity>,
}

/// Computes the environment. The error is the message of `CreateContainerConfigError`.
pub fn environment(
    pod: &Pod,
    c: &Container,
    image: &[(String, String)],
    from: Sources<'_>,
) -> Result<Environment, String> {
    let mut out = Environment::default();
    let (mut own, mut budget) = (Variables::default(), SizeBudget(MAX_BYTES));
    for source in c.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            let Some(map) = from.configs.config_maps.get(&reference.name).and_then(Option::as_deref) else {
                if reference.optional == Some(true) {
                    continue;
                }
                return Err(format!("configmap {:?} not found", reference.name));
            };
            let values = map.data.iter().flatten().map(|(k, v)| (k.as_str(), Cow::from(v)));
            let source = format!("configMap {}/{}", pod::namespace(pod), reference.name);
            out.skipped.extend(add_env_from(&mut own, &mut budget, prefix, values, &source)?);
        }
        if let Some(reference) = &source.secret_ref {
            let Some(secret) = from.configs.secrets.get(&reference.name).and_then(Option::as_deref) else {
                if reference.optional == Some(true) {
                    continue;
                }
                return Err(format!("secret {:?} not found", reference.name));
            };
            let values = secret_values(secret).into_iter().map(|(k, v)| (k, String::from_utf8_lossy(v)));
            let source = format!("secret {}/{}", pod::namespace(pod), reference.name);
            out.skipped.extend(add_env_from(&mut own, &mut budget, prefix, values, &source)?);
        }
    }
    let services = service_variables(pod, &from.configs.services);
    for variable in c.env.iter().flatten() {
        let lookup = |name: &str| own.find(name).or_else(|| services.find(name));
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) if !value.is_empty() => Some(expand(value, budget.0, lookup).ok_or_else(too_long)?),
            (_, Some(source)) => value_from(pod, c, source, from)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            budget.charge(variable.name.len() + value.len())?;
            own.set(&variable.name, value);
        }
    }
    let overridden = |name: &str| own.find(name).is_some() || services.find(name).is_some();
    out.image = image.iter().filter(|(name, _)| !overridden(name)).cloned().collect();
    out.variables = services.list.into_iter().filter(|(name, _)| own.find(name).is_none()).collect();
    out.variables.extend(own.list);
    Ok(out)
}

/// Adds the values of an `envFrom`. Returns a message about keys that are no valid names.
fn add_env_from<'a>(
    own: &mut Variables,
    budget: &mut SizeBudget,
    prefix: &str,
    values: impl Iterator<Item = (&'a str, Cow<'a, str>)>,
    source: &str,
) -> Result<Option<String>, String> {
    let mut invalid = Vec::new();
    for (key, value) in values {
        let name = format!("{prefix}{key}");
        // Printable ASCII except '=': upstream's relaxed rule, the default since 1.34.
        if name.is_empty() || !name.bytes().all(|b| (0x20..=0x7e).contains(&b) && b != b'=') {
            invalid.push(key.to_owned());
        } else {
            budget.charge(name.len() + value.len())?;
            own.set(&name, value.into_owned());
        }
    }
    let skipped = || {
        format!(
            "Keys [{}] from the EnvFrom {source} were skipped since they are considered invalid environment variable names.",
            invalid.join(", ")
        )
    };
    Ok((!invalid.is_empty()).then(skipped))
}

/// The value of a `valueFrom`. `None` if an optional reference does not exist.
fn value_from(pod: &Pod, c: &Container, source: &EnvVarSource, from: Sources<'_>) -> Result<Option<String>, String> {
    let namespace = pod::namespace(pod);
    if let Some(field) = &source.field_ref {
        return downward::field(pod, from.facts, &field.field_path).map(Some);
    }
    if let Some(field) = &source.resource_field_ref {
        let other = field.container_name.as_deref().filter(|n| !n.is_empty());
        let of = match other {
            Some(name) => pod::container(pod, name).ok_or(format!("container {name} not found"))?.0,
            None => Cow::Borrowed(c),
        };
        return resources::field(&of, &field.resource, field.divisor.as_ref(), from.allocatable).map(Some);
    }
    if let Some(key) = &source.config_map_key_ref {
        let optional = key.optional == Some(true);
        return match from.configs.config_maps.get(&key.name).and_then(Option::as_deref) {
            None if optional => Ok(None),
            None => Err(format!("configmap {:?} not found", key.name)),
            Some(map) => match config_map_value(map, &key.key) {
                None if optional => Ok(None),
                None => Err(format!("couldn't find key {} in ConfigMap {namespace}/{}", key.key, key.name)),
                Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
            },
        };
    }
    if let Some(key) = &source.secret_key_ref {
        let optional = key.optional == Some(true);
        return match from.configs.secrets.get(&key.name).and_then(Option::as_deref) {
            None if optional => Ok(None),
            None => Err(format!("secret {:?} not found", key.name)),
            Some(secret) => match secret_values(secret).get(key.key.as_str()) {
                None if optional => Ok(None),
                None => Err(format!("couldn't find key {} in Secret {namespace}/{}", key.key, key.name)),
                Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
            },
        };
    }
    Ok(Some(String::new()))
}

/// The environment variables of Services, which are compatible with Docker links.
fn service_variables(pod: &Pod, services: &[std::sync::Arc<Service>]) -> Variables {
    let linked = pod::spec(pod).enable_service_links != Some(false);
    let mut out = Variables::default();
    for service in services {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let of_cluster = name == "kubernetes" && service.metadata.namespace.as_deref() == Some("default");
        let Some(spec) = &service.spec else { continue };
        let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !matches!(*ip, "" | "None")) else { continue };
        let Some(first) = spec.ports.as_ref().and_then(|p| p.first()) else { continue };
        if !linked && !of_cluster {
            continue;
        }
        let upper = |text: &str| text.to_uppercase().replace('-', "_");
        let prefix = upper(name);
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        out.set(&format!("{prefix}_SERVICE_HOST"), ip.to_owned());
        out.set(&format!("{prefix}_SERVICE_PORT"), first.port.to_string());
        for port in spec.ports.iter().flatten() {
            if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
                out.set(&format!("{prefix}_SERVICE_PORT_{}", upper(port_name)), port.port.to_string());
            }
        }
        for (i, port) in spec.ports.iter().flatten().enumerate() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
            if i == 0 {
                out.set(&format!("{prefix}_PORT"), url.clone());
            }
            let link = format!("{prefix}_PORT_{}_{protocol}", port.port);
            out.set(&link, url);
            out.set(&format!("{link}_PROTO"), protocol.to_lowercase());
            out.set(&format!("{link}_PORT"), port.port.to_string());
            out.set(&format!("{link}_ADDR"), ip.to_owned());
        }
    }
    out
}

/// The command line. The container's command replaces the image's entry point and arguments; the container's arguments replace the image's
/// arguments. Guests of WebAssembly know their program by name: the container's stands for it where only arguments are given, and where
/// nothing is, the runtime chooses. Of a Linux image the first word is the program. `$(NAME)` expands the pod's variables only: upstream's kubelet does
/// not know the image's, and keeps such references unchanged. The error is the message of `CreateContainerConfigError`.
pub fn command_line(
    c: &Container,
    image: &Command,
    is_linux: bool,
    environment: &Environment,
) -> Result<Vec<String>, String> {
    let variables: HashMap<&str, &str> =
        environment.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut budget = SizeBudget(MAX_BYTES);
    for (name, value) in environment.variables.iter().chain(&environment.image) {
        budget.charge(name.len() + value.len())?;
    }
    let mut expanded = |list: &Option<Vec<String>>| -> Result<Vec<String>, String> {
        let one = |text: &String| {
            let text = expand(text, budget.0, |name| variables.get(name).copied()).ok_or_else(too_long)?;
            budget.charge(text.len())?;
            Ok(text)
        };
        list.iter().flatten().map(one).collect()
    };
    let (command, args) = (expanded(&c.command)?, expanded(&c.args)?);
    let (mut line, rest) = match (command.is_empty(), args.is_empty()) {
        (false, _) => (command, args),
        (true, false) => (image.entrypoint.clone(), args),
        (true, true) => (image.entrypoint.clone(), image.arguments.clone()),
    };
    if line.is_empty() && !rest.is_empty() && !is_linux {
        line.push(c.name.clone());
    }
    line.extend(rest);
    match line.is_empty() && is_linux {
        true => Err("no command specified".into()),
        false => Ok(line),
    }
}

#[cfg(test)]
mod tests;
