use super::*;
use clap::{CommandFactory, Parser};

fn up(flags: &[&str]) -> Settings {
    let all = ["sampan", "up"].iter().chain(flags);
    let crate::args::Command::Up(args) = crate::args::Cli::parse_from(all).command else { panic!("not up") };
    args.settings
}

/// The lock of a cluster that was started with these flags.
fn told(started: &[&str], flags: &[&str]) -> Option<String> {
    let running =
        Holder { pid: 7, flags: up(started).of_cluster("n", vec!["a.example".to_owned()]), ..Holder::default() };
    let dir = DataDir::locate(Some("/d".as_ref())).expect("a path");
    up(flags).check_running(&dir, &running).err().map(|error| error.to_string())
}

#[test]
fn flags_that_a_running_cluster_cannot_take_are_named_with_what_to_do() {
    let error = told(&[], &["--cpu", "1m", "--listen", "127.0.0.1:7"]).expect("refused");
    let want = "the cluster of /d runs already (process 7), without --listen 127.0.0.1:7 --cpu 1m; stop it first with \
                `sampan down --data-dir /d`";
    assert_eq!(error, want);
    for flags in [
        &["--node-address", "127.0.0.2"][..],
        &["--tls-san", "b.example"],
        &["--drain", "60s"],
        &["--node-name", "other"],
        &["--memory", "65Mi"],
        &["--max-pods", "7"],
        &["--reserved-cpu", "1m"],
        &["--reserved-memory", "1Mi"],
        &["--pod-cidr", "10.64.0.0/11"],
        &["--node-cidr-mask-size", "17"],
        &["--service-cidr", "10.97.0.0/16"],
        &["--allow-egress", "127.0.0.1"],
    ] {
        let error = told(&[], flags).unwrap_or_else(|| panic!("{flags:?} is ignored"));
        assert!(error.contains(&flags.join(" ")), "{error}");
    }
}

#[test]
fn what_is_so_already_and_what_concerns_only_this_call_is_taken() {
    for flags in [
        &[][..],
        &["-f", "x", "-R", "--timeout", "5s", "--detach", "-o", "json", "--merge-kubeconfig", "--kubeconfig", "f"],
        &["--listen", "127.0.0.1:6443", "--node-address", "127.0.0.1", "--drain", "10", "--max-pods", "10000"],
        &["--listen", "127.0.0.1:0", "--tls-san", "a.example", "--node-name", "n", "--pod-cidr", "10.32.0.1/11"],
        &["--node-cidr-mask-size", "16"],
    ] {
        assert_eq!(told(&[], flags), None, "{flags:?}");
    }
    let started = ["--cpu", "2", "--memory", "1Gi", "--allow-egress", "127.0.0.1", "--allow-egress", "::1"];
    assert_eq!(told(&started, &["--cpu", "2000m", "--memory", "1024Mi", "--allow-egress", "::1"]), None);
    assert!(told(&started, &["--cpu", "1"]).is_some());
}

#[test]
fn every_flag_of_up_is_a_cluster_s_or_a_call_s() {
    const OF_A_CALL: [&str; 12] = [
        "config",
        "filename",
        "data-dir",
        "recursive",
        "timeout",
        "kubeconfig",
        "merge-kubeconfig",
        "detach",
        "output",
        "verbose",
        "quiet",
        "help",
    ];
    let mut root = crate::args::Cli::command();
    root.build();
    let names = vec!["a.example".to_owned()];
    let some = Settings { scheduler_config: Some("f".into()), ..up(&["--allow-egress", "::1"]) };
    let known = some.of_cluster("n", names);
    for arg in root.find_subcommand("up").expect("up").get_arguments().filter_map(clap::Arg::get_long) {
        let of_a_cluster = known.contains_key(&format!("--{arg}"));
        assert!(of_a_cluster != (OF_A_CALL.contains(&arg) || arg == "version"), "--{arg}");
    }
}

#[test]
fn a_flag_that_is_given_wins_over_the_file() {
    let file = up(&["--cpu", "1", "--memory", "1Gi", "--tls-san", "a.example,b.example", "--allow-egress", "::1"]);
    let flags = up(&["--cpu", "2", "--tls-san", "c.example", "--max-pods", "7"]);
    let want =
        up(&["--cpu", "2", "--memory", "1Gi", "--tls-san", "c.example", "--allow-egress", "::1", "--max-pods", "7"]);
    assert_eq!(flags.or(file), want);
}

#[test]
fn a_node_has_the_first_of_the_range_of_pods() {
    for (flags, node) in [
        (&["--pod-cidr", "10.64.0.0/11"][..], "10.64.0.0/16"),
        (&["--pod-cidr", "10.0.0.0/24"], "10.0.0.0/24"),
        (&["--pod-cidr", "10.64.0.0/11", "--node-cidr-mask-size", "12"], "10.64.0.0/12"),
        (&["--pod-cidr", "10.64.0.0/11", "--node-cidr-mask-size", "24"], "10.64.0.0/24"),
    ] {
        assert_eq!(up(flags).node_cidr().to_string(), node);
    }
}
