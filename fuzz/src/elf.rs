//! Programs for the kernel, loaded as it loads them, on a simulated machine; beside a reading of the file that shares no code with it.

use refkernel::elf::{Plan, Segment};
use refkernel_abi::{AREA_SIZE_MAX, PAGE_SIZE, USER_END, USER_START};
use vmcore::Platform as _;
use vmcore::addr::VirtAddr;
use vmcore::paging::{Access, Mmu as _};
use vmcore::sim::Sim;
use vmcore::vm_area::{Area, AreaKind, Rights};
use vmcore::vm_space::{Fault, MapRequest, Space};

const KERNEL_START: u64 = 0xffff_ff80_0000_0000;
const KERNEL_SIZE: u64 = 0x80_0000_0000;
/// The most file bytes of a segment that are looked at: larger ones show nothing that smaller ones do not.
const MOST: usize = 0x4000;

/// What a program header says, read by its place in the file.
struct Header {
    flags: u32,
    offset: u64,
    address: u64,
    in_file: u64,
    in_memory: u64,
}

fn word<const N: usize>(file: &[u8], at: usize) -> Option<[u8; N]> {
    file.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// The headers of what is to be loaded.
fn headers(file: &[u8]) -> Option<Vec<Header>> {
    let quad = |at| Some(u64::from_le_bytes(word(file, at)?));
    let half = |at| Some(u16::from_le_bytes(word(file, at)?));
    let (table, size, count) = (usize::try_from(quad(32)?).ok()?, half(54)?, half(56)?);
    let mut all = Vec::new();
    for index in 0..usize::from(count) {
        let at = table.checked_add(index * usize::from(size))?;
        let kind = u32::from_le_bytes(word(file, at)?);
        let header = Header {
            flags: u32::from_le_bytes(word(file, at + 4)?),
            offset: quad(at + 8)?,
            address: quad(at + 16)?,
            in_file: quad(at + 32)?,
            in_memory: quad(at + 40)?,
        };
        if kind == 1 && (header.in_file != 0 || header.in_memory != 0) {
            all.push(header);
        }
    }
    all.sort_by_key(|header| header.address);
    Some(all)
}

/// Plans a program, and loads it if it is one. Panics where the plan is not what the file says, or the memory not what was planned.
pub(crate) fn run(file: &[u8]) {
    let Ok(plan) = Plan::new(file) else { return };
    let headers = headers(file).expect("a file that is accepted can be read");
    assert_eq!(headers.len(), plan.segments().len());
    let mut end = USER_START;
    let mut entry_is_code = false;
    for (segment, header) in plan.segments().iter().zip(&headers) {
        let start = header.address & !(PAGE_SIZE - 1);
        let size = (header.address + header.in_memory).next_multiple_of(PAGE_SIZE) - start;
        assert_eq!((segment.address(), segment.size(), segment.lead()), (start, size, header.address - start));
        assert_eq!(segment.data(), &file[header.offset as usize..][..header.in_file as usize]);
        let access = |bit: u32| header.flags & bit != 0;
        let said = (
            segment.access().contains(refkernel_abi::Access::WRITE),
            segment.access().contains(refkernel_abi::Access::EXECUTE),
        );
        assert_eq!(said, (access(2), access(1)));
        assert!(said != (true, true), "writable and executable");
        assert!(start >= end && start + size <= USER_END && size <= AREA_SIZE_MAX);
        end = start + size;
        entry_is_code |= access(1) && (header.address..header.address + header.in_file).contains(&plan.entry());
    }
    assert!(entry_is_code);
    if plan.segments().iter().all(|segment| segment.data().len() <= MOST) {
        load(&plan);
    }
}

/// Loads a plan as the kernel does, and looks at its pages through a CPU.
fn load(plan: &Plan) {
    let sim = Sim::builder().frames(1024).build();
    let start = sim.frame_counts();
    let bounds = sim.machine().mmu().range(KERNEL_START, KERNEL_SIZE).unwrap();
    let kernel = Space::kernel(&sim, bounds, None, ()).unwrap();
    let space = Space::user(&kernel, ()).unwrap();
    sim.activate(0, &space.activate(0));
    for segment in plan.segments() {
        let area = Area::new(&sim, AreaKind::Open { size: segment.size() }, 0).unwrap();
        area.write(segment.lead(), segment.data()).unwrap().complete();
        let mut rights = Rights::MAP | Rights::READ;
        rights.set(Rights::WRITE, access(segment).contains(Access::WRITE));
        rights.set(Rights::EXECUTE, access(segment).contains(Access::EXECUTE));
        let area = area.handle(rights).unwrap();
        space.map(&MapRequest::new(&area).at(segment.address()).access(access(segment))).unwrap();
    }
    for segment in plan.segments() {
        let with_bytes = (segment.lead() + segment.data().len() as u64).div_ceil(PAGE_SIZE);
        for page in (0..=with_bytes).chain([segment.pages() - 1]).filter(|page| *page < segment.pages()) {
            look(&sim, &space, segment, page);
        }
    }
    sim.check_translations();
    sim.activate(0, &kernel.activate(0));
    // SAFETY: another root is loaded.
    unsafe { space.deactivate(0) };
    drop(space);
    sim.unload(0);
    // SAFETY: no root is loaded.
    unsafe { kernel.deactivate(0) };
    kernel.destroy().map_err(|(_, error)| error).unwrap().complete();
    sim.assert_no_violation();
    assert_eq!(sim.frame_counts(), start);
}

fn access(segment: &Segment) -> Access {
    // The three have the same numbers.
    Access::from_bits_truncate(segment.access().bits() as u8) | Access::READ
}

/// Reads a page as the program does, and tries what it is not allowed.
fn look(sim: &Sim, space: &Space<Sim>, segment: &Segment, page: u64) {
    let address = segment.address() + page * PAGE_SIZE;
    let allowed = access(segment);
    for tried in [Access::READ, Access::WRITE, Access::EXECUTE] {
        let result = space.fault(Fault::new(address, tried | Access::USER)).map(|flush| flush.complete());
        assert_eq!(result.is_ok(), allowed.contains(tried), "{tried} at {address:#x}: {result:?}");
        // What the CPU remembers of less is forgotten by the fault that it causes.
        let attempt = || sim.access(0, VirtAddr::new(address), tried | Access::USER);
        let seen = attempt().or_else(|_| attempt());
        assert_eq!(seen.is_ok(), allowed.contains(tried), "{tried} at {address:#x}: {seen:?}");
    }
    let mut bytes = vec![1; PAGE_SIZE as usize];
    sim.read(0, VirtAddr::new(address), true, &mut bytes).unwrap();
    let data = segment.data();
    for (index, byte) in bytes.into_iter().enumerate() {
        let offset = (page * PAGE_SIZE + index as u64).checked_sub(segment.lead());
        let expected = offset.and_then(|offset| data.get(usize::try_from(offset).ok()?)).copied().unwrap_or(0);
        assert_eq!(byte, expected, "byte {index:#x} of page {page} of {segment:?}");
    }
    let (first, planned) = segment.page(page);
    let begin = (page * PAGE_SIZE + first as u64).checked_sub(segment.lead());
    assert!(planned.is_empty() || begin.is_some_and(|begin| data[begin as usize..].starts_with(planned)));
}
