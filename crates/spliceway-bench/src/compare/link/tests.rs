use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Instant;

use super::*;

/// Each test is on a thread of its own, which alone changes networks. `None` where none can be made.
fn open(round_trip: Duration) -> Option<Link> {
    match namespace::enter_network() {
        Ok(()) => Some(Link::open(round_trip).unwrap()),
        Err(errno) => {
            assert_ne!(
                namespace::effective_ids().0,
                0,
                "root may not, says {errno:?}"
            );
            None
        }
    }
}

/// Far longer than anything takes that is not stuck.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn an_exchange_takes_the_round_trip_at_least() {
    let round_trip = Duration::from_millis(20);
    let Some(link) = open(round_trip) else { return };
    let listen = || TcpListener::bind((FAR, 0)).unwrap();
    let listener = link.beyond(listen).unwrap();
    let started = Instant::now();
    let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let connected = started.elapsed();
    assert!(connected >= round_trip, "{connected:?}");
    let (mut far, _) = listener.accept().unwrap();
    let mut fastest = PATIENCE;
    for _ in 0..20 {
        let started = Instant::now();
        near.write_all(b"?").unwrap();
        far.read_exact(&mut [0]).unwrap();
        let half = started.elapsed();
        assert!(half >= round_trip / 2, "{half:?}");
        far.write_all(b"!").unwrap();
        near.read_exact(&mut [0]).unwrap();
        let whole = started.elapsed();
        assert!(whole >= round_trip, "{whole:?}");
        fastest = fastest.min(whole);
    }
    // How much later it is in a measurement is in the report.
    assert!(fastest < Duration::from_secs(2), "{fastest:?}");
}

#[test]
fn everything_arrives_in_order_after_its_delay() {
    const DATAGRAMS: u32 = 5_000;
    let round_trip = Duration::from_millis(10);
    let Some(link) = open(round_trip) else { return };
    let bind = || UdpSocket::bind((FAR, 0)).unwrap();
    let far = link.beyond(bind).unwrap();
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    let near = UdpSocket::bind((NEAR, 0)).unwrap();
    near.connect(far.local_addr().unwrap()).unwrap();
    // Not more at one time than a receiver's buffer has room for.
    for first in (0..DATAGRAMS).step_by(100) {
        let sent: Vec<Instant> = (first..first + 100)
            .map(|number| {
                let now = Instant::now();
                near.send(&number.to_ne_bytes()).unwrap();
                now
            })
            .collect();
        for (number, sent) in (first..).zip(sent) {
            let mut bytes = [0; 4];
            far.recv(&mut bytes).unwrap();
            assert_eq!(u32::from_ne_bytes(bytes), number);
            assert!(sent.elapsed() >= round_trip / 2);
        }
    }
    let used = link.used().unwrap();
    assert!(used.packets >= u64::from(DATAGRAMS));
    assert_eq!(used.dropped, 0);
}

#[test]
fn a_large_transfer_arrives_as_it_was_sent() {
    let Some(link) = open(Duration::from_millis(2)) else {
        return;
    };
    let listen = || TcpListener::bind((FAR, 0)).unwrap();
    let listener = link.beyond(listen).unwrap();
    let sent: Vec<u8> = (0..20_000_000_u32).map(|at| (at % 251) as u8).collect();
    let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut far, _) = listener.accept().unwrap();
    let came = thread::scope(|scope| {
        scope.spawn(|| {
            near.write_all(&sent).unwrap();
            near.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut came = Vec::new();
        far.read_to_end(&mut came).unwrap();
        came
    });
    assert!(came == sent);
    let used = link.used().unwrap();
    // Segmentation is left to the link: that many packets of 1,500 bytes would be 14,000.
    assert!(used.packets < 10_000, "{used:?}");
    assert_eq!(used.dropped, 0);
    assert!(used.cpu_us > 0.0);
}

#[test]
fn nothing_is_left_of_a_link() {
    let Some(link) = open(Duration::from_millis(2)) else {
        return;
    };
    let interfaces = || fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    assert!(dropped_of(&interfaces()).is_some());
    drop(link);
    assert_eq!(dropped_of(&interfaces()), None);
    // And there is room for the next one, of the same name.
    assert!(Link::open(Duration::from_millis(2)).is_ok());
}

#[test]
fn what_was_dropped_on_the_way_out_is_read() {
    let text = "Inter-|   Receive  |  Transmit\n    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n  \
                link: 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36\n";
    assert_eq!(dropped_of(text), Some(32));
    assert_eq!(dropped_of("lo: 1 2 3"), None);
}
