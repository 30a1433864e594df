//! From a program's file to a space that can be entered.
//!
//! ```text
//!   USER_START                                                              USER_END
//!   |....[text r-x][rodata r--][data rw-]......[guard|stack rw-|guard]................
//!          shown by the program's image        ^ one window at a place that is drawn (`placement`), copied for a copy of
//!          (`pager::images`), page by page       the process; start information at the top of the stack
//!          when touched
//! ```
//!
//! Nothing of the file is read here but its headers: all instances of a program show the pages of one image, and text is
//! not writable anywhere, at no time. A loader that fails drops what it made so far, and with it every frame.

use super::placement::Placement;
use super::{Entry, Handles, LABELS_MAX, PROCESSES, PROCESSES_MAX, Process, ProcessRef, access};
use crate::memory::{self, Kernel, Mutex, UserSpace};
use crate::pager::images;
use crate::pager::swap::Swept;
use crate::weakness::{self, Defence};
use core::fmt;
use core::sync::atomic::AtomicU32;
use refkernel::archive::ProgramName;
use refkernel::elf::Refusal;
use refkernel::handles::HandleError;
use refkernel_abi::{Access, ErrorCode, Handle, HandleKind, KERNEL_ADDRESSES, PAGE_SIZE, Rights, StartInformation};
use vmcore::vm_area::{self, Area, AreaError, AreaKind};
use vmcore::vm_space::{Inherit, MapRequest, SpaceError};

/// Pages of a program's stack. They take no memory before they are touched.
const STACK_PAGES: u64 = 64;

/// A part of the screen that a program may draw on.
#[derive(Clone, Copy)]
pub(crate) struct Screen<'a> {
    /// Its frames.
    pub(crate) area: &'a Area<Kernel>,
    /// Pixels per row.
    pub(crate) width: u32,
    /// Rows.
    pub(crate) height: u32,
    /// Bytes from one row to the next.
    pub(crate) pitch: u32,
}

/// What a program is started with.
#[derive(Clone, Copy)]
pub(crate) struct Start<'a> {
    /// Which part it plays.
    pub(crate) argument: u64,
    /// An area to read and write.
    pub(crate) area: Option<&'a Area<Kernel>>,
    /// A part of the screen to draw on.
    pub(crate) screen: Option<Screen<'a>>,
    /// Addresses of the kernel's half that it must not be able to access.
    pub(crate) kernel: [u64; KERNEL_ADDRESSES],
    /// Whether it may write to the log.
    pub(crate) console: bool,
    /// Whether it may have device memory.
    pub(crate) physical: bool,
    /// The kinds of the handles that it will be given: places for them are held.
    pub(crate) given: &'a [HandleKind],
}

/// With the console and nothing else.
impl Default for Start<'_> {
    fn default() -> Self {
        Self {
            argument: 0,
            area: None,
            screen: None,
            kernel: [0; KERNEL_ADDRESSES],
            console: true,
            physical: false,
            given: &[],
        }
    }
}

/// Why a program was not loaded. No frame is taken.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub(crate) enum LoadError {
    /// The file is not acceptable.
    File(Refusal),
    /// The space could not be made, or refused a window.
    Space(SpaceError),
    /// An area could not be made or filled.
    Area(AreaError),
    /// More was to be handed over than a process may have.
    Handles(HandleError),
    /// A handle could not be made.
    Entry(ErrorCode),
    /// There are as many processes as there may be.
    TooManyProcesses,
}

impl From<Refusal> for LoadError {
    fn from(error: Refusal) -> Self {
        Self::File(error)
    }
}

impl From<SpaceError> for LoadError {
    fn from(error: SpaceError) -> Self {
        Self::Space(error)
    }
}

impl From<AreaError> for LoadError {
    fn from(error: AreaError) -> Self {
        Self::Area(error)
    }
}

impl From<HandleError> for LoadError {
    fn from(error: HandleError) -> Self {
        Self::Handles(error)
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(formatter),
            Self::Space(error) => error.fmt(formatter),
            Self::Area(error) => error.fmt(formatter),
            Self::Handles(error) => error.fmt(formatter),
            Self::Entry(error) => error.fmt(formatter),
            Self::TooManyProcesses => write!(formatter, "there are {PROCESSES_MAX} processes already"),
        }
    }
}

impl core::error::Error for LoadError {}

