//! What programs tell their user on standard output.

use std::fmt;
use std::io::{self, Write};
use std::process;

/// A line on standard output, with the arguments of `println!`; see [`line()`].
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => { $crate::console::line(::std::format_args!($($text)*)) };
}

/// Writes a line. Where its reader has gone, as `head` does, the program goes on in silence: what it makes is worth
/// more than what it says. Any other fault, such as a full disk, ends the program with code 1.
pub fn line(text: fmt::Arguments<'_>) {
    if let Err(error) = write_line(&mut io::stdout().lock(), text) {
        eprintln!("standard output: {error}");
        process::exit(1);
    }
}

fn write_line(out: &mut impl Write, text: fmt::Arguments<'_>) -> io::Result<()> {
    match writeln!(out, "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Faulty(io::ErrorKind);

    impl Write for Faulty {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn only_a_reader_that_has_gone_is_no_fault() {
        let told = |kind| write_line(&mut Faulty(kind), format_args!("a line")).map_err(|error| error.kind());
        assert_eq!(told(io::ErrorKind::BrokenPipe), Ok(()));
        assert_eq!(told(io::ErrorKind::StorageFull), Err(io::ErrorKind::StorageFull));
        let mut lines = vec![];
        write_line(&mut lines, format_args!("{} of {}", 1, 2)).unwrap();
        assert_eq!(lines, b"1 of 2\n");
    }
}
