//! Admission within a write: what the plugins are shown, and when each of them is asked.

use super::{
    scale,
    write::{Shown, Write},
};
use crate::{Reservation, admission::Attributes};
use api::{Object, Status};
use std::sync::Arc;

impl Write {
    /// The attributes of the write, with the stored object.
    pub(crate) fn attributes(&self, old: Option<&Arc<Object>>) -> Attributes {
        let old = match self.shown {
            Shown::Scale => old.map(|old| Arc::new(scale::scale_of(&self.resource, old))),
            Shown::Object | Shown::Nothing => old.cloned(),
        };
        let mut made = Attributes::new(self.cx.clone(), old);
        if let Some(part) = Some(&self.cx.subresource).filter(|name| !name.is_empty()) {
            made.kind = self.resource.subresource(part).map(|part| part.kind.clone());
        }
        made.given = self.given.clone();
        made.versions = Some(Arc::new(self.server.clone()));
        made
    }

    /// Asks the plugins that may change the object.
    pub(crate) async fn admit(&mut self, attributes: &Attributes, object: &mut Object) -> Result<(), Status> {
        match self.shown {
            Shown::Nothing => return Ok(()),
            Shown::Object => self.ask(attributes, object).await?,
            Shown::Scale => {
                let mut shown = scale::scale_of(&self.resource, object);
                let replicas = shown.int_at(&["spec", "replicas"]);
                self.ask(attributes, &mut shown).await?;
                let wanted = shown.int_at(&["spec", "replicas"]);
                if wanted != replicas {
                    object.set(&self.resource.strategy.replicas_path(), wanted.unwrap_or(0));
                }
            }
        }
        self.warnings.extend(self.cx.notes.take_warnings());
        Ok(())
    }

    /// One round, and another one if somebody outside of the server has changed the object: what the other plugins have decided of it may not
    /// hold any more.
    async fn ask(&self, attributes: &Attributes, object: &mut Object) -> Result<(), Status> {
        for plugin in self.server.admission().iter().filter(|p| p.handles(attributes)) {
            plugin.admit(attributes, object).await?;
        }
        if attributes.begin_second_round() {
            for plugin in self.server.admission().iter().filter(|p| p.handles(attributes)) {
                plugin.admit(attributes, object).await?;
            }
        }
        Ok(())
    }

    /// Asks the plugins that validate.
    pub(crate) async fn validate_admission(&self, attributes: &Attributes, object: &Object) -> Result<(), Status> {
        let scale;
        let object = match self.shown {
            Shown::Nothing => return Ok(()),
            Shown::Object => object,
            Shown::Scale => {
                scale = scale::scale_of(&self.resource, object);
                &scale
            }
        };
        for plugin in self.server.admission().iter().filter(|p| p.handles(attributes)) {
            plugin.validate(attributes, object).await?;
        }
        Ok(())
    }

    /// What the plugins reserve for the write.
    pub(super) async fn admission_reservation(
        &self,
        attributes: &Attributes,
        object: &Object,
    ) -> Result<Reservation, Status> {
        let mut all = Reservation::none();
        for plugin in self.server.admission().iter().filter(|p| p.handles(attributes)) {
            all = all.join(plugin.reserve(attributes, object).await?);
        }
        Ok(all)
    }

    /// The warnings of admission.
    pub(super) async fn admission_warnings(&self, attributes: &Attributes, object: &Object) -> Vec<String> {
        let mut warnings = self.cx.notes.take_warnings();
        for plugin in self.server.admission().iter().filter(|p| p.handles(attributes)) {
            warnings.extend(plugin.warnings(attributes, object).await);
        }
        warnings
    }
}
