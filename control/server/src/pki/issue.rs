//! Certificates for requests: the subject and the key are those of the request, byte for byte. Follows upstream's `PermissiveSigningPolicy`.

use super::{Error, Pair, Validity};
use api::csr::{Names, Request};
use jiff::Timestamp;
use rcgen::{KeyPair, SigningKey};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use std::{net::IpAddr, time::Duration};
use x509_parser::extensions::ParsedExtension;
use yasna::{
    DERWriter, DERWriterSeq, Tag,
    models::{GeneralizedTime, ObjectIdentifier, UTCTime},
};

/// What a certificate may be used for, by the names of the API, with the bit of `keyUsage` or the identifier of `extKeyUsage`.
const KEY_USAGES: &[(&str, u16)] = &[
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];

/// In the order in which Go writes them.
const EXTENDED_USAGES: &[(&[&str], &[u64])] = &[
    (&["any"], &[2, 5, 29, 37, 0]),
    (&["server auth"], &[1, 3, 6, 1, 5, 5, 7, 3, 1]),
    (&["client auth"], &[1, 3, 6, 1, 5, 5, 7, 3, 2]),
    (&["code signing"], &[1, 3, 6, 1, 5, 5, 7, 3, 3]),
    (&["email protection", "s/mime"], &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    (&["ipsec end system"], &[1, 3, 6, 1, 5, 5, 7, 3, 5]),
    (&["ipsec tunnel"], &[1, 3, 6, 1, 5, 5, 7, 3, 6]),
    (&["ipsec user"], &[1, 3, 6, 1, 5, 5, 7, 3, 7]),
    (&["timestamping"], &[1, 3, 6, 1, 5, 5, 7, 3, 8]),
    (&["ocsp signing"], &[1, 3, 6, 1, 5, 5, 7, 3, 9]),
    (&["microsoft sgc"], &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
    (&["netscape sgc"], &[2, 16, 840, 1, 113_730, 4, 1]),
];

const ECDSA_SHA256: &[u64] = &[1, 2, 840, 10045, 4, 3, 2];
const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const EXTENDED_KEY_USAGE: &[u64] = &[2, 5, 29, 37];
const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const AUTHORITY_KEY: &[u64] = &[2, 5, 29, 35];
const ALTERNATIVE_NAMES: &[u64] = &[2, 5, 29, 17];

/// The first year that a `UTCTime` cannot say.
const GENERALIZED_FROM: &str = "2050-01-01T00:00:00Z";

/// The certificate for a request, in PEM. It is not an authority, ends with the authority at the latest, and may be used for `usages`.
///
/// # Errors
/// The authority cannot be read or has ended, a usage is unknown, or the system has no randomness.
pub fn issue_for(authority: &Pair, request: &Request, usages: &[String], validity: Validity) -> Result<String, Error> {
    let key = KeyPair::from_pem(&authority.key)?;
    if key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
        return Err(Error::Authority("its key is not an ECDSA P-256 key"));
    }
    let der = CertificateDer::from_pem_slice(authority.certificate.as_bytes())
        .map_err(|_| Error::Authority("its certificate is not PEM"))?;
    let (_, signer) =
        x509_parser::parse_x509_certificate(&der).map_err(|_| Error::Authority("its certificate cannot be read"))?;
    let end = Timestamp::from_second(signer.validity().not_after.timestamp()).map_err(|_| Error::Validity)?;
    let until = validity.until.min(end);
    if validity.from >= end || until <= validity.from {
        return Err(Error::Ended(end));
    }
    let usages = Usages::of(usages)?;
    let signer_key = signer.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    });
    let serial = serial()?;
    let times = [encoded(validity.from)?, encoded(until)?];
    let body = yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_tagged(Tag::context(0), |writer| writer.write_u8(2));
            writer.next().write_bigint_bytes(&serial, true);
            algorithm(writer.next());
            writer.next().write_der(signer.subject().as_raw());
            writer.next().write_sequence(|writer| times.iter().for_each(|time| writer.next().write_der(time)));
            writer.next().write_der(&request.subject);
            writer.next().write_der(&request.public_key);
            writer.next().write_tagged(Tag::context(3), |writer| {
                writer.write_sequence(|writer| {
                    usages.write(writer);
                    extension(writer, BASIC_CONSTRAINTS, true, |writer| writer.write_sequence(|_| {}));
                    if let Some(id) = signer_key {
                        extension(writer, AUTHORITY_KEY, false, |writer| {
                            writer.write_sequence(|writer| {
                                writer.next().write_tagged_implicit(Tag::context(0), |writer| writer.write_bytes(id));
                            });
                        });
                    }
                    alternative(writer, request);
                });
            });
        });
    });
    let signature = key.sign(&body)?;
    let certificate = yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_der(&body);
            algorithm(writer.next());
            writer.next().write_bitvec_bytes(&signature, signature.len() * 8);
        });
    });
    Ok(pem(&certificate))
}

