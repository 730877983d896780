//! `isthmus store`: look at the store of a cluster, save it, replace it, accept it.
//!
//! These commands open the store themselves, by the static configuration, so they work when no process
//! runs. An embedded store serves one process: stop that first. An etcd can be saved while it is used.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use federation::clock;
use federation::config::{Config, Overrides, StoreConfig};
use federation::store::backup::{BACKUP_BYTES_MAX, Backup, Existing};
use federation::store::familiarity::{self, Familiarity, Found, Known};
use federation::store::meta::{self, Meta, Owner};
use federation::store::{Etcd, Fault, Prefix, Store, StoreId, connect, keys, list_all};
use serde::Serialize;

use super::{Format, output};

#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Show which store it is, what is in it, and whether this machine knows it
    Status(Which),
    /// Write everything in the store, as of one moment, into a new file (mode 0600)
    #[command(
        after_help = "A backup shows who trusts whom: peers, bundles, imports, applied documents, allocated addresses.\n\
        It holds no private key and no join token; the CA is below the data directory and needs a backup of its own.\n\
        Keep it as you keep the store. What hangs on a lease is left out."
    )]
    Backup {
        #[command(flatten)]
        which: Which,
        /// The new file, or - for standard output
        file: PathBuf,
    },
    /// Fill an empty store from a backup; stop every process of the cluster first
    #[command(after_help = "Processes see that the store was restored on purpose and go on with it.\n\
        What happened after the backup is forgotten: peers that joined since must join again.")]
    Restore {
        #[command(flatten)]
        which: Which,
        /// What `isthmus store backup` wrote
        file: PathBuf,
        /// Replace everything that is in the store
        #[arg(long)]
        force: bool,
    },
    /// Trust a store that is not the one, or not as new as the one, that this machine knew
    #[command(
        after_help = "A process that finds another store than before, or an earlier state of it, publishes nothing\n\
        from it: what it lacks would be withdrawn from all gateways and peers. Look at `isthmus store status` first."
    )]
    Accept(Which),
}

/// The cluster whose store is meant.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// The configuration file of the cluster
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Override one setting, for example --set store.embedded.path=/var/lib/isthmus
    #[arg(long = "set", value_name = "PATH=VALUE")]
    settings: Vec<String>,
}

impl StoreCommand {
    pub(super) fn run(self, format: Format) -> anyhow::Result<ExitCode> {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            match self {
                Self::Status(which) => status(&which.load()?, format).await,
                Self::Backup { which, file } => backup(&which.load()?, &file).await,
                Self::Restore { which, file, force } => restore(&which.load()?, &file, force).await,
                Self::Accept(which) => accept(&which.load()?).await,
            }
        })
    }
}

impl Which {
    fn load(&self) -> anyhow::Result<Config> {
        Ok(Config::load(self.config.as_deref(), &Overrides::from_process(&self.settings)?)?)
    }
}

/// What `store status` shows.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    store: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_version: Option<String>,
    id: StoreId,
    revision: u64,
    meta: Option<Meta>,
    known: Option<Known>,
    familiarity: Familiarity,
    /// Entries by what they are; null for what this user may not read.
    entries: BTreeMap<&'static str, Option<usize>>,
}

