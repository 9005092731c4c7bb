//! Frames and connections, from the peer's side.

use super::*;
use crate::stream::{DRAIN, IDLE};
use bytes::{Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use futures::{SinkExt, StreamExt};
use proptest::prelude::*;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, copy, split},
    sync::mpsc,
    time::timeout,
};
use tokio_util::codec::{Decoder, Encoder, Framed};

/// All frames of some bytes that arrive in pieces; data is put together again.
fn read(codec: &mut Codec, bytes: &[u8], piece: usize) -> Result<Vec<Frame>, Error> {
    let mut buffer = BytesMut::new();
    let mut frames: Vec<Frame> = Vec::new();
    for piece in bytes.chunks(piece) {
        buffer.extend_from_slice(piece);
        while let Some(frame) = codec.decode(&mut buffer)? {
            match (frames.last_mut(), &frame) {
                (Some(Frame::Data { id, fin: fin @ false, bytes }), Frame::Data { id: of, fin: last, bytes: more })
                    if id == of =>
                {
                    *bytes = [&bytes[..], &more[..]].concat().into();
                    *fin = *last;
                }
                _ => frames.push(frame),
            }
        }
    }
    Ok(frames)
}

fn write(frames: &[Frame]) -> BytesMut {
    let (mut codec, mut out) = (Codec::default(), BytesMut::new());
    for frame in frames {
        codec.encode(frame.clone(), &mut out).expect("written");
    }
    out
}

