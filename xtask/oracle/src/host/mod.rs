//! The real side: child processes of this Linux that do what a script says, and record what came of each step.
//!
//! | module | what lives there |
//! |---|---|
//! | `child` | the processes, and how they take turns |
//! | `access` | accesses that may fault |
//! | `maps` | regions and pages, as the kernel says them |
//! | `abilities` | what this kernel can do |
//! | `sys` | system calls, for code that may use nothing else |

mod abilities;
mod access;
mod child;
mod maps;
mod sys;

use std::mem::size_of;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use anyhow::{Result, bail};

pub use self::abilities::{kinds_of_this_kernel, missing};
use self::child::{Plan, Shared};
use crate::script::{Call, MOST_STEPS, Record, Script, Step, is_contained, linux};

/// How long a script may take, in seconds.
const LIMIT: i64 = 40;

/// A process that makes the processes of scripts, one script at a time.
#[derive(Debug)]
pub struct Host {
    shared: NonNull<Shared>,
    zygote: i32,
}

// SAFETY: the shared memory belongs to this value alone, on this side.
unsafe impl Send for Host {}

impl Host {
    /// Begins the process.
    ///
    /// # Errors
    /// There is no memory to share, or no process.
    pub fn new() -> Result<Self> {
        // SAFETY: new memory, wherever the kernel puts it.
        let memory = unsafe {
            let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
            libc::mmap(std::ptr::null_mut(), size_of::<Shared>(), protection, flags, -1, 0)
        };
        if memory == libc::MAP_FAILED {
            bail!("no memory to share with child processes: {}", std::io::Error::last_os_error());
        }
        let Some(shared) = NonNull::new(memory.cast::<Shared>()) else { bail!("the kernel maps at address 0") };
        // SAFETY: the memory is as large, aligned to a page, and zero, which is a value of all that lies in it; it is never unmapped while a process uses it.
        let view: &'static Shared = unsafe { shared.as_ref() };
        // SAFETY: the child uses nothing but system calls and memory of its own.
        let zygote = match unsafe { libc::fork() } {
            0 => child::zygote(view),
            error if error < 0 => bail!("no child process: {}", std::io::Error::last_os_error()),
            zygote => zygote,
        };
        let host = Self { shared, zygote };
        if !host.wait_for(1) {
            bail!("the child process does not begin");
        }
        Ok(host)
    }

    fn shared(&self) -> &Shared {
        // SAFETY: it is unmapped when this value is dropped.
        unsafe { self.shared.as_ref() }
    }

    /// Whether everything but the window can be filled here.
    pub fn fills(&self) -> bool {
        self.shared().fills.load(Ordering::Relaxed) != 0
    }

    /// Whether the kernel answers questions about mappings, so that no text needs to be read.
    pub fn asks(&self) -> bool {
        self.shared().asks.load(Ordering::Relaxed) != 0
    }

    /// Has the text of mappings be read in any case.
    pub fn ask_no_more(&self) {
        self.shared().asks.store(0, Ordering::Relaxed);
    }

    /// Does what a script says; gives what came of each step.
    ///
    /// # Errors
    /// The script is too long, or a process could not be made or has come to an end that no step gave it.
    pub fn run(&mut self, script: &Script) -> Result<Vec<Record>> {
        let shared = self.shared();
        if script.steps.len() > MOST_STEPS {
            bail!("a script has {MOST_STEPS} steps at the most");
        }
        if let Some(step) =
            script.steps.iter().find(|step| !is_contained(&step.call) || !script.setting.allows(&step.call))
        {
            bail!("{step:?} would change memory outside of the window");
        }
        let count = script.steps.len();
        let plan: *mut Plan = shared.plan.get();
        let grows = |step: &Step| matches!(step.call, Call::Map { flags, .. } if flags & linux::MAP_GROWSDOWN != 0);
        // SAFETY: no process reads the plan before it is asked to.
        unsafe {
            (*plan).setting = script.setting;
            (*plan).grows = script.steps.iter().any(grows);
            (*plan).count = count;
            (&mut (*plan).steps)[..count].copy_from_slice(&script.steps);
            (&mut (*shared.records.get()))[..count].fill(Record::EMPTY);
        }
        shared.trouble.store(0, Ordering::Relaxed);
        shared.processes.iter().for_each(|process| process.store(0, Ordering::Relaxed));
        let request = shared.request.load(Ordering::Relaxed) + 1;
        shared.request.store(request, Ordering::Release);
        sys::wake(&shared.request);
        if !self.wait_for(request + 1) {
            bail!("the processes of a script do not end");
        }
        if shared.trouble.load(Ordering::Relaxed) != 0 {
            bail!("a process could not do its part: is there memory for processes?");
        }
        // SAFETY: all processes that wrote the records have ended.
        let records = unsafe { &(&(*shared.records.get()))[..count] };
        Ok(records.to_vec())
    }

    /// Waits until so much is done.
    fn wait_for(&self, wanted: u32) -> bool {
        let shared = self.shared();
        loop {
            match shared.done.load(Ordering::Acquire) {
                done if done == wanted => return true,
                done if !sys::wait(&shared.done, done, LIMIT) => return false,
                _ => {}
            }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let others = self.shared().processes.iter().map(|process| process.load(Ordering::Relaxed));
        let all: Vec<i32> = others.chain([self.zygote]).filter(|process| *process > 0).collect();
        let idle = self.shared().done.load(Ordering::Relaxed) == self.shared().request.load(Ordering::Relaxed) + 1;
        // SAFETY: processes that were made here: those of a script only where it has not ended (its numbers may be others' by then), and the zygote, which is
        // waited for; after it nobody uses the memory but processes that end by themselves.
        unsafe {
            for process in all.iter().filter(|process| !idle || **process == self.zygote) {
                libc::kill(*process, libc::SIGKILL);
            }
            libc::waitpid(self.zygote, std::ptr::null_mut(), 0);
            libc::munmap(self.shared.as_ptr().cast(), size_of::<Shared>());
        }
    }
}
