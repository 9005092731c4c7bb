//! PriorityLevelConfiguration: how many requests of a level are served at the same time, and how many wait.

use super::{EXEMPT, GROUP, conditions, standard};
use crate::{at::At, cells, edit};
use api::{Cause, FieldPath, Object};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor, strategy::Recheck};

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Type", "Whether the level is limited."),
    Column::new("NominalConcurrencyShares", "The level's share of the requests that are served at the same time."),
    Column::new("Queues", "The number of queues."),
    Column::new("HandSize", "How many queues a flow of requests is spread over."),
    Column::new("QueueLengthLimit", "How many requests may wait in a queue."),
    Column::age(),
];

/// The most queues of a level.
const MAX_QUEUES: i64 = 10_000_000;
/// The bits of the hash by which queues are dealt.
const HASH_BITS: i64 = 60;
/// An annotation of v1beta3, which no object of v1 has.
const PRESERVE_ZERO: &str = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares";

const NOT_NEGATIVE: &str = "must be a non-negative integer";

pub(crate) struct Levels;

/// The resource.
pub(crate) fn resource() -> Resource {
    Resource::new(GROUP, "v1", "prioritylevelconfigurations", "PriorityLevelConfiguration", Levels)
        .cluster_scoped()
        .with_generation()
        .with_status()
}

impl Strategy for Levels {
    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Whole
    }

    fn default(&self, object: &mut Object) {
        edit::object(&mut object.0, "status");
        let spec = edit::object(&mut object.0, "spec");
        for (kind, shares) in [("limited", 30), ("exempt", 0)] {
            if let Some(level) = edit::object_if(spec, kind) {
                edit::fill(level, "nominalConcurrencyShares", shares);
                edit::fill(level, "lendablePercent", 0);
            }
        }
        let Some(limited) = edit::object_if(spec, "limited") else { return };
        if let Some(queuing) = edit::object_if(edit::object(limited, "limitResponse"), "queuing") {
            edit::fill_int(queuing, "handSize", 8);
            edit::fill_int(queuing, "queues", 64);
            edit::fill_int(queuing, "queueLengthLimit", 50);
        }
    }

    fn prepare_create(&self, _cx: &Context, object: &mut Object) {
        object.set(&["status"], json!({}));
    }

    fn prepare_status(&self, _cx: &Context, object: &mut Object, old: &Object) {
        edit::keep_metadata(object, old);
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let (mut out, spec) = (Vec::new(), At::of(object, "spec"));
        if object.annotation(PRESERVE_ZERO).is_some() {
            let field = FieldPath::new("metadata").child("annotations");
            out.push(Cause::forbidden(&field, &format!("annotation '{PRESERVE_ZERO}' is forbidden")));
        }
        validate_spec(object.name(), spec, &mut out);
        fixed(object.name(), spec, &mut out);
        out
    }

    fn validate_status(&self, _cx: &Context, object: &Object, _old: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        conditions(At::of(object, "status"), &mut out);
        out
    }

    fn reset_fields(&self, subresource: &str) -> &[&'static [&'static str]] {
        if subresource == "status" { &[&["metadata"], &["spec"]] } else { &[] }
    }
}

fn validate_spec(name: &str, spec: At<'_>, out: &mut Vec<Cause>) {
    let (kind, limited, exempt) = (spec.get("type"), spec.get("limited"), spec.get("exempt"));
    if (name == EXEMPT) != (kind.str() == "Exempt") {
        out.push(kind.or_empty().invalid("must be 'Exempt' if and only if `name` is 'exempt'"));
    }
    match kind.str() {
        "Exempt" => {
            if limited.is_set() {
                out.push(limited.forbidden("must be nil if the type is not Limited"));
            }
            shares(exempt, out);
            lendable(exempt, out);
        }
        "Limited" => {
            if exempt.is_set() {
                out.push(exempt.forbidden("must be nil if the type is Limited"));
            }
            if limited.is_set() {
                validate_limited(limited, out);
            } else {
                out.push(limited.required("must not be empty when type is Limited"));
            }
        }
        _ => out.push(kind.or_empty().not_supported(&["Exempt", "Limited"])),
    }
}

fn shares(level: At<'_>, out: &mut Vec<Cause>) {
    let shares = level.get("nominalConcurrencyShares");
    if shares.int().is_some_and(|number| number < 0) {
        out.push(shares.invalid(NOT_NEGATIVE));
    }
}

fn lendable(level: At<'_>, out: &mut Vec<Cause>) {
    let percent = level.get("lendablePercent");
    if percent.int().is_some_and(|number| !(0..=100).contains(&number)) {
        out.push(percent.invalid("must be between 0 and 100, inclusive"));
    }
}

