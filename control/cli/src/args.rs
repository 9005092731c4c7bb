//! The command line that scripts may rely on.

use crate::check;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{net::IpAddr, net::SocketAddr, path::PathBuf};

/// The hidden first argument that makes this program the child process which compiles guests.
pub(crate) const COMPILE_CHILD: &str = "compile-child";

/// Kubernetes rebuilt WebAssembly-first, in one binary.
#[derive(Debug, Parser)]
#[command(name = "sampan", version = crate::version::VERSION, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Log more: -v for info, -vv for debug. SAMPAN_LOG takes filters such as `info,scheduler=debug`.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a whole cluster on this machine and keep it running until Ctrl-C
    Up(Box<UpArgs>),
    /// Stop the cluster of a data directory; returns when it is gone
    Down(DataDir),
    /// Load, list, remove and push images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Print the kubeconfig of the cluster, or merge it into another file
    Kubeconfig(KubeconfigArgs),
    /// Apply manifests; a relative image such as ./hello.wasm is packaged and loaded
    Apply(ApplyArgs),
    /// Show objects as tables, YAML or JSON
    Get(GetArgs),
    /// Show the logs of a pod
    Logs(LogsArgs),
    /// Delete objects
    Delete(DeleteArgs),
    /// Print the version
    Version,
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// Which cluster on this machine.
#[derive(Clone, Debug, Args)]
pub(crate) struct DataDir {
    /// Where the cluster keeps everything [default: $XDG_DATA_HOME/sampan or ~/.local/share/sampan]
    #[arg(long, env = "SAMPAN_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct UpArgs {
    /// Manifests to apply once the cluster is ready: files or folders
    #[arg(short = 'f', long = "filename", value_name = "PATH")]
    pub(crate) filename: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// Where the API listens; port 0 chooses a free one
    #[arg(long, default_value = "127.0.0.1:6443", value_name = "ADDR:PORT", value_parser = check::listen)]
    pub(crate) listen: SocketAddr,
    /// Address of this machine where NodePorts listen; 0.0.0.0 is all of them
    #[arg(long, default_value = "127.0.0.1", value_name = "IP", value_parser = check::node_address)]
    pub(crate) node_address: IpAddr,
    /// Where to write the kubeconfig [default: DIR/kubeconfig]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Also make the cluster the current context of $KUBECONFIG or ~/.kube/config
    #[arg(long)]
    pub(crate) merge_kubeconfig: bool,
    /// Return when the cluster is ready and leave it running
    #[arg(long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// The node's size and addresses.
#[derive(Clone, Debug, Args)]
pub(crate) struct NodeArgs {
    /// Name of the node [default: this machine's host name]
    #[arg(long, value_name = "NAME", value_parser = check::node_name)]
    pub(crate) node_name: Option<String>,
    /// CPU capacity, as a quantity [default: what this machine has]
    #[arg(long, value_name = "QUANTITY", value_parser = check::cpu, allow_negative_numbers = true)]
    pub(crate) cpu: Option<String>,
    /// Memory capacity, as a quantity [default: what this machine has]
    #[arg(long, value_name = "QUANTITY", value_parser = check::memory, allow_negative_numbers = true)]
    pub(crate) memory: Option<String>,
    /// The most pods the node takes
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..),
        allow_negative_numbers = true)]
    pub(crate) max_pods: u32,
    /// CPU kept for the cluster itself, as a quantity
    #[arg(long, default_value = "100m", value_name = "QUANTITY", value_parser = check::reserved_cpu, allow_negative_numbers = true)]
    pub(crate) reserved_cpu: String,
    /// Memory kept for the cluster itself, as a quantity
    #[arg(long, default_value = "256Mi", value_name = "QUANTITY", value_parser = check::reserved_memory, allow_negative_numbers = true)]
    pub(crate) reserved_memory: String,
    /// Addresses of pods
    #[arg(long, default_value = "10.32.0.0/11", value_name = "CIDR", value_parser = check::pod_cidr)]
    pub(crate) pod_cidr: String,
    /// Addresses of Services
    #[arg(long, default_value = "10.96.0.0/16", value_name = "CIDR", value_parser = check::service_cidr)]
    pub(crate) service_cidr: String,
    /// Let guests reach this range although it is refused otherwise (this machine's own addresses, link-local, multicast); may be
    /// given several times
    #[arg(long, value_name = "CIDR", value_parser = check::allow_egress)]
    pub(crate) allow_egress: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Load a .wasm, .wat, OCI layout folder or archive into the node's store, with the cluster up or down
    Load {
        /// The file or folder
        file: PathBuf,
        /// Its name, such as hello:1.0
        #[arg(short, long)]
        tag: String,
        #[command(flatten)]
        data: DataDir,
    },
    /// List the images of the store
    Ls(DataDir),
    /// Remove images from the store
    Rm {
        /// Names or digests
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        /// Also remove what pods of the running cluster use
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        data: DataDir,
    },
    /// Push an image of the store to a registry
    Push {
        /// Its name, which says where to
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
}

/// How to reach the cluster.
#[derive(Clone, Debug, Args)]
pub(crate) struct Target {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// Another kubeconfig than that of the data directory
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Namespace
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// Files or folders; - is standard input
    #[arg(short = 'f', long = "filename", required = true, value_name = "PATH")]
    pub(crate) filename: Vec<PathBuf>,
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
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// A type, such as pods or deploy, then names; or TYPE/NAME, which may be repeated
    #[arg(required_unless_present = "filename", conflicts_with = "filename", value_name = "TYPE NAME|TYPE/NAME")]
    pub(crate) what: Vec<String>,
    /// Delete what these manifests name: files or folders; - is standard input
    #[arg(short = 'f', long = "filename", value_name = "PATH")]
    pub(crate) filename: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) target: Target,
}
