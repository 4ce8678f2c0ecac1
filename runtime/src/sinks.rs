//! Where events go: each sink has a thread and a bounded queue of its own.

mod film;
mod gallery;
mod journal;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use crossbeam_channel::{Sender, TrySendError, bounded};
use nextclip_core::Geometry;

pub use film::Film;
pub use gallery::Gallery;
pub use journal::Journal;

use crate::config::Config;
use crate::crew::Crew;
use crate::session::Event;

/// Events that wait for a sink. A prediction's pictures stay in memory as long as it waits.
const QUEUE: usize = 32;

/// Something that keeps a record of events.
pub trait Sink: Send {
    /// Takes the next event.
    fn take(&mut self, event: &Event) -> anyhow::Result<()>;
    /// Finishes what was begun, and names what a person may want to open.
    fn finish(self: Box<Self>) -> anyhow::Result<Vec<Written>>;
}

/// A file for a person to open.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Written {
    /// What it is: "strip", "video".
    pub what: &'static str,
    /// Where it is.
    pub path: PathBuf,
}

/// What happens to an event that finds a sink's queue full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// The run waits: a file can.
    Block,
    /// It is lost for this sink, and counted: a camera never waits for a disk.
    DropNewest,
}

/// All sinks of a run. Dropping it lets them finish.
pub struct Sinks {
    queues: Vec<Queue>,
    when_full: WhenFull,
}

struct Queue {
    name: &'static str,
    sender: Sender<Event>,
    lost: Arc<AtomicU64>,
}

impl Sinks {
    /// Starts the sinks that `config` asks for. Files are opened before anything else happens, so that
    /// an unwritable folder is told at once.
    pub fn start(
        config: &Config,
        geometry: &Geometry,
        crew: &mut Crew,
        written: &Arc<Mutex<Vec<Written>>>,
    ) -> anyhow::Result<Self> {
        let when_full = if config.source.live { WhenFull::DropNewest } else { WhenFull::Block };
        let mut sinks = Self { queues: Vec::new(), when_full };
        if config.json {
            sinks.add("json", Box::new(Journal::to_stdout()), crew, written)?;
        }
        if let Some(files) = &config.files {
            let folder = &files.folder;
            std::fs::create_dir_all(folder)
                .with_context(|| format!("{}: cannot be made", folder.display()))?;
            sinks.add("journal", Box::new(Journal::to_file(folder)?), crew, written)?;
            sinks.add("gallery", Box::new(Gallery::new(files)), crew, written)?;
            if files.video {
                sinks.add("film", Box::new(Film::new(folder, geometry)), crew, written)?;
            }
        }
        Ok(sinks)
    }

    /// Hands an event to every sink, under the policy for full queues.
    pub fn offer(&self, event: &Event) {
        for queue in &self.queues {
            // A sink whose thread has ended reports why itself.
            match self.when_full {
                WhenFull::Block => drop(queue.sender.send(event.clone())),
                WhenFull::DropNewest => {
                    if let Err(TrySendError::Full(_)) = queue.sender.try_send(event.clone()) {
                        queue.lost.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
    }

    fn add(
        &mut self,
        name: &'static str,
        mut sink: Box<dyn Sink>,
        crew: &mut Crew,
        written: &Arc<Mutex<Vec<Written>>>,
    ) -> anyhow::Result<()> {
        let (sender, receiver) = bounded::<Event>(QUEUE);
        let written = Arc::clone(written);
        crew.start(name, move || {
            for event in receiver {
                sink.take(&event)?;
            }
            written.lock().unwrap_or_else(PoisonError::into_inner).extend(sink.finish()?);
            Ok(())
        })?;
        self.queues.push(Queue { name, sender, lost: Arc::default() });
        Ok(())
    }
}

impl Drop for Sinks {
    fn drop(&mut self) {
        for Queue { name, lost, .. } in &self.queues {
            let lost = lost.load(Ordering::Relaxed);
            if lost > 0 {
                log::warn!("{name}: {lost} events were lost, it is too slow for this camera");
            }
        }
    }
}
