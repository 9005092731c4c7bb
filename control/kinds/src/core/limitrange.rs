//! LimitRange: defaults and bounds of the resources of containers, pods and claims of a namespace.

use crate::{
    at::At,
    edit::{self, Fields},
    podspec::resources,
    quantities, rules,
};
use api::{
    Cause, FieldPath, Object, names,
    quantity::{Format, Quantity},
};
use serde_json::{Value, json};
use server::{Context, Resource, Strategy, TableConvertor};
use std::collections::{BTreeMap, BTreeSet};

const LISTS: [&str; 5] = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];

struct LimitRanges;

/// The resource.
pub(crate) fn resource() -> Resource {
    Resource::new("", "v1", "limitranges", "LimitRange", LimitRanges).short(&["limits"]).creating_on_update()
}

impl Strategy for LimitRanges {
    fn default(&self, object: &mut Object) {
        let spec = edit::object(&mut object.0, "spec");
        for limit in edit::objects(spec, "limits") {
            LISTS.iter().for_each(|list| {
                if let Some(list) = limit.get_mut(*list) {
                    quantities::canonicalize(list);
                }
            });
            if limit.get("type").is_some_and(|kind| kind == "Container") {
                copy(limit, "max", "default");
                copy(limit, "default", "defaultRequest");
                copy(limit, "min", "defaultRequest");
            }
        }
    }

    fn prepare_create(&self, cx: &Context, object: &mut Object) {
        if object.name().is_empty() {
            object.set(&["metadata", "name"], cx.ids.uid());
        }
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let (mut out, mut seen) = (Vec::new(), BTreeSet::new());
        for limit in At::of(object, "spec").get("limits").items() {
            if rules::full(&out) {
                break;
            }
            let kind = limit.get("type").or_empty();
            type_name(kind, &mut out);
            if !seen.insert(kind.str()) {
                out.push(kind.duplicate());
            }
            item(limit, &mut out);
        }
        out
    }
}

/// Copies the amounts that `to` lacks.
fn copy(limit: &mut Fields, from: &str, to: &str) {
    let Some(given) = limit.get(from).and_then(Value::as_object).filter(|given| !given.is_empty()).cloned() else {
        return;
    };
    let to = edit::object(limit, to);
    for (name, value) in given {
        to.entry(name).or_insert(value);
    }
}

fn type_name(kind: At<'_>, out: &mut Vec<Cause>) {
    let problems = names::qualified_name(kind.str());
    if !problems.is_empty() {
        kind.invalid_all(problems, out);
    } else if !kind.str().contains('/') && !matches!(kind.str(), "Pod" | "Container" | "PersistentVolumeClaim") {
        out.push(kind.invalid("must be a standard limit type or fully qualified"));
    }
}

/// The amounts of one list, by name.
type Amounts<'a> = BTreeMap<&'a str, Quantity>;

fn item(limit: At<'_>, out: &mut Vec<Cause>) {
    let kind = limit.get("type").str();
    let of_pod = kind == "Pod";
    let name = if matches!(kind, "Pod" | "Container") { resources::container_name } else { resources::resource_name };
    let mut lists: [Amounts<'_>; 5] = Default::default();
    for (list, amounts) in LISTS.iter().zip(&mut lists) {
        let given = limit.get(list);
        if of_pod && list.starts_with("default") {
            if !given.is_empty() {
                out.push(given.forbidden("may not be specified when `type` is 'Pod'"));
            }
            continue;
        }
        if *list == "maxLimitRequestRatio" && kind == "PersistentVolumeClaim" {
            claims_are_bounded(limit, out);
        }
        for (key, at) in given.entries() {
            if rules::full(out) {
                return;
            }
            name(at, key, out);
            amounts.extend(quantities::parse(at.value()).map(|amount| (key, amount)));
        }
    }
    let keys: BTreeSet<&str> = lists.iter().flat_map(|list| list.keys().copied()).collect();
    for key in keys {
        bounds(limit, key, &lists, out);
    }
}

fn claims_are_bounded(limit: At<'_>, out: &mut Vec<Cause>) {
    if ["min", "max"].iter().all(|list| !limit.get(list).get("storage").is_set()) {
        let text = "either minimum or maximum storage value is required, but neither was provided";
        out.push(limit.get("limits").required(text));
    }
}

/// The order that the amounts of one resource have.
fn bounds(limit: At<'_>, key: &str, [max, min, default, request, ratio]: &[Amounts<'_>; 5], out: &mut Vec<Cause>) {
    let of = |list: &Amounts<'_>| list.get(key).copied();
    let (max, min, default, request, ratio) = (of(max), of(min), of(default), of(request), of(ratio));
    let mut fault = |list: &str, value: Quantity, text: String| {
        let field: FieldPath = limit.field().child(list).key(key);
        out.push(Cause::invalid(&field, &json!(value.to_string()), &text));
    };
    for (low, high, list, shows_low, texts) in [
        (min, max, "min", true, ["min value", "max value"]),
        (min, request, "defaultRequest", false, ["min value", "default request value"]),
        (request, max, "defaultRequest", true, ["default request value", "max value"]),
        (request, default, "defaultRequest", true, ["default request value", "default limit value"]),
        (min, default, "default", true, ["min value", "default value"]),
        (default, max, "default", false, ["default value", "max value"]),
    ] {
        if let (Some(low), Some(high)) = (low, high)
            && low > high
        {
            let text = format!("{} {low} is greater than {} {high}", texts[0], texts[1]);
            fault(list, if shows_low { low } else { high }, text);
        }
    }
    if let Some(ratio) = ratio {
        if ratio < Quantity::new(1, Format::DecimalSi) {
            fault("maxLimitRequestRatio", ratio, format!("ratio {ratio} is less than 1"));
        }
        if let (Some(min), Some(max)) = (min, max) {
            let most = float(max) / float(min);
            if float(ratio) / 1000.0 > most {
                fault("maxLimitRequestRatio", ratio, format!("ratio {ratio} is greater than max/min = {most:.6}"));
            }
        }
    }
    if let (false, Some(default), Some(request)) = (resources::overcommits(key), default, request)
        && default != request
    {
        let text = format!("default value {default} must equal to defaultRequest value {request} in {key}");
        fault("defaultRequest", request, text);
    }
}

