//! What PHP-FPM says of its pools. Series of figures are there only while they are current; `spliceway_fpm_up`
//! always is.

use std::fmt;

use super::super::fpm::{FpmPoolStatus, FpmStatus};
use super::{Described, Label, MetricKind, Page, Scrape};

catalogue! {
    UP = Gauge "spliceway_fpm_up" ["route", "fpm"]
        "1 if PHP-FPM answered the last poll of --fpm-status, 0 if not; 'spliceway status' says why";
    PROCESSES = Gauge "spliceway_fpm_processes" ["route", "fpm", "state"]
        "Processes of the pool, idle or active; a kept connection makes one active, with or without a request";
    RUNNING = Gauge "spliceway_fpm_processes_running" ["route", "fpm"]
        "Processes of the pool that run a script now; absent if there are too many to count";
    MAX_CHILDREN = Gauge "spliceway_fpm_max_children" ["route", "fpm"]
        "The pool's pm.max_children; known of static pools, and of others once they could not grow";
    LISTEN_QUEUE = Gauge "spliceway_fpm_listen_queue" ["route", "fpm"]
        "Connections in the pool's backlog; PHP-FPM knows this for TCP only";
    LISTEN_QUEUE_MAX = Gauge "spliceway_fpm_listen_queue_max" ["route", "fpm"]
        "Size of that backlog (listen.backlog, net.core.somaxconn)";
    ACCEPTED = Counter "spliceway_fpm_accepted_connections" ["route", "fpm"]
        "Connections that the pool accepted since PHP-FPM started, counting requests on kept connections and \
         readiness queries";
    MAX_CHILDREN_REACHED = Counter "spliceway_fpm_max_children_reached" ["route", "fpm"]
        "How often the pool wanted more processes than pm.max_children, since PHP-FPM started; never for static \
         pools";
    SLOW_REQUESTS = Counter "spliceway_fpm_slow_requests" ["route", "fpm"]
        "Requests that took longer than request_slowlog_timeout, since PHP-FPM started";
}

impl Scrape {
    pub(super) fn fpm(&self, page: &mut Page<'_>) -> fmt::Result {
        page.gauge(
            UP,
            self.each_fpm()
                .map(|(labels, fpm)| (labels, u64::from(fpm.up))),
        )?;
        let processes = self.each_pool().flat_map(|([route, fpm], pool)| {
            let labels = |state| [route, fpm, ("state", state)];
            [
                (labels("idle"), pool.idle_processes),
                (labels("active"), pool.active_processes),
            ]
        });
        page.gauge(PROCESSES, processes)?;
        let running = self.each_pool();
        page.gauge(
            RUNNING,
            running.filter_map(|(labels, pool)| Some((labels, pool.running_processes?))),
        )?;
        let known = self.each_fpm();
        page.gauge(
            MAX_CHILDREN,
            known.filter_map(|(labels, fpm)| {
                Some((labels, fpm.pool.as_ref().and(fpm.max_children)?))
            }),
        )?;
        let each = |pick: fn(&FpmPoolStatus) -> u64| {
            self.each_pool()
                .map(move |(labels, pool)| (labels, pick(pool)))
        };
        page.gauge(LISTEN_QUEUE, each(|pool| pool.listen_queue))?;
        page.gauge(LISTEN_QUEUE_MAX, each(|pool| pool.listen_queue_len))?;
        page.counter(ACCEPTED, each(|pool| pool.accepted_connections))?;
        page.counter(MAX_CHILDREN_REACHED, each(|pool| pool.max_children_reached))?;
        page.counter(SLOW_REQUESTS, each(|pool| pool.slow_requests))
    }

    fn each_fpm(&self) -> impl Iterator<Item = ([Label<'_>; 2], &FpmStatus)> {
        self.each_fastcgi().flat_map(|(route, fastcgi)| {
            let pools = fastcgi.fpm.iter();
            pools.map(move |fpm| ([route, ("fpm", &*fpm.address)], fpm))
        })
    }

    fn each_pool(&self) -> impl Iterator<Item = ([Label<'_>; 2], &FpmPoolStatus)> {
        self.each_fpm()
            .filter_map(|(labels, fpm)| Some((labels, fpm.pool.as_ref()?)))
    }
}
