//! Priority: sets the priority of a pod from its PriorityClass; a pod cannot choose the number itself. The two system classes are built in,
//! so that the cluster's own pods need no object.

use crate::scheduling::priorityclass::SYSTEM;
use api::{Object, Status};
use server::{
    Derived,
    admission::{Admission, Attributes, Operation, forbidden},
};
use std::{collections::HashMap, sync::Arc};

const PREEMPT: &str = "PreemptLowerPriority";
const GROUP: &str = "scheduling.k8s.io";

pub(super) struct Priority {
    classes: Derived<Classes>,
}

impl Default for Priority {
    fn default() -> Self {
        Self { classes: Derived::new(GROUP, "priorityclasses", Classes::of) }
    }
}

#[async_trait::async_trait]
impl Admission for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, attributes: &Attributes) -> bool {
        let operation = attributes.context.operation;
        matches!(operation, Operation::Create | Operation::Update)
            && (attributes.is("", "pods") || attributes.is(GROUP, "priorityclasses"))
    }

    async fn admit(&self, attributes: &Attributes, object: &mut Object) -> Result<(), Status> {
        if !attributes.is("", "pods") {
            return Ok(());
        }
        if attributes.context.operation != Operation::Create {
            let Some(old) = &attributes.old else { return Ok(()) };
            for field in ["priority", "preemptionPolicy"] {
                let path = ["spec", field];
                if let (None, Some(value)) = (object.at(&path), old.at(&path)) {
                    object.set(&path, value.clone());
                }
            }
            return Ok(());
        }
        let classes = self.classes.read(attributes.context.objects.as_ref());
        let class = classes.resolve(attributes, object)?;
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
        let classes = self.classes.read(attributes.context.objects.as_ref());
        match &classes.default {
            Some(other) if attributes.context.operation == Operation::Create || other.name != object.name() => {
                let why =
                    format!("PriorityClass {} is already marked as default. Only one default can exist", other.name);
                Err(forbidden(attributes, object, &why))
            }
            _ => Ok(()),
        }
    }
}

/// What a pod gets from its class.
#[derive(Clone)]
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

/// All classes of the cluster.
struct Classes {
    by_name: HashMap<String, Class>,
    /// The class of pods without a class name. Of several defaults it is that of the lowest value, as upstream.
    default: Option<Class>,
}

impl Classes {
    fn of(objects: Vec<Arc<Object>>) -> Self {
        let defaults = objects.iter().filter(|class| class.bool_at(&["globalDefault"])).map(|class| Class::of(class));
        let default = defaults.min_by_key(|class| class.value);
        let by_name = objects.iter().map(|class| (class.name().to_owned(), Class::of(class))).collect();
        Self { by_name, default }
    }

    fn resolve(&self, attributes: &Attributes, object: &Object) -> Result<Class, Status> {
        let none = |name: &str, value| Class { name: name.to_owned(), value, preemption: PREEMPT.to_owned() };
        let name = object.str_at(&["spec", "priorityClassName"]).unwrap_or_default();
        if name.is_empty() {
            return Ok(self.default.clone().unwrap_or_else(|| none("", 0)));
        }
        if let Some(class) = self.by_name.get(name) {
            return Ok(class.clone());
        }
        let system = SYSTEM.iter().find(|(known, ..)| *known == name);
        system
            .map(|(name, value, _)| none(name, *value))
            .ok_or_else(|| forbidden(attributes, object, &format!("no PriorityClass with name {name} was found")))
    }
}
