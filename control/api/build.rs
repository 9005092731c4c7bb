//! Splits the schema data: the structure stays plain text, so that names are slices of the binary and cost no memory; the whole,
//! with its descriptions, is compressed and read only when somebody asks for OpenAPI.

use std::{env, error::Error, fs, io::Write, path::Path};

#[allow(clippy::disallowed_methods)] // the environment is cargo's way to name the output folder
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=data/kubernetes.txt");
    println!("cargo:rerun-if-changed=build.rs");
    let text = fs::read_to_string("data/kubernetes.txt")?;
    let mut structure = String::new();
    for line in text.lines().filter(|line| line.starts_with("D\t") || line.starts_with("F\t")) {
        let end = line.rfind('\t').ok_or("each line ends with its description")?;
        structure.push_str(&line[..end]);
        structure.push('\n');
    }
    let out = env::var("OUT_DIR")?;
    fs::write(Path::new(&out).join("structure.txt"), structure)?;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(text.as_bytes())?;
    fs::write(Path::new(&out).join("kubernetes.txt.gz"), packed.finish()?)?;
    Ok(())
}
