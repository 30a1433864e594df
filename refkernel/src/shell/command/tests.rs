//! Lines and what they ask; lines that ask nothing, and what is said of them.

use proptest::prelude::*;

use super::*;

fn symbol(name: &str) -> Option<u64> {
    (name == "refkernel::start").then_some(0xffff_ffff_8020_0000)
}

fn parse(line: &str) -> Result<Command<'_>, ParseError<'_>> {
    Command::parse(line, &symbol)
}

fn error(line: &str) -> String {
    parse(line).unwrap_err().to_string()
}

#[test]
fn every_question_is_understood() {
    let page = Range { start: 0x40_0000, last: 0x40_0fff };
    for (line, command) in [
        ("", Command::Nothing),
        ("   ", Command::Nothing),
        ("help", Command::Help(None)),
        ("help walk", Command::Help(Some("walk"))),
        ("ps", Command::Processes),
        ("maps", Command::Maps(None)),
        ("maps 3", Command::Maps(Some(3))),
        ("walk 0x400000", Command::Walk(0x40_0000, None)),
        ("  walk   0x40_0000  in   7 ", Command::Walk(0x40_0000, Some(7))),
        ("walk refkernel::start+0x10", Command::Walk(0xffff_ffff_8020_0010, None)),
        ("entry 4096", Command::Entry(4096, None, None)),
        ("entry 4096 2 in 1", Command::Entry(4096, Some(2), Some(1))),
        ("decode 0x8000000000000007", Command::Decode(0x8000_0000_0000_0007, 0)),
        ("decode 0 3", Command::Decode(0, 3)),
        ("dump", Command::Dump(None, None)),
        ("dump in 2", Command::Dump(None, Some(2))),
        ("dump 0x400123", Command::Dump(Some(page), None)),
        ("dump 4M..0x401000", Command::Dump(Some(page), None)),
        ("dump 4M+4K", Command::Dump(Some(page), None)),
        (
            "dump refkernel::start+4K",
            Command::Dump(Some(Range { start: 0xffff_ffff_8020_0000, last: 0xffff_ffff_8020_0fff }), None),
        ),
        (
            "dump 0xffff800000000000..",
            Command::Dump(Some(Range { start: 0xffff_8000_0000_0000, last: u64::MAX }), None),
        ),
        ("dump 0..", Command::Dump(Some(Range { start: 0, last: u64::MAX }), None)),
        ("explain 16", Command::Explain(16, Attempt::Read, None)),
        ("explain 16 write in 1", Command::Explain(16, Attempt::Write, Some(1))),
        ("explain 16 execute", Command::Explain(16, Attempt::Execute, None)),
        ("area", Command::Area(None, None)),
        ("area 1G in 4", Command::Area(Some(1 << 30), Some(4))),
        ("tree 1G", Command::Tree(1 << 30, None)),
        ("frames", Command::Frames(None)),
        ("frames 0x100", Command::Frames(Some(0x100))),
        ("tlb", Command::Tlb),
        ("faults", Command::Faults),
        ("stats", Command::Stats),
        ("map", Command::Map),
        ("run check", Command::Run("check", 0)),
        ("run check 1000", Command::Run("check", 1000)),
        ("kill 2", Command::Kill(2)),
        ("quit", Command::Quit),
    ] {
        assert_eq!(parse(line), Ok(command), "{line}");
    }
    for question in COMMANDS {
        assert!(parse(question.name).is_ok() || question.usage.starts_with(char::is_uppercase), "{}", question.name);
    }
}

#[test]
fn what_is_wrong_is_said_with_what_to_do() {
    for (line, message) in [
        ("wlak 5", "there is no question `wlak`: `help` lists them"),
        ("help wlak", "there is no question `wlak`: `help` lists them"),
        ("walk", "something is missing: write `walk ADDRESS [in PID]`"),
        ("tlb now", "`now` is too much: write `tlb` alone"),
        ("walk 1 2", "`2` is too much: write `walk ADDRESS [in PID]`"),
        ("walk main", "`main` is no address: write a number such as 0x400000, or a symbol of the kernel's"),
        ("maps x", "`x` is no number: write it as 4096, 0x1000 or 4K"),
        ("walk 5 in x", "`x` is no number: write it as 4096, 0x1000 or 4K"),
        ("tlb in 5", "`tlb` is not about a process: leave `in` out"),
        ("dump 5..4", "the range `5..4` holds nothing: its end must come after its start"),
        ("dump 5+0", "the range `5+0` holds nothing: its end must come after its start"),
        ("dump 5-4", "`5-4` is no range: write START..END or START+SIZE"),
        ("dump 0xffffffffffffffff+2", "`0xffffffffffffffff+2` is no range: write START..END or START+SIZE"),
        ("explain 5 rw", "`rw` is no access: write read, write or execute"),
        ("entry 5 8", "there is no level 8: 0 is that of base pages, the next are 1, 2, 3"),
    ] {
        assert_eq!(error(line), message, "{line}");
    }
}

#[test]
fn numbers() {
    for (word, value) in [
        ("0", Some(0)),
        ("0xffff_ffff_ffff_ffff", Some(u64::MAX)),
        ("18446744073709551615", Some(u64::MAX)),
        ("18446744073709551616", None),
        ("0x10000000000000000", None),
        ("16G", Some(16 << 30)),
        ("17179869184G", None),
        ("G", None),
        ("0x", None),
        ("_", None),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("1K1", None),
        ("0xG", None),
    ] {
        assert_eq!(number(word), value, "{word}");
    }
}

proptest! {
    /// Whatever stands on a line is an answer or an error of one sentence.
    #[test]
    fn any_line_is_read(line in "[ -~]{0,120}") {
        if let Err(error) = parse(&line) {
            prop_assert!(error.to_string().contains(": "));
        }
    }

    /// The same where most words are ones that mean something.
    #[test]
    fn any_words_are_read(words in prop::collection::vec(prop_oneof![
        prop::sample::select(COMMANDS.iter().map(|question| question.name).collect::<Vec<_>>()).prop_map(str::to_owned),
        prop::sample::select(vec!["in", "..", "+", "0x", "4K", "write", "5..", "..5", "5+", "+5", "in 5", "refkernel::start", "\u{e9}", "K"]).prop_map(str::to_owned),
        any::<u64>().prop_map(|number| format!("{number:#x}")),
        any::<(u64, u64)>().prop_map(|(start, end)| format!("{start:#x}..{end:#x}")),
        any::<(u64, u64)>().prop_map(|(start, size)| format!("{start:#x}+{size}")),
    ], 0..5)) {
        let line = words.join(" ");
        match parse(&line) {
            Ok(Command::Dump(Some(range), _)) => prop_assert!(range.start <= range.last),
            Ok(_) => {}
            Err(error) => prop_assert!(error.to_string().contains(": ")),
        }
    }

    #[test]
    fn numbers_come_back(value: u64) {
        prop_assert_eq!(number(&value.to_string()), Some(value));
        prop_assert_eq!(number(&format!("{value:#x}")), Some(value));
    }
}
