//! Where results go, checked before the work.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};

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

/// Sees that a file can be written, in a folder that is there. Leaves one that is there as it is, and a link, too.
///
/// # Errors
/// Names the file, and why.
pub fn file(path: &Path) -> Result<()> {
    let context = || format!("cannot write {}", path.display());
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.is_dir() {
        bail!("{}: there is no folder {}", context(), parent.display());
    }
    if path.try_exists().with_context(context)? {
        return may_write(path);
    }
    // A link that leads nowhere yet: what is made goes where it leads.
    if let Ok(target) = path.read_link() {
        return file(&parent.join(target)).with_context(context);
    }
    File::create_new(path).and_then(|_| fs::remove_file(path)).with_context(context)
}

/// Sees that a file that will be written, by way of the one beside it, is none of those that are read, which would be
/// lost.
///
/// # Errors
/// It is one of them.
pub fn unless_read<'a>(path: &Path, read: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    // Of one that is not there yet, where it will be.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let new = || Some(parent.canonicalize().ok()?.join(path.file_name()?));
    let Some(written) = path.canonicalize().ok().or_else(new) else { return Ok(()) };
    let beside = beside(&written);
    let is_lost = |read: &&Path| read.canonicalize().is_ok_and(|read| read == written || read == beside);
    if let Some(read) = read.into_iter().find(is_lost) {
        bail!("{} is read from, and would be lost if results were written to {}", read.display(), path.display());
    }
    Ok(())
}

/// Where a table is until all of it is there: of one name, so that the next run writes over what a kill has left.
fn beside(path: &Path) -> PathBuf {
    let mut beside = path.to_owned().into_os_string();
    beside.push(".part");
    PathBuf::from(beside)
}

/// A new file in the place of one, or of a link, which is not followed.
fn renewed(path: &Path) -> Option<File> {
    let _ = fs::remove_file(path);
    File::create_new(path).ok()
}

fn may_write(path: &Path) -> Result<()> {
    // Who reads from a pipe takes its being opened for the beginning, and closed for the end.
    #[cfg(unix)]
    if path.metadata().is_ok_and(|found| std::os::unix::fs::FileTypeExt::is_fifo(&found.file_type())) {
        return Ok(());
    }
    match File::options().write(true).open(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot write {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Writes a table. A file gets its name once all of it is on the disk: neither a full one nor a kill leaves a part, or
/// loses what was there. What is no file, as `/dev/stdout`, or stands where no other can be made, is written as it is.
///
/// # Errors
/// Names the file, and why.
pub fn table(path: &Path, write: impl FnOnce(&mut csv::Writer<File>) -> csv::Result<()>) -> Result<()> {
    let name = path.display().to_string();
    // Of a link, where it leads.
    let found = path.canonicalize().ok();
    let is_new = path.symlink_metadata().is_err();
    let is_file = is_new || !path.starts_with("/dev") && found.as_ref().is_some_and(|found| found.is_file());
    let path = found.unwrap_or_else(|| path.to_owned());
    let beside = beside(&path);
    let made = is_file.then(|| renewed(&beside)).flatten();
    let is_beside = made.is_some();
    let written = made.map_or_else(|| File::create(&path), Ok).map_err(csv::Error::from).and_then(|file| {
        let mut csv = csv::Writer::from_writer(file);
        write(&mut csv)?;
        csv.flush()?;
        if is_beside {
            csv.get_ref().sync_all()?;
            if let Ok(before) = path.metadata() {
                fs::set_permissions(&beside, before.permissions())?;
            }
            // What is mounted keeps its place.
            fs::rename(&beside, &path).or_else(|_| fs::copy(&beside, &path).map(drop))?;
        }
        Ok(())
    });
    if is_beside {
        // Gone where it has its name; half of one is of no use, and the first error says why.
        let _ = fs::remove_file(&beside);
    }
    written.map_err(|error| anyhow!(error).context(format!("cannot write {name}")))
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

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("wgpu-attention-{name}-{}", std::process::id()))
    }

    /// The old code made the file that a link led to, and removed the link.
    #[test]
    fn looking_whether_a_file_can_be_written_changes_nothing() {
        let [link, target] = ["link", "target"].map(path);
        std::os::unix::fs::symlink(&target, &link).unwrap();
        file(&link).unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink() && !target.exists());
        fs::write(&target, "kept").unwrap();
        file(&link).unwrap();
        assert_eq!(fs::read_to_string(&link).unwrap(), "kept");
        fs::remove_file(&target).unwrap();
        file(&target).unwrap();
        assert!(!target.exists());
        fs::remove_file(&link).unwrap();
        // Into a folder that is not there, and in a circle.
        for to in [target.join("file"), link.clone()] {
            std::os::unix::fs::symlink(to, &link).unwrap();
            let message = format!("{:#}", file(&link).unwrap_err());
            assert!(message.contains(&link.display().to_string()), "{message}");
            fs::remove_file(&link).unwrap();
        }
    }

    #[test]
    fn what_is_read_is_not_written_over_whatever_it_is_called() {
        let [read, link] = ["read", "alias"].map(path);
        fs::write(&read, "").unwrap();
        std::os::unix::fs::symlink(&read, &link).unwrap();
        assert!(unless_read(&link, [&*read]).is_err() && unless_read(&read, [&*read]).is_err());
        assert!(unless_read(&path("none"), [&*read]).is_ok() && unless_read(&read, [&*path("none")]).is_ok());
        fs::remove_file(&read).unwrap();
        fs::remove_file(&link).unwrap();
        // Nor by way of the file beside, or of a link there.
        let [out, other] = ["out", "other"].map(path);
        let part = beside(&out);
        fs::write(&part, "").unwrap();
        assert!(unless_read(&out, [&*part]).is_err());
        fs::remove_file(&part).unwrap();
        fs::write(&other, "kept").unwrap();
        std::os::unix::fs::symlink(&other, &part).unwrap();
        table(&out, |csv| csv.write_record(["a"])).unwrap();
        assert!(!out.symlink_metadata().unwrap().is_symlink() && part.symlink_metadata().is_err());
        assert_eq!(fs::read_to_string(&other).unwrap(), "kept");
        [out, other].iter().for_each(|path| fs::remove_file(path).unwrap());
    }

    #[test]
    fn a_table_that_fails_leaves_the_one_before() {
        let path = path("table.csv");
        table(&path, |csv| csv.write_record(["a", "b"])).unwrap();
        let failed = table(&path, |csv| {
            csv.write_record(["c", "d"])?;
            // Of another length.
            csv.write_record(["e"])
        });
        let message = format!("{:#}", failed.unwrap_err());
        assert!(message.contains("cannot write") && message.contains(&path.display().to_string()), "{message}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "a,b\n");
        assert!(!Path::new(&format!("{}.part", path.display())).exists());
        // A link stays one, also one that leads nowhere yet.
        let link = path.with_extension("link");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for names in [["c", "d"], ["e", "f"]] {
            table(&link, |csv| csv.write_record(names)).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), names.join(",") + "\n");
            assert!(link.symlink_metadata().unwrap().is_symlink());
        }
        fs::remove_file(&link).unwrap();
        fs::remove_file(&path).unwrap();
        // What is no file takes it as it comes.
        table(Path::new("/dev/null"), |csv| csv.write_record(["a"])).unwrap();
    }
}
