//! What a handle names, and what it allows.
//!
//! The rights stand beside the object, one kind of right for all kinds of objects; an area's handle repeats those that concern it, since the memory manager asks for them itself. Objects are
//! dropped with no lock held: the last reference to one may free pages, close a channel or end a process's memory.

use super::{ProcessRef, calls};
use crate::channel::ChannelEnd;
use crate::memory::Kernel;
use refkernel_abi::{ErrorCode, HandleKind, Rights};
use vmcore::vm_area::{self, Area};

/// What a handle names.
pub(crate) enum Object {
    /// Memory.
    Area(Area<Kernel>),
    /// A process, to wait for or to end.
    Process(ProcessRef),
    /// One end of a channel.
    Channel(ChannelEnd),
    /// The log.
    Console,
    /// The machine's device memory.
    Physical,
}

impl Object {
    /// What kind it is.
    pub(crate) const fn kind(&self) -> HandleKind {
        match self {
            Self::Area(_) => HandleKind::Area,
            Self::Process(_) => HandleKind::Process,
            Self::Channel(_) => HandleKind::Channel,
            Self::Console => HandleKind::Console,
            Self::Physical => HandleKind::Physical,
        }
    }
}

/// What is behind a number of a process's table.
pub(crate) struct Entry {
    /// What it names.
    pub(crate) object: Object,
    /// What it allows.
    pub(crate) rights: Rights,
}

impl Entry {
    /// A handle of an area, with at most these rights. The area's own handle can always be shared: by the kernel, for the length of a call.
    ///
    /// # Errors
    ///
    /// There are too many handles of it.
    pub(crate) fn area(area: &Area<Kernel>, rights: Rights) -> Result<Self, ErrorCode> {
        let area = area.handle(of_area(rights)).map_err(calls::area_error)?;
        Ok(Self { object: Object::Area(area), rights })
    }

    /// A handle of the log, to write to it.
    pub(crate) const fn console() -> Self {
        Self { object: Object::Console, rights: Rights::WRITE.union(Rights::SHARE) }
    }

    /// A handle of device memory.
    pub(crate) const fn physical() -> Self {
        Self { object: Object::Physical, rights: Rights::PHYSICAL.union(Rights::SHARE) }
    }

    /// Another handle of the same thing, with these rights at the most.
    ///
    /// # Errors
    ///
    /// There are too many handles of it.
    pub(crate) fn again(&self, rights: Rights) -> Result<Self, ErrorCode> {
        let object = match &self.object {
            Object::Area(area) => return Self::area(area, rights),
            Object::Process(process) => Object::Process(process.clone()),
            Object::Channel(end) => Object::Channel(end.clone()),
            Object::Console => Object::Console,
            Object::Physical => Object::Physical,
        };
        Ok(Self { object, rights })
    }

    /// Whether it has these rights.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::Denied`].
    pub(crate) fn require(&self, rights: Rights) -> Result<(), ErrorCode> {
        if self.rights.contains(rights) { Ok(()) } else { Err(ErrorCode::Denied) }
    }
}

/// The memory manager's words for the rights of an area.
fn of_area(rights: Rights) -> vm_area::Rights {
    let mut result = vm_area::Rights::SHARE;
    for (right, granted) in [
        (Rights::READ, vm_area::Rights::READ),
        (Rights::WRITE, vm_area::Rights::WRITE),
        (Rights::EXECUTE, vm_area::Rights::EXECUTE),
        (Rights::MAP, vm_area::Rights::MAP),
        (Rights::RESIZE, vm_area::Rights::RESIZE),
    ] {
        result.set(granted, rights.contains(right));
    }
    result
}
