//! One slice of a stream: how far it was read, and what of it goes on.

use super::super::pass::Pass;
use super::Way;
use spliceway_common::fastcgi::{HEADER_LEN, Header};

/// What is read at once, and what of it goes on.
pub(super) struct Slice<'a> {
    input: &'a [u8],
    /// Up to here it was read.
    pub(super) at: usize,
    pub(super) pass: Pass,
    part: Option<PartHere>,
}

/// What of a record is in the slice, if it does not go on as it came.
#[derive(Clone, Copy, Debug, Default)]
struct PartHere {
    /// Where its header is, if all of that is in the slice.
    header_at: Option<usize>,
    /// It goes on even without content: an empty record, of which nothing has gone on.
    is_owed: bool,
    content: usize,
    padding: usize,
}

impl<'a> Slice<'a> {
    pub(super) fn new(input: &'a [u8], at: usize, is_in_parts: bool) -> Self {
        Self {
            input,
            at,
            pass: Pass::from(at),
            part: is_in_parts.then(PartHere::default),
        }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        &self.input[self.at..]
    }

    /// A record begins whose header ends here, and is all in the slice if `whole`.
    pub(super) fn open(&mut self, header: Header, way: Way, whole: bool) {
        match way {
            Way::Kept | Way::Gathered(_) => return,
            Way::Unpadded => return self.pass.replace(part_of(header, 0, 0), self.at),
            Way::AsItCame if !whole => return self.pass.replace(header, self.at),
            Way::AsItCame => {}
            Way::InParts | Way::Whole(_) => {
                self.part = Some(PartHere {
                    header_at: whole.then(|| self.at - HEADER_LEN),
                    is_owed: header.content_len == 0,
                    ..PartHere::default()
                });
            }
            Way::Promised(_) => unreachable!("nothing is promised of what begins"),
        }
        if !whole {
            return self.pass.skip_to(self.at);
        }
        if self.pass.is_empty() {
            self.pass.skip_to(self.at - HEADER_LEN);
        }
        self.pass.reach(self.at);
    }

    fn part(&mut self) -> &mut PartHere {
        self.part.as_mut().expect("the record goes on in parts")
    }

    pub(super) fn add_content(&mut self, len: usize) {
        self.part().content += len;
        self.pass.reach(self.at);
    }

    pub(super) fn add_padding(&mut self, len: usize) {
        self.part().padding += len;
    }

    /// What is here of a record is all that comes of it in this slice, or all of it if that `is_over`.
    pub(super) fn close_part(&mut self, header: Header, is_over: bool) {
        let part = self.part.take().expect("the record goes on in parts");
        let is_nothing = part.content == 0 && !part.is_owed;
        let header = part_of(header, part.content, part.padding);
        match part.header_at {
            // Its rest will have a header of its own.
            Some(header_at) if is_nothing => self.pass.cut(header_at),
            // Nothing but padding, of which the client knows nothing.
            None if is_nothing => self.pass.skip_to(self.at),
            Some(header_at) => {
                self.pass.reach(self.at);
                if !is_over {
                    self.pass.patch_with(header_at, header);
                }
            }
            None => {
                self.pass.reach(self.at);
                self.pass.lead_with(header, &[]);
            }
        }
    }

    /// A record is over that goes on whole.
    pub(super) fn close_whole(&mut self, header: Header, body: [u8; HEADER_LEN]) {
        match self.part.take().and_then(|part| part.header_at) {
            Some(_) => self.pass.reach(self.at),
            None => {
                self.pass.skip_to(self.at);
                self.pass.lead_with(part_of(header, body.len(), 0), &body);
            }
        }
    }

    /// It is not over: nothing of it goes on now.
    pub(super) fn cut_whole(&mut self) {
        if let Some(header_at) = self.part.take().and_then(|part| part.header_at) {
            self.pass.cut(header_at);
        }
    }
}

/// The header of a record that goes on as one of other lengths.
pub(super) fn part_of(header: Header, content: usize, padding: usize) -> Header {
    Header {
        content_len: u16::try_from(content).expect("a part is not longer than its record"),
        padding_len: u8::try_from(padding).expect("a part has no more padding than its record"),
        ..header
    }
}
