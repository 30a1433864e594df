//! Linux as it runs here, and `vmcore`, side by side: random operations are done by both, and must come out the same.
//!
//! ```text
//!   seed ──► script ──┬──► processes of this Linux ──► records ──► recording (text)
//!            ▲        │                                                │ replay: vmcore on a simulated machine,
//!            │ shorter│                                                ▼ compared after each step
//!            └────────┴─────────────────────────────────────────── difference?
//! ```
//!
//! What is compared, and how, is the [replay]'s: a difference is a recording that it does not come through. After every step: the result and the errno; how an access ended and what was read;
//! the hash of what was copied; regions; which pages are resident. Each script begins with one new process, and ends before the next begins.
//!
//! | module | what lives there |
//! |---|---|
//! | `script` | steps, and what is recorded of each |
//! | `generate` | random scripts |
//! | `host` | the processes that do them |
//! | `recording` | scripts and records as text, which `replay` takes |
//! | `run` | workers, and what they compare |
//! | `shrink` | the shortest script that shows a difference |

pub mod generate;
pub mod recording;
pub mod script;
pub mod shrink;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod host;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod run;
