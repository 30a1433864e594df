//! The few devices that the kernel drives itself.

pub(crate) mod bochs_display;
pub(crate) mod exit;
pub(crate) mod pci;
pub(crate) mod serial;
