//! Answers whose backend dies at any point, through the web servers that people run: the web server's
//! client sees a failure, no cache takes what came for a page, and no other request is affected.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod fronts;
mod play;

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::fastcgi::{Client, Request, read_record};
use common::programs::{WEB_USER, fresh_endpoint, program, start_fpm_pool};
use common::proxy::fresh_dir;
use common::sys::{is_root, signal};
use common::wait::pause;
use common::{Engine, GUARD, Proxy, for_each_engine};
use fronts::{Forgives, Front, Fronts, haproxy_outlives_cut_headers};
use play::{CONTENT, Death, Mortal, Place, Play, Size};
use spliceway::fastcgi::Kind;

for_each_engine!(
    no_web_server_takes_a_dead_backends_answer_for_whole,
    killed_workers_of_php_fpm_are_failures_to_every_web_server,
    a_cut_answer_ends_between_records_in_eight_zero_bytes,
);

/// What ends an answer that cannot be finished: a record of no version.
const CUT: [u8; 8] = [0; 8];

fn start_proxy(engine: Engine, backend: &str) -> Proxy {
    let group: &[&str] = match is_root() {
        true => &["--group", WEB_USER],
        false => &[],
    };
    Proxy::builder()
        .engine(engine)
        .args(["--protocol", "fastcgi"])
        .args(group.iter().copied())
        .backend(backend)
        .start()
}

// --- the client of a web server -----------------------------------------------------------------

/// What curl says of one request.
#[derive(Clone, Copy, Debug)]
struct Heard {
    exit: u32,
    status: u32,
    bytes: usize,
}

impl Heard {
    /// Silence is none: nobody learns anything by it.
    const fn is_failure(self) -> bool {
        /// The time was over.
        const TIMED_OUT: u32 = 28;

        (self.exit != 0 && self.exit != TIMED_OUT) || self.status >= 500
    }

    /// A line of `--write-out`.
    fn parse(line: &str) -> Self {
        let words: Vec<_> = line.split(' ').collect();
        let [exit, status, bytes] = words[..] else {
            panic!("curl says {line:?}")
        };
        Self {
            exit: exit.parse().unwrap(),
            status: status.parse().unwrap(),
            bytes: bytes.parse().unwrap(),
        }
    }
}

/// Has one curl ask for all of these, one after another, over connections that it keeps when it can.
/// Each page goes into a file of `dir` that is named by its number.
fn ask(dir: &Path, urls: &[String]) -> Vec<Heard> {
    let mut config = String::new();
    for (number, url) in urls.iter().enumerate() {
        let output = dir.join(number.to_string());
        writeln!(config, "url = \"{url}\"\noutput = \"{}\"", output.display()).unwrap();
    }
    let file = dir.join("curl.conf");
    fs::write(&file, config).unwrap();
    let output = Command::new(program(&["/usr/bin/curl"]))
        // First: no file of whoever runs the tests.
        .args(["-q", "--silent", "--max-time"])
        .arg(GUARD.as_secs().to_string())
        .args(["--write-out", "%{exitcode} %{http_code} %{size_download}\n"])
        .arg("--config")
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let heard: Vec<_> = said.lines().map(Heard::parse).collect();
    assert_eq!(heard.len(), urls.len(), "{said}");
    heard
}

/// Runs `act` for all fronts at once, and says what each of them has to say.
fn at_all(fronts: &[Front], act: impl Fn(&Front) -> Vec<String> + Sync) -> Vec<String> {
    let act = &act;
    thread::scope(|scope| {
        let start = |front| scope.spawn(move || act(front));
        let running: Vec<_> = fronts.iter().map(start).collect();
        let results = running.into_iter().flat_map(|one| one.join().unwrap());
        results.collect()
    })
}

#[track_caller]
fn assert_none(wrong: &[String]) {
    let text = wrong.join("\n");
    assert!(wrong.is_empty(), "{} are wrong:\n{text}", wrong.len());
}

// --- scripted backends --------------------------------------------------------------------------

/// Behind each answer that dies comes a request that is answered properly, over what connections the web
/// server and the proxy keep.
fn no_web_server_takes_a_dead_backends_answer_for_whole(engine: Engine) {
    let mortal = Mortal::start();
    let backend = mortal.backend.address().to_string();
    let proxy = start_proxy(engine, &backend);
    let dir = fresh_dir();
    let fronts = Fronts::start(dir.path(), proxy.socket(), &backend, Path::new("/"));
    let cut = Play {
        place: Place::InHead,
        death: Death::Close,
        size: Size::Small,
        has_length: false,
    };
    let may_cut_heads = haproxy_outlives_cut_headers(dir.path(), &backend, &cut.to_string());
    let wrong = at_all(&fronts.fronts, |front| {
        let is_put_to_it = |play: &Play| {
            let is_cut = matches!(play.place, Place::InHead | Place::InHeadInRecord);
            may_cut_heads || front.forgives != Forgives::CutHeaders || !is_cut
        };
        let plays: Vec<_> = Play::all().into_iter().filter(is_put_to_it).collect();
        judge(front, &plays, &mortal)
    });
    assert_none(&wrong);
}

