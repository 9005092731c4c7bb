//! Checks that involve several settings or the machine. They run before anything is changed. Their errors are usage errors (exit code 2),
//! like those of invalid flags, in the foreground and with `--detach`.

use crate::{exit::usage, settings::Settings};
use api::quantity::Quantity;
use ipnet::IpNet;
use std::{io::ErrorKind, net::TcpListener};

/// Addresses of a node's range that no pod gets: the network address, the node's own and the last.
const NOT_FOR_PODS: u64 = 3;

/// Rejects ranges that overlap or are too small, reserves that leave no resources, and addresses that this machine does not have.
pub(crate) fn together(settings: &Settings) -> anyhow::Result<()> {
    ranges(settings).and_then(|()| reserves(settings)).and_then(|()| addresses(settings)).map_err(usage)
}

fn ranges(settings: &Settings) -> Result<(), String> {
    let (pods, services) = (settings.pod_cidr(), settings.service_cidr());
    if pods.contains(&services) || services.contains(&pods) {
        return Err(format!(
            "--pod-cidr {pods} and --service-cidr {services} overlap; give ranges apart, for example 10.32.0.0/11 and 10.96.0.0/16"
        ));
    }
    for (flag, range) in [("--pod-cidr", pods), ("--service-cidr", services)] {
        for (other, address) in [("--listen", settings.listen().ip()), ("--node-address", settings.node_address())] {
            // The unspecified address stands for all addresses of the machine; only the range 0.0.0.0/0 contains it.
            if range.contains(&address) {
                return Err(format!(
                    "{flag} {range} holds {address}, which {other} names; give a range that this machine does not use"
                ));
            }
        }
    }
    hollow(settings).and_then(|()| has_room(settings))
}

/// Whether the range of the hollow nodes has enough addresses, and is apart from those of pods and Services.
fn hollow(settings: &Settings) -> Result<(), String> {
    let (range, nodes) = (settings.hollow_cidr(), settings.hollow_nodes());
    let most = hollow::most_nodes(&range);
    if nodes > most {
        return Err(format!(
            "--hollow-nodes {nodes}: --hollow-cidr {range} has addresses for {most} nodes, 256 for each; give a wider range or fewer nodes"
        ));
    }
    let whole = IpNet::V4(range);
    for (flag, other) in [("--pod-cidr", settings.pod_cidr()), ("--service-cidr", settings.service_cidr())] {
        if other.contains(&whole) || whole.contains(&other) {
            return Err(format!("--hollow-cidr {range} and {flag} {other} overlap; give ranges apart"));
        }
    }
    Ok(())
}

/// Whether a node's range has enough addresses for its pods.
fn has_room(settings: &Settings) -> Result<(), String> {
    let (pods, max) = (settings.pod_cidr(), u64::from(settings.max_pods()));
    if let Some(mask) = settings.node_cidr_mask_size.filter(|mask| *mask < pods.prefix_len()) {
        let least = pods.prefix_len();
        return Err(format!("--node-cidr-mask-size {mask}: --pod-cidr {pods} is smaller; give {least} or more"));
    }
    let node = settings.node_cidr();
    let room = (1_u64 << (node.max_prefix_len() - node.prefix_len())).saturating_sub(NOT_FOR_PODS);
    if room >= max {
        return Ok(());
    }
    let mask = settings.node_cidr_mask_size();
    let wide_enough = |prefix: &u8| (1_u64 << (32 - prefix)) - NOT_FOR_PODS >= max;
    if pods.prefix_len() <= mask {
        let what = format!("--max-pods {max}: a node has a /{mask} of --pod-cidr {pods}, room for {room} pods");
        return Err(match (pods.prefix_len().max(8)..mask).rev().find(wide_enough) {
            Some(prefix) => format!("{what}; give --node-cidr-mask-size {prefix}, or --max-pods {room}"),
            None => format!("{what}; give --max-pods {room}"),
        });
    }
    let what = format!("--pod-cidr {pods} has room for {room} pods, fewer than --max-pods {max}");
    Err(match ((mask..=29).rev().find(wide_enough), room) {
        (Some(prefix), 0) => format!("{what}; give at least a /{prefix}"),
        (Some(prefix), _) => format!("{what}; give at least a /{prefix}, or --max-pods {room}"),
        (None, _) => format!("{what}; give --max-pods {room}"),
    })
}

