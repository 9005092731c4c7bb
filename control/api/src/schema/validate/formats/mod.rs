//! The formats of strings that definitions may ask for, checked as upstream's `strfmt` does. An unknown format is no check.
//!
//! Follows <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#validation>.

mod codes;
mod email;
mod network;
mod times;
mod uri;

use crate::names;

/// Whether a text has the format.
pub(super) type Check = fn(&str) -> bool;

/// The check of a format by its name, in which dashes do not count.
pub(super) fn check(name: &str) -> Option<Check> {
    let check: Check = match name.replace('-', "").as_str() {
        "bsonobjectid" => |text| text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit()),
        "uri" => uri::is_request_uri,
        "email" => email::is_address,
        "hostname" => network::is_hostname,
        "ipv4" => network::is_ipv4,
        "ipv6" => network::is_ipv6,
        "cidr" => network::is_cidr,
        "mac" => network::is_mac,
        "uuid" => |text| codes::is_uuid(text, None),
        "uuid3" => |text| codes::is_uuid(text, Some(b'3')),
        "uuid4" => |text| codes::is_uuid(text, Some(b'4')),
        "uuid5" => |text| codes::is_uuid(text, Some(b'5')),
        "isbn" => |text| codes::is_isbn10(text) || codes::is_isbn13(text),
        "isbn10" => codes::is_isbn10,
        "isbn13" => codes::is_isbn13,
        "creditcard" => codes::is_credit_card,
        "ssn" => codes::is_ssn,
        "hexcolor" => codes::is_hex_color,
        "rgbcolor" => codes::is_rgb_color,
        "byte" => codes::is_base64,
        "password" => |_| true,
        "date" => times::is_date,
        "duration" => times::is_duration,
        "datetime" => times::is_date_time,
        "k8sshortname" => |text| names::dns1123_label(text).is_empty(),
        "k8slongname" => |text| names::dns1123_subdomain(text).is_empty(),
        _ => return None,
    };
    Some(check)
}

#[cfg(test)]
mod tests;
