//! Guests that mean harm, of each kind, with the requests and limits that their owners would write. The bench runs thousands of them, a test
//! hundreds.

use serde_json::{Value, json};

/// What becomes of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It runs until it is deleted.
    Runs,
    /// Its container ends with this reason and code, again and again.
    Restarts(&'static str, i32),
    /// It is refused more of what it wants, or ends so, whichever comes first.
    RunsOrRestarts(&'static str, i32),
    /// It is evicted.
    Evicted,
}

/// How a pod has ended at least once, or that it runs. `None`: it has not begun, or ended in another way.
pub fn end(pod: &Value) -> Option<End> {
    if pod["status"]["reason"] == "Evicted" {
        return Some(End::Evicted);
    }
    let status = &pod["status"]["containerStatuses"][0];
    let ended =
        [&status["state"]["terminated"], &status["lastState"]["terminated"]].into_iter().find(|it| !it.is_null());
    let Some(ended) = ended else { return (!status["state"]["running"].is_null()).then_some(End::Runs) };
    let code = i32::try_from(ended["exitCode"].as_i64()?).ok()?;
    let reason = ["OOMKilled", "Error"].into_iter().find(|reason| ended["reason"] == *reason)?;
    Some(End::Restarts(reason, code))
}

/// What hostile guests reach: `calls`, and `silent` at a fixed address with the good guest behind it.
pub fn services() -> [Value; 2] {
    let service = |name: &str, app: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"app": app}, "ports": [{"port": 80, "targetPort": 8080}]}})
    };
    let mut silent = service("silent", "good");
    silent["spec"]["clusterIP"] = json!("10.96.100.1");
    [service("calls", "calls"), silent]
}

/// A kind of hostile guest.
pub struct Kind {
    /// The name of its image, and the label `app` of its pods.
    pub name: &'static str,
    /// How many of a thousand are of this kind.
    pub share: usize,
    pub end: End,
    /// The text of its module or component, which is its image.
    pub text: String,
    /// The limit of CPU in thousandths of a core.
    cpu: u32,
    /// The limit of memory in MiB.
    pub memory: u32,
    /// A writable volume at `/data` of so many MiB.
    disk: Option<u32>,
    /// It serves HTTP on port 8080.
    pub serves: bool,
}

impl Kind {
    /// Whether one of its pods has ended as it should, or runs if it should.
    pub fn is_right(&self, pod: &Value) -> bool {
        match (end(pod), self.end) {
            (Some(End::Runs), End::RunsOrRestarts(..)) => true,
            (Some(End::Restarts(reason, code)), End::RunsOrRestarts(wanted, number)) => {
                (reason, code) == (wanted, number)
            }
            (found, wanted) => found == Some(wanted),
        }
    }

    /// The name of its image.
    pub fn image(&self) -> String {
        format!("{}:1", self.name)
    }

    /// How many of so many pods are of this kind, at least one.
    pub fn of(&self, pods: usize) -> usize {
        (self.share * pods).div_ceil(1000)
    }

