//! Many mutants in one program: a source file in which each of them is one arm of a choice that is made when the program runs.
//!
//! Where a mutant changes an expression, the expression becomes a choice between its changed copies and itself; what changes inside it stays in the copy that
//! is itself, since only one mutant is chosen at a time. A whole body that is replaced becomes an early return.
//!
//! ```text
//! a + b == c            (match at(7) { 0 => (a + b != c), _ => ((match at(3) { 0 => (a - b), 1 => (a * b), _ => (a + b) }) == c) })
//! fn len() -> u64 {     match at(9) { 0 => return (0), 1 => return (1), _ => {} }
//! Some(x) => …          Some(x) if at(11) != 0 => …
//! ```
//!
//! `at(n)` is the chosen mutant's number minus `n`. Nothing is taken away, so text only has to be put in. Constants are computed before there is a choice: in them nothing can be chosen.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use anyhow::{Context as _, Result};
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

/// One change of one thing, as cargo-mutants lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mutant {
    pub(super) file: String,
    pub(super) name: String,
    pub(super) genre: String,
    pub(super) replacement: String,
    /// Line and column where it begins, and where it ends, from 1.
    pub(super) start: (usize, usize),
    pub(super) end: (usize, usize),
}

/// A place where something is chosen, and the mutants that it chooses from, by their positions in the list.
#[derive(Debug)]
pub(super) struct Site {
    kind: Kind,
    /// The bytes of the expression, the arm, or the body.
    whole: Range<usize>,
    /// In a `const fn`.
    pub(super) in_const_fn: bool,
    /// The number of its first mutant.
    pub(super) first: u32,
    pub(super) mutants: Vec<usize>,
}

#[derive(Debug)]
enum Kind {
    /// An expression that is copied and changed.
    Expression,
    /// The guard of an arm, which is replaced.
    Guard,
    /// An arm that is left out: where its pattern ends, or its guard.
    Arm { guard: Option<Range<usize>>, pattern_end: usize },
    /// A body that is replaced.
    Body,
}

/// Where the mutants of a file are.
#[derive(Debug, Default)]
pub(super) struct Sites {
    pub(super) sites: Vec<Site>,
    /// In constants.
    pub(super) constant: Vec<usize>,
    /// What would not compile.
    pub(super) unviable: Vec<usize>,
    /// Nowhere: what cannot be chosen.
    pub(super) nowhere: Vec<usize>,
}

/// A file with its choices.
#[derive(Debug)]
pub(super) struct Instrumented {
    pub(super) text: String,
    /// The bytes of each arm, and its mutant's position in the list.
    pub(super) arms: Vec<(Range<usize>, usize)>,
    /// The bytes of each choice, and its mutants.
    pub(super) choices: Vec<(Range<usize>, Vec<usize>)>,
}

/// Finds where the mutants of a file are, and numbers them from `next` on.
pub(super) fn locate(source: &str, mutants: &[(usize, &Mutant)], next: &mut u32) -> Result<Sites> {
    let file = syn::parse_file(source).context("the file does not parse")?;
    let lines = line_starts(source);
    let mut by_start = BTreeMap::<(usize, &str), Vec<usize>>::new();
    let mut sites = Sites::default();
    for (position, mutant) in mutants {
        let start = offset(source, &lines, mutant.start);
        by_start.entry((start, &mutant.genre)).or_default().push(*position);
    }
    let mut finder =
        Finder { by_start, found: Vec::new(), constant: 0, const_fn: 0, constants: Vec::new(), unviable: Vec::new() };
    finder.visit_file(&file);
    sites.constant = finder.constants;
    sites.unviable = finder.unviable;
    sites.nowhere = finder.by_start.into_values().flatten().collect();
    sites.sites = finder.found;
    for site in &mut sites.sites {
        site.first = *next;
        *next += site.mutants.len() as u32;
    }
    Ok(sites)
}

