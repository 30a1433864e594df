//! The part of the screen that a program was handed: by the kernel in its start information, or by another program as an area, with the size in the argument
//! ([`ScreenSize`]).

use refkernel_abi::roles::ScreenSize;
use refkernel_abi::{Access, ErrorCode, Handle, HandleKind, PAGE_SIZE, Rights, StartInformation};

use crate::call;

/// A part of the screen.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    /// Its pixels, as an area.
    pub area: Handle,
    /// How they lie there.
    pub size: ScreenSize,
}

impl Screen {
    /// What a program was handed, if it was handed one.
    #[must_use]
    pub fn given(start: &StartInformation) -> Option<Self> {
        if start.framebuffer.is_some() {
            let StartInformation { width, height, pitch, .. } = *start;
            return Some(Self { area: start.framebuffer, size: ScreenSize { width, height, pitch } });
        }
        let (size, _) = ScreenSize::from_argument(start.argument);
        let is_area = |handle: &Handle| matches!(call::handle_inspect(*handle), Ok((HandleKind::Area, _)));
        let area = start.handles.into_iter().filter(|handle| handle.is_some()).find(is_area);
        Some(Self { area: area?, size: size? })
    }

    /// Bytes of its memory, whole pages.
    #[must_use]
    pub fn length(&self) -> u64 {
        (u64::from(self.size.pitch) * u64::from(self.size.height)).next_multiple_of(PAGE_SIZE)
    }

    /// Makes a window onto it, and gives the address.
    ///
    /// # Errors
    ///
    /// See [`SystemCall::AreaMap`](refkernel_abi::SystemCall::AreaMap).
    pub fn map(&self) -> Result<u64, ErrorCode> {
        call::area_map(self.area, 0, 0, self.length(), Access::READ_WRITE)
    }

    /// Starts a program with it and the log, and gives a handle of the process. This program keeps its own.
    ///
    /// # Errors
    ///
    /// See [`SystemCall::ProcessStart`](refkernel_abi::SystemCall::ProcessStart) and [`SystemCall::HandleDuplicate`](refkernel_abi::SystemCall::HandleDuplicate);
    /// [`ErrorCode::TooLarge`] for a screen whose size does not fit an argument.
    pub fn start(&self, name: &str, argument: u16) -> Result<Handle, ErrorCode> {
        let argument = self.size.with_argument(argument).ok_or(ErrorCode::TooLarge)?;
        let console = call::handle_duplicate(crate::console(), Rights::WRITE | Rights::SHARE)?;
        let area = call::handle_duplicate(self.area, Rights::GIVEN_AREA).inspect_err(|_| {
            let _ = call::handle_close(console);
        })?;
        call::process_start_with(name, argument, &[console, area]).inspect_err(|_| {
            let _ = call::handle_close(console);
            let _ = call::handle_close(area);
        })
    }
}