    /// One of its pods.
    pub fn pod(&self, number: usize) -> Value {
        let mut container = json!({"name": "c", "image": self.image(), "resources": {
            "requests": {"cpu": "1m", "memory": "1Mi"},
            "limits": {"cpu": format!("{}m", self.cpu), "memory": format!("{}Mi", self.memory)}}});
        let mut spec = json!({"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false, "enableServiceLinks": false});
        if let Some(size) = self.disk {
            container["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
            spec["volumes"] = json!([{"name": "data", "emptyDir": {"sizeLimit": format!("{size}Mi")}}]);
        }
        if self.serves {
            container["ports"] = json!([{"containerPort": 8080}]);
        }
        spec["containers"] = json!([container]);
        json!({"apiVersion": "v1", "kind": "Pod", "spec": spec,
            "metadata": {"name": format!("{}-{number}", self.name), "labels": {"app": self.name, "hostile": "true"}}})
    }
}

/// A module that does something for ever.
fn for_ever(name: &'static str, share: usize, (cpu, memory): (u32, u32), fields: &str, body: &str) -> Kind {
    let text = format!("(module {PREVIEW_1} {fields} (func (export \"_start\") (loop $again {body} (br $again))))");
    Kind { name, share, end: End::Runs, text, cpu, memory, disk: None, serves: false }
}

/// A module that does something in the volume at `/data`, of so many MiB.
fn on_disk(name: &'static str, share: usize, cpu: u32, disk: u32, body: &str) -> Kind {
    let fields = format!(r#"(memory (export "memory") 8) (data (i32.const 16) "file") {OPEN} {SLEEP}"#);
    Kind { disk: Some(disk), ..for_ever(name, share, (cpu, 16), &fields, body) }
}

fn component(name: &'static str, share: usize, (cpu, memory): (u32, u32), text: &str) -> Kind {
    Kind { name, share, end: End::Runs, text: text.to_owned(), cpu, memory, disk: None, serves: false }
}

const PREVIEW_1: &str = r#"
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_pwrite" (func $pwrite (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_sync" (func $sync (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open" (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))"#;

/// Opens the file `file` of the folder whose name has five letters, `/data`, for reading and writing; its descriptor, or -1.
const OPEN: &str = r#"
  (func $open (result i32) (local $folder i32)
    (local.set $folder (i32.const 3))
    (loop $next
      (if (call $prestat (local.get $folder) (i32.const 32)) (then (return (i32.const -1))))
      (if (i32.ne (i32.load (i32.const 36)) (i32.const 5))
        (then (local.set $folder (i32.add (local.get $folder) (i32.const 1))) (br $next))))
    (if (result i32)
      (call $path_open (local.get $folder) (i32.const 0) (i32.const 16) (i32.const 4) (i32.const 1) (i64.const 66)
        (i64.const 0) (i32.const 0) (i32.const 32))
      (then (i32.const -1))
      (else (i32.load (i32.const 32)))))"#;

/// Sleeps for nanoseconds.
const SLEEP: &str = r#"
  (func $sleep (param $nanos i64)
    (memory.fill (i32.const 256) (i32.const 0) (i32.const 48))
    (i32.store (i32.const 272) (i32.const 1))
    (i64.store (i32.const 280) (local.get $nanos))
    (drop (call $poll (i32.const 256) (i32.const 320) (i32.const 1) (i32.const 352))))"#;

/// A good guest whose timers are measured: sleeps for ten milliseconds again and again, and prints how many microseconds it woke too late.
pub const TIMER: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
  (memory (export "memory") 1)
  (func $now (result i64)
    (drop (call $time (i32.const 1) (i64.const 1) (i32.const 8)))
    (i64.load (i32.const 8)))
  (func $print (param $number i64) (local $at i32)
    (local.set $at (i32.const 120))
    (i32.store8 (local.get $at) (i32.const 10))
    (loop $next
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $number) (i64.const 10)))))
      (local.set $number (i64.div_u (local.get $number) (i64.const 10)))
      (br_if $next (i32.wrap_i64 (local.get $number))))
    (i32.store (i32.const 16) (local.get $at))
    (i32.store (i32.const 20) (i32.sub (i32.const 121) (local.get $at)))
    (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 24))))
  (func (export "_start") (local $begin i64)
    (loop $again
      (local.set $begin (call $now))
      (memory.fill (i32.const 256) (i32.const 0) (i32.const 48))
      (i32.store (i32.const 272) (i32.const 1))
      (i64.store (i32.const 280) (i64.const 10000000))
      (drop (call $poll (i32.const 256) (i32.const 320) (i32.const 1) (i32.const 352)))
      (call $print (i64.div_u (i64.sub (i64.sub (call $now) (local.get $begin)) (i64.const 10000000)) (i64.const 1000)))
      (br $again))))"#;

