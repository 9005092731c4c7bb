use super::*;
use hickory_proto::rr::{Name, RecordType, rdata::SOA};
use std::net::Ipv4Addr;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn key(text: &str) -> Key {
    Key { query: Query::query(name(text), RecordType::A), dnssec: false, checking_disabled: false }
}

fn answered(text: &str, times: &[u32]) -> Answers {
    let record = |time: &u32| Record::from_rdata(name(text), *time, RData::A(Ipv4Addr::new(192, 0, 2, 1).into()));
    Answers { answers: times.iter().map(record).collect(), ..Answers::only(ResponseCode::NoError) }
}

fn absent(code: ResponseCode, ttl: u32, minimum: u32) -> Answers {
    let soa = SOA::new(name("ns.example."), name("who.example."), 1, 1, 1, 1, minimum);
    Answers { authorities: vec![Record::from_rdata(name("example."), ttl, RData::SOA(soa))], ..Answers::only(code) }
}

/// For how long an answer is kept.
fn kept_for(answers: &Answers) -> u64 {
    let (mut cache, now) = (Cache::new(10, 1 << 20), Instant::now());
    cache.put(&key("a.example."), answers, now);
    let is_there = |seconds| cache.get(&key("a.example."), now + Duration::from_secs(seconds)).is_some();
    (0..=4000).take_while(|seconds| is_there(*seconds)).count() as u64
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_kept_as_long_as_all_of_it_counts() {
    let cases = [
        (answered("a.example.", &[30]), 30),
        (answered("a.example.", &[30, 20]), 20),
        (answered("a.example.", &[30, 0]), 0),
        (answered("a.example.", &[86_400]), 3600),
        (answered("a.example.", &[u32::MAX]), 0),
        (absent(ResponseCode::NXDomain, 30, 20), 20),
        (absent(ResponseCode::NXDomain, 20, 30), 20),
        (absent(ResponseCode::NoError, 900, 900), 300),
        (Answers::only(ResponseCode::NXDomain), 0),
        (Answers::only(ResponseCode::NoError), 0),
        (Answers::only(ResponseCode::ServFail), 1),
        (Answers::only(ResponseCode::Refused), 1),
    ];
    for (answers, seconds) in cases {
        assert_eq!(kept_for(&answers), seconds, "{answers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_grows_older_and_is_for_its_question_only() {
    let (mut cache, now) = (Cache::new(10, 1 << 20), Instant::now());
    let mut answers = answered("a.example.", &[30, 40]);
    answers.authentic = true;
    cache.put(&key("a.example."), &answers, now);
    let later = cache.get(&key("A.EXAMPLE."), now + Duration::from_millis(12_900)).unwrap();
    assert_eq!(later.answers.iter().map(|record| record.ttl).collect::<Vec<_>>(), [18, 28]);
    assert!(later.authentic && !later.authoritative);
    let others = [
        key("b.example."),
        Key { dnssec: true, ..key("a.example.") },
        Key { checking_disabled: true, ..key("a.example.") },
        Key { query: Query::query(name("a.example."), RecordType::AAAA), ..key("a.example.") },
    ];
    assert!(others.iter().all(|key| cache.get(key, now).is_none()));
}

#[tokio::test(start_paused = true)]
async fn the_oldest_makes_place() {
    let now = Instant::now();
    let names: Vec<String> = (0..6).map(|n| format!("{n}.example.")).collect();
    let there = |cache: &Cache| names.iter().map(|name| cache.get(&key(name), now).is_some()).collect::<Vec<_>>();
    let mut by_number = Cache::new(3, 1 << 20);
    let one = bytes(&key(&names[0]), &answered(&names[0], &[30])).unwrap().len();
    let mut by_size = Cache::new(100, 3 * one + 1);
    for cache in [&mut by_number, &mut by_size] {
        for name in &names {
            // twice: the second time takes no more place
            cache.put(&key(name), &answered(name, &[30]), now);
            cache.put(&key(name), &answered(name, &[30]), now);
            assert_eq!(cache.kept.len(), cache.order.len());
        }
        assert_eq!(there(cache), [false, false, false, true, true, true]);
        assert_eq!(cache.bytes, 3 * one);
        cache.put(&key("large."), &answered("large.", &[30; 1000]), now);
        assert!(
            cache.get(&key("large."), now).is_none() && cache.kept.len() == 3,
            "nobody is driven out by what is too large"
        );
    }
}
