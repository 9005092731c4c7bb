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
