//! Going over from a loader's tables to one's own: what the loader maps is reported, turned into windows of the kernel's space or left out, compared page by
//! page, and then the loader's tables are taken over where they are, to be taken apart: their memory is free.
//! Run it with `cargo run -p examples --example adopt_loader`.
//!
//! ```text
//!   memory    | 64 frames: the loader's |  960 frames: the kernel's                |
//!   tables    | root, ...               |  root of the kernel's space, ...         |
//!                └── runs ── decide ───────► windows onto fixed areas
//! ```
//!
//! There are two other ways, for others: `Space::adopt_foreign` shares root slots with another kernel's tables, which stay that
//! kernel's; and whoever uses `Tables` alone goes on with a loader's tables where they are, as the last step here begins (`Tables::adopt`).

use vmcore::addr::{Frame, PageRange, VirtAddr};
use vmcore::frame::{FrameList, FrameMeta, FrameMetaTable, FrameRegion, FrameRequest, FrameUse, Frames};
use vmcore::inspect::{Bytes, SpaceMap};
use vmcore::paging::{Access, FlushRequest, Gather, Leaf, MemoryType, Mmu, Tables, Tag, X86_64};
use vmcore::vm_space::{Adoption, Space};
use vmcore::{CpuMask, Machine, Platform};

type Region = FrameRegion<'static, spin::Mutex<()>>;

const FIRST: u64 = 0x100;
const LOADERS: u64 = 64;
const FRAMES: u64 = 1024;

const LINEAR: u64 = 0xffff_ff80_0000_0000;
const IMAGE: u64 = 0xffff_ffff_8000_0000;
const SCREEN: u64 = 0xffff_ffff_c000_0000;
const TRAMPOLINE: u64 = 0xffff_ffff_f000_0000;

struct Host {
    /// What the loader used. The kernel's record of it says that all of it is in use, until it comes back.
    loaders: Region,
    frames: Region,
    machine: Machine<Handle>,
}

