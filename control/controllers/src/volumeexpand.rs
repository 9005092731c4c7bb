//! Grows volumes on nodes when their claims ask for more: their size is a limit, not a medium. Other volumes are grown by their drivers.
//!
//! Follows <https://kubernetes.io/docs/concepts/storage/persistent-volumes/#expanding-persistent-volumes-claims>.

use crate::Context;
use client::{Client, Controller, EventType, Informer, Key, Next, Recorder, Wakeups, fit::volumes, reference};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

/// Grows volumes. Upstream's `persistentvolume-expander-controller`.
pub(crate) struct ExpandController {
    client: Client,
    recorder: Recorder,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    /// The driver of volumes on nodes.
    local: Option<String>,
}

impl ExpandController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        Self {
            client: cx.client.clone(),
            recorder: cx.recorder("volume_expand"),
            claims: cx.informers.of(),
            volumes: cx.informers.of(),
            local: cx.options.local_volumes.clone(),
        }
    }
}

/// The volume and the claim as they are when the volume has the size that the claim requests; each only where it changes.
fn plan(
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
) -> (Option<PersistentVolume>, Option<PersistentVolumeClaim>) {
    let request = claim.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref());
    let has = claim.status.as_ref().and_then(|status| status.capacity.as_ref());
    let Some(request) = request.and_then(|requests| requests.get("storage")) else { return (None, None) };
    let wanted = volumes::requested(claim);
    if !volumes::is_bound(claim) || has.is_none() || wanted <= volumes::storage(has) {
        return (None, None);
    }
    let grown = (wanted > volumes::capacity(volume)).then(|| {
        let mut volume = volume.clone();
        let capacity = volume.spec.get_or_insert_default().capacity.get_or_insert_default();
        capacity.insert("storage".to_owned(), request.clone());
        volume
    });
    let mut claim = claim.clone();
    let capacity = claim.status.get_or_insert_default().capacity.get_or_insert_default();
    capacity.insert("storage".to_owned(), request.clone());
    (grown, Some(claim))
}

#[async_trait::async_trait]
impl Controller for ExpandController {
    const NAME: &'static str = "persistentvolume-expander-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.claims);
        wakeups.reads(&self.volumes);
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let Some(claim) = self.claims.find(key) else { return Ok(Next::Done) };
        let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
        let Some(volume) = self.volumes.get("", name) else { return Ok(Next::Done) };
        let driver = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref()).map(|csi| csi.driver.as_str());
        if self.local.is_none() || driver != self.local.as_deref() {
            return Ok(Next::Done);
        }
        let (grown, resized) = plan(&claim, &volume);
        if let Some(volume) = grown {
            self.client.update(&volume).await?;
        }
        if let Some(claim) = resized {
            crate::status::write(&self.client, &claim).await?;
            let size = volumes::requested(&claim);
            let text = format!("the volume has {size}");
            self.recorder.event(&reference(&claim), EventType::Normal, "VolumeResizeSuccessful", text);
        }
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_bound_claim_that_asks_for_more_gets_it() {
        let volume: PersistentVolume =
            serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"}}}))
                .unwrap();
        let claim = |request: &str, has: Option<&str>, bound: bool| -> PersistentVolumeClaim {
            let annotations = if bound { json!({"pv.kubernetes.io/bind-completed": "yes"}) } else { json!({}) };
            serde_json::from_value(json!({"metadata": {"name": "c", "annotations": annotations},
                "spec": {"volumeName": "v", "resources": {"requests": {"storage": request}}},
                "status": {"capacity": has.map(|has| json!({"storage": has}))}}))
            .unwrap()
        };
        assert_eq!(plan(&claim("1Gi", Some("1Gi"), true), &volume), (None, None));
        assert_eq!(plan(&claim("2Gi", Some("1Gi"), false), &volume), (None, None));
        assert_eq!(plan(&claim("2Gi", None, true), &volume), (None, None));
        let (grown, resized) = plan(&claim("2Gi", Some("1Gi"), true), &volume);
        assert_eq!(grown.map(|volume| volumes::capacity(&volume).to_string()).as_deref(), Some("2Gi"));
        let has = resized.as_ref().and_then(|claim| claim.status.as_ref()?.capacity.as_ref());
        assert_eq!(volumes::storage(has).to_string(), "2Gi");
        let (grown, again) = plan(
            &claim("2Gi", Some("1Gi"), true),
            &PersistentVolume {
                spec: serde_json::from_value(json!({"capacity": {"storage": "2Gi"}})).unwrap(),
                ..volume.clone()
            },
        );
        assert!(grown.is_none() && again.is_some(), "after a restart in between");
    }
}
