//! The table of nftables as a value, and the transaction that makes one from another. Pure.
//!
//! A transaction touches only what differs, so that one Service among thousands costs one Service, and so that the clients that a Service
//! remembers (elements that the kernel adds) stay.

use std::collections::BTreeMap;

/// The name and family of the table.
const NAME: &str = "ip sampan";

/// Elements of a set or, with values, of a map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Elements(Vec<(String, Option<String>)>);

impl Elements {
    pub(crate) fn push(&mut self, key: String, value: Option<String>) {
        self.0.push((key, value));
    }

    /// As nft writes them: in braces.
    pub(crate) fn braced(&self) -> String {
        let mut text = String::from("{ ");
        for (number, (key, value)) in self.0.iter().enumerate() {
            text.push_str(if number > 0 { ", " } else { "" });
            text.push_str(key);
            if let Some(value) = value {
                text.push_str(" : ");
                text.push_str(value);
            }
        }
        text.push_str(" }");
        text
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Set {
    /// `set` or `map`.
    word: &'static str,
    declared: String,
    elements: BTreeMap<String, Option<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Chain {
    /// The declaration of a chain that the kernel enters by itself.
    base: Option<String>,
    rules: Vec<String>,
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    sets: BTreeMap<String, Set>,
    chains: BTreeMap<String, Chain>,
}

impl Table {
    /// Adds a set or map, whose declaration never changes under the same name.
    pub(crate) fn set(&mut self, word: &'static str, name: &str, declared: String) {
        self.sets.insert(name.into(), Set { word, declared, elements: BTreeMap::new() });
    }

    /// Adds an element to a set or map of this table.
    pub(crate) fn element(&mut self, set: &str, key: String, value: Option<String>) {
        if let Some(set) = self.sets.get_mut(set) {
            set.elements.insert(key, value);
        }
    }

    /// Adds a chain, whose declaration never changes under the same name.
    pub(crate) fn chain(&mut self, name: &str, base: Option<&str>, rules: Vec<String>) {
        self.chains.insert(name.into(), Chain { base: base.map(str::to_owned), rules });
    }

    /// What makes the second table from the first, or from anything, if the first is not known.
    pub(crate) fn change(from: Option<&Self>, to: &Self) -> Change {
        let empty = Self::default();
        let old = from.unwrap_or(&empty);
        let mut parts = Vec::new();
        if from.is_none() {
            // what is not there cannot be deleted
            parts.push(format!("add table {NAME}\ndelete table {NAME}\nadd table {NAME}\n"));
        }
        for (name, set) in to.sets.iter().filter(|(name, _)| !old.sets.contains_key(*name)) {
            parts.push(format!("add {} {NAME} {name} {{ {} }}\n", set.word, set.declared));
        }
        for (name, chain) in to.chains.iter().filter(|(name, _)| !old.chains.contains_key(*name)) {
            let base: String = chain.base.iter().map(|base| format!(" {{ {base} }}")).collect();
            parts.push(format!("add chain {NAME} {name}{base}\n"));
        }
        for (name, chain) in to.chains.iter().filter(|(name, chain)| old.chains.get(*name) != Some(*chain)) {
            let before = old.chains.get(name).map(|_| format!("flush chain {NAME} {name}\n"));
            let rules = chain.rules.iter().map(|rule| format!("add rule {NAME} {name} {rule}\n"));
            parts.push(before.into_iter().chain(rules).collect());
        }
        parts.extend(old.elements_until(to));
        let gone = || old.chains.keys().filter(|name| !to.chains.contains_key(*name));
        parts.extend(gone().map(|name| format!("flush chain {NAME} {name}\n")));
        parts.extend(gone().map(|name| format!("delete chain {NAME} {name}\n")));
        for (name, set) in old.sets.iter().filter(|(name, _)| !to.sets.contains_key(*name)) {
            parts.push(format!("delete {} {NAME} {name}\n", set.word));
        }
        Change { parts }
    }

    /// The changes of elements, each with all that is of the same key: what moves from one set to another is always in one of them.
    fn elements_until(&self, to: &Self) -> Vec<String> {
        let mut keys: BTreeMap<String, String> = BTreeMap::new();
        for (what, one, other) in [("delete", self, to), ("add", to, self)] {
            for (name, set) in &one.sets {
                let there = other.sets.get(name).map(|set| &set.elements);
                for (key, value) in &set.elements {
                    if there.and_then(|elements| elements.get(key)) != Some(value) {
                        let value: String = value.iter().map(|value| format!(" : {value}")).collect();
                        let line = format!("{what} element {NAME} {name} {{ {key}{value} }}\n");
                        keys.entry(key.clone()).or_default().push_str(&line);
                    }
                }
            }
        }
        keys.into_values().collect()
    }
}

/// What makes one table from another, in nft's language.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// In their order. After each the table is good: what is used is there, and each Service is as it was or as it shall be.
    parts: Vec<String>,
}

impl Change {
    /// The change as transactions of at most so many bytes, or of one part.
    pub(crate) fn transactions(self, most: usize) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for part in self.parts {
            match all.last_mut() {
                Some(last) if last.len() + part.len() <= most => last.push_str(&part),
                _ => all.push(part),
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(element: &str, rule: Option<&str>) -> Table {
        let mut table = Table::default();
        table.set("map", "services", "type ipv4_addr : verdict;".into());
        table.element("services", "10.0.0.1".into(), Some("goto always".into()));
        table.element("services", element.into(), Some("goto always".into()));
        table.chain("always", Some("type filter hook forward priority 0;"), vec!["accept".into()]);
        if let Some(rule) = rule {
            table.set("set", "clients", "type ipv4_addr;".into());
            table.chain("sometimes", None, vec![rule.into()]);
        }
        table
    }

    fn changed(from: Option<&Table>, to: &Table) -> String {
        Table::change(from, to).transactions(usize::MAX).concat()
    }

    #[test]
    fn an_unknown_table_is_replaced_whole() {
        assert_eq!(
            changed(None, &table("10.0.0.2", None)),
            "add table ip sampan\ndelete table ip sampan\nadd table ip sampan\n\
             add map ip sampan services { type ipv4_addr : verdict; }\n\
             add chain ip sampan always { type filter hook forward priority 0; }\n\
             add rule ip sampan always accept\n\
             add element ip sampan services { 10.0.0.1 : goto always }\n\
             add element ip sampan services { 10.0.0.2 : goto always }\n"
        );
    }

    #[test]
    fn only_what_differs_is_changed_and_references_are_always_good() {
        let one = table("10.0.0.2", None);
        let [other, third] = ["drop", "accept"].map(|rule| table("10.0.0.3", Some(rule)));
        assert_eq!(changed(Some(&one), &one), "");
        assert_eq!(
            changed(Some(&one), &other),
            "add set ip sampan clients { type ipv4_addr; }\n\
             add chain ip sampan sometimes\n\
             add rule ip sampan sometimes drop\n\
             delete element ip sampan services { 10.0.0.2 : goto always }\n\
             add element ip sampan services { 10.0.0.3 : goto always }\n"
        );
        assert_eq!(
            changed(Some(&other), &third),
            "flush chain ip sampan sometimes\nadd rule ip sampan sometimes accept\n"
        );
        assert_eq!(
            changed(Some(&other), &one),
            "add element ip sampan services { 10.0.0.2 : goto always }\n\
             delete element ip sampan services { 10.0.0.3 : goto always }\n\
             flush chain ip sampan sometimes\n\
             delete chain ip sampan sometimes\n\
             delete set ip sampan clients\n"
        );
    }

    #[test]
    fn a_large_change_is_several_transactions_of_whole_parts() {
        let change = Table::change(Some(&table("10.0.0.2", None)), &table("10.0.0.3", Some("drop")));
        let whole = change.clone().transactions(usize::MAX);
        assert_eq!(whole.len(), 1);
        let split = change.clone().transactions(100);
        assert_eq!(split.concat(), whole[0]);
        assert!(split.len() > 1 && split.iter().all(|text| text.len() <= 100), "{split:?}");
        assert_eq!(change.transactions(1).len(), 5, "each part");
    }
}
