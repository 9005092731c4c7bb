//! MutatingWebhookConfiguration: webhooks that may change what is written.

use super::{form::Form, webhooks};

/// The kind.
pub(crate) static FORM: Form = Form {
    plural: "mutatingwebhookconfigurations",
    kind: "MutatingWebhookConfiguration",
    columns: webhooks::COLUMNS,
    cells: webhooks::cells,
    default: |object| webhooks::default(object, true),
    faults: |object, old| webhooks::faults(object, old, true),
    status: None,
};
