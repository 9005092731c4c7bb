//! Values of expressions. JSON is borrowed with its schema and never copied.

use crate::{
    budget::{Budget, Error},
    escape::{escape, unescape},
    opaque::{Attributes, Authorizer, Check, Opaque},
    schema::{Schema, Shape},
    time::{Stamp, parse_date, parse_schema_duration, parse_timestamp},
    types::Object,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map as JsonMap, Value as Json};
use std::{borrow::Cow, cmp::Ordering, collections::BTreeMap, ops::Deref, sync::Arc};

/// A string, borrowed or shared.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    /// Borrowed from JSON.
    Borrowed(&'a str),
    /// Made by an expression.
    Shared(Arc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Shared(text) => text,
        }
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Text<'_> {}

impl Ord for Text<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl PartialOrd for Text<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A key of a map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key<'a> {
    /// bool
    Bool(bool),
    /// int
    Int(i64),
    /// uint
    Uint(u64),
    /// string
    String(Text<'a>),
}

/// Fields that are computed when they are first asked for, as the variables of a policy are.
pub trait Host: Send + Sync {
    /// The value of a field; nothing if there is none. What it costs to compute is taken from the budget.
    ///
    /// # Errors
    /// What went wrong with computing it.
    fn field(&self, name: &str, budget: &mut Budget<'_>) -> Result<Option<Value<'_>>, Error>;
}

/// A list.
#[derive(Clone)]
pub enum List<'a> {
    /// JSON, and the schema of the list.
    Json(&'a [Json], Option<&'a Schema>),
    /// Made by an expression. The schema of a list to which others were added decides how it is compared.
    Owned(Arc<Vec<Value<'a>>>, Option<&'a Schema>),
}

/// A map or an object.
#[derive(Clone)]
pub enum Map<'a> {
    /// JSON, and the schema of the object.
    Json(&'a JsonMap<String, Json>, Option<&'a Schema>),
    /// Made by an expression.
    Owned(Arc<BTreeMap<Key<'a>, Value<'a>>>),
    /// An object of a declared type, made by an expression.
    Object(Object, Arc<BTreeMap<Arc<str>, Value<'a>>>),
    /// Fields of the caller.
    Host(&'a dyn Host),
}

/// A value.
#[derive(Clone)]
pub enum Value<'a> {
    /// null
    Null,
    /// bool
    Bool(bool),
    /// int
    Int(i64),
    /// uint
    Uint(u64),
    /// double
    Double(f64),
    /// string
    String(Text<'a>),
    /// bytes
    Bytes(Arc<[u8]>),
    /// A point in time.
    Timestamp(Stamp),
    /// A length of time in nanoseconds.
    Duration(i64),
    /// A list.
    List(List<'a>),
    /// A map or an object.
    Map(Map<'a>),
    /// A type, by its name.
    Type(Arc<str>),
    /// An optional value.
    Optional(Option<Arc<Value<'a>>>),
    /// A value of a library.
    Opaque(Arc<Opaque>),
}

impl<'a> Value<'a> {
    /// A string that is made here.
    pub fn string(text: impl Into<Arc<str>>) -> Self {
        Value::String(Text::Shared(text.into()))
    }

    /// A borrowed string.
    pub fn borrowed(text: &'a str) -> Self {
        Value::String(Text::Borrowed(text))
    }

    /// A list that is made here.
    pub fn list(elements: Vec<Value<'a>>) -> Self {
        Value::List(List::Owned(Arc::new(elements), None))
    }

    /// A value of a library.
    pub fn opaque(opaque: Opaque) -> Self {
        Value::Opaque(Arc::new(opaque))
    }

    /// The value of `authorizer`: it asks about the user of the request.
    pub fn authorizer(authorizer: Arc<dyn Authorizer>) -> Self {
        Self::opaque(Opaque::Authorizer(Check { authorizer, attributes: Attributes::default() }))
    }

    /// The value of `authorizer.requestResource`: a check of what the request is for.
    pub fn request_resource(authorizer: Arc<dyn Authorizer>, attributes: Attributes) -> Self {
        Self::opaque(Opaque::ResourceCheck(Check { authorizer, attributes }))
    }

    /// An optional value.
    pub fn optional(value: Option<Value<'a>>) -> Self {
        Value::Optional(value.map(Arc::new))
    }

    /// JSON without a schema: whole numbers are int, other ones double.
    pub fn json(json: &'a Json) -> Self {
        match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => {
                number.as_i64().map_or_else(|| Value::Double(number.as_f64().unwrap_or(f64::NAN)), Value::Int)
            }
            Json::String(text) => Value::borrowed(text),
            Json::Array(elements) => Value::List(List::Json(elements, None)),
            Json::Object(fields) => Value::Map(Map::Json(fields, None)),
        }
    }

    /// JSON of a schema.
    ///
    /// # Errors
    /// The JSON is not of the schema.
    pub fn typed(json: &'a Json, schema: &'a Schema) -> Result<Self, Error> {
        typed(json, schema).map_err(Error::new)
    }

    /// JSON within a value. Text of a format is read each time, and bytes are made of it.
    fn within(json: &'a Json, schema: Option<&'a Schema>, budget: &mut Budget<'_>) -> Result<Self, Error> {
        let Some(schema) = schema else { return Ok(Value::json(json)) };
        match (&schema.shape, json) {
            (Shape::Bytes, Json::String(text)) => {
                budget.pass(text.len())?;
                budget.allocate(text.len())?;
            }
            (Shape::Duration | Shape::Date | Shape::DateTime, Json::String(text)) => budget.read(text.len())?,
            _ => {}
        }
        Value::typed(json, schema)
    }

    /// The name of its type.
    pub fn type_name(&self) -> &str {
        match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::Timestamp(_) => "google.protobuf.Timestamp",
            Value::Duration(_) => "google.protobuf.Duration",
            Value::List(_) => "list",
            Value::Map(Map::Object(object, _)) => object.name(),
            Value::Map(_) => "map",
            Value::Type(_) => "type",
            Value::Optional(_) => "optional_type",
            Value::Opaque(opaque) => match opaque.of_type() {
                crate::types::Type::Opaque(name) => name,
                _ => "dyn",
            },
        }
    }

    /// What `size()` is for costs: 1 for what has none.
    pub(crate) fn cost_size(&self) -> u64 {
        match self {
            Value::String(text) => text.chars().count() as u64,
            Value::Bytes(bytes) => bytes.len() as u64,
            Value::List(list) => list.len() as u64,
            Value::Map(map) => map.len().map_or(1, |len| len as u64),
            Value::Optional(Some(value)) => value.cost_size(),
            Value::Opaque(opaque) => opaque.size(),
            _ => 1,
        }
    }

    /// As a key of a map.
    pub(crate) fn key(&self) -> Option<Key<'a>> {
        match self {
            Value::Bool(value) => Some(Key::Bool(*value)),
            Value::Int(value) => Some(Key::Int(*value)),
            Value::Uint(value) => Some(Key::Uint(*value)),
            Value::String(text) => Some(Key::String(text.clone())),
            _ => None,
        }
    }

    /// The string that it is.
    pub fn as_str(&self) -> Option<&str> {
        if let Value::String(text) = self { Some(text) } else { None }
    }

    /// The bool that it is.
    pub fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(value) = self { Some(*value) } else { None }
    }
}

impl<'a> From<Key<'a>> for Value<'a> {
    fn from(key: Key<'a>) -> Self {
        match key {
            Key::Bool(value) => Value::Bool(value),
            Key::Int(value) => Value::Int(value),
            Key::Uint(value) => Value::Uint(value),
            Key::String(text) => Value::String(text),
        }
    }
}

