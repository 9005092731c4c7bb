//! `pods/exec`, `pods/attach` and `pods/portforward`: which pod and container is meant, and whether it may be reached. What is spoken is the
//! server's (`server::stream`). The words are upstream's.

use super::log;
use api::{Object, Status};
use axum::body::Body;
use http::Response;
use server::{
    Action, Api, Call, Names, Objects, Query,
    stream::{self, Streaming, Wanted},
};
use std::{fmt::Write, sync::Arc};

/// What is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// A command that is run beside the container's program.
    Exec,
    /// The program's own streams.
    Attach,
    /// Ports.
    PortForward,
}

#[async_trait::async_trait]
impl Action for Stream {
    async fn serve(&self, api: &dyn Api, call: Call, names: Arc<Names>) -> Result<Response<Body>, Status> {
        // A browser's WebSocket is a GET, whose right is to read: upstream asks for that of a POST too, since 1.35.
        if call.info.verb != "create" {
            api.require(&call, "create").await?;
        }
        let pod = Objects::get(api, "", "pods", &call.info.namespace, &call.info.name);
        let pod = pod.ok_or_else(|| Status::not_found(&names.gvr, &call.info.name))?;
        let container = match self {
            Self::PortForward => String::new(),
            _ => container(&pod, call.query.get("container"))?,
        };
        let node = pod.str_at(&["spec", "nodeName"]).unwrap_or_default();
        if node.is_empty() {
            return Err(Status::bad_request(format!("pod {} does not have a host assigned", call.info.name)));
        }
        let at = |word: &str| format!("/{word}/{}/{}", pod.namespace(), pod.name());
        let to = |target| Streaming { kubelet: api.kubelet(node), target, shutdown: api.shutdown() };
        if *self == Self::PortForward {
            let id = pod.str_at(&["metadata", "uid"]).unwrap_or_default().to_owned();
            return stream::forward(call, to(at("portForward")), &id).await;
        }
        let (wanted, query) = options(&call.query, *self)?;
        let word = if *self == Self::Exec { "exec" } else { "attach" };
        stream::remote(call, to(format!("{}/{container}?{query}", at(word))), wanted).await
    }

    fn is_long_running(&self, _query: &Query) -> bool {
        true
    }

    fn connection(&self, call: &Call) -> Option<Object> {
        Some(connection(&call.query, *self))
    }
}

/// The container that is meant.
fn container(pod: &Object, asked: Option<&str>) -> Result<String, Status> {
    let regular = log::names(pod, "containers");
    let all = [log::names(pod, "initContainers"), regular.clone(), log::names(pod, "ephemeralContainers")].concat();
    match (asked, &regular[..]) {
        (Some(name), _) if all.iter().any(|known| known == name) => Ok(name.to_owned()),
        (Some(name), _) => Err(Status::bad_request(format!("container {name} is not valid for pod {}", pod.name()))),
        (None, [only]) => Ok(only.clone()),
        (None, _) => {
            let (pod, all) = (pod.name(), all.join(" "));
            let text = format!("a container name must be specified for pod {pod}, choose one of: [{all}]");
            Err(Status::bad_request(text))
        }
    }
}

/// The options of a connection as upstream's admission sees them.
fn connection(query: &Query, stream: Stream) -> Object {
    let kind = match stream {
        Stream::Exec => "PodExecOptions",
        Stream::Attach => "PodAttachOptions",
        Stream::PortForward => "PodPortForwardOptions",
    };
    let mut made = Object::default();
    made.set(&["kind"], kind);
    made.set(&["apiVersion"], "v1");
    if stream == Stream::PortForward {
        let ports = query.all("ports").flat_map(|ports| ports.split(',')).filter_map(|port| port.trim().parse().ok());
        let ports: Vec<i32> = ports.collect();
        if !ports.is_empty() {
            made.set(&["ports"], ports);
        }
        return made;
    }
    for name in ["stdin", "stdout", "stderr", "tty"] {
        if query.flag(name) {
            made.set(&[name], true);
        }
    }
    if let Some(container) = query.get("container") {
        made.set(&["container"], container);
    }
    if stream == Stream::Exec {
        let command: Vec<&str> = query.all("command").collect();
        made.set(&["command"], command);
    }
    made
}

