//! Which functions there are and which types they take: tables, and how they are read.

use crate::{
    opaque::{AUTHORIZER, CIDR, DECISION, FORMAT, GROUP_CHECK, IP, PATH_CHECK, QUANTITY, RESOURCE_CHECK, SEMVER, URL},
    types::{Param, Type},
};
use std::{collections::HashMap, sync::LazyLock};

/// One way to call a function.
#[derive(Debug)]
pub(crate) struct Overload {
    pub(crate) id: String,
    pub(crate) is_member: bool,
    pub(crate) args: Vec<Type>,
    pub(crate) result: Type,
}

/// A function with its overloads.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) overloads: Vec<Overload>,
}

/// `id: name(types) -> type`; a dot before the name makes it a method of the first type. A line that begins with `C` is one for each type
/// that can be ordered, `N` for each that can be summed: `{}` stands for it.
const STANDARD: &str = "
conditional: _?_:_(bool, A, A) -> A
logical_and: _&&_(bool, bool) -> bool
logical_or: _||_(bool, bool) -> bool
logical_not: !_(bool) -> bool
not_strictly_false: @not_strictly_false(bool) -> bool
equals: _==_(A, A) -> bool
not_equals: _!=_(A, A) -> bool
add_bytes: _+_(bytes, bytes) -> bytes
add_double: _+_(double, double) -> double
add_duration_duration: _+_(duration, duration) -> duration
add_duration_timestamp: _+_(duration, timestamp) -> timestamp
add_timestamp_duration: _+_(timestamp, duration) -> timestamp
add_int64: _+_(int, int) -> int
add_list: _+_(list(A), list(A)) -> list(A)
add_string: _+_(string, string) -> string
add_uint64: _+_(uint, uint) -> uint
divide_double: _/_(double, double) -> double
divide_int64: _/_(int, int) -> int
divide_uint64: _/_(uint, uint) -> uint
modulo_int64: _%_(int, int) -> int
modulo_uint64: _%_(uint, uint) -> uint
multiply_double: _*_(double, double) -> double
multiply_int64: _*_(int, int) -> int
multiply_uint64: _*_(uint, uint) -> uint
negate_double: -_(double) -> double
negate_int64: -_(int) -> int
subtract_double: _-_(double, double) -> double
subtract_duration_duration: _-_(duration, duration) -> duration
subtract_int64: _-_(int, int) -> int
subtract_timestamp_duration: _-_(timestamp, duration) -> timestamp
subtract_timestamp_timestamp: _-_(timestamp, timestamp) -> duration
subtract_uint64: _-_(uint, uint) -> uint
index_list: _[_](list(A), int) -> A
index_map: _[_](map(A, B), A) -> B
optional_list_index_int: _[_](optional(list(V)), int) -> optional(V)
optional_map_index_value: _[_](optional(map(K, V)), K) -> optional(V)
in_list: @in(A, list(A)) -> bool
in_map: @in(A, map(A, B)) -> bool
size_bytes: size(bytes) -> int
bytes_size: .size(bytes) -> int
size_list: size(list(A)) -> int
list_size: .size(list(A)) -> int
size_map: size(map(A, B)) -> int
map_size: .size(map(A, B)) -> int
size_string: size(string) -> int
string_size: .size(string) -> int
type: type(A) -> type(A)
bool_to_bool: bool(bool) -> bool
string_to_bool: bool(string) -> bool
bytes_to_bytes: bytes(bytes) -> bytes
string_to_bytes: bytes(string) -> bytes
double_to_double: double(double) -> double
int64_to_double: double(int) -> double
string_to_double: double(string) -> double
uint64_to_double: double(uint) -> double
duration_to_duration: duration(duration) -> duration
int64_to_duration: duration(int) -> duration
string_to_duration: duration(string) -> duration
to_dyn: dyn(A) -> dyn
int64_to_int64: int(int) -> int
double_to_int64: int(double) -> int
duration_to_int64: int(duration) -> int
string_to_int64: int(string) -> int
timestamp_to_int64: int(timestamp) -> int
uint64_to_int64: int(uint) -> int
string_to_string: string(string) -> string
bool_to_string: string(bool) -> string
bytes_to_string: string(bytes) -> string
double_to_string: string(double) -> string
duration_to_string: string(duration) -> string
int64_to_string: string(int) -> string
timestamp_to_string: string(timestamp) -> string
uint64_to_string: string(uint) -> string
ip_to_string: string(IP) -> string
cidr_to_string: string(CIDR) -> string
timestamp_to_timestamp: timestamp(timestamp) -> timestamp
int64_to_timestamp: timestamp(int) -> timestamp
string_to_timestamp: timestamp(string) -> timestamp
uint64_to_uint64: uint(uint) -> uint
double_to_uint64: uint(double) -> uint
int64_to_uint64: uint(int) -> uint
string_to_uint64: uint(string) -> uint
contains_string: .contains(string, string) -> bool
ends_with_string: .endsWith(string, string) -> bool
starts_with_string: .startsWith(string, string) -> bool
matches: matches(string, string) -> bool
matches_string: .matches(string, string) -> bool
timestamp_to_year: .getFullYear(timestamp) -> int
timestamp_to_year_with_tz: .getFullYear(timestamp, string) -> int
timestamp_to_month: .getMonth(timestamp) -> int
timestamp_to_month_with_tz: .getMonth(timestamp, string) -> int
timestamp_to_day_of_year: .getDayOfYear(timestamp) -> int
timestamp_to_day_of_year_with_tz: .getDayOfYear(timestamp, string) -> int
timestamp_to_day_of_month: .getDayOfMonth(timestamp) -> int
timestamp_to_day_of_month_with_tz: .getDayOfMonth(timestamp, string) -> int
timestamp_to_day_of_month_1_based: .getDate(timestamp) -> int
timestamp_to_day_of_month_1_based_with_tz: .getDate(timestamp, string) -> int
timestamp_to_day_of_week: .getDayOfWeek(timestamp) -> int
timestamp_to_day_of_week_with_tz: .getDayOfWeek(timestamp, string) -> int
timestamp_to_hours: .getHours(timestamp) -> int
timestamp_to_hours_with_tz: .getHours(timestamp, string) -> int
duration_to_hours: .getHours(duration) -> int
timestamp_to_minutes: .getMinutes(timestamp) -> int
timestamp_to_minutes_with_tz: .getMinutes(timestamp, string) -> int
duration_to_minutes: .getMinutes(duration) -> int
timestamp_to_seconds: .getSeconds(timestamp) -> int
timestamp_to_seconds_tz: .getSeconds(timestamp, string) -> int
duration_to_seconds: .getSeconds(duration) -> int
timestamp_to_milliseconds: .getMilliseconds(timestamp) -> int
timestamp_to_milliseconds_with_tz: .getMilliseconds(timestamp, string) -> int
duration_to_milliseconds: .getMilliseconds(duration) -> int
optional_of: optional.of(V) -> optional(V)
optional_ofNonZeroValue: optional.ofNonZeroValue(V) -> optional(V)
optional_none: optional.none() -> optional(V)
optional_value: .value(optional(V)) -> V
optional_hasValue: .hasValue(optional(V)) -> bool
optional_or_optional: .or(optional(V), optional(V)) -> optional(V)
optional_orValue_value: .orValue(optional(V), V) -> V
select_optional_field: _?._(dyn, string) -> optional(V)
list_optindex_optional_int: _[?_](list(V), int) -> optional(V)
optional_list_optindex_optional_int: _[?_](optional(list(V)), int) -> optional(V)
map_optindex_optional_value: _[?_](map(K, V), K) -> optional(V)
optional_map_optindex_optional_value: _[?_](optional(map(K, V)), K) -> optional(V)
list_last: .last(list(V)) -> optional(V)
list_first: .first(list(V)) -> optional(V)
optional_unwrap: optional.unwrap(list(optional(V))) -> list(V)
optional_unwrapOpt: .unwrapOpt(list(optional(V))) -> list(V)
@mapInsert_map_key_value: cel.@mapInsert(map(K, V), K, V) -> map(K, V)
@mapInsert_map_map: cel.@mapInsert(map(K, V), map(K, V)) -> map(K, V)
";

