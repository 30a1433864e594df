//! The rows under Criterion: `cargo xtask bench --criterion`. One group per row and size, one function per candidate.
//!
//! Criterion measures one candidate after the other, so a noisy machine shows in its comparisons; the table of `cargo xtask bench` is made of
//! interleaved rounds instead. Use this one to compare a change of a single candidate with what Criterion saved before.

use std::time::Duration;

use benches::{measure::candidates, rows::Row};
use criterion::{BenchmarkId, Criterion, Throughput};

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .configure_from_args();
    for row in Row::ALL {
        for pages in [1, 512, 65_536, 1_048_576] {
            let mut group = criterion.benchmark_group(format!("{}/{pages}", row.name()));
            let (candidates, total) = candidates(row, pages);
            group.throughput(Throughput::Elements(total));
            for mut candidate in candidates {
                group.bench_function(BenchmarkId::from_parameter(candidate.name()), |bencher| {
                    bencher.iter_custom(|rounds| (0..rounds).map(|_| candidate.round()).sum());
                });
            }
            group.finish();
        }
    }
    criterion.final_summary();
}
