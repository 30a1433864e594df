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
