//! Messages of clients: bytes to a question, an answer to bytes. Pure.
//!
//! A query has one question and nothing else but EDNS (RFC 6891, RFC 9619); its case is kept in the reply. What is no query gets no reply; what is
//! one, and cannot be read, FORMERR. Over UDP a reply has the size that the client names, at most 1232 bytes (<https://www.dnsflagday.net/2020/>) and
//! without EDNS 512; what does not fit is left out and the reply marked, so that the client comes by TCP.

use super::zone::Answers;
use hickory_proto::{
    ProtoError,
    op::{Edns, Header, HeaderCounts, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{DNSClass, Record, RecordType},
    serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder},
};
use std::iter;

/// Bytes of a message's header.
const HEADER: usize = 12;

/// Most bytes of a reply over UDP.
pub(crate) const MAX_DATAGRAM: u16 = 1232;

/// Most bytes of a reply over UDP to who does not say how many it takes.
const PLAIN_DATAGRAM: u16 = 512;

/// Records that a query may have beside its question: EDNS, and a signature that nobody checks.
const MAX_EXTRA: u16 = 2;

/// How a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Datagram,
    Stream,
}

/// A question that was asked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Asked {
    /// Of the header, to be returned.
    pub(crate) head: Head,
    pub(crate) query: Query,
    /// The client wants signatures (DO).
    pub(crate) dnssec: bool,
    /// Most bytes of the reply.
    pub(crate) limit: u16,
}

/// What of a query's header a reply has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) id: u16,
    op: OpCode,
    recursion: bool,
    /// The client checks signatures by itself (CD).
    pub(crate) checking_disabled: bool,
    /// The client speaks EDNS.
    edns: bool,
}

/// What was received.
#[derive(Debug, PartialEq)]
pub(crate) enum Received {
    /// A question.
    Asked(Asked),
    /// What is answered with an error, or cannot be understood. These bytes are the reply.
    Wrong(Vec<u8>),
    /// No query.
    Nothing,
}

/// Reads a message of a client.
pub(crate) fn read(bytes: &[u8], transport: Transport) -> Received {
    let Ok(Header { metadata, counts }) = Header::read(&mut BinDecoder::new(bytes)) else { return Received::Nothing };
    if metadata.message_type != MessageType::Query || bytes.len() < HEADER {
        return Received::Nothing;
    }
    let mut head = Head {
        id: metadata.id,
        op: metadata.op_code,
        recursion: metadata.recursion_desired,
        checking_disabled: metadata.checking_disabled,
        edns: false,
    };
    let wrong = |head: Head, code| Received::Wrong(write(head, None, PLAIN_DATAGRAM, &Answers::only(code)));
    if metadata.op_code != OpCode::Query {
        return wrong(head, ResponseCode::NotImp);
    }
    // before they are read: a query of 64 KiB has thousands
    if counts.queries != 1 || counts.answers != 0 || counts.authorities != 0 || counts.additionals > MAX_EXTRA {
        return wrong(head, ResponseCode::FormErr);
    }
    let Ok(message) = Message::from_vec(bytes) else { return wrong(head, ResponseCode::FormErr) };
    let Some(query) = message.queries.into_iter().next() else { return wrong(head, ResponseCode::FormErr) };
    head.edns = message.edns.is_some();
    let limit = match (transport, &message.edns) {
        (Transport::Stream, _) => u16::MAX,
        (Transport::Datagram, Some(edns)) => edns.max_payload().clamp(PLAIN_DATAGRAM, MAX_DATAGRAM),
        (Transport::Datagram, None) => PLAIN_DATAGRAM,
    };
    let refusal = match &message.edns {
        Some(edns) if edns.version() != 0 => Some(ResponseCode::BADVERS),
        _ if query.query_class() != DNSClass::IN => Some(ResponseCode::Refused),
        // no zone is given away
        _ if matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR) => Some(ResponseCode::Refused),
        _ => None,
    };
    match refusal {
        Some(code) => Received::Wrong(write(head, Some(&query), limit, &Answers::only(code))),
        None => {
            let dnssec = message.edns.is_some_and(|edns| edns.flags().dnssec_ok);
            Received::Asked(Asked { head, query, dnssec, limit })
        }
    }
}

impl Asked {
    /// The reply. Never longer than the limit.
    pub(crate) fn reply(&self, answers: &Answers) -> Vec<u8> {
        write(self.head, Some(&self.query), self.limit, answers)
    }
}

