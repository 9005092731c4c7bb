//! `sampan port-forward`: forwards connections of local ports to ports of a pod, with kubectl's arguments and messages.
//!
//! Each connection selects a pod, so that forwarding to a Service or Deployment outlives its first pod.

use super::{
    connect,
    finder::{Finder, Found},
    pods,
};
use crate::{args::PortForwardArgs, exit::usage, out};
use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::Value;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// How long the pod may be silent after the client has closed its direction. WebSocket channels have no half-closed state, so that the pod
/// is not informed.
const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(5);

/// The maximum number of connections. Others wait to be accepted.
const MAX_CONNECTIONS: usize = 256;

/// A port argument.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    /// The local port. 0 means any free port.
    local: Option<u16>,
    /// The remote port: a number or a name.
    remote: String,
}

/// `sampan port-forward`.
pub(crate) async fn run(args: &PortForwardArgs) -> anyhow::Result<()> {
    let ports = args.ports.iter().map(|port| parse(port)).collect::<Result<Vec<_>, _>>().map_err(usage)?;
    let addresses = addresses(&args.address).map_err(usage)?;
    let finder = Arc::new(Finder::new(connect(&args.target).await?));
    let mut accepting = JoinSet::new();
    for port in ports {
        let forward = Forward { finder: finder.clone(), what: args.what.clone().into(), remote: port.remote.into() };
        // Errors of the target are reported now, not at the first connection.
        let (_, remote) = forward.target().await?;
        let local = port.local.unwrap_or(forward.default_local(remote));
        for listener in listen(&addresses, local).await? {
            out::line(&format!("Forwarding from {} -> {remote}", listener.local_addr()?))?;
            accepting.spawn(accept(listener, forward.clone()));
        }
    }
    while let Some(ended) = accepting.join_next().await {
        ended??;
    }
    Ok(())
}

/// `REMOTE`, `LOCAL:REMOTE` or `:REMOTE`.
fn parse(text: &str) -> Result<Port, String> {
    let (local, remote) = match text.split_once(':') {
        None => (None, text),
        Some(("", remote)) => (Some(0), remote),
        Some((local, remote)) => {
            let local =
                local.parse().map_err(|_| format!("invalid port format '{text}': {local:?} is no port number"))?;
            (Some(local), remote)
        }
    };
    let is_name = !remote.is_empty() && remote.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    match remote.parse::<u16>() {
        Ok(0) => Err("remote port must be > 0".to_owned()),
        Err(_) if !is_name || remote.bytes().all(|b| b.is_ascii_digit()) => {
            Err(format!("invalid port format '{text}': expected [LOCAL:]REMOTE"))
        }
        _ => Ok(Port { local, remote: remote.to_owned() }),
    }
}

fn addresses(texts: &[String]) -> Result<Vec<IpAddr>, String> {
    let mut all = Vec::new();
    for text in texts {
        match text.parse() {
            Ok(address) => all.push(address),
            Err(_) if text == "localhost" => {
                all.extend([IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)])
            }
            Err(_) => return Err(format!("{text} is not a valid IP")),
        }
    }
    Ok(all)
}

/// Listens on a port of all addresses. Like kubectl for `localhost`, skips addresses that the machine does not have, if there are several.
async fn listen(addresses: &[IpAddr], port: u16) -> anyhow::Result<Vec<TcpListener>> {
    let (mut listeners, mut failure) = (Vec::<TcpListener>::new(), None);
    for address in addresses {
        let port = match listeners.first() {
            Some(first) => first.local_addr()?.port(),
            None => port,
        };
        match TcpListener::bind(SocketAddr::new(*address, port)).await {
            Ok(listener) => listeners.push(listener),
            Err(error) => failure = Some((SocketAddr::new(*address, port), error)),
        }
    }
    match failure {
        Some((address, error)) if listeners.is_empty() => Err(error).with_context(|| {
            format!("unable to listen on {address}; choose another port, such as :REMOTE for any free one")
        }),
        _ => Ok(listeners),
    }
}

