//! Name servers: what can come back, and does.

use std::thread;
use std::time::Duration;

use super::{Behaviour, Case, Query};

const A: u16 = 1;
const NS: u16 = 2;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const OPT: u16 = 41;

const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;

/// A response, recursion desired and available.
const USUAL: u16 = 0x8180;
const TRUNCATED: u16 = 0x0200;

/// The query's own name, by a pointer.
const SAME: &[u8] = &[0xc0, 12];

/// A name of its own.
const ALIAS: &[u8] = b"\x05alias\x04corp\x00";

/// How much longer than the first timeout of a test late answers take.
const LATE: Duration = Duration::from_millis(1500);

pub(super) fn cases() -> Vec<Case> {
    let both = behaviours().into_iter().map(|(what, behaviour)| Case {
        what: format!("first server: {what}"),
        resolv_conf: b"nameserver 127.0.0.2\nnameserver 127.0.0.3\noptions timeout:1 attempts:2\n"
            .to_vec(),
        hosts: Vec::new(),
        name: "app.corp".to_owned(),
        behaviours: [behaviour, ordinary],
    });
    let alone = behaviours().into_iter().map(|(what, behaviour)| Case {
        what: format!("only server: {what}"),
        resolv_conf: b"nameserver 127.0.0.2\nsearch other.example\noptions timeout:1 attempts:1\n"
            .to_vec(),
        hosts: Vec::new(),
        name: "app.corp".to_owned(),
        behaviours: [behaviour, ordinary],
    });
    let patient = Case {
        what: "the first server answers late, within the default time".to_owned(),
        resolv_conf: b"nameserver 127.0.0.2\nnameserver 127.0.0.3\n".to_vec(),
        hosts: Vec::new(),
        name: "app.corp".to_owned(),
        behaviours: [late, ordinary],
    };
    both.chain(alone).chain([patient]).collect()
}

