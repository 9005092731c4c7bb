//! What a ServiceAccount may do by its roles, and what nobody may grant, with kubectl.

use crate::harness::Cluster;

/// What kubectl says as the robot, whose token this is.
struct Robot<'a> {
    cluster: &'a Cluster<'a>,
    identity: Vec<String>,
}

impl Robot<'_> {
    fn args(&self, args: &[&str]) -> Vec<String> {
        args.iter().map(|arg| (*arg).to_owned()).chain(self.identity.iter().cloned()).collect()
    }

    /// Whether it succeeded, and what it printed.
    fn says(&self, args: &[&str], input: &str) -> (bool, String) {
        let args = self.args(args);
        let output = self.cluster.kubectl_output(&args.iter().map(String::as_str).collect::<Vec<_>>(), input);
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    #[track_caller]
    fn may(&self, args: &[&str]) -> String {
        let (done, text) = self.says(args, "");
        assert!(done, "{args:?}: {text}");
        text
    }

    #[track_caller]
    fn may_not(&self, args: &[&str], input: &str, why: &str) {
        let (done, text) = self.says(args, input);
        assert!(!done && text.contains(why), "{args:?}: {text}");
    }
}

#[test]
fn a_service_account_may_do_what_its_roles_say_and_grant_no_more() {
    let Some(machine) = super::machine() else { return };
    let c = machine.up(&[]);
    c.kubectl(&["create", "serviceaccount", "robot"]);
    let token = c.kubectl(&["create", "token", "robot"]);
    let server = format!("--server={}", c.endpoint);
    let plain = ["--kubeconfig=/dev/null", "--insecure-skip-tls-verify", &server];
    let token = format!("--token={}", token.trim());
    let identity = plain.iter().chain([&token.as_str()]).map(|arg| (*arg).to_owned()).collect();
    let robot = Robot { cluster: &c, identity };
    robot.may_not(
        &["get", "pods"],
        "",
        "pods is forbidden: User \"system:serviceaccount:default:robot\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"",
    );
    assert!(robot.may(&["auth", "can-i", "create", "selfsubjectaccessreviews.authorization.k8s.io"]).contains("yes"));

    c.kubectl(&["create", "role", "reader", "--verb=get,list", "--resource=pods"]);
    c.kubectl(&["create", "rolebinding", "robot", "--role=reader", "--serviceaccount=default:robot"]);
    assert!(robot.may(&["get", "pods"]).contains("No resources found"));
    robot.may_not(&["get", "secrets"], "", "secrets is forbidden");
    robot.may_not(&["get", "pods", "--namespace=kube-system"], "", "pods is forbidden");
    assert!(robot.may(&["auth", "can-i", "list", "pods"]).contains("yes"));
    robot.may_not(&["auth", "can-i", "list", "secrets"], "", "no");
    let list = robot.may(&["auth", "can-i", "--list"]);
    let row = list.lines().find(|line| line.starts_with("pods ")).unwrap_or_default();
    assert!(row.contains("[get list]"), "{list}");
    assert!(list.contains("selfsubjectrulesreviews.authorization.k8s.io") && list.contains("[/healthz]"), "{list}");

    // By name only.
    c.kubectl(&["create", "configmap", "mine"]);
    c.kubectl(&["create", "role", "mine", "--verb=get", "--resource=configmaps", "--resource-name=mine"]);
    c.kubectl(&["create", "rolebinding", "mine", "--role=mine", "--serviceaccount=default:robot"]);
    robot.may(&["get", "configmap", "mine"]);
    robot.may_not(&["get", "configmap", "kube-root-ca.crt"], "", "is forbidden");
    robot.may_not(&["get", "configmaps"], "", "is forbidden");

    // The namespace's administrator grants what he has, and no more.
    c.kubectl(&["create", "rolebinding", "chief", "--clusterrole=admin", "--serviceaccount=default:robot"]);
    c.eventually("the collected rules", || robot.says(&["get", "secrets"], "").0.then_some(()));
    robot.may(&["create", "role", "watcher", "--verb=get,watch", "--resource=pods"]);
    robot.may_not(
        &["create", "role", "chief", "--verb=patch", "--resource=nodes"],
        "",
        "is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"patch\"]}",
    );
    robot.may_not(
        &["create", "rolebinding", "all", "--clusterrole=cluster-admin", "--serviceaccount=default:robot"],
        "",
        "is attempting to grant RBAC permissions not currently held",
    );
    robot.may(&["create", "rolebinding", "viewers", "--clusterrole=view", "--user=jane"]);
    robot.may_not(
        &["patch", "rolebinding", "viewers", "--type=merge", "-p", "{\"roleRef\":{\"name\":\"edit\"}}"],
        "",
        "cannot change roleRef",
    );
    robot.may_not(&["create", "clusterrole", "x", "--verb=get", "--resource=pods"], "", "clusterroles");

    // Reconciled by the client: rules are added, and a binding is made.
    let wanted = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: reader, namespace: default}\n\
                  rules: [{verbs: [watch], apiGroups: [''], resources: [pods]}]\n";
    c.kubectl_with(&["auth", "reconcile", "-f", "-"], wanted);
    assert_eq!(c.field("role/reader", "{.rules[*].verbs[*]}"), "get list watch");
    assert!(c.kubectl(&["auth", "can-i", "list", "pods", "--as=jane"]).contains("yes"));

    // Who asks for others: the review says by which binding.
    let review = "apiVersion: authorization.k8s.io/v1\nkind: SubjectAccessReview\nspec: {user: jane, \
                  resourceAttributes: {verb: list, resource: pods, namespace: default}}\n";
    let answer = c.kubectl_with(&["create", "-f", "-", "-o", "jsonpath={.status.reason}"], review);
    assert_eq!(answer, "RBAC: allowed by RoleBinding \"viewers/default\" of ClusterRole \"view\" to User \"jane\"");
    c.kubectl(&["delete", "rolebinding", "chief", "robot"]);
    robot.may_not(&["get", "pods"], "", "pods is forbidden");
}

