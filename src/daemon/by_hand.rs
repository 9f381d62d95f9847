//! What operators change by hand while the daemon runs: which endpoints get something new, and how much of it, and
//! whether a route gives anything out at all.
//!
//! What is changed is in [`Published`], which the route keeps whatever becomes of its configuration. It is so for
//! whatever comes when a command is answered: each worker has said by then that it knows.

use std::fmt;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time;

use crate::address::Address;
use crate::backend::{ADJUSTED_MAX, AdjustError, Adjusted, Published};
use crate::commands::{Asker, ControlCommand, ControlReply, EndpointAddress};
use crate::config::RouteName;
use crate::observe::{Observed, ObservedRoute};
use crate::worker::{Mailbox, Order, Receipt};

/// How often it is looked whether what is waited for has come.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// How long workers may take to say that they know of a change: they do so in their next turn. One that does not
/// turn is what an operator should hear of.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(5);

/// How many routes or endpoints a message lists.
const LISTED_MAX: usize = 8;

/// What commands act on.
pub(super) struct ByHand {
    pub(super) observed: Arc<Observed>,
    /// Those of all workers.
    pub(super) mailboxes: Vec<Arc<Mailbox>>,
}

/// What has been changed, and what the answer waits for.
struct Begun {
    /// What is said of it.
    line: String,
    then: Then,
}

/// What the answer waits for, once all workers know of the change.
enum Then {
    Nothing,
    /// No connection to this endpoint is open, within this time.
    Left(RouteName, Address, Duration),
    /// No connection to any endpoint of the route is, within this time.
    Idle(RouteName, Duration),
}

impl ByHand {
    /// Carries a command out, one of those that change something by hand, and answers it: later, if the answer is to
    /// wait for something.
    pub(super) fn obey(&self, command: ControlCommand, asker: Asker) {
        match self.begin(command) {
            Ok(begun) => self.answer_later(begun, asker),
            Err(reply) => asker.tell(reply),
        }
    }

    fn begin(&self, command: ControlCommand) -> Result<Begun, ControlReply> {
        match command {
            ControlCommand::Drain {
                route,
                endpoint,
                wait,
            } => self.drain(route, &endpoint, wait),
            ControlCommand::Undrain { route, endpoint } => self.undrain(&route, &endpoint),
            ControlCommand::Weight {
                route,
                endpoint,
                weight,
            } => self.weigh(&route, &endpoint, weight),
            ControlCommand::Pause {
                route,
                wait,
                resume_after,
            } => self.pause(route, wait, resume_after),
            ControlCommand::Resume { route } => self.resume(&route),
            ControlCommand::Reload | ControlCommand::Upgrade => {
                unreachable!("nothing is changed by hand with it")
            }
        }
    }

    fn drain(
        &self,
        name: RouteName,
        endpoint: &EndpointAddress,
        wait: Option<Duration>,
    ) -> Result<Begun, ControlReply> {
        let route = self.route(&name)?;
        let address = find(&route.published, &name, endpoint)?;
        let line = match adjusted(&name, route.published.drain(address, true))? {
            Adjusted::Changed => format!("endpoint {address} of route {name} gets nothing new"),
            Adjusted::AlreadySo => {
                format!("endpoint {address} of route {name} was drained already")
            }
        };
        let is_last = route.published.load().health_in_use().next().is_none();
        let warning = match is_last {
            true => {
                "; no endpoint of the route is left that does: clients wait for one, and fail when their time is up \
                 ('spliceway undrain' brings it back; 'spliceway pause' has them wait)"
            }
            false => "",
        };
        Ok(Begun {
            line: format!("{line}{warning}"),
            then: wait.map_or(Then::Nothing, |wait| Then::Left(name, address, wait)),
        })
    }

    fn undrain(&self, name: &RouteName, endpoint: &EndpointAddress) -> Result<Begun, ControlReply> {
        let route = self.route(name)?;
        let address = find(&route.published, name, endpoint)?;
        let line = match adjusted(name, route.published.drain(address, false))? {
            Adjusted::AlreadySo => format!("endpoint {address} of route {name} was not drained"),
            Adjusted::Changed if has(&route.published, address) => {
                format!("endpoint {address} of route {name} is used again")
            }
            Adjusted::Changed => format!(
                "endpoint {address} of route {name} is drained no more, and is not among the addresses now"
            ),
        };
        Ok(line.into())
    }

