//! The controllers: each compares what is wanted with what is and closes the gap. One module per controller: a pure `plan`, tested as a
//! table, and a thin apply. Names, events, conditions, annotations and texts are upstream's.
//!
//! Queue, back-off, read-your-writes gate, spans and panic guard are in `client`; leadership is the caller's. What controllers do, any
//! client could do: there is no back door.
#![warn(unreachable_pub, clippy::large_futures, clippy::let_underscore_future)]
#![cfg_attr(not(test), warn(clippy::too_many_lines, clippy::wildcard_imports))]

mod apiservice;
mod bootstrap;
mod certificates;
mod claim;
mod clusterroleaggregation;
mod context;
mod cronjob;
mod customresourcedefinition;
mod daemonset;
mod deployment;
mod disruption;
mod endpoints;
mod endpointslice;
mod endpointslicemirroring;
mod ephemeralvolume;
mod garbagecollector;
mod history;
mod horizontalpodautoscaler;
mod ipallocator;
mod job;
mod labels;
mod legacytokencleaner;
mod meta;
mod namespace;
mod nodecidrs;
mod nodeipam;
mod nodelifecycle;
mod persistentvolume;
mod podcontrol;
mod podgc;
mod pods;
mod replicaset;
mod resourcequota;
mod rootca;
mod scaletozero;
mod selection;
mod served;
mod serviceaccount;
mod serviceaccounttoken;
mod servicecidr;
mod servicepods;
mod serviceranges;
mod slices;
mod statefulset;
mod status;
mod tainteviction;
mod ttlafterfinished;
mod validatingadmissionpolicystatus;
mod volumeexpand;
mod volumeprotection;

pub use context::{Accounts, Context, Keys, Options};
pub use nodecidrs::NodeCidrs;
pub use selection::{Selection, account, names};

use client::{Backoff, Controller, RunOptions, run};
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::ReplicationController};
use std::{sync::Arc, time::Duration};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Starts the selected controllers; they run until `token` is cancelled. `tasks` tracks them: it is empty when all workers have ended.
pub fn start(cx: &Context, token: &CancellationToken, tasks: &TaskTracker) {
    let go = Starter { cx, token, tasks };
    go.run(5, replicaset::ReplicaSetController::<ReplicaSet>::new);
    go.run(5, replicaset::ReplicaSetController::<ReplicationController>::new);
    go.run(5, deployment::DeploymentController::new);
    go.run(5, statefulset::StatefulSetController::new);
    go.run(2, daemonset::DaemonSetController::new);
    go.run(5, job::JobController::new);
    go.run(5, cronjob::CronJobController::new);
    go.run(5, horizontalpodautoscaler::HorizontalPodAutoscalerController::new);
    go.run(5, endpointslice::EndpointSliceController::new);
    go.run(5, endpoints::EndpointsController::new);
    go.run(5, endpointslicemirroring::EndpointSliceMirroringController::new);
    go.run(2, scaletozero::ScaleToZeroController::new);
    go.run(2, serviceaccount::ServiceAccountController::new);
    go.run(2, rootca::RootCaPublisher::new);
    go.run(4, namespace::NamespaceController::new);
    go.run(4, nodelifecycle::NodeLifecycleController::new);
    go.run(8, tainteviction::TaintEvictionController::new);
    go.run(2, disruption::DisruptionController::new);
    go.run_part("disruption-controller", 1, disruption::StalePodDisruption::new);
    go.run(5, resourcequota::ResourceQuotaController::new);
    go.run(1, clusterroleaggregation::ClusterRoleAggregationController::new);
    go.run(1, bootstrap::signer::BootstrapSignerController::new);
    go.run(1, bootstrap::tokencleaner::TokenCleanerController::new);
    go.run(1, legacytokencleaner::LegacyTokenCleaner::new);
    go.run(5, certificates::approving::ApprovingController::new);
    go.run(1, certificates::cleaner::CleanerController::new);
    go.run(2, podgc::PodGarbageCollector::new);
    go.run(2, ttlafterfinished::TtlAfterFinishedController::new);
    go.run(5, servicecidr::ServiceCidrController::new);
    go.run(5, validatingadmissionpolicystatus::ValidatingAdmissionPolicyStatusController::new);
    // One worker: two claims never choose the same volume.
    go.run(1, persistentvolume::BinderController::new);
    go.run(2, volumeexpand::ExpandController::new);
    go.run(2, volumeprotection::ClaimProtectionController::new);
    go.run(2, volumeprotection::VolumeProtectionController::new);
    go.run(5, ephemeralvolume::EphemeralVolumeController::new);
    if let Some(keys) = &cx.options.keys {
        go.run(5, |cx| serviceaccounttoken::ServiceAccountTokenController::new(cx, keys.clone()));
        go.run(5, |cx| certificates::signing::SigningController::new(cx, keys.clone()));
    }
    if cx.options.node_cidrs.is_some() {
        go.run(1, nodeipam::NodeIpamController::new);
    }
    // One worker: two definitions never get the same name.
    go.always(
        "customresourcedefinition-controller",
        1,
        customresourcedefinition::CustomResourceDefinitionController::new,
    );
    go.always("apiservice-availability-controller", 5, apiservice::AvailabilityController::new);
    go.always("crd-autoregister-controller", 5, apiservice::RegistrationController::new);
    go.always("ipallocator-repair-controller", 5, ipallocator::RepairController::new);
    let collector = "garbage-collector-controller";
    if go.selects(collector) {
        go.spawn(garbagecollector::GarbageCollector::new(&cx.of(collector)).run(token.clone()));
    }
}

struct Starter<'a> {
    cx: &'a Context,
    token: &'a CancellationToken,
    tasks: &'a TaskTracker,
}

impl Starter<'_> {
    fn spawn(&self, controller: impl Future<Output = ()> + Send + 'static) {
        let ended = self.cx.ended.clone().drop_guard();
        self.tasks.spawn(async move {
            let _ended = ended;
            controller.await;
        });
    }

    fn selects(&self, name: &str) -> bool {
        debug_assert!(names().any(|known| known == name), "{name} is in the list of `selection`");
        self.cx.options.selection.includes(name)
    }

    fn run<C: Controller>(&self, workers: usize, new: impl FnOnce(&Context) -> C) {
        self.run_part(C::NAME, workers, new);
    }

    /// Runs a part of the controller with this name, as its ServiceAccount.
    fn run_part<C: Controller>(&self, name: &str, workers: usize, new: impl FnOnce(&Context) -> C) {
        if self.selects(name) {
            self.always(name, workers, new);
        }
    }

    /// Runs a controller whatever is selected.
    fn always<C: Controller>(&self, name: &str, workers: usize, new: impl FnOnce(&Context) -> C) {
        let controller = new(&self.cx.of(name));
        let backoff = Backoff { max: Duration::from_secs(300), ..Backoff::default() };
        let options = RunOptions { workers, backoff, metrics: self.cx.options.queues.clone() };
        self.spawn(run(Arc::new(controller), options, self.token.clone()));
    }
}