/// The flag, the machine's amount, and its text of a node resource.
fn machine() -> [(&'static str, Quantity, String); 2] {
    let none = Settings::default();
    let mebibytes = format!("{}Mi", none.memory().value() >> 20);
    [("cpu", none.cpu(), none.cpu().to_string()), ("memory", none.memory(), mebibytes)]
}

fn reserves(settings: &Settings) -> Result<(), String> {
    let wanted = [(settings.cpu, settings.reserved_cpu()), (settings.memory, settings.reserved_memory())];
    for ((name, has, shown), (all, reserved)) in machine().into_iter().zip(wanted) {
        match all {
            Some(all) if all <= reserved => {
                return Err(format!(
                    "--{name} {all} is not more than --reserved-{name} {reserved}: nothing is left for pods; give more --{name}, or less --reserved-{name}"
                ));
            }
            None if has <= reserved => {
                return Err(format!(
                    "--reserved-{name} {reserved} is all that this machine has ({shown}): nothing is left for pods; give less --reserved-{name}"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Warnings about settings that are accepted but may harm pods.
pub(crate) fn warnings(settings: &Settings) -> Vec<String> {
    let mut all = Vec::new();
    for ((name, has, shown), wanted) in machine().into_iter().zip([settings.cpu, settings.memory]) {
        if let Some(wanted) = wanted.filter(|wanted| *wanted > has) {
            all.push(format!(
                "warning: --{name} {wanted} is more than this machine has ({shown}): pods may not get what they ask for"
            ));
        }
    }
    all
}

/// Whether this machine has the addresses. Checks by binding any port.
fn addresses(settings: &Settings) -> Result<(), String> {
    for (flag, address) in [("--listen", settings.listen().ip()), ("--node-address", settings.node_address())] {
        if let Err(error) = TcpListener::bind((address, 0)) {
            let what = match error.kind() {
                ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
                _ => crate::exit::io(&error),
            };
            let all = if address.is_ipv4() { "0.0.0.0" } else { "::" };
            return Err(format!(
                "{flag} {address}: {what}; use one of its own, 127.0.0.1 for itself only or {all} for all"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::args::{Cli, Command};
    use clap::Parser;

    /// The error of `sampan up` with these flags, including the check of the machine's addresses.
    fn up(flags: &[&str]) -> Result<(), String> {
        let all = ["sampan", "up"].iter().chain(flags);
        let Command::Up(args) = Cli::try_parse_from(all).map_err(|error| error.to_string())?.command else {
            panic!("not up")
        };
        super::together(&args.settings).map_err(|error| {
            assert_eq!(crate::exit::code(&error), 2, "{error}");
            error.to_string()
        })
    }

    #[test]
    fn what_is_right_is_taken() {
        for flags in [
            &[][..],
            &["--cpu", "500m", "--memory", "512Mi"],
            &["--max-pods", "50000"],
            &["--max-pods", "500000", "--node-cidr-mask-size", "13"],
            &["--max-pods", "250", "--node-cidr-mask-size", "24"],
            &["--max-pods", "1", "--pod-cidr", "10.0.0.0/30"],
            &["--max-pods", "253", "--pod-cidr", "10.0.0.0/24", "--service-cidr", "10.0.1.0/29"],
            &["--listen", "0.0.0.0:0", "--node-address", "0.0.0.0"],
            &["--listen", "127.3.4.5:0", "--node-address", "127.3.4.5"],
            &["--allow-egress", "192.168.1.7", "--allow-egress", "10.0.0.0/8"],
            &["--memory", "64Mi", "--reserved-memory", "0"],
        ] {
            assert_eq!(up(flags), Ok(()), "{flags:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_right() {
        for (flags, flag, right) in [
            (&["--max-pods", "0"][..], "--max-pods", "1.."),
            (&["--max-pods", "-1"], "--max-pods", ""),
            (&["--max-pods", "70000"], "--max-pods", "give --node-cidr-mask-size 15, or --max-pods 65533"),
            (&["--max-pods", "3000000"], "--max-pods", "give --max-pods 65533"),
            (&["--node-cidr-mask-size", "24"], "a node has a /24", "give --node-cidr-mask-size 18, or --max-pods 253"),
            (&["--node-cidr-mask-size", "10"], "--pod-cidr 10.32.0.0/11 is smaller", "give 11 or more"),
            (&["--node-cidr-mask-size", "31"], "--node-cidr-mask-size", "8 to 30"),
            (&["--node-cidr-mask-size", "-1"], "--node-cidr-mask-size", ""),
            (&["--memory", "63Mi"], "--memory", "at least 64Mi"),
            (&["--memory", "1"], "--memory", "at least 64Mi"),
            (&["--memory", "lots"], "--memory", "for example 512Mi"),
            (&["--memory", "256Mi"], "--reserved-memory", "less --reserved-memory"),
            (&["--cpu", "banana"], "--cpu", "for example 2 or 500m"),
            (&["--cpu", "0"], "--cpu", "more than 0"),
            (&["--cpu", "-1"], "--cpu", ""),
            (&["--cpu", "1e30"], "--cpu", "for example 2"),
            (&["--cpu", "100m"], "--reserved-cpu", "less --reserved-cpu"),
            (&["--reserved-cpu=-1"], "--reserved-cpu", "0 or more"),
            (&["--reserved-memory", "x"], "--reserved-memory", "256Mi"),
            (&["--reserved-memory", "1Pi"], "--reserved-memory 1Pi", "this machine has"),
            (&["--reserved-cpu", "1M"], "--reserved-cpu 1M", "this machine has"),
            (&["--node-name", "A_b"], "--node-name", "lower case"),
            (&["--node-address", "8.8.8.8"], "--node-address", "0.0.0.0 for all"),
            (&["--node-address", "home"], "--node-address", "0.0.0.0 for all"),
            (&["--node-address", "2001:db8::1"], "--node-address", ":: for all"),
            (&["--listen", "8.8.8.8:0"], "--listen", "this machine has no such address"),
            (&["--listen", "localhost:6443"], "--listen", "127.0.0.1:6443"),
            (&["--listen", "127.0.0.1"], "--listen", "127.0.0.1:6443"),
            (&["--listen", "127.0.0.1:70000"], "--listen", "127.0.0.1:6443"),
            (&["--pod-cidr", "10.32"], "--pod-cidr", "10.32.0.0/11"),
            (&["--pod-cidr", "fd00::/64"], "--pod-cidr", "only IPv4"),
            (&["--pod-cidr", "10.0.0.0/24"], "--pod-cidr 10.0.0.0/24", "at least a /18, or --max-pods 253"),
            (&["--pod-cidr", "10.0.0.1", "--max-pods", "5"], "--pod-cidr", "at least a /29"),
            (&["--service-cidr", "10.96.0.0/30"], "--service-cidr", "10.96.0.0/29"),
            (&["--service-cidr", "10.33.0.0/16"], "--service-cidr", "overlap"),
            (&["--service-cidr", "10.0.0.0/8"], "--pod-cidr", "overlap"),
            (&["--pod-cidr", "127.0.0.0/8"], "--pod-cidr", "--listen"),
            (&["--service-cidr", "127.0.0.0/16"], "--service-cidr", "--listen"),
            (
                &["--listen", "127.0.0.1:0", "--node-address", "127.9.0.1", "--service-cidr", "127.9.0.0/16"],
                "--service-cidr",
                "--node-address",
            ),
            (&["--allow-egress", "everything"], "--allow-egress", "192.168.1.0/24"),
        ] {
            let error = up(flags).expect_err(&format!("{flags:?}"));
            assert!(error.contains(flag) && error.contains(right), "{flags:?}: {error}");
        }
    }

    #[test]
    fn more_than_the_machine_has_is_warned_of() {
        let warnings = |flags: &[&str]| {
            let Ok(Cli { command: Command::Up(args), .. }) = Cli::try_parse_from(["sampan", "up"].iter().chain(flags))
            else {
                panic!("not up")
            };
            super::warnings(&args.settings)
        };
        assert_eq!(warnings(&["--cpu", "1", "--memory", "64Mi"]), Vec::<String>::new());
        let both = warnings(&["--cpu", "1M", "--memory", "1Pi"]);
        assert_eq!(both.len(), 2, "{both:?}");
        assert!(both[0].contains("--cpu 1M is more") && both[1].contains("--memory 1Pi is more"), "{both:?}");
    }
}
