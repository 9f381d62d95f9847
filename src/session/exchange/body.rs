//! The way to the server: the head, which was written when the request was given to it, and the body.

use std::mem;

use crate::driver::{Done, Driver, Op};
use crate::fastcgi::{ClientEnd, FENCE, Pass, RequestEvent};
use crate::session::bulk::{self, Resume};
use crate::session::pool::Keeping;
use crate::session::{Context, Ending};

use super::client::{ClientSide, Inbox, Replay, Request};
use super::serving::{Answer, Became, Serving};

/// How far the request is on its way to the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sending {
    /// It waits for the client.
    Idle,
    /// A send is in flight, of a full buffer or not.
    Busy { full: bool },
    /// A wait for room: more of a record waits in a pipe.
    Splicing,
    /// The last send is in flight: the end of the request and, if the connection is to be kept, the
    /// fence.
    Last,
    /// All of it was sent.
    Done,
    /// The server takes no more. It may have answered all the same.
    Broken,
}

impl<D: Driver> Serving<D> {
    /// Sends what is there of the request behind its head. When it is sent again, that may be all of it.
    pub(super) fn begin(&mut self, client: &mut ClientSide, cx: &mut Context<'_, D>) -> Became {
        if client.request == Request::Streaming {
            return self.read_body(client, cx);
        }
        self.send_on(client, cx);
        Became::Going
    }

    /// Takes what is there of the body to the server. While a send is in flight, nothing more is read. From a server
    /// that takes no more the body is read all the same, and thrown away, but for the copy that could be sent again.
    pub(super) fn read_body(&mut self, client: &mut ClientSide, cx: &mut Context<'_, D>) -> Became {
        loop {
            if matches!(self.sending, Sending::Busy { .. } | Sending::Splicing) {
                return Became::Going;
            }
            let taken = match client.next_event(cx) {
                Err(ending) => Err(ending),
                Ok(None) => {
                    client.inbox = None;
                    break;
                }
                Ok(Some(RequestEvent::Body(pass))) => self.take_piece(&pass, client, cx),
                Ok(Some(RequestEvent::BodyEnd)) => match self.body_ended(client, cx) {
                    Ok(()) => {
                        client.drop_inbox_if_read();
                        break;
                    }
                    Err(ending) => Err(ending),
                },
                Ok(Some(RequestEvent::Abort)) => Err(Ending::Aborted),
                Ok(Some(RequestEvent::Reply(reply))) => {
                    client.reply(&reply, self.is_between_records(), cx)
                }
                // It stays where it is until this one is over, which may have no body: an authorizer's.
                Ok(Some(RequestEvent::Next)) => {
                    self.send_on(client, cx);
                    return Became::Going;
                }
                Ok(Some(RequestEvent::Head)) => unreachable!("the head is complete"),
            };
            if let Err(ending) = taken {
                return Became::End(ending);
            }
        }
        self.send_on(client, cx);
        match self.sending {
            Sending::Idle => {
                client.body_lag.wait(cx.hands.now);
                client.read_on(&mut cx.hands.driver);
            }
            // Nobody takes the body; the answer may still come.
            Sending::Broken if client.reader.end() == ClientEnd::TooEarly => {
                client.read_on(&mut cx.hands.driver);
            }
            Sending::Busy { .. }
            | Sending::Splicing
            | Sending::Last
            | Sending::Done
            | Sending::Broken => {}
        }
        Became::Going
    }

    /// A body of which a piece were missing would be another one, and what follows might be read as records:
    /// where there is no buffer for it, the request ends.
    fn take_piece(
        &mut self,
        pass: &Pass,
        client: &mut ClientSide,
        cx: &mut Context<'_, D>,
    ) -> Result<(), Ending> {
        let Some(inbox) = &mut client.inbox else {
            unreachable!("a piece was read from what was received")
        };
        let (lead, range) = (pass.lead(), pass.range());
        let bytes = &inbox.buf[range.clone()];
        // Though this server may not take it: another one would get all of the body.
        client.replay.keep(lead, bytes);
        if self.sending == Sending::Broken {
            return Ok(());
        }
        match &mut self.outbox {
            Some(outbox) => {
                outbox.extend(lead);
                outbox.extend(bytes);
            }
            // As it came, without being copied.
            None if lead.is_empty() && range.end == inbox.buf.len() => {
                let Inbox { mut buf, .. } = client.inbox.take().expect("it was just seen");
                buf.keep(range);
                self.outbox = Some(buf);
            }
            None => {
                let mut outbox = cx.hands.driver.lend()?;
                outbox.extend(lead);
                outbox.extend(bytes);
                self.outbox = Some(outbox);
            }
        }
        Ok(())
    }

