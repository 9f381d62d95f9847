//! How far a load is: a moving line on a terminal, nothing elsewhere. Always on stderr, so that
//! stdout holds the result alone.

use std::io::{IsTerminal as _, stderr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{HumanFloatCount, ProgressBar, ProgressStyle};
use spliceway_load::load::{Control, Plan};

/// Often enough to look alive, rare enough to cost nothing beside the load.
const TICK: Duration = Duration::from_millis(200);

/// The moving line.
pub(crate) struct Progress;

impl Progress {
    /// Shows the progress of `load` while it runs.
    pub(crate) fn show<T>(plan: &Plan, control: &Control, load: impl FnOnce() -> T) -> T {
        if !stderr().is_terminal() {
            return load();
        }
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            let line = scope.spawn(|| draw(plan, control, &ended));
            let result = load();
            ended.store(true, Ordering::Relaxed);
            line.thread().unpark();
            result
        })
    }
}

fn draw(plan: &Plan, control: &Control, ended: &AtomicBool) {
    let template = "{spinner} {msg} [{bar:36}] {elapsed}";
    let style = ProgressStyle::with_template(template).expect("the template is constant");
    let line = ProgressBar::new(1000).with_style(style);
    let (started, mut looked_at, mut before) = (Instant::now(), Instant::now(), 0);
    while !ended.load(Ordering::Relaxed) {
        thread::park_timeout(TICK);
        let answered = control.answered.load(Ordering::Relaxed);
        let rate = (answered - before) as f64 / looked_at.elapsed().as_secs_f64();
        (looked_at, before) = (Instant::now(), answered);
        let phase = if control.counting.load(Ordering::Relaxed) {
            "load"
        } else {
            "warm-up"
        };
        line.set_message(format!("{phase}: {}/s", HumanFloatCount(rate.round())));
        line.set_position(permille(plan, started.elapsed(), answered));
    }
    line.finish_and_clear();
}

/// How far it is by time or by count, whichever is further.
fn permille(plan: &Plan, elapsed: Duration, answered: u64) -> u64 {
    let whole = (plan.warm_up + plan.duration).as_millis().max(1);
    let by_time = u64::try_from(elapsed.as_millis() * 1000 / whole).unwrap_or(1000);
    let by_count = plan
        .requests_max
        .map_or(0, |most| answered.saturating_mul(1000) / most.max(1));
    by_time.max(by_count).min(1000)
}
