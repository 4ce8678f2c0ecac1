//! The live line on standard error, and a log that does not run into it.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Moves to the start of the line and clears it.
const CLEAR_LINE: &str = "\r\x1b[2K";
/// The same, and what is too long for the terminal is cut off: a second line could not be cleared.
const LINE_START: &str = "\r\x1b[2K\x1b[?7l";
const LINE_END: &str = "\x1b[?7h";

/// A line that shows how a run goes. On a terminal it is rewritten in place; elsewhere it is repeated,
/// every second at first and then ever less often, since a daemon's log lasts for months.
#[derive(Debug)]
pub struct LiveLine {
    terminal: bool,
    start: Instant,
    next: Duration,
}

impl LiveLine {
    /// A line for standard error as it is.
    pub fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), start: Instant::now(), next: Duration::ZERO }
    }

    /// Shows what `line` says, if it is time.
    pub fn show(&mut self, line: impl FnOnce() -> String) {
        let elapsed = self.start.elapsed();
        if elapsed < self.next {
            return;
        }
        self.next = elapsed + if self.terminal { Duration::from_millis(250) } else { pause_after(elapsed) };
        let (clear, end) = if self.terminal { (LINE_START, LINE_END) } else { ("", "\n") };
        // A terminal that is gone does not stop the daemon.
        let _ = write!(std::io::stderr(), "{clear}{:6.1} s  {}{end}", elapsed.as_secs_f64(), line());
        let _ = std::io::stderr().flush();
    }
}

impl Default for LiveLine {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for LiveLine {
    /// What is written next starts on a line of its own.
    fn drop(&mut self) {
        if self.terminal {
            let _ = writeln!(std::io::stderr());
        }
    }
}

fn pause_after(elapsed: Duration) -> Duration {
    match elapsed.as_secs() {
        0..60 => Duration::from_secs(1),
        60..600 => Duration::from_secs(10),
        _ => Duration::from_secs(60),
    }
}

/// Starts the log: as RUST_LOG says, else what a person running the daemon wants to know.
pub fn start_log() {
    let default = "warn,nextclip=info,nextclip_runtime=info,nextclip_media=info,nextclip_predictor=info";
    let mut builder = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(default));
    builder.format_target(false);
    if std::io::stderr().is_terminal() {
        // Keeps env_logger's colours, which it would not use for a pipe of our own.
        builder.write_style(env_logger::WriteStyle::Always);
        builder.target(env_logger::Target::Pipe(Box::new(OverLiveLine)));
    }
    builder.init();
}

/// Standard error, where a record first wipes the live line, which is then shown anew.
struct OverLiveLine;

impl Write for OverLiveLine {
    fn write(&mut self, record: &[u8]) -> std::io::Result<usize> {
        let mut stderr = std::io::stderr().lock();
        stderr.write_all(CLEAR_LINE.as_bytes())?;
        stderr.write_all(record)?;
        Ok(record.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// Prints an error and its causes, once each: an error often says its cause's words itself.
pub fn report(error: &anyhow::Error) {
    let mut told = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !told.contains(&cause) {
            told = format!("{told}: {cause}");
        }
    }
    // Nobody is left to tell if standard error is gone.
    let _ = writeln!(std::io::stderr(), "nextclipd: {told}");
}
