use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use super::*;
use crate::driver::Done;
use crate::driver::testing::{
    assert_adopted_clients_are_like_accepted_ones, assert_events_of_a_closed_socket_are_nobodys,
    assert_much_is_received_at_once, assert_tcp_clients_are_known_for_what_they_are,
    assert_what_is_let_go_has_all_its_bytes, assert_what_is_let_go_is_not_watched, limits,
};

/// More sockets have data than there are buffers for the kernel to choose from. As in a session
/// that copies, a socket is read again one turn (that of the send) after it gave something.
#[test]
fn a_receive_that_found_no_buffer_is_not_passed_over_for_ever() {
    const SOCKETS: usize = 200;
    const TURNS: usize = 12;
    let mut driver = Uring::new(Waker::new().unwrap(), limits(SOCKETS, 2)).unwrap();
    let (mut writers, mut to_read, mut sending) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..SOCKETS {
        let (mut writer, reader) = UnixStream::pair().unwrap();
        writer.write_all(&[0; 128 * 1024]).unwrap();
        reader.set_nonblocking(true).unwrap();
        writers.push(writer);
        let socket = Socket::new(SocketFd::new(reader.into(), true));
        to_read.push(driver.sockets.insert(socket));
    }
    let mut received = vec![0; SOCKETS];
    for _ in 0..TURNS {
        for sock in mem::replace(&mut to_read, mem::take(&mut sending)) {
            driver.submit(sock, Op::Recv);
        }
        driver.turn(Some(Instant::now())).unwrap();
        while let Some(completion) = driver.next() {
            assert!(matches!(completion.done, Done::Received(_)));
            received[completion.sock.index()] += 1;
            sending.push(completion.sock);
        }
    }
    let nothing = received.iter().filter(|&&count| count == 0).count();
    assert_eq!(
        nothing, 0,
        "sockets without a byte, of {SOCKETS}: {received:?}"
    );
}

/// What a turn starts may be more than the ring has room for.
#[test]
fn more_ops_than_the_ring_has_room_for_are_all_carried_out() {
    const SOCKETS: usize = 1500;
    let mut driver = Uring::new(Waker::new().unwrap(), limits(SOCKETS, 1)).unwrap();
    let mut peers = Vec::new();
    for _ in 0..SOCKETS {
        let (peer, ours) = UnixStream::pair().unwrap();
        let sock = driver
            .sockets
            .insert(Socket::new(SocketFd::new(ours.into(), true)));
        driver.submit(sock, Op::Writable);
        peers.push(peer);
    }
    assert!(!driver.overflow.is_empty(), "all of it fits");
    let mut ready = 0;
    while ready < SOCKETS {
        driver.turn(None).unwrap();
        while let Some(completion) = driver.next() {
            assert!(matches!(completion.done, Done::Ready));
            ready += 1;
        }
    }
}

/// The worker's thread unwinds with ops in the kernel and others that it never got; the peers hear of it, and
/// no second panic ends the process.
#[test]
fn a_panic_ends_the_driver_and_its_sockets_and_nothing_else() {
    let (mut peer, ours) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let thread = thread::spawn(move || {
        let mut driver = Uring::new(Waker::new().unwrap(), limits(1, 4)).unwrap();
        let sock = driver
            .sockets
            .insert(Socket::new(SocketFd::new(ours.into(), true)));
        while net::send(&driver.sockets.get(sock).descriptor.fd, &[7; 4096]).is_ok() {}
        let mut buf = driver.lend().unwrap();
        buf.extend(b"never sent");
        driver.submit(sock, Op::Recv);
        driver.submit(sock, Op::Send(buf));
        driver.turn(Some(Instant::now())).unwrap();
        panic!("as a bug would");
    });
    assert!(thread.join().is_err());
    let mut received = Vec::new();
    peer.read_to_end(&mut received).unwrap();
    assert!(!received.is_empty() && received.iter().all(|&byte| byte == 7));
}

#[test]
fn tcp_clients_are_known_for_what_they_are() {
    let driver = Uring::new(Waker::new().unwrap(), limits(1, 4)).unwrap();
    assert_tcp_clients_are_known_for_what_they_are(driver, |driver, sock| {
        net::has_nodelay(&driver.sockets.get(sock).descriptor.fd)
    });
}

#[test]
fn an_event_of_a_closed_socket_is_nobodys() {
    let driver = Uring::new(Waker::new().unwrap(), limits(1, 4)).unwrap();
    // epoll watches only who waits for this.
    assert_events_of_a_closed_socket_are_nobodys(driver, &Op::Peek, |driver, fd| {
        driver.sockets.insert(Socket::new(SocketFd::new(fd, true)))
    });
}

