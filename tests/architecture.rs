//! The sources as text: imports run downward only, and no files import each other, nor in a circle.
//!
//! An import is any path from one file of `src/` to something that another file defines, in a `use`
//! or spelled out in the code. Re-exports are looked through, and are none unless the file itself
//! uses the name.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// The layers, the highest first. A file imports from its own layer and from those below.
const LAYERS: &[&[&str]] = &[
    &["lib"],
    &["models", "shaders"],
    &["checkpoint"],
    &["ops"],
    &["simd"],
    &["tensor"],
    &["device"],
    &["host", "parallel", "wide"],
    &["error"],
];

/// Names of modules from the root of the crate, or segments of a path.
type Names = Vec<String>;

/// What a file says about others.
struct Source {
    file: String,
    /// Every name that it imports or re-exports, with the path as it is written.
    names: BTreeMap<String, Names>,
    /// What it uses: imports, and paths in its code.
    paths: Vec<Names>,
}

/// The files by their module.
fn sources() -> BTreeMap<Names, Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut sources) = (vec![root.clone()], BTreeMap::new());
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let file = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
            let mut module: Names = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
            module.pop_if(|last| matches!(last.as_str(), "lib" | "mod"));
            sources.insert(module, read(file, &text));
        }
    }
    sources
}

fn read(file: String, text: &str) -> Source {
    let (mut names, mut paths, mut reexports, mut code) = (BTreeMap::new(), Vec::new(), Vec::new(), String::new());
    let mut lines = text.lines().map(|line| line.split("//").next().unwrap_or(""));
    while let Some(line) = lines.next() {
        let (first, mut statement) = line.trim_start().split_once(' ').unwrap_or((line, ""));
        let is_public = first.starts_with("pub");
        if !is_public {
            statement = line.trim_start();
        }
        if let Some(tree) = statement.strip_prefix("use ") {
            let mut tree = tree.to_owned();
            while !tree.contains(';') {
                tree += lines.next().unwrap();
            }
            for path in expand(Names::new(), tree.trim_end_matches(';')) {
                let (path, name) = path;
                names.insert(name.clone(), path.clone());
                if is_public { reexports.push((name, path)) } else { paths.push(path) }
            }
        } else if statement.starts_with("mod ") && statement.ends_with('{') {
            // A module in the file: its tests.
            lines.find(|line| *line == "}");
        } else {
            code.push_str(line);
            code.push('\n');
        }
    }
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let words: BTreeSet<&str> = code.split(|c| !is_name(c)).collect();
    paths.extend(reexports.into_iter().filter(|(name, _)| words.contains(name.as_str())).map(|(_, path)| path));
    let spelled = code.split(|c| !is_name(c) && c != ':').filter(|word| word.contains("::"));
    paths.extend(spelled.map(segments));
    Source { file, names, paths }
}

fn segments(path: &str) -> Names {
    path.split("::").map(str::trim).filter(|segment| !segment.is_empty()).map(str::to_owned).collect()
}

/// The paths of a tree of imports, each with the name that it gives.
fn expand(before: Names, tree: &str) -> Vec<(Names, String)> {
    let tree = tree.trim();
    if tree.is_empty() {
        // What follows the last comma.
        return Vec::new();
    }
    if let Some((prefix, rest)) = tree.split_once('{') {
        let before = [before, segments(prefix)].concat();
        let (mut depth, mut start, mut paths) = (0, 0, Vec::new());
        for (i, c) in rest.char_indices() {
            match c {
                '{' => depth += 1,
                ',' if depth > 0 => {}
                '}' if depth > 0 => depth -= 1,
                ',' | '}' => {
                    paths.extend(expand(before.clone(), &rest[start..i]));
                    start = i + 1;
                }
                _ => {}
            }
        }
        return paths;
    }
    let (path, alias) = tree.split_once(" as ").unwrap_or((tree, ""));
    let mut path = [before, segments(path)].concat();
    // `{self}` is the module, and what `*` names is in it.
    path.pop_if(|last| last == "*");
    if path.len() > 1 {
        path.pop_if(|last| last == "self");
    }
    let Some(last) = path.last() else { return Vec::new() };
    let name = if alias.is_empty() { last } else { alias }.to_owned();
    vec![(path, name)]
}

