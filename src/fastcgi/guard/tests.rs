//! The bypasses that are known, by name; and that no encoding makes a new one.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::head::HeadRoom;
use super::super::management::Capacity;
use super::super::request::{RequestEvent, RequestLimits, RequestReader};
use super::*;
use spliceway_common::fastcgi::{BeginRequest, Header, Kind, RequestId, push_pair};

const ROOT: &str = "/srv/www";

fn guard() -> Guard {
    Guard::new(&GuardOptions::default()).unwrap()
}

fn rooted() -> GuardOptions {
    GuardOptions {
        script_roots: vec![ROOT.to_owned()],
        ..GuardOptions::default()
    }
}

fn suffixed() -> GuardOptions {
    GuardOptions {
        script_suffix: Some(".php".to_owned()),
        ..rooted()
    }
}

fn rejecting() -> GuardOptions {
    GuardOptions {
        duplicates: Duplicates::Reject,
        ..GuardOptions::default()
    }
}

fn head_of<N: AsRef<[u8]>, V: AsRef<[u8]>>(pairs: &[(N, V)]) -> Head {
    let mut head = Head::new(HeadRoom::default());
    let begin = BeginRequest {
        role: Role::Responder,
        keep_conn: true,
    };
    head.begin(RequestId::from_number(1), begin);
    let mut params = Vec::new();
    for (name, value) in pairs {
        push_pair(&mut params, name.as_ref(), value.as_ref());
    }
    head.push(&params, usize::MAX).unwrap();
    head.complete().unwrap();
    head
}

fn judge<N: AsRef<[u8]>, V: AsRef<[u8]>>(options: &GuardOptions, pairs: &[(N, V)]) -> Verdict {
    Guard::new(options).unwrap().judge(&head_of(pairs))
}

fn rule<N: AsRef<[u8]>, V: AsRef<[u8]>>(options: &GuardOptions, pairs: &[(N, V)]) -> Option<Rule> {
    match judge(options, pairs) {
        Verdict::Pass | Verdict::PassWithout(_) => None,
        Verdict::Reject(rejection) => Some(rejection.rule),
    }
}

/// The rule that SCRIPT_FILENAME breaks under the root, with and without a suffix.
fn script_rule(path: &str) -> (Option<Rule>, Option<Rule>) {
    let pairs = [("SCRIPT_FILENAME", path)];
    (rule(&rooted(), &pairs), rule(&suffixed(), &pairs))
}

const OUTSIDE: (Option<Rule>, Option<Rule>) = (Some(Rule::ScriptRoot), Some(Rule::ScriptRoot));
const INSIDE: (Option<Rule>, Option<Rule>) = (None, None);

/// What nginx sends with Debian's `fastcgi.conf`.
const NGINX: &[(&str, &str)] = &[
    ("SCRIPT_FILENAME", "/srv/www/index.php"),
    ("PATH_TRANSLATED", "/srv/www"),
    ("QUERY_STRING", "a=../b"),
    ("REQUEST_METHOD", "POST"),
    ("CONTENT_TYPE", ""),
    ("CONTENT_LENGTH", ""),
    ("SCRIPT_NAME", "/index.php"),
    ("REQUEST_URI", "/index.php?a=../b"),
    ("DOCUMENT_URI", "/index.php"),
    ("DOCUMENT_ROOT", "/srv/www"),
    ("PATH_INFO", ""),
    ("REDIRECT_STATUS", "200"),
    ("HTTP_COOKIE", "a=1"),
    ("HTTP_COOKIE", "b=2"),
];

#[test]
fn an_ordinary_request_passes_every_guard() {
    for options in [GuardOptions::default(), rooted(), suffixed()] {
        assert_eq!(judge(&options, NGINX), Verdict::Pass);
    }
}

#[test]
fn settings_of_php_are_rejected_by_any_name_that_someone_takes_for_them() {
    for name in [
        "PHP_VALUE",
        "php_value",
        "PHP.VALUE",
        " PHP VALUE",
        "PHP_VALUE[x]",
        "PHP[VALUE",
        "PHP_VALUE=x",
        "Php_Value[a=b",
    ] {
        let pairs = [("A", "1"), (name, "auto_prepend_file=/tmp/x.php")];
        assert_eq!(
            rule(&GuardOptions::default(), &pairs),
            Some(Rule::PhpValue),
            "{name}"
        );
    }
    let admin = [("PHP_ADMIN_VALUE", "")];
    let verdict = judge(&GuardOptions::default(), &admin);
    let Verdict::Reject(rejection) = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(rejection.to_string(), "php_admin_value (PHP_ADMIN_VALUE)");
    assert_eq!(rule(&GuardOptions::default(), &[("PHP_VALUES", "x")]), None);
}

#[test]
fn httpoxy_is_left_out_by_any_name_and_nothing_else() {
    for name in ["HTTP_PROXY", "http_proxy", "HTTP.PROXY", "HTTP_PROXY=x"] {
        let head = head_of(&[
            ("A", "1"),
            (name, "http://evil"),
            ("B", "2"),
            (name, "again"),
        ]);
        let Verdict::PassWithout(cut) = guard().judge(&head) else {
            panic!("{name} passed");
        };
        let mut out = Vec::new();
        head.write(true, &cut.ranges, &[], &mut out);
        let kept: Vec<(Vec<u8>, Vec<u8>)> = decode(&out);
        assert_eq!(
            kept,
            [
                (b"A".to_vec(), b"1".to_vec()),
                (b"B".to_vec(), b"2".to_vec())
            ]
        );
    }
}

#[test]
fn an_embedded_nul_is_rejected_in_names_and_values() {
    let default = GuardOptions::default();
    assert_eq!(rule(&default, &[("A\0B", "1")]), Some(Rule::Nul));
    assert_eq!(rule(&default, &[("A", "1\0")]), Some(Rule::Nul));
    assert_eq!(
        script_rule("/etc/passwd\0/srv/www/a.php").0,
        Some(Rule::Nul)
    );
    let stripped = [("HTTP_PROXY", "\0")];
    assert_eq!(rule(&default, &stripped), Some(Rule::Nul));
}

