//! Volumes with files from the API: configMap, secret, downwardAPI and projected. [`super::write`] writes them.

use super::{
    Context, Error, File, FileBudget, Owner, Ownership, SyncedVolume, TokenSource, VolumePlugin, blocking, write,
};
use crate::{
    config::{config_map_values, secret_values},
    downward, pod, resources,
};
use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Volume, VolumeProjection};
use std::{collections::BTreeMap, io::Read};

/// The most bytes that are read of a token in a volume; one that is cut is no token.
const MAX_TOKEN: u64 = 16 << 10;

/// Of a token that is for one user, or for the group that is given later. Others have the mode of the volume.
const TOKEN_MODE: u32 = 0o600;

/// The plugin of these volumes.
pub(super) struct Payloads;

type Files = BTreeMap<String, File>;

#[async_trait]
impl VolumePlugin for Payloads {
    fn name(&self) -> &'static str {
        "kubernetes.io/projected"
    }

    fn handles(&self, v: &Volume) -> bool {
        v.config_map.is_some() || v.secret.is_some() || v.downward_api.is_some() || v.projected.is_some()
    }

    async fn sync(&self, cx: &Context, volume: &Volume) -> Result<SyncedVolume, Error> {
        let (files, resync_at) = files(cx, volume).await?;
        let (dir, stamp) = (cx.dir.clone(), cx.now.strftime("%Y_%m_%d_%H_%M_%S.%9f").to_string());
        let group = cx.ownership.group;
        blocking(move || write(&dir, &files, &stamp, group)).await?;
        Ok(SyncedVolume { path: cx.dir.clone(), owner: Owner::Agent, read_only: true, resync_at, notice: None })
    }
}

async fn files(cx: &Context, volume: &Volume) -> Result<(Files, Option<Timestamp>), Error> {
    let mut files = Files::new();
    let mut resync_at: Option<Timestamp> = None;
    if let Some(source) = &volume.config_map {
        let mode = mode(source.default_mode);
        config_map(cx, &source.name).files(source.items.as_deref(), source.optional, mode, &mut files)?;
    } else if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let mode = mode(source.default_mode);
        secret(cx, name).files(source.items.as_deref(), source.optional, mode, &mut files)?;
    } else if let Some(source) = &volume.downward_api {
        downward(cx, source.items.as_deref().unwrap_or_default(), mode(source.default_mode), &mut files)?;
    } else if let Some(projected) = &volume.projected {
        let mode = mode(projected.default_mode);
        for source in projected.sources.iter().flatten() {
            let due = project(cx, source, mode, &mut files).await?;
            resync_at = match (resync_at, due) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
    }
    Ok((files, resync_at))
}

fn mode(bits: Option<i32>) -> u32 {
    bits.and_then(|b| u32::try_from(b).ok()).unwrap_or(0o644) & 0o777
}

async fn project(
    cx: &Context,
    source: &VolumeProjection,
    mode: u32,
    files: &mut Files,
) -> Result<Option<Timestamp>, Error> {
    if let Some(s) = &source.config_map {
        config_map(cx, &s.name).files(s.items.as_deref(), s.optional, mode, files)?;
    }
    if let Some(s) = &source.secret {
        secret(cx, &s.name).files(s.items.as_deref(), s.optional, mode, files)?;
    }
    if let Some(s) = &source.downward_api {
        downward(cx, s.items.as_deref().unwrap_or_default(), mode, files)?;
    }
    if source.cluster_trust_bundle.is_some() {
        return Err(Error::Source("clusterTrustBundle projections are not supported by this node yet".into()));
    }
    let Some(token) = &source.service_account_token else { return Ok(None) };
    let wanted = TokenSource {
        namespace: pod::namespace(&cx.pod).to_owned(),
        account: pod::spec(&cx.pod).service_account_name.clone().filter(|a| !a.is_empty()).unwrap_or("default".into()),
        audience: token.audience.clone().unwrap_or_default(),
        seconds: token.expiration_seconds.unwrap_or(3600),
        pod: (pod::name(&cx.pod).to_owned(), pod::uid(&cx.pod).to_owned()),
    };
    let (text, refresh) = cx.tokens.get(&wanted, cx.now, kept(cx, &token.path)).await?;
    let Ownership { group, user, .. } = cx.ownership;
    let mode = if group.is_some() || user.is_some() { TOKEN_MODE } else { mode };
    files.insert(token.path.clone(), File { data: text.into_bytes(), mode, user });
    Ok(Some(refresh))
}

