//! Which requests are measured, and how many at one time.

use serde::{Deserialize, Serialize};
use spliceway_load::load::{Connections, Request};
use std::time::Duration;

/// Decimal, as bulk figures are reported.
const MB: u64 = 1_000_000;

/// What a request and its answer carry, besides their records' headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Exchange {
    /// For identifiers.
    pub(super) key: Key,
    /// Encoded parameters.
    pub(super) params_bytes: u64,
    /// STDIN.
    pub(super) body_bytes: u64,
    /// STDOUT.
    pub(super) response_bytes: u64,
}

/// The kinds of exchange: seven of the matrix, and two of the FastCGI mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Key {
    #[serde(rename = "4k")]
    Small,
    #[serde(rename = "10k")]
    Page10,
    #[serde(rename = "50k")]
    Page50,
    #[serde(rename = "64k")]
    Page,
    #[serde(rename = "256k")]
    Image,
    #[serde(rename = "16m")]
    Bulk,
    Upload,
    #[serde(rename = "1m")]
    Download,
    #[serde(rename = "40p")]
    Browser,
}

/// What a request of nginx to PHP-FPM carries in parameters, about.
const PARAMS_BYTES: u64 = 600;

/// What it carries with [`BROWSER_PARAMS`], a cookie, and the seven that the responder needs.
const BROWSER_PARAMS_BYTES: u64 = 1_600;

/// What nginx adds with Debian's `fastcgi_params` for a browser's request. With those that every
/// request of the load generator has, these are forty.
const BROWSER_PARAMS: [(&str, &str); 33] = [
    ("QUERY_STRING", "page=3&order=name"),
    ("CONTENT_TYPE", ""),
    ("SCRIPT_NAME", "/index.php"),
    ("REQUEST_URI", "/index.php?page=3&order=name"),
    ("DOCUMENT_URI", "/index.php"),
    ("DOCUMENT_ROOT", "/srv/bench"),
    ("SERVER_PROTOCOL", "HTTP/2.0"),
    ("REQUEST_SCHEME", "https"),
    ("GATEWAY_INTERFACE", "CGI/1.1"),
    ("SERVER_SOFTWARE", "nginx/1.22.1"),
    ("REMOTE_ADDR", "192.0.2.10"),
    ("REMOTE_PORT", "40000"),
    ("REMOTE_USER", ""),
    ("SERVER_ADDR", "192.0.2.1"),
    ("SERVER_PORT", "443"),
    ("SERVER_NAME", "www.example.org"),
    ("REDIRECT_STATUS", "200"),
    ("HTTP_HOST", "www.example.org"),
    (
        "HTTP_USER_AGENT",
        "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    ),
    (
        "HTTP_ACCEPT",
        "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    ),
    ("HTTP_ACCEPT_LANGUAGE", "en-GB,en;q=0.5"),
    ("HTTP_ACCEPT_ENCODING", "gzip, deflate, br"),
    (
        "HTTP_REFERER",
        "https://www.example.org/index.php?page=2&order=name",
    ),
    ("HTTP_CONNECTION", "keep-alive"),
    ("HTTP_CACHE_CONTROL", "no-cache"),
    ("HTTP_PRAGMA", "no-cache"),
    ("HTTP_DNT", "1"),
    ("HTTP_UPGRADE_INSECURE_REQUESTS", "1"),
    ("HTTP_SEC_FETCH_DEST", "document"),
    ("HTTP_SEC_FETCH_MODE", "navigate"),
    ("HTTP_SEC_FETCH_SITE", "same-origin"),
    ("HTTP_SEC_FETCH_USER", "?1"),
    ("HTTP_PRIORITY", "u=0, i"),
];

impl Key {
    /// Sizes that pages have: PHP-FPM makes several writes of each.
    pub(super) const PAGES: [Self; 2] = [Self::Page10, Self::Page50];

    /// Those of the matrix with every number of clients.
    pub(super) const ALL: [Self; 5] = [
        Self::Small,
        Self::Page,
        Self::Image,
        Self::Bulk,
        Self::Upload,
    ];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Small => "4k",
            Self::Page10 => "10k",
            Self::Page50 => "50k",
            Self::Page => "64k",
            Self::Image => "256k",
            Self::Bulk => "16m",
            Self::Upload => "upload",
            Self::Download => "1m",
            Self::Browser => "40p",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Small => "600 B → 4 KB",
            Self::Page10 => "600 B → 10 KB",
            Self::Page50 => "600 B → 50 KB",
            Self::Page => "600 B → 64 KB",
            Self::Image => "600 B → 256 KB",
            Self::Bulk => "600 B → 16 MB",
            Self::Upload => "5 MB → 1 KB",
            Self::Download => "600 B → 1 MB",
            Self::Browser => "40 parameters, 1.6 KB → 4 KB",
        }
    }

    /// How large the answer is.
    pub(super) fn response(self) -> &'static str {
        self.title().rsplit("→ ").next().unwrap_or_default()
    }

    pub(super) fn exchange(self) -> Exchange {
        let (body_bytes, response_bytes) = match self {
            Self::Small | Self::Browser => (0, 4 << 10),
            Self::Page10 => (0, 10 << 10),
            Self::Page50 => (0, 50 << 10),
            Self::Page => (0, 64 << 10),
            Self::Image => (0, 256 << 10),
            Self::Bulk => (0, 16 << 20),
            Self::Upload => (5 * MB, 1 << 10),
            Self::Download => (0, 1 << 20),
        };
        let params_bytes = match self {
            Self::Browser => BROWSER_PARAMS_BYTES,
            _ => PARAMS_BYTES,
        };
        Exchange {
            key: self,
            params_bytes,
            body_bytes,
            response_bytes,
        }
    }
}

