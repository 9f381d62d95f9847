//! What one buffer of a server's has for the client, and what it says of the connection.

use crate::driver::Buf;
use crate::fastcgi::{Kind, Pass, ResponseError, ResponseEvent, ResponseReader, Settling};

/// What of one buffer goes to the client: one piece, unless something stands in between that does not.
#[derive(Default)]
pub(super) struct Passes {
    first: Option<Pass>,
    others: Vec<Pass>,
}

impl Passes {
    fn push(&mut self, pass: Pass) {
        match self.first {
            None => self.first = Some(pass),
            Some(_) => self.others.push(pass),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Makes of the buffer what goes to the client.
    pub(super) fn apply(self, buf: &mut Buf) {
        for (at, header) in self.iter().filter_map(Pass::patch) {
            buf.overwrite(at, &header);
        }
        match (self.first, &self.others[..]) {
            (Some(pass), []) => {
                buf.keep(pass.range());
                if !pass.lead().is_empty() {
                    buf.prepend(pass.lead());
                }
            }
            (first, others) => {
                let mut all = Vec::with_capacity(buf.len());
                for pass in first.iter().chain(others) {
                    all.extend_from_slice(pass.lead());
                    all.extend_from_slice(&buf[pass.range()]);
                }
                buf.replace(&all);
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Pass> {
        self.first.iter().chain(&self.others)
    }
}

/// What one buffer of a server's has.
#[derive(Default)]
pub(super) struct AnswerPart {
    pub(super) passes: Passes,
    /// Answers to a fence that came before END_REQUEST.
    pub(super) fences: u32,
    /// There is what belongs to no request.
    pub(super) taints: bool,
    /// END_REQUEST is there; this is what stands behind it.
    pub(super) settling: Option<Settling>,
    pub(super) nonsense: Option<ResponseError>,
}

impl AnswerPart {
    pub(super) fn read(response: &mut ResponseReader, bytes: &[u8]) -> Self {
        let (mut part, mut at) = (Self::default(), 0);
        loop {
            match response.next(bytes, &mut at) {
                Err(error) => part.nonsense = Some(error),
                Ok(None) => {}
                Ok(Some(ResponseEvent::Pass(pass))) => {
                    part.passes.push(pass);
                    continue;
                }
                Ok(Some(ResponseEvent::Management(Kind::GetValuesResult))) => {
                    part.fences += 1;
                    continue;
                }
                Ok(Some(ResponseEvent::Management(_))) => {
                    part.taints = true;
                    continue;
                }
                Ok(Some(ResponseEvent::End(_))) => {
                    let mut settling = Settling::new();
                    settling.read(&bytes[at..]);
                    part.settling = Some(settling);
                }
            }
            return part;
        }
    }

    /// More of the answer is to come.
    pub(super) fn is_unfinished(&self) -> bool {
        self.settling.is_none() && self.nonsense.is_none()
    }
}
