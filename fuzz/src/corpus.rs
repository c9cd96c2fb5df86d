//! The files that mutations start from: small, and committed.

use std::path::PathBuf;

use crate::models::{kinds, saved};

/// The folder of a target's files.
fn folder(target: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus")).join(target)
}

/// A target's files, in the order of their names.
pub fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = folder(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Writes the networks and posteriors anew, for when their files change.
pub fn write_corpus() -> std::io::Result<()> {
    let files = kinds().iter().map(|kind| ("checkpoint", kind.name, &kind.checkpoint));
    let files = files.chain(saved().iter().map(|saved| ("posterior", saved.name, &saved.posterior)));
    for (target, name, bytes) in files {
        std::fs::create_dir_all(folder(target))?;
        std::fs::write(folder(target).join(name), bytes)?;
        if target == "checkpoint" {
            // As other programs write it, so that mutations get beyond the fingerprint.
            std::fs::write(folder(target).join(format!("{name}_bare")), without_fingerprint(bytes))?;
        }
    }
    Ok(())
}

/// The file with its fingerprint under a name that nobody looks for.
fn without_fingerprint(file: &[u8]) -> Vec<u8> {
    let (mut file, name) = (file.to_vec(), b"fingerprint");
    if let Some(at) = file.windows(name.len()).position(|window| window == name) {
        file[at] = b'F';
    }
    file
}