async fn status(config: &Config, format: Format) -> anyhow::Result<ExitCode> {
    let (store, server_version) = open(config).await?;
    let (meta, known, found) = look(config, &*store).await?;
    let familiarity = Familiarity::judge(known.as_ref(), &found);
    let status = Status {
        store: place(&config.store),
        server_version,
        id: found.known.id,
        revision: found.known.revision.0,
        meta,
        known,
        familiarity,
        entries: count(&*store).await?,
    };
    match format {
        Format::Json => output::json(&status)?,
        Format::Text => print(&status),
    }
    Ok(if status.familiarity.is_trusted() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(status: &Status) {
    let version = status.server_version.as_ref().map(|version| format!(", version {version}"));
    output::line(format!("{}{}", status.store, version.unwrap_or_default()));
    output::line(format!("id {}, revision {}", status.id, status.revision));
    match &status.meta {
        None => output::line("never used"),
        Some(meta) => {
            let Owner { cluster, trust_domain } = &meta.owner;
            output::line(format!("of cluster {cluster} ({trust_domain}), schema {}", meta.schema));
            if meta.restored > 0 {
                output::line(format!("restored from a backup {} times", meta.restored));
            }
            if meta.restoring {
                output::line(
                    "PROBLEM a restore has begun and not ended: run `isthmus store restore --force` again",
                );
            }
        }
    }
    output::line(explain(&status.familiarity, status.known.as_ref()));
    output::line("");
    let shown = |count: &Option<usize>| count.map_or("may not be read".to_owned(), |count| count.to_string());
    let rows: Vec<_> =
        status.entries.iter().map(|(name, count)| [(*name).to_owned(), shown(count)]).collect();
    output::table(["ENTRIES", "COUNT"], &rows);
}

fn explain(familiarity: &Familiarity, known: Option<&Known>) -> String {
    let before =
        known.map(|known| format!("{} at revision {}", known.id, known.revision)).unwrap_or_default();
    match familiarity {
        Familiarity::New => "this machine has not used a store yet".to_owned(),
        Familiarity::Familiar => "it is the store that this machine knows".to_owned(),
        Familiarity::Restored => "it was restored from a backup since this machine used it".to_owned(),
        Familiarity::OtherStore => format!("SUSPICIOUS another store: this machine knew {before}"),
        Familiarity::EarlierState => format!("SUSPICIOUS an earlier state: this machine knew {before}"),
    }
}

async fn backup(config: &Config, file: &Path) -> anyhow::Result<ExitCode> {
    let (store, _version) = open(config).await?;
    let backup = Backup::take(&*store, &Owner::of(config)).await?;
    let content = backup.render()?;
    if file == Path::new("-") {
        io::stdout().lock().write_all(&content).context("cannot write to standard output")?;
    } else {
        write_new(file, &content).with_context(|| format!("cannot write {}", file.display()))?;
    }
    output::note(format!(
        "{} entries as of revision {}; {} that hang on a lease are left out",
        backup.entries.len(),
        backup.header.revision,
        backup.left_out
    ));
    Ok(ExitCode::SUCCESS)
}

/// Whole and durable under its name, or not at all; never over another file.
fn write_new(file: &Path, content: &[u8]) -> anyhow::Result<()> {
    if file.exists() {
        bail!("it exists already; hint: choose another name, a backup never replaces a file");
    }
    let mut unfinished = file.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    let mut new = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    new.write_all(content)?;
    new.sync_all()?;
    fs::rename(&unfinished, file)?;
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(File::open(directory)?.sync_all()?)
}

async fn restore(config: &Config, file: &Path, force: bool) -> anyhow::Result<ExitCode> {
    let named = || format!("cannot restore {}", file.display());
    let backup = Backup::parse(&read(file).with_context(named)?).with_context(named)?;
    let (store, _version) = open(config).await?;
    let existing = if force { Existing::Replace } else { Existing::Refuse };
    let (entries, revision) = (backup.entries.len(), backup.header.revision);
    backup.restore(&*store, &Owner::of(config), existing).await?;
    output::note(format!(
        "{entries} entries of revision {revision} are restored; start the cluster's processes"
    ));
    Ok(ExitCode::SUCCESS)
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let opened = File::open(file)?;
    let length = opened.metadata()?.len();
    if length > BACKUP_BYTES_MAX {
        bail!("it has {length} bytes, at most {BACKUP_BYTES_MAX} are read");
    }
    let mut content = Vec::new();
    opened.take(BACKUP_BYTES_MAX).read_to_end(&mut content)?;
    Ok(content)
}

async fn accept(config: &Config) -> anyhow::Result<ExitCode> {
    let (store, _version) = open(config).await?;
    let (_meta, known, found) = look(config, &*store).await?;
    let familiarity = Familiarity::judge(known.as_ref(), &found);
    output::line(explain(&familiarity, known.as_ref()));
    if familiarity.is_trusted() {
        output::line("nothing is to be accepted");
        return Ok(ExitCode::SUCCESS);
    }
    familiarity::remember(&config.data, &found.known)
        .with_context(|| format!("cannot remember it in {}", config.data.display()))?;
    output::line(format!("accepted {} at revision {}", found.known.id, found.known.revision));
    Ok(ExitCode::SUCCESS)
}

async fn open(config: &Config) -> anyhow::Result<(Arc<dyn Store>, Option<String>)> {
    if let StoreConfig::Etcd(etcd) = &config.store {
        let etcd = Etcd::open(etcd.clone()).await?;
        let version = etcd.version().map(ToString::to_string);
        return Ok((Arc::new(etcd), version));
    }
    Ok((connect(config, clock::unix_now()).await?, None))
}

async fn look(config: &Config, store: &dyn Store) -> anyhow::Result<(Option<Meta>, Option<Known>, Found)> {
    let meta = meta::read(store).await?;
    let known = familiarity::recall(&config.data)
        .with_context(|| format!("cannot read what is known in {}", config.data.display()))?;
    let found = Found::look(store, meta.as_ref()).await?;
    Ok((meta, known, found))
}

fn place(store: &StoreConfig) -> String {
    match store {
        StoreConfig::Embedded { path } => format!("embedded store in {}", path.display()),
        StoreConfig::Etcd(etcd) => format!("etcd at {}, below {}", etcd.endpoints.join(", "), etcd.prefix),
    }
}

async fn count(store: &dyn Store) -> anyhow::Result<BTreeMap<&'static str, Option<usize>>> {
    let places: [(&str, Prefix); 10] = [
        ("peers", keys::peers()),
        ("join tokens", keys::joins()),
        ("bundles", keys::bundles()),
        ("blocked authorities", keys::blocked()),
        ("acknowledgements", keys::acknowledgements()),
        ("imports", keys::imports()),
        ("addresses", keys::addresses()),
        ("claims", keys::claims()),
        ("documents of files", keys::documents()),
        ("applied documents", keys::applied()),
    ];
    let mut counts = BTreeMap::new();
    for (name, prefix) in places {
        let count = match list_all(store, &prefix).await {
            Ok(listing) => Some(listing.entries.len()),
            Err(Fault::Denied(_)) => None,
            Err(fault) => return Err(fault.into()),
        };
        counts.insert(name, count);
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use federation::store::{Key, Transaction, open};

    use super::*;

    fn which(directory: &Path) -> Which {
        let directory = directory.display();
        let settings =
            vec![format!("store.embedded.path={directory}/store"), format!("data={directory}/data")];
        Which { config: None, settings }
    }

    fn run(command: StoreCommand) -> anyhow::Result<ExitCode> {
        command.run(Format::Json)
    }

    /// What a process does when it starts; its error, if it does not.
    fn start(directory: &Path) -> Option<String> {
        let config = which(directory).load().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = match open(&config, clock::unix_now()).await {
                Ok(store) => store,
                Err(refused) => return Some(refused.to_string()),
            };
            let key = Key::new(&format!("{}applied/Service/shop/cart", keys::ROOT)).unwrap();
            store.commit(Transaction::new().put(key, "x")).await.unwrap();
            None
        })
    }

    #[test]
    fn a_backup_is_private_and_fills_an_empty_store() {
        let parent = tempfile::tempdir().unwrap();
        let [a, b, file] = ["a", "b", "file"].map(|name| parent.path().join(name));
        assert_eq!(start(&a), None);
        let backup = || StoreCommand::Backup { which: which(&a), file: file.clone() };
        run(backup()).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let refused = run(backup()).unwrap_err();
        assert!(format!("{refused:#}").contains("exists already"), "{refused:#}");

        let restore = |force| run(StoreCommand::Restore { which: which(&b), file: file.clone(), force });
        restore(false).unwrap();
        assert!(restore(false).unwrap_err().to_string().contains("the store has 1 entries"));
        restore(true).unwrap();
        run(StoreCommand::Status(which(&b))).unwrap();
        assert_eq!(start(&b), None);
    }

    #[test]
    fn another_store_is_used_once_it_is_accepted() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(start(directory.path()), None);
        fs::remove_dir_all(directory.path().join("store")).unwrap();
        let refused = start(directory.path()).unwrap();
        assert!(refused.contains("isthmus store accept"), "{refused}");
        run(StoreCommand::Status(which(directory.path()))).unwrap();
        run(StoreCommand::Accept(which(directory.path()))).unwrap();
        assert_eq!(start(directory.path()), None);
    }
}
