//! The committed wire code is what its definition says. No protoc is needed to build or to check it.
//!
//! `UPDATE=1 cargo test -p federation --test generated` writes it anew after a change of the definition.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::fs;
use std::path::Path;

#[test]
fn peering_code_is_generated_from_its_definition() {
    compare("peering");
}

#[test]
fn control_code_is_generated_from_its_definition() {
    compare("control");
}

fn compare(module: &str) {
    let generated = generate(module);
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(module).join("proto.rs");
    if update_is_wanted() {
        fs::write(&committed, &generated).unwrap();
    }
    let committed = fs::read_to_string(committed).unwrap_or_default();
    assert!(
        committed == generated,
        "{module}/proto.rs differs from {module}.proto: run this test with UPDATE=1"
    );
}

fn generate(module: &str) -> String {
    let includes = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let definition = protox::compile([format!("{module}.proto")], [includes]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    tonic_prost_build::configure()
        .out_dir(directory.path())
        .emit_rerun_if_changed(false)
        .compile_fds(definition)
        .unwrap();
    let code = fs::read_to_string(directory.path().join(format!("isthmus.{module}.v1.rs"))).unwrap();
    format!("// @generated from proto/{module}.proto by tests/generated.rs; do not edit.\n{code}")
}

#[expect(clippy::disallowed_methods, reason = "a developer's switch, never set where the tests are run")]
fn update_is_wanted() -> bool {
    std::env::var("UPDATE").is_ok()
}
