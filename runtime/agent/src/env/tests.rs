use super::*;
use serde_json::{Value, json};
use std::sync::Arc;

fn configs() -> Configs {
    let map = serde_json::from_value(json!({"data": {"color": "blue", "bad=key": "x"}, "binaryData": {}})).unwrap();
    let secret = serde_json::from_value(json!({"data": {"password": "aHVudGVyMg=="}})).unwrap();
    let service = |ns: &str, name: &str, ip: &str, ports: Value| {
        Arc::new(
            serde_json::from_value(
                json!({"metadata": {"name": name, "namespace": ns}, "spec": {"clusterIP": ip, "ports": ports}}),
            )
            .unwrap(),
        )
    };
    Configs {
        config_maps: [("cm".to_owned(), Some(Arc::new(map))), ("gone".to_owned(), None)].into(),
        secrets: [("s".to_owned(), Some(Arc::new(secret)))].into(),
        services: vec![
            service("default", "kubernetes", "10.96.0.1", json!([{"name": "https", "port": 443}])),
            service("n", "my-db", "10.96.0.7", json!([{"port": 5432, "protocol": "TCP"}])),
            service("n", "headless", "None", json!([{"port": 1}])),
        ],
    }
}

fn run(container: Value, links: bool) -> Result<Environment, String> {
    let mut container = container;
    container["name"] = "c".into();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n"},
        "spec": {"enableServiceLinks": links, "containers": [container]}
    }))
    .unwrap();
    let (configs, facts, allocatable) = (configs(), Facts::default(), BTreeMap::new());
    let sources = Sources { configs: &configs, facts: &facts, allocatable: &allocatable };
    environment(&pod, &pod::spec(&pod).containers[0], &[("PATH".into(), "/bin".into())], sources)
}

fn get(container: Value) -> BTreeMap<String, String> {
    let env = run(container, false).unwrap();
    env.image.into_iter().chain(env.variables).filter(|(k, _)| !k.starts_with("KUBERNETES")).collect()
}

fn pairs(list: &[(&str, &str)]) -> BTreeMap<String, String> {
    list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn every_source_gives_its_value() {
    let env = get(json!({"env": [
        {"name": "PLAIN", "value": "x"},
        {"name": "REF", "value": "$(PLAIN)-$(KUBERNETES_SERVICE_HOST)-$(NOPE)"},
        {"name": "EMPTY"},
        {"name": "CM", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "color"}}},
        {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "password"}}},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "OPT", "valueFrom": {"configMapKeyRef": {"name": "gone", "key": "k", "optional": true}}},
    ]}));
    let expected = [
        ("CM", "blue"),
        ("EMPTY", ""),
        ("PATH", "/bin"),
        ("PLAIN", "x"),
        ("POD", "p"),
        ("REF", "x-10.96.0.1-$(NOPE)"),
        ("SECRET", "hunter2"),
    ];
    assert_eq!(env, pairs(&expected));
}

#[test]
fn env_overrides_env_from_and_bad_names_are_skipped_with_a_word() {
    let env = run(
        json!({
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "none", "optional": true}}],
            "env": [{"name": "P_color", "value": "red"}]
        }),
        false,
    )
    .unwrap();
    assert!(env.variables.contains(&("P_color".into(), "red".into())));
    assert_eq!(
        env.skipped,
        [
            "Keys [bad=key] from the EnvFrom configMap n/cm were skipped since they are considered invalid environment variable names."
        ]
    );
}

#[test]
fn what_is_missing_is_named_as_upstream_does() {
    let from = |source: Value| run(json!({"env": [{"name": "X", "valueFrom": source}]}), false).unwrap_err();
    for (source, message) in [
        (json!({"configMapKeyRef": {"name": "gone", "key": "k"}}), "configmap \"gone\" not found"),
        (json!({"configMapKeyRef": {"name": "cm", "key": "k"}}), "couldn't find key k in ConfigMap n/cm"),
        (json!({"secretKeyRef": {"name": "gone", "key": "k"}}), "secret \"gone\" not found"),
        (json!({"secretKeyRef": {"name": "s", "key": "k"}}), "couldn't find key k in Secret n/s"),
    ] {
        assert_eq!(from(source), message);
    }
    let error = run(json!({"envFrom": [{"configMapRef": {"name": "gone"}}]}), false).unwrap_err();
    assert_eq!(error, "configmap \"gone\" not found");
}

#[test]
fn services_are_linked_unless_switched_off() {
    let linked = run(json!({}), true).unwrap().variables;
    let has = |name: &str, value: &str| linked.contains(&(name.to_owned(), value.to_owned()));
    assert!(has("MY_DB_SERVICE_HOST", "10.96.0.7"));
    assert!(has("MY_DB_PORT", "tcp://10.96.0.7:5432"));
    assert!(has("MY_DB_PORT_5432_TCP_ADDR", "10.96.0.7"));
    assert!(has("KUBERNETES_SERVICE_PORT_HTTPS", "443"));
    assert!(!linked.iter().any(|(k, _)| k.starts_with("HEADLESS")));
    let own = run(json!({}), false).unwrap().variables;
    assert!(own.iter().any(|(k, _)| k == "KUBERNETES_SERVICE_HOST"));
    assert!(!own.iter().any(|(k, _)| k.starts_with("MY_DB")));
}

