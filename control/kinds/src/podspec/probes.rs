//! Probes and lifecycle hooks.

use crate::{at::At, rules};
use api::Cause;

/// The three probes of a container.
pub(super) fn all(spec: At<'_>, container: At<'_>, out: &mut Vec<Cause>) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = container.get(name);
        if !probe.is_set() {
            continue;
        }
        handler(spec, probe, &["exec", "httpGet", "tcpSocket", "grpc"], out);
        for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            probe.get(field).not_negative(out);
        }
        let grace = probe.get("terminationGracePeriodSeconds");
        if grace.int().is_some_and(|n| n <= 0) {
            out.push(grace.invalid("must be greater than 0"));
        }
        if name == "readinessProbe" {
            if grace.is_set() {
                out.push(grace.invalid("must not be set for readinessProbes"));
            }
        } else if probe.get("successThreshold").int() != Some(1) {
            out.push(probe.get("successThreshold").invalid("must be 1"));
        }
    }
}

/// `postStart` and `preStop`.
pub(super) fn lifecycle(spec: At<'_>, lifecycle: At<'_>, out: &mut Vec<Cause>) {
    for name in ["postStart", "preStop"] {
        let hook = lifecycle.get(name);
        if hook.is_set() {
            handler(spec, hook, &["exec", "httpGet", "tcpSocket", "sleep"], out);
        }
    }
    let signal = lifecycle.get("stopSignal");
    if signal.is_set() && !spec.get("os").is_set() {
        out.push(signal.forbidden("may not be set for containers with empty `spec.os.name`"));
    }
}

fn handler(spec: At<'_>, owner: At<'_>, kinds: &[&'static str], out: &mut Vec<Cause>) {
    let mut found = false;
    for kind in kinds {
        let action = owner.get(kind);
        if !action.is_set() {
            continue;
        }
        if found {
            out.push(action.forbidden("may not specify more than 1 handler type"));
            continue;
        }
        found = true;
        match *kind {
            "exec" if action.get("command").is_empty() => out.push(action.get("command").required("")),
            "httpGet" => http_get(action, out),
            "tcpSocket" => rules::port_number_or_name(action.get("port"), out),
            "grpc" => rules::port_number(action.get("port"), out),
            "sleep" => sleep(spec, action, out),
            _ => {}
        }
    }
    if !found {
        out.push(owner.required("must specify a handler type"));
    }
}

fn http_get(action: At<'_>, out: &mut Vec<Cause>) {
    if action.get("path").is_empty() {
        out.push(action.get("path").required(""));
    }
    rules::port_number_or_name(action.get("port"), out);
    if !matches!(action.get("scheme").str(), "HTTP" | "HTTPS") {
        out.push(action.get("scheme").not_supported(&["HTTP", "HTTPS"]));
    }
    let headers = action.get("httpHeaders");
    for name in headers.items().map(|header| header.get("name")) {
        let legal = !name.is_empty() && name.str().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !legal {
            out.push(headers.with(name.value()).invalid("a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')"));
        }
    }
}

fn sleep(spec: At<'_>, action: At<'_>, out: &mut Vec<Cause>) {
    let seconds = action.get("seconds");
    if let (Some(grace), Some(n)) = (spec.get("terminationGracePeriodSeconds").int(), seconds.int())
        && (n < 0 || n > grace)
    {
        let text = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        out.push(action.with(seconds.value()).invalid(&text));
    }
}
