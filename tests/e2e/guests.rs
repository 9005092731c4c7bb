//! Small guests in text form, for what the samples do not do.

use crate::harness::*;
use std::fs;

const IMPORTS: &str = r#"
 (import "wasi_snapshot_preview1" "args_sizes_get" (func $arguments_size (param i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "args_get" (func $arguments_get (param i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
 (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
 (memory (export "memory") 2)
 (func $length (param $p i32) (result i32) (local $n i32)
   (block $done (loop $next
     (br_if $done (i32.eqz (i32.load8_u (i32.add (local.get $p) (local.get $n)))))
     (local.set $n (i32.add (local.get $n) (i32.const 1))) (br $next)))
   (local.get $n))
 (func $argument (param $i i32) (result i32)
   (i32.load (i32.add (i32.const 1024) (i32.mul (local.get $i) (i32.const 4)))))
 (func $arguments (result i32)
   (drop (call $arguments_size (i32.const 16) (i32.const 20)))
   (drop (call $arguments_get (i32.const 1024) (i32.const 8192)))
   (i32.load (i32.const 16)))
 (func $find (param $p i32) (param $flags i32) (param $rights i64) (result i32) (local $fd i32)
   (local.set $fd (i32.const 3))
   (loop $folders
     (if (i32.eqz (call $open (local.get $fd) (i32.const 1) (local.get $p) (call $length (local.get $p))
                              (local.get $flags) (local.get $rights) (i64.const 0) (i32.const 0) (i32.const 24)))
       (then (return (i32.load (i32.const 24)))))
     (local.set $fd (i32.add (local.get $fd) (i32.const 1)))
     (br_if $folders (i32.lt_u (local.get $fd) (i32.const 32))))
   unreachable)
"#;

/// Copies a file to standard output.
const COPY: &str = r#"
 (func $copy (param $fd i32)
   (loop $more
     (i32.store (i32.const 0) (i32.const 32768))
     (i32.store (i32.const 4) (i32.const 16384))
     (if (i32.eqz (call $read (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))) (then
       (if (i32.load (i32.const 8)) (then
         (i32.store (i32.const 4) (i32.load (i32.const 8)))
         (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))
         (br $more)))))))
"#;

/// Prints the files that its arguments name, each looked for in all mounts in turn. Traps if one is nowhere.
const CAT: &str = r#"
 (func (export "_start") (local $i i32) (local $count i32)
   (local.set $count (call $arguments))
   (local.set $i (i32.const 1))
   (block $end (loop $next
     (br_if $end (i32.ge_u (local.get $i) (local.get $count)))
     (call $copy (call $find (call $argument (local.get $i)) (i32.const 0) (i64.const 2)))
     (local.set $i (i32.add (local.get $i) (i32.const 1)))
     (br $next))))
"#;

/// Repeats its standard input.
const TALK: &str = r#"(func (export "_start") (call $copy (i32.const 0)))"#;

/// Writes its second argument into the file that the first one names, in the first mount, which is listed
/// after the root. Traps if that does not let it.
const PUT: &str = r#"
 (func (export "_start")
   (drop (call $arguments))
   (i32.store (i32.const 0) (call $argument (i32.const 2)))
   (i32.store (i32.const 4) (call $length (call $argument (i32.const 2))))
   (if (call $open (i32.const 4) (i32.const 1) (call $argument (i32.const 1)) (call $length (call $argument (i32.const 1)))
                   (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 24)) (then unreachable))
   (drop (call $write (i32.load (i32.const 24)) (i32.const 0) (i32.const 1) (i32.const 8))))
"#;

/// Exits with 9 if the file `state` is in its root, else prints `etc/data` of it (8: it is not there), and makes `state` (6: it may not). Exits
/// with 7 then, or repeats its standard input if it has an argument.
const REMEMBER: &str = r#"
 (data (i32.const 64) "etc/data\00state\00")
 (func $root (param $p i32) (param $how i32) (param $rights i64) (result i32)
   (call $open (i32.const 3) (i32.const 1) (local.get $p) (call $length (local.get $p)) (local.get $how) (local.get $rights)
     (i64.const 0) (i32.const 0) (i32.const 24)))
 (func (export "_start")
   (if (i32.eqz (call $root (i32.const 73) (i32.const 0) (i64.const 2))) (then (call $exit (i32.const 9))))
   (if (call $root (i32.const 64) (i32.const 0) (i64.const 2)) (then (call $exit (i32.const 8))))
   (call $copy (i32.load (i32.const 24)))
   (if (call $root (i32.const 73) (i32.const 1) (i64.const 64)) (then (call $exit (i32.const 6))))
   (if (i32.eq (call $arguments) (i32.const 1)) (then (call $exit (i32.const 7))))
   (call $copy (i32.const 0)))
"#;

/// Works for two seconds of wall time and exits with how many pieces of work (of some milliseconds each, at most 250) it did.
const WORK: &str = r#"
 (func $now (result i64)
   (drop (call $clock (i32.const 1) (i64.const 0) (i32.const 32)))
   (i64.load (i32.const 32)))
 (func (export "_start") (local $end i64) (local $n i32) (local $i i32)
   (local.set $end (i64.add (call $now) (i64.const 2000000000)))
   (block $over (loop $pieces
     (br_if $over (i64.ge_u (call $now) (local.get $end)))
     (br_if $over (i32.ge_u (local.get $n) (i32.const 250)))
     (local.set $i (i32.const 16777216))
     (loop $work (br_if $work (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
     (local.set $n (i32.add (local.get $n) (i32.const 1)))
     (br $pieces)))
   (call $exit (local.get $n)))
"#;

/// Never ends.
const SPIN: &str = r#"(func (export "_start") (loop $l (br $l)))"#;

/// Loads a guest of this file as `NAME:1`.
pub fn load(machine: &Machine, name: &str) {
    let body = match name {
        "cat" => CAT,
        "put" => PUT,
        "work" => WORK,
        "spin" => SPIN,
        "talk" => TALK,
        "remember" => REMEMBER,
        other => panic!("no guest {other}"),
    };
    let file = machine.path("work").join(format!("{name}.wat"));
    fs::write(&file, format!("(module {IMPORTS} {COPY} {body})")).expect("written");
    load_as(machine, &file.display().to_string(), &format!("{name}:1"));
}

/// Loads a sample's guest as `NAME:1`.
pub fn load_sample(machine: &Machine, name: &str) {
    let file = sample(name, &machine.path("work")).join(format!("{name}.wasm"));
    load_as(machine, &file.display().to_string(), &format!("{name}:1"));
}

fn load_as(machine: &Machine, file: &str, tag: &str) {
    let load = machine.run(&["image", "load", file, "-t", tag]);
    assert!(load.status.success(), "{}", String::from_utf8_lossy(&load.stderr));
}