fn behaviours() -> Vec<(&'static str, Behaviour)> {
    vec![
        ("as usual", ordinary),
        ("silence", |_, _| vec![]),
        ("silence to AAAA", |query, n| {
            if query.kind == AAAA {
                vec![]
            } else {
                ordinary(query, n)
            }
        }),
        ("late", late),
        ("SERVFAIL", |query, _| {
            vec![reply(query, USUAL | 2, &[], &[], &[])]
        }),
        ("SERVFAIL to AAAA", |query, n| match query.kind {
            AAAA => vec![reply(query, USUAL | 2, &[], &[], &[])],
            _ => ordinary(query, n),
        }),
        ("FORMERR", |query, _| {
            vec![reply(query, USUAL | 1, &[], &[], &[])]
        }),
        ("NXDOMAIN", |query, _| {
            vec![reply(query, USUAL | 3, &[], &[], &[])]
        }),
        ("NXDOMAIN to AAAA", |query, n| match query.kind {
            AAAA => vec![reply(query, USUAL | 3, &[], &[], &[])],
            _ => ordinary(query, n),
        }),
        ("NOTIMP", |query, _| {
            vec![reply(query, USUAL | 4, &[], &[], &[])]
        }),
        ("REFUSED", |query, _| {
            vec![reply(query, USUAL | 5, &[], &[], &[])]
        }),
        ("NODATA", |query, _| {
            vec![reply(query, USUAL, &[], &[], &[])]
        }),
        ("lame", |query, _| vec![reply(query, 0x8100, &[], &[], &[])]),
        ("authoritative NODATA", |query, _| {
            vec![reply(query, 0x8500, &[], &[soa()], &[])]
        }),
        ("another id first", |query, n| {
            let mut forged = ordinary(query, 9).remove(0);
            forged[0] ^= 1;
            [vec![forged], ordinary(query, n)].concat()
        }),
        ("another question first", |query, n| {
            let mut forged = ordinary(query, 9).remove(0);
            forged[13] ^= 1;
            [vec![forged], ordinary(query, n)].concat()
        }),
        ("the question in capitals", |query, n| {
            let mut message = ordinary(query, n).remove(0);
            message[13..16].make_ascii_uppercase();
            vec![message]
        }),
        ("twice", |query, n| {
            [ordinary(query, n), ordinary(query, n)].concat()
        }),
        ("truncated, then TCP", |query, n| match query.is_udp {
            true => vec![reply(query, USUAL | TRUNCATED, &[], &[], &[])],
            false => ordinary(query, n),
        }),
        ("truncated with a part, then TCP", |query, n| {
            match query.is_udp {
                true => vec![reply(query, USUAL | TRUNCATED, &[a(SAME, 200)], &[], &[])],
                false => ordinary(query, n),
            }
        }),
        ("an alias, its address behind it", |query, _| {
            vec![reply(
                query,
                USUAL,
                &[cname(SAME, ALIAS), of_kind(query, ALIAS, 7)],
                &[],
                &[],
            )]
        }),
        ("an alias without addresses", |query, _| {
            vec![reply(query, USUAL, &[cname(SAME, ALIAS)], &[soa()], &[])]
        }),
        ("two aliases", |query, _| {
            let second = b"\x06second\x04corp\x00";
            let records = [
                cname(SAME, ALIAS),
                cname(ALIAS, second),
                of_kind(query, second, 7),
            ];
            vec![reply(query, USUAL, &records, &[], &[])]
        }),
        ("an alias of itself", |query, _| {
            vec![reply(query, USUAL, &[cname(SAME, SAME)], &[soa()], &[])]
        }),
        ("several addresses", |query, _| {
            let records: Vec<_> = (1..=20).map(|last| of_kind(query, SAME, last)).collect();
            vec![reply(query, USUAL, &records, &[], &[])]
        }),
        ("a text in front of the address", |query, _| {
            let text = record(SAME, TXT, 1, b"\x04text");
            vec![reply(
                query,
                USUAL,
                &[text, of_kind(query, SAME, 7)],
                &[],
                &[],
            )]
        }),
        ("only a text", |query, _| {
            vec![reply(
                query,
                USUAL,
                &[record(SAME, TXT, 1, b"\x04text")],
                &[],
                &[],
            )]
        }),
        ("an unknown type in front of the address", |query, _| {
            let odd = record(SAME, 65_280, 1, &[1, 2, 3]);
            vec![reply(
                query,
                USUAL,
                &[odd, of_kind(query, SAME, 7)],
                &[],
                &[],
            )]
        }),
        ("a referral", |query, _| {
            let server = record(b"\x04corp\x00", NS, 1, b"\x02ns\x04corp\x00");
            vec![reply(query, USUAL, &[], &[server], &[])]
        }),
        ("another code", |query, _| {
            vec![reply(query, USUAL | 9, &[], &[], &[])]
        }),
        ("nonsense in the authority section", |query, _| {
            let odd = record(SAME, NS, 1, &[0xc0, 0xff]);
            vec![reply(query, USUAL, &[of_kind(query, SAME, 7)], &[odd], &[])]
        }),
        ("nonsense in the additional section", |query, _| {
            let odd = record(b"\x00", OPT, 1, &[0, 1, 0xff, 0xff, 1]);
            vec![reply(query, USUAL, &[of_kind(query, SAME, 7)], &[], &[odd])]
        }),
        ("bytes behind the message", |query, n| {
            let mut message = ordinary(query, n).remove(0);
            message.extend([0xff; 40]);
            vec![message]
        }),
        ("more answers announced than there are", |query, n| {
            let mut message = ordinary(query, n).remove(0);
            message[7] += 3;
            vec![message]
        }),
        (
            "additional records announced that are not there",
            |query, n| {
                let mut message = ordinary(query, n).remove(0);
                message[11] += 3;
                vec![message]
            },
        ),
        ("without recursion", |query, _| {
            vec![reply(query, 0x8400, &[of_kind(query, SAME, 7)], &[], &[])]
        }),
        ("all flags", |query, _| {
            vec![reply(query, 0x85b0, &[of_kind(query, SAME, 7)], &[], &[])]
        }),
        (
            "the address's owner written out, in capitals",
            |query, _| {
                let owner = b"\x03APP\x04CORP\x00";
                vec![reply(query, USUAL, &[of_kind(query, owner, 7)], &[], &[])]
            },
        ),
        ("a time to live of zero, and a negative one", |query, _| {
            let mut long = of_kind(query, SAME, 8);
            long[6] = 0x80;
            vec![reply(
                query,
                USUAL,
                &[of_kind(query, SAME, 7), long],
                &[],
                &[],
            )]
        }),
        ("the other family in the answer", |query, _| {
            let other = match query.kind {
                A => aaaa(SAME, 9),
                _ => a(SAME, 9),
            };
            vec![reply(
                query,
                USUAL,
                &[other, of_kind(query, SAME, 7)],
                &[],
                &[],
            )]
        }),
        ("the query itself comes back", |query, _| {
            vec![query.bytes.to_vec()]
        }),
        ("1,400 bytes in a datagram", |query, _| {
            let records: Vec<_> = (1..=80).map(|last| of_kind(query, SAME, last)).collect();
            vec![reply(query, USUAL, &records[..40], &[], &[])]
        }),
    ]
}

