//! Definitions of custom resources: `[schema, object, old object]`.
#![no_main]

use api::{
    FieldPath,
    schema::{Schema, Validator, check_pattern, validate_defaults},
};
use fuzz::{assert_survives_json, mutate, parts, within};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use serde_json::Value;
use std::time::Duration;

const WORDS: &str = "type object array string integer number boolean properties items additionalProperties required default enum \
    pattern format nullable minimum maximum exclusiveMinimum multipleOf minLength maxLength minItems maxItems \
    uniqueItems minProperties maxProperties allOf anyOf oneOf not a b c ^a+$ (a|b)*c{1,9} [[:alpha:]] \\pL\\d (?i:x) \
    ^(a+)+$ a{1000} date-time date ipv4 ipv6 cidr uri email uuid byte int32 int64 float double duration hostname mac \
    password bsonobjectid k8s-short-name x-kubernetes-list-type x-kubernetes-list-map-keys set map atomic \
    x-kubernetes-map-type granular x-kubernetes-preserve-unknown-fields x-kubernetes-int-or-string \
    x-kubernetes-embedded-resource apiVersion kind metadata name x-kubernetes-validations rule message self.a>1 \
    oldSelf.a==self.a title description";
const LONGEST: Duration = Duration::from_secs(2);

fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| { mutate(data, size, max, seed, WORDS) });

fuzz_target!(|data: &[u8]| {
    let Some(parts) = parts(data) else { return };
    let [definition, new, old] = parts.as_slice() else { return };
    within(LONGEST, || {
        patterns(definition);
        validate(definition, new, old);
        structural(definition, new);
        rules(definition);
        validate_defaults(&FieldPath::new("schema"), definition);
    });
});

fn patterns(value: &Value) {
    match value {
        Value::Array(list) => list.iter().for_each(patterns),
        Value::Object(map) => {
            if let Some(pattern) = map.get("pattern").and_then(Value::as_str) {
                let _ = check_pattern(pattern);
            }
            map.values().for_each(patterns);
        }
        _ => {}
    }
}

fn validate(definition: &Value, new: &Value, old: &Value) {
    let Ok(validator) = Validator::new(definition) else { return };
    let at = FieldPath::new("spec");
    let causes = validator.validate(&at, new);
    if new == old {
        assert_eq!(causes.len(), validator.validate(&at, old).len(), "twice the same");
    }
    assert!(causes.len() >= validator.validate_update(&at, new, new).len(), "what is not changed is no worse");
    assert!(causes.len() >= validator.validate_update(&at, new, old).len(), "an update is never refused for more");
    validator.validate_embedded(&at, new);
    let repeated = validator.validate_lists(&at, new);
    assert!(repeated.len() >= validator.validate_lists_update(&at, new, old).len(), "nor for more duplicates");
    assert!(validator.validate_lists_update(&at, new, new).is_empty());
}

/// Pruning and defaulting end after one round.
fn structural(definition: &Value, new: &Value) {
    if !new.is_object() {
        return;
    }
    let schema = Schema::from_open_api(definition);
    let mut once = new.clone();
    if schema.decode_check(&mut once).is_err() {
        return;
    }
    let mut twice = once.clone();
    assert_eq!(schema.decode_check(&mut twice), Ok(Vec::new()), "pruned again");
    assert_eq!(twice, once, "pruned again");
    schema.default(&mut once);
    assert_survives_json(&once);
    let mut twice = once.clone();
    schema.default(&mut twice);
    assert_eq!(twice, once, "defaulted again");
}

/// The rules of the definition are compiled, as when it is created.
fn rules(definition: &Value) {
    let seen = cel::Schema::new(definition);
    let Some(rules) = cel::Rules::new(&seen) else { return };
    for entry in definition.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten().take(4) {
        let text = entry.get("rule").and_then(Value::as_str).unwrap_or_default();
        if let Ok(program) = rules.rule(text, false) {
            let (least, most) = program.cost(&*seen);
            assert!(least <= most || most == 0);
        }
    }
}