/// A name that came with different values, the one that was left out and the one that counts.
type Told = (&'static str, String, String);

/// What a backend gets of these parameters, and which names came with different values.
fn passed<N: AsRef<[u8]>, V: AsRef<[u8]>>(
    options: &GuardOptions,
    pairs: &[(N, V)],
) -> (Vec<(String, String)>, Vec<Told>) {
    let head = head_of(pairs);
    let cut = match Guard::new(options).unwrap().judge(&head) {
        Verdict::Pass => Cut::default(),
        Verdict::PassWithout(cut) => cut,
        Verdict::Reject(rejection) => panic!("{rejection}"),
    };
    let mut out = Vec::new();
    head.write(true, &cut.ranges, &[], &mut out);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let passed = decode(&out)
        .iter()
        .map(|(n, v)| (text(n), text(v)))
        .collect();
    let value = |range: &Range<usize>| text(&head.params()[range.clone()]);
    let told = |o: &Overridden| (o.param.name(), value(&o.ignored), value(&o.counted));
    (passed, cut.overridden.iter().map(told).collect())
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

#[test]
fn of_equal_copies_one_is_left_and_nothing_is_said() {
    let pairs = [
        ("HTTPS", "on"),
        ("A", "1"),
        ("HTTPS", "on"),
        ("B", "2"),
        ("HTTPS", "on"),
    ];
    let (passed, told) = passed(&GuardOptions::default(), &pairs);
    assert_eq!(passed, owned(&[("A", "1"), ("B", "2"), ("HTTPS", "on")]));
    assert_eq!(told, []);
}

#[test]
fn of_different_copies_the_last_is_left_and_judged_and_told_of() {
    let pairs = [
        ("SCRIPT_FILENAME", "/etc/passwd"),
        ("CONTENT_LENGTH", "x"),
        ("REMOTE_ADDR", "10.0.0.1"),
        ("SCRIPT_FILENAME", "/srv/www/a.php"),
        ("CONTENT_LENGTH", ""),
        ("REMOTE_ADDR", "192.0.2.1"),
        ("REMOTE_ADDR", "10.0.0.1"),
    ];
    let (passed, told) = passed(&suffixed(), &pairs);
    let expected = [
        ("SCRIPT_FILENAME", "/srv/www/a.php"),
        ("CONTENT_LENGTH", ""),
        ("REMOTE_ADDR", "10.0.0.1"),
    ];
    assert_eq!(passed, owned(&expected));
    let told_of =
        |param, ignored: &str, counted: &str| (param, ignored.to_owned(), counted.to_owned());
    assert_eq!(
        told,
        [
            told_of("SCRIPT_FILENAME", "/etc/passwd", "/srv/www/a.php"),
            told_of("CONTENT_LENGTH", "x", ""),
            told_of("REMOTE_ADDR", "192.0.2.1", "10.0.0.1"),
        ]
    );
    let outside_last = [
        ("SCRIPT_FILENAME", "/srv/www/a.php"),
        ("SCRIPT_FILENAME", "/etc/passwd"),
    ];
    assert_eq!(rule(&rooted(), &outside_last), Some(Rule::ScriptRoot));
    let length_last = [("CONTENT_LENGTH", "1"), ("CONTENT_LENGTH", "x")];
    assert_eq!(
        rule(&GuardOptions::default(), &length_last),
        Some(Rule::ContentLength)
    );
}

#[test]
fn a_copy_that_does_not_count_may_be_of_no_denied_name_and_have_no_nul() {
    let options = GuardOptions {
        deny: vec!["REMOTE_USER".to_owned()],
        allow: vec![
            ("REMOTE_USER".to_owned(), "guest".to_owned()),
            ("PHP_VALUE".to_owned(), "memory_limit=1G".to_owned()),
        ],
        ..GuardOptions::default()
    };
    for (name, bad, good) in [
        ("REMOTE_USER", "root", "guest"),
        ("PHP_VALUE", "x=y", "memory_limit=1G"),
        ("HTTPS", "on\0", "on"),
    ] {
        for pairs in [[(name, bad), (name, good)], [(name, good), (name, bad)]] {
            assert!(rule(&options, &pairs).is_some(), "{pairs:?}");
        }
        assert_eq!(rule(&options, &[(name, good), (name, good)]), None);
    }
}

/// The body's length is read from the last copy, whatever is left out.
#[test]
fn copies_are_not_left_out_in_part() {
    let options = GuardOptions {
        strip: vec!["CONTENT_LENGTH".to_owned()],
        allow: vec![("CONTENT_LENGTH".to_owned(), "0".to_owned())],
        ..GuardOptions::default()
    };
    let copies = |values: [&str; 2]| rule(&options, &values.map(|value| ("CONTENT_LENGTH", value)));
    assert_eq!(copies(["0", "9"]), Some(Rule::Duplicate));
    assert_eq!(copies(["9", "0"]), Some(Rule::Duplicate));
    assert_eq!(copies(["0", "0"]), None);
    assert_eq!(copies(["8", "9"]), None);
}

#[test]
fn a_second_copy_is_rejected_where_that_is_asked_for() {
    let inside = ("SCRIPT_FILENAME", "/srv/www/a.php");
    let outside = ("SCRIPT_FILENAME", "/etc/passwd");
    for pairs in [[inside, inside], [inside, outside], [outside, inside]] {
        assert_eq!(rule(&rejecting(), &pairs), Some(Rule::Duplicate));
    }
    let twice_of_others = [("HTTP_COOKIE", "a"), ("HTTP_COOKIE", "b")];
    assert_eq!(rule(&rejecting(), &twice_of_others), None);
}

#[test]
fn two_spellings_of_a_name_that_decides_about_security_are_never_let_through() {
    for name in [
        "REMOTE_USER",
        "HTTPS",
        "CONTENT_LENGTH",
        "REQUEST_METHOD",
        "SERVER_NAME",
    ] {
        for other in [
            name.to_lowercase(),
            format!("{name}[]"),
            format!("{name}="),
            format!(" {name}"),
            name.replace('_', "."),
        ] {
            if other == name {
                continue;
            }
            let (plain, alike) = ((name.to_owned(), "1"), (other.clone(), "1"));
            for pairs in [[plain.clone(), alike.clone()], [alike.clone(), plain]] {
                for options in [GuardOptions::default(), rejecting()] {
                    assert_eq!(rule(&options, &pairs), Some(Rule::Duplicate), "{other}");
                }
            }
            let (passed, _) = passed(&GuardOptions::default(), &[alike.clone(), alike]);
            assert_eq!(passed.len(), 1, "{other}");
        }
    }
}

#[test]
fn names_that_decide_nothing_come_as_often_as_they_are_sent() {
    assert_eq!(judge(&GuardOptions::default(), NGINX), Verdict::Pass);
}

#[test]
fn a_body_ends_where_everybody_sees_it_end() {
    for (value, expected) in [
        ("", None),
        ("0", None),
        ("18446744073709551615", None),
        ("18446744073709551616", Some(Rule::ContentLength)),
        // Unknown, as Caddy says it.
        ("-1", None),
        ("-2", Some(Rule::ContentLength)),
        ("-", Some(Rule::ContentLength)),
        ("+1", Some(Rule::ContentLength)),
        (" 1", Some(Rule::ContentLength)),
        ("1 ", Some(Rule::ContentLength)),
        ("0x10", Some(Rule::ContentLength)),
        ("10, 20", Some(Rule::ContentLength)),
    ] {
        let pairs = [("CONTENT_LENGTH", value)];
        assert_eq!(rule(&GuardOptions::default(), &pairs), expected, "{value}");
    }
}

#[test]
fn a_length_that_is_said_to_be_unknown_is_left_out() {
    for (lengths, left) in [
        (&["-1"][..], None),
        (&["5", "-1"], None),
        (&["-1", "5"], Some("5")),
        (&["0"], Some("0")),
        (&[""], Some("")),
    ] {
        let pairs = lengths.iter().map(|value| ("CONTENT_LENGTH", *value));
        let pairs: Vec<_> = pairs.chain([("QUERY_STRING", "-1")]).collect();
        let (passed, _) = passed(&GuardOptions::default(), &pairs);
        let expected = left.map(|value| ("CONTENT_LENGTH", value));
        let expected: Vec<_> = expected
            .into_iter()
            .chain([("QUERY_STRING", "-1")])
            .collect();
        assert_eq!(passed, owned(&expected), "{lengths:?}");
    }
}

#[test]
fn path_translated_without_script_filename_is_rejected() {
    for path in ["/etc/passwd", "/srv/www/a.php"] {
        let pairs = [("PATH_TRANSLATED", path)];
        assert!(rule(&rooted(), &pairs).is_some());
        assert!(rule(&suffixed(), &pairs).is_some());
    }
    assert_eq!(rule(&rooted(), &[("A", "1")]), Some(Rule::ScriptMissing));
    let another_name = [("script_filename", "/srv/www/a.php")];
    assert_eq!(rule(&rooted(), &another_name), Some(Rule::ScriptMissing));
}

#[test]
fn path_translated_beside_script_filename_keeps_the_same_rule() {
    let with = |path| {
        [
            ("SCRIPT_FILENAME", "/srv/www/a.php"),
            ("PATH_TRANSLATED", path),
        ]
    };
    assert_eq!(
        rule(&rooted(), &with("/etc/passwd")),
        Some(Rule::ScriptRoot)
    );
    assert_eq!(
        rule(&rooted(), &with("/srv/www/../../etc/passwd")),
        Some(Rule::ScriptRoot)
    );
    assert_eq!(
        rule(&rooted(), &with("proxy:fcgi://h/srv/www/a.php")),
        Some(Rule::ScriptRoot)
    );
    for options in [rooted(), suffixed()] {
        for path in ["/srv/www/info", "/srv/www/", "/srv/www/a.jpg?x"] {
            assert_eq!(rule(&options, &with(path)), None, "{path}");
        }
        for path in [
            "/srv",
            "/srv/wwwx",
            "/srv/www/a/../b",
            "srv/www/a.php",
            "/srv/www?/../..",
        ] {
            assert_eq!(
                rule(&options, &with(path)),
                Some(Rule::ScriptRoot),
                "{path}"
            );
        }
    }
}

/// PHP takes PATH_TRANSLATED for the script then, but not where Apache's prefix tells who it is.
#[test]
fn path_translated_has_the_suffix_where_a_redirect_makes_it_the_script() {
    let judged = |script, path, redirect| {
        let pairs = [
            ("PATH_TRANSLATED", path),
            ("SCRIPT_FILENAME", script),
            (redirect, "/a"),
        ];
        (rule(&rooted(), &pairs), rule(&suffixed(), &pairs))
    };
    let plain = "/srv/www/a.php";
    for redirect in ["REDIRECT_URL", "redirect_url"] {
        assert_eq!(
            judged(plain, "/srv/www/x.jpg", redirect),
            (None, Some(Rule::ScriptSuffix))
        );
        assert_eq!(judged(plain, "/srv/www/x.php", redirect), INSIDE);
        assert_eq!(
            judged(
                "proxy:fcgi://localhost/srv/www/a.php",
                "/srv/www/x",
                redirect
            ),
            INSIDE
        );
    }
    assert_eq!(judged(plain, "/srv/www/x.jpg", "REDIRECT_URI"), INSIDE);
}

/// mod_rewrite leaves such a mark in PATH_TRANSLATED. Where PHP would run it, it is no path.
#[test]
fn a_redirect_of_apaches_is_no_path_outside_the_root() {
    let judged = |script, path| {
        let pairs = [
            ("SCRIPT_FILENAME", script),
            ("PATH_TRANSLATED", path),
            ("REDIRECT_URL", "/a/b"),
        ];
        (rule(&rooted(), &pairs), rule(&suffixed(), &pairs))
    };
    let script = "proxy:fcgi://localhost/srv/www/index.php";
    assert_eq!(judged(script, "redirect:/index.php/a/b/a/b"), INSIDE);
    assert_eq!(
        judged("/srv/www/index.php", "redirect:/index.php/a/b"),
        OUTSIDE
    );
    for path in [
        "redirect:/../etc/a",
        "redirect:a",
        "redirect:",
        "Redirect:/a",
        "/redirect:/a",
    ] {
        assert_eq!(judged(script, path), OUTSIDE, "{path}");
    }
}

#[test]
fn scripts_may_be_under_one_of_several_roots() {
    let options = GuardOptions {
        script_roots: vec![ROOT.to_owned(), "/opt/a/".to_owned(), "/opt/a/b".to_owned()],
        ..suffixed()
    };
    let mut guard = Guard::new(&options).unwrap();
    let judged =
        |guard: &Guard, path: &str| match guard.judge(&head_of(&[("SCRIPT_FILENAME", path)])) {
            Verdict::Pass => None,
            Verdict::PassWithout(_) => panic!("nothing is to be left out"),
            Verdict::Reject(rejection) => Some(rejection.rule),
        };
    for path in ["/srv/www/a.php", "/opt/a/x.php", "/opt/a/b/c/x.php"] {
        assert_eq!(judged(&guard, path), None, "{path}");
    }
    for path in ["/opt/x.php", "/srv/a.php", "/opt/ab/x.php"] {
        assert_eq!(judged(&guard, path), Some(Rule::ScriptRoot), "{path}");
    }
    for path in ["/opt/a/b", "/srv/www/a.txt"] {
        assert_eq!(judged(&guard, path), Some(Rule::ScriptSuffix), "{path}");
    }
    guard.add_script_root(b"/srv/releases/42").unwrap();
    assert_eq!(judged(&guard, "/srv/releases/42/a.php"), None);
    assert_eq!(
        judged(&guard, "/srv/releases/43/a.php"),
        Some(Rule::ScriptRoot)
    );
}

fn allowing(settings: &[&str]) -> GuardOptions {
    GuardOptions {
        allow_settings: settings.iter().map(|name| (*name).to_owned()).collect(),
        ..GuardOptions::default()
    }
}

#[test]
fn allowed_settings_pass_and_nothing_beside_them() {
    let options = allowing(&["memory_limit", "open_basedir", "date.timezone"]);
    let passes = |value: &str| {
        let both = ["PHP_VALUE", "PHP_ADMIN_VALUE"].map(|name| rule(&options, &[(name, value)]));
        assert_eq!(both[0].is_some(), both[1].is_some());
        both[0].is_none()
    };
    for value in [
        "",
        "memory_limit=99M",
        "memory_limit=-1",
        // As nginx sends what the recipes of Magento and Pterodactyl say.
        "memory_limit=756M \n date.timezone = Europe/Berlin",
        "\n\tmemory_limit = 1G\t\n\n",
        "open_basedir=/usr/share/phpmyadmin/:/etc/phpmyadmin/",
    ] {
        assert!(passes(value), "{value:?}");
    }
    for value in [
        "auto_prepend_file=/tmp/x",
        "memory_limit=99M\nauto_prepend_file=/tmp/x",
        "memory_limit=99M\rauto_prepend_file=/tmp/x",
        "memory_limit=99M\r\nauto_prepend_file=/tmp/x",
        "memory_limit=99M;x",
        ";memory_limit=99M",
        "#memory_limit=99M",
        "[x]\nmemory_limit=99M",
        "[HOST=x]",
        "memory_limit[]=99M",
        "memory_limit[x]=99M",
        "memory_limit",
        "memory_limit=",
        "memory_limit=\"99M\"",
        "open_basedir=\"/a\nauto_prepend_file=/x\"",
        "open_basedir='/a",
        "open_basedir=${HOME}",
        "open_basedir=$HOME",
        "memory_limit=1|2",
        "memory_limit=~1",
        "memory_limit=(1)",
        "memory_limit=!1",
        "memory_limit=1&1",
        "memory_limit=1^1",
        "memory_limit=1=2",
        "memory_limit=1 M",
        "memory_limit=1\\\nM",
        "memory_limit=99M\u{b}x=1",
        "memory_limit=99M\u{c}",
        "memory_limit=ä",
        "MEMORY_LIMIT=99M",
        "memory_limit.=99M",
        "xmemory_limit=99M",
        "=99M",
        "max_execution_time=5",
    ] {
        assert!(!passes(value), "{value:?}");
    }
    assert_eq!(
        rule(&options, &[("PHP_VALUE", "memory_limit=1M\0")]),
        Some(Rule::Nul)
    );
    for name in [
        "php_value",
        "PHP.VALUE",
        " PHP_VALUE",
        "PHP_VALUE[x]",
        "PHP_VALUE=",
    ] {
        assert_eq!(
            rule(&options, &[(name, "memory_limit=1M")]),
            Some(Rule::PhpValue),
            "{name}"
        );
    }
    assert_eq!(
        rule(&allowing(&[]), &[("PHP_VALUE", "")]),
        Some(Rule::PhpValue)
    );
}

#[test]
fn settings_that_load_or_run_code_cannot_be_allowed() {
    let error = |name: &str| {
        Guard::new(&allowing(&["memory_limit", name]))
            .unwrap_err()
            .to_string()
    };
    for (name, reason) in [
        ("auto_prepend_file", "PHP runs what it names"),
        ("auto_append_file", "PHP runs what it names"),
        ("sendmail_path", "PHP runs what it names"),
        ("unserialize_callback_func", "PHP runs what it names"),
        ("extension", "which code PHP loads"),
        ("extension_dir", "which code PHP loads"),
        ("zend_extension", "which code PHP loads"),
        ("zend.multibyte", "which code PHP loads"),
        ("include_path", "which code PHP loads"),
        ("allow_url_include", "which code PHP loads"),
        ("user_ini.filename", "which code PHP loads"),
        ("opcache.preload", "which code PHP loads"),
        ("opcache.file_cache", "which code PHP loads"),
        ("ffi.enable", "which code PHP loads"),
        ("session.save_path", "which code PHP loads"),
        ("Session.Save_Handler", "which code PHP loads"),
        ("disable_functions", "opens to a script"),
        ("disable_classes", "opens to a script"),
        ("register_argc_argv", "opens to a script"),
        ("error_log", "PHP writes what a client sends"),
        ("mail.log", "PHP writes what a client sends"),
        ("upload_tmp_dir", "PHP writes what a client sends"),
        ("xdebug.client_host", "none of those that are known"),
        ("Memory_Limit", "none of those that are known"),
        ("", "none of those that are known"),
    ] {
        let error = error(name);
        assert!(
            error.contains(reason) && error.contains("--allow-param"),
            "{error}"
        );
    }
}

#[test]
fn each_name_that_decides_has_its_number() {
    for (number, decisive) in Decisive::ALL.into_iter().enumerate() {
        assert_eq!(decisive.number(), number);
    }
    assert_eq!(Decisive::SCRIPT_FILENAME.name(), "SCRIPT_FILENAME");
    assert_eq!(Decisive::REDIRECT_URL.name(), "REDIRECT_URL");
}

#[test]
fn every_rule_says_what_to_do() {
    for rule in Rule::ALL {
        assert!(rule.remedy().contains(';'), "{rule}: {}", rule.remedy());
        assert!(!rule.remedy().contains('\n'), "{rule}");
    }
}

#[test]
fn apaches_prefixes_hide_no_path() {
    for prefix in ["proxy:fcgi://", "proxy:balancer://", "PROXY:Fcgi://"] {
        for host in ["", "localhost:9000", "h?x"] {
            let path = |path: &str| format!("{prefix}{host}{path}");
            assert_eq!(script_rule(&path("/srv/www/a.php")), INSIDE);
            assert_eq!(script_rule(&path("/srv/www/a.php?b=../c")), INSIDE);
            assert_eq!(script_rule(&path("/etc/a.php")), OUTSIDE);
            assert_eq!(script_rule(&path("")), OUTSIDE);
            assert_eq!(
                script_rule(&path("/srv/www/a.txt?.php")).1,
                Some(Rule::ScriptSuffix)
            );
        }
    }
    assert_eq!(script_rule("proxy:unknown://h/srv/www/a.php"), OUTSIDE);
    assert_eq!(
        script_rule("proxy:fcgi://h/proxy:fcgi://h/srv/www/a.php"),
        OUTSIDE
    );
}

/// Some versions of PHP-FPM undo the %-encoding behind Apache's prefix.
#[test]
fn percent_encoding_behind_apaches_prefix_hides_no_path() {
    let behind = |path: &str| script_rule(&format!("proxy:fcgi://localhost{path}"));
    assert_eq!(behind("/srv/www/a%20b.php"), INSIDE);
    assert_eq!(behind("/srv/www/100%.php"), INSIDE);
    assert_eq!(behind("/srv/www/%2e%2E/%2e%2e/etc/a.php"), OUTSIDE);
    assert_eq!(behind("/srv/www%2f..%2fa.php"), OUTSIDE);
    assert_eq!(behind("/srv/www/a%00.php").0, Some(Rule::Nul));
    assert_eq!(behind("/srv/www/a.txt%3f.php").1, Some(Rule::ScriptSuffix));
    assert_eq!(behind("/srv/www/a.ph%70").1, Some(Rule::ScriptSuffix));
    assert_eq!(
        script_rule("/srv/www/%2e%2e/a.php"),
        INSIDE,
        "here it is a name"
    );
}

#[test]
fn paths_are_compared_by_components() {
    for path in [
        "/srv/www/a.php",
        "//srv///www//a.php",
        "/./srv/./www/x/./a.php",
        "/srv/www/a.php/",
    ] {
        assert_eq!(script_rule(path), INSIDE, "{path}");
    }
    for path in [
        "",
        "a.php",
        "srv/www/a.php",
        "/srv/www",
        "/srv/www/",
        "/srv/www/.",
        "/srv/wwwx/a.php",
        "/srv/ww/a.php",
        "/srv",
        "/",
        "/SRV/www/a.php",
        "/x/srv/www/a.php",
        "\\srv\\www\\a.php",
        "/srv/www\\..\\a.php",
        "file:///srv/www/a.php",
        "phar:///srv/www/a.php",
    ] {
        assert_eq!(script_rule(path), OUTSIDE, "{path}");
    }
}

/// PHP-FPM runs the longest part of a path that is a file: of the first two, `/etc/x.php`.
#[test]
fn no_part_of_a_path_is_outside_the_root() {
    for path in [
        "/etc/x.php/../../srv/www/a.php",
        "/etc/x.php/foo/../../../srv/www/a.php",
        "/srv/www/../../etc/x.php/foo",
        "/srv/www/sub/../a.php",
        "/srv/www/a.php/..",
        "/srv/www/a.php?/../../../etc/x.php",
        "/srv/../srv/www/a.php",
        "/../srv/www/a.php",
    ] {
        assert_eq!(script_rule(path), OUTSIDE, "{path}");
    }
    assert_eq!(script_rule("/srv/www/..a/a..php"), (None, None));
}

#[test]
fn the_suffix_is_that_of_a_component_under_the_root() {
    for path in [
        "/srv/www/x.php/foo",
        "/srv/www/a/x.php/b.jpg",
        "/srv/www/x.php//.",
    ] {
        assert_eq!(script_rule(path), INSIDE, "{path}");
    }
    let options = GuardOptions {
        script_roots: vec!["/srv/www.php".to_owned()],
        ..suffixed()
    };
    let pairs = [("SCRIPT_FILENAME", "/srv/www.php/a.jpg")];
    assert_eq!(rule(&options, &pairs), Some(Rule::ScriptSuffix));
    for path in [
        "/srv/www/x.phpx/foo",
        "/srv/www/x.jpg",
        "/srv/www/x.php.",
        "/srv/www/x.php ",
        "/srv/www/x.PHP",
        "/srv/www/x.php%00",
        "/srv/www/x.php?a.txt",
        "/srv/www/x.txt?.php",
    ] {
        assert_eq!(
            script_rule(path),
            (None, Some(Rule::ScriptSuffix)),
            "{path}"
        );
    }
    assert_eq!(script_rule("/srv/www/x.php///"), INSIDE);
}

#[test]
fn a_suffix_alone_requires_a_script_that_is_anywhere() {
    let options = GuardOptions {
        script_suffix: Some(".php".to_owned()),
        ..GuardOptions::default()
    };
    assert_eq!(
        rule(&options, &[("SCRIPT_FILENAME", "/anywhere/a.php")]),
        None
    );
    assert_eq!(
        rule(&options, &[("SCRIPT_FILENAME", "/a/../a.php")]),
        Some(Rule::ScriptRoot)
    );
    assert_eq!(rule(&options, &[("A", "a.php")]), Some(Rule::ScriptMissing));
}

/// With `doc_root` in php.ini, PHP runs that and SCRIPT_NAME.
#[test]
fn what_php_may_put_behind_its_doc_root_does_not_climb() {
    for name in ["SCRIPT_NAME", "PATH_INFO", "REDIRECT_URL"] {
        let with = |value| [("SCRIPT_FILENAME", "/srv/www/a.php"), (name, value)];
        assert_eq!(
            rule(&rooted(), &with("/a/../../etc/x.php")),
            Some(Rule::ScriptRoot)
        );
        assert_eq!(rule(&rooted(), &with("..")), Some(Rule::ScriptRoot));
        assert_eq!(rule(&rooted(), &with("/a..b/...")), None);
        let default = GuardOptions::default();
        assert_eq!(rule(&default, &with("/a/../../etc/x.php")), None);
    }
}

#[test]
fn an_allowed_value_passes_and_no_other_of_that_name() {
    let options = GuardOptions {
        deny: vec!["X_OPTION".to_owned()],
        allow: vec![
            ("PHP_VALUE".to_owned(), "memory_limit=1G".to_owned()),
            ("X_OPTION".to_owned(), "on".to_owned()),
            ("HTTP_PROXY".to_owned(), "none".to_owned()),
        ],
        ..GuardOptions::default()
    };
    let of = |name: &str, value: &str| judge(&options, &[(name, value)]);
    assert_eq!(of("PHP_VALUE", "memory_limit=1G"), Verdict::Pass);
    assert_eq!(of("X_OPTION", "on"), Verdict::Pass);
    assert_eq!(of("HTTP_PROXY", "none"), Verdict::Pass);
    assert!(matches!(of("HTTP_PROXY", "other"), Verdict::PassWithout(_)));
    for (name, value) in [
        ("PHP_VALUE", "memory_limit=1G\nauto_prepend_file=/tmp/x"),
        ("PHP_VALUE", ""),
        ("php_value", "memory_limit=1G"),
        ("PHP_ADMIN_VALUE", "memory_limit=1G"),
        ("X_OPTION", "On"),
    ] {
        assert!(
            matches!(of(name, value), Verdict::Reject(_)),
            "{name}={value}"
        );
    }
}

#[test]
fn what_the_program_sets_itself_nobody_else_does() {
    let options = GuardOptions {
        own: vec!["QUEUE_US".to_owned(), "HTTP_X_REQUEST_START".to_owned()],
        ..GuardOptions::default()
    };
    for name in [
        "QUEUE_US",
        "queue_us",
        "QUEUE.US",
        " QUEUE_US",
        "QUEUE_US[0]",
        "HTTP_X.REQUEST_START",
        "HTTP_X-Request-Start",
    ] {
        let verdict = judge(&options, &[("SCRIPT_FILENAME", "/a.php"), (name, "1")]);
        assert!(
            matches!(verdict, Verdict::PassWithout(_)),
            "{name}: {verdict:?}"
        );
    }
    let verdict = judge(&options, &[("SCRIPT_FILENAME", "/a.php"), ("QUEUE", "1")]);
    assert_eq!(verdict, Verdict::Pass);
}

#[test]
fn what_others_decide_by_the_program_does_not_set() {
    let refused = |own: &[&str], more: GuardOptions| {
        let own = own.iter().map(|name| (*name).to_owned()).collect();
        Guard::new(&GuardOptions { own, ..more }).unwrap_err()
    };
    for name in ["SCRIPT_FILENAME", "script_name", "PHP_VALUE", "REMOTE_ADDR"] {
        let error = refused(&[name], GuardOptions::default());
        assert!(matches!(error, GuardError::Own { .. }), "{name}: {error}");
    }
    let denied = GuardOptions {
        deny: vec!["QUEUE_US".to_owned()],
        ..GuardOptions::default()
    };
    assert!(
        refused(&["QUEUE_US"], denied)
            .to_string()
            .contains("it is denied")
    );
    let allowed = GuardOptions {
        allow: vec![("queue_us".to_owned(), "0".to_owned())],
        ..GuardOptions::default()
    };
    assert!(
        refused(&["QUEUE_US"], allowed)
            .to_string()
            .contains("--allow-param")
    );
    let twice = refused(&["QUEUE_US", "Queue_us"], GuardOptions::default());
    assert!(twice.to_string().contains("another one"), "{twice}");
    let proxy = refused(&["HTTP_PROXY"], GuardOptions::default());
    assert!(
        proxy.to_string().contains("left out of every request"),
        "{proxy}"
    );
    let error = refused(&["no name"], GuardOptions::default());
    assert!(matches!(error, GuardError::Name(_)), "{error}");
}

#[test]
fn denied_and_stripped_names_are_those_of_the_options_as_well() {
    let options = GuardOptions {
        deny: vec!["X-Bad".to_owned(), "REMOTE_USER".to_owned()],
        strip: vec!["PATH_TRANSLATED".to_owned()],
        ..suffixed()
    };
    let with = |name, value| [("SCRIPT_FILENAME", "/srv/www/a.php"), (name, value)];
    assert_eq!(rule(&options, &with("x-bad", "")), Some(Rule::DeniedParam));
    assert_eq!(
        rule(&options, &with("REMOTE.USER", "root")),
        Some(Rule::DeniedParam)
    );
    let verdict = judge(&options, &with("PATH_TRANSLATED", "/etc/passwd"));
    assert!(
        matches!(verdict, Verdict::PassWithout(_)),
        "what is left out is not looked at"
    );
}

#[test]
fn there_is_a_limit_on_the_number_of_parameters() {
    let options = GuardOptions {
        params_max: 3,
        ..GuardOptions::default()
    };
    assert_eq!(rule(&options, &[("A", ""); 3]), None);
    assert_eq!(rule(&options, &[("A", ""); 4]), Some(Rule::ParamsMax));
}

#[test]
fn a_role_that_is_not_served_is_rejected() {
    let options = GuardOptions {
        roles: vec![Role::Authorizer],
        ..GuardOptions::default()
    };
    let rejection = judge(&options, &[("A", "1")]);
    assert_eq!(rejection, Verdict::Reject(Rejection::new(Rule::Role, b"")));
}

#[test]
fn the_name_in_the_log_is_short_and_escaped() {
    let rejection = Rejection::new(Rule::Nul, b"A\n\x1b[31m\0");
    assert_eq!(rejection.to_string(), "nul (A\\x0a\\x1b[31m\\x00)");
    let rejection = Rejection::new(Rule::Nul, &[b'x'; 5000]);
    assert_eq!(rejection.param, format!("{}...", "x".repeat(64)));
    let hostile = Rejection::new(Rule::Nul, b"A\" rule=ok \\");
    assert_eq!(hostile.param, r#"A\" rule=ok \\"#);
    let value = shown_value(&[&b"\xe4\n"[..], &[b'v'; 5000]].concat());
    assert!(
        value.starts_with(r"\xe4\x0avv") && value.ends_with("v..."),
        "{value}"
    );
    assert!(value.len() < 100 && value.is_ascii());
}

#[test]
fn options_that_cannot_be_meant_are_refused() {
    let error = |options: GuardOptions| Guard::new(&options).unwrap_err().to_string();
    let deny = GuardOptions {
        deny: vec!["A=B".to_owned()],
        ..GuardOptions::default()
    };
    assert!(error(deny).starts_with("read a parameter's name 'A=B'"));
    for root in ["srv", "", "/srv/../etc"] {
        let options = GuardOptions {
            script_roots: vec![ROOT.to_owned(), root.to_owned()],
            ..GuardOptions::default()
        };
        assert!(error(options).starts_with("read the script root"));
        let mut guard = Guard::new(&suffixed()).unwrap();
        assert!(guard.add_script_root(root.as_bytes()).is_err());
    }
    for suffix in ["", "/a.php"] {
        let options = GuardOptions {
            script_suffix: Some(suffix.to_owned()),
            ..GuardOptions::default()
        };
        assert!(error(options).starts_with("read the script suffix"));
    }
}

#[test]
fn every_rule_has_a_name_of_its_own() {
    let mut names = Rule::ALL.map(Rule::name);
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
}

// Whatever the encoding. What follows reads and resolves by itself, as simply as possible.

/// The name-value pairs of the PARAMS records in `stream`, each record by itself, as PHP-FPM reads.
fn decode(mut stream: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut pairs = Vec::new();
    while !stream.is_empty() {
        let content_len = usize::from(stream[4]) << 8 | usize::from(stream[5]);
        let mut content = &stream[8..8 + content_len];
        if stream[1] == 4 {
            while !content.is_empty() {
                let lens: [usize; 2] = std::array::from_fn(|_| {
                    let len = usize::from(content[0]);
                    if len < 128 {
                        content = &content[1..];
                        return len;
                    }
                    let bytes = content[..4].iter().map(|&byte| usize::from(byte));
                    content = &content[4..];
                    bytes.fold(0, |len, byte| len << 8 | byte) & 0x7fff_ffff
                });
                let [name, value] = lens.map(|len| {
                    let (piece, rest) = content.split_at(len);
                    content = rest;
                    piece.to_vec()
                });
                pairs.push((name, value));
            }
        }
        stream = &stream[8 + content_len + usize::from(stream[6])..];
    }
    pairs
}

fn last<'a>(pairs: &'a [(Vec<u8>, Vec<u8>)], name: &str) -> Option<&'a str> {
    let found = pairs
        .iter()
        .rev()
        .find(|(other, _)| other == name.as_bytes());
    found.map(|(_, value)| std::str::from_utf8(value).unwrap())
}

/// Whether some application takes a parameter called `name` for `wanted`.
fn stands_for(name: &[u8], wanted: &str) -> bool {
    let name = String::from_utf8(name.to_vec()).unwrap().to_uppercase();
    let name = name.trim_start().split('=').next().unwrap();
    let before_index = name.split('[').next().unwrap();
    let plain = |name: &str| name.replace([' ', '.', '['], "_");
    plain(name) == wanted || plain(before_index) == wanted
}

/// Every file that some PHP-FPM with some settings might run for these parameters, if it exists.
fn might_run(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<String> {
    let mut paths = Vec::new();
    if let Some(path) = last(pairs, "SCRIPT_FILENAME") {
        let lower = path.to_ascii_lowercase();
        let prefix = ["proxy:fcgi://", "proxy:balancer://"]
            .into_iter()
            .find(|prefix| lower.starts_with(prefix));
        paths.push(path.to_owned());
        if let Some(prefix) = prefix {
            let host = &path[prefix.len()..];
            let path = &host[host.find('/').unwrap_or(host.len())..];
            let path = path.split('?').next().unwrap();
            paths = vec![
                path.to_owned(),
                path.replace("%2e", ".").replace("%2f", "/"),
            ];
        }
    }
    paths.extend(last(pairs, "PATH_TRANSLATED").map(str::to_owned));
    let mut files = Vec::new();
    for path in paths {
        let ends = path.match_indices('/').map(|(place, _)| place);
        files.extend(ends.chain([path.len()]).map(|end| path[..end].to_owned()));
    }
    files
}

/// Where a path leads if no component is a symbolic link; nothing for a relative one.
fn resolve(path: &str) -> Option<Vec<&str>> {
    let mut resolved = Vec::new();
    for part in path.strip_prefix('/')?.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(resolved.pop()),
            part => resolved.push(part),
        }
    }
    Some(resolved)
}