    fn weigh(
        &self,
        name: &RouteName,
        endpoint: &EndpointAddress,
        weight: u16,
    ) -> Result<Begun, ControlReply> {
        let Some(weight) = NonZeroU16::new(weight) else {
            return Err(ControlReply::mistaken([format!(
                "weight 0 for endpoint {endpoint} of route {name}: not a weight (use 'spliceway drain {name} \
                 {endpoint}')"
            )]));
        };
        let route = self.route(name)?;
        let address = find(&route.published, name, endpoint)?;
        let line = match adjusted(name, route.published.weigh(address, weight))? {
            Adjusted::Changed => format!("endpoint {address} of route {name} has weight {weight}"),
            Adjusted::AlreadySo => {
                format!("endpoint {address} of route {name} had weight {weight} by hand already")
            }
        };
        Ok(line.into())
    }

    fn pause(
        &self,
        name: RouteName,
        wait: Option<Duration>,
        resume_after: Duration,
    ) -> Result<Begun, ControlReply> {
        let route = self.route(&name)?;
        let now = Instant::now();
        let Some(until) = now.checked_add(resume_after) else {
            return Err(ControlReply::mistaken([format!(
                "pause of route {name} for {resume_after:?}: too long (give a time that ends)"
            )]));
        };
        let was_paused = route.published.paused_until(now).is_some();
        route.published.pause(Some(until));
        let line = match was_paused {
            false => {
                format!("route {name} is paused: what comes waits, for {resume_after:?} at most")
            }
            true => format!(
                "route {name} was paused already: what comes waits, for {resume_after:?} at most from now on"
            ),
        };
        Ok(Begun {
            line,
            then: wait.map_or(Then::Nothing, |wait| Then::Idle(name, wait)),
        })
    }

    fn resume(&self, name: &RouteName) -> Result<Begun, ControlReply> {
        let route = self.route(name)?;
        let was_paused = route.published.paused_until(Instant::now()).is_some();
        route.published.pause(None);
        let line = match was_paused {
            true => format!("route {name} goes on"),
            false => format!("route {name} was not paused"),
        };
        Ok(line.into())
    }

    fn route(&self, name: &RouteName) -> Result<Arc<ObservedRoute>, ControlReply> {
        let all = self.observed.routes.all();
        let route = all.iter().find(|route| route.name == name.as_str());
        route.cloned().ok_or_else(|| {
            let there = listed(all.iter().map(|route| route.name.clone()));
            ControlReply::mistaken([format!("no route is called {name} (there are: {there})")])
        })
    }

    fn answer_later(&self, begun: Begun, mut asker: Asker) {
        let are_out = self.have_acknowledged();
        let observed = Arc::clone(&self.observed);
        tokio::spawn(async move {
            let Begun { line, then } = begun;
            let answer = async {
                let unaware = waited(ACKNOWLEDGE_TIMEOUT, || match are_out() {
                    0 => None,
                    unaware => Some(unaware),
                });
                if let Some(unaware) = unaware.await {
                    return ControlReply::refused([
                        line,
                        format!(
                            "{unaware} workers have not taken notice within {ACKNOWLEDGE_TIMEOUT:?}: they do not \
                             turn (see /healthz and the log)"
                        ),
                    ]);
                }
                then.come(&observed, line).await
            };
            tokio::select! {
                reply = answer => asker.tell(reply),
                // What was changed stays so.
                () = asker.left() => {}
            }
        });
    }

    /// Has each worker say when it has done what it was told before. Returns how many have yet to.
    fn have_acknowledged(&self) -> impl Fn() -> usize + Send + Sync + use<> {
        let (receipts, are_out) = Receipt::some(self.mailboxes.len());
        for (mailbox, receipt) in self.mailboxes.iter().zip(receipts) {
            mailbox.order(Order::Acknowledge(receipt));
        }
        are_out
    }
}

impl From<String> for Begun {
    fn from(line: String) -> Self {
        Self {
            line,
            then: Then::Nothing,
        }
    }
}

