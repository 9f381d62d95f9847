//! Why cells of the matrix are not simply right. What is measured to be wrong and has no note here fails.

use crate::cases::Case;
use crate::fronts::Front;
use crate::rows::{Cell, Pair};
use crate::servers::Server;

/// What a note explains.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// The server or the web server does the same without a proxy.
    AsDirect,
    /// The same, in some runs and not in others.
    NowAndThen,
}

pub(crate) struct Note {
    pub(crate) claim: Claim,
    about: fn(Pair, Case) -> bool,
    pub(crate) text: &'static str,
}

impl Note {
    fn explains(&self, pair: Pair, case: Case, cell: &Cell) -> bool {
        let fits = match (self.claim, cell) {
            (_, Cell::AsDirect(_)) | (Claim::NowAndThen, Cell::Right) => true,
            (_, Cell::Right | Cell::Differs(_) | Cell::Absent) => false,
        };
        fits && (self.about)(pair, case)
    }
}

/// The number of the note that explains this cell, if it needs one and there is one.
pub(crate) fn explanation(pair: Pair, case: Case, cell: &Cell) -> Option<usize> {
    NOTES
        .iter()
        .position(|note| note.explains(pair, case, cell))
}

pub(crate) const NOTES: &[Note] = &[
    Note {
        claim: Claim::AsDirect,
        about: |pair, case| case == Case::Chunked && reads_what_was_announced(pair.server),
        text: "PHP and uwsgi read as much of a body as CONTENT_LENGTH says. Where the web server passes \
               an upload on while it comes, there is none, and the program finds an empty body. \
               nginx announces the length with `fastcgi_request_buffering on`, its default.",
    },
    Note {
        claim: Claim::AsDirect,
        about: |pair, case| case == Case::Chunked && is_haproxy(pair.front),
        text: "HAProxy answers 400 to an upload of unknown length that does not fit into its buffer.",
    },
    Note {
        claim: Claim::AsDirect,
        about: |pair, case| case == Case::Killed && pair.front == Front::Caddy,
        text: "Caddy 2.6 ends what it has begun to send as if it were whole, whatever becomes of the \
               answer behind it. Later versions break it off.",
    },
    Note {
        claim: Claim::AsDirect,
        about: |pair, case| case == Case::Early && pair.server == Server::Fcgiwrap,
        text: "fcgiwrap takes it for an error when the program does not read its body, and answers 502.",
    },
    Note {
        claim: Claim::AsDirect,
        about: |pair, case| case == Case::Killed && pair.server == Server::Fcgiwrap,
        text: "What dies is a program that fcgiwrap has started. fcgiwrap lives, and ends the answer as \
               if it were whole.",
    },
    Note {
        claim: Claim::AsDirect,
        about: |pair, case| case == Case::Stream && pair.server == Server::Ruby,
        text: "The library collects an answer and sends it at its end.",
    },
];

const fn reads_what_was_announced(server: Server) -> bool {
    server.is_fpm() || matches!(server, Server::PhpCgi | Server::Uwsgi)
}

const fn is_haproxy(front: Front) -> bool {
    matches!(front, Front::Haproxy { .. })
}
