//! Clients that leave in the midst of a head, and those that will want no place any more.

use super::*;

fn wanting(process: &Process) -> u64 {
    process.counters.route.wanting()
}

/// So that the worker has read what has come before.
fn ask(door: &Door, number: usize) -> Box<dyn Stream> {
    let mut client = door.connect();
    let uri = uri(number, 0);
    client.write_all(&request(&uri)).unwrap();
    read_answer(&mut client, &uri);
    client
}

#[test]
fn half_a_head_goes_over_wherever_it_is_cut() {
    on_both_engines(|engine| {
        for (door, listener) in doors() {
            let (endpoint, heard) = backend(serve_pages);
            let plan = || Plan {
                limit: queue_of(Some(1)),
                ..Plan::new(endpoint, fastcgi())
            };
            let before = Plan {
                listener: Some(listener),
                ..plan()
            };
            let mut before = Process::start(engine, before);
            let after = Process::start(engine, plan());
            // A whole head is a request, which stays: its end is behind it.
            let cuts: Vec<_> = (0..request(&uri(0, 0)).len() - HEADER_LEN).collect();
            let mut clients: Vec<_> = cuts.iter().map(|_| door.connect()).collect();
            for (number, (client, cut)) in clients.iter_mut().zip(&cuts).enumerate() {
                client.write_all(&request(&uri(number, 0))[..*cut]).unwrap();
            }
            let count = clients.len() as u64;
            wait_until("all are there", || before.accepted() == count);
            let other = ask(&door, 999);
            let _told = before.let_go_to(&after);
            before.drain();
            before.wait_for_end();
            assert_eq!(wanting(&before), 0);
            for (number, (client, cut)) in clients.iter_mut().zip(&cuts).enumerate() {
                let uri = uri(number, 0);
                client.write_all(&request(&uri)[*cut..]).unwrap();
                read_answer(client, &uri);
            }
            drop(other);
            after.end();
            assert_eq!(heard.all().len(), 1 + clients.len());
        }
    });
}

#[test]
fn a_request_that_is_pipelined_behind_one_that_runs_goes_over_with_its_client() {
    on_both_engines(|engine| {
        let (door, listener) = Door::unix();
        let (let_answer, may_answer) = channel();
        let first = Mutex::new(Some(may_answer));
        let (endpoint, heard) = backend(move |stream, heard| {
            let waits: Option<Receiver<()>> = first.lock().unwrap().take();
            if let Some(may_answer) = waits {
                heard.hear(String::from("begun"));
                may_answer.recv_timeout(PATIENCE).unwrap();
            }
            serve_pages(stream, heard);
        });
        let plan = || Plan {
            limit: queue_of(Some(1)),
            ..Plan::new(endpoint, fastcgi())
        };
        let before = Plan {
            listener: Some(listener),
            ..plan()
        };
        let mut before = Process::start(engine, before);
        let after = Process::start(engine, plan());
        let mut client = door.connect();
        let both = [uri(0, 0), uri(0, 1)];
        let bytes = [request(&both[0]), request(&both[1])].concat();
        client.write_all(&bytes).unwrap();
        heard.wait_for(1);
        let _told = before.let_go_to(&after);
        before.drain();
        assert_eq!(wanting(&before), 1);
        let_answer.send(()).unwrap();
        read_answer(&mut client, &both[0]);
        read_answer(&mut client, &both[1]);
        before.wait_for_end();
        assert_eq!(before.ended_as(Outcome::HandedOver), 1);
        assert_eq!(after.accepted(), 1);
        after.end();
    });
}

