//! What is made of repeated measurements: medians, their spread, and ratios within a round.
//!
//! Pure. Ratios are taken round by round and only then is their median: what slows a whole round
//! down, another program on the machine for one, then falls on both sides of the division.

/// The middle of repeated figures, and how far they went.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// `None` if there are no figures. With an even number of them the median is the mean of the
    /// middle two.
    pub(super) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            (sorted[middle - 1] + sorted[middle]) / 2.0
        };
        Some(Self { median, min, max })
    }
}

/// The ratios of `figures` to `bases`, of which each pair is from the same round. A round counts
/// only if it has both figures.
pub(super) fn ratio(figures: &[Option<f64>], bases: &[Option<f64>]) -> Option<Spread> {
    let both = |(figure, base): (&Option<f64>, &Option<f64>)| Some((*figure)? / (*base)?);
    let ratios = figures.iter().zip(bases).filter_map(both);
    Spread::of(ratios.filter(|ratio| ratio.is_finite()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(median: f64, min: f64, max: f64) -> Option<Spread> {
        Some(Spread { median, min, max })
    }

    #[test]
    fn the_median_is_the_middle_figure() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), spread(2.0, 1.0, 3.0));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 10.0]), spread(3.0, 1.0, 10.0));
    }

    #[test]
    fn nothing_has_no_median() {
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The second round was twice as slow for both.
        let ratios = ratio(
            &[Some(8.0), Some(4.0), Some(9.0)],
            &[Some(10.0), Some(5.0), Some(10.0)],
        );
        assert_eq!(ratios, spread(0.8, 0.8, 0.9));
    }

    #[test]
    fn rounds_with_one_figure_do_not_count() {
        let ratios = ratio(&[Some(1.0), None, Some(6.0)], &[None, Some(5.0), Some(2.0)]);
        assert_eq!(ratios, spread(3.0, 3.0, 3.0));
        assert_eq!(ratio(&[None], &[Some(1.0)]), None);
        assert_eq!(ratio(&[Some(1.0)], &[Some(0.0)]), None);
    }
}
