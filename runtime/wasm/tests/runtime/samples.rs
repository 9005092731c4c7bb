//! The guests of `samples/`, built by real toolchains.

use crate::support::Node;
use container::{ExitReason, Mount};
use std::path::Path;

pub(crate) fn sample(name: &str) -> Vec<u8> {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples");
    std::fs::read(samples.join(format!("{name}/{name}.wasm"))).unwrap()
}

#[tokio::test]
async fn hello_greets_panics_and_grows() {
    let node = Node::new().await;
    let mut spec = node.spec(&sample("hello"));
    spec.env = vec![("GREETING".into(), "Moin".into()), ("HOSTNAME".into(), "hello-1".into())];
    spec.limits.memory_bytes = Some(64 << 20);
    let id = node.start(spec).await;
    assert_eq!(node.net.get(80, "/").await, (200, "Moin from hello-1\n".to_string()));
    assert_eq!(node.net.get(80, "/env/HOSTNAME").await, (200, "hello-1\n".to_string()));
    assert_eq!(node.net.get(80, "/panic").await.0, 500);
    node.log(&id, |text| text.contains("GET /panic failed: wasm trap")).await;
    node.net.get(80, "/grow").await;
    assert_eq!(node.exit(&id).await.reason, ExitReason::OomKilled);
}

#[tokio::test]
async fn count_reads_a_mounted_file() {
    let node = Node::new().await;
    let folder = node.folder.path().join("poems");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("poem.txt"), "The boat drifts\nwhere the water goes\n").unwrap();
    for (path, code, expected) in [
        ("/poems/poem.txt", 0, "stdout F 2 7 37 /poems/poem.txt\n"),
        ("/poems/none.txt", 1, "stderr F /poems/none.txt: No such file or directory\n"),
    ] {
        let mut spec = node.spec(&sample("count"));
        spec.args = vec!["count".into(), path.into()];
        spec.mounts = vec![Mount::new(&folder, "", "/poems", true).unwrap()];
        let id = node.start(spec).await;
        assert_eq!(node.exit(&id).await.code, code);
        assert_eq!(node.log(&id, |_| true).await, expected);
    }
}

#[tokio::test]
async fn fetch_prints_what_it_is_answered() {
    let node = Node::new().await;
    let mut spec = node.spec(&sample("fetch"));
    spec.args = vec!["fetch".into(), "http://teapot/brew".into()];
    let id = node.start(spec).await;
    let expected = "stdout F http://teapot/brew answered 418: GET http://teapot/brew \"teapot\"\n";
    node.log(&id, |text| text.starts_with(expected)).await;
}
