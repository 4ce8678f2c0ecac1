//! A table of numbers: one definition for the terminal and for the report page.

use std::fmt;

/// Width of a column of numbers on the terminal.
const COLUMN: usize = 9;

/// Named rows of numbers under named columns. NaN is shown as missing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// What is counted, with its unit.
    pub title: String,
    /// Heads of the columns.
    pub columns: Vec<String>,
    /// Rows from top to bottom.
    pub rows: Vec<TableRow>,
    /// Digits after the point.
    pub decimals: usize,
}

/// One row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TableRow {
    /// At its left.
    pub label: String,
    /// One number a column.
    pub values: Vec<f64>,
}

impl Table {
    /// A table without rows.
    pub fn new(title: impl Into<String>, columns: impl IntoIterator<Item = String>, decimals: usize) -> Self {
        Self { title: title.into(), columns: columns.into_iter().collect(), rows: Vec::new(), decimals }
    }

    /// With one more row.
    pub fn with(mut self, label: impl Into<String>, values: Vec<f64>) -> Self {
        self.rows.push(TableRow { label: label.into(), values });
        self
    }

    /// A number as this table shows it.
    pub fn shown(&self, value: f64) -> String {
        if value.is_nan() { "-".into() } else { format!("{value:.*}", self.decimals) }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels = self.rows.iter().map(|row| row.label.chars().count() + 2);
        let left = labels.chain([self.title.chars().count(), 35]).max().unwrap_or_default();
        write!(f, "{:<left$}", self.title)?;
        for column in &self.columns {
            write!(f, "{column:>COLUMN$}")?;
        }
        writeln!(f)?;
        for row in &self.rows {
            let label = format!("  {}", row.label);
            write!(f, "{label:<left$}")?;
            for value in &row.values {
                write!(f, "{:>COLUMN$}", self.shown(*value))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_their_heads() {
        let table = Table::new("dB", ["+0.2 s".to_owned(), "all".to_owned()], 2)
            .with("prediction", vec![30.126, f64::NAN])
            .with("last", vec![-1.0, 2.0]);
        let text = table.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], format!("  {:<33}    30.13        -", "prediction"));
        assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{text}");
    }
}
