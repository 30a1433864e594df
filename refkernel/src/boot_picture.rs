//! The picture of this machine: what the memory manager says of frames and spaces, put into the words of
//! [`refkernel::picture`], drawn on the screen and written to the log.
//!
//! Takes no memory for itself, so that drawing changes nothing of what is drawn.

use crate::cpu::trap;
use crate::devices::serial;
use crate::log;
use crate::memory::{self, UserSpace};
use crate::process::Process;
use crate::screen;
use core::fmt::{self, Write};
use refkernel::boot_info::{BootInfo, RegionKind};
use refkernel::picture::{AreaKind, Counter, CounterValue, MemoryRange, Picture, Residency, Space, Window};
use refkernel_abi::{Access, PAGE_SIZE};
use vmcore::Platform;
use vmcore::addr::VirtAddr;
use vmcore::frame::FrameUse;
use vmcore::vm_space::WindowInfo;

/// The most windows of a space that are shown.
pub(crate) const WINDOWS_MAX: usize = 24;
/// The most spaces beside the kernel's.
const SPACES_MAX: usize = 3;
/// The most ranges of memory that are shown.
pub(crate) const RANGES_MAX: usize = 32;
/// A window with more pages is not looked at page by page.
const PAGES_MAX: u64 = 1 << 18;

/// Why nothing was drawn on the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum PictureError {
    /// The framebuffer is mapped nowhere in the kernel's space, or only in part.
    NotMapped,
}

impl fmt::Display for PictureError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMapped => formatter.write_str("the framebuffer is not mapped in the kernel's space"),
        }
    }
}

impl core::error::Error for PictureError {}

/// Draws the picture above the program's rows and writes it to the log. Without a framebuffer it is only written.
pub(crate) fn show(info: &BootInfo, processes: &[&Process]) -> Result<(), PictureError> {
    let mut ranges = [MemoryRange { first_frame: 0, frames: 0 }; RANGES_MAX];
    let ranges = memory_ranges(info, &mut ranges);

    let mut windows = [[Window::NONE; WINDOWS_MAX]; SPACES_MAX + 1];
    let mut names = [const { Name::new() }; SPACES_MAX];
    for (name, process) in names.iter_mut().zip(processes) {
        let _ = write!(name, "{process}");
    }
    let mut spaces = [Space { name: "kernel", windows: &[] }; SPACES_MAX + 1];
    let mut parts = spaces.iter_mut().zip(windows.iter_mut());
    let mut count = 0;
    if let Some((space, room)) = parts.next() {
        space.windows =
            list_windows(memory::kernel_space(), room, PAGES_MAX, |info| memory::purpose(info.range.start().as_u64()));
        count += 1;
    }
    for ((process, name), (space, room)) in processes.iter().zip(&names).zip(parts) {
        space.name = name.as_str();
        space.windows = list_windows(process.space(), room, PAGES_MAX, |info| {
            process.label(info.range.start().as_u64()).unwrap_or(match info.kind {
                Some(vmcore::vm_area::AreaKind::Fixed { .. }) => "screen",
                _ => "area",
            })
        });
        count += 1;
    }
    let spaces = spaces.get(..count).unwrap_or_default();

    let machine = memory::Kernel.machine().counters();
    let tables = memory::frame_counts().by_use.get(FrameUse::Table as usize).copied().unwrap_or_default();
    let counters = [
        Counter { name: "frames in use", value: CounterValue::Count(memory::frames_in_use()) },
        Counter { name: "frames for tables", value: CounterValue::Count(tables) },
        Counter { name: "kernel heap in use", value: CounterValue::Bytes(memory::heap::usage().0) },
        Counter { name: "page faults answered", value: CounterValue::Count(trap::faults_answered()) },
        Counter { name: "pages of the pools", value: CounterValue::Count(machine.pool_pages) },
        Counter { name: "objects in the pools", value: CounterValue::Count(machine.pool_objects) },
        Counter { name: "flushes dropped", value: CounterValue::Count(machine.dropped_flushes as u64) },
        Counter { name: "frames in quarantine", value: CounterValue::Count(machine.quarantined_frames as u64) },
    ];
    let mut subtitle = Name::new();
    let _ = write!(
        subtitle,
        "x86-64, {} MiB usable, booted through {}",
        info.memory.bytes_of(RegionKind::Usable) >> 20,
        info.loader
    );
    let picture = Picture {
        title: "refkernel on vmcore",
        subtitle: subtitle.as_str(),
        memory: ranges,
        use_of: &memory::use_of_frame,
        spaces,
        counters: &counters,
    };
    let drawn = draw(info, &picture);
    // The log has its own end of lines; the picture's text never fails.
    let _ = picture.write(&mut SerialText);
    drawn
}

