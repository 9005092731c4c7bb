//! `spec.conversion`: how objects are converted between versions.

use crate::{at::At, clientconfig};
use api::{Cause, Object, names};
use serde_json::json;
use std::collections::HashSet;

/// The review versions that this server speaks.
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

/// Whether the versions hold one that is known, or none at all.
fn recognised(versions: At<'_>) -> bool {
    versions.is_empty() || versions.items().any(|version| REVIEWS.contains(&version.str()))
}

/// Upstream's internal type has the fields of `webhook` at other places, which its errors name.
pub(super) fn validate(conversion: At<'_>, old: Option<At<'_>>, out: &mut Vec<Cause>) {
    if !conversion.is_set() {
        return;
    }
    let strategy = conversion.get("strategy");
    match strategy.str() {
        "" => out.push(strategy.required("")),
        "None" | "Webhook" => {}
        _ => out.push(strategy.not_supported(&["None", "Webhook"])),
    }
    let (webhook, field) = (conversion.get("webhook"), conversion.field());
    let (config, versions) = (webhook.get("clientConfig"), webhook.get("conversionReviewVersions"));
    let (config_field, versions_field) = (field.child("webhookClientConfig"), field.child("conversionReviewVersions"));
    if strategy.str() != "Webhook" {
        let text = "should not be set when strategy is not set to Webhook";
        if config.is_set() {
            out.push(Cause::forbidden(&config_field, text));
        }
        if !versions.is_empty() {
            out.push(Cause::forbidden(&versions_field, text));
        }
        return;
    }
    if config.is_set() {
        let internal = json!({"conversion": {"webhookClientConfig": config.value()}});
        let spec = Object::from_value(json!({"spec": internal})).unwrap_or_default();
        clientconfig::validate(At::of(&spec, "spec").down(&["conversion", "webhookClientConfig"]), out);
    } else {
        out.push(Cause::required(&config_field, "required when strategy is set to Webhook"));
    }
    review_versions(
        versions,
        &versions_field,
        old.is_none_or(|old| recognised(old.down(&["webhook", "conversionReviewVersions"]))),
        out,
    );
}

fn review_versions(versions: At<'_>, field: &api::FieldPath, require_known: bool, out: &mut Vec<Cause>) {
    if versions.is_empty() {
        out.push(Cause::required(field, ""));
        return;
    }
    let mut seen = HashSet::new();
    for (index, version) in versions.items().enumerate() {
        if !seen.insert(version.str()) {
            out.push(Cause::invalid(&field.index(index), version.value(), "duplicate version"));
            continue;
        }
        for problem in names::dns1035_label(version.str()) {
            out.push(Cause::invalid(&field.index(index), version.value(), &problem));
        }
    }
    if require_known && !recognised(versions) {
        let text = format!("must include at least one of {}", REVIEWS.join(", "));
        out.push(Cause::invalid(field, &json!(versions.value()), &text));
    }
}
