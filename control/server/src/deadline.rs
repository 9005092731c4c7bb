//! When a request is over: its time is up, or its client has gone.

use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The end of a request. What waits is dropped with it; what computes for long, as the evaluation of an expression does, asks now and then.
/// By default it never comes.
#[derive(Clone, Debug, Default)]
pub struct Deadline {
    at: Option<Instant>,
    gone: Option<CancellationToken>,
}

impl Deadline {
    /// After so much time.
    pub fn after(time: Duration) -> Self {
        Self { at: Some(Instant::now() + time), gone: None }
    }

    /// And when the client's connection ends.
    #[must_use]
    pub(crate) fn or_gone(self, client: Option<&Client>) -> Self {
        Self { gone: client.map(|client| client.0.clone()), ..self }
    }

    /// Whether nobody waits for the answer any more.
    pub fn is_over(&self) -> bool {
        self.gone.as_ref().is_some_and(CancellationToken::is_cancelled)
            || self.at.is_some_and(|at| at <= Instant::now())
    }
}

/// The connection of a request, among its extensions: it is cancelled when the connection has ended. One of HTTP/1 ends after its requests.
#[derive(Clone, Debug)]
pub(crate) struct Client(pub(crate) CancellationToken);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_is_over_when_its_time_is_up_or_its_client_has_gone() {
        assert!(!Deadline::default().is_over());
        let minute = Deadline::after(Duration::from_secs(60));
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(!minute.is_over());
        let client = Client(CancellationToken::new());
        let held = minute.clone().or_gone(Some(&client));
        assert!(!held.is_over() && !minute.clone().or_gone(None).is_over());
        client.0.cancel();
        assert!(held.is_over() && !minute.is_over());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(minute.is_over());
    }
}
