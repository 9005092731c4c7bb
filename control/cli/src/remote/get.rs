use super::{Resources, connect, explain, request};
use crate::args::{GetArgs, Output};
use http::Method;
use serde_json::Value;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// `sampan get`.
pub(crate) async fn run(args: &GetArgs) -> anyhow::Result<()> {
    let client = connect(&args.target).await?;
    let resources = Resources::discover(&client).await?;
    let resource = resources.by_name(&args.resource)?;
    let namespace = if args.all_namespaces { "" } else { &args.target.namespace };
    let mut url = resource.path(namespace, args.name.as_deref().unwrap_or_default());
    if !args.selector.is_empty() {
        url = format!("{url}?labelSelector={}", escape(&args.selector));
    }
    let table = matches!(args.output, Output::Table | Output::Wide);
    let accept = if table { TABLE } else { "application/json" };
    let (_, body) = request(&client, Method::GET, &url, None, accept).await.map_err(explain)?;
    let answer: Value = serde_json::from_slice(&body)?;
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&answer)?),
        Output::Yaml => print!("{}", api::yaml::to_string(&answer)),
        Output::Name => {
            let one = std::slice::from_ref(&answer);
            for object in answer["items"].as_array().map_or(one, Vec::as_slice) {
                println!("{}", resource.label(object["metadata"]["name"].as_str().unwrap_or_default()));
            }
        }
        Output::Table | Output::Wide => {
            let lines = render(&answer, args.output == Output::Wide, args.all_namespaces && resource.namespaced);
            if lines.len() <= 1 {
                eprintln!("No resources found");
            } else {
                lines.iter().for_each(|line| println!("{line}"));
            }
        }
    }
    Ok(())
}

/// The lines of a `meta.k8s.io/v1 Table`, columns padded as kubectl does.
fn render(table: &Value, wide: bool, namespaces: bool) -> Vec<String> {
    let empty = Vec::new();
    let columns = table["columnDefinitions"].as_array().unwrap_or(&empty);
    let shown: Vec<usize> =
        (0..columns.len()).filter(|i| wide || columns[*i]["priority"].as_i64().unwrap_or(0) == 0).collect();
    let mut rows =
        vec![shown.iter().map(|i| columns[*i]["name"].as_str().unwrap_or_default().to_uppercase()).collect()];
    for row in table["rows"].as_array().unwrap_or(&empty) {
        let cells = shown.iter().map(|i| match &row["cells"][*i] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        });
        let mut cells: Vec<String> = cells.collect();
        if namespaces {
            cells.insert(0, row["object"]["metadata"]["namespace"].as_str().unwrap_or_default().to_owned());
        }
        rows.push(cells);
    }
    if namespaces {
        rows[0].insert(0, "NAMESPACE".to_owned());
    }
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|i| rows.iter().filter_map(|r: &Vec<String>| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0))
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Percent-encodes everything but RFC 3986's unreserved characters.
fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tables_are_padded_and_wide_columns_hidden() {
        let table = json!({
        "columnDefinitions": [{"name": "Name"}, {"name": "Ready"}, {"name": "IP", "priority": 1}],
        "rows": [
            {"cells": ["hello-1", "1/1", "10.32.0.2"], "object": {"metadata": {"namespace": "a"}}},
            {"cells": ["x", 2, null], "object": {"metadata": {"namespace": "default"}}},
        ]});
        assert_eq!(render(&table, false, false), ["NAME      READY", "hello-1   1/1", "x         2"]);
        assert_eq!(render(&table, true, true)[1], "a           hello-1   1/1     10.32.0.2");
    }
}
