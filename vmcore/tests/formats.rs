//! Spaces in formats other than x86-64's with four levels: a program's page is there when a fault has brought it, and gone when it is unmapped.

use vmcore::addr::{Frame, VirtAddr};
use vmcore::paging::{Access, RiscV64, X86_64, X86Pae};
use vmcore::sim::{Sim, SimFormat};
use vmcore::vm_area::{Area, AreaKind};
use vmcore::vm_space::{Fault, MapRequest, Space};
use vmcore::{Platform, paging::Tag};

/// Pages of a program, each far from the others, brought by faults after the root was loaded.
fn faults_after_the_root_was_loaded<M: SimFormat>(mmu: M, kernel: (u64, u64), addresses: &[u64]) {
    let sim = Sim::of(mmu).frames(512).build();
    let start = sim.frame_counts();
    let bounds = sim.machine().mmu().range(kernel.0, kernel.1).unwrap();
    let kernel = Space::kernel(&sim, bounds, None, ()).unwrap();
    let space = Space::user(&kernel, ()).unwrap();
    let activation = space.activate(0);
    sim.load(0, Frame::containing(activation.root, 12), activation.tag);
    let area = Area::new(&sim, AreaKind::Open { size: 0x4000 }, 0).unwrap();
    // Twice: what unmapping takes away comes back.
    for _ in 0..2 {
        for &address in addresses {
            let range = space.map(&MapRequest::new(&area).at(address).access(Access::USER_DATA)).unwrap();
            let mut seen = sim.access(0, VirtAddr::new(address), Access::USER_DATA);
            // Where CPUs keep absent entries as well, the second fault forgets them.
            for _ in 0..2 {
                let Err(fault) = seen else { break };
                space.fault(Fault::new(fault.address.as_u64(), fault.access)).unwrap().complete();
                seen = sim.access(0, VirtAddr::new(address), Access::USER_DATA);
            }
            assert!(seen.is_ok(), "{mmu:?}: {address:#x} was brought, and the CPU has {seen:?}");
            space.unmap(range).unwrap().complete();
            assert!(sim.access(0, VirtAddr::new(address), Access::USER_DATA).is_err());
        }
    }
    sim.load(0, kernel.root(), Tag(0));
    // SAFETY: another root is loaded, which forgets all that is not global.
    unsafe { space.deactivate(0) };
    sim.unload(0);
    // SAFETY: no root is loaded.
    unsafe { kernel.deactivate(0) };
    space.destroy().map_err(|(_, error)| error).unwrap().complete();
    drop(area);
    kernel.destroy().map_err(|(_, error)| error).unwrap().complete();
    sim.assert_no_violation();
    assert_eq!(sim.frame_counts(), start, "frames are lost");
}

#[test]
fn a_program_runs_in_x86_64() {
    let addresses = [0x40_0000, 0x80_0000_0000, 0x7fff_ffff_0000];
    faults_after_the_root_was_loaded(X86_64::new(40), (0xffff_ff80_0000_0000, 0x80_0000_0000), &addresses);
}

/// The CPU remembers that a table was absent, which a flush of the page's leaf alone would not end.
#[test]
fn faults_end_where_absent_tables_are_remembered() {
    let addresses = [0x40_0000, 0x4000_0000, 0x3f_ffff_0000];
    faults_after_the_root_was_loaded(RiscV64::sv39(40), (0xffff_ffff_c000_0000, 0x4000_0000), &addresses);
}

/// The CPU has the root's four entries in registers: one that was absent when the root was loaded stays so, and faults would not end.
#[test]
fn faults_end_where_the_root_is_in_registers() {
    faults_after_the_root_was_loaded(
        X86Pae::new(40),
        (0xc000_0000, 0x4000_0000),
        &[0x40_0000, 0x4000_0000, 0x7fff_0000],
    );
}
