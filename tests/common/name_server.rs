//! A scripted name server: what is asked is noted, and what is said is up to the test. The resolver's
//! unit tests use it too.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, NS, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// Far more than anything here takes, also on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What name servers send over UDP (DNS flag day 2020); more goes over TCP.
const UDP_BYTES_MAX: usize = 1232;

/// What the name server says to one question.
#[derive(Clone)]
pub(crate) enum Reply {
    Addresses(Vec<IpAddr>, u32),
    Alias(&'static str),
    Code(ResponseCode),
    NoData,
    Referral,
    Silence,
    /// The answer to the question, but cut off.
    Broken,
    /// Forged and broken datagrams first, then these addresses.
    Noise(Vec<IpAddr>),
    /// Too long for UDP: these addresses are only to be had over TCP.
    Truncated(Vec<IpAddr>),
    /// Priority, weight, port and host of each target.
    Targets(Vec<(u16, u16, u16, &'static str)>),
}

/// A mutex with a condition: what the test waits for.
#[derive(Default)]
pub(crate) struct Watched<T> {
    pub(crate) value: Mutex<T>,
    pub(crate) changed: Condvar,
}

impl<T> Watched<T> {
    pub(crate) fn change(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.value.lock().unwrap());
        self.changed.notify_all();
    }

    #[track_caller]
    pub(crate) fn wait_until(&self, mut is_met: impl FnMut(&T) -> bool) -> MutexGuard<'_, T> {
        let value = self.value.lock().unwrap();
        let (value, waited) = self
            .changed
            .wait_timeout_while(value, PATIENCE, |value| !is_met(value))
            .unwrap();
        assert!(!waited.timed_out(), "waited in vain");
        value
    }
}

#[derive(Default)]
pub(crate) struct Script {
    replies: HashMap<(String, RecordType), Reply>,
    asked: Vec<(String, RecordType)>,
    is_over: bool,
}

/// A name server that does not run yet: its ports are there, and nobody answers.
pub(crate) struct Dead {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Dead {
    pub(crate) fn new() -> Self {
        let (udp, tcp) = bind();
        Self { udp, tcp }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.udp.local_addr().unwrap()
    }

    pub(crate) fn start(self) -> NameServer {
        NameServer::serve(self.udp, self.tcp)
    }
}

/// A name server on one loopback port, UDP and TCP. Names that it has no reply for do not exist.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    script: Arc<Watched<Script>>,
    threads: Vec<JoinHandle<()>>,
}

impl NameServer {
    pub(crate) fn start() -> Self {
        Dead::new().start()
    }

    fn serve(udp: UdpSocket, tcp: TcpListener) -> Self {
        let address = udp.local_addr().unwrap();
        let script = Arc::new(Watched::<Script>::default());
        let threads = vec![
            thread::spawn({
                let script = Arc::clone(&script);
                move || serve_udp(&udp, &script)
            }),
            thread::spawn({
                let script = Arc::clone(&script);
                move || serve_tcp(&tcp, &script)
            }),
        ];
        Self {
            address,
            script,
            threads,
        }
    }

    pub(crate) fn set(&self, host: &str, record_type: RecordType, reply: Reply) -> &Self {
        self.script.change(|script| {
            script.replies.insert((host.to_owned(), record_type), reply);
        });
        self
    }

    pub(crate) fn a(&self, host: &str, addresses: &[&str]) -> &Self {
        let reply = Reply::Addresses(ips(addresses), 0);
        self.set(host, RecordType::A, reply)
    }

    pub(crate) fn aaaa(&self, host: &str, addresses: &[&str]) -> &Self {
        let reply = Reply::Addresses(ips(addresses), 0);
        self.set(host, RecordType::AAAA, reply)
    }

    pub(crate) fn srv(&self, service: &str, targets: &[(u16, u16, u16, &'static str)]) -> &Self {
        let reply = Reply::Targets(targets.to_vec());
        self.set(service, RecordType::SRV, reply)
    }

    pub(crate) fn asked(&self, host: &str, record_type: RecordType) -> usize {
        count(&self.script.value.lock().unwrap(), host, record_type)
    }

    #[track_caller]
    pub(crate) fn wait_asked(&self, host: &str, record_type: RecordType, times: usize) {
        drop(
            self.script
                .wait_until(|script| count(script, host, record_type) >= times),
        );
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.script.change(|script| script.is_over = true);
        // One poke each, so that both threads look.
        let poke = UdpSocket::bind("127.0.0.1:0").unwrap();
        poke.send_to(&[], self.address).unwrap();
        drop(TcpStream::connect(self.address));
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(
                ended.is_ok() || thread::panicking(),
                "the name server panicked"
            );
        }
    }
}

fn count(script: &Script, host: &str, record_type: RecordType) -> usize {
    let asked = script.asked.iter();
    asked
        .filter(|(h, t)| h == host && *t == record_type)
        .count()
}

/// The same port for both transports; someone else may have the TCP one.
fn bind() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
            return (udp, tcp);
        }
    }
    panic!("no port is free for UDP and TCP");
}

