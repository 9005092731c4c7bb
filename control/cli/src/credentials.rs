//! Keys and certificates of the cluster. The authorities and the token key are created once and kept in DIR/pki (0600). All certificates are
//! issued at each start, so that addresses are right, and renewed long before they expire. Issued certificates can be revoked only by a new
//! authority: stop, remove `ca.crt` and `ca.key` of DIR/pki, start.

use crate::data_dir::{DataDir, read_private, write_private};
use anyhow::{Context, bail};
use api::Clock;
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use kinds::Tokens;
use server::{
    FrontProxy,
    pki::{self, Names, Pair, Validity},
};
use std::{fmt, fs, net::IpAddr, time::Duration};

/// The issuer of ServiceAccount tokens: upstream's default for clusters without a public name.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// The file with the additional names of the API.
const NAMES: &str = "names";
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// The validity of certificates in days. A stolen kubeconfig expires, and a copy of a kubeconfig remains valid for some time after the
/// cluster is stopped.
const LIFETIME_DAYS: i32 = 90;
/// The age at which a certificate is renewed, in days.
const RENEWAL_DAYS: i32 = 60;
/// How often the age is checked: timers do not run while a machine sleeps.
const CHECK_INTERVAL: Duration = Duration::from_secs(3600);
/// The delay after a failed renewal.
const RETRY_DELAY: Duration = Duration::from_secs(60);

/// The keys and certificates of the cluster.
pub(crate) struct Credentials {
    pub(crate) authority: Pair,
    pub(crate) tokens: Tokens,
    /// As whom the API server speaks for its users to the servers of aggregated APIs.
    pub(crate) front_proxy: FrontProxy,
    /// Its authority, which signs for nobody else: those servers believe whoever has its certificate.
    front_authority: Pair,
    /// The names of the serving certificate.
    names: Names,
}

/// The certificates of this process.
pub(crate) struct Signed {
    pub(crate) serving: Pair,
    pub(crate) administrator: Pair,
    /// When to renew them.
    renew: Timestamp,
}

impl Credentials {
    /// Reads existing keys, creates missing ones, and issues certificates. `addresses` and `names` (which may be addresses too) are those
    /// of the API in addition to loopback and Service `kubernetes`.
    pub(crate) fn open(
        dir: &DataDir,
        now: Timestamp,
        addresses: Vec<IpAddr>,
        names: Vec<String>,
    ) -> anyhow::Result<(Self, Signed)> {
        let folder = dir.private_folder("pki")?;
        let authority = authority(&folder, ("ca", "sampan"), now)?;
        let front_authority = self::authority(&folder, ("front-proxy-ca", "sampan-front-proxy"), now)?;
        let front_proxy = front(&front_authority, now)
            .with_context(|| damaged(&folder, "front-proxy-ca.crt and front-proxy-ca.key"))?;
        let front_proxy = FrontProxy::new(&front_authority.certificate, front_proxy);
        let key = match read_private(&folder.join("sa.key"))? {
            Some(key) => String::from_utf8(key).ok().with_context(|| damaged(&folder, "sa.key"))?,
            None => {
                let key = pki::key()?;
                write_private(&folder.join("sa.key"), key.as_bytes())?;
                key
            }
        };
        let tokens = Tokens::new(&key, ISSUER).with_context(|| damaged(&folder, "sa.key"))?;
        let (more, names): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| name.parse::<IpAddr>().is_ok());
        let more = more.iter().filter_map(|address| address.parse().ok());
        let names = Names::api_server(addresses.into_iter().chain(more), names);
        let made = Self { authority, tokens, front_proxy, front_authority, names };
        let signed = made.sign(now).with_context(|| damaged(&folder, "ca.crt and ca.key"))?;
        Ok((made, signed))
    }

    /// Issues certificates that are valid from now on.
    fn sign(&self, now: Timestamp) -> anyhow::Result<Signed> {
        let life = validity(now, LIFETIME_DAYS)?;
        Ok(Signed {
            serving: pki::server(&self.authority, "kube-apiserver", &self.names, life)?,
            administrator: pki::client(&self.authority, "kubernetes-admin", &["system:masters"], life)?,
            renew: validity(now, RENEWAL_DAYS)?.until,
        })
    }

    /// Renews the certificates when they are old, forever, and passes them to `show`. Failures are logged and retried.
    pub(crate) async fn renew(
        &self,
        clock: &Clock,
        mut due: Timestamp,
        mut show: impl FnMut(Signed) -> anyhow::Result<()>,
    ) {
        let mut pause = CHECK_INTERVAL;
        loop {
            tokio::time::sleep(pause).await;
            pause = CHECK_INTERVAL;
            if clock.now() < due {
                continue;
            }
            let renewed = self.sign(clock.now()).and_then(|signed| {
                self.front_proxy.replace(front(&self.front_authority, clock.now())?);
                let next = signed.renew;
                show(signed).map(|()| next)
            });
            match renewed {
                Ok(next) => {
                    due = next;
                    tracing::info!("made new certificates");
                }
                Err(error) => {
                    pause = RETRY_DELAY;
                    tracing::error!(error = format!("{error:#}"), "cannot renew the certificates");
                }
            }
        }
    }
}

