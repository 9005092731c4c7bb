//! The network's interface to an HTTP handler: calls and connections.

use crate::{connection, http::Handler};
use container::net::{self, Connection, HttpHandler, Peer};
use std::sync::Arc;
use tokio::net::TcpStream;

/// Gives calls and connections of the network to a handler.
pub(crate) struct NetworkHandler(pub(crate) Arc<Handler>);

#[async_trait::async_trait]
impl HttpHandler for NetworkHandler {
    async fn call(&self, request: net::Request, peer: Peer) -> net::Result<net::Response> {
        let this = self.0.clone();
        let client = this.client(None);
        Ok(this.answer(request, client, peer, false).await)
    }

    fn serve(&self, connection: Connection, peer: Peer) {
        let this = self.0.clone();
        let Some(client) = this.pool.clients.connect(this.container_key()) else {
            // Dropping the connection closes it. The client sees a reset and may try another endpoint.
            return;
        };
        let (open, threads) = (this.open.clone(), this.pool.handle().clone());
        let serve = async move {
            match connection {
                Connection::Tcp(socket) => {
                    // This fails only if the socket is blocking or the runtime has shut down.
                    if let Ok(socket) = TcpStream::from_std(socket) {
                        let _ = socket.set_nodelay(true);
                        connection::serve(this, socket, client, peer).await;
                    }
                }
                Connection::Stream(stream) => connection::serve(this, stream, client, peer).await,
            }
        };
        open.spawn_on(serve, &threads);
    }
}
