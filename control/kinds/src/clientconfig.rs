//! How a webhook is reached: by a URL or by a Service. Follows `apiserver/pkg/util/webhook`.

use crate::{at::At, edit, edit::Fields, rules, url};
use api::{Cause, FieldPath, names};
use serde_json::{Value, json};
use server::{Objects, dialer::Dialer, webhook::Webhooks};
use std::{net::SocketAddr, sync::Arc};

/// The address of a Service's port, for calls of the server.
pub(crate) fn address(objects: &dyn Objects, namespace: &str, name: &str, port: u16) -> Result<SocketAddr, String> {
    let service = objects.get("", "services", namespace, name);
    let service = service.ok_or_else(|| format!("service {name:?} not found"))?;
    let has_port = |one: &Value| one["port"].as_u64() == Some(u64::from(port));
    if !service.list_at(&["spec", "ports"]).iter().any(has_port) {
        return Err(format!("no service port {port} found for service {name:?}"));
    }
    let address = service.str_at(&["spec", "clusterIP"]).and_then(|ip| ip.parse().ok());
    let address = address.ok_or_else(|| format!("service {name:?} has no cluster address"))?;
    Ok(SocketAddr::new(address, port))
}

/// What calls webhooks: Services are reached by `dialer`.
pub fn webhooks_by(dialer: Arc<dyn Dialer>) -> Webhooks {
    Webhooks::new(dialer, address)
}

/// The port of a Service, where none is given.
pub(crate) fn default(config: &mut Fields) {
    if let Some(service) = edit::object_if(config, "service") {
        edit::fill(service, "port", 443);
    }
}

/// The faults of a client configuration.
pub(crate) fn validate(config: At<'_>, out: &mut Vec<Cause>) {
    let (url, service) = (config.get("url"), config.get("service"));
    match (url.is_set(), service.is_set()) {
        (true, false) => https_url(url, out),
        (false, true) => of_service(service, out),
        _ => out.push(config.required("exactly one of url or service is required")),
    }
}

fn https_url(at: At<'_>, out: &mut Vec<Cause>) {
    const FORM: &str = "; desired format: https://host[/path]";
    let field = at.field();
    let url = match url::parse(at.str()) {
        Ok(url) => url,
        Err(error) => return out.push(at.required(&format!("url must be a valid URL: {error}{FORM}"))),
    };
    let mut bad = |value: &str, detail: &str| out.push(Cause::invalid(&field, &json!(value), detail));
    if url.scheme != "https" {
        bad(&url.scheme, &format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if url.host.is_empty() {
        bad("", &format!("host must be specified{FORM}"));
    }
    if let Some(user) = &url.user {
        bad(user, "user information is not permitted in the URL");
    }
    if !url.fragment.is_empty() {
        bad(&url.fragment, "fragments are not permitted in the URL");
    }
    if !url.query.is_empty() {
        bad(&url.query, "query parameters are not permitted in the URL");
    }
}

fn of_service(service: At<'_>, out: &mut Vec<Cause>) {
    // Upstream takes the one for the other.
    for (looked_at, named) in [("namespace", "name"), ("name", "namespace")] {
        if service.get(looked_at).is_empty() {
            out.push(service.get(named).required(""));
        }
    }
    port(service.get("port"), out);
    path(service.get("path"), out);
}

/// The port of a Service to which a server calls.
pub(crate) fn port(port: At<'_>, out: &mut Vec<Cause>) {
    let number = port.int().unwrap_or(0);
    let problems = names::port_number(number);
    if !problems.is_empty() {
        let text = format!("port is not valid: {}", problems.join(", "));
        out.push(Cause::invalid(&port.field(), &json!(number), &text));
    }
}

fn path(at: At<'_>, out: &mut Vec<Cause>) {
    let text = at.str();
    if !matches!(at.value(), Value::String(_)) || matches!(text, "" | "/") {
        return;
    }
    let field: FieldPath = at.field();
    let mut bad = |detail: &str| {
        out.push(Cause::invalid(&field, at.value(), detail));
        rules::full(out)
    };
    if text == "//" {
        bad("segment[0] may not be empty");
        return;
    }
    if !text.starts_with('/') {
        bad("must start with a '/'");
    }
    let mut rest = text.chars();
    rest.next();
    let rest = rest.as_str();
    for (i, step) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if step.is_empty() {
            if bad(&format!("segment[{i}] may not be empty")) {
                return;
            }
            continue;
        }
        for problem in names::dns1123_subdomain(step) {
            if bad(&format!("segment[{i}]: {problem}")) {
                return;
            }
        }
    }
}
