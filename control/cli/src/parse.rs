//! Parses the settings and durations of the command line and of `--config` files into typed values. An error describes valid values; the
//! caller adds the flag or field.

use api::quantity::Quantity;
use ipnet::{IpNet, Ipv4Net};
use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

/// Below this, not even one guest runs.
const MIN_MEMORY: i64 = 64 << 20;
/// The smallest Service range, as upstream's.
const MIN_SERVICES: u64 = 8;
/// The prefix length of that range.
const SERVICES_PREFIX: u8 = 29;
/// The maximum of `--drain`.
const MAX_DRAIN: u64 = 3600;

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

/// `--tls-san`: a name that a certificate can contain.
pub(crate) fn tls_san(text: &str) -> Result<String, String> {
    // The first label may be a wildcard.
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

/// `--max-pods`: at least one.
pub(crate) fn max_pods(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(pods) if pods > 0 => Ok(pods),
        _ => Err(format!("use a whole number, 1..={}", u32::MAX)),
    }
}

/// `--cpu`: more than 0.
pub(crate) fn cpu(text: &str) -> Result<Quantity, String> {
    let cpus = quantity(text, "2 or 500m")?;
    match cpus.milli_value() {
        ..=0 => Err("use more than 0, for example 2 or 500m".to_owned()),
        _ if cpus.value() > i64::from(u32::MAX) => {
            Err("that is more than any machine has; use for example 2".to_owned())
        }
        _ => Ok(cpus),
    }
}

/// `--memory`: enough for a guest.
pub(crate) fn memory(text: &str) -> Result<Quantity, String> {
    let memory = quantity(text, "512Mi or 2Gi")?;
    match memory.value() {
        ..MIN_MEMORY => Err("use at least 64Mi, for example 512Mi or 2Gi".to_owned()),
        _ => Ok(memory),
    }
}

/// `--reserved-cpu`: 0 or more.
pub(crate) fn reserved_cpu(text: &str) -> Result<Quantity, String> {
    not_negative(text, "100m or 0")
}

/// `--reserved-memory`: 0 or more.
pub(crate) fn reserved_memory(text: &str) -> Result<Quantity, String> {
    not_negative(text, "256Mi or 0")
}

fn not_negative(text: &str, example: &str) -> Result<Quantity, String> {
    let quantity = quantity(text, example)?;
    match quantity.signum() {
        ..0 => Err(format!("use 0 or more, for example {example}")),
        _ => Ok(quantity),
    }
}

fn quantity(text: &str, example: &str) -> Result<Quantity, String> {
    Quantity::parse(text).map_err(|_| format!("it is not a quantity; use for example {example}"))
}

/// `--drain`: whole seconds.
pub(crate) fn drain(text: &str) -> Result<u32, String> {
    let seconds = duration(text, "10s or 1m")?.as_secs();
    match seconds {
        1..=MAX_DRAIN => Ok(u32::try_from(seconds).unwrap_or(u32::MAX)),
        _ => Err("use 1s to 1h, for example 10s or 1m".to_owned()),
    }
}

/// `--controllers`: names, as upstream's flag.
pub(crate) fn controllers(text: &str) -> Result<controllers::Selection, String> {
    text.parse()
}

/// `--scheduler-config`: the whole path of a file that is right.
pub(crate) fn scheduler_config(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text).canonicalize().map_err(|error| error.to_string())?;
    scheduler_configuration(&path).map(|_| path)
}

/// Reads a KubeSchedulerConfiguration.
///
/// # Errors
/// The file cannot be read, or what is wrong in it.
pub(crate) fn scheduler_configuration(path: &Path) -> Result<scheduler::Configuration, String> {
    const MOST: u64 = 1 << 20;
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, MOST + 1), &mut text)
        .map_err(|error| error.to_string())?;
    if text.len() as u64 > MOST {
        return Err(format!("it has more than {} MiB", MOST >> 20));
    }
    let (value, problems) = api::yaml::parse(&text)?;
    match problems.first() {
        Some(problem) => Err(problem.clone()),
        None => scheduler::Configuration::parse(&value),
    }
}

