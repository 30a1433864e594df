//! A recording of each kind, replayed; and that differences are found.

use std::io::Cursor;
use std::path::Path;

fn data(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(name)
}

/// The text of a recording.
fn text(name: &str) -> String {
    let mut bytes = Vec::new();
    lzma_rs::xz_decompress(&mut Cursor::new(std::fs::read(data(name)).unwrap()), &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// How many differences a recording shows of which one line was changed.
fn differences(text: &str, from: &str, to: &str) -> u64 {
    assert!(text.contains(from), "the recording has no {from:?}");
    replay::replay_text(&text.replacen(from, to, 1)).unwrap().differences
}

#[test]
fn random_operations_come_out_as_on_linux() {
    let report = replay::replay(&data("linux-seed3.txt.xz")).unwrap();
    assert_eq!((report.differences, report.told.first()), (0, None));
    assert_eq!((report.operations + report.accesses, report.pages > 60_000), (2000, true));
}

#[test]
fn a_program_comes_out_as_on_linux() {
    let report = replay::replay(&data("sort.trace.xz")).unwrap();
    assert_eq!((report.differences, report.told.first()), (0, None));
    assert_eq!((report.operations, report.accesses, report.pages), (37, 16887, 530));
}

#[test]
fn whatever_is_different_is_found() {
    let whole = text("linux-seed3.txt.xz");
    // The first hundred operations.
    let end = whole.match_indices("\n100 ").next().unwrap().0;
    let start = &whole[..=end];
    assert_eq!(replay::replay_text(start).unwrap().differences, 0);
    let line = |what: &str| start.lines().find(|line| line.contains(what)).unwrap();
    let mapped = line(" mmap ");
    assert!(differences(start, mapped, &mapped.replace(" e0", " e12").replace("= ", "= -1 #")) > 0, "a result");
    let refused = line("= -1 e12");
    assert!(differences(start, refused, &refused.replace("e12", "e22")) > 0, "an errno");
    let access = line("= maperr");
    assert!(differences(start, access, &access.replace("maperr", "accerr")) > 0, "the end of an access");
    let regions = start.lines().find(|line| line.starts_with(" R ") && line.contains(":r")).unwrap();
    assert!(differences(start, regions, &regions.replacen(":r", ":-", 1)) > 0, "a region");
    let written = start.lines().find(|line| line.contains(" write ") && line.contains("= ok")).unwrap();
    let after = start.split(written).nth(1).unwrap().lines().find(|line| line.starts_with(" P ")).unwrap();
    assert!(differences(start, after, &after.replace(['p', 's'], ".")) > 0, "a page that was written");
    let program = text("sort.trace.xz");
    assert!(
        differences(&program, "final 0x7f501c4c5000 0x7f501c4c6000 ---p", "final 0x7f501c4c5000 0x7f501c4c6000 r--p")
            > 0
    );
    assert!(differences(&program, "present 0x7f501ccc4000 2 w", "present 0x7f501ccc4000 1 w") > 0, "a resident page");
    assert!(differences(&program, "present 0x7f501f4c7000 16 f", "present 0x7f501f4c7000 16 w") > 0, "its kind");
    assert!(differences(&program, "brk 0x562517d34000 = 0x562517d34000", "brk 0x562517d34000 = 0x562517d13000") > 0);
}

/// The text with the first line changed for which `change` gives another one.
fn planted(text: &str, change: impl Fn(&str) -> Option<String>) -> String {
    let (line, other) = text.lines().find_map(|line| Some((line, change(line)?))).expect("there is such a line");
    assert_ne!(line, other, "it is to be different");
    text.replacen(&format!("\n{line}\n"), &format!("\n{other}\n"), 1)
}

/// A line of an operation with this name, with something of it replaced behind the `=`.
fn result(name: &str, from: &str, to: &str) -> impl Fn(&str) -> Option<String> {
    move |line| {
        let (call, result) = line.split_once(" = ").filter(|(call, _)| call.split(' ').nth(2) == Some(name))?;
        result.contains(from).then(|| format!("{call} = {}", result.replacen(from, to, 1)))
    }
}

/// A line that begins so and contains something, with that replaced.
fn state(start: &str, from: &str, to: &str) -> impl Fn(&str) -> Option<String> {
    move |line| (line.starts_with(start) && line.contains(from)).then(|| line.replacen(from, to, 1))
}

/// One line of each kind changed in each way: whatever is compared is found to be different.
#[test]
fn every_kind_of_difference_is_found() {
    let whole = text("linux-seed3.txt.xz");
    let end = whole.match_indices("\n700 ").next().unwrap().0;
    let start = &whole[..=end];
    let found = |what: &str, change: &dyn Fn(&str) -> Option<String>| {
        let report = replay::replay_text(&planted(start, change)).unwrap();
        assert!(report.differences > 0, "not found: {what}");
        assert!(!report.told.is_empty(), "not told: {what}");
    };
    assert_eq!(replay::replay_text(start).unwrap().differences, 0);
    for (what, name, from, to) in [
        ("another address", "mremap", "221184 e0", "225280 e0"),
        ("a success that was none", "munmap", "-1 e22", "0 e0"),
        ("a failure that was none", "mprotect", "0 e0", "-1 e12"),
        ("another errno of mmap", "mmap", "e17", "e12"),
        ("another errno of mprotect", "mprotect", "e12", "e22"),
        ("another errno of madvise", "madvise", "e12", "e22"),
        ("another errno of mremap", "mremap", "e14", "e12"),
        ("another errno of a copy", "copyin", "e14", "e3"),
        ("bytes that were not read", "copyin", " e0 h=6", " e0 h=7"),
        ("a value that was not read", "read", "ok 0", "ok 1"),
        ("an access that was not refused", "read", "maperr", "ok 0"),
        ("an access that was refused otherwise", "write", "maperr", "accerr"),
        ("an access that was not allowed", "write", "accerr", "ok"),
        ("an access that was allowed", "write", "ok", "accerr"),
        ("an access with nothing behind it", "read", "ok 0", "bus"),
    ] {
        found(what, &result(name, from, to));
    }
    for (what, line, from, to) in [
        ("a region that was not readable", " R", ":r", ":-"),
        ("a region that was readable", " R", ":-w", ":rw"),
        ("a region that was executable", " R", "--p", "-xp"),
        ("a region that was not executable", " R", "xp", "-p"),
        ("a region that was shared", " R", "p ", "s "),
        ("a region that was private", " R", "s ", "p "),
        ("a region that begins before", " R", "63-64:", "62-64:"),
        ("a region of the child", " r", ":rw", ":r-"),
        ("a page that was not touched", " P", "s", "."),
    ] {
        found(what, &|text: &str| {
            // Behind the letter of the line, which is no state.
            let (head, rest) = text.split_at_checked(3)?;
            Some(format!("{head}{}", state("", from, to)(rest)?)).filter(|_| head.starts_with(line))
        });
    }
    // Pages that nobody has written need not be there, so that not every such line is one.
    for kind in [" P ", " p "] {
        let mut lines = start.lines().filter(|line| line.starts_with(kind) && line[3..].contains('p')).take(100);
        let none = format!("{kind}{}", ".".repeat(64));
        let is_found = |line: &str| {
            let text = planted(start, |other| (other == line).then(|| none.clone()));
            replay::replay_text(&text).unwrap().differences > 0
        };
        assert!(lines.any(is_found), "not found: pages that were written");
    }
    let program = text("sort.trace.xz");
    let found = |what: &str, line: &str, from: &str, to: &str| {
        let report = replay::replay_text(&planted(&program, state(line, from, to))).unwrap();
        assert!(report.differences > 0, "not found: {what}");
    };
    found("a result", "mmap ", "= 0x7f50", "= 0x7f51");
    found("a refusal", "munmap ", "= 0", "= -22");
    found("a permission at the end", "final ", "r--p", "rw-p");
    found("where a mapping ends", "final 0x7f501c4c5000", "6000 ---p", "7000 ---p");
    found("what is mapped", "final ", "/files/0-", "/files/1-");
    found("what kind a page was that was touched", "touch 0x5624eb65d000", " w", " f");
    found("what was not touched", "touch 0x7f501ccc4000", " 2 w", " 1 w");
    found("a page that is there", "present 0x7f501ccc4000", " 2 w", " 3 w");
}

/// What is no recording is refused with a sentence that says where, and never by a panic.
#[test]
fn what_is_no_recording_is_refused() {
    let refused = |text: &str, where_: &str| {
        let error = format!("{:#}", replay::replay_text(text).map(|_| ()).expect_err("it is no recording"));
        assert!(error.contains(where_), "{error} names no {where_}");
    };
    refused("", "this is no recording");
    refused("hello\n", "hello");
    let (random, state) = ("# lxoracle v1\n", format!("\n R\n P {}\n", ".".repeat(64)));
    for operation in [
        "0 s0 mystery 0x0 = 0 e0",
        "0 s0 mmap 0x0 0x1000 3 = 0 e0",
        "0 s0 mmap 0x0 zero 3 0x32 = 0 e0",
        "0 s0 mmap 0x0 0x10000000000000000 3 0x32 = 0 e0",
        "0 s0 mmap 0x0 0x1000 0x100000000 0x32 = 0 e0",
        "0 s9 munmap 0x0 0x1000 = 0 e0",
        "0 x0 munmap 0x0 0x1000 = 0 e0",
        "0 s0 munmap 0x0 0x1000",
        "0 s0 munmap 0x0 0x1000 = none e0",
        "0 s0 munmap 0x0 0x1000 = -1 enone",
        "0 s0 copyin 0x0 0xffffffffffffffff pat=0 = 0 e0 h=0",
        "0 s0 copyout 0x0 8 pat=x = 0 e0 h=0",
        "0 s0 copyout 0x0 8 = 0 e0",
        "0 s0 fork -> s0 e0",
        "0 s0 fork -> e0",
        "0 s0",
        "0",
    ] {
        refused(&format!("{random}{operation}{state}"), "line 2");
    }
    let operation = format!("{random}0 s0 munmap 0x0 0x1000 = 0 e0\n");
    for line in [" R 1:rw-p", " R 2-1:rw-p", " R 1-65:rw-p", " R 1-2", " R x-2:rw-p", " P ...", " P é", " ", " é", " X"]
    {
        refused(&format!("{operation}{line}\n"), "line 3");
    }
    let long = format!("{operation} P {}\n", ".".repeat(63) + "x");
    refused(&long, "line 3");
    refused(&format!("{random} R\n"), "line 2");
    // Cut short.
    refused(&operation, "line 2");
    refused(&format!("{operation} R\n1 s0 exit e0\n"), "line 2");
    let trace = "# memtrace v1\n";
    for line in [
        "init 0x2000 0x1000 r--p 0x0 name",
        "init 0x1000 0x2000 r--p",
        "init 0x1000 0x2001 r--p 0x0 name",
        "final 0x1000 0x2000 r--p 0xffffffffffffffff name",
        "touch 0x1000 1 q",
        "touch 0x1000 0xffffffffffffffff w",
        "touch 0xfffffffffffff000 2 w",
        "touch 0x1001 1 w",
        "present 0x1000 99999999999 w",
        "file 99999999999 1 name",
        "file 1 0xffffffffffffffff name",
        "file 1 1",
        "mmap 0x0 0x1000 0x3 0x22 -1 = 0x1000",
        "mmap 0x0 0x1000 0x3 0x22 -1 0xffffffffffffffff = 0x1000",
        "munmap 0x1000 = 0",
        "munmap 0x1000 0x1000 = nothing",
        "mystery 0x1000 = 0",
    ] {
        refused(&format!("{trace}{line}\n"), "line 2");
    }
    refused(trace, "cut short");
    let program = text("sort.trace.xz");
    refused(&program[..program.find("\nfinal ").unwrap()], "cut short");
}
