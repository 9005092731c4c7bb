//! CertificateApproval, CertificateSigning and CertificateSubjectRestriction: who may approve and sign for which signer, and who may be asked
//! for. They ask the authorizer about the resource `signers`, of which there are no objects.

use api::{Object, Status, csr::Request};
use base64::{Engine, prelude::BASE64_STANDARD};
use server::{
    Context, Operation,
    admission::{Admission, Attributes, forbidden},
    authz::{self, Authorizer, Decision},
};
use std::sync::Arc;

const GROUP: &str = "certificates.k8s.io";
const REQUESTS: &str = "certificatesigningrequests";
const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const MASTERS: &str = "system:masters";

fn concerns(attributes: &Attributes, operation: Operation, subresource: &str) -> bool {
    let context = &attributes.context;
    let gvr = &context.resource.gvr;
    gvr.group == GROUP
        && gvr.resource == REQUESTS
        && context.operation == operation
        && context.subresource == subresource
}

fn signer(object: &Object) -> &str {
    object.str_at(&["spec", "signerName"]).unwrap_or_default()
}

/// Whether the user may do this for a signer, or for all signers of its domain.
async fn may(authorizer: &dyn Authorizer, cx: &Context, verb: &str, signer: &str) -> bool {
    let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
    for name in [signer, domain.as_str()] {
        let wanted = authz::Attributes {
            verb,
            group: GROUP,
            version: "*",
            resource: "signers",
            name,
            ..authz::Attributes::default()
        };
        if authorizer.authorize(&*cx.objects, &cx.user, &wanted).await == Decision::Allow {
            return true;
        }
    }
    false
}

/// Who approves may approve for the signer.
pub(super) struct CertificateApproval(pub(super) Arc<dyn Authorizer>);

#[async_trait::async_trait]
impl Admission for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn handles(&self, attributes: &Attributes) -> bool {
        concerns(attributes, Operation::Update, "approval")
    }

    async fn validate(&self, attributes: &Attributes, object: &Object) -> Result<(), Status> {
        let signer = signer(attributes.old.as_deref().unwrap_or(object));
        if may(&*self.0, &attributes.context, "approve", signer).await {
            return Ok(());
        }
        let why = format!("user not permitted to approve requests with signerName {signer:?}");
        Err(forbidden(attributes, object, &why))
    }
}

/// Who writes a certificate, or says why there is none, may sign for the signer.
pub(super) struct CertificateSigning(pub(super) Arc<dyn Authorizer>);

#[async_trait::async_trait]
impl Admission for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn handles(&self, attributes: &Attributes) -> bool {
        concerns(attributes, Operation::Update, "status")
    }

    async fn validate(&self, attributes: &Attributes, object: &Object) -> Result<(), Status> {
        let old = attributes.old.as_deref();
        let same = |path: &[&str]| old.is_some_and(|old| crate::edit::deep_equal_at(object, old, path));
        if same(&["status", "certificate"]) && same(&["status", "conditions"]) {
            return Ok(());
        }
        let signer = signer(old.unwrap_or(object));
        if may(&*self.0, &attributes.context, "sign", signer).await {
            return Ok(());
        }
        let why = format!("user not permitted to sign requests with signerName {signer:?}");
        Err(forbidden(attributes, object, &why))
    }
}

/// Nobody is made an administrator by a certificate.
pub(super) struct CertificateSubjectRestriction;

