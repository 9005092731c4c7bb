//! Guests of every kind, good and hostile, through the [`container::Runtime`] interface.

mod support;

use container::{ContainerState, Runtime};
use support::{Node, http_guest};

/// Not a test: the compiler that the tests start. Run without an order it does nothing.
#[test]
#[ignore = "started by other tests as their compiler"]
fn compile_child() {
    let _ = wasm::compile::child_main();
}

#[tokio::test]
async fn an_http_component_answers() {
    let node = Node::new().await;
    let id = node.start(node.spec(&http_guest())).await;
    assert!(matches!(node.state(&id).await, ContainerState::Running { .. }));
    assert_eq!(node.net.get(80, "/").await, (200, "hello\n".to_string()));
    let stats = node.runtime.stats(&id).await.unwrap();
    assert_eq!(stats.requests, 1);
    assert!(stats.cpu_nanos > 0);
}