fn frame() -> impl Strategy<Value = Frame> {
    let id = || 1_u32..1000;
    let headers = prop::collection::btree_map("[a-z]{1,9}", ".{0,40}", 0..6);
    let headers = move || headers.clone().prop_map(|map| Headers(map.into_iter().collect()));
    let bytes = prop::collection::vec(any::<u8>(), 0..40_000).prop_map(Bytes::from);
    prop_oneof![
        (id(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::SynStream { id, fin, headers }),
        (id(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::SynReply { id, fin, headers }),
        (id(), any::<u32>()).prop_map(|(id, status)| Frame::RstStream { id, status }),
        any::<u32>().prop_map(Frame::Ping),
        (id(), any::<u32>()).prop_map(|(last, status)| Frame::GoAway { last, status }),
        // Ends with `fin`, so that two of one stream are not read as one.
        (id(), bytes).prop_map(|(id, bytes)| Frame::Data { id, fin: true, bytes }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read_however_it_arrives(frames in prop::collection::vec(frame(), 0..8), piece in 1_usize..5_000) {
        prop_assert_eq!(read(&mut Codec::default(), &write(&frames), piece).expect("frames"), frames);
    }

    #[test]
    fn no_bytes_make_it_panic_or_grow(bytes in prop::collection::vec(any::<u8>(), 0..3_000), piece in 1_usize..600) {
        let _ = read(&mut Codec::default(), &bytes, piece);
        // The same as the inside of a frame that opens a stream, which random bytes rarely are.
        let mut inside = vec![0x80, 3, 0, 1, 0, 0, (bytes.len() >> 8) as u8, bytes.len() as u8];
        inside.extend(&bytes);
        let _ = read(&mut Codec::default(), &inside, piece);
    }

    #[test]
    fn a_changed_byte_is_an_error_or_another_frame(frames in prop::collection::vec(frame(), 1..4), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = write(&frames);
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = read(&mut Codec::default(), &bytes, 100);
    }
}

/// A control frame around a body.
fn control(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = body.len().to_be_bytes();
    [&[0x80, 3, 0, kind, 0][..], &length[5..], body].concat()
}

/// Compresses header blocks as clients do: one context, the dictionary, a flush after each.
struct Client(Compress);

impl Client {
    fn new() -> Self {
        let mut zlib = Compress::new(Compression::best(), true);
        zlib.set_dictionary(&dictionary::bytes()).expect("a dictionary");
        Self(zlib)
    }

    fn block(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(plain.len() + 1_000);
        self.0.compress_vec(plain, &mut out, FlushCompress::Sync).expect("compressed");
        out
    }

    fn headers(&mut self, pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = u32::try_from(pairs.len()).expect("few").to_be_bytes().to_vec();
        for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend(u32::try_from(text.len()).expect("short").to_be_bytes());
            plain.extend(text.as_bytes());
        }
        self.block(&plain)
    }
}

#[test]
fn compressed_headers_share_one_context() {
    let (mut client, mut codec) = (Client::new(), Codec::default());
    let long = "x".repeat(3_000);
    for (id, pairs) in [
        (1_u32, &[("streamtype", "error"), ("port", "80"), ("requestid", "0")][..]),
        (3, &[("streamtype", "data"), ("port", "80"), ("requestid", "0")]),
        (5, &[]),
        (7, &[("a", &long), ("b", ""), ("c", "ü")]),
        (9, &[("streamtype", "data"), ("port", "81"), ("requestid", "1")]),
    ] {
        let body = [&id.to_be_bytes()[..], &[0; 6], &client.headers(pairs)].concat();
        let headers = Headers(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect());
        let wanted = Frame::SynStream { id, fin: false, headers };
        assert_eq!(read(&mut codec, &control(1, &body), 7).expect("a frame"), [wanted]);
    }
}

#[test]
fn what_is_sent_is_a_stream_of_zlib() {
    let headers = Headers::from([("streamtype", "data")]);
    let (mut writer, mut zlib) = (headers::Writer::default(), Decompress::new(true));
    for first in [true, false] {
        let mut block = BytesMut::new();
        writer.write(&headers, &mut block);
        let (mut plain, before) = (Vec::with_capacity(100), zlib.total_in());
        if first {
            let error = zlib.decompress_vec(&block, &mut plain, FlushDecompress::Sync).expect_err("a dictionary");
            assert_eq!(error.needs_dictionary(), Some(0xe3c6_a7c2));
            zlib.set_dictionary(&dictionary::bytes()).expect("the dictionary");
        }
        let read = usize::try_from(zlib.total_in() - before).expect("short");
        zlib.decompress_vec(&block[read..], &mut plain, FlushDecompress::Sync).expect("decompressed");
        assert_eq!(plain, b"\0\0\0\x01\0\0\0\x0astreamtype\0\0\0\x04data");
    }
}

#[test]
fn hostile_frames_end_the_connection_with_a_reason() {
    let bomb = Client::new().block(&vec![0; 1 << 20]);
    let many = Client::new().block(&[&[0xff, 0xff, 0xff, 0xff][..], &[0; 100]].concat());
    let huge = Client::new().block(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]);
    let twice = Client::new().headers(&[("a", "1"), ("a", "2")]);
    let unnamed = Client::new().headers(&[("", "1")]);
    let open = |block: &[u8]| control(1, &[&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], block].concat());
    for (bytes, reason) in [
        (vec![0x80, 2, 0, 1, 0, 0, 0, 0], "version 2 of SPDY is not spoken here"),
        (vec![0x80, 3, 0, 4, 0, 0xff, 0xff, 0xff], "a control frame is longer than 16384 bytes"),
        (open(&bomb), "a header block is longer than 16384 bytes"),
        (open(&many), "a header has no name, or one that was there before"),
        (open(&huge), "a header block is cut short"),
        (open(&twice), "a header has no name, or one that was there before"),
        (open(&unnamed), "a header has no name, or one that was there before"),
        (open(b"\x78\x9c\0\0\0\xff\xff"), "a header block is cut short"),
        (open(b"no zlib at all"), "a header block cannot be decompressed"),
        (open(b""), "a header block is cut short"),
        (control(1, &[0, 0]), "a control frame is cut short"),
        (control(3, &[0; 7]), "a control frame is cut short"),
        (control(6, &[]), "a control frame is cut short"),
    ] {
        assert_eq!(read(&mut Codec::default(), &bytes, 10_000).expect_err(reason).to_string(), reason);
    }
}

#[test]
fn frames_that_mean_nothing_here_are_passed_over() {
    let settings = control(4, &[0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 1, 0]);
    let window = control(9, &[0, 0, 0, 1, 0, 1, 0, 0]);
    let ping = control(6, &[0, 0, 0, 7]);
    let frames = read(&mut Codec::default(), &[settings, window, ping].concat(), 3).expect("frames");
    assert_eq!(frames, [Frame::Other, Frame::Other, Frame::Ping(7)]);
}

#[test]
fn a_frame_of_data_is_handed_on_as_it_comes() {
    let mut buffer = BytesMut::from(&[0, 0, 0, 1, FIN, 0xff, 0xff, 0xff][..]);
    buffer.extend_from_slice(&[7; 100]);
    let mut codec = Codec::default();
    let frame = codec.decode(&mut buffer).expect("a frame").expect("a frame");
    assert_eq!(frame, Frame::Data { id: 1, fin: false, bytes: vec![7; 100].into() });
    assert_eq!((codec.decode(&mut buffer).expect("no error"), buffer.len()), (None, 0));
}

const FIN: u8 = 1;

/// A connection whose streams are echoed, as its client sees it.
struct Peer {
    frames: Framed<DuplexStream, Codec>,
    ended: tokio::task::JoinHandle<Result<(), Error>>,
}

async fn echo(mut streams: mpsc::Receiver<Opened>) {
    while let Some(opened) = streams.recv().await {
        if opened.headers.get("streamtype") == "last" {
            return;
        }
        tokio::spawn(async move {
            let (mut from, mut to) = split(opened.bytes);
            let _ = copy(&mut from, &mut to).await;
            let _ = to.shutdown().await;
        });
    }
}

fn named(headers: &Headers) -> Result<(), String> {
    if headers.get("streamtype").is_empty() { Err("no type".into()) } else { Ok(()) }
}

impl Peer {
    fn new() -> Self {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        Self { frames: Framed::new(ours, Codec::default()), ended: tokio::spawn(serve(theirs, named, echo)) }
    }

    async fn send(&mut self, frame: Frame) {
        self.frames.send(frame).await.expect("sent");
    }

    async fn open(&mut self, id: u32, kind: &str) {
        self.send(Frame::SynStream { id, fin: false, headers: Headers::from([("streamtype", kind)]) }).await;
    }

    async fn next(&mut self) -> Option<Frame> {
        let next = timeout(Duration::from_secs(60), self.frames.next()).await.expect("in time");
        next.map(|frame| frame.expect("a frame"))
    }

    async fn takes(&mut self, id: u32) {
        assert_eq!(self.next().await, Some(Frame::SynReply { id, fin: false, headers: Headers::default() }));
    }
}

fn data(id: u32, fin: bool, text: &str) -> Frame {
    Frame::Data { id, fin, bytes: Bytes::copy_from_slice(text.as_bytes()) }
}

#[tokio::test(start_paused = true)]
async fn streams_carry_bytes_both_ways_and_close_by_halves() {
    let mut peer = Peer::new();
    peer.open(1, "data").await;
    peer.takes(1).await;
    peer.open(3, "data").await;
    peer.takes(3).await;
    peer.send(data(1, false, "one")).await;
    assert_eq!(peer.next().await, Some(data(1, false, "one")));
    peer.send(data(3, false, "three")).await;
    assert_eq!(peer.next().await, Some(data(3, false, "three")));
    peer.send(Frame::Ping(5)).await;
    assert_eq!(peer.next().await, Some(Frame::Ping(5)));
    peer.send(data(1, true, "")).await;
    assert_eq!(peer.next().await, Some(data(1, true, "")), "the end comes back");
    peer.send(Frame::RstStream { id: 3, status: 5 }).await;
    peer.send(data(3, false, "late")).await;
    peer.open(5, "last").await;
    peer.takes(5).await;
    assert_eq!(peer.next().await, Some(data(5, true, "")));
    assert_eq!(peer.next().await, Some(Frame::GoAway { last: 0, status: 0 }));
    assert_eq!(peer.next().await, None);
    peer.ended.await.expect("no panic").expect("a good end");
}

#[tokio::test(start_paused = true)]
async fn more_than_there_is_room_for_is_refused_and_so_is_what_is_not_right() {
    let mut peer = Peer::new();
    for id in 0..512 {
        peer.open(id * 2 + 1, "data").await;
        peer.takes(id * 2 + 1).await;
    }
    peer.open(1025, "data").await;
    assert_eq!(peer.next().await, Some(Frame::RstStream { id: 1025, status: 3 }));
    peer.open(1027, "").await;
    assert_eq!(peer.next().await, Some(Frame::RstStream { id: 1027, status: 5 }));
    // A place is free when both directions have ended.
    peer.send(data(1, true, "")).await;
    assert_eq!(peer.next().await, Some(data(1, true, "")));
    tokio::task::yield_now().await;
    peer.open(1029, "data").await;
    peer.takes(1029).await;
    peer.open(7, "data").await;
    let error = peer.ended.await.expect("no panic").expect_err("an old id");
    assert_eq!(error.to_string(), "a stream has an id that is not a new one of the client");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_not_read_holds_up_its_client_and_not_the_memory() {
    let (ours, theirs) = tokio::io::duplex(1_000);
    let never = |streams: mpsc::Receiver<Opened>| async move {
        let _streams = streams;
        std::future::pending::<()>().await;
    };
    let ended = tokio::spawn(serve(theirs, named, never));
    let mut frames = Framed::new(ours, Codec::default());
    frames
        .send(Frame::SynStream { id: 1, fin: false, headers: Headers::from([("streamtype", "data")]) })
        .await
        .expect("sent");
    let megabyte = || Frame::Data { id: 1, fin: false, bytes: vec![0; 1 << 20].into() };
    assert!(timeout(Duration::from_secs(60), frames.send(megabyte())).await.is_err(), "it waits");
    let error = timeout(IDLE * 2, ended).await.expect("an end").expect("no panic").expect_err("too long");
    assert!(matches!(error, Error::Idle), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_no_bytes_does_not_keep_what_is_over() {
    let (mut ours, theirs) = tokio::io::duplex(64);
    let chatty = |mut streams: mpsc::Receiver<Opened>| async move {
        let mut opened = streams.recv().await.expect("a stream");
        opened.bytes.write_all(&[1; 10_000]).await.expect("room");
    };
    let ended = tokio::spawn(serve(theirs, named, chatty));
    let open = Frame::SynStream { id: 1, fin: false, headers: Headers::from([("streamtype", "data")]) };
    ours.write_all(&write(&[open])).await.expect("room");
    timeout(DRAIN * 2, ended).await.expect("an end").expect("no panic").expect("a good end");
    ours.read_to_end(&mut Vec::new()).await.expect("an end");
}
