//! Patches, and the options of deletes, lists and watches.

use crate::paths::escape;
use serde::Serialize;
use serde_json::Value;

/// The body of a PATCH, by type.
#[derive(Clone, Debug)]
pub enum Patch {
    /// RFC 7386.
    Merge(Value),
    /// Lists merge by key.
    Strategic(Value),
    /// RFC 6902.
    Json(Value),
    /// Server-side apply with this field manager.
    Apply {
        /// The applied configuration.
        config: Value,
        /// The field manager.
        manager: String,
        /// Take over fields of other managers.
        force: bool,
    },
}

/// What happens to dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Propagation {
    /// They lose their owner reference.
    Orphan,
    /// They are deleted afterwards.
    Background,
    /// They are deleted first.
    Foreground,
}

/// Conditions of a delete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preconditions {
    /// Only the object with this uid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Only the object with this resourceVersion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

/// `metav1.DeleteOptions`.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteOptions {
    /// Grace period, seconds; 0 is at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<i64>,
    /// What happens to dependents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation_policy: Option<Propagation>,
    /// Conditions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preconditions: Option<Preconditions>,
}

impl DeleteOptions {
    /// With a precondition on the uid.
    pub fn uid(uid: impl Into<String>) -> Self {
        Self { preconditions: Some(Preconditions { uid: Some(uid.into()), resource_version: None }), ..Self::default() }
    }

    /// With a grace period in seconds.
    pub fn grace(mut self, seconds: i64) -> Self {
        self.grace_period_seconds = Some(seconds);
        self
    }

    /// With a propagation policy.
    pub fn propagation(mut self, policy: Propagation) -> Self {
        self.propagation_policy = Some(policy);
        self
    }
}

/// What to list or watch.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Label selector, or empty.
    pub labels: String,
    /// Field selector, or empty.
    pub fields: String,
    /// Page size; 0 is everything.
    pub limit: u32,
    /// Continue token of the previous page.
    pub continue_token: String,
    /// `resourceVersion` of the list or watch; empty for the most recent.
    pub resource_version: String,
}

impl ListOptions {
    /// The query string of a list or watch, with its question mark.
    pub(crate) fn query(&self, watch: bool) -> String {
        let limit = if self.limit == 0 { String::new() } else { self.limit.to_string() };
        let flag = if watch { "true" } else { "" };
        let pairs = [
            ("watch", flag),
            ("allowWatchBookmarks", flag),
            ("labelSelector", &self.labels),
            ("fieldSelector", &self.fields),
            ("limit", &limit),
            ("continue", &self.continue_token),
            ("resourceVersion", &self.resource_version),
        ];
        let mut out = String::new();
        for (name, value) in pairs.into_iter().filter(|(_, value)| !value.is_empty()) {
            out.push(if out.is_empty() { '?' } else { '&' });
            out.push_str(name);
            out.push('=');
            out.push_str(&escape(value));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_escaped() {
        let options = ListOptions { labels: "a in (b,c)".into(), limit: 5, ..Default::default() };
        assert_eq!(options.query(false), "?labelSelector=a%20in%20%28b%2Cc%29&limit=5");
        assert_eq!(ListOptions::default().query(true), "?watch=true&allowWatchBookmarks=true");
    }
}
