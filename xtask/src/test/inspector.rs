//! The inspector, asked by script over the serial line, and by gdb with the machine stopped: what is known is compared with what is answered, and
//! the answers of the two with each other.
//!
//! ```text
//!   the ELF files of the kernel and of a program ──► what must be answered ─┐
//!   serial line ──► the kernel's answers ───────────────────────────────────┼──► the same?
//!   gdb, with the kernel stopped ──► answers from its memory ───────────────┘
//! ```

use std::{cell::RefCell, fmt::Write as _, path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use object::{Object as _, ObjectSegment as _, read::elf::ElfFile64};

use crate::{
    build::Image,
    gdb::{Stub, debugger},
    places::{self, SEED, Window},
    qemu::Machine,
    session::{self, PROMPT, Script, Wishes},
};

/// How long it may take in all, gdb included.
const TOTAL: Duration = Duration::from_secs(240);
/// How long nothing may come on the serial line.
const SILENCE: Duration = Duration::from_secs(120);
const PAGE: u64 = 4096;

/// A part of a program, or of the kernel, as its file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    start: u64,
    /// Whole pages.
    size: u64,
    physical: u64,
    access: [bool; 3],
}

impl Segment {
    fn last(&self) -> u64 {
        self.start + self.size - 1
    }

    fn pages(&self) -> u64 {
        self.size / PAGE
    }

    /// As the inspector writes it; `user` is the last letter.
    fn letters(&self, user: char) -> String {
        let letter = |is, letter| if is { letter } else { '-' };
        let [read, write, execute] = self.access;
        [letter(read, 'r'), letter(write, 'w'), letter(execute, 'x'), user].into_iter().collect()
    }
}

/// The parts of an ELF file that are loaded.
fn segments(file: &[u8]) -> Result<Vec<Segment>> {
    let file = ElfFile64::<object::Endianness>::parse(file).context("reading a program's file")?;
    let segments = file.segments().map(|segment| {
        let header = segment.elf_program_header();
        let flags = header.p_flags.get(file.endian());
        let start = segment.address() / PAGE * PAGE;
        let size = (segment.address() + segment.size()).next_multiple_of(PAGE) - start;
        let physical = header.p_paddr.get(file.endian()) / PAGE * PAGE;
        Segment { start, size, physical, access: [flags & 4 != 0, flags & 2 != 0, flags & 1 != 0] }
    });
    Ok(segments.filter(|segment| segment.size != 0).collect())
}

/// A file of the boot module.
fn from_module(module: &Path, name: &str) -> Result<Vec<u8>> {
    let mut archive = tar::Archive::new(std::fs::File::open(module).context("opening the boot module")?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.path()?.to_string_lossy() == name {
            let mut contents = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut contents)?;
            return Ok(contents);
        }
    }
    bail!("the boot module has no {name}")
}

/// What was asked and what was answered to it, in order.
#[derive(Debug, Default)]
struct Answers(Vec<(String, Vec<String>)>);

impl Answers {
    /// Takes a log apart: a question stands behind the prompt.
    fn of<'a>(lines: impl IntoIterator<Item = &'a str>) -> Self {
        let mut answers = Vec::<(String, Vec<String>)>::new();
        for line in lines {
            if let Some(question) = line.strip_prefix(PROMPT) {
                answers.push((question.trim_end().to_owned(), Vec::new()));
            } else if let Some((_, answer)) = answers.last_mut() {
                answer.push(line.trim_end().to_owned());
            }
        }
        Self(answers)
    }

    /// The first answer to a question.
    fn to(&self, question: &str) -> Result<&[String]> {
        let found = self.0.iter().find(|(asked, _)| asked == question);
        Ok(&found.with_context(|| format!("`{question}` was not asked"))?.1)
    }

    /// Requires that an answer is exactly this.
    fn are(&self, question: &str, wanted: &[String]) -> Result<()> {
        same(question, wanted, self.to(question)?)
    }

    /// Requires that an answer has a line with this text.
    fn have(&self, question: &str, wanted: &str) -> Result<()> {
        let answer = self.to(question)?;
        ensure!(
            answer.iter().any(|line| line.contains(wanted)),
            "`{question}`: no line has `{wanted}`:\n  {}",
            answer.join("\n  ")
        );
        Ok(())
    }
}

