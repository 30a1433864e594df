//! The few devices that the kernel drives itself.

pub(crate) mod bochs_display;
pub(crate) mod exit;
pub(crate) mod input;
pub(crate) mod keyboard;
pub(crate) mod pci;
pub(crate) mod serial;
