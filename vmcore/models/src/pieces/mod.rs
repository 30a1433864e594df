//! What the library does without a lock, under every schedule within a bound of preemptions and every order that C11 permits.
//!
//! ```text
//!   piece: two or three threads on one record, map, tree or table
//!      │ the library's own code, on words in memory
//!      ▼
//!   words: a word of loom's for each address, made when it is first reached
//! ```
//!
//! What such words guard (the bytes of a frame, a node, what a tag stands for) is a cell of loom's, which sees two threads in it that
//! nothing has put in order.

mod adaptive;
mod entry;
mod readers;
mod record;
mod tags;
mod tree;
mod words;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::arguments::Arguments;
use crate::report::{Report, Row, catch};

/// A model: its name, and what one schedule of it does.
struct Piece {
    name: &'static str,
    run: fn(),
}

const ALL: &[Piece] = &[
    Piece { name: "frame record: the last of two holders", run: record::last_holder },
    Piece { name: "frame record: held once more meanwhile", run: record::one_more },
    Piece { name: "frame record: freed twice", run: record::double_free },
    Piece { name: "frame record: freed and put to use again", run: record::reuse },
    Piece { name: "tags: never two owners", run: tags::unique },
    Piece { name: "tags: given back and taken again", run: tags::reuse },
    Piece { name: "readers: one against a writer", run: readers::read_against_write },
    Piece { name: "readers: one against two writes", run: readers::read_against_two_writes },
    Piece { name: "readers: two against a writer", run: readers::two_readers },
    Piece { name: "readers: two of one slot, one writes", run: readers::one_slot },
    Piece { name: "readers: two writers, one reads", run: readers::two_writers },
    Piece { name: "adaptive: opened, one reads, one writes", run: adaptive::opened },
    Piece { name: "adaptive: closed and opened again", run: adaptive::closed_again },
    Piece { name: "adaptive: two locks owed by one slot", run: adaptive::two_locks },
    Piece { name: "page tree: two let go of one", run: tree::let_go },
    Piece { name: "page tree: two write to what they share", run: tree::both_write },
    Piece { name: "page tree: one writes, one lets go", run: tree::write_against_let_go },
    Piece { name: "page tree: three of one", run: tree::three },
    Piece { name: "entry: linked tables against a walk", run: entry::link },
    Piece { name: "entry: store against unmap", run: entry::unmap },
    Piece { name: "entry: store against protect", run: entry::protect },
    Piece { name: "entry: two stores against harvest", run: entry::take_marks },
    Piece { name: "entry: store against write-protect above", run: entry::write_protect },
];

pub(crate) fn run(arguments: &Arguments) -> Report {
    let pieces: Vec<_> = ALL.iter().filter(|piece| arguments.wants(piece.name)).collect();
    let mut report = Report { listed: arguments.list, ..Report::default() };
    if arguments.list {
        pieces.iter().for_each(|piece| println!("{}", piece.name));
        return report;
    }
    words::install();
    for (index, piece) in pieces.iter().enumerate() {
        eprintln!("[{:>2}/{}] {} …", index + 1, pieces.len(), piece.name);
        report.rows.push(every_schedule(piece, arguments.preemptions));
    }
    report
}

fn every_schedule(piece: &Piece, preemptions: usize) -> Row {
    static SCHEDULES: AtomicUsize = AtomicUsize::new(0);
    SCHEDULES.store(0, Ordering::Relaxed);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    let run = piece.run;
    let start = Instant::now();
    let finding = catch(|| {
        builder.check(move || {
            SCHEDULES.fetch_add(1, Ordering::Relaxed);
            words::begin_schedule();
            run();
        });
    });
    Row {
        name: piece.name,
        scheduler: "all",
        schedules: SCHEDULES.load(Ordering::Relaxed),
        time: start.elapsed(),
        finding,
    }
}
