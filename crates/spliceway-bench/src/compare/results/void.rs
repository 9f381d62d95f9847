//! Rounds that say nothing of the path, because it was not what held them back: the load generator or the backend had no
//! processor time left, or the link was late. They are void: no median and no ratio has them.
//!
//! A path with more void rounds than others has no figures at all. The rounds in which a saturated client was a little
//! less busy than it could be are the slow ones, so that a median of those alone would be too low.

use super::{Outcome, Results, Sample};

/// Of its processors' time, the part from which on somebody counts as the bottleneck. Less than all: a thread that does
/// all it can is interrupted now and then.
pub(in super::super) const SATURATED: f64 = 0.95;

/// What held a round back that is not the path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Bottleneck {
    Client,
    Backend,
    Link,
}

/// What may have been held back by something else than the path.
pub(in super::super) trait Judged {
    fn void(&self) -> Option<Bottleneck>;
}

impl Judged for Sample {
    fn void(&self) -> Option<Bottleneck> {
        self.void
    }
}

/// How many rounds of a path are void.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(in super::super) struct Void {
    pub(in super::super) client: usize,
    pub(in super::super) backend: usize,
    pub(in super::super) link: usize,
    /// All there are, without those that failed.
    pub(in super::super) rounds: usize,
}

impl Void {
    pub(in super::super) fn of<T: Judged>(rounds: &[Result<T, String>]) -> Self {
        let mut void = Self::default();
        for sample in rounds.iter().flatten() {
            void.rounds += 1;
            match sample.void() {
                Some(Bottleneck::Client) => void.client += 1,
                Some(Bottleneck::Backend) => void.backend += 1,
                Some(Bottleneck::Link) => void.link += 1,
                None => {}
            }
        }
        void
    }

    pub(in super::super) fn count(self) -> usize {
        self.client + self.backend + self.link
    }

    /// Whether the path has no figures.
    pub(in super::super) fn is_all(self) -> bool {
        self.count() * 2 > self.rounds
    }

    /// `void: client 2, backend 1 of 3`, or nothing.
    pub(in super::super) fn note(self) -> String {
        if self.count() == 0 {
            return String::new();
        }
        let causes = [
            ("client", self.client),
            ("backend", self.backend),
            ("link", self.link),
        ];
        let causes = causes.into_iter().filter(|(_, count)| *count > 0);
        let causes: Vec<String> = causes
            .map(|(word, count)| format!("{word} {count}"))
            .collect();
        format!("void: {} of {}", causes.join(", "), self.rounds)
    }

    /// Behind a figure.
    pub(in super::super) fn mark(self) -> String {
        match self.count() {
            0 => String::new(),
            _ => format!(" ({})", self.note()),
        }
    }

    fn and(self, more: Self) -> Self {
        Self {
            client: self.client + more.client,
            backend: self.backend + more.backend,
            link: self.link + more.link,
            rounds: self.rounds + more.rounds,
        }
    }
}

/// A figure of each round, if it has one that says something of the path.
pub(super) fn figures<T: Judged>(
    rounds: &[Result<T, String>],
    figure: impl Fn(&T) -> Option<f64>,
) -> Vec<Option<f64>> {
    let is_void = Void::of(rounds).is_all();
    let one = |round: &Result<T, String>| {
        let sample = round.as_ref().ok().filter(|sample| sample.void().is_none());
        figure(sample.filter(|_| !is_void)?)
    };
    rounds.iter().map(one).collect()
}

impl Sample {
    /// Whether the load generator or the backend had no more to give.
    fn bottleneck(&self, client_threads: usize, responder_threads: usize) -> Option<Bottleneck> {
        let is_saturated = |cpu_us: f64, threads: usize| {
            cpu_us / 1e6 / self.window_seconds >= SATURATED * threads as f64
        };
        if is_saturated(self.client_cpu_us, client_threads) {
            Some(Bottleneck::Client)
        } else if is_saturated(self.responder_cpu_us.unwrap_or(0.0), responder_threads) {
            Some(Bottleneck::Backend)
        } else {
            None
        }
    }
}

impl Results {
    /// Finds the rounds that are void: to be done once, before anything is made of them.
    pub(in super::super) fn judge(&mut self) {
        let (client, responder) = (self.machine.client_threads, self.machine.responder_threads);
        let cores = self.machine.cores;
        let judge = |rounds: &mut Vec<Outcome>| {
            for sample in rounds.iter_mut().flatten() {
                sample.void = sample.bottleneck(client, responder);
            }
        };
        self.each_rounds(judge);
        for cell in self.remote.iter_mut().flat_map(|remote| &mut remote.cells) {
            let round_trip_ms = cell.round_trip_ms;
            let ways = cell.ways.iter_mut();
            for sample in ways.flat_map(|way| way.rounds.iter_mut().flatten()) {
                let link = sample.strained_link(round_trip_ms);
                let link = link.then_some(Bottleneck::Link);
                sample.void = sample.bottleneck(client, responder).or(link);
            }
        }
        if let Some(php) = &mut self.php {
            let paths = php.cells.iter_mut().flat_map(|cell| &mut cell.paths);
            for sample in paths.flat_map(|path| path.rounds.iter_mut().flatten()) {
                sample.void = sample.bottleneck(php.workers, cores);
            }
        }
    }

