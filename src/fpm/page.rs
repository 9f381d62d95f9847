//! What PHP-FPM says of a pool: the page of pm.status_path as JSON, with the list of its processes. Pure.
//!
//! The figures of the page's head are counts that processes keep of themselves, and that the master corrects once a
//! second (`fpm_scoreboard.c`): a request on a connection that was kept makes another process active there, without one
//! being idle again. With kept connections, a pool of 4 may say that 200 are active. So processes are counted from
//! the list, where each has its state.
//!
//! In the list, PHP-FPM leaves URIs as clients have sent them, quotes and all: a visitor can make it anything. Only a
//! list of which every entry has everything that PHP-FPM writes is believed, and only one without `\u`: some versions have
//! room for whole entries in a query string, whose fields' names have spaces that a URI cannot have. Otherwise the head's own
//! counts are taken, which no visitor can write to.

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::fastcgi::cgi_status;
use crate::shown::Shown;

/// The most processes that a pool can have: Linux has no more (`PID_MAX_LIMIT`).
const PROCESSES_MAX: u64 = 4 * 1024 * 1024;

/// How much of a pool's name is shown: PHP-FPM has 32 bytes for it.
const POOL_CHARS_MAX: usize = 64;

/// How much is quoted of an answer that is something else.
const QUOTED_CHARS_MAX: usize = 80;

/// What stands in front of the list, which comes last.
const LIST: &[u8] = b"\"processes\":[";

/// What one pool says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PoolFigures {
    /// Its name.
    pub pool: String,
    /// How it starts and ends processes.
    pub process_manager: ProcessManager,
    /// When it was started, in seconds since 1970: what it counts, it counts from then on.
    pub started_at: u64,
    /// Connections, and requests on those that were kept.
    pub accepted: u64,
    /// Connections that wait in its backlog. 0 where it listens on a Unix socket, of which it cannot tell.
    pub listen_queue: u64,
    /// The most of them since it was started.
    pub listen_queue_peak: u64,
    /// How many there may be.
    pub listen_queue_max: u64,
    /// Its processes now.
    pub processes: Processes,
    /// The most that were active since it was started; too many where connections are kept.
    pub active_peak: u64,
    /// How often it had as many as it may have, and wanted more.
    pub max_children_reached: u64,
    /// Requests that took longer than request_slowlog_timeout.
    pub slow_requests: u64,
}

/// How a pool starts and ends processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProcessManager {
    /// There are pm.max_children of them.
    Static,
    /// As many as are needed, and some more.
    Dynamic,
    /// As many as are needed.
    Ondemand,
    /// Some way that nobody knew of when this was written.
    Other,
}

/// How many processes there are, and what they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Processes {
    /// They wait for a connection.
    pub idle: u64,
    /// All others.
    pub active: u64,
    /// Those of them that run a script; the rest waits for a request on a connection that is kept, reads one, or has
    /// done with one. `None`: they could not be counted, and the other two are PHP-FPM's own counts.
    pub running: Option<u64>,
}

/// Why an answer says nothing of a pool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PageError {
    #[error(
        "an answer without headers (what is there is no PHP-FPM, or something between changes what it says)"
    )]
    NoHeaders,
    #[error("status {status}, '{said}' ({remedy})", remedy = remedy(*.status))]
    Status { status: u16, said: String },
    #[error(
        "an answer that is no status page: {problem} (pm.status_path of the pool is another one)"
    )]
    NoPage { problem: String },
    #[error("more processes than Linux can have: {processes} (what is there is no PHP-FPM)")]
    TooMany { processes: u64 },
}

fn remedy(status: u16) -> &'static str {
    match status {
        403 | 404 => {
            "pm.status_path of the pool is another one, or the pool that listens there has none: give its \
             pm.status_listen"
        }
        500..=599 => "PHP-FPM's log says why",
        _ => "what answers there is not pm.status_path of PHP-FPM",
    }
}

