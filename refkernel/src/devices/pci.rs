//! PCI configuration space through the two ports of the legacy mechanism.
//!
//! PCI Local Bus Specification 3.0, 3.2.2.3.2: an address in 0xcf8, the data in 0xcfc.

use core::cell::RefCell;
use pci_types::{ConfigRegionAccess, EndpointHeader, HeaderType, PciAddress, PciHeader};
use x86_64::instructions::port::Port;

/// The two ports. One CPU uses them at a time: devices are looked for before other CPUs run.
pub(crate) struct ConfigPorts {
    ports: RefCell<(Port<u32>, Port<u32>)>,
}

impl ConfigPorts {
    /// The ports of this machine.
    pub(crate) const fn new() -> Self {
        Self { ports: RefCell::new((Port::new(0xcf8), Port::new(0xcfc))) }
    }

    /// Selects a register: enable bit, bus, device, function, and the register's byte offset.
    fn address(address: PciAddress, offset: u16) -> u32 {
        1 << 31
            | u32::from(address.bus()) << 16
            | u32::from(address.device()) << 11
            | u32::from(address.function()) << 8
            | u32::from(offset & 0xfc)
    }

    /// The first device on bus 0 with this identity. QEMU's display is there; bridges are not looked behind.
    pub(crate) fn find(&self, vendor: u16, device: u16) -> Option<EndpointHeader> {
        for slot in 0..32 {
            let header = PciHeader::new(PciAddress::new(0, 0, slot, 0));
            if header.id(self) == (vendor, device) && header.header_type(self) == HeaderType::Endpoint {
                return EndpointHeader::from_header(header, self);
            }
        }
        None
    }
}

impl ConfigRegionAccess for ConfigPorts {
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        let mut ports = self.ports.borrow_mut();
        // SAFETY: the two ports are the host bridge's; by the caller's contract the register may be read.
        unsafe {
            ports.0.write(Self::address(address, offset));
            ports.1.read()
        }
    }

    unsafe fn write(&self, address: PciAddress, offset: u16, value: u32) {
        let mut ports = self.ports.borrow_mut();
        // SAFETY: as for `read`; by the caller's contract the register may be written.
        unsafe {
            ports.0.write(Self::address(address, offset));
            ports.1.write(value);
        }
    }
}
