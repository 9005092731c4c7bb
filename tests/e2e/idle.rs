//! An idle Deployment at zero replicas: a request is held, wakes it, and is answered.

use crate::harness::*;
use std::{
    thread,
    time::{Duration, Instant},
};

#[test]
fn a_request_wakes_what_was_idle_and_what_was_put_to_zero_refuses() {
    let Some(curl) = kubectl().and(tool("CURL", "curl")) else { return skipped("curl or kubectl is missing") };
    let machine = Machine::new();
    sample("hello", &machine.path("work"));
    let folder = sample("idle", &machine.path("work"));
    let cluster = machine.up(&[]);
    let output = machine.run(&["apply", "-f", &folder.display().to_string(), "--wait"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // the time of the sample is for people
    cluster.kubectl(&["annotate", "--overwrite", "deployment", "idle", "sampan.dev/scale-to-zero-after=5s"]);
    let url = String::from_utf8_lossy(&machine.run(&["url", "idle"]).stdout).trim().to_owned();
    let ask = || {
        let args =
            ["--silent", "--show-error", "--max-time", "50", "--write-out", "\n%{http_code} %{time_total}", &url];
        let output = machine.command(&curl, &args).output().expect("curl runs");
        (output.status.code(), String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned())
    };
    let (code, said) = ask();
    assert!(code == Some(0) && said.starts_with("Hello from idle-"), "{said}");
    let asleep = || {
        let replicas = cluster.field("deployment/idle", "{.spec.replicas}");
        let pods = cluster.kubectl(&["get", "pods", "-l", "app=idle", "-o", "name"]);
        (replicas == "0" && pods.is_empty()).then_some(())
    };
    cluster.eventually("it sleeps", asleep);
    // held, and answered, all of them
    let begin = Instant::now();
    thread::scope(|scope| {
        let asked: Vec<_> = (0..10).map(|_| scope.spawn(ask)).collect();
        for one in asked {
            let (code, said) = one.join().expect("no panic");
            assert!(code == Some(0) && said.contains("Hello from idle-") && said.contains("\n200 "), "{said}");
        }
    });
    eprintln!("ten requests of zero replicas were answered within {:?}", begin.elapsed());
    let woken = || Some(cluster.kubectl(&["get", "events"])).filter(|events| events.contains("WokenByRequest"));
    let events = cluster.eventually("the event", woken);
    assert!(events.contains("Scaled up to 1: a request waits") && events.contains("no request for 5s"), "{events}");
    // by the API's proxy too
    cluster.eventually("it sleeps again", asleep);
    let said = cluster.kubectl(&["get", "--raw", "/api/v1/namespaces/default/services/idle:80/proxy/"]);
    assert!(said.contains("Hello from idle-"), "{said}");
    // by hand it is another thing
    cluster.kubectl(&["annotate", "deployment", "idle", "sampan.dev/scale-to-zero-after-"]);
    cluster.kubectl(&["scale", "deployment", "idle", "--replicas=0"]);
    cluster.eventually("no pods", asleep);
    let refused = || Some(ask()).filter(|(code, _)| *code == Some(7));
    let begin = Instant::now();
    cluster.eventually("connection refused", refused);
    assert!(begin.elapsed() < Duration::from_secs(30));
    // what is wrong is told when it is applied
    let warned = cluster.kubectl_output(&["annotate", "deployment", "idle", "sampan.dev/scale-to-zero-after=soon"], "");
    let warned = String::from_utf8_lossy(&warned.stderr).into_owned();
    assert!(warned.contains("invalid value \"soon\": must be a time above 0"), "{warned}");
}
