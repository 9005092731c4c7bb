//! Makes tokens of Secrets invalid that nobody has used for a year, and deletes them after another one: only those that an account lists, as
//! the ones that Kubernetes once made by itself, and that no pod names.
//!
//! Follows <https://kubernetes.io/docs/concepts/security/service-accounts/#auto-generated-legacy-serviceaccount-token-clean-up>. The API server
//! labels Secrets with the day of use, and says in a ConfigMap since when it does; before that nobody knows what is unused.

use crate::{Context, meta};
use api::{
    Clock,
    legacytoken::{INVALID_SINCE, LAST_USED, TRACKING, day, parse_day},
};
use client::{Client, Controller, DeleteOptions, Informer, Key, Next, Patch, Target, Wakeups};
use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount, Volume};
use serde_json::json;
use std::{collections::HashSet, sync::Arc, time::Duration};

const TYPE: &str = "kubernetes.io/service-account-token";
const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";
/// How often all Secrets are looked at. Upstream's.
const PERIOD: Duration = Duration::from_secs(24 * 3600);
/// How long a token is unused before it becomes invalid, and then before it is deleted. Upstream's default.
const UNUSED: SignedDuration = SignedDuration::from_hours(8760);

/// Cleans up. Upstream's `legacy-serviceaccount-token-cleaner-controller`.
pub(crate) struct LegacyTokenCleaner {
    client: Client,
    clock: Clock,
    secrets: Informer<Secret>,
    accounts: Informer<ServiceAccount>,
    pods: Informer<Pod>,
}

impl LegacyTokenCleaner {
    /// Over the shared informers; of Secrets only those with tokens are watched.
    pub(crate) fn new(cx: &Context) -> Self {
        Self {
            client: cx.client.clone(),
            clock: cx.options.clock.clone(),
            secrets: cx.informers.over(Target::of::<Secret>().fields(format!("type={TYPE}"))),
            accounts: cx.informers.of(),
            pods: cx.informers.of(),
        }
    }

    /// The day from which on use is noted; `None` where nobody says so yet.
    async fn tracked_since(&self) -> client::Result<Option<Date>> {
        let found = self.client.find::<ConfigMap>("kube-system", TRACKING).await?;
        let since = found.as_ref().and_then(|map| map.data.as_ref()?.get("since"));
        Ok(since.and_then(|text| parse_day(text)))
    }

    /// The account that a Secret is of, if it is the one of that uid.
    fn account(&self, secret: &Secret) -> Option<Arc<ServiceAccount>> {
        let name = meta::annotation(&secret.metadata, NAME)?;
        let uid = meta::annotation(&secret.metadata, UID).filter(|uid| !uid.is_empty());
        let account = self.accounts.get(meta::namespace(&secret.metadata), name)?;
        uid.is_none_or(|uid| uid == meta::uid(&account.metadata)).then_some(account)
    }

    async fn act(&self, secret: &Secret, action: Action) -> client::Result<()> {
        let (namespace, name) = (meta::namespace(&secret.metadata), meta::name(&secret.metadata));
        let done = match action {
            Action::Keep => return Ok(()),
            Action::Invalidate(day) => {
                let metadata = json!({"uid": meta::uid(&secret.metadata), "labels": {INVALID_SINCE: day}});
                let patch = Patch::Merge(json!({ "metadata": metadata }));
                self.client.patch::<Secret>(namespace, name, patch).await.map(drop)
            }
            Action::Delete => {
                let mut options = DeleteOptions::uid(meta::uid(&secret.metadata));
                if let Some(conditions) = &mut options.preconditions {
                    conditions.resource_version.clone_from(&secret.metadata.resource_version);
                }
                self.client.delete::<Secret>(namespace, name, &options).await.map(drop)
            }
        };
        match done {
            // Somebody changed it meanwhile: it is looked at again.
            Err(error) if !(error.is_conflict() || error.is_not_found()) => Err(error),
            _ => Ok(()),
        }
    }
}

/// What to do with a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Keep,
    /// Label it as invalid since this day.
    Invalidate(String),
    Delete,
}

/// Whether use has been noted for so long that what has no note is unused.
fn knows(since: Date, now: Timestamp) -> bool {
    let begin = since.tomorrow().and_then(|day| day.to_zoned(TimeZone::UTC)).map(|begin| begin.timestamp());
    begin.is_ok_and(|begin| now.duration_since(begin) >= UNUSED)
}

