//! `/requests`, `/status` and the status page. What clients send is told to those who may command only, whatever the mode
//! of the socket's file has become.

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use spliceway_common::sys::namespace::effective_ids;

use super::asker::is_asked_by_a_near_name;
use super::commanding::Operator;
use super::{failed, of, of_text};
use crate::observe::Observed;
use crate::observe::page::{self, Audience};
use crate::observe::requests::{AnswerRoom, OthersAsk, Which};
use crate::shown::{Shown, ascii_of_json};

/// How much is shown of a query that is not understood.
const WORD_CHARS_MAX: usize = 64;

/// An answer, and its room until it is sent, or nobody waits for it any more.
struct Answer {
    json: String,
    _room: AnswerRoom,
}

impl AsRef<[u8]> for Answer {
    fn as_ref(&self) -> &[u8] {
        self.json.as_bytes()
    }
}

/// What the query asks for, if it may be told to whoever asks.
pub(super) async fn answer(
    observed: &Observed,
    operator: &Operator,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    if !operator.may_command() {
        return for_others(operator.user());
    }
    if !is_asked_by_a_near_name(request.headers()) {
        return under_a_name();
    }
    let which = match Which::of_query(request.uri().query()) {
        Ok(which) => which,
        Err(word) => {
            let word = Shown::line(word.as_bytes(), WORD_CHARS_MAX);
            let line = format!("{word} asks for nothing: there are route=NAME and idle\n");
            return of_text(StatusCode::BAD_REQUEST, line);
        }
    };
    let (requests, mut room) = match observed.requests(&which).await {
        Ok(told) => told,
        Err(OthersAsk) => return others_ask(),
    };
    match requests.into_json().await {
        Ok(json) => {
            room.shrink_to(json.len());
            let body = Bytes::from_owner(Answer { json, _room: room });
            of(StatusCode::OK, "application/json", body)
        }
        Err(error) => failed(&error),
    }
}

/// Events tell what clients have sent: they are for those who may see that.
pub(super) fn status(observed: &Observed, audience: Audience) -> Response<Full<Bytes>> {
    let mut status = observed.status();
    if audience == Audience::Everybody {
        status.events.clear();
    }
    of_json(&status)
}

/// The same for everybody.
pub(super) fn page() -> Response<Full<Bytes>> {
    let mut response = of(StatusCode::OK, page::CONTENT_TYPE, page::document());
    page::guard(response.headers_mut());
    response
}

/// What the page asks for.
pub(super) async fn page_figures(observed: &Observed, audience: Audience) -> Response<Full<Bytes>> {
    match observed.page_figures(audience).await {
        Ok(json) => {
            let mut response = of(StatusCode::OK, "application/json", json);
            page::guard(response.headers_mut());
            response
        }
        Err(error) => failed(&error),
    }
}

/// In ASCII: it may have words of others, and curl shows it.
fn of_json(value: &impl serde::Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_string(value) {
        Ok(json) => {
            let ascii = ascii_of_json(&json);
            of(StatusCode::OK, "application/json", ascii.into())
        }
        Err(error) => failed(&error),
    }
}

fn for_others(user: String) -> Response<Full<Bytes>> {
    let (ours, _) = effective_ids();
    let line = format!(
        "user {user} may not see what clients send (ask as root, or as user {ours}, as whom the daemon runs)\n"
    );
    of_text(StatusCode::FORBIDDEN, line)
}

fn under_a_name() -> Response<Full<Bytes>> {
    of_text(
        StatusCode::FORBIDDEN,
        "what clients send is not told under a name with dots, which could be another's that leads here (ask for \
         localhost, or an address)\n"
            .to_owned(),
    )
}

fn others_ask() -> Response<Full<Bytes>> {
    of_text(
        StatusCode::SERVICE_UNAVAILABLE,
        "others ask, and wait for workers that do not turn, or do not read their answers: ask again\n"
            .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use tokio::runtime;

    use super::super::tests;
    use super::*;
    use crate::backend::Published;

    /// Others wait for the room, and have it when the answer is sent.
    #[test]
    fn answers_that_nobody_reads_are_bounded() {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let alive = Arc::new(AtomicBool::new(true));
        let observed = tests::observed(&alive, &Arc::new(Published::new(|| {})));
        runtime.block_on(async {
            let ask = async || observed.requests(&Which::default()).await;
            let (_, long) = ask().await.expect("there is room");
            let (_, mut short) = ask().await.expect("there is room for two");
            assert!(ask().await.is_err(), "there is no room for three");
            short.shrink_to(100);
            // Not for a whole one beside a short one, either.
            assert!(ask().await.is_err(), "there is no room for another one");
            drop(Bytes::from_owner(Answer {
                json: "{}".to_owned(),
                _room: long,
            }));
            for _ in 0..3 {
                let (_, room) = ask().await.expect("there is room again");
                drop(room);
            }
            drop(short);
        });
    }

    #[test]
    fn no_json_drives_a_terminal() {
        use http_body_util::BodyExt;

        let runtime = runtime::Builder::new_current_thread().build().unwrap();
        let text = "\u{9b}31m\u{7f}\u{202e}\u{e9}";
        let body = runtime.block_on(of_json(&text).into_body().collect());
        let body = body.unwrap().to_bytes();
        assert!(body.iter().all(|byte| (b' '..=b'~').contains(byte)));
        assert_eq!(serde_json::from_slice::<String>(&body).unwrap(), text);
    }
}
