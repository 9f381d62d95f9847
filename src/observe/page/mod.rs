//! The status page: what an operator opens first when a site is slow.
//!
//! ```text
//!   page.html + page.css + page.js ─▶ one document, the same for everybody
//!   Status + a look at sessions ─▶ troubles, figures ─▶ page.json, every two seconds
//! ```
//!
//! Nothing that others chose is ever in the document, so there is nothing in it to be escaped: names, addresses, URIs
//! and events come as JSON, and the script puts them in as text. The Content-Security-Policy names the style and the
//! script by their hashes, and lets the page do nothing but ask for its figures.

mod figures;
mod slowest;
mod troubles;

use std::sync::LazyLock;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{
    CONTENT_SECURITY_POLICY, HeaderMap, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Observed;
use crate::shown::ascii_of_json;
use figures::Figures;
use slowest::Slowest;

/// Where the page is.
pub(super) const PATH: &str = "/";

/// Where its figures are. The page asks for them relative to itself, so that it works behind a prefix of a reverse
/// proxy's.
pub(super) const FIGURES_PATH: &str = "/page.json";

/// What the page is sent as.
pub(super) const CONTENT_TYPE: &str = "text/html; charset=utf-8";

/// For so long one answer is given to all pages, and sessions are not looked at again: however many pages there are, they
/// cost no more than one that asks once a second.
const AGE_MAX: Duration = Duration::from_secs(1);

/// A look that is older is not shown: others have had workers tell all the time, or those do not turn.
const LOOK_AGE_MAX: Duration = Duration::from_secs(5);

const HTML: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// What the page and its headers are.
struct Document {
    html: Bytes,
    policy: HeaderValue,
}

static DOCUMENT: LazyLock<Document> = LazyLock::new(|| {
    let html = HTML
        .replace("/*STYLE*/", STYLE)
        .replace("/*SCRIPT*/", SCRIPT);
    let policy = HeaderValue::from_str(&policy()).expect("hashes are ASCII");
    Document {
        html: html.into(),
        policy,
    }
});

/// Who looks at the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    /// Whoever reaches the metrics address: no more than the metrics have, and nothing of clients.
    Everybody,
    /// Those who may see what clients send.
    Trusted,
}

/// What pages were told last.
#[derive(Default)]
pub(crate) struct PageCache(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// What sessions did, and when they were looked at.
    looked: Option<(Instant, Slowest)>,
    /// Sessions are not looked at before this time.
    look_again_at: Option<Instant>,
    /// The answers, and when they were made.
    everybody: Option<(Instant, Bytes)>,
    trusted: Option<(Instant, Bytes)>,
}

/// The page.
pub(super) fn document() -> Bytes {
    DOCUMENT.html.clone()
}

/// What browsers are to keep to with everything that the page consists of.
pub(super) fn guard(headers: &mut HeaderMap) {
    let resource_policy = HeaderName::from_static("cross-origin-resource-policy");
    headers.insert(CONTENT_SECURITY_POLICY, DOCUMENT.policy.clone());
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(resource_policy, HeaderValue::from_static("same-origin"));
}

/// The page's own style and script, its figures, an icon that it paints, and nothing else. Where browsers know trusted
/// types, not even the script can make markup of text.
fn policy() -> String {
    format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; connect-src 'self'; img-src data:; \
         frame-ancestors 'none'; base-uri 'none'; form-action 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
        source_of(STYLE),
        source_of(SCRIPT)
    )
}

/// How a policy names something by its content (Content Security Policy Level 3, section 2.3.1).
fn source_of(content: &str) -> String {
    format!("sha256-{}", base64(&Sha256::digest(content)))
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for sextet in 0..4 {
            let character = match sextet <= three.len() {
                true => ALPHABET[(bits >> (18 - 6 * sextet) & 63) as usize].into(),
                false => '=',
            };
            text.push(character);
        }
    }
    text
}

impl Observed {
    /// The page's figures as JSON in ASCII, at most a second old.
    pub(super) async fn page_figures(&self, audience: Audience) -> serde_json::Result<Bytes> {
        let mut kept = self.page.0.lock().await;
        if let Some(json) = kept.fresh(audience) {
            return Ok(json);
        }
        kept.look(self).await;
        let now = Instant::now();
        let looked = kept.looked.as_ref();
        let looked = looked.filter(|(at, _)| now - *at < LOOK_AGE_MAX);
        let looked = looked.map(|(_, slowest)| slowest);
        let figures = Figures::new(self.status(), looked, audience);
        let json = Bytes::from(ascii_of_json(&serde_json::to_string(&figures)?));
        *kept.of(audience) = Some((now, json.clone()));
        Ok(json)
    }
}

impl Kept {
    fn of(&mut self, audience: Audience) -> &mut Option<(Instant, Bytes)> {
        match audience {
            Audience::Everybody => &mut self.everybody,
            Audience::Trusted => &mut self.trusted,
        }
    }

    fn fresh(&mut self, audience: Audience) -> Option<Bytes> {
        let (at, json) = self.of(audience).as_ref()?;
        (at.elapsed() < AGE_MAX).then(|| json.clone())
    }

    /// Has the workers tell, unless they did a moment ago or others have them tell just now. Whoever leaves meanwhile has
    /// begun a look all the same.
    async fn look(&mut self, observed: &Observed) {
        if self.look_again_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let Some(_turn) = observed.look_turn.try_take() else {
            return;
        };
        self.look_again_at = Some(Instant::now() + AGE_MAX);
        let slowest = observed.slowest_requests().await;
        let now = Instant::now();
        self.looked = Some((now, slowest));
        self.look_again_at = Some(now + AGE_MAX);
    }
}

#[cfg(test)]
mod tests;
