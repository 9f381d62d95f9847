//! nginx and PHP-FPM with real pages.

use serde::{Deserialize, Serialize};

use super::void::{self, Bottleneck, Judged, SATURATED, Void};
use crate::compare::statistics::{Spread, ratio};

/// nginx, a path, PHP-FPM.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in super::super) struct Php {
    pub(in super::super) versions: Vec<String>,
    pub(in super::super) connections: usize,
    pub(in super::super) workers: usize,
    #[serde(default)]
    pub(in super::super) rounds: usize,
    /// Of a measurement; those of dynamic pools take longer.
    #[serde(default)]
    pub(in super::super) seconds: u64,
    /// Older files of raw data, which had one page and one kind of pool, have none.
    #[serde(default)]
    pub(in super::super) cells: Vec<PhpCell>,
}

/// What decides how many workers PHP-FPM has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in super::super) enum Pm {
    Static,
    Ondemand,
    Dynamic,
}

impl Pm {
    pub(in super::super) const ALL: [Self; 3] = [Self::Static, Self::Ondemand, Self::Dynamic];

    pub(in super::super) fn word(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Ondemand => "ondemand",
            Self::Dynamic => "dynamic",
        }
    }
}

/// One page from one kind of pool, with all paths.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in super::super) struct PhpCell {
    pub(in super::super) pm: Pm,
    /// Of the page, each of 1,024 bytes.
    pub(in super::super) kb: u32,
    pub(in super::super) paths: Vec<PhpPath>,
}

/// The key of the path to which those of PHP are compared.
pub(in super::super) const PHP_TCP: &str = "php-tcp";

impl PhpCell {
    pub(in super::super) fn path(&self, key: &str) -> Option<&PhpPath> {
        self.paths.iter().find(|path| path.key == key)
    }

    /// The ratio of one path's figure to that of direct TCP, round by round.
    pub(in super::super) fn ratio(
        &self,
        key: &str,
        figure: impl Fn(&PhpSample) -> Option<f64>,
    ) -> Option<Spread> {
        let figures = |key| Some(self.path(key)?.figures(&figure));
        ratio(&figures(key)?, &figures(PHP_TCP)?)
    }
}

/// One path behind nginx.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in super::super) struct PhpPath {
    pub(in super::super) key: String,
    pub(in super::super) name: String,
    pub(in super::super) rounds: Vec<Result<PhpSample, String>>,
    /// One that asks PHP-FPM itself, where there was one.
    pub(in super::super) second_client: Option<SecondClient>,
    /// One that asks the program on the way, if that shares its connections.
    pub(in super::super) second_beside: Option<SecondClient>,
}

impl PhpPath {
    /// A figure of each round, if it has one.
    pub(in super::super) fn figures(
        &self,
        figure: impl Fn(&PhpSample) -> Option<f64>,
    ) -> Vec<Option<f64>> {
        void::figures(&self.rounds, figure)
    }

    /// A figure over the rounds.
    pub(in super::super) fn spread(
        &self,
        figure: impl Fn(&PhpSample) -> Option<f64>,
    ) -> Option<Spread> {
        Spread::of(self.figures(figure).into_iter().flatten())
    }

    /// Which rounds say nothing of the path.
    pub(in super::super) fn void(&self) -> Void {
        Void::of(&self.rounds)
    }

    /// What went wrong first, if something did.
    pub(in super::super) fn failure(&self) -> Option<&str> {
        let mut failures = self.rounds.iter().filter_map(|round| round.as_ref().err());
        failures.next().map(String::as_str)
    }
}

/// A second client of the same PHP-FPM during the load, one request after the other.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(in super::super) struct SecondClient {
    pub(in super::super) answered: u64,
    /// Requests that were not answered in time.
    pub(in super::super) lost: u64,
    pub(in super::super) seconds: f64,
    /// The longest that one which was answered took. Older files of raw data have none.
    #[serde(default)]
    pub(in super::super) longest_ms: f64,
}