/// The module whose file defines what a path in the file of `from` leads to, if it is of this crate.
fn resolve(sources: &BTreeMap<Names, Source>, from: &Names, path: &[String]) -> Option<Names> {
    let (first, mut rest) = path.split_first()?;
    let child = |at: &Names, name: &String| {
        Some([&at[..], std::slice::from_ref(name)].concat()).filter(|m| sources.contains_key(m))
    };
    let mut at = match first.as_str() {
        "crate" => Names::new(),
        "self" => from.clone(),
        "super" => from[..from.len() - 1].to_vec(),
        _ => match child(from, first) {
            Some(child) => child,
            None => {
                let path = sources[from].names.get(first).filter(|path| path[0] != *first)?;
                return resolve(sources, from, &[path, rest].concat());
            }
        },
    };
    while let Some((next, after)) = rest.split_first() {
        if next == "super" {
            at.pop();
        } else if let Some(child) = child(&at, next) {
            at = child;
        } else if let Some(path) = sources[&at].names.get(next) {
            return resolve(sources, &at, &[path, after].concat());
        } else {
            break;
        }
        rest = after;
    }
    Some(at)
}

/// Which files each file imports from.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let sources = sources();
    let of = |(module, source): (&Names, &Source)| {
        let modules = source.paths.iter().filter_map(|path| resolve(&sources, module, path));
        let files = modules.map(|module| sources[&module].file.clone()).filter(|file| *file != source.file);
        (source.file.clone(), files.collect())
    };
    sources.iter().map(of).collect()
}

#[test]
fn layers_import_downward() {
    let layer = |file: &str| {
        let name = file.split('/').next().unwrap().trim_end_matches(".rs");
        LAYERS.iter().position(|layer| layer.contains(&name)).unwrap_or_else(|| panic!("{name} is in no layer"))
    };
    for (file, imports) in imports() {
        let upward: Vec<&String> = imports.iter().filter(|import| layer(import) < layer(&file)).collect();
        assert!(upward.is_empty(), "{file} imports from a layer above its own: {upward:?}");
    }
}

#[test]
fn nothing_imports_each_other() {
    let imports = imports();
    assert!(imports.len() > 100 && imports["lib.rs"].is_empty(), "imports are not found as they should be");
    // An operation or a model may be of many files; none of them leads back to another's.
    let folder = |file: &str| file.trim_end_matches(".rs").splitn(3, '/').take(2).collect::<Vec<_>>().join("/");
    let mut folders = BTreeMap::<String, BTreeSet<String>>::new();
    for (file, imports) in &imports {
        let others = imports.iter().map(|import| folder(import)).filter(|other| *other != folder(file));
        folders.entry(folder(file)).or_default().extend(others);
    }
    for imports in [imports, folders] {
        let circles = circles(imports);
        assert!(circles.is_empty(), "import each other; move what all need below them: {circles:#?}");
    }
}

/// What imports each other, also in a circle of many: what is left when that which imports nothing,
/// or is imported by nothing, is taken away again and again.
fn circles(mut imports: BTreeMap<String, BTreeSet<String>>) -> BTreeMap<String, BTreeSet<String>> {
    loop {
        let before = imports.len();
        let imported: BTreeSet<String> = imports.values().flatten().cloned().collect();
        imports.retain(|file, others| imported.contains(file) && !others.is_empty());
        let left: BTreeSet<String> = imports.keys().cloned().collect();
        imports.values_mut().for_each(|others| others.retain(|other| left.contains(other)));
        if imports.len() == before {
            return imports;
        }
    }
}