/// Writes a reply. What cannot be written for another reason than its length is a failure of the server.
fn write(head: Head, query: Option<&Query>, limit: u16, answers: &Answers) -> Vec<u8> {
    let first = encode(head, query, limit, answers);
    let bytes = first.or_else(|_| encode(head, query, limit, &Answers::only(ResponseCode::ServFail)));
    bytes.unwrap_or_default()
}

fn encode(head: Head, query: Option<&Query>, limit: u16, answers: &Answers) -> Result<Vec<u8>, ProtoError> {
    let edns = head.edns.then(|| {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_DATAGRAM).set_version(0).set_rcode_high(answers.code.high());
        Record::from(&edns)
    });
    let mut bytes = Vec::with_capacity(PLAIN_DATAGRAM.into());
    let mut encoder = BinEncoder::new(&mut bytes);
    // EDNS has its place, whatever is left out
    let room = if edns.is_some() { limit.saturating_sub(EDNS) } else { limit };
    encoder.set_max_size(room);
    let place = encoder.place::<Header>()?;
    query.into_iter().try_for_each(|query| query.emit(&mut encoder))?;
    let (of_answers, cut) = emit(&mut encoder, &answers.answers)?;
    let (of_authorities, also_cut) = emit(&mut encoder, &answers.authorities)?;
    // what is beside the answer may be missing without saying so (RFC 2181, section 9)
    let (mut of_additionals, _) = emit(&mut encoder, &answers.additionals)?;
    encoder.set_max_size(limit);
    if let Some(edns) = edns {
        encoder.emit_all(iter::once(&edns))?;
        of_additionals += 1;
    }
    let mut metadata = Metadata::new(head.id, MessageType::Response, head.op);
    metadata.response_code = answers.code;
    metadata.authoritative = answers.authoritative;
    metadata.authentic_data = answers.authentic;
    metadata.truncation = cut || also_cut;
    metadata.recursion_desired = head.recursion;
    metadata.recursion_available = true;
    metadata.checking_disabled = head.checking_disabled;
    let counts = HeaderCounts {
        queries: u16::from(query.is_some()),
        answers: of_answers,
        authorities: of_authorities,
        additionals: of_additionals,
    };
    place.replace(&mut encoder, Header { metadata, counts })?;
    Ok(bytes)
}

/// Bytes of EDNS without options.
const EDNS: u16 = 11;

/// Writes as many records as there is room for. Returns their number, and whether some are left out.
fn emit(encoder: &mut BinEncoder<'_>, records: &[Record]) -> Result<(u16, bool), ProtoError> {
    let (count, cut) = match encoder.emit_all(records.iter()) {
        Ok(count) => (count, false),
        Err(ProtoError::NotAllRecordsWritten { count, .. }) => (count, true),
        Err(error) => return Err(error),
    };
    let count = u16::try_from(count).map_err(|_| ProtoError::from("too many records"))?;
    Ok((count, cut))
}

/// The question to a server outside, and the number by which its answer is known.
pub(crate) fn question(query: &Query, dnssec: bool, checking_disabled: bool) -> Result<(u16, Vec<u8>), ProtoError> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = checking_disabled;
    message.add_query(query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_DATAGRAM).set_version(0).set_dnssec_ok(dnssec);
    message.set_edns(edns);
    Ok((message.metadata.id, message.to_vec()?))
}

/// What a server outside answers; `None` for what does not answer this question. The flag says that it is cut.
pub(crate) fn answer(bytes: &[u8], id: u16, query: &Query) -> Option<(Answers, bool)> {
    let message = Message::from_vec(bytes).ok()?;
    let Metadata { message_type, op_code, response_code, truncation, authentic_data, .. } = message.metadata;
    let is_it = message.metadata.id == id && message_type == MessageType::Response && op_code == OpCode::Query;
    // some servers leave the question out when they refuse
    let left_out = message.queries.is_empty() && response_code != ResponseCode::NoError;
    if !is_it || !(left_out || matches!(message.queries.as_slice(), [only] if only == query)) {
        return None;
    }
    let answers = Answers {
        code: response_code,
        authoritative: false,
        authentic: authentic_data,
        answers: message.answers,
        authorities: message.authorities,
        additionals: message.additionals,
    };
    Some((answers, truncation))
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
