//! Makes the traits and messages of `helloworld.proto`, without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=src/helloworld.proto");
    let files = protox::compile(["helloworld.proto"], ["src"])?;
    tonic_prost_build::configure().build_client(false).build_transport(false).compile_fds(files)?;
    Ok(())
}
