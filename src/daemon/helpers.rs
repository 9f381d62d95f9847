//! Threads and tasks beside the workers, and who notices that one of them has ended.
//!
//! Each of them is to last as long as the daemon serves. Without one, something stands still that nobody sees:
//! addresses are not refreshed, access logs are not written, nobody is answered on the control socket. So it is
//! as with a worker: the daemon drains, and ends with an error.

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

/// A helper has ended that was to last.
#[derive(Debug, thiserror::Error)]
#[error("{name} has ended before the daemon (this is a bug; please report what the log says)")]
pub struct HelperError {
    name: &'static str,
}

/// Where helpers say that they have ended. One for all, and each has a copy.
#[derive(Clone)]
pub(super) struct Helpers(UnboundedSender<HelperError>);

/// Those that have ended.
pub(super) struct EndedHelpers(UnboundedReceiver<HelperError>);

/// Says when it is dropped that its helper is over, also when that panics.
pub(super) struct SayEnd {
    name: &'static str,
    helpers: Helpers,
    /// The helper has done what there was to do.
    is_done: bool,
}

/// For the start.
pub(super) fn helpers() -> (Helpers, EndedHelpers) {
    let (end, ended) = unbounded_channel();
    (Helpers(end), EndedHelpers(ended))
}

impl Helpers {
    /// For a thread of this name to hold.
    pub(super) fn say_end(&self, name: &'static str) -> SayEnd {
        SayEnd {
            name,
            helpers: self.clone(),
            is_done: false,
        }
    }

    /// Runs a task, which may end when it has done its part, but not by a panic. To be called on the runtime.
    pub(super) fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let say_end = self.say_end(name);
        tokio::spawn(async move {
            task.await;
            say_end.leave();
        });
    }
}

impl Helpers {
    /// Runs a task until whoever holds the other end of `is_wanted` drops it. To be called on the runtime.
    pub(super) fn spawn_while<T: Send + 'static>(
        &self,
        name: &'static str,
        is_wanted: oneshot::Receiver<T>,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.spawn(name, async {
            tokio::select! {
                // What is not wanted any more does not act once more.
                biased;
                _ = is_wanted => {}
                () = task => {}
            }
        });
    }
}

impl SayEnd {
    /// The helper was not to last any longer.
    pub(super) fn leave(mut self) {
        self.is_done = true;
    }
}

impl Drop for SayEnd {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        // Nobody listens when the daemon is at its end: then it may end, too.
        let _ = self.helpers.0.send(HelperError { name: self.name });
    }
}

impl EndedHelpers {
    /// The next that ends.
    pub(super) async fn next(&mut self) -> HelperError {
        let ended = self.0.recv().await;
        ended.expect("whoever waits for ends has a way to say them as well")
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[tokio::test]
    async fn the_end_of_a_thread_is_told_also_when_it_panics() {
        for panics in [false, true] {
            let (helpers, mut ended) = helpers();
            let say_end = helpers.say_end("the thread");
            let thread = thread::spawn(move || {
                let _say_end = say_end;
                assert!(!panics, "as it is meant to");
            });
            assert_eq!(thread.join().is_err(), panics);
            let told = ended.next().await.to_string();
            assert!(
                told.starts_with("the thread has ended before the daemon"),
                "{told}"
            );
        }
    }

    #[tokio::test]
    async fn a_task_may_end_but_not_by_a_panic() {
        let (helpers, mut ended) = helpers();
        helpers.spawn("the first", async {});
        helpers.spawn("the second", async {
            tokio::task::yield_now().await;
            panic!("as it is meant to");
        });
        let told = ended.next().await.to_string();
        assert!(told.starts_with("the second has ended"), "{told}");
        assert!(
            ended.0.try_recv().is_err(),
            "the first has not said anything"
        );
    }
}