/// What is asked for one play, and where it is among the answers.
struct Asked {
    /// The same twice where there is a cache, which would answer the second time.
    dying: Vec<usize>,
    fine: usize,
}

/// Asks for all plays through one web server, and says what is wrong.
fn judge(front: &Front, plays: &[Play], mortal: &Mortal) -> Vec<String> {
    let dir = fresh_dir();
    let times = if front.caches { 2 } else { 1 };
    let (mut urls, mut asked) = (Vec::new(), Vec::new());
    for (number, play) in plays.iter().enumerate() {
        let first = urls.len();
        urls.extend(vec![format!("{}{play}", front.base); times]);
        asked.push(Asked {
            dying: (first..urls.len()).collect(),
            fine: urls.len(),
        });
        urls.push(format!("{}{}", front.base, fine_path(number)));
    }
    let heard = ask(dir.path(), &urls);
    let directly = front.direct.as_ref().map(|base| {
        let dir = fresh_dir();
        let urls: Vec<_> = plays.iter().map(|play| format!("{base}{play}")).collect();
        ask(dir.path(), &urls)
    });
    let mut wrong = Vec::new();
    for (number, (play, asked)) in plays.iter().zip(&asked).enumerate() {
        let cannot_tell = directly
            .as_ref()
            .is_some_and(|all| !all[number].is_failure())
            || (front.forgives == Forgives::AnswersWithoutLength
                && play.place.has_head()
                && !play.has_length);
        let mut complain = |what: &str, heard: Heard| {
            wrong.push(format!("{}: {play}: {what}: {heard:?}", front.name));
        };
        for &dying in &asked.dying {
            let heard = heard[dying];
            let is_whole = play.may_be_whole() && heard.bytes == play.size.bytes();
            if !heard.is_failure() && !is_whole && !cannot_tell {
                complain("taken for whole", heard);
            }
        }
        let uri = format!("{}{play}", front.path());
        let is_cached = mortal.times_asked(&uri) < asked.dying.len();
        if is_cached && !play.may_be_whole() {
            complain("cached", heard[asked.dying[0]]);
        }
        let next = heard[asked.fine];
        let page = fs::read_to_string(dir.path().join(asked.fine.to_string()));
        let is_fine = page.is_ok_and(|page| page.ends_with(&fine_path(number)));
        if next.exit != 0 || next.status != 200 || !is_fine {
            complain("the next page is affected", next);
        }
    }
    wrong
}

/// Of a page that is answered properly, with its path.
fn fine_path(number: usize) -> String {
    format!("/fine/{number}.")
}

// --- PHP-FPM ------------------------------------------------------------------------------------

/// Sends what it is told to, says who it is, and waits for its end.
const STREAM_PHP: &str = r#"<?php
if ($_GET['place'] != 'nothing') {
    if ($_GET['length'] == 'true') {
        header('Content-Length: 1000000');
    }
    header('Content-Type: text/plain');
    // Headers go with the first byte: PHP-FPM sends none without any.
    echo '0';
    flush();
}
if ($_GET['place'] == 'body') {
    for ($i = 0; $i < 10; $i++) {
        echo str_repeat('0123456789', 1000);
        flush();
    }
}
file_put_contents("{$_GET['note']}.new", getmypid());
rename("{$_GET['note']}.new", $_GET['note']);
while (true) {
    sleep(1);
}
"#;

const FINE_PHP: &str = "<?php echo 'fine';";

