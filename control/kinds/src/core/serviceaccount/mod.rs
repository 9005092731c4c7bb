//! ServiceAccount: an identity for pods. Its tokens are made by the `token` subresource.

use super::{cells, edit::drop_zero};
use crate::{Column, Strategy, strategy::Recheck};
use api::Object;
use jiff::Timestamp;
use serde_json::{Value, json};

pub(crate) const COLUMNS: &[Column] = &[Column::name(), Column::age()];

pub(crate) struct ServiceAccounts;

impl Strategy for ServiceAccounts {
    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Both
    }

    fn default(&self, object: &mut Object) {
        drop_zero(&mut object.0, &["secrets", "imagePullSecrets"]);
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        vec![json!(object.name()), cells::age(object, now)]
    }
}
