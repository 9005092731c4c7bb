//! `sampan get`: shows objects as tables, YAML or JSON.

use super::{
    Resources, connect, explain,
    names::{self, NamedObjects},
    request,
    resources::Resource,
    table::Printer,
};
use crate::{
    args::{GetArgs, Output},
    exit::usage,
    out,
};
use anyhow::bail;
use client::Client;
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
/// The maximum size of a watch event in bytes. The server's limit of an object is lower.
const MAX_EVENT: usize = 16 << 20;

/// `sampan get`.
pub(crate) async fn run(args: &GetArgs) -> anyhow::Result<()> {
    let asked = names::parse(&args.what).map_err(usage)?;
    allowed(args, &asked).map_err(usage)?;
    let reached = connect(&args.target).await?;
    let resources = Resources::discover(&reached.client).await?;
    let mut wanted = Vec::new();
    for one in &asked {
        for resource in resources.expand(&one.kind)? {
            wanted.push((resource, one.name.as_deref()));
        }
    }
    let mut kinds: Vec<&Resource> = wanted.iter().map(|(resource, _)| *resource).collect();
    kinds.dedup();
    let get = Get { args, client: &reached.client, namespace: &reached.namespace, several: kinds.len() > 1 };
    if args.watch {
        return match wanted[..] {
            [(resource, name)] => get.watch(resource, name).await,
            _ => Err(usage("you may only specify a single resource type")),
        };
    }
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for (resource, name) in wanted {
        match get.fetch(resource, name).await {
            Ok(answer) => found.push((resource, name, answer)),
            Err(error) => failures.push(error),
        }
    }
    if get.tables() {
        if !get.print_tables(&found)? && failures.is_empty() {
            let here = !args.all_namespaces && kinds.iter().all(|kind| kind.namespaced);
            match here {
                true => eprintln!("No resources found in {} namespace.", reached.namespace),
                false => eprintln!("No resources found"),
            }
        }
    } else {
        get.print_objects(found)?;
    }
    super::done_or_failed((), failures)
}

/// Checks for invalid combinations of arguments. The errors are kubectl's.
fn allowed(args: &GetArgs, asked: &[NamedObjects]) -> Result<(), &'static str> {
    let named = asked.iter().any(|one| one.name.is_some());
    match named {
        true if !args.selector.is_empty() => Err("name cannot be provided when a selector is specified"),
        true if args.all_namespaces => Err("a resource cannot be retrieved by name across all namespaces"),
        _ => Ok(()),
    }
}

/// One run of the command.
struct Get<'a> {
    args: &'a GetArgs,
    client: &'a Client,
    namespace: &'a str,
    /// Whether names include the kind.
    several: bool,
}