impl SecondClient {
    /// With another time of the same.
    pub(in super::super) fn and(self, more: Self) -> Self {
        Self {
            answered: self.answered + more.answered,
            lost: self.lost + more.lost,
            seconds: self.seconds + more.seconds,
            longest_ms: self.longest_ms.max(more.longest_ms),
        }
    }

    /// Of the requests, those that were not answered in time. `None` if there were none at all.
    pub(in super::super) fn share_lost(&self) -> Option<f64> {
        let all = self.answered + self.lost;
        (all > 0).then(|| self.lost as f64 / all as f64)
    }
}

/// What wrk saw, and what it cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(in super::super) struct PhpSample {
    pub(in super::super) requests: u64,
    pub(in super::super) seconds: f64,
    pub(in super::super) per_second: f64,
    pub(in super::super) p50_us: f64,
    pub(in super::super) p90_us: f64,
    pub(in super::super) p99_us: f64,
    pub(in super::super) max_us: f64,
    /// Answers other than 2xx and 3xx, and errors of sockets.
    pub(in super::super) errors: u64,
    /// Of the program between nginx and PHP-FPM.
    pub(in super::super) cpu_us: Option<f64>,
    pub(in super::super) nginx_cpu_us: f64,
    pub(in super::super) fpm_cpu_us: f64,
    pub(in super::super) wrk_cpu_us: f64,
    /// Of all processors together, whatever ran on them.
    pub(in super::super) busy_us: f64,
    /// What was the bottleneck instead of the path, by [`super::Results::judge`].
    #[serde(skip)]
    pub(in super::super) void: Option<Bottleneck>,
}

impl Judged for PhpSample {
    fn void(&self) -> Option<Bottleneck> {
        self.void
    }
}

impl PhpSample {
    /// Whether wrk's thread or PHP-FPM had no more to give.
    pub(in super::super) fn bottleneck(&self, workers: usize, cores: usize) -> Option<Bottleneck> {
        let busy = |cpu_us: f64| cpu_us / 1e6 / self.seconds;
        let fpm_most = workers.min(cores) as f64;
        if busy(self.wrk_cpu_us) >= SATURATED {
            Some(Bottleneck::Client)
        } else if busy(self.fpm_cpu_us) >= SATURATED * fpm_most {
            Some(Bottleneck::Backend)
        } else {
            None
        }
    }

    /// The part of the machine's time that went to none of those who take part.
    pub(in super::super) fn others_share(&self, cores: usize) -> f64 {
        let served = self.cpu_us.unwrap_or_default() + self.nginx_cpu_us + self.fpm_cpu_us;
        let known = served + self.wrk_cpu_us;
        (self.busy_us - known).max(0.0) / 1e6 / self.seconds / cores as f64
    }

    /// Of the program between nginx and PHP-FPM.
    pub(in super::super) fn cpu_us_per_request(&self) -> Option<f64> {
        Some(self.cpu_us? / self.requests as f64)
    }

    /// Of all that it takes to serve a page.
    pub(in super::super) fn served_us_per_request(&self) -> Option<f64> {
        let served = self.cpu_us.unwrap_or_default() + self.nginx_cpu_us + self.fpm_cpu_us;
        Some(served / self.requests as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saturated_thread_of_wrk_or_all_of_php_fpm_is_the_bottleneck() {
        let sample = |wrk_cpu_us, fpm_cpu_us| PhpSample {
            seconds: 2.0,
            wrk_cpu_us,
            fpm_cpu_us,
            ..PhpSample::default()
        };
        let found = |wrk, fpm| sample(wrk, fpm).bottleneck(8, 2);
        assert_eq!(found(1e6, 2.5e6), None);
        assert_eq!(found(1.95e6, 0.0), Some(Bottleneck::Client));
        assert_eq!(found(1e5, 3.85e6), Some(Bottleneck::Backend));
        // As many workers as there are, on many cores.
        assert_eq!(
            sample(0.0, 3.85e6).bottleneck(2, 64),
            Some(Bottleneck::Backend)
        );
    }
}
