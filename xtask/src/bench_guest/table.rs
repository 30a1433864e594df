//! The figures of both kernels beside each other.

use super::{
    figures::{Figure, Value},
    rows::{Goal, Row, Shows},
};

/// The table: a line for each row.
pub(crate) fn table(rows: &[Row], refkernel: &[Figure], linux: &[Figure], linux_name: &str) -> String {
    let mut text = line(["guest instructions, median", "refkernel", linux_name, "bare minimum", "goal", "operations"]);
    for row in rows {
        let (own, other) = (value(row.shows, refkernel), value(row.shows, linux));
        let goal = match row.goal {
            Goal::AtMost(goal) => Some((format!("≤ {}", number(goal)), reaches(row, refkernel))),
            Goal::HalfOfLinux => {
                let goal = other.map(|other| (other / 2.0).floor());
                let text = goal.map_or("≤ Linux / 2".to_owned(), |goal| format!("≤ {}", number(goal)));
                Some((text, goal.and_then(|goal| own.map(|own| own <= goal))))
            }
            Goal::MoreThanZero => Some(("> 0".to_owned(), reaches(row, refkernel))),
            Goal::None => None,
        };
        let goal = match goal {
            None => String::new(),
            Some((goal, Some(true))) => format!("{goal}  "),
            Some((goal, Some(false))) => format!("{goal} !"),
            Some((goal, None)) => format!("{goal} ?"),
        };
        let name = row.shows.names().next().unwrap_or_default();
        let [own_figure, other_figure] = [refkernel, linux].map(|figures| find(name, figures));
        let operations = match [own_figure, other_figure].map(|figure| figure.map(|figure| grouped(figure.operations)))
        {
            [Some(own), Some(other)] if own != other => format!("{own} / {other}"),
            [Some(either), _] | [None, Some(either)] => either,
            [None, None] => "–".to_owned(),
        };
        let marked = |value, figure: Option<&Figure>| {
            let interrupted = figure.is_some_and(Figure::counts_interrupted);
            format!("{}{}", shown(value), if interrupted { "*" } else { "" })
        };
        text.push_str(&line([
            row.title,
            &marked(own, own_figure),
            &marked(other, other_figure),
            &shown(row.bare_minimum),
            &goal,
            &operations,
        ]));
    }
    text
}

/// Whether a row's goal is reached, where that can be said of these figures alone.
pub(crate) fn reaches(row: &Row, figures: &[Figure]) -> Option<bool> {
    let value = value(row.shows, figures)?;
    match row.goal {
        Goal::AtMost(goal) => Some(value <= goal),
        Goal::MoreThanZero => Some(value > 0.0),
        Goal::HalfOfLinux | Goal::None => None,
    }
}

/// One line, its columns under each other.
fn line([title, refkernel, linux, bare_minimum, goal, operations]: [&str; 6]) -> String {
    let text = format!("{title:<46} {refkernel:>12} {linux:>13} {bare_minimum:>13} {goal:>14}  {operations:>13}");
    format!("{}\n", text.trim_end())
}

/// The figures that rows need and that are not there.
pub(crate) fn missing(rows: &[Row], figures: &[Figure]) -> Vec<&'static str> {
    let mut missing: Vec<_> =
        rows.iter().flat_map(|row| row.shows.names()).filter(|name| find(name, figures).is_none()).collect();
    missing.dedup();
    missing
}

fn find<'a>(name: &str, figures: &'a [Figure]) -> Option<&'a Figure> {
    figures.iter().find(|figure| figure.name == name)
}

/// What a row shows.
fn value(shows: Shows, figures: &[Figure]) -> Option<f64> {
    let instructions = |name| match find(name, figures)?.value {
        Value::Instructions(instructions) => Some(instructions),
        Value::Interrupts(_) => None,
    };
    Some(match shows {
        Shows::Median(name) => instructions(name)?.median as f64,
        Shows::PerPage(name) => instructions(name)?.median as f64 / find(name, figures)?.pages.max(1) as f64,
        Shows::Percentile99(name) => instructions(name)?.percentile_99 as f64,
        Shows::Most(name) => instructions(name)?.most as f64,
        Shows::Ratio(name, other) => instructions(name)?.median as f64 / instructions(other)?.median.max(1) as f64,
        Shows::Interrupts(name) => match find(name, figures)?.value {
            Value::Interrupts(count) => count as f64,
            Value::Instructions(_) => return None,
        },
    })
}

fn shown(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), number)
}

/// A number with its thousands apart, and with two digits behind the point where it is small and has some.
fn number(value: f64) -> String {
    if value.fract() == 0.0 || value >= 1000.0 { grouped(value.round() as u64) } else { format!("{value:.2}") }
}

/// A number with its thousands apart.
pub(crate) fn grouped(number: u64) -> String {
    if number < 1000 { number.to_string() } else { format!("{},{:03}", grouped(number / 1000), number % 1000) }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{figures::Instructions, rows::ROWS},
        *,
    };

    fn figure(name: &str, median: u64, pages: u64) -> Figure {
        let instructions = Instructions {
            median,
            least: 1,
            percentile_99: 2 * median,
            most: 3 * median,
            interrupted: 0,
            interrupted_counted: false,
        };
        Figure { name: name.into(), value: Value::Instructions(instructions), operations: 1001, pages }
    }

    fn columns(text: &str) -> Vec<Vec<String>> {
        text.lines()
            .skip(1)
            .map(|line| line.split("  ").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect())
            .collect()
    }

    #[test]
    fn both_kernels_stand_beside_each_other() {
        let row = |shows, goal| Row { title: "it", shows, bare_minimum: Some(12.0), goal };
        let rows = [
            row(Shows::Median("a"), Goal::AtMost(2_000_000.0)),
            row(Shows::PerPage("b"), Goal::AtMost(6.0)),
            row(Shows::Most("a"), Goal::None),
            row(Shows::Ratio("b", "a"), Goal::HalfOfLinux),
            row(Shows::Median("c"), Goal::AtMost(1.0)),
        ];
        let refkernel = [figure("a", 1_234_567, 1), figure("b", 28_672, 4096)];
        let mut linux = [figure("a", 10, 1), figure("b", 40_960, 4096)];
        linux[1].operations = 3;
        if let Value::Instructions(instructions) = &mut linux[1].value {
            instructions.interrupted_counted = true;
        }
        let text = table(&rows, &refkernel, &linux, "Linux 6.1");
        assert_eq!(
            columns(&text),
            [
                vec!["it", "1,234,567", "10", "12", "≤ 2,000,000", "1,001"],
                vec!["it", "7", "10*", "12", "≤ 6 !", "1,001 / 3"],
                vec!["it", "3,703,701", "30", "12", "1,001"],
                vec!["it", "0.02", "4,096*", "12", "≤ 2,048", "1,001 / 3"],
                vec!["it", "–", "–", "12", "≤ 1 ?", "–"],
            ]
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(missing(&ROWS[..2], &[figure("read-fault", 1, 1)]), ["null-call"]);
    }
}
