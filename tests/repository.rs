//! The repository around the sources: links of its pages, what the package holds, and the licences
//! of all that is built with it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// What all that is built with the crate may be licensed under.
const LICENCES: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "MIT",
    "NCSA",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    // Ballista's DataFusion reads compressed files.
    "bzip2-1.0.6",
];

/// In the lock and never built: what DataFusion has in a browser, where nothing here runs it.
const NEVER_BUILT: [&str; 1] = ["tiny-keccak"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn cargo(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(args).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "cargo {}: {}", args[0], String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The text of a page without its blocks of code.
fn prose(page: &Path) -> String {
    let text = std::fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
    text.split("```").step_by(2).collect()
}

/// The targets of a page's links and images that are no addresses.
fn relative_links(page: &Path) -> Vec<String> {
    let prose = prose(page);
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
    targets.filter(|target| !target.contains("://")).map(str::to_owned).collect()
}

/// What a link to each heading of a page says after the `#`.
fn anchors(page: &Path) -> Vec<String> {
    let headings = prose(page);
    let headings = headings.lines().filter_map(|line| line.strip_prefix('#')).map(|line| line.trim_start_matches('#'));
    let kept = |c: &char| c.is_alphanumeric() || "-_ ".contains(*c);
    headings.map(|text| text.trim().to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")).collect()
}

fn pages() -> Vec<PathBuf> {
    let folders = [
        "",
        "benches",
        "cli",
        "data",
        "docs",
        "integrations/ballista",
        "integrations/datafusion",
        "integrations/python",
        "training",
    ];
    let folders = folders.map(|folder| root().join(folder));
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut n_links = 0;
    for page in pages() {
        for link in relative_links(&page) {
            n_links += 1;
            let (file, anchor) = link.split_once('#').map_or((&link[..], None), |(file, anchor)| (file, Some(anchor)));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(target.exists(), "{} links to {link}, which is not there", page.display());
            let is_there = anchor.is_none_or(|anchor| anchors(&target).iter().any(|other| other == anchor));
            assert!(is_there, "{} links to {link}, which has no such heading", page.display());
        }
    }
    assert!(n_links > 10, "only {n_links} links were found");
}

#[test]
fn the_package_holds_what_its_readme_shows_and_opens() {
    let list = cargo(&["package", "--list", "--allow-dirty", "--offline", "-p", "wgpu-attention"]);
    let holds = |file: &str| list.lines().any(|line| line == file);
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let images = readme.split("![").skip(1).filter_map(|rest| rest.split("](").nth(1)?.split(')').next());
    let opened = readme.split('"').filter(|text| text.starts_with("checkpoints/"));
    let mut n_files = 0;
    for file in images.filter(|image| !image.contains("://")).chain(opened) {
        n_files += 1;
        assert!(holds(file), "README.md needs {file}, which is not in the package");
    }
    assert!(n_files > 2, "only {n_files} files were found");
}

#[test]
fn the_readme_names_the_rust_version_that_is_asked_for() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let version = env!("CARGO_PKG_RUST_VERSION");
    assert!(readme.contains(&format!("{version} or newer")), "README.md does not say {version} or newer");
}

#[test]
#[ignore = "fetches the manifests of the dependencies of every platform"]
fn every_dependency_has_a_licence_of_the_list() {
    let metadata: serde_json::Value =
        serde_json::from_str(&cargo(&["metadata", "--format-version", "1", "--locked"])).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100, "only {} packages", packages.len());
    let is_built = |package: &&serde_json::Value| NEVER_BUILT.iter().all(|name| package["name"] != *name);
    for package in packages.iter().filter(|package| !package["source"].is_null()).filter(is_built) {
        let (name, licence) = (&package["name"], package["license"].as_str().unwrap_or_default());
        let expression = spdx::Expression::parse_mode(licence, spdx::ParseMode::LAX)
            .unwrap_or_else(|error| panic!("{name}: {licence:?}: {error}"));
        // "With the LLVM exception" allows more than without it.
        let is_allowed =
            |licence: &spdx::LicenseReq| licence.license.id().is_some_and(|licence| LICENCES.contains(&licence.name));
        assert!(expression.evaluate(is_allowed), "{name} is under {licence:?}, which the list does not allow");
    }
}