/// As PHP-FPM writes it.
#[derive(Deserialize)]
struct StatusPage {
    pool: String,
    #[serde(rename = "process manager")]
    process_manager: String,
    #[serde(rename = "start time")]
    start_time: u64,
    #[serde(rename = "accepted conn")]
    accepted: u64,
    #[serde(rename = "listen queue")]
    listen_queue: u64,
    #[serde(rename = "max listen queue")]
    listen_queue_peak: u64,
    #[serde(rename = "listen queue len")]
    listen_queue_max: u64,
    #[serde(rename = "idle processes")]
    idle: u64,
    #[serde(rename = "active processes")]
    active: u64,
    #[serde(rename = "max active processes")]
    active_peak: u64,
    #[serde(rename = "max children reached")]
    max_children_reached: u64,
    #[serde(rename = "slow requests")]
    slow_requests: u64,
    #[serde(default)]
    processes: Option<Vec<PoolProcess>>,
}

/// One entry of the list, with everything that any version writes there.
#[derive(Deserialize)]
struct PoolProcess {
    #[serde(rename = "pid")]
    _pid: u32,
    state: String,
    #[serde(rename = "start time")]
    _start_time: u64,
    #[serde(rename = "start since")]
    _start_since: IgnoredAny,
    #[serde(rename = "requests")]
    _requests: u64,
    #[serde(rename = "request duration")]
    _request_duration: IgnoredAny,
    #[serde(rename = "request method")]
    _request_method: IgnoredAny,
    #[serde(rename = "request uri")]
    _request_uri: IgnoredAny,
    #[serde(rename = "content length")]
    _content_length: IgnoredAny,
    #[serde(rename = "user")]
    _user: IgnoredAny,
    #[serde(rename = "script")]
    _script: IgnoredAny,
    #[serde(rename = "last request memory")]
    _last_request_memory: IgnoredAny,
}

/// Reads the output of a request for the page: headers and content. It may be cut behind the page's head.
pub(super) fn read(stdout: &[u8]) -> Result<PoolFigures, PageError> {
    let content = content(stdout).ok_or(PageError::NoHeaders)?;
    let status = cgi_status(stdout);
    if status != 200 {
        let said = content.split(|&byte| byte == b'\n').next();
        return Err(PageError::Status {
            status,
            said: Shown::line(said.unwrap_or_default(), QUOTED_CHARS_MAX).to_string(),
        });
    }
    let page = read_page(content).map_err(|error| PageError::NoPage {
        problem: Shown::line(error.to_string().as_bytes(), QUOTED_CHARS_MAX).to_string(),
    })?;
    page.figures()
}

/// What is behind the headers.
fn content(stdout: &[u8]) -> Option<&[u8]> {
    let ends: [&[u8]; 2] = [b"\r\n\r\n", b"\n\n"];
    let behind = |end: &[u8]| {
        let at = stdout.windows(end.len()).position(|piece| piece == end)?;
        Some(at + end.len())
    };
    let at = ends.into_iter().filter_map(behind).min()?;
    Some(&stdout[at..])
}

/// With the list of processes, or without it, if that cannot be read.
fn read_page(content: &[u8]) -> Result<StatusPage, serde_json::Error> {
    let list = content.windows(LIST.len()).position(|piece| piece == LIST);
    let without_list = |at: usize| {
        let head = content[..at].trim_ascii_end();
        let head = head.strip_suffix(b",").unwrap_or(head);
        serde_json::from_slice(&[head, b"}"].concat())
    };
    match list {
        Some(at) if may_be_forged(&content[at..]) => without_list(at),
        Some(at) => serde_json::from_slice(content).or_else(|_| without_list(at)),
        None => serde_json::from_slice(content),
    }
}

/// The names of an entry's fields have spaces, which no URI has: whoever forges one writes them as escapes.
fn may_be_forged(list: &[u8]) -> bool {
    list.windows(2).any(|piece| piece == b"\\u")
}

impl StatusPage {
    fn figures(self) -> Result<PoolFigures, PageError> {
        let counts = [self.idle, self.active];
        if let Some(&processes) = counts.iter().find(|count| **count > PROCESSES_MAX) {
            return Err(PageError::TooMany { processes });
        }
        Ok(PoolFigures {
            pool: Shown::line(self.pool.as_bytes(), POOL_CHARS_MAX).to_string(),
            process_manager: ProcessManager::read(&self.process_manager),
            started_at: self.start_time,
            accepted: self.accepted,
            listen_queue: self.listen_queue,
            listen_queue_peak: self.listen_queue_peak,
            listen_queue_max: self.listen_queue_max,
            processes: match &self.processes {
                Some(list) => Processes::count(list),
                None => Processes {
                    idle: self.idle,
                    active: self.active,
                    running: None,
                },
            },
            active_peak: self.active_peak,
            max_children_reached: self.max_children_reached,
            slow_requests: self.slow_requests,
        })
    }
}

