//! The driver of libFuzzer: one program for all targets, which are functions of the crates they test.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

type Target = fn(&[u8]);

fuzz_target!(|bytes: &[u8]| chosen()(bytes));

/// The target that `tests/fuzz/run` asks for.
#[expect(clippy::disallowed_methods, reason = "the arguments belong to libFuzzer")]
fn chosen() -> Target {
    static CHOSEN: OnceLock<Target> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let name = std::env::var("ISTHMUS_FUZZ_TARGET").expect("tests/fuzz/run names a target");
        let own: &[(&'static str, Target)] = &[("planted", planted)];
        let targets =
            [trust_bundle::fuzzing::TARGETS, federation::fuzzing::TARGETS, gateway::fuzzing::TARGETS, own];
        let mut targets = targets.into_iter().flatten();
        targets.find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no target {name}")).1
    })
}

/// A bug behind words that nobody guesses without seeing what is compared: does the engine work?
fn planted(bytes: &[u8]) {
    let Some((length, rest)) = bytes.strip_prefix(b"isth").and_then(|rest| rest.split_first_chunk()) else {
        return;
    };
    assert!(u32::from_be_bytes(*length) != 0x0bad_cafe || !rest.starts_with(b"mus"), "the planted bug");
}
