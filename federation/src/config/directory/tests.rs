//! Passes as data, and the whole source over a real directory.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::documents::Documents;
use super::scan::{self, Scanner};
use super::{DirectorySource, Problem, Problems};
use crate::catalog::{Event, Source};
use crate::model::Timestamp;

/// Far beyond what a pass takes; reached only when something is broken.
const DEADLINE: Duration = Duration::from_secs(20);

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n"
    )
}

/// One pass over these files, told as `+Kind/name file:line` and `-Kind/name file`.
fn pass(documents: &mut Documents, files: &[(&str, &str)]) -> Vec<String> {
    let scan = scan::Scan {
        present: files.iter().map(|(path, _)| (*path).into()).collect(),
        read: files.iter().map(|(path, text)| ((*path).into(), Ok((*text).to_owned()))).collect(),
        ..scan::Scan::default()
    };
    shown(documents.take_in(scan, Timestamp::from_unix(1)))
}

fn shown(events: Vec<Event>) -> Vec<String> {
    events.into_iter().map(|event| show(&event)).collect()
}

fn show(event: &Event) -> String {
    match event {
        Event::ObjectApplied { source, key, .. } => format!("+{} {source}", key.name),
        Event::ObjectRemoved { source: Source::File { path, .. }, key } => format!("-{} {path}", key.name),
        other => panic!("{other:?}"),
    }
}

fn messages(documents: &Documents) -> Vec<String> {
    let show = |p: Problem| {
        let line = p.line.map(|line| format!(":{line}")).unwrap_or_default();
        let field = p.field.map(|field| format!(" {field}")).unwrap_or_default();
        format!("{}{line}{field}: {}", p.file, p.message)
    };
    documents.problems().into_iter().map(show).collect()
}

#[test]
fn only_differences_are_told() {
    let mut documents = Documents::default();
    let (a, b) = (service("a", 80), service("b", 80));
    let both = format!("{a}---\n{b}");
    assert_eq!(pass(&mut documents, &[("x.yaml", &both)]), ["+a x.yaml:1", "+b x.yaml:6"]);
    assert!(pass(&mut documents, &[("x.yaml", &both)]).is_empty());
    let changed = format!("{a}---\n{}", service("b", 81));
    assert_eq!(pass(&mut documents, &[("x.yaml", &changed)]), ["+b x.yaml:6"]);
}

#[test]
fn what_is_gone_is_gone_at_the_second_look() {
    let mut documents = Documents::default();
    let both = format!("{}---\n{}", service("a", 80), service("b", 80));
    pass(&mut documents, &[("x.yaml", &both), ("y.yaml", &service("c", 1))]);
    pass(&mut documents, &[("x.yaml", &both), ("y.yaml", &service("c", 1))]);
    assert!(documents.is_settled());
    for (files, told) in [
        // Half-written, at the end of a document: nothing is told until it stays so.
        (vec![("x.yaml", service("a", 80)), ("y.yaml", service("c", 1))], &[][..]),
        (vec![("x.yaml", both.clone()), ("y.yaml", service("c", 1))], &[]),
        (vec![("x.yaml", String::new()), ("y.yaml", service("c", 1))], &[]),
        (vec![("x.yaml", both.clone()), ("y.yaml", service("c", 1))], &[]),
        (vec![("x.yaml", service("a", 80)), ("y.yaml", service("c", 1))], &[]),
        (vec![("x.yaml", service("a", 80)), ("y.yaml", service("c", 1))], &["-b x.yaml"]),
        // An editor moves the old file away before it writes the new one.
        (vec![("x.yaml", service("a", 80))], &[]),
        (vec![("x.yaml", service("a", 80)), ("y.yaml", service("c", 1))], &[]),
        (vec![("x.yaml", service("a", 80))], &[]),
        (vec![("x.yaml", service("a", 80))], &["-c y.yaml"]),
        (vec![], &[]),
        (vec![], &["-a x.yaml"]),
    ] {
        let files: Vec<_> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
        assert_eq!(pass(&mut documents, &files), told, "{files:?}");
    }
}

/// A service with so many endpoints.
fn crowd(name: &str, endpoints: usize) -> String {
    let addresses: Vec<_> =
        (1..=endpoints).map(|n| format!("{{addresses: [10.0.{}.{}]}}", n / 250, n % 250 + 1)).collect();
    format!(
        "{}---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\nports: [{{port: 1}}]\nendpoints: [{}]\n",
        service(name, 80),
        addresses.join(", ")
    )
}