#[test]
fn command_lines_follow_the_four_cases() {
    let image = Command { entrypoint: vec!["ep".into()], arguments: vec!["a".into()], ..Command::default() };
    let none = Command::default();
    let line = |container: Value, image: &Command| {
        let mut container = container;
        container["name"] = "c".into();
        let environment = Environment { variables: vec![("V".into(), "1".into())], ..Environment::default() };
        command_line(&serde_json::from_value(container).unwrap(), image, false, &environment).unwrap()
    };
    assert_eq!(line(json!({}), &image), ["ep", "a"]);
    assert_eq!(line(json!({"args": ["$(V)", "$$(V)"]}), &image), ["ep", "1", "$(V)"]);
    assert_eq!(line(json!({"command": ["x"]}), &image), ["x"]);
    assert_eq!(line(json!({"command": ["x"], "args": ["y"]}), &image), ["x", "y"]);
    assert_eq!(line(json!({"args": ["y"]}), &none), ["c", "y"]);
    assert!(line(json!({}), &none).is_empty());
    // the first word of a Linux image is the program
    let linux = |container: Value, image: &Command| {
        let mut container = container;
        container["name"] = "c".into();
        command_line(&serde_json::from_value(container).unwrap(), image, true, &Environment::default())
    };
    let only_arguments = Command { arguments: vec!["sh".into(), "-l".into()], ..Command::default() };
    assert_eq!(linux(json!({}), &only_arguments).unwrap(), ["sh", "-l"]);
    assert_eq!(linux(json!({"args": ["ls"]}), &only_arguments).unwrap(), ["ls"]);
    assert_eq!(linux(json!({}), &none).unwrap_err(), "no command specified");
}

#[test]
fn the_host_name_is_there_unless_the_pod_sets_it() {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let all = |image: &[(String, String)], own: &[(String, String)]| {
        let environment = Environment { image: image.to_vec(), variables: own.to_vec(), skipped: Vec::new() };
        with_hostname("p".into(), environment)
    };
    assert_eq!(all(&[pair("I", "0")], &[pair("A", "1")]), [pair("HOSTNAME", "p"), pair("I", "0"), pair("A", "1")]);
    assert_eq!(all(&[], &[pair("HOSTNAME", "x")]), [pair("HOSTNAME", "x")]);
    assert_eq!(all(&[pair("HOSTNAME", "x")], &[]), [pair("HOSTNAME", "x")]);
}

#[test]
fn variables_of_the_image_can_be_overridden_and_not_referred_to() {
    let path = ("PATH".to_owned(), "/bin".to_owned());
    let env = run(json!({"env": [{"name": "A", "value": "$(PATH)"}]}), false).unwrap();
    assert_eq!(env.image, std::slice::from_ref(&path));
    assert!(env.variables.contains(&("A".into(), "$(PATH)".into())));
    let container = serde_json::from_value(json!({"name": "c", "args": ["$(PATH)", "$(A)"]})).unwrap();
    assert_eq!(command_line(&container, &Command::default(), false, &env).unwrap(), ["c", "$(PATH)", "$(PATH)"]);
    let env = run(json!({"env": [{"name": "PATH", "value": "/own"}]}), false).unwrap();
    assert!(env.image.is_empty() && env.variables.contains(&("PATH".into(), "/own".into())));
}

#[test]
fn an_environment_that_grows_out_of_itself_is_refused() {
    let refused = |container: Value| {
        let error = run(container, false).unwrap_err();
        assert!(error.starts_with("argument list too long"), "{error}");
    };
    let double = |i: usize| json!({"name": format!("E{i}"), "value": format!("$(E{0})$(E{0})", i.saturating_sub(1))});
    let mut chain = vec![json!({"name": "E0", "value": "x".repeat(10)})];
    chain.extend((1..33).map(double));
    refused(json!({"env": chain}));
    // Overridden values count towards the limit, because they cost work and memory.
    refused(json!({"env": vec![json!({"name": "A", "value": "x".repeat(100_000)}); 40]}));
    let from = json!({"prefix": "P", "configMapRef": {"name": "cm"}});
    assert!(run(json!({"envFrom": vec![from.clone(); 1000]}), false).is_ok());
    refused(json!({"envFrom": vec![from; 200_000]}));
    // Arguments count towards the limit.
    let env = run(json!({"env": [{"name": "E", "value": "x".repeat(100_000)}]}), false).unwrap();
    let line = |count: usize| {
        let container = json!({"name": "c", "args": vec!["$(E)"; count]});
        command_line(&serde_json::from_value(container).unwrap(), &Command::default(), false, &env)
    };
    assert_eq!(line(10).unwrap().len(), 11);
    assert!(line(40_000).unwrap_err().starts_with("argument list too long"));
}