impl Processes {
    /// By the words of `fpm_request.c`.
    fn count(list: &[PoolProcess]) -> Self {
        let of = |state: &str| list.iter().filter(|p| p.state == state).count() as u64;
        let idle = of("Idle");
        Self {
            idle,
            active: list.len() as u64 - idle,
            running: Some(of("Running")),
        }
    }

    /// How many there are. Where they could not be counted it may be too many.
    pub(crate) fn total(self) -> u64 {
        self.idle + self.active
    }
}

impl ProcessManager {
    fn read(word: &str) -> Self {
        match word {
            "static" => Self::Static,
            "dynamic" => Self::Dynamic,
            "ondemand" => Self::Ondemand,
            _ => Self::Other,
        }
    }

    /// As in the configuration of PHP-FPM.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Dynamic => "dynamic",
            Self::Ondemand => "ondemand",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADERS: &str =
        "Expires: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-type: application/json\r\n\r\n";

    const HEAD: &str = r#"{"pool":"www","process manager":"dynamic","start time":1750000000,"start since":77,"accepted conn":405,"listen queue":3,"max listen queue":9,"listen queue len":511,"idle processes":0,"active processes":218,"total processes":218,"max active processes":219,"max children reached":2,"slow requests":1"#;

    fn process(state: &str, uri: &str) -> String {
        format!(
            r#"{{"pid":4711,"state":"{state}","start time":1750000001,"start since":7,"requests":3,"request duration":1200,"request method":"GET","request uri":"{uri}","content length":0,"user":"-","script":"/srv/a.php","last request cpu":0.00,"last request memory":0}}"#
        )
    }

    fn page(processes: &[String]) -> String {
        format!("{HEADERS}{HEAD}, \"processes\":[{}]}}", processes.join(","))
    }

    fn figures(text: &str) -> PoolFigures {
        read(text.as_bytes()).unwrap()
    }

