//! Parses names of objects on the command line: `TYPE[,TYPE...] [NAME...]` or `TYPE/NAME...`. The errors are kubectl's.

/// A type, and the name of an object. All objects of the type if there is no name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedObjects {
    pub(crate) kind: String,
    pub(crate) name: Option<String>,
}

/// Parses the arguments.
pub(crate) fn parse(arguments: &[String]) -> Result<Vec<NamedObjects>, String> {
    let combined = arguments.iter().filter(|a| a.contains('/')).count();
    if combined == arguments.len() {
        return arguments.iter().map(|argument| type_and_name(argument)).collect();
    }
    if combined > 0 {
        return Err("there is no need to specify a resource type as a separate argument when passing arguments in \
             resource/name form (e.g. 'sampan get resource/<resource_name>' instead of 'sampan get resource \
             resource/<resource_name>'"
            .to_owned());
    }
    let Some((kinds, names)) = arguments.split_first() else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for kind in kinds.split(',') {
        if names.is_empty() {
            all.push(NamedObjects { kind: kind.to_owned(), name: None });
        }
        all.extend(names.iter().map(|name| NamedObjects { kind: kind.to_owned(), name: Some(name.clone()) }));
    }
    all.dedup();
    Ok(all)
}

/// Parses `TYPE/NAME`.
fn type_and_name(argument: &str) -> Result<NamedObjects, String> {
    let parts: Vec<&str> = argument.split('/').collect();
    match parts[..] {
        [kind, name] if !kind.is_empty() && !name.is_empty() && !kind.contains(',') => {
            Ok(NamedObjects { kind: kind.to_owned(), name: Some(name.to_owned()) })
        }
        [_, _] => Err("arguments in resource/name form must have a single resource and name".to_owned()),
        _ => Err("arguments in resource/name form may not have more than one slash".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<String>, String> {
        let arguments: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        let show = |a: NamedObjects| format!("{}:{}", a.kind, a.name.unwrap_or_default());
        Ok(parse(&arguments)?.into_iter().map(show).collect())
    }

    #[test]
    fn types_and_names_are_read_as_kubectl_does() {
        for (text, want) in [
            ("pods", &["pods:"][..]),
            ("pods,svc", &["pods:", "svc:"]),
            ("pods a b", &["pods:a", "pods:b"]),
            ("pods,svc a", &["pods:a", "svc:a"]),
            ("pod/a", &["pod:a"]),
            ("pod/a deploy/b", &["pod:a", "deploy:b"]),
        ] {
            assert_eq!(read(text).expect(text), want, "{text}");
        }
    }

    #[test]
    fn wrong_names_are_refused_in_kubectls_words() {
        for (text, want) in [
            ("pods pod/a", "there is no need to specify a resource type as a separate argument"),
            ("pod/a/b", "may not have more than one slash"),
            ("pod/", "must have a single resource and name"),
            ("/a", "must have a single resource and name"),
            ("pods,svc/a", "must have a single resource and name"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