fn killed_workers_of_php_fpm_are_failures_to_every_web_server(engine: Engine) {
    /// All fronts at once, and a few to spare while others are started anew.
    const WORKERS: usize = 32;

    let dir = fresh_dir();
    let (root, notes) = (dir.path().join("www"), dir.path().join("notes"));
    fs::create_dir(&root).unwrap();
    fs::create_dir(&notes).unwrap();
    if is_root() {
        // Scripts are others than we, and write there.
        let status = Command::new("chown").arg(WEB_USER).arg(&notes).status();
        assert!(status.unwrap().success());
    }
    let endpoint = fresh_endpoint();
    let settings = ["output_buffering=0".to_owned()];
    let _fpm = start_fpm_pool(dir.path(), &endpoint, WORKERS, "", &settings);
    let backend = format!("{}:{}", endpoint.0, endpoint.1);
    let proxy = start_proxy(engine, &backend);
    let fronts = Fronts::start(dir.path(), proxy.socket(), &backend, &root);
    for directory in fronts.fronts.iter().flat_map(Front::directories) {
        let directory = root.join(directory);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("stream.php"), STREAM_PHP).unwrap();
        fs::write(directory.join("fine.php"), FINE_PHP).unwrap();
    }
    let wrong = at_all(&fronts.fronts, |front| {
        let mut wrong = Vec::new();
        for place in ["nothing", "head", "body"] {
            for has_length in [false, true] {
                let kill = |base: &str| kill_in_the_midst(&notes, base, place, has_length);
                let [heard, next] = kill(&front.base);
                let cannot_tell = match front.forgives {
                    Forgives::AnswersWithoutLength => place != "nothing" && !has_length,
                    _ => front
                        .direct
                        .as_ref()
                        .is_some_and(|base| !kill(base)[0].is_failure()),
                };
                let name = &front.name;
                if !heard.is_failure() && !cannot_tell {
                    wrong.push(format!("{name}: {place}, length {has_length}: {heard:?}"));
                }
                if (next.exit, next.status, next.bytes) != (0, 200, 4) {
                    wrong.push(format!(
                        "{name}: {place}, length {has_length}: next {next:?}"
                    ));
                }
            }
        }
        wrong
    });
    assert_none(&wrong);
}

/// How long the processor is left to others between two looks for a script's note.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// Kills the worker that answers, and asks for another page then.
fn kill_in_the_midst(notes: &Path, base: &str, place: &str, has_length: bool) -> [Heard; 2] {
    let dir = fresh_dir();
    let number = base.replace(['/', ':'], "_");
    let note = notes.join(format!("{number}-{place}-{has_length}"));
    let urls = [
        format!(
            "{base}/stream.php?place={place}&length={has_length}&note={}",
            note.display()
        ),
        format!("{base}/fine.php"),
    ];
    thread::scope(|scope| {
        let asking = scope.spawn(|| ask(dir.path(), &urls));
        // A web server that tries again gets the same.
        let mut kills = 0;
        while !asking.is_finished() {
            if let Ok(pid) = fs::read_to_string(&note) {
                fs::remove_file(&note).unwrap();
                signal(pid.parse().unwrap(), libc::SIGKILL).unwrap();
                kills += 1;
            }
            pause(LOOK_INTERVAL);
        }
        let heard = asking.join().unwrap().try_into().unwrap();
        assert!(kills > 0, "{}: nobody was killed: {heard:?}", urls[0]);
        heard
    })
}

// --- records ------------------------------------------------------------------------------------

/// What the proxy's own client sees of it.
fn a_cut_answer_ends_between_records_in_eight_zero_bytes(engine: Engine) {
    let mortal = Mortal::start();
    let proxy = start_proxy(engine, &mortal.backend.address().to_string());
    let mut wrong = Vec::new();
    for play in Play::all() {
        for is_kept in [true, false] {
            let mut request = Request::get(&play.to_string());
            if !is_kept {
                request = request.closing();
            }
            let client = Client::connect(&proxy);
            client.send(&request.bytes());
            let mut bytes = Vec::new();
            (&client.0).read_to_end(&mut bytes).unwrap();
            if let Err(what) = check_cut(play, &bytes) {
                wrong.push(format!("{play}, kept {is_kept}: {what}"));
            }
            let fine = Client::connect(&proxy).ask(&Request::get("/fine"));
            assert_eq!(fine.text(), "/fine");
        }
    }
    assert_none(&wrong);
}

/// Whole records, of which those of STDOUT have the beginning of the content. While no header has come,
/// the connection just ends: only then a web server may ask another backend. After it, the cut shows.
fn check_cut(play: Play, bytes: &[u8]) -> Result<(), String> {
    let whole = bytes.strip_suffix(&CUT).unwrap_or(bytes);
    let is_marked = whole.len() < bytes.len();
    let mut rest = whole;
    let mut next = || read_record(&mut rest).transpose();
    let found: io::Result<Vec<_>> = std::iter::from_fn(&mut next).collect();
    let found = found.map_err(|error| format!("{error} in {} bytes", bytes.len()))?;
    if found.iter().any(|record| record.kind != Kind::Stdout) {
        return Err("another record than STDOUT".to_owned());
    }
    let stdout: Vec<u8> = found
        .into_iter()
        .flat_map(|record| record.content)
        .collect();
    let head = stdout.windows(4).position(|four| four == b"\r\n\r\n");
    let Some(head) = head else {
        return match play.death {
            Death::Close if play.place.has_head() => Err("no headers".to_owned()),
            _ => Ok(()),
        };
    };
    if !is_marked {
        return Err(format!("no mark behind {} bytes", bytes.len()));
    }
    match CONTENT.mismatch(0, &stdout[head + 4..]) {
        Some(position) => Err(format!("a wrong byte at {position}")),
        None => Ok(()),
    }
}