/// Decides, for a Secret of an account; `named`: a pod names it.
fn plan(secret: &Secret, account: Option<&ServiceAccount>, named: impl FnOnce() -> bool, now: Timestamp) -> Action {
    let Ok(before) = now.checked_sub(UNUSED) else { return Action::Keep };
    let label = |key: &str| secret.metadata.labels.as_ref().and_then(|labels| labels.get(key));
    let is_young = meta::created(&secret.metadata) >= before || meta::is_deleting(&secret.metadata);
    // A day that cannot be read tells nothing.
    let is_used = label(LAST_USED).is_some_and(|text| parse_day(text).is_none_or(|used| used >= day(before)));
    if secret.type_.as_deref() != Some(TYPE) || is_young || is_used {
        return Action::Keep;
    }
    let listed = account.and_then(|account| account.secrets.as_ref()).into_iter().flatten();
    let is_generated = listed.filter_map(|one| one.name.as_deref()).any(|name| name == meta::name(&secret.metadata));
    if !is_generated || named() {
        return Action::Keep;
    }
    match label(INVALID_SINCE).and_then(|text| parse_day(text)) {
        None => Action::Invalidate(day(now).to_string()),
        Some(since) if since < day(before) => Action::Delete,
        Some(_) => Action::Keep,
    }
}

/// The Secrets that a volume names.
fn of_volume(volume: &Volume) -> Vec<Option<&str>> {
    let mut names = vec![
        volume.secret.as_ref().and_then(|source| source.secret_name.as_deref()),
        volume.azure_file.as_ref().map(|source| source.secret_name.as_str()),
        volume.scale_io.as_ref().map(|source| source.secret_ref.name.as_str()),
    ];
    let references = [
        volume.cephfs.as_ref().and_then(|source| source.secret_ref.as_ref()),
        volume.cinder.as_ref().and_then(|source| source.secret_ref.as_ref()),
        volume.flex_volume.as_ref().and_then(|source| source.secret_ref.as_ref()),
        volume.rbd.as_ref().and_then(|source| source.secret_ref.as_ref()),
        volume.iscsi.as_ref().and_then(|source| source.secret_ref.as_ref()),
        volume.storageos.as_ref().and_then(|source| source.secret_ref.as_ref()),
        volume.csi.as_ref().and_then(|source| source.node_publish_secret_ref.as_ref()),
    ];
    names.extend(references.into_iter().flatten().map(|reference| Some(reference.name.as_str())));
    let projected = volume.projected.iter().flat_map(|source| source.sources.iter().flatten());
    names.extend(projected.filter_map(|source| Some(Some(source.secret.as_ref()?.name.as_str()))));
    names
}

/// The Secrets that a pod names: to pull images, in variables and in volumes.
fn named_by(pod: &Pod) -> HashSet<&str> {
    let Some(spec) = &pod.spec else { return HashSet::new() };
    let mut names: Vec<Option<&str>> = Vec::new();
    names.extend(spec.image_pull_secrets.iter().flatten().map(|reference| Some(reference.name.as_str())));
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let of_containers = containers.map(|container| (&container.env, &container.env_from));
    let of_debuggers =
        spec.ephemeral_containers.iter().flatten().map(|container| (&container.env, &container.env_from));
    for (env, env_from) in of_containers.chain(of_debuggers) {
        let one = env.iter().flatten().filter_map(|one| one.value_from.as_ref()?.secret_key_ref.as_ref());
        names.extend(one.map(|reference| Some(reference.name.as_str())));
        let all = env_from.iter().flatten().filter_map(|all| all.secret_ref.as_ref());
        names.extend(all.map(|reference| Some(reference.name.as_str())));
    }
    names.extend(spec.volumes.iter().flatten().flat_map(of_volume));
    names.into_iter().flatten().filter(|name| !name.is_empty()).collect()
}