/// Puts the choices in, without the mutants that are left out.
pub(super) fn instrument(source: &str, sites: &[Site], mutants: &[Mutant], without: &HashSet<usize>) -> Instrumented {
    let lines = line_starts(source);
    let mut edits = Vec::<Edit>::new();
    for (index, site) in sites.iter().enumerate() {
        let kept: Vec<_> = site.mutants.iter().enumerate().filter(|(_, mutant)| !without.contains(mutant)).collect();
        if kept.is_empty() {
            continue;
        }
        let (whole, first) = (site.whole.clone(), site.first);
        let mut prefix = Edit {
            at: whole.start,
            is_suffix: false,
            length: whole.len(),
            text: String::new(),
            arms: Vec::new(),
            site: index,
        };
        let mut suffix = Edit { at: whole.end, is_suffix: true, text: ") })".into(), arms: Vec::new(), ..prefix };
        match &site.kind {
            Kind::Arm { guard, pattern_end } => {
                let (_, mutant) = kept[0];
                let begin = prefix.text.len();
                prefix.text.push_str(&format!(" if crate::mutation::at({first}) != 0"));
                prefix.arms.push((begin..prefix.text.len(), *mutant));
                match guard {
                    Some(guard) => {
                        prefix.text = format!(" crate::mutation::at({first}) != 0 && (");
                        prefix.arms[0].0 = begin..prefix.text.len();
                        prefix.at = guard.start;
                        (suffix.at, suffix.text) = (guard.end, ")".into());
                    }
                    None => (prefix.at, prefix.is_suffix, suffix.text) = (*pattern_end, true, String::new()),
                }
            }
            kind => {
                let is_body = matches!(kind, Kind::Body);
                prefix.text = format!("{}match crate::mutation::at({first}) {{ ", if is_body { "" } else { "(" });
                for (number, mutant) in kept {
                    let Mutant { replacement, start, end, .. } = &mutants[*mutant];
                    let changed = offset(source, &lines, *start)..offset(source, &lines, *end);
                    let begin = prefix.text.len();
                    prefix.text.push_str(&format!("{number} => {}(", if is_body { "return " } else { "" }));
                    if matches!(kind, Kind::Expression) {
                        prefix.text.push_str(&source[whole.start..changed.start]);
                        prefix.text.push_str(replacement);
                        prefix.text.push_str(&source[changed.end..whole.end]);
                    } else {
                        prefix.text.push_str(replacement);
                    }
                    prefix.text.push_str("), ");
                    prefix.arms.push((begin..prefix.text.len(), *mutant));
                }
                prefix.text.push_str(if is_body { "_ => {} } " } else { "_ => (" });
                if is_body {
                    suffix.text.clear();
                }
            }
        }
        edits.push(prefix);
        edits.push(suffix);
    }
    // Where several begin, the outer one is first; where several end, the inner one; and what ends is before what begins.
    edits.sort_by_key(|edit| {
        (edit.at, !edit.is_suffix, if edit.is_suffix { edit.length } else { usize::MAX - edit.length })
    });
    apply(source, &edits, sites)
}

/// A text to put in, before or after what a site stands for.
struct Edit {
    at: usize,
    is_suffix: bool,
    /// Of what the site stands for.
    length: usize,
    text: String,
    /// Within the text.
    arms: Vec<(Range<usize>, usize)>,
    site: usize,
}

fn apply(source: &str, edits: &[Edit], sites: &[Site]) -> Instrumented {
    let mut result = Instrumented { text: String::new(), arms: Vec::new(), choices: Vec::new() };
    let mut begins = BTreeMap::new();
    let mut done = 0;
    for edit in edits {
        result.text.push_str(&source[done..edit.at]);
        done = edit.at;
        let base = result.text.len();
        result.text.push_str(&edit.text);
        result.arms.extend(edit.arms.iter().map(|(range, mutant)| (base + range.start..base + range.end, *mutant)));
        // An arm that is left out has both at one place, in either order.
        if let Some(begin) = begins.insert(edit.site, base) {
            result.choices.push((begin..result.text.len(), sites[edit.site].mutants.clone()));
        }
    }
    result.text.push_str(&source[done..]);
    result
}

/// Where each line begins.
fn line_starts(source: &str) -> Vec<usize> {
    [0].into_iter().chain(source.match_indices('\n').map(|(at, _)| at + 1)).collect()
}

/// The byte at a line and column.
fn offset(source: &str, lines: &[usize], (line, column): (usize, usize)) -> usize {
    let start = lines.get(line - 1).copied().unwrap_or(source.len());
    source[start..].char_indices().nth(column - 1).map_or(source.len(), |(at, _)| start + at)
}

struct Finder<'a> {
    /// Those not yet found, by where they begin, and what they change.
    by_start: BTreeMap<(usize, &'a str), Vec<usize>>,
    found: Vec<Site>,
    /// How many constants stand around this.
    constant: u32,
    const_fn: u32,
    constants: Vec<usize>,
    unviable: Vec<usize>,
}

impl<'a> Finder<'a> {
    fn take(&mut self, start: usize, genre: &'a str, kind: Kind, whole: Range<usize>) {
        let Some(mutants) = self.by_start.remove(&(start, genre)) else { return };
        if self.constant > 0 {
            self.constants.extend(mutants);
        } else {
            self.found.push(Site { kind, whole, in_const_fn: self.const_fn > 0, first: 0, mutants });
        }
    }

