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

pub mod client;
mod endpoint_figures;
mod failures;
mod metrics;
mod observed;
pub mod pulse;
pub mod server;
mod status;
mod table;

pub use endpoint_figures::EndpointFigures;
pub use failures::Failures;
pub use metrics::{CATALOGUE, Described, MetricKind, render as render_metrics};
pub use observed::{Observed, ObservedRoute, ObservedWorker, Phase, RouteLimits, Summary};
pub use status::{
    AcceptPauses, DaemonState, EndpointState, EndpointStatus, FlowStatus, HistogramBucket,
    HistogramStatus, LookupStatus, QueueStatus, RouteStatus, Status, WorkerStatus,
};
pub use table::render as render_table;

/// Where the control socket is unless something else is said: the directory that systemd makes for
/// `RuntimeDirectory=spliceway`.
pub const CONTROL_PATH: &str = "/run/spliceway/control.sock";