impl Process {
    /// Loads the program in `file`. Takes frames for the start information, for records and the
    /// root table; everything else, what the file holds included, comes when it is touched.
    ///
    /// # Errors
    ///
    /// [`LoadError`]: the file is not acceptable, or there is not enough memory.
    pub(crate) fn load(name: ProgramName, file: &'static [u8], start: Start<'_>) -> Result<ProcessRef, LoadError> {
        let image = images::of(file)?;
        let space = memory::new_user_space()?;
        // Handles refuse it already; this is asked whoever maps.
        space.forbid_write_execute()?;
        let mut labels = [(0, ""); LABELS_MAX];
        let mut labelled = labels.iter_mut();
        image.map(&space, |address, access| {
            if let Some(label) = labelled.next() {
                *label = (address, segment_label(access));
            }
        })?;

        let mut handles = Handles::new();
        let information = hand_over(&mut handles, start)?;
        let placement = Placement::new(&space)?;
        let stack = map_stack(&space, &placement, &information)?;
        if let Some(label) = labelled.next() {
            *label = (stack.window, "stack");
        }
        Self::enlist(|| Self {
            name,
            // Above that programs keep what else they tell one another.
            instance: start.argument & 0xffff,
            placement,
            space,
            handles: Mutex::new(handles),
            entry: image.entry(),
            stack: stack.pointer,
            start_information: stack.pointer,
            kernel: start.kernel,
            labels,
            given: information.handles.map(|handle| handle.0),
            inside: AtomicU32::new(0),
            ending: Mutex::new(None),
            report: Mutex::new(None),
            image,
            _swept: Swept,
        })
    }

    /// Makes a process in a place among the others.
    #[inline]
    pub(super) fn enlist(make: impl FnOnce() -> Self) -> Result<ProcessRef, LoadError> {
        PROCESSES.insert_with(make).ok_or(LoadError::TooManyProcesses)
    }
}

/// What a person calls a segment.
fn segment_label(access: Access) -> &'static str {
    if access.contains(Access::EXECUTE) {
        "text"
    } else if access.contains(Access::WRITE) {
        "data"
    } else {
        "rodata"
    }
}

/// Gives the process its handles, and tells it of them.
fn hand_over(handles: &mut Handles, start: Start<'_>) -> Result<StartInformation, LoadError> {
    let mut information = StartInformation::new(start.argument);
    information.kernel = start.kernel;
    if start.console {
        information.console = Handle(handles.insert(Entry::console())?);
    }
    if start.physical {
        information.physical = Handle(handles.insert(Entry::physical())?);
    }
    for (place, kind) in information.handles.iter_mut().zip(start.given) {
        *place = Handle(handles.hold()?);
        let known = match kind {
            HandleKind::Console => &mut information.console,
            HandleKind::Physical => &mut information.physical,
            _ => continue,
        };
        if !known.is_some() {
            *known = *place;
        }
    }
    let entry = |area| Entry::area(area, Rights::GIVEN_AREA).map_err(LoadError::Entry);
    if let Some(area) = start.area {
        information.area = Handle(handles.insert(entry(area)?)?);
        information.area_size = area.size();
    }
    if let Some(screen) = start.screen {
        information.framebuffer = Handle(handles.insert(entry(screen.area)?)?);
        information.width = screen.width;
        information.height = screen.height;
        information.pitch = screen.pitch;
    }
    Ok(information)
}

/// A program's stack.
struct Stack {
    /// The address of its window, which begins with a guard page.
    window: u64,
    /// The stack pointer at the start, and the address of the start information.
    pointer: u64,
}

/// Makes the stack, a guard page below and above it, with the start information at its top.
fn map_stack(space: &UserSpace, placement: &Placement, information: &StartInformation) -> Result<Stack, LoadError> {
    let size = (STACK_PAGES + 2) * PAGE_SIZE;
    let area = Area::new(&Kernel, AreaKind::Open { size }, ())?;
    let bytes = information.to_bytes();
    // A whole number of 16 bytes, so that the stack pointer is aligned.
    let room = bytes.len().next_multiple_of(16) as u64;
    let place = size - PAGE_SIZE - room;
    area.write(place, &bytes)?.complete();
    let area = area.handle(vm_area::Rights::MAP | vm_area::Rights::READ | vm_area::Rights::WRITE)?;
    let request = MapRequest::new(&area).place(placement.for_stack(space, size)).inherit(Inherit::Copy);
    let window = space.map(&request.access(access(Access::READ_WRITE)))?.start().as_u64();
    let guarded = !weakness::lacks(Defence::Guards);
    for guard in [window, window + size - PAGE_SIZE].into_iter().filter(|_| guarded) {
        space.install_guards(space.range(guard, PAGE_SIZE).map_err(SpaceError::Range)?)?.complete();
    }
    const _: () = assert!(PAGE_SIZE.is_multiple_of(16));
    Ok(Stack { window, pointer: window + place })
}
