//! Tables of pod specs before and after defaulting.

use super::*;
use expect_test::expect;

fn defaulted(mut spec: Value) -> String {
    let fields = spec.as_object_mut().unwrap();
    pod_spec(fields);
    pod(fields);
    serde_json::to_string_pretty(&spec).unwrap()
}

#[test]
fn a_bare_pod_gets_kubernetes_defaults() {
    expect![[r#"
            {
              "containers": [
                {
                  "image": "nginx",
                  "imagePullPolicy": "Always",
                  "name": "a",
                  "resources": {},
                  "terminationMessagePath": "/dev/termination-log",
                  "terminationMessagePolicy": "File"
                }
              ],
              "dnsPolicy": "ClusterFirst",
              "enableServiceLinks": true,
              "restartPolicy": "Always",
              "schedulerName": "default-scheduler",
              "securityContext": {},
              "terminationGracePeriodSeconds": 30
            }"#]]
    .assert_eq(&defaulted(
        json!({"containers": [{"name": "a", "image": "nginx"}], "nodeName": "", "hostNetwork": false}),
    ));
}

#[test]
fn containers_and_volumes_are_filled_in() {
    let text = defaulted(json!({
            "serviceAccount": "robot", "hostNetwork": true,
            "containers": [{
                "name": "a", "image": "r.example/x:1@sha256:00", "ports": [{"containerPort": 80}],
                "env": [{"name": "N", "value": ""}, {"name": "I", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}],
                "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}, "requests": {"cpu": "0.25"}},
                "readinessProbe": {"httpGet": {"port": 80}}, "livenessProbe": {"grpc": {"port": 1}, "periodSeconds": 3},
                "lifecycle": {"preStop": {"httpGet": {"port": 1, "scheme": "HTTPS"}}}}],
            "volumes": [{"name": "e"}, {"name": "s", "secret": {"secretName": "x"}}, {"name": "h", "hostPath": {"path": "/x"}},
                {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}},
                    {"downwardAPI": {"items": [{"path": "ns", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}}]}));
    expect![[r#"
            {
              "containers": [
                {
                  "env": [
                    {
                      "name": "N"
                    },
                    {
                      "name": "I",
                      "valueFrom": {
                        "fieldRef": {
                          "apiVersion": "v1",
                          "fieldPath": "status.podIP"
                        }
                      }
                    },
                    {
                      "name": "C",
                      "valueFrom": {
                        "resourceFieldRef": {
                          "divisor": "0",
                          "resource": "limits.cpu"
                        }
                      }
                    }
                  ],
                  "image": "r.example/x:1@sha256:00",
                  "imagePullPolicy": "IfNotPresent",
                  "lifecycle": {
                    "preStop": {
                      "httpGet": {
                        "path": "/",
                        "port": 1,
                        "scheme": "HTTPS"
                      }
                    }
                  },
                  "livenessProbe": {
                    "failureThreshold": 3,
                    "grpc": {
                      "port": 1,
                      "service": ""
                    },
                    "periodSeconds": 3,
                    "successThreshold": 1,
                    "timeoutSeconds": 1
                  },
                  "name": "a",
                  "ports": [
                    {
                      "containerPort": 80,
                      "hostPort": 80,
                      "protocol": "TCP"
                    }
                  ],
                  "readinessProbe": {
                    "failureThreshold": 3,
                    "httpGet": {
                      "path": "/",
                      "port": 80,
                      "scheme": "HTTP"
                    },
                    "periodSeconds": 10,
                    "successThreshold": 1,
                    "timeoutSeconds": 1
                  },
                  "resources": {
                    "limits": {
                      "cpu": "500m",
                      "memory": "1Gi"
                    },
                    "requests": {
                      "cpu": "250m",
                      "memory": "1Gi"
                    }
                  },
                  "terminationMessagePath": "/dev/termination-log",
                  "terminationMessagePolicy": "File"
                }
              ],
              "dnsPolicy": "ClusterFirst",
              "enableServiceLinks": true,
              "hostNetwork": true,
              "restartPolicy": "Always",
              "schedulerName": "default-scheduler",
              "securityContext": {},
              "serviceAccount": "robot",
              "serviceAccountName": "robot",
              "terminationGracePeriodSeconds": 30,
              "volumes": [
                {
                  "emptyDir": {},
                  "name": "e"
                },
                {
                  "name": "s",
                  "secret": {
                    "defaultMode": 420,
                    "secretName": "x"
                  }
                },
                {
                  "hostPath": {
                    "path": "/x",
                    "type": ""
                  },
                  "name": "h"
                },
                {
                  "name": "p",
                  "projected": {
                    "defaultMode": 420,
                    "sources": [
                      {
                        "serviceAccountToken": {
                          "expirationSeconds": 3600,
                          "path": "t"
                        }
                      },
                      {
                        "downwardAPI": {
                          "items": [
                            {
                              "fieldRef": {
                                "apiVersion": "v1",
                                "fieldPath": "metadata.namespace"
                              },
                              "path": "ns"
                            }
                          ]
                        }
                      }
                    ]
                  }
                }
              ]
            }"#]]
    .assert_eq(&text);
}

#[test]
fn the_pull_policy_follows_the_tag() {
    for (image, latest) in [
        ("nginx", true),
        ("nginx:latest", true),
        ("nginx:1", false),
        ("host:5000/nginx", true),
        ("host:5000/nginx:1", false),
        ("nginx@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", false),
        ("nginx:latest@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", true),
        ("nginx:latest@sha256:00", false),
        ("localhost/nginx", true),
        ("Host.example/a/b__c/d--e", true),
        ("[::1]:5000/a", true),
        ("", false),
        ("../x", false),
        ("\u{e9}", false),
        ("Nginx", false),
        (" x", false),
        ("x:", false),
        ("a//b", false),
        ("a_-b", false),
        ("x/", false),
        ("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", false),
    ] {
        assert_eq!(is_latest(image), latest, "{image}");
    }
}
