//! Impersonation (`kubectl --as`): the `Impersonate-` headers. Every later step of the chain, authorization first, sees only the impersonated
//! user. Follows "User impersonation" of the page on authentication.

use crate::{
    Objects, User, authn,
    authz::{self, Authorizer},
    request::{RequestInfo, percent_decode},
};
use api::Status;
use authn::{ANONYMOUS, UNAUTHENTICATED};
use http::{HeaderMap, header::HeaderName};
use std::{collections::BTreeMap, sync::Arc};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// The prefix of a service account's user name.
const ACCOUNT: &str = "system:serviceaccount:";

/// The effective user of a request: `user` itself, or the one that it impersonates, if that is permitted. The headers are removed.
pub(crate) async fn impersonate(
    authorizer: &dyn Authorizer,
    objects: &dyn Objects,
    user: Arc<User>,
    headers: &mut HeaderMap,
) -> Result<Arc<User>, Status> {
    let Some(wanted) = ImpersonatedUser::from_headers(headers)? else { return Ok(user) };
    for (group, resource, namespace, name, subresource) in wanted.permissions() {
        let info = RequestInfo {
            is_resource: true,
            verb: "impersonate".to_owned(),
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
            ..RequestInfo::default()
        };
        authz::require(authorizer, objects, &user, &info).await?;
    }
    tracing::debug!(user = user.name, "impersonates {}", wanted.name);
    Ok(Arc::new(wanted.user()))
}

/// The user in the headers of a request.
struct ImpersonatedUser {
    name: String,
    groups: Vec<String>,
    uid: String,
    extra: BTreeMap<String, Vec<String>>,
}

impl ImpersonatedUser {
    fn from_headers(headers: &mut HeaderMap) -> Result<Option<Self>, Status> {
        let asks = |name: &HeaderName| [USER, GROUP, UID].contains(&name.as_str()) || name.as_str().starts_with(EXTRA);
        if !headers.keys().any(asks) {
            return Ok(None);
        }
        let names: Vec<HeaderName> = headers.keys().filter(|name| asks(name)).cloned().collect();
        let mut found = BTreeMap::<String, Vec<String>>::new();
        for name in &names {
            for value in headers.get_all(name) {
                let value = value.to_str().map_err(|_| Status::bad_request(format!("{name} is not text")))?;
                found.entry(name.as_str().to_owned()).or_default().push(value.to_owned());
            }
        }
        names.iter().for_each(|name| drop(headers.remove(name)));
        let one = |values: Option<Vec<String>>| values.into_iter().flatten().next().unwrap_or_default();
        let (name, groups, uid) =
            (one(found.remove(USER)), found.remove(GROUP).unwrap_or_default(), one(found.remove(UID)));
        if name.is_empty() {
            let asked: Vec<&str> = names.iter().map(HeaderName::as_str).collect();
            return Err(Status::internal(format!("requested {asked:?} without impersonating a user")));
        }
        let extra =
            found.into_iter().map(|(key, values)| (percent_decode(key.trim_start_matches(EXTRA)), values)).collect();
        Ok(Some(Self { name, groups, uid, extra }))
    }

    /// Namespace and name, if the user is a service account.
    fn account(&self) -> Option<(&str, &str)> {
        self.name.strip_prefix(ACCOUNT)?.split_once(':').filter(|(_, name)| !name.is_empty() && !name.contains(':'))
    }

    /// The required permissions: group, resource, namespace, name, subresource.
    fn permissions(&self) -> Vec<(&str, &str, &str, &str, &str)> {
        let authentication = "authentication.k8s.io";
        let mut all = vec![match self.account() {
            Some((namespace, name)) => ("", "serviceaccounts", namespace, name, ""),
            None => ("", "users", "", self.name.as_str(), ""),
        }];
        all.extend(self.groups.iter().map(|group| ("", "groups", "", group.as_str(), "")));
        if !self.uid.is_empty() {
            all.push((authentication, "uids", "", &self.uid, ""));
        }
        for (key, values) in &self.extra {
            all.extend(values.iter().map(|value| (authentication, "userextras", "", value.as_str(), key.as_str())));
        }
        all
    }

