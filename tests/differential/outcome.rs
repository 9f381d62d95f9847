//! What became of a script, what should have become of it, and the comparison of these.

/// What the two peers saw through one proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Bytes that the backend received, every one of them the right one.
    pub(crate) up: u64,
    /// The same of the client.
    pub(crate) down: u64,
    pub(crate) client: Ending,
    pub(crate) backend: Ending,
}

/// How a session ended for one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It left without having waited for an end.
    Left,
    /// It read the end of the stream, and nothing that it did failed.
    End,
    /// The same, and what it sent afterwards was refused in the end.
    EndThenRefused,
    /// A reset, or a write that was refused.
    Broken,
    /// What no script leads to: a wrong byte, a wait without an end.
    Wrong(String),
}

/// What a proxy guarantees for one script. Compared with [`Record`], it leaves open what a race
/// decides even with a perfect proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) up: Bytes,
    pub(crate) down: Bytes,
    pub(crate) client: Verdict,
    pub(crate) backend: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bytes {
    Exactly(u64),
    /// A true prefix: a reset races with bytes and may destroy them.
    AtMost(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Exactly(Ending),
    /// End or broken. AF_UNIX cannot tell a client that the backend reset the connection, unless
    /// bytes of the client's own happen to be unread at that moment.
    Over,
}

impl Bytes {
    fn of(count: u64, expected: Self) -> Self {
        match expected {
            Self::AtMost(most) if count <= most => expected,
            Self::AtMost(_) | Self::Exactly(_) => Self::Exactly(count),
        }
    }
}

impl Verdict {
    fn of(ending: &Ending, expected: &Self) -> Self {
        match (expected, ending) {
            (Self::Over, Ending::End | Ending::Broken) => Self::Over,
            _ => Self::Exactly(ending.clone()),
        }
    }
}

impl Outcome {
    /// `record` without what `expected` leaves open.
    fn of(record: &Record, expected: &Self) -> Self {
        Self {
            up: Bytes::of(record.up, expected.up),
            down: Bytes::of(record.down, expected.down),
            client: Verdict::of(&record.client, &expected.client),
            backend: Verdict::of(&record.backend, &expected.backend),
        }
    }
}

/// Compares both engines with each other and with what is right.
pub(crate) fn judge(expected: &Outcome, io_uring: &Record, epoll: &Record) -> Result<(), String> {
    let seen = [io_uring, epoll].map(|record| Outcome::of(record, expected));
    if seen.iter().all(|outcome| outcome == expected) {
        return Ok(());
    }
    let what = if seen[0] == seen[1] {
        "both engines go wrong in the same way"
    } else {
        "the engines differ"
    };
    Err(format!(
        "{what}\nexpected: {expected:?}\nio_uring: {io_uring:?}\nepoll:    {epoll:?}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strict() -> Outcome {
        Outcome {
            up: Bytes::Exactly(10),
            down: Bytes::Exactly(20),
            client: Verdict::Exactly(Ending::End),
            backend: Verdict::Exactly(Ending::Left),
        }
    }

    fn right() -> Record {
        Record {
            up: 10,
            down: 20,
            client: Ending::End,
            backend: Ending::Left,
        }
    }

    #[test]
    fn what_was_expected_on_both_passes() {
        assert_eq!(judge(&strict(), &right(), &right()), Ok(()));
    }

    #[test]
    fn each_deviation_of_either_engine_is_found() {
        let wrong = [
            Record { up: 9, ..right() },
            Record { up: 11, ..right() },
            Record { down: 0, ..right() },
            Record {
                client: Ending::Broken,
                ..right()
            },
            Record {
                backend: Ending::End,
                ..right()
            },
            Record {
                client: Ending::Wrong("a wrong byte".into()),
                ..right()
            },
        ];
        for wrong in wrong {
            let found = judge(&strict(), &wrong, &right()).unwrap_err();
            assert!(found.starts_with("the engines differ"), "{found}");
            let found = judge(&strict(), &right(), &wrong).unwrap_err();
            assert!(found.starts_with("the engines differ"), "{found}");
            let found = judge(&strict(), &wrong, &wrong).unwrap_err();
            assert!(found.starts_with("both engines go wrong"), "{found}");
        }
    }

    #[test]
    fn a_race_may_destroy_bytes_but_not_make_some() {
        let expected = Outcome {
            down: Bytes::AtMost(20),
            ..strict()
        };
        let nothing = Record { down: 0, ..right() };
        let more = Record {
            down: 21,
            ..right()
        };
        assert_eq!(judge(&expected, &right(), &nothing), Ok(()));
        assert!(judge(&expected, &right(), &more).is_err());
    }

    #[test]
    fn a_client_may_hear_of_a_reset_or_not_but_must_hear_of_the_end() {
        let expected = Outcome {
            client: Verdict::Over,
            ..strict()
        };
        let broken = Record {
            client: Ending::Broken,
            ..right()
        };
        let never = Record {
            client: Ending::Wrong("no end".into()),
            ..right()
        };
        assert_eq!(judge(&expected, &right(), &broken), Ok(()));
        assert!(judge(&expected, &right(), &never).is_err());
    }
}
