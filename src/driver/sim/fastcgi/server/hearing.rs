//! What the proxy gives a server, which is judged as it comes: requests as their clients made them, and fences.

use std::mem;

use super::super::super::scenario::{GENERATIONS_MAX, marker};
use super::super::Name;
use super::super::client::{ASKED, Course};
use super::super::records::{BEGIN, DATA, GET_VALUES, PARAMS, Record, STDIN, pairs};
use super::{Found, Heard, Ledger, Role, Server, When};

impl Server {
    /// Judges what the proxy gives it, which begins at `at`; the proxy has `taken` so much.
    pub(in super::super) fn hear(
        &mut self,
        me: usize,
        bytes: &[u8],
        at: u64,
        taken: u64,
        ledger: &mut Ledger,
    ) {
        if self.records.left() == 0 && !self.is_early {
            self.judge_reuse(taken);
        }
        self.records.push(bytes);
        let end = at + bytes.len() as u64;
        loop {
            let next = self.records.next();
            rule!(
                "backend_gets_requests",
                next.is_ok(),
                "upstream {me} gets version {next:?}"
            );
            let Ok(Some(record)) = next else {
                return;
            };
            let behind = end - self.records.left() as u64;
            self.hear_record(me, record, behind, taken, ledger);
        }
    }

    fn judge_reuse(&self, taken: u64) {
        if let Heard::Fence = self.heard {
            rule!(
                "settled_before_reuse",
                self.is_settled(taken) && !self.is_unclean,
                "request {:?} is over, and the proxy has {taken} bytes of {:?} and {:?}",
                self.current,
                self.ended_at,
                self.settled_at
            );
        }
    }

    fn hear_record(
        &mut self,
        me: usize,
        record: Record,
        behind: u64,
        taken: u64,
        ledger: &mut Ledger,
    ) {
        let has_ended = self.is_ended(taken);
        match (&self.heard, record.kind) {
            (Heard::Nothing | Heard::Fence, BEGIN) => {
                self.judge_reuse(taken);
                self.begin(me, record.id, &record.content, ledger);
                self.begun_at = behind - record.wire_len() as u64;
            }
            (Heard::Params { id, .. }, PARAMS) if *id == record.id => {
                self.hear_params(me, record, behind, ledger);
            }
            (Heard::Body { id, .. }, STDIN) if *id == record.id => {
                self.hear_body(me, &record, behind, ledger);
            }
            (Heard::Data { id, .. }, DATA) if *id == record.id => {
                self.hear_data(me, &record, behind, ledger);
            }
            (Heard::Request, GET_VALUES) if record.id == 0 && record.padding == 0 => {
                rule!(
                    "fence_for_the_proven",
                    has_ended || ledger.may_be_asked_early(self.endpoint),
                    "upstream {me} gets the fence before the end of its answer"
                );
                self.hear_fence(me, &record.content, behind);
            }
            (Heard::Nothing, GET_VALUES) if record.id == 0 && record.padding == 0 => {
                rule!(
                    "fence_for_the_proven",
                    ledger.may_be_asked_first(self.endpoint),
                    "upstream {me} gets the fence before its first request"
                );
                self.hear_fence(me, &record.content, behind);
            }
            // The first one proved nothing.
            (Heard::Fence, GET_VALUES) if self.is_early && has_ended => {
                (self.is_early, self.settled_at) = (false, None);
                self.found.push_back((behind, Found::Fence));
            }
            (heard, kind) => rule!(
                "backend_gets_requests",
                false,
                "upstream {me}: a record {kind} of request {} in {heard:?} of {:?}",
                record.id,
                self.current
            ),
        }
    }

    fn hear_params(&mut self, me: usize, record: Record, behind: u64, ledger: &mut Ledger) {
        let Heard::Params {
            id,
            keep,
            role,
            content,
        } = &mut self.heard
        else {
            unreachable!("parameters come here")
        };
        if !record.content.is_empty() {
            content.extend(record.content);
            return;
        }
        let (id, keep, role, content) = (*id, *keep, *role, mem::take(content));
        self.head(me, (id, keep, role), &content, ledger);
        self.heard = Heard::Body { id, keep, at: 0 };
        self.found.push_back((behind, Found::Head));
    }

