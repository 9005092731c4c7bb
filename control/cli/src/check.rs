//! What the flags of `up` may be. All of it is checked before anything is touched, so that a wrong flag is a usage error (exit
//! code 2) that names the flag and says what is right, in the foreground and with `--detach` alike.
//!
//! The first half are clap's value parsers, one flag each; [`together`] is what only several flags show.

use crate::{args::UpArgs, exit::usage, machine};
use api::quantity::Quantity;
use ipnet::IpNet;
use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpListener},
    time::Duration,
};

/// Below this not even one guest runs.
const LEAST_MEMORY: i64 = 64 << 20;
/// Room for few Services; upstream asks for as many.
const LEAST_SERVICES: u64 = 8;
/// The longest prefix with that many addresses.
const SERVICES_PREFIX: u8 = 29;
/// The range of one node within the pod range.
const NODE_PREFIX: u8 = 18;
/// Addresses of a node's range that no pod gets: the network's, the node's own and the last.
const NOT_FOR_PODS: u64 = 3;

/// `--listen`.
pub(crate) fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "use an IP address and a port, for example 127.0.0.1:6443, or port 0 for a free one; names are not looked up"
            .to_owned()
    })
}

/// `--node-address`.
pub(crate) fn node_address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "use an IP address of this machine, for example 127.0.0.1, or 0.0.0.0 for all".to_owned())
}

/// `--tls-san`: what a certificate can name.
pub(crate) fn tls_san(text: &str) -> Result<String, String> {
    // One label may be left open, as in a certificate.
    let name = text.strip_prefix("*.").unwrap_or(text);
    if text.parse::<IpAddr>().is_ok() || api::names::dns1123_subdomain(name).is_empty() {
        return Ok(text.to_owned());
    }
    Err("use a DNS name in lower case or an IP address, for example host.docker.internal or 192.168.1.7".to_owned())
}

/// `--node-name`.
pub(crate) fn node_name(text: &str) -> Result<String, String> {
    match api::names::dns1123_subdomain(text).into_iter().next() {
        Some(problem) => Err(problem),
        None => Ok(text.to_owned()),
    }
}

/// `--cpu`: more than none.
pub(crate) fn cpu(text: &str) -> Result<String, String> {
    let cpus = quantity(text, "2 or 500m")?;
    match cpus.milli_value() {
        ..=0 => Err("use more than 0, for example 2 or 500m".to_owned()),
        _ if cpus.value() > i64::from(u32::MAX) => {
            Err("that is more than any machine has; use for example 2".to_owned())
        }
        _ => Ok(text.to_owned()),
    }
}

