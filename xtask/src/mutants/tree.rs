//! A copy of the workspace in which all mutants stand beside one another, and its test programs.
//!
//! What does not compile is unviable: the compiler's errors say which mutants to leave out, and it is tried again until there are none.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::schema::{self, Instrumented, Mutant, Sites};
use crate::workspace::cargo;

/// The module that chooses.
const MUTATION: &str = include_str!("mutation.in.rs");
/// An error hides others: so many times is it tried again.
const ROUNDS: usize = 30;

/// The copy.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    target: PathBuf,
    files: BTreeMap<String, (String, Sites)>,
    /// What does not compile.
    pub(super) unviable: HashSet<usize>,
    /// What compiles, and cannot be chosen from.
    pub(super) inexpressible: HashSet<usize>,
}

impl Tree {
    /// Copies the workspace, and finds where the mutants are: those `chosen` from the list.
    pub(super) fn new(workspace: &Path, mutants: &[Mutant], chosen: &[usize]) -> Result<Self> {
        let (root, target) = (workspace.join("target/mutants/tree"), workspace.join("target/mutants/build"));
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| format!("emptying {}", root.display()))?;
        }
        copy(workspace, &root)?;
        let mut by_file = BTreeMap::<&str, Vec<(usize, &Mutant)>>::new();
        for position in chosen {
            by_file.entry(&mutants[*position].file).or_default().push((*position, &mutants[*position]));
        }
        let mut tree =
            Self { root, target, files: BTreeMap::new(), unviable: HashSet::new(), inexpressible: HashSet::new() };
        let mut next = 1;
        for (file, mutants) in by_file {
            let source = fs::read_to_string(tree.root.join(file)).with_context(|| format!("reading {file}"))?;
            let sites = schema::locate(&source, &mutants, &mut next).with_context(|| file.to_owned())?;
            tree.inexpressible.extend(&sites.nowhere);
            tree.unviable.extend(&sites.unviable);
            tree.files.insert(file.to_owned(), (source, sites));
        }
        let library = tree.root.join("vmcore/src/lib.rs");
        let text = fs::read_to_string(&library)?;
        let text = format!(
            "#![feature(core_intrinsics, const_eval_select)]\n#![allow(internal_features)]\n{text}\nmod mutation;\n"
        );
        fs::write(&library, text)?;
        fs::write(tree.root.join("vmcore/src/mutation.rs"), MUTATION)?;
        Ok(tree)
    }

    pub(super) fn sites(&self) -> impl Iterator<Item = &schema::Site> {
        self.files.values().flat_map(|(_, sites)| &sites.sites)
    }

    pub(super) fn constants(&self) -> impl Iterator<Item = usize> {
        self.files.values().flat_map(|(_, sites)| sites.constant.iter().copied())
    }

    /// Compiles the tests, or only those of some files of `vmcore/tests`, without what does not compile. Their programs.
    pub(super) fn build(&mut self, mutants: &[Mutant], only: &[String]) -> Result<Vec<PathBuf>> {
        let check = ["check", "--package", "vmcore", "--features", "sim,posix"];
        self.settle(mutants, &check)?;
        let mut test = vec!["test", "--package", "vmcore", "--no-run"];
        let target = |name: &String| if name == "lib" { String::from("--lib") } else { format!("--test={name}") };
        let only: Vec<_> = only.iter().map(target).collect();
        test.extend(only.iter().map(String::as_str));
        if only.is_empty() {
            test.extend(["--lib", "--test=mutants"]);
        }
        let messages = self.settle(mutants, &test)?;
        let programs = messages.iter().filter_map(|message| message["executable"].as_str().map(PathBuf::from));
        Ok(programs.collect())
    }

    /// Runs a command of cargo's until it finds no error. What it says then.
    fn settle(&mut self, mutants: &[Mutant], arguments: &[&str]) -> Result<Vec<Value>> {
        for round in 0..ROUNDS {
            let files = self.write(mutants)?;
            let output = cargo(&self.root)
                .env("CARGO_ENCODED_RUSTFLAGS", "--cfg=quick\x1f--cfg=mutants\x1f--cap-lints=allow")
                // A choice in a `const fn` needs to know whether it is made while compiling.
                .env("RUSTC_BOOTSTRAP", "vmcore")
                .env("CARGO_TARGET_DIR", &self.target)
                .env_remove("RUSTFLAGS")
                .args(arguments)
                .args(["--profile", "mutants", "--message-format=json"])
                .output()
                .context("compiling the mutants: cargo cannot be started")?;
            let messages: Vec<Value> = output
                .stdout
                .split(|byte| *byte == b'\n')
                .filter_map(|line| serde_json::from_slice(line).ok())
                .collect();
            if output.status.success() {
                return Ok(messages);
            }
            let (mut unviable, mut inexpressible, mut unexplained) = (HashSet::new(), HashSet::new(), String::new());
            let messages = messages.iter().map(|message| &message["message"]);
            for message in messages.filter(|message| message["level"] == "error") {
                match blamed(&files, message) {
                    Some((mutants, true)) => unviable.extend(mutants),
                    Some((mutants, false)) => inexpressible.extend(mutants),
                    None => unexplained.push_str(message["rendered"].as_str().unwrap_or_default()),
                }
            }
            // An error in an arm may have others around it.
            if !unviable.is_empty() {
                inexpressible.clear();
            }
            eprintln!(
                "  round {}: {} do not compile, {} cannot be chosen",
                round + 1,
                unviable.len(),
                inexpressible.len()
            );
            let nothing = unviable.is_empty() && inexpressible.is_empty();
            self.unviable.extend(unviable);
            self.inexpressible.extend(inexpressible);
            if nothing {
                bail!("compiling the mutants:\n{unexplained}\n{}", String::from_utf8_lossy(&output.stderr));
            }
        }
        bail!("compiling the mutants: errors after {ROUNDS} rounds")
    }

    fn write(&self, mutants: &[Mutant]) -> Result<BTreeMap<&str, Instrumented>> {
        let without: HashSet<_> = self.unviable.union(&self.inexpressible).copied().collect();
        let mut files = BTreeMap::new();
        for (file, (source, sites)) in &self.files {
            let instrumented = schema::instrument(source, &sites.sites, mutants, &without);
            let path = self.root.join(file);
            if fs::read_to_string(&path)? != instrumented.text {
                fs::write(&path, &instrumented.text)?;
            }
            files.insert(file.as_str(), instrumented);
        }
        Ok(files)
    }
}

