//! The real kernel: the calls that the model is compared with.

use refkernel_runtime::{
    Access, Advice, ErrorCode, Handle, HandleKind, PAGE_SIZE, Rights, SystemCall, call, decode_result,
};
use refkernel_stress::Kernel;
use refkernel_stress::step::Page;

/// The calls of one thread, which has a channel of its own to have the kernel copy memory.
pub(crate) struct Calls {
    ends: [Handle; 2],
}

/// Asks again as long as a change is in the way.
pub(crate) fn again<T>(mut ask: impl FnMut() -> Result<T, ErrorCode>) -> Result<T, ErrorCode> {
    loop {
        match ask() {
            Err(ErrorCode::Retry) => {
                let _ = call::thread_yield();
            }
            answer => return answer,
        }
    }
}

fn raw(call: SystemCall, arguments: [u64; 6]) -> Result<u64, ErrorCode> {
    // SAFETY: the model's calls concern its own addresses, which nothing else of the program uses but by what the model says is there.
    again(|| decode_result(unsafe { call::raw(call.number(), arguments) }))
}

impl Calls {
    pub(crate) fn new() -> Result<Self, ErrorCode> {
        Ok(Self { ends: call::channel_create()? })
    }

    /// In a clone: a channel that is not its parent's too.
    pub(crate) fn renew(&mut self) -> Result<(), ErrorCode> {
        let old = self.ends;
        self.ends = call::channel_create()?;
        old.into_iter().try_for_each(call::handle_close)
    }
}

impl Kernel for Calls {
    fn create(&mut self, size: u64) -> Result<Handle, ErrorCode> {
        again(|| call::area_create(size))
    }

    fn create_ring(&mut self, size: u64) -> Result<Handle, ErrorCode> {
        again(|| call::area_create_ring(size))
    }

    fn create_and_map(&mut self, size: u64, address: u64, access: u64) -> Result<u64, ErrorCode> {
        raw(SystemCall::AreaCreateAndMap, [size, address, access, 0, 0, 0])
    }

    fn map(&mut self, area: Handle, address: u64, offset: u64, length: u64, access: u64) -> Result<u64, ErrorCode> {
        raw(SystemCall::AreaMap, [area.0, address, offset, length, access, 0])
    }

    fn unmap(&mut self, address: u64, length: u64) -> Result<u64, ErrorCode> {
        raw(SystemCall::AreaUnmap, [address, length, 0, 0, 0, 0])
    }

    fn protect(&mut self, address: u64, length: u64, access: u64) -> Result<u64, ErrorCode> {
        raw(SystemCall::AreaProtect, [address, length, access, 0, 0, 0])
    }

    fn advise(&mut self, address: u64, length: u64, advice: Advice) -> Result<u64, ErrorCode> {
        raw(SystemCall::AreaAdvise, [address, length, advice.number(), 0, 0, 0])
    }

    fn resize(&mut self, area: Handle, size: u64) -> Result<u64, ErrorCode> {
        raw(SystemCall::AreaResize, [area.0, size, 0, 0, 0, 0])
    }

    fn duplicate(&mut self, handle: Handle, rights: Rights) -> Result<Handle, ErrorCode> {
        again(|| call::handle_duplicate(handle, rights))
    }

    fn inspect(&mut self, handle: Handle) -> Result<(HandleKind, Rights), ErrorCode> {
        call::handle_inspect(handle)
    }

    fn close(&mut self, handle: Handle) -> Result<u64, ErrorCode> {
        call::handle_close(handle).map(|()| 0)
    }

    fn read(&mut self, address: u64) -> u64 {
        // SAFETY: the model says that it may be read. If it may not, the process is ended, and that is found out.
        unsafe { (address as *const u64).read_volatile() }
    }

    fn write(&mut self, address: u64, word: u64) {
        // SAFETY: the model says that it may be written, and it is the model's own.
        unsafe { (address as *mut u64).write_volatile(word) };
    }

    fn copy_out(&mut self, address: u64, pages: &mut [Page]) -> Result<u64, ErrorCode> {
        let [from, to] = self.ends;
        let length = pages.len() as u64 * PAGE_SIZE;
        raw(SystemCall::ChannelSend, [from.0, address, length, 0, 0, 0])?;
        raw(SystemCall::ChannelReceive, [to.0, pages.as_mut_ptr() as u64, length, 0, 0, 0])
    }

    fn copy_in(&mut self, address: u64, pages: &[Page]) -> Result<u64, ErrorCode> {
        let [from, to] = self.ends;
        let length = pages.len() as u64 * PAGE_SIZE;
        raw(SystemCall::ChannelSend, [from.0, pages.as_ptr() as u64, length, 0, 0, 0])?;
        let received = raw(SystemCall::ChannelReceive, [to.0, address, length, 0, 0, 0]);
        if received.is_err() {
            // The message is in the queue still.
            let mut rest = [[0_u64; 512]; 4];
            raw(SystemCall::ChannelReceive, [to.0, rest.as_mut_ptr() as u64, size_of_val(&rest) as u64, 0, 0, 0])?;
        }
        received
    }

    fn look(&mut self, address: u64, expected: u32) -> ErrorCode {
        match raw(SystemCall::AddressWait, [address, expected.into(), 0, 0, 0, 0]) {
            // Woken without having waited.
            Ok(_) => ErrorCode::UnknownCall,
            Err(error) => error,
        }
    }
}

/// Bytes of the stack of a thread, or of a clone.
pub(crate) const STACK_SIZE: u64 = 48 * PAGE_SIZE;

/// Makes a stack of private memory, so that a clone has its own, and gives its end.
pub(crate) fn stack() -> Result<u64, ErrorCode> {
    Ok(again(|| call::area_create_and_map(STACK_SIZE, 0, Access::READ_WRITE))? + STACK_SIZE)
}
