//! How routes are divided among workers, and sessions are found on their lists.

use super::*;

#[test]
fn sessions_leave_from_anywhere_and_who_moves_is_told() {
    let mut sessions = SessionsOf::default();
    let [first, second, third] = [7, 3, 5].map(|id| sessions.enter(SessionId(id)));
    assert_eq!(sessions.leave(SessionId(7), first), Some(SessionId(5)));
    assert_eq!(sessions.leave(SessionId(5), first), Some(SessionId(3)));
    assert_eq!(sessions.leave(SessionId(3), first), None);
    assert!(sessions.is_empty() && second != third);
}

fn parts(per_endpoint_max: u32, queue_max: usize, shards: usize) -> Vec<(u32, usize)> {
    let whole = Limit {
        per_endpoint_max: NonZeroU32::new(per_endpoint_max).map(EndpointMax::Fixed),
        queue_max,
        order: None,
    };
    let parts = whole.divided(shards);
    parts
        .map(|part| {
            let permits = part.per_endpoint_max.and_then(EndpointMax::fixed).unwrap();
            (permits.get(), part.queue_max)
        })
        .collect()
}

#[test]
fn shards_divide_bounds_as_they_divide_numbers() {
    let whole = Limit {
        per_endpoint_max: AutoRange::new(3, 64).map(EndpointMax::Auto),
        queue_max: 0,
        order: None,
    };
    let parts = whole.divided(2).map(|part| part.per_endpoint_max.unwrap());
    let parts: Vec<_> = parts.map(|part| part.to_string()).collect();
    assert_eq!(parts, ["auto:2-32", "auto:1-32"]);
}

#[test]
fn shards_share_permits_and_queue_without_losing_any() {
    assert_eq!(parts(8, 1024, 1), [(8, 1024)]);
    assert_eq!(parts(8, 3, 2), [(4, 2), (4, 1)]);
    assert_eq!(parts(5, 0, 3), [(2, 0), (2, 0), (1, 0)]);
}

#[test]
fn routes_with_limits_go_round_the_workers() {
    let limit = Some(Limit {
        per_endpoint_max: None,
        queue_max: 1,
        order: None,
    });
    let mut spread = Spread::new(3);
    let mut workers = |limit, shards| -> Vec<usize> {
        let serving = spread.serving(limit, shards).into_iter();
        serving.map(|(worker, _)| worker).collect()
    };
    assert_eq!(workers(limit, 1), [0]);
    assert_eq!(workers(None, 1), [0, 1, 2]);
    assert_eq!(workers(limit, 3), [1, 2, 0]);
    assert_eq!(workers(limit, 1), [1]);
}
