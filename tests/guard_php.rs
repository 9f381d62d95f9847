//! What the guard is there for: each attack is sent to a real PHP-FPM, which does what the attacker
//! wants, and the same bytes are given to the guard, which refuses them.

// What the tests share is not itself `#[test]`.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use common::process::Process;
use common::programs::{fresh_endpoint, start_fpm_with};
use common::proxy::fresh_dir;
use common::uninterrupted;
use common::{GUARD, eventually};
use spliceway::fastcgi::{
    BeginRequest, Capacity, FENCE, Guard, GuardOptions, HEADER_LEN, Header, Kind, Pass,
    RequestEvent, RequestId, RequestLimits, RequestReader, ResponseEvent, ResponseReader, Role,
    Rule, Settled, Settling, Verdict, Violation, push_pair, push_record, push_stream,
    push_stream_end,
};
use tempfile::TempDir;

const REQUEST: RequestId = RequestId::application(std::num::NonZeroU16::MIN);

/// What the script outside the root answers, and the one under it.
const OUTSIDE: &str = "ran outside the root";
const INSIDE: &str = "ran under the root";

/// A PHP-FPM with a script under a root and one outside it.
struct Site {
    fpm: (String, u16),
    root: PathBuf,
    outside: PathBuf,
    _process: Process,
    _dir: TempDir,
}

impl Site {
    fn start() -> Self {
        Self::start_with(|_| Vec::new())
    }

    /// With the lines of php.ini that `settings` makes of the root.
    fn start_with(settings: impl Fn(&Path) -> Vec<String>) -> Self {
        let dir = fresh_dir();
        let (root, outside) = (dir.path().join("www"), dir.path().join("outside"));
        for (place, text) in [(&root, INSIDE), (&outside, OUTSIDE)] {
            fs::create_dir(place).unwrap();
            fs::write(place.join("x.php"), format!("<?php echo '{text}';")).unwrap();
        }
        fs::write(
            root.join("show.php"),
            "<?php echo json_encode([$_SERVER, file_get_contents('php://input'), \
             ini_get('memory_limit')], JSON_PARTIAL_OUTPUT_ON_ERROR | JSON_UNESCAPED_SLASHES);",
        )
        .unwrap();
        fs::write(root.join("picture.jpg"), format!("<?php echo '{OUTSIDE}';")).unwrap();
        let fpm = fresh_endpoint();
        let process = start_fpm_with(dir.path(), &fpm, &settings(&root));
        Self {
            fpm,
            root,
            outside,
            _process: process,
            _dir: dir,
        }
    }

    fn under_root(&self, path: &str) -> String {
        format!("{}/{path}", self.root.display())
    }

    fn outside(&self) -> String {
        format!("{}/x.php", self.outside.display())
    }

