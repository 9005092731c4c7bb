//! The expressions of admission: what they may name, how they are compiled and evaluated, and what they may cost. Match conditions use it; it
//! knows no plugin. Follows upstream's `apiserver/pkg/admission/plugin/cel`; the texts are upstream's.
//!
//! [`cel::admission::env`] has the variables of every expression, to which a plugin adds its own. [`Expression`] is one that was compiled.
//! [`Input`] is a request as expressions see it; [`Input::activation`] gives its variables, to which a plugin adds its own, too.

use api::Object;
use cel::{
    Activation, Budget, Env, Error, Map, PER_CALL_LIMIT, Program, Type, Value,
    admission::{AUTHORIZER, NAMESPACE_METADATA, REQUEST_RESOURCE},
};
use futures::FutureExt;
use serde_json::{Value as Json, json};
use server::{
    Context, Deadline, Objects, User,
    authz::{Attributes, Authorizer, Decision},
};
use std::{fmt, sync::Arc};

/// An expression, compiled, or why it could not be.
#[derive(Clone)]
pub(crate) struct Expression {
    text: String,
    program: Result<Program, String>,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The name of a type as cel-go declares it, which is not what it shows in issues.
fn declared(of: &Type) -> String {
    match of {
        Type::Null => "null_type".to_owned(),
        Type::Timestamp => "google.protobuf.Timestamp".to_owned(),
        Type::Duration => "google.protobuf.Duration".to_owned(),
        other => other.to_string(),
    }
}

/// The cost that was left is used up: nothing else is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exhausted;

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("validation failed due to running out of cost budget, no further validation rules will be run")
    }
}

impl Expression {
    /// Compiles an expression, which must give one of these types.
    pub(crate) fn new(env: &Env, text: &str, wanted: &[Type]) -> Self {
        let program = env.compile(text).map_err(|issues| {
            let what = if issues.is_instantiation() { "program instantiation" } else { "compilation" };
            format!("{what} failed: {issues}")
        });
        let program = program.and_then(|program| {
            let output = program.output();
            if wanted.iter().any(|one| one == output || matches!(one, Type::Dyn)) {
                return Ok(program);
            }
            Err(match wanted {
                [one] => format!("must evaluate to {} but got {}", declared(one), declared(output)),
                many => {
                    let many: Vec<String> = many.iter().map(declared).collect();
                    format!("must evaluate to one of [{}] but got {}", many.join(" "), declared(output))
                }
            })
        });
        Self { text: text.to_owned(), program }
    }

    /// The program, or why there is none.
    pub(crate) fn program(&self) -> Result<&Program, &str> {
        self.program.as_ref().map_err(String::as_str)
    }

    /// The type of what it gives.
    pub(crate) fn output(&self) -> Option<&Type> {
        self.program.as_ref().ok().map(Program::output)
    }

    /// Why it cannot be evaluated at all.
    pub(crate) fn fault(&self) -> Option<&str> {
        self.program.as_ref().err().map(String::as_str)
    }

    /// Evaluates it, at most until the request is over. What it costs is taken from what is `left` for all expressions of the same kind. The inner
    /// error is one of this expression.
    ///
    /// # Errors
    /// Nothing is left.
    pub(crate) fn evaluate<'a>(
        &self,
        activation: &Activation<'a>,
        deadline: &Deadline,
        left: &mut u64,
    ) -> Result<Result<Value<'a>, String>, Exhausted> {
        let program = match &self.program {
            Ok(program) => program,
            Err(fault) => return Ok(Err(format!("compilation error: {fault}"))),
        };
        let over = || deadline.is_over();
        let mut budget = Budget::new(PER_CALL_LIMIT.min(*left)).with_stop(&over);
        let outcome = program.eval(activation, &mut budget);
        if outcome.as_ref().is_err_and(|error| *error == Error::Budget) && *left < PER_CALL_LIMIT {
            return Err(Exhausted);
        }
        *left = left.saturating_sub(budget.used());
        Ok(outcome.map_err(|error| format!("expression '{}' resulted in error: {error}", self.text)))
    }
}

/// A request as expressions see it.
pub(crate) struct Input<'a> {
    object: Option<&'a Object>,
    old: Option<&'a Object>,
    request: Json,
    namespace: Option<Json>,
    authorizer: Arc<dyn cel::Authorizer>,
    resource: cel::Attributes,
    deadline: Deadline,
}

