//! What this Linux is and does, for whoever compares: a line `linux WHAT: VALUE` each.

use super::raw;
use crate::say;

/// Files that tell what costs this kernel more or less, with the file system that each belongs to.
const FILES: [(&str, &core::ffi::CStr); 20] = [
    ("command line", c"/proc/cmdline"),
    ("security modules", c"/sys/kernel/security/lsm"),
    ("transparent huge pages", c"/sys/kernel/mm/transparent_hugepage/enabled"),
    ("multi-generational LRU", c"/sys/kernel/mm/lru_gen/enabled"),
    ("memory control groups", c"/proc/self/cgroup"),
    ("meltdown", c"/sys/devices/system/cpu/vulnerabilities/meltdown"),
    ("spectre_v1", c"/sys/devices/system/cpu/vulnerabilities/spectre_v1"),
    ("spectre_v2", c"/sys/devices/system/cpu/vulnerabilities/spectre_v2"),
    ("spec_store_bypass", c"/sys/devices/system/cpu/vulnerabilities/spec_store_bypass"),
    ("l1tf", c"/sys/devices/system/cpu/vulnerabilities/l1tf"),
    ("mds", c"/sys/devices/system/cpu/vulnerabilities/mds"),
    ("retbleed", c"/sys/devices/system/cpu/vulnerabilities/retbleed"),
    ("srbds", c"/sys/devices/system/cpu/vulnerabilities/srbds"),
    ("mmio_stale_data", c"/sys/devices/system/cpu/vulnerabilities/mmio_stale_data"),
    ("gather_data_sampling", c"/sys/devices/system/cpu/vulnerabilities/gather_data_sampling"),
    ("spec_rstack_overflow", c"/sys/devices/system/cpu/vulnerabilities/spec_rstack_overflow"),
    ("tsa", c"/sys/devices/system/cpu/vulnerabilities/tsa"),
    ("vmscape", c"/sys/devices/system/cpu/vulnerabilities/vmscape"),
    ("indirect_target_selection", c"/sys/devices/system/cpu/vulnerabilities/indirect_target_selection"),
    ("clock source", c"/sys/devices/system/clocksource/clocksource0/current_clocksource"),
];

/// Says all that there is to be said.
pub(super) fn say() {
    const NAME_LENGTH: usize = 65;
    // System, node, release, version, machine and domain.
    let mut names = [0_u8; 6 * NAME_LENGTH];
    // SAFETY: the call writes that many bytes to `names`.
    let _ = unsafe { raw::call(raw::UNAME, [names.as_mut_ptr() as u64, 0, 0, 0, 0, 0]) };
    for (what, place) in [("release", 2), ("version", 3)] {
        line(what, names.get(place * NAME_LENGTH..(place + 1) * NAME_LENGTH).unwrap_or_default());
    }
    for (name, place) in [(c"proc", c"/proc"), (c"sysfs", c"/sys"), (c"securityfs", c"/sys/kernel/security")] {
        let (name, place) = (name.as_ptr() as u64, place.as_ptr() as u64);
        // SAFETY: the call reads three texts. What cannot be mounted is not told.
        let _ = unsafe { raw::call(raw::MOUNT, [name, place, name, 0, 0, 0]) };
    }
    for (what, file) in FILES {
        let mut text = [0; 200];
        // SAFETY: the call reads the name.
        let Ok(file) = (unsafe { raw::call(raw::OPEN, [file.as_ptr() as u64, 0, 0, 0, 0, 0]) }) else { continue };
        // SAFETY: the call writes to `text`, which is borrowed for as long.
        let length = unsafe { raw::call(raw::READ, [file, text.as_mut_ptr() as u64, text.len() as u64, 0, 0, 0]) };
        // SAFETY: the call changes no memory that is mapped.
        let _ = unsafe { raw::call(raw::CLOSE, [file, 0, 0, 0, 0, 0]) };
        line(what, text.get(..length.unwrap_or(0) as usize).unwrap_or_default());
    }
}

/// One line: the text up to its end, or to a zero.
fn line(what: &str, text: &[u8]) {
    let text = text.split(|byte| matches!(byte, 0 | b'\n')).next().unwrap_or_default();
    if !text.is_empty() {
        say!("linux {what}: {}", text.escape_ascii());
    }
}
