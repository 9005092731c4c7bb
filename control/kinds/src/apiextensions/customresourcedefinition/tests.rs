//! Definitions: upstream's texts, place by place.

use super::*;
use crate::testing::{context, created, errors, row, update_errors};
use expect_test::expect;

/// A definition with this schema and these further members of its version.
fn with(schema: &str, rest: &str) -> String {
    format!(
        "{{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {{name: tests.example.com}}, spec: {{group: example.com, scope: Namespaced, names: {{plural: tests, kind: Test}}, versions: [{{name: v1, served: true, storage: true, schema: {{openAPIV3Schema: {schema}}}{rest}}}]}}}}"
    )
}

const ANY: &str = "{type: object, x-kubernetes-preserve-unknown-fields: true}";

#[test]
fn a_good_definition_gets_its_names_and_stored_version() {
    let made = created(&Definitions, &with(ANY, ""));
    assert_eq!(made.str_at(&["spec", "names", "singular"]), Some("test"));
    assert_eq!(made.str_at(&["spec", "names", "listKind"]), Some("TestList"));
    assert_eq!(made.str_at(&["spec", "conversion", "strategy"]), Some("None"));
    assert_eq!(made.at(&["status", "storedVersions"]), Some(&json!(["v1"])));
    assert_eq!(errors(&Definitions, &with(ANY, "")), "");
    expect!["tests.example.com | 0001-01-01T00:00:00Z"].assert_eq(&row(&Definitions, &with(ANY, "")));
}