/// Whether the file is below the root, or one of the directories above it.
fn may_be_run(file: &str) -> bool {
    let root = ["srv", "www"];
    file.is_empty() || resolve(file).is_some_and(|path| path.iter().zip(root).all(|(a, b)| *a == b))
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => Just("SCRIPT_FILENAME".to_owned()),
        2 => Just("PATH_TRANSLATED".to_owned()),
        2 => "REDIRECT_URL|DOCUMENT_ROOT|SCRIPT_NAME|CONTENT_LENGTH|HTTP_HOST",
        1 => "(PHP_VALUE|PHP_ADMIN_VALUE|HTTP_PROXY)",
        1 => " ?[pP][hH][pP][_. \\[]VALUE[=x\\[]?",
        2 => " ?(HTTPS|https|REMOTE_USER|REMOTE.USER|CONTENT_LENGTH)(\\[\\])?",
    ]
}

fn any_path() -> impl Strategy<Value = String> {
    let part = "srv|www|etc|a\\.php|b|\\.|\\.\\.|%2e%2e|\\?|x%2f\\.\\.|";
    let parts = (prop::bool::weighted(0.8), vec(part, 1..7));
    let path = parts.prop_map(|(inside, parts)| {
        let start = if inside { "/srv/www/" } else { "/" };
        format!("{start}{}", parts.join("/"))
    });
    let prefix = "(proxy:(fcgi|balancer|FCGI)://(host:9)?)?";
    (prefix, path).prop_map(|(prefix, path)| prefix + &path)
}

