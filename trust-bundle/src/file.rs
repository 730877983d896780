//! Files that must be whole or not there, and files that nobody else may read.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::digest::Hex;
use crate::random::random;

/// The largest file that is read: keys, certificates and journals are far smaller.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Who may read a file that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Only the owner: keys.
    Owner,
    /// Everybody: certificates.
    Everybody,
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("others than its owner have access to it (mode {0:03o})")]
    Exposed(u32),
}

/// Makes a directory that only its owner can enter, unless it is there already.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a file so that a reader, and a crash, sees the old content or the new one.
pub(crate) fn write_atomically(path: &Path, content: &[u8], access: Access) -> io::Result<()> {
    let directory = directory_of(path);
    let unfinished = unfinished(path);
    let written = write_new(&unfinished, content, access).and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        // The error that counts is the first one.
        let _ = fs::remove_file(&unfinished);
    }
    written?;
    // The rename is only durable once the directory is.
    File::open(directory)?.sync_all()
}

/// Reads a bounded file, or says that there is none.
pub(crate) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match File::open(path) {
        Ok(file) => read_bounded(&file).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The same for a secret; refuses one that others than the owner could have read.
pub(crate) fn read_secret(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, ReadError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(ReadError::Exposed(mode));
    }
    Ok(Some(Zeroizing::new(read_bounded(&file)?)))
}

fn write_new(path: &Path, content: &[u8], access: Access) -> io::Result<()> {
    let mode = match access {
        Access::Owner => 0o600,
        Access::Everybody => 0o644,
    };
    // With its mode from the first moment: there is no time at which a key can be read.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn read_bounded(file: &File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    if length > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("{length} bytes, at most {FILE_BYTES_MAX} are read")));
    }
    // Room for all of it at once: growing would leave copies of a secret behind.
    let mut content = Vec::with_capacity(length as usize + 1);
    file.take(FILE_BYTES_MAX).read_to_end(&mut content)?;
    Ok(content)
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.unfinished", Hex(&random::<8>())));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_the_whole_content_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        assert!(read(&path).unwrap().is_none());
        write_atomically(&path, b"one, longer", Access::Everybody).unwrap();
        write_atomically(&path, b"two", Access::Everybody).unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"two");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn secrets_are_for_their_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        assert!(read_secret(&path).unwrap().is_none());
        write_atomically(&path, b"secret", Access::Owner).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read_secret(&path).unwrap().unwrap().as_slice(), b"secret");
        for mode in [0o640, 0o604, 0o620, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read_secret(&path), Err(ReadError::Exposed(m)) if m == mode), "{mode:o}");
        }
    }

    #[test]
    fn large_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("large");
        File::create(&path).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        assert!(read(&path).is_err());
    }
}
