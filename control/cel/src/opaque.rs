//! Values of the types that Kubernetes' libraries bring.

use crate::types::Type;
use api::quantity::Quantity;
use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

/// The type of `quantity()`.
pub const QUANTITY: Type = Type::Opaque("kubernetes.Quantity");
/// The type of `url()`.
pub const URL: Type = Type::Opaque("kubernetes.URL");
/// The type of `ip()`.
pub const IP: Type = Type::Opaque("net.IP");
/// The type of `cidr()`.
pub const CIDR: Type = Type::Opaque("net.CIDR");
/// The type of `semver()`.
pub const SEMVER: Type = Type::Opaque("kubernetes.Semver");
/// The type of `format.named()`.
pub const FORMAT: Type = Type::Opaque("kubernetes.NamedFormat");
/// The type of `authorizer`.
pub const AUTHORIZER: Type = Type::Opaque("kubernetes.authorization.Authorizer");
/// The type of `authorizer.path()`.
pub const PATH_CHECK: Type = Type::Opaque("kubernetes.authorization.PathCheck");
/// The type of `authorizer.group()`.
pub const GROUP_CHECK: Type = Type::Opaque("kubernetes.authorization.GroupCheck");
/// The type of `authorizer.group().resource()` and of `authorizer.requestResource`.
pub const RESOURCE_CHECK: Type = Type::Opaque("kubernetes.authorization.ResourceCheck");
/// The type of what a check decides.
pub const DECISION: Type = Type::Opaque("kubernetes.authorization.Decision");

/// Every one of them.
pub(crate) const TYPES: [Type; 11] =
    [QUANTITY, URL, IP, CIDR, SEMVER, FORMAT, AUTHORIZER, PATH_CHECK, GROUP_CHECK, RESOURCE_CHECK, DECISION];

/// What is asked of an [`Authorizer`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// The ServiceAccount that is asked about, as namespace and name; else the user of the request.
    pub service_account: Option<(String, String)>,
    /// The path of a request that is for no resource.
    pub path: Option<String>,
    /// The verb.
    pub verb: String,
    /// The API group.
    pub group: String,
    /// The resource.
    pub resource: String,
    /// The subresource.
    pub subresource: String,
    /// The namespace.
    pub namespace: String,
    /// The name of the object.
    pub name: String,
    /// The field selector, as it was written.
    pub field_selector: String,
    /// The label selector, as it was written.
    pub label_selector: String,
}

impl Attributes {
    /// The bytes of all texts together.
    pub(crate) fn len(&self) -> usize {
        let (namespace, name) = self.service_account.as_ref().map_or((0, 0), |(a, b)| (a.len(), b.len()));
        let texts = [&self.verb, &self.group, &self.resource, &self.subresource, &self.namespace, &self.name];
        let selectors = [&self.field_selector, &self.label_selector];
        let path = self.path.as_ref().map_or(0, String::len);
        texts.into_iter().chain(selectors).map(String::len).sum::<usize>() + path + namespace + name
    }
}

/// What an [`Authorizer`] decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What went wrong.
    pub error: Option<String>,
}

/// Decides what `authorizer` in an expression asks. The caller brings it.
pub trait Authorizer: Send + Sync {
    /// The decision.
    fn authorize(&self, attributes: &Attributes) -> Decision;
}

/// A check that is being put together. Checks of the same authorizer and attributes are equal.
#[derive(Clone)]
pub struct Check {
    pub(crate) authorizer: Arc<dyn Authorizer>,
    pub(crate) attributes: Attributes,
}

impl PartialEq for Check {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.authorizer, &other.authorizer) && self.attributes == other.attributes
    }
}

/// A URL, cut as Go's `net/url` cuts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub(crate) scheme: String,
    pub(crate) host: String,
    pub(crate) escaped_path: String,
    pub(crate) query: String,
    pub(crate) text: String,
}

/// A network: an address, whose bits behind the prefix may be set, and the length of the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    pub(crate) address: IpAddr,
    pub(crate) bits: u8,
}

