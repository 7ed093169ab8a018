//! The direction of dependencies, from DESIGN.md:
//! `entity, units, error <- graph <- cost <- plan <- {check, solver, runtime} <- wrap <- cli`.
//! Solver, check and runtime never import one another. Only `graph/trace`, `runtime`, `wrap`,
//! `zoo` and the binary name Burn.

use std::path::{Path, PathBuf};

/// What each module may import from the crate, beside itself.
const MAY: &[(&str, &[&str])] = &[
    ("entity", &[]),
    ("units", &["error"]),
    // The error enum wraps the checkers' violations.
    // Rules and the like: its unit test makes one of each error.
    (
        "error",
        &[
            "units",
            "check::Violation",
            "check::Rule",
            "pipeline::Violation",
            "pipeline::Rule::NoReplica",
            "pipeline::Device",
            "pipeline::Chunk",
            "pipeline::Action::Update",
        ],
    ),
    ("files", &["error"]),
    ("alloc", &["units"]),
    ("stats", &[]),
    ("graph", &["entity", "units", "error"]),
    // The tracer makes whole problems, so it stands above costs; the rest of `graph` below them.
    ("graph/trace", &["entity", "units", "error", "graph", "cost"]),
    ("cost", &["entity", "units", "error", "files", "graph"]),
    ("plan", &["entity", "units", "error", "files", "graph", "cost"]),
    ("check", &["entity", "units", "error", "graph", "cost", "plan"]),
    ("solver", &["entity", "units", "error", "graph", "cost", "plan"]),
    ("runtime", &["entity", "units", "error", "files", "alloc", "graph", "cost", "plan", "pipeline"]),
    ("pipeline", &["units", "error", "files"]),
    ("joint", &["entity", "units", "error", "graph", "cost", "plan", "check", "solver", "pipeline"]),
    ("zoo", &["error", "graph"]),
    ("fuzz", &["entity", "units", "error", "graph", "cost", "plan", "check", "solver"]),
    (
        "wrap",
        &[
            "entity", "units", "error", "files", "alloc", "graph", "cost", "plan", "check", "solver", "pipeline",
            "joint", "runtime",
        ],
    ),
];

/// Where Burn may be named.
const BURN: &[&str] = &["graph/trace", "runtime", "wrap", "zoo", "bin"];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The code of a file: no comments, no doc tests.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    // Unit tests stand at a file's end and may use the generators of random problems.
    let text = text.split("#[cfg(all(test, feature = \"fuzzing\"))]").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// Every path named after `crate::`, with grouped imports spelt out one level deep.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(group) => {
                let group = group.split(';').next().unwrap();
                let mut depth = 0;
                let mut item = String::new();
                for c in group.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => found.push(std::mem::take(&mut item).trim().to_owned()),
                        _ if depth == 0 => item.push(c),
                        _ => {}
                    }
                }
                found.push(item.trim().to_owned());
            }
            None => {
                let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
                found.push(rest[..end].to_owned());
            }
        }
    }
    found.retain(|path| !path.is_empty());
    found
}

/// `src/plan/step.rs` is in module `plan`, at `plan/step.rs`.
fn place(path: &Path) -> (String, String) {
    let relative = path.strip_prefix("src").unwrap().to_string_lossy().replace('\\', "/");
    let module = match relative.starts_with("graph/trace") {
        true => "graph/trace".to_owned(),
        false => relative.split('/').next().unwrap().trim_end_matches(".rs").to_owned(),
    };
    (module, relative)
}

#[test]
fn modules_import_only_what_stands_below_them() {
    let mut files = Vec::new();
    sources(Path::new("src"), &mut files);
    let mut wrong = Vec::new();
    for path in &files {
        let (module, relative) = place(path);
        if module == "lib" || module == "bin" {
            continue;
        }
        let Some((_, may)) = MAY.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{relative}: give module `{module}` a place in the order of dependencies"));
            continue;
        };
        for import in imports(&code(path)) {
            let root = import.split("::").next().unwrap();
            // Names at the crate's root are re-exports of these; inside the crate they are imported from there.
            let known = MAY.iter().any(|(name, _)| *name == root);
            let upwards =
                import.starts_with("graph::trace") && ["graph", "cost", "plan", "check", "solver"].contains(&&*module);
            if upwards {
                wrong.push(format!("{relative} imports the tracer"));
            }
            if known && root != module && !may.contains(&root) && !may.contains(&import.as_str()) {
                wrong.push(format!("{relative} imports crate::{import}"));
            }
        }
    }
    assert!(files.len() > 20, "the sources were not found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_outer_modules_name_burn() {
    let mut files = Vec::new();
    sources(Path::new("src"), &mut files);
    let names_burn = |code: &str| {
        ["burn::", "burn_", "use burn;"].iter().any(|name| {
            code.match_indices(name).any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
        })
    };
    let wrong: Vec<String> = files
        .iter()
        .filter(|path| names_burn(&code(path)))
        .map(|path| place(path).1)
        .filter(|relative| {
            !BURN.iter().any(|may| relative.starts_with(&format!("{may}/")) || *relative == format!("{may}.rs"))
        })
        .collect();
    assert!(wrong.is_empty(), "these name Burn: {}", wrong.join(", "));
}

#[test]
fn the_scan_finds_imports() {
    let code =
        "use crate::graph::{Graph, Op};\nlet x: crate::plan::Step;\nuse crate::{check::check, cost::{A, B}, units};";
    assert_eq!(imports(code), ["graph::", "plan::Step", "check::check", "cost::", "units"]);
}
