//! What the stored APIServices say to the server: which Service serves which group version. And what API servers behind it must know: the
//! ConfigMap with the authorities of clients and of the front proxy.

use super::{GROUP, RESOURCE};
use crate::{Settings, at::At, clientconfig};
use api::Object;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use server::{Aggregation, Derived, Registered, Registration, Remote};
use std::sync::Arc;

/// The ConfigMap that API servers read to know whom to believe.
const AUTHENTICATION: &str = "extension-apiserver-authentication";

/// The name in the front proxy's client certificate, as in clusters of kubeadm.
pub const FRONT_PROXY: &str = "front-proxy-client";

/// The part of the server that passes requests on.
pub(crate) fn aggregation(settings: &Settings) -> Aggregation {
    Aggregation {
        registered: Derived::new(GROUP, RESOURCE, registered),
        resolve: clientconfig::address,
        front_proxy: settings.front_proxy.clone(),
    }
}

fn registered(objects: Vec<Arc<Object>>) -> Registered {
    Registered::new(objects.iter().map(|object| registration(object)))
}

fn registration(object: &Object) -> Registration {
    let spec = At::of(object, "spec");
    let conditions = At::of(object, "status").get("conditions").items();
    let mut available = conditions.filter(|condition| condition.get("type").str() == "Available");
    let available = available.next().is_some_and(|condition| condition.get("status").str() == "True");
    let service = spec.get("service");
    let remote = service.is_set().then(|| Remote {
        namespace: service.get("namespace").str().to_owned(),
        name: service.get("name").str().to_owned(),
        port: service.get("port").int().and_then(|port| port.try_into().ok()).unwrap_or(443),
        authorities: STANDARD.decode(spec.get("caBundle").str()).unwrap_or_default(),
        insecure: spec.get("insecureSkipTLSVerify").bool(),
        available,
    });
    Registration {
        group: spec.get("group").str().to_owned(),
        version: spec.get("version").str().to_owned(),
        group_priority: spec.get("groupPriorityMinimum").int().unwrap_or_default(),
        version_priority: spec.get("versionPriority").int().unwrap_or_default(),
        remote,
    }
}

/// The ConfigMap: collection and object.
pub(crate) fn authentication(settings: &Settings) -> (String, Value) {
    let list = |name: &str| json!([name]).to_string();
    let mut data = json!({
        "requestheader-allowed-names": list(FRONT_PROXY),
        "requestheader-client-ca-file": settings.front_proxy.authority(),
        "requestheader-extra-headers-prefix": list("X-Remote-Extra-"),
        "requestheader-group-headers": list("X-Remote-Group"),
        "requestheader-uid-headers": list("X-Remote-Uid"),
        "requestheader-username-headers": list("X-Remote-User"),
    });
    if !settings.client_authority.is_empty() {
        data["client-ca-file"] = json!(settings.client_authority);
    }
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": AUTHENTICATION, "namespace": "kube-system"}, "data": data});
    ("/api/v1/namespaces/kube-system/configmaps".to_owned(), object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{parse, settings};

    #[test]
    fn an_object_says_who_serves_and_whether_that_is_available() {
        let local = Registration {
            version: "v1".to_owned(),
            group_priority: 18_000,
            version_priority: 1,
            ..Registration::default()
        };
        assert_eq!(
            registration(&parse("{spec: {version: v1, groupPriorityMinimum: 18000, versionPriority: 1}}")),
            local
        );
        let remote = |text: &str| registration(&parse(text)).remote.expect("a Service");
        let text = "{spec: {group: a, version: v1, caBundle: YWI=, service: {namespace: ns, name: s, port: 8443}}, \
            status: {conditions: [{type: Other, status: 'True'}, {type: Available, status: STATUS}]}}";
        let expected = Remote {
            namespace: "ns".to_owned(),
            name: "s".to_owned(),
            port: 8443,
            authorities: b"ab".to_vec(),
            insecure: false,
            available: true,
        };
        assert_eq!(remote(&text.replace("STATUS", "'True'")), expected);
        for status in ["'False'", "Unknown", "null"] {
            assert!(!remote(&text.replace("STATUS", status)).available, "{status}");
        }
        let bare = remote("{spec: {service: {}, insecureSkipTLSVerify: true}}");
        assert_eq!((bare.port, bare.insecure, bare.available), (443, true, false));
    }

    #[test]
    fn servers_behind_this_one_are_told_whom_to_believe() {
        let (_, map) = authentication(&settings());
        assert_eq!(map["data"]["requestheader-username-headers"], "[\"X-Remote-User\"]");
        assert_eq!(map["data"]["requestheader-allowed-names"], "[\"front-proxy-client\"]");
        assert_eq!(map["data"]["client-ca-file"], "clients");
        assert_eq!(map["data"]["requestheader-client-ca-file"], "front proxy");
    }
}
