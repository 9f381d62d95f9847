//! What conditions mean, and that they cost no more than the bytes that they are compared with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::super::head::HeadRoom;
use super::*;
use spliceway_common::fastcgi::{BeginRequest, RequestId, Role, push_pair};

fn condition(text: &str) -> Condition {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(text: &str) -> ConditionError {
    text.parse::<Condition>().unwrap_err()
}

fn criteria(any: &[&[&str]]) -> Criteria {
    let list = |all: &&[&str]| all.iter().map(|text| condition(text)).collect();
    Criteria::new(any.iter().map(list).collect()).unwrap()
}

fn head(pairs: &[(&str, &str)]) -> Head {
    let mut head = Head::new(HeadRoom::default());
    let begin = BeginRequest {
        role: Role::Responder,
        keep_conn: true,
    };
    head.begin(RequestId::from_number(1), begin);
    let mut params = Vec::new();
    for (name, value) in pairs {
        push_pair(&mut params, name.as_bytes(), value.as_bytes());
    }
    head.push(&params, usize::MAX).unwrap();
    head.complete().unwrap();
    head
}

#[test]
fn each_operator_compares_in_its_own_way() {
    for (text, value, holds) in [
        ("A=b", "b", true),
        ("A=b", "bb", false),
        ("A = b ", "b", true),
        ("A=", "", true),
        ("A=", "b", false),
        ("A==b", "=b", true),
        ("A^=/admin/", "/admin/x", true),
        ("A ^= /admin/", "/admin/", true),
        ("A^=/admin/", "/Admin/x", false),
        ("A$=.xml", "/feed.xml", true),
        ("A$=.xml", "/feed.xml2", false),
        ("A*=*bot*", "Googlebot/2.1", true),
        ("A*=*bot*", "curl/8.0", false),
        ("A*=/p/?/x", "/p/1/x", true),
        ("A*=/p/?/x", "/p/12/x", false),
        ("A*=*", "", true),
        ("A*=a*b*c", "a..b..c", true),
        ("A*=a*b*c", "a..c..b", false),
        ("A*=**a", "xa", true),
        ("A in 10.0.0.0/8", "10.1.2.3", true),
        ("A in 10.0.0.0/8", "11.1.2.3", false),
        ("A in 10.0.0.0/8,192.0.2.7 2001:db8::/32", "192.0.2.7", true),
        ("A in 10.0.0.0/8, 2001:db8::/32", "2001:db8:1::2", true),
        ("A in 10.0.0.0/8", "::ffff:10.1.2.3", true),
        ("A in ::ffff:10.0.0.0/104", "10.1.2.3", true),
        ("A in ::/0", "10.1.2.3", false),
        ("A in 0.0.0.0/0", "10.1.2.3", true),
        ("A in 0.0.0.0/0", "::1", false),
        ("A in 0.0.0.0/0", "unix:", false),
        ("A in ::/0", "fe80::1%eth0", false),
        // A name of a parameter that begins as the operator does.
        ("in=b", "b", true),
    ] {
        let holds_for = condition(text).holds_for(value.as_bytes());
        assert_eq!(holds_for, holds, "{text} for {value:?}");
    }
}

#[test]
fn what_is_no_condition_says_how_to_write_one() {
    for text in [
        "",
        "=b",
        "^=b",
        "Ä=b",
        "A B=c",
        &format!("{}=b", "A".repeat(129)),
    ] {
        let error = refused(text);
        let expected = [ConditionError::Name, ConditionError::Operator];
        assert!(expected.contains(&error), "{text}: {error}");
    }
    for text in ["A", "A!=b", "A~b", "A in10.0.0.0/8", "A inside b"] {
        assert_eq!(refused(text), ConditionError::Operator, "{text}");
    }
    for text in ["A^=", "A$= ", "A*=", "A in ,"] {
        assert_eq!(refused(text), ConditionError::Value, "{text}");
    }
    let long = format!("A={}", "b".repeat(CONDITION_BYTES_MAX));
    let length = CONDITION_BYTES_MAX + 2;
    assert_eq!(refused(&long), ConditionError::TooLong { length });
    let symbols = "b".repeat(GLOB_BYTES_MAX);
    assert!(condition(&format!("A*=*{symbols}*")).holds_for(symbols.as_bytes()));
    assert_eq!(refused(&format!("A*=b{symbols}")), ConditionError::Pattern);
    let count = NETWORKS_MAX + 1;
    let many = format!("A in {}", "192.0.2.1 ".repeat(count));
    assert_eq!(refused(&many), ConditionError::TooManyNetworks { count });
}

#[test]
fn what_is_no_network_says_which_one_may_be_meant() {
    for (text, expected) in [
        ("10.0.0.1/8", "(write 10.0.0.0/8)"),
        ("2001:db8::1/32", "(write 2001:db8::/32)"),
        ("10.0.0.0/33", "from 0 to 32"),
        ("2001:db8::/129", "from 0 to 128"),
        ("10.0.0.0/+8", "from 0 to 32"),
        ("10.0.0.0/", "from 0 to 32"),
        ("10.0.0/8", "not an IP address"),
        ("example.org", "not an IP address"),
    ] {
        let error = refused(&format!("A in {text}")).to_string();
        assert!(
            error.starts_with(&format!("'{text}' is no network: ")),
            "{error}"
        );
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_condition_can_be_written_again() {
    for text in [
        "A=b",
        "A=",
        "A^=b c",
        "A$=b",
        "A*=*b?",
        "A in 10.0.0.0/8 2001:db8::/32 192.0.2.1/32",
    ] {
        let first = condition(text);
        assert_eq!(first.to_string(), text);
        assert_eq!(condition(&first.to_string()), first);
    }
}

#[test]
fn the_first_class_whose_criteria_are_met_has_the_request() {
    let all = [
        criteria(&[&["SCRIPT_NAME^=/admin/", "REMOTE_ADDR in 10.0.0.0/8"]]),
        criteria(&[&["HTTP_USER_AGENT*=*bot*"], &["HTTP_USER_AGENT*=*Bot*"]]),
        criteria(&[&["SCRIPT_NAME=/report.php"]]),
    ];
    let classifier = Classifier::new(&all);
    for (pairs, class) in [
        (
            &[("SCRIPT_NAME", "/admin/x"), ("REMOTE_ADDR", "10.1.1.1")][..],
            Some(0),
        ),
        (
            &[("SCRIPT_NAME", "/admin/x"), ("REMOTE_ADDR", "192.0.2.1")],
            None,
        ),
        (&[("SCRIPT_NAME", "/admin/x")], None),
        (&[("HTTP_USER_AGENT", "ABot/1")], Some(1)),
        (
            &[("HTTP_USER_AGENT", "robot"), ("SCRIPT_NAME", "/report.php")],
            Some(1),
        ),
        (&[("SCRIPT_NAME", "/report.php")], Some(2)),
        // As PHP-FPM has it, and with it whoever is charged with the work.
        (
            &[("SCRIPT_NAME", "/report.php"), ("SCRIPT_NAME", "/x.php")],
            None,
        ),
        (
            &[("SCRIPT_NAME", "/x.php"), ("SCRIPT_NAME", "/report.php")],
            Some(2),
        ),
        (&[], None),
    ] {
        assert_eq!(classifier.class_of(&head(pairs)), class, "{pairs:?}");
    }
    assert_eq!(Classifier::new(&[]).class_of(&head(&[("A", "b")])), None);
}

#[test]
fn criteria_that_would_have_every_request_are_none() {
    assert_eq!(Criteria::new(Vec::new()), None);
    assert_eq!(Criteria::new(vec![Vec::new()]), None);
    let some = vec![vec![condition("A=b")], Vec::new()];
    assert_eq!(Criteria::new(some), None);
    assert_eq!(criteria(&[&["A=b", "C=d"], &["A=e"]]).conditions(), 3);
}

/// The plainest way, which can take very long.
fn matches_slowly(pattern: &[u8], value: &[u8]) -> bool {
    match (pattern, value) {
        ([], value) => value.is_empty(),
        ([b'*', rest @ ..], value) => {
            (0..=value.len()).any(|skipped| matches_slowly(rest, &value[skipped..]))
        }
        ([b'?', rest @ ..], [_, behind @ ..]) => matches_slowly(rest, behind),
        ([symbol, rest @ ..], [byte, behind @ ..]) => {
            symbol == byte && matches_slowly(rest, behind)
        }
        (_, []) => false,
    }
}

/// Addresses of both families that have something in common.
fn addresses() -> impl Strategy<Value = IpAddr> {
    let v4 = any::<[u8; 2]>().prop_map(|[c, d]| IpAddr::from(Ipv4Addr::new(10, 0, c % 3, d)));
    let v6 = any::<[u16; 2]>()
        .prop_map(|[a, b]| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, a % 3, 0, 0, 0, 0, b)));
    prop_oneof![v4, v6]
}

/// Whether both have these first bits, one by one.
fn begin_alike(one: IpAddr, other: IpAddr, bits: u8) -> bool {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let (one, other) = (octets(one), octets(other));
    let bit = |octets: &[u8], bit: u8| octets[usize::from(bit / 8)] >> (7 - bit % 8) & 1;
    one.len() == other.len() && (0..bits).all(|at| bit(&one, at) == bit(&other, at))
}

proptest! {
    #[test]
    fn a_pattern_means_what_it_says(pattern in "[ab?*]{1,8}", value in "[abc]{0,9}") {
        let glob = Glob::new(&pattern).unwrap();
        let expected = matches_slowly(pattern.as_bytes(), value.as_bytes());
        prop_assert_eq!(glob.matches(value.as_bytes()), expected);
    }

    #[test]
    fn a_network_has_the_addresses_that_begin_as_it_does(
        base in addresses(),
        other in addresses(),
        bits in 0..=128_u8,
    ) {
        let bits = bits.min(if base.is_ipv4() { 32 } else { 128 });
        let network = match format!("{base}/{bits}").parse::<Network>() {
            Ok(network) => network,
            Err(NetworkError::Host { network }) => network.parse().unwrap(),
            Err(error) => panic!("{error}"),
        };
        prop_assert!(network.has(base));
        prop_assert_eq!(network.has(other), begin_alike(base, other, bits));
    }

    #[test]
    fn any_text_is_a_condition_or_none(
        text in r"([A-Z_]{0,9} ?([=^$*]{0,2}|in )[a-z0-9.:/ *?,]{0,40}|\PC*)",
        value in any::<Vec<u8>>(),
    ) {
        if let Ok(condition) = text.parse::<Condition>() {
            let again: Condition = condition.to_string().parse().unwrap();
            prop_assert_eq!(condition.holds_for(&value), again.holds_for(&value));
        }
    }

    /// One look at the parameters finds what a search for each would.
    #[test]
    fn classes_are_told_as_by_a_search_for_each_parameter(
        lists in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(("[A-C]", "[xy]"), 1..3), 1..3),
            0..5,
        ),
        pairs in prop::collection::vec(("[A-D]", "[xy]"), 0..6),
    ) {
        let condition = |(name, value): &(String, String)| condition(&format!("{name}={value}"));
        let list = |all: &Vec<(String, String)>| all.iter().map(condition).collect();
        let class = |any: &Vec<Vec<_>>| Criteria::new(any.iter().map(list).collect()).unwrap();
        let all: Vec<_> = lists.iter().map(class).collect();
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        let head = head(&pairs);
        let is_met = |(name, value): &(String, String)| {
            head.param(name.as_bytes()) == Some(value.as_bytes())
        };
        let expected = lists.iter().position(|any| any.iter().any(|all| all.iter().all(is_met)));
        prop_assert_eq!(Classifier::new(&all).class_of(&head), expected);
    }
}

/// Whatever the pattern, each byte is looked at once: a method that goes back would not come to an end here.
#[test]
fn no_pattern_takes_longer_than_its_value() {
    let pattern = "*a".repeat(GLOB_BYTES_MAX - 1) + "*b";
    let glob = Glob::new(&pattern).unwrap();
    assert!(!glob.matches(&vec![b'a'; 1 << 20]));
    let condition: Condition = "A*=a*".parse().unwrap();
    let resembles = |bytes| condition.holds_for(&vec![b'a'; bytes]);
    assert!(resembles(PATTERN_VALUE_BYTES_MAX) && !resembles(PATTERN_VALUE_BYTES_MAX + 1));
}
