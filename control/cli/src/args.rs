//! The command line, which scripts rely on.

use crate::{parse, settings::Settings};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{path::PathBuf, time::Duration};

/// The hidden first argument of the child process that compiles guests.
pub(crate) const COMPILE_CHILD: &str = "compile-child";
/// The hidden first argument of the process of an isolated pod.
pub(crate) const ISOLATED_CHILD: &str = "isolated-child";
/// The hidden first argument of the process of a pod of Linux containers.
pub(crate) const RUNC_SHIM: &str = "runc-shim";
/// The hidden first argument of the process that holds the network namespaces of Linux pods.
pub(crate) const NETWORK_HELPER: &str = "network-helper";
/// The hidden first argument of a cluster in the background, which `up --detach` starts.
pub(crate) const BACKGROUND: &str = "background";

/// First commands for new users, shown after the list of commands.
const FIRST_STEPS: &str = "\
First steps:
  sampan up -f hello.yaml     start a cluster, apply a manifest, and say how to reach what it makes
  sampan get pods             in another terminal: what runs; kubectl is the full client
  sampan logs deploy/hello    what it printed
  sampan up --help            every flag of a command

Exit codes: 0 ok, 1 failed, 2 wrong usage, 130 interrupted.";

/// What `up -f` waits for, shown after its flags.
const WAITING: &str = "\
With -f, up waits until what it applied is there: all pods of Deployments, ReplicaSets, StatefulSets and DaemonSets ready, Jobs complete, pods \
ready or succeeded, node ports open. It shows what pods report meanwhile, and gives up early on what will not recover: \
a failed Job, a missing image, a container that always crashes, a request that no node can meet, a taken port. The \
cluster stays up then; with --detach the exit code is 1. If the cluster of the data directory runs already, up -f \
applies to it; flags that only a start can take are refused unless the cluster has them.

The name of the node, the address ranges, --listen and --node-address are remembered: a later start needs no flags.

--config names a file that holds the settings of a cluster as fields, such as

  apiVersion: sampan.dev/v1alpha1
  kind: ClusterConfiguration
  listen: 127.0.0.1:6443
  maxPods: 500
  allowEgress: [192.168.1.7]

There are listen, nodeAddress, tlsSAN, drain, controllers, schedulerConfig, nodeName, cpu, memory, maxPods, reservedCPU, reservedMemory, podCIDR, \
nodeCIDRMaskSize, serviceCIDR, ociRuntime, hollowNodes, hollowCIDR and allowEgress: each takes what its flag takes, tlsSAN and allowEgress also a list.";

/// How the client commands select a cluster, shown after their flags.
const WHICH: &str = "\
Which cluster: --kubeconfig, else --data-dir or $SAMPAN_DATA_DIR, else $KUBECONFIG, else the default data directory.";

/// Kubernetes rebuilt WebAssembly-first, in one binary.
#[derive(Debug, Parser)]
#[command(
    name = "sampan", version, propagate_version = true, max_term_width = 100,
    after_help = FIRST_STEPS
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Log more to standard error: -v info, -vv debug; or by filters in $SAMPAN_LOG [default: warnings]
    #[arg(short, long, global = true, action = clap::ArgAction::Count, display_order = 900)]
    pub(crate) verbose: u8,
    /// Print only what was asked for, warnings and errors: no progress, no confirmations
    #[arg(short, long, global = true, display_order = 901)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a whole cluster on this machine and keep it running until Ctrl-C
    #[command(after_help = WAITING)]
    Up(Box<UpArgs>),
    /// Stop the cluster that runs on a data directory, and return when it is gone
    Down(DownArgs),
    /// List the clusters of this machine
    Ls(LsArgs),
    /// Save the objects of a cluster to a file, or make a cluster's store of one
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Load, list, tag, compile, prune, remove and push images of the node's store
    #[command(subcommand)]
    Image(ImageCommand),
    /// List the images of the node's store, as `image ls` does
    Images(DataDir),
    /// Print the kubeconfig of the cluster, or merge it into another file
    Kubeconfig(KubeconfigArgs),
    /// Apply manifests; an image that is a file, such as ./hello.wasm, is packaged and loaded
    #[command(after_help = WHICH)]
    Apply(ApplyArgs),
    /// Show objects as tables, YAML or JSON, once or as they change
    #[command(after_help = WHICH)]
    Get(GetArgs),
    /// Show the log of a pod, or of one of a Deployment's, Job's or Service's pods
    #[command(after_help = WHICH)]
    Logs(LogsArgs),
    /// Carry connections of local ports to a pod, or to one of a Service's or Deployment's pods, until Ctrl-C
    #[command(after_help = WHICH)]
    PortForward(PortForwardArgs),
    /// Print the URLs at which a Service answers on this machine
    #[command(after_help = WHICH)]
    Url(UrlArgs),
    /// Delete objects, and return when they are gone
    #[command(after_help = WHICH)]
    Delete(DeleteArgs),
    /// Write objects, events, logs and metrics of the cluster into a folder, for a bug report or a CI job
    #[command(after_help = WHICH)]
    Dump(DumpArgs),
    /// Print the version of sampan and of the Kubernetes that it serves
    Version {
        /// Form of what is printed
        #[arg(short, long, value_enum, default_value_t = Report::Text, value_name = "FORM")]
        output: Report,
    },
    /// Print a completion script for a shell
    Completions {
        /// Which shell; for bash: . <(sampan completions bash)
        shell: clap_complete::Shell,
    },
}

