//! Generates messages, clients and servers from the contract, without needing `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=logweir");
    #[cfg(feature = "grpc")]
    generate()?;
    Ok(())
}

#[cfg(feature = "grpc")]
fn generate() -> Result<(), Box<dyn std::error::Error>> {
    use prost::Message;

    let files = ["common", "produce", "fetch", "groups", "topics", "cluster"]
        .map(|name| format!("logweir/v1/{name}.proto"));
    let descriptors = protox::Compiler::new(["."])?
        .include_source_info(true)
        .include_imports(true)
        .open_files(&files)?
        .file_descriptor_set();
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    // `bytes` fields alias the received frame: the payload is not copied while decoding.
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::grpc::SizedCodec")
        .compile_fds(descriptors)?;
    // What brokers keep on disk: compiled apart, so that reflection does not show it.
    let internal = protox::compile(["logweir/internal/metadata.proto"], ["."])?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(internal)?;
    Ok(())
}
