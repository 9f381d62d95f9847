//! What operators see of the daemon: its figures, as metrics and as a status.
//!
//! ```text
//!   counters ──┐                      ┌── metrics   what Prometheus scrapes
//!   published ─┼─▶ Observed ─▶ Status ┼── JSON      what programs read
//!   limits ────┘                      └── table     what people read
//! ```
//!
//! [`Observed`] knows where every figure is; a [`Status`] is all of them at one moment, and
//! everything else is made from it. All of this runs on the main thread: workers only count.

mod classes;
pub(crate) mod client;
mod config_figures;
mod endpoint_figures;
pub(crate) mod events;
mod failures;
mod fpm;
mod metrics;
mod observed;
pub(crate) mod page;
pub(crate) mod pulse;
pub(crate) mod request_table;
pub(crate) mod requests;
pub(crate) mod server;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod units;

pub(crate) use classes::ClassLimits;
pub(crate) use config_figures::ConfigFigures;
pub(crate) use endpoint_figures::EndpointFigures;
pub(crate) use failures::Failures;
pub(crate) use observed::{
    DaemonPhase, Observed, ObservedRoute, ObservedRoutes, ObservedWorker, RouteLimits, Summary,
};
pub(crate) use request_table::RequestOrder;
pub(crate) use request_table::render as render_requests;
pub(crate) use requests::{Requests, Which};
pub(crate) use status::{DaemonState, HistogramBucket, Status};
pub(crate) use table::render as render_table;

/// Where the control socket is unless something else is said: the directory that systemd makes for
/// `RuntimeDirectory=spliceway`.
pub(crate) const CONTROL_PATH: &str = "/run/spliceway/control.sock";