    /// Everything that one load over one path has given, where there is no link.
    fn each_rounds(&mut self, mut act: impl FnMut(&mut Vec<Outcome>)) {
        let mode = self.fastcgi.iter_mut().flat_map(|mode| &mut mode.cells);
        let cells = self.cells.iter_mut().chain(&mut self.defaults).chain(mode);
        cells
            .flat_map(|cell| &mut cell.paths)
            .for_each(|path| act(&mut path.rounds));
        let pages = self.page_sweeps.iter_mut().map(|page| &mut page.sweep);
        let sweeps = self.sweep.iter_mut().chain(pages);
        sweeps
            .flat_map(|sweep| &mut sweep.paths)
            .flat_map(|path| &mut path.points)
            .for_each(|point| act(&mut point.rounds));
        if let Some(growth) = &mut self.growth {
            let clients = growth.series.iter_mut();
            let clients = clients.flat_map(|series| &mut series.points);
            clients.for_each(|(_, rounds)| act(rounds));
            let pages = growth.pages.iter_mut();
            let pages = pages.flat_map(|pages| &mut pages.points);
            pages.for_each(|(_, rounds)| act(rounds));
            let variants = growth.variants.iter_mut();
            variants.for_each(|variant| act(&mut variant.rounds));
        }
    }

    /// Of all sections.
    pub(in super::super) fn void(&self) -> Void {
        let cells = self.cells.iter().chain(&self.defaults);
        let cells = cells.chain(self.fastcgi.iter().flat_map(|mode| &mode.cells));
        let cells = cells
            .flat_map(|cell| &cell.paths)
            .map(super::PathResult::void);
        let pages = self.page_sweeps.iter().map(|page| &page.sweep);
        let sweeps = self.sweep.iter().chain(pages);
        let sweeps = sweeps.flat_map(|sweep| &sweep.paths);
        let sweeps = sweeps.flat_map(|path| &path.points);
        let sweeps = sweeps.map(|point| Void::of(&point.rounds));
        let growth = self.growth.iter();
        let growth = growth.flat_map(|growth| {
            let clients = growth.series.iter().flat_map(|series| &series.points);
            let pages = growth.pages.iter().flat_map(|pages| &pages.points);
            let clients = clients.map(|(_, rounds)| Void::of(rounds));
            let pages = pages.map(|(_, rounds)| Void::of(rounds));
            let variants = growth.variants.iter();
            let variants = variants.map(|variant| Void::of(&variant.rounds));
            clients.chain(pages).chain(variants)
        });
        let remote = self.remote.iter().flat_map(|remote| &remote.cells);
        let remote = remote.flat_map(|cell| &cell.ways);
        let remote = remote.map(|way| Void::of(&way.rounds));
        let php = self.php.iter().flat_map(|php| &php.cells);
        let php = php.flat_map(|cell| &cell.paths);
        let php = php.map(|path| Void::of(&path.rounds));
        cells
            .chain(sweeps)
            .chain(growth)
            .chain(remote)
            .chain(php)
            .fold(Void::default(), Void::and)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(client: f64, backend: f64) -> Outcome {
        Ok(Sample {
            client_cpu_us: client * 2e6,
            responder_cpu_us: Some(backend * 2e6),
            window_seconds: 2.0,
            requests: 10,
            seconds: 1.0,
            ..Sample::default()
        })
    }

    fn judged(loads: &[(f64, f64)]) -> Vec<Outcome> {
        let mut rounds: Vec<Outcome> = loads.iter().map(|&(c, b)| sample(c, b)).collect();
        for sample in rounds.iter_mut().flatten() {
            sample.void = sample.bottleneck(1, 1);
        }
        rounds
    }

    #[test]
    fn whoever_has_no_more_to_give_is_the_bottleneck() {
        let found = |client, backend, threads| {
            let sample = sample(client, backend).unwrap_or_default();
            sample.bottleneck(threads, threads)
        };
        assert_eq!(found(0.94, 0.94, 1), None);
        assert_eq!(found(0.96, 0.5, 1), Some(Bottleneck::Client));
        assert_eq!(found(0.5, 0.96, 1), Some(Bottleneck::Backend));
        // Of two threads' time it is half.
        assert_eq!(found(0.96, 0.96, 2), None);
    }

    #[test]
    fn void_rounds_are_in_no_median() {
        let rounds = judged(&[(0.5, 0.5), (0.99, 0.5), (0.5, 0.5)]);
        let figures = figures(&rounds, Sample::rate);
        assert_eq!(figures, [Some(10.0), None, Some(10.0)]);
        assert_eq!(Void::of(&rounds).note(), "void: client 1 of 3");
    }

    #[test]
    fn a_path_with_more_void_rounds_than_others_has_no_figures() {
        let rounds = judged(&[(0.5, 0.5), (0.99, 0.5), (0.5, 0.97)]);
        assert_eq!(figures(&rounds, Sample::rate), [None; 3]);
        let void = Void::of(&rounds);
        assert!(void.is_all());
        assert_eq!(void.mark(), " (void: client 1, backend 1 of 3)");
    }
}
