//! Certificates from files: read when a connection is made, and again when they change (E2, E5).

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use etcd_client::{Certificate, Identity, TlsOptions};

use crate::config::EtcdTls;

/// A chain and a key take a few kilobytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("cannot read {path}: {source}", path = path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{path} has mode {mode:o}, so that others can read the key; hint: chmod 600 {path}", path = path.display())]
    Exposed { path: PathBuf, mode: u32 },
}

/// By what a changed file is recognised.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Stamp(Vec<Option<(SystemTime, u64)>>);

pub(super) fn stamp(tls: Option<&EtcdTls>) -> Stamp {
    let of = |path: &Path| fs::metadata(path).and_then(|file| Ok((file.modified()?, file.len()))).ok();
    Stamp(tls.map(|tls| paths(tls).into_iter().map(of).collect()).unwrap_or_default())
}

fn paths(tls: &EtcdTls) -> Vec<&Path> {
    let client = tls.client.iter().flat_map(|client| [client.cert.as_path(), client.key.as_path()]);
    std::iter::once(tls.ca.as_path()).chain(client).collect()
}

pub(super) fn load(tls: &EtcdTls) -> Result<TlsOptions, FilesError> {
    let options = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&tls.ca, Access::Anybody)?));
    let Some(client) = &tls.client else { return Ok(options) };
    let (cert, key) = (read(&client.cert, Access::Anybody)?, read(&client.key, Access::Owner)?);
    Ok(options.identity(Identity::from_pem(cert, key)))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Owner,
    Anybody,
}

fn read(path: &Path, access: Access) -> Result<Vec<u8>, FilesError> {
    let unreadable = |source| FilesError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let mode = metadata.permissions().mode() & 0o777;
    if access == Access::Owner && mode & 0o077 != 0 {
        return Err(FilesError::Exposed { path: path.to_owned(), mode });
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(unreadable(io::Error::other(format!(
            "{} bytes, at most {FILE_BYTES_MAX} are read",
            metadata.len()
        ))));
    }
    let mut content = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut content).map_err(unreadable)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClientCertificate;

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let [ca, cert, key] = ["ca", "cert", "key"].map(|name| directory.path().join(name));
        for path in [&ca, &cert, &key] {
            fs::write(path, "x").unwrap();
        }
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        let tls = EtcdTls { ca, client: Some(ClientCertificate { cert, key: key.clone() }) };
        assert!(matches!(load(&tls), Err(FilesError::Exposed { mode: 0o640, .. })));
        let before = stamp(Some(&tls));
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(load(&tls).is_ok());
        assert_eq!(stamp(Some(&tls)), before);
        fs::write(&key, "other").unwrap();
        assert_ne!(stamp(Some(&tls)), before);
    }
}
