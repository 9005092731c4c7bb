//! A WebSocket server on the sockets of WASI 0.3, as a `wasi:cli/run` component: it answers each message with the message, and says in its log
//! who came and went. The port is that of the environment variable `PORT` (8080).

mod pipe;

use pipe::Pipe;
use tungstenite::{
    HandshakeError, WebSocket,
    protocol::{CloseFrame, Message, WebSocketConfig, frame::coding::CloseCode},
};
use wasip3::{
    cli::environment::get_environment,
    exports::cli::run::Guest,
    sockets::types::{IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket},
    wit_bindgen::{StreamReader, StreamResult, StreamWriter, spawn_local},
    wit_stream,
};

/// The longest message, in bytes: a client may not fill the memory.
const MAX_MESSAGE: usize = 1 << 20;
/// The most bytes that are read after the end of a connection.
const MAX_UNREAD: usize = 16 << 20;
/// How much is read at a time.
const PIECE: usize = 16 << 10;

struct Server;

wasip3::cli::command::export!(Server);

impl Guest for Server {
    async fn run() -> Result<(), ()> {
        if let Err(error) = serve().await {
            print(format!("{error}\n")).await;
        }
        // A server that ends has failed.
        Err(())
    }
}

async fn print(text: String) {
    let (mut writer, reader) = wit_stream::new();
    let printed = wasip3::cli::stdout::write_via_stream(reader);
    writer.write_all(text.into_bytes()).await;
    drop(writer);
    // Nobody to tell when standard output is gone.
    let _ = printed.await;
}

fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

async fn serve() -> Result<(), String> {
    let port = get_environment().iter().find(|(name, _)| name == "PORT").and_then(|(_, port)| port.parse().ok());
    let at = Ipv4SocketAddress { port: port.unwrap_or(8080), address: (0, 0, 0, 0) };
    let listener = TcpSocket::create(IpAddressFamily::Ipv4).map_err(text)?;
    listener.bind(IpSocketAddress::Ipv4(at)).map_err(text)?;
    let mut connections = listener.listen().map_err(text)?;
    print(format!("listening on port {}\n", at.port)).await;
    let mut number = 0_u64;
    while let Some(socket) = connections.next().await {
        number += 1;
        spawn_local(async move {
            let end = match connection(&socket).await {
                Ok(messages) => format!("it went after {messages} messages"),
                Err(error) => error,
            };
            print(format!("connection {number}: {end}\n")).await;
        });
    }
    Err("the listener is closed".into())
}

/// A socket with what tungstenite reads from and writes to.
struct Connection {
    reader: StreamReader<u8>,
    writer: StreamWriter<u8>,
    pipe: Pipe,
}

impl Connection {
    /// Sends what was written, then waits for more from the client. False at its end.
    async fn turn(&mut self) -> bool {
        if !self.writer.write_all(self.pipe.take()).await.is_empty() {
            return false;
        }
        let (result, piece) = self.reader.read(Vec::with_capacity(PIECE)).await;
        self.pipe.put(&piece);
        !matches!(result, StreamResult::Dropped) || !piece.is_empty()
    }
}

/// Answers until the client goes. Returns how many messages it has sent.
async fn connection(socket: &TcpSocket) -> Result<u64, String> {
    let (writer, outgoing) = wit_stream::new();
    let sent = socket.send(outgoing);
    let (reader, _) = socket.receive();
    let pipe = Pipe::default();
    let mut connection = Connection { reader, writer, pipe: pipe.clone() };
    let messages = match handshake(&mut connection, pipe).await {
        Ok(mut client) => answer(&mut connection, &mut client).await,
        Err(error) => Err(error),
    };
    // What is left to say: a close, or why the handshake failed. The client may be gone.
    let Connection { mut reader, mut writer, pipe } = connection;
    writer.write_all(pipe.take()).await;
    drop(writer);
    let _ = sent.await;
    // A connection that is closed with bytes unread is reset, and the client may lose what was said.
    let mut unread = 0;
    while unread < MAX_UNREAD {
        let (result, piece) = reader.read(Vec::with_capacity(PIECE)).await;
        unread += piece.len();
        if matches!(result, StreamResult::Dropped) {
            break;
        }
    }
    messages
}

async fn handshake(connection: &mut Connection, pipe: Pipe) -> Result<WebSocket<Pipe>, String> {
    let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    let mut step = tungstenite::accept_with_config(pipe, Some(config));
    loop {
        let middle = match step {
            Ok(client) => return Ok(client),
            Err(HandshakeError::Interrupted(middle)) => middle,
            Err(HandshakeError::Failure(error)) => {
                if !connection.pipe.has_output() {
                    connection.pipe.say(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 21\r\nconnection: close\r\n\r\nThis is a WebSocket.\n");
                }
                return Err(error.to_string());
            }
        };
        if !connection.turn().await {
            return Err("it went before the handshake was complete".into());
        }
        step = middle.handshake();
    }
}

async fn answer(connection: &mut Connection, client: &mut WebSocket<Pipe>) -> Result<u64, String> {
    let mut messages = 0;
    loop {
        match client.read() {
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => {
                messages += 1;
                client.send(message).map_err(|error| error.to_string())?;
            }
            // tungstenite answers pings and closes.
            Ok(_) => {}
            Err(tungstenite::Error::ConnectionClosed) => return Ok(messages),
            Err(tungstenite::Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if !connection.turn().await {
                    return Ok(messages);
                }
            }
            Err(error) => {
                if matches!(error, tungstenite::Error::Capacity(_)) {
                    let reason = format!("at most {MAX_MESSAGE} bytes");
                    // What cannot be said is lost: the connection ends anyway.
                    let _ = client.close(Some(CloseFrame { code: CloseCode::Size, reason: reason.into() }));
                }
                return Err(error.to_string());
            }
        }
    }
}
