//! The cookie that proves that whoever writes may read the process's files.
//!
//! Reading the admin API is open on its loopback listener; writing (tokens, trust, documents) needs
//! the content of a file of mode 0600 beside the data. The process tells where that file is, so the
//! command finds it by the address alone. The command sends only a file that looks like a cookie,
//! so that a stranger who answers on that address cannot ask for other files.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rand::TryRngCore;
use rand::rngs::OsRng;
use trust_bundle::{Hex, from_hex};

/// Name of the header that carries it.
pub const HEADER: &str = "isthmus-cookie";
const FILE_NAME: &str = "admin.cookie";
const PREFIX: &str = "isthmus-cookie-";
const SECRET_BYTES: usize = 32;
const TEXT_BYTES: usize = PREFIX.len() + 2 * SECRET_BYTES;

/// The secret of one process; a new one at each start.
pub struct Cookie {
    text: String,
    path: PathBuf,
}

impl Cookie {
    /// Writes a new cookie into the directory of the data.
    pub fn create(directory: &Path) -> io::Result<Self> {
        let mut secret = [0; SECRET_BYTES];
        OsRng.try_fill_bytes(&mut secret).map_err(io::Error::other)?;
        let text = format!("{PREFIX}{}", Hex(&secret));
        let path = directory.join(FILE_NAME);
        let fresh = directory.join(format!("{FILE_NAME}.new"));
        // Never through a file that somebody else made.
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&fresh)?
            .write_all(text.as_bytes())?;
        fs::rename(&fresh, &path)?;
        let path = path.canonicalize()?;
        Ok(Self { text, path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Compares without telling by time where the first difference is.
    pub fn matches(&self, offered: &[u8]) -> bool {
        let own = self.text.as_bytes();
        own.len() == offered.len() && own.iter().zip(offered).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
    }
}

/// Reads a cookie that a process says is its own; refuses what is none.
pub fn read(path: &Path) -> io::Result<String> {
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{} {why}", path.display()));
    if path.file_name().is_none_or(|name| name != FILE_NAME) {
        return Err(invalid("is not the name of a cookie"));
    }
    let file = fs::File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.mode() & 0o077 != 0 {
        return Err(invalid("is not a file of mode 0600"));
    }
    let mut text = String::new();
    file.take(TEXT_BYTES as u64 + 1).read_to_string(&mut text)?;
    if text.strip_prefix(PREFIX).and_then(from_hex::<SECRET_BYTES>).is_none() {
        return Err(invalid("does not hold a cookie"));
    }
    Ok(text)
}

impl std::fmt::Debug for Cookie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cookie at {}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_cookie_reads_back_and_matches_only_itself() {
        let directory = tempfile::tempdir().unwrap();
        let first = Cookie::create(directory.path()).unwrap();
        let text = read(first.path()).unwrap();
        assert!(first.matches(text.as_bytes()));
        let second = Cookie::create(directory.path()).unwrap();
        assert!(
            !second.matches(text.as_bytes())
                && !second.matches(b"")
                && !second.matches(&text.as_bytes()[1..])
        );
        assert_eq!(fs::metadata(second.path()).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_is_no_cookie_is_never_sent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        for content in
            ["", "secret", &format!("{PREFIX}{}", "g".repeat(64)), &format!("{PREFIX}{}\n", "a".repeat(64))]
        {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert!(read(&path).is_err(), "{content:?}");
        }
        fs::write(&path, format!("{PREFIX}{}", "a".repeat(64))).unwrap();
        assert!(read(&path).is_ok());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read(&path).is_err());
        assert!(read(Path::new("/etc/shadow")).is_err());
    }
}
