//! The standard VGA of QEMU and Bochs (PCI 1234:1111): a linear framebuffer where no loader has set one up.
//!
//! QEMU's `docs/specs/standard-vga.rst`: an index port, a data port, and the framebuffer as BAR 0.

use super::pci::ConfigPorts;
use pci_types::{Bar, CommandRegister};
use refkernel::boot_info::{Channel, Framebuffer};
use x86_64::instructions::port::Port;

const VENDOR: u16 = 0x1234;
const DEVICE: u16 = 0x1111;
const WIDTH: u16 = 1024;
const HEIGHT: u16 = 768;

/// Registers behind the index port.
#[derive(Clone, Copy)]
#[repr(u16)]
enum Register {
    Identity = 0,
    Width = 1,
    Height = 2,
    BitsPerPixel = 3,
    Enable = 4,
    VirtualWidth = 6,
    OffsetX = 8,
    OffsetY = 9,
}

/// `Enable`: the display is on, with its linear framebuffer; the content is cleared on the change.
const ENABLED_LINEAR: u16 = 0x01 | 0x40;

struct Registers {
    index: Port<u16>,
    data: Port<u16>,
}

impl Registers {
    fn read(&mut self, register: Register) -> u16 {
        // SAFETY: the ports are the display's, which was found on PCI; reading a register changes nothing.
        unsafe {
            self.index.write(register as u16);
            self.data.read()
        }
    }

    fn write(&mut self, register: Register, value: u16) {
        // SAFETY: the ports are the display's; its registers decide what it shows and reach no memory of others.
        unsafe {
            self.index.write(register as u16);
            self.data.write(value);
        }
    }
}

/// Finds the display, sets 1024×768 pixels of 32 bits and says where they are; `None` where there is no such display
/// or it does not take the mode.
pub(crate) fn set_mode() -> Option<Framebuffer> {
    let config = ConfigPorts::new();
    let mut device = config.find(VENDOR, DEVICE)?;
    let (address, size) = match device.bar(0, &config)? {
        Bar::Memory32 { address, size, .. } => (u64::from(address), u64::from(size)),
        Bar::Memory64 { address, size, .. } => (address, size),
        Bar::Io { .. } => return None,
    };
    let needed = u64::from(WIDTH) * u64::from(HEIGHT) * 4;
    if address == 0 || size < needed {
        return None;
    }
    device.update_command(&config, |command| command | CommandRegister::MEMORY_ENABLE | CommandRegister::IO_ENABLE);

    let mut registers = Registers { index: Port::new(0x1ce), data: Port::new(0x1cf) };
    if registers.read(Register::Identity) & 0xfff0 != 0xb0c0 {
        return None;
    }
    // The mode may only be changed while the display is off.
    registers.write(Register::Enable, 0);
    registers.write(Register::Width, WIDTH);
    registers.write(Register::Height, HEIGHT);
    registers.write(Register::BitsPerPixel, 32);
    registers.write(Register::Enable, ENABLED_LINEAR);
    registers.write(Register::VirtualWidth, WIDTH);
    registers.write(Register::OffsetX, 0);
    registers.write(Register::OffsetY, 0);
    let taken =
        (registers.read(Register::Width), registers.read(Register::Height), registers.read(Register::BitsPerPixel));
    if taken != (WIDTH, HEIGHT, 32) {
        return None;
    }
    let pitch = u32::from(registers.read(Register::VirtualWidth)) * 4;
    Some(Framebuffer {
        physical: address,
        width: u32::from(WIDTH),
        height: u32::from(HEIGHT),
        pitch,
        bits_per_pixel: 32,
        red: Channel { shift: 16, size: 8 },
        green: Channel { shift: 8, size: 8 },
        blue: Channel { shift: 0, size: 8 },
    })
}