/// The pairs with a length of four bytes here and there, in records of any size with any padding.
fn encode(pairs: &[(String, String)], choices: &[u8]) -> Vec<u8> {
    let mut choices = choices.iter().copied().cycle();
    let mut choose = move || choices.next().unwrap_or(0);
    let mut params = Vec::new();
    for (name, value) in pairs {
        for piece in [name, value] {
            let len = u32::try_from(piece.len()).unwrap();
            match u8::try_from(len) {
                Ok(short) if short < 128 && choose() % 2 == 0 => params.push(short),
                _ => params.extend((len | 0x8000_0000).to_be_bytes()),
            }
        }
        params.extend(name.bytes().chain(value.bytes()));
    }
    let mut stream = vec![1, 1, 0, 1, 0, 8, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0];
    let mut rest = params.as_slice();
    loop {
        let (piece, behind) = rest.split_at(rest.len().min(1 + usize::from(choose())));
        let header = Header {
            kind: Kind::Params,
            request_id: RequestId::from_number(1),
            content_len: u16::try_from(piece.len()).unwrap(),
            padding_len: choose(),
        };
        stream.extend(header.encode());
        stream.extend(piece);
        stream.resize(stream.len() + usize::from(header.padding_len), choose());
        rest = behind;
        if piece.is_empty() {
            return stream;
        }
    }
}

