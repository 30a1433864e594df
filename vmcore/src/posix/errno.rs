//! Why a call was refused, as Linux says it.

use core::fmt;

use crate::vm_area::AreaError;
use crate::vm_space::{SpaceError, SpaceLimit};

/// The reason for which a call was refused, with the numbers that Linux has on most architectures.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(i32)]
#[non_exhaustive]
pub enum Errno {
    /// Operation not permitted: the memory is sealed.
    Permission = 1,
    /// Try again: a change by somebody else is still being flushed, or locked memory is full.
    Again = 11,
    /// Cannot allocate memory; also that nothing is mapped at some of the addresses.
    NoMemory = 12,
    /// Permission denied: the file was not opened for this.
    Access = 13,
    /// Bad address.
    Fault = 14,
    /// Device or resource busy: locked memory is to be invalidated.
    Busy = 16,
    /// Something is mapped there.
    Exists = 17,
    /// Invalid argument.
    Invalid = 22,
    /// Not supported for this kind of memory.
    NotSupported = 95,
}

impl Errno {
    /// Its number.
    pub const fn number(self) -> i32 {
        self as i32
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Permission => "EPERM: the memory is sealed",
            Self::Again => "EAGAIN: try again when the other change is complete",
            Self::NoMemory => "ENOMEM: out of memory or addresses, or nothing is mapped there",
            Self::Access => "EACCES: the handle does not permit it",
            Self::Fault => "EFAULT: bad address",
            Self::Busy => "EBUSY: the memory is locked: unlock it first",
            Self::Exists => "EEXIST: something is mapped there: unmap it or use another address",
            Self::Invalid => "EINVAL: an argument is not valid",
            Self::NotSupported => "EOPNOTSUPP: memory of this kind cannot do this",
        })
    }
}

impl core::error::Error for Errno {}

impl From<SpaceError> for Errno {
    fn from(error: SpaceError) -> Self {
        match error {
            SpaceError::Sealed(_) => Self::Permission,
            SpaceError::Retry(_) => Self::Again,
            SpaceError::Rights(_) | SpaceError::WriteExecute(_) | SpaceError::Denied { .. } => Self::Access,
            SpaceError::Guard(_) | SpaceError::OutsideArea(_) | SpaceError::Failed(_) => Self::Fault,
            SpaceError::Conflict(_) => Self::Exists,
            SpaceError::Limit(SpaceLimit::Windows(_) | SpaceLimit::Reserved(_))
            | SpaceError::NoGap(_)
            | SpaceError::NoWindow(_)
            | SpaceError::OutOfFrames(_)
            | SpaceError::Area(AreaError::OutOfFrames(_) | AreaError::OutOfAccount(_)) => Self::NoMemory,
            SpaceError::Area(AreaError::Retry) | SpaceError::Awaits { .. } => Self::Again,
            SpaceError::Area(AreaError::Rights(_)) => Self::Access,
            SpaceError::Area(AreaError::Failed(_)) => Self::Fault,
            SpaceError::Locked(_) => Self::Invalid,
            _ => Self::Invalid,
        }
    }
}

impl From<AreaError> for Errno {
    fn from(error: AreaError) -> Self {
        match error {
            AreaError::Size(_) => Self::NoMemory,
            error => SpaceError::from(error).into(),
        }
    }
}

impl From<crate::frame::OutOfFrames> for Errno {
    fn from(_: crate::frame::OutOfFrames) -> Self {
        Self::NoMemory
    }
}