/// Thousandths.
#[allow(clippy::cast_precision_loss, reason = "upstream compares ratios as floating-point numbers")]
fn float(amount: Quantity) -> f64 {
    amount.milli_value() as f64
}

impl TableConvertor for LimitRanges {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{created, errors};
    use expect_test::expect;

    fn text(limit: &str) -> String {
        format!(
            "{{apiVersion: v1, kind: LimitRange, metadata: {{name: l, namespace: ns}}, spec: {{limits: [{limit}]}}}}"
        )
    }

    #[test]
    fn what_a_container_lacks_follows_from_the_bounds() {
        for (limit, expected) in [
            ("{type: Pod, max: {cpu: 1}}", json!({"type": "Pod", "max": {"cpu": "1"}})),
            (
                "{type: Container, max: {cpu: 1}}",
                json!({"type": "Container", "max": {"cpu": "1"}, "default": {"cpu": "1"}, "defaultRequest": {"cpu": "1"}}),
            ),
            (
                "{type: Container, min: {cpu: 0.1, memory: 1Gi}, default: {cpu: 2}}",
                json!({"type": "Container", "min": {"cpu": "100m", "memory": "1Gi"}, "default": {"cpu": "2"},
                    "defaultRequest": {"cpu": "2", "memory": "1Gi"}}),
            ),
        ] {
            let made = created(&LimitRanges, &text(limit));
            assert_eq!(made.list_at(&["spec", "limits"])[0], expected, "{limit}");
        }
        let nameless = created(&LimitRanges, &text("{type: Pod}").replace("name: l, ", ""));
        assert_eq!(nameless.name().len(), 36, "upstream gives a uuid");
    }

    #[test]
    fn each_fault_has_upstreams_text() {
        for (limit, expected) in [
            ("{type: Container, min: {cpu: 100m}, max: {cpu: 2}, maxLimitRequestRatio: {cpu: 20}}", expect![[""]]),
            (
                "{type: PersistentVolumeClaim, min: {storage: 1Gi}}, {type: example.com/other, max: {a.b/c: 1}}",
                expect![[""]],
            ),
            (
                "{type: Odd, max: {tea: 1}}, {type: Odd}, {}",
                expect![[r#"
                spec.limits[0].type: Invalid value: "Odd": must be a standard limit type or fully qualified
                spec.limits[0].max[tea]: Invalid value: "tea": must be a standard resource type or fully qualified
                spec.limits[1].type: Invalid value: "Odd": must be a standard limit type or fully qualified
                spec.limits[1].type: Duplicate value: "Odd"
                spec.limits[2].type: Invalid value: "": name part must be non-empty
                spec.limits[2].type: Invalid value: "": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            "#]],
            ),
            (
                "{type: PersistentVolumeClaim, max: {cpu: 1}}",
                expect![[r#"
                spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided
            "#]],
            ),
            (
                "{type: Pod, default: {cpu: 1}, defaultRequest: {cpu: 1}, max: {pods: 1}}",
                expect![[r#"
                spec.limits[0].max[pods]: Invalid value: "pods": must be a standard resource for containers
                spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'
                spec.limits[0].defaultRequest: Forbidden: may not be specified when `type` is 'Pod'
            "#]],
            ),
            (
                "{type: Container, min: {cpu: 3}, max: {cpu: 2}, default: {cpu: 4}, defaultRequest: {cpu: 1}}",
                expect![[r#"
                    spec.limits[0].min[cpu]: Invalid value: "3": min value 3 is greater than max value 2
                    spec.limits[0].defaultRequest[cpu]: Invalid value: "1": min value 3 is greater than default request value 1
                    spec.limits[0].default[cpu]: Invalid value: "2": default value 4 is greater than max value 2
                "#]],
            ),
            (
                "{type: Container, max: {cpu: 2}, default: {cpu: 1}, defaultRequest: {cpu: 3}}",
                expect![[r#"
                spec.limits[0].defaultRequest[cpu]: Invalid value: "3": default request value 3 is greater than max value 2
                spec.limits[0].defaultRequest[cpu]: Invalid value: "3": default request value 3 is greater than default limit value 1
            "#]],
            ),
            (
                "{type: Container, min: {cpu: 1}, max: {cpu: 2}, maxLimitRequestRatio: {cpu: 3, memory: 0.5}}",
                expect![[r#"
                    spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: "3": ratio 3 is greater than max/min = 2.000000
                    spec.limits[0].maxLimitRequestRatio[memory]: Invalid value: "500m": ratio 500m is less than 1
                "#]],
            ),
            (
                "{type: Container, default: {hugepages-2Mi: 4Mi}, defaultRequest: {hugepages-2Mi: 2Mi}}",
                expect![[r#"
                spec.limits[0].defaultRequest[hugepages-2Mi]: Invalid value: "2Mi": default value 4Mi must equal to defaultRequest value 2Mi in hugepages-2Mi
            "#]],
            ),
        ] {
            expected.assert_eq(&errors(&LimitRanges, &text(limit)));
        }
    }
}
