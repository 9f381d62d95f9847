//! The result of a load, for people and for programs.

use std::time::Duration;

use serde::Serialize;
use spliceway_load::load::{Connections, Measured, Pace, Plan, Request};

/// Nanoseconds in a microsecond.
const NS_PER_US: f64 = 1000.0;

/// The plan and what was measured; the units stand at the end of the names.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    target: String,
    /// `closed` or `open`.
    pace: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connections_max: Option<usize>,
    /// `new` or `kept`.
    connections: &'static str,
    #[serde(flatten)]
    asked: Asked,
    warm_up_s: f64,
    duration_s: f64,
    requests_max: Option<u64>,
    threads: usize,
    deadline_s: f64,

    requests: u64,
    elapsed_s: f64,
    requests_per_s: f64,
    response_bytes_sum: u64,
    response_mb_per_s: f64,
    latency_min_us: f64,
    latency_mean_us: f64,
    latency_p50_us: f64,
    latency_p90_us: f64,
    latency_p99_us: f64,
    latency_p999_us: f64,
    latency_max_us: f64,
    client_cpu_per_request_us: f64,
    connections_opened: u64,
    connect_retries: u64,
    reconnects: u64,
    resets: u64,
    warning: Option<String>,
}

/// What was asked for.
#[derive(Debug, Serialize)]
#[serde(tag = "request", rename_all = "snake_case")]
enum Asked {
    Synthetic {
        request_bytes: usize,
        body_bytes: u64,
        response_bytes: u64,
        delay_us: u64,
    },
    Script {
        script: String,
        params: Vec<(String, String)>,
        body_bytes: u64,
        varying: bool,
    },
}

impl Report {
    /// Puts both together.
    pub(crate) fn new(plan: &Plan, measured: &Measured) -> Self {
        let (pace, concurrency, rate_per_s, connections_max) = match plan.pace {
            Pace::Closed { concurrency } => ("closed", Some(concurrency.get()), None, None),
            Pace::Open {
                rate,
                connections_max,
            } => ("open", None, Some(rate), Some(connections_max.get())),
        };
        let seconds = measured.elapsed.as_secs_f64();
        let per_second = |amount: f64| if seconds > 0.0 { amount / seconds } else { 0.0 };
        let latency_us = |ns: u64| ns as f64 / NS_PER_US;
        let quantile_us = |quantile| latency_us(measured.latency_ns.value_at_quantile(quantile));
        Self {
            target: plan.target.to_string(),
            pace,
            concurrency,
            rate_per_s,
            connections_max,
            connections: match plan.connections {
                Connections::New => "new",
                Connections::Kept => "kept",
            },
            asked: Asked::of(&plan.request),
            warm_up_s: plan.warm_up.as_secs_f64(),
            duration_s: plan.duration.as_secs_f64(),
            requests_max: plan.requests_max,
            threads: plan.threads.get(),
            deadline_s: plan.deadline.as_secs_f64(),
            requests: measured.requests,
            elapsed_s: seconds,
            requests_per_s: per_second(measured.requests as f64),
            response_bytes_sum: measured.response_bytes,
            response_mb_per_s: per_second(measured.response_bytes as f64 / 1e6),
            latency_min_us: latency_us(measured.latency_ns.min()),
            latency_mean_us: measured.latency_ns.mean() / NS_PER_US,
            latency_p50_us: quantile_us(0.5),
            latency_p90_us: quantile_us(0.9),
            latency_p99_us: quantile_us(0.99),
            latency_p999_us: quantile_us(0.999),
            latency_max_us: latency_us(measured.latency_ns.max()),
            client_cpu_per_request_us: micros(measured.cpu) / measured.requests.max(1) as f64,
            connections_opened: measured.connections,
            connect_retries: measured.connect_retries,
            reconnects: measured.reconnects,
            resets: measured.resets,
            warning: measured.warning.clone(),
        }
    }

    /// A few lines.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "load       {} to {}, {} connections, {} thread{}\n\
             request    {}\n\
             answered   {} in {:.2} s: {:.0} requests/s, {:.1} MB/s\n\
             latency    p50 {:.1} µs, p90 {:.1}, p99 {:.1}, p99.9 {:.1}, max {:.1}, mean {:.1}\n\
             client     {:.1} µs of CPU per request, {} connections opened\n",
            self.pace_text(),
            self.target,
            self.connections,
            self.threads,
            if self.threads == 1 { "" } else { "s" },
            self.asked.text(),
            self.requests,
            self.elapsed_s,
            self.requests_per_s,
            self.response_mb_per_s,
            self.latency_p50_us,
            self.latency_p90_us,
            self.latency_p99_us,
            self.latency_p999_us,
            self.latency_max_us,
            self.latency_mean_us,
            self.client_cpu_per_request_us,
            self.connections_opened,
        );
        for (count, words) in [
            (
                self.connect_retries,
                "connects found the backlog full and were tried again",
            ),
            (
                self.reconnects,
                "kept connections were closed by the server between requests",
            ),
            (
                self.resets,
                "connections were reset behind a complete answer",
            ),
        ] {
            if count > 0 {
                text += &format!("note       {count} {words}\n");
            }
        }
        if let Some(warning) = &self.warning {
            text += &format!(
                "warning    the application said: {}\n",
                warning.escape_debug()
            );
        }
        text
    }

    fn pace_text(&self) -> String {
        match (self.concurrency, self.rate_per_s, self.connections_max) {
            (_, Some(rate), Some(most)) => {
                format!("open loop, {rate} requests/s on at most {most} connections")
            }
            (concurrency, _, _) => {
                format!("closed loop, {} clients", concurrency.unwrap_or_default())
            }
        }
    }
}

impl Asked {
    fn of(request: &Request) -> Self {
        match request {
            Request::Synthetic {
                params_bytes,
                body_bytes,
                response_bytes,
                delay,
                ..
            } => Self::Synthetic {
                request_bytes: *params_bytes,
                body_bytes: *body_bytes,
                response_bytes: *response_bytes,
                delay_us: u64::try_from(delay.as_micros()).unwrap_or(u64::MAX),
            },
            Request::Script {
                script,
                params,
                body_bytes,
                varying,
            } => Self::Script {
                script: script.clone(),
                params: params.clone(),
                body_bytes: *body_bytes,
                varying: *varying,
            },
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Synthetic {
                request_bytes,
                body_bytes,
                response_bytes,
                delay_us,
            } => format!(
                "{request_bytes} B of parameters, {body_bytes} B of body; answer {response_bytes} B \
                 after {delay_us} µs"
            ),
            Self::Script {
                script, body_bytes, ..
            } => format!("{script}, {body_bytes} B of body"),
        }
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