fn serve_udp(udp: &UdpSocket, script: &Watched<Script>) {
    let mut buffer = [0; 4096];
    loop {
        let (len, peer) = udp.recv_from(&mut buffer).unwrap();
        if script.value.lock().unwrap().is_over {
            return;
        }
        let Some((query, reply)) = next(script, &buffer[..len]) else {
            continue;
        };
        if let Reply::Noise(_) = reply {
            for noise in noise(&query) {
                udp.send_to(&noise, peer).unwrap();
            }
        }
        let is_broken = matches!(reply, Reply::Broken);
        if let Some(response) = respond(&query, reply, true) {
            let mut bytes = response.to_vec().unwrap();
            if bytes.len() > UDP_BYTES_MAX {
                bytes = respond(&query, Reply::Truncated(Vec::new()), true)
                    .unwrap()
                    .to_vec()
                    .unwrap();
            }
            if is_broken {
                bytes.truncate(bytes.len() - 3);
            }
            udp.send_to(&bytes, peer).unwrap();
        }
    }
}

/// One query per connection, each message behind its length (RFC 1035, section 4.2.2).
fn serve_tcp(tcp: &TcpListener, script: &Watched<Script>) {
    loop {
        let (mut stream, _) = tcp.accept().unwrap();
        if script.value.lock().unwrap().is_over {
            return;
        }
        let mut length = [0; 2];
        let mut query = Vec::new();
        let read = stream.read_exact(&mut length).and_then(|()| {
            query.resize(u16::from_be_bytes(length).into(), 0);
            stream.read_exact(&mut query)
        });
        if read.is_err() {
            continue;
        }
        let Some((query, reply)) = next(script, &query) else {
            continue;
        };
        if let Some(response) = respond(&query, reply, false) {
            let response = response.to_vec().unwrap();
            let length = u16::try_from(response.len()).unwrap();
            stream.write_all(&length.to_be_bytes()).unwrap();
            stream.write_all(&response).unwrap();
        }
    }
}

/// Notes what was asked and finds what to say.
fn next(script: &Watched<Script>, query: &[u8]) -> Option<(Message, Reply)> {
    let query = Message::from_vec(query).ok()?;
    let question = query.queries.first()?;
    let host = question.name().to_string().to_lowercase();
    let key = (host.trim_end_matches('.').to_owned(), question.query_type());
    let mut reply = None;
    script.change(|script| {
        let nobody = Reply::Code(ResponseCode::NXDomain);
        reply = Some(script.replies.get(&key).cloned().unwrap_or(nobody));
        script.asked.push(key);
    });
    Some((query, reply?))
}

fn respond(query: &Message, reply: Reply, is_udp: bool) -> Option<Message> {
    let mut response = Message::response(query.metadata.id, OpCode::Query);
    response.metadata.recursion_available = true;
    let question = query.queries[0].clone();
    let name = question.name().clone();
    response.add_query(question);
    let add = |response: &mut Message, addresses: Vec<IpAddr>, ttl| {
        for ip in addresses {
            response.add_answer(Record::from_rdata(name.clone(), ttl, RData::from(ip)));
        }
    };
    match reply {
        Reply::Addresses(addresses, ttl) => add(&mut response, addresses, ttl),
        Reply::Alias(target) => {
            let target = RData::CNAME(CNAME(Name::from_ascii(target).unwrap()));
            response.add_answer(Record::from_rdata(name.clone(), 1, target));
        }
        Reply::Code(code) => response.metadata.response_code = code,
        Reply::NoData => {}
        Reply::Referral => {
            let server = RData::NS(NS(Name::from_ascii("ns.example.").unwrap()));
            response.add_authority(Record::from_rdata(name.clone(), 1, server));
        }
        Reply::Silence => return None,
        Reply::Broken => add(&mut response, ips(&["203.0.113.66"]), 60),
        Reply::Noise(addresses) => add(&mut response, addresses, 1),
        Reply::Targets(targets) => {
            for (priority, weight, port, host) in targets {
                let srv = SRV::new(priority, weight, port, Name::from_ascii(host).unwrap());
                let record = Record::from_rdata(name.clone(), 1, RData::SRV(srv));
                response.add_answer(record);
            }
        }
        Reply::Truncated(_) if is_udp => response.metadata.truncation = true,
        Reply::Truncated(addresses) => add(&mut response, addresses, 1),
    }
    Some(response)
}

/// Datagrams that must not be taken for the answer: too short, not DNS, and forged with another id.
fn noise(query: &Message) -> Vec<Vec<u8>> {
    let forged = Reply::Addresses(ips(&["203.0.113.66"]), 60);
    let mut forged = respond(query, forged, true).unwrap();
    forged.metadata.id = query.metadata.id.wrapping_add(1);
    vec![vec![], vec![7], vec![0xff; 600], forged.to_vec().unwrap()]
}

pub(crate) fn ips(addresses: &[&str]) -> Vec<IpAddr> {
    addresses.iter().map(|ip| ip.parse().unwrap()).collect()
}
