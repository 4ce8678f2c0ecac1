//! The daemon's threads: started by name, stopped together, none lost without a word.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

/// Asks all threads to finish; set by a signal or by the first failure.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Whether to finish now.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Asks to finish.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// SIGTERM and SIGINT ask to finish; a second one ends the process where it stands.
    pub fn on_signals(&self) -> std::io::Result<()> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        use signal_hook::flag;
        for signal in [SIGTERM, SIGINT] {
            // In this order: the first signal finds the flag unset.
            flag::register_conditional_default(signal, Arc::clone(&self.0))?;
            flag::register(signal, Arc::clone(&self.0))?;
        }
        Ok(())
    }
}

/// Threads at work. Each reports how it ended, a panic included.
pub struct Crew {
    stop: Stop,
    working: Vec<String>,
    // One message a thread: bounded by their number.
    report: (Sender<Report>, Receiver<Report>),
}

struct Report {
    name: String,
    result: anyhow::Result<()>,
}

impl Crew {
    /// Nobody yet.
    pub fn new(stop: Stop) -> Self {
        Self { stop, working: Vec::new(), report: unbounded() }
    }

    /// Starts a thread.
    pub fn start(
        &mut self,
        name: &str,
        work: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
    ) -> anyhow::Result<()> {
        let (name, report) = (name.to_owned(), self.report.0.clone());
        let thread = std::thread::Builder::new().name(name.clone());
        let reported = name.clone();
        let run = move || {
            // Whatever the thread owned is dropped with it, and nothing that it shared is used again
            // but counters.
            let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
                Err(anyhow!("thread {reported} panicked: {}", panic_message(&*panic)))
            });
            // The receiver is gone only where the whole run is being given up.
            let _ = report.send(Report { name: reported, result });
        };
        thread.spawn(run).with_context(|| format!("cannot start thread {name}"))?;
        self.working.push(name);
        Ok(())
    }

    /// Waits until every thread has ended and returns the first failure, which makes the others stop.
    /// Once they are asked to stop they have `grace`. `tick` is called about four times a second.
    pub fn wait(mut self, grace: Duration, mut tick: impl FnMut()) -> anyhow::Result<()> {
        let mut failure = None;
        let mut deadline = None;
        while !self.working.is_empty() {
            match self.report.1.recv_timeout(Duration::from_millis(250)) {
                Ok(Report { name, result }) => {
                    self.working.retain(|working| *working != name);
                    if let Err(error) = result {
                        log::debug!("thread {name} failed");
                        // What follows from the first failure would only hide it.
                        failure.get_or_insert(error);
                        self.stop.set();
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            tick();
            if self.stop.is_set() && Instant::now() >= *deadline.get_or_insert(Instant::now() + grace) {
                let late = anyhow!("{} did not stop within {} s", self.working.join(", "), grace.as_secs());
                return Err(failure.unwrap_or(late));
            }
        }
        failure.map_or(Ok(()), Err)
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    fn until_stopped(stop: &Stop) -> impl FnOnce() -> anyhow::Result<()> + Send + 'static {
        let stop = stop.clone();
        move || {
            while !stop.is_set() {
                std::thread::yield_now();
            }
            Ok(())
        }
    }

    #[test]
    fn a_panic_is_an_error_and_stops_the_others() {
        let stop = Stop::default();
        let mut crew = Crew::new(stop.clone());
        crew.start("patient", until_stopped(&stop)).unwrap();
        crew.start("broken", || panic!("no {}", "way")).unwrap();
        assert_eq!(crew.wait(GRACE, || {}).unwrap_err().to_string(), "thread broken panicked: no way");
    }

    #[test]
    fn who_does_not_stop_is_named() {
        let (stop, never) = (Stop::default(), Stop::default());
        let mut crew = Crew::new(stop.clone());
        crew.start("deaf", until_stopped(&never)).unwrap();
        crew.start("good", until_stopped(&stop)).unwrap();
        stop.set();
        let error = crew.wait(Duration::from_millis(600), || {}).unwrap_err();
        assert_eq!(error.to_string(), "deaf did not stop within 0 s");
        never.set();
    }

    #[test]
    fn all_well() {
        let mut crew = Crew::new(Stop::default());
        crew.start("a", || Ok(())).unwrap();
        crew.start("b", || Ok(())).unwrap();
        crew.wait(GRACE, || {}).unwrap();
    }
}
