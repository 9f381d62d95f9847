//! Lookups by the C library, for those who need what nsswitch.conf(5) has besides DNS.
//!
//! A call cannot be taken back and may block for minutes. So each runs on a thread of its own that
//! nobody waits for: when the time for an answer is over, there is none, other names are looked up
//! meanwhile, and the daemon ends without it. A name whose call still hangs is not called for again;
//! the next lookup waits for the same call.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hickory_proto::rr::Name;
use tokio::sync::watch;
use tokio::task;

use super::names::RecordFamily;
use super::outcome::{Cause, Failure, Found, LookupOutcome};
use super::reply::is_usable;
use crate::sys::lookup::LookupError;

/// How often a name is looked up, within the bounds for every answer: the C library does not tell
/// for how long an answer is good. Its caches (nscd, sssd, systemd-resolved) make it cheap.
const REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// How to ask; [`crate::sys::lookup::addresses_of`], except in tests.
pub(crate) type SystemCall = fn(&str) -> Result<Vec<IpAddr>, LookupError>;

/// What a call ended with, once it has.
type Answer = Option<Result<Vec<IpAddr>, LookupError>>;

/// The C library's resolver. For use within a tokio runtime.
pub(super) struct System {
    call: SystemCall,
    timeout: Duration,
    /// Both families of a name come from one call.
    under_way: Arc<Mutex<HashMap<Name, watch::Receiver<Answer>>>>,
}

impl System {
    pub(super) fn new(call: SystemCall, timeout: Duration) -> Self {
        Self {
            call,
            timeout,
            under_way: Arc::default(),
        }
    }

    pub(super) async fn look_up(&self, name: &Name, family: RecordFamily) -> LookupOutcome<IpAddr> {
        let mut answer = self.call_for(name);
        let ended = answer.wait_for(Option::is_some);
        match tokio::time::timeout(self.timeout, ended).await {
            Ok(Ok(answer)) => outcome(answer.as_ref().expect("it was waited for"), family),
            // The call panicked: no answer, like any other.
            Ok(Err(_)) => no_answer("the call did not return"),
            Err(_) => no_answer("the system's resolver did not answer in time"),
        }
    }

    /// The call for this name that is under way, or else a new one.
    fn call_for(&self, name: &Name) -> watch::Receiver<Answer> {
        let mut under_way = lock(&self.under_way);
        if let Some(answer) = under_way.get(name) {
            return answer.clone();
        }
        let (tell, answer) = watch::channel(None);
        under_way.insert(name.clone(), answer.clone());
        drop(under_way);
        let removal = Removal(Arc::clone(&self.under_way), name.clone());
        let (call, host) = (self.call, name.to_ascii());
        task::spawn_blocking(move || {
            let answer = call(&host);
            drop(removal);
            tell.send_replace(Some(answer));
        });
        answer
    }
}

/// A call is over, also if it panicked.
struct Removal(Arc<Mutex<HashMap<Name, watch::Receiver<Answer>>>>, Name);

impl Drop for Removal {
    fn drop(&mut self) {
        lock(&self.0).remove(&self.1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done in a panic: there is one call under this lock each time.
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn outcome(
    answer: &Result<Vec<IpAddr>, LookupError>,
    family: RecordFamily,
) -> LookupOutcome<IpAddr> {
    let addresses = match answer {
        Ok(addresses) => addresses,
        Err(LookupError::NoSuchName) => return Err(Failure::Nothing),
        Err(LookupError::NoAnswer(why)) => return no_answer(why),
    };
    let wanted = |ip: &&IpAddr| match family {
        RecordFamily::V4 => ip.is_ipv4(),
        RecordFamily::V6 => ip.is_ipv6(),
    };
    let of_family: Vec<IpAddr> = addresses.iter().filter(wanted).copied().collect();
    let items: Vec<IpAddr> = of_family.iter().copied().filter(is_usable).collect();
    match (items.is_empty(), of_family.is_empty()) {
        (false, _) => Ok(Found {
            items,
            ttl: REFRESH_INTERVAL,
        }),
        (true, false) => Err(Failure::NoAnswer(Cause::Unusable)),
        (true, true) => Err(Failure::Nothing),
    }
}

fn no_answer(why: &str) -> LookupOutcome<IpAddr> {
    Err(Failure::NoAnswer(Cause::Other(why.to_owned())))
}
