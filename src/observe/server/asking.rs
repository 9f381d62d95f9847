//! `/requests`: whoever asks has the workers asked.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Response, StatusCode};

use super::{of_json, of_text};
use crate::observe::Observed;
use crate::observe::requests::{OthersAsk, Which};
use crate::shown::Shown;

/// How much is shown of a query that is not understood.
const WORD_CHARS_MAX: usize = 64;

/// What the query asks for.
pub(super) async fn answer(observed: &Observed, query: Option<&str>) -> Response<Full<Bytes>> {
    let which = match Which::of_query(query) {
        Ok(which) => which,
        Err(word) => {
            let word = Shown::line(word.as_bytes(), WORD_CHARS_MAX);
            let line = format!("{word} asks for nothing: there are route=NAME and idle\n");
            return of_text(StatusCode::BAD_REQUEST, line);
        }
    };
    match observed.requests(&which).await {
        Ok(requests) => of_json(&requests),
        Err(OthersAsk) => of_text(
            StatusCode::SERVICE_UNAVAILABLE,
            "others ask, and wait for workers that do not turn: ask again\n".to_owned(),
        ),
    }
}