/// Requires that two answers to a question are the same, line by line.
fn same(question: &str, one: &[String], other: &[String]) -> Result<()> {
    for (number, (one, other)) in one.iter().zip(other).enumerate() {
        ensure!(one == other, "`{question}`, line {}:\n  {one}\nand not\n  {other}", number + 1);
    }
    ensure!(one.len() == other.len(), "`{question}` has {} lines and not {}", one.len(), other.len());
    Ok(())
}

/// What is asked, in order. The process with the number 1 has ended, and is kept; that with the number 2 was killed for an access.
fn questions(kernel: &[Segment], program: &[Segment], window: &Window) -> Vec<String> {
    let mut questions: Vec<String> =
        ["help", "frobnicate", "ps", "maps", "run check 16", "maps 1", "ps"].map(str::to_owned).to_vec();
    for segment in kernel {
        questions.push(format!("walk {:#x}", segment.start));
        questions.push(format!("dump {:#x}+{:#x}", segment.start, segment.size));
    }
    for segment in program {
        questions.push(format!("walk {:#x}", segment.start));
        questions.push(format!("entry {:#x} 0", segment.start));
        questions.push(format!("entry {:#x} 2 in 1", segment.start));
        questions.push(format!("explain {:#x} write", segment.start));
        questions.push(format!("explain {:#x} read", segment.start));
        questions.push(format!("tree {:#x}", segment.start));
    }
    for more in [
        "walk refkernel::kernel_main",
        "walk 0x10",
        "walk 0x800000000000 in 1",
        "entry 0x10 0",
        "explain 0x10",
        "dump",
        "dump in 1",
        &start_of(window),
        &rest_of(window),
        "decode 0x8000000000000067",
        "decode 0x2020e1 1",
        "decode 0",
        "area",
        "frames",
        "tlb",
        "stats",
        "map",
        "run demo 1",
        "faults",
        "explain 0x10 in 2",
        "walk 0x10",
        "kill 2",
        "ps",
        "run ring 1",
        "run draw 3",
        "kill 0x3",
        "kill 0x2",
        // Home and Delete; Up twice; Tab.
        "xhelp\u{1}\u{1b}[3~",
        "fra\t",
        "quit now",
    ] {
        questions.push(more.to_owned());
    }
    questions
}

/// What can be asked of gdb as well.
fn is_for_gdb(question: &str) -> bool {
    let name = question.split(' ').next().unwrap_or_default();
    // A symbol is known to both, and written in their own ways; errors are their own as well.
    ["maps", "walk", "entry", "dump"].contains(&name)
        && !question.contains("::")
        && !["walk 0x10", "entry 0x10 0"].contains(&question)
}

