//! What is generated and committed is what the program says now; what is an example is valid.
//!
//! `ISTHMUS_UPDATE=1 tests/run -p tests --test reference` writes the generated files anew.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test; it is told by its environment to write"
)]

use std::fs;
use std::path::{Path, PathBuf};

use federation::config::{Config, Overrides, schema};
use federation::kubernetes::objects::parse_documents;

#[test]
fn the_schema_is_the_one_that_is_printed() {
    compare("deploy/reference/isthmus.schema.json", &format!("{:#}\n", schema()));
}

#[test]
fn the_help_is_the_one_that_is_printed() {
    compare("deploy/reference/help.txt", &gateway::cli::help());
}

#[test]
fn examples_of_documents_are_valid() {
    let mut judged = 0;
    for file in files("deploy/examples", "yaml").iter().filter(|file| !file.ends_with("isthmus.yaml")) {
        for document in parse_documents(&fs::read_to_string(file).unwrap()) {
            let document = document.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            assert!(document.notes.is_empty(), "{}: {:?}", file.display(), document.notes);
            judged += 1;
        }
    }
    assert!(judged > 0);
}

#[test]
fn examples_of_static_files_are_valid() {
    let readme = fs::read_to_string(root("README.md")).unwrap();
    let in_readme =
        readme.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned());
    let example = fs::read_to_string(root("deploy/examples/isthmus.yaml")).unwrap();
    let mut judged = 0;
    for text in in_readme.chain([example]) {
        Config::parse(&text, Path::new(""), &Overrides::default())
            .unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        judged += 1;
    }
    assert!(judged >= 2);
}

fn compare(path: &str, now: &str) {
    let file = root(path);
    if std::env::var_os("ISTHMUS_UPDATE").is_some() {
        fs::write(&file, now).unwrap();
    }
    let committed = fs::read_to_string(&file).unwrap_or_default();
    assert!(committed == now, "{path} is not what the program says now; see the head of tests/reference.rs");
}

fn files(directory: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root(directory)).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|e| e == extension)).collect()
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}
