//! Profiles of the scheduler from a file.

const PROFILES: &str = "apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles:
- schedulerName: default-scheduler
- schedulerName: careless
  plugins:
    multiPoint:
      disabled: [{name: NodeAffinity}]
";

fn pod(name: &str, scheduler: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  schedulerName: {scheduler}\n  nodeSelector: {{no: node}}\n  \
         containers: [{{name: c, image: 'hello:1', ports: [{{containerPort: 8080}}]}}]\n"
    )
}

#[test]
fn pods_go_by_the_profile_that_they_name() {
    let Some(machine) = super::machine() else { return };
    let file = machine.path("work").join("scheduler.yaml");
    let named = file.display().to_string();
    std::fs::write(&file, PROFILES.replace("NodeAffinity", "Mine")).expect("written");
    let output = machine.run(&["up", "--scheduler-config", &named]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("profiles[1].plugins.multiPoint.disabled: there is no plugin \"Mine\""), "{told}");

    std::fs::write(&file, PROFILES).expect("written");
    let c = machine.up(&["--scheduler-config", &named]);
    for (name, scheduler) in [("a", "default-scheduler"), ("b", "careless"), ("c", "nobody")] {
        c.kubectl_with(&["apply", "-f", "-"], &pod(name, scheduler));
    }
    c.eventually("the careless one to be placed", || (!c.field("pod/b", "{.spec.nodeName}").is_empty()).then_some(()));
    c.eventually("the careful one to be refused", || {
        let why = c.field("pod/a", "{.status.conditions[?(@.type==\"PodScheduled\")].message}");
        why.contains("didn't match Pod's node affinity/selector").then_some(())
    });
    assert_eq!(c.field("pod/c", "{.spec.nodeName} {.status.conditions}"), " ", "nobody's");
}
