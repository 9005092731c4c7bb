//! A registry that does what a test tells it, however wrong.

use super::Blobs;
use image::Digest;
use parking_lot::Mutex;
use std::{collections::HashMap, net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Send only so many bytes of the body, then cut the connection.
    pub cut: Option<usize>,
    /// Understand `Range`.
    pub ranges: bool,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), cut: None, ranges: true }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

type Answers = HashMap<String, Vec<Answer>>;

#[derive(Default)]
struct State {
    /// By path: given one after the other, the last for ever.
    answers: Answers,
    /// `path range`, in order.
    asked: Vec<String>,
}

pub struct Fake {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: AbortHandle,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        let fake = Self { address, state, task: task.abort_handle() };
        fake.on("/v2/", [Answer::new(200, "{}")]);
        fake
    }

    pub fn on(&self, path: &str, answers: impl IntoIterator<Item = Answer>) {
        self.state.lock().answers.insert(path.into(), answers.into_iter().collect());
    }

    /// Serves all blobs of `a`, and `top` under the tag `a:t`.
    pub fn serve(&self, blobs: &Blobs, top: Digest) {
        for (digest, bytes) in &blobs.0 {
            self.on(&format!("/v2/a/blobs/{digest}"), [Answer::new(200, bytes.clone())]);
            self.on(&format!("/v2/a/manifests/{digest}"), [Answer::new(200, bytes.clone())]);
            if *digest == top {
                self.on("/v2/a/manifests/t", [Answer::new(200, bytes.clone())]);
            }
        }
    }

    pub fn name(&self) -> String {
        format!("{}/a:t", self.address)
    }

    /// What was asked for under `/v2/a/`.
    pub fn asked(&self) -> Vec<String> {
        let state = self.state.lock();
        state.asked.iter().filter_map(|asked| asked.strip_prefix("/v2/a/")).map(str::to_owned).collect()
    }
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) -> Option<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).split(b'\n');
    loop {
        let request = String::from_utf8(lines.next_segment().await.ok()??).ok()?;
        let mut words = request.split(' ');
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut range = String::new();
        let mut authorization = String::new();
        loop {
            let line = String::from_utf8(lines.next_segment().await.ok()??).ok()?;
            let line = line.trim();
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':')?;
            match name.to_ascii_lowercase().as_str() {
                "range" => range = value.trim().to_owned(),
                "authorization" => authorization = value.trim().to_owned(),
                _ => {}
            }
        }
        let answer = {
            let mut state = state.lock();
            let asked = format!("{path} {range} {authorization}").trim().to_owned();
            state.asked.push(asked);
            match state.answers.get_mut(path.split('?').next()?) {
                Some(answers) if answers.len() > 1 => answers.remove(0),
                Some(answers) => answers[0].clone(),
                None => Answer::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#),
            }
        };
        let start = range.strip_prefix("bytes=").and_then(|range| range.trim_end_matches('-').parse::<usize>().ok());
        let start = start.filter(|_| answer.ranges && answer.status == 200).unwrap_or(0);
        let status = if start > 0 { 206 } else { answer.status };
        let mut head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n", answer.body.len() - start);
        if start > 0 {
            head += &format!("content-range: bytes {start}-{}/{}\r\n", answer.body.len() - 1, answer.body.len());
        }
        for (name, value) in &answer.headers {
            head += &format!("{name}: {value}\r\n");
        }
        write.write_all(format!("{head}\r\n").as_bytes()).await.ok()?;
        if method != "HEAD" {
            let end = answer.cut.map_or(answer.body.len(), |cut| (start + cut).min(answer.body.len()));
            write.write_all(&answer.body[start..end]).await.ok()?;
            write.flush().await.ok()?;
            if end < answer.body.len() {
                return None;
            }
        }
    }
}
