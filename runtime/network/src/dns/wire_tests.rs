use super::*;
use hickory_proto::rr::{Name, RData};
use std::net::Ipv4Addr;

fn query() -> Query {
    Query::query(Name::from_ascii("WeB.shop.svc.cluster.local.").unwrap(), RecordType::A)
}

/// A message of a client, which may be changed before it is written.
fn message(change: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(query());
    change(&mut message);
    message.to_vec().unwrap()
}

fn edns(size: u16, version: u8) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(size).set_version(version);
    edns
}

fn asked(bytes: &[u8], transport: Transport) -> Asked {
    match read(bytes, transport) {
        Received::Asked(asked) => asked,
        other => panic!("{other:?}"),
    }
}

fn addresses(count: u8) -> Answers {
    let record = |n| Record::from_rdata(query().name, 5, RData::A(Ipv4Addr::new(10, 0, 0, n).into()));
    Answers { answers: (0..count).map(record).collect(), ..Answers::only(ResponseCode::NoError) }
}

/// The code of the error with which a message is answered.
fn refusal(bytes: &[u8]) -> (ResponseCode, Message) {
    match read(bytes, Transport::Datagram) {
        Received::Wrong(reply) => {
            let reply = Message::from_vec(&reply).unwrap();
            assert_eq!((reply.metadata.id, reply.metadata.message_type), (0x1234, MessageType::Response));
            (reply.metadata.response_code, reply)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_question_is_read_and_its_case_kept() {
    let asked = asked(&message(|_| ()), Transport::Datagram);
    assert!(asked.query.name().eq_case(query().name()));
    assert_eq!((asked.head.id, asked.dnssec, asked.limit), (0x1234, false, 512));
    let reply = Message::from_vec(&asked.reply(&addresses(2))).unwrap();
    assert!(reply.queries[0].name().eq_case(query().name()), "{:?}", reply.queries);
    assert_eq!((reply.queries.len(), reply.answers.len()), (1, 2));
    let metadata = reply.metadata;
    assert_eq!((metadata.id, metadata.message_type), (0x1234, MessageType::Response));
    assert!(metadata.recursion_desired && metadata.recursion_available && !metadata.truncation);
    assert!(reply.edns.is_none(), "it was not asked for");
}

#[test]
fn the_size_is_what_the_client_takes() {
    for (size, limit) in [(0, 512), (100, 512), (513, 513), (1232, 1232), (4096, 1232), (65_535, 1232)] {
        let bytes = message(|message| {
            message.set_edns(edns(size, 0));
        });
        assert_eq!(asked(&bytes, Transport::Datagram).limit, limit, "{size}");
        assert_eq!(asked(&bytes, Transport::Stream).limit, u16::MAX);
    }
    assert_eq!(asked(&message(|_| ()), Transport::Stream).limit, u16::MAX);
}

#[test]
fn what_does_not_fit_is_left_out_and_marked() {
    for with_edns in [false, true] {
        let bytes = message(|message| {
            if with_edns {
                message.set_edns(edns(600, 0));
            }
        });
        let (by_datagram, by_stream) = (asked(&bytes, Transport::Datagram), asked(&bytes, Transport::Stream));
        let cut = by_datagram.reply(&addresses(200));
        assert!(
            cut.len() <= by_datagram.limit.into() && cut.len() > usize::from(by_datagram.limit) - 32,
            "{}",
            cut.len()
        );
        let cut = Message::from_vec(&cut).unwrap();
        assert!(cut.metadata.truncation && !cut.answers.is_empty());
        assert_eq!(cut.edns.is_some(), with_edns, "it has its place");
        let whole = Message::from_vec(&by_stream.reply(&addresses(200))).unwrap();
        assert!(!whole.metadata.truncation);
        assert_eq!((whole.answers.len(), whole.edns.is_some()), (200, with_edns));
    }
    let mut beside = addresses(1);
    beside.additionals = addresses(200).answers;
    let reply = Message::from_vec(&asked(&message(|_| ()), Transport::Datagram).reply(&beside)).unwrap();
    assert!(!reply.metadata.truncation && reply.answers.len() == 1, "what is beside the answer may be missing");
    assert!((1..200).contains(&reply.additionals.len()));
}

#[test]
fn what_is_no_query_gets_no_reply() {
    assert_eq!(read(&[], Transport::Datagram), Received::Nothing);
    assert_eq!(read(&message(|_| ())[..11], Transport::Datagram), Received::Nothing);
    let reply = message(|message| message.metadata.message_type = MessageType::Response);
    assert_eq!(read(&reply, Transport::Datagram), Received::Nothing, "two servers would answer each other for ever");
}

#[test]
fn what_cannot_be_read_is_an_error_of_form() {
    let whole = message(|_| ());
    for length in 12..whole.len() {
        assert_eq!(refusal(&whole[..length]).0, ResponseCode::FormErr, "{length}");
    }
    let two = message(|message| {
        message.add_query(query());
    });
    let none = message(|message| message.queries.clear());
    let answered = message(|message| message.answers = addresses(1).answers);
    let many = message(|message| message.additionals = addresses(3).answers);
    for bytes in [two, none, answered, many] {
        assert_eq!(refusal(&bytes).0, ResponseCode::FormErr);
    }
    // a name that points to itself, and one that leaves the message
    for pointer in [[0xc0, 12], [0xff, 0xff]] {
        let bytes = [&whole[..12], &pointer, &[0, 1, 0, 1]].concat();
        assert_eq!(refusal(&bytes).0, ResponseCode::FormErr);
    }
}

#[test]
fn what_is_not_done_is_refused_by_its_code() {
    assert_eq!(refusal(&message(|message| message.metadata.op_code = OpCode::Notify)).0, ResponseCode::NotImp);
    let of = |query: Query| message(|message| message.queries = vec![query]);
    for kind in [RecordType::AXFR, RecordType::IXFR] {
        let (code, reply) = refusal(&of(Query::query(query().name, kind)));
        assert_eq!((code, reply.queries.len()), (ResponseCode::Refused, 1));
    }
    let mut chaos = query();
    chaos.set_query_class(DNSClass::CH);
    assert_eq!(refusal(&of(chaos)).0, ResponseCode::Refused);
    let later = message(|message| {
        message.set_edns(edns(1232, 1));
    });
    let (code, reply) = refusal(&later);
    // the code has another name among those of signatures
    let (code, version) = (u16::from(code), reply.edns.unwrap().version());
    assert_eq!((code, version), (ResponseCode::BADVERS.into(), 0), "the version that is spoken");
}

#[test]
fn an_answer_of_others_must_be_to_the_question() {
    let (id, question) = question(&query(), true, true).unwrap();
    let sent = Message::from_vec(&question).unwrap();
    assert!(sent.metadata.checking_disabled && sent.metadata.recursion_desired);
    assert!(sent.edns.unwrap().flags().dnssec_ok);
    let other = |change: fn(&mut Message)| {
        let mut message = Message::new(id, MessageType::Response, OpCode::Query);
        message.add_query(query());
        message.answers = addresses(1).answers;
        change(&mut message);
        answer(&message.to_vec().unwrap(), id, &query())
    };
    let (good, cut) = other(|_| ()).unwrap();
    assert_eq!((good.answers.len(), cut), (1, false));
    assert!(other(|message| message.metadata.truncation = true).unwrap().1);
    assert!(other(|message| message.metadata.id ^= 1).is_none());
    assert!(other(|message| message.metadata.message_type = MessageType::Query).is_none());
    assert!(other(|message| message.queries[0].name = Name::from_ascii("other.").unwrap()).is_none());
    assert!(other(|message| message.queries.clear()).is_none());
    let refused = other(|message| {
        message.queries.clear();
        message.metadata.response_code = ResponseCode::Refused;
    });
    assert_eq!(refused.unwrap().0.code, ResponseCode::Refused);
    assert!(answer(b"\0\0", id, &query()).is_none());
}

/// Numbers that look like chance and are the same each time.
fn chance(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    usize::try_from(*state >> 33).unwrap()
}

#[test]
fn whatever_comes_is_answered_within_its_size_or_not_at_all() {
    let plain = message(|_| ());
    let extended = message(|message| {
        message.set_edns(edns(600, 0));
    });
    let (mut state, mut asked) = (1, 0);
    for round in 0..20_000 {
        let mut bytes = if round % 2 == 0 { plain.clone() } else { extended.clone() };
        for _ in 0..=chance(&mut state) % 4 {
            let at = chance(&mut state) % bytes.len();
            bytes[at] =
                [0, 1, 0x3f, 0x40, 0xc0, 0xff, u8::try_from(chance(&mut state) % 256).unwrap()][chance(&mut state) % 7];
        }
        bytes.truncate(1 + chance(&mut state) % (bytes.len() * 4));
        let reply = match read(&bytes, Transport::Datagram) {
            Received::Asked(question) => {
                asked += 1;
                let reply = question.reply(&addresses(100));
                assert!(reply.len() <= question.limit.into() && question.limit <= MAX_DATAGRAM, "{bytes:?}");
                reply
            }
            Received::Wrong(reply) => reply,
            Received::Nothing => continue,
        };
        assert!(reply.len() <= MAX_DATAGRAM.into() && reply[..2] == bytes[..2], "{bytes:?}");
        let reply = Message::from_vec(&reply).unwrap_or_else(|error| panic!("{error}: {bytes:?}"));
        assert_eq!(reply.metadata.message_type, MessageType::Response);
    }
    assert!(asked > 1000, "{asked} of them were questions");
}