#[async_trait::async_trait]
impl Controller for LegacyTokenCleaner {
    const NAME: &'static str = "legacy-serviceaccount-token-cleaner-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.reads(&self.secrets);
        wakeups.reads(&self.accounts);
        wakeups.reads(&self.pods);
        wakeups.queue().add(Key::default());
    }

    async fn reconcile(&self, _: &Key) -> anyhow::Result<Next> {
        let now = self.clock.now();
        if !self.tracked_since().await?.is_some_and(|since| knows(since, now)) {
            return Ok(Next::After(PERIOD));
        }
        for secret in self.secrets.list() {
            let (namespace, name) = (meta::namespace(&secret.metadata), meta::name(&secret.metadata));
            let named = || {
                let pods = self.pods.list();
                let mut own = pods.iter().filter(|pod| meta::namespace(&pod.metadata) == namespace);
                own.any(|pod| named_by(pod).contains(name))
            };
            let action = plan(&secret, self.account(&secret).as_deref(), named, now);
            self.act(&secret, action).await?;
        }
        Ok(Next::After(PERIOD))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const NOW: &str = "2028-06-15T12:00:00Z";

    fn secret(created: &str, labels: Value) -> Secret {
        let metadata = json!({"name": "s", "namespace": "ns", "creationTimestamp": created, "labels": labels});
        serde_json::from_value(json!({"metadata": metadata, "type": TYPE})).expect("a Secret")
    }

    #[test]
    fn what_was_not_used_for_a_year_becomes_invalid_and_is_deleted_after_another() {
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": "sa"}, "secrets": [{"name": "s"}]}))
                .expect("an account");
        let old = "2027-06-16T11:59:59Z"; // 2028 has a day more
        let invalidate = || Action::Invalidate("2028-06-15".to_owned());
        for (what, created, labels, wanted) in [
            ("never used", old, json!({}), invalidate()),
            ("young", "2027-06-16T12:00:00Z", json!({}), Action::Keep),
            ("used of late", old, json!({LAST_USED: "2027-06-16"}), Action::Keep),
            ("used long ago", old, json!({LAST_USED: "2027-06-15"}), invalidate()),
            ("nobody knows", old, json!({LAST_USED: "yesterday"}), Action::Keep),
            ("invalid of late", old, json!({INVALID_SINCE: "2027-06-16"}), Action::Keep),
            ("invalid for long", old, json!({INVALID_SINCE: "2027-06-15"}), Action::Delete),
            ("used since", old, json!({INVALID_SINCE: "2027-06-15", LAST_USED: "2028-01-01"}), Action::Keep),
            ("no day", old, json!({INVALID_SINCE: "2027-6-15"}), invalidate()),
        ] {
            let now: Timestamp = NOW.parse().expect("a time");
            let secret = secret(created, labels);
            assert_eq!(plan(&secret, Some(&account), || false, now), wanted, "{what}");
            assert_eq!(plan(&secret, Some(&account), || true, now), Action::Keep, "{what}, named by a pod");
            assert_eq!(plan(&secret, None, || false, now), Action::Keep, "{what}, without an account");
            let other = ServiceAccount::default();
            assert_eq!(plan(&secret, Some(&other), || false, now), Action::Keep, "{what}, made by a user");
            let plain = Secret { type_: Some("Opaque".to_owned()), ..secret };
            assert_eq!(plan(&plain, Some(&account), || false, now), Action::Keep, "{what}, of another type");
        }
    }

    #[test]
    fn nothing_is_known_before_use_was_noted_for_a_year() {
        let since = parse_day("2027-06-15").expect("a day");
        for (now, wanted) in [("2028-06-14T23:59:59Z", false), ("2028-06-15T00:00:00Z", true)] {
            assert_eq!(knows(since, now.parse().expect("a time")), wanted, "{now}");
        }
        assert_eq!((parse_day("2027-06-31"), parse_day("2027-06-15T00:00:00Z"), parse_day("")), (None, None, None));
    }

    #[test]
    fn a_pod_names_secrets_in_many_places() {
        let containers = json!([{"name": "c", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "a", "key": "k"}}}],
            "envFrom": [{"secretRef": {"name": "b"}}]}]);
        let volumes = json!([{"name": "1", "secret": {"secretName": "c"}}, {"name": "2", "projected": {"sources": [{"secret": {"name": "d"}}]}},
            {"name": "3", "csi": {"driver": "x", "nodePublishSecretRef": {"name": "e"}}}, {"name": "4", "secret": {"secretName": ""}}]);
        let spec = json!({"containers": [], "initContainers": containers, "ephemeralContainers": [{"name": "e", "envFrom": [{"secretRef": {"name": "g"}}]}],
            "volumes": volumes, "imagePullSecrets": [{"name": "f"}]});
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod");
        let mut names: Vec<&str> = named_by(&pod).into_iter().collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "b", "c", "d", "e", "f", "g"]);
    }
}
