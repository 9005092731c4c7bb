//! Leader election by a Lease: of several processes one leads, as long as it renews in time.

use crate::{Client, Error, Result};
use api::Clock;
use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use std::{future::Future, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Who wants to lead what, and how patiently. Durations are upstream's defaults.
#[derive(Clone, Debug)]
pub struct ElectorOptions {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Unique name of this candidate.
    pub identity: String,
    /// A leader that has not renewed for this long may be replaced.
    pub lease_duration: Duration,
    /// A leader that cannot renew for this long steps down.
    pub renew_deadline: Duration,
    /// Time between tries.
    pub retry_period: Duration,
}

impl ElectorOptions {
    /// With upstream's durations: 15 s, 10 s, 2 s.
    pub fn new(namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// Leadership by Lease, as client-go does it: expiry is judged by the local clock from when a change of the Lease was *seen*, so
/// clocks of candidates need not agree. It does not fence: writes carry resourceVersions.
pub struct Elector {
    client: Client,
    clock: Clock,
    options: ElectorOptions,
    /// The last Lease seen that was not ours, and when it changed.
    seen: Option<(String, Instant)>,
}

impl Elector {
    /// A candidate.
    pub fn new(client: Client, clock: Clock, options: ElectorOptions) -> Self {
        Self { client, clock, options, seen: None }
    }

    /// Waits until this candidate leads, then runs `lead` with a token that is cancelled when leadership is lost or `token` is
    /// cancelled. On a cancelled `token` the Lease is released, so that the next leader need not wait. Returns `true` if
    /// leadership was lost (run again to compete again), `false` when cancelled.
    pub async fn run<F: Future<Output = ()>>(
        mut self,
        token: CancellationToken,
        lead: impl FnOnce(CancellationToken) -> F,
    ) -> bool {
        loop {
            match self.try_lead().await {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => tracing::debug!(lease = self.options.name, %error, "cannot take the lease"),
            }
            tokio::select! {
                () = token.cancelled() => return false,
                () = tokio::time::sleep(self.options.retry_period) => {}
            }
        }
        tracing::info!(lease = self.options.name, identity = self.options.identity, "leading");
        let leading = token.child_token();
        let renew = {
            let leading = leading.clone();
            let this = &mut self;
            async move {
                let lost = this.renew(&leading).await;
                leading.cancel();
                lost
            }
        };
        let ((), lost) = futures::join!(lead(leading.clone()), renew);
        if !lost && let Err(error) = self.release().await {
            tracing::debug!(lease = self.options.name, %error, "cannot release the lease");
        }
        lost
    }

    /// Renews until cancelled (`false`) or until it could not for too long (`true`).
    async fn renew(&mut self, leading: &CancellationToken) -> bool {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = leading.cancelled() => return false,
                () = tokio::time::sleep(self.options.retry_period) => {}
            }
            match tokio::time::timeout(self.options.renew_deadline, self.try_lead()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return true,
                Ok(Err(error)) => tracing::warn!(lease = self.options.name, %error, "cannot renew the lease"),
                Err(_) => {}
            }
            if renewed.elapsed() > self.options.renew_deadline {
                return true;
            }
        }
    }

    /// Takes or renews the Lease. `Ok(false)`: somebody else holds it.
    async fn try_lead(&mut self) -> Result<bool> {
        let (namespace, name) = (self.options.namespace.clone(), self.options.name.clone());
        let Some(mut lease) = self.client.find::<Lease>(&namespace, &name).await? else {
            let mut lease = Lease::default();
            lease.metadata.namespace = Some(namespace);
            lease.metadata.name = Some(name);
            lease.spec = Some(self.spec(None));
            return match self.client.create(&lease).await {
                Ok(_) => Ok(true),
                Err(error) if error.is_already_exists() => Ok(false),
                Err(error) => Err(error),
            };
        };
        let old = lease.spec.take().unwrap_or_default();
        if !self.may_take(&old, lease.metadata.resource_version.as_deref().unwrap_or_default()) {
            return Ok(false);
        }
        lease.spec = Some(self.spec(Some(&old)));
        match self.client.update(&lease).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn may_take(&mut self, spec: &LeaseSpec, revision: &str) -> bool {
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if holder.is_empty() || holder == self.options.identity {
            return true;
        }
        match &self.seen {
            Some((seen, since)) if seen == revision => since.elapsed() > self.options.lease_duration,
            _ => {
                self.seen = Some((revision.to_owned(), Instant::now()));
                false
            }
        }
    }

    fn spec(&self, old: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(self.now());
        let same = old.is_some_and(|o| o.holder_identity.as_deref() == Some(&self.options.identity));
        let transitions = old.and_then(|o| o.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.options.identity.clone()),
            lease_duration_seconds: i32::try_from(self.options.lease_duration.as_secs()).ok(),
            acquire_time: if same { old.and_then(|o| o.acquire_time.clone()) } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(if same || old.is_none() { transitions } else { transitions + 1 }),
            ..LeaseSpec::default()
        }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn release(&self) -> Result<()> {
        let (namespace, name) = (&self.options.namespace, &self.options.name);
        let Some(mut lease) = self.client.find::<Lease>(namespace, name).await? else { return Ok(()) };
        let Some(spec) = &mut lease.spec else { return Ok(()) };
        if spec.holder_identity.as_deref() != Some(&self.options.identity) {
            return Ok(());
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(self.now()));
        match self.client.update(&lease).await {
            Ok(_) => Ok(()),
            Err(Error::Api(status)) if status.reason == api::Reason::Conflict => Ok(()),
            Err(error) => Err(error),
        }
    }
}
