//! ServiceAccount: every pod has a service account, and unless automounting is off, its containers have a token, the cluster CA and the
//! namespace below [`MOUNT_PATH`].

use crate::podspec::service_account_mirror;
use api::{Object, Status};
use serde_json::{Value, json};
use server::{
    Changes,
    admission::{Admission, Attributes, forbidden},
};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME: &str = "kube-api-access-";
/// Upstream's number: by it the token request of this mount is recognised.
const TOKEN_SECONDS: i64 = 3607;
const MIRROR: &str = "kubernetes.io/config.mirror";

#[derive(Default)]
pub(super) struct ServiceAccount {
    /// Notifies of changes of ServiceAccounts.
    accounts: OnceLock<Changes>,
}

#[async_trait::async_trait]
impl Admission for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, attributes: &Attributes) -> bool {
        attributes.creates("", "pods")
    }

    async fn admit(&self, attributes: &Attributes, object: &mut Object) -> Result<(), Status> {
        if object.annotation(MIRROR).is_some() {
            return Ok(());
        }
        if account_name(object).is_empty() {
            object.set(&["spec", "serviceAccountName"], "default");
        }
        if let Some(spec) = object.0.get_mut("spec").and_then(Value::as_object_mut) {
            service_account_mirror(spec);
        }
        let account = self.account(attributes, object).await?;
        let wanted = |object: &Object, path: &[&str]| object.at(path).and_then(Value::as_bool);
        let automount = wanted(object, &["spec", "automountServiceAccountToken"])
            .or_else(|| wanted(&account, &["automountServiceAccountToken"]))
            .unwrap_or(true);
        if automount {
            mount(attributes, object);
        }
        let secrets = account.list_at(&["imagePullSecrets"]);
        if object.list_at(&["spec", "imagePullSecrets"]).is_empty() && !secrets.is_empty() {
            let names: Vec<Value> = secrets.iter().map(|secret| json!({"name": secret["name"]})).collect();
            object.set(&["spec", "imagePullSecrets"], names);
        }
        Ok(())
    }

    async fn validate(&self, attributes: &Attributes, object: &Object) -> Result<(), Status> {
        if object.annotation(MIRROR).is_some() {
            return mirror(attributes, object);
        }
        if account_name(object).is_empty() {
            let why =
                format!("no service account specified for pod {}/{}", attributes.context.namespace, object.name());
            return Err(forbidden(attributes, object, &why));
        }
        let account = find(attributes, object).ok_or_else(|| missing(attributes, object))?;
        let enforced = account.annotation("kubernetes.io/enforce-mountable-secrets") == Some("true");
        if enforced { mountable(attributes, object, &account) } else { Ok(()) }
    }
}

fn account_name(object: &Object) -> &str {
    object.str_at(&["spec", "serviceAccountName"]).unwrap_or_default()
}

fn find(attributes: &Attributes, object: &Object) -> Option<Arc<Object>> {
    let context = &attributes.context;
    context.objects.get("", "serviceaccounts", &context.namespace, account_name(object))
}

/// How long a pod waits for the account `default` of a new namespace before it is refused, as upstream.
const ACCOUNT_TIMEOUT: Duration = Duration::from_secs(1);

impl ServiceAccount {
    async fn account(&self, attributes: &Attributes, object: &Object) -> Result<Arc<Object>, Status> {
        if let Some(account) = find(attributes, object) {
            return Ok(account);
        }
        if account_name(object) != "default" {
            return Err(missing(attributes, object));
        }
        let objects = &attributes.context.objects;
        let changes = self.accounts.get_or_init(|| objects.changes("", "serviceaccounts"));
        let found = async {
            loop {
                // Read before the account, so that a change in between is not missed.
                let seen = changes.last();
                if let Some(account) = find(attributes, object) {
                    return account;
                }
                changes.after(seen).await;
            }
        };
        tokio::time::timeout(ACCOUNT_TIMEOUT, found).await.map_err(|_| missing(attributes, object))
    }
}

fn missing(attributes: &Attributes, object: &Object) -> Status {
    let name = account_name(object);
    let namespace = &attributes.context.namespace;
    let why = format!("error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found");
    forbidden(attributes, object, &why)
}