/// What Go calls the type of JSON.
fn go_type(json: &Json) -> &'static str {
    match json {
        Json::Null => "<nil>",
        Json::Bool(_) => "bool",
        Json::Number(number) if number.is_i64() => "int64",
        Json::Number(_) => "float64",
        Json::String(_) => "string",
        Json::Array(_) => "[]interface {}",
        Json::Object(_) => "map[string]interface {}",
    }
}

fn typed<'a>(json: &'a Json, schema: &'a Schema) -> Result<Value<'a>, Cow<'static, str>> {
    let expected = |what: &str| Err(Cow::Owned(format!("invalid data, expected {what}, got {}", go_type(json))));
    if json.is_null() {
        return if schema.nullable {
            Ok(Value::Null)
        } else {
            Err("invalid data, got null for schema with nullable=false".into())
        };
    }
    match (&schema.shape, json) {
        (Shape::IntOrString, Json::String(text)) => Ok(Value::borrowed(text)),
        (Shape::IntOrString, Json::Number(number)) if number.is_i64() => Ok(Value::json(json)),
        (Shape::IntOrString, _) => {
            Err("invalid data, expected XIntOrString value to be either a string or integer".into())
        }
        (Shape::Object { .. } | Shape::Map(_), Json::Object(fields)) => {
            Ok(Value::Map(Map::Json(fields, Some(schema))))
        }
        (Shape::Object { .. } | Shape::Map(_), _) => {
            Err("invalid data, expected a map for the provided schema with type=object".into())
        }
        (Shape::List { items: Some(_), .. }, Json::Array(elements)) => {
            Ok(Value::List(List::Json(elements, Some(schema))))
        }
        (Shape::List { items: None, .. }, Json::Array(_)) => {
            Err("invalid array type, expected Items with a non-empty Schema".into())
        }
        (Shape::List { .. }, _) => Err("invalid data, expected an array for the provided schema with type=array".into()),
        (Shape::String, Json::String(text)) => Ok(Value::borrowed(text)),
        (Shape::Bytes | Shape::Duration | Shape::Date | Shape::DateTime, Json::String(text)) => formatted(text, schema),
        (Shape::String | Shape::Bytes | Shape::Duration | Shape::Date | Shape::DateTime, _) => expected("string"),
        (Shape::Double, Json::Number(number)) => Ok(Value::Double(number.as_f64().unwrap_or(f64::NAN))),
        (Shape::Double, _) => expected("float"),
        (Shape::Int, Json::Number(number)) if number.is_i64() => Ok(Value::json(json)),
        (Shape::Int, _) => expected("int"),
        (Shape::Bool, Json::Bool(value)) => Ok(Value::Bool(*value)),
        (Shape::Bool, _) => expected("bool"),
        (Shape::Preserved, json) => Ok(Value::json(json)),
        (Shape::Invalid(kind), _) => Err(format!(
            "invalid type, expected object, array, number, integer, boolean or string, or no type with x-kubernetes-int-or-string or x-kubernetes-preserve-unknown-fields is true, got {kind}"
        )
        .into()),
    }
}

