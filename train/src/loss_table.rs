//! A run's table of losses, as CSV: the sum, the validation value and every term, of every so many steps.

use crate::loss::Terms;

/// What is logged of some steps.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Line {
    /// The last of them.
    pub(crate) step: u64,
    /// Means of their loss's terms.
    pub(crate) loss: Terms,
    /// How good the weights are, where that was asked.
    pub(crate) validation: Option<f64>,
}

/// Columns before those of the terms.
const FIRST: [&str; 3] = ["step", "loss", "validation"];

/// Every term of the lines. A run that goes on in a newer version may have terms that it had not before.
pub(crate) fn names(log: &[Line]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (name, _) in log.iter().flat_map(|line| &line.loss.0) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// The table; a cell is empty where a line has no such value.
pub(crate) fn table(log: &[Line]) -> String {
    let names = names(log);
    let cell = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    let head = FIRST.iter().map(|&name| name.to_owned()).chain(names.iter().cloned()).collect();
    let line = |line: &Line| {
        let first = [line.step.to_string(), line.loss.total().to_string(), cell(line.validation)];
        first.into_iter().chain(names.iter().map(|name| cell(line.loss.get(name)))).collect()
    };
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(log.iter().map(line)).collect();
    rows.iter().map(|row| row.join(",") + "\n").collect()
}

/// The lines of a table; those that cannot be read are left out.
pub(crate) fn parse(text: &str) -> Vec<Line> {
    let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let names = lines.next().unwrap_or_default();
    let names = names.get(FIRST.len()..).unwrap_or_default();
    let line = |cells: Vec<&str>| {
        let [step, loss, validation, values @ ..] = &cells[..] else { return None };
        let terms = names.iter().zip(values).filter(|(_, value)| !value.is_empty());
        let terms = terms.map(|(name, value)| Some(((*name).to_owned(), value.parse().ok()?)));
        let mut terms: Vec<(String, f64)> = terms.collect::<Option<_>>()?;
        if terms.is_empty() {
            // A table from before there were terms.
            terms.push(("loss".to_owned(), loss.parse().ok()?));
        }
        Some(Line { step: step.parse().ok()?, loss: Terms(terms), validation: validation.parse().ok() })
    };
    lines.filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: u64, terms: &[(&str, f64)], validation: Option<f64>) -> Line {
        let terms = terms.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
        Line { step, loss: Terms(terms), validation }
    }

    /// Values stay under the names that they were written with, also where a term came later.
    #[test]
    fn a_table_is_read_as_it_was_written() {
        let log = [
            line(49, &[("edges", 0.1), ("motion", -1.75)], None),
            line(99, &[("edges", 0.2), ("texture", 1.0 / 3.0), ("motion", 0.25)], Some(2.5)),
        ];
        let text = table(&log);
        assert_eq!(text.lines().next(), Some("step,loss,validation,edges,motion,texture"));
        let read = parse(&text);
        for (read, written) in read.iter().zip(&log) {
            assert_eq!((read.step, read.validation), (written.step, written.validation));
            for name in ["edges", "motion", "texture"] {
                assert_eq!(read.loss.get(name), written.loss.get(name), "{name}");
            }
        }
        assert_eq!(table(&read), text);
        assert_eq!(parse("step,loss,validation\n49,0.5,\nno line\n"), [line(49, &[("loss", 0.5)], None)]);
    }
}
