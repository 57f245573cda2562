//! Folders that are costly to make: made once per machine, then copied.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::task::spawn_blocking;

use crate::component::cache_folder;
use crate::fault::Fault;

/// A prepared folder, or the chance to make it. While one lives that is not made yet, nobody else makes it.
pub(crate) struct Prepared {
    path: PathBuf,
    parent: PathBuf,
    _lock: Option<File>,
}

impl Prepared {
    /// `name` says what it is; `program` and `settings` are what its content depends on.
    pub async fn open(name: &str, program: &Path, settings: &[String]) -> Result<Self, Fault> {
        let parent = cache_folder().join(".prepared");
        fs::create_dir_all(&parent).map_err(Fault::io("create", &parent))?;
        let key = format!("{name}-{:016x}", fingerprint(program, settings)?);
        let (path, lock_path) = (parent.join(&key), parent.join(format!("{key}.lock")));
        if path.is_dir() {
            return Ok(Self { path, parent, _lock: None }); // it appeared at once and is never changed
        }
        let lock = spawn_blocking(move || {
            let file = File::create(&lock_path).map_err(Fault::io("create", &lock_path))?;
            file.lock().map_err(Fault::io("lock", &lock_path))?;
            Ok(file)
        });
        let lock =
            lock.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        Ok(Self { path, parent, _lock: Some(lock) })
    }

    pub fn is_made(&self) -> bool {
        self.path.is_dir()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An empty folder to make it in, on the same file system; removed unless it is published.
    pub fn staging(&self) -> Result<TempDir, Fault> {
        tempfile::Builder::new()
            .prefix("making-")
            .tempdir_in(&self.parent)
            .map_err(Fault::io("create a folder in", &self.parent))
    }

    /// The whole folder appears at once.
    pub fn publish(&self, made: TempDir) -> Result<(), Fault> {
        fs::rename(made.path(), &self.path).map_err(Fault::io("rename", made.path()))?;
        let _ = made.keep(); // its name is no more, there is nothing to remove
        Ok(())
    }
}

/// Another version of the program, or other settings, prepare another folder.
fn fingerprint(program: &Path, settings: &[String]) -> Result<u64, Fault> {
    let program = program.canonicalize().map_err(Fault::io("find", program))?;
    let file = program.metadata().map_err(Fault::io("read", &program))?;
    let mut hasher = DefaultHasher::new();
    (&program, file.len(), file.mtime(), settings).hash(&mut hasher);
    Ok(hasher.finish())
}