    fn hear_body(&mut self, me: usize, record: &Record, behind: u64, ledger: &Ledger) {
        let Heard::Body { id, keep, at } = &mut self.heard else {
            unreachable!("a body comes here")
        };
        let request = &ledger.entry(self.current).request;
        if !record.content.is_empty() {
            rule!(
                "backend_gets_requests",
                request.body[*at..].starts_with(&record.content),
                "upstream {me}: another body of {} behind byte {at}",
                request.name
            );
            *at += record.content.len();
            return;
        }
        rule!(
            "backend_gets_requests",
            *at == request.body.len() && record.padding == 0 && request.course != Course::Malformed,
            "upstream {me}: the body of {} ends at byte {at} with {} bytes of padding",
            request.name,
            record.padding
        );
        let is_filter = request.role == Role::Filter;
        self.heard = match (is_filter, *keep) {
            (true, _) => Heard::Data { id: *id, at: 0 },
            (false, true) => Heard::Request,
            (false, false) => Heard::Last,
        };
        if !is_filter {
            self.found.push_back((behind, Found::BodyEnd));
        }
    }

    fn hear_data(&mut self, me: usize, record: &Record, behind: u64, ledger: &Ledger) {
        let Heard::Data { at, .. } = &mut self.heard else {
            unreachable!("a filter's data come here")
        };
        let request = &ledger.entry(self.current).request;
        if !record.content.is_empty() {
            rule!(
                "backend_gets_requests",
                request.data[*at..].starts_with(&record.content),
                "upstream {me}: other data of {} behind byte {at}",
                request.name
            );
            *at += record.content.len();
            return;
        }
        rule!(
            "backend_gets_requests",
            *at == request.data.len() && record.padding == 0,
            "upstream {me}: the data of {} ends at byte {at} with {} bytes of padding",
            request.name,
            record.padding
        );
        self.heard = Heard::Last;
        self.found.push_back((behind, Found::BodyEnd));
    }

    fn hear_fence(&mut self, me: usize, content: &[u8], behind: u64) {
        let asked = pairs(content);
        rule!(
            "backend_gets_requests",
            asked == Some(vec![(ASKED.to_vec(), Vec::new())]),
            "upstream {me}: another fence: {asked:?}"
        );
        self.heard = Heard::Fence;
        self.found.push_back((behind, Found::Fence));
    }

    fn is_ended(&self, taken: u64) -> bool {
        self.ended_at.is_some_and(|at| at <= taken)
    }

    fn begin(&mut self, me: usize, id: u16, content: &[u8], ledger: &mut Ledger) {
        self.requests += 1;
        self.begun_in = ledger.endpoints[self.endpoint].state();
        if self.requests > 1 {
            ledger.reused(self.endpoint);
        }
        let role = content.get(1).copied().unwrap_or_default();
        let with = |keep| [0, role, u8::from(keep), 0, 0, 0, 0, 0];
        let keep = content == with(true);
        rule!(
            "backend_gets_requests",
            keep || content == with(false),
            "upstream {me}: request {} begins with {content:?}",
            self.requests
        );
        self.heard = Heard::Params {
            id,
            keep,
            role,
            content: Vec::new(),
        };
        (self.current, self.when) = (None, When::Done);
        (self.is_asked, self.is_unclean, self.is_early) = (false, false, false);
        (self.ended_at, self.settled_at) = (None, None);
        (self.settling_since, self.resting_since) = (None, None);
    }

