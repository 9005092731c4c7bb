//! Servers on loopback addresses, which the tests make.

use super::*;
use hickory_proto::{
    op::{Message, MessageType},
    rr::{Name, RData, Record, RecordType},
};
use std::sync::atomic::AtomicU32;
use tokio::net::TcpListener;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 32, 0, 2));
const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));

fn key(name: &str) -> Key {
    Key { query: Query::query(Name::from_ascii(name).unwrap(), RecordType::A), dnssec: false, checking_disabled: false }
}

/// Answers each question with what `reply` makes of it. Counts them.
async fn server(reply: impl Fn(&mut Message, u32) -> bool + Send + Sync + 'static) -> (SocketAddr, Arc<AtomicU32>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (address, count) = (socket.local_addr().unwrap(), Arc::new(AtomicU32::new(0)));
    let asked = count.clone();
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        while let Ok((size, from)) = socket.recv_from(&mut buffer).await {
            let mut message = Message::from_vec(&buffer[..size]).unwrap().into_response();
            if reply(&mut message, asked.fetch_add(1, Relaxed)) {
                socket.send_to(&message.to_vec().unwrap(), from).await.unwrap();
            }
        }
    });
    (address, count)
}

fn add(message: &mut Message, last: u8) -> bool {
    let name = message.queries[0].name().to_lowercase();
    message.add_answer(Record::from_rdata(name, 30, RData::A(Ipv4Addr::new(192, 0, 2, last).into())));
    true
}

fn forwarder(servers: &[SocketAddr]) -> Forwarder {
    Forwarder::new(Upstreams::Given(servers.to_vec()), OWN, 4, 2)
}

fn first(answers: &Answers) -> String {
    answers.answers.first().map_or_else(|| answers.code.to_string(), |record| record.data.to_string())
}

#[tokio::test]
async fn an_answer_is_asked_for_once_and_has_the_names_of_each_client() {
    let (server, count) = server(|message, _| add(message, 1)).await;
    let forwarder = forwarder(&[server]);
    assert!(forwarder.known(&key("www.example.com.")).is_none());
    assert_eq!(first(&forwarder.ask(&key("www.example.com."), CLIENT).await), "192.0.2.1");
    let known = forwarder.known(&key("WWW.example.COM.")).expect("remembered");
    assert_eq!(known.answers[0].name.to_string(), "WWW.example.COM.");
    assert_eq!(count.load(Relaxed), 1);
}

#[tokio::test]
async fn another_server_is_asked_when_one_fails() {
    let (bad, of_bad) = server(|message, _| {
        message.metadata.response_code = ResponseCode::ServFail;
        true
    })
    .await;
    let (good, _) = server(|message, _| add(message, 2)).await;
    let nobody = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let forwarder = forwarder(&[nobody, bad, good]);
    assert_eq!(first(&forwarder.ask(&key("a.example."), CLIENT).await), "192.0.2.2");
    assert_eq!(first(&forwarder.ask(&key("b.example."), CLIENT).await), "192.0.2.2");
    assert_eq!(of_bad.load(Relaxed), 1, "the one that answered is asked first");
}

#[tokio::test]
async fn a_failure_of_all_is_told_and_remembered_for_a_moment() {
    let (bad, count) = server(|message, _| {
        message.metadata.response_code = ResponseCode::Refused;
        true
    })
    .await;
    let of_bad = forwarder(&[bad]);
    assert_eq!(of_bad.ask(&key("a.example."), CLIENT).await.code, ResponseCode::Refused);
    assert_eq!(of_bad.known(&key("a.example.")).unwrap().code, ResponseCode::Refused);
    assert_eq!(count.load(Relaxed), 1, "who says no is not asked again");
    assert_eq!(forwarder(&[]).ask(&key("a.example."), CLIENT).await.code, ResponseCode::ServFail);
}

#[tokio::test]
async fn what_is_not_the_answer_is_not_taken() {
    let (server, _) = server(|message, number| {
        if number == 0 {
            message.metadata.id ^= 1;
        }
        add(message, 3)
    })
    .await;
    // the second round is after the first one's time
    let begin = Instant::now();
    let forwarder = forwarder(&[server]);
    assert_eq!(first(&forwarder.ask(&key("a.example."), CLIENT).await), "192.0.2.3");
    assert!(begin.elapsed() >= ATTEMPT, "the wrong one was not taken");
}

#[tokio::test]
async fn a_cut_answer_is_fetched_over_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let socket = UdpSocket::bind(address).await.unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        let (size, from) = socket.recv_from(&mut buffer).await.unwrap();
        let mut message = Message::from_vec(&buffer[..size]).unwrap().into_response();
        assert_eq!(message.edns.as_ref().unwrap().max_payload(), wire::MAX_DATAGRAM);
        message.metadata.truncation = true;
        socket.send_to(&message.to_vec().unwrap(), from).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut question = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut question).await.unwrap();
        let mut message = Message::from_vec(&question).unwrap();
        message.metadata.message_type = MessageType::Response;
        assert!((0..200).all(|n| add(&mut message, n)));
        let bytes = message.to_vec().unwrap();
        stream.write_all(&[&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat()).await.unwrap();
    });
    let forwarder = forwarder(&[address]);
    assert_eq!(forwarder.ask(&key("large.example."), CLIENT).await.answers.len(), 200);
}

#[tokio::test]
async fn so_many_questions_are_under_way_and_no_more() {
    let (silent, _) = server(|_, _| false).await;
    let forwarder = Arc::new(forwarder(&[silent]));
    let ask = |client: u8, name: &'static str| {
        let (forwarder, client) = (forwarder.clone(), IpAddr::from([10, 32, 0, client]));
        tokio::spawn(async move { forwarder.ask(&key(name), client).await.code })
    };
    let begin = Instant::now();
    let waiting = [ask(2, "a.example."), ask(2, "b.example.")];
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(ask(2, "c.example.").await.unwrap(), ResponseCode::Refused, "the client has its share");
    let others = [ask(3, "a.example."), ask(3, "b.example.")];
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(ask(4, "c.example.").await.unwrap(), ResponseCode::Refused, "all places are taken");
    for one in waiting.into_iter().chain(others) {
        assert_eq!(one.await.unwrap(), ResponseCode::ServFail);
    }
    assert!(begin.elapsed() < PATIENCE + Duration::from_secs(2), "{:?}", begin.elapsed());
}