/// What a backend gets of a stream that comes in pieces of `piece` bytes.
fn guarded(options: &GuardOptions, stream: &[u8], piece: usize) -> Option<Vec<u8>> {
    let mut reader = RequestReader::new(RequestLimits {
        params_bytes_max: 1 << 16,
        capacity: Capacity {
            connections_max: 1,
            requests_max: 1,
        },
    });
    for input in stream.chunks(piece) {
        let mut at = 0;
        if let Some(event) = reader.next(input, &mut at).unwrap() {
            assert_eq!(event, RequestEvent::Head);
            let gaps = match Guard::new(options).unwrap().judge(reader.head()) {
                Verdict::Pass => Vec::new(),
                Verdict::PassWithout(cut) => cut.ranges,
                Verdict::Reject(_) => return None,
            };
            let mut out = Vec::new();
            reader.head().write(true, &gaps, &[], &mut out);
            return Some(out);
        }
    }
    unreachable!("the stream has a whole head");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn no_encoding_gets_a_denied_name_or_a_path_outside_the_root_past_the_guard(
        pairs in vec((any_name(), any_path()), 1..7),
        choices in vec(any::<u8>(), 1..40),
        piece in 1..300_usize,
        suffix: bool,
    ) {
        let options = if suffix { suffixed() } else { rooted() };
        let stream = encode(&pairs, &choices);
        let passed = guarded(&options, &stream, piece);
        prop_assert_eq!(&passed, &guarded(&options, &stream, stream.len()));
        if let Some(bytes) = passed {
            let sent = pairs;
            let pairs = decode(&bytes);
            for decisive in Decisive::ALL {
                let copies: Vec<_> = pairs
                    .iter()
                    .filter(|(name, _)| stands_for(name, decisive.name()))
                    .collect();
                prop_assert!(copies.len() <= 1, "{decisive}: {copies:?}");
                // It is the last that was sent, which the reader took the body's length from.
                let last_sent = sent.iter().rev().find(|(name, _)| name == decisive.name());
                let passed = last(&pairs, decisive.name());
                prop_assert_eq!(passed, last_sent.map(|(_, value)| value.as_str()));
            }
            for (name, _) in &pairs {
                let name = String::from_utf8(name.clone()).unwrap().to_uppercase();
                let words: Vec<_> = name.split([' ', '.', '[', '_', '=']).collect();
                let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
                prop_assert!(!words.starts_with(&["PHP", "VALUE"]), "{name}");
                prop_assert!(!words.starts_with(&["PHP", "ADMIN"]), "{name}");
                prop_assert!(!words.starts_with(&["HTTP", "PROXY"]), "{name}");
            }
            prop_assert!(last(&pairs, "SCRIPT_FILENAME").is_some());
            for file in might_run(&pairs) {
                prop_assert!(may_be_run(&file), "{file}");
            }
        }
    }

    #[test]
    fn one_script_under_the_root_passes_in_every_encoding(
        parts in vec("[a-z0-9_-]{1,9}", 0..4),
        choices in vec(any::<u8>(), 1..40),
        piece in 1..300_usize,
    ) {
        let path = format!("{ROOT}/{}/index.php", parts.join("/"));
        let pairs = [("SCRIPT_FILENAME".to_owned(), path), ("A".to_owned(), "1".to_owned())];
        let passed = guarded(&suffixed(), &encode(&pairs, &choices), piece);
        let passed = passed.map(|bytes| decode(&bytes));
        let expected = pairs.map(|(name, value)| (name.into_bytes(), value.into_bytes()));
        prop_assert_eq!(passed, Some(expected.to_vec()));
    }
}

