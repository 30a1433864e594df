//! `vmcore`'s page tables, page trees and spaces measured against other crates' and against bare stores.
//!
//! | module | what it is |
//! |---|---|
//! | `arena` | memory for tables, the same kind for everybody |
//! | `subject` | what every candidate is asked to do |
//! | `floor` | loops that do only the stores |
//! | `vmcore` | the library |
//! | `peers` | other crates |
//! | `walker` | reads anybody's tables, and shares code with nobody |
//! | `check` | that everybody does the same work |
//! | `rows` | the operations that are measured, each from its preparation to its cleaning up |
//! | `clock` | how long something takes |
//! | `measure` | interleaved rounds |
//! | `page_tree` | the same for the page tree, beside other maps |
//! | `spaces` | the same for spaces, beside other maps from ranges to values |
//! | `table` | the figures as a table |

pub mod arena;
pub mod check;
pub mod clock;
pub mod floor;
pub mod measure;
pub mod page_tree;
pub mod peers;
pub mod rows;
pub mod spaces;
pub mod subject;
pub mod table;
pub mod vmcore;
pub mod walker;