/// Boots a machine with so many processors to the prompt, asks, has gdb ask the same, and compares. Gives how many answers were compared, and the log.
pub(crate) fn run(root: &Path, image: &Image, cpus: u8, show: bool) -> Result<(usize, Vec<String>)> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("reading {}", path.display()));
    let kernel = segments(&read(&image.kernel)?)?;
    let program = segments(&from_module(&image.module, "programs/check")?)?;
    // The last one is the boot's, which is given back.
    let kernel = kernel.get(..3).context("the kernel's file has fewer than three parts")?;
    let window = places::largest(image, cpus, "check 16")?;
    let mut questions = questions(kernel, &program, &window);
    let first = questions.len();
    questions.extend(limited(&window));
    let (before, after) = questions.split_at(first);
    let [before, after] =
        [before, after].map(|part| part.iter().filter(|question| is_for_gdb(question)).collect::<Vec<_>>());
    let stub = Stub::new()?;
    let by_gdb = RefCell::new(Vec::new());
    let ask_gdb = |questions: &[&String], last| {
        by_gdb.borrow_mut().push(gdb_answers(root, image, &stub, questions, last));
    };
    let limit = limit(&window);
    let ask_before = || ask_gdb(&before, Some(limit.as_str()));
    let ask_after = || ask_gdb(&after, None);
    let machine = Machine { options: stub.options(), ..Machine::direct(image, cpus, format!("{SEED} inspect")) };
    let outcome = session::run(
        &machine,
        Wishes {
            show,
            script: Some(Script {
                between: &[(first, &ask_before), (questions.len(), &ask_after)],
                ..Script::new(&questions)
            }),
            ..Wishes::within(Some(TOTAL), SILENCE)
        },
    )?;
    ensure!(outcome.end.is_success(), "{}{}", outcome.end, outcome.last_lines());
    let mut answers = Answers::of(outcome.lines.iter().map(String::as_str));
    let limited = Answers(answers.0.split_off(first.min(answers.0.len())));
    // What gdb has changed is looked for below: whether it could comes first.
    let by_gdb: Vec<Answers> = by_gdb.into_inner().into_iter().collect::<Result<_>>()?;
    check(&answers, kernel, &program, &window, cpus)?;
    check_limited(&limited, &window)?;
    let mut by_gdb = by_gdb.into_iter();
    let mut compared = 0;
    for (asked, own) in [(&before, &answers), (&after, &limited)] {
        let others = by_gdb.next().context("gdb was not asked")?;
        for question in asked {
            let answer = others.to(question)?;
            ensure!(!answer.is_empty(), "gdb answers nothing to `{question}`");
            same(question, own.to(question)?, answer).context("the kernel answers as follows, and gdb otherwise")?;
            compared += 1;
        }
    }
    Ok((answers.0.len() + limited.0.len() + compared, outcome.lines))
}

/// Takes the permission to write from the table entry above the pages that the program has touched, behind the kernel's back: the program has ended, so that nobody
/// uses it any more. All that is said of these pages has to follow.
fn limit(window: &Window) -> String {
    format!(
        "python place = next((p, i, w) for l, p, i, w, _, _ in steps(Machine(), process(1).root, {}) if l == 1); \
         write_physical(place[0] + 8 * place[1], place[2] & ~WRITABLE)",
        window.start
    )
}

/// About the first two pages of the program's window.
fn start_of(window: &Window) -> String {
    format!("dump {:#x}+8K", window.start)
}

/// About all of it but its first and its last page.
fn rest_of(window: &Window) -> String {
    format!("dump {:#x}..{:#x}", window.start + PAGE, window.start + window.size - PAGE)
}

/// How many pages that are.
fn pages_of_rest(window: &Window) -> u64 {
    window.size / PAGE - 2
}

/// What is asked afterwards.
fn limited(window: &Window) -> [String; 6] {
    let start = window.start;
    [
        format!("walk {start:#x}"),
        format!("entry {start:#x} 1"),
        rest_of(window),
        format!("explain {start:#x} write"),
        format!("explain {start:#x}"),
        "dump in 1".to_owned(),
    ]
}

/// Whether what an entry above does not let through is nowhere said to be allowed.
fn check_limited(answers: &Answers, window: &Window) -> Result<()> {
    let [walk, entry, dump, write, read, _] = limited(window);
    answers.have(&walk, ", lets through r-xu")?;
    answers.have(&walk, &format!(", r--u WB, by a leaf of 4 KiB from {:#x}", window.start))?;
    let entry = answers.to(&entry)?;
    ensure!(!entry.iter().any(|line| line.contains("writable")), "the entry is writable still: {entry:?}");
    answers.have(&dump, " r--u WB ")?;
    pages_of_dump(answers, &dump, pages_of_rest(window))?;
    answers.have(&write, "tables: the table entry of the PD lets no -w-- through, so it faults")?;
    answers.have(&write, "succeeds: after a fault that shows frame ")?;
    answers.have(&read, "succeeds: without a fault")
}

