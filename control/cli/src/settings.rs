//! The flags of `up` that a cluster has from its start. A running one tells its own in its lock, so that an `up -f` that joins it can say
//! what it does not change, and takes in silence what is so already.

use crate::{args::UpArgs, data_dir::DataDir, data_dir::Holder, machine};
use api::quantity::Quantity;
use ipnet::IpNet;
use std::{collections::BTreeMap, net::SocketAddr};

/// What separates the values of a flag that may be repeated.
const SEPARATOR: &str = ",";

/// Each flag that was given and that only a start takes, with its value; one that was repeated for each value.
pub(crate) fn asked(args: &UpArgs) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    let mut one = |flag: &'static str, value: Option<String>| all.extend(value.map(|value| (flag, value)));
    one("--listen", args.listen.map(|it| it.to_string()));
    one("--node-address", args.node_address.map(|it| it.to_string()));
    one("--drain", args.drain.map(|seconds| format!("{seconds}s")));
    one("--node-name", args.node.node_name.clone());
    one("--cpu", args.node.cpu.clone());
    one("--memory", args.node.memory.clone());
    one("--max-pods", args.node.max_pods.map(|it| it.to_string()));
    one("--reserved-cpu", args.node.reserved_cpu.clone());
    one("--reserved-memory", args.node.reserved_memory.clone());
    one("--pod-cidr", args.node.pod_cidr.clone());
    one("--service-cidr", args.node.service_cidr.clone());
    all.extend(args.tls_san.iter().map(|name| ("--tls-san", name.clone())));
    all.extend(args.node.allow_egress.iter().map(|range| ("--allow-egress", range.clone())));
    all
}

/// What these flags come to at a start. `node` is the node's name, `names` are all names of the API.
pub(crate) fn of(args: &UpArgs, node: &str, names: &[String]) -> BTreeMap<String, String> {
    let given = |given: &Option<String>, machine: String| given.clone().unwrap_or(machine);
    let all = [
        ("--listen", args.listen().to_string()),
        ("--node-address", args.node_address().to_string()),
        ("--drain", format!("{}s", args.drain())),
        ("--node-name", node.to_owned()),
        ("--cpu", given(&args.node.cpu, machine::cpus().to_string())),
        ("--memory", given(&args.node.memory, machine::total_memory().to_string())),
        ("--max-pods", args.node.max_pods().to_string()),
        ("--reserved-cpu", args.node.reserved_cpu().to_owned()),
        ("--reserved-memory", args.node.reserved_memory().to_owned()),
        ("--pod-cidr", args.pod_cidr().to_owned()),
        ("--service-cidr", args.service_cidr().to_owned()),
        ("--tls-san", names.join(SEPARATOR)),
        ("--allow-egress", args.node.allow_egress.join(SEPARATOR)),
    ];
    all.into_iter().map(|(flag, value)| (flag.to_owned(), value)).collect()
}

/// Refuses flags by which the cluster that runs would have to become another one.
pub(crate) fn check(asked: &[(&'static str, String)], dir: &DataDir, running: &Holder) -> anyhow::Result<()> {
    let other =
        |(flag, value): &&(&'static str, String)| !running.flags.get(*flag).is_some_and(|now| is_so(flag, value, now));
    let differing: Vec<String> = asked.iter().filter(other).map(|(flag, value)| format!("{flag} {value}")).collect();
    if differing.is_empty() {
        return Ok(());
    }
    anyhow::bail!(
        "the cluster of {} runs already (process {}), without {}; stop it first with `{}`",
        dir.path().display(),
        running.pid,
        differing.join(" "),
        dir.client_command("down")
    )
}

/// Whether a cluster that runs with `now` has what `value` asks for.
fn is_so(flag: &str, value: &str, now: &str) -> bool {
    let quantity = |text: &str| Quantity::parse(text).ok();
    let range = |text: &str| text.parse::<IpNet>().map(|range| range.trunc()).ok();
    let address = |text: &str| text.parse::<SocketAddr>().ok();
    value == now
        || match flag {
            // Port 0 is any port.
            "--listen" => {
                address(value).zip(address(now)).is_some_and(|(value, now)| value.port() == 0 && value.ip() == now.ip())
            }
            "--cpu" | "--memory" | "--reserved-cpu" | "--reserved-memory" => {
                quantity(value).is_some_and(|value| quantity(now) == Some(value))
            }
            "--pod-cidr" | "--service-cidr" => range(value).is_some_and(|value| range(now) == Some(value)),
            "--tls-san" | "--allow-egress" => now.split(SEPARATOR).any(|now| now == value),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    fn up(flags: &[&str]) -> UpArgs {
        let all = ["sampan", "up"].iter().chain(flags);
        let crate::args::Command::Up(args) = crate::args::Cli::parse_from(all).command else { panic!("not up") };
        *args
    }

    /// What a cluster that was started with some flags says to others.
    fn told(started: &[&str], flags: &[&str]) -> Option<String> {
        let running = Holder { pid: 7, flags: of(&up(started), "n", &["a.example".to_owned()]), ..Holder::default() };
        let dir = DataDir::locate(Some("/d".as_ref())).expect("a path");
        check(&asked(&up(flags)), &dir, &running).err().map(|error| error.to_string())
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
        ] {
            assert_eq!(told(&[], flags), None, "{flags:?}");
        }
        let started = ["--cpu", "2", "--memory", "1Gi", "--allow-egress", "127.0.0.1", "--allow-egress", "::1"];
        assert_eq!(told(&started, &["--cpu", "2000m", "--memory", "1024Mi", "--allow-egress", "::1"]), None);
        assert!(told(&started, &["--cpu", "1"]).is_some());
    }

    #[test]
    fn every_flag_of_up_is_a_cluster_s_or_a_call_s() {
        const OF_A_CALL: [&str; 11] = [
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
        let known = of(&up(&[]), "n", &[]);
        for arg in root.find_subcommand("up").expect("up").get_arguments().filter_map(clap::Arg::get_long) {
            let of_a_cluster = known.contains_key(&format!("--{arg}"));
            assert!(of_a_cluster != (OF_A_CALL.contains(&arg) || arg == "version"), "--{arg}");
        }
    }
}
