//! The tests beside the library's own that mutants are tried on (`cargo xtask mutants`), as one program: what is generic is compiled once for all of them. In other
//! builds it is empty.
#![cfg(mutants)]

#[path = "accounts.rs"]
mod accounts;
#[path = "area_edges.rs"]
mod area_edges;
#[path = "beside.rs"]
mod beside;
#[path = "clone.rs"]
mod clone;
#[path = "copies.rs"]
mod copies;
#[path = "edges.rs"]
mod edges;
#[path = "exhaustion.rs"]
mod exhaustion;
#[path = "foresee.rs"]
mod foresee;
#[path = "growing.rs"]
mod growing;
#[path = "huge.rs"]
mod huge;
#[path = "inspect.rs"]
mod inspect;
#[path = "lazily.rs"]
mod lazily;
#[path = "leaving.rs"]
mod leaving;
#[path = "limits.rs"]
mod limits;
#[path = "memory_type.rs"]
mod memory_type;
#[path = "model.rs"]
mod model;
#[path = "operations.rs"]
mod operations;
#[path = "outstanding.rs"]
mod outstanding;
#[path = "overlay.rs"]
mod overlay;
#[path = "overlay_model.rs"]
mod overlay_model;
#[path = "page_states.rs"]
mod page_states;
#[path = "paged.rs"]
mod paged;
#[path = "paged_model.rs"]
mod paged_model;
#[path = "pins.rs"]
mod pins;
#[path = "platform_edges.rs"]
mod platform_edges;
#[path = "posix.rs"]
mod posix;
#[path = "posix_exhaustion.rs"]
mod posix_exhaustion;
#[path = "posix_model/main.rs"]
mod posix_model;
#[path = "protocol.rs"]
mod protocol;
#[path = "ring.rs"]
mod ring;
#[path = "space_edges.rs"]
mod space_edges;
#[path = "table_changes.rs"]
mod table_changes;
#[path = "tags.rs"]
mod tags;
#[path = "tree_counts.rs"]
mod tree_counts;