/// Has gdb answer questions, the machine being stopped, and then do one thing more.
fn gdb_answers(root: &Path, image: &Image, stub: &Stub, questions: &[&String], last: Option<&str>) -> Result<Answers> {
    let mut commands = Vec::new();
    for question in questions {
        commands.push(format!("echo {PROMPT}{question}\\n"));
        commands.push(format!("vm {question}"));
    }
    // What gdb says behind the last answer belongs to none.
    commands.push(format!("echo {PROMPT}\\n"));
    commands.extend(last.map(str::to_owned));
    let output =
        debugger(root, image, stub.address(), &commands).stdin(Stdio::null()).output().context("asking gdb")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "gdb failed ({}):\n{errors}", output.status);
    let mut answers = Answers::of(text.lines());
    answers.0.pop();
    ensure!(answers.0.len() == questions.len(), "gdb gave up after {} answers:\n{errors}", answers.0.len());
    if let Some(error) = errors.lines().find(|line| line.contains("Error") || line.contains("rror occurred")) {
        bail!("gdb said: {error}\n{errors}");
    }
    Ok(answers)
}

/// Whether the answers are what the files say, and agree among themselves.
fn check(answers: &Answers, kernel: &[Segment], program: &[Segment], window: &Window, cpus: u8) -> Result<()> {
    for name in [
        "maps", "walk", "entry", "decode", "dump", "tree", "area", "frames", "tlb", "faults", "stats", "explain",
        "run", "kill", "map", "help",
    ] {
        answers.have("help", &format!("{name} "))?;
    }
    answers.are("frobnicate", &["there is no question `frobnicate`: `help` lists them".to_owned()])?;
    answers.are("ps", &["0 processes".to_owned()])?;
    for segment in kernel {
        kernel_part(answers, segment)?;
    }
    // The first one is read only, as compilers lay programs out; each is asked about in the same way.
    let mut there = 0;
    for segment in program {
        there += u32::from(program_part(answers, segment)?);
    }
    ensure!(there != 0, "no part of the program has its first page there: nothing was asked of a leaf");
    answers.have("walk refkernel::kernel_main", ", r-x- WB, by a leaf of ")?;
    answers.are(
        "explain 0x10",
        &[
            "access: a program's, r--u, in the space of process 1".to_owned(),
            answers.to("explain 0x10")?.get(1).cloned().unwrap_or_default(),
            format!(
                "window: none; the next one above begins at {:#x}",
                program.iter().map(|part| part.start).min().unwrap_or_default()
            ),
            "refused: nothing is mapped at 0x10: map an area there first".to_owned(),
        ],
    )?;
    answers.are(
        "walk 0x800000000000 in 1",
        &["walk of 0x0000800000000000".to_owned(), "  no such address: it is not canonical".to_owned()],
    )?;
    // The program has touched every page of the window.
    answers.have("run check 16", "process 1: it exited with 0")?;
    answers.have(&start_of(window), " 4 KiB accessed dirty")?;
    pages_of_dump(answers, &rest_of(window), pages_of_rest(window))?;
    answers.are(
        "decode 0x8000000000000067",
        &[
            "0x8000000000000067 in PT: a leaf of 4 KiB: frame 0x0 rw-u WB accessed dirty".to_owned(),
            "  bit 0               present".to_owned(),
            "  bit 1               writable".to_owned(),
            "  bit 2               for programs".to_owned(),
            "  bit 5               accessed".to_owned(),
            "  bit 6               dirty".to_owned(),
            "  bit 63              not executable".to_owned(),
        ],
    )?;
    answers.have("decode 0x2020e1 1", "malformed, an access faults on it")?;
    answers.have("decode 0x2020e1 1", "bit 13              reserved")?;
    answers.are("decode 0", &["0x0000000000000000 in PT: absent".to_owned()])?;
    answers.have("area", "in process 1: open, ")?;
    answers.have("area", "in kernel: guarded, ")?;
    let processors = answers.to("tlb")?.iter().filter(|line| line.starts_with("processor ")).count();
    ensure!(processors == usize::from(cpus), "`tlb` names {processors} processors of {cpus}");
    frames_add_up(answers.to("frames")?)?;
    answers.have("stats", "page faults answered")?;
    answers.have("stats", "process 1")?;
    answers.have("map", "physical memory: ")?;
    answers.have("map", "  map, a letter per ")?;
    answers.have("map", "space kernel: ")?;
    answers.have("map", "space check (16): ")?;
    the_map_adds_up(answers.to("map")?)?;
    answers.have("run ring 1", "ring: 1024 KiB in ")?;
    answers.have("run ring 1", "process 2: it exited with 0")?;
    answers.have("run draw 3", "draw: 3 pictures of ")?;
    answers.have("run draw 3", "process 3: it exited with 0")?;
    answers.have("run demo 1", "it was killed for an access (Read) at 0x10")?;
    answers.have("faults", "program: killed: page fault: read at 0x10, by the instruction at 0x4")?;
    answers.have("faults", "reason: nothing is mapped there, nor ever is below 0x10000: a null pointer")?;
    answers.have("faults", "window: none; below it nothing; above it ")?;
    answers.have("faults", "answered: a page was mapped")?;
    answers.have("explain 0x10 in 2", "refused: nothing is mapped at 0x10")?;
    // The second time there are two processes.
    let again = answers.0.iter().filter(|(question, _)| question == "walk 0x10").nth(1).context("asked once")?;
    same(
        "walk 0x10",
        &["0x10 is a program's address: say whose, as `in PID`; `ps` lists the processes".to_owned()],
        &again.1,
    )?;
    answers.have("kill 2", "process 2: it was killed for an access (Read) at 0x10")?;
    let last = answers.0.iter().rfind(|(question, _)| question == "ps").context("asked three times")?;
    same("ps", &["  1  check (16): it exited with 0".to_owned(), "1 processes".to_owned()], &last.1)?;
    // What was edited is what was meant.
    let edited = answers.0.iter().find(|(question, _)| question.starts_with("xhelp")).context("not asked")?;
    same("help, edited", answers.to("help")?, &edited.1)?;
    let completed = answers.0.iter().find(|(question, _)| question.starts_with("fra") && question != "frames");
    let (_, completed) = completed.context("not asked")?;
    ensure!(completed.first().is_some_and(|line| line.starts_with("all ")), "`fra` and Tab: {completed:?}");
    answers.are("quit now", &["`now` is too much: write `quit` alone".to_owned()])
}

