//! Settings from a YAML file, like upstream's component configurations: fields are named after the flags in camel case, and parsed in the
//! same way.

use super::Settings;
use crate::{exit, parse};
use api::yaml;
use serde_json::Value;
use std::{fs::File, io::Read, path::Path};

/// `apiVersion` of the file.
const API_VERSION: &str = "sampan.dev/v1alpha1";
/// `kind` of the file.
const KIND: &str = "ClusterConfiguration";
/// The maximum size of the file in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Whether the file is standard input.
pub(crate) fn is_input(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Rewrites an error about settings of the file to name the file and its fields instead of flags. `asked` are the flags, `file` are the
/// file's settings.
pub(crate) fn name_fields(error: anyhow::Error, path: &Path, file: &Settings, asked: &Settings) -> anyhow::Error {
    let text = exit::text(&error);
    let asked = asked.given();
    let is_meant = |flag: &str| text.contains(flag) && !asked.iter().any(|(given, _)| *given == flag);
    let mut fields: Vec<String> = Vec::new();
    for (flag, _) in file.given().into_iter().filter(|(flag, _)| is_meant(flag)) {
        let named = field_of(flag).map(|field| format!("{field} ({flag})")).unwrap_or_default();
        if !fields.contains(&named) {
            fields.push(named);
        }
    }
    match fields.is_empty() || exit::is_printed(&error) {
        true => error,
        false => error.context(format!("--config {}: {}", path.display(), fields.join(", "))),
    }
}

/// The field of a flag.
fn field_of(flag: &str) -> Option<&'static str> {
    let plain = flag.replace(['-', '_'], "");
    FIELDS.into_iter().find(|field| field.eq_ignore_ascii_case(&plain))
}

/// Reads a file with settings, or standard input for `-`.
///
/// # Errors
/// A usage error, which names the file, and the line and the field if known.
pub(crate) fn read(path: &Path) -> anyhow::Result<Settings> {
    let content = if is_input(path) { whole(std::io::stdin().lock()) } else { content(path) };
    let read = content.and_then(|content| settings(&content));
    read.map_err(|why| exit::usage(format!("--config {}: {why}", path.display())))
}

fn content(path: &Path) -> Result<Vec<u8>, String> {
    let unreadable = |error: std::io::Error| exit::io(&error);
    // Checked before opening: opening a named pipe waits for a writer.
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if metadata.is_dir() {
        return Err("it is a directory; name a file".to_owned());
    }
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    whole(File::open(path).map_err(unreadable)?)
}

fn whole(from: impl Read) -> Result<Vec<u8>, String> {
    let mut content = Vec::new();
    from.take(MAX_BYTES + 1).read_to_end(&mut content).map_err(|error| exit::io(&error))?;
    if content.len() as u64 > MAX_BYTES {
        return Err("it is larger than 1 MiB".to_owned());
    }
    Ok(content)
}

fn settings(content: &[u8]) -> Result<Settings, String> {
    let fields = yaml::fields(content).map_err(plain)?;
    let mut settings = Settings::default();
    let mut seen: Vec<&str> = Vec::new();
    for field in &fields {
        let about = |why: String| format!("line {}: {}: {why}", field.line, field.name);
        if seen.contains(&field.name.as_str()) {
            return Err(about("it is there twice".to_owned()));
        }
        seen.push(&field.name);
        settings.set(&field.name, &field.value).map_err(about)?;
    }
    match ["apiVersion", "kind"].into_iter().find(|name| !seen.contains(name)) {
        Some(_) if fields.is_empty() => Err(format!(
            "there is no field in it; did the command fail that should have written it? Begin with apiVersion: {API_VERSION} and kind: {KIND}"
        )),
        Some(missing) => Err(format!("{missing} is missing; begin with apiVersion: {API_VERSION} and kind: {KIND}")),
        None => Ok(settings),
    }
}