#[test]
fn pages_of_php_fpm_are_kept_from_everybody() {
    let options = GuardOptions::default();
    let script = ("SCRIPT_FILENAME", "/srv/app/index.php");
    for path in FPM_PAGES {
        let pairs = [script, ("SCRIPT_NAME", path)];
        assert_eq!(rule(&options, &pairs), Some(Rule::FpmPage), "{path}");
    }
    for hostile in [
        vec![script, ("SCRIPT_NAME", "/x"), ("SCRIPT_NAME", "/status")],
        // Cut behind the script, which leaves the page.
        vec![
            ("SCRIPT_FILENAME", "/srv/app/index.php/x"),
            ("SCRIPT_NAME", "/index.php"),
            ("PATH_INFO", "/status/x"),
        ],
        vec![
            ("SCRIPT_FILENAME", "/srv/app/index.php/x"),
            ("PATH_INFO", "/pingab"),
        ],
        vec![
            ("SCRIPT_FILENAME", "/srv/app/index.php/x"),
            ("SERVER_SOFTWARE", "Microsoft-IIS/10"),
            ("SCRIPT_NAME", "/index.php"),
            ("PATH_INFO", "/index.php/status/x"),
        ],
        vec![
            script,
            ("PATH_TRANSLATED", "/srv/app/index.php"),
            ("REDIRECT_URL", "/status"),
        ],
        // With cgi.fix_pathinfo=0.
        vec![
            script,
            ("SCRIPT_NAME", "/index.php"),
            ("PATH_INFO", "/status"),
        ],
        // Behind Apache's prefix, it is the script's own path that is cut.
        vec![
            ("SCRIPT_FILENAME", "proxy:fcgi://h/srv/app/index.php/x"),
            ("SCRIPT_NAME", "/status/x"),
        ],
        vec![
            ("SCRIPT_FILENAME", "index.php\\x"),
            ("PATH_INFO", "/status/x"),
        ],
    ] {
        assert_eq!(rule(&options, &hostile), Some(Rule::FpmPage), "{hostile:?}");
    }
    for meant_well in [
        vec![
            script,
            ("SCRIPT_NAME", "/index.php"),
            ("PATH_INFO", "/statuses"),
        ],
        // As long as what is behind a slash in the script's path.
        vec![script, ("PATH_INFO", "/status/123456789")],
        vec![
            ("SCRIPT_FILENAME", "/var/www/example.com/index.php"),
            ("PATH_INFO", "/ping/123456789"),
        ],
        vec![script, ("PATH_INFO", "/status-dashboard")],
        // What rules in a directory make of Apache's request.
        vec![
            (
                "SCRIPT_FILENAME",
                "proxy:fcgi://localhost/srv/app/index.php",
            ),
            ("PATH_TRANSLATED", "redirect:/index.php"),
            ("REDIRECT_URL", "/status"),
        ],
        vec![
            script,
            ("SCRIPT_NAME", "/index.php"),
            ("REQUEST_URI", "/status"),
        ],
        vec![script, ("SCRIPT_NAME", "/statuses")],
        vec![script, ("REDIRECT_URL", "/status")],
    ] {
        assert_eq!(rule(&options, &meant_well), None, "{meant_well:?}");
    }
    let named = GuardOptions {
        fpm_pages: vec!["/of-mine".to_owned()],
        ..GuardOptions::default()
    };
    assert_eq!(rule(&named, &[script, ("SCRIPT_NAME", "/status")]), None);
    let pairs = [script, ("SCRIPT_NAME", "/of-mine")];
    assert_eq!(rule(&named, &pairs), Some(Rule::FpmPage));
    let wrong = GuardOptions {
        fpm_pages: vec!["status".to_owned()],
        ..GuardOptions::default()
    };
    assert!(Guard::new(&wrong).is_err());
}

#[test]
fn a_body_from_a_file_is_denied_unless_it_is_allowed() {
    let pairs = [("REQUEST_BODY_FILE", "/etc/passwd")];
    let options = GuardOptions::default();
    assert_eq!(rule(&options, &pairs), Some(Rule::BodyFile));
    assert_eq!(
        rule(&options, &[("Request.Body_File", "/x")]),
        Some(Rule::BodyFile)
    );
    let allowing = GuardOptions {
        allow_body_file: true,
        ..GuardOptions::default()
    };
    assert_eq!(rule(&allowing, &pairs), None);
    let denying = GuardOptions {
        deny: vec!["REQUEST_BODY_FILE".to_owned()],
        ..allowing
    };
    assert_eq!(rule(&denying, &pairs), Some(Rule::DeniedParam));
}
