//! `oxv build`, and the part of `oxv run` that comes before the machine: gathering with progress shown.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::args::{BuildArgs, GatherArgs};
use crate::console::say;
use crate::error::{Result, size};
use crate::gather::{self, Gathered};
use crate::image;

/// Quicker work shows nothing.
const PROGRESS_DELAY: Duration = Duration::from_secs(1);

/// Runs `oxv build`.
///
/// # Errors
/// Those of gathering and writing.
pub(crate) fn build(args: &BuildArgs) -> Result<u8> {
    let gathered = gather_reporting(&args.gather, &args.program, args.verbose)?;
    let progress = Progress::start("writing the image");
    let image = image::write(&gathered.tree, &args.output, &mut |done, total| progress.update(done, total))?;
    progress.end();
    say(&format!("{}: {}", image.path.display(), size(image.size)));
    Ok(0)
}

/// Gathers, then prints the notes (always) and the details (when asked).
///
/// # Errors
/// Those of gathering.
pub(crate) fn gather_reporting(args: &GatherArgs, program: &[String], verbose: bool) -> Result<Gathered> {
    let progress = Progress::start("gathering the program");
    let gathered = gather::gather(args, program);
    progress.end();
    let gathered = gathered?;
    gathered.notes.iter().for_each(|note| say(note));
    if verbose {
        gathered.details.iter().for_each(|detail| say(detail));
        say(&format!("{} files and directories, {}", gathered.tree.iter().count(), size(gathered.tree.size())));
        say(&format!("starts {} as {:?} in {}", gathered.exec.exe, gathered.exec.argv, gathered.exec.cwd));
    }
    Ok(gathered)
}

/// A progress bar on standard error that appears when the work takes longer than a second.
pub(crate) struct Progress {
    bar: ProgressBar,
    started: Instant,
    message: &'static str,
}

impl Progress {
    /// Starts the clock for work described by `message`.
    pub(crate) fn start(message: &'static str) -> Progress {
        Progress { bar: ProgressBar::hidden(), started: Instant::now(), message }
    }

    /// Shows how far the work is.
    pub(crate) fn update(&self, done: u64, total: u64) {
        if self.started.elapsed() < PROGRESS_DELAY {
            return;
        }
        if self.bar.is_hidden() {
            self.bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("oxv: {msg} {wide_bar} {bytes}/{total_bytes}");
            self.bar.set_style(style.expect("the template is a constant"));
            self.bar.set_message(self.message);
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    /// Removes the bar.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
