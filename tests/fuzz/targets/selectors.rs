//! Selectors of labels and of fields, and the paths of columns.
#![no_main]

use api::{
    jsonpath::JsonPath,
    selector::{FieldSelector, Selector},
};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(selector) = Selector::parse(text) {
        let written = selector.to_string();
        assert_eq!(Selector::parse(&written).as_ref(), Ok(&selector), "{written}");
        for requirement in selector.requirements() {
            let value = selector.exact(&requirement.key);
            let has = |key: &str| (key == requirement.key).then_some(value.unwrap_or("a"));
            selector.matches(has);
            assert!(value.is_none() || !selector.matches(|_| None), "an exact value must be there");
        }
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        let written = selector.to_string();
        let again = FieldSelector::parse(&written).expect("what was written can be read");
        let (mut one, mut other) = (selector.requirements().to_vec(), again.requirements().to_vec());
        one.sort();
        other.sort();
        assert_eq!(other, one, "{written}");
        selector.matches(|field| selector.exact(field));
    }
    if let Ok(path) = JsonPath::parse(text) {
        path.find(
            &json!({"a": [{"b": 1, "name": "x"}, {"b": [2, 3]}], "name": "y", "metadata": {"labels": {"k.io/l": "v"}}}),
        );
    }
    if let Ok(value) = serde_json::from_slice(data) {
        let _ = Selector::from_label_selector(&value);
    }
});