/// Answers each request with as large a page as the number in its URI says.
fn serve_sizes(mut stream: TcpStream, heard: &Heard) {
    let mut params = Vec::new();
    while let Some((header, content)) = read_record(&mut stream) {
        match header.kind {
            Kind::Params => params.extend(content),
            Kind::Stdin if header.content_len == 0 => {
                let at = params.windows(2).position(|bytes| bytes == b"/r").unwrap();
                let uri = String::from_utf8(params[at..][..URI_LEN].to_vec()).unwrap();
                let size: usize = uri.rsplit('-').next().unwrap().parse().unwrap();
                params.clear();
                let headers = b"Content-Type: text/plain\r\n\r\n";
                let page = [headers, &vec![b'x'; size][..], uri.as_bytes()].concat();
                let mut answer = Vec::new();
                push_stream(&mut answer, Kind::Stdout, id(), &page);
                let end = EndRequest {
                    app_status: 0,
                    protocol_status: ProtocolStatus::RequestComplete,
                };
                push_record(&mut answer, Kind::EndRequest, id(), &end.encode());
                // Who does not read at all may be given up.
                if stream.write_all(&answer).is_err() {
                    return;
                }
                heard.hear(uri);
            }
            _ => {}
        }
    }
}

/// Of answers of all sizes that nobody reads, some are the client's, some are the worker's, which has nothing more to
/// hear of a server, and some are not.
#[test]
fn one_whose_server_is_done_wants_no_place_any_more() {
    const SIZES: usize = 80;
    const STEP: usize = 8 << 10;
    on_both_engines(|engine| {
        let (door, listener) = Door::unix();
        let (endpoint, _) = backend(serve_sizes);
        let plan = || Plan {
            limit: queue_of(None),
            ..Plan::new(endpoint, fastcgi())
        };
        let before = Plan {
            listener: Some(listener),
            ..plan()
        };
        let mut before = Process::start(engine, before);
        let after = Process::start(engine, plan());
        let uris = (1..=SIZES).map(|number| uri(number, number * STEP));
        let clients = uris.map(|uri| {
            let mut client = door.connect();
            client.write_all(&request(&uri)).unwrap();
            (client, uri)
        });
        let clients: Vec<_> = clients.collect();
        let count = SIZES as u64;
        wait_until("all are there", || before.accepted() == count);
        assert_eq!(wanting(&before), count, "no client leaves");
        let _told = before.let_go_to(&after);
        before.drain();
        wait_until("some are to take their answers, and nothing else", || {
            // In this order: what has left meanwhile is no session.
            let wanting = wanting(&before);
            wanting < count - before.ended_as(Outcome::HandedOver)
        });
        for (mut client, uri) in clients {
            read_answer(&mut client, &uri);
        }
        before.wait_for_end();
        assert_eq!(wanting(&before), 0);
        assert_eq!(before.ended_as(Outcome::HandedOver), count);
        after.end();
    });
}

#[test]
fn where_bytes_stay_one_that_is_let_go_while_it_is_served_leaves_when_it_has_its_answer() {
    on_both_engines(|engine| {
        let (door, listener) = Door::unix();
        let (endpoint, _) = backend(serve_pages);
        let plan = || Plan {
            limit: queue_of(None),
            ..Plan::new(endpoint, fastcgi())
        };
        let before = Plan {
            listener: Some(listener),
            ..plan()
        };
        let mut before = Process::start(engine, before);
        let mut after = Process::start(engine, plan());
        after.takes_read = false;
        let mut client = door.connect();
        // A part of its first request: it is no more at rest.
        let (first, second) = (uri(0, 0), uri(0, 1));
        let bytes = request(&first);
        client.write_all(&bytes[..11]).unwrap();
        wait_until("it is accepted", || before.accepted() == 1);
        // So that the worker has read what has come: it looks at its mailbox behind that.
        let mut other = door.connect();
        let question = uri(1, 0);
        other.write_all(&request(&question)).unwrap();
        read_answer(&mut other, &question);
        let _told = before.let_go_to(&after);
        before.drain();
        wait_until("the other one has gone", || after.accepted() == 1);
        assert!(!before.is_over(), "a request has begun there");
        // The rest of it, and a second one right behind it, which the first process may or may not take as well.
        client
            .write_all(&[&bytes[11..], &request(&second)].concat())
            .unwrap();
        read_answer(&mut client, &first);
        read_answer(&mut client, &second);
        before.wait_for_end();
        assert_eq!(before.ended_as(Outcome::HandedOver), 2);
        let third = uri(0, 2);
        client.write_all(&request(&third)).unwrap();
        read_answer(&mut client, &third);
        after.end();
    });
}