#[test]
fn e23_files_that_take_too_much_with_them_are_not_believed_to_be_gone() {
    let (many, few) = (crowd("many", 60), crowd("few", 5));
    let all = [("many.yaml", many.as_str()), ("few.yaml", few.as_str())];
    let mut documents = Documents::default();
    pass(&mut documents, &all);
    pass(&mut documents, &all);
    // The volume is not mounted any more.
    for _ in 0..3 {
        assert!(pass(&mut documents, &[]).is_empty());
    }
    assert!(documents.is_settled(), "nothing has to be looked at sooner for that");
    let [held] = &messages(&documents)[..] else { panic!("{:?}", messages(&documents)) };
    assert!(held.contains("2 files are gone at once, with 65 of 65 endpoints"), "{held}");
    // It comes back, and nobody was told anything.
    assert!(pass(&mut documents, &all).is_empty());
    assert!(messages(&documents).is_empty());
    // A file that is edited, and then goes, takes with it what its owner has taken out.
    let emptied = [("many.yaml", ""), ("few.yaml", few.as_str())];
    pass(&mut documents, &emptied);
    assert_eq!(pass(&mut documents, &emptied), ["-many-1 many.yaml", "-many many.yaml"]);
    pass(&mut documents, &emptied[1..]);
    assert!(pass(&mut documents, &emptied[1..]).is_empty() && documents.is_settled());
    // What is small goes as ever.
    pass(&mut documents, &[]);
    assert_eq!(pass(&mut documents, &[]), ["-few-1 few.yaml", "-few few.yaml"]);
}

#[test]
fn e23_a_crowd_that_moves_to_another_file_is_not_lost() {
    let many = crowd("many", 60);
    let mut documents = Documents::default();
    for _ in 0..2 {
        pass(&mut documents, &[("a.yaml", &many)]);
    }
    for _ in 0..2 {
        pass(&mut documents, &[("b.yaml", &many)]);
    }
    assert!(documents.is_settled() && messages(&documents).is_empty(), "{:?}", messages(&documents));
}

#[test]
fn a_document_that_turned_bad_keeps_its_last_good_state() {
    let mut documents = Documents::default();
    let (a, b) = (service("a", 80), service("b", 80));
    pass(&mut documents, &[("x.yaml", &format!("{a}---\n{b}"))]);
    // Its name is still known: its neighbour may go, and a change of the neighbour is served.
    let bad = format!("{}---\n{}", service("a", 81), b.replace("port: 80", "port: many"));
    for told in [&["+a x.yaml:1"][..], &[]] {
        assert_eq!(pass(&mut documents, &[("x.yaml", &bad)]), told);
        assert!(
            messages(&documents)[0].starts_with("x.yaml:9 spec.ports[0].port: "),
            "{:?}",
            messages(&documents)
        );
    }
    let alone = b.replace("port: 80", "port: many");
    assert!(pass(&mut documents, &[("x.yaml", &alone)]).is_empty());
    assert_eq!(pass(&mut documents, &[("x.yaml", &alone)]), ["-a x.yaml"]);
    // Its name is lost: nothing of the file is taken away.
    for _look in 0..3 {
        assert!(pass(&mut documents, &[("x.yaml", "{broken")]).is_empty());
        assert_eq!(messages(&documents).len(), 1);
    }
    assert_eq!(pass(&mut documents, &[("x.yaml", &b)]), ["+b x.yaml:1"]);
    assert!(messages(&documents).is_empty());
}

#[test]
fn of_two_files_the_first_keeps_the_object() {
    let mut documents = Documents::default();
    let (at_80, at_81) = (service("a", 80), service("a", 81));
    assert_eq!(pass(&mut documents, &[("m.yaml", &at_80)]), ["+a m.yaml:1"]);
    let with_both = [("b.yaml", at_81.as_str()), ("m.yaml", at_80.as_str())];
    assert!(
        pass(&mut documents, &with_both).is_empty(),
        "who has it keeps it, though it comes later by path"
    );
    assert_eq!(
        messages(&documents),
        ["b.yaml:1: Service default/a is already defined by m.yaml:1; remove one of the two"]
    );
    assert!(pass(&mut documents, &[("b.yaml", &at_81)]).is_empty());
    let told = pass(&mut documents, &[("b.yaml", &at_81)]);
    assert_eq!(told, ["+a b.yaml:1", "-a m.yaml"], "the next follows before the first is gone");
    assert!(messages(&documents).is_empty());
}

