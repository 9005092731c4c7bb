//! What calls cost at least and at most by the sizes of their arguments: the sums of cel-go and of Kubernetes' libraries.

use crate::{
    ast::{Expr, Kind, Literal},
    metering::{CHECK, LIST, OBJECT, REGEX, TRAVERSAL, compares, times_factor},
    opaque::{FORMAT, TYPES, URL},
    ranges::Range,
    types::Type,
};

/// The longest name of a format, and the longest expression of one.
const MAX_FORMAT: u64 = 64;
const MAX_FORMAT_REGEX: f64 = 128.0;

/// An argument.
pub(crate) struct Node<'n> {
    pub(crate) expr: &'n Expr,
    pub(crate) of: &'n Type,
    /// Its size, if anything is known of it.
    pub(crate) size: Option<Range>,
    /// The size of its elements, if they are of a schema.
    pub(crate) element_size: Option<Range>,
}

impl Node<'_> {
    pub(crate) fn size(&self) -> Range {
        self.size.unwrap_or(Range::UNKNOWN)
    }

    /// The type of its elements, and their size.
    fn element(&self) -> Option<(&Type, Range)> {
        let of = self.of.parameters().into_iter().next()?;
        Some((of, self.element_size.unwrap_or(Range::UNKNOWN)))
    }

    /// The int that it is, or something else.
    fn int_or(&self, otherwise: u64) -> u64 {
        match &self.expr.kind {
            Kind::Literal(Literal::Int(value)) => u64::try_from(*value).unwrap_or(0),
            _ => otherwise,
        }
    }
}

/// What a call costs without its arguments, and the size of what it gives.
pub(crate) struct Estimate {
    pub(crate) cost: Range,
    pub(crate) size: Option<Range>,
}

impl Estimate {
    fn cost(cost: Range) -> Option<Estimate> {
        Some(Estimate { cost, size: None })
    }

    fn sized(cost: Range, size: Range) -> Option<Estimate> {
        Some(Estimate { cost, size: Some(size) })
    }
}

/// The extensions' and Kubernetes' own estimate of a call, if they have one.
pub(crate) fn library(
    function: &str,
    overload: &str,
    target: Option<&Node<'_>>,
    args: &[Node<'_>],
) -> Option<Estimate> {
    lists(overload, target, args)
        .or_else(|| sets(overload, args))
        .or_else(|| fixed(function, overload))
        .or_else(|| texts(function, target, args))
        .or_else(|| networks(function, overload, args))
        .or_else(|| (function == "_==_").then(|| equality(args)).flatten())
}

fn allocating(factor: f64, size: Range) -> Option<Estimate> {
    Estimate::sized(size.factor(factor).plus(Range::fixed(1 + LIST)), size)
}

fn lists(overload: &str, target: Option<&Node<'_>>, args: &[Node<'_>]) -> Option<Estimate> {
    match (overload, target, args) {
        ("list_slice", Some(target), [start, end]) => {
            let (start, end) = (start.int_or(0), end.int_or(target.size().max));
            allocating(1.0, Range::fixed(end.wrapping_sub(start)))
        }
        ("lists_range", None, [count]) => allocating(1.0, Range::fixed(count.int_or(u64::MAX))),
        ("list_reverse", Some(target), []) => allocating(1.0, target.size()),
        ("list_flatten", Some(target), []) => allocating(1.0, target.size()),
        ("list_flatten_int", Some(target), [depth]) => {
            #[expect(clippy::cast_precision_loss, reason = "as upstream")]
            let depth = depth.int_or(u64::MAX) as f64;
            allocating(depth, target.size())
        }
        ("list_distinct", Some(target), []) => allocating(2.0, target.size().times(target.size())),
        (overload, Some(target), args) => {
            let (of, sorted) = match args {
                [] => (overload.strip_prefix("list_")?.strip_suffix("_sort")?, target),
                [keys] => (overload.strip_prefix("list_")?.strip_suffix("_sortByAssociatedKeys")?, keys),
                _ => return None,
            };
            let factor = if matches!(of, "string" | "bytes") { 2.0 + TRAVERSAL } else { 2.0 };
            allocating(factor, sorted.size().times(sorted.size()))
        }
        _ => None,
    }
}

