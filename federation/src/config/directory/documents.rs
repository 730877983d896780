//! From the content of files to what differs: pure.
//!
//! - A document that turned bad keeps its last good state. If it is so bad that its name is lost,
//!   nothing of its file is taken away, since it may be any of them.
//! - Of two files with the same object, the one that had it first keeps it; at start, the first by path.
//! - Nothing is taken away before it was missing twice.
//! - Files that take very much with them at once are not believed to be gone: what they said stays in
//!   use until they come back, or until somebody says that it shall go by putting them back empty (E23).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::scan::Scan;
use super::{Problem, Severity};
use crate::catalog::{Cause, Event, Loss, Losses, Object, Source};
use crate::kubernetes::objects::{DocumentError, ParsedDocument, parse_documents};
use crate::model::{ObjectKey, Timestamp};

/// Problems that are reported; somebody who has more begins with these.
const PROBLEMS_MAX: usize = 1000;
/// How the directory itself is named, where files are named by their place below it.
const WHOLE_DIRECTORY: &str = "(the configuration directory)";

#[derive(Debug, Default)]
pub(super) struct Documents {
    files: BTreeMap<Arc<str>, FileState>,
    /// What the catalog was told.
    told: BTreeMap<ObjectKey, Told>,
    /// Places that could not be read.
    unreadable: BTreeMap<Arc<str>, String>,
    duplicates: Vec<Problem>,
    /// What is held although its files are gone.
    held_loss: Option<Loss>,
}

#[derive(Debug, Default)]
struct FileState {
    /// The text of the last pass in which the file was read.
    text: String,
    held: BTreeMap<ObjectKey, Held>,
    problems: Vec<Problem>,
    /// The content is new, and has to be read again.
    unsettled: bool,
    /// The file was not there in the last pass.
    missing: bool,
    /// The file is gone with too much to be believed, since then.
    held_since: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq)]
struct Held {
    line: u32,
    object: Arc<Object>,
}

#[derive(Debug, PartialEq)]
struct Told {
    file: Arc<str>,
    held: Held,
}

/// A file as it parses now.
#[derive(Default)]
struct Parsed {
    good: BTreeMap<ObjectKey, Held>,
    /// Names of bad documents.
    bad: BTreeSet<ObjectKey>,
    /// A bad document does not even say its name.
    nameless: bool,
    problems: Vec<Problem>,
}

impl Documents {
    /// Takes in a pass; returns what the catalog has to know.
    pub(super) fn take_in(&mut self, scan: Scan, now: Timestamp) -> Vec<Event> {
        self.unreadable = scan.unreadable;
        for (file, read) in scan.read {
            let state = self.files.entry(Arc::clone(&file)).or_default();
            match read {
                Ok(text) => state.update(&file, text),
                Err(message) => state.keep(problem(&file, None, message)),
            }
        }
        self.drop_missing(&scan.present, now);
        self.tell(now)
    }

    fn drop_missing(&mut self, present: &BTreeSet<Arc<str>>, now: Timestamp) {
        self.held_loss = self.loss(present);
        let (unreadable, mass) = (&self.unreadable, self.held_loss.is_some());
        self.files.retain(|file, state| {
            if present.contains(file) {
                (state.missing, state.held_since) = (false, None);
                return true;
            }
            if unreadable.keys().any(|place| is_below(file, place)) {
                (state.missing, state.unsettled) = (false, false);
                return true;
            }
            // The second pass without the file ends it, unless too much would go.
            let gone = std::mem::replace(&mut state.missing, true);
            if gone && mass {
                state.held_since.get_or_insert(now);
            }
            !gone || state.held_since.is_some()
        });
    }

    /// What files that are gone take with them, if it is too much at once to be believed.
    fn loss(&self, present: &BTreeSet<Arc<str>>) -> Option<Loss> {
        let is_here = |file: &Arc<str>| {
            present.contains(file) || self.unreadable.keys().any(|place| is_below(file, place))
        };
        let here = self.files.iter().filter(|(file, _)| is_here(file));
        // An object that moves to another file is not lost.
        let kept: BTreeSet<_> = here.flat_map(|(_, state)| state.held.keys()).collect();
        let mut losses = Losses::default();
        for (file, state) in &self.files {
            for (key, held) in &state.held {
                let Object::Endpoints(slice) = &*held.object else { continue };
                match is_here(file) {
                    true => losses.keep(&slice.service, slice.endpoints.len()),
                    false if kept.contains(key) => {}
                    false => losses.lose(&slice.service, slice.endpoints.len()),
                }
            }
        }
        losses.mass(Cause::Relist)
    }

    /// Tells of files that are gone and whose documents are in use all the same.
    fn held(&self) -> Option<Problem> {
        let held = self.files.values().filter_map(|state| state.held_since);
        let (files, since) = (held.clone().count(), held.min()?);
        let Loss { lost, of } = self.held_loss.unwrap_or_default();
        let message = format!(
            "{files} files are gone at once, with {lost} of {of} endpoints; what they said stays in use \
             since {since}; hint: mount the volume again, or put the files back empty to remove what was in them"
        );
        Some(problem(&WHOLE_DIRECTORY.into(), None, message))
    }