    fn constant(&mut self, visit: impl FnOnce(&mut Self)) {
        self.constant += 1;
        visit(self);
        self.constant -= 1;
    }

    fn function(&mut self, signature: &syn::Signature, block: &syn::Block, visit: impl FnOnce(&mut Self)) {
        let is_const = u32::from(signature.constness.is_some());
        self.const_fn += is_const;
        let is_opaque =
            matches!(&signature.output, syn::ReturnType::Type(_, kind) if matches!(**kind, syn::Type::ImplTrait(_)));
        if let Some(first) = block.stmts.first().filter(|_| !is_opaque) {
            let whole = block.span().byte_range();
            let start = first.span().byte_range().start;
            self.take(start, "FnValue", Kind::Body, start..whole.end);
        }
        visit(self);
        self.const_fn -= is_const;
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_expr_binary(&mut self, node: &'ast syn::ExprBinary) {
        self.take(node.op.span().byte_range().start, "BinaryOperator", Kind::Expression, node.span().byte_range());
        visit::visit_expr_binary(self, node);
    }

    fn visit_expr_unary(&mut self, node: &'ast syn::ExprUnary) {
        self.take(node.op.span().byte_range().start, "UnaryOperator", Kind::Expression, node.span().byte_range());
        visit::visit_expr_unary(self, node);
    }

    fn visit_expr_struct(&mut self, node: &'ast syn::ExprStruct) {
        for field in &node.fields {
            self.take(field.span().byte_range().start, "StructField", Kind::Expression, node.span().byte_range());
        }
        visit::visit_expr_struct(self, node);
    }

    fn visit_arm(&mut self, node: &'ast syn::Arm) {
        let guard = node.guard.as_ref().map(|(_, guard)| guard.span().byte_range());
        let pattern = node.pat.span().byte_range();
        let start = node.span().byte_range().start;
        let arm = Kind::Arm { guard: guard.clone(), pattern_end: pattern.end };
        let whole = match &guard {
            // Outside the guard's own choice, where both begin.
            Some(guard) => guard.start..guard.end + 1,
            None => pattern.start..pattern.end,
        };
        // Without the arm for all the rest, nothing compiles; with a guard it would be the same. A name in capitals is a constant or a variant.
        let is_rest = guard.is_none()
            && match &node.pat {
                syn::Pat::Wild(_) => true,
                syn::Pat::Ident(name) => {
                    name.subpat.is_none() && name.ident.to_string().starts_with(|c: char| c.is_lowercase())
                }
                _ => false,
            };
        if is_rest {
            self.unviable.extend(self.by_start.remove(&(start, "MatchArm")).unwrap_or_default());
        }
        self.take(start, "MatchArm", arm, whole);
        if let Some(guard) = guard {
            self.take(guard.start, "MatchArmGuard", Kind::Guard, guard);
        }
        visit::visit_arm(self, node);
    }

    fn visit_item_fn(&mut self, node: &'ast syn::ItemFn) {
        self.function(&node.sig, &node.block, |this| visit::visit_item_fn(this, node));
    }

    fn visit_impl_item_fn(&mut self, node: &'ast syn::ImplItemFn) {
        self.function(&node.sig, &node.block, |this| visit::visit_impl_item_fn(this, node));
    }

    fn visit_trait_item_fn(&mut self, node: &'ast syn::TraitItemFn) {
        match &node.default {
            Some(block) => self.function(&node.sig, block, |this| visit::visit_trait_item_fn(this, node)),
            None => visit::visit_trait_item_fn(self, node),
        }
    }

    fn visit_item_const(&mut self, node: &'ast syn::ItemConst) {
        self.constant(|this| visit::visit_item_const(this, node));
    }

    fn visit_item_static(&mut self, node: &'ast syn::ItemStatic) {
        self.constant(|this| visit::visit_item_static(this, node));
    }

    fn visit_impl_item_const(&mut self, node: &'ast syn::ImplItemConst) {
        self.constant(|this| visit::visit_impl_item_const(this, node));
    }

    fn visit_trait_item_const(&mut self, node: &'ast syn::TraitItemConst) {
        self.constant(|this| visit::visit_trait_item_const(this, node));
    }

    fn visit_expr_const(&mut self, node: &'ast syn::ExprConst) {
        self.constant(|this| visit::visit_expr_const(this, node));
    }

    fn visit_type(&mut self, node: &'ast syn::Type) {
        self.constant(|this| visit::visit_type(this, node));
    }

    fn visit_generic_argument(&mut self, node: &'ast syn::GenericArgument) {
        self.constant(|this| visit::visit_generic_argument(this, node));
    }

    fn visit_variant(&mut self, node: &'ast syn::Variant) {
        self.constant(|this| visit::visit_variant(this, node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "\
const TWO: u32 = 1 + 1;
const fn sum(a: u32, b: u32) -> u32 {
    a + b
}
fn kind(a: Option<u32>, flag: bool) -> u32 {
    match a {
        Some(a) if !flag => a - 1 + TWO,
        None => 0,
        _ => 7,
    }
}
";

    /// The mutant of what stands at a line and column, as cargo-mutants lists it.
    fn mutant(genre: &str, start: (usize, usize), length: usize, replacement: &str) -> Mutant {
        let text = |text: &str| text.to_owned();
        let end = (start.0, start.1 + length);
        Mutant { file: text("a.rs"), name: text("a"), genre: text(genre), replacement: text(replacement), start, end }
    }

    fn mutants() -> Vec<Mutant> {
        vec![
            mutant("BinaryOperator", (1, 20), 1, "-"),
            mutant("FnValue", (3, 5), 5, "0"),
            mutant("FnValue", (3, 5), 5, "1"),
            mutant("BinaryOperator", (3, 7), 1, "*"),
            mutant("MatchArmGuard", (7, 20), 5, "true"),
            mutant("UnaryOperator", (7, 20), 1, ""),
            mutant("BinaryOperator", (7, 31), 1, "/"),
            mutant("BinaryOperator", (7, 35), 1, "*"),
            mutant("MatchArm", (8, 9), 10, ""),
            mutant("MatchArm", (9, 9), 7, ""),
            mutant("BinaryOperator", (11, 1), 1, "*"),
        ]
    }

    fn located() -> (Vec<Mutant>, Sites) {
        let mutants = mutants();
        let positions: Vec<_> = mutants.iter().enumerate().collect();
        let sites = locate(SOURCE, &positions, &mut 1).unwrap();
        (mutants, sites)
    }

    #[test]
    fn every_mutant_is_somewhere() {
        let (mutants, sites) = located();
        assert_eq!((&sites.constant[..], &sites.unviable[..], &sites.nowhere[..]), (&[0][..], &[9][..], &[10][..]));
        let mut chosen: Vec<_> = sites.sites.iter().flat_map(|site| &site.mutants).copied().collect();
        chosen.sort_unstable();
        assert_eq!(chosen, [1, 2, 3, 4, 5, 6, 7, 8]);
        let numbers: Vec<_> = sites.sites.iter().flat_map(|site| (site.first..).take(site.mutants.len())).collect();
        assert_eq!(numbers, (1..=8).collect::<Vec<_>>(), "each has a number of its own");
        let in_const_fn = sites.sites.iter().filter(|site| site.in_const_fn).map(|site| site.mutants.len());
        assert_eq!(in_const_fn.sum::<usize>(), 3);
        assert_eq!(mutants.len(), 11);
    }

    #[test]
    fn each_choice_has_what_it_stands_for_and_its_changes() {
        let (mutants, sites) = located();
        let made = instrument(SOURCE, &sites.sites, &mutants, &HashSet::new());
        assert!(syn::parse_file(&made.text).is_ok(), "{}", made.text);
        let text = made.text.replace("crate::mutation::", "");
        assert!(
            text.contains(
                "match at(1) { 0 => return (0), 1 => return (1), _ => {} } (match at(3) { 0 => (a * b), _ => (a + b) })"
            ),
            "{text}"
        );
        assert!(
            text.contains(
                "(match at(7) { 0 => (a - 1 * TWO), _ => ((match at(6) { 0 => (a / 1), _ => (a - 1) }) + TWO) })"
            ) || text.contains("{ 0 => (a - 1 * TWO), _ => ((match at("),
            "{text}"
        );
        assert!(
            text.contains("if (match at(4) { 0 => (true), _ => ((match at(5) { 0 => (flag), _ => (!flag) })) }) =>"),
            "{text}"
        );
        assert!(text.contains("None if at(8) != 0 => 0,"), "{text}");
        for (range, mutant) in &made.arms {
            let arm = &made.text[range.clone()];
            let replacement = &mutants[*mutant].replacement;
            assert!(arm.contains(replacement.as_str()) && !arm.contains("_ =>"), "{arm}");
        }
    }

    #[test]
    fn what_is_left_out_is_not_there() {
        let (mutants, sites) = located();
        let all: HashSet<_> = (0..mutants.len()).collect();
        assert_eq!(instrument(SOURCE, &sites.sites, &mutants, &all).text, SOURCE);
        let first: HashSet<_> = [1].into();
        let text = instrument(SOURCE, &sites.sites, &mutants, &first).text;
        assert!(text.contains("{ 1 => return (1), _ => {} }"), "the others keep their numbers: {text}");
    }
}