/// `--timeout` and `--since`: more than 0.
pub(crate) fn timeout(text: &str) -> Result<Duration, String> {
    match duration(text, "90s, 2m or 1h")? {
        Duration::ZERO => Err("use more than 0, for example 90s, 2m or 1h".to_owned()),
        time => Ok(time),
    }
}

/// A duration in Go's format, such as 90s, 2m or 1h30m. A number without a unit means seconds.
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

/// `--pod-cidr`. Its minimum size depends on `--max-pods`.
pub(crate) fn pod_cidr(text: &str) -> Result<IpNet, String> {
    cidr(text, "10.32.0.0/11")
}

/// `--node-cidr-mask-size`: at least one pod, and a range that IPv4 has.
pub(crate) fn node_cidr_mask_size(text: &str) -> Result<u8, String> {
    text.parse().ok().filter(|bits| (8..=30).contains(bits)).ok_or_else(|| "use a whole number, 8 to 30".to_owned())
}

/// `--service-cidr`.
pub(crate) fn service_cidr(text: &str) -> Result<IpNet, String> {
    let range = cidr(text, "10.96.0.0/16")?;
    if addresses_of(&range) < MIN_SERVICES {
        let wider = IpNet::new(range.addr(), SERVICES_PREFIX).map_or(range, |net| net.trunc());
        let has = addresses_of(&range);
        return Err(format!("it has {has} addresses, at least {MIN_SERVICES} are needed: {wider}"));
    }
    Ok(range)
}

/// `--hollow-nodes`: 0 or more. How many there may be depends on `--hollow-cidr`.
pub(crate) fn hollow_nodes(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "use a whole number, for example 100".to_owned())
}

/// `--hollow-cidr`.
pub(crate) fn hollow_cidr(text: &str) -> Result<Ipv4Net, String> {
    let example = hollow::default_cidr().to_string();
    match cidr(text, &example)? {
        IpNet::V4(range) => Ok(range),
        IpNet::V6(_) => Err(format!("only IPv4 ranges are supported, for example {example}")),
    }
}

/// `--oci-runtime`: the path of a program, or its name.
pub(crate) fn oci_runtime(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let named = path.components().count() == 1;
    match path.file_name() {
        Some(_) if named || path.is_absolute() => Ok(path),
        _ => Err("use the absolute path of a program, or a name such as runc".to_owned()),
    }
}

/// `--allow-egress`: a range or an address.
pub(crate) fn allow_egress(text: &str) -> Result<IpNet, String> {
    range(text).ok_or_else(|| "use an IP address or a range, for example 192.168.1.7 or 192.168.1.0/24".to_owned())
}

fn cidr(text: &str, example: &str) -> Result<IpNet, String> {
    let net = range(text).ok_or_else(|| format!("use a range, for example {example}"))?;
    match net.addr() {
        IpAddr::V4(_) => Ok(net.trunc()),
        IpAddr::V6(_) => Err(format!("only IPv4 ranges are supported, for example {example}")),
    }
}

/// A range, or an address as a range.
fn range(text: &str) -> Option<IpNet> {
    text.parse::<IpAddr>().map(IpNet::from).ok().or_else(|| text.parse().ok())
}

fn addresses_of(range: &IpNet) -> u64 {
    1 << (range.max_prefix_len() - range.prefix_len()).min(63)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_go_writes_them() {
        let seconds = |text: &str| duration(text, "x").map(|time| time.as_secs());
        for (text, want) in [("90", 90), ("90s", 90), ("2m", 120), ("1h30m", 5400), ("0", 0)] {
            assert_eq!(seconds(text), Ok(want), "{text}");
        }
        for wrong in ["", "m", "1d", "1.5h", "-1s", "1h2", "99999999999s", "1µ"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
        assert!(drain("0").is_err() && drain("2h").is_err() && timeout("0s").is_err());
        assert_eq!((drain("1h"), drain("1")), (Ok(3600), Ok(1)));
    }

    #[test]
    fn numbers_of_pods_are_whole_and_not_0() {
        assert_eq!((max_pods("1"), max_pods("4294967295")), (Ok(1), Ok(u32::MAX)));
        for wrong in ["0", "-1", "4294967296", "1.5", "many", ""] {
            assert!(max_pods(wrong).is_err_and(|why| why.contains("1..")), "{wrong}");
        }
    }
}
