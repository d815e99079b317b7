//! Checks that no modules of a crate import each other in a circle.
//!
//! The check reads the source files. It follows `use` declarations and qualified paths that begin
//! with `crate`, `super`, `self` or the name of a child module. It ignores test modules.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::tidy::{root, sources};

/// The path of a module within its crate; the crate root is empty.
type Module = Vec<String>;

const CRATES: [&str; 8] = [
    "common/model/src",
    "common/src",
    "services/ingress/src",
    "services/worker/src",
    "services/scheduler/src",
    "services/api/src",
    "services/simulator/src",
    "services/pagesync/src",
];

/// Modules that exist only under `#[cfg(test)]`.
const TEST_MODULES: [&str; 5] = [
    "tests",
    "missed_webhooks_tests",
    "properties",
    "race",
    "replies",
];

fn words(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Returns the module of a source file, or `None` for a test module.
fn module_of(file: &Path, directory: &Path) -> Option<Module> {
    let relative = file.strip_prefix(directory).unwrap().with_extension("");
    let mut module: Module = relative
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if module
        .last()
        .is_some_and(|last| last == "mod" || last == "lib")
    {
        module.pop();
    }
    let is_left_out = module
        .last()
        .is_some_and(|last| last == "main" || TEST_MODULES.contains(&last.as_str()));
    (!is_left_out).then_some(module)
}

/// Returns the source without its comments, its string literals and the test module at its end.
fn code(text: &str) -> String {
    let production = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let mut code = String::new();
    for line in production.lines() {
        let line = line.split("//").next().unwrap();
        let outside = line.split('"').step_by(2).collect::<Vec<_>>().join(" ");
        // A path in `pub(in ...)` names a module, but imports nothing.
        match outside.split_once("pub(in ") {
            Some((before, rest)) => {
                let (_, after) = rest.split_once(')').unwrap();
                code.extend([before, "pub", after]);
            }
            None => code.push_str(&outside),
        }
        code.push('\n');
    }
    code
}

/// Expands a `use` tree such as `a::{b, c::{d, e}}` to its paths.
fn expand(tree: &str, prefix: &[String], paths: &mut Vec<Module>) {
    let tree = tree.trim();
    let Some((before, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap();
        let names = path
            .split("::")
            .map(str::trim)
            .filter(|name| !name.is_empty());
        paths.push(
            prefix
                .iter()
                .cloned()
                .chain(names.map(ToOwned::to_owned))
                .collect(),
        );
        return;
    };
    let names = before
        .split("::")
        .map(str::trim)
        .filter(|name| !name.is_empty());
    let prefix: Vec<String> = prefix
        .iter()
        .cloned()
        .chain(names.map(ToOwned::to_owned))
        .collect();
    let inner = &rest[..rest.rfind('}').unwrap()];
    let (mut depth, mut start) = (0, 0);
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&inner[start..at], &prefix, paths);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !inner[start..].trim().is_empty() {
        expand(&inner[start..], &prefix, paths);
    }
}

/// Returns every path in the code of a file.
fn paths_in(code: &str) -> Vec<Module> {
    let mut paths = Vec::new();
    let mut rest = String::new();
    for statement in code.split_inclusive(';') {
        match statement.rfind("use ") {
            Some(at) if statement.ends_with(';') && !statement[at..].contains(['=', '(']) => {
                expand(&statement[at + 4..statement.len() - 1], &[], &mut paths);
                rest.push_str(&statement[..at]);
            }
            _ => rest.push_str(statement),
        }
    }
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    for word in rest.split(|c: char| !is_path(c)) {
        let names: Vec<&str> = word.split("::").filter(|name| !name.is_empty()).collect();
        if names.len() > 1 {
            paths.push(words(&names));
        }
    }
    paths
}

/// Returns the module that contains the item at `path`, resolved in `module`.
fn target(path: &[String], module: &Module, modules: &BTreeSet<Module>) -> Option<Module> {
    let supers = path.iter().take_while(|name| *name == "super").count();
    let absolute: Module = match path.first()?.as_str() {
        "crate" => path[1..].to_vec(),
        "self" => [module.as_slice(), &path[1..]].concat(),
        "super" => {
            let parent = &module[..module.len().checked_sub(supers)?];
            [parent, &path[supers..]].concat()
        }
        child => {
            let child = [module.as_slice(), &words(&[child])].concat();
            if !modules.contains(&child) {
                return None;
            }
            [module.as_slice(), path].concat()
        }
    };
    let longest = (0..=absolute.len()).rev();
    let found = longest
        .map(|n| absolute[..n].to_vec())
        .find(|m| modules.contains(m))?;
    (found != *module).then_some(found)
}

/// Returns a circle of imports, if there is one.
fn cycle(imports: &BTreeMap<Module, BTreeSet<Module>>) -> Option<Vec<Module>> {
    for start in imports.keys() {
        let mut open = vec![start.clone()];
        let mut from: BTreeMap<Module, Module> = BTreeMap::new();
        while let Some(module) = open.pop() {
            for next in imports.get(&module).into_iter().flatten() {
                if next == start {
                    let mut circle = vec![start.clone(), module.clone()];
                    while circle.last() != Some(start) {
                        circle.push(from[circle.last().unwrap()].clone());
                    }
                    circle.reverse();
                    return Some(circle);
                }
                if !from.contains_key(next) {
                    from.insert(next.clone(), module.clone());
                    open.push(next.clone());
                }
            }
        }
    }
    None
}

fn imports_of(directory: &str) -> BTreeMap<Module, BTreeSet<Module>> {
    let base = root().join(directory);
    let files: BTreeMap<Module, String> = sources(directory)
        .into_iter()
        .filter_map(|file| {
            let module = module_of(&file, &base)?;
            Some((module, code(&std::fs::read_to_string(&file).unwrap())))
        })
        .collect();
    let modules: BTreeSet<Module> = files.keys().cloned().collect();
    files
        .iter()
        .map(|(module, code)| {
            let targets = paths_in(code)
                .iter()
                .filter_map(|path| target(path, module, &modules))
                .collect();
            (module.clone(), targets)
        })
        .collect()
}

#[test]
fn no_two_modules_import_each_other_in_a_circle() {
    for directory in CRATES {
        let imports = imports_of(directory);
        assert!(!imports.is_empty(), "{directory} has no source files");
        if let Some(circle) = cycle(&imports) {
            let names: Vec<String> = circle.iter().map(|module| module.join("::")).collect();
            panic!("{directory}: {}", names.join(" -> "));
        }
    }
}

#[test]
fn the_check_finds_imports_of_every_form() {
    let modules: BTreeSet<Module> = [
        vec![],
        words(&["store"]),
        words(&["store", "redis"]),
        words(&["queue"]),
    ]
    .into();
    let module = words(&["store"]);
    let seen = |code: &str| -> BTreeSet<Module> {
        let paths = paths_in(code);
        paths
            .iter()
            .filter_map(|path| target(path, &module, &modules))
            .collect()
    };
    let redis = BTreeSet::from([words(&["store", "redis"])]);
    let queue = BTreeSet::from([words(&["queue"])]);
    assert_eq!(seen("use crate::store::redis::Client;"), redis);
    assert_eq!(seen("use redis::{self, Client};"), redis);
    assert_eq!(seen("fn f() { redis::open() }"), redis);
    assert_eq!(seen("use super::{queue::Queue as _};"), queue);
    assert_eq!(seen("fn f(q: &crate::queue::Queue) {}"), queue);
    assert!(seen("pub mod redis;\nuse std::fmt;").is_empty());
    let circle = BTreeMap::from([
        (words(&["a"]), [words(&["b"])].into()),
        (words(&["b"]), [words(&["c"])].into()),
        (words(&["c"]), [words(&["a"])].into()),
    ]);
    assert_eq!(cycle(&circle).map(|circle| circle.len()), Some(4));
}
