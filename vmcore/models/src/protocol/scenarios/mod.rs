//! The models, one for each thing that two CPUs must not do to each other.

mod activation;
mod beside;
mod change;
mod fault;
mod release;

use super::Scenario;

/// All of them, in the order in which they are run.
pub(crate) const ALL: &[Scenario] = &[
    Scenario { name: "two CPUs fault on one page", run: fault::one_page },
    Scenario { name: "two CPUs fault on one page (TLB keeps faults)", run: fault::one_page_remembered },
    Scenario { name: "two CPUs fault on neighbours", run: fault::neighbours },
    Scenario { name: "read fault against write fault", run: fault::read_against_write },
    Scenario { name: "two CPUs fault, one populates", run: fault::populate },
    Scenario { name: "two CPUs fault untracked memory, one unmaps", run: fault::untracked },
    Scenario { name: "faults in two areas, one is unmapped", run: beside::against_unmap },
    Scenario { name: "faults in two areas, one is shrunk", run: beside::against_shrink },
    Scenario { name: "faults in two areas, one is protected", run: beside::against_protect },
    Scenario { name: "faults in two areas, one is cloned", run: beside::against_clone },
    Scenario { name: "faults in two areas, a snapshot of one", run: beside::against_snapshot },
    Scenario { name: "faults in two areas, one empty table", run: beside::one_table },
    Scenario { name: "faults in two areas write no common word", run: beside::no_common_word },
    Scenario { name: "faults in two leaves, one is unmapped", run: beside::leaves_against_unmap },
    Scenario { name: "faults in two leaves, one is cut off", run: beside::leaves_against_shrink },
    Scenario { name: "faults in two leaves, one is protected", run: beside::leaves_against_protect },
    Scenario { name: "faults in two leaves, both are cloned", run: beside::leaves_against_clone },
    Scenario { name: "faults in two leaves, a snapshot of both", run: beside::leaves_against_snapshot },
    Scenario { name: "faults in one leaf, which grows", run: beside::one_leaf },
    Scenario { name: "faults in two leaves write no common word", run: beside::no_common_word_of_leaves },
    Scenario { name: "fault against unmap", run: change::fault_against_unmap },
    Scenario { name: "fault against unmap (TLB keeps faults)", run: change::fault_against_unmap_remembered },
    Scenario { name: "unmap, then map the same address", run: change::address_reuse },
    Scenario { name: "shrink against fault in another space", run: change::shrink },
    Scenario { name: "shrink against unmap", run: change::shrink_against_unmap },
    Scenario { name: "shrink, grow again", run: change::shrink_and_grow },
    Scenario { name: "shrink against grow", run: change::shrink_against_grow },
    Scenario { name: "shrink against a larger shrink", run: change::two_shrinks },
    Scenario { name: "map where a shrinking area was unmapped", run: change::old_view },
    Scenario { name: "unmap the middle against fault at the ends", run: change::middle },
    Scenario { name: "sections given back and handed out", run: change::sections },
    Scenario { name: "copy into an area against shrink", run: change::copy_in },
    Scenario { name: "two unmap the same", run: change::two_unmap },
    Scenario { name: "destroy against release", run: release::destroy },
    Scenario { name: "flushes from a queue", run: release::queue },
    Scenario { name: "flush acknowledged by the CPUs themselves", run: release::interrupts },
    Scenario { name: "last handle against last window", run: release::last_reference },
    Scenario { name: "come back after a change", run: activation::come_back },
    Scenario { name: "come back after a change (no tags)", run: activation::come_back_untagged },
    Scenario { name: "tag reused", run: activation::tag_reused },
    Scenario { name: "kernel window against new and dying spaces", run: activation::kernel_window },
];
