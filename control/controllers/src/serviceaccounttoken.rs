//! Fills Secrets of type `kubernetes.io/service-account-token` with a token of their account, deletes them with it, and removes them from the
//! account's list when they are gone.
//!
//! Follows <https://kubernetes.io/docs/concepts/security/service-accounts/#manually-manage-tokens>.

use crate::{Context, context::Keys, meta};
use client::{Client, Controller, DeleteOptions, Delta, Informer, Key, Next, Target, Wakeups};
use k8s_openapi::{
    ByteString,
    api::core::v1::{Secret, ServiceAccount},
};
use std::sync::Arc;

const TYPE: &str = "kubernetes.io/service-account-token";
const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";
/// Index of token Secrets by namespace and account.
const BY_ACCOUNT: &str = "serviceaccounttoken/account";
/// Between the account and the Secret in a key that stands for the account's reference to a Secret that is gone. No name has one.
const SEPARATOR: char = '/';

/// Fills and deletes token Secrets. Upstream's `serviceaccount-token-controller`.
pub(crate) struct ServiceAccountTokenController {
    client: Client,
    keys: Arc<dyn Keys>,
    authority: String,
    secrets: Informer<Secret>,
    accounts: Informer<ServiceAccount>,
}

impl ServiceAccountTokenController {
    /// Over the shared informers; of Secrets only those with tokens are watched.
    pub(crate) fn new(cx: &Context, keys: Arc<dyn Keys>) -> Self {
        let secrets: Informer<Secret> = cx.informers.over(Target::of::<Secret>().fields(format!("type={TYPE}")));
        secrets.index(BY_ACCOUNT, |secret| {
            let account = meta::annotation(&secret.metadata, NAME);
            account.map(|name| place(meta::namespace(&secret.metadata), name)).into_iter().collect()
        });
        let authority = cx.options.root_ca_pem.clone();
        Self { client: cx.client.clone(), keys, authority, secrets, accounts: cx.informers.of() }
    }

    /// The account that a Secret is of: from the cache, or, where that has none, from the API, which may be ahead.
    async fn account(&self, namespace: &str, name: &str, uid: Option<&str>) -> anyhow::Result<Option<ServiceAccount>> {
        let fits = |account: &ServiceAccount| uid.is_none_or(|uid| uid == meta::uid(&account.metadata));
        if let Some(known) = self.accounts.get(namespace, name).filter(|account| fits(account)) {
            return Ok(Some((*known).clone()));
        }
        Ok(self.client.find::<ServiceAccount>(namespace, name).await?.filter(fits))
    }

