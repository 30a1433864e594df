//! `cargo xtask mutants`: changes one thing of the library after the other, and sees whether a test notices.
//!
//! cargo-mutants lists the changes. All of a share stand in one program, which is compiled once, and one of them is chosen when it runs ([`schema`]); so a mutant costs what its tests take, until
//! the first of them fails. A share of all mutants is every n-th of them, the same ones every time.
//!
//! ```text
//!   viable ──┬─ caught:   a test failed, died, or took too long
//!            └─ missed:   every test passed: listed at the end, unless it is explained
//!   explained             nothing that can be observed changes, for the reason in `mutants-explained`
//!   unviable              did not compile: says nothing
//!   untried               of a constant, or not expressible: cannot be chosen when a program runs
//! ```

mod schema;
mod tree;
mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use self::schema::Mutant;
use self::tree::Tree;
use self::trial::{End, Test};
use crate::setup::{self, Tool};
use crate::workspace::{Workspace, cargo};

/// The least share of viable mutants that is to be caught, in percent.
const BAR: f64 = 85.0;

const MODULES: [&str; 4] = ["page_tree", "vm_area", "vm_space", "paging"];

/// Tests that take longer by themselves are for other commands.
const SLOWEST: Duration = Duration::from_secs(5);

/// Change one thing of page_tree, vm_area, vm_space or paging after the other, and see whether a test notices
///
/// Installs cargo-mutants if it is not there. Compiles the same share of the mutants every time into one program, and tries each on the tests that come by it. Ends with the share that was caught of
/// those that compile, and the survivors that `xtask/mutants-explained` does not explain; fails if it is less than 85 %.
///
/// While tests are written: `cargo xtask mutants --share all --only page_tree/relocate.rs --tests edges` tries all changes of a file on one file of tests, which takes a minute or two.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Arguments {
    /// Only these modules: page_tree, vm_area, vm_space, paging
    modules: Vec<String>,
    /// Which part of the mutants: every n-th
    #[arg(long, default_value = "1/5", value_parser = share)]
    share: Share,
    /// The first of them: 0 for the first share, 1 for the next, and so on
    #[arg(long, default_value_t = 0)]
    shift: u32,
    /// Only those whose name contains one of these texts: a place, a function, a change
    #[arg(long, num_args = 1.., conflicts_with = "again")]
    only: Vec<String>,
    /// Only those that this file names, as a run lists the missed: wherever in their files they stand by now
    #[arg(long)]
    again: Option<PathBuf>,
    /// Only the tests of these files of vmcore/tests, by their names without `.rs`; `lib` for the library's own
    #[arg(long, num_args = 1..)]
    tests: Vec<String>,
    /// Try so many at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    jobs: u32,
    /// Only count them
    #[arg(long)]
    list: bool,
}

/// One in so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share(u32);

/// `1/5`, or `all`.
pub(crate) fn share(text: &str) -> Result<Share, String> {
    let parts = if text == "all" { Some(1) } else { text.strip_prefix("1/").and_then(|parts| parts.parse().ok()) };
    parts.filter(|parts| *parts > 0).map(Share).ok_or_else(|| "must be 1/N, or all".into())
}

impl Default for Share {
    fn default() -> Self {
        Self(5)
    }
}

/// What became of the mutants of a module.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) module: &'static str,
    pub(crate) caught: u32,
    pub(crate) unviable: u32,
    pub(crate) explained: u32,
    /// In constants, or not expressible.
    pub(crate) untried: u32,
    pub(crate) survivors: Vec<String>,
}

impl Outcome {
    pub(crate) fn viable(&self) -> u32 {
        self.caught + self.survivors.len() as u32
    }

    fn percent(&self) -> f64 {
        100.0 * f64::from(self.caught) / f64::from(self.viable().max(1))
    }

    fn count(&mut self, (mutant, nth): (&Mutant, usize), end: Ended, explained: &Explained) {
        match end {
            Ended::Caught => self.caught += 1,
            Ended::Unviable => self.unviable += 1,
            Ended::Untried => self.untried += 1,
            Ended::Missed | Ended::Unreached if explained.covers(&mutant.name, nth) => self.explained += 1,
            Ended::Missed => self.survivors.push(mutant.name.clone()),
            Ended::Unreached => self.survivors.push(format!("{} (reached by no test)", mutant.name)),
        }
    }
}

/// What became of a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Caught,
    Missed,
    Unreached,
    Unviable,
    Untried,
}

