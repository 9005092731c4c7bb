//! IP addresses and networks.

use super::Implementation;
use crate::{
    budget::Error,
    opaque::{Cidr, Opaque},
    value::Value,
};
use std::net::IpAddr;

pub(super) fn implementation(name: &str) -> Option<Implementation> {
    Some(match name {
        "ip" => |args, _| match args {
            [Value::String(text)] => parse_ip(text).map(|address| Value::opaque(Opaque::Ip(address))),
            _ => Ok(Value::opaque(Opaque::Ip(cidr_of(args)?.address))),
        },
        "isIP" => |args, _| match args {
            [Value::String(text)] => Ok(Value::Bool(parse_ip(text).is_ok())),
            _ => Err(Error::NO_SUCH_OVERLOAD),
        },
        "ip.isCanonical" => |args, _| match args {
            [Value::String(text)] => Ok(Value::Bool(parse_ip(text)?.to_string() == **text)),
            _ => Err(Error::NO_SUCH_OVERLOAD),
        },
        "family" => |args, _| ip_of(args).map(|address| Value::Int(if address.is_ipv4() { 4 } else { 6 })),
        "isUnspecified" => |args, _| ip_of(args).map(|address| Value::Bool(address.is_unspecified())),
        "isLoopback" => |args, _| ip_of(args).map(|address| Value::Bool(address.is_loopback())),
        "isLinkLocalMulticast" => |args, _| ip_of(args).map(|address| Value::Bool(is_local_multicast(address))),
        "isLinkLocalUnicast" => |args, _| ip_of(args).map(|address| Value::Bool(is_local_unicast(address))),
        "isGlobalUnicast" => |args, _| {
            ip_of(args).map(|address| {
                let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
                let special = address.is_unspecified() || address.is_loopback() || address.is_multicast();
                Value::Bool(!broadcast && !special && !is_local_unicast(address))
            })
        },
        "cidr" => |args, _| match args {
            [Value::String(text)] => cidr_argument(text),
            _ => Err(Error::NO_SUCH_OVERLOAD),
        },
        "isCIDR" => |args, _| match args {
            [Value::String(text)] => Ok(Value::Bool(parse_cidr(text).is_ok())),
            _ => Err(Error::NO_SUCH_OVERLOAD),
        },
        "containsIP" => |args, _| contains_ip(args),
        "containsCIDR" => |args, _| contains_cidr(args),
        "prefixLength" => |args, _| cidr_of(args).map(|cidr| Value::Int(cidr.bits.into())),
        "masked" => |args, _| cidr_of(args).map(|cidr| Value::opaque(Opaque::Cidr(cidr.masked()))),
        _ => return None,
    })
}

fn ip_of(args: &[Value<'_>]) -> Result<IpAddr, Error> {
    if let [Value::Opaque(opaque)] = args
        && let Opaque::Ip(address) = **opaque
    {
        return Ok(address);
    }
    Err(Error::NO_SUCH_OVERLOAD)
}

fn cidr_of(args: &[Value<'_>]) -> Result<Cidr, Error> {
    if let [Value::Opaque(opaque), ..] = args
        && let Opaque::Cidr(cidr) = **opaque
    {
        return Ok(cidr);
    }
    Err(Error::NO_SUCH_OVERLOAD)
}

fn is_local_multicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets().starts_with(&[224, 0, 0]),
        IpAddr::V6(address) => address.segments().first().is_some_and(|first| first & 0xff0f == 0xff02),
    }
}

fn is_local_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// An address without a zone, which is no IPv4 address within IPv6.
fn parse_ip(text: &str) -> Result<IpAddr, Error> {
    if let Some((address, zone)) = text.split_once('%')
        && !zone.is_empty()
        && address.parse::<std::net::Ipv6Addr>().is_ok()
    {
        return Err(Error::new(format!("IP address {text:?} with zone value is not allowed")));
    }
    let parsed = text.parse::<IpAddr>().map_err(|_| {
        let cause = format!("ParseAddr({text:?}): unable to parse IP");
        Error::new(format!("IP Address {text:?} parse error during conversion from string: {cause}"))
    })?;
    if is_mapped(parsed) {
        return Err(Error::new(format!("IPv4-mapped IPv6 address {text:?} is not allowed")));
    }
    Ok(parsed)
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some())
}

fn parse_cidr(text: &str) -> Result<Cidr, Error> {
    let fault = |cause: &str| {
        let cause = format!("netip.ParsePrefix({text:?}): {cause}");
        Error::new(format!("network address parse error during conversion from string: {cause}"))
    };
    let (address, bits) = text.rsplit_once('/').ok_or_else(|| fault("no '/'"))?;
    let address: IpAddr = address.parse().map_err(|_| fault(&format!("ParseAddr({address:?}): unable to parse IP")))?;
    let bad = || fault(&format!("bad bits after slash: {bits:?}"));
    if bits.is_empty() || !bits.bytes().all(|digit| digit.is_ascii_digit()) || bits.len() > 1 && bits.starts_with('0') {
        return Err(bad());
    }
    let bits: u8 = bits.parse().map_err(|_| fault("prefix length out of range"))?;
    if bits > if address.is_ipv4() { 32 } else { 128 } {
        return Err(fault("prefix length out of range"));
    }
    if is_mapped(address) {
        return Err(Error::new(format!("IPv4-mapped IPv6 address {text:?} is not allowed")));
    }
    Ok(Cidr { address, bits })
}

/// A network from text, with the message that `cidr()` adds.
fn cidr_argument(text: &str) -> Result<Value<'static>, Error> {
    parse_cidr(text)
        .map(|cidr| Value::opaque(Opaque::Cidr(cidr)))
        .map_err(|error| Error::new(format!("network address parse error during conversion from string: {error}")))
}

fn contains_ip<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    let network = cidr_of(args)?;
    let address = match args {
        [_, Value::String(text)] => parse_ip(text)?,
        [_, other] => ip_of(std::slice::from_ref(other))?,
        _ => return Err(Error::NO_SUCH_OVERLOAD),
    };
    Ok(Value::Bool(network.contains(address)))
}

fn contains_cidr<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    let network = cidr_of(args)?;
    let other = match args {
        [_, Value::String(text)] => cidr_of(&[cidr_argument(text)?])?,
        [_, other] => cidr_of(std::slice::from_ref(other))?,
        _ => return Err(Error::NO_SUCH_OVERLOAD),
    };
    Ok(Value::Bool(network.bits <= other.bits && network.contains(other.address)))
}
