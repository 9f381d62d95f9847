//! Whoever answers something else than a status page.

use std::io;
use std::time::Duration;

use crate::common::fastcgi::{page, status_page, stdout};
use crate::common::wait::pause;
use crate::common::{Backend, Conversation, KB, MB, Proxy, eventually};
use crate::{assert_told_once, pools};

#[test]
fn what_is_no_status_page_is_named_and_holds_up_nothing() {
    type Script = fn(&mut Conversation) -> io::Result<()>;
    let says: [(&str, Script); 7] = [
        ("an answer that is no status page", |conversation| {
            conversation.respond(|heard| page(heard.id, b"<!DOCTYPE html><html>"))
        }),
        ("an answer that is no status page", |conversation| {
            conversation.respond(|heard| {
                let text = status_page(2, 1).replace(":405,", ":\"405\",");
                page(heard.id, text.as_bytes())
            })
        }),
        ("does not speak FastCGI", |conversation| {
            conversation.receive()?;
            conversation.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        }),
        ("no answer within 2s", |conversation| {
            conversation.discard_until_eof()
        }),
        // A byte now and then.
        ("no answer within 2s", |conversation| {
            let heard = conversation.request()?.unwrap();
            for byte in page(heard.id, status_page(2, 1).as_bytes()) {
                conversation.send(&[byte])?;
                pause(Duration::from_millis(50));
            }
            Ok(())
        }),
        ("it closed without a whole answer", |conversation| {
            conversation.request()?;
            Ok(())
        }),
        // More than is read.
        ("an answer that is no status page", |conversation| {
            let heard = conversation.request()?.unwrap();
            let padding = vec![b' '; usize::try_from(MB).unwrap()];
            conversation.send(&stdout(heard.id, &padding))
        }),
    ];
    let backends = says.map(|(_, script)| Backend::scripted(script));
    let mut builder = Proxy::builder().backend(&backends[0]);
    builder = builder.args(["--protocol", "fastcgi"]);
    for backend in &backends {
        builder = builder.args(["--fpm-status", &backend.to_string()]);
    }
    let proxy = builder.observed().start();
    let mut seen = Vec::new();
    eventually("all were asked twice", || {
        seen = pools(&proxy);
        let all_failed = seen.iter().all(|pool| pool["error"].is_string());
        all_failed
            && backends
                .iter()
                .all(|backend| backend.ledger().accepted >= 2)
    });
    for (pool, (part, _)) in seen.iter().zip(&says) {
        let error = pool["error"].as_str().unwrap();
        assert!(error.contains(part), "no {part:?} in {error}");
        assert!(error.len() < 400, "{error}");
        assert_eq!(pool["up"], false);
        let address = pool["address"].as_str().unwrap();
        let line = format!("ask PHP-FPM at {address} for /status: ");
        assert_told_once(&proxy, &line);
    }
    let resident = proxy.process().resident_kilobytes();
    assert!(resident < 256 * KB, "{resident} kB");
}

#[test]
fn polls_end_with_the_daemon() {
    let silent = Backend::hold();
    let mut proxy = Proxy::builder()
        .backend(&silent)
        .args(["--protocol", "fastcgi", "--fpm-status", &silent.to_string()])
        .observed()
        .start();
    silent.wait_until("a poll is under way", |ledger| ledger.open > 0);
    proxy.terminate();
    assert!(proxy.wait().success());
}
