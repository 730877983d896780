//! Where the demo keeps its files.

use std::path::{Path, PathBuf};

use anyhow::Context;

/// Where the clusters' files are; a temporary one goes with the demo.
pub(super) struct Directory {
    path: PathBuf,
    temporary: bool,
}

impl Directory {
    pub(super) fn kept(path: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path: path.canonicalize()?, temporary: false })
    }

    pub(super) fn temporary() -> anyhow::Result<Self> {
        let name = format!("isthmus-demo-{}-{:08x}", std::process::id(), rand::random::<u32>());
        let path = std::env::temp_dir().join(name);
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
            .create(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path, temporary: true })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.temporary {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