    /// All that PHP-FPM answers to `request` until the connection ends.
    fn send(&self, request: &[u8]) -> String {
        let (host, port) = &self.fpm;
        let mut stream = TcpStream::connect((host.as_str(), *port)).unwrap();
        stream.set_read_timeout(Some(GUARD)).unwrap();
        stream.write_all(request).unwrap();
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            // It closes with bytes unread.
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Sends a request with these parameters.
    fn get<V: AsRef<[u8]>>(&self, pairs: &[(&str, V)]) -> String {
        self.send(&request(pairs, false))
    }

    fn rule<V: AsRef<[u8]>>(&self, pairs: &[(&str, V)], suffix: Option<&str>) -> Option<Rule> {
        let options = GuardOptions {
            script_roots: vec![self.root.display().to_string()],
            script_suffix: suffix.map(str::to_owned),
            ..GuardOptions::default()
        };
        match verdict(&options, &request(pairs, false)) {
            Verdict::Reject(rejection) => Some(rejection.rule),
            Verdict::Pass | Verdict::PassWithout(_) => None,
        }
    }
}

/// A whole request without a body.
fn request<V: AsRef<[u8]>>(pairs: &[(&str, V)], keep_conn: bool) -> Vec<u8> {
    let mut bytes = head(pairs, keep_conn);
    push_stream_end(&mut bytes, Kind::Stdin, REQUEST);
    bytes
}

fn head<V: AsRef<[u8]>>(pairs: &[(&str, V)], keep_conn: bool) -> Vec<u8> {
    let role = Role::Responder;
    let begin = BeginRequest { role, keep_conn };
    let mut params = Vec::new();
    push_pair(&mut params, b"REQUEST_METHOD", b"POST");
    for (name, value) in pairs {
        push_pair(&mut params, name.as_bytes(), value.as_ref());
    }
    let mut bytes = Vec::new();
    push_record(&mut bytes, Kind::BeginRequest, REQUEST, &begin.encode());
    push_stream(&mut bytes, Kind::Params, REQUEST, &params);
    push_stream_end(&mut bytes, Kind::Params, REQUEST);
    bytes
}

fn reader() -> RequestReader {
    RequestReader::new(RequestLimits {
        params_bytes_max: 1 << 16,
        capacity: Capacity {
            connections_max: 1,
            requests_max: 1,
        },
    })
}

fn verdict(options: &GuardOptions, request: &[u8]) -> Verdict {
    let mut reader = reader();
    let event = reader.next(request, &mut 0);
    assert_eq!(event, Ok(Some(RequestEvent::Head)));
    Guard::new(options).unwrap().judge(reader.head())
}

fn default_rule(pairs: &[(&str, &str)]) -> Option<Rule> {
    match verdict(&GuardOptions::default(), &request(pairs, false)) {
        Verdict::Reject(rejection) => Some(rejection.rule),
        Verdict::Pass | Verdict::PassWithout(_) => None,
    }
}

#[test]
fn a_script_under_the_root_runs_and_passes() {
    let site = Site::start();
    for path in ["x.php", "./x.php", "/x.php", "x.php/"] {
        let pairs = [("SCRIPT_FILENAME", site.under_root(path))];
        assert!(site.get(&pairs).contains(INSIDE), "{path}");
        assert_eq!(site.rule(&pairs, Some(".php")), None, "{path}");
    }
}

#[test]
fn php_admin_value_makes_php_run_a_file_of_the_attackers() {
    let site = Site::start();
    for (name, rule) in [
        ("PHP_VALUE", Rule::PhpValue),
        ("PHP_ADMIN_VALUE", Rule::PhpAdminValue),
    ] {
        let prepend = format!("auto_prepend_file={}", site.outside());
        let script = site.under_root("x.php");
        let pairs = [
            ("SCRIPT_FILENAME", script.as_str()),
            (name, prepend.as_str()),
        ];
        let answer = site.get(&pairs);
        assert!(
            answer.contains(OUTSIDE) && answer.contains(INSIDE),
            "{answer}"
        );
        assert_eq!(default_rule(&pairs), Some(rule));
    }
}

#[test]
fn another_case_is_another_name_for_php_and_refused_all_the_same() {
    let site = Site::start();
    let prepend = format!("auto_prepend_file={}", site.outside());
    let script = site.under_root("x.php");
    let pairs = [
        ("SCRIPT_FILENAME", script.as_str()),
        ("php_value", prepend.as_str()),
    ];
    assert!(!site.get(&pairs).contains(OUTSIDE));
    assert_eq!(default_rule(&pairs), Some(Rule::PhpValue));
}

#[test]
fn path_translated_without_script_filename_runs_outside_the_root() {
    let site = Site::start();
    let pairs = [("PATH_TRANSLATED", site.outside())];
    assert!(site.get(&pairs).contains(OUTSIDE));
    assert_eq!(site.rule(&pairs, None), Some(Rule::ScriptRoot));
}

#[test]
fn path_translated_with_redirect_url_runs_instead_of_script_filename() {
    let site = Site::start();
    let pairs = [
        ("SCRIPT_FILENAME", site.under_root("x.php")),
        ("PATH_TRANSLATED", site.outside()),
        ("REDIRECT_URL", "/".to_owned()),
    ];
    assert!(site.get(&pairs).contains(OUTSIDE));
    assert_eq!(site.rule(&pairs, None), Some(Rule::ScriptRoot));
}

#[test]
fn path_translated_runs_instead_of_script_filename_without_fix_pathinfo() {
    let site = Site::start_with(|_| vec!["cgi.fix_pathinfo=0".to_owned()]);
    let pairs = [
        ("SCRIPT_FILENAME", site.under_root("x.php")),
        ("PATH_TRANSLATED", site.outside()),
    ];
    assert!(site.get(&pairs).contains(OUTSIDE));
    assert_eq!(site.rule(&pairs, None), Some(Rule::ScriptRoot));
}

#[test]
fn two_dots_lead_out_of_phps_own_root() {
    let doc_root = |root: &Path| format!("doc_root={}", root.display());
    let without_fix = "cgi.fix_pathinfo=0".to_owned();
    let cases = [
        ("SCRIPT_NAME", Site::start_with(|root| vec![doc_root(root)])),
        (
            "PATH_INFO",
            Site::start_with(|root| vec![doc_root(root), without_fix.clone()]),
        ),
    ];
    for (name, site) in cases {
        let pairs = [
            ("SCRIPT_FILENAME", site.under_root("x.php")),
            (name, "/../outside/x.php".to_owned()),
        ];
        assert!(site.get(&pairs).contains(OUTSIDE), "{name}");
        assert_eq!(site.rule(&pairs, None), Some(Rule::ScriptRoot), "{name}");
    }
}

#[test]
fn apaches_prefixes_run_outside_the_root() {
    let site = Site::start();
    for prefix in [
        "proxy:fcgi://localhost:9000",
        "proxy:balancer://x",
        "PROXY:FCGI://",
    ] {
        let pairs = [("SCRIPT_FILENAME", format!("{prefix}{}", site.outside()))];
        assert!(site.get(&pairs).contains(OUTSIDE), "{prefix}");
        assert_eq!(site.rule(&pairs, None), Some(Rule::ScriptRoot));
        let path = site.under_root("x.php?a=../b");
        let pairs = [("SCRIPT_FILENAME", format!("{prefix}{path}"))];
        assert!(site.get(&pairs).contains(INSIDE), "{prefix}");
        assert_eq!(site.rule(&pairs, Some(".php")), None);
    }
}

#[test]
fn the_last_of_two_script_filenames_runs() {
    let site = Site::start();
    let inside = ("SCRIPT_FILENAME", site.under_root("x.php"));
    let outside = ("SCRIPT_FILENAME", site.outside());
    let pairs = [inside.clone(), outside.clone()];
    assert!(site.get(&pairs).contains(OUTSIDE));
    assert_eq!(site.rule(&pairs, None), Some(Rule::ScriptRoot));
    let pairs = [outside, inside];
    assert!(site.get(&pairs).contains(INSIDE));
    assert_eq!(site.rule(&pairs, Some(".php")), None);
}

/// Without REDIRECT_URL, PHP does not look at PATH_TRANSLATED, as long as there is a SCRIPT_FILENAME. With
/// Apache's prefix it does not either.
#[test]
fn path_translated_does_not_run_beside_a_script_filename() {
    let site = Site::start();
    let script = site.under_root("x.php");
    let prefixed = format!("proxy:fcgi://localhost{script}");
    for path in [site.outside(), site.under_root("picture.jpg")] {
        let redirect = ("REDIRECT_URL", "/picture.jpg");
        let plain = [("SCRIPT_FILENAME", &*script), ("PATH_TRANSLATED", &*path)];
        assert!(site.get(&plain).contains(INSIDE), "{path}");
        let prefixed = [("SCRIPT_FILENAME", &*prefixed), plain[1], redirect];
        assert!(site.get(&prefixed).contains(INSIDE), "{path}");
    }
    let picture = site.under_root("picture.jpg");
    let plain = [
        ("SCRIPT_FILENAME", &*script),
        ("PATH_TRANSLATED", &*picture),
    ];
    assert_eq!(site.rule(&plain, Some(".php")), None);
    // Where PHP runs it, the suffix counts: nothing is lost, for PHP refuses it as well.
    let redirected = [plain[0], plain[1], ("REDIRECT_URL", "/picture.jpg")];
    assert!(site.get(&redirected).contains("Access denied"));
    assert_eq!(
        site.rule(&redirected, Some(".php")),
        Some(Rule::ScriptSuffix)
    );
}

/// The parameters do not tell that `cgi.fix_pathinfo` is 0: what runs is under the root all the same, and
/// is a script by `security.limit_extensions`.
#[test]
fn path_translated_without_fix_pathinfo_runs_under_the_root_only() {
    let site = Site::start_with(|_| vec!["cgi.fix_pathinfo=0".to_owned()]);
    let script = site.under_root("show.php");
    let with = |path: String| {
        [
            ("SCRIPT_FILENAME", script.clone()),
            ("PATH_TRANSLATED", path),
        ]
    };
    assert!(site.get(&with(site.outside())).contains(OUTSIDE));
    assert_eq!(
        site.rule(&with(site.outside()), Some(".php")),
        Some(Rule::ScriptRoot)
    );
    let picture = with(site.under_root("picture.jpg"));
    assert!(site.get(&picture).contains("Access denied"));
    assert_eq!(site.rule(&picture, Some(".php")), None);
    let other_script = with(site.under_root("x.php"));
    assert!(site.get(&other_script).contains(INSIDE));
    assert_eq!(site.rule(&other_script, Some(".php")), None);
}

/// A new PHP-FPM, whose workers have no settings of earlier requests: they keep those.
fn settings_after(value: &str) -> serde_json::Value {
    let site = Site::start();
    let script = site.root.join("settings.php");
    let names = "['memory_limit', 'max_execution_time', 'user_agent', 'auto_prepend_file']";
    let show = format!("<?php echo json_encode(array_map('ini_get', {names}));");
    fs::write(&script, show).unwrap();
    let pairs = [
        ("SCRIPT_FILENAME", script.to_str().unwrap()),
        ("PHP_VALUE", value),
    ];
    let answer = site.get(&pairs);
    let start = answer.find("[\"").expect("an array of strings");
    let end = answer.rfind("\"]").expect("its end");
    serde_json::from_str(&answer[start..end + 2]).unwrap()
}

/// What the guard takes for the end of a line, and what it leaves to nobody's reading.
#[test]
fn settings_mean_to_php_what_the_guard_takes_them_for() {
    let options = GuardOptions {
        allow_settings: vec!["memory_limit".to_owned(), "max_execution_time".to_owned()],
        ..GuardOptions::default()
    };
    let passes = |value: &str| {
        let verdict = verdict(&options, &request(&[("PHP_VALUE", value)], false));
        !matches!(verdict, Verdict::Reject(_))
    };
    let plain = " memory_limit\t= 99M \n\n max_execution_time=77";
    assert!(passes(plain));
    let settings = settings_after(plain);
    assert_eq!(settings, serde_json::json!(["99M", "77", "", ""]));
    // A second line where the guard sees one.
    for value in [
        "memory_limit=99M\ruser_agent=evil",
        "memory_limit=99M\r\nuser_agent=evil",
        "[x]\ruser_agent=evil",
    ] {
        assert!(!passes(value));
        assert_eq!(settings_after(value)[2], "evil", "{value:?}");
    }
    // Lines that are none.
    let value = "memory_limit=\"99M\nuser_agent=x\"\nmax_execution_time=7";
    assert!(!passes(value));
    assert_eq!(settings_after(value)[2], "");
    // Values that are computed.
    for value in [
        "max_execution_time=64|2",
        "max_execution_time=(66)",
        "max_execution_time=\"6\"6",
        "max_execution_time=66;1",
        "max_execution_time=66=1",
    ] {
        assert!(!passes(value), "{value}");
        assert_eq!(settings_after(value)[1], "66", "{value}");
    }
}

#[test]
fn a_nul_ends_the_path_that_runs() {
    let site = Site::start();
    let path = format!("{}\0{}", site.outside(), site.under_root("x.php"));
    let pairs = [("SCRIPT_FILENAME", path)];
    assert!(site.get(&pairs).contains(OUTSIDE));
    assert_eq!(site.rule(&pairs, None), Some(Rule::Nul));
}

#[test]
fn the_part_of_a_path_that_is_a_file_runs() {
    let site = Site::start();
    let outside = site.outside();
    for path in [
        format!("{outside}/foo"),
        // Normalised, this one is under the root.
        format!("{outside}/../..{}", site.under_root("x.php")),
    ] {
        let pairs = [("SCRIPT_FILENAME", path)];
        assert!(site.get(&pairs).contains(OUTSIDE), "{pairs:?}");
        assert_eq!(site.rule(&pairs, None), Some(Rule::ScriptRoot));
    }
}

/// Many web servers leave PATH_INFO in SCRIPT_FILENAME.
#[test]
fn a_script_with_path_info_behind_it_runs_and_passes() {
    let site = Site::start();
    for path in ["x.php/a", "x.php/a/b.jpg", "x.php/a/"] {
        let pairs = [("SCRIPT_FILENAME", site.under_root(path))];
        assert!(site.get(&pairs).contains(INSIDE), "{path}");
        assert_eq!(site.rule(&pairs, Some(".php")), None, "{path}");
    }
}

/// A directory that is called like a script: the path does not tell, and PHP refuses what it finds.
#[test]
fn a_file_in_a_directory_with_the_suffix_is_left_to_php() {
    let site = Site::start();
    let dir = site.root.join("album.php");
    fs::create_dir(&dir).unwrap();
    fs::copy(site.root.join("picture.jpg"), dir.join("picture.jpg")).unwrap();
    let pairs = [("SCRIPT_FILENAME", site.under_root("album.php/picture.jpg"))];
    assert!(site.get(&pairs).contains("Access denied"));
    assert_eq!(site.rule(&pairs, Some(".php")), None);
}

/// What mod_rewrite leaves in PATH_TRANSLATED is not what PHP runs, also not with `cgi.fix_pathinfo=0`.
#[test]
fn a_redirect_of_apaches_in_path_translated_runs_nothing() {
    for settings in ["cgi.fix_pathinfo=1", "cgi.fix_pathinfo=0"] {
        let site = Site::start_with(|_| vec![settings.to_owned()]);
        let script = format!("proxy:fcgi://localhost{}", site.under_root("x.php"));
        let path = format!("redirect:{}", site.outside());
        let pairs = [
            ("SCRIPT_FILENAME", &*script),
            ("PATH_TRANSLATED", &*path),
            ("REDIRECT_URL", "/x"),
        ];
        let answer = site.get(&pairs);
        assert!(!answer.contains(OUTSIDE), "{settings}: {answer}");
        assert_eq!(answer.contains(INSIDE), settings.ends_with('1'), "{answer}");
        assert_eq!(site.rule(&pairs, Some(".php")), None);
    }
}

/// So nothing is lost by refusing such paths.
#[test]
fn php_runs_no_path_with_two_dots() {
    let site = Site::start();
    fs::create_dir(site.root.join("sub")).unwrap();
    let pairs = [("SCRIPT_FILENAME", site.under_root("sub/../x.php"))];
    assert!(site.get(&pairs).contains("Status: 404"));
    assert_eq!(site.rule(&pairs, None), Some(Rule::ScriptRoot));
}

/// Nobody can tell from the path: this is what `security.limit_extensions` is for.
#[test]
fn a_file_that_looks_like_a_directory_is_left_to_php() {
    let site = Site::start();
    let pairs = [("SCRIPT_FILENAME", site.under_root("picture.jpg/x.php"))];
    assert!(site.get(&pairs).contains("Access denied"));
    assert_eq!(site.rule(&pairs, Some(".php")), None);
    let pairs = [("SCRIPT_FILENAME", site.under_root("picture.jpg"))];
    assert_eq!(site.rule(&pairs, Some(".php")), Some(Rule::ScriptSuffix));
}

#[test]
fn names_become_others_in_phps_server_variables() {
    let site = Site::start();
    let script = site.under_root("show.php");
    for name in ["REMOTE.USER", "REMOTE USER", " REMOTE_USER", "REMOTE[USER"] {
        let pairs = [("SCRIPT_FILENAME", script.as_str()), (name, "root")];
        assert!(
            site.get(&pairs).contains(r#""REMOTE_USER":"root""#),
            "{name}"
        );
        let options = GuardOptions {
            deny: vec!["REMOTE_USER".to_owned()],
            ..GuardOptions::default()
        };
        let verdict = verdict(&options, &request(&pairs, false));
        assert!(matches!(verdict, Verdict::Reject(_)), "{name}");
    }
}

/// PHP 8.2 hides HTTP_PROXY from scripts itself, but not in small letters, which are what curl reads.
#[test]
fn httpoxy_reaches_php_in_another_case_unless_it_is_left_out() {
    let site = Site::start();
    let script = site.under_root("show.php");
    let pairs = [
        ("SCRIPT_FILENAME", script.as_str()),
        ("http_proxy", "http://evil"),
    ];
    let bytes = request(&pairs, false);
    assert!(site.send(&bytes).contains("http://evil"));
    let mut reader = reader();
    reader.next(&bytes, &mut 0).unwrap();
    let guard = Guard::new(&GuardOptions::default()).unwrap();
    let Verdict::PassWithout(cut) = guard.judge(reader.head()) else {
        panic!("nothing is left out");
    };
    let mut written = Vec::new();
    reader.head().write(false, &cut.ranges, &[], &mut written);
    push_stream_end(&mut written, Kind::Stdin, REQUEST);
    let answer = site.send(&written);
    assert!(
        answer.contains(&script) && !answer.contains("evil"),
        "{answer}"
    );
}

/// A file that the worker may read, though no script asked for it. nginx can be configured to send it; the
/// option is `--allow-body-file`.
#[test]
fn the_body_can_be_taken_from_a_file() {
    let site = Site::start();
    let script = site.under_root("show.php");
    let pairs = [
        ("SCRIPT_FILENAME", script.as_str()),
        ("CONTENT_TYPE", "text/plain"),
        ("CONTENT_LENGTH", "9"),
        ("REQUEST_BODY_FILE", "/etc/passwd"),
    ];
    assert!(site.get(&pairs).contains("root:x:0:"));
    let options = GuardOptions::default();
    assert!(matches!(
        verdict(&options, &request(&pairs, false)),
        Verdict::Reject(_)
    ));
}

/// What a client sends and what PHP-FPM gets of it, on a connection that is kept.
fn forwarded(client: &[u8]) -> Result<Vec<u8>, Violation> {
    let mut reader = reader();
    let mut sent = Vec::new();
    let mut at = 0;
    while let Some(event) = reader.next(client, &mut at).map_err(|error| error.cause)? {
        match event {
            RequestEvent::Head => reader.head().write(true, &[], &[], &mut sent),
            RequestEvent::Body(pass) => append(&mut sent, &pass, client),
            RequestEvent::BodyEnd => break,
            other => panic!("{other:?}"),
        }
    }
    Ok(sent)
}

fn append(sent: &mut Vec<u8>, pass: &Pass, input: &[u8]) {
    sent.extend_from_slice(pass.lead());
    sent.extend_from_slice(&input[pass.range()]);
}

/// What makes PHP-FPM close a kept connection: it is no record that it expects.
fn close() -> Vec<u8> {
    let mut bytes = Vec::new();
    push_stream_end(&mut bytes, Kind::Data, REQUEST);
    bytes
}

#[test]
fn the_padding_of_the_last_record_is_the_next_request_to_php() {
    let site = Site::start();
    let first = head(&[("SCRIPT_FILENAME", site.under_root("x.php"))], true);
    let hidden = request(&[("SCRIPT_FILENAME", site.outside())], false);
    let end = Header {
        kind: Kind::Stdin,
        request_id: REQUEST,
        content_len: 0,
        padding_len: u8::try_from(hidden.len()).expect("the directory's name is short"),
    };
    let client = [first.as_slice(), &end.encode(), &hidden].concat();
    let answer = site.send(&client);
    assert!(
        answer.contains(INSIDE) && answer.contains(OUTSIDE),
        "{answer}"
    );

    let sent = forwarded(&client).unwrap();
    let answer = site.send(&[sent, close()].concat());
    assert!(
        answer.contains(INSIDE) && !answer.contains(OUTSIDE),
        "{answer}"
    );
}

#[test]
fn a_body_longer_than_announced_is_never_sent() {
    let site = Site::start();
    let pairs = [
        ("SCRIPT_FILENAME", site.under_root("x.php")),
        ("CONTENT_LENGTH", "5".to_owned()),
    ];
    let mut client = head(&pairs, true);
    let hidden = request(&[("SCRIPT_FILENAME", site.outside())], false);
    let body = [b"hello".as_slice(), &hidden].concat();
    push_stream(&mut client, Kind::Stdin, REQUEST, &body);
    push_stream_end(&mut client, Kind::Stdin, REQUEST);
    assert_eq!(forwarded(&client), Err(Violation::BodyTooLong));
    // PHP-FPM 8.2 closes the connection here; the sources of others only forget where they are.
    assert!(site.send(&client).contains(INSIDE));
}

/// A pair across two records is legal (§3.4), but PHP-FPM reads each by itself.
#[test]
fn parameters_in_many_records_reach_php_whole() {
    let site = Site::start();
    let script = site.under_root("show.php");
    let long = "v".repeat(60_000);
    let pairs = [
        ("SCRIPT_FILENAME", script.as_bytes()),
        ("X_FIRST", long.as_bytes()),
        ("X_SECOND", b"second-value"),
    ];
    let whole = request(&pairs, false);
    let params_at = 2 * HEADER_LEN;
    let content = usize::from(u16::from_be_bytes([
        whole[params_at + 4],
        whole[params_at + 5],
    ]));
    let params = &whole[params_at + HEADER_LEN..params_at + HEADER_LEN + content];
    let mut split = whole[..params_at].to_vec();
    for piece in params.chunks(100) {
        push_record(&mut split, Kind::Params, REQUEST, piece);
    }
    push_stream_end(&mut split, Kind::Params, REQUEST);
    push_stream_end(&mut split, Kind::Stdin, REQUEST);
    assert_eq!(site.send(&split), "", "PHP-FPM closes without a word");
    let sent = forwarded(&split).unwrap();
    let answer = site.send(&[sent, close()].concat());
    assert!(answer.contains(r#""X_SECOND":"second-value""#));
}

#[test]
fn php_answers_the_fence_with_one_record() {
    let site = Site::start();
    let (host, port) = &site.fpm;
    let mut stream = TcpStream::connect((host.as_str(), *port)).unwrap();
    stream.set_read_timeout(Some(GUARD)).unwrap();
    let first = request(&[("SCRIPT_FILENAME", site.under_root("x.php"))], true);
    stream
        .write_all(&[first.as_slice(), &FENCE].concat())
        .unwrap();
    let mut response = ResponseReader::new(REQUEST);
    let mut settling = None;
    let mut buffer = [0; 4096];
    eventually("the fence is answered", || {
        let len = uninterrupted(|| stream.read(&mut buffer)).unwrap();
        let mut at = 0;
        while settling.is_none() {
            match response.next(&buffer[..len], &mut at).unwrap() {
                None => return false,
                Some(ResponseEvent::End(_)) => {
                    settling = Some(Settling::new());
                }
                Some(_) => {}
            }
        }
        let settling = settling.as_mut().expect("the loop ends with it");
        settling.read(&buffer[at..len]) == Settled::Answered
    });
    assert_eq!((response.status(), response.has_begun()), (200, true));
}