/// Which cluster on this machine.
#[derive(Clone, Debug, Args)]
pub(crate) struct DataDir {
    /// Where the cluster keeps everything [default: $SAMPAN_DATA_DIR, else $XDG_DATA_HOME/sampan, else ~/.local/share/sampan]
    // Not by clap's `env`: its usage lines then show the flag as if it were needed, and it takes an empty one for a name.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// Output form of commands that report on a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Report {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct DownArgs {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// Also remove the data directory with everything in it, and the cluster's entries in $KUBECONFIG or ~/.kube/config
    #[arg(long)]
    pub(crate) purge: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Form of what is printed
    #[arg(short, long, value_enum, default_value_t = Report::Text, value_name = "FORM")]
    pub(crate) output: Report,
}

#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    /// The folder; made if absent
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Write into a folder that has something in it, over files of the same names
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct UpArgs {
    /// Manifests to apply once the cluster is ready: files or folders; may be repeated [default: none]
    #[arg(short = 'f', long = "filename", value_name = "PATH")]
    pub(crate) filename: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// Search folders given with -f to the bottom
    #[arg(short = 'R', long, requires = "filename")]
    pub(crate) recursive: bool,
    /// How long -f waits until everything is ready, such as 90s, 2m or 1h
    #[arg(long, default_value = "2m", value_name = "TIME", value_parser = parse::timeout, allow_negative_numbers = true)]
    pub(crate) timeout: Duration,
    /// A YAML file of settings, described below, - for standard input; a flag that is given wins [default: none]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A file to add the cluster to as its current context, made if absent [default: only kubeconfig in the data directory]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Also make the cluster the current context of $KUBECONFIG or ~/.kube/config
    #[arg(long)]
    pub(crate) merge_kubeconfig: bool,
    /// Return when the cluster is ready and leave it running; stop it with `sampan down`
    #[arg(long)]
    pub(crate) detach: bool,
    /// Form of what is printed when the cluster is ready
    #[arg(short, long, value_enum, default_value_t = Report::Text, value_name = "FORM")]
    pub(crate) output: Report,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Save the objects of a cluster, up or down, as they are at one revision. Keys and images are not in it
    Save {
        /// The file that is written
        file: PathBuf,
        /// Replace the file if there is one
        #[arg(long)]
        force: bool,
        /// Of a damaged store, save the objects that are whole, and say what was lost
        #[arg(long)]
        salvage: bool,
        #[command(flatten)]
        data: DataDir,
    },
    /// Make the store of an empty data directory from a snapshot; `sampan up` starts it, with keys of its own
    Restore {
        /// The file that `sampan snapshot save` has written
        file: PathBuf,
        #[command(flatten)]
        data: DataDir,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Load a .wasm, .wat, OCI layout folder or archive into the node's store, with the cluster up or down
    Load {
        /// The file or folder
        file: PathBuf,
        /// The name by which pods ask for it, such as hello:1.0
        #[arg(short, long, value_name = "NAME")]
        tag: String,
        #[command(flatten)]
        data: DataDir,
    },
    /// List the images of the store, the newest first, and which pods use them
    #[command(visible_alias = "list")]
    Ls(DataDir),
    /// Give an image of the store another name
    Tag {
        /// Its name or digest
        image: String,
        /// The new name, such as hello:2
        name: String,
        #[command(flatten)]
        data: DataDir,
    },
    /// Remove images that no pod uses: those without a name, or all of them
    Prune {
        /// Also those that have a name
        #[arg(short, long)]
        all: bool,
        #[command(flatten)]
        data: DataDir,
    },
    /// Compile images of the store now, so that their first pods need not wait for it
    Precompile {
        /// Names, such as hello:1.0, or digests (sha256:HEX)
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        /// The namespace of the pods: later versions of an image compile faster in the same one
        #[arg(short, long, default_value = "default")]
        namespace: String,
        #[command(flatten)]
        data: DataDir,
    },
    /// Remove images from the store
    Rm {
        /// Names, such as hello:1.0, or digests (sha256:HEX)
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        /// Also remove what pods of the running cluster use
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        data: DataDir,
    },
    /// Push an image of the store to a registry, with the credentials of ~/.docker/config.json
    Push {
        /// Its name, which says where to, such as localhost:5000/hello:1.0
        image: String,
        #[command(flatten)]
        data: DataDir,
    },
}

#[derive(Debug, Args)]
pub(crate) struct KubeconfigArgs {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// Merge into $KUBECONFIG or ~/.kube/config and make it current, instead of printing
    #[arg(long)]
    pub(crate) merge: bool,
    /// Replace entries of that name there even if they are another cluster's
    #[arg(long, requires = "merge")]
    pub(crate) force: bool,
}

/// How to reach the cluster.
#[derive(Clone, Debug, Args)]
pub(crate) struct Target {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// Which kubeconfig says how to reach the cluster [default: see below]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Namespace of objects that do not name theirs [default: the kubeconfig's, else default]
    #[arg(short, long, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// Manifests to apply: files or folders, - is standard input; may be repeated
    #[arg(short = 'f', long = "filename", required = true, value_name = "PATH")]
    pub(crate) filename: Vec<PathBuf>,
    /// Search folders to the bottom
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// Return when everything is ready, as `up -f` does
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long --wait waits, such as 90s, 2m or 1h
    #[arg(long, default_value = "2m", value_name = "TIME", value_parser = parse::timeout, allow_negative_numbers = true)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) target: Target,
}

/// Output form of `get`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Wide,
    Yaml,
    Json,
    Name,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Types, such as pods, deploy,svc or all, then names; or TYPE/NAME, which may be repeated
    #[arg(required = true, value_name = "TYPE[,TYPE]|TYPE/NAME")]
    pub(crate) what: Vec<String>,
    /// Objects of every namespace
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// Only objects with these labels, such as app=hello,tier!=test [default: all objects]
    #[arg(short = 'l', long, default_value = "", hide_default_value = true, value_name = "SELECTOR")]
    pub(crate) selector: String,
    /// Form of what is printed
    #[arg(short, long, value_enum, default_value_t = Output::Table, value_name = "FORM")]
    pub(crate) output: Output,
    /// Go on and print every change, until Ctrl-C
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// Print tables without their header
    #[arg(long)]
    pub(crate) no_headers: bool,
    /// Print labels as the last column of tables
    #[arg(long)]
    pub(crate) show_labels: bool,
    /// Print metadata.managedFields too, in YAML and JSON
    #[arg(long)]
    pub(crate) show_managed_fields: bool,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The pod, or something that has pods, such as deploy/hello or job/count: of those the one that tells most
    #[arg(value_name = "POD|TYPE/NAME")]
    pub(crate) pod: Option<String>,
    /// The logs of all pods with these labels, such as app=hello
    #[arg(short = 'l', long, default_value = "", hide_default_value = true, value_name = "SELECTOR")]
    pub(crate) selector: String,
    /// Which container of the pod [default: its only or first one]
    #[arg(short, long, value_name = "NAME")]
    pub(crate) container: Option<String>,
    /// Go on and print lines as they come, until Ctrl-C
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// The log of the instance before the last restart
    #[arg(short, long)]
    pub(crate) previous: bool,
    /// Only the last N lines [default: all; with --selector 10 of each pod]
    #[arg(long, value_name = "N")]
    pub(crate) tail: Option<u64>,
    /// Only lines that are no older, such as 30s, 5m or 2h [default: all]
    #[arg(long, value_name = "TIME", value_parser = parse::timeout)]
    pub(crate) since: Option<Duration>,
    /// Print the time of each line before it
    #[arg(long)]
    pub(crate) timestamps: bool,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Debug, Args)]