/// Kubernetes' libraries and the extensions of cel-go that Kubernetes has switched on.
const LIBRARIES: &str = "
string_char_at_int: .charAt(string, int) -> string
string_index_of_string: .indexOf(string, string) -> int
string_index_of_string_int: .indexOf(string, string, int) -> int
list_a_index_of_int: .indexOf(list(A), A) -> int
string_last_index_of_string: .lastIndexOf(string, string) -> int
string_last_index_of_string_int: .lastIndexOf(string, string, int) -> int
list_a_last_index_of_int: .lastIndexOf(list(A), A) -> int
string_lower_ascii: .lowerAscii(string) -> string
string_replace_string_string: .replace(string, string, string) -> string
string_replace_string_string_int: .replace(string, string, string, int) -> string
string_split_string: .split(string, string) -> list(string)
string_split_string_int: .split(string, string, int) -> list(string)
string_substring_int: .substring(string, int) -> string
string_substring_int_int: .substring(string, int, int) -> string
string_trim: .trim(string) -> string
string_upper_ascii: .upperAscii(string) -> string
string_format: .format(string, list(dyn)) -> string
strings_quote: strings.quote(string) -> string
list_join: .join(list(string)) -> string
list_join_string: .join(list(string), string) -> string
C list_{}_is_sorted_bool: .isSorted(list({})) -> bool
N list_{}_sum_{}: .sum(list({})) -> {}
C list_{}_max_{}: .max(list({})) -> {}
C list_{}_min_{}: .min(list({})) -> {}
list_slice: .slice(list(T), int, int) -> list(T)
list_flatten: .flatten(list(list(T))) -> list(T)
list_flatten_int: .flatten(list(dyn), int) -> list(dyn)
C list_{}_sort: .sort(list({})) -> list({})
C list_{}_sortByAssociatedKeys: .@sortByAssociatedKeys(list(T), list({})) -> list(T)
lists_range: lists.range(int) -> list(int)
list_reverse: .reverse(list(T)) -> list(T)
list_distinct: .distinct(list(T)) -> list(T)
list_sets_contains_list: sets.contains(list(T), list(T)) -> bool
list_sets_equivalent_list: sets.equivalent(list(T), list(T)) -> bool
list_sets_intersects_list: sets.intersects(list(T), list(T)) -> bool
string_find_string: .find(string, string) -> string
string_find_all_string: .findAll(string, string) -> list(string)
string_find_all_string_int: .findAll(string, string, int) -> list(string)
string_to_url: url(string) -> URL
is_url_string: isURL(string) -> bool
url_get_scheme: .getScheme(URL) -> string
url_get_host: .getHost(URL) -> string
url_get_hostname: .getHostname(URL) -> string
url_get_port: .getPort(URL) -> string
url_get_escaped_path: .getEscapedPath(URL) -> string
url_get_query: .getQuery(URL) -> map(string, list(string))
string_to_quantity: quantity(string) -> Quantity
is_quantity_string: isQuantity(string) -> bool
quantity_sign: sign(Quantity) -> int
quantity_is_greater_than: .isGreaterThan(Quantity, Quantity) -> bool
semver_is_greater_than: .isGreaterThan(Semver, Semver) -> bool
quantity_is_less_than: .isLessThan(Quantity, Quantity) -> bool
semver_is_less_than: .isLessThan(Semver, Semver) -> bool
quantity_compare_to: .compareTo(Quantity, Quantity) -> int
semver_compare_to: .compareTo(Semver, Semver) -> int
quantity_get_float: .asApproximateFloat(Quantity) -> double
quantity_get_int: .asInteger(Quantity) -> int
quantity_is_integer: .isInteger(Quantity) -> bool
quantity_add: .add(Quantity, Quantity) -> Quantity
quantity_add_int: .add(Quantity, int) -> Quantity
quantity_sub: .sub(Quantity, Quantity) -> Quantity
quantity_sub_int: .sub(Quantity, int) -> Quantity
string_to_ip: ip(string) -> IP
cidr_ip: .ip(CIDR) -> IP
ip_family: .family(IP) -> int
ip_is_canonical: ip.isCanonical(string) -> bool
ip_is_unspecified: .isUnspecified(IP) -> bool
ip_is_loopback: .isLoopback(IP) -> bool
ip_is_link_local_multicast: .isLinkLocalMulticast(IP) -> bool
ip_is_link_local_unicast: .isLinkLocalUnicast(IP) -> bool
ip_is_global_unicast: .isGlobalUnicast(IP) -> bool
is_ip: isIP(string) -> bool
string_to_cidr: cidr(string) -> CIDR
cidr_contains_ip_string: .containsIP(CIDR, string) -> bool
cidr_contains_ip_ip: .containsIP(CIDR, IP) -> bool
cidr_contains_cidr_string: .containsCIDR(CIDR, string) -> bool
cidr_contains_cidr: .containsCIDR(CIDR, CIDR) -> bool
cidr_prefix_length: .prefixLength(CIDR) -> int
cidr_masked: .masked(CIDR) -> CIDR
is_cidr: isCIDR(string) -> bool
format-validate: .validate(Format, string) -> optional(list(string))
format-named: format.named(string) -> optional(Format)
string_to_semver: semver(string) -> Semver
string_bool_to_semver: semver(string, bool) -> Semver
is_semver_string: isSemver(string) -> bool
is_semver_string_bool: isSemver(string, bool) -> bool
semver_major: .major(Semver) -> int
semver_minor: .minor(Semver) -> int
semver_patch: .patch(Semver) -> int
authorizer_path: .path(Authorizer, string) -> PathCheck
authorizer_group: .group(Authorizer, string) -> GroupCheck
authorizer_serviceaccount: .serviceAccount(Authorizer, string, string) -> Authorizer
groupcheck_resource: .resource(GroupCheck, string) -> ResourceCheck
resourcecheck_subresource: .subresource(ResourceCheck, string) -> ResourceCheck
resourcecheck_namespace: .namespace(ResourceCheck, string) -> ResourceCheck
resourcecheck_name: .name(ResourceCheck, string) -> ResourceCheck
authorizer_fieldselector: .fieldSelector(ResourceCheck, string) -> ResourceCheck
authorizer_labelselector: .labelSelector(ResourceCheck, string) -> ResourceCheck
pathcheck_check: .check(PathCheck, string) -> Decision
resourcecheck_check: .check(ResourceCheck, string) -> Decision
decision_errored: .errored(Decision) -> bool
decision_error: .error(Decision) -> string
decision_allowed: .allowed(Decision) -> bool
decision_reason: .reason(Decision) -> string
string_jsonpatch_escapeKey_string: jsonpatch.escapeKey(string) -> string
";

