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
use std::collections::BTreeMap;

/// The environment, and keys of `envFrom` that cannot be names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// The pod's own and those of Services, in order; no name twice. Only these can be referred to.
    pub variables: Vec<(String, String)>,
    /// Those of the image that are not overridden.
    pub image: Vec<(String, String)>,
    /// Texts for events of reason `InvalidEnvironmentVariableNames`.
    pub skipped: Vec<String>,
}

/// All that the program sees: the image's variables first, and in front of them `HOSTNAME`, as container runtimes do; one of that name that
/// the pod or image sets stays as it is.
pub fn with_hostname(hostname: String, environment: Environment) -> Vec<(String, String)> {
    let mut variables = environment.image;
    variables.extend(environment.variables);
    if !variables.iter().any(|(name, _)| name == "HOSTNAME") {
        variables.insert(0, ("HOSTNAME".to_owned(), hostname));
    }
    variables
}

/// Everything that is read.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// Objects of the API.
    pub configs: &'a Configs,
    /// Addresses and names.
    pub facts: &'a Facts,
    /// The node's allocatable amounts.
    pub allocatable: &'a BTreeMap<String, Quantity>,
}

/// Makes the environment. The error is the message of `CreateContainerConfigError`.
pub fn environment(
    pod: &Pod,
    c: &Container,
    image: &[(String, String)],
    from: Sources<'_>,
) -> Result<Environment, String> {
    let mut out = Environment::default();
    let mut own: Vec<(String, String)> = Vec::new();
    for source in c.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            let Some(map) = from.configs.config_maps.get(&reference.name).and_then(Option::as_deref) else {
                if reference.optional == Some(true) {
                    continue;
                }
                return Err(format!("configmap {:?} not found", reference.name));
            };
            let values = map.data.iter().flatten().map(|(k, v)| (k.as_str(), v.clone()));
            take(
                &mut own,
                &mut out.skipped,
                prefix,
                values,
                &format!("configMap {}/{}", pod::namespace(pod), reference.name),
            );
        }
        if let Some(reference) = &source.secret_ref {
            let Some(secret) = from.configs.secrets.get(&reference.name).and_then(Option::as_deref) else {
                if reference.optional == Some(true) {
                    continue;
                }
                return Err(format!("secret {:?} not found", reference.name));
            };
            let values = secret_values(secret).into_iter().map(|(k, v)| (k, String::from_utf8_lossy(v).into_owned()));
            take(
                &mut own,
                &mut out.skipped,
                prefix,
                values,
                &format!("secret {}/{}", pod::namespace(pod), reference.name),
            );
        }
    }
    let services = service_variables(pod, &from.configs.services);
    for variable in c.env.iter().flatten() {
        let lookup = |name: &str| find(&own, name).or_else(|| find(&services, name));
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) if !value.is_empty() => Some(expand(value, lookup)),
            (_, Some(source)) => value_from(pod, c, source, from)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            set(&mut own, &variable.name, value);
        }
    }
    let free = |(name, _): &&(String, String)| !own.iter().any(|(n, _)| n == name);
    out.variables = services.iter().filter(free).cloned().collect();
    out.variables.extend(own);
    let free = |(name, _): &&(String, String)| !out.variables.iter().any(|(n, _)| n == name);
    out.image = image.iter().filter(free).cloned().collect();
    Ok(out)
}

fn find(list: &[(String, String)], name: &str) -> Option<String> {
    list.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone())
}

fn set(list: &mut Vec<(String, String)>, name: &str, value: String) {
    match list.iter_mut().find(|(n, _)| n == name) {
        Some((_, old)) => *old = value,
        None => list.push((name.to_owned(), value)),
    }
}

fn take<'a>(
    own: &mut Vec<(String, String)>,
    skipped: &mut Vec<String>,
    prefix: &str,
    values: impl Iterator<Item = (&'a str, String)>,
    source: &str,
) {
    let mut invalid = Vec::new();
    for (key, value) in values {
        let name = format!("{prefix}{key}");
        // printable ASCII but '=': the relaxed rule that is Kubernetes' own since 1.34
        if name.is_empty() || !name.bytes().all(|b| (0x20..=0x7e).contains(&b) && b != b'=') {
            invalid.push(key.to_owned());
        } else {
            set(own, &name, value);
        }
    }
    if !invalid.is_empty() {
        skipped.push(format!(
            "Keys [{}] from the EnvFrom {source} were skipped since they are considered invalid environment variable names.",
            invalid.join(", ")
        ));
    }
}

/// The value of a `valueFrom`; `None` when an optional one is absent.
fn value_from(pod: &Pod, c: &Container, source: &EnvVarSource, from: Sources<'_>) -> Result<Option<String>, String> {
    let namespace = pod::namespace(pod);
    if let Some(field) = &source.field_ref {
        return downward::field(pod, from.facts, &field.field_path).map(Some);
    }
    if let Some(field) = &source.resource_field_ref {
        let other = field.container_name.as_deref().filter(|n| !n.is_empty());
        let of = match other {
            Some(name) => pod::container(pod, name).ok_or(format!("container {name} not found"))?.0,
            None => c,
        };
        return resources::field(of, &field.resource, field.divisor.as_ref(), from.allocatable).map(Some);
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

/// The variables that name Services, as Docker links once did.
fn service_variables(pod: &Pod, services: &[std::sync::Arc<Service>]) -> Vec<(String, String)> {
    let linked = pod::spec(pod).enable_service_links != Some(false);
    let mut out = Vec::new();
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
        set(&mut out, &format!("{prefix}_SERVICE_HOST"), ip.to_owned());
        set(&mut out, &format!("{prefix}_SERVICE_PORT"), first.port.to_string());
        for port in spec.ports.iter().flatten() {
            if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
                set(&mut out, &format!("{prefix}_SERVICE_PORT_{}", upper(port_name)), port.port.to_string());
            }
        }
        for (i, port) in spec.ports.iter().flatten().enumerate() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
            if i == 0 {
                set(&mut out, &format!("{prefix}_PORT"), url.clone());
            }
            let link = format!("{prefix}_PORT_{}_{protocol}", port.port);
            set(&mut out, &link, url);
            set(&mut out, &format!("{link}_PROTO"), protocol.to_lowercase());
            set(&mut out, &format!("{link}_PORT"), port.port.to_string());
            set(&mut out, &format!("{link}_ADDR"), ip.to_owned());
        }
    }
    out
}

/// The command line: the container's command replaces the image's entry point and its arguments; its arguments replace the
/// image's. Empty means that the runtime names the program. `$(NAME)` is one of `variables`: what the image sets is not known to
/// upstream's kubelet, which leaves such a reference as it is.
pub fn command_line(c: &Container, image: &Command, variables: &[(String, String)]) -> Vec<String> {
    let lookup = |name: &str| find(variables, name);
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|text| expand(text, lookup)).collect()
    };
    let (command, args) = (expanded(&c.command), expanded(&c.args));
    let (mut line, rest) = match (command.is_empty(), args.is_empty()) {
        (false, _) => (command, args),
        (true, false) => (image.entrypoint.clone(), args),
        (true, true) => (image.entrypoint.clone(), image.arguments.clone()),
    };
    if line.is_empty() && !rest.is_empty() {
        // arguments without a program: Wasm images often name none
        line.push(c.name.clone());
    }
    line.extend(rest);
    line
}

#[cfg(test)]
mod tests;
