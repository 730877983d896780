//! The corpus of fuzz targets as an ordinary test: what was once found is never found again.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use super::Target;

/// Runs every input that is kept for these targets; names those that fail.
pub(super) fn corpus(targets: &[Target]) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus");
    let mut failed = Vec::new();
    for (name, target) in targets {
        let mut inputs = 0;
        for entry in fs::read_dir(corpus.join(name)).expect("each target has a corpus") {
            let path = entry.expect("an entry of a directory").path();
            let bytes = fs::read(&path).expect("an input");
            inputs += 1;
            if catch_unwind(|| target(&bytes)).is_err() {
                failed.push(path);
            }
        }
        assert!(inputs > 0, "{name} has no inputs");
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
