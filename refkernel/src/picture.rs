//! The picture of a running machine: its physical memory by use and its live spaces by area kind and residency, as pixels
//! and as text.
//!
//! ```text
//!   +--------------------------------------------------------------+
//!   | title                                              subtitle  |
//!   | PHYSICAL MEMORY                            USE               |
//!   |  0      [][][][][][][][][][][]              # free    93.8 % |
//!   |  8 MiB  [][][][][][][][][][][]              # tables   0.2 % |
//!   |  ...    one cell, a share of memory        COUNTERS          |
//!   | SPACES                                                       |
//!   |  kernel [text][rodata] [ linear map ] [heap]                 |
//!   |  demo   [text][data]       [area]    [stack]                 |
//!   +--------------------------------------------------------------+
//!   | a strip that a program may draw into (`program_strip`)       |
//!   +--------------------------------------------------------------+
//! ```
//!
//! The kernel fills in a [`Picture`] with plain data; nothing here knows where it comes from, so a host can draw a made-up machine.
//!
//! | module | what lives there |
//! |---|---|
//! | `cells` | from frames to cells of the map |
//! | `draw` | the picture as pixels |
//! | [`live`] | a smaller one that is brought up to date piece by piece |
//! | `palette` | its colours |
//! | `text` | the picture as lines of text |
//! | `units` | numbers as a person reads them |

mod cells;
mod draw;
pub mod live;
mod palette;
mod text;
mod units;

use refkernel_abi::Access;

pub use refkernel_surface::layout::{ProgramStrip, program_strip};
pub use units::Bytes;

/// What a frame is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Use {
    /// Nobody has it.
    Free,
    /// The kernel's code and static data.
    KernelImage,
    /// The kernel's heap and stacks.
    KernelMemory,
    /// A page table.
    Table,
    /// The library's pools and the metadata of frames.
    Pool,
    /// A page of a program.
    UserPage,
    /// What the screen shows.
    Framebuffer,
    /// What the bootloader left: modules, start information.
    BootModule,
    /// The firmware's, or a device's.
    Reserved,
    /// Not memory at all.
    Absent,
}

impl Use {
    /// Every use, in the order of the legend.
    pub const ALL: [Self; 10] = [
        Self::Free,
        Self::KernelImage,
        Self::KernelMemory,
        Self::Table,
        Self::Pool,
        Self::UserPage,
        Self::Framebuffer,
        Self::BootModule,
        Self::Reserved,
        Self::Absent,
    ];

    /// What the legend calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::KernelImage => "kernel image",
            Self::KernelMemory => "kernel heap, stacks",
            Self::Table => "page tables",
            Self::Pool => "pools, metadata",
            Self::UserPage => "user pages",
            Self::Framebuffer => "framebuffer",
            Self::BootModule => "boot modules",
            Self::Reserved => "reserved",
            Self::Absent => "no memory",
        }
    }

    /// The letter that stands for it in text.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Free => '.',
            Self::KernelImage => 'K',
            Self::KernelMemory => 'H',
            Self::Table => 'T',
            Self::Pool => 'P',
            Self::UserPage => 'U',
            Self::Framebuffer => 'F',
            Self::BootModule => 'B',
            Self::Reserved => 'r',
            Self::Absent => '-',
        }
    }
}

/// Frames that follow one another, and are to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// The number of the first.
    pub first_frame: u64,
    /// How many.
    pub frames: u64,
}

/// What backs a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AreaKind {
    /// Pages that appear when they are touched.
    Open,
    /// Frames that are given, as a device's.
    Fixed,
    /// Stacks, with pages between them that hold nothing, on purpose.
    Guarded,
    /// Pages seen twice in a row.
    Ring,
    /// Entries that are kept in the tables alone.
    Untracked,
    /// Pages shared with another area until they are written.
    Copy,
    /// Pages that a program supplies.
    Paged,
}

impl AreaKind {
    /// Every kind, in the order of the legend.
    pub const ALL: [Self; 7] =
        [Self::Open, Self::Fixed, Self::Guarded, Self::Ring, Self::Untracked, Self::Copy, Self::Paged];

    /// What the legend calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Fixed => "fixed",
            Self::Guarded => "guarded",
            Self::Ring => "ring",
            Self::Untracked => "untracked",
            Self::Copy => "private copy",
            Self::Paged => "paged",
        }
    }
}

/// Which parts of a window are resident: equal shares of it, each 0 (nothing) to 255 (all of it). A window of up to
/// [`Residency::SHARES_MAX`] pages has a share for each page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Residency {
    shares: [u8; Self::SHARES_MAX],
    count: usize,
    resident: u64,
}