impl Exchange {
    /// The bytes that a relay moves for it, records' headers not counted.
    pub(super) fn bytes(&self) -> u64 {
        self.params_bytes + self.body_bytes + self.response_bytes
    }

    /// Whether its cost is that of its bytes: CPU is then told per GB.
    pub(super) fn is_bulk(&self) -> bool {
        self.bytes() >= MB
    }

    pub(super) fn request(&self) -> Request {
        let params = match self.key {
            Key::Browser => &BROWSER_PARAMS[..],
            _ => &[],
        };
        let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        Request::Synthetic {
            params_bytes: usize::try_from(self.params_bytes).expect("at most 1,600"),
            params: params.iter().map(owned).collect(),
            body_bytes: self.body_bytes,
            response_bytes: self.response_bytes,
            delay: Duration::ZERO,
        }
    }
}

/// New or kept connections, in results.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Carry {
    New,
    Kept,
}

impl Carry {
    pub(super) const ALL: [Self; 2] = [Self::New, Self::Kept];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Kept => "kept",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::New => "new connection per request",
            Self::Kept => "kept connections",
        }
    }
}

impl From<Carry> for Connections {
    fn from(carry: Carry) -> Self {
        match carry {
            Carry::New => Self::New,
            Carry::Kept => Self::Kept,
        }
    }
}

/// One field of the matrix.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Cell {
    pub(super) carry: Carry,
    pub(super) exchange: Exchange,
    pub(super) concurrency: usize,
}

impl Cell {
    pub(super) fn new(carry: Carry, key: Key, concurrency: usize) -> Self {
        Self {
            carry,
            exchange: key.exchange(),
            concurrency,
        }
    }

    /// What `--only` knows it by.
    pub(super) fn id(&self) -> String {
        let (carry, key) = (self.carry.word(), self.exchange.key.word());
        format!("{carry}-{key}-{}", self.concurrency)
    }

    /// For the head of a column.
    pub(super) fn short(&self) -> String {
        let carry = self.carry.word();
        let response = self.exchange.key.response();
        format!("{response} {carry} × {}", self.concurrency)
    }

    pub(super) fn title(&self) -> String {
        let (exchange, carry) = (self.exchange.key.title(), self.carry.title());
        format!("{exchange}, {carry}, {} at a time", self.concurrency)
    }
}

/// The cells that the targets speak of, and the first that a reader looks for.
pub(super) fn targets() -> Vec<Cell> {
    vec![
        Cell::new(Carry::New, Key::Small, 16),
        Cell::new(Carry::New, Key::Small, 1),
        Cell::new(Carry::Kept, Key::Small, 16),
        Cell::new(Carry::Kept, Key::Small, 1),
        Cell::new(Carry::New, Key::Image, 8),
        Cell::new(Carry::New, Key::Bulk, 4),
    ]
}

/// Every cell: those of the targets first.
pub(super) fn all() -> Vec<Cell> {
    const CONCURRENCIES: [usize; 3] = [1, 16, 256];
    let mut cells = targets();
    for carry in Carry::ALL {
        cells.extend(Key::PAGES.map(|key| Cell::new(carry, key, 16)));
        for key in Key::ALL {
            for concurrency in CONCURRENCIES {
                let cell = Cell::new(carry, key, concurrency);
                if !cells.contains(&cell) {
                    cells.push(cell);
                }
            }
        }
    }
    cells
}

/// Those that are run again with every program at its default number of threads.
pub(super) fn at_defaults() -> Vec<Cell> {
    vec![
        Cell::new(Carry::New, Key::Small, 16),
        Cell::new(Carry::Kept, Key::Small, 16),
        Cell::new(Carry::New, Key::Page10, 16),
        Cell::new(Carry::New, Key::Page50, 16),
        Cell::new(Carry::New, Key::Bulk, 4),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_is_there_once() {
        let cells = all();
        assert_eq!(cells.len(), 2 * 5 * 3 + 2 * 2 + 2);
        let mut ids: Vec<String> = cells.iter().map(Cell::id).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), cells.len());
    }

    #[test]
    fn cells_have_short_names() {
        assert_eq!(Cell::new(Carry::New, Key::Small, 16).id(), "new-4k-16");
        assert_eq!(Cell::new(Carry::Kept, Key::Upload, 1).id(), "kept-upload-1");
    }

    #[test]
    fn megabytes_are_bulk_and_pages_are_not() {
        let bulk = |key: Key| key.exchange().is_bulk();
        assert!(bulk(Key::Bulk) && bulk(Key::Upload));
        assert!(!bulk(Key::Image) && !bulk(Key::Small));
    }
}
