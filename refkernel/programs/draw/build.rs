//! Links the program as `refkernel` loads it.

include!("../runtime/link.rs");