/// The bits of an address from the left.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl Cidr {
    fn mask(self) -> u128 {
        u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0)
    }

    pub(crate) fn contains(self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && (bits(self.address) ^ bits(address)) & self.mask() == 0
    }

    /// Without the bits behind the prefix.
    pub(crate) fn masked(self) -> Self {
        let kept = bits(self.address) & self.mask();
        let address = match self.address {
            IpAddr::V4(_) => IpAddr::V4(u32::try_from(kept >> 96).unwrap_or(0).into()),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(kept)),
        };
        Self { address, ..self }
    }
}

/// A named format.
#[derive(Clone, Copy)]
pub struct Format {
    pub(crate) name: &'static str,
    pub(crate) validate: fn(&str) -> Vec<String>,
    /// How long the regular expression is that it is like; for the cost.
    pub(crate) regex_size: u64,
}

/// A value of a library.
#[derive(Clone)]
pub enum Opaque {
    /// `quantity()`
    Quantity(Quantity),
    /// `url()`
    Url(Url),
    /// `ip()`
    Ip(IpAddr),
    /// `cidr()`
    Cidr(Cidr),
    /// `semver()`
    Semver(semver::Version),
    /// `format.named()`
    Format(Format),
    /// `authorizer`
    Authorizer(Check),
    /// `authorizer.path()`
    PathCheck(Check),
    /// `authorizer.group()`
    GroupCheck(Check),
    /// `authorizer.group().resource()`
    ResourceCheck(Check),
    /// What a check decided.
    Decision(Decision),
}

impl Opaque {
    /// Its type.
    pub fn of_type(&self) -> Type {
        match self {
            Opaque::Quantity(_) => QUANTITY,
            Opaque::Url(_) => URL,
            Opaque::Ip(_) => IP,
            Opaque::Cidr(_) => CIDR,
            Opaque::Semver(_) => SEMVER,
            Opaque::Format(_) => FORMAT,
            Opaque::Authorizer(_) => AUTHORIZER,
            Opaque::PathCheck(_) => PATH_CHECK,
            Opaque::GroupCheck(_) => GROUP_CHECK,
            Opaque::ResourceCheck(_) => RESOURCE_CHECK,
            Opaque::Decision(_) => DECISION,
        }
    }

    /// What `size()` is for the cost: the bytes of addresses.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Opaque::Ip(address) => {
                if address.is_ipv4() {
                    4
                } else {
                    16
                }
            }
            Opaque::Cidr(cidr) => u64::from(cidr.bits.div_ceil(8)),
            _ => 1,
        }
    }
}

impl PartialEq for Opaque {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Opaque::Quantity(a), Opaque::Quantity(b)) => a == b,
            (Opaque::Url(a), Opaque::Url(b)) => a.text == b.text,
            (Opaque::Ip(a), Opaque::Ip(b)) => a == b,
            (Opaque::Cidr(a), Opaque::Cidr(b)) => a == b,
            // Metadata of the build does not count, and so neither for equality.
            (Opaque::Semver(a), Opaque::Semver(b)) => a.cmp_precedence(b).is_eq(),
            (Opaque::Format(a), Opaque::Format(b)) => a.name == b.name,
            (Opaque::Authorizer(a), Opaque::Authorizer(b))
            | (Opaque::PathCheck(a), Opaque::PathCheck(b))
            | (Opaque::GroupCheck(a), Opaque::GroupCheck(b))
            | (Opaque::ResourceCheck(a), Opaque::ResourceCheck(b)) => a == b,
            (Opaque::Decision(a), Opaque::Decision(b)) => a == b,
            _ => false,
        }
    }
}

impl fmt::Debug for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Opaque::Quantity(quantity) => write!(f, "{quantity}"),
            Opaque::Url(url) => f.write_str(&url.text),
            Opaque::Ip(address) => write!(f, "{address}"),
            Opaque::Cidr(cidr) => write!(f, "{}/{}", cidr.address, cidr.bits),
            Opaque::Semver(version) => write!(f, "{version}"),
            Opaque::Format(format) => f.write_str(format.name),
            other => f.write_str(other.of_type().runtime_name()),
        }
    }
}