async fn accept(listener: TcpListener, forward: Forward) -> anyhow::Result<()> {
    let local = listener.local_addr()?.port();
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
        let (socket, _) = listener.accept().await?;
        out::line(&format!("Handling connection for {local}"))?;
        let forward = forward.clone();
        connections.spawn(async move {
            if let Err(error) = forward.carry(socket).await {
                eprintln!("error: an error occurred forwarding {local} -> {}: {error:#}", forward.remote);
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// The forwarding of a remote port of the named object.
#[derive(Clone)]
struct Forward {
    finder: Arc<Finder>,
    what: Arc<str>,
    /// A number or a name.
    remote: Arc<str>,
}

impl Forward {
    /// Selects the pod for a connection, and its port.
    async fn target(&self) -> anyhow::Result<(String, u16)> {
        let found = self.finder.find(&self.what, "forward ports of").await?;
        let running =
            |pod: &&Value| pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null();
        let Some(pod) = found.pods.iter().find(running) else {
            let phase = found.pods.first().and_then(|pod| pod["status"]["phase"].as_str()).unwrap_or("Unknown");
            bail!("unable to forward port because pod is not running. Current status={phase}");
        };
        Ok((pods::name(pod).to_owned(), remote_port(&found, pod, &self.remote)?))
    }

    /// The default local port: the remote number, or the pod's port of the remote name.
    fn default_local(&self, remote: u16) -> u16 {
        self.remote.parse().unwrap_or(remote)
    }

    /// Forwards a connection until its end.
    async fn carry(&self, socket: TcpStream) -> anyhow::Result<()> {
        let (pod, port) = self.target().await?;
        let pods: Api<Pod> = Api::namespaced(self.finder.client.kube().clone(), &self.finder.namespace);
        let mut forwarder = pods.portforward(&pod, &[port]).await?;
        let (Some(stream), Some(error)) = (forwarder.take_stream(port), forwarder.take_error(port)) else {
            bail!("the API server opened no stream");
        };
        let _ = socket.set_nodelay(true);
        let (read, write) = socket.into_split();
        let carried = copy(read, write, stream).await;
        drop(forwarder);
        if let Some(error) = error.await {
            bail!("{error}");
        }
        // A client or pod that disconnects is not an error.
        carried.or(Ok(()))
    }
}

/// Copies both directions until the pod ends, or is silent after the client's end.
async fn copy(
    mut read: impl AsyncRead + Unpin,
    mut write: impl AsyncWrite + Unpin,
    stream: impl AsyncRead + AsyncWrite,
) -> std::io::Result<()> {
    let (mut from_pod, mut to_pod) = tokio::io::split(stream);
    let (ended, client_ended) = tokio::sync::watch::channel(false);
    let send = async {
        let sent = tokio::io::copy(&mut read, &mut to_pod).await;
        ended.send_replace(true);
        sent?;
        std::future::pending::<std::io::Result<()>>().await
    };
    let receive = async {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let mut client_ended = client_ended.clone();
            let silent = async {
                // The sender must live as long as this.
                let _ = client_ended.wait_for(|ended| *ended).await;
                tokio::time::sleep(HALF_CLOSED_TIMEOUT).await;
            };
            let count = tokio::select! {
                count = from_pod.read(&mut buffer) => count?,
                () = silent => 0,
            };
            if count == 0 {
                return write.shutdown().await;
            }
            write.write_all(&buffer[..count]).await?;
        }
    };
    tokio::select! {
        biased;
        received = receive => received,
        sent = send => sent,
    }
}

/// The pod's port of `remote`: the target port of a Service's port, or the container port of a name.
fn remote_port(found: &Found, pod: &Value, remote: &str) -> anyhow::Result<u16> {
    if found.kind != "Service" {
        return match remote.parse() {
            Ok(number) => Ok(number),
            Err(_) => container_port(pod, remote)
                .with_context(|| format!("Pod '{}' does not have a named port '{remote}'", pods::name(pod))),
        };
    }
    let service = &found.object;
    let of_service = |port: &&Value| {
        port["name"] == remote || port["port"].as_u64().map(|it| it.to_string()).as_deref() == Some(remote)
    };
    let Some(port) = service["spec"]["ports"].as_array().into_iter().flatten().find(of_service) else {
        bail!("Service {} does not have a service port {remote}", pods::name(service));
    };
    let number =
        |value: &Value| value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
    let own = number(&port["port"]).context("the Service's port has no number")?;
    if service["spec"]["clusterIP"] == "None" {
        return Ok(own);
    }
    match &port["targetPort"] {
        Value::String(name) => container_port(pod, name)
            .with_context(|| format!("Pod '{}' does not have a named port '{name}'", pods::name(pod))),
        target => Ok(number(target).unwrap_or(own)),
    }
}

fn container_port(pod: &Value, name: &str) -> Option<u16> {
    let containers = pod["spec"]["containers"].as_array()?.iter();
    let mut ports = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let port = ports.find(|port| port["name"] == name)?;
    u16::try_from(port["containerPort"].as_u64()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_are_named_as_kubectl_takes_them() {
        let port = |local, remote: &str| Ok(Port { local, remote: remote.into() });
        assert_eq!(parse("80"), port(None, "80"));
        assert_eq!(parse("8080:80"), port(Some(8080), "80"));
        assert_eq!(parse(":80"), port(Some(0), "80"));
        assert_eq!(parse("0:http"), port(Some(0), "http"));
        assert_eq!(parse("0"), Err("remote port must be > 0".into()));
        for wrong in ["", "a:80", "80:", "1:2:3", "70000", "80:70000", "-1:80", "x y"] {
            assert!(parse(wrong).is_err_and(|why| why.contains("invalid port format")), "{wrong}");
        }
    }

    #[test]
    fn addresses_are_localhost_or_numbers() {
        let read = |texts: &[&str]| addresses(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(read(&["localhost"]).map(|all| all.len()), Ok(2));
        assert_eq!(read(&["127.0.0.2"]).map(|all| all.len()), Ok(1));
        assert_eq!(read(&["example.org"]), Err("example.org is not a valid IP".into()));
    }

    #[test]
    fn a_port_of_a_service_is_its_pods_target() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"ports": [{"name": "web", "containerPort": 8080}]}]}});
        let service = |cluster_ip: &str| Found {
            kind: "Service".into(),
            object: json!({"metadata": {"name": "s"}, "spec": {"clusterIP": cluster_ip, "ports": [
                {"name": "http", "port": 80, "targetPort": "web"}, {"port": 81, "targetPort": 9090}, {"port": 82},
                {"port": 83, "targetPort": "none"}]}}),
            pods: Vec::new(),
        };
        let of = |remote: &str| remote_port(&service("10.0.0.1"), &pod, remote).map_err(|error| error.to_string());
        assert_eq!((of("80"), of("http"), of("81"), of("82")), (Ok(8080), Ok(8080), Ok(9090), Ok(82)));
        assert_eq!(of("84"), Err("Service s does not have a service port 84".into()));
        assert_eq!(of("83"), Err("Pod 'p' does not have a named port 'none'".into()));
        assert_eq!(remote_port(&service("None"), &pod, "81").ok(), Some(81), "a headless one has no other port");
        let direct = Found { kind: "Pod".into(), object: pod.clone(), pods: Vec::new() };
        assert_eq!(
            (remote_port(&direct, &pod, "web").ok(), remote_port(&direct, &pod, "7").ok()),
            (Some(8080), Some(7))
        );
        assert!(remote_port(&direct, &pod, "x").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_comes_after_the_clients_end_and_silence_ends_the_connection() {
        let (stream, mut pod) = tokio::io::duplex(64);
        let (client, mut answer) = tokio::io::duplex(64);
        let task = tokio::spawn(async move { copy(&b"question"[..], client, stream).await });
        let mut question = [0; 8];
        pod.read_exact(&mut question).await.expect("the question");
        pod.write_all(b"answer").await.expect("taken");
        let mut text = String::new();
        tokio::time::timeout(2 * HALF_CLOSED_TIMEOUT, answer.read_to_string(&mut text))
            .await
            .expect("an end")
            .expect("read");
        assert_eq!((question, text.as_str()), (*b"question", "answer"));
        task.await.expect("no panic").expect("it went well");
    }
}