/// The token that is in the volume.
async fn kept(cx: &Context, path: &str) -> Option<String> {
    let path = cx.dir.join("..data").join(path);
    let read = move || {
        let mut text = String::new();
        std::fs::File::open(path)?.take(MAX_TOKEN).read_to_string(&mut text).map(|_| text)
    };
    blocking(read).await.ok()
}

/// A ConfigMap or Secret as a source of files.
struct Keys<'a> {
    /// The terms for the object and for a key in messages.
    terms: (&'static str, &'static str),
    name: &'a str,
    budget: &'a FileBudget,
    /// `None` if the object does not exist.
    values: Option<BTreeMap<&'a str, &'a [u8]>>,
}

fn config_map<'a>(cx: &'a Context, name: &'a str) -> Keys<'a> {
    let found = cx.configs.config_maps.get(name).and_then(Option::as_deref);
    Keys { terms: ("configmap", "config key"), name, budget: &cx.budget, values: found.map(config_map_values) }
}

fn secret<'a>(cx: &'a Context, name: &'a str) -> Keys<'a> {
    let found = cx.configs.secrets.get(name).and_then(Option::as_deref);
    Keys { terms: ("secret", "secret key"), name, budget: &cx.budget, values: found.map(secret_values) }
}

impl Keys<'_> {
    /// Adds a file per item, or per key if no items are given.
    fn files(
        &self,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        default: u32,
        files: &mut Files,
    ) -> Result<(), Error> {
        let optional = optional == Some(true);
        let Some(values) = &self.values else {
            let missing = || Error::Source(format!("{} {:?} not found", self.terms.0, self.name));
            return if optional { Ok(()) } else { Err(missing()) };
        };
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            for (key, data) in values {
                self.budget.charge(data.len())?;
                files.insert((*key).to_owned(), File { data: data.to_vec(), mode: default, user: None });
            }
            return Ok(());
        };
        for item in items {
            match values.get(item.key.as_str()) {
                Some(data) => {
                    self.budget.charge(data.len())?;
                    let mode = item.mode.map_or(default, |m| mode(Some(m)));
                    files.insert(item.path.clone(), File { data: data.to_vec(), mode, user: None });
                }
                None if optional => {}
                None => {
                    return Err(Error::Source(format!("references non-existent {}: {}", self.terms.1, item.key)));
                }
            }
        }
        Ok(())
    }
}

fn downward(cx: &Context, items: &[DownwardAPIVolumeFile], default: u32, files: &mut Files) -> Result<(), Error> {
    for item in items {
        let text = if let Some(field) = &item.field_ref {
            downward::field(&cx.pod, &cx.facts, &field.field_path)
        } else if let Some(field) = &item.resource_field_ref {
            let name = field.container_name.as_deref().unwrap_or_default();
            let container =
                pod::container(&cx.pod, name).ok_or_else(|| Error::Source(format!("container {name} not found")))?;
            resources::field(&container.0, &field.resource, field.divisor.as_ref(), &cx.allocatable)
        } else {
            continue;
        };
        let mode = item.mode.map_or(default, |m| mode(Some(m)));
        let data = text.map_err(Error::Source)?.into_bytes();
        cx.budget.charge(data.len())?;
        files.insert(item.path.clone(), File { data, mode, user: None });
    }
    Ok(())
}
