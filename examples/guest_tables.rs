//! A guest's tables beside a host's: the same code builds the second stage of translation, from a guest's physical addresses to real ones, in the format
//! of Intel's EPT and in that of Arm's stage 2. Run it with `cargo run -p examples --example guest_tables`.
//!
//! ```text
//!   guest-virtual ──the guest's own tables──► guest-physical ──second stage (this program)──► physical
//! ```
//!
//! The second stage is filled when the guest faults on it, in blocks of 2 MiB where it can be; a device is passed through uncached; a page is taken
//! back from the guest (a balloon), for which a block is split. At the end an address of the guest's is explained through both stages.

use std::fmt::Debug;

use vmcore::addr::{Frame, FrameRange, PageRange, VirtAddr};
use vmcore::frame::{FrameList, FrameMeta, FrameMetaTable, FrameRegion, FrameRequest, FrameUse, Frames};
use vmcore::paging::{AArch64Stage2, Access, Ept, Gather, Granule4K, Leaf, MemoryType, Mmu, Tables, Tag, X86_64};

const FRAMES: usize = 8192;
/// What the guest believes to be its memory: 8 MiB from 0. A guest-physical address is a `VirtAddr` here: it is what the second stage translates.
const GUEST_RAM: u64 = 8 << 20;
const BLOCK: u64 = 2 << 20;
const GUEST_ACCESS: Access = Access::READ.union(Access::WRITE).union(Access::EXECUTE);

/// The host's frames. Formats that demand break-before-make (Arm) ask for an invalidation between the two halves of replacing an entry.
struct Host(FrameRegion<'static, spin::Mutex<()>>);

// SAFETY: everything is forwarded to a `FrameRegion`, which keeps the contract. No CPU walks these tables, so none has anything to forget.
unsafe impl Frames for Host {
    const INVALIDATES_NOW: bool = true;
    fn allocate_frames(&self, request: FrameRequest) -> Option<Frame> {
        self.0.allocate(request)
    }
    unsafe fn free_frames(&self, first: Frame, count: u64) {
        // SAFETY: forwarded.
        unsafe { self.0.free(first, count) }
    }
    fn frame_pointer(&self, frame: Frame) -> *mut u8 {
        self.0.pointer(frame)
    }
    fn frame_meta(&self, frame: Frame) -> Option<&FrameMeta> {
        self.0.meta(frame)
    }
    fn invalidate_now(&self, tag: u16, range: PageRange) {
        println!("    invalidated at once for guest {tag}: {} pages from {}", range.pages(12), range.start());
    }
}

/// A guest: the tables of its second stage, and the host's memory that backs its own.
struct Guest<M: Mmu> {
    stage2: Tables<M>,
    backing: FrameRange,
    spare: FrameList,
}

impl<M: Mmu> Guest<M> {
    fn new(host: &Host, mmu: M, number: u16) -> Result<Self, Box<dyn std::error::Error>> {
        let mut spare = FrameList::new();
        spare.fill_with_tables(host, 1)?;
        let root = spare.pop(host).ok_or("no frame for the root")?;
        // SAFETY: the frame was just taken: zeroed, recorded as a table, and nobody else's.
        let stage2 = unsafe { Tables::new(mmu, root, Tag(number)) };
        let pages = GUEST_RAM >> 12;
        let first = host.allocate_frames(FrameRequest::run(FrameUse::Page, pages, 9).zeroed()).ok_or("no memory")?;
        Ok(Self { stage2, backing: FrameRange::new(first, pages).ok_or("no memory")?, spare })
    }

    fn map(&mut self, host: &Host, range: PageRange, leaf: Leaf) -> Result<(), Box<dyn std::error::Error>> {
        self.spare.fill_with_tables(host, self.stage2.tables_to_map(host, range, Some(leaf.frame), 1))?;
        Ok(self.stage2.map(host, range, leaf, 1, &mut self.spare)?)
    }

    /// What a hypervisor does when the guest exits on an EPT violation (a stage 2 fault).
    fn violation(&mut self, host: &Host, address: u64) -> Result<(), Box<dyn std::error::Error>> {
        let start = address & !(BLOCK - 1);
        println!("  the guest touches {address:#x}: its block is mapped");
        let block = self.stage2.mmu().range(start, BLOCK)?;
        self.map(host, block, Leaf::new(self.backing.first().add(start >> 12)).access(GUEST_ACCESS))
    }

    /// Takes a page away from the guest.
    fn take_back(&mut self, host: &Host, address: u64) -> Result<(), Box<dyn std::error::Error>> {
        println!("  the page at {address:#x} is taken back");
        let page = self.stage2.mmu().range(address, 4096)?;
        let mut gather = Gather::default();
        self.spare.fill_with_tables(host, self.stage2.tables_to_split(host, page))?;
        self.stage2.unmap(host, page, &mut self.spare, &mut gather, |_, leaf| println!("    it was {leaf:?}"))?;
        // A hypervisor executes INVEPT or TLBI VMALLS12E1IS for what `gather.scope` names; then the tables are free.
        // SAFETY: no CPU walks these tables.
        unsafe { gather.tables.free_tables(host) };
        Ok(())
    }

    fn dump(&self, host: &Host) -> Result<(), Box<dyn std::error::Error>> {
        println!("  the guest's physical memory now:");
        for (pages, leaf) in self.stage2.runs(host, self.stage2.mmu().range(0, 1 << 32)?) {
            println!("    {:#012x}  {:>4} pages  {leaf:?}", pages.start(), pages.pages(12));
        }
        println!();
        Ok(())
    }
}

/// A guest's life, in whatever format the machine has.
fn run<M: Mmu + Debug>(
    host: &Host,
    mmu: M,
    device: MemoryType,
    number: u16,
) -> Result<Guest<M>, Box<dyn std::error::Error>> {
    println!("guest {number}: {}", M::FORMAT.name);
    let mut guest = Guest::new(host, mmu, number)?;
    guest.violation(host, 0x1234)?;
    guest.violation(host, 0x20_0ff8)?;
    let registers = Leaf::new(Frame::new(0xf_ebd0)).access(Access::READ | Access::WRITE).memory(device);
    guest.map(host, mmu.range(0xfebd_0000, 0x4000)?, registers)?;
    guest.take_back(host, 0x7000)?;
    guest.dump(host)?;
    Ok(guest)
}

/// The guest's memory as the guest numbers it: with this, the library reads the tables that the guest made for itself.
struct GuestMemory<'a, M: Mmu> {
    host: &'a Host,
    stage2: &'a Tables<M>,
}

