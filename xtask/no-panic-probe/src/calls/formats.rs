//! `vmcore::paging`: every format of page tables.

use vmcore::{
    addr::{Frame, VirtAddr},
    inspect::{EntryBits, Legend},
    paging::{
        AArch64, AArch64Stage2, Access, Ept, Granule, Granule4K, Granule4KLpa2, Granule16K, Granule16KLpa2, Granule64K,
        Half, Leaf, MairLayout, MemoryType, Mmu, PatLayout, RiscV32, RiscV64, X86, X86_64, X86Pae,
    },
};

use super::{debugged, displayed, hidden, shown};

pub(super) fn all() {
    let bits = hidden(40);
    let pat = hidden(PatLayout::RESET);
    let x86 = X86::with_pat(bits, pat);
    shown(x86.pat());
    format(hidden(X86::new(bits)));
    format(hidden(x86));
    let pae = X86Pae::with_pat(bits, pat);
    shown(pae.pat());
    format(hidden(X86Pae::new(bits)));
    format(hidden(pae));
    format(hidden(X86_64::new(bits).five_levels()));
    format(hidden(Ept::new(bits).five_levels().execute_only().ignore_guest_pat().vpid()));
    format(hidden(RiscV32::new(bits).asid_bits(bits)));
    format(hidden(RiscV64::sv39(bits).asid_bits(bits)));
    format(hidden(RiscV64::sv48(bits).svpbmt()));
    format(hidden(RiscV64::sv57(bits).svnapot()));
    granule::<Granule4K>();
    granule::<Granule4KLpa2>();
    granule::<Granule16K>();
    granule::<Granule16KLpa2>();
    granule::<Granule64K>();
    if let Some(layout) = MairLayout::new(hidden([MemoryType::WriteBack; 8])) {
        shown(layout.types());
        shown(layout.to_register());
    }
    shown(MairLayout::from_register(hidden(1)));
}

fn granule<G: Granule>() {
    let (half, bits) = (hidden(Half::Upper), hidden(48));
    let mmu =
        AArch64::<G>::new(half, bits, bits).with_mair(hidden(MairLayout::STANDARD)).hardware_dirty().asid_bits(bits);
    shown(mmu.half());
    shown(mmu.mair());
    format(hidden(mmu));
    format(hidden(AArch64::<G>::bits_39(half, bits)));
    format(hidden(AArch64::<G>::bits_48(half, bits)));
    format(hidden(AArch64Stage2::<G>::new(bits, bits).hardware_dirty().vmid_bits(bits)));
}

fn format<M: Mmu>(mmu: M) {
    let (level, word) = (hidden(1), hidden(1));
    let frame = Frame::new(hidden(1));
    let mut leaf = hidden(Leaf::new(frame)).key(hidden(1));
    leaf.memory = hidden(MemoryType::DeviceGathering);
    displayed(Legend(mmu));
    displayed(EntryBits { mmu, level, word });
    shown(mmu.levels());
    shown(mmu.physical_bits());
    shown(mmu.virtual_bits());
    shown(mmu.page_shift());
    shown(mmu.canonical());
    shown(mmu.index_bits(level));
    shown(mmu.level(level));
    shown(mmu.contiguous(level));
    shown(mmu.has_leaves(level));
    shown(mmu.has_access(hidden(Access::EXECUTE)));
    shown(mmu.marks_dirty());
    shown(mmu.memory_code(leaf.memory));
    shown(mmu.memory_type(hidden(1)));
    shown(mmu.is_canonical(VirtAddr::new(word)));
    shown(mmu.range(hidden(1), hidden(1)));
    shown(mmu.encode_access(leaf.access));
    shown(mmu.encode_leaf(level, leaf));
    shown(mmu.encode_table(level, frame));
    shown(mmu.leaf_fits(level, frame));
    shown(mmu.leaf_stride(level));
    shown(mmu.leaf_access(word));
    shown(mmu.is_dirty(word));
    shown(mmu.is_present(word));
    shown(mmu.is_contiguous(level, word));
    shown(mmu.replace_access(word, hidden(1)));
    shown(mmu.decode(level, word));
    shown(mmu.decode_at(level, hidden(1), word));
    shown(mmu.decode_table(level, word));
    shown(mmu.decode_leaf(level, word));
    shown(mmu.decode_leaf_at(level, hidden(1), word));
    shown(mmu.beyond_physical());
    let limits = mmu.limits(level, word) & mmu.limits(level, hidden(2));
    shown(leaf.access & limits);
    displayed(limits);
    debugged(limits);
    if let Err(error) = mmu.encode_contiguous(level, leaf) {
        displayed(error);
    }
    if let Err(error) = mmu.encode_absent(word) {
        displayed(error);
    }
}
