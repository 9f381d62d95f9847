//! Parameters of our own: how long a request waited, for the application that measures its time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use spliceway_common::fastcgi::push_pair;

use crate::config::QueueTime;

/// The pairs that tell of a request whose head was complete at `began`, and which a server is given now.
///
/// Empty, without an allocation, where nothing is to be told.
pub(super) fn stamp(queue_time: &QueueTime, began: Instant, now: Instant) -> Vec<u8> {
    let mut pairs = Vec::new();
    let waited = now.saturating_duration_since(began);
    if let Some(name) = &queue_time.waited {
        push_pair(
            &mut pairs,
            name.as_bytes(),
            waited.as_micros().to_string().as_bytes(),
        );
    }
    if let Some(name) = &queue_time.start {
        // The monotonic clock of the turn is at most a turn old.
        let start = SystemTime::now().checked_sub(waited);
        let since_epoch = start.and_then(|start| start.duration_since(UNIX_EPOCH).ok());
        let start = as_nginx_writes_it(since_epoch.unwrap_or_default());
        push_pair(&mut pairs, name.as_bytes(), start.as_bytes());
    }
    pairs
}

/// As `t=${msec}` of nginx, which is what readers of X-Request-Start know best.
fn as_nginx_writes_it(since_epoch: Duration) -> String {
    format!(
        "t={}.{:03}",
        since_epoch.as_secs(),
        since_epoch.subsec_millis()
    )
}

#[cfg(test)]
mod tests {
    use spliceway_common::fastcgi::Pairs;

    use super::*;

    fn names(waited: Option<&str>, start: Option<&str>) -> QueueTime {
        QueueTime {
            waited: waited.map(str::to_owned),
            start: start.map(str::to_owned),
        }
    }

    fn pairs(stamped: &[u8]) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let pair =
            |pair: Result<(&[u8], &[u8]), _>| pair.map(|(name, value)| (text(name), text(value)));
        Pairs::new(stamped).map(|it| pair(it).unwrap()).collect()
    }

    #[test]
    fn the_wait_is_told_in_microseconds() {
        let began = Instant::now();
        let stamped = stamp(
            &names(Some("QUEUE_US"), None),
            began,
            began + Duration::from_micros(1_234),
        );
        assert_eq!(
            pairs(&stamped),
            [("QUEUE_US".to_owned(), "1234".to_owned())]
        );
        let at_once = stamp(&names(Some("QUEUE_US"), None), began, began);
        assert_eq!(pairs(&at_once), [("QUEUE_US".to_owned(), "0".to_owned())]);
    }

    #[test]
    fn the_start_is_the_time_of_day_before_the_wait() {
        let began = Instant::now();
        let wait = Duration::from_secs(3600);
        let before = SystemTime::now() - wait;
        let stamped = stamp(
            &names(None, Some("HTTP_X_REQUEST_START")),
            began,
            began + wait,
        );
        let after = SystemTime::now() - wait;
        let [(name, value)] = &pairs(&stamped)[..] else {
            panic!("one pair")
        };
        assert_eq!(name, "HTTP_X_REQUEST_START");
        let (seconds, millis) = value.strip_prefix("t=").unwrap().split_once('.').unwrap();
        assert_eq!(millis.len(), 3);
        let told = Duration::from_secs(seconds.parse().unwrap())
            + Duration::from_millis(millis.parse().unwrap());
        let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap();
        // It is cut off to whole milliseconds.
        assert!(
            told + Duration::from_millis(1) > since(before) && told <= since(after),
            "{value}"
        );
    }

    #[test]
    fn nothing_is_told_unasked() {
        let now = Instant::now();
        let stamped = stamp(&QueueTime::default(), now, now);
        assert_eq!((stamped.len(), stamped.capacity()), (0, 0));
    }
}
