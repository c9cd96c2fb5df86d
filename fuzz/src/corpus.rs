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

/// Where a file of a target is.
pub fn corpus_file(target: &str, name: &str) -> PathBuf {
    folder(target).join(name)
}

/// The networks and posteriors as the library writes them: target, name and file.
pub fn today() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut files = Vec::new();
    for kind in kinds() {
        // As other programs write it, too, so that mutations get beyond the fingerprint.
        files.push(("checkpoint", format!("{}_bare", kind.name), without_fingerprint(&kind.checkpoint)));
        files.push(("checkpoint", kind.name.to_owned(), kind.checkpoint.clone()));
    }
    files.extend(saved().iter().map(|saved| ("posterior", saved.name.to_owned(), saved.posterior.clone())));
    files
}

/// Writes the networks and posteriors anew, for when their files change.
pub fn write_corpus() -> std::io::Result<()> {
    for (target, name, bytes) in today() {
        std::fs::create_dir_all(folder(target))?;
        std::fs::write(corpus_file(target, &name), bytes)?;
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