#[async_trait::async_trait]
impl Admission for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, attributes: &Attributes) -> bool {
        concerns(attributes, Operation::Create, "")
    }

    async fn validate(&self, attributes: &Attributes, object: &Object) -> Result<(), Status> {
        if signer(object) != API_CLIENT {
            return Ok(());
        }
        let pem = BASE64_STANDARD.decode(object.str_at(&["spec", "request"]).unwrap_or_default()).unwrap_or_default();
        let request = Request::parse(&pem)
            .map_err(|error| forbidden(attributes, object, &format!("failed to parse CSR: {error}")))?;
        if request.organizations.iter().any(|group| group == MASTERS) {
            let why = format!("use of {API_CLIENT} signer with {MASTERS} group is not allowed");
            return Err(forbidden(attributes, object, &why));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Stored, context_for, parse};
    use rcgen::{CertificateParams, DnType, KeyPair};
    use server::{
        Objects, Resource, User,
        authz::{Attributes as Wanted, Rules},
        strategy::Plain,
    };

    /// Who may do one thing, or nothing.
    struct Only(&'static str, &'static str);

    #[async_trait::async_trait]
    impl Authorizer for Only {
        async fn authorize(&self, _: &dyn Objects, _: &User, wanted: &Wanted<'_>) -> Decision {
            let about = wanted.group == GROUP && wanted.resource == "signers";
            let allowed = about && wanted.verb == self.0 && wanted.name == self.1;
            if allowed { Decision::Allow } else { Decision::NoOpinion }
        }

        async fn rules_for(&self, _: &dyn Objects, _: &User, _: &str) -> Rules {
            Rules::default()
        }
    }

    fn attributes(operation: Operation, subresource: &str, old: Option<&Object>) -> Attributes {
        let resource = Resource::new(GROUP, "v1", REQUESTS, "CertificateSigningRequest", Plain).cluster_scoped();
        let mut context = context_for(resource, Stored::default());
        context.operation = operation;
        context.subresource = subresource.to_owned();
        Attributes::new(context, old.cloned().map(Arc::new))
    }

    async fn refused(plugin: &dyn Admission, attributes: &Attributes, object: &Object) -> String {
        if !plugin.handles(attributes) {
            return "not asked".to_owned();
        }
        plugin.validate(attributes, object).await.map_or_else(|status| status.message, |()| String::new())
    }

    #[tokio::test]
    async fn who_may_not_for_the_signer_is_refused() {
        let old = parse("{metadata: {name: r}, spec: {signerName: a.example/b}}");
        let mut new = old.clone();
        new.set(&["spec", "signerName"], "c.example/d");
        new.set(&["status", "certificate"], "eA==");
        let approval = |verb, name| CertificateApproval(Arc::new(Only(verb, name)));
        let signing = |verb, name| CertificateSigning(Arc::new(Only(verb, name)));
        let approve = attributes(Operation::Update, "approval", Some(&old));
        let sign = attributes(Operation::Update, "status", Some(&old));
        for (name, ok) in [("a.example/b", true), ("a.example/*", true), ("c.example/d", false), ("", false)] {
            let text = refused(&approval("approve", name), &approve, &new).await;
            assert_eq!(text.is_empty(), ok, "{name}: {text}");
            let text = refused(&signing("sign", name), &sign, &new).await;
            assert_eq!(text.is_empty(), ok, "{name}: {text}");
        }
        let text = refused(&approval("sign", "a.example/b"), &approve, &new).await;
        assert!(text.ends_with("user not permitted to approve requests with signerName \"a.example/b\""), "{text}");
        let text = refused(&signing("approve", "a.example/b"), &sign, &new).await;
        assert!(text.ends_with("user not permitted to sign requests with signerName \"a.example/b\""), "{text}");
        assert_eq!(refused(&signing("", ""), &sign, &old).await, "", "nothing is signed");
        assert_eq!(refused(&signing("", ""), &approve, &new).await, "not asked");
        assert_eq!(refused(&approval("", ""), &sign, &new).await, "not asked");
    }

    #[tokio::test]
    async fn no_client_certificate_is_for_masters() {
        let request = |signer: &str, group: &str| {
            let mut parameters = CertificateParams::default();
            parameters.distinguished_name.push(DnType::OrganizationName, group);
            let pem = parameters.serialize_request(&KeyPair::generate().expect("a key")).expect("made");
            let text = BASE64_STANDARD.encode(pem.pem().expect("PEM"));
            parse(&format!("{{metadata: {{name: r}}, spec: {{signerName: {signer}, request: {text}}}}}"))
        };
        let create = attributes(Operation::Create, "", None);
        let masters = request(API_CLIENT, MASTERS);
        let text = refused(&CertificateSubjectRestriction, &create, &masters).await;
        let why = "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
        assert!(text.ends_with(why), "{text}");
        for object in [request(API_CLIENT, "devs"), request("a.example/b", MASTERS)] {
            assert_eq!(refused(&CertificateSubjectRestriction, &create, &object).await, "");
        }
        let mut junk = masters.clone();
        junk.set(&["spec", "request"], "eA==");
        let text = refused(&CertificateSubjectRestriction, &create, &junk).await;
        assert!(text.ends_with("failed to parse CSR: PEM block type must be CERTIFICATE REQUEST"), "{text}");
        let update = attributes(Operation::Update, "", Some(&masters));
        assert_eq!(refused(&CertificateSubjectRestriction, &update, &masters).await, "not asked");
    }
}
