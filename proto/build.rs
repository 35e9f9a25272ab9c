//! Compiles the .proto files with a compiler written in Rust, so that `protoc` is not needed.

use std::path::Path;

const FILES: [&str; 4] = [
    "overlay/v1/membership.proto",
    "overlay/v1/control.proto",
    "overlay/v1/agent.proto",
    "overlay/v1/hand_over.proto",
];

/// Messages that carry a join secret or keys are never printed.
const SECRETS: [&str; 9] = [
    ".overlay.v1.JoinRequest",
    ".overlay.v1.AgentJoinRequest",
    ".overlay.v1.CreateTokenResponse",
    ".overlay.v1.EngineTunnel",
    ".overlay.v1.EngineSession",
    ".overlay.v1.EngineLink",
    ".overlay.v1.EngineNetwork",
    ".overlay.v1.EngineState",
    ".overlay.v1.HandOverEngines",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("proto");
    for file in FILES {
        println!("cargo::rerun-if-changed={}", root.join(file).display());
    }

    let mut compiler = protox::Compiler::new([root])?;
    compiler.include_source_info(true).include_imports(true).open_files(FILES)?;
    tonic_prost_build::configure()
        .btree_map(".")
        .skip_debug(SECRETS)
        .build_transport(false)
        .compile_fds(compiler.file_descriptor_set())?;

    Ok(())
}