/// What a server usually does: it knows some names, and some that trouble it.
pub(super) fn ordinary(query: &Query<'_>, number: u8) -> Vec<Vec<u8>> {
    let known = [
        "app.corp",
        "app",
        "db.internal",
        "x.y",
        "x.y.corp",
        "top.corp",
        "top",
        "app.b.example",
    ]
    .iter()
    .position(|known| *known == query.name);
    let domain = |domain: &str| query.name.ends_with(domain);
    let code = |code: u8| vec![reply(query, USUAL | u16::from(code), &[], &[], &[])];
    let last = known.map(|known| u8::try_from(known).unwrap() + 1);
    match (last, query.kind) {
        _ if domain(".dead.example") || domain(".dead") => vec![],
        _ if domain(".fail.example") => code(SERVFAIL),
        _ if domain(".refused.example") => code(5),
        _ if domain(".notimp.example") => code(4),
        _ if domain(".nodata.example") => code(0),
        _ if domain(".lame.example") => vec![reply(query, 0x8100, &[], &[], &[])],
        _ if query.name == "db.home.example" => {
            vec![reply(query, USUAL, &[a_of(query, 60)], &[], &[])]
        }
        _ if query.name == "same.corp" => {
            vec![reply(query, USUAL, &[of_kind(query, SAME, 50)], &[], &[])]
        }
        (_, AAAA) if query.name == "six.corp" => {
            vec![reply(query, USUAL, &[aaaa(SAME, 6)], &[], &[])]
        }
        (_, A) if query.name == "six.corp" => code(0),
        (Some(last), A) => {
            let data = [10, number, 0, last];
            vec![reply(query, USUAL, &[record(SAME, A, 1, &data)], &[], &[])]
        }
        (Some(_), _) => vec![reply(query, USUAL, &[], &[soa()], &[])],
        (None, _) => code(NXDOMAIN),
    }
}

fn late(query: &Query<'_>, number: u8) -> Vec<Vec<u8>> {
    thread::sleep(LATE);
    ordinary(query, number)
}

fn reply(
    query: &Query<'_>,
    flags: u16,
    answers: &[Vec<u8>],
    authorities: &[Vec<u8>],
    additionals: &[Vec<u8>],
) -> Vec<u8> {
    let mut message = query.bytes.to_vec();
    message[2..4].copy_from_slice(&flags.to_be_bytes());
    for (at, section) in [(6, answers), (8, authorities), (10, additionals)] {
        let count = u16::try_from(section.len()).unwrap();
        message[at..at + 2].copy_from_slice(&count.to_be_bytes());
        message.extend(section.concat());
    }
    message
}

fn record(owner: &[u8], kind: u16, class: u16, data: &[u8]) -> Vec<u8> {
    let len = u16::try_from(data.len()).unwrap();
    let mut record = owner.to_vec();
    record.extend(kind.to_be_bytes());
    record.extend(class.to_be_bytes());
    record.extend([0; 4]);
    record.extend(len.to_be_bytes());
    record.extend(data);
    record
}

fn a(owner: &[u8], last: u8) -> Vec<u8> {
    record(owner, A, 1, &[10, 7, 0, last])
}

fn a_of(query: &Query<'_>, last: u8) -> Vec<u8> {
    match query.kind {
        A => a(SAME, last),
        _ => record(SAME, TXT, 1, b"\x00"),
    }
}

fn aaaa(owner: &[u8], last: u8) -> Vec<u8> {
    let mut address = [0xfd, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    address[15] = last;
    record(owner, AAAA, 1, &address)
}

/// An address of the family that was asked for.
fn of_kind(query: &Query<'_>, owner: &[u8], last: u8) -> Vec<u8> {
    match query.kind {
        A => a(owner, last),
        _ => aaaa(owner, last),
    }
}

fn cname(owner: &[u8], target: &[u8]) -> Vec<u8> {
    record(owner, CNAME, 1, target)
}

fn soa() -> Vec<u8> {
    let data = [b"\x01m\x00\x01r\x00".as_slice(), &[0; 20]].concat();
    record(b"\x04corp\x00", SOA, 1, &data)
}
