use super::{connect, explain};
use crate::args::LogsArgs;
use http::Method;
use http_body_util::BodyExt;
use std::io::Write;

/// `sampan logs`: the body as it comes.
pub(crate) async fn run(args: &LogsArgs) -> anyhow::Result<()> {
    let client = connect(&args.target).await?;
    let mut url = format!("/api/v1/namespaces/{}/pods/{}/log?follow={}", args.target.namespace, args.pod, args.follow);
    for (name, value) in [
        ("container", args.container.clone()),
        ("previous", args.previous.then(|| "true".to_owned())),
        ("tailLines", args.tail.map(|n| n.to_string())),
    ] {
        if let Some(value) = value {
            url = format!("{url}&{name}={value}");
        }
    }
    let mut body = client.raw_stream(Method::GET, &url).await.map_err(explain)?.into_body();
    let mut out = std::io::stdout();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            out.write_all(&data)?;
            out.flush()?;
        }
    }
    Ok(())
}
