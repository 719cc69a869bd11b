//! Progress on standard error: a bar on a terminal, else a line now and then.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use saequel_engine::Progress;

use crate::interrupt::Interrupt;
use crate::say::remark;

/// Time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Warnings that are shown: a file may give one for each of a million rows.
const WARNINGS: usize = 10;

/// Shows the progress of long work.
pub(crate) struct Report {
    interrupt: Interrupt,
    quiet: bool,
    terminal: bool,
    n_warnings: AtomicUsize,
    stage: Mutex<Option<Stage>>,
}

struct Stage {
    name: String,
    total: Option<u64>,
    unit: String,
    bar: Option<ProgressBar>,
    began: Instant,
    last_line: Instant,
}

impl Report {
    /// Progress that is shown unless `quiet`, and that passes on that the user wants to stop.
    pub(crate) fn new(quiet: bool, interrupt: Interrupt) -> Self {
        let terminal = io::stderr().is_terminal();
        Self { interrupt, quiet, terminal, n_warnings: AtomicUsize::new(0), stage: Mutex::new(None) }
    }
}

/// `1,234` or `1.2 MiB`.
fn amount(n: u64, unit: &str) -> String {
    if unit == "bytes" { HumanBytes(n).to_string() } else { n.to_string() }
}

impl Stage {
    /// `importing: 1200/3220 documents (37 %), 210/s, 10 seconds left, FVU 0.2`
    fn line(&self, done: u64, detail: &str) -> String {
        let seconds = self.began.elapsed().as_secs_f64().max(1e-3);
        let rate = done as f64 / seconds;
        let mut text = format!("{}: {}", self.name, amount(done, &self.unit));
        if let Some(total) = self.total {
            text.push_str(&format!("/{}", amount(total, &self.unit)));
        }
        if self.unit != "bytes" {
            text.push_str(&format!(" {}", self.unit));
        }
        if let Some(total) = self.total.filter(|total| *total > 0) {
            text.push_str(&format!(" ({} %)", done.min(total) * 100 / total));
        }
        if done > 0 {
            // The detail may tell the speed better.
            if !detail.contains("/s") {
                text.push_str(&format!(", {}/s", amount(rate.round() as u64, &self.unit)));
            }
            if let Some(left) = self.total.filter(|total| *total > done).map(|total| total - done) {
                let left = Duration::from_secs_f64((left as f64 / rate).min(1e9));
                text.push_str(&format!(", {} left", HumanDuration(left)));
            }
        }
        if !detail.is_empty() {
            text.push_str(&format!(", {detail}"));
        }
        text
    }
}

fn bar(name: &str, total: Option<u64>, unit: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(10));
    let (count, rate) = match unit {
        "bytes" => ("{bytes}/{total_bytes}".to_owned(), "{bytes_per_sec}"),
        unit => (format!("{{pos}}/{{len}} {unit}"), "{per_sec}"),
    };
    let template = match total {
        Some(_) => format!("{{prefix}} {{bar:30}} {count}, {rate}, {{eta}} left {{wide_msg}}"),
        None => format!(
            "{{prefix}} {{spinner}} {}, {rate} {{wide_msg}}",
            count.replace("/{len}", "").replace("/{total_bytes}", "")
        ),
    };
    // A template that does not parse would be our mistake; the plain style shows as much.
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("━╸ "));
    bar.set_prefix(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

impl Progress for Report {
    fn stage(&self, name: &str, total: Option<u64>, unit: &str) {
        if self.quiet {
            return;
        }
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = stage.take().and_then(|stage| stage.bar) {
            bar.finish_and_clear();
        }
        let bar = self.terminal.then(|| bar(name, total, unit));
        let now = Instant::now();
        *stage = Some(Stage { name: name.into(), total, unit: unit.into(), bar, began: now, last_line: now });
    }

    fn update(&self, done: u64, detail: &str) {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stage) = stage.as_mut() else { return };
        if let Some(bar) = &stage.bar {
            bar.set_position(done);
            bar.set_message(detail.to_owned());
        } else if stage.last_line.elapsed() >= LINE_EVERY {
            stage.last_line = Instant::now();
            remark!("{}", stage.line(done, detail));
        }
    }

    fn finish(&self, summary: &str) {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stage) = stage.take() else { return };
        if let Some(bar) = &stage.bar {
            bar.finish_and_clear();
        }
        if !summary.is_empty() {
            remark!("{}: {summary}", stage.name);
        }
    }

    fn warn(&self, message: &str) {
        let warning = match self.n_warnings.fetch_add(1, Ordering::Relaxed) {
            n if n < WARNINGS => format!("warning: {message}"),
            WARNINGS => format!("warning: there are more than {WARNINGS} warnings; no more are shown"),
            _ => return,
        };
        let stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        match stage.as_ref().and_then(|stage| stage.bar.as_ref()) {
            Some(bar) => bar.suspend(|| remark!("{warning}")),
            None => remark!("{warning}"),
        }
    }

    fn cancelled(&self) -> bool {
        self.interrupt.is_asked()
    }

    fn agree(&self, terms: &str) -> bool {
        use std::io::{BufRead, IsTerminal, Write};
        let stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ask = || -> std::io::Result<bool> {
            let mut stderr = std::io::stderr().lock();
            writeln!(stderr, "{terms}")?;
            // Without somebody at both ends nobody has read them.
            if !(std::io::stdin().is_terminal() && stderr.is_terminal()) {
                return Ok(false);
            }
            write!(stderr, "Do you accept these terms? [y/N] ")?;
            stderr.flush()?;
            let mut answer = String::new();
            std::io::stdin().lock().read_line(&mut answer)?;
            Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
        };
        match stage.as_ref().and_then(|stage| stage.bar.as_ref()) {
            Some(bar) => bar.suspend(&mut ask),
            None => ask(),
        }
        .unwrap_or(false)
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let stage = self.stage.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = stage.take().and_then(|stage| stage.bar) {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_and_how_long() {
        let began = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        let stage = Stage {
            name: "importing".into(),
            total: Some(400),
            unit: "documents".into(),
            bar: None,
            began,
            last_line: began,
        };
        assert_eq!(stage.line(100, "x"), "importing: 100/400 documents (25 %), 10/s, 30 seconds left, x");
        assert_eq!(stage.line(0, ""), "importing: 0/400 documents (0 %)");
        let stage = Stage { total: None, unit: "bytes".into(), ..stage };
        assert_eq!(stage.line(10240, ""), "importing: 10.00 KiB, 1.00 KiB/s");
    }
}