/// What controllers sign with these keys.
impl controllers::Keys for Credentials {
    fn token(&self, namespace: &str, account: &str, uid: &str, secret: &str) -> anyhow::Result<String> {
        Ok(self.tokens.sign_legacy(namespace, account, uid, secret)?)
    }

    fn certificate(
        &self,
        request: &api::csr::Request,
        usages: &[String],
        from: Timestamp,
        until: Timestamp,
    ) -> anyhow::Result<String> {
        Ok(pki::issue_for(&self.authority, request, usages, Validity { from, until })?)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

impl Signed {
    /// When to renew the certificates.
    pub(crate) fn due(&self) -> Timestamp {
        self.renew
    }
}

/// The maximum number of `--tls-san` names. Each client receives all of them with every handshake.
const MAX_NAMES: usize = 100;

/// The names of `--tls-san`, of this start and of earlier ones. DIR/pki/names has one per line.
pub(crate) fn names(dir: &DataDir, asked: &[String]) -> anyhow::Result<Vec<String>> {
    let path = dir.join("pki").join(NAMES);
    let before = read_private(&path)?.unwrap_or_default();
    let before = String::from_utf8(before).ok().with_context(|| format!("{} is not text", path.display()))?;
    let mut names: Vec<String> = before.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    for name in asked {
        if !names.contains(name) {
            names.push(name.clone());
        }
        if names.len() > MAX_NAMES {
            bail!(
                "--tls-san: the API's certificate has at most {MAX_NAMES} names, with those of earlier starts, which are in {}",
                path.display()
            );
        }
    }
    Ok(names)
}

/// Like [`names`], and saves them for later starts.
pub(crate) fn remember(dir: &DataDir, asked: &[String]) -> anyhow::Result<Vec<String>> {
    let names = names(dir, asked)?;
    if !names.is_empty() {
        write_private(&dir.private_folder("pki")?.join(NAMES), format!("{}\n", names.join("\n")).as_bytes())?;
    }
    Ok(names)
}

/// The certificate authority of a data directory in base64, if there is one.
pub(crate) fn authority_in(dir: &DataDir) -> Option<String> {
    fs::read(dir.join("pki/ca.crt")).ok().map(|certificate| STANDARD.encode(certificate))
}

/// How to handle unusable keys.
fn damaged(folder: &DataDir, files: &str) -> String {
    format!("{files} in {} cannot be used; put them back, or remove them to get new ones", folder.path().display())
}

/// A client certificate of the front proxy.
fn front(authority: &Pair, now: Timestamp) -> anyhow::Result<Pair> {
    Ok(pki::client(authority, kinds::FRONT_PROXY, &[], validity(now, LIFETIME_DAYS)?)?)
}

/// The authority in these files, with this name if it is new.
fn authority(folder: &DataDir, (file, name): (&str, &str), now: Timestamp) -> anyhow::Result<Pair> {
    let files = [format!("{file}.crt"), format!("{file}.key")];
    let [certificate, key] = files.each_ref().map(|file| folder.join(file));
    match (read_private(&certificate)?, read_private(&key)?) {
        (Some(certificate), Some(key)) => Ok(Pair {
            certificate: String::from_utf8(certificate).ok().with_context(|| damaged(folder, &files[0]))?,
            key: String::from_utf8(key).ok().with_context(|| damaged(folder, &files[1]))?,
        }),
        (None, None) => {
            let made = pki::authority(name, validity(now, 3650)?)?;
            write_private(&key, made.key.as_bytes())?;
            write_private(&certificate, made.certificate.as_bytes())?;
            Ok(made)
        }
        // The key is written first: a key without a certificate is left by an interrupted start.
        (None, Some(_)) => {
            std::fs::remove_file(&key)?;
            authority(folder, (file, name), now)
        }
        (Some(_), None) => bail!(
            "{} is there, but its key is not; put the key back, or remove the certificate to get a new authority",
            certificate.display()
        ),
    }
}

/// Valid since an hour ago, for clocks that differ.
fn validity(now: Timestamp, days: i32) -> anyhow::Result<Validity> {
    let until =
        DAY.checked_mul(days).and_then(|span| now.checked_add(span).ok()).context("the clock is out of range")?;
    Ok(Validity { from: now.checked_sub(SignedDuration::from_hours(1))?, until })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn certificates_are_renewed_long_before_they_end_also_after_failures() {
        let parent = tempfile::tempdir().expect("a folder");
        let dir = DataDir::open(Some(&parent.path().join("data"))).expect("made");
        let (begin, epoch) = (tokio::time::Instant::now(), Timestamp::from_second(1_800_000_000).expect("in range"));
        let clock = Clock::new(move || {
            epoch + SignedDuration::try_from(begin.elapsed()).expect("the test does not last for ever")
        });
        let (credentials, first) = Credentials::open(&dir, clock.now(), Vec::new(), Vec::new()).expect("made");
        let days = |count: i64| SignedDuration::from_hours(24 * count);
        let mut made = Vec::new();
        let mut failures = 3;
        let show = |signed: Signed| {
            if failures > 0 && made.len() == 1 {
                failures -= 1;
                anyhow::bail!("the disk is full");
            }
            made.push((clock.now(), signed.serving.certificate, signed.administrator.certificate));
            Ok(())
        };
        let year = Duration::from_secs(365 * 86_400);
        let ended = tokio::time::timeout(year, credentials.renew(&clock, first.due(), show)).await;
        assert!(ended.is_err(), "goes on for ever");
        assert_eq!(made.len(), 6, "every 60 days");
        let mut before = (epoch, first.serving.certificate, first.administrator.certificate);
        for (at, serving, administrator) in made {
            let age = at.duration_since(before.0);
            assert!((days(60)..days(61)).contains(&age), "{age:?} of {LIFETIME_DAYS} days");
            assert!(serving != before.1 && administrator != before.2);
            before = (at, serving, administrator);
        }
    }

    #[test]
    fn names_that_were_asked_for_are_in_the_certificate_of_later_starts_too() {
        let parent = tempfile::tempdir().expect("a folder");
        let dir = DataDir::open(Some(&parent.path().join("data"))).expect("made");
        let asked = |names: &[&str]| remember(&dir, &names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        assert!(asked(&[]).expect("none").is_empty());
        assert!(!dir.join("pki").join("names").exists());
        assert_eq!(asked(&["host.docker.internal", "192.0.2.7"]).expect("kept"), ["host.docker.internal", "192.0.2.7"]);
        let names = asked(&["*.example.com", "192.0.2.7"]).expect("kept");
        assert_eq!(names, ["host.docker.internal", "192.0.2.7", "*.example.com"]);
        let many: Vec<String> = (0..98).map(|n| format!("n{n}.example")).collect();
        let error = remember(&dir, &many).expect_err("101 names").to_string();
        assert!(error.contains("at most 100 names") && error.contains("pki/names"), "{error}");
        assert_eq!(self::names(&dir, &many[..97]).expect("100 names").len(), 100);
        let now = Timestamp::from_second(1_800_000_000).expect("in range");
        let (credentials, _) = Credentials::open(&dir, now, Vec::new(), names).expect("made");
        assert!(credentials.names.addresses.contains(&IpAddr::from([192, 0, 2, 7])));
        for name in ["host.docker.internal", "*.example.com", "localhost"] {
            assert!(credentials.names.dns.iter().any(|n| n == name), "{name}");
        }
        assert!(!credentials.names.dns.iter().any(|n| n == "192.0.2.7"));
    }

    #[test]
    fn damaged_keys_are_named_with_what_to_do() {
        let parent = tempfile::tempdir().expect("a folder");
        let dir = DataDir::open(Some(&parent.path().join("data"))).expect("made");
        let now = Timestamp::from_second(1_800_000_000).expect("in range");
        let open = || Credentials::open(&dir, now, Vec::new(), Vec::new());
        assert!(open().is_ok(), "made");
        for file in ["ca.crt", "front-proxy-ca.crt", "sa.key"] {
            let path = dir.join("pki").join(file);
            let good = read_private(&path).expect("read").expect("there");
            for bad in [&b"garbage"[..], b"\xff"] {
                write_private(&path, bad).expect("written");
                let error = crate::exit::text(&open().err().expect(file));
                let pki = dir.join("pki").display().to_string();
                assert!(
                    error.contains(file) && error.contains(&pki) && error.contains("remove them"),
                    "{file}: {error}"
                );
            }
            write_private(&path, &good).expect("written");
        }
        assert!(open().is_ok(), "as before");
    }
}
