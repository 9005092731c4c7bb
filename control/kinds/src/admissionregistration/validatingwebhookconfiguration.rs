//! ValidatingWebhookConfiguration: webhooks that may refuse what is written.

use super::{form::Form, webhooks};

/// The kind.
pub(crate) static FORM: Form = Form {
    plural: "validatingwebhookconfigurations",
    kind: "ValidatingWebhookConfiguration",
    columns: webhooks::COLUMNS,
    cells: webhooks::cells,
    default: |object| webhooks::default(object, false),
    faults: |object, old| webhooks::faults(object, old, false),
    status: None,
};
