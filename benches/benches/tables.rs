//! The rows under Criterion: `cargo xtask bench --criterion`. One group per row and size, one function per candidate.
//!
//! Criterion measures one candidate after the other, so a noisy machine shows in its comparisons; the table of `cargo xtask bench` is made of
//! interleaved rounds instead. Use this one to compare a change of a single candidate with what Criterion saved before.

use std::{rc::Rc, time::Duration};

use benches::{
    measure::entrants,
    rows::{Row, Work},
};
use criterion::{BenchmarkId, Criterion, Throughput};

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .configure_from_args();
    for pages in [1, 512, 65_536, 1_048_576] {
        let work = Rc::new(Work::new(pages));
        for row in Row::ALL {
            let mut group = criterion.benchmark_group(format!("{}/{pages}", row.name()));
            group.throughput(Throughput::Elements(work.pages_of(row)));
            for entrant in entrants(row) {
                // Called only if the filter lets it through.
                group.bench_function(BenchmarkId::from_parameter(entrant.name), |bencher| {
                    let mut candidate = entrant.make(row, &work);
                    bencher.iter_custom(|rounds| (0..rounds).map(|_| candidate.round()).sum());
                });
            }
            group.finish();
        }
    }
    criterion.final_summary();
}