pub(crate) struct PortForwardArgs {
    /// The pod, or something that has pods, such as service/hello or deploy/hello: each connection goes to one that runs
    #[arg(value_name = "POD|TYPE/NAME")]
    pub(crate) what: String,
    /// Ports by number or name: 8080:80 for local 8080, 80 for the same number, :80 for any that is free
    #[arg(required = true, value_name = "[LOCAL:]REMOTE")]
    pub(crate) ports: Vec<String>,
    /// Local addresses to listen on, separated by commas: IP addresses, or localhost
    #[arg(long, default_value = "localhost", value_name = "ADDRESS", value_delimiter = ',')]
    pub(crate) address: Vec<String>,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Debug, Args)]
pub(crate) struct UrlArgs {
    /// The Service, such as hello or service/hello
    #[arg(value_name = "SERVICE")]
    pub(crate) service: String,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// A type, such as pods or deploy, then names; or TYPE/NAME, which may be repeated
    #[arg(required_unless_present = "filename", conflicts_with = "filename", value_name = "TYPE NAME|TYPE/NAME")]
    pub(crate) what: Vec<String>,
    /// Delete what these manifests name: files or folders, - is standard input [default: none]
    #[arg(short = 'f', long = "filename", value_name = "PATH")]
    pub(crate) filename: Vec<PathBuf>,
    /// Search folders given with -f to the bottom
    #[arg(short = 'R', long, requires = "filename")]
    pub(crate) recursive: bool,
    /// All objects of the types in the namespace
    #[arg(long, conflicts_with_all = ["filename", "selector"])]
    pub(crate) all: bool,
    /// The objects of the types with these labels, such as app=hello [default: none]
    #[arg(short = 'l', long, value_name = "SELECTOR", conflicts_with = "filename")]
    pub(crate) selector: Option<String>,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// All commands with their paths, including subcommands.
    fn commands(command: &clap::Command, path: &str, all: &mut Vec<(String, clap::Command)>) {
        let path = format!("{path} {}", command.get_name()).trim().to_owned();
        command.get_subcommands().for_each(|sub| commands(sub, &path, all));
        all.push((path, command.clone()));
    }