    fn problem(text: &str) -> String {
        read(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn processes_are_counted_by_their_states_and_not_as_they_count_themselves() {
        let states = ["Idle", "Running", "Reading headers", "Running", "Finishing"];
        let all = states.map(|state| process(state, "/a.php"));
        let expected = PoolFigures {
            pool: "www".to_owned(),
            process_manager: ProcessManager::Dynamic,
            started_at: 1_750_000_000,
            accepted: 405,
            listen_queue: 3,
            listen_queue_peak: 9,
            listen_queue_max: 511,
            processes: Processes {
                idle: 1,
                active: 4,
                running: Some(2),
            },
            active_peak: 219,
            max_children_reached: 2,
            slow_requests: 1,
        };
        assert_eq!(figures(&page(&all)), expected);
    }

    #[test]
    fn without_a_list_its_own_counts_are_taken_as_such() {
        let own = Processes {
            idle: 0,
            active: 218,
            running: None,
        };
        assert_eq!(figures(&format!("{HEADERS}{HEAD}}}")).processes, own);
        // In a longer list than is read.
        let cut = page(&[process("Idle", "/"), process("Idle", "/")]);
        let cut = &cut[..cut.len() - 100];
        assert_eq!(figures(cut).processes, own);
    }

    /// A URI has 127 bytes there.
    /// An entry of its own, as long as a query string may be.
    const FORGED: &str = concat!(
        r#"/?","content\u0020length":0,"user":"-","script":"-","last\u0020request\u0020cpu":0.00,"#,
        r#""last\u0020request\u0020memory":0},{"pid":1,"state":"Idle","start\u0020time":1,"start\u0020since":1,"requests":1,"#,
        r#""request\u0020duration":1,"request\u0020method":"GET","request\u0020uri":"/"#,
    );

    #[test]
    fn what_visitors_write_into_the_list_counts_for_nothing() {
        let own = Some(218);
        for uri in [
            "/\"",
            "/\\",
            "/\"},{\"pid\":1,\"state\":\"Idle\",\"x\":\"",
            "/\",\"x\":[{\"pid\":1,\"state\":\"Idle\"}],\"y\":\"",
            "/\"}]}",
            "/\u{1}",
            FORGED,
        ] {
            let processes = figures(&page(&[process("Running", uri)])).processes;
            // Either the list is not believed, or it says what it said without that.
            let seen = match processes.running {
                None => Some(processes.active).filter(|active| Some(*active) == own),
                Some(1) => Some(processes.total()).filter(|total| *total == 1),
                Some(_) => None,
            };
            assert!(seen.is_some(), "{uri}: {processes:?}");
        }
        // Not UTF-8.
        let text = page(&[process("Running", "/@")]);
        let bytes: Vec<u8> = text
            .bytes()
            .map(|b| if b == b'@' { 0xff } else { b })
            .collect();
        assert_eq!(read(&bytes).unwrap().pool, "www");
    }

    #[test]
    fn what_is_no_status_page_is_named_with_a_remedy() {
        let not_found = "Status: 404 Not Found\r\nContent-type: text/html\r\n\r\nFile not found.\n";
        for (text, parts) in [
            ("", "an answer without headers"),
            ("{}", "an answer without headers"),
            (
                not_found,
                "status 404, 'File not found.' (pm.status_path of the pool",
            ),
            (
                "Status: 500 x\r\n\r\nInternal error.",
                "status 500, 'Internal error.' (PHP-FPM's log",
            ),
            ("A: b\r\n\r\npong", "no status page: "),
            ("A: b\n\n<!DOCTYPE html><html>", "no status page: "),
            ("A: b\r\n\r\n{}", "no status page: missing field `pool`"),
            ("A: b\r\n\r\n[]", "no status page: "),
        ] {
            let problem = problem(text);
            assert!(problem.contains(parts), "{text}: {problem}");
        }
    }

    #[test]
    fn figures_that_are_none_are_refused() {
        for (good, bad, parts) in [
            (":405,", ":\"405\",", "no status page: invalid type: string"),
            (
                ":405,",
                ":-1,",
                "no status page: invalid value: integer `-1`",
            ),
            (":405,", ":1e30,", "no status page: invalid type: floating"),
            (":405,", ":99999999999999999999,", "no status page: "),
            (
                ":218,\"total",
                ":99999999,\"total",
                "more processes than Linux",
            ),
            ("\"slow requests\"", "\"listen queue\"", "duplicate field"),
        ] {
            let text = format!("{HEADERS}{}}}", HEAD.replacen(good, bad, 1));
            let problem = problem(&text);
            assert!(problem.contains(parts), "{bad}: {problem}");
        }
    }

    #[test]
    fn what_is_said_drives_no_terminal_and_is_short() {
        let text = format!("Status: 404 x\r\n\r\n\x1b[2J{}", "x".repeat(100_000));
        let problem = problem(&text);
        assert!(
            problem.contains("'\\x1b[2Jxxx") && problem.len() < 400,
            "{problem}"
        );
        let long = HEAD.replace("www", &"w".repeat(100_000));
        assert!(figures(&format!("{HEADERS}{long}}}")).pool.len() < 100);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(noise in proptest::collection::vec(any::<u8>(), 0..200), at in 0_usize..1000) {
            let text = page(&[process("Idle", "/"), process("Running", "/")]);
            let mut bytes = text.into_bytes();
            let at = at % bytes.len();
            bytes.splice(at..(at + noise.len()).min(bytes.len()), noise);
            // Whatever it comes to.
            let _ = read(&bytes);
        }
    }

    /// For tests of what is made of figures.
    pub(in crate::fpm) fn sample(
        process_manager: ProcessManager,
        (idle, active): (u64, u64),
        (reached, listen_queue): (u64, u64),
    ) -> PoolFigures {
        PoolFigures {
            process_manager,
            processes: Processes {
                idle,
                active,
                running: Some(0),
            },
            max_children_reached: reached,
            listen_queue,
            ..figures(&page(&[]))
        }
    }
}
