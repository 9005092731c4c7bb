//! Which platforms of images this machine runs.
//!
//! It follows the OCI image index specification, "Platform Variants", and the choice of containerd: the baseline of an architecture comes
//! first. An image for a level of amd64 that the processor has runs too, where there is no other.

use crate::manifest::Platform;

/// How well this machine runs Linux images for a platform: the least is the best; `None` if it does not.
pub(crate) fn fit(platform: &Platform) -> Option<u8> {
    fit_for(platform, std::env::consts::ARCH, level())
}

fn fit_for(platform: &Platform, machine: &str, level: u8) -> Option<u8> {
    let architecture = normal(&platform.architecture);
    if platform.os != "linux" || architecture != normal(machine) {
        return None;
    }
    match (architecture, platform.variant.as_str()) {
        (_, "") | ("amd64", "v1") | ("arm64", "v8" | "8") => Some(0),
        ("amd64", variant) => {
            let needs = variant.strip_prefix('v')?.parse().ok()?;
            (2..=level).contains(&needs).then_some(needs)
        }
        _ => None,
    }
}

fn normal(architecture: &str) -> &str {
    match architecture {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The level of the x86-64 psABI that the processor has, 1 to 4.
#[cfg(target_arch = "x86_64")]
fn level() -> u8 {
    macro_rules! has {
        ($($feature:tt)*) => { $(std::arch::is_x86_feature_detected!($feature))&&* };
    }
    match () {
        () if !has!("cmpxchg16b" "popcnt" "sse3" "sse4.1" "sse4.2" "ssse3") => 1,
        () if !has!("avx" "avx2" "bmi1" "bmi2" "f16c" "fma" "lzcnt" "movbe") => 2,
        () if !has!("avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl") => 3,
        () => 4,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn level() -> u8 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_runs_its_own_architecture_up_to_its_level() {
        for (platform, machine, level, want) in [
            ("linux/amd64", "x86_64", 1, Some(0)),
            ("linux/x86_64", "x86_64", 1, Some(0)),
            ("linux/amd64/v1", "x86_64", 1, Some(0)),
            ("linux/amd64/v2", "x86_64", 1, None),
            ("linux/amd64/v2", "x86_64", 3, Some(2)),
            ("linux/amd64/v3", "x86_64", 3, Some(3)),
            ("linux/amd64/v4", "x86_64", 3, None),
            ("linux/amd64/v0", "x86_64", 3, None),
            ("linux/amd64/3", "x86_64", 3, None),
            ("linux/amd64/v256", "x86_64", 3, None),
            ("linux/arm64", "x86_64", 4, None),
            ("linux/arm64", "aarch64", 1, Some(0)),
            ("linux/arm64/v8", "aarch64", 1, Some(0)),
            ("linux/aarch64/8", "aarch64", 1, Some(0)),
            ("linux/arm64/v9", "aarch64", 1, None),
            ("linux/arm/v7", "aarch64", 1, None),
            ("windows/amd64", "x86_64", 4, None),
            ("/", "x86_64", 4, None),
            ("linux/riscv64", "riscv64", 1, Some(0)),
        ] {
            let mut parts = platform.split('/').map(str::to_owned);
            let mut next = || parts.next().unwrap_or_default();
            let parsed = Platform { os: next(), architecture: next(), variant: next() };
            assert_eq!(fit_for(&parsed, machine, level), want, "{platform} on {machine}");
        }
        assert!((1..=4).contains(&level()));
    }
}
