//! ServiceAccount: an identity for pods. The subresource `token` issues its tokens.

mod legacy;
mod token;
pub mod tokens;

use self::tokens::Tokens;
use crate::{cells, edit::drop_zero};
use api::{GroupVersionKind, Object};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Resource, Strategy, TableConvertor, Verb, strategy::Recheck};

const COLUMNS: &[Column] = &[Column::name(), Column::age()];

pub(crate) struct ServiceAccounts;

/// The resource.
pub(crate) fn resource(tokens: Tokens) -> Resource {
    let request = GroupVersionKind::new("authentication.k8s.io", "v1", "TokenRequest");
    Resource::new("", "v1", "serviceaccounts", "ServiceAccount", ServiceAccounts)
        .short(&["sa"])
        .with_action("token", request, &[Verb::Create], token::Token(tokens))
        .returning_deleted()
}

impl Strategy for ServiceAccounts {
    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Both
    }

    fn default(&self, object: &mut Object) {
        drop_zero(&mut object.0, &["secrets", "imagePullSecrets"]);
    }
}

impl TableConvertor for ServiceAccounts {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        vec![json!(object.name()), cells::age(object, now)]
    }
}
