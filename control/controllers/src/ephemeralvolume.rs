//! Makes the claims of ephemeral volumes: each belongs to its pod and goes with it.
//!
//! Follows <https://kubernetes.io/docs/concepts/storage/ephemeral-volumes/#generic-ephemeral-volumes>.

use crate::{Context, meta};
use client::{Client, Controller, EventType, Informer, Key, Next, Recorder, Wakeups, fit::volumes, pod, reference};
use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, Pod, Volume},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

/// Makes claims. Upstream's `ephemeral-volume-controller`.
pub(crate) struct EphemeralVolumeController {
    client: Client,
    recorder: Recorder,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
}

impl EphemeralVolumeController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        Self {
            client: cx.client.clone(),
            recorder: cx.recorder("ephemeral_volume"),
            pods: cx.informers.of(),
            claims: cx.informers.of(),
        }
    }
}

/// The claim of a pod's volume, if it is an ephemeral one.
fn claim(pod: &Pod, volume: &Volume) -> Option<PersistentVolumeClaim> {
    let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    let (name, _) = volumes::claim_of(pod, volume)?;
    let metadata = template.metadata.clone().unwrap_or_default();
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(name.into_owned()),
            namespace: pod.metadata.namespace.clone(),
            labels: metadata.labels,
            annotations: metadata.annotations,
            owner_references: Some(vec![meta::controller_ref(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    })
}

#[async_trait::async_trait]
impl Controller for EphemeralVolumeController {
    const NAME: &'static str = "ephemeral-volume-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on(&self.pods, |delta| {
            let pod = delta.object();
            let ephemeral = pod::spec(pod).volumes.iter().flatten().any(|volume| volume.ephemeral.is_some());
            if ephemeral && !pod::is_deleting(pod) { vec![Key::of(&**pod)] } else { Vec::new() }
        });
        wakeups.on_owner::<PersistentVolumeClaim, Pod>(&self.claims);
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let Some(pod) = self.pods.find(key).filter(|pod| !pod::is_deleting(pod)) else { return Ok(Next::Done) };
        for claim in pod::spec(&pod).volumes.iter().flatten().filter_map(|volume| claim(&pod, volume)) {
            let name = meta::name(&claim.metadata);
            match self.claims.get(&key.namespace, name) {
                Some(there) if meta::is_controlled_by(&there.metadata, pod::uid(&pod)) => {}
                Some(_) => {
                    let text = format!("PVC {name:?} was not created for pod {:?} (pod is not owner)", key.to_string());
                    self.recorder.event(&reference(&*pod), EventType::Warning, "FailedBinding", text);
                }
                None => match self.client.create(&claim).await {
                    Err(error) if error.is_namespace_terminating() => {}
                    result => drop(result?),
                },
            }
        }
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_claim_belongs_to_the_pod() {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"]}});
        let volumes =
            json!([{"name": "v", "ephemeral": {"volumeClaimTemplate": template}}, {"name": "e", "emptyDir": {}}]);
        let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"containers": [], "volumes": volumes}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let made: Vec<_> = pod::spec(&pod).volumes.iter().flatten().filter_map(|volume| claim(&pod, volume)).collect();
        assert_eq!(made.len(), 1);
        assert_eq!((meta::namespace(&made[0].metadata), meta::name(&made[0].metadata)), ("ns", "p-v"));
        assert!(meta::is_controlled_by(&made[0].metadata, "u"));
        assert_eq!(made[0].metadata.labels.as_ref().unwrap()["a"], "b");
    }
}
