//! The command line as people and scripts meet it: exit codes, and errors that say what is right.

use crate::harness::*;
use std::process::Output;

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_wrong_flag_of_up_ends_with_2_before_anything_is_made_also_detached() {
    let machine = Machine::new();
    for flags in [
        &["--cpu", "banana"][..],
        &["--max-pods", "0"],
        &["--node-address", "8.8.8.8"],
        &["--pod-cidr", "10.0.0.0/8", "--service-cidr", "10.96.0.0/16"],
    ] {
        for detach in [&[][..], &["--detach"]] {
            let output = machine.run(&[&["up"], detach, flags].concat());
            assert_eq!(output.status.code(), Some(2), "{detach:?} {flags:?}: {}", error(&output));
            assert!(error(&output).contains(flags[0]), "{flags:?}: {}", error(&output));
        }
    }
    assert!(!machine.data().exists(), "nothing was made");
}

#[test]
fn an_empty_directory_is_taken_and_one_with_foreign_files_is_not_touched() {
    use std::os::unix::fs::PermissionsExt;
    let machine = Machine::new();
    let mode = |path: &std::path::Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    let foreign = machine.path("work");
    std::fs::write(foreign.join("notes.txt"), "mine").expect("written");
    let before = mode(&foreign);
    for command in [&["up"][..], &["up", "--detach"], &["image", "ls"], &["down"], &["get", "pods"]] {
        let output = machine.run(&[command, &["--data-dir", "."]].concat());
        assert_eq!(output.status.code(), Some(i32::from(command != ["down"])), "{command:?}: {}", error(&output));
        assert_eq!(mode(&foreign), before, "{command:?}");
        assert_eq!(std::fs::read_dir(&foreign).expect("read").count(), 1, "{command:?}");
    }
}
