//! wrk: how it is run, and what it says.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use spliceway_common::sys::child::spawn_bound;

use super::ways::CONNECTIONS;
use crate::compare::accounting::ended_children_cpu;
use crate::compare::results::PhpSample;

/// One run, for whole seconds, with one thread.
pub(super) fn run(
    program: &Path,
    address: SocketAddr,
    query: &str,
    seconds: u64,
) -> anyhow::Result<PhpSample> {
    let mut command = Command::new(program);
    command
        .args([
            "-t1",
            "--latency",
            &format!("-c{CONNECTIONS}"),
            &format!("-d{seconds}s"),
        ])
        .arg(format!("http://{address}/?{query}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // Nothing else that was started here ends meanwhile.
    let before = ended_children_cpu()?;
    let output = spawn_bound(&mut command)?
        .wait_with_output()
        .context("run wrk")?;
    let cpu = ended_children_cpu()?.saturating_sub(before);
    let text = String::from_utf8_lossy(&output.stdout);
    let mut sample = read(&text).with_context(|| format!("read what wrk says: {text}"))?;
    sample.wrk_cpu_us = cpu.as_secs_f64() * 1e6;
    sample.seconds = Duration::from_secs(seconds).as_secs_f64();
    ensure!(
        sample.requests > sample.errors,
        "{} errors, nothing else",
        sample.errors
    );
    Ok(sample)
}

/// The figures in what wrk writes.
fn read(text: &str) -> anyhow::Result<PhpSample> {
    let percentile = |percent: &str| {
        let mut lines = text.lines().map(str::trim);
        let value = lines.find_map(|line| line.strip_prefix(percent));
        value
            .and_then(microseconds)
            .ok_or_else(|| anyhow!("there is no {percent}"))
    };
    let word = |line_start: &str, index: usize| {
        let mut lines = text.lines().map(str::trim);
        let line = lines.find(|line| line.starts_with(line_start))?;
        line.split_ascii_whitespace().nth(index)
    };
    let requests = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in "));
    let (requests, _) = requests.ok_or_else(|| anyhow!("there is no number of requests"))?;
    let per_second = word("Requests/sec:", 1).ok_or_else(|| anyhow!("there is no rate"))?;
    Ok(PhpSample {
        requests: requests.parse().context("the number of requests")?,
        per_second: per_second.parse().context("the rate")?,
        p50_us: percentile("50%")?,
        p90_us: percentile("90%")?,
        p99_us: percentile("99%")?,
        max_us: word("Latency", 3)
            .and_then(microseconds)
            .unwrap_or_default(),
        errors: errors(text),
        ..PhpSample::default()
    })
}

/// `Non-2xx or 3xx responses: 3` and `Socket errors: connect 0, read 1, write 0, timeout 2`.
fn errors(text: &str) -> u64 {
    let counted = ["Non-2xx or 3xx responses:", "Socket errors:"];
    let lines = text.lines().filter_map(|line| {
        counted
            .iter()
            .find_map(|start| line.trim().strip_prefix(start))
    });
    let words = lines.flat_map(|line| line.split(|c: char| !c.is_ascii_digit()));
    words.filter_map(|word| word.parse::<u64>().ok()).sum()
}

/// `700.00us`, `1.08ms`, `1.20s`.
fn microseconds(text: &str) -> Option<f64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 60e6,
        _ => return None,
    };
    Some(digits.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str = "\
Running 2s test @ http://127.0.0.1:9110/
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.08ms    2.35ms 697.20ms   97.92%
    Req/Sec    15.42k     1.03k   17.07k    75.00%
  Latency Distribution
     50%  700.00us
     75%    1.00ms
     90%    1.20ms
     99%    1.2s
  30692 requests in 2.00s, 67.14MB read
  Socket errors: connect 0, read 1, write 0, timeout 2
  Non-2xx or 3xx responses: 4
Requests/sec:  15338.27
Transfer/sec:     33.55MB
";

    #[test]
    fn figures_are_read_from_what_wrk_writes() {
        let expected = PhpSample {
            requests: 30_692,
            per_second: 15_338.27,
            p50_us: 700.0,
            p90_us: 1_200.0,
            p99_us: 1_200_000.0,
            max_us: 697_200.0,
            errors: 7,
            ..PhpSample::default()
        };
        assert_eq!(read(WRK).unwrap(), expected);
    }

    #[test]
    fn an_answer_without_figures_is_an_error() {
        assert!(read("unable to connect").is_err());
    }
}
