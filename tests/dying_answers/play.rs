//! Answers that end in their midst, and the backend that gives them.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use spliceway::fastcgi::{Header, Kind, RequestId, push_record};

use crate::common::fastcgi::{Heard, end};
use crate::common::{Backend, Conversation, Pattern};

/// Up to where an answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Nothing,
    /// A record with a part of the header block.
    InHead,
    /// A part of a record with a part of the header block.
    InHeadInRecord,
    /// All headers.
    Head,
    /// Half of the content, and then nothing of another record.
    Body,
    /// Half of the content and four bytes of the next record's header.
    InRecordHeader,
    /// Half of the content and a part of the next record's.
    InRecord,
    /// Half of the content, the next record's and half of its padding.
    InPadding,
    /// All content.
    Content,
    /// And the end of STDOUT.
    Stdout,
    /// And a part of END_REQUEST.
    InEnd,
}

impl Place {
    pub(crate) const ALL: [Self; 11] = [
        Self::Nothing,
        Self::InHead,
        Self::InHeadInRecord,
        Self::Head,
        Self::Body,
        Self::InRecordHeader,
        Self::InRecord,
        Self::InPadding,
        Self::Content,
        Self::Stdout,
        Self::InEnd,
    ];

    /// Whether all headers have come.
    pub(crate) const fn has_head(self) -> bool {
        !matches!(self, Self::Nothing | Self::InHead | Self::InHeadInRecord)
    }

    const fn has_content(self) -> bool {
        self.has_head() && !matches!(self, Self::Head)
    }
}

/// How the connection ends then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// As the kernel ends it for a process that is killed and has read everything.
    Close,
    /// As it does for one that has not.
    Reset,
}

impl Death {
    pub(crate) const ALL: [Self; 2] = [Self::Close, Self::Reset];
}

/// How much an answer would have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// Three records of 100 bytes.
    Small,
    /// Four records as long as records can be.
    Wide,
    /// Several megabytes in records of 32 KB.
    Long,
}

impl Size {
    const ALL: [Self; 3] = [Self::Small, Self::Wide, Self::Long];

    /// Records, and the bytes of content in each.
    const fn records(self) -> (usize, usize) {
        match self {
            Self::Small => (4, 100),
            Self::Wide => (4, 0xFFFF),
            Self::Long => (80, 32 << 10),
        }
    }

    pub(crate) const fn bytes(self) -> usize {
        let (count, each) = self.records();
        count * each
    }
}

/// An answer that dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Play {
    pub(crate) place: Place,
    pub(crate) death: Death,
    pub(crate) size: Size,
    /// With Content-Length.
    pub(crate) has_length: bool,
}

/// What is in answers.
pub(crate) const CONTENT: Pattern = Pattern::new(14);