/// Requires that the picture in letters has one for each use that it counts, and about as many letters as it has memory.
fn the_map_adds_up(answer: &[String]) -> Result<()> {
    let head = answer.iter().position(|line| line.starts_with("  map, a letter per ")).context("no map")?;
    let (legend, rest) = answer.split_at(head);
    let letters: String = rest
        .iter()
        .skip(1)
        .map_while(|line| line.strip_prefix("  0x").and_then(|line| line.split_once(' ')))
        .map(|(_, letters)| letters)
        .collect();
    ensure!(letters.len() > 256, "the map has {} letters", letters.len());
    let known: String =
        legend.iter().filter(|line| line.contains(" frames ")).filter_map(|line| line.chars().nth(2)).collect();
    for letter in ['.', 'K', 'U', 'F'] {
        ensure!(
            known.contains(letter) && letters.contains(letter),
            "`{letter}` is not on the map, or not explained: {letters}"
        );
    }
    let stray = letters.chars().find(|letter| !known.contains(*letter) && *letter != '-');
    ensure!(stray.is_none(), "`{stray:?}` is on the map and not explained");
    Ok(())
}

/// How a window of a whole number of pages begins.
fn window(segment: &Segment, user: char) -> String {
    format!("{:#018x}-{:#018x} {} ", segment.start, segment.last(), segment.letters(user))
}