/// The streams that are wanted, and the node's query for them and the command.
fn options(query: &Query, stream: Stream) -> Result<(Wanted, String), Status> {
    let tty = query.flag("tty");
    let wanted = Wanted {
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        // A terminal's errors come with its output.
        stderr: query.flag("stderr") && !tty,
        tty,
    };
    if !(wanted.stdin || wanted.stdout || wanted.stderr) {
        return Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    let mut text = String::new();
    for (name, is) in
        [("stdin", wanted.stdin), ("stdout", wanted.stdout), ("stderr", wanted.stderr), ("tty", wanted.tty)]
    {
        if is {
            text.push_str(&format!("{name}=1&"));
        }
    }
    if stream == Stream::Exec {
        let command: Vec<&str> = query.all("command").collect();
        if command.is_empty() {
            return Err(Status::bad_request("you must specify at least one command for the container"));
        }
        for word in command {
            text.push_str(&format!("command={}&", encoded(word)));
        }
    }
    text.pop();
    Ok((wanted, text))
}

/// A value of a query.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => {
                // A string takes everything.
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str, stream: Stream) -> Result<String, String> {
        let uri = format!("/x?{query}").parse().expect("a target");
        options(&Query::of(&uri), stream).map(|(_, query)| query).map_err(|status| status.message)
    }

    #[test]
    fn admission_sees_the_options() {
        for (query, stream, wanted) in [
            (
                "command=ls&command=-l&stdout=true&stderr=0&container=c",
                Stream::Exec,
                r#"{"apiVersion":"v1","command":["ls","-l"],"container":"c","kind":"PodExecOptions","stdout":true}"#,
            ),
            (
                "stdin=1&tty=1",
                Stream::Attach,
                r#"{"apiVersion":"v1","kind":"PodAttachOptions","stdin":true,"tty":true}"#,
            ),
            (
                "ports=80,443&ports=x&ports=1",
                Stream::PortForward,
                r#"{"apiVersion":"v1","kind":"PodPortForwardOptions","ports":[80,443,1]}"#,
            ),
        ] {
            let uri = format!("/x?{query}").parse().expect("a target");
            let made = connection(&Query::of(&uri), stream).into_value();
            assert_eq!(made, serde_json::from_str::<serde_json::Value>(wanted).expect("JSON"));
        }
    }

    #[test]
    fn options_go_on_to_the_node() {
        for (query, stream, wanted) in [
            (
                "command=ls&command=-l&stdout=true&stderr=true",
                Stream::Exec,
                Ok("stdout=1&stderr=1&command=ls&command=-l"),
            ),
            ("command=ls", Stream::Exec, Err("you must specify at least 1 of stdin, stdout, stderr")),
            (
                "command=sh&stdin=1&stdout=1&stderr=1&tty=1&container=c",
                Stream::Exec,
                Ok("stdin=1&stdout=1&tty=1&command=sh"),
            ),
            ("command=a%20b%26c%2B%C3%BC&stdout=1&stderr=0", Stream::Exec, Ok("stdout=1&command=a%20b%26c%2B%C3%BC")),
            ("stdin=true&stdout=false&stderr=false", Stream::Attach, Ok("stdin=1")),
            ("stdout=1", Stream::Exec, Err("you must specify at least one command for the container")),
            (
                "stdout=0&stderr=false&command=ls",
                Stream::Exec,
                Err("you must specify at least 1 of stdin, stdout, stderr"),
            ),
        ] {
            assert_eq!(read(query, stream), wanted.map(str::to_owned).map_err(str::to_owned), "{query}");
        }
    }
}
