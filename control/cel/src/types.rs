//! Types of expressions.

use std::{collections::BTreeMap, fmt, sync::Arc};

/// What an object type knows. Fields are asked for one at a time, so that a large or recursive schema costs nothing until it is used.
pub trait ObjectType: Send + Sync {
    /// The type of a field by its CEL name; nothing if there is no such field. `type_name` is the name of this type in messages, from
    /// which names of the types of fields are derived.
    fn field(&self, type_name: &str, field: &str) -> Option<Type>;

    /// Whether expressions can make values of it: `Name{field: value}`.
    fn is_constructible(&self) -> bool {
        false
    }
}

/// Fields by name.
struct Fields(BTreeMap<String, Type>);

impl ObjectType for Fields {
    fn field(&self, _: &str, field: &str) -> Option<Type> {
        self.0.get(field).cloned()
    }
}

/// An object type and its name.
#[derive(Clone)]
pub struct Object {
    pub(crate) name: Arc<str>,
    pub(crate) object: Arc<dyn ObjectType>,
}

impl Object {
    /// The name that messages show.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// A type that is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Param {
    /// A parameter of a declaration.
    Declared(char),
    /// A variable of the checker.
    Variable(u32),
}

/// A type.
#[derive(Clone, Debug)]
pub enum Type {
    /// Known when the expression runs.
    Dyn,
    /// null
    Null,
    /// bool
    Bool,
    /// int
    Int,
    /// uint
    Uint,
    /// double
    Double,
    /// string
    String,
    /// bytes
    Bytes,
    /// google.protobuf.Timestamp
    Timestamp,
    /// google.protobuf.Duration
    Duration,
    /// list(T)
    List(Arc<Type>),
    /// map(K, V)
    Map(Arc<(Type, Type)>),
    /// `optional_type(T)`
    Optional(Arc<Type>),
    /// An object with declared fields.
    Object(Object),
    /// A type of a library, without fields.
    Opaque(&'static str),
    /// The type of a type.
    Type(Option<Arc<Type>>),
    /// Not known yet.
    Param(Param),
    /// An issue was noted.
    Error,
}

impl Type {
    /// A list of something.
    pub fn list(of: Type) -> Type {
        Type::List(Arc::new(of))
    }

    /// A map from something to something.
    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new((key, value)))
    }

    /// An optional something.
    pub fn optional(of: Type) -> Type {
        Type::Optional(Arc::new(of))
    }

    /// An object type with these fields, which expressions can read.
    pub fn fields<'f>(name: &str, fields: impl IntoIterator<Item = (&'f str, Type)>) -> Type {
        let fields = fields.into_iter().map(|(name, of)| (name.to_owned(), of)).collect();
        Type::object(name, Arc::new(Fields(fields)))
    }

    /// An object type by a name.
    pub fn object(name: &str, object: Arc<dyn ObjectType>) -> Type {
        Type::Object(Object { name: name.into(), object })
    }

    pub(crate) fn is_dyn_or_error(&self) -> bool {
        matches!(self, Type::Dyn | Type::Error)
    }

    /// The parameters of a type that has some.
    pub(crate) fn parameters(&self) -> Vec<&Type> {
        match self {
            Type::List(of) | Type::Optional(of) | Type::Type(Some(of)) => vec![of],
            Type::Map(of) => vec![&of.0, &of.1],
            _ => Vec::new(),
        }
    }

    /// Whether it has at most so many parts; what was not counted is left in `most`.
    pub(crate) fn is_at_most(&self, most: &mut usize) -> bool {
        let Some(left) = most.checked_sub(1) else { return false };
        *most = left;
        self.parameters().into_iter().all(|part| part.is_at_most(most))
    }

    /// The name that a value of this type has as its type.
    pub(crate) fn runtime_name(&self) -> &str {
        match self {
            Type::Dyn | Type::Param(_) | Type::Error => "dyn",
            Type::Null => "null_type",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Uint => "uint",
            Type::Double => "double",
            Type::String => "string",
            Type::Bytes => "bytes",
            Type::Timestamp => "google.protobuf.Timestamp",
            Type::Duration => "google.protobuf.Duration",
            Type::List(_) => "list",
            Type::Map(_) => "map",
            Type::Optional(_) => "optional_type",
            Type::Object(object) => &object.name,
            Type::Opaque(name) => name,
            Type::Type(_) => "type",
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Null => f.write_str("null"),
            Type::Timestamp => f.write_str("timestamp"),
            Type::Duration => f.write_str("duration"),
            Type::Error => f.write_str("!error!"),
            Type::Param(Param::Declared(name)) => write!(f, "{name}"),
            Type::Param(Param::Variable(number)) => write!(f, "_var{number}"),
            Type::List(of) => write!(f, "list({of})"),
            Type::Map(of) => write!(f, "map({}, {})", of.0, of.1),
            Type::Optional(of) => write!(f, "optional_type({of})"),
            Type::Type(Some(of)) => write!(f, "type({of})"),
            other => f.write_str(other.runtime_name()),
        }
    }
}

impl PartialEq for Type {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => a == b,
            (Type::Map(a), Type::Map(b)) => a == b,
            (Type::Type(a), Type::Type(b)) => a == b,
            (Type::Object(a), Type::Object(b)) => a.name == b.name,
            (Type::Opaque(a), Type::Opaque(b)) => a == b,
            (Type::Param(a), Type::Param(b)) => a == b,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other) && self.parameters().is_empty(),
        }
    }
}

impl Eq for Type {}