impl Residency {
    /// The most shares.
    pub const SHARES_MAX: usize = 64;

    /// That of no pages.
    const NONE: Self = Self { shares: [0; Self::SHARES_MAX], count: 0, resident: 0 };

    /// Looks at each of `pages` pages. Takes time in proportion to them.
    #[must_use]
    pub fn from_fn(pages: u64, mut is_resident: impl FnMut(u64) -> bool) -> Self {
        let count = pages.min(Self::SHARES_MAX as u64);
        let mut shares = [0; Self::SHARES_MAX];
        let mut resident = 0;
        let mut start = 0;
        for (index, share) in (1..=count).zip(&mut shares) {
            // Rounded so that the last share ends at the last page, without a product that overflows.
            let end = (u128::from(pages) * u128::from(index) / u128::from(count)) as u64;
            let found = (start..end).filter(|page| is_resident(*page)).count() as u64;
            let all = (end - start).max(1);
            // A share with a single page of a thousand must not look empty.
            *share = (found * 255).div_ceil(all).min(255) as u8;
            resident += found;
            start = end;
        }
        Self { shares, count: count as usize, resident }
    }

    /// So many of `pages` pages, nobody has looked which: every share the same.
    #[must_use]
    pub fn even(pages: u64, resident: u64) -> Self {
        let share = (u128::from(resident) * 255).div_ceil(u128::from(pages.max(1))).min(255) as u8;
        Self { shares: [share; Self::SHARES_MAX], count: pages.min(Self::SHARES_MAX as u64) as usize, resident }
    }

    /// All of `pages` pages.
    #[must_use]
    pub fn full(pages: u64) -> Self {
        Self { shares: [255; Self::SHARES_MAX], count: pages.min(Self::SHARES_MAX as u64) as usize, resident: pages }
    }

    /// None of `pages` pages.
    #[must_use]
    pub fn empty(pages: u64) -> Self {
        Self { shares: [0; Self::SHARES_MAX], count: pages.min(Self::SHARES_MAX as u64) as usize, resident: 0 }
    }

    /// The shares, from the window's start to its end.
    #[must_use]
    pub fn shares(&self) -> &[u8] {
        self.shares.get(..self.count).unwrap_or_default()
    }

    /// How many pages are resident.
    #[must_use]
    pub fn resident(&self) -> u64 {
        self.resident
    }
}

/// A window of a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window<'a> {
    /// Its address.
    pub start: u64,
    /// Its length in pages.
    pub pages: u64,
    /// What it is for, in a word or two.
    pub label: &'a str,
    /// What backs it.
    pub kind: AreaKind,
    /// What it allows; `None` for nothing at all.
    pub access: Option<Access>,
    /// Which of its pages are there.
    pub residency: Residency,
}

impl Window<'_> {
    /// What a place for a window holds before there is one.
    pub const NONE: Self =
        Self { start: 0, pages: 0, label: "", kind: AreaKind::Open, access: None, residency: Residency::NONE };
}

/// A space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space<'a> {
    /// Whose it is.
    pub name: &'a str,
    /// Its windows, sorted by address.
    pub windows: &'a [Window<'a>],
}

impl Space<'_> {
    /// Pages that are mapped, and those of them that are resident.
    fn pages(&self) -> (u64, u64) {
        self.windows.iter().fold((0, 0), |(all, resident), window| {
            (all.saturating_add(window.pages), resident.saturating_add(window.residency.resident()))
        })
    }
}

/// A number worth showing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter<'a> {
    /// What is counted.
    pub name: &'a str,
    /// How much it is.
    pub value: CounterValue,
}

/// The value of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CounterValue {
    /// Things.
    Count(u64),
    /// Memory.
    Bytes(u64),
}

/// Everything that is shown.
#[derive(Clone, Copy)]
pub struct Picture<'a> {
    /// The headline.
    pub title: &'a str,
    /// What stands opposite: the machine in a line.
    pub subtitle: &'a str,
    /// The memory to show, sorted by address.
    pub memory: &'a [MemoryRange],
    /// What a frame of it is used for. Called a few times for each frame.
    pub use_of: &'a dyn Fn(u64) -> Use,
    /// The live spaces.
    pub spaces: &'a [Space<'a>],
    /// The counters.
    pub counters: &'a [Counter<'a>],
}

impl core::fmt::Debug for Picture<'_> {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter
            .debug_struct("Picture")
            .field("title", &self.title)
            .field("memory", &self.memory)
            .field("spaces", &self.spaces)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "picture/tests.rs"]
mod tests;