/// The mutants that an error is about, and whether it is in what they change to.
fn blamed(files: &BTreeMap<&str, Instrumented>, message: &Value) -> Option<(Vec<usize>, bool)> {
    let mut spans: Vec<(bool, &str, usize)> = Vec::new();
    let mut stack = vec![message];
    while let Some(part) = stack.pop() {
        for span in part["spans"].as_array().into_iter().flatten() {
            let (Some(file), Some(at)) = (span["file_name"].as_str(), span["byte_start"].as_u64()) else { continue };
            spans.push((span["is_primary"] == true, file, at as usize));
        }
        stack.extend(part["children"].as_array().into_iter().flatten());
    }
    spans.sort_by_key(|(is_primary, ..)| !is_primary);
    for (_, file, at) in &spans {
        let Some(instrumented) = files.get(file) else { continue };
        let arms = instrumented.arms.iter().filter(|(range, _)| range.contains(at));
        if let Some((_, mutant)) = arms.min_by_key(|(range, _)| range.len()) {
            return Some((vec![*mutant], true));
        }
    }
    for (_, file, at) in &spans {
        let Some(instrumented) = files.get(file) else { continue };
        let choices = instrumented.choices.iter().filter(|(range, _)| range.contains(at));
        if let Some((_, mutants)) = choices.min_by_key(|(range, _)| range.len()) {
            return Some((mutants.clone(), false));
        }
    }
    None
}

/// Copies a workspace, without what is built from it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        if kind.is_dir() && name != "target" && name != ".git" {
            copy(&entry.path(), &to.join(name))?;
        } else if kind.is_file() {
            fs::copy(entry.path(), to.join(name)).with_context(|| format!("copying {}", entry.path().display()))?;
        }
    }
    Ok(())
}