// SAFETY: nothing is allocated, so nothing is promised of what would be. A frame is reached through the second stage, or not at all.
unsafe impl<M: Mmu> Frames for GuestMemory<'_, M> {
    fn allocate_frames(&self, _request: FrameRequest) -> Option<Frame> {
        None
    }
    unsafe fn free_frames(&self, _first: Frame, _count: u64) {}
    fn frame_pointer(&self, frame: Frame) -> *mut u8 {
        let guest_physical = VirtAddr::new(frame.start(12).as_u64());
        let found = self.stage2.walk(self.host, guest_physical).physical();
        found.map_or(std::ptr::null_mut(), |physical| self.host.frame_pointer(Frame::containing(physical, 12)))
    }
    fn frame_meta(&self, _frame: Frame) -> Option<&FrameMeta> {
        None
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let memory = Vec::leak(vec![0_u8; (FRAMES + 1) * 4096]);
    let base = memory.as_mut_ptr().wrapping_add(memory.as_ptr().align_offset(4096));
    let records = Vec::leak((0..FRAMES).map(|_| FrameMeta::new()).collect());
    // SAFETY: the memory is aligned, large enough, and nobody else's for ever.
    let region = unsafe { FrameRegion::new(base, 12, FrameMetaTable::new(Frame::new(0x1_0000), records)) };
    let host = Host(region);

    let guest = run(&host, Ept::new(40), MemoryType::Uncached, 1)?;
    // As another machine would have it; nothing but the format and the device's memory type differ.
    run(&host, AArch64Stage2::<Granule4K>::new(39, 40), MemoryType::Device, 2)?;

    // The guest has made tables of its own, at guest-physical 2 MiB: its kernel's last GiB but one is its memory from 0.
    let memory = GuestMemory { host: &host, stage2: &guest.stage2 };
    let guests = X86_64::new(40);
    let [root, below] = [Frame::new(0x200), Frame::new(0x201)];
    let leaf = guests.encode_leaf(2, Leaf::new(Frame::new(0)).writable().executable())?;
    for (table, index, word) in [(root, 511, guests.encode_table(3, below)?), (below, 510, leaf)] {
        // SAFETY: the guest's page is mapped in the second stage, backed by memory of this program, and the index lies in it.
        unsafe { memory.frame_pointer(table).cast::<u64>().add(index).write(word) };
    }
    // SAFETY: the tables are only read, and nobody frees them.
    let own = unsafe { Tables::new(guests, root, Tag(0)) };
    for address in [0xffff_ffff_8020_1ff0, 0xffff_ffff_8000_7abc] {
        let walk = own.walk(&memory, VirtAddr::new(address));
        println!("the guest's {walk}");
        let guest_physical = walk.physical().ok_or("the guest maps its memory")?;
        println!("and the host's {}\n", guest.stage2.walk(&host, VirtAddr::new(guest_physical.as_u64())));
    }
    Ok(())
}

#[test]
fn it_runs() -> Result<(), Box<dyn std::error::Error>> {
    main()
}
