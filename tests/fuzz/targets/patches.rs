//! The three patches: `[kind or schema, document, patch]`.
#![no_main]

use api::patch;
use fuzz::{assert_form_is_final, assert_survives_json, mutate, parts, schema_of};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use serde_json::json;

const WORDS: &str = "op path from value add remove replace move copy test /a /a/0 /a/- /spec /~1 a $patch delete merge $retainKeys \
    $setElementOrder/containers $setElementOrder/env $setElementOrder/finalizers $deleteFromPrimitiveList/finalizers \
    finalizers metadata spec template containers env name ports containerPort protocol TCP labels annotations \
    volumes strategy type tolerations ownerReferences uid c v1/Pod apps/v1/Deployment v1/Service status conditions \
    x-kubernetes-list-type x-kubernetes-list-map-keys properties items additionalProperties $setElementOrder/ports \
    imagePullSecrets $setElementOrder/a resources";

fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| { mutate(data, size, max, seed, WORDS) });

fuzz_target!(|data: &[u8]| {
    let Some(parts) = parts(data) else { return };
    let [kind, document, change] = parts.as_slice() else { return };
    let Some(schema) = schema_of(kind) else { return };
    if let Ok(patched) = patch::json(document, change) {
        assert_survives_json(&patched);
        assert_form_is_final(&patched, &schema);
        let tests = json!([{"op": "test", "path": "", "value": patched}]);
        assert_eq!(patch::json(&patched, &tests).as_ref(), Ok(&patched), "it is what it is");
    }
    if !document.is_object() || !change.is_object() {
        return;
    }
    let merged = patch::merge(document, change);
    assert_survives_json(&merged);
    // Upstream removes nulls within a list only where the document has none, so that the second time may differ from the first.
    let twice = patch::merge(&merged, change);
    assert_eq!(patch::merge(&twice, change), twice, "merged again");
    assert_eq!(patch::merge(document, &json!({})), *document, "nothing is merged");
    if let Ok(patched) = patch::strategic(document, change, &schema) {
        assert_survives_json(&patched);
        let mut converted = patched.clone();
        let _ = schema.convert_check(&mut converted);
        assert_form_is_final(&patched, &schema);
    }
    patch::go_text(change);
});