/// Between a send that found the socket full and the look at how it ended, the peer may read.
/// epoll reports that once.
#[test]
fn room_that_comes_before_the_failed_send_is_looked_at_is_not_missed() {
    let mut driver = Uring::new(Waker::new().unwrap(), limits(1, 128)).unwrap();
    let (mut peer, ours) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let sock = driver
        .sockets
        .insert(Socket::new(SocketFd::new(ours.into(), true)));
    // A half-closed peer, whose leaving is waited for: epoll watches the socket.
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    driver.submit(sock, Op::Hangup);
    driver.turn(Some(Instant::now())).unwrap();
    assert!(driver.next().is_none());

    // The send finds the socket full; before anyone looks at that, the peer makes room.
    while net::send(&driver.sockets.get(sock).descriptor.fd, &[7; 4096]).is_ok() {}
    let mut bytes = driver.buffers.borrow_mut().take().unwrap();
    bytes.push(7);
    driver.submit(sock, Op::Send(Buf::new(bytes, &driver.buffers)));
    let _ = driver.enter(Wait::No).unwrap();
    peer.set_nonblocking(true).unwrap();
    let mut room = vec![0; 1 << 16];
    while peer.read(&mut room).is_ok_and(|count| count > 0) {}

    let until = Instant::now() + Duration::from_secs(5);
    let mut completion = None;
    while completion.is_none() {
        assert!(
            Instant::now() < until,
            "the send waits for an edge that has passed"
        );
        driver.turn(Some(until)).unwrap();
        completion = driver.next();
    }
    assert!(matches!(completion.unwrap().done, Done::Sent));
}

#[test]
fn what_is_let_go_has_all_its_bytes() {
    let driver = Uring::new(Waker::new().unwrap(), limits(4, 4)).unwrap();
    assert_what_is_let_go_has_all_its_bytes(driver);
}

#[test]
fn much_is_received_at_once() {
    let driver = Uring::new(Waker::new().unwrap(), limits(1, 4)).unwrap();
    assert_much_is_received_at_once(driver);
}

#[test]
fn what_is_let_go_is_not_watched() {
    let driver = Uring::new(Waker::new().unwrap(), limits(4, 4)).unwrap();
    assert_what_is_let_go_is_not_watched(driver);
}

#[test]
fn adopted_clients_are_like_accepted_ones() {
    let driver = Uring::new(Waker::new().unwrap(), limits(4, 4)).unwrap();
    assert_adopted_clients_are_like_accepted_ones(driver, |driver, sock| {
        net::has_nodelay(&driver.sockets.get(sock).descriptor.fd)
    });
}

/// Receives that stand in line for buffers are called off like those that the kernel has, and so are those that it has
/// just sent back for want of one.
#[test]
fn a_receive_that_waits_for_a_buffer_can_be_called_off() {
    const SOCKETS: usize = 600;
    let mut driver = Uring::new(Waker::new().unwrap(), limits(1, 1)).unwrap();
    let (mut peers, mut open) = (Vec::new(), Vec::new());
    for _ in 0..SOCKETS {
        let (mut peer, ours) = UnixStream::pair().unwrap();
        peer.write_all(b"bytes").unwrap();
        ours.set_nonblocking(true).unwrap();
        let sock = driver.adopt_client(ours.into());
        driver.submit(sock, Op::Recv);
        peers.push(peer);
        open.push(sock);
    }
    driver.turn(Some(Instant::now())).unwrap();
    // Whoever has bytes keeps its buffer. What has ended otherwise is looked at only when half of them were called off.
    for sock in &open[..SOCKETS / 2] {
        driver.cancel(*sock, Lane::Read);
    }
    let mut held = Vec::new();
    let mut told = 0;
    let mut hear = |driver: &mut Uring, until: usize| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while told < until {
            assert!(
                Instant::now() < deadline,
                "only {told} of {until} have ended"
            );
            driver.turn(Some(Instant::now())).unwrap();
            while let Some(completion) = driver.next() {
                told += 1;
                match completion.done {
                    Done::Received(buf) => held.push((completion.sock, buf)),
                    Done::Failed(Errno(libc::ECANCELED)) => {
                        let mut ours = UnixStream::from(driver.let_go(completion.sock));
                        let mut bytes = [0; 5];
                        ours.read_exact(&mut bytes).unwrap();
                        assert_eq!(bytes, *b"bytes");
                    }
                    done => panic!("{done:?}"),
                }
            }
        }
    };
    hear(&mut driver, SOCKETS / 2);
    for sock in &open[SOCKETS / 2..] {
        if driver.sockets.is_open(*sock) && !matches!(driver.sockets.get(*sock).read, Read::Idle) {
            driver.cancel(*sock, Lane::Read);
        }
    }
    hear(&mut driver, SOCKETS);
    assert!(
        held.len() < SOCKETS / 2,
        "there were buffers for {}",
        held.len()
    );
}
