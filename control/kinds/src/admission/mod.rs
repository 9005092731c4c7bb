//! The admission plugins of the built-in kinds, with upstream's names, in the order of [`all`]. They read other objects from memory
//! ([`server::Objects`]), never from disk.

mod certificates;
mod defaultingressclass;
mod defaultstorageclass;
mod defaulttolerationseconds;
mod escalationcheck;
pub(crate) mod expressions;
pub(crate) mod imageadvice;
mod limitranger;
mod matching;
mod namespacelifecycle;
mod persistentvolumeclaimresize;
mod podresize;
pub(crate) mod policies;
mod policyparameters;
mod priority;
mod resourcequota;
mod runtimeclass;
mod serviceaccount;
mod storageobjectinuseprotection;
mod taintnodes;
pub mod webhooks;

#[cfg(test)]
mod tests;

use crate::Settings;
use server::{admission::Admission, authz::Authorizer};
use std::sync::Arc;

/// Every plugin in its order.
pub(crate) fn all(settings: &Settings, authorizer: &Arc<dyn Authorizer>) -> Vec<Arc<dyn Admission>> {
    let mut all: Vec<Arc<dyn Admission>> = vec![
        Arc::new(namespacelifecycle::NamespaceLifecycle),
        Arc::new(limitranger::LimitRanger::default()),
        Arc::new(serviceaccount::ServiceAccount::default()),
        Arc::new(taintnodes::TaintNodesByCondition),
        Arc::new(priority::Priority::default()),
        Arc::new(defaulttolerationseconds::DefaultTolerationSeconds),
        Arc::new(defaultstorageclass::DefaultStorageClass::default()),
        Arc::new(storageobjectinuseprotection::StorageObjectInUseProtection),
        Arc::new(persistentvolumeclaimresize::PersistentVolumeClaimResize),
        Arc::new(runtimeclass::RuntimeClass),
        Arc::new(escalationcheck::EscalationCheck { authorizer: authorizer.clone(), rbac: settings.rbac.clone() }),
        Arc::new(policyparameters::PolicyParameters(authorizer.clone())),
        Arc::new(certificates::CertificateApproval(authorizer.clone())),
        Arc::new(certificates::CertificateSigning(authorizer.clone())),
        Arc::new(certificates::CertificateSubjectRestriction),
        Arc::new(defaultingressclass::DefaultIngressClass::default()),
        Arc::new(podresize::NodeDeclaredFeatureValidator),
        Arc::new(podresize::PodResizeValidator),
        Arc::new(policies::mutating::MutatingAdmissionPolicy::new(authorizer.clone())),
        Arc::new(webhooks::mutating::MutatingAdmissionWebhook::new(settings.webhooks.clone(), authorizer.clone())),
        Arc::new(policies::validating::ValidatingAdmissionPolicy::new(authorizer.clone())),
        Arc::new(webhooks::validating::ValidatingAdmissionWebhook::new(settings.webhooks.clone(), authorizer.clone())),
    ];
    if let Some(advice) = &settings.image_advice {
        all.push(Arc::new(imageadvice::Images(advice.clone())));
    }
    // The last, so that nothing is charged that another plugin refuses.
    all.push(Arc::new(resourcequota::ResourceQuota::default()));
    all
}