#[test]
fn at_start_the_first_path_has_the_object() {
    let mut documents = Documents::default();
    let text = format!("{}---\n{}", service("a", 80), service("a", 81));
    assert_eq!(pass(&mut documents, &[("b.yaml", &service("a", 1)), ("a.yaml", &text)]), ["+a a.yaml:1"]);
    let messages = messages(&documents);
    assert!(
        messages[0].starts_with("a.yaml:6: Service default/a is already defined by a.yaml:1"),
        "{messages:?}"
    );
    assert!(
        messages[1].starts_with("b.yaml:1: Service default/a is already defined by a.yaml:1"),
        "{messages:?}"
    );
}

#[test]
fn a_place_that_cannot_be_read_keeps_what_was_known() {
    let mut documents = Documents::default();
    pass(&mut documents, &[("sub/a.yaml", &service("a", 80)), ("subway.yaml", &service("b", 80))]);
    for told in [&[][..], &["-b subway.yaml"], &[]] {
        let unreadable = [(Arc::from("sub"), "permission denied".to_owned())].into();
        let scan = scan::Scan { unreadable, ..scan::Scan::default() };
        assert_eq!(shown(documents.take_in(scan, Timestamp::from_unix(1))), told);
        assert!(messages(&documents)[0].starts_with("sub: permission denied"));
    }
}

#[test]
fn a_file_that_cannot_be_read_keeps_what_was_known() {
    let mut documents = Documents::default();
    pass(&mut documents, &[("a.yaml", &service("a", 80))]);
    let scan = || scan::Scan {
        present: [Arc::from("a.yaml")].into(),
        read: [(Arc::from("a.yaml"), Err("is not UTF-8".to_owned()))].into(),
        ..scan::Scan::default()
    };
    for _look in 0..3 {
        assert!(documents.take_in(scan(), Timestamp::from_unix(1)).is_empty());
        assert_eq!(messages(&documents), ["a.yaml: is not UTF-8"]);
    }
}

/// A source over a real directory, and what it tells.
struct Running {
    directory: tempfile::TempDir,
    events: mpsc::Receiver<Event>,
    problems: watch::Receiver<Problems>,
    shutdown: CancellationToken,
}

impl Running {
    /// Runs a scenario beside a source over the directory that it prepared.
    async fn with<F: Future<Output = ()>>(prepare: impl FnOnce(&Path), scenario: impl FnOnce(Self) -> F) {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path());
        let source = DirectorySource::build(directory.path().to_owned());
        let (sending, events) = mpsc::channel(1024);
        let (loading, mut loaded) = mpsc::channel::<()>(1);
        let shutdown = CancellationToken::new();
        let running = Self { directory, events, problems: source.problems(), shutdown: shutdown.clone() };
        let scenario = async {
            assert!(timeout(DEADLINE, loaded.recv()).await.unwrap().is_none(), "the first pass lets go");
            scenario(running).await;
            shutdown.cancel();
        };
        tokio::join!(source.run(sending, loading, shutdown.clone()), scenario);
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.directory.path().join(path), text).unwrap();
    }

    async fn told(&mut self) -> String {
        show(&timeout(DEADLINE, self.events.recv()).await.expect("told in time").expect("still running"))
    }

    async fn problems_are(&mut self, expected: &[&str]) {
        let holds = |problems: &Problems| {
            let shown = problems.iter().map(|p| format!("{}:{}", p.file, p.line.unwrap_or_default()));
            shown.eq(expected.iter().copied())
        };
        let waited = timeout(DEADLINE, self.problems.wait_for(holds)).await;
        assert!(waited.is_ok(), "{expected:?}");
    }
}