    fn body_ended(
        &mut self,
        client: &mut ClientSide,
        cx: &mut Context<'_, D>,
    ) -> Result<(), Ending> {
        client.request = match client.reader.body_missing() {
            0 => Request::Whole,
            _ => Request::Short,
        };
        let is_asked =
            client.request == Request::Whole && self.keeping == Keeping::FenceWithRequest;
        if !is_asked || self.sending == Sending::Broken {
            return Ok(());
        }
        match &mut self.outbox {
            Some(outbox) => outbox.extend(&FENCE),
            None => {
                let mut outbox = cx.hands.driver.lend()?;
                outbox.extend(&FENCE);
                self.outbox = Some(outbox);
            }
        }
        Ok(())
    }

    fn send_on(&mut self, client: &ClientSide, cx: &mut Context<'_, D>) {
        if self.sending != Sending::Idle {
            return;
        }
        let is_last = client.request != Request::Streaming;
        let Some(outbox) = self.outbox.take() else {
            if is_last {
                self.all_sent(client.request, &mut cx.hands.driver);
            }
            return;
        };
        self.sent += outbox.len() as u64;
        self.unwritten = outbox.len();
        self.sending = match is_last {
            true => Sending::Last,
            false => Sending::Busy {
                full: outbox.is_full(),
            },
        };
        cx.hands.driver.submit(self.open.sock, Op::Send(outbox));
    }

    fn all_sent(&mut self, request: Request, driver: &mut D) {
        self.sending = Sending::Done;
        if request == Request::Short {
            driver.shutdown_write(self.open.sock);
        }
    }

    /// The server's write lane is free again.
    pub(super) fn server_written(
        &mut self,
        done: Done,
        client: &mut ClientSide,
        cx: &mut Context<'_, D>,
    ) -> Became {
        if let Done::Sent = done {
            let written = mem::take(&mut self.unwritten);
            cx.counters.to_backend.copied.add(written as u64);
        }
        match (done, self.sending) {
            (Done::Sent, Sending::Busy { full }) => {
                self.sending = Sending::Idle;
                if full && client.body_may_be_spliced() {
                    return self.splice_body(true, client, cx);
                }
                self.read_body(client, cx)
            }
            (Done::Ready, Sending::Splicing) => {
                self.sending = Sending::Idle;
                self.splice_body(false, client, cx)
            }
            (Done::Sent, Sending::Last) => {
                self.all_sent(client.request, &mut cx.hands.driver);
                self.look_at_end()
            }
            // What it has to say, and its end, a receive tells.
            (Done::Failed(_), _) => self.takes_no_more(client, cx),
            (done, sending) => unreachable!("{done:?} while {sending:?}"),
        }
    }

    fn takes_no_more(&mut self, client: &mut ClientSide, cx: &mut Context<'_, D>) -> Became {
        self.sending = Sending::Broken;
        match self.answer {
            Answer::Ended(_) => self.look_at_end(),
            Answer::Running => self.read_body(client, cx),
        }
    }

    /// The client has more, which may go without being read.
    pub(super) fn more_to_splice(
        &mut self,
        client: &mut ClientSide,
        cx: &mut Context<'_, D>,
    ) -> Became {
        if self.sending == Sending::Idle {
            return self.splice_body(false, client, cx);
        }
        // It is not wanted any more.
        client.read_on(&mut cx.hands.driver);
        Became::Going
    }

    /// Lets the content of large records pass. `first`: they were received until now.
    fn splice_body(
        &mut self,
        first: bool,
        client: &mut ClientSide,
        cx: &mut Context<'_, D>,
    ) -> Became {
        let (server, counters) = (self.open.sock, &cx.counters.to_backend);
        let (held, records) = (&mut self.upload, &mut client.reader);
        let lead = &mut None;
        let pumped = bulk::pump(
            lead,
            held,
            &mut cx.hands.driver,
            client.sock,
            server,
            records,
            counters,
        );
        pumped.count(first, counters);
        self.sent += pumped.taken as u64;
        client.body_lag.moved(
            pumped.taken as u64,
            cx.hands.now,
            cx.policy.timeouts.min_rate,
        );
        if pumped.taken > 0 {
            // Nobody has what went by.
            client.replay = Replay::Spent;
        }
        match pumped.then {
            Resume::Receive => return self.read_body(client, cx),
            Resume::SourceReadable => {
                client.body_lag.wait(cx.hands.now);
                client.wait_to_splice(&mut cx.hands.driver);
            }
            Resume::SinkWritable => {
                cx.hands.driver.submit(server, Op::Writable);
                self.sending = Sending::Splicing;
            }
            Resume::SourceFailed(errno) => return Became::End(Ending::ClientReset(errno)),
            Resume::SinkFailed(_) => return self.takes_no_more(client, cx),
        }
        Became::Going
    }
}