    fn head(
        &mut self,
        me: usize,
        (id, keep, role): (u16, bool, u8),
        params: &[u8],
        ledger: &mut Ledger,
    ) {
        let mut params = pairs(params).unwrap_or_default();
        let name = params.iter().find(|(name, _)| name == b"SIM_REQUEST");
        let name = name.and_then(|(_, name)| ledger.find(name));
        rule!(
            "backend_gets_requests",
            name.is_some(),
            "upstream {me}: a request that nobody made: {params:?}"
        );
        let name = name.expect("it was just seen");
        let generation = take_markers(&mut params, me);
        let begun_by = self.judge_rules(me, name, generation, ledger);
        let (may_keep, must_keep) = ledger.is_kept_after(self.requests, self.endpoint, begun_by);
        let must_keep = must_keep && !ledger.is_doubtful(self.endpoint);
        self.is_last = !may_keep;
        let request = &ledger.entry(Some(name)).request;
        rule!(
            "backend_gets_requests",
            !keep || may_keep,
            "upstream {me} is to keep its connection behind request {}",
            self.requests
        );
        rule!(
            "denied_stays_out",
            request.course != Course::Denied,
            "upstream {me} gets {name}"
        );
        rule!(
            "backend_gets_requests",
            request.id == id && request.role as u8 == role && request.params == params,
            "upstream {me}: {name} is given as request {id} in role {role} with {params:?}"
        );
        let says_length = params.iter().any(|(name, _)| name == b"CONTENT_LENGTH");
        rule!(
            "kept_if_certain",
            match (request.role, keep) {
                (Role::Filter, _) => !keep,
                (_, true) => says_length || request.body.is_empty(),
                (_, false) => !must_keep || !says_length,
            },
            "upstream {me} is to keep its connection: {keep}; length said: {says_length}"
        );
        self.current = Some(name);
        let route = ledger.endpoints[self.endpoint].route;
        ledger.begun(name, me, route, self.is_spoilt);
    }

    /// By which rules the request may have begun, at the earliest.
    fn judge_rules(
        &self,
        me: usize,
        name: Name,
        served_by: Option<usize>,
        ledger: &mut Ledger,
    ) -> usize {
        let now = ledger.rules_in_effect(self.endpoint);
        let entry = ledger.entry(Some(name));
        let begun_by = entry.begun_by.unwrap_or(now);
        let Some(served_by) = served_by else {
            return begun_by;
        };
        let first = name
            .before()
            .map(|before| ledger.entry(Some(before)).served_by);
        let least = first.flatten().unwrap_or_default().max(begun_by);
        rule!(
            "one_configuration",
            (least..=now).contains(&served_by) && entry.served_by.is_none_or(|by| by == served_by),
            "upstream {me}: {name} is served by rules {served_by}, and not by some from {least} to {now}, or by {:?} as \
             before",
            entry.served_by
        );
        rule!(
            "one_configuration",
            self.requests > 1 || self.made_by == Some(served_by),
            "upstream {me}: {name} is served by rules {served_by} on a connection made by {:?}",
            self.made_by
        );
        ledger.entry_mut(Some(name)).served_by = Some(served_by);
        begun_by
    }
}

/// Takes out what tells by which rules a request is served: the only one that is not there. `None`: nothing tells.
fn take_markers(params: &mut Vec<(Vec<u8>, Vec<u8>)>, me: usize) -> Option<usize> {
    let all: Vec<_> = (0..GENERATIONS_MAX).map(marker).collect();
    let is_marker = |name: &[u8]| all.iter().any(|marker| marker.as_bytes() == name);
    let markers = params.extract_if(.., |(name, _)| is_marker(name));
    let there: Vec<_> = markers.map(|(name, _)| name).collect();
    if there.is_empty() {
        return None;
    }
    let is_left_out = |generation: &usize| {
        let marker = &all[*generation];
        !there.iter().any(|name| name == marker.as_bytes())
    };
    let left_out: Vec<_> = (0..GENERATIONS_MAX).filter(is_left_out).collect();
    rule!(
        "one_configuration",
        left_out.len() == 1,
        "upstream {me} is given a request by rules {left_out:?}"
    );
    left_out.first().copied()
}