/// Formats that have a function of their own: `format.NAME()`.
pub(crate) const FORMATS: [&str; 13] = [
    "dns1123Label",
    "dns1123Subdomain",
    "dns1035Label",
    "qualifiedName",
    "dns1123LabelPrefix",
    "dns1123SubdomainPrefix",
    "dns1035LabelPrefix",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime",
];

const COMPARABLE: [&str; 8] = ["int", "uint", "double", "bool", "duration", "timestamp", "string", "bytes"];
const SUMMABLE: [&str; 4] = ["int", "uint", "double", "duration"];

/// What comparisons compare, with the names in their overloads.
const ORDERED: [(&str, &str, &str); 14] = [
    ("bool", "bool", "bool"),
    ("int64", "int", "int"),
    ("int64_double", "int", "double"),
    ("int64_uint64", "int", "uint"),
    ("uint64", "uint", "uint"),
    ("uint64_double", "uint", "double"),
    ("uint64_int64", "uint", "int"),
    ("double", "double", "double"),
    ("double_int64", "double", "int"),
    ("double_uint64", "double", "uint"),
    ("string", "string", "string"),
    ("bytes", "bytes", "bytes"),
    ("timestamp", "timestamp", "timestamp"),
    ("duration", "duration", "duration"),
];

/// Every function by its name.
pub(crate) static FUNCTIONS: LazyLock<HashMap<&'static str, Function>> = LazyLock::new(|| {
    let mut found: HashMap<&'static str, Function> = HashMap::new();
    let mut add = |name: &'static str, overload: Overload| {
        found.entry(name).or_insert_with(|| Function { name, overloads: Vec::new() }).overloads.push(overload);
    };
    for line in STANDARD.lines().chain(LIBRARIES.lines()).filter(|line| !line.is_empty()) {
        let (types, line): (&[&str], &'static str) = match line.split_once(' ') {
            Some(("C", line)) => (&COMPARABLE, line),
            Some(("N", line)) => (&SUMMABLE, line),
            _ => (&[""], line),
        };
        for of in types {
            if let Some((name, overload)) = declaration(line, of) {
                add(name, overload);
            }
        }
    }
    for (name, word) in [("_<_", "less"), ("_<=_", "less_equals"), ("_>_", "greater"), ("_>=_", "greater_equals")] {
        for (id, left, right) in ORDERED {
            let args = [left, right].map(|of| read_type(of).unwrap_or(Type::Error)).to_vec();
            add(name, Overload { id: format!("{word}_{id}"), is_member: false, args, result: Type::Bool });
        }
    }
    for (name, format) in FORMAT_FUNCTIONS {
        add(name, Overload { id: format.to_owned(), is_member: false, args: Vec::new(), result: FORMAT });
    }
    found
});

