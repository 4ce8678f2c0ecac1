//! Takes settings out of a TOML document by their dotted keys, noting every mistake on the way.

use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::faults::Fault;
use super::values;

/// A document being read. What was never asked for is unknown, so there is no second list of keys.
pub(super) struct Reader<'t> {
    text: &'t str,
    document: DeTable<'t>,
    known: Vec<&'static str>,
    faults: Vec<Fault>,
}

impl<'t> Reader<'t> {
    /// Parses the document. Where it is not TOML, only that is reported: what a recovered parse holds
    /// would give mistakes that nobody made.
    pub(super) fn new(text: &'t str) -> Result<Self, Vec<Fault>> {
        let (document, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            return Ok(Self { text, document: document.into_inner(), known: Vec::new(), faults: Vec::new() });
        }
        let fault = |error: toml::de::Error| Fault {
            line: error.span().map(|span| line_of(text, span.start)),
            place: "not TOML".into(),
            message: error.message().into(),
        };
        Err(errors.into_iter().map(fault).collect())
    }

    /// A string, through a check of its own.
    pub(super) fn text<T>(
        &mut self,
        key: &'static str,
        check: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.take(key, |value| check(value.as_str().ok_or_else(|| wrong_type(value, "a string in quotes"))?))
    }

    /// A string that a type knows how to read.
    pub(super) fn parsed<T: FromStr<Err: ToString>>(&mut self, key: &'static str) -> Option<T> {
        self.text(key, |text| text.parse().map_err(|error: T::Err| error.to_string()))
    }

    /// A whole number, through a check of its own.
    pub(super) fn whole<T>(
        &mut self,
        key: &'static str,
        check: impl FnOnce(i64) -> Result<T, String>,
    ) -> Option<T> {
        self.take(key, |value| {
            let integer = value.as_integer().ok_or_else(|| wrong_type(value, "a whole number"))?;
            let number = i64::from_str_radix(integer.as_str(), integer.radix());
            check(number.map_err(|_| format!("{integer} is beyond 64 bits"))?)
        })
    }

    /// A number with or without a fraction, through a check of its own.
    pub(super) fn number<T>(
        &mut self,
        key: &'static str,
        check: impl FnOnce(f64) -> Result<T, String>,
    ) -> Option<T> {
        self.take(key, |value| {
            let digits = match value {
                DeValue::Integer(integer) => integer.as_str(),
                DeValue::Float(float) => float.as_str(),
                _ => return Err(wrong_type(value, "a number")),
            };
            check(digits.parse().map_err(|_| format!("{digits} is not a number"))?)
        })
    }

    /// `true` or `false`.
    pub(super) fn switch(&mut self, key: &'static str) -> Option<bool> {
        self.take(key, |value| value.as_bool().ok_or_else(|| wrong_type(value, "true or false")))
    }

    /// The faults, those of keys that nobody asked for included.
    pub(super) fn finish(mut self) -> Vec<Fault> {
        let document = std::mem::take(&mut self.document);
        self.walk("", &document);
        self.faults
    }

    fn take<T>(
        &mut self,
        key: &'static str,
        check: impl FnOnce(&DeValue<'t>) -> Result<T, String>,
    ) -> Option<T> {
        self.known.push(key);
        let value = find(&self.document, key)?;
        let line = line_of(self.text, value.span().start);
        match check(value.get_ref()) {
            Ok(value) => Some(value),
            Err(message) => {
                self.faults.push(Fault { line: Some(line), place: key.into(), message });
                None
            }
        }
    }

    fn walk(&mut self, prefix: &str, table: &DeTable<'t>) {
        for (key, value) in table {
            let path = format!("{prefix}{}", key.get_ref());
            if self.known.contains(&path.as_str()) {
                continue;
            }
            let section = format!("{path}.");
            let is_section = self.known.iter().any(|known| known.starts_with(&section));
            let message = match (is_section, value.get_ref()) {
                (true, DeValue::Table(inner)) => {
                    self.walk(&section, inner);
                    continue;
                }
                (true, other) => wrong_type(other, &format!("a section: [{path}]")),
                (false, _) => self.unknown(&path),
            };
            let line = Some(line_of(self.text, key.span().start));
            self.faults.push(Fault { line, place: path, message });
        }
    }

    /// Says that a key is unknown, and which was meant: a path spelt alike, or the word in another section.
    fn unknown(&self, path: &str) -> String {
        let word = |path| str::rsplit(path, '.').next().unwrap_or(path);
        let known = || self.known.iter().copied();
        let sections = known().filter_map(|known| known.split_once('.')).map(|(section, _)| section);
        let meant = values::nearest(path, known().chain(sections)).or_else(|| {
            let alike = values::nearest(word(path), known().map(word))?;
            known().find(|known| word(known) == alike)
        });
        match meant {
            Some(meant) => format!("is unknown, did you mean {meant}?"),
            None => "is unknown".into(),
        }
    }
}

fn find<'d, 't>(table: &'d DeTable<'t>, key: &str) -> Option<&'d Spanned<DeValue<'t>>> {
    match key.split_once('.') {
        None => table.get(key),
        Some((section, rest)) => find(table.get(section)?.get_ref().as_table()?, rest),
    }
}

fn wrong_type(value: &DeValue<'_>, wanted: &str) -> String {
    let found = match value {
        DeValue::String(text) => format!("the string {text:?}"),
        DeValue::Integer(integer) => format!("the whole number {integer}"),
        DeValue::Float(float) => format!("the number {float}"),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(_) => "a date".into(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a section".into(),
    };
    format!("is {found}, must be {wanted}")
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_types_are_checked_at_once() {
        let text = "top = 1\n[a]\nx = 'one'\ny = 2\nzz = 3\n[b]\nx = 1\n";
        let mut reader = Reader::new(text).unwrap();
        assert_eq!(reader.whole("a.x", Ok), None);
        assert_eq!(reader.whole("a.y", Ok), Some(2));
        assert_eq!(reader.switch("a.zzz"), None);
        let faults = reader.finish();
        let told: Vec<_> =
            faults.iter().map(|f| format!("{}: {}: {}", f.line.unwrap(), f.place, f.message)).collect();
        assert_eq!(
            told,
            [
                "3: a.x: is the string \"one\", must be a whole number",
                "5: a.zz: is unknown, did you mean a.zzz?",
                "6: b: is unknown, did you mean a?",
                "1: top: is unknown",
            ]
        );
    }

    #[test]
    fn broken_toml_is_told_with_its_line() {
        let faults = Reader::new("a = 1\nb = = 2\n").err().unwrap();
        assert!(faults.iter().any(|fault| fault.line == Some(2)), "{faults:?}");
    }
}