    fn user(self) -> User {
        let mut groups = self.groups.clone();
        if let (Some((namespace, _)), true) = (self.account(), groups.is_empty()) {
            groups.push("system:serviceaccounts".to_owned());
            groups.push(format!("system:serviceaccounts:{namespace}"));
        }
        let everybody = if self.name == ANONYMOUS { UNAUTHENTICATED } else { authn::AUTHENTICATED };
        if !groups.iter().any(|g| g == authn::AUTHENTICATED || g == UNAUTHENTICATED) {
            groups.push(everybody.to_owned());
        }
        User { name: self.name, uid: self.uid, groups, extra: self.extra }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::tests::NoObjects;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        pairs.iter().for_each(|(name, value)| {
            map.append(*name, value.parse().expect("a value"));
        });
        map
    }

    struct Masters;

    #[async_trait::async_trait]
    impl Authorizer for Masters {
        async fn authorize(&self, _: &dyn Objects, user: &User, _: &authz::Attributes<'_>) -> authz::Decision {
            if user.in_group("system:masters") { authz::Decision::Allow } else { authz::Decision::NoOpinion }
        }
        async fn rules_for(&self, _: &dyn Objects, _: &User, _: &str) -> authz::Rules {
            authz::Rules::default()
        }
    }

    fn admin() -> Arc<User> {
        Arc::new(User::new("admin", &["system:masters"]))
    }

    #[tokio::test]
    async fn a_master_becomes_whom_it_asks_to_be_and_nothing_more() {
        for (asked, name, groups) in [
            (vec![], "admin", vec!["system:masters"]),
            (vec![(USER, "bob")], "bob", vec!["system:authenticated"]),
            (vec![(USER, "bob"), (GROUP, "a"), (GROUP, "b")], "bob", vec!["a", "b", "system:authenticated"]),
            (vec![(USER, ANONYMOUS)], ANONYMOUS, vec![UNAUTHENTICATED]),
            (
                vec![(USER, "system:serviceaccount:n:s")],
                "system:serviceaccount:n:s",
                vec!["system:serviceaccounts", "system:serviceaccounts:n", "system:authenticated"],
            ),
        ] {
            let mut headers = headers(&asked);
            let user = impersonate(&Masters, &NoObjects, admin(), &mut headers).await.expect("allowed");
            assert_eq!((user.name.as_str(), &user.groups), (name, &groups.iter().map(|g| (*g).to_owned()).collect()));
            assert!(headers.is_empty(), "nobody after it sees the headers");
        }
        let asked = [(USER, "bob"), (UID, "7"), ("impersonate-extra-example.com%2fscope", "x")];
        let user = impersonate(&Masters, &NoObjects, admin(), &mut headers(&asked)).await.expect("allowed");
        assert_eq!((user.uid.as_str(), &user.extra["example.com/scope"]), ("7", &vec!["x".to_owned()]));
    }

    #[tokio::test]
    async fn others_may_not_and_a_group_needs_a_user() {
        let bob = Arc::new(User::new("bob", &["system:authenticated"]));
        let refused = async |asked: &[(&'static str, &'static str)]| {
            let status =
                impersonate(&Masters, &NoObjects, bob.clone(), &mut headers(asked)).await.expect_err("refused");
            (status.code, status.message)
        };
        assert_eq!(
            refused(&[(USER, "admin"), (GROUP, "system:masters")]).await,
            (403, "users \"admin\" is forbidden: User \"bob\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope".to_owned())
        );
        assert_eq!(
            refused(&[(USER, "system:serviceaccount:n:s")]).await.1,
            "serviceaccounts \"s\" is forbidden: User \"bob\" cannot impersonate resource \"serviceaccounts\" in API group \"\" in the namespace \"n\""
        );
        let status =
            impersonate(&Masters, &NoObjects, admin(), &mut headers(&[(GROUP, "g")])).await.expect_err("whose group");
        assert_eq!(status.code, 500);
    }
}