/// The parser's error about a document without fields, in this file's terms.
fn plain(why: String) -> String {
    match why.strip_prefix("yaml: invalid type: ").filter(|why| why.contains("expected a mapping")) {
        Some(why) => {
            let what = if why.starts_with("sequence") { "a list" } else { "one value" };
            format!("it is {what}, where fields are meant, such as maxPods: 500")
        }
        None => why,
    }
}

impl Settings {
    /// Sets one field.
    fn set(&mut self, name: &str, value: &Value) -> Result<(), String> {
        match name {
            "apiVersion" => is(value, API_VERSION)?,
            "kind" => is(value, KIND)?,
            "listen" => self.listen = one(value, parse::listen)?,
            "nodeAddress" => self.node_address = one(value, parse::node_address)?,
            "tlsSAN" => self.tls_san = several(value, parse::tls_san)?,
            "drain" => self.drain = one(value, parse::drain)?,
            "controllers" => self.controllers = one(value, parse::controllers)?,
            "schedulerConfig" => self.scheduler_config = one(value, parse::scheduler_config)?,
            "nodeName" => self.node_name = one(value, parse::node_name)?,
            "cpu" => self.cpu = one(value, parse::cpu)?,
            "memory" => self.memory = one(value, parse::memory)?,
            "maxPods" => self.max_pods = one(value, parse::max_pods)?,
            "reservedCPU" => self.reserved_cpu = one(value, parse::reserved_cpu)?,
            "reservedMemory" => self.reserved_memory = one(value, parse::reserved_memory)?,
            "podCIDR" => self.pod_cidr = one(value, parse::pod_cidr)?,
            "nodeCIDRMaskSize" => self.node_cidr_mask_size = one(value, parse::node_cidr_mask_size)?,
            "serviceCIDR" => self.service_cidr = one(value, parse::service_cidr)?,
            "ociRuntime" => self.oci_runtime = one(value, parse::oci_runtime)?,
            "hollowNodes" => self.hollow_nodes = one(value, parse::hollow_nodes)?,
            "hollowCIDR" => self.hollow_cidr = one(value, parse::hollow_cidr)?,
            "allowEgress" => self.allow_egress = several(value, parse::allow_egress)?,
            other => return Err(unknown(other)),
        }
        Ok(())
    }
}

/// All fields except `apiVersion` and `kind`.
pub(crate) const FIELDS: [&str; 19] = [
    "listen",
    "nodeAddress",
    "tlsSAN",
    "drain",
    "controllers",
    "schedulerConfig",
    "nodeName",
    "cpu",
    "memory",
    "maxPods",
    "reservedCPU",
    "reservedMemory",
    "podCIDR",
    "nodeCIDRMaskSize",
    "serviceCIDR",
    "ociRuntime",
    "hollowNodes",
    "hollowCIDR",
    "allowEgress",
];

fn unknown(name: &str) -> String {
    match field_of(name) {
        Some(meant) => format!("there is no such field; the field is {meant}"),
        None => format!("there is no such field; there are {}", FIELDS.join(", ")),
    }
}

fn is(value: &Value, wanted: &str) -> Result<(), String> {
    if value == wanted { Ok(()) } else { Err(format!("it is {value}; this version reads {wanted}")) }
}

/// A field without a value is ignored.
fn one<T>(value: &Value, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => parse(text).map(Some).map_err(|why| format!("{text:?}: {why}")),
        Value::Number(number) => parse(&number.to_string()).map(Some).map_err(|why| format!("{number}: {why}")),
        Value::Bool(_) => Err("YAML reads it as true or false; put a text into quotes".to_owned()),
        Value::Array(_) => Err("it is a list, where one value is meant".to_owned()),
        Value::Object(_) => Err("it is a mapping, where one value is meant".to_owned()),
    }
}