    fn all() -> Vec<(String, clap::Command)> {
        let mut root = Cli::command();
        root.build();
        let mut all = Vec::new();
        commands(&root, "", &mut all);
        all.retain(|(path, command)| !path.contains(" help") && !command.is_hide_set());
        all
    }

    #[test]
    fn every_flag_says_what_it_is_and_what_it_is_by_default() {
        Cli::command().debug_assert();
        for (path, command) in all() {
            assert!(command.get_about().is_some(), "{path}");
            for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                let what = format!("{path}: {arg}");
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.len() > 10 || arg.get_id() == "help" || arg.get_id() == "version", "{what}: {help:?}");
                assert!(!help.contains('\n') && !help.ends_with('.') && help.len() <= 125, "{what}: one line: {help}");
                let takes = arg.get_action().takes_values() && arg.get_long().is_some();
                let shown = !arg.get_default_values().is_empty() || help.contains("[default: ");
                let chosen = arg.is_required_set() || help.starts_with("The logs of all pods");
                assert!(!takes || shown || chosen, "{what} tells no default: {help}");
            }
        }
    }

    #[test]
    fn the_file_that_up_describes_is_one() {
        let help = all().into_iter().find(|(path, _)| path == "sampan up").expect("up").1;
        let help = help.get_after_help().expect("there").to_string();
        let example: Vec<&str> = help.lines().skip_while(|line| !line.starts_with("  apiVersion")).collect();
        let example: Vec<&str> = example.into_iter().take_while(|line| line.starts_with("  ")).map(str::trim).collect();
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("c.yaml");
        std::fs::write(&file, example.join("\n")).expect("written");
        let settings = crate::settings::read(&file).expect("it is right");
        assert_eq!((settings.max_pods, settings.allow_egress.len()), (Some(500), 1));
        let told = help.split("There are ").nth(1).and_then(|rest| rest.split(':').next()).expect("a list");
        let told: Vec<&str> = told.split([',', ' ', '\n']).filter(|word| !word.is_empty() && *word != "and").collect();
        assert_eq!(told, crate::settings::FIELDS);
    }

    #[test]
    fn completions_know_every_command_and_flag() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "sampan", &mut script);
            let script = String::from_utf8(script).expect("text");
            for (path, command) in all() {
                assert!(script.contains(command.get_name()), "{shell}: {path}");
                for long in command.get_arguments().filter_map(clap::Arg::get_long) {
                    assert!(script.contains(long), "{shell}: {path} --{long}");
                }
            }
        }
    }
}
