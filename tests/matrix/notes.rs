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
    /// The proxy makes a difference, for a good reason.
    Differs,
}

pub(crate) struct Note {
    pub(crate) claim: Claim,
    /// In every run, directly and through the proxy. Otherwise it comes and goes on either way, and the
    /// documentation says so whatever this run has met.
    pub(crate) always: bool,
    about: fn(Pair, Case) -> bool,
    /// What the failure says.
    words: &'static str,
    pub(crate) text: &'static str,
}

impl Note {
    fn explains(&self, pair: Pair, case: Case, cell: &Cell) -> bool {
        let fits = match cell {
            Cell::AsDirect(words) => {
                let claims = self.claim == Claim::AsDirect || !self.always;
                claims && words.contains(self.words)
            }
            Cell::Differs(words) => {
                let claims = self.claim == Claim::Differs || !self.always;
                claims && words.contains(self.words)
            }
            Cell::Right => !self.always,
            Cell::Absent => false,
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
        claim: Claim::Differs,
        always: false,
        about: |pair, case| {
            let is_about_bodies = matches!(case, Case::Chunked | Case::Early);
            let is_nginx = matches!(pair.front, Front::Nginx { .. });
            is_about_bodies && is_nginx && pair.server == Server::Uwsgi
        },
        words: "",
        text: "nginx sends no more of a body once the answer has begun, and uwsgi ends an answer only when \
               it has read the whole body. After 4 s (`--socket-timeout`) uwsgi closes without having ended \
               it. nginx without `fastcgi_keep_conn` takes that for the answer's end; through spliceway it is \
               an answer that broke off. Applications behind uwsgi have to read what they get.",
    },
    Note {
        claim: Claim::AsDirect,
        always: true,
        about: |pair, case| case == Case::Chunked && reads_what_was_announced(pair.server),
        words: "an empty body",
        text: "PHP and uwsgi read as much of a body as CONTENT_LENGTH says. Where the web server passes an \
               upload on while it comes, there is none, and the program finds an empty body. nginx announces \
               the length with `fastcgi_request_buffering on`, its default.",
    },
    Note {
        claim: Claim::Differs,
        always: true,
        about: |pair, case| case == Case::Chunked && pair.front == Front::Caddy,
        words: "an empty body, directly no answer",
        text: "For an upload of unknown length Caddy 2.6 sends a CONTENT_LENGTH of -1, and PHP waits for ever for \
               what is missing (but where the upload is a multiple of 16 KiB). spliceway leaves that length out: \
               PHP finds an empty body, and no worker is held.",
    },
    Note {
        claim: Claim::AsDirect,
        always: true,
        about: |pair, case| case == Case::Chunked && matches!(pair.front, Front::Haproxy { .. }),
        words: "status 400",
        text: "HAProxy answers 400 to an upload of unknown length that does not fit into its buffer.",
    },
    Note {
        claim: Claim::AsDirect,
        always: true,
        about: |pair, case| case == Case::Killed && pair.front == Front::Caddy,
        words: "a part looks whole",
        text: "Caddy 2.6 ends what it has begun to send as if it were whole, whatever becomes of the answer \
               behind it. Later versions break it off. With Content-Length, browsers notice.",
    },
    Note {
        claim: Claim::AsDirect,
        always: true,
        about: |pair, case| {
            case == Case::Killed && pair.front == Front::Lighttpd { streams: false }
        },
        words: "a part looks whole",
        text: "lighttpd 1.4.69 sends what it has of a broken answer as if that were all, whatever becomes of \
               the connection behind it. With Content-Length, browsers notice.",
    },
    Note {
        claim: Claim::AsDirect,
        always: false,
        about: |pair, case| case == Case::Killed && pair.front == Front::Lighttpd { streams: true },
        words: "a part looks whole",
        text: "lighttpd 1.4.69 sends what it has of a broken answer as if that were all when the connection \
               behind it ends before it has passed anything on.",
    },
    Note {
        claim: Claim::AsDirect,
        always: true,
        about: |pair, case| {
            case == Case::Stream && pair.front == Front::Lighttpd { streams: false }
        },
        words: "pieces are held",
        text: "lighttpd collects an answer unless `server.stream-response-body` is 1 or 2.",
    },
    Note {
        claim: Claim::AsDirect,
        always: true,
        about: |pair, case| case == Case::Early && pair.server == Server::Fcgiwrap,
        words: "status 502",
        text: "fcgiwrap takes it for an error when the program does not read its body, and answers 502.",
    },
    Note {
        claim: Claim::AsDirect,
        always: true,
        about: |pair, case| case == Case::Killed && pair.server == Server::Fcgiwrap,
        words: "a part looks whole",
        text: "What dies is a program that fcgiwrap has started. fcgiwrap lives, and ends the answer as if it \
               were whole.",
    },
    Note {
        claim: Claim::Differs,
        always: false,
        about: |pair, case| case == Case::Reload && pair.server.is_fpm(),
        words: "a worker takes a request with it",
        text: "A worker of PHP-FPM that is told to end, and hears of it after it has answered the fence and before \
               it reads on, closes the connection, and a request that is on its way there gets a 502: nobody can \
               tell whether it was read, so it is not sent again. On a busy machine that was about one of a \
               hundred reloads. Whoever else keeps connections to PHP-FPM is in the same place.",
    },
    Note {
        claim: Claim::AsDirect,
        always: true,
        about: |pair, case| case == Case::Stream && pair.server == Server::Ruby,
        words: "pieces are held",
        text: "The library collects an answer and sends it at its end.",
    },
];

const fn reads_what_was_announced(server: Server) -> bool {
    server.is_fpm() || matches!(server, Server::PhpCgi | Server::Uwsgi)
}
