//! One question to one name server: a datagram and what comes back, or a connection where the answer
//! does not fit into one.
//!
//! Read as leniently as the C library does: sections that are not needed may hold anything. Who answers, and
//! to what, is looked at strictly.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Header, Message, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// The longest message: over TCP its length is 16 bits.
const MESSAGE_BYTES_MAX: usize = u16::MAX as usize;

/// A name server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    /// Not by datagrams.
    pub(super) tcp_only: bool,
}

/// What a name server said.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) code: ResponseCode,
    /// Its answer; `None` if that cannot be read.
    pub(super) records: Option<Vec<Record>>,
    /// There is no answer, and the server names others.
    pub(super) is_referral: bool,
    /// It neither knows the answer nor asks others (the C library asks the next server then).
    pub(super) is_lame: bool,
    /// It says who is responsible, as for what does not exist.
    pub(super) has_soa: bool,
    is_truncated: bool,
}

/// A record of the answer.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) owner: Name,
    pub(super) kind: RecordType,
    pub(super) ttl: Duration,
    pub(super) data: Data,
}

#[derive(Debug)]
pub(super) enum Data {
    Address(IpAddr),
    Alias(Name),
    Service {
        priority: u16,
        weight: u16,
        port: u16,
        target: Name,
    },
    Other,
}

impl Server {
    /// Asks once. It may take for ever: the caller's patience is the limit.
    pub(super) async fn ask(self, name: &Name, record_type: RecordType) -> io::Result<Response> {
        let question = Question::new(name, record_type)?;
        if !self.tcp_only {
            let response = self.ask_by_datagram(&question).await?;
            if !response.is_truncated {
                return Ok(response);
            }
        }
        self.ask_by_connection(&question).await
    }

    async fn ask_by_datagram(self, question: &Question) -> io::Result<Response> {
        let any = match self.address {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(any).await?;
        // So that nobody else is heard, and that nobody there is an error and not silence.
        socket.connect(self.address).await?;
        socket.send(&question.bytes).await?;
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        loop {
            let len = socket.recv(&mut buffer).await?;
            if let Some(response) = question.answer(&buffer[..len]) {
                return Ok(response);
            }
        }
    }

    async fn ask_by_connection(self, question: &Question) -> io::Result<Response> {
        let mut stream = TcpStream::connect(self.address).await?;
        let length = u16::try_from(question.bytes.len()).map_err(io::Error::other)?;
        let message = [&length.to_be_bytes(), question.bytes.as_slice()].concat();
        stream.write_all(&message).await?;
        loop {
            let mut message = vec![0; stream.read_u16().await?.into()];
            stream.read_exact(&mut message).await?;
            if let Some(response) = question.answer(&message) {
                return Ok(response);
            }
        }
    }
}

/// What is asked, and by what its answer is known.
struct Question {
    id: u16,
    query: Query,
    bytes: Vec<u8>,
}

impl Question {
    fn new(name: &Name, record_type: RecordType) -> io::Result<Self> {
        let query = Query::query(name.clone(), record_type);
        let mut message = Message::query();
        // Keys that nobody else knows: an answer must not be guessed.
        let [high, low, ..] = RandomState::new().hash_one(0).to_be_bytes();
        let id = u16::from_be_bytes([high, low]);
        message.metadata.id = id;
        message.metadata.recursion_desired = true;
        message.add_query(query.clone());
        let bytes = message.to_vec().map_err(io::Error::other)?;
        Ok(Self { id, query, bytes })
    }

    /// Reads a message; `None` if it is not the answer to this question.
    fn answer(&self, message: &[u8]) -> Option<Response> {
        let mut decoder = BinDecoder::new(message);
        let header = Header::read(&mut decoder).ok()?;
        if header.id != self.id || header.counts.queries != 1 {
            return None;
        }
        let asked = Query::read(&mut decoder).ok()?;
        let is_mine = asked.name() == self.query.name()
            && asked.query_type() == self.query.query_type()
            && asked.query_class() == self.query.query_class();
        if !is_mine {
            return None;
        }
        let counts = header.counts;
        let answers = read_records(&mut decoder, counts.answers);
        let authorities = read_records(&mut decoder, counts.authorities);
        let has = |wanted| authorities.iter().any(|record| record.kind == wanted);
        let has_none = counts.answers == 0 && header.response_code == ResponseCode::NoError;
        Some(Response {
            code: header.response_code,
            is_referral: has_none && has(RecordType::NS) && !has(RecordType::SOA),
            is_lame: has_none
                && !header.authoritative
                && !header.recursion_available
                && counts.additionals == 0,
            has_soa: has(RecordType::SOA),
            is_truncated: header.truncation,
            records: (answers.len() == usize::from(counts.answers)).then_some(answers),
        })
    }
}

/// The records up to the first that cannot be read.
fn read_records(decoder: &mut BinDecoder<'_>, count: u16) -> Vec<Record> {
    (0..count).map_while(|_| read_record(decoder)).collect()
}

fn read_record(decoder: &mut BinDecoder<'_>) -> Option<Record> {
    let owner = Name::read(decoder).ok()?;
    let kind = RecordType::from(decoder.read_u16().ok()?.unverified());
    let class = DNSClass::from(decoder.read_u16().ok()?.unverified());
    let seconds = decoder.read_u32().ok()?.unverified();
    // RFC 2181, section 8: with the first bit set it is zero.
    let ttl = i32::try_from(seconds).map_or(0, |_| seconds);
    let length = decoder.read_u16().ok()?.unverified();
    let start = u16::try_from(decoder.index()).ok()?;
    let mut data = decoder.clone(start);
    let bytes = decoder.read_slice(length.into()).ok()?.unverified();
    let data = match kind {
        _ if class != DNSClass::IN => Data::Other,
        RecordType::A => bytes4(bytes).map_or(Data::Other, |ip| Data::Address(ip.into())),
        RecordType::AAAA => bytes16(bytes).map_or(Data::Other, |ip| Data::Address(ip.into())),
        RecordType::CNAME => Data::Alias(Name::read(&mut data).ok()?),
        RecordType::SRV => Data::Service {
            priority: data.read_u16().ok()?.unverified(),
            weight: data.read_u16().ok()?.unverified(),
            port: data.read_u16().ok()?.unverified(),
            target: Name::read(&mut data).ok()?,
        },
        _ => Data::Other,
    };
    let ttl = Duration::from_secs(ttl.into());
    Some(Record {
        owner,
        kind,
        ttl,
        data,
    })
}

fn bytes4(bytes: &[u8]) -> Option<[u8; 4]> {
    bytes.try_into().ok()
}

fn bytes16(bytes: &[u8]) -> Option<[u8; 16]> {
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn question() -> Question {
        Question::new(&Name::from_ascii("php.internal.").unwrap(), RecordType::A).unwrap()
    }

    proptest! {
        #[test]
        fn any_bytes_can_come(tail: Vec<u8>, flags: [u8; 10]) {
            let question = question();
            let mut message = question.bytes.clone();
            message[2..4].copy_from_slice(&flags[..2]);
            message[6..12].copy_from_slice(&flags[2..8]);
            message.extend(&tail);
            prop_assert!(question.answer(&message).is_some());
            prop_assert!(question.answer(&tail).is_none());
        }
    }
}