impl Get<'_> {
    fn tables(&self) -> bool {
        matches!(self.args.output, Output::Table | Output::Wide)
    }

    fn accept(&self) -> &'static str {
        if self.tables() { TABLE } else { "application/json" }
    }

    /// The query of a list. Rows include their whole object if it is needed for sorting.
    fn query(&self, resource: &Resource) -> String {
        let mut query = Vec::new();
        if !self.args.selector.is_empty() {
            query.push(format!("labelSelector={}", escape(&self.args.selector)));
        }
        if self.tables() && resource.kind == "Event" {
            query.push("includeObject=Object".to_owned());
        }
        if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) }
    }

    fn namespace(&self) -> &str {
        if self.args.all_namespaces { "" } else { self.namespace }
    }

    fn printer<'r>(&self, resource: &'r Resource) -> Printer<'r> {
        let namespaces = self.args.all_namespaces && resource.namespaced;
        let mut printer = Printer::new(self.args.output == Output::Wide, namespaces, self.several.then_some(resource));
        (printer.bare, printer.labels) = (self.args.no_headers, self.args.show_labels);
        printer
    }

    async fn fetch(&self, resource: &Resource, name: Option<&str>) -> anyhow::Result<Value> {
        let path = resource.path(self.namespace(), &escape(name.unwrap_or_default()));
        let url = path + &self.query(resource);
        let (_, body) = request(self.client, Method::GET, &url, None, self.accept()).await.map_err(explain)?;
        let mut answer = super::decode(&body)?;
        if resource.kind == "Event" {
            by_time(&mut answer, if self.tables() { "rows" } else { "items" });
        }
        Ok(answer)
    }

    /// Prints a table per kind, separated by empty lines. Returns whether there were any objects.
    fn print_tables(&self, found: &[(&Resource, Option<&str>, Value)]) -> anyhow::Result<bool> {
        let mut any = false;
        for same in found.chunk_by(|a, b| a.0 == b.0) {
            let mut printer = self.printer(same[0].0);
            let lines: Vec<String> = same.iter().flat_map(|(_, _, table)| printer.lines(table)).collect();
            if !lines.is_empty() && std::mem::replace(&mut any, true) {
                out::line("")?;
            }
            lines.iter().try_for_each(|line| out::line(line))?;
        }
        Ok(any)
    }

    /// Prints a single named object as it is, and others as a `List`, like kubectl.
    fn print_objects(&self, found: Vec<(&Resource, Option<&str>, Value)>) -> anyhow::Result<()> {
        if found.is_empty() {
            return Ok(());
        }
        let single = matches!(found[..], [(_, Some(_), _)]);
        let mut objects = Vec::new();
        for (resource, _, answer) in found {
            for object in items(answer, resource) {
                match self.args.output {
                    Output::Name => out::line(&resource.label(name_of(&object)))?,
                    _ => objects.push(self.shown(object)),
                }
            }
        }
        if self.args.output == Output::Name {
            return Ok(());
        }
        let whole = match single {
            true => objects.pop().unwrap_or_default(),
            false => json!({"apiVersion": "v1", "items": objects, "kind": "List", "metadata": {"resourceVersion": ""}}),
        };
        self.print(&whole)
    }

    fn print(&self, object: &Value) -> anyhow::Result<()> {
        match self.args.output {
            Output::Json => out::line(&serde_json::to_string_pretty(object)?),
            _ => out::print(api::yaml::to_string(object).as_bytes()),
        }
    }

    /// Removes managed fields, unless they were requested.
    fn shown(&self, mut object: Value) -> Value {
        if !self.args.show_managed_fields
            && let Some(metadata) = object["metadata"].as_object_mut()
        {
            metadata.remove("managedFields");
        }
        object
    }

    /// Prints existing objects, then every change, until the server or the user ends the watch.
    async fn watch(&self, resource: &Resource, name: Option<&str>) -> anyhow::Result<()> {
        let first = self.fetch(resource, name).await?;
        let revision = first["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let mut printer = self.printer(resource);
        self.print_change(first, resource, &mut printer)?;
        let mut url = format!("{}?watch=true&resourceVersion={revision}", resource.path(self.namespace(), ""));
        if let Some(name) = name {
            url = format!("{url}&fieldSelector={}", escape(&format!("metadata.name={name}")));
        }
        if !self.args.selector.is_empty() {
            url = format!("{url}&labelSelector={}", escape(&self.args.selector));
        }
        let mut body = super::stream(self.client, &url, self.accept()).await.map_err(explain)?;
        let mut buffer = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|error| explain(super::transport(&error)))?.into_data() else {
                continue;
            };
            buffer.extend_from_slice(&data);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                let event: Value = super::decode(&line)?;
                let object = event["object"].clone();
                match event["type"].as_str() {
                    Some("BOOKMARK") => {}
                    Some("ERROR") => bail!("{}", object["message"].as_str().unwrap_or("the watch failed")),
                    _ => self.print_change(object, resource, &mut printer)?,
                }
            }
            anyhow::ensure!(buffer.len() <= MAX_EVENT, "the server sent an event of more than {MAX_EVENT} bytes");
        }
        Ok(())
    }

    fn print_change(&self, change: Value, resource: &Resource, printer: &mut Printer<'_>) -> anyhow::Result<()> {
        if self.tables() {
            return printer.lines(&change).iter().try_for_each(|line| out::line(line));
        }
        for object in items(change, resource) {
            match self.args.output {
                Output::Name => out::line(&resource.label(name_of(&object)))?,
                Output::Yaml => {
                    out::line("---")?;
                    self.print(&self.shown(object))?;
                }
                _ => self.print(&self.shown(object))?,
            }
        }
        Ok(())
    }
}