fn formatted<'a>(text: &'a str, schema: &Schema) -> Result<Value<'a>, Cow<'static, str>> {
    let wrong = |what: &str| Cow::Owned(format!("Invalid {what} {text}"));
    match &schema.shape {
        Shape::Duration => parse_schema_duration(text).map(Value::Duration).ok_or_else(|| wrong("duration")),
        Shape::Date => parse_date(text).map(Value::Timestamp).ok_or_else(|| wrong("date formatted string")),
        Shape::DateTime => parse_timestamp(&text.to_uppercase())
            .map(Value::Timestamp)
            .ok_or_else(|| wrong("date-time formatted string")),
        _ => STANDARD.decode(text).map(|bytes| Value::Bytes(bytes.into())).map_err(|_| wrong("byte formatted string")),
    }
}

impl<'a> List<'a> {
    /// How many elements it has.
    pub fn len(&self) -> usize {
        match self {
            List::Json(elements, _) => elements.len(),
            List::Owned(elements, _) => elements.len(),
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The schema that decides how it is compared.
    pub(crate) fn schema(&self) -> Option<&'a Schema> {
        match self {
            List::Json(_, schema) | List::Owned(_, schema) => *schema,
        }
    }

    /// An element; nothing beyond the last one.
    ///
    /// # Errors
    /// The element is JSON that is not of its schema, or the budget does not suffice to read it.
    pub fn get(&self, index: usize, budget: &mut Budget<'_>) -> Result<Option<Value<'a>>, Error> {
        match self {
            List::Json(elements, schema) => {
                let items = schema.and_then(|schema| schema.element()).map(|items| &**items);
                elements.get(index).map(|element| Value::within(element, items, budget)).transpose()
            }
            List::Owned(elements, _) => Ok(elements.get(index).cloned()),
        }
    }

    /// All elements as values.
    pub(crate) fn elements(&self, budget: &mut Budget<'_>) -> Result<Vec<Value<'a>>, Error> {
        budget.allocate(self.len().saturating_mul(size_of::<Value<'_>>()))?;
        (0..self.len()).filter_map(|index| self.get(index, budget).transpose()).collect()
    }

    /// Asks for each element, one after the other, until one is the answer.
    pub(crate) fn find_map<T>(
        &self,
        budget: &mut Budget<'_>,
        mut found: impl FnMut(usize, Value<'a>, &mut Budget<'_>) -> Result<Option<T>, Error>,
    ) -> Result<Option<T>, Error> {
        for index in 0..self.len() {
            budget.work(1)?;
            let Some(element) = self.get(index, budget)? else { break };
            let answer = found(index, element, budget)?;
            if answer.is_some() {
                return Ok(answer);
            }
        }
        Ok(None)
    }

    /// Shows each element, one after the other.
    pub(crate) fn each(
        &self,
        budget: &mut Budget<'_>,
        mut show: impl FnMut(usize, Value<'a>, &mut Budget<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.find_map(budget, |index, element, budget| show(index, element, budget).map(|()| None::<()>)).map(drop)
    }
}

/// The property of an object under a name that an expression uses.
fn property<'a>(schema: Option<&'a Schema>, name: &str) -> Option<(Cow<'a, str>, Option<&'a Schema>)> {
    let Some(schema) = schema else { return Some((Cow::Owned(name.to_owned()), None)) };
    match &schema.shape {
        Shape::Map(value) => Some((Cow::Owned(name.to_owned()), Some(value))),
        Shape::Object { properties, is_object: true } => {
            if let Some((key, property)) = properties.get_key_value(name).filter(|_| !name.contains("__")) {
                return Some((Cow::Borrowed(key), Some(&property.schema)));
            }
            let (key, property) = properties.get_key_value(&unescape(name)?)?;
            Some((Cow::Borrowed(key), Some(&property.schema)))
        }
        _ => None,
    }
}

impl<'a> Map<'a> {
    /// How many entries it has; nothing where the caller computes fields.
    pub fn len(&self) -> Option<usize> {
        match self {
            Map::Json(fields, _) => Some(fields.len()),
            Map::Owned(entries) => Some(entries.len()),
            Map::Object(..) | Map::Host(_) => None,
        }
    }

    /// Whether it has no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }

    /// The value under a name.
    ///
    /// # Errors
    /// The value is JSON that is not of its schema, or computing it went wrong.
    pub fn field(&self, name: &str, budget: &mut Budget<'_>) -> Result<Option<Value<'a>>, Error> {
        match self {
            Map::Json(fields, None) => Ok(fields.get(name).map(Value::json)),
            Map::Json(fields, schema) => {
                let Some((name, of)) = property(*schema, name) else { return Ok(None) };
                let Some(value) = fields.get(&*name) else { return Ok(None) };
                // A nullable property that is null counts as absent.
                let is_object = schema.is_some_and(|schema| matches!(schema.shape, Shape::Object { .. }));
                if value.is_null() && is_object { Ok(None) } else { Value::within(value, of, budget).map(Some) }
            }
            Map::Owned(entries) => Ok(entries.get(&Key::String(Text::Borrowed(name))).cloned()),
            Map::Object(_, fields) => Ok(fields.get(name).cloned()),
            Map::Host(host) => host.field(name, budget),
        }
    }

    /// The value under a key.
    ///
    /// # Errors
    /// As [`Map::field`].
    pub fn get(&self, key: &Value<'_>, budget: &mut Budget<'_>) -> Result<Option<Value<'a>>, Error> {
        if let Value::String(name) = key {
            budget.pass(name.len())?;
        }
        let Map::Owned(entries) = self else {
            return match key {
                Value::String(name) => self.field(name, budget),
                _ if matches!(self, Map::Json(_, None)) => Ok(None),
                _ => Err(Error::NO_SUCH_OVERLOAD),
            };
        };
        let signed = |value: u64| i64::try_from(value).ok().map(Key::Int);
        let other = match key {
            Value::String(name) => return self.field(name, budget),
            Value::Bool(value) => return Ok(entries.get(&Key::Bool(*value)).cloned()),
            Value::Int(value) => {
                if let Some(found) = entries.get(&Key::Int(*value)) {
                    return Ok(Some(found.clone()));
                }
                u64::try_from(*value).ok().map(Key::Uint)
            }
            Value::Uint(value) => {
                if let Some(found) = entries.get(&Key::Uint(*value)) {
                    return Ok(Some(found.clone()));
                }
                signed(*value)
            }
            Value::Double(value) => {
                let whole = whole(*value);
                let found = whole.and_then(|whole| entries.get(&Key::Int(whole)));
                if let Some(found) = found {
                    return Ok(Some(found.clone()));
                }
                whole.and_then(|whole| u64::try_from(whole).ok()).map(Key::Uint)
            }
            _ => None,
        };
        Ok(other.and_then(|key| entries.get(&key)).cloned())
    }

    /// The keys that a comprehension walks.
    pub(crate) fn keys(&self) -> Result<Vec<Key<'a>>, Error> {
        match self {
            Map::Json(fields, schema) => {
                let mut keys = Vec::with_capacity(fields.len());
                for name in fields.keys() {
                    match schema.map(|schema| &schema.shape) {
                        None | Some(Shape::Map(_)) => keys.push(Key::String(Text::Borrowed(name))),
                        Some(Shape::Object { properties, .. }) if properties.contains_key(name) => {
                            let key = escape(name).filter(|escaped| escaped != name);
                            keys.push(Key::String(key.map_or(Text::Borrowed(name), |key| Text::Shared(key.into()))));
                        }
                        _ => {}
                    }
                }
                Ok(keys)
            }
            Map::Owned(entries) => Ok(entries.keys().cloned().collect()),
            Map::Object(..) | Map::Host(_) => Err(Error::NO_SUCH_OVERLOAD),
        }
    }
}

/// The int that a double is, if it is whole.
pub(crate) fn whole(value: f64) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
    let int = (value.fract() == 0.0 && (-9.223_372_036_854_776e18..9.223_372_036_854_776e18).contains(&value))
        .then_some(value as i64);
    int
}