/// Names of the functions for [`FORMATS`], and their overloads.
const FORMAT_FUNCTIONS: [(&str, &str); 13] = [
    ("format.dns1123Label", "format.dns1123Label"),
    ("format.dns1123Subdomain", "format.dns1123Subdomain"),
    ("format.dns1035Label", "format.dns1035Label"),
    ("format.qualifiedName", "format.qualifiedName"),
    ("format.dns1123LabelPrefix", "format.dns1123LabelPrefix"),
    ("format.dns1123SubdomainPrefix", "format.dns1123SubdomainPrefix"),
    ("format.dns1035LabelPrefix", "format.dns1035LabelPrefix"),
    ("format.labelValue", "format.labelValue"),
    ("format.uri", "format.uri"),
    ("format.uuid", "format.uuid"),
    ("format.byte", "format.byte"),
    ("format.date", "format.date"),
    ("format.datetime", "format.datetime"),
];

/// Reads a line of a table. `of` stands in for `{}`.
fn declaration(line: &'static str, of: &str) -> Option<(&'static str, Overload)> {
    let (id, rest) = line.split_once(": ")?;
    let (call, result) = rest.rsplit_once(" -> ")?;
    let (name, args) = call.split_once('(')?;
    let args = args.strip_suffix(')')?.replace("{}", of);
    let args = split(&args).into_iter().map(read_type).collect::<Option<Vec<_>>>()?;
    let is_member = name.starts_with('.');
    let overload =
        Overload { id: id.replace("{}", of), is_member, args, result: read_type(&result.replace("{}", of))? };
    Some((name.strip_prefix('.').unwrap_or(name), overload))
}