    fn tell(&mut self, now: Timestamp) -> Vec<Event> {
        let wanted = self.wanted();
        let applied = wanted.iter().filter(|(key, told)| self.told.get(*key) != Some(*told));
        let mut events: Vec<_> = applied
            .map(|(key, told)| Event::ObjectApplied {
                source: told.source(),
                key: key.clone(),
                created: now,
                object: Object::clone(&told.held.object),
            })
            .collect();
        // Removals come last, so that an object that moves to another file is never gone in between.
        for (key, told) in &self.told {
            if wanted.get(key).is_none_or(|kept| kept.file != told.file) {
                events.push(Event::ObjectRemoved { source: told.source(), key: key.clone() });
            }
        }
        self.told = wanted;
        events
    }

    /// Every object with the one file that owns it.
    fn wanted(&mut self) -> BTreeMap<ObjectKey, Told> {
        let mut wanted: BTreeMap<ObjectKey, Told> = BTreeMap::new();
        for (key, told) in &self.told {
            let held = self.files.get(&told.file).and_then(|state| state.held.get(key));
            if let Some(held) = held {
                wanted.insert(key.clone(), Told { file: Arc::clone(&told.file), held: held.clone() });
            }
        }
        self.duplicates.clear();
        for (file, state) in &self.files {
            for (key, held) in &state.held {
                match wanted.get(key) {
                    Some(first) if first.file == *file => {}
                    Some(first) => self.duplicates.push(duplicate(file, key, held.line, &first.source())),
                    None => {
                        wanted.insert(key.clone(), Told { file: Arc::clone(file), held: held.clone() });
                    }
                }
            }
        }
        wanted
    }

    /// Whether another pass soon would change nothing by itself.
    pub(super) fn is_settled(&self) -> bool {
        !self.files.values().any(|state| state.unsettled || state.missing && state.held_since.is_none())
    }

    pub(super) fn problems(&self) -> Vec<Problem> {
        let places = self.unreadable.iter().map(|(place, message)| {
            let whole = || Arc::from(WHOLE_DIRECTORY);
            let place = if place.is_empty() { whole() } else { place.clone() };
            problem(&place, None, format!("{message}; what was known below it stays in use"))
        });
        let files = self.files.values().flat_map(|state| state.problems.iter().cloned());
        let mut all: Vec<_> = self
            .held()
            .into_iter()
            .chain(places)
            .chain(files)
            .chain(self.duplicates.iter().cloned())
            .collect();
        all.sort();
        all.truncate(PROBLEMS_MAX);
        all
    }
}

impl FileState {
    fn update(&mut self, file: &Arc<str>, text: String) {
        let again = self.text == text;
        let Parsed { good, bad, nameless, problems } = parse(file, &text);
        let before = std::mem::replace(&mut self.held, good);
        self.problems = problems;
        self.text = text;
        for (key, held) in before {
            if self.held.contains_key(&key) {
                continue;
            }
            let turned_bad = nameless || bad.contains(&key);
            if turned_bad || !again {
                self.held.insert(key, held);
            }
        }
        // Every new content is read once more in a moment, see `scan`.
        self.unsettled = !again;
    }

    fn keep(&mut self, problem: Problem) {
        self.problems = vec![problem];
        self.unsettled = false;
    }
}

impl Told {
    fn source(&self) -> Source {
        Source::File { path: Arc::clone(&self.file), line: self.held.line }
    }
}

fn parse(file: &Arc<str>, text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    for document in parse_documents(text) {
        match document {
            Ok(document) => parsed.take_good(file, document),
            Err(error) => parsed.take_bad(file, error),
        }
    }
    parsed
}

impl Parsed {
    fn take_good(&mut self, file: &Arc<str>, document: ParsedDocument) {
        let ParsedDocument { line, key, object, notes, .. } = document;
        if let Some(first) = self.good.get(&key) {
            let first = Source::File { path: Arc::clone(file), line: first.line };
            self.problems.push(duplicate(file, &key, line, &first));
            return;
        }
        self.good.insert(key, Held { line, object: Arc::new(object) });
        self.problems.extend(notes.into_iter().map(|note| Problem {
            file: Arc::clone(file),
            line: Some(note.line),
            field: Some(note.field),
            message: note.message,
            severity: Severity::Note,
        }));
    }

    fn take_bad(&mut self, file: &Arc<str>, error: DocumentError) {
        let DocumentError { line, field, message, key } = error;
        self.nameless |= key.is_none();
        self.bad.extend(key);
        self.problems.push(Problem { field, ..problem(file, Some(line), message) });
    }
}

fn problem(file: &Arc<str>, line: Option<u32>, message: String) -> Problem {
    Problem { file: Arc::clone(file), line, field: None, message, severity: Severity::Error }
}

fn duplicate(file: &Arc<str>, key: &ObjectKey, line: u32, first: &Source) -> Problem {
    problem(file, Some(line), format!("{key} is already defined by {first}; remove one of the two"))
}

/// Is a file the place itself or below it.
fn is_below(file: &str, place: &str) -> bool {
    place.is_empty() || file.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
