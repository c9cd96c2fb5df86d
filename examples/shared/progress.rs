//! Progress on standard error, where that is a terminal; elsewhere nothing is shown.

use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

const TICK: Duration = Duration::from_millis(200);

/// A bar of so many steps. It goes away when it is dropped.
///
/// # Errors
/// Its template is wrong, which would be a defect.
pub fn bar(what: &str, unit: &str, n: u64) -> Result<Progress> {
    let template = format!("{{msg}} {{wide_bar}} {{human_pos}}/{{human_len}} {unit}, {{eta}} left");
    let bar = ProgressBar::new(n).with_style(ProgressStyle::with_template(&template)?).with_message(what.to_owned());
    bar.enable_steady_tick(TICK);
    Ok(Progress(bar))
}

/// For work whose length is not known.
pub fn spinner(what: &str) -> Progress {
    let bar = ProgressBar::new_spinner().with_message(what.to_owned());
    bar.enable_steady_tick(TICK);
    Progress(bar)
}

/// What is shown while work goes on.
pub struct Progress(ProgressBar);

impl Progress {
    /// So many steps more are done.
    pub fn add(&self, n: u64) {
        self.0.inc(n);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