#[test]
fn the_roles_of_every_cluster_are_there_and_come_back_at_a_start() {
    let Some(machine) = super::machine() else { return };
    let c = machine.up(&[]);
    let roles = c.eventually("the roles", || {
        let roles = c.kubectl(&["get", "clusterroles", "--no-headers"]);
        let all = ["cluster-admin", "view", "system:controller:job-controller", "sampan:hollow"];
        all.iter().all(|name| roles.lines().any(|line| line.split(' ').next() == Some(name))).then_some(roles)
    });
    assert!(roles.lines().count() > 70, "{roles}");
    assert!(c.kubectl(&["get", "--raw", "/readyz?verbose"]).contains("[+]poststarthook/rbac/bootstrap-roles ok"));
    let wide =
        c.kubectl(&["get", "clusterrolebinding", "system:controller:job-controller", "-o", "wide", "--no-headers"]);
    assert!(wide.contains("kube-system/job-controller"), "{wide}");
    let kept = "rbac.authorization.kubernetes.io/autoupdate=false";
    c.kubectl(&["patch", "clusterrole", "system:heapster", "--type=merge", "-p", "{\"rules\":[]}"]);
    c.kubectl(&["annotate", "--overwrite", "clusterrole", "system:kube-dns", kept]);
    c.kubectl(&["patch", "clusterrole", "system:kube-dns", "--type=merge", "-p", "{\"rules\":[]}"]);
    c.kubectl(&["delete", "clusterrolebinding", "system:basic-user"]);
    assert_eq!(c.interrupt(), 0);
    let c = machine.up(&[]);
    c.eventually("what was taken away", || {
        let heapster = c.field("clusterrole/system:heapster", "{.rules[*].resources[*]}");
        let bound = c.kubectl(&["get", "clusterrolebindings", "-o", "name"]).contains("system:basic-user");
        (heapster.contains("deployments") && bound).then_some(())
    });
    assert_eq!(c.field("clusterrole/system:kube-dns", "{.rules[*].verbs}"), "", "its owner keeps it");
}