fn sets(overload: &str, args: &[Node<'_>]) -> Option<Estimate> {
    let factor = match overload {
        "list_sets_contains_list" | "list_sets_intersects_list" => 1.0,
        "list_sets_equivalent_list" => 2.0,
        _ => return None,
    };
    let [a, b] = args else { return None };
    Estimate::cost(a.size().times(b.size()).factor(factor).plus(Range::ONE))
}

/// Calls that cost the same whatever they get.
fn fixed(function: &str, overload: &str) -> Option<Estimate> {
    let cost = match function {
        "check" => CHECK,
        "serviceAccount" | "path" | "group" | "resource" | "subresource" | "namespace" | "name" | "allowed"
        | "reason" | "error" | "errored" => 1,
        "masked"
        | "prefixLength"
        | "family"
        | "isUnspecified"
        | "isLoopback"
        | "isLinkLocalMulticast"
        | "isLinkLocalUnicast"
        | "isGlobalUnicast" => 1,
        "format.named" | "sign" | "asInteger" | "isInteger" | "asApproximateFloat" | "isGreaterThan" | "isLessThan"
        | "compareTo" | "add" | "sub" | "major" | "minor" | "patch" => 1,
        "getScheme" | "getHostname" | "getHost" | "getPort" | "getEscapedPath" | "getQuery" => 1,
        "ip" if overload == "cidr_ip" => 1,
        _ => return None,
    };
    Estimate::cost(Range::fixed(cost))
}

fn selector(length: Range) -> Range {
    #[expect(clippy::cast_precision_loss, reason = "50")]
    let each = (LIST + OBJECT) as f64;
    Range::fixed(LIST).plus(length.factor(TRAVERSAL)).plus(length.factor(0.5).factor(each))
}

fn texts(function: &str, target: Option<&Node<'_>>, args: &[Node<'_>]) -> Option<Estimate> {
    match (function, target, args) {
        ("fieldSelector" | "labelSelector", _, [text]) => Estimate::cost(selector(text.size())),
        ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", Some(target), _) => {
            let Some((of, size)) = target.element() else {
                return Estimate::cost(target.size().factor(TRAVERSAL));
            };
            let compared = matches!(of, Type::String | Type::Bytes);
            let each = if compared { Range::ONE.plus(size.factor(TRAVERSAL)) } else { Range::ONE };
            Estimate::cost(target.size().times(each))
        }
        ("url" | "jsonpatch.escapeKey", _, [text]) => Estimate::sized(text.size().factor(TRAVERSAL), text.size()),
        ("lowerAscii" | "upperAscii" | "substring" | "trim", Some(target), _) => {
            Estimate::sized(target.size().factor(TRAVERSAL), target.size())
        }
        ("replace", Some(target), [old, new, ..]) => {
            let size = replaced(target.size(), old.size(), new.size());
            Estimate::sized(target.size().factor(2.0 * TRAVERSAL), size)
        }
        ("split", Some(target), args) => {
            let limit = match args.get(1).map(|most| &most.expr.kind) {
                // A negative limit is none; upstream takes it for a very large one.
                Some(Kind::Literal(Literal::Int(most))) => u64::try_from(*most).unwrap_or(u64::MAX),
                _ => target.size().max,
            };
            Estimate::sized(target.size().factor(2.0 * TRAVERSAL), Range { min: 0, max: limit })
        }
        ("join", Some(target), args) => {
            let count = target.size();
            let mut size = target.element().map_or(Range::ZERO, |(_, element)| count.times(element));
            if let Some(separator) = args.first() {
                let between = Range { min: count.min.saturating_sub(1), max: count.max.saturating_sub(1) };
                size = size.plus(separator.size().times(between));
            }
            Estimate::sized(size.factor(TRAVERSAL), size)
        }
        ("find" | "findAll", Some(target), [pattern, ..]) => {
            let text = target.size().plus(Range::ONE).factor(TRAVERSAL);
            let cost = text.times(pattern.size().factor(REGEX));
            Estimate::sized(cost, Range { min: 0, max: target.size().max })
        }
        ("quantity" | "isQuantity" | "semver" | "isSemver" | "cidr" | "isIP" | "isCIDR" | "ip", _, [text, ..]) => {
            Estimate::cost(text.size().factor(TRAVERSAL))
        }
        ("ip.isCanonical", _, [text, ..]) => Estimate::cost(text.size().factor(2.0 * TRAVERSAL)),
        ("validate", _, [text, ..]) => Estimate::cost(text.size().factor(TRAVERSAL).factor(MAX_FORMAT_REGEX * REGEX)),
        _ => None,
    }
}