impl Play {
    /// All of them.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for place in Place::ALL {
            // Of the others, the size is only promised.
            let sizes = if place.has_content() {
                &Size::ALL[..]
            } else {
                &Size::ALL[..1]
            };
            for &size in sizes {
                for death in Death::ALL {
                    let plays = [false, true].map(|has_length| Self {
                        place,
                        death,
                        size,
                        has_length,
                    });
                    // Of those that take long, a half.
                    let is_told = |play: &Self| {
                        size != Size::Long || play.has_length == (death == Death::Reset)
                    };
                    all.extend(plays.into_iter().filter(is_told));
                }
            }
        }
        all
    }

    /// Whether a web server may take it for whole, if all of its content has arrived: it is, as far as its
    /// length or the end of its stream says.
    pub(crate) fn may_be_whole(self) -> bool {
        match self.place {
            Place::Content => self.has_length,
            Place::Stdout | Place::InEnd => true,
            _ => false,
        }
    }

    /// What is sent before the end.
    pub(crate) fn bytes(self, id: RequestId) -> Vec<u8> {
        let (count, each) = self.size.records();
        let content = CONTENT.bytes(self.size.bytes() as u64);
        let mut head = b"Content-Type: text/plain\r\n".to_vec();
        if self.has_length {
            head.extend(format!("Content-Length: {}\r\n", content.len()).bytes());
        }
        let mut bytes = Vec::new();
        match self.place {
            Place::Nothing => return bytes,
            Place::InHead => {
                push_record(
                    &mut bytes,
                    Kind::Stdout,
                    id,
                    &[&head, &b"X-Cut: h"[..]].concat(),
                );
                return bytes;
            }
            Place::InHeadInRecord => {
                push_record(&mut bytes, Kind::Stdout, id, &head);
                bytes.truncate(bytes.len() - 10);
                return bytes;
            }
            _ => push_record(
                &mut bytes,
                Kind::Stdout,
                id,
                &[&head, &b"\r\n"[..]].concat(),
            ),
        }
        let records: Vec<_> = content.chunks(each).collect();
        let whole = match self.place {
            Place::Content | Place::Stdout | Place::InEnd => count,
            Place::Head => 0,
            _ => count / 2,
        };
        for record in &records[..whole] {
            push_record(&mut bytes, Kind::Stdout, id, record);
        }
        let next = records.get(whole).copied().unwrap_or_default();
        let end = end(id);
        let (stdout_end, end_request) = end.split_at(8);
        match self.place {
            Place::InRecordHeader => bytes.extend(&padded(id, next)[..4]),
            Place::InRecord => bytes.extend(&padded(id, next)[..8 + next.len() / 2]),
            Place::InPadding => bytes.extend(&padded(id, next)[..8 + next.len() + PADDING / 2]),
            Place::Stdout => bytes.extend(stdout_end),
            Place::InEnd => bytes.extend([stdout_end, &end_request[..12]].concat()),
            _ => {}
        }
        bytes
    }
}

const PADDING: usize = 200;

/// A record with much padding.
fn padded(id: RequestId, content: &[u8]) -> Vec<u8> {
    let header = Header {
        kind: Kind::Stdout,
        request_id: id,
        content_len: content.len().try_into().expect("it fits into a record"),
        padding_len: PADDING.try_into().expect("it is less than 256"),
    };
    [&header.encode(), content, &[0; PADDING]].concat()
}

/// As a path; [`Play::of`] reads it.
impl fmt::Display for Play {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            place,
            death,
            size,
            has_length,
        } = self;
        write!(out, "/dies/{place:?}/{death:?}/{size:?}/{has_length}")
    }
}

impl Play {
    /// The one that a URI asks for.
    fn of(uri: &str) -> Option<Self> {
        let (_, words) = uri.split_once("/dies/")?;
        let mut all = Self::all().into_iter();
        all.find(|play| play.to_string() == format!("/dies/{words}"))
    }
}

/// A backend whose answers die as the URI says, and which counts how often it was asked for each.
pub(crate) struct Mortal {
    pub(crate) backend: Backend,
    asked: Arc<Mutex<HashMap<String, usize>>>,
}

impl Mortal {
    pub(crate) fn start() -> Self {
        let asked = Arc::<Mutex<HashMap<String, usize>>>::default();
        let counted = Arc::clone(&asked);
        let backend = Backend::scripted(move |conversation| {
            while let Some(heard) = conversation.request()? {
                let mut counts = counted.lock().expect("scripts do not panic");
                *counts.entry(heard.uri().to_owned()).or_default() += 1;
                drop(counts);
                if let Some(play) = Play::of(heard.uri()) {
                    return die(conversation, &heard, play);
                }
                conversation.send(&heard.page())?;
                if !heard.keep_conn {
                    break;
                }
            }
            Ok(())
        });
        Self { backend, asked }
    }

    pub(crate) fn times_asked(&self, uri: &str) -> usize {
        let asked = self.asked.lock().expect("scripts do not panic");
        asked.get(uri).copied().unwrap_or(0)
    }
}

fn die(conversation: &mut Conversation, heard: &Heard, play: Play) -> io::Result<()> {
    conversation.send(&play.bytes(heard.id))?;
    match play.death {
        Death::Close => Ok(()),
        Death::Reset => conversation.reset_on_close(),
    }
}
