//! Programs for a host that embed `vmcore`: see `examples/`.
