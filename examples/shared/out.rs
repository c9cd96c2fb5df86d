//! Where results go, checked before the work.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

/// Makes a folder and sees that these files can be written in it: what cannot be kept is noticed
/// before the work, not after.
///
/// # Errors
/// Names the folder or the file, and why.
pub fn folder(folder: &Path, files: &[&str]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let probe = folder.join(format!(".probe-{}", std::process::id()));
    let made = File::create(&probe).and_then(|file| file.set_len(1)).and_then(|()| fs::remove_file(&probe));
    made.with_context(|| format!("cannot write into the folder {}", folder.display()))?;
    files.iter().try_for_each(|file| may_write(&folder.join(file)))
}

/// Sees that a file can be written, in a folder that is there. Leaves one that is there as it is.
///
/// # Errors
/// Names the file, and why.
pub fn file(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.is_dir() {
        bail!("cannot write {}: there is no folder {}", path.display(), parent.display());
    }
    if path.exists() {
        return may_write(path);
    }
    let made = File::create(path).and_then(|_| fs::remove_file(path));
    made.with_context(|| format!("cannot write {}", path.display()))
}

fn may_write(path: &Path) -> Result<()> {
    match File::options().write(true).open(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot write {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Keeps other runs away from a file as long as the result lives, by a lock on a file beside it
/// that ends with the process, however that ends. `what` is said to the second run.
///
/// # Errors
/// Another run has it, or the file beside it cannot be made.
pub fn lock(path: &Path, what: &str) -> Result<File> {
    let beside = PathBuf::from(format!("{}.lock", path.display()));
    let context = || format!("cannot write {}", beside.display());
    let file = File::options().write(true).create(true).truncate(false).open(&beside).with_context(context)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!("{what} (it has locked {})", beside.display()),
        // Some file systems have no locks: as good as can be had there.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(file),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", beside.display())),
    }
}