/// `cargo xtask mutants`.
pub(crate) fn command(arguments: &Arguments) -> Result<ExitCode> {
    let workspace = Workspace::load()?;
    setup::ensure_tool(Tool::CargoMutants)?;
    let (mutants, chosen) = choose(&workspace.root, arguments)?;
    if arguments.list {
        for position in &chosen {
            println!("{}", mutants[*position].name);
        }
        println!("{} of {} mutants", chosen.len(), mutants.len());
        return Ok(ExitCode::SUCCESS);
    }
    let outcomes = run(&workspace.root, &mutants, &chosen, arguments)?;
    println!("{}", Table(&outcomes));
    Ok(if total(&outcomes).percent() >= BAR { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a share of all modules, for `cargo xtask verify`. Whether enough was caught, too.
pub(crate) fn verify(root: &Path, share: Share) -> Result<(Outcome, bool)> {
    setup::ensure_tool(Tool::CargoMutants)?;
    let arguments = Arguments { share, ..Arguments::default() };
    let (mutants, chosen) = choose(root, &arguments)?;
    let outcomes = run(root, &mutants, &chosen, &arguments)?;
    println!("{}", Table(&outcomes));
    let total = total(&outcomes);
    let is_enough = total.percent() >= BAR;
    Ok((total, is_enough))
}

fn total(outcomes: &[Outcome]) -> Outcome {
    let mut total = Outcome { module: "all", ..Outcome::default() };
    for one in outcomes {
        total.caught += one.caught;
        total.unviable += one.unviable;
        total.explained += one.explained;
        total.untried += one.untried;
        total.survivors.extend(one.survivors.iter().cloned());
    }
    total
}

/// The mutants of all modules, and the positions of those to try.
fn choose(root: &Path, arguments: &Arguments) -> Result<(Vec<Mutant>, Vec<usize>)> {
    for name in &arguments.modules {
        ensure!(MODULES.contains(&name.as_str()), "there is no module {name}: there are {}", MODULES.join(", "));
    }
    let mut command = cargo(root);
    command.args(["mutants", "--package", "vmcore", "--list", "--json", "--no-shuffle"]);
    for name in MODULES {
        command.args(["--file", &format!("vmcore/src/{name}.rs"), "--file", &format!("vmcore/src/{name}/**/*.rs")]);
    }
    let output = command.output().context("listing mutants: cargo cannot be started")?;
    ensure!(output.status.success(), "listing mutants: {}", String::from_utf8_lossy(&output.stderr));
    let mutants = parse(&output.stdout)?;
    let Share(every) = arguments.share;
    let again = match &arguments.again {
        None => None,
        Some(path) => Some(named(&fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?)),
    };
    let is_chosen = |mutant: &Mutant| {
        (arguments.modules.is_empty() || arguments.modules.iter().any(|name| name == module_of(&mutant.file)))
            && (arguments.only.is_empty() || arguments.only.iter().any(|text| mutant.name.contains(text)))
            && again.as_ref().is_none_or(|names| names.contains(&without_place(&mutant.name)))
    };
    let share = (0..mutants.len()).filter(|position| *position as u32 % every == arguments.shift % every);
    let chosen = share.filter(|position| is_chosen(&mutants[*position])).collect();
    Ok((mutants, chosen))
}

/// Reads the list that cargo-mutants makes.
fn parse(json: &[u8]) -> Result<Vec<Mutant>> {
    let all: Value = serde_json::from_slice(json).context("the list of mutants is no JSON")?;
    let mut mutants = Vec::new();
    for one in all.as_array().context("there is no list of mutants")? {
        let text = |key: &str| one[key].as_str().map(str::to_owned).with_context(|| format!("a mutant without {key}"));
        let place = |end: &str| -> Option<(usize, usize)> {
            let place = &one["span"][end];
            Some((place["line"].as_u64()? as usize, place["column"].as_u64()? as usize))
        };
        let (start, end) = place("start").zip(place("end")).context("a mutant without a place")?;
        let (file, name) = (text("file")?, text("name")?);
        mutants.push(Mutant { file, name, genre: text("genre")?, replacement: text("replacement")?, start, end });
    }
    Ok(mutants)
}

fn module_of(file: &str) -> &'static str {
    let file = file.trim_start_matches("vmcore/src/");
    let name = file.split(['/', '.']).next().unwrap_or_default();
    MODULES.into_iter().find(|module| *module == name).unwrap_or("other")
}

/// Tries the chosen mutants.
fn run(root: &Path, mutants: &[Mutant], chosen: &[usize], arguments: &Arguments) -> Result<Vec<Outcome>> {
    let explained = Explained::read(&root.join("xtask/mutants-explained"))?;
    let jobs = arguments.jobs.max(1) as usize;
    let mut tree = Tree::new(root, mutants, chosen)?;
    eprintln!("Compiling {} mutants …", chosen.len());
    let begin = Instant::now();
    let programs = tree.build(mutants, &arguments.tests)?;
    let directory = root.join("target/mutants/tree/vmcore");
    eprintln!("  {:.0} s. Running the tests without a mutant …", begin.elapsed().as_secs_f64());
    let begin = Instant::now();
    let tests = trial::survey(&programs, &directory, jobs)?;
    let quick: Vec<_> = tests.iter().filter(|test| test.took <= SLOWEST).collect();
    eprintln!("  {:.0} s. {} tests, {} of them quick enough.", begin.elapsed().as_secs_f64(), tests.len(), quick.len());
    let mut by_choice = BTreeMap::<u32, Vec<&Test>>::new();
    for test in &quick {
        for first in &test.reached {
            by_choice.entry(*first).or_default().push(test);
        }
    }
    let mut ends = BTreeMap::<usize, Ended>::new();
    ends.extend(tree.constants().map(|position| (position, Ended::Untried)));
    ends.extend(tree.unviable.iter().map(|position| (*position, Ended::Unviable)));
    ends.extend(tree.inexpressible.iter().map(|position| (*position, Ended::Untried)));
    let mut trials = Vec::new();
    for site in tree.sites() {
        let tests = by_choice.get(&site.first);
        for (number, position) in (site.first..).zip(&site.mutants) {
            match tests {
                _ if ends.contains_key(position) => {}
                Some(tests) => trials.push((*position, number, tests)),
                None => drop(ends.insert(*position, if site.in_const_fn { Ended::Untried } else { Ended::Unreached })),
            }
        }
    }
    trials.sort_by_key(|(position, ..)| *position);
    let log = root.join("target/mutants/trials");
    let log = Mutex::new((File::create(&log).with_context(|| format!("making {}", log.display()))?, 0, Instant::now()));
    let tried = trial::in_parallel(jobs, trials.len(), |index| {
        let (position, number, tests) = &trials[index];
        let begin = Instant::now();
        let (end, test) = trial::attempt(*number, tests, &directory)?;
        let caught = end != End::Passed;
        if let Ok(mut log) = log.lock() {
            let (file, done, since) = &mut *log;
            let name = &mutants[*position].name;
            writeln!(file, "{end:?}\t{:.2}\t{name}\t{test}", begin.elapsed().as_secs_f64())?;
            *done += 1;
            if *done % 100 == 0 {
                eprintln!("  {done} of {} tried, {:.0} s", trials.len(), since.elapsed().as_secs_f64());
            }
        }
        Ok((*position, if caught { Ended::Caught } else { Ended::Missed }))
    })?;
    ends.extend(tried);
    let mut outcomes = MODULES.map(|module| Outcome { module, ..Outcome::default() });
    let ordinals = ordinals(mutants);
    for (position, end) in ends {
        let mutant = &mutants[position];
        if let Some(outcome) = outcomes.iter_mut().find(|outcome| outcome.module == module_of(&mutant.file)) {
            outcome.count((mutant, ordinals[position]), end, &explained);
        }
    }
    Ok(outcomes
        .into_iter()
        .filter(|outcome| *outcome != Outcome { module: outcome.module, ..Outcome::default() })
        .collect())
}

/// Survivors that change nothing that can be observed.
#[derive(Debug, Default)]
struct Explained {
    /// Names of mutants, without line and column; where several have the same, perhaps with which of them it is.
    names: BTreeSet<String>,
}

impl Explained {
    fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Ok(Self::parse(&text))
    }

    /// Lines that begin with a space are names, below the reason for them.
    fn parse(text: &str) -> Self {
        Self { names: text.lines().filter(|line| line.starts_with(' ')).map(|line| line.trim().to_owned()).collect() }
    }

    fn covers(&self, name: &str, nth: usize) -> bool {
        let name = without_place(name);
        self.names.contains(&format!("{name} ({nth})")) || self.names.contains(&name)
    }
}

/// Of each mutant, the how manieth of that name it is in its file, from the top and from 1.
fn ordinals(mutants: &[Mutant]) -> Vec<usize> {
    let names: Vec<_> = mutants.iter().map(|mutant| without_place(&mutant.name)).collect();
    let mut sorted: Vec<_> = (0..mutants.len()).collect();
    sorted.sort_by_key(|position| (&names[*position], mutants[*position].start));
    let mut ordinals = vec![1; mutants.len()];
    for pair in sorted.windows(2) {
        if names[pair[0]] == names[pair[1]] {
            ordinals[pair[1]] = ordinals[pair[0]] + 1;
        }
    }
    ordinals
}

/// `vmcore/src/a.rs:1:2: replace …` without its line and column, which change with every edit above.
fn without_place(name: &str) -> String {
    let Some((file, rest)) = name.split_once(".rs:") else { return name.to_owned() };
    let text = rest.split_once(": ").map_or(rest, |(_, text)| text);
    format!("{}.rs: {text}", file.trim_start_matches("vmcore/src/"))
}

/// The names, without places, of a list of mutants that a run ended with.
fn named(list: &str) -> BTreeSet<String> {
    let names = list.lines().map(|line| line.strip_prefix("missed: ").unwrap_or(line));
    names.map(|name| without_place(name.trim_end_matches(" (reached by no test)"))).collect()
}

/// The modules, then the survivors.
struct Table<'a>(&'a [Outcome]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<12} {:>8} {:>8} {:>8} {:>9} {:>10} {:>9} {:>8}",
            "module", "viable", "caught", "missed", "caught %", "explained", "unviable", "untried"
        )?;
        for one in self.0.iter().chain([&total(self.0)]) {
            let (viable, missed, percent) = (one.viable(), one.survivors.len(), one.percent());
            let Outcome { module, caught, explained, unviable, untried, .. } = one;
            writeln!(
                f,
                "{module:<12} {viable:>8} {caught:>8} {missed:>8} {percent:>9.1} {explained:>10} {unviable:>9} {untried:>8}"
            )?;
        }
        for one in self.0 {
            for survivor in &one.survivors {
                writeln!(f, "missed: {survivor}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"[{"file": "vmcore/src/page_tree/edit.rs", "genre": "BinaryOperator", "package": "vmcore",
        "name": "vmcore/src/page_tree/edit.rs:12:7: replace < with <= in PageTree<V>::insert", "replacement": "<=",
        "span": {"start": {"line": 12, "column": 7}, "end": {"line": 12, "column": 8}}}]"#;

    #[test]
    fn the_list_is_read() {
        let mutants = parse(LIST.as_bytes()).unwrap();
        assert_eq!((mutants[0].start, mutants[0].end, mutants[0].replacement.as_str()), ((12, 7), (12, 8), "<="));
        assert_eq!(module_of(&mutants[0].file), "page_tree");
        assert_eq!(module_of("vmcore/src/page_tree.rs"), "page_tree");
        assert!(parse(LIST.replace("column", "row").as_bytes()).is_err());
    }

    #[test]
    fn ends_are_counted_and_explained() {
        let explained = Explained::parse(
            "# Survivors.\nThe same, since the two are never equal.\n  page_tree/edit.rs: replace < with <= in PageTree<V>::insert\n",
        );
        let mutant = parse(LIST.as_bytes()).unwrap().remove(0);
        let other = Mutant {
            name: "vmcore/src/page_tree/edit.rs:12:7: replace < with > in PageTree<V>::insert".into(),
            ..mutant.clone()
        };
        let mut outcome = Outcome { module: "page_tree", ..Outcome::default() };
        for (mutant, end) in [
            (&mutant, Ended::Caught),
            (&mutant, Ended::Missed),
            (&other, Ended::Missed),
            (&other, Ended::Unreached),
            (&other, Ended::Caught),
            (&other, Ended::Unviable),
            (&other, Ended::Untried),
        ] {
            outcome.count((mutant, 1), end, &explained);
        }
        assert_eq!((outcome.caught, outcome.viable(), outcome.explained), (2, 4, 1));
        assert_eq!((outcome.unviable, outcome.untried), (1, 1));
        let text = Table(&[outcome]).to_string();
        assert!(text.contains("50.0") && text.contains("insert (reached by no test)"), "{text}");
    }

    #[test]
    fn of_namesakes_one_is_explained() {
        let below = LIST.replace("12:7", "30:7").replace("\"line\": 12", "\"line\": 30");
        let mutants = [below.as_str(), LIST].map(|list| parse(list.as_bytes()).unwrap().remove(0));
        let ordinals = ordinals(&mutants);
        assert_eq!(ordinals, [2, 1]);
        let name = without_place(&mutants[0].name);
        for (text, covered) in [(format!(" {name} (2)"), [true, false]), (format!(" {name}"), [true, true])] {
            let explained = Explained::parse(&text);
            assert_eq!([0, 1].map(|at| explained.covers(&mutants[at].name, ordinals[at])), covered);
        }
    }

    #[test]
    fn a_list_names_mutants_wherever_they_stand_by_now() {
        let name = "page_tree/edit.rs:99:7: replace < with <= in PageTree<V>::insert";
        let mutant = &parse(LIST.as_bytes()).unwrap()[0];
        for line in [name.to_owned(), format!("missed: vmcore/src/{name}"), format!("{name} (reached by no test)")] {
            assert!(named(&format!("first\n{line}\n")).contains(&without_place(&mutant.name)), "{line}");
        }
        assert!(!named(&name.replace("<=", ">")).contains(&without_place(&mutant.name)));
    }

    #[test]
    fn shares_are_parts() {
        assert_eq!((share("1/5"), share("all")), (Ok(Share(5)), Ok(Share(1))));
        assert!(share("0.2").is_err() && share("1/0").is_err() && share("2/5").is_err());
    }
}
