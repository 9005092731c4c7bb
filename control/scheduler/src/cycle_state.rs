//! The state that plugins pass from one extension point to the next, for one pod and one cycle. Pure.

use std::{
    any::{Any, TypeId},
    sync::Arc,
};

type Value = Arc<dyn Any + Send + Sync>;

/// The state of one cycle: one value per type, so that a plugin uses a type of its own. Created before preFilter and dropped when the pod is
/// rejected or bound. `CycleState` upstream.
///
/// A clone has the values written before it; later writes affect only one of the two.
#[derive(Clone, Default)]
pub struct CycleState {
    // a handful at most: a list is faster than a map
    values: Vec<(TypeId, Value)>,
}

impl CycleState {
    /// Writes a value, in place of the one of this type.
    pub fn write<T: Any + Send + Sync>(&mut self, value: T) {
        self.delete::<T>();
        self.values.push((TypeId::of::<T>(), Arc::new(value)));
    }

    /// The value of this type.
    pub fn read<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.values.iter().find(|(id, _)| *id == TypeId::of::<T>()).and_then(|(_, value)| value.downcast_ref())
    }

    /// Changes the value of this type, if there is one. Clones of the state keep theirs.
    pub fn modify<T: Any + Send + Sync + Clone>(&mut self, change: impl FnOnce(&mut T)) {
        if let Some((_, value)) = self.values.iter_mut().find(|(id, _)| *id == TypeId::of::<T>()) {
            let Some(mut changed) = value.downcast_ref::<T>().cloned() else { return };
            change(&mut changed);
            *value = Arc::new(changed);
        }
    }

    /// Deletes the value of this type.
    pub fn delete<T: Any + Send + Sync>(&mut self) {
        self.values.retain(|(id, _)| *id != TypeId::of::<T>());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Zones(usize);

    #[test]
    fn each_type_has_one_value_and_clones_part() {
        let mut state = CycleState::default();
        assert_eq!(state.read::<Zones>(), None);
        state.write(Zones(1));
        state.write("a text");
        state.write(Zones(2));
        let mut other = state.clone();
        other.write(Zones(3));
        other.delete::<&str>();
        assert_eq!((state.read(), state.read()), (Some(&Zones(2)), Some(&"a text")));
        assert_eq!((other.read(), other.read::<&str>()), (Some(&Zones(3)), None));
        let mut third = other.clone();
        third.modify(|zones: &mut Zones| zones.0 += 1);
        third.modify(|text: &mut &str| *text = "not there");
        assert_eq!((third.read(), other.read(), third.read::<&str>()), (Some(&Zones(4)), Some(&Zones(3)), None));
    }
}
