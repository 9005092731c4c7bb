//! Custom resources: what a definition makes the server serve.

use super::*;
use crate::testing::{parse, webhooks};
use expect_test::expect;

fn all() -> CustomResources {
    CustomResources(webhooks())
}

const DEFINITION: &str = "
metadata: {name: widgets.example.com, uid: u, generation: 1}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, listKind: WidgetList, shortNames: [wd], categories: [all]}
  versions:
  - {name: v1beta1, served: true, storage: false, deprecated: true, schema: {openAPIV3Schema: {type: object}}}
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.size, labelSelectorPath: .status.selector}}
    selectableFields: [{jsonPath: .spec.color}]
    additionalPrinterColumns:
    - {name: Size, type: integer, jsonPath: .spec.size, description: How many.}
    - {name: Ready, type: string, jsonPath: '.status.conditions[?(@.type==\"Ready\")].status', priority: 1}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}, color: {type: string}}}}}}
  - {name: v1alpha1, served: false, storage: false, schema: {openAPIV3Schema: {type: object}}}
status:
  acceptedNames: {plural: widgets, singular: widget, kind: Widget, listKind: WidgetList, shortNames: [wd], categories: [all]}
  conditions: [{type: Established, status: 'True'}]
";

#[test]
fn an_established_definition_is_served_in_each_served_version() {
    let made = all().resources(&parse(DEFINITION));
    let shown: Vec<String> = made
        .iter()
        .map(|r| {
            let subresources: Vec<&str> = r.subresources.iter().map(|s| s.name.as_ref()).collect();
            format!(
                "{} {} {} {} {:?} {:?} {subresources:?} storage={} converted={} {:?}",
                r.gvr.api_version(),
                r.gvr.resource,
                r.singular,
                r.list_kind,
                r.short_names,
                r.categories,
                r.is_storage(),
                r.convertor.is_some(),
                r.deprecation
            )
        })
        .collect();
    expect![[r#"
        example.com/v1 widgets widget WidgetList ["wd"] ["all"] ["status", "scale"] storage=true converted=true None
        example.com/v1beta1 widgets widget WidgetList ["wd"] ["all"] [] storage=false converted=true Some("example.com/v1beta1 Widget is deprecated; use example.com/v1 Widget")"#]].assert_eq(&shown.join("\n"));
    let waiting = DEFINITION.replace("'True'", "'False'");
    assert!(all().resources(&parse(&waiting)).is_empty());
}

#[test]
fn a_later_generation_is_read_by_its_schema() {
    let made = all().resources(&parse(&DEFINITION.replace("generation: 1", "generation: 2")));
    assert!(made.iter().all(|r| r.convertor.is_some()));
    assert_eq!(made[0].form, "example.com/v1@u/2");
    assert!(made[0].is_storage() && !made[1].is_storage());
}

#[test]
fn a_row_has_the_columns_of_the_definition() {
    let made = &all().resources(&parse(DEFINITION))[0];
    let names: Vec<String> = made
        .table
        .columns()
        .iter()
        .map(|c| format!("{}:{}:{}:{}", c.name, c.kind, c.priority, c.description.len() > 80))
        .collect();
    expect!["Name:string:0:true Size:integer:0:false Ready:string:1:true Age:date:0:true"].assert_eq(&names.join(" "));
    let object = parse(
        "{metadata: {name: a, creationTimestamp: '2026-01-01T00:00:00Z'}, spec: {size: 3.7}, status: {conditions: [{type: Ready, status: 'True'}]}}",
    );
    let now = crate::testing::now();
    assert_eq!(made.table.row(&object, now), [json!("a"), json!(3), json!("True"), json!("60s")]);
    assert_eq!(made.table.row(&parse("{}"), now), [json!(""), Value::Null, Value::Null, Value::Null]);
}

#[test]
fn fields_are_selected_and_scaled_by_their_paths() {
    let made = &all().resources(&parse(DEFINITION))[0];
    let object = parse("{metadata: {name: a}, spec: {size: 2, color: red}, status: {size: 1, selector: 'a=b'}}");
    assert_eq!(made.strategy.selectable().iter().collect::<Vec<_>>(), ["spec.color"]);
    assert_eq!(made.strategy.field(&object, "spec.color"), "red");
    let scale = made.strategy.scale(&object);
    assert_eq!((scale.replicas, scale.observed, scale.selector.as_str()), (2, 1, "a=b"));
    assert_eq!(made.strategy.replicas_path(), ["spec", "size"]);
    let cx = crate::testing::context();
    let bad = parse("{metadata: {name: a}, spec: {size: -1}, status: {size: x, selector: 3}}");
    let causes = made.strategy.validate(&cx, &bad);
    expect![[r#"
        .spec.size: Invalid value: -1: should be a non-negative integer
        .status.size: Invalid value: 0: .status.size accessor error: x is of the type string, expected int64
        .status.selector: Invalid value: "": .status.selector accessor error: 3 is of the type int64, expected string
    "#]]
    .assert_eq(&causes.iter().map(|cause| format!("{cause}\n")).collect::<String>());
}

#[test]
fn finalizers_without_a_domain_are_warned_of() {
    let made = &all().resources(&parse(DEFINITION))[0];
    let object = parse("{metadata: {name: a, finalizers: [a, a.b, a.b/c, orphan]}}");
    let cx = crate::testing::context();
    expect![[r#"
        metadata.finalizers: "a": prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers
        metadata.finalizers: "a.b": prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers"#]].assert_eq(&made.strategy.warnings(&cx, &object, None).join("\n"));
    assert!(made.strategy.warnings(&cx, &object, Some(&object)).is_empty());
}