fn validate_limited(limited: At<'_>, out: &mut Vec<Cause>) {
    shares(limited, out);
    let response = limited.get("limitResponse");
    let (kind, queuing) = (response.get("type"), response.get("queuing"));
    match kind.str() {
        "Reject" if queuing.is_set() => {
            out.push(queuing.forbidden("must be nil if limited.limitResponse.type is not Limited"));
        }
        "Reject" => {}
        "Queue" if queuing.is_set() => validate_queuing(queuing, out),
        "Queue" => out.push(queuing.required("must not be empty if limited.limitResponse.type is Limited")),
        _ => out.push(kind.or_empty().not_supported(&["Queue", "Reject"])),
    }
    lendable(limited, out);
    let borrowing = limited.get("borrowingLimitPercent");
    if borrowing.int().is_some_and(|number| number < 0) {
        out.push(borrowing.invalid(&format!("if specified, {NOT_NEGATIVE}")));
    }
}

fn validate_queuing(queuing: At<'_>, out: &mut Vec<Cause>) {
    let number = |name| queuing.get(name).int().unwrap_or_default();
    let positive = |name, out: &mut Vec<Cause>| {
        let is = number(name) > 0;
        if !is {
            out.push(queuing.get(name).invalid("must be positive"));
        }
        is
    };
    positive("queueLengthLimit", out);
    let (queues, hand) = (number("queues"), number("handSize"));
    if positive("queues", out) && queues > MAX_QUEUES {
        out.push(queuing.get("queues").invalid(&format!("must not be greater than {MAX_QUEUES}")));
    }
    if !positive("handSize", out) {
        return;
    }
    let at = queuing.get("handSize");
    if hand > queues {
        out.push(at.invalid(&format!("should not be greater than queues ({queues})")));
    } else if entropy_bits(queues, hand) > HASH_BITS {
        out.push(at.invalid(&format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
        )));
    }
}

/// The bits that it takes to deal a hand of queues.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // both are small, and a float saturates
fn entropy_bits(queues: i64, hand: i64) -> i64 {
    ((queues as f64).log2() * hand as f64).ceil() as i64
}

/// The levels that every cluster must have are as they are, but for the shares of `exempt`.
fn fixed(name: &str, spec: At<'_>, out: &mut Vec<Cause>) {
    let Some(fixed) = standard::mandatory_spec("prioritylevelconfigurations", name) else { return };
    if standard::same_level(name, spec.value(), fixed) {
        return;
    }
    let shown = spec.printed("io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationSpec");
    let except = if name == EXEMPT { " except the 'spec.exempt' field" } else { "" };
    let text = format!("spec of '{name}'{except} must equal the fixed value");
    out.push(Cause::invalid_shown(&spec.field(), &shown, &text));
}

