//! What pods with a namespace send out of the node's range: decided and dialled here, by the function that decides for guests.

use crate::{
    network::{Inner, Route, Source},
    pod::{Bound, Pod},
    slices::Protocol,
};
use container::net::{Connection, Error, Peer, Result, Via};
use netns::{Egress, Flow, Outgoing};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::UdpSocket,
    time::{sleep, timeout},
};

/// The delay after an error of the sockets, mostly out of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a flow of datagrams may be silent.
const IDLE: Duration = Duration::from_secs(60);

/// Bytes of a datagram to or from outside. Longer ones are lost, as where no larger packet fits.
const MAX_DATAGRAM: usize = 9216;

/// Serves connections.
pub(super) async fn connections(inner: Arc<Inner>, egress: Arc<Egress>) {
    loop {
        match egress.accept().await {
            Ok(outgoing) => {
                let of = inner.clone();
                inner.run(async move { connection(&of, outgoing).await });
            }
            Err(error) => {
                tracing::debug!(%error, "connections of pods are not accepted");
                sleep(PAUSE).await;
            }
        }
    }
}

/// The pod that an address is of.
fn caller(inner: &Inner, from: SocketAddrV4) -> Result<Arc<Pod>> {
    let pod = inner.pod_at((*from.ip()).into()).filter(|pod| pod.spec.kernel);
    pod.ok_or_else(|| Error::Unreachable(format!("no pod has the address {}", from.ip())))
}

async fn connection(inner: &Inner, outgoing: Outgoing) {
    let Outgoing { stream, from, to } = outgoing;
    let begin = async {
        let pod = caller(inner, from)?;
        let permit = pod.permit()?;
        let full = || Error::Exhausted("all connections of the node are busy".into());
        let place = inner.relayed.enter().ok_or_else(full)?;
        let route = inner.route_awake(Source::Pod(&pod), to.into()).await?;
        let peer = Peer { address: from.into(), via: Via::Pod };
        if let Route::Pod { pod, port, by_loopback } = &route
            && let Bound::Http(handler) = pod.tcp(*port, *by_loopback)?
        {
            return Ok((Some((handler, peer)), None, permit));
        }
        Ok::<_, Error>((None, Some((place, inner.open(&route, peer).await?)), permit))
    };
    match begin.await {
        Ok((Some((handler, peer)), _, _permit)) => {
            if let Ok(socket) = stream.into_std() {
                handler.serve(Connection::Tcp(socket), peer);
            }
        }
        Ok((None, Some((place, theirs)), _permit)) => {
            let _ = stream.set_nodelay(true);
            place.copy(Box::new(stream), theirs).await;
        }
        Ok((None, None, _)) => {}
        Err(error) => {
            tracing::debug!(%error, %from, %to, "a connection of a pod is refused");
            // a reset: nobody is there
            let _ = stream.set_zero_linger();
        }
    }
}

/// Serves flows of datagrams.
pub(super) async fn flows(inner: Arc<Inner>, egress: Arc<Egress>) {
    loop {
        match egress.flow().await {
            Ok(flow) => {
                let of = inner.clone();
                inner.run(async move {
                    let (from, to) = (flow.from, flow.to);
                    if let Err(error) = relay(&of, flow).await {
                        tracing::debug!(%error, %from, %to, "datagrams of a pod are lost");
                    }
                });
            }
            Err(error) => {
                tracing::debug!(%error, "datagrams of pods are lost");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn relay(inner: &Inner, flow: Flow) -> Result<()> {
    let pod = caller(inner, flow.from)?;
    let _permit = pod.permit()?;
    let to = match inner.route(Source::Pod(&pod), flow.to.into(), Protocol::Udp)? {
        Route::Host { to, .. } => to,
        Route::Pod { .. } | Route::Dns(_) => {
            return Err(Error::Unsupported(format!("{}: datagrams by a node port", flow.to)));
        }
    };
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let failed = |error: std::io::Error| Error::Unreachable(format!("{to}: {error}"));
    let outside = UdpSocket::bind(SocketAddr::new(any, 0)).await.map_err(failed)?;
    outside.connect(to).await.map_err(failed)?;
    let (mut out, mut back) = (vec![0; MAX_DATAGRAM], vec![0; MAX_DATAGRAM]);
    let exchange = async || {
        tokio::select! {
            size = flow.receive(&mut out) => {
                outside.send(out.get(..size.map_err(failed)?).unwrap_or_default()).await.map_err(failed)?;
            }
            size = outside.recv(&mut back) => {
                flow.send(back.get(..size.map_err(failed)?).unwrap_or_default()).await.map_err(failed)?;
            }
        }
        Ok(())
    };
    let mut exchange = exchange;
    while let Ok(done) = timeout(IDLE, exchange()).await {
        done?;
    }
    Ok(())
}