    /// Removes a Secret that is gone from the list of its account.
    async fn forget(&self, namespace: &str, account: &str, secret: &str) -> anyhow::Result<()> {
        if self.secrets.get(namespace, secret).is_some() || self.accounts.get(namespace, account).is_none() {
            return Ok(());
        }
        let Some(account) = self.client.find::<ServiceAccount>(namespace, account).await? else { return Ok(()) };
        if let Some(account) = without(&account, secret) {
            match self.client.update(&account).await {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }
}

fn place(namespace: &str, account: &str) -> String {
    format!("{namespace}/{account}")
}

/// The account without a Secret in its list; `None` where it has no such one.
fn without(account: &ServiceAccount, secret: &str) -> Option<ServiceAccount> {
    let listed = |one: &k8s_openapi::api::core::v1::ObjectReference| one.name.as_deref() == Some(secret);
    if !account.secrets.iter().flatten().any(listed) {
        return None;
    }
    let mut account = account.clone();
    account.secrets.get_or_insert_default().retain(|one| !listed(one));
    Some(account)
}

/// The Secret as it should be, but for the token that it lacks; `None` when it has everything. The annotations are written with the rest only.
fn plan(secret: &Secret, account: &ServiceAccount, authority: &str) -> Option<Secret> {
    let data = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map_or(&[][..], |bytes| &bytes.0);
    let authority_differs = !authority.is_empty() && data("ca.crt") != authority.as_bytes();
    if !authority_differs && !data("namespace").is_empty() && !data("token").is_empty() {
        return None;
    }
    let mut filled = secret.clone();
    let own = meta::namespace(&secret.metadata).as_bytes().to_vec();
    let set = filled.data.get_or_insert_default();
    if authority_differs {
        set.insert("ca.crt".to_owned(), ByteString(authority.as_bytes().to_vec()));
    }
    if data("namespace").is_empty() {
        set.insert("namespace".to_owned(), ByteString(own));
    }
    let annotations = filled.metadata.annotations.get_or_insert_default();
    annotations.insert(NAME.to_owned(), meta::name(&account.metadata).to_owned());
    annotations.insert(UID.to_owned(), meta::uid(&account.metadata).to_owned());
    Some(filled)
}

#[async_trait::async_trait]
impl Controller for ServiceAccountTokenController {
    const NAME: &'static str = "serviceaccount-token-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on(&self.secrets, |delta| match delta {
            Delta::Deleted(secret) => {
                let account = meta::annotation(&secret.metadata, NAME).unwrap_or_default();
                let name = meta::name(&secret.metadata);
                vec![Key::new(meta::namespace(&secret.metadata), format!("{account}{SEPARATOR}{name}"))]
            }
            _ => vec![Key::of(&**delta.object())],
        });
        let secrets = self.secrets.clone();
        wakeups.on(&self.accounts, move |delta| {
            let account = &delta.object().metadata;
            let all = secrets.by_index(BY_ACCOUNT, &place(meta::namespace(account), meta::name(account)));
            all.iter().map(|secret| Key::of(&**secret)).collect()
        });
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        if let Some((account, secret)) = key.name.split_once(SEPARATOR) {
            self.forget(&key.namespace, account, secret).await?;
            return Ok(Next::Done);
        }
        let Some(secret) = self.secrets.find(key) else { return Ok(Next::Done) };
        let name = meta::annotation(&secret.metadata, NAME).unwrap_or_default();
        let uid = meta::annotation(&secret.metadata, UID).filter(|uid| !uid.is_empty());
        let Some(account) = self.account(&key.namespace, name, uid).await? else {
            let options = DeleteOptions::uid(meta::uid(&secret.metadata));
            return match self.client.delete::<Secret>(&key.namespace, &key.name, &options).await {
                // Another Secret has its name.
                Err(error) if !error.is_conflict() => Err(error.into()),
                _ => Ok(Next::Done),
            };
        };
        let Some(mut filled) = plan(&secret, &account, &self.authority) else { return Ok(Next::Done) };
        let data = filled.data.get_or_insert_default();
        if data.get("token").is_none_or(|token| token.0.is_empty()) {
            let uid = meta::uid(&account.metadata);
            let token = self.keys.token(&key.namespace, meta::name(&account.metadata), uid, &key.name)?;
            data.insert("token".to_owned(), ByteString(token.into_bytes()));
        }
        match self.client.update(&filled).await {
            // Who changed it meanwhile is seen as an event.
            Err(error) if !(error.is_conflict() || error.is_not_found()) => Err(error.into()),
            _ => Ok(Next::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn secret(data: Value) -> Secret {
        let annotations = json!({NAME: "sa", "kept": "x"});
        let value = json!({"metadata": {"name": "s", "namespace": "ns", "annotations": annotations}, "type": TYPE, "data": data});
        serde_json::from_value(value).expect("a Secret")
    }

    fn account(secrets: Value) -> ServiceAccount {
        let value = json!({"metadata": {"name": "sa", "namespace": "ns", "uid": "u"}, "secrets": secrets});
        serde_json::from_value(value).expect("a ServiceAccount")
    }

    #[test]
    fn what_a_secret_lacks_is_filled_and_the_rest_is_kept() {
        // "Q0E=" is CA, "bnM=" is ns, "VA==" is T, "b3RoZXI=" is other.
        for (data, expected) in [
            (json!({}), Some(json!({"ca.crt": "Q0E=", "namespace": "bnM="}))),
            (
                json!({"ca.crt": "b3RoZXI=", "namespace": "b3RoZXI=", "token": "VA==", "more": "VA=="}),
                Some(json!({"ca.crt": "Q0E=", "namespace": "b3RoZXI=", "token": "VA==", "more": "VA=="})),
            ),
            (json!({"ca.crt": "Q0E=", "namespace": "bnM="}), Some(json!({"ca.crt": "Q0E=", "namespace": "bnM="}))),
            (json!({"ca.crt": "Q0E=", "namespace": "bnM=", "token": "VA=="}), None),
        ] {
            let planned = plan(&secret(data.clone()), &account(json!([])), "CA");
            if let Some(planned) = &planned {
                let annotations = planned.metadata.annotations.as_ref().expect("annotations");
                assert_eq!((&*annotations[NAME], &*annotations[UID], &*annotations["kept"]), ("sa", "u", "x"));
            }
            let planned = planned.map(|secret| serde_json::to_value(secret.data).expect("JSON"));
            assert_eq!(planned, expected, "{data}");
        }
        let planned = plan(&secret(json!({"namespace": "bnM=", "token": "VA=="})), &account(json!([])), "");
        assert!(planned.is_none(), "without an authority none is written");
    }

    #[test]
    fn an_account_loses_only_the_secret_that_is_gone() {
        let all = account(json!([{"name": "a"}, {"name": "b"}]));
        assert_eq!(without(&all, "a"), Some(account(json!([{"name": "b"}]))));
        assert_eq!(without(&all, "c"), None);
        assert_eq!(without(&account(Value::Null), "a"), None);
    }
}
