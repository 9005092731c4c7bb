//! The figures of the issues, measured and printed as one table. Nothing asserts on them. Run on release builds:
//! `cargo bench --bench figures` (all), or with names of figures as arguments. The load generator is this process; its CPU time is
//! not counted. Figures that wait for the disk are printed beside its fsync p50, `F`.
#![allow(clippy::disallowed_methods, reason = "a bench reads the clock")]

mod density;
mod figures;
mod guests;
mod hostile;
#[path = "../hostile/mod.rs"]
mod hostile_guests;
mod load;
mod pods;
mod server;
mod stored;
mod watchers;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    if guests::serves_natively() {
        return;
    }
    rustls::crypto::ring::default_provider().install_default().expect("the first provider");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(figures::all(&wanted));
}
