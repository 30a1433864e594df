//! Pages that are brought when they are touched: what the memory manager asks for, and who answers.
//!
//! | file | what lives there |
//! |---|---|
//! | [`images`] | programs, out of the boot module |
//! | [`swap`] | memory that is taken away and kept, compressed |
//! | [`reclaim`] | what is taken away when there is no memory |
//! | [`tests`] | what must be true of it |
//!
//! ```text
//!   access ──fault──► memory manager ──request──► [`bring`] ──supply──► the area's page
//!     ▲                     ▲                                              │
//!     │                     └──────────── the fault is taken on ◄──────────┘
//!     └── repeated
//! ```
//!
//! The memory manager never waits: a fault that meets a page that is not there hands a request out. It is answered here and now, since nothing that is
//! brought comes from a device, and the same fault is taken on. So nobody is ever parked with a page of his outstanding, and a request that another processor has
//! is answered within a page's copy.
//!
//! Every request that is handed out must be answered, or who touches the page next waits for ever: whoever asks the memory manager for something that may
//! await a page gives what it says to [`answer`].

pub(crate) mod images;
pub(crate) mod reclaim;
pub(crate) mod swap;
pub(crate) mod tests;

use crate::memory::{self, Answered};
use vmcore::vm_area::{AreaError, PageRequest, PageWait};
use vmcore::vm_space::{Resolution, SpaceError};

/// What the memory manager said of a fault; `None` if no space was asked.
type Outcome = Option<Result<Resolution, SpaceError>>;

/// Takes the memory that taking memory away takes. Once, when there is a heap.
pub(crate) fn initialise() {
    swap::initialise();
}

/// Whether an access was refused for want of memory, of which there may be some if it is taken from others.
pub(crate) const fn is_out_of_memory(error: &SpaceError) -> bool {
    matches!(error, SpaceError::OutOfFrames(_) | SpaceError::Area(AreaError::OutOfFrames(_)))
}

/// How often the kernel waits for a page that another processor is bringing, which takes the copy of a page.
const PATIENCE: u32 = 1_000_000;

/// Takes a fault on that met a page that is not there, or found no memory: brings it, takes memory away elsewhere, and asks again, until it is answered.
///
/// # Errors
///
/// As of [`page_fault`](memory::page_fault); no memory for the page.
#[cold]
#[inline(never)]
pub(crate) fn take_on(
    first: Result<Answered, Option<SpaceError>>,
    mut ask: impl FnMut() -> Outcome,
) -> Result<Answered, Option<SpaceError>> {
    let mut decided = first;
    for _ in 0..PATIENCE {
        match decided {
            Ok(Answered::Resolved(Resolution::Request(request))) => bring_with_room(&request).map_err(Some)?,
            Ok(Answered::Resolved(Resolution::Wait(_)) | Answered::Repeated) => memory::relax(),
            Err(Some(error)) if is_out_of_memory(&error) && reclaim::some() => {}
            _ => return decided,
        }
        decided = match ask() {
            Some(Ok(resolution)) => Ok(Answered::Resolved(resolution)),
            Some(Err(SpaceError::Retry(_))) => Ok(Answered::Repeated),
            Some(Err(error)) => Err(Some(error)),
            None => Err(None),
        };
    }
    decided
}

/// Brings what was asked for; or, where there is no memory for it, takes some away elsewhere, so that whoever wants the page asks anew.
fn bring_with_room(request: &PageRequest) -> Result<(), SpaceError> {
    match bring(request) {
        Err(error) if is_out_of_memory(&error) && reclaim::some() => Ok(()),
        brought => brought,
    }
}

/// Brings what was asked for.
fn bring(request: &PageRequest) -> Result<(), SpaceError> {
    if request.key & swap::SWAP != 0 { swap::supply(request) } else { images::supply(request) }
}

/// Brings the page that an operation awaits, as it says in its error: true if it may be tried again.
pub(crate) fn answer(error: &SpaceError) -> bool {
    match error {
        SpaceError::Awaits { wait, .. } | SpaceError::Area(AreaError::Awaits(wait)) => match wait {
            PageWait::Request(request) => bring_with_room(request).is_ok(),
            PageWait::Wait(_) => {
                memory::relax();
                true
            }
        },
        _ => false,
    }
}
