//! IP addresses in objects: parsing, validation, and which addresses cannot be endpoints.

use crate::at::At;
use api::Cause;
use ipnet::IpNet;
use serde_json::json;
use std::net::IpAddr;

/// Upstream's message for an invalid address.
pub(crate) const NOT_AN_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

/// Parses an address as older fields allow it: with leading zeros, or IPv4-mapped.
pub(crate) fn parse(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(match ip {
            IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
            v4 => v4,
        });
    }
    let parts: Vec<u8> = text.split('.').map(digits).collect::<Option<_>>()?;
    <[u8; 4]>::try_from(parts).ok().map(IpAddr::from)
}

/// Parses a number without a sign; Rust's parser would accept one.
fn digits(text: &str) -> Option<u8> {
    text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()))
}

/// `Invalid value` unless this is an address in a form that every program parses alike.
pub(crate) fn valid(at: At<'_>, out: &mut Vec<Cause>) -> Option<IpAddr> {
    let text = at.str();
    let ip = parse(text);
    let problem = match ip {
        None => NOT_AN_IP,
        Some(_) if text.parse::<IpAddr>().is_err() => "must not have leading 0s",
        Some(IpAddr::V4(_)) if text.contains(':') => "must not be an IPv4-mapped IPv6 address",
        Some(_) => return ip,
    };
    out.push(Cause::invalid(&at.field(), &json!(text), problem));
    None
}

/// Parses a network as older fields allow it: with leading zeros, and bits set beyond the prefix length, which are dropped.
pub(crate) fn parse_cidr(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let (ip, bits) = (parse(address)?, digits(length)?);
    IpNet::new(ip, bits).ok().map(|net| net.trunc())
}

/// Why a text is no valid network.
pub(crate) fn cidr_problem(text: &str) -> Option<&'static str> {
    const NOT_A_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
    let Some((address, length)) = text.split_once('/') else { return Some(NOT_A_CIDR) };
    let (Some(ip), Some(bits)) = (parse(address), digits(length)) else { return Some(NOT_A_CIDR) };
    if bits > if address.contains(':') { 128 } else { 32 } {
        return Some(NOT_A_CIDR);
    }
    if address.parse::<IpAddr>().is_err() || length != bits.to_string() {
        return Some("must not have leading 0s in IP or prefix length");
    }
    if ip.is_ipv4() && address.contains(':') {
        return Some("must not have an IPv4-mapped IPv6 address");
    }
    let beyond = IpNet::new(ip, bits).is_ok_and(|net| net.network() != ip);
    beyond.then_some("must not have bits set beyond the prefix length")
}

/// A warning about a valid network that is not canonical.
pub(crate) fn cidr_warning(at: At<'_>) -> Option<String> {
    let (text, canonical) = (at.str(), parse_cidr(at.str())?.to_string());
    (text.contains(':') && cidr_problem(text).is_none() && canonical != text).then(|| {
        format!("{}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format ({canonical:?})", at.field())
    })
}

/// Validates the address of an endpoint: traffic from another machine must be able to reach it.
pub(crate) fn endpoint(at: At<'_>, ip: IpAddr, out: &mut Vec<Cause>) {
    let (link_local, multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0 == 0xfe80, v6.segments()[0] & 0xff0f == 0xff02),
    };
    if ip.is_unspecified() {
        out.push(at.invalid(&format!("may not be unspecified ({})", at.str())));
    }
    if ip.is_loopback() {
        out.push(at.invalid("may not be in the loopback range (127.0.0.0/8, ::1/128)"));
    }
    if link_local {
        out.push(at.invalid("may not be in the link-local range (169.254.0.0/16, fe80::/10)"));
    }
    if multicast {
        out.push(at.invalid("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"));
    }
}

/// A warning about a form that other programs may parse differently, or that is not canonical.
pub(crate) fn warning(field: &str, text: &str) -> Option<String> {
    let ip = parse(text)?;
    if text.parse::<IpAddr>().is_err() || (ip.is_ipv4() && text.contains(':')) {
        return Some(format!("{field}: non-standard IP address \"{text}\" is invalid: use \"{ip}\""));
    }
    (ip.is_ipv6() && ip.to_string() != text)
        .then(|| format!("{field}: IPv6 address \"{text}\" should be in RFC 5952 canonical format (\"{ip}\")"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_spellings_are_read_and_warned_about() {
        assert_eq!(parse("010.1.02.3"), Some(IpAddr::from([10, 1, 2, 3])));
        assert_eq!(parse("::ffff:1.2.3.4"), Some(IpAddr::from([1, 2, 3, 4])));
        assert_eq!(parse("1.2.3"), None);
        assert_eq!(parse("1.2.3.256"), None);
        assert_eq!(parse("+1.2.3.4"), None);
        assert_eq!(parse("1.2.3.+4"), None);
        assert!(warning("f", "01.2.3.4").is_some());
        assert!(warning("f", "1.2.3.4").is_none());
        assert_eq!(
            warning("spec.clusterIPs[0]", "2001:DB8::1").as_deref(),
            Some(
                "spec.clusterIPs[0]: IPv6 address \"2001:DB8::1\" should be in RFC 5952 canonical format (\"2001:db8::1\")"
            )
        );
    }

    #[test]
    fn networks_are_plain() {
        for (text, problem) in [
            ("10.0.0.0/8", None),
            ("2001:db8::/64", None),
            ("10.0.0.1/8", Some("must not have bits set beyond the prefix length")),
            ("010.0.0.0/8", Some("must not have leading 0s in IP or prefix length")),
            ("::ffff:10.0.0.0/104", Some("must not have an IPv4-mapped IPv6 address")),
            ("10.0.0.0/33", Some("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")),
            ("10.0.0.0/+8", Some("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")),
            ("x", Some("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")),
        ] {
            assert_eq!(cidr_problem(text), problem, "{text}");
        }
    }
}
