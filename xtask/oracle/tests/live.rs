//! A short run with the Linux that runs the tests; and that what differs is found. Where this Linux cannot do its part, a message says so.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use oracle::generate::{self, Kinds};
use oracle::host::{Host, kinds_of_this_kernel};
use oracle::recording;
use oracle::run::{self, Limits, Progress, Task};
use oracle::script::{Call, Outcome, PAGE, Script, Setting, Step, linux};

/// A host, and what it can do; `None` with a message where it can do nothing.
fn host() -> Option<(Host, Kinds)> {
    let host = match Host::new() {
        Ok(host) => host,
        Err(error) => {
            eprintln!("skipped: {error:#}");
            return None;
        }
    };
    let kinds = kinds_of_this_kernel(host.fills());
    // The rules are those of Linux 6.18: what an older one makes of these is another thing.
    if !kinds.moves_several || !kinds.guards {
        eprintln!("skipped: this Linux is older than 6.17");
        return None;
    }
    Some((host, kinds))
}

fn step(slot: u8, call: Call) -> Step {
    Step { slot, thread: 0, call }
}

fn map(pages: u64, flags: u32) -> Call {
    let flags = flags | linux::MAP_ANONYMOUS | linux::MAP_FIXED;
    Call::Map { address: PAGE, length: pages * PAGE, protection: 3, flags, file: None }
}

#[test]
fn this_linux_and_vmcore_agree() {
    let Some((host, kinds)) = host() else { return };
    let progress = Progress::default();
    let task = Task { seed: 11, kinds, length: 400, tries: 2000 };
    let outcome = run::run(&mut [host], task, Limits { steps: 20_000, time: None }, &progress).unwrap();
    assert!(outcome.difference.is_none(), "{:#?}", outcome.difference);
    assert!(progress.steps.into_inner() >= 20_000);
}

#[test]
fn a_script_is_recorded_as_it_was_done() {
    let Some((mut host, _)) = host() else { return };
    let write = |page| Call::Write { address: page * PAGE, value: 5 };
    let steps = vec![
        step(0, map(3, linux::MAP_PRIVATE)),
        step(0, write(1)),
        step(0, write(4)),
        step(0, Call::Protect { address: 2 * PAGE, length: PAGE, protection: 1 }),
        step(0, Call::Fork { child: 1 }),
        step(1, Call::Read { address: PAGE }),
        Step { slot: 1, thread: 1, call: write(2) },
        step(1, Call::Exit),
        step(0, Call::Unmap { address: PAGE + 1, length: PAGE }),
    ];
    let setting = Setting { threads: 2, ..Setting::default() };
    let script = Script { setting, steps };
    // However the kernel says what is mapped.
    for asks in [true, false] {
        if !asks {
            host.ask_no_more();
        }
        let records = host.run(&script).unwrap();
        let outcomes: Vec<Outcome> = records.iter().map(|record| record.outcome).collect();
        assert_eq!((outcomes[1], outcomes[2], outcomes[6]), (Outcome::Done, Outcome::NotMapped, Outcome::Denied));
        assert_eq!((records[0].result, records[8].result), (PAGE as i64, -22));
        assert_eq!((records[5].outcome, records[5].value), (Outcome::Done, 5));
        let text = recording::text(&script, &records, "test");
        let wanted = "\
4 s0 fork -> s1 e0
 R 1-2:rw-p 2-3:r--p 3-4:rw-p
 P .p..............................................................
 r 1-2:rw-p 2-3:r--p 3-4:rw-p
 p .p..............................................................
5 s1 read 0x1000 = ok 5 e0
";
        assert!(text.contains(wanted), "{text}");
        let report = replay::replay_text(&text).unwrap();
        assert_eq!((report.differences, report.told), (0, Vec::new()));
    }
}

/// What is recorded is changed: the replay of it must differ, in the step that was changed.
#[test]
fn what_differs_is_found() {
    let Some((mut host, kinds)) = host() else { return };
    let script = generate::script(3, 1, 200, kinds);
    let mut records = host.run(&script).unwrap();
    let differs = |records: &[_]| replay::replay_text(&recording::text(&script, records, "test")).unwrap();
    assert_eq!(differs(&records).differences, 0);
    let unmapped = script.steps.iter().position(|step| matches!(step.call, Call::Unmap { .. })).unwrap();
    records[unmapped].result -= 1;
    let report = differs(&records);
    assert!(report.differences != 0 && report.told[0].contains(&format!(": {unmapped} s")), "{report:?}");
}

/// Other memory of a process must not be changed.
#[test]
fn scripts_that_reach_out_of_the_window_are_refused() {
    let Some((mut host, _)) = host() else { return };
    for call in [
        Call::Unmap { address: 60 * PAGE, length: 8 * PAGE },
        Call::Advise { address: 0, length: 1 << 47, advice: linux::MADV_DONTNEED },
        Call::Write { address: PAGE.wrapping_neg(), value: 1 },
    ] {
        let script = Script { setting: Setting { threads: 1, ..Setting::default() }, steps: vec![step(0, call)] };
        assert!(host.run(&script).is_err(), "{call:?}");
        assert!(script.repaired().steps.is_empty());
    }
}
