//! What a word may become: the names of questions, and what belongs behind them.

use super::command::{Argument, COMMANDS};

/// Who knows words.
pub trait Completer {
    /// Gives `each` the words that may stand where the last word of `before` begins; those that do not begin as that one does are passed over.
    fn complete(&self, before: &str, each: &mut dyn FnMut(&str));
}

/// The questions, with the names of programs for those that take one.
#[derive(Clone, Copy)]
pub struct Questions<F>(
    /// Gives its argument the name of each program.
    pub F,
);

impl<F: Fn(&mut dyn FnMut(&str))> Completer for Questions<F> {
    fn complete(&self, before: &str, each: &mut dyn FnMut(&str)) {
        let mut words = before.split(' ').filter(|word| !word.is_empty());
        let complete = before.is_empty() || before.ends_with(' ');
        let (first, count) = (words.next(), words.count());
        let Some(first) = first.filter(|_| count > 0 || complete) else {
            COMMANDS.iter().for_each(|command| each(command.name));
            return;
        };
        // The position of the word that is being written, behind the question.
        let position = if complete { count } else { count - 1 };
        let Some(command) = COMMANDS.iter().find(|command| command.name == first) else { return };
        match command.arguments.get(position) {
            Some(Argument::Program) => (self.0)(each),
            Some(Argument::Question) => COMMANDS.iter().for_each(|command| each(command.name)),
            Some(Argument::Access) => ["read", "write", "execute"].into_iter().for_each(each),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(before: &str) -> Vec<String> {
        let mut words = Vec::new();
        let programs = |each: &mut dyn FnMut(&str)| ["check", "demo"].into_iter().for_each(each);
        Questions(programs).complete(before, &mut |word| words.push(word.to_owned()));
        words
    }

    #[test]
    fn questions_come_first() {
        for before in ["", "w", "wa", " "] {
            assert_eq!(words(before).len(), COMMANDS.len(), "{before}");
        }
        assert_eq!(words("help ").len(), COMMANDS.len());
        assert_eq!(words("help wa").len(), COMMANDS.len());
    }

    #[test]
    fn what_belongs_behind_a_question() {
        assert_eq!(words("run "), ["check", "demo"]);
        assert_eq!(words("run d"), ["check", "demo"]);
        assert_eq!(words("run demo "), [""; 0]);
        assert_eq!(words("explain 5 "), ["read", "write", "execute"]);
        assert_eq!(words("explain "), [""; 0]);
        assert_eq!(words("nonsense "), [""; 0]);
    }
}