#[derive(Clone, Copy)]
struct Handle(&'static Host);

// SAFETY: everything is forwarded to one of two `FrameRegion`s, which keep the contract for frames of their own.
unsafe impl Frames for Handle {
    fn allocate_frames(&self, request: FrameRequest) -> Option<Frame> {
        self.0.frames.allocate(request)
    }
    unsafe fn free_frames(&self, first: Frame, count: u64) {
        let region = if self.0.loaders.meta(first).is_some() { &self.0.loaders } else { &self.0.frames };
        // SAFETY: forwarded.
        unsafe { region.free(first, count) }
    }
    fn frame_pointer(&self, frame: Frame) -> *mut u8 {
        // The loader's tables are reached as well, so that they can be read.
        let pointer = self.0.loaders.pointer(frame);
        if pointer.is_null() { self.0.frames.pointer(frame) } else { pointer }
    }
    fn frame_meta(&self, frame: Frame) -> Option<&FrameMeta> {
        self.0.loaders.meta(frame).or_else(|| self.0.frames.meta(frame))
    }
}

// SAFETY: there is one machine, one CPU, and no TLB that could be stale.
unsafe impl Platform for Handle {
    type Mmu = X86_64;
    type RawMutex = spin::Mutex<()>;
    type CpuSet = CpuMask;
    type SpaceData = ();
    type AreaData = ();
    fn machine(&self) -> &Machine<Self> {
        &self.0.machine
    }
    fn cpu(&self) -> usize {
        0
    }
    fn flush(&self, _request: &FlushRequest<CpuMask>) {}
    fn flush_local(&self, _request: &FlushRequest<CpuMask>) {}
}

/// A region of so many frames from `first` on, with records of its own.
///
/// # Safety
/// The memory at `base` is that of the frames, aligned, and used by nobody else while the region is used.
unsafe fn region(base: *mut u8, first: u64, count: u64) -> Region {
    let records = Vec::leak((0..count).map(|_| FrameMeta::new()).collect());
    // SAFETY: the caller vouches for it.
    unsafe { FrameRegion::new(base, 12, FrameMetaTable::new(Frame::new(first), records)) }
}

/// Plays the loader: makes tables in memory that it keeps its own books of, and gives their root.
fn load(memory: &Region, mmu: X86_64) -> Result<Frame, Box<dyn std::error::Error>> {
    let mut spare = FrameList::new();
    spare.fill_with_tables(memory, 1)?;
    let root = spare.pop(memory).ok_or("no frame for the root")?;
    // SAFETY: the frame was just taken: zeroed, recorded as a table, and nobody else's.
    let mut tables = unsafe { Tables::new(mmu, root, Tag(0)) };
    let everything = Access::KERNEL_DATA.union(Access::EXECUTE);
    let leaf = |frame, access| Leaf::new(Frame::new(frame)).access(access);
    for (start, size, leaf) in [
        (0, 64 << 20, leaf(0, everything)),
        (LINEAR, 64 << 20, leaf(0, everything)),
        (IMAGE, 0x5000, leaf(0x400, Access::READ.union(Access::EXECUTE))),
        (IMAGE + 0x5000, 0x3000, leaf(0x405, Access::READ)),
        (IMAGE + 0x9000, 0x8000, leaf(0x409, Access::KERNEL_DATA)),
        (SCREEN, 0x30_0000, leaf(0xf_d000, Access::KERNEL_DATA).memory(MemoryType::WriteCombining)),
        (TRAMPOLINE, 0x1000, leaf(0x7, everything)),
    ] {
        let range = mmu.range(start, size)?;
        spare.fill_with_tables(memory, tables.tables_to_map(memory, range, Some(leaf.frame), 1))?;
        tables.map(memory, range, leaf, 1, &mut spare)?;
    }
    Ok(root)
}

/// What becomes of a run of the loader's, and in a word why.
fn decide(pages: PageRange, leaf: Leaf) -> (Adoption<()>, &'static str) {
    match pages.start().as_u64() {
        // The loader made all of it executable; the kernel does not.
        LINEAR => (Adoption::WindowFor(Access::KERNEL_DATA, ()), "linear map: a window, not executable any more"),
        TRAMPOLINE => (Adoption::LeaveOut, "the loader's way into the kernel: left out"),
        _ if leaf.memory == MemoryType::WriteCombining => (Adoption::Window(()), "screen: a window as it is"),
        _ => (Adoption::Window(()), "kernel's image: a window as it is"),
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let memory = Vec::leak(vec![0_u8; (FRAMES as usize + 1) * 4096]);
    let base = memory.as_mut_ptr().wrapping_add(memory.as_ptr().align_offset(4096));
    let mmu = X86_64::new(40);
    // SAFETY: the memory is aligned, large enough, and nobody else's for ever. The loader is done with its part when this returns.
    let root = unsafe { load(&region(base, FIRST, LOADERS), mmu)? };

    // The kernel starts. That the loader's part is in use, its map of memory says.
    // SAFETY: as above; the two parts do not overlap.
    let (loaders, frames) = unsafe {
        let rest = base.wrapping_add(LOADERS as usize * 4096);
        (region(base, FIRST, LOADERS), region(rest, FIRST + LOADERS, FRAMES - LOADERS))
    };
    loaders.allocate(FrameRequest::run(FrameUse::Pinned, LOADERS, 0)).ok_or("the loader's memory")?;
    let host = Handle(Box::leak(Box::new(Host { loaders, frames, machine: Machine::new(mmu) })));
    // SAFETY: the tables are complete and reached by `frame_pointer`; nobody changes them. The loader's layout of memory types is the kernel's;
    // where it is not, the loader's MMU value has its own (`X86_64::with_pat`).
    let mut loader = unsafe { Tables::new(mmu, root, Tag(0)) };

    // First, what there is.
    let (lower, upper) = (mmu.range(0, 1 << 47)?, mmu.range(LINEAR, 0x80_0000_0000)?);
    println!("the loader maps:");
    for (pages, leaf) in loader.runs(&host, lower).chain(loader.runs(&host, upper)) {
        println!("  {:#018x} {:>8}  {leaf:?}", pages.start(), Bytes(pages.size()).to_string());
    }

    // Then the windows: all of them, or none.
    println!("\nof its upper half:");
    let kernel = Space::kernel(&host, upper, None, ())?;
    let ask = |pages: PageRange, leaf: Leaf| {
        let (adoption, why) = decide(pages, leaf);
        println!("  {:#018x}  {why}", pages.start());
        adoption
    };
    // SAFETY: the image's memory, the screen's and RAM are used as their owners in this program do: not at all.
    let windows = unsafe { kernel.adopt_runs(&loader, upper, ask)? };
    println!("\nthe kernel's space, {windows} windows:\n{}\n", SpaceMap(&kernel));

    // A CPU that goes over finds the same memory at each address.
    let mut same = 0;
    for (pages, leaf) in loader.runs(&host, upper) {
        for page in 0..pages.pages(12) {
            let address = VirtAddr::new(pages.start().as_u64() + page * 4096);
            let found = kernel.walk(address).physical();
            if address.as_u64() != TRAMPOLINE {
                assert_eq!(found, Some(leaf.frame.add(page).start(12)), "{address}");
                same += 1;
            }
        }
    }
    println!(
        "{same} pages lead where they led before; here one of them:\n{}\n",
        kernel.walk(VirtAddr::new(IMAGE + 0x5123))
    );

    // The kernel writes CR3 here. Nobody uses the loader's tables any more: they are taken over where they are, and taken apart.
    let mut gather = Gather::default();
    let mut tables = 0;
    for half in [lower, upper] {
        // SAFETY: the loader is gone, its tables are a tree, and its frames may be freed one by one: the region says so.
        tables += unsafe { loader.adopt(&host, half)? };
        loader.detach(&host, half, &mut gather)?;
    }
    // SAFETY: no CPU has the loader's root loaded, nor remembers anything of it.
    unsafe {
        gather.tables.free_tables(&host);
        loader.free_root(&host).map_err(|(_, error)| error)?;
    }
    println!("the loader had {tables} tables; {} of its frames are free now", host.0.loaders.available());
    assert_eq!(host.0.loaders.available(), tables);
    kernel.destroy().map_err(|(_, error)| error)?.complete();
    Ok(())
}

#[test]
fn it_runs() -> Result<(), Box<dyn std::error::Error>> {
    main()
}
