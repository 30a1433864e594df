//! The tables on the front pages say what the descriptions say.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::paging::formats::*;
use crate::paging::{MemoryType, Mmu};

/// The row of the front page's table for a format, made from its description.
fn row<M: Mmu>(name: &str, address_bits: &str, mmu: M) -> String {
    let format = M::FORMAT;
    let size = |shift: u32| match shift {
        12..20 => format!("{} KiB", 1 << (shift - 10)),
        20..30 => format!("{} MiB", 1 << (shift - 20)),
        30..40 => format!("{} GiB", 1 << (shift - 30)),
        _ => format!("{} TiB", 1 << (shift - 40)),
    };
    let each_level = |text: &dyn Fn(usize) -> Option<String>| {
        let texts: Vec<_> = (0..mmu.levels()).filter_map(text).collect();
        if texts.is_empty() { "–".to_string() } else { texts.join(", ") }
    };
    let leaves = each_level(&|level| mmu.level(level).filter(|_| mmu.has_leaves(level)).map(|at| size(at.shift)));
    let groups = each_level(&|level| Some(size(mmu.level(level)?.shift + mmu.contiguous(level)?.count_shift)));
    let types: Vec<_> = MemoryType::ALL
        .into_iter()
        .filter(|memory| mmu.memory_code(*memory).is_some())
        .map(MemoryType::abbreviation)
        .collect();
    let flags = [
        (format.leaf.readable, 'r'),
        (format.leaf.writable, 'w'),
        (format.leaf.executable, 'x'),
        (format.leaf.user, 'u'),
    ];
    let chosen: String = flags.into_iter().filter(|(flag, _)| flag.exists()).map(|(_, letter)| letter).collect();
    let limits = match (format.table.is_some(), format.limits_at_every_level()) {
        (true, true) => "every level",
        (true, false) => "but the top",
        (false, _) => "–",
    };
    let bits = |count: u32| if count == 0 { "–".to_string() } else { count.to_string() };
    format!(
        "| {name} | {address_bits} | {leaves} | {} | {chosen} | {limits} | {} | {} | {} | {groups} | {} | {} |",
        types.join(" "),
        if format.global.exists() { "yes" } else { "–" },
        bits(format.software.1),
        bits(format.key.1),
        format.absent.1,
        bits(mmu.tags().trailing_zeros())
    )
}

/// The table on the crate's front page says what the descriptions say, of every format.
#[test]
fn the_front_page_is_true() {
    let wide = |half| AArch64::<Granule64K>::new(half, 52, 52).asid_bits(16);
    let link = |name: &str, more: &str| format!("[`{name}`](paging::{name}){more}");
    let granule = |name: &str| format!("[`AArch64`](paging::AArch64), {}", link(name, ""));
    let stage2 = |name: &str| format!("[`AArch64Stage2`](paging::AArch64Stage2), {}", link(name, ""));
    let rows = [
        row(&link("X86", ""), "32", X86::new(40)),
        row(&link("X86Pae", ""), "32", X86Pae::new(52)),
        row(&link("X86_64", ""), "48, 57", X86_64::new(52).five_levels().pcid()),
        row(&link("Ept", ""), "48, 57", Ept::new(52).five_levels().vpid()),
        row(&link("RiscV32", ""), "32", RiscV32::new(34).asid_bits(9)),
        row(&link("RiscV64", ""), "39, 48, 57", RiscV64::sv57(56).svpbmt().svnapot().asid_bits(16)),
        row(&granule("Granule4K"), "25–48", AArch64::<Granule4K>::bits_48(Half::Lower, 48).asid_bits(16)),
        row(&granule("Granule4KLpa2"), "25–52", AArch64::<Granule4KLpa2>::new(Half::Lower, 52, 52).asid_bits(16)),
        row(&granule("Granule16K"), "25–48", AArch64::<Granule16K>::bits_48(Half::Lower, 48).asid_bits(16)),
        row(&granule("Granule16KLpa2"), "25–52", AArch64::<Granule16KLpa2>::new(Half::Lower, 52, 52).asid_bits(16)),
        row(&granule("Granule64K"), "25–52", wide(Half::Upper)),
        row(&stage2("Granule4K"), "25–48", AArch64Stage2::<Granule4K>::new(48, 48).vmid_bits(16)),
        row(&stage2("Granule4KLpa2"), "25–52", AArch64Stage2::<Granule4KLpa2>::new(52, 52).vmid_bits(16)),
        row(&stage2("Granule16K"), "25–48", AArch64Stage2::<Granule16K>::new(48, 48).vmid_bits(16)),
        row(&stage2("Granule16KLpa2"), "25–52", AArch64Stage2::<Granule16KLpa2>::new(52, 52).vmid_bits(16)),
        row(&stage2("Granule64K"), "25–52", AArch64Stage2::<Granule64K>::new(52, 52).vmid_bits(16)),
    ];
    let page = include_str!("../../../lib.rs");
    let start = page.find("//! | format |").unwrap();
    let table: Vec<_> = page[start..].lines().take_while(|line| line.starts_with("//! |")).skip(2).collect();
    let expected: Vec<_> = rows.iter().map(|row| format!("//! {row}")).collect();
    assert_eq!(table, expected, "the table should be:\n{}", expected.join("\n"));

    // The readme has the first columns, without links.
    let plain = |cell: &str| {
        let after_link = |part: &str| part.split_once(')').map_or("", |(_, rest)| rest).to_string();
        let mut parts = cell.split("](");
        let first = parts.next().unwrap_or("").to_string();
        parts.fold(first, |text, part| text + &after_link(part)).replace(['[', '`'], "")
    };
    let short = |row: &String| {
        let cells: Vec<_> = row.split(" | ").take(3).map(|cell| plain(cell.trim_start_matches("| "))).collect();
        format!("| {} |", cells.join(" | "))
    };
    let readme = include_str!("../../../../../README.md");
    let start = readme.find("| page tables |").unwrap();
    let table: Vec<_> = readme[start..].lines().take_while(|line| line.starts_with('|')).skip(2).collect();
    let expected: Vec<_> = rows.iter().map(short).collect();
    assert_eq!(table, expected, "the readme's table should be:\n{}", expected.join("\n"));
}