/// What a certificate may be used for.
struct Usages {
    key: u16,
    extended: Vec<&'static [u64]>,
}

impl Usages {
    fn of(names: &[String]) -> Result<Self, Error> {
        let mut key = 0;
        for name in names {
            let bit = KEY_USAGES.iter().find(|(known, _)| known == name);
            if let Some((_, bit)) = bit {
                key |= 1 << bit;
            } else if !EXTENDED_USAGES.iter().any(|(known, _)| known.contains(&name.as_str())) {
                return Err(Error::Usage(name.clone()));
            }
        }
        let named = |(known, _): &&(&[&str], &[u64])| names.iter().any(|name| known.contains(&name.as_str()));
        Ok(Self { key, extended: EXTENDED_USAGES.iter().filter(named).map(|(_, id)| *id).collect() })
    }

    fn write(&self, writer: &mut DERWriterSeq<'_>) {
        if self.key != 0 {
            // The first bit is the highest one of the first byte, and DER ends with the last bit that is set.
            let bits = self.key.reverse_bits().to_be_bytes();
            let length = 16 - usize::try_from(self.key.leading_zeros()).unwrap_or(0);
            extension(writer, KEY_USAGE, true, |writer| {
                writer.write_bitvec_bytes(&bits[..length.div_ceil(8)], length);
            });
        }
        if !self.extended.is_empty() {
            extension(writer, EXTENDED_KEY_USAGE, false, |writer| {
                writer.write_sequence(|writer| {
                    for id in &self.extended {
                        writer.next().write_oid(&ObjectIdentifier::from_slice(id));
                    }
                });
            });
        }
    }
}

fn algorithm(writer: DERWriter<'_>) {
    writer.write_sequence(|writer| writer.next().write_oid(&ObjectIdentifier::from_slice(ECDSA_SHA256)));
}

fn extension(writer: &mut DERWriterSeq<'_>, id: &[u64], critical: bool, value: impl FnOnce(DERWriter<'_>)) {
    writer.next().write_sequence(|writer| {
        writer.next().write_oid(&ObjectIdentifier::from_slice(id));
        if critical {
            writer.next().write_bool(true);
        }
        writer.next().write_bytes(&yasna::construct_der(value));
    });
}

fn alternative(writer: &mut DERWriterSeq<'_>, request: &Request) {
    let Names { dns, addresses, emails, uris } = &request.names;
    if dns.is_empty() && addresses.is_empty() && emails.is_empty() && uris.is_empty() {
        return;
    }
    // Who has no other name is known by these.
    let critical = request.subject == [0x30, 0];
    extension(writer, ALTERNATIVE_NAMES, critical, |writer| {
        writer.write_sequence(|writer| {
            for (tag, texts) in [(2, dns), (1, emails)] {
                for text in texts {
                    tagged(writer, tag, text.as_bytes());
                }
            }
            for address in addresses {
                match address {
                    IpAddr::V4(four) => tagged(writer, 7, &four.octets()),
                    IpAddr::V6(sixteen) => tagged(writer, 7, &sixteen.octets()),
                }
            }
            uris.iter().for_each(|uri| tagged(writer, 6, uri.as_bytes()));
        });
    });
}

fn tagged(writer: &mut DERWriterSeq<'_>, tag: u64, bytes: &[u8]) {
    writer.next().write_tagged_implicit(Tag::context(tag), |writer| writer.write_bytes(bytes));
}

/// A time as certificates say it: with two digits of the year as long as that can be read.
fn encoded(time: Timestamp) -> Result<Vec<u8>, Error> {
    let seconds = u64::try_from(time.as_second()).map_err(|_| Error::Validity)?;
    let date = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    let late: Timestamp = GENERALIZED_FROM.parse().map_err(|_| Error::Validity)?;
    if time < late {
        let date = UTCTime::from_datetime_opt(date).ok_or(Error::Validity)?;
        return Ok(yasna::construct_der(|writer| writer.write_utctime(&date)));
    }
    let date = GeneralizedTime::from_datetime_opt(date).ok_or(Error::Validity)?;
    Ok(yasna::construct_der(|writer| writer.write_generalized_time(&date)))
}

/// 127 random bits: upstream has as many.
fn serial() -> Result<[u8; 16], Error> {
    let mut serial = [0; 16];
    let random = rustls::crypto::ring::default_provider().secure_random;
    random.fill(&mut serial).map_err(|_| Error::Authority("the system has no randomness"))?;
    serial[0] &= 0x7f;
    Ok(serial)
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
#[path = "issue_tests.rs"]
mod tests;
