//! The server as actions see it: [`Api`] implemented with the verbs.

use super::{
    computed, delete,
    write::{self, Shown},
};
use crate::{
    Context, Names, Operation, Server,
    action::{Api, Make, Update},
    authz,
    call::Call,
    codec::WriteOptions,
    deleteoptions::DeleteOptions,
    metadata::match_namespace,
    nodes::Kubelet,
    proxy::{self, Backend},
    request::RequestInfo,
};
use api::{Object, Status};
use axum::body::Body;
use http::Response;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

#[async_trait::async_trait]
impl Api for Server {
    fn names(&self, group: &str, resource: &str) -> Option<Arc<Names>> {
        self.registry().find(group, resource).map(|found| found.names.clone())
    }

    fn context(&self, call: &Call, operation: Operation, names: &Arc<Names>, dry_run: bool) -> Context {
        Server::context(self, call, operation, names, dry_run)
    }

    async fn admit(
        &self,
        call: &Call,
        names: &Arc<Names>,
        options: &WriteOptions,
        object: &mut Object,
    ) -> Result<(), Status> {
        let gvr = &names.gvr;
        let resource = self.registry().get(&gvr.group, &gvr.version, &gvr.resource).cloned();
        let resource = resource.ok_or_else(Status::resource_not_found)?;
        let mut write = write::Write::new(self, call, &resource, Operation::Create, options);
        let attributes = write.attributes(None);
        write.admit(&attributes, object).await?;
        // The caller has its warnings already: the chain adds what is noted.
        for warning in std::mem::take(&mut write.warnings) {
            write.cx.notes.warn(warning);
        }
        match_namespace(object, &write.cx.namespace, names.namespaced)?;
        write.validate_admission(&attributes, object).await
    }

    async fn update(&self, update: &mut Update, make: Make<'_>) -> Result<Option<String>, Status> {
        let gvr = &update.cx.resource.gvr;
        let resource = self.registry().get(&gvr.group, &gvr.version, &gvr.resource).cloned();
        let resource = resource.ok_or_else(Status::resource_not_found)?;
        let mut write = write::Write::with(self, resource, update.cx.clone(), &update.manager);
        write.scope = update.scope;
        write.shown = Shown::Nothing;
        write.warnings = std::mem::take(&mut update.warnings);
        let written = write::update_object(&mut write, make).await;
        update.warnings = write.warnings;
        Ok(written?.map(|written| written.resource_version()))
    }

    async fn delete(&self, cx: Context, options: &DeleteOptions) -> Result<(), Status> {
        delete::by_options(self, cx, options).await
    }

    fn computed(&self, call: &Call, names: &Names, objects: Vec<Object>) -> Result<Response<Body>, Status> {
        let gvr = &names.gvr;
        let resource = self.registry().get(&gvr.group, &gvr.version, &gvr.resource).cloned();
        computed::answer(self, call, &*resource.ok_or_else(Status::resource_not_found)?, &objects)
    }

    fn kubelet(&self, node: &str) -> Kubelet {
        Kubelet::new(self.nodes().clone(), node)
    }

    async fn require(&self, call: &Call, verb: &str) -> Result<(), Status> {
        let info = RequestInfo { verb: verb.to_owned(), ..call.info.clone() };
        authz::require(self.authorizer(), self, &call.user, &info).await
    }

    async fn proxy(&self, backend: &Backend, call: Call) -> Result<Response<Body>, Status> {
        proxy::forward(self.dialer(), backend, call, Server::shutdown(self).clone()).await
    }

    fn shutdown(&self) -> CancellationToken {
        Server::shutdown(self).clone()
    }
}
