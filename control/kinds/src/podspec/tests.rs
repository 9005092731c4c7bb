//! Pod specs that break rules, and the words that say so.

use super::*;
use crate::{
    Capabilities,
    core::pod::Pods,
    testing::{context, created, errors, parse},
};
use expect_test::expect;
use server::Strategy;

/// With volumes as the node of this repository has them.
fn pods() -> Pods {
    Pods(Capabilities::new(["pod.spec.volumes.emptyDir", "pod.spec.volumes.configMap"]))
}

fn of(spec: &str) -> String {
    errors(&pods(), &format!("{{metadata: {{name: p, namespace: default}}, spec: {spec}}}"))
}

#[test]
fn containers_need_names_and_images() {
    expect![[r#"
        spec.containers: Required value
    "#]]
    .assert_eq(&of("{containers: []}"));
    expect![[r#"
        spec.containers[0].image: Required value
        spec.containers[1].name: Invalid value: "A_": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
        spec.containers[1].imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never"
        spec.containers[2].name: Required value
        spec.containers[3].name: Duplicate value: "a"
        spec.initContainers[0].name: Duplicate value: "a"
        spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always
        spec.containers[3].image: Invalid value: " i": must not have leading or trailing whitespace
    "#]]
    .assert_eq(&of("{containers: [{name: a}, {name: A_, image: i, imagePullPolicy: Sometimes}, {image: i}, {name: a, image: ' i'}], initContainers: [{name: a, image: i, livenessProbe: {tcpSocket: {port: 1}}}]}"));
}

#[test]
fn ports_are_numbered_named_and_not_taken_twice() {
    expect![[r#"
        spec.containers[0].ports[0].name: Invalid value: "UP": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)
        spec.containers[0].ports[0].name: Invalid value: "UP": must contain at least one letter (a-z)
        spec.containers[0].ports[0].containerPort: Required value
        spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive
        spec.containers[0].ports[2].protocol: Unsupported value: "XTP": supported values: "SCTP", "TCP", "UDP"
        spec.containers[0].ports[4].hostPort: Duplicate value: "TCP//80"
    "#]]
    .assert_eq(&of("{containers: [{name: a, image: i, ports: [{name: UP}, {containerPort: 70000}, {containerPort: 1, protocol: XTP}, {containerPort: 2, hostPort: 80}, {containerPort: 3, hostPort: 80}]}]}"));
}

#[test]
fn variables_come_from_one_place() {
    expect![[r#"
        spec.containers[0].env[0].name: Required value
        spec.containers[0].env[1].valueFrom: Invalid value: "": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`
        spec.containers[0].env[2].valueFrom.fieldRef.fieldPath: Invalid value: "spec.foo": error converting fieldPath: field label not supported: spec.foo
        spec.containers[0].env[3].valueFrom.fieldRef.fieldPath: Unsupported value: "status.phase": supported values: "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"
        spec.containers[0].env[4].valueFrom: Invalid value: "": may not be specified when `value` is not empty
        spec.containers[0].env[5].valueFrom.resourceFieldRef.divisor: Invalid value: "limits.cpu": only divisor's values 1m and 1 are supported with the cpu resource
        spec.containers[0].envFrom: Invalid value: "": must specify one of: `configMapRef` or `secretRef`
    "#]]
    .assert_eq(&of("{containers: [{name: a, image: i, envFrom: [{}], env: [{value: x}, {name: b, valueFrom: {}}, {name: c, valueFrom: {fieldRef: {fieldPath: spec.foo}}}, {name: d, valueFrom: {fieldRef: {fieldPath: status.phase}}}, {name: e, value: x, valueFrom: {secretKeyRef: {name: s, key: k}}}, {name: f, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1k}}}, {name: g, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['a/b']\"}}}]}]}"));
}

#[test]
fn requests_stay_below_limits() {
    expect![[r#"
        spec.containers[0].resources.limits[gpu]: Invalid value: "gpu": must be a standard resource type or fully qualified
        spec.containers[0].resources.limits[gpu]: Invalid value: "gpu": must be a standard resource for containers
        spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1
        spec.containers[0].resources.requests[gpu]: Invalid value: "gpu": must be a standard resource type or fully qualified
        spec.containers[0].resources.requests[gpu]: Invalid value: "gpu": must be a standard resource for containers
        spec.containers[0].resources.requests[memory]: Invalid value: "-1": must be greater than or equal to 0
        spec.containers[1].resources.limits[example.com/x]: Invalid value: "1500m": must be an integer
        spec.containers[1].resources.requests: Invalid value: "2": must be equal to example.com/x limit of 1500m
    "#]]
    .assert_eq(&of("{containers: [{name: a, image: i, resources: {limits: {cpu: 1, gpu: 1}, requests: {cpu: 2, memory: -1}}}, {name: b, image: i, resources: {limits: {example.com/x: 1.5}, requests: {example.com/x: 2}}}]}"));
}

#[test]
fn probes_have_one_handler() {
    expect![[r#"
        spec.containers[0].livenessProbe: Required value: must specify a handler type
        spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1
        spec.containers[0].readinessProbe.httpGet: Forbidden: may not specify more than 1 handler type
        spec.containers[0].readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0
        spec.containers[0].startupProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive
    "#]]
    .assert_eq(&of("{containers: [{name: a, image: i, livenessProbe: {successThreshold: 2}, readinessProbe: {exec: {command: [x]}, httpGet: {port: 1}, periodSeconds: -1}, startupProbe: {httpGet: {port: 0}}}]}"));
}

#[test]
fn mounts_need_volumes() {
    expect![[r#"
        spec.volumes[1].name: Duplicate value: "v"
        spec.volumes[2].secret: Forbidden: may not specify more than 1 volume type
        spec.volumes[3].hostPath.path: Required value
        spec.volumes[4].projected.path: Required value
        spec.containers[0].volumeMounts[0].name: Not found: "w"
        spec.containers[0].volumeMounts[1].mountPath: Required value
        spec.containers[0].volumeMounts.subPath: Invalid value: "../x": must not contain '..'
        spec.containers[0].volumeMounts[3].mountPath: Invalid value: "/a": must be unique
    "#]]
    .assert_eq(&of("{containers: [{name: a, image: i, volumeMounts: [{name: w, mountPath: /w}, {name: v}, {name: v, mountPath: /a, subPath: ../x}, {name: v, mountPath: /a}]}], volumes: [{name: v}, {name: v}, {name: x, emptyDir: {}, secret: {secretName: s}}, {name: u, hostPath: {path: ''}}, {name: z, projected: {sources: [{serviceAccountToken: {}}]}}]}"));
}

#[test]
fn scheduling_rules_are_checked() {
    expect![[r#"
        spec.restartPolicy: Unsupported value: "Maybe": supported values: "Always", "OnFailure", "Never"
        spec.dnsPolicy: Unsupported value: "X": supported values: "ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"
        spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term
        spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: must be in the range 1-100
        spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.topologyKey: Required value: can not be empty
        spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.topologyKey: Invalid value: "": name part must be non-empty
        spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.topologyKey: Invalid value: "": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
        spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero
        spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive
        spec.tolerations[0].operator: Invalid value: "": operator must be Exists when `key` is empty, which means "match all values and all keys"
        spec.tolerations[1].effect: Invalid value: "": effect must be 'NoExecute' when `tolerationSeconds` is set
    "#]]
    .assert_eq(&of("{restartPolicy: Maybe, dnsPolicy: X, activeDeadlineSeconds: 0, containers: [{name: a, image: i}], tolerations: [{}, {key: a, operator: Exists, tolerationSeconds: 1}], affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {}}, podAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{podAffinityTerm: {}}]}}, topologySpreadConstraints: [{maxSkew: 0, topologyKey: a, whenUnsatisfiable: DoNotSchedule}]}"));
}

#[test]
fn a_sensible_pod_is_valid() {
    assert_eq!(
        of(
            "{containers: [{name: a, image: i, command: [x], env: [{name: A, value: b}], ports: [{containerPort: 80, name: http}], resources: {limits: {cpu: 1, memory: 1Gi}}, readinessProbe: {httpGet: {port: http}}, volumeMounts: [{name: v, mountPath: /v}], securityContext: {runAsUser: 1}}], volumes: [{name: v, configMap: {name: c}}], initContainers: [{name: i, image: i, restartPolicy: Always, livenessProbe: {tcpSocket: {port: 1}}}], tolerations: [{operator: Exists}], nodeSelector: {a: b}, securityContext: {fsGroup: 2, seccompProfile: {type: RuntimeDefault}}}"
        ),
        ""
    );
}

#[test]
fn odd_pods_are_warned_about() {
    let pod = parse("
metadata: {name: My.Pod}
spec:
  nodeSelector: {beta.kubernetes.io/os: linux}
  hostPID: true
  containers:
  - {name: a, image: i, env: [{name: A, value: x}, {name: A, value: y}], ports: [{containerPort: 80, protocol: TCP, name: http}], resources: {limits: {memory: 100m}}}
  - {name: b, image: i, ports: [{containerPort: 80, protocol: TCP, name: http}], livenessProbe: {exec: {command: [x]}}}
  volumes: [{name: v, nfs: {server: s, path: /}}]
");
    expect![[r#"
        metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')]
        spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead
        spec.containers[0].resources.limits[memory]: fractional byte value "100m" is invalid, must be an integer
        spec.containers[0].env[1]: hides previous definition of "A", which may be dropped when using apply
        spec.containers[1].ports[0]: duplicate port definition with spec.containers[0].ports[0]
        spec.containers[1].ports[0]: duplicate port name "http" with spec.containers[0].ports[0], services and probes that select ports by name will use spec.containers[0].ports[0]
        spec.volumes[0].nfs: sampan does not mount this kind of volume yet; the pod will wait in ContainerCreating
        spec.containers[1].livenessProbe.exec: sampan does not run exec probes yet; the probe fails"#]]
    .assert_eq(&pods().warnings(&context(), &pod, None).join("\n"));
}

#[test]
fn what_is_not_done_yet_is_said() {
    let pod = parse("
metadata: {name: p}
spec:
  dnsPolicy: Default
  dnsConfig: {nameservers: [10.0.0.1]}
  setHostnameAsFQDN: true
  schedulingGroup: {podGroupName: g}
  securityContext: {runAsUser: 1, runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}, supplementalGroups: [1], sysctls: []}
  volumes: [{name: v, emptyDir: {medium: Memory, sizeLimit: 1Gi}}]
  containers:
  - name: a
    image: i
    stdin: true
    tty: true
    terminationMessagePath: /dev/termination-log
    restartPolicyRules: [{action: Restart}]
    resizePolicy: [{resourceName: cpu, restartPolicy: NotRequired}]
    resources: {limits: {ephemeral-storage: 1Gi}}
    ports: [{containerPort: 80, hostPort: 80, protocol: TCP}, {containerPort: 81, protocol: SCTP}]
    volumeMounts: [{name: v, mountPath: /v, mountPropagation: None}, {name: v, mountPath: /w, mountPropagation: HostToContainer}]
    livenessProbe: {grpc: {port: 80}}
    lifecycle: {stopSignal: SIGTERM}
    securityContext: {capabilities: {add: [NET_ADMIN], drop: [ALL]}, readOnlyRootFilesystem: true, runAsGroup: 1}
  - {name: b, image: i, workingDir: /w, terminationMessagePath: /m, readinessProbe: {httpGet: {port: 1, scheme: HTTPS}}, livenessProbe: {httpGet: {port: 1, scheme: HTTP}}, lifecycle: {postStart: {httpGet: {port: 1, scheme: HTTPS}}}}
");
    expect![[r#"
        spec.schedulingGroup: not considered by the scheduler of sampan yet
        spec.setHostnameAsFQDN: not honoured by sampan yet
        spec.containers[0].livenessProbe.grpc: sampan does not run gRPC probes yet; the probe fails
        spec.containers[0].ports[0].hostPort: sampan does not open ports of the host yet; use a Service of type NodePort
        spec.containers[0].ports[1].protocol: sampan does not carry SCTP yet
        spec.containers[0].stdin: sampan does not attach to containers yet
        spec.containers[0].tty: sampan does not attach to containers yet
        spec.containers[0].restartPolicyRules: not honoured by sampan yet
        spec.containers[1].readinessProbe.httpGet.scheme: sampan does not ask by HTTPS yet; the probe never passes
        spec.containers[1].lifecycle.postStart.httpGet.scheme: sampan does not ask by HTTPS yet; the hook fails"#]]
    .assert_eq(&pods().warnings(&context(), &pod, None).join("\n"));
    // A pod that asks for nothing special is not warned about.
    let plain = created(
        &pods(),
        "{metadata: {name: p}, spec: {containers: [{name: a, image: i, ports: [{containerPort: 80}]}]}}",
    );
    assert_eq!(pods().warnings(&context(), &plain, None), Vec::<String>::new());
}

#[test]
fn what_the_cluster_can_do_is_not_warned_of() {
    let pod = parse(
        "
metadata: {name: p}
spec:
  affinity: {podAffinity: {x: y}}
  hostNetwork: true
  containers: [{name: a, image: i, tty: true, livenessProbe: {exec: {command: [x]}}}]
  initContainers: [{name: b, image: i, tty: true}]
  volumes: [{name: v, nfs: {server: s, path: /}}, {name: w, csi: {driver: d}}, {name: x, emptyDir: {}}]
",
    );
    let fields = [
        "pod.spec.affinity.podAffinity",
        "pod.spec.hostNetwork",
        "pod.spec.containers.tty",
        "pod.spec.containers.livenessProbe.exec",
        "pod.spec.volumes.nfs",
        "pod.spec.volumes.csi",
        "pod.spec.volumes.emptyDir",
    ];
    let said =
        |fields: &[&'static str]| Pods(Capabilities::new(fields.iter().copied())).warnings(&context(), &pod, None);
    assert_eq!(said(&fields), Vec::<String>::new());
    // Whichever is missing is warned of, wherever it stands; nothing else is.
    for (i, field) in fields.iter().enumerate() {
        let others: Vec<_> = fields.iter().copied().filter(|other| other != field).collect();
        let warnings = said(&others);
        let name = field.rsplit('.').next().expect("a name");
        assert_eq!(warnings.len(), if name == "tty" { 2 } else { 1 }, "{i} {field}: {warnings:?}");
        assert!(
            warnings.iter().all(|text| text.split(':').next().is_some_and(|at| at.ends_with(name))),
            "{warnings:?}"
        );
    }
}

#[test]
fn images_that_are_files_are_warned_of() {
    let warned = |image: &str| {
        let pod = parse(&format!("{{metadata: {{name: p}}, spec: {{containers: [{{name: a, image: '{image}'}}]}}}}"));
        pods().warnings(&context(), &pod, None)
    };
    for image in ["./hello.wasm", "../hello", "/tmp/hello", "hello.wasm", "hello.wat"] {
        assert_eq!(
            warned(image),
            [
                "spec.containers[0].image: looks like a file, which no node can pull; `sampan apply -f` and `sampan up -f` package relative images, `sampan image load` loads others"
            ],
            "{image}"
        );
    }
    for image in ["hello", "hello:1", "localhost/hello.wasm:1", "example.com/wasm/hello@sha256:0"] {
        assert_eq!(warned(image), Vec::<String>::new(), "{image}");
    }
}

#[test]
fn the_class_follows_requests_and_limits() {
    for (spec, class) in [
        ("{containers: [{name: a}]}", "BestEffort"),
        ("{containers: [{name: a, resources: {requests: {cpu: 1}}}]}", "Burstable"),
        (
            "{containers: [{name: a, resources: {requests: {cpu: 1, memory: 1}, limits: {cpu: 1, memory: 1}}}]}",
            "Guaranteed",
        ),
        (
            "{containers: [{name: a, resources: {requests: {cpu: 1, memory: 1}, limits: {cpu: 1, memory: 1}}}, {name: b}]}",
            "Burstable",
        ),
    ] {
        let pod = parse(&format!("{{spec: {spec}}}"));
        assert_eq!(qos_class(At::of(&pod, "spec")), class, "{spec}");
    }
}