fn mount(attributes: &Attributes, object: &mut Object) {
    let existing = object.list_at(&["spec", "volumes"]).iter().filter_map(|volume| volume["name"].as_str());
    let existing = existing.into_iter().find(|name| name.starts_with(VOLUME)).map(str::to_owned);
    let name = existing.clone().unwrap_or_else(|| format!("{VOLUME}{}", attributes.context.ids.suffix(5)));
    let mut needed = false;
    for kind in ["initContainers", "containers"] {
        let Some(Value::Array(containers)) = object.0.get_mut("spec").and_then(|spec| spec.get_mut(kind)) else {
            continue;
        };
        for container in containers.iter_mut().filter_map(Value::as_object_mut) {
            let mounts = container.entry("volumeMounts").or_insert(Value::Null);
            if !mounts.is_array() {
                *mounts = json!([]);
            }
            let mounts = mounts.as_array_mut().expect("made an array above");
            if !mounts.iter().any(|mount| mount["mountPath"] == MOUNT_PATH) {
                mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
                needed = true;
            }
        }
    }
    if !needed || existing.is_some() {
        return;
    }
    let volumes = object.entry(&["spec", "volumes"]);
    if !volumes.is_array() {
        *volumes = json!([]);
    }
    volumes.as_array_mut().expect("made an array above").push(json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [
                    {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
                ]}},
            ],
        },
    }));
}

/// Mirror pods, which show static pods of a node, have no service account.
fn mirror(attributes: &Attributes, object: &Object) -> Result<(), Status> {
    if !account_name(object).is_empty() {
        return Err(forbidden(attributes, object, "a mirror pod may not reference service accounts"));
    }
    let volumes = object.list_at(&["spec", "volumes"]);
    if volumes.iter().any(|volume| volume["secret"].is_object()) {
        return Err(forbidden(attributes, object, "a mirror pod may not reference secrets"));
    }
    let sources = volumes.iter().filter_map(|volume| volume["projected"]["sources"].as_array()).flatten();
    if sources.into_iter().any(|source| source["serviceAccountToken"].is_object()) {
        return Err(forbidden(attributes, object, "a mirror pod may not use ServiceAccountToken volume projections"));
    }
    Ok(())
}

/// An account may restrict its pods to the secrets that it lists.
fn mountable(attributes: &Attributes, object: &Object, account: &Object) -> Result<(), Status> {
    let lists = |list: &str, name: &str| account.list_at(&[list]).iter().any(|secret| secret["name"] == name);
    let who = account.name();
    let refuse = |why: String| Err(forbidden(attributes, object, &why));
    for secret in
        object.list_at(&["spec", "volumes"]).iter().filter_map(|volume| volume["secret"]["secretName"].as_str())
    {
        if !lists("secrets", secret) {
            return refuse(format!(
                "volume with secret.secretName=\"{secret}\" is not allowed because service account {who} does not reference that secret"
            ));
        }
    }
    for (kind, called) in [("initContainers", "init container"), ("containers", "container")] {
        for container in object.list_at(&["spec", kind]) {
            let name = container["name"].as_str().unwrap_or_default();
            let tail = |secret: &str| {
                format!(
                    "referencing secret.secretName=\"{secret}\" is not allowed because service account {who} does not reference that secret"
                )
            };
            for variable in container["env"].as_array().into_iter().flatten() {
                match variable["valueFrom"]["secretKeyRef"]["name"].as_str() {
                    Some(secret) if !lists("secrets", secret) => {
                        let variable = variable["name"].as_str().unwrap_or_default();
                        return refuse(format!("{called} {name} with envVar {variable} {}", tail(secret)));
                    }
                    _ => {}
                }
            }
            for from in container["envFrom"].as_array().into_iter().flatten() {
                match from["secretRef"]["name"].as_str() {
                    Some(secret) if !lists("secrets", secret) => {
                        return refuse(format!("{called} {name} with envFrom {}", tail(secret)));
                    }
                    _ => {}
                }
            }
        }
    }
    for (i, secret) in object.list_at(&["spec", "imagePullSecrets"]).iter().enumerate() {
        let name = secret["name"].as_str().unwrap_or_default();
        if !lists("imagePullSecrets", name) {
            return refuse(format!(
                "imagePullSecrets[{i}].name=\"{name}\" is not allowed because service account {who} does not reference that imagePullSecret"
            ));
        }
    }
    Ok(())
}