/// `--memory`: room for a guest.
pub(crate) fn memory(text: &str) -> Result<String, String> {
    match quantity(text, "512Mi or 2Gi")?.value() {
        ..LEAST_MEMORY => Err("use at least 64Mi, for example 512Mi or 2Gi".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

/// `--reserved-cpu`: none, or more.
pub(crate) fn reserved_cpu(text: &str) -> Result<String, String> {
    not_negative(text, "100m or 0")
}

/// `--reserved-memory`: none, or more.
pub(crate) fn reserved_memory(text: &str) -> Result<String, String> {
    not_negative(text, "256Mi or 0")
}

fn not_negative(text: &str, example: &str) -> Result<String, String> {
    match quantity(text, example)?.signum() {
        ..0 => Err(format!("use 0 or more, for example {example}")),
        _ => Ok(text.to_owned()),
    }
}

/// The longest drain.
const MAX_DRAIN: u64 = 3600;

/// `--drain`: whole seconds.
pub(crate) fn drain(text: &str) -> Result<u32, String> {
    let seconds = duration(text, "10s or 1m")?.as_secs();
    match seconds {
        1..=MAX_DRAIN => Ok(u32::try_from(seconds).unwrap_or(u32::MAX)),
        _ => Err("use 1s to 1h, for example 10s or 1m".to_owned()),
    }
}

/// `--timeout`, `--since`: more than nothing.
pub(crate) fn timeout(text: &str) -> Result<Duration, String> {
    match duration(text, "90s, 2m or 1h")? {
        Duration::ZERO => Err("use more than 0, for example 90s, 2m or 1h".to_owned()),
        time => Ok(time),
    }
}

/// A time as Go writes it, such as 90s, 2m or 1h30m; a number without a unit counts seconds.
fn duration(text: &str, example: &str) -> Result<Duration, String> {
    let wrong = || format!("it is not a time; use for example {example}");
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let (mut total, mut rest) = (0_u64, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u32 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = match rest[digits..].chars().next() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3600,
            _ => return Err(wrong()),
        };
        total = total.saturating_add(u64::from(number) * unit);
        rest = &rest[digits + 1..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(Duration::from_secs(total)) }
}

fn quantity(text: &str, example: &str) -> Result<Quantity, String> {
    Quantity::parse(text).map_err(|_| format!("it is not a quantity; use for example {example}"))
}

/// `--pod-cidr`; whether it is large enough depends on `--max-pods`.
pub(crate) fn pod_cidr(text: &str) -> Result<String, String> {
    cidr(text, "10.32.0.0/11").map(|_| text.to_owned())
}

/// `--service-cidr`.
pub(crate) fn service_cidr(text: &str) -> Result<String, String> {
    let range = cidr(text, "10.96.0.0/16")?;
    if size(&range) < LEAST_SERVICES {
        let wider = IpNet::new(range.addr(), SERVICES_PREFIX).map_or(range, |net| net.trunc());
        return Err(format!("it has {} addresses, at least {LEAST_SERVICES} are needed: {wider}", size(&range)));
    }
    Ok(text.to_owned())
}

/// `--allow-egress`: a range, or one address.
pub(crate) fn allow_egress(text: &str) -> Result<String, String> {
    if text.parse::<IpAddr>().is_ok() || text.parse::<IpNet>().is_ok() {
        return Ok(text.to_owned());
    }
    Err("use an IP address or a range, for example 192.168.1.7 or 192.168.1.0/24".to_owned())
}

fn cidr(text: &str, example: &str) -> Result<IpNet, String> {
    // One address is a range of its own, as everywhere else; it is then found to be too small.
    let address = text.parse::<IpAddr>().map(IpNet::from);
    let net = address.or_else(|_| text.parse::<IpNet>()).map_err(|_| format!("use a range, for example {example}"))?;
    match net.addr() {
        IpAddr::V4(_) => Ok(net.trunc()),
        IpAddr::V6(_) => Err(format!("only IPv4 ranges are supported, for example {example}")),
    }
}

fn size(range: &IpNet) -> u64 {
    1 << (range.max_prefix_len() - range.prefix_len()).min(63)
}

/// What only several flags show, and what this machine says to the addresses.
pub(crate) fn together(args: &UpArgs) -> anyhow::Result<()> {
    ranges(args).and_then(|()| reserves(args)).and_then(|()| addresses(args)).map_err(usage)
}

fn ranges(args: &UpArgs) -> Result<(), String> {
    let pods = cidr(args.pod_cidr(), "10.32.0.0/11").map_err(|e| format!("--pod-cidr: {e}"))?;
    let services = cidr(args.service_cidr(), "10.96.0.0/16").map_err(|e| format!("--service-cidr: {e}"))?;
    if pods.contains(&services) || services.contains(&pods) {
        return Err(format!(
            "--pod-cidr {pods} and --service-cidr {services} overlap; give ranges apart, for example 10.32.0.0/11 and 10.96.0.0/16"
        ));
    }
    for (flag, range) in [("--pod-cidr", pods), ("--service-cidr", services)] {
        for (other, address) in [("--listen", args.listen().ip()), ("--node-address", args.node_address())] {
            // Unspecified is every address of the machine: the range 0.0.0.0/0 alone holds it.
            if range.contains(&address) {
                return Err(format!(
                    "{flag} {range} holds {address}, which {other} names; give a range that this machine does not use"
                ));
            }
        }
    }
    let max = u64::from(args.node.max_pods());
    let node = pods.prefix_len().max(NODE_PREFIX);
    let room = (1_u64 << (pods.max_prefix_len() - node)).saturating_sub(NOT_FOR_PODS);
    if room >= max {
        return Ok(());
    }
    let what = match pods.prefix_len() > NODE_PREFIX {
        true => format!("--pod-cidr {pods} has room for {room} pods, fewer than --max-pods {max}"),
        false => format!("--max-pods {max}: a node has a /{NODE_PREFIX} of --pod-cidr, room for {room} pods"),
    };
    Err(match (least_prefix(max), room) {
        (Some(prefix), 0) => format!("{what}; give at least a /{prefix}"),
        (Some(prefix), _) => format!("{what}; give at least a /{prefix}, or --max-pods {room}"),
        (None, _) => format!("{what}; give --max-pods {room}"),
    })
}

/// The longest prefix whose range has room for so many pods on one node; none if no node has.
fn least_prefix(pods: u64) -> Option<u8> {
    (NODE_PREFIX..=29).rev().find(|prefix| (1_u64 << (32 - prefix)) - NOT_FOR_PODS >= pods)
}

/// What this machine has of what a node has: the flag, and the amount as a quantity and as it is told.
fn machine() -> [(&'static str, Quantity, String); 2] {
    let (cpus, bytes) = (machine::cpus(), machine::total_memory());
    let amount = |text: String| Quantity::parse(&text).expect("a number is a quantity");
    // What cannot be read is not held against anybody.
    let memory = if bytes == 0 { u64::MAX >> 1 } else { bytes };
    [("cpu", amount(cpus.to_string()), format!("{cpus}")), ("memory", amount(memory.to_string()), mebibytes(memory))]
}

fn mebibytes(bytes: u64) -> String {
    format!("{}Mi", bytes >> 20)
}

fn reserves(args: &UpArgs) -> Result<(), String> {
    let node = &args.node;
    let wanted = [(&node.cpu, node.reserved_cpu()), (&node.memory, node.reserved_memory())];
    for ((name, has, shown), (all, reserved)) in machine().into_iter().zip(wanted) {
        let parsed = |text: &str| Quantity::parse(text).ok();
        let Some(kept) = parsed(reserved) else { continue };
        match all {
            Some(all) if parsed(all).is_some_and(|all| all <= kept) => {
                return Err(format!(
                    "--{name} {all} is not more than --reserved-{name} {reserved}: nothing is left for pods; give more --{name}, or less --reserved-{name}"
                ));
            }
            None if has <= kept => {
                return Err(format!(
                    "--reserved-{name} {reserved} is all that this machine has ({shown}): nothing is left for pods; give less --reserved-{name}"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What may be meant, but will not go well.
pub(crate) fn warnings(args: &UpArgs) -> Vec<String> {
    let mut all = Vec::new();
    for ((name, has, shown), wanted) in machine().into_iter().zip([&args.node.cpu, &args.node.memory]) {
        if let Some(wanted) = wanted
            && Quantity::parse(wanted).is_ok_and(|wanted| wanted > has)
        {
            all.push(format!(
                "warning: --{name} {wanted} is more than this machine has ({shown}): pods may not get what they ask for"
            ));
        }
    }
    all
}

/// Whether this machine has the addresses: asked by binding any port of them.
fn addresses(args: &UpArgs) -> Result<(), String> {
    for (flag, address) in [("--listen", args.listen().ip()), ("--node-address", args.node_address())] {
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

    /// What `sampan up` says to flags; the addresses of the machine are asked as well.
    fn up(flags: &[&str]) -> Result<(), String> {
        let all = ["sampan", "up"].iter().chain(flags);
        let Command::Up(args) = Cli::try_parse_from(all).map_err(|error| error.to_string())?.command else {
            panic!("not up")
        };
        super::together(&args).map_err(|error| {
            assert_eq!(crate::exit::code(&error), 2, "{error}");
            error.to_string()
        })
    }

    #[test]
    fn times_are_read_as_go_writes_them() {
        let seconds = |text: &str| super::duration(text, "x").map(|time| time.as_secs());
        for (text, want) in [("90", 90), ("90s", 90), ("2m", 120), ("1h30m", 5400), ("0", 0)] {
            assert_eq!(seconds(text), Ok(want), "{text}");
        }
        for wrong in ["", "m", "1d", "1.5h", "-1s", "1h2", "99999999999s", "1µ"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
        assert!(super::drain("0").is_err() && super::drain("2h").is_err() && super::timeout("0s").is_err());
        assert_eq!((super::drain("1h"), super::drain("1")), (Ok(3600), Ok(1)));
    }

    #[test]
    fn what_is_right_is_taken() {
        for flags in [
            &[][..],
            &["--cpu", "500m", "--memory", "512Mi"],
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
            (&["--max-pods", "20000"], "--max-pods", "--max-pods 16381"),
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
            super::warnings(&args)
        };
        assert_eq!(warnings(&["--cpu", "1", "--memory", "64Mi"]), Vec::<String>::new());
        let both = warnings(&["--cpu", "1M", "--memory", "1Pi"]);
        assert_eq!(both.len(), 2, "{both:?}");
        assert!(both[0].contains("--cpu 1M is more") && both[1].contains("--memory 1Pi is more"), "{both:?}");
    }
}