/// Sorts events by time, like `kubectl events`. The store sorts them by name.
fn by_time(answer: &mut Value, list: &str) {
    let time = |entry: &Value| {
        let event = if entry["object"].is_object() { &entry["object"] } else { entry };
        let series = &event["series"]["lastObservedTime"];
        let times = [series, &event["lastTimestamp"], &event["eventTime"], &event["metadata"]["creationTimestamp"]];
        // Compared as times, because only some have fractions of a second.
        times.into_iter().find_map(Value::as_str).and_then(|text| text.parse::<jiff::Timestamp>().ok())
    };
    if let Some(entries) = answer[list].as_array_mut() {
        entries.sort_by_key(time);
    }
}

fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// The objects of a response, each with its kind: a list, or a single object.
pub(super) fn items(mut answer: Value, resource: &Resource) -> Vec<Value> {
    let Value::Array(mut items) = answer["items"].take() else {
        if let Some(object) = answer.as_object_mut() {
            object.remove("items");
        }
        return vec![answer];
    };
    let version = match resource.group.as_str() {
        "" => resource.version.clone(),
        group => format!("{group}/{}", resource.version),
    };
    for item in &mut items {
        if item["kind"].is_null() {
            item["apiVersion"] = json!(version);
            item["kind"] = json!(resource.kind);
        }
    }
    items
}

/// Percent-encodes everything but RFC 3986's unreserved characters.
pub(super) fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn args(flags: &[&str]) -> GetArgs {
        let Command::Get(args) = Cli::parse_from(["sampan", "get"].iter().chain(flags)).command else {
            panic!("not get")
        };
        args
    }

    #[test]
    fn names_go_neither_with_selectors_nor_with_all_namespaces() {
        for (flags, want) in [
            (&["pods", "-A", "-l", "a=b"][..], Ok(())),
            (&["pods/x"], Ok(())),
            (&["pods", "x", "-A"], Err("a resource cannot be retrieved by name across all namespaces")),
            (&["pods/x", "-l", "a=b"], Err("name cannot be provided when a selector is specified")),
        ] {
            let args = args(flags);
            assert_eq!(allowed(&args, &names::parse(&args.what).expect("names")), want, "{flags:?}");
        }
    }

    #[test]
    fn events_are_in_the_order_in_which_they_happened() {
        let mut list = json!({"items": [
            {"n": 3, "lastTimestamp": "2026-01-01T00:00:09Z"},
            {"n": 1, "lastTimestamp": null, "eventTime": "2026-01-01T00:00:01.5Z"},
            {"n": 2, "lastTimestamp": "2026-01-01T00:00:02Z"},
            {"n": 4, "lastTimestamp": "2026-01-01T00:00:01Z", "series": {"lastObservedTime": "2026-01-01T00:00:10.000000Z"}}]});
        by_time(&mut list, "items");
        assert_eq!(
            list["items"].as_array().expect("a list").iter().map(|e| e["n"].clone()).collect::<Vec<_>>(),
            [1, 2, 3, 4]
        );
        let mut table = json!({"rows": [{"object": {"lastTimestamp": "2026-01-01T00:00:09Z"}, "cells": [2]},
            {"object": {"lastTimestamp": "2026-01-01T00:00:01Z"}, "cells": [1]}]});
        by_time(&mut table, "rows");
        assert_eq!(table["rows"][0]["cells"][0], 1);
    }

    #[test]
    fn items_of_a_list_tell_their_kind_and_one_object_is_itself() {
        let pods = super::super::resources::tests::resource("", "pods", "Pod", "pod");
        let list = json!({"kind": "PodList", "items": [{"metadata": {"name": "a"}}]});
        assert_eq!(items(list, &pods), [json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}})]);
        let one = json!({"kind": "Pod", "metadata": {"name": "a"}});
        assert_eq!(items(one.clone(), &pods), [one]);
    }
}
