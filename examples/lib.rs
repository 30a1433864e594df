//! Programs for a host that embed `vmcore`. Each file beside this one is a program: `cargo run -p examples --example NAME`.

#[cfg(test)]
mod tests {
    #[test]
    fn the_readme_shows_the_smallest_embedding_as_it_is() {
        let (readme, example) = (include_str!("../README.md"), include_str!("smallest.rs"));
        assert!(readme.contains(&format!("```rust\n{example}```")), "copy examples/smallest.rs into README.md");
        assert!(example.lines().count() < 80, "the smallest embedding is to stay small");
    }

    #[test]
    fn the_readme_names_every_example() {
        let manifest = include_str!("Cargo.toml");
        let names: Vec<_> =
            manifest.lines().filter_map(|line| line.strip_suffix(".rs\"")?.strip_prefix("path = \"")).collect();
        assert!(names.len() > 4, "{names:?}");
        for name in names.into_iter().filter(|name| *name != "lib") {
            assert!(include_str!("../README.md").contains(name), "say in README.md what {name} shows");
        }
    }
}