impl<'a> Input<'a> {
    /// From the objects in the version that is looked at, and the request as a review shows it.
    pub(crate) fn new(
        cx: &Context,
        authorizer: &Arc<dyn Authorizer>,
        (object, old): (Option<&'a Object>, Option<&'a Object>),
        request: Json,
    ) -> Self {
        let (gvr, text) = (&cx.resource.gvr, |name: &str| request[name].as_str().unwrap_or_default().to_owned());
        let resource = cel::Attributes {
            group: gvr.group.clone(),
            resource: gvr.resource.clone(),
            subresource: cx.subresource.clone(),
            namespace: text("namespace"),
            name: text("name"),
            ..cel::Attributes::default()
        };
        let asks = Asks { authorizer: authorizer.clone(), objects: cx.objects.clone(), user: cx.user.clone() };
        Self {
            object,
            old,
            request,
            namespace: None,
            authorizer: Arc::new(asks),
            resource,
            deadline: cx.deadline.clone(),
        }
    }

    /// With the namespace of the request as `namespaceObject`, which is null otherwise.
    pub(crate) fn in_namespace(mut self, namespace: Option<&Object>) -> Self {
        self.namespace = namespace.map(shown);
        self
    }

    /// When the request is over.
    pub(crate) fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    /// The variables.
    pub(crate) fn activation(&self) -> Activation<'_> {
        let object = |object: Option<&'a Object>| match object {
            Some(object) => Value::Map(Map::Json(&object.0, None)),
            None => Value::Null,
        };
        Activation::new()
            .with("object", object(self.object))
            .with("oldObject", object(self.old))
            .with("request", Value::json(&self.request))
            .with("namespaceObject", self.namespace.as_ref().map_or(Value::Null, Value::json))
            .with(AUTHORIZER, Value::authorizer(self.authorizer.clone()))
            .with(REQUEST_RESOURCE, Value::request_resource(self.authorizer.clone(), self.resource.clone()))
    }
}

/// What expressions see of a Namespace.
fn shown(namespace: &Object) -> Json {
    let mut made = json!({"metadata": {}});
    let more = ["uid", "labels", "annotations", "finalizers"];
    for field in NAMESPACE_METADATA.iter().map(|(field, _)| *field).chain(more) {
        if let Some(value) = namespace.at(&["metadata", field]) {
            made["metadata"][field] = value.clone();
        }
    }
    for part in ["spec", "status"] {
        made[part] = namespace.at(&[part]).cloned().unwrap_or_else(|| json!({}));
    }
    made
}

/// Asks the authorizer of the server about the user of the request, or about a ServiceAccount.
struct Asks {
    authorizer: Arc<dyn Authorizer>,
    objects: Arc<dyn Objects>,
    user: Arc<User>,
}

impl cel::Authorizer for Asks {
    fn authorize(&self, wanted: &cel::Attributes) -> cel::Decision {
        let account = wanted.service_account.as_ref().map(|(namespace, name)| {
            let group = format!("system:serviceaccounts:{namespace}");
            let name = format!("system:serviceaccount:{namespace}:{name}");
            User::new(&name, &["system:serviceaccounts", &group])
        });
        let user = account.as_ref().unwrap_or(&self.user);
        let attributes = match &wanted.path {
            Some(path) => Attributes { verb: &wanted.verb, path, ..Attributes::default() },
            None => Attributes {
                verb: &wanted.verb,
                group: &wanted.group,
                version: "*",
                resource: &wanted.resource,
                subresource: &wanted.subresource,
                namespace: &wanted.namespace,
                name: &wanted.name,
                path: "",
            },
        };
        // Authorizers of this server decide in memory; one that would have to wait cannot be asked in mid-expression.
        let waits =
            || cel::Decision { error: Some("the authorizer does not answer at once".to_owned()), ..Default::default() };
        let Some(decision) = self.authorizer.authorize(&*self.objects, user, &attributes).now_or_never() else {
            return waits();
        };
        let reason = match &decision {
            Decision::Deny(reason) => reason.clone(),
            Decision::Allow | Decision::NoOpinion => {
                let reason = self.authorizer.reason(&*self.objects, user, &attributes);
                reason.now_or_never().unwrap_or_default()
            }
        };
        cel::Decision { allowed: decision == Decision::Allow, reason, error: None }
    }
}

#[cfg(test)]
#[path = "expressions_tests.rs"]
mod tests;
