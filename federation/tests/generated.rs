//! The committed wire code is what its definition says. No protoc is needed to build or to check it.
//!
//! `UPDATE=1 cargo test -p federation --test generated` writes it anew after a change of the definition.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::fs;
use std::path::Path;

const DEFINITION: &str = "peering.proto";
const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/peering/proto.rs");

#[test]
fn peering_code_is_generated_from_its_definition() {
    let generated = generate();
    if update_is_wanted() {
        fs::write(COMMITTED, &generated).unwrap();
    }
    let committed = fs::read_to_string(COMMITTED).unwrap_or_default();
    assert!(committed == generated, "proto.rs differs from {DEFINITION}: run this test with UPDATE=1");
}

fn generate() -> String {
    let includes = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let definition = protox::compile([DEFINITION], [includes]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    tonic_prost_build::configure()
        .out_dir(directory.path())
        .emit_rerun_if_changed(false)
        .compile_fds(definition)
        .unwrap();
    let code = fs::read_to_string(directory.path().join("isthmus.peering.v1.rs")).unwrap();
    format!("// @generated from proto/{DEFINITION} by tests/generated.rs; do not edit.\n{code}")
}

#[expect(clippy::disallowed_methods, reason = "a developer's switch, never set where the tests are run")]
fn update_is_wanted() -> bool {
    std::env::var("UPDATE").is_ok()
}