impl TableConvertor for Levels {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let limited = At::of(object, "spec").get("limited");
        let queuing = limited.down(&["limitResponse", "queuing"]);
        let number = |of: At<'_>, name: &str| match of.is_set() {
            true => json!(of.value().get(name).and_then(Value::as_i64).unwrap_or_default()),
            false => json!("<none>"),
        };
        vec![
            json!(object.name()),
            json!(cells::text(object, &["spec", "type"])),
            number(limited, "nominalConcurrencyShares"),
            number(queuing, "queues"),
            number(queuing, "handSize"),
            number(queuing, "queueLengthLimit"),
            cells::age(object, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{created, errors, row, yaml};
    use expect_test::expect;

    fn text(spec: &str) -> String {
        format!("{{apiVersion: {GROUP}/v1, kind: PriorityLevelConfiguration, metadata: {{name: l}}, spec: {spec}}}")
    }

    fn exempt(spec: &str) -> String {
        text(spec).replace("name: l", "name: exempt")
    }

    #[test]
    fn shares_and_queues_have_defaults() {
        let level =
            created(&Levels, &text("{type: Limited, limited: {limitResponse: {type: Queue, queuing: {queues: 9}}}}"));
        expect![[r#"
            apiVersion: flowcontrol.apiserver.k8s.io/v1
            kind: PriorityLevelConfiguration
            metadata:
              name: l
            spec:
              limited:
                lendablePercent: 0
                limitResponse:
                  queuing:
                    handSize: 8
                    queueLengthLimit: 50
                    queues: 9
                  type: Queue
                nominalConcurrencyShares: 30
              type: Limited
            status: {}
        "#]]
        .assert_eq(&yaml(&level));
        let level = created(&Levels, &text("{type: Limited, limited: {nominalConcurrencyShares: 0}}"));
        assert_eq!(level.int_at(&["spec", "limited", "nominalConcurrencyShares"]), Some(0));
    }

    #[test]
    fn each_fault_has_upstreams_text() {
        for (spec, expected) in [
            (text("{type: Limited, limited: {limitResponse: {type: Reject}}}"), expect![[""]]),
            (
                text("{}"),
                expect![[r#"
                spec.type: Unsupported value: "": supported values: "Exempt", "Limited"
            "#]],
            ),
            (
                text(
                    "{type: Exempt, limited: {limitResponse: {type: Reject}}, exempt: {nominalConcurrencyShares: -1, lendablePercent: 101}}",
                ),
                expect![[r#"
                    spec.type: Invalid value: "Exempt": must be 'Exempt' if and only if `name` is 'exempt'
                    spec.limited: Forbidden: must be nil if the type is not Limited
                    spec.exempt.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer
                    spec.exempt.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive
                "#]],
            ),
            (
                text("{type: Limited, exempt: {}}"),
                expect![[r#"
                spec.exempt: Forbidden: must be nil if the type is Limited
                spec.limited: Required value: must not be empty when type is Limited
            "#]],
            ),
            (
                text(
                    "{type: Limited, limited: {nominalConcurrencyShares: -1, lendablePercent: -1, borrowingLimitPercent: -1, limitResponse: {type: Reject, queuing: {}}}}",
                ),
                expect![[r#"
                    spec.limited.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer
                    spec.limited.limitResponse.queuing: Forbidden: must be nil if limited.limitResponse.type is not Limited
                    spec.limited.lendablePercent: Invalid value: -1: must be between 0 and 100, inclusive
                    spec.limited.borrowingLimitPercent: Invalid value: -1: if specified, must be a non-negative integer
                "#]],
            ),
            (
                text("{type: Limited, limited: {limitResponse: {type: Queue}}}"),
                expect![[r#"
                spec.limited.limitResponse.queuing: Required value: must not be empty if limited.limitResponse.type is Limited
            "#]],
            ),
            (
                text("{type: Limited, limited: {}}"),
                expect![[r#"
                spec.limited.limitResponse.type: Unsupported value: "": supported values: "Queue", "Reject"
            "#]],
            ),
            (
                text(
                    "{type: Limited, limited: {limitResponse: {type: Queue, queuing: {queues: -1, handSize: -1, queueLengthLimit: -1}}}}",
                ),
                expect![[r#"
                    spec.limited.limitResponse.queuing.queueLengthLimit: Invalid value: -1: must be positive
                    spec.limited.limitResponse.queuing.queues: Invalid value: -1: must be positive
                    spec.limited.limitResponse.queuing.handSize: Invalid value: -1: must be positive
                "#]],
            ),
            (
                text(
                    "{type: Limited, limited: {limitResponse: {type: Queue, queuing: {queues: 10000001, handSize: 2}}}}",
                ),
                expect![[r#"
                    spec.limited.limitResponse.queuing.queues: Invalid value: 10000001: must not be greater than 10000000
                "#]],
            ),
            (
                text("{type: Limited, limited: {limitResponse: {type: Queue, queuing: {queues: 4, handSize: 5}}}}"),
                expect![[r#"
                    spec.limited.limitResponse.queuing.handSize: Invalid value: 5: should not be greater than queues (4)
                "#]],
            ),
            (
                text("{type: Limited, limited: {limitResponse: {type: Queue, queuing: {queues: 128, handSize: 9}}}}"),
                expect![[r#"
                    spec.limited.limitResponse.queuing.handSize: Invalid value: 9: required entropy bits of deckSize 128 and handSize 9 should not be greater than 60
                "#]],
            ),
            (
                text("{type: Limited, limited: {limitResponse: {type: Reject}}}")
                    .replace("name: l", &format!("name: l, annotations: {{{PRESERVE_ZERO}: ''}}")),
                expect![[r#"
                    metadata.annotations: Forbidden: annotation 'flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares' is forbidden
                "#]],
            ),
            (exempt("{type: Exempt}"), expect![[""]]),
            (exempt("{type: Exempt, exempt: {nominalConcurrencyShares: 7}}"), expect![[""]]),
            (
                exempt("{type: Limited, limited: {limitResponse: {type: Reject}}}"),
                expect![[r#"
                spec.type: Invalid value: "Limited": must be 'Exempt' if and only if `name` is 'exempt'
                spec: Invalid value: {"Type":"Limited","Limited":{"NominalConcurrencyShares":30,"LimitResponse":{"Type":"Reject","Queuing":null},"LendablePercent":0,"BorrowingLimitPercent":null},"Exempt":null}: spec of 'exempt' except the 'spec.exempt' field must equal the fixed value
            "#]],
            ),
            (
                text("{type: Limited, limited: {limitResponse: {type: Reject}}}").replace("name: l", "name: catch-all"),
                expect![[r#"
                    spec: Invalid value: {"Type":"Limited","Limited":{"NominalConcurrencyShares":30,"LimitResponse":{"Type":"Reject","Queuing":null},"LendablePercent":0,"BorrowingLimitPercent":null},"Exempt":null}: spec of 'catch-all' must equal the fixed value
                "#]],
            ),
        ] {
            expected.assert_eq(&errors(&Levels, &spec));
        }
    }

    #[test]
    fn those_of_every_cluster_are_valid() {
        for one in standard::all().iter().filter(|one| one.resource == "prioritylevelconfigurations") {
            assert_eq!(errors(&Levels, &one.object.to_string()), "", "{}", one.name());
        }
    }

    #[test]
    fn a_row_shows_the_queues() {
        expect!["exempt | Exempt | <none> | <none> | <none> | <none> | <unknown>"]
            .assert_eq(&row(&Levels, &exempt("{type: Exempt}")));
        let text = text(
            "{type: Limited, limited: {nominalConcurrencyShares: 5, limitResponse: {type: Queue, queuing: {queues: 9, handSize: 3, queueLengthLimit: 7}}}}",
        );
        expect!["l | Limited | 5 | 9 | 3 | 7 | <unknown>"].assert_eq(&row(&Levels, &text));
    }
}