#[tokio::test]
async fn files_are_followed_as_they_come_change_and_go() {
    let prepare = |root: &Path| {
        fs::create_dir_all(root.join("sub/deep")).unwrap();
        fs::create_dir(root.join(".hidden")).unwrap();
        fs::write(root.join("a.yaml"), service("a", 80)).unwrap();
        fs::write(root.join("sub/deep/b.yml"), service("b", 80)).unwrap();
        for ignored in ["readme.md", ".hidden/c.yaml", ".d.yaml", "e.yaml~"] {
            fs::write(root.join(ignored), "{no document").unwrap();
        }
    };
    Running::with(prepare, async |mut running| {
        assert_eq!(running.told().await, "+a a.yaml:1");
        assert_eq!(running.told().await, "+b sub/deep/b.yml:1");
        running.write("a.yaml", &service("a", 81));
        assert_eq!(running.told().await, "+a a.yaml:1");
        fs::create_dir(running.directory.path().join("new")).unwrap();
        running.write("new/c.yaml", &service("c", 80));
        assert_eq!(running.told().await, "+c new/c.yaml:1");
        fs::remove_file(running.directory.path().join("sub/deep/b.yml")).unwrap();
        assert_eq!(running.told().await, "-b sub/deep/b.yml");
        running.write("a.yaml", "kind: Service\nmetadata: {");
        running.problems_are(&["a.yaml:2"]).await;
        running.write("a.yaml", &service("a", 82));
        assert_eq!(running.told().await, "+a a.yaml:1");
        running.problems_are(&[]).await;
        assert!(!running.shutdown.is_cancelled());
    })
    .await;
}

#[tokio::test]
async fn a_kubernetes_volume_is_followed_through_its_links() {
    // A ConfigMap volume: files are links into `..data`, which is a link that is replaced.
    let publish = |root: &Path, version: &str, port: u16| {
        fs::create_dir(root.join(version)).unwrap();
        fs::write(root.join(version).join("a.yaml"), service("a", port)).unwrap();
        std::os::unix::fs::symlink(version, root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    };
    let prepare = |root: &Path| {
        publish(root, "..1", 80);
        std::os::unix::fs::symlink("..data/a.yaml", root.join("a.yaml")).unwrap();
    };
    Running::with(prepare, async |mut running| {
        assert_eq!(running.told().await, "+a a.yaml:1");
        publish(running.directory.path(), "..2", 81);
        assert_eq!(running.told().await, "+a a.yaml:1");
    })
    .await;
}

#[tokio::test]
async fn a_directory_that_comes_late_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("conf.d");
    let source = DirectorySource::build(root.clone());
    let mut problems = source.problems();
    let (sending, mut events) = mpsc::channel(8);
    let shutdown = CancellationToken::new();
    let scenario = async {
        let missing = timeout(DEADLINE, problems.wait_for(|problems| problems.len() == 1)).await.unwrap();
        assert!(missing.unwrap()[0].message.starts_with("No such file"));
        fs::create_dir(&root).unwrap();
        fs::write(root.join("a.yaml"), service("a", 80)).unwrap();
        let told = timeout(DEADLINE, events.recv()).await.unwrap().unwrap();
        assert_eq!(show(&told), "+a a.yaml:1");
        shutdown.cancel();
    };
    tokio::join!(source.run(sending, (), shutdown.clone()), scenario);
}

#[test]
fn a_scan_reads_only_what_it_does_not_know() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.yaml"), "a: 1").unwrap();
    fs::write(directory.path().join("big.yaml"), vec![b' '; (4 << 20) + 1]).unwrap();
    fs::write(directory.path().join("bytes.yaml"), [0xff]).unwrap();
    std::os::unix::fs::symlink(".", directory.path().join("loop")).unwrap();
    let mut scanner = Scanner::new(directory.path().to_owned());
    let first = scanner.scan();
    assert_eq!(first.read["a.yaml"], Ok("a: 1".to_owned()));
    assert!(first.read["big.yaml"].as_ref().unwrap_err().contains("larger than"));
    assert!(first.read["bytes.yaml"].as_ref().unwrap_err().contains("UTF-8"));
    assert!(first.present.contains("loop/loop/a.yaml"), "a loop of links has an end");
    assert_eq!(scanner.scan().read.len(), first.read.len(), "each content is read twice");
    assert!(scanner.scan().read.is_empty());
    fs::write(directory.path().join("a.yaml"), "a: 2").unwrap();
    assert_eq!(scanner.scan().read["a.yaml"], Ok("a: 2".to_owned()));
}