/// All kinds.
pub fn kinds() -> Vec<Kind> {
    let oom = |kind: Kind| Kind { end: End::Restarts("OOMKilled", 137), ..kind };
    let trap = |kind: Kind| Kind { end: End::Restarts("Error", 134), ..kind };
    let memory = |pages: u32| format!("(memory (export \"memory\") {pages})");
    let grow = |operation: &str| format!("(br_if $again (i32.ne ({operation}) (i32.const -1))) (unreachable)");
    vec![
        // computing
        for_ever("spins", 180, (100, 16), "", ""),
        for_ever("naps", 60, (100, 16), &format!("{} {SLEEP}", memory(1)), "(call $sleep (i64.const 1000)) (call $burn)")
            .with("(func $burn (local $i i32) (loop $l (local.set $i (i32.add (local.get $i) (i32.const 1))) (br_if $l (i32.lt_u (local.get $i) (i32.const 800000)))))"),
        for_ever(
            "randoms",
            40,
            (100, 32),
            &memory(300),
            "(drop (call $random (i32.const 1024) (i32.const 16777216)))",
        ),
        // thousands of timers
        for_ever(
            "timers",
            60,
            (50, 16),
            &format!(
                "{} (func $prepare (local $i i32)
                  (loop $next
                    (i32.store (i32.add (i32.mul (local.get $i) (i32.const 48)) (i32.const 16)) (i32.const 1))
                    (i64.store (i32.add (i32.mul (local.get $i) (i32.const 48)) (i32.const 24))
                      (i64.add (i64.const 1000000) (i64.mul (i64.extend_i32_u (local.get $i)) (i64.const 1000))))
                    (local.set $i (i32.add (local.get $i) (i32.const 1)))
                    (br_if $next (i32.lt_u (local.get $i) (i32.const 1000)))))
                (start $prepare)",
                memory(3)
            ),
            "(drop (call $poll (i32.const 0) (i32.const 65536) (i32.const 1000) (i32.const 131072)))",
        ),
        for_ever("sleeps", 180, (50, 16), &format!("{} {SLEEP}", memory(1)), "(call $sleep (i64.const 1000000000))"),
        // bulk operations
        for_ever("fills", 1, (1000, 1100), &memory(16_500), "(memory.fill (i32.const 65536) (i32.const 1) (i32.const 1073741824))"),
        for_ever("copies", 4, (500, 300), &memory(4_200), "(memory.copy (i32.const 0) (i32.const 134217728) (i32.const 134217728))"),
        for_ever("tables", 4, (500, 200), "(table $t 10000000 funcref)", "(table.fill $t (i32.const 0) (ref.null func) (i32.const 10000000))"),
        // memory
        for_ever("holds", 100, (50, 16), &format!("{} {SLEEP}", memory(240)), "(memory.fill (i32.const 4096) (i32.const 1) (i32.const 15000000)) (call $sleep (i64.const 1000000000))"),
        oom(for_ever("grows", 60, (100, 16), &memory(1), &grow("memory.grow (i32.const 16)"))),
        oom(for_ever("lengthens", 30, (100, 16), "(table $t 1 funcref)", &grow("table.grow $t (ref.null func) (i32.const 10000)"))),
        // traps and exits
        trap(for_ever("recurses", 30, (100, 16), "(func $f (result i32) (i32.add (call $f) (i32.const 1)))", "(drop (call $f))")),
        trap(for_ever("traps", 30, (100, 16), "", "(unreachable)")),
        Kind { end: End::Restarts("Error", 1), ..for_ever("exits", 30, (100, 16), "", "(call $exit (i32.const 1))") },
        // logs and disk
        for_ever(
            "floods",
            50,
            (100, 16),
            r#"(memory (export "memory") 1) (data (i32.const 0) "\10\00\00\00\28\00\00\00") (data (i32.const 16) "flood flood flood flood flood flood fl\0a\0a")"#,
            "(drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))",
        ),
        // 64 KiB by one write, to twice the limit of the volume
        Kind {
            end: End::Evicted,
            ..on_disk(
                "fills-disk",
                20,
                100,
                2,
                "(i32.store (i32.const 64) (i32.const 65536)) (i32.store (i32.const 68) (i32.const 65536))
                 (drop (call $open))
                 (block $full (loop $more
                   (br_if $full (i64.gt_u (i64.load (i32.const 96)) (i64.const 4194304)))
                   (drop (call $pwrite (i32.load (i32.const 32)) (i32.const 64) (i32.const 1) (i64.load (i32.const 96)) (i32.const 72)))
                   (i64.store (i32.const 96) (i64.add (i64.load (i32.const 96)) (i64.const 65536)))
                   (br $more)))
                 (call $sleep (i64.const 100000000))",
            )
        },
        on_disk(
            "syncs",
            20,
            100,
            2,
            "(i32.store (i32.const 64) (i32.const 4096)) (i32.store (i32.const 68) (i32.const 4096))
             (drop (call $open))
             (loop $more
               (drop (call $pwrite (i32.load (i32.const 32)) (i32.const 64) (i32.const 1) (i64.const 0) (i32.const 72)))
               (drop (call $sync (i32.load (i32.const 32))))
               (br $more))",
        ),
        // files that it keeps open
        on_disk(
            "opens",
            30,
            100,
            2,
            "(if (i32.lt_s (call $open) (i32.const 0)) (then (call $sleep (i64.const 10000000))))",
        ),
        // the network
        // what a socket holds counts for the limit of memory; the good guest's connections are bounded too
        Kind {
            end: End::RunsOrRestarts("OOMKilled", 137),
            ..component("sockets", 20, (100, 16), include_str!("sockets.wat"))
        },
        Kind { serves: true, ..component("calls", 5, (500, 32), concat!(include_str!("http.wat"), include_str!("calls.wat"))) },
        component("callers", 20, (100, 16), concat!(include_str!("http.wat"), include_str!("callers.wat"))),
    ]
}

impl Kind {
    /// With one more function.
    fn with(mut self, function: &str) -> Self {
        let end = self.text.rfind("(func (export \"_start\")").expect("its beginning");
        self.text.insert_str(end, function);
        self
    }
}