/// A part of the kernel's image: its window, where it leads, and one run of leaves.
fn kernel_part(answers: &Answers, segment: &Segment) -> Result<()> {
    answers.have("maps", &format!("{}fixed ", window(segment, '-')))?;
    answers.have("maps", &format!("WB from frame {:#x}", segment.physical / PAGE))?;
    let walk = format!("walk {:#x}", segment.start);
    answers.have(
        &walk,
        &format!(
            "  leads to {:#x}, {} WB, by a leaf of 4 KiB from {:#x}",
            segment.physical,
            segment.letters('-'),
            segment.start
        ),
    )?;
    ensure!(answers.to(&walk)?.len() == 6, "`{walk}` has four levels");
    let mut line = String::new();
    write!(
        line,
        "{:#018x}-{:#018x} -> {:#014x} {} WB   ",
        segment.start,
        segment.last(),
        segment.physical,
        segment.letters('-')
    )?;
    write!(line, " {:>7} x   4 KiB global accessed", segment.pages())?;
    let [_, write, _] = segment.access;
    line.push_str(if write { " dirty" } else { "" });
    let dump = format!("dump {:#x}+{:#x}", segment.start, segment.size);
    answers.are(&dump, &[line.clone(), format!("1 runs, {} KiB mapped, x86-64", segment.size / 1024)])?;
    // In the whole as well.
    answers.have("dump", &line)
}

/// A part of a program: its window, its entry, what may be done there, and its pages. Programs come page by page when they touch their pages: true if the first one is there and
/// cannot be written to, so that its leaf was asked about.
fn program_part(answers: &Answers, segment: &Segment) -> Result<bool> {
    let [_, write, _] = segment.access;
    let explain = |what| format!("explain {:#x} {what}", segment.start);
    if write {
        // What the file has of it is a private view; what is zero behind that has a window of its own.
        let start = format!("{:#018x}-", segment.start);
        let line = answers.to("maps 1")?.iter().find(|line| line.starts_with(&start));
        let kinds = [" rw-u private ", " rw-u open "];
        ensure!(
            line.is_some_and(|line| kinds.iter().any(|kind| line.contains(kind))),
            "data is the program's own: {line:?}"
        );
        // A fault brings what was not touched yet.
        let said = answers.to(&explain("write"))?;
        ensure!(
            said.len() == 4 && !said.iter().any(|line| line.starts_with("refused")),
            "data can be written to: {said:?}"
        );
        return Ok(false);
    }
    answers.have("maps 1", &format!("{}paged ", window(segment, 'u')))?;
    let line = answers.to("maps 1")?.iter().find(|line| line.starts_with(&window(segment, 'u')));
    ensure!(line.is_some_and(|line| line.ends_with(", sealed")), "what is not written is sealed: {line:?}");
    let refused = format!(
        "refused: the window at {:#x} allows {}, not -w-u: map it with more access",
        segment.start,
        segment.letters('u')
    );
    answers.have(&explain("write"), &refused)?;
    answers.have(&explain("read"), &window(segment, 'u'))?;
    answers.have(&format!("tree {:#x}", segment.start), &format!(" pages of {} in ", segment.pages()))?;
    let walk = answers.to(&format!("walk {:#x}", segment.start))?;
    let leaf = walk.iter().find_map(|line| line.split_once("leaf: ")).map(|(_, leaf)| leaf);
    let Some(leaf) = leaf else { return Ok(false) };
    answers.are(
        &explain("write"),
        &[
            "access: a program's, -w-u, in the space of process 1".to_owned(),
            "tables: the leaf in the PT lacks -w--, so it faults".to_owned(),
            answers.to(&explain("write"))?.get(2).cloned().unwrap_or_default(),
            refused,
        ],
    )?;
    answers.are(
        &explain("read"),
        &[
            "access: a program's, r--u, in the space of process 1".to_owned(),
            "tables: every entry lets it through".to_owned(),
            answers.to(&explain("read"))?.get(2).cloned().unwrap_or_default(),
            "succeeds: without a fault".to_owned(),
        ],
    )?;
    answers.have(&format!("entry {:#x} 0", segment.start), &format!("in PT: a leaf of 4 KiB: {leaf}"))?;
    answers.have(&format!("entry {:#x} 2 in 1", segment.start), "in PDPT: a table at ")?;
    Ok(true)
}

