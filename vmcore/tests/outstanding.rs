//! Changes beside others whose flush is outstanding, on formats whose tables go as a whole, or must be forgotten before others take their place.

use vmcore::Platform;
use vmcore::addr::VirtAddr;
use vmcore::paging::{AArch64, Access, DetachedFlush, Granule4K, Half, Mmu, RiscV64};
use vmcore::sim::{Sim, SimFormat};
use vmcore::vm_area::{Area, AreaKind};
use vmcore::vm_space::{Fault, Inherit, MapRequest, Space};

const PAGE: u64 = 0x1000;
const A: u64 = 0x40_0000;

struct Scene<M: SimFormat> {
    sim: Sim<M>,
    kernel: Space<Sim<M>>,
    space: Space<Sim<M>>,
    area: Area<Sim<M>>,
}

impl<M: SimFormat> Scene<M> {
    /// A user space that CPU 0 runs, with the first two of an area's four pages at `A`, private and present.
    fn new(mmu: M, kernel: (u64, u64)) -> Self {
        let sim = Sim::of(mmu).build();
        let kernel = Space::kernel(&sim, sim.machine().mmu().range(kernel.0, kernel.1).unwrap(), None, ()).unwrap();
        let space = Space::user(&kernel, ()).unwrap();
        sim.activate(0, &space.activate(0));
        let area = Area::new(&sim, AreaKind::Open { size: 4 * PAGE }, 0).unwrap();
        let scene = Self { sim, kernel, space, area };
        scene.space.map(&MapRequest::new(&scene.area).at(A).size(2 * PAGE).inherit(Inherit::Copy).populated()).unwrap();
        assert!(scene.reaches(A) && scene.reaches(A + PAGE));
        scene
    }

    fn reaches(&self, address: u64) -> bool {
        self.sim.access(0, VirtAddr::new(address), Access::USER_DATA).is_ok()
    }

    fn acknowledge<T>(&self, flush: DetachedFlush<Sim<M>, T>) -> T {
        self.sim.apply(flush.request());
        // SAFETY: every CPU of the request has just carried it out.
        unsafe { flush.acknowledged() }
    }

    fn end(self) {
        self.sim.check_translations();
        self.sim.assert_no_violation();
        self.sim.unload(0);
        // SAFETY: no root is loaded there any more.
        unsafe { (self.space.deactivate(0), self.kernel.deactivate(0)) };
    }
}

/// The clone detached the table, and a CPU remembers the way to it: what forgets the page alone would find it there again.
#[test]
fn what_is_told_beside_a_clone_is_true_of_the_tables_that_it_detached() {
    for protect in [false, true] {
        let scene = Scene::new(RiscV64::sv39(40).asid_bits(4), (0xffff_ffff_8000_0000, 0x4000_0000));
        let clone = scene.space.try_clone(()).unwrap().detach();
        let range = scene.space.range(A, PAGE).unwrap();
        if protect {
            scene.space.protect(range, Access::READ).unwrap().complete();
        } else {
            scene.space.install_guards(range).unwrap().complete();
        }
        assert!(!scene.reaches(A), "it is not to be written to any more");
        drop(scene.acknowledge(clone));
        scene.end();
    }
}

/// The table that held what is unmapped was empty and went; the next one for those addresses is linked before the flush.
#[test]
fn a_table_takes_the_place_of_one_that_nobody_remembers() {
    let mmu = AArch64::<Granule4K>::bits_48(Half::Lower, 40);
    let top = 1 << mmu.virtual_bits();
    let scene = Scene::new(mmu, (top - (2 << 39), 1 << 39));
    let unmapped = scene.space.unmap(scene.space.range(A, 2 * PAGE).unwrap()).unwrap().detach();
    scene.space.map(&MapRequest::new(&scene.area).at(A + 8 * PAGE)).unwrap();
    scene.space.fault(Fault::new(A + 8 * PAGE, Access::USER_DATA)).unwrap().complete();
    assert!(scene.reaches(A + 8 * PAGE));
    scene.acknowledge(unmapped);
    scene.end();
}