#[test]
fn names_and_versions_have_upstreams_texts() {
    let text = "{metadata: {name: x}, spec: {group: example, scope: Any, names: {plural: Tests, kind: Test, listKind: Test, shortNames: [a_b]}, versions: [{name: V1, schema: {openAPIV3Schema: {type: object}}}, {name: v2, deprecationWarning: a, schema: {openAPIV3Schema: {type: object}}}], conversion: {strategy: Webhook, webhook: {conversionReviewVersions: [v3, v3]}}, preserveUnknownFields: true}}";
    let label = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
    let found = errors(&Definitions, text).replace(label, "LABEL");
    expect![[r#"
        metadata.name: Invalid value: "x": must be spec.names.plural+"."+spec.group
        spec.group: Invalid value: "example": should be a domain with at least one dot
        spec.scope: Unsupported value: "Any": supported values: "Cluster", "Namespaced"
        spec.versions[0].name: Invalid value: "V1": LABEL
        spec.versions[1].deprecationWarning: Invalid value: "a": can only be set for deprecated versions
        spec.versions: Invalid value: [{"Name":"V1","Served":false,"Storage":false,"Deprecated":false,"DeprecationWarning":null,"Schema":null,"Subresources":null,"AdditionalPrinterColumns":null,"SelectableFields":null},{"Name":"v2","Served":false,"Storage":false,"Deprecated":false,"DeprecationWarning":"a","Schema":null,"Subresources":null,"AdditionalPrinterColumns":null,"SelectableFields":null}]: must have exactly one version marked as storage version
        spec.version: Invalid value: "V1": LABEL
        spec.names.plural: Invalid value: "Tests": LABEL
        spec.names.shortNames[0]: Invalid value: "a_b": LABEL
        spec.names.listKind: Invalid value: "Test": kind and listKind may not be the same
        spec.conversion.strategy: Invalid value: "Webhook": must be None if spec.preserveUnknownFields is true
        spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook
        spec.conversion.conversionReviewVersions[1]: Invalid value: "v3": duplicate version
        spec.conversion.conversionReviewVersions: Invalid value: ["v3","v3"]: must include at least one of v1, v1beta1
        status.storedVersions: Invalid value: null: must have at least one stored version
        spec.preserveUnknownFields: Invalid value: true: cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead
    "#]].assert_eq(&found);
}

#[test]
fn a_schema_must_be_structural() {
    for (schema, expected) in [
        (
            "{type: string}",
            expect![[r#"
            spec.validation.openAPIV3Schema.type: Invalid value: "string": must be object at the root
        "#]],
        ),
        (
            "{properties: {spec: {type: object, properties: {a: {}, b: {type: array}, c: {type: array, items: {}}}}}}",
            expect![[r#"
            spec.validation.openAPIV3Schema.properties[spec].properties[a].type: Required value: must not be empty for specified object fields
            spec.validation.openAPIV3Schema.properties[spec].properties[b].items: Required value: must be specified
            spec.validation.openAPIV3Schema.properties[spec].properties[c].items.type: Required value: must not be empty for specified array items
            spec.validation.openAPIV3Schema.type: Required value: must not be empty at the root
        "#]],
        ),
        (
            "{type: object, additionalProperties: {type: string}, properties: {metadata: {type: object, description: d}, kind: {type: integer}}}",
            expect![[r#"
            spec.validation.openAPIV3Schema.additionalProperties: Forbidden: must not be used at the root
            spec.validation.openAPIV3Schema.properties[kind].type: Invalid value: "integer": must be string
            spec.validation.openAPIV3Schema.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified
            spec.validation.openAPIV3Schema.additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive
        "#]],
        ),
        (
            "{type: object, properties: {a: {type: object, anyOf: [{type: string, properties: {b: {default: 1, nullable: true}}}], not: {description: d}}}}",
            expect![[r#"
            spec.validation.openAPIV3Schema.properties[a].anyOf[0].properties[b].default: Forbidden: must be undefined to be structural
            spec.validation.openAPIV3Schema.properties[a].anyOf[0].properties[b].nullable: Forbidden: must be false to be structural
            spec.validation.openAPIV3Schema.properties[a].anyOf[0].type: Forbidden: must be empty to be structural
            spec.validation.openAPIV3Schema.properties[a].not.description: Forbidden: must be empty to be structural
        "#]],
        ),
        (
            "{type: object, properties: {p: {x-kubernetes-int-or-string: true, anyOf: [{type: integer}, {type: string}]}, e: {type: object, x-kubernetes-embedded-resource: true}}}",
            expect![[r#"
            spec.validation.openAPIV3Schema.properties[e].properties: Required value: must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields
        "#]],
        ),
        (
            "{type: object, nullable: true, properties: {a: {type: array, x-kubernetes-list-type: map, items: {type: object, nullable: true, properties: {k: {type: array, items: {type: string}}}}, x-kubernetes-list-map-keys: [k, l]}, s: {type: array, x-kubernetes-list-type: set, items: {type: object}}, m: {type: string, x-kubernetes-map-type: odd}}}",
            expect![[r#"
            spec.validation.openAPIV3Schema.nullable: Forbidden: nullable cannot be true at the root
            spec.validation.openAPIV3Schema.properties[a].items.properties[k].type: Invalid value: "object": must be a scalar type if parent array's x-kubernetes-list-type is map
            spec.validation.openAPIV3Schema.properties[a].x-kubernetes-list-map-keys: Invalid value: ["k","l"]: entries must all be names of item properties
            spec.validation.openAPIV3Schema.properties[a].items.nullable: Forbidden: cannot be nullable when x-kubernetes-list-type is map
            spec.validation.openAPIV3Schema.properties[a].items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property
            spec.validation.openAPIV3Schema.properties[m].type: Invalid value: "string": must be object if x-kubernetes-map-type is specified
            spec.validation.openAPIV3Schema.properties[m].x-kubernetes-map-type: Unsupported value: "odd": supported values: "atomic", "granular"
            spec.validation.openAPIV3Schema.properties[s].items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with x-kubernetes-list-type=set
        "#]],
        ),
        (
            "{type: object, properties: {a: {type: file, uniqueItems: true, $ref: '#/a', items: [{type: string}]}}}",
            expect![[r#"
            spec.validation.openAPIV3Schema.properties[a].type: Unsupported value: "file": supported values: "array", "boolean", "integer", "number", "object", "string"
            spec.validation.openAPIV3Schema.properties[a].$ref: Forbidden: $ref is not supported
            spec.validation.openAPIV3Schema.properties[a].items: Forbidden: items must be a schema object and not an array
            spec.validation.openAPIV3Schema.properties[a].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic
        "#]],
        ),
        (
            "{type: object, properties: {a: {type: object, properties: {b: {type: string}}, additionalProperties: {type: string}, x-kubernetes-preserve-unknown-fields: false}}}",
            expect![[r#"
            spec.validation.openAPIV3Schema.properties[a].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive
            spec.validation.openAPIV3Schema.properties[a].x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined
        "#]],
        ),
        (
            "{type: object, x-kubernetes-validations: [{rule: ''}, {rule: \"a\\nb\"}, {rule: a, message: ' ', reason: Odd, fieldPath: .x, messageExpression: ' '}]}",
            expect![[r#"
            spec.validation.openAPIV3Schema.x-kubernetes-validations[0].rule: Required value: rule is not specified
            spec.validation.openAPIV3Schema.x-kubernetes-validations[1].message: Required value: message must be specified if rule contains line breaks
            spec.validation.openAPIV3Schema.x-kubernetes-validations[2].message: Invalid value: " ": must be non-empty if specified
            spec.validation.openAPIV3Schema.x-kubernetes-validations[2].messageExpression: Required value: messageExpression must be non-empty if specified
            spec.validation.openAPIV3Schema.x-kubernetes-validations[2].reason: Unsupported value: "Odd": supported values: "FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"
            spec.validation.openAPIV3Schema.x-kubernetes-validations[2].fieldPath: Invalid value: ".x": must be a valid path
        "#]],
        ),
    ] {
        expected.assert_eq(&errors(&Definitions, &with(schema, "")));
    }
}

#[test]
fn subresources_columns_and_fields_have_upstreams_texts() {
    let rest = ", subresources: {status: {}, scale: {specReplicasPath: spec.n, statusReplicasPath: .spec.n, labelSelectorPath: .metadata.s}}, additionalPrinterColumns: [{type: odd, format: odd, jsonPath: a}, {name: n}], selectableFields: [{jsonPath: .spec.a}, {jsonPath: .spec.a}, {jsonPath: .spec.b}, {jsonPath: '.spec[a]'}, {jsonPath: .spec.o}, {}]";
    let schema = "{type: object, maxProperties: 1, properties: {spec: {type: object, properties: {a: {type: string}, o: {type: object}}}}}";
    expect![[r#"
        spec.validation.openAPIV3Schema: Invalid value: {"ID":"","Schema":"","Ref":null,"Description":"","Type":"object","Nullable":false,"Format":"","Title":"","Default":null,"Maximum":null,"ExclusiveMaximum":false,"Minimum":null,"ExclusiveMinimum":false,"MaxLength":null,"MinLength":null,"Pattern":"","MaxItems":null,"MinItems":null,"UniqueItems":false,"MultipleOf":null,"Enum":null,"MaxProperties":1,"MinProperties":null,"Required":null,"Items":null,"AllOf":null,"OneOf":null,"AnyOf":null,"Not":null,"Properties":{"spec":{"ID":"","Schema":"","Ref":null,"Description":"","Type":"object","Nullable":false,"Format":"","Title":"","Default":null,"Maximum":null,"ExclusiveMaximum":false,"Minimum":null,"ExclusiveMinimum":false,"MaxLength":null,"MinLength":null,"Pattern":"","MaxItems":null,"MinItems":null,"UniqueItems":false,"MultipleOf":null,"Enum":null,"MaxProperties":null,"MinProperties":null,"Required":null,"Items":null,"AllOf":null,"OneOf":null,"AnyOf":null,"Not":null,"Properties":{"a":{"ID":"","Schema":"","Ref":null,"Description":"","Type":"string","Nullable":false,"Format":"","Title":"","Default":null,"Maximum":null,"ExclusiveMaximum":false,"Minimum":null,"ExclusiveMinimum":false,"MaxLength":null,"MinLength":null,"Pattern":"","MaxItems":null,"MinItems":null,"UniqueItems":false,"MultipleOf":null,"Enum":null,"MaxProperties":null,"MinProperties":null,"Required":null,"Items":null,"AllOf":null,"OneOf":null,"AnyOf":null,"Not":null,"Properties":null,"AdditionalProperties":null,"PatternProperties":null,"Dependencies":null,"AdditionalItems":null,"Definitions":null,"ExternalDocs":null,"Example":null,"XPreserveUnknownFields":null,"XEmbeddedResource":false,"XIntOrString":false,"XListMapKeys":null,"XListType":null,"XMapType":null,"XValidations":null},"o":{"ID":"","Schema":"","Ref":null,"Description":"","Type":"object","Nullable":false,"Format":"","Title":"","Default":null,"Maximum":null,"ExclusiveMaximum":false,"Minimum":null,"ExclusiveMinimum":false,"MaxLength":null,"MinLength":null,"Pattern":"","MaxItems":null,"MinItems":null,"UniqueItems":false,"MultipleOf":null,"Enum":null,"MaxProperties":null,"MinProperties":null,"Required":null,"Items":null,"AllOf":null,"OneOf":null,"AnyOf":null,"Not":null,"Properties":null,"AdditionalProperties":null,"PatternProperties":null,"Dependencies":null,"AdditionalItems":null,"Definitions":null,"ExternalDocs":null,"Example":null,"XPreserveUnknownFields":null,"XEmbeddedResource":false,"XIntOrString":false,"XListMapKeys":null,"XListType":null,"XMapType":null,"XValidations":null}},"AdditionalProperties":null,"PatternProperties":null,"Dependencies":null,"AdditionalItems":null,"Definitions":null,"ExternalDocs":null,"Example":null,"XPreserveUnknownFields":null,"XEmbeddedResource":false,"XIntOrString":false,"XListMapKeys":null,"XListType":null,"XMapType":null,"XValidations":null}},"AdditionalProperties":null,"PatternProperties":null,"Dependencies":null,"AdditionalItems":null,"Definitions":null,"ExternalDocs":null,"Example":null,"XPreserveUnknownFields":null,"XEmbeddedResource":false,"XIntOrString":false,"XListMapKeys":null,"XListType":null,"XMapType":null,"XValidations":null}: only [Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example XPreserveUnknownFields XValidations] fields are allowed at the root of the schema if the status subresource is enabled
        spec.subresources.scale.specReplicasPath: Invalid value: "spec.n": must be a simple json path starting with .
        spec.subresources.scale.statusReplicasPath: Invalid value: ".spec.n": should be a json path under .status
        spec.subresources.scale.labelSelectorPath: Invalid value: ".metadata.s": should be a json path under either .spec or .status
        spec.additionalPrinterColumns[0].name: Required value
        spec.additionalPrinterColumns[0].type: Invalid value: "odd": must be one of boolean,date,integer,number,string
        spec.additionalPrinterColumns[0].format: Invalid value: "odd": must be one of byte,date,date-time,double,float,int32,int64,password
        spec.additionalPrinterColumns[0].JSONPath: Invalid value: "a": must be a simple json path starting with .
        spec.additionalPrinterColumns[1].name: Required value
        spec.additionalPrinterColumns[1].type: Required value: must be one of boolean,date,integer,number,string
        spec.additionalPrinterColumns[1].JSONPath: Required value
        spec.selectableFields[1].jsonPath: Duplicate value: ".spec.a"
        spec.selectableFields[2].jsonPath: Invalid value: ".spec.b": is an invalid path: does not refer to a valid field
        spec.selectableFields[3].jsonPath: Invalid value: ".spec[a]": is an invalid path: array notation is not allowed
        spec.selectableFields[4].jsonPath: Invalid value: ".spec.o": must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.
        spec.selectableFields[5].jsonPath: Required value
    "#]].assert_eq(&errors(&Definitions, &with(schema, rest)));
}

#[test]
fn what_was_accepted_stays_accepted_and_what_is_served_stays() {
    let mut old = created(&Definitions, &with(ANY, ""));
    old.set(&["status", "conditions"], json!([{"type": "Established", "status": "True"}]));
    let mut new = old.clone();
    new.set(&["spec", "scope"], "Cluster");
    new.set(&["spec", "names", "kind"], "Other");
    new.set(&["spec", "group"], "other.com");
    new.set(&["status", "storedVersions"], json!(["v0"]));
    expect![[r#"
        spec.scope: Invalid value: "Cluster": field is immutable
        spec.names.kind: Invalid value: "Other": field is immutable
        spec.group: Invalid value: "other.com": field is immutable
        status.storedVersions: Invalid value: ["v0"]: must have the storage version v1
        status.storedVersions[0]: Invalid value: "v0": missing from spec.versions; v0 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v0 and removes v0 from status.storedVersions
    "#]].assert_eq(&update_errors(&Definitions, &new, &old));
    // A set of objects that is not atomic was allowed once.
    let loose = "{type: object, properties: {s: {type: array, x-kubernetes-list-type: set, items: {type: object}}}}";
    let (old, new) =
        (created(&Definitions, &with(loose, "")), created(&Definitions, &with(loose, ", deprecated: true")));
    assert_eq!(update_errors(&Definitions, &new, &old), "");
}

#[test]
fn protected_groups_need_an_approval() {
    let text = |annotations: &str| {
        with(ANY, "")
            .replace("example.com", "example.k8s.io")
            .replace("metadata: {", &format!("metadata: {{annotations: {{{annotations}}}, "))
    };
    for (annotations, expected) in [
        (
            "",
            expect![[r#"
            metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval annotation "api-approved.kubernetes.io", see https://github.com/kubernetes/enhancements/pull/1111
        "#]],
        ),
        (
            "api-approved.kubernetes.io: maybe",
            expect![[r#"
            metadata.annotations[api-approved.kubernetes.io]: Invalid value: "maybe": protected groups must have approval annotation "api-approved.kubernetes.io" with either a URL or a reason starting with "unapproved", see https://github.com/kubernetes/enhancements/pull/1111
        "#]],
        ),
        ("api-approved.kubernetes.io: 'https://example.com/1'", expect![[r#""#]]),
        ("api-approved.kubernetes.io: 'unapproved, a test'", expect![[r#""#]]),
    ] {
        expected.assert_eq(&errors(&Definitions, &text(annotations)));
    }
}

#[test]
fn a_deletion_waits_for_the_cleanup() {
    let mut made = created(&Definitions, &with(ANY, ""));
    assert!(Definitions.blocks_deletion(&made));
    made.set(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z");
    Definitions.begin_deletion(&context(), &mut made);
    assert!(!Definitions.blocks_deletion(&made), "its finalizer keeps it now");
    assert_eq!(made.finalizers(), [CLEANUP]);
    assert!(is_true(&made, "Terminating"));
}

#[test]
fn formats_that_nobody_checks_are_warned_of_once() {
    let text = with(
        "{type: object, properties: {a: {type: string, format: odd}, b: {type: string, format: date-time}, c: {type: integer, format: int32}}}",
        "",
    );
    let made = created(&Definitions, &text);
    assert_eq!(Definitions.warnings(&context(), &made, None), ["unrecognized format \"odd\""]);
    assert!(Definitions.warnings(&context(), &made, Some(&made)).is_empty());
}

#[test]
fn the_code_of_rules_is_compiled_and_its_costs_are_bounded() {
    for (schema, expected) in [
        (
            "{type: object, properties: {spec: {type: object, x-kubernetes-validations: [{rule: 'self.a > 1'}, {rule: self.b}, {rule: self.b > 1, messageExpression: self.b, optionalOldSelf: true}], properties: {b: {type: integer}}}}}",
            expect![[r#"
                spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule: Invalid value: {"Rule":"self.a \u003e 1","Message":"","MessageExpression":"","Reason":null,"FieldPath":"","OptionalOldSelf":null}: compilation failed: ERROR: <input>:1:5: undefined field 'a'
                 | self.a > 1
                 | ....^
                spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[1].rule: Invalid value: {"Rule":"self.b","Message":"","MessageExpression":"","Reason":null,"FieldPath":"","OptionalOldSelf":null}: cel expression must evaluate to a bool
                spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[2].messageExpression: Invalid value: {"Rule":"self.b \u003e 1","Message":"","MessageExpression":"self.b","Reason":null,"FieldPath":"","OptionalOldSelf":true}: messageExpression must evaluate to a string
                spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[2].optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule
            "#]],
        ),
        (
            "{type: object, properties: {l: {type: array, items: {type: object, x-kubernetes-validations: [{rule: self.n == oldSelf.n}], properties: {n: {type: integer}}}}}}",
            expect![[r#"
            spec.validation.openAPIV3Schema.properties[l].items.x-kubernetes-validations[0].rule: Invalid value: "self.n == oldSelf.n": oldSelf cannot be used on the uncorrelatable portion of the schema within spec.validation.openAPIV3Schema.properties[l]
        "#]],
        ),
        (
            "{type: object, properties: {l: {type: array, items: {type: array, items: {type: string, x-kubernetes-validations: [{rule: 'self.contains(self)'}]}}}}}",
            expect![[r#"
            spec.validation.openAPIV3Schema.properties[l].items.items.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)
            spec.validation.openAPIV3Schema.properties[l].items.items.x-kubernetes-validations[0].rule: Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema
            spec.validation.openAPIV3Schema: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)
        "#]],
        ),
        (
            "{type: object, properties: {l: {type: array, maxItems: 10, items: {type: string, maxLength: 10, x-kubernetes-validations: [{rule: 'self.contains(self)'}]}}}}",
            expect![[r#""#]],
        ),
        (
            "{type: object, x-kubernetes-validations: [{rule: self.metadata.name.startsWith('a')}, {rule: has(self.spec)}], properties: {x: {type: string, default: 1}}}",
            expect![[r#"
            spec.validation.openAPIV3Schema.properties[x].default: Invalid value: "integer":  in body must be of type string: "integer"
        "#]],
        ),
    ] {
        expected.assert_eq(&errors(&Definitions, &with(schema, "")));
    }
}

/// What is wrong with a definition of these versions, and with these further members of its specification.
fn of_versions(versions: &str, rest: &str) -> String {
    errors(
        &Definitions,
        &format!(
            "{{metadata: {{name: tests.example.com}}, spec: {{group: example.com, scope: Namespaced, names: {{plural: tests, kind: Test}}, versions: {versions}{rest}}}}}"
        ),
    )
}

#[test]
fn what_versions_have_in_common_is_not_theirs() {
    // Selectable fields need a schema at their own place; upstream prints versions without what is in common.
    let fields = "selectableFields: [{jsonPath: .spec}]";
    let version = |name: &str, schema: &str, rest: &str| {
        format!(
            "{{name: {name}, served: true, storage: {}, schema: {{openAPIV3Schema: {schema}}}{rest}}}",
            name == "v1"
        )
    };
    let (a, b) =
        ("{type: object, properties: {spec: {type: string}}}", "{type: object, properties: {spec: {type: integer}}}");
    let same_schema = format!("[{}, {}]", version("v1", a, &format!(", {fields}")), version("v2", a, ""));
    let same_fields =
        format!("[{}, {}]", version("v1", a, &format!(", {fields}")), version("v2", b, &format!(", {fields}")));
    let twice = format!("[{}, {}]", version("v1", a, ""), version("v1", a, ""));
    expect![[r#"
        spec.versions[0].selectableFields: Invalid value: "": may only be set when `version.schema.openAPIV3Schema` is not included
    "#]].assert_eq(&of_versions(&same_schema, ""));
    expect![[r#"
        spec.selectableFields: Invalid value: "": may only be set when validations.schema is included
    "#]]
    .assert_eq(&of_versions(&same_fields, ""));
    expect![[r#"
        spec.versions: Invalid value: [{"Name":"v1","Served":true,"Storage":true,"Deprecated":false,"DeprecationWarning":null,"Schema":null,"Subresources":null,"AdditionalPrinterColumns":null,"SelectableFields":null},{"Name":"v1","Served":true,"Storage":true,"Deprecated":false,"DeprecationWarning":null,"Schema":null,"Subresources":null,"AdditionalPrinterColumns":null,"SelectableFields":null}]: must contain unique version names
        spec.versions: Invalid value: [{"Name":"v1","Served":true,"Storage":true,"Deprecated":false,"DeprecationWarning":null,"Schema":null,"Subresources":null,"AdditionalPrinterColumns":null,"SelectableFields":null},{"Name":"v1","Served":true,"Storage":true,"Deprecated":false,"DeprecationWarning":null,"Schema":null,"Subresources":null,"AdditionalPrinterColumns":null,"SelectableFields":null}]: must have exactly one version marked as storage version
        status.storedVersions: Invalid value: ["v1"]: must have the storage version v1
    "#]].assert_eq(&of_versions(&twice, ""));
}

#[test]
fn unknown_fields_are_not_kept_beside_defaults_and_conversion() {
    let versions = "[{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {a: {type: string, default: x}}}}}]";
    let rest = ", preserveUnknownFields: true, conversion: {strategy: Webhook, webhook: {clientConfig: {url: 'https://a.b'}, conversionReviewVersions: [v1]}}";
    expect![[r#"
        spec.preserveUnknownFields: Invalid value: true: must be false in order to use defaults in the schema
        spec.conversion.strategy: Invalid value: "Webhook": must be None if spec.preserveUnknownFields is true
        spec.preserveUnknownFields: Invalid value: true: cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead
    "#]].assert_eq(&of_versions(versions, rest));
}

#[test]
fn rules_are_held_against_defaults_and_places_without_a_type() {
    for (schema, expected) in [
        // A default that is wrong alone, and one that is only wrong as a new value.
        (
            "{type: object, properties: {a: {type: integer, default: 1, x-kubernetes-validations: [{rule: self > 1}, {rule: self.x}]}, b: {type: object, default: {}, properties: {c: {type: string}}, x-kubernetes-validations: [{rule: has(self.c)}, {rule: oldSelf.hasValue(), optionalOldSelf: true}]}, d: {type: string, default: x, x-kubernetes-validations: [{rule: oldSelf.hasValue(), optionalOldSelf: true}]}}}",
            expect![[r#"
                spec.validation.openAPIV3Schema.properties[a].default: Invalid value: 1: failed rule: self > 1
                spec.validation.openAPIV3Schema.properties[a].default: Invalid value: "integer": rule compile error: compilation failed: ERROR: <input>:1:5: type 'int' does not support field selection
                 | self.x
                 | ....^
                spec.validation.openAPIV3Schema.properties[b].default: Invalid value: failed rule: has(self.c)
                spec.validation.openAPIV3Schema.properties[d].default: Invalid value: "x": failed rule: oldSelf.hasValue()
            "#]],
        ),
        (
            "{type: object, properties: {a: {x-kubernetes-preserve-unknown-fields: true, x-kubernetes-validations: [{rule: 'true'}]}, b: {type: array, items: {x-kubernetes-preserve-unknown-fields: true, properties: {c: {type: string, x-kubernetes-validations: [{rule: self > 1}]}}}}}}",
            expect![[r#"
                spec.validation.openAPIV3Schema.properties[a].x-kubernetes-validations: Internal error: internal error: failed to construct type information for x-kubernetes-validations rules: unable to convert structural schema to CEL declarations
                spec.validation.openAPIV3Schema.properties[b].items.properties[c].x-kubernetes-validations[0].rule: Invalid value: {"Rule":"self \u003e 1","Message":"","MessageExpression":"","Reason":null,"FieldPath":"","OptionalOldSelf":null}: compilation failed: ERROR: <input>:1:6: found no matching overload for '_>_' applied to '(string, int)'
                 | self > 1
                 | .....^
            "#]],
        ),
        (
            "{type: object, x-kubernetes-validations: [{rule: 'true', reason: ''}]}",
            expect![[r#"
            spec.validation.openAPIV3Schema.x-kubernetes-validations[0].reason: Unsupported value: "": supported values: "FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"
        "#]],
        ),
        (
            "{type: object, $schema: s, properties: {a: {type: string}}}",
            expect![[r#"
            spec.validation.openAPIV3Schema: Invalid value: "": OpenAPIV3Schema 'schema' is not supported
        "#]],
        ),
        (
            "{type: object, properties: {a: {type: array, items: [], x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [k]}}}",
            expect![[r#"
                spec.validation.openAPIV3Schema.properties[a].items: Required value: must be specified
                spec.validation.openAPIV3Schema.properties[a].items: Invalid value: {"Schema":null,"JSONSchemas":[]}: must only have a single schema if x-kubernetes-list-type is map
            "#]],
        ),
        (
            "{type: object, additionalProperties: {type: string, x-kubernetes-preserve-unknown-fields: false}}",
            expect![[r#"
                spec.validation.openAPIV3Schema.additionalProperties.x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined
            "#]],
        ),
        (
            "{type: object, items: {}}",
            expect![[r#"
            spec.validation.openAPIV3Schema.items.type: Required value: must not be empty for specified array items
        "#]],
        ),
        (
            "{type: object, properties: {a: {type: object, x-kubernetes-validations: [{rule: self.b < 1 && true}]}}}",
            expect![[r#"
                spec.validation.openAPIV3Schema.properties[a].x-kubernetes-validations[0].rule: Invalid value: {"Rule":"self.b \u003c 1 \u0026\u0026 true","Message":"","MessageExpression":"","Reason":null,"FieldPath":"","OptionalOldSelf":null}: compilation failed: ERROR: <input>:1:5: undefined field 'b'
                 | self.b < 1 && true
                 | ....^
            "#]],
        ),
    ] {
        expected.assert_eq(&errors(&Definitions, &with(schema, "")));
    }
}

#[test]
fn a_generated_name_is_not_the_name_of_the_plural() {
    let text = with(ANY, "").replace("name: tests.example.com", "name: tests.example.com, generateName: x-");
    expect![[r#"
        metadata.generateName: Invalid value: "x-": must be spec.names.plural+"."+spec.group
    "#]]
    .assert_eq(&errors(&Definitions, &text));
}

#[test]
fn a_deletion_that_begins_does_not_count() {
    let mut object = created(&Definitions, &with(ANY, ""));
    // As the server marks an object.
    object.set(&["metadata", "generation"], 2);
    object.set(&["metadata", "deletionGracePeriodSeconds"], 0);
    Definitions.begin_deletion(&context(), &mut object);
    assert_eq!((object.generation(), object.at(&["metadata", "deletionGracePeriodSeconds"])), (1, None));
}
