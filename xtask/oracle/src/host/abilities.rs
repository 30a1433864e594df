//! What this kernel can do: kinds that it does not know are left out.

use crate::generate::Kinds;
use crate::script::linux;

/// Asks the kernel, with a few pages of this process; `places` is what a [`Host`](super::Host) found.
pub fn kinds_of_this_kernel(places: bool) -> Kinds {
    const SIZE: usize = 4 * 4096;
    let mut word = 1_u64;
    let size = size_of::<u64>();
    // SAFETY: new memory, wherever the kernel puts it, and nothing else is changed but the word.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let memory = libc::mmap(std::ptr::null_mut(), SIZE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        if memory == libc::MAP_FAILED {
            return Kinds { places, ..Kinds::ALL };
        }
        let advise = |advice: u32| libc::madvise(memory, 4096, advice as i32) == 0;
        let guards = advise(linux::MADV_GUARD_INSTALL) && advise(linux::MADV_GUARD_REMOVE);
        let populates = advise(linux::MADV_POPULATE_READ) && advise(linux::MADV_POPULATE_WRITE);
        let here = libc::iovec { iov_base: std::ptr::from_mut(&mut word).cast(), iov_len: size };
        let there = libc::iovec { iov_base: memory, iov_len: size };
        let copies = libc::process_vm_readv(libc::getpid(), &here, 1, &there, 1, 0) == size as isize;
        // Two regions, to a place that is free: the one that they have just left.
        let other = libc::mmap(std::ptr::null_mut(), SIZE, libc::PROT_READ, flags, -1, 0);
        libc::mprotect(memory, 4096, libc::PROT_READ);
        let moves = (linux::MREMAP_MAYMOVE | linux::MREMAP_FIXED) as i32;
        let moves_several = libc::mremap(memory, SIZE, SIZE, moves, other) == other;
        let old = if moves_several { other } else { memory };
        let keeps = (linux::MREMAP_MAYMOVE | linux::MREMAP_DONTUNMAP) as i32;
        let copy = libc::mremap(old, 4096, 4096, keeps, 0);
        let keeps_old = copy != libc::MAP_FAILED;
        if keeps_old {
            libc::munmap(copy, 4096);
        }
        libc::munmap(old, SIZE);
        if !moves_several {
            libc::munmap(other, SIZE);
        }
        let file = libc::memfd_create(c"oracle".as_ptr(), 0);
        let files = file >= 0;
        if files {
            libc::close(file);
        }
        let sealed = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, flags, -1, 0);
        // What is sealed stays for as long as this process runs: a page.
        let seals = sealed != libc::MAP_FAILED && libc::syscall(super::child::SYS_MSEAL, sealed, 4096, 0) == 0;
        let locked = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, flags, -1, 0);
        let locks = locked != libc::MAP_FAILED && libc::mlock(locked, 4096) == 0;
        libc::munmap(locked, 4096);
        // Whoever may lock everything: it is more than a limit allows.
        let locks_all = locks && libc::geteuid() == 0;
        Kinds {
            stacks: true,
            seals,
            locks,
            locks_all,
            guards,
            populates,
            keeps_old,
            moves_several,
            copies,
            places,
            files,
        }
    }
}

/// What is left out, in words.
pub fn missing(kinds: Kinds) -> Vec<&'static str> {
    [
        (kinds.guards, "guards (6.13)"),
        (kinds.populates, "MADV_POPULATE_READ and _WRITE (5.14)"),
        (kinds.keeps_old, "MREMAP_DONTUNMAP (5.7)"),
        (kinds.moves_several, "mremap of several regions (6.17)"),
        (kinds.copies, "process_vm_readv and _writev"),
        (kinds.places, "placement without MAP_FIXED (needs the lowest addresses)"),
        (kinds.seals, "mseal (6.10)"),
        (kinds.locks, "mlock (a limit)"),
        (kinds.locks_all, "mlockall (needs a privilege)"),
        (kinds.files, "files (memfd_create)"),
    ]
    .into_iter()
    .filter_map(|(there, name)| (!there).then_some(name))
    .collect()
}