/// Cuts at the commas that are in no brackets.
fn split(list: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0_usize, 0);
    for (at, letter) in list.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.extend(list.get(from..at));
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.extend(list.get(from..).filter(|part| !part.is_empty()));
    parts.into_iter().map(str::trim).collect()
}

fn read_type(text: &str) -> Option<Type> {
    if let Some((outer, inner)) = text.split_once('(') {
        let inner = inner.strip_suffix(')')?;
        let inner = split(inner).into_iter().map(read_type).collect::<Option<Vec<_>>>()?;
        return match (outer, inner.as_slice()) {
            ("list", [of]) => Some(Type::list(of.clone())),
            ("optional", [of]) => Some(Type::optional(of.clone())),
            ("type", [of]) => Some(Type::Type(Some(std::sync::Arc::new(of.clone())))),
            ("map", [key, value]) => Some(Type::map(key.clone(), value.clone())),
            _ => None,
        };
    }
    Some(match text {
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "dyn" => Type::Dyn,
        "Quantity" => QUANTITY,
        "URL" => URL,
        "IP" => IP,
        "CIDR" => CIDR,
        "Semver" => SEMVER,
        "Format" => FORMAT,
        "Authorizer" => AUTHORIZER,
        "PathCheck" => PATH_CHECK,
        "GroupCheck" => GROUP_CHECK,
        "ResourceCheck" => RESOURCE_CHECK,
        "Decision" => DECISION,
        param => {
            let mut letters = param.chars();
            let (letter, None) = (letters.next()?, letters.next()) else { return None };
            Type::Param(Param::Declared(letter))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_tables_is_read() {
        for line in STANDARD.lines().chain(LIBRARIES.lines()).filter(|line| !line.is_empty()) {
            let line = line.strip_prefix("C ").or_else(|| line.strip_prefix("N ")).unwrap_or(line);
            assert!(declaration(line, "int").is_some(), "{line}");
        }
        assert_eq!(FORMATS.len(), FORMAT_FUNCTIONS.len());
    }
}