/// The size of a text in which one is replaced by another.
fn replaced(text: Range, old: Range, new: Range) -> Range {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "as upstream"
    )]
    let ceil = |a: u64, b: u64| (a as f64 / b as f64).ceil() as u64;
    let (mut count, mut kept) = (Range::ZERO, Range::ZERO);
    if old.min == 0 {
        count.max = text.max.saturating_add(1);
        kept.max = text.max;
    } else if new.max <= old.min {
        kept.max = text.max;
    } else {
        count.max = ceil(text.max, old.min);
    }
    if old.max == 0 {
        count.min = text.min.saturating_add(1);
        kept.min = text.min;
    } else if old.max <= new.min {
        kept.min = text.min;
    } else {
        count.min = ceil(text.min, old.max);
    }
    count.times(new).plus(kept)
}

fn networks(function: &str, overload: &str, args: &[Node<'_>]) -> Option<Estimate> {
    let [other, ..] = args else { return None };
    let bytes = Range { min: 4, max: 16 };
    let mut cost = bytes.plus(bytes).factor(TRAVERSAL);
    match function {
        "containsIP" => {}
        "containsCIDR" => cost = cost.plus(bytes.factor(TRAVERSAL)).plus(Range::ONE),
        _ => return None,
    }
    if matches!(overload, "cidr_contains_ip_string" | "cidr_contains_cidr_string") {
        cost = cost.plus(other.size().factor(TRAVERSAL));
    }
    Estimate::cost(cost)
}

fn equality(args: &[Node<'_>]) -> Option<Estimate> {
    let [a, b] = args else { return None };
    if a.of != b.of || !TYPES.contains(a.of) {
        return None;
    }
    let most = if *a.of == FORMAT {
        MAX_FORMAT
    } else if *a.of == URL {
        b.size.map_or(1, |size| size.max)
    } else {
        return Estimate::cost(Range::ONE);
    };
    Estimate::cost(Range { min: times_factor(1, TRAVERSAL), max: times_factor(most, TRAVERSAL) })
}

/// The estimate of a function of the standard library; a call of anything else costs 1. Operators that do not look at all their
/// arguments are estimated elsewhere.
pub(crate) fn standard(overload: &str, target: Option<&Node<'_>>, args: &[Node<'_>]) -> Estimate {
    let traversed = |node: &Node<'_>| node.size().factor(TRAVERSAL);
    let found = match (overload, target, args) {
        ("string_format", Some(target), _) => Estimate::cost(traversed(target)),
        ("string_to_bytes", _, [text]) => {
            let size = text.size();
            Estimate::sized(traversed(text), Range { min: size.min, max: size.max.wrapping_mul(4) })
        }
        ("bytes_to_string", _, [bytes]) => {
            let size = bytes.size();
            Estimate::sized(traversed(bytes), Range { min: size.min / 4, max: size.max })
        }
        ("strings_quote", _, [text]) => {
            let size = text.size();
            let quoted = Range { min: size.min.wrapping_add(2), max: size.max.wrapping_mul(2).wrapping_add(2) };
            Estimate::sized(traversed(text), quoted)
        }
        ("starts_with_string" | "ends_with_string", _, [part]) => Estimate::cost(traversed(part)),
        ("in_list", _, [_, list]) => Estimate::cost(list.size().factor(1.0)),
        ("matches_string", Some(text), [pattern]) => {
            let text = text.size().plus(Range::ONE).factor(TRAVERSAL);
            Estimate::cost(text.times(pattern.size().factor(REGEX)))
        }
        ("contains_string", Some(text), [part]) => Estimate::cost(traversed(text).times(traversed(part))),
        ("add_list", _, [a, b]) => Estimate::sized(Range::ONE, a.size().plus(b.size())),
        ("add_string" | "add_bytes", _, [a, b]) => {
            let size = a.size().plus(b.size());
            Estimate::sized(size.factor(TRAVERSAL), size)
        }
        (overload, _, [a, b]) if compares(overload) => {
            let most = a.size().max.min(b.size().max);
            Estimate::cost(Range { min: u64::from(most > 0), max: most }.factor(TRAVERSAL))
        }
        _ => None,
    };
    found.unwrap_or(Estimate { cost: Range::ONE, size: None })
}