fn draw(info: &BootInfo, picture: &Picture<'_>) -> Result<(), PictureError> {
    let Some(framebuffer) = info.framebuffer() else {
        log!("picture: there is no framebuffer to draw it on");
        return Ok(());
    };
    if !framebuffer.is_xrgb() {
        log!("picture: the screen's pixels are of a format that is not drawn in");
        return Ok(());
    }
    let layout = screen::layout().ok_or(PictureError::NotMapped)?;
    let mut brush = screen::show_picture().ok_or(PictureError::NotMapped)?;
    let Ok(()) = picture.draw(&mut *brush, layout.upper.size.height);
    Ok(())
}

/// The machine's memory: what its map calls memory, from address 0 on, small holes included so that rows begin at round addresses;
/// not what belongs to devices.
pub(crate) fn memory_ranges<'a>(info: &BootInfo, room: &'a mut [MemoryRange; RANGES_MAX]) -> &'a [MemoryRange] {
    /// The largest hole that is shown: that of the first megabyte.
    const HOLE_MAX: u64 = (512 << 10) / PAGE_SIZE;
    let mut count = 0_usize;
    for region in info.memory.iter().filter(|region| region.kind() != RegionKind::Reserved) {
        let (first, end) = (region.start() / PAGE_SIZE, region.end() / PAGE_SIZE);
        let last = count.checked_sub(1).and_then(|index| room.get_mut(index));
        match last {
            Some(last) if first <= last.first_frame + last.frames + HOLE_MAX => last.frames = end - last.first_frame,
            _ => {
                let Some(slot) = room.get_mut(count) else { break };
                let first = if count == 0 && first <= HOLE_MAX { 0 } else { first };
                *slot = MemoryRange { first_frame: first, frames: end - first };
                count += 1;
            }
        }
    }
    room.get(..count).unwrap_or_default()
}

/// The windows of a space. In those of at most `pages_max` pages each page is looked at.
pub(crate) fn list_windows<'a>(
    space: &UserSpace,
    room: &'a mut [Window<'static>; WINDOWS_MAX],
    pages_max: u64,
    label: impl Fn(&WindowInfo) -> &'static str,
) -> &'a [Window<'static>] {
    let mut count = 0;
    for (slot, info) in room.iter_mut().zip(space.windows()) {
        *slot = Window {
            start: info.range.start().as_u64(),
            pages: info.range.size() / PAGE_SIZE,
            label: label(&info),
            kind: kind(&info),
            access: access(&info),
            residency: residency(space, &info, pages_max),
        };
        count += 1;
    }
    room.get(..count).unwrap_or_default()
}

fn kind(info: &WindowInfo) -> AreaKind {
    match info.kind {
        Some(vmcore::vm_area::AreaKind::Open { .. }) => AreaKind::Open,
        Some(vmcore::vm_area::AreaKind::Guarded(_)) => AreaKind::Guarded,
        Some(vmcore::vm_area::AreaKind::Untracked { .. }) => AreaKind::Untracked,
        // What is foreign is fixed too.
        _ => AreaKind::Fixed,
    }
}

fn access(info: &WindowInfo) -> Option<Access> {
    use vmcore::paging::Access as Allowed;
    let pairs = [(Allowed::READ, Access::READ), (Allowed::WRITE, Access::WRITE), (Allowed::EXECUTE, Access::EXECUTE)];
    let bits = pairs
        .into_iter()
        .filter(|(allowed, _)| info.access.contains(*allowed))
        .fold(0, |bits, (_, access)| bits | access.bits());
    Access::from_bits(bits)
}

fn residency(space: &UserSpace, info: &WindowInfo, pages_max: u64) -> Residency {
    let pages = info.range.size() / PAGE_SIZE;
    let is_fixed = matches!(info.kind, None | Some(vmcore::vm_area::AreaKind::Fixed { .. }));
    if is_fixed || info.resident_pages == pages {
        return Residency::full(pages);
    }
    if pages > pages_max {
        return Residency::even(pages, info.resident_pages);
    }
    let start = info.range.start().as_u64();
    Residency::from_fn(pages, |page| space.frame_at(VirtAddr::new(start + page * PAGE_SIZE)).is_some())
}

/// The serial line as a place for text.
struct SerialText;

impl Write for SerialText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        serial::bytes(text.as_bytes());
        Ok(())
    }
}

/// A short text, without memory from anywhere; what is longer is cut.
pub(crate) struct Name {
    bytes: [u8; 80],
    length: usize,
}

impl Name {
    pub(crate) const fn new() -> Self {
        Self { bytes: [0; 80], length: 0 }
    }

    pub(crate) fn as_str(&self) -> &str {
        self.bytes.get(..self.length).and_then(|bytes| core::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

impl Write for Name {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.length..).unwrap_or_default();
        let fits = text.len().min(room.len());
        // Never inside of a character: what the texts here are made of is ASCII.
        let (Some(room), Some(text)) = (room.get_mut(..fits), text.as_bytes().get(..fits)) else { return Ok(()) };
        room.copy_from_slice(text);
        self.length += fits;
        Ok(())
    }
}
