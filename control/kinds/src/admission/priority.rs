//! Priority: the name of a PriorityClass becomes a number, which a pod may not choose itself. The two system classes are built in,
//! so that the cluster's own pods never wait for an object.

use super::{Admission, Attributes, forbidden};
use crate::Verb;
use crate::kinds::SYSTEM_PRIORITY_CLASSES;
use api::{Object, Status};

const PREEMPT: &str = "PreemptLowerPriority";
const GROUP: &str = "scheduling.k8s.io";

pub(super) struct Priority;

#[async_trait::async_trait]
impl Admission for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, attributes: &Attributes) -> bool {
        let verb = attributes.context.verb;
        verb != Verb::Delete && (attributes.is("", "pods") || attributes.is(GROUP, "priorityclasses"))
    }

    async fn admit(&self, attributes: &Attributes, object: &mut Object) -> Result<(), Status> {
        if !attributes.is("", "pods") {
            return Ok(());
        }
        if attributes.context.verb != Verb::Create {
            let Some(old) = &attributes.old else { return Ok(()) };
            for field in ["priority", "preemptionPolicy"] {
                let path = ["spec", field];
                if let (None, Some(value)) = (object.at(&path), old.at(&path)) {
                    object.set(&path, value.clone());
                }
            }
            return Ok(());
        }
        let class = resolve(attributes, object)?;
        if let Some(own) = object.int_at(&["spec", "priority"]).filter(|own| *own != class.value) {
            let why = format!(
                "the integer value of priority ({own}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
                class.value
            );
            return Err(forbidden(attributes, object, &why));
        }
        if let Some(own) = object.str_at(&["spec", "preemptionPolicy"]).filter(|own| *own != class.preemption) {
            let why = format!(
                "the string value of PreemptionPolicy ({own}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
                class.preemption
            );
            return Err(forbidden(attributes, object, &why));
        }
        if !class.name.is_empty() {
            object.set(&["spec", "priorityClassName"], class.name);
        }
        object.set(&["spec", "priority"], class.value);
        object.set(&["spec", "preemptionPolicy"], class.preemption);
        Ok(())
    }

    async fn validate(&self, attributes: &Attributes, object: &Object) -> Result<(), Status> {
        if !attributes.is(GROUP, "priorityclasses") || !object.bool_at(&["globalDefault"]) {
            return Ok(());
        }
        match global_default(attributes) {
            Some(other) if attributes.context.verb == Verb::Create || other.name() != object.name() => {
                let why =
                    format!("PriorityClass {} is already marked as default. Only one default can exist", other.name());
                Err(forbidden(attributes, object, &why))
            }
            _ => Ok(()),
        }
    }
}

struct Class {
    name: String,
    value: i64,
    preemption: String,
}

impl Class {
    fn of(object: &Object) -> Self {
        Self {
            name: object.name().to_owned(),
            value: object.int_at(&["value"]).unwrap_or(0),
            preemption: object.str_at(&["preemptionPolicy"]).unwrap_or(PREEMPT).to_owned(),
        }
    }
}

fn global_default(attributes: &Attributes) -> Option<std::sync::Arc<Object>> {
    let classes = attributes.context.objects.list(GROUP, "priorityclasses", "");
    let defaults = classes.into_iter().filter(|class| class.bool_at(&["globalDefault"]));
    defaults.min_by_key(|class| class.int_at(&["value"]).unwrap_or(0))
}

fn resolve(attributes: &Attributes, object: &Object) -> Result<Class, Status> {
    let name = object.str_at(&["spec", "priorityClassName"]).unwrap_or_default();
    if name.is_empty() {
        let none = || Class { name: String::new(), value: 0, preemption: PREEMPT.to_owned() };
        return Ok(global_default(attributes).map_or_else(none, |class| Class::of(&class)));
    }
    if let Some(class) = attributes.context.objects.get(GROUP, "priorityclasses", "", name) {
        return Ok(Class::of(&class));
    }
    let system = SYSTEM_PRIORITY_CLASSES.iter().find(|(known, ..)| *known == name);
    system
        .map(|(name, value, _)| Class { name: (*name).to_owned(), value: *value, preemption: PREEMPT.to_owned() })
        .ok_or_else(|| forbidden(attributes, object, &format!("no PriorityClass with name {name} was found")))
}
