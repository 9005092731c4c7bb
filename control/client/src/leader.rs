//! Leader election by Lease, as client-go's `leaderelection` does it.

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

/// Options of an election.
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
    /// Time between attempts, and between renewals.
    pub retry_period: Duration,
    /// No other candidate can exist, because the store belongs to this process. Then this candidate leads at once and never steps down: another
    /// holder in the Lease is a process that has ended, and while the Lease cannot be written (a full disk) nobody else can take it.
    pub alone: bool,
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
            alone: false,
        }
    }
}

/// Leadership by Lease, as in client-go: expiry is measured by the local clock from when a change of the Lease was *observed*, so that the
/// clocks of candidates need not agree. It does not fence: writes have resourceVersions.
pub struct Elector {
    client: Client,
    clock: Clock,
    options: ElectorOptions,
    /// The last observed record of another holder, and when it changed.
    seen: Option<(String, Instant)>,
    /// The Lease as this candidate wrote it last.
    held: Option<Lease>,
}

impl Elector {
    /// A candidate.
    pub fn new(client: Client, clock: Clock, options: ElectorOptions) -> Self {
        Self { client, clock, options, seen: None, held: None }
    }

    /// Waits until this candidate leads, then runs `lead` with a token that is cancelled when leadership is lost or `token` is
    /// cancelled. `lead` returns when all of its work has stopped; if it returns by itself, leadership ends too. Unless leadership was lost, the
    /// Lease is then released, so that the next leader need not wait. Returns `true` if leadership was lost (run again to compete again),
    /// `false` when cancelled.
    pub async fn run<F: Future<Output = ()>>(
        mut self,
        token: CancellationToken,
        lead: impl FnOnce(CancellationToken) -> F,
    ) -> bool {
        if !self.options.alone && !self.acquire(&token).await {
            return false;
        }
        tracing::info!(lease = self.options.name, identity = self.options.identity, "leading");
        let leading = token.child_token();
        let work = {
            let leading = leading.clone();
            let work = lead(leading.clone());
            async move {
                work.await;
                leading.cancel();
            }
        };
        let renew = {
            let leading = leading.clone();
            let this = &mut self;
            async move {
                let lost = this.renew(&leading).await;
                leading.cancel();
                lost
            }
        };
        let ((), lost) = futures::join!(work, renew);
        if !lost && let Err(error) = self.release().await {
            tracing::debug!(lease = self.options.name, %error, "cannot release the lease");
        }
        lost
    }

    /// Tries until the Lease is acquired (`true`) or `token` is cancelled.
    async fn acquire(&mut self, token: &CancellationToken) -> bool {
        loop {
            match self.try_acquire_or_renew().await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => tracing::debug!(lease = self.options.name, %error, "cannot take the lease"),
            }
            tokio::select! {
                () = token.cancelled() => return false,
                () = tokio::time::sleep(self.options.retry_period) => {}
            }
        }
    }

    /// Renews until cancelled (`false`) or until leadership is lost (`true`): to another candidate, or because the Lease was not renewed within
    /// the deadline. A candidate that is `alone` acquires the Lease here, while it leads.
    async fn renew(&mut self, leading: &CancellationToken) -> bool {
        let (mut renewed, mut fails) = (Instant::now(), false);
        let mut pause = if self.options.alone { Duration::ZERO } else { self.options.retry_period };
        loop {
            tokio::select! {
                () = leading.cancelled() => return false,
                () = tokio::time::sleep(pause) => {}
            }
            pause = self.options.retry_period;
            let why = match tokio::time::timeout(self.options.renew_deadline, self.try_acquire_or_renew()).await {
                Ok(Ok(true)) => {
                    (renewed, fails) = (Instant::now(), false);
                    continue;
                }
                Ok(Ok(false)) if self.options.alone => "somebody else wrote it".to_owned(),
                Ok(Ok(false)) => return true,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            // Logged once: a disk may be full for days.
            if !fails {
                tracing::warn!(lease = self.options.name, error = why, "cannot renew the lease");
            }
            fails = true;
            if !self.options.alone && renewed.elapsed() > self.options.renew_deadline {
                return true;
            }
        }
    }

    /// Acquires or renews the Lease. `Ok(false)`: another candidate holds it.
    async fn try_acquire_or_renew(&mut self) -> Result<bool> {
        // The holder updates the Lease that it wrote last without a read; after a conflict it reads.
        if let Some(held) = self.held.take()
            && self.put(held).await?
        {
            return Ok(true);
        }
        let (namespace, name) = (self.options.namespace.clone(), self.options.name.clone());
        let Some(lease) = self.client.find::<Lease>(&namespace, &name).await? else {
            let mut lease = Lease::default();
            lease.metadata.namespace = Some(namespace);
            lease.metadata.name = Some(name);
            lease.spec = Some(self.spec(None));
            return match self.client.create(&lease).await {
                Ok(lease) => {
                    self.held = Some(lease);
                    Ok(true)
                }
                Err(error) if error.is_already_exists() => Ok(false),
                Err(error) => Err(error),
            };
        };
        if !self.may_take(&lease) {
            return Ok(false);
        }
        self.put(lease).await
    }

    /// Writes the Lease with this candidate as holder. `Ok(false)`: the Lease has changed.
    async fn put(&mut self, mut lease: Lease) -> Result<bool> {
        lease.spec = Some(self.spec(lease.spec.as_ref()));
        match self.client.update(&lease).await {
            Ok(lease) => {
                self.held = Some(lease);
                Ok(true)
            }
            Err(error) if error.is_conflict() || error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn may_take(&mut self, lease: &Lease) -> bool {
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        if self.options.alone || holder.is_empty() || holder == self.options.identity {
            return true;
        }
        let revision = lease.metadata.resource_version.as_deref().unwrap_or_default();
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