impl Then {
    /// Waits until it has come, or its time is up.
    async fn come(self, observed: &Observed, line: String) -> ControlReply {
        match self {
            Self::Nothing => ControlReply::done([line]),
            Self::Left(name, address, wait) => {
                let open = || {
                    let route = of_name(observed, &name)?;
                    Some(route.connections_to(address)).filter(|open| *open > 0)
                };
                match waited(wait, open).await {
                    None => {
                        ControlReply::done([line, format!("no connection to {address} is open")])
                    }
                    Some(open) => ControlReply::refused([
                        line,
                        format!("after {wait:?}, {}", still_open(open, &address)),
                    ]),
                }
            }
            Self::Idle(name, wait) => {
                let open = || {
                    let route = of_name(observed, &name)?;
                    let is_paused = route.published.paused_until(Instant::now()).is_some();
                    let open = route.connections();
                    (open > 0 || !is_paused).then_some((open, is_paused))
                };
                let is_over = || open().is_some_and(|(_, is_paused)| !is_paused);
                match waited_unless(wait, open, is_over).await {
                    None => ControlReply::done([line, "nothing runs any more".to_owned()]),
                    Some((open, true)) => ControlReply::refused([
                        line,
                        format!(
                            "after {wait:?}, {}; it stays paused",
                            still_open(open, &"its endpoints")
                        ),
                    ]),
                    Some((_, false)) => {
                        ControlReply::refused([line, "the pause ended meanwhile".to_owned()])
                    }
                }
            }
        }
    }
}

/// Looks until there is nothing left, for this time at most. What is left then.
async fn waited<T>(time: Duration, left: impl Fn() -> Option<T>) -> Option<T> {
    waited_unless(time, left, || false).await
}

/// The same, but no longer once it is vain.
async fn waited_unless<T>(
    time: Duration,
    left: impl Fn() -> Option<T>,
    is_vain: impl Fn() -> bool,
) -> Option<T> {
    let began = Instant::now();
    loop {
        let left = left()?;
        let rest = time.saturating_sub(began.elapsed());
        if rest.is_zero() || is_vain() {
            return Some(left);
        }
        time::sleep(rest.min(LOOK_INTERVAL)).await;
    }
}

fn of_name(observed: &Observed, name: &RouteName) -> Option<Arc<ObservedRoute>> {
    let all = observed.routes.all();
    let mut all = all.iter();
    all.find(|route| route.name == name.as_str()).cloned()
}

/// The endpoint that is meant: one of the set, or one of which something is remembered.
fn find(
    published: &Published,
    route: &RouteName,
    endpoint: &EndpointAddress,
) -> Result<Address, ControlReply> {
    let set = published.load_full();
    let of_set = set.endpoints().iter().map(|endpoint| endpoint.address);
    let remembered = published.by_hand().into_iter().map(|(address, _)| address);
    let mut all = of_set.clone().chain(remembered);
    all.find(|address| endpoint.is(*address)).ok_or_else(|| {
        let there = listed(of_set.map(|address| address.to_string()));
        ControlReply::mistaken([format!(
            "route {route} has no endpoint {endpoint} (there are: {there})"
        )])
    })
}

fn has(published: &Published, address: Address) -> bool {
    let set = published.load_full();
    set.endpoints().iter().any(|e| e.address == address)
}

fn adjusted(
    route: &RouteName,
    outcome: Result<Adjusted, AdjustError>,
) -> Result<Adjusted, ControlReply> {
    outcome.map_err(|error| {
        ControlReply::refused([match error {
            AdjustError::TooMany => format!(
                "{ADJUSTED_MAX} endpoints of route {route} are changed by hand, and no more are remembered \
                 (undrain some of them)"
            ),
            AdjustError::Unknown => {
                format!("route {route}: the endpoint has just left the addresses (look at 'spliceway status')")
            }
        }])
    })
}

/// The first few of them.
fn listed(all: impl Iterator<Item = String>) -> String {
    let mut all: Vec<_> = all.collect();
    let hidden = all.len().saturating_sub(LISTED_MAX);
    all.truncate(LISTED_MAX);
    match (all.is_empty(), hidden) {
        (true, _) => "none".to_owned(),
        (false, 0) => all.join(", "),
        (false, hidden) => format!("{} and {hidden} more", all.join(", ")),
    }
}

fn still_open(count: u64, to: &dyn fmt::Display) -> String {
    match count {
        1 => format!("1 connection to {to} is still open"),
        count => format!("{count} connections to {to} are still open"),
    }
}
