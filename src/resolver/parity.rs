//! What this resolver finds, against what the C library finds: the same files, the same name servers,
//! in namespaces of our own. Each line of the tables is asked through both, and the addresses must be the
//! same. Needs root.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use hickory_proto::rr::Name;
use tokio::runtime;

use super::ResolverOptions;
use super::lookup::Dns;
use super::names::RecordFamily;

mod files;
mod servers;

/// Set for the process in the namespaces: the directory with its files.
const INSIDE: &str = "SPLICEWAY_TEST_PARITY";

/// More than the most patient lookup of the tables takes.
const PATIENCE: &str = "120";

#[test]
fn names_are_found_as_the_c_library_finds_them() {
    if let Some(dir) = env::var_os(INSIDE) {
        return compare(Path::new(&dir));
    }
    if spliceway_common::sys::namespace::effective_ids().0 != 0 {
        // Where it is seen although the test passes.
        drop(writeln!(
            std::io::stderr(),
            "names asked both ways: needs root: skipped"
        ));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ended = Command::new("unshare")
        .args(["--net", "--mount", "--uts", "--propagation", "private"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("resolver::parity::names_are_found_as_the_c_library_finds_them")
        .env(INSIDE, dir.path())
        .env_remove("RES_OPTIONS")
        .env_remove("LOCALDOMAIN")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&ended.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{told}\n{complaint}");
    let told = told.lines().find(|line| line.ends_with("asked both ways"));
    println!("{}", told.expect("the other process compared them"));
}

/// A line of a table.
struct Case {
    what: String,
    resolv_conf: Vec<u8>,
    hosts: Vec<u8>,
    name: String,
    behaviours: [Behaviour; 2],
}

/// What a name server makes of a query: messages to send back. The number is the server's.
type Behaviour = fn(&Query<'_>, u8) -> Vec<Vec<u8>>;

/// A query as it came.
struct Query<'a> {
    bytes: &'a [u8],
    /// Without its last dot, in lower case.
    name: String,
    kind: u16,
    is_udp: bool,
}

/// In the namespaces.
fn compare(dir: &Path) {
    set_up(dir);
    let behaviours = Arc::new(Mutex::new([servers::ordinary as Behaviour; 2]));
    for (number, address) in [(0, "127.0.0.2:53"), (1, "127.0.0.3:53")] {
        serve(number, address, &behaviours);
    }
    let cases: Vec<Case> = files::cases().into_iter().chain(servers::cases()).collect();
    let mut wrong = Vec::new();
    for case in &cases {
        *behaviours.lock().unwrap() = case.behaviours;
        fs::write(dir.join("resolv.conf"), &case.resolv_conf).unwrap();
        fs::write(dir.join("hosts"), &case.hosts).unwrap();
        let theirs = c_library(&case.name);
        let ours = ours(&case.name);
        if ours != theirs {
            wrong.push(format!(
                "{}: ours {ours:?}, the C library's {theirs:?}",
                case.what
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    println!("{} names asked both ways", cases.len());
}

/// The files of this process's own, and addresses of both families, without which the C library leaves a
/// family out.
fn set_up(dir: &Path) {
    let mut script = String::from(
        "set -e; ip link set lo up; ip address add 10.9.0.1/32 dev lo; \
         ip -6 address add fd00:9::1/128 dev lo nodad; hostname machine.home.example\n",
    );
    fs::write(dir.join("nsswitch.conf"), "hosts: files dns\n").unwrap();
    for file in ["resolv.conf", "hosts", "nsswitch.conf"] {
        let path = dir.join(file);
        if !path.exists() {
            fs::write(&path, "").unwrap();
        }
        script += &format!("mount --bind {} /etc/{file}\n", path.display());
    }
    let done = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

fn ours(name: &str) -> BTreeSet<IpAddr> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(async {
        let dns = Dns::read(&ResolverOptions::default());
        let name = Name::from_ascii(name).unwrap();
        let (v4, v6) = tokio::join!(
            dns.look_up(&name, RecordFamily::V4),
            dns.look_up(&name, RecordFamily::V6)
        );
        let found = [v4, v6].into_iter().filter_map(Result::ok);
        found.flat_map(|found| found.items).collect()
    })
}

fn c_library(name: &str) -> BTreeSet<IpAddr> {
    let asked = Command::new("timeout")
        .args([PATIENCE, "getent", "ahosts", name])
        .output()
        .unwrap();
    // The canonical name behind an address may be anything.
    let told = String::from_utf8_lossy(&asked.stdout);
    let addresses = told
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    addresses.map(|ip| ip.parse().unwrap()).collect()
}

fn serve(number: u8, address: &str, behaviours: &Arc<Mutex<[Behaviour; 2]>>) {
    let address: SocketAddr = address.parse().unwrap();
    let (udp, tcp) = (
        UdpSocket::bind(address).unwrap(),
        TcpListener::bind(address).unwrap(),
    );
    let answer = {
        let behaviours = Arc::clone(behaviours);
        move |bytes: &[u8], is_udp| {
            let behaviour = behaviours.lock().unwrap()[usize::from(number)];
            Query::read(bytes, is_udp).map_or_else(Vec::new, |query| behaviour(&query, number))
        }
    };
    let answer_tcp = answer.clone();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let (len, peer) = udp.recv_from(&mut buffer).unwrap();
            let (udp, query, answer) = (
                udp.try_clone().unwrap(),
                buffer[..len].to_vec(),
                answer.clone(),
            );
            // One for each, because some answer late.
            thread::spawn(move || {
                for message in answer(&query, true) {
                    // Who asked may have gone.
                    drop(udp.send_to(&message, peer));
                }
            });
        }
    });
    thread::spawn(move || {
        for stream in tcp.incoming() {
            let answer = answer_tcp.clone();
            thread::spawn(move || drop(serve_connection(stream.unwrap(), &answer)));
        }
    });
}

fn serve_connection(
    mut stream: TcpStream,
    answer: &impl Fn(&[u8], bool) -> Vec<Vec<u8>>,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut query = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut query)?;
        for message in answer(&query, false) {
            let length = u16::try_from(message.len()).unwrap();
            stream.write_all(&[&length.to_be_bytes(), message.as_slice()].concat())?;
        }
    }
}

impl<'a> Query<'a> {
    fn read(bytes: &'a [u8], is_udp: bool) -> Option<Self> {
        let mut labels = Vec::new();
        let mut at = 12;
        loop {
            let len = usize::from(*bytes.get(at)?);
            if len == 0 {
                break;
            }
            labels.push(String::from_utf8_lossy(bytes.get(at + 1..at + 1 + len)?).to_lowercase());
            at += 1 + len;
        }
        let kind = u16::from_be_bytes(bytes.get(at + 1..at + 3)?.try_into().ok()?);
        Some(Self {
            bytes: &bytes[..at + 5],
            name: labels.join("."),
            kind,
            is_udp,
        })
    }
}
