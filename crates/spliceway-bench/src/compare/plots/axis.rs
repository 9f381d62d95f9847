//! The axes of graphs.
//!
//! They hold what is drawn, which on a logarithmic axis is the logarithm: both kinds are then the
//! same type, and the ticks are exactly the ones that are wanted.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};

use super::super::table::number;

/// One of the two axes of a graph.
pub(super) struct Axis {
    pub(super) title: &'static str,
    is_log: bool,
    /// As drawn.
    pub(super) from: f64,
    pub(super) to: f64,
    /// Its values are few, and have many points each: lines stand apart there.
    pub(super) is_crowded: bool,
    /// As drawn, and as written.
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From 0 to beyond the largest.
    pub(super) fn linear(title: &'static str, values: impl Iterator<Item = f64>) -> Self {
        let largest = values.fold(0.0, f64::max).max(f64::MIN_POSITIVE);
        let step = round_step(largest / 5.0);
        let count = (largest / step).ceil();
        let ticks = (0..=9).map(f64::from).filter(|&tick| tick <= count);
        Self {
            title,
            is_log: false,
            is_crowded: false,
            from: 0.0,
            to: step * count * 1.03,
            ticks: ticks
                .map(|tick| (tick * step, short(tick * step)))
                .collect(),
        }
    }

    /// With ticks at 1, 2 and 5 times the powers of ten, or at the powers alone if there are many.
    pub(super) fn log(title: &'static str, values: impl Iterator<Item = f64>) -> Self {
        let positive = values.filter(|&value| value > 0.0).map(f64::log10);
        let (from, to) = positive.fold((f64::INFINITY, f64::NEG_INFINITY), |(from, to), value| {
            (from.min(value), to.max(value))
        });
        let (from, to) = if from <= to { (from, to) } else { (0.0, 1.0) };
        // Room for what is crossed out, at the top.
        let (from, to) = (from - 0.05, to + 0.05 + (to - from) * 0.06);
        let steps: &[f64] = if to - from < 2.5 {
            &[1.0, 2.0, 5.0]
        } else {
            &[1.0]
        };
        let powers = (-3..=9).map(|power| 10_f64.powi(power));
        let ticks = powers.flat_map(|power| steps.iter().map(move |step| step * power));
        let within = |tick: &f64| (from..=to).contains(&tick.log10());
        Self {
            title,
            is_log: true,
            is_crowded: false,
            from,
            to,
            ticks: ticks
                .filter(within)
                .map(|tick| (tick.log10(), short(tick)))
                .collect(),
        }
    }

    /// Logarithmic, with a tick at each of the values.
    pub(super) fn counts(title: &'static str, values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        values.dedup();
        let ticks = values.iter().map(|value| (value.log10(), short(*value)));
        Self {
            ticks: ticks.collect(),
            is_crowded: true,
            ..Self::log(title, values.iter().copied())
        }
    }

    pub(super) fn drawn(&self, value: f64) -> f64 {
        if self.is_log {
            value.max(f64::MIN_POSITIVE).log10()
        } else {
            value
        }
    }

    pub(super) fn label(&self, at: f64) -> String {
        let near = |tick: &&(f64, String)| (tick.0 - at).abs() < 1e-9 * self.to.abs().max(1.0);
        let found = self.ticks.iter().find(near);
        found.map_or_else(String::new, |(_, name)| name.clone())
    }

    pub(super) fn scale(&self) -> Scale {
        Scale {
            range: self.from..self.to,
            ticks: self.ticks.iter().map(|(at, _)| *at).collect(),
        }
    }
}

/// What the chart knows of an axis: a linear one with these ticks and no others.
pub(super) struct Scale {
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Ranged for Scale {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        let pixels = share * f64::from(to - from);
        #[expect(clippy::cast_possible_truncation, reason = "pixels of an image")]
        let pixels = pixels.round() as i32;
        from + pixels
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// A number without zeros behind the point.
fn short(value: f64) -> String {
    let text = number(value);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// 1, 2 or 5 times a power of ten, not below `least`.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    steps
        .into_iter()
        .find(|&step| step >= least)
        .unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_numbers() {
        for (least, step) in [
            (0.9, 1.0),
            (1.1, 2.0),
            (230.0, 500.0),
            (5.0, 5.0),
            (7.0, 10.0),
        ] {
            assert!((round_step(least) - step).abs() < 1e-9, "{least}");
        }
    }

    #[test]
    fn a_linear_axis_begins_at_nothing_and_holds_everything() {
        let axis = Axis::linear("", [3.0, 17.5].into_iter());
        let names: Vec<&str> = axis.ticks.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["0", "5", "10", "15", "20"]);
        assert!(axis.from.abs() < 1e-9 && axis.to >= 17.5);
    }

    #[test]
    fn a_logarithmic_axis_has_ticks_within_its_values() {
        let axis = Axis::log("", [60.0, 2_500.0].into_iter());
        let names: Vec<&str> = axis.ticks.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["100", "200", "500", "1,000", "2,000"]);
    }
}
