//! Records as the simulated peers write and read them: apart from `crate::fastcgi`, so that a mistake
//! there is not made twice (specification §3.3, §3.4, §8).

pub(super) const BEGIN: u8 = 1;
pub(super) const ABORT: u8 = 2;
pub(super) const END: u8 = 3;
pub(super) const PARAMS: u8 = 4;
pub(super) const STDIN: u8 = 5;
pub(super) const STDOUT: u8 = 6;
pub(super) const STDERR: u8 = 7;
pub(super) const DATA: u8 = 8;
pub(super) const GET_VALUES: u8 = 9;
pub(super) const GET_VALUES_RESULT: u8 = 10;
pub(super) const UNKNOWN_TYPE: u8 = 11;

const HEADER_BYTES: usize = 8;

/// One whole record.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) kind: u8,
    pub(super) id: u16,
    pub(super) content: Vec<u8>,
    pub(super) padding: usize,
}

/// Appends a record. Its padding is what would be a mistake anywhere else.
pub(super) fn push(out: &mut Vec<u8>, kind: u8, id: u16, content: &[u8], padding: u8) {
    let len = u16::try_from(content.len()).expect("a record is not longer");
    let ([id_high, id_low], [len_high, len_low]) = (id.to_be_bytes(), len.to_be_bytes());
    out.extend([1, kind, id_high, id_low, len_high, len_low, padding, 0]);
    out.extend(content);
    out.extend(std::iter::repeat_n(0xff, usize::from(padding)));
}

/// Appends a name and its value.
pub(super) fn push_pair(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for len in [name.len(), value.len()] {
        match u8::try_from(len) {
            Ok(short) if short < 128 => out.push(short),
            _ => {
                let long = u32::try_from(len).expect("a few bytes") | 0x8000_0000;
                out.extend(long.to_be_bytes());
            }
        }
    }
    out.extend(name);
    out.extend(value);
}

/// The names and values of a whole stream, if that is what it is.
pub(super) fn pairs(stream: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut rest = stream;
    let mut pairs = Vec::new();
    while !rest.is_empty() {
        let mut lens = [0; 2];
        for len in &mut lens {
            let (bytes, behind) =
                rest.split_at_checked(if rest.first()? < &128 { 1 } else { 4 })?;
            *len = bytes
                .iter()
                .fold(0, |len, byte| len << 8 | usize::from(*byte))
                & 0x7fff_ffff;
            rest = behind;
        }
        let (name, behind) = rest.split_at_checked(lens[0])?;
        let (value, behind) = behind.split_at_checked(lens[1])?;
        pairs.push((name.to_vec(), value.to_vec()));
        rest = behind;
    }
    Some(pairs)
}

/// Puts whole records together from a stream in pieces.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// What is no whole record yet.
    rest: Vec<u8>,
}

impl Records {
    /// More of the stream.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.rest.extend(bytes);
    }

    /// The next whole record. `None`: more is needed. An error: this is no FastCGI.
    pub(super) fn next(&mut self) -> Result<Option<Record>, u8> {
        let Some(
            &[
                version,
                kind,
                id_high,
                id_low,
                len_high,
                len_low,
                padding,
                _,
            ],
        ) = self.rest.first_chunk::<HEADER_BYTES>()
        else {
            return Ok(None);
        };
        if version != 1 {
            return Err(version);
        }
        let len = usize::from(u16::from_be_bytes([len_high, len_low]));
        let padding = usize::from(padding);
        if self.rest.len() < HEADER_BYTES + len + padding {
            return Ok(None);
        }
        let whole: Vec<u8> = self.rest.drain(..HEADER_BYTES + len + padding).collect();
        Ok(Some(Record {
            kind,
            id: u16::from_be_bytes([id_high, id_low]),
            content: whole[HEADER_BYTES..HEADER_BYTES + len].to_vec(),
            padding,
        }))
    }

    /// Bytes that are no whole record yet.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }
}

/// What a stream of records says, however it is cut into them: each byte with the kind of its record, and
/// the end of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unit {
    Byte(u8, u8),
    End(u8),
}

/// The units of whole records.
pub(super) fn units(bytes: &[u8]) -> Vec<Unit> {
    let mut records = Records::default();
    records.push(bytes);
    let mut units = Vec::new();
    while let Some(record) = records.next().expect("a stream of records") {
        record.say(&mut units);
    }
    assert_eq!(records.left(), 0, "whole records");
    units
}

impl Record {
    /// Its length with header and padding.
    pub(super) fn wire_len(&self) -> usize {
        HEADER_BYTES + self.content.len() + self.padding
    }

    pub(super) fn say(&self, units: &mut Vec<Unit>) {
        match &self.content[..] {
            [] => units.push(Unit::End(self.kind)),
            content => units.extend(content.iter().map(|byte| Unit::Byte(self.kind, *byte))),
        }
    }
}
