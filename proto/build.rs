//! Compiles the protobuf files without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = protox::compile(
        [
            "failsafe/v1/failsafe.proto",
            "failsafe/v1/attestation.proto",
            "failsafe/v1/canary.proto",
            "failsafe/v1/discovery.proto",
            "failsafe/v1/drill.proto",
            "failsafe/v1/metrics.proto",
            "failsafe/v1/shadow.proto",
            "failsafe/v1/log.proto",
            "failsafe/v1/incident.proto",
        ],
        ["."],
    )?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptor.bin"), prost::Message::encode_to_vec(&files))?;
    tonic_prost_build::configure().build_transport(true).compile_fds(files)?;
    println!("cargo::rerun-if-changed=failsafe");
    Ok(())
}