/// Requires that the lines of a dump have so many base pages altogether, without a gap between them.
fn pages_of_dump(answers: &Answers, question: &str, pages: u64) -> Result<()> {
    let answer = answers.to(question)?;
    let (mut sum, mut next) = (0, None);
    for line in answer.iter().filter(|line| line.starts_with("0x")) {
        let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
        let (start, rest) = line.split_once('-').context("no range")?;
        let (last, rest) = rest.split_once(" -> ").context("no frame")?;
        let count = rest.split(" x ").next().and_then(|text| text.split(' ').next_back()).context("no count")?;
        let (start, last) = (number(start).context("no address")?, number(last).context("no address")?);
        let count: u64 = count.parse().with_context(|| format!("no count in {line}"))?;
        ensure!(next.is_none_or(|next| next == start), "`{question}`: a gap before {line}");
        ensure!(last + 1 - start == count * PAGE, "`{question}`: {count} pages are not what {line} covers");
        next = Some(last + 1);
        sum += count;
    }
    ensure!(sum == pages, "`{question}` has {sum} pages and not {pages}");
    answers.have(question, &format!(" {} KiB mapped, x86-64", pages * 4))
}

/// Requires that the parts make the whole.
fn frames_add_up(lines: &[String]) -> Result<()> {
    let mut counts = lines.iter().filter_map(|line| {
        let (name, _) = line.rsplit_once(" frames ")?;
        let (name, count) = name.rsplit_once(' ')?;
        Some((name.trim_end().to_owned(), count.parse::<u64>().ok()?))
    });
    let (name, all) = counts.next().context("`frames` has no lines")?;
    let parts: u64 = counts.filter(|(name, _)| name != "pages of the kernel's").map(|(_, count)| count).sum();
    ensure!(
        name == "all" && parts == all,
        "`frames`: the parts are {parts} frames, and all are {all}:\n{}",
        lines.join("\n")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_taken_apart() {
        let answers = Answers::of(["noise", "vm> one", "a", "b ", "vm> two", "vm> "]);
        assert_eq!(answers.to("one").unwrap(), ["a", "b"]);
        assert!(answers.to("two").unwrap().is_empty() && answers.to("three").is_err());
        assert!(answers.are("one", &["a".into(), "b".into()]).is_ok());
        for wrong in [&["a"][..], &["a", "c"], &["a", "b", "c"]] {
            let wrong: Vec<String> = wrong.iter().map(|line| (*line).to_owned()).collect();
            assert!(answers.are("one", &wrong).is_err());
        }
        assert!(answers.have("one", "b").is_ok() && answers.have("one", "c").is_err());
    }

    #[test]
    fn a_dump_must_have_every_page_once() {
        let asked =
            |lines: &[&str]| Answers(vec![("dump".into(), lines.iter().map(|line| (*line).to_owned()).collect())]);
        let one = "0x0000000000001000-0x0000000000002fff -> 0x000000005000 rw-u WB          2 x   4 KiB dirty";
        let two = "0x0000000000003000-0x0000000000003fff -> 0x000000008000 rw-u WB          1 x   4 KiB";
        let sum = "2 runs, 12 KiB mapped, x86-64";
        assert!(pages_of_dump(&asked(&[one, two, sum]), "dump", 3).is_ok());
        assert!(pages_of_dump(&asked(&[one, two, sum]), "dump", 4).is_err());
        assert!(pages_of_dump(&asked(&[two, one, sum]), "dump", 3).is_err());
        assert!(pages_of_dump(&asked(&[&one.replace("2 x", "3 x"), sum]), "dump", 3).is_err());
    }

    #[test]
    fn parts_of_this_program_are_read() {
        let parts = segments(&std::fs::read(std::env::current_exe().unwrap()).unwrap()).unwrap();
        assert!(parts.iter().any(|part| part.letters('-') == "r-x-" && part.size != 0));
        assert!(parts.iter().all(|part| part.start % PAGE == 0 && part.pages() * PAGE == part.size));
    }
}