/// A list, or a single value.
fn several<T>(value: &Value, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    let read: Result<Vec<Option<T>>, String> = values.iter().map(|value| one(value, &parse)).collect();
    Ok(read?.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Reads these lines after the header.
    fn below(lines: &str) -> Result<Settings, String> {
        settings(format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{lines}").as_bytes())
    }

    #[test]
    fn every_field_is_read_into_its_type_as_its_flag_is() {
        use clap::Parser;
        let folder = tempfile::tempdir().expect("a folder");
        let scheduler = folder.path().canonicalize().expect("there").join("scheduler.yaml");
        fs::write(&scheduler, "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n")
            .expect("written");
        let scheduler = scheduler.display();
        let file = below(&format!(
            "listen: 127.0.0.1:7\nnodeAddress: 127.0.0.2\ntlsSAN: [a.example, 192.168.1.7]\ndrain: 1m\ncontrollers: '*,-job'\nschedulerConfig: {scheduler}\nnodeName: node-1\ncpu: 1.5\n\
             memory: 1Gi\nmaxPods: 7\nreservedCPU: 1m\nreservedMemory: 0\npodCIDR: 10.64.0.1/11\nnodeCIDRMaskSize: 14\nserviceCIDR: 10.97.0.0/16\n\
             allowEgress:\n- 192.168.1.7\n- ::1/128\n"
        ));
        let flags = format!(
            "up --listen 127.0.0.1:7 --node-address 127.0.0.2 --tls-san a.example,192.168.1.7 --drain 60 --controllers *,-job-controller --scheduler-config {scheduler} --node-name node-1 --cpu \
                     1500m --memory 1024Mi --max-pods 7 --reserved-cpu 1m --reserved-memory 0 --pod-cidr 10.64.0.0/11 --node-cidr-mask-size 14 --service-cidr \
                     10.97.0.0/16 --allow-egress 192.168.1.7 --allow-egress ::1"
        );
        let all = std::iter::once("sampan").chain(flags.split_whitespace());
        let crate::args::Command::Up(args) = crate::args::Cli::parse_from(all).command else { panic!("not up") };
        assert_eq!(file.expect("all is right"), args.settings);
        let flags: Vec<String> = args
            .settings
            .of_cluster("n", vec![String::new()])
            .keys()
            .map(|flag| flag.trim_start_matches('-').replace('-', ""))
            .collect();
        let mut fields: Vec<String> = FIELDS.map(str::to_lowercase).into();
        fields.sort();
        assert_eq!(fields, flags, "each flag of a cluster is a field");
    }

    #[test]
    fn a_file_without_a_field_is_refused() {
        for empty in ["", "\n", "# later\n", "---\n", "{}\n"] {
            let error = settings(empty.as_bytes()).expect_err(empty);
            assert!(error.starts_with("there is no field in it; did the command fail"), "{empty:?}: {error}");
        }
    }

    #[test]
    fn an_error_that_comes_later_names_the_fields_of_the_file() {
        let file = below("podCIDR: 10.0.0.0/24\nmaxPods: 500\n").expect("right");
        let told = |asked: &Settings, error: &str| {
            let error = name_fields(exit::usage(error), "f.yaml".as_ref(), &file, asked);
            assert_eq!(exit::code(&error), 2);
            exit::text(&error)
        };
        let (none, flag) = (Settings::default(), Settings { max_pods: Some(500), ..Settings::default() });
        let why = "--pod-cidr 10.0.0.0/24 has room for 253 pods, fewer than --max-pods 500";
        assert_eq!(
            told(&none, why),
            format!("error: --config f.yaml: maxPods (--max-pods), podCIDR (--pod-cidr): {why}")
        );
        assert_eq!(told(&flag, why), format!("error: --config f.yaml: podCIDR (--pod-cidr): {why}"));
        assert_eq!(told(&none, "--listen 127.0.0.1:7: no"), "error: --listen 127.0.0.1:7: no");
    }

    #[test]
    fn fields_without_a_value_ask_for_nothing() {
        assert_eq!(below("cpu:\nallowEgress: []\ntlsSAN: ~\n"), Ok(Settings::default()));
        assert_eq!(below("tlsSAN: a.example\n").expect("one is a list").tls_san, ["a.example"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_what_is_right() {
        for (lines, why) in [
            ("cpus: 2", "line 3: cpus: there is no such field; there are listen, "),
            ("cpu: 1\npodCidr: 10.0.0.0/8", "line 4: podCidr: there is no such field; the field is podCIDR"),
            ("max-pods: 1", "line 3: max-pods: there is no such field; the field is maxPods"),
            ("filename: x", "line 3: filename: there is no such field"),
            ("cpu: 1\ncpu: 2", "line 4: cpu: it is there twice"),
            ("cpu: yes", "line 3: cpu: YAML reads it as true or false; put a text into quotes"),
            ("cpu: [1]", "line 3: cpu: it is a list, where one value is meant"),
            ("cpu: {a: 1}", "line 3: cpu: it is a mapping, where one value is meant"),
            ("cpu: banana", "line 3: cpu: \"banana\": it is not a quantity; use for example 2 or 500m"),
            ("cpu: 0", "line 3: cpu: 0: use more than 0"),
            ("maxPods: many", "line 3: maxPods: \"many\": use a whole number, 1.."),
            ("maxPods: -1", "line 3: maxPods: -1: use a whole number, 1.."),
            ("memory: 63Mi", "line 3: memory: \"63Mi\": use at least 64Mi"),
            ("drain: 2h", "line 3: drain: \"2h\": use 1s to 1h"),
            ("listen: localhost", "line 3: listen: \"localhost\": use an IP address and a port"),
            ("podCIDR: fd00::/64", "line 3: podCIDR: \"fd00::/64\": only IPv4"),
            ("allowEgress: [127.0.0.1, all]", "line 3: allowEgress: \"all\": use an IP address or a range"),
            ("---\ncpu: 1", "yaml: line 4: more than one document"),
            ("cpu: [", "yaml: line 3: "),
        ] {
            let error = below(lines).expect_err(lines);
            assert!(error.starts_with(why), "{lines:?}: {error}");
        }
        for (text, why) in [
            (
                "cpu: 1",
                "apiVersion is missing; begin with apiVersion: sampan.dev/v1alpha1 and kind: ClusterConfiguration",
            ),
            ("apiVersion: sampan.dev/v1alpha1", "kind is missing"),
            ("apiVersion: v1\nkind: Pod", "line 1: apiVersion: it is \"v1\"; this version reads sampan.dev/v1alpha1"),
            ("apiVersion: sampan.dev/v1alpha1\nkind: Pod", "line 2: kind: it is \"Pod\"; this version reads ClusterC"),
            ("- 1", "it is a list, where fields are meant, such as maxPods: 500"),
            ("hello", "it is one value, where fields are meant"),
        ] {
            let error = settings(text.as_bytes()).expect_err(text);
            assert!(error.starts_with(why), "{text:?}: {error}");
        }
        assert!(settings(&[0xff, 0xfe]).expect_err("no text").starts_with("yaml: "));
    }

    #[test]
    fn what_cannot_be_a_file_of_settings_is_wrong_usage() {
        let folder = tempfile::tempdir().expect("a folder");
        let large = folder.path().join("large");
        fs::write(&large, format!("# {}\n", "x".repeat(1 << 20))).expect("written");
        for (path, why) in [
            (folder.path().join("absent"), "No such file or directory"),
            (folder.path().to_owned(), "it is a directory; name a file"),
            (large, "it is larger than 1 MiB"),
            ("/dev/null".into(), "it is not a regular file"),
        ] {
            let error = read(&path).expect_err(why);
            assert_eq!((error.to_string(), exit::code(&error)), (format!("--config {}: {why}", path.display()), 2));
        }
        // Not readable, except for root.
        if !rustix::process::geteuid().is_root() {
            use std::os::unix::fs::PermissionsExt;
            let closed = folder.path().join("closed");
            fs::write(&closed, "").expect("written");
            fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).expect("closed");
            assert!(read(&closed).expect_err("closed").to_string().ends_with("Permission denied"));
        }
        let fits = folder.path().join("fits");
        let header = format!("apiVersion: {API_VERSION}\nkind: {KIND}\n");
        fs::write(&fits, format!("{header}# {}\n", "x".repeat((1 << 20) - 3 - header.len()))).expect("written");
        assert_eq!(read(&fits).expect("1 MiB"), Settings::default());
    }
}
