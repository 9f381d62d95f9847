//! Tables of classes, right and wrong.

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::time::Duration;

use super::*;
use crate::cli::{Cli, Command, RunCommand, Stop, parse_with};

/// Line 7 is the first one behind it.
const ROUTE: &str = "[route.a]\nlisten = \"unix:/a\"\nbackend = \"b:1\"\nprotocol = \"fastcgi\"\n\
                     per-endpoint-max = 4\nrequest-timeout = \"30s\"\n";

fn run(command: &str, file: &str) -> Result<RunCommand, Stop> {
    let words = ["spliceway", command, "--config", "f"].map(OsString::from);
    match parse_with(words, |_| Ok(file.as_bytes().to_vec()))? {
        Cli {
            command: Command::Run(run),
        } => Ok(*run),
        Cli {
            command: Command::Check(check),
        } => Ok(check.run),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn classes(tables: &str) -> Classes {
    let run = run("run", &format!("{ROUTE}{tables}"));
    let route = run.unwrap_or_else(|error| panic!("{tables}: {error:?}"));
    let classes = route.config.routes[0].protocol.classes();
    classes.expect("tables are classes").clone()
}

fn refused(file: &str) -> Vec<String> {
    match run("run", file) {
        Err(Stop::File(errors)) => errors.lines().map(str::to_owned).collect(),
        other => panic!("{file}: {other:?}"),
    }
}

/// Each key in its own form, and none with its default.
const ADMIN: &str = "[route.a.class.admin]\nmatch = [\"SCRIPT_NAME^=/admin/\", \"REMOTE_ADDR in 10.0.0.0/8\"]\n\
                     max = 3\nreserve = 2\npriority = -5\nqueue-max = 7\nqueue-timeout = \"1s\"\n\
                     request-timeout = \"off\"\n";

#[test]
fn a_class_has_the_rules_of_its_table_and_else_those_of_the_route() {
    let crawler = "[route.a.class.crawler]\nmatch = [[\"HTTP_USER_AGENT*=*bot*\"], [\"HTTP_USER_AGENT*=*Bot*\"]]\n";
    let classes = classes(&format!(
        "{ADMIN}{crawler}[route.a.class.default]\npriority = 1\n"
    ));
    let names: Vec<_> = classes.names().map(|name| name.to_string()).collect();
    assert_eq!(names, ["default", "admin", "crawler"]);
    let of_route = ClassRules {
        max: NonZeroU32::new(4).unwrap(),
        reserve: 0,
        priority: 0,
        queue_max: 1024,
        queue_timeout: Some(Duration::from_secs(10)),
        request_timeout: Some(Duration::from_secs(30)),
    };
    let admin = ClassRules {
        max: NonZeroU32::new(3).unwrap(),
        reserve: 2,
        priority: -5,
        queue_max: 7,
        queue_timeout: Some(Duration::from_secs(1)),
        request_timeout: None,
    };
    let default = ClassRules {
        priority: 1,
        ..of_route
    };
    let rules: Vec<_> = classes.rules().collect();
    assert_eq!(rules, [default, admin, of_route]);
    let conditions = classes
        .others
        .iter()
        .map(|class| class.criteria.conditions());
    assert_eq!(conditions.collect::<Vec<_>>(), [2, 2]);
}

#[test]
fn classes_stand_in_the_order_of_the_file_wherever_their_tables_are() {
    let class = |name: &str| format!("[route.a.class.{name}]\nmatch = \"A=b\"\n");
    let tables = ["z", "a", "\"m.n\""].map(class).concat();
    let names = |file: &str| -> Vec<_> {
        let run = run("run", file).unwrap();
        let classes = run.config.routes[0].protocol.classes().unwrap().clone();
        classes.names().map(|name| name.to_string()).collect()
    };
    let expected = ["default", "z", "a", "m.n"];
    assert_eq!(names(&format!("{ROUTE}{tables}")), expected);
    assert_eq!(names(&format!("{tables}{ROUTE}")), expected);
}

#[test]
fn a_route_without_tables_has_no_classes() {
    let run = run("run", ROUTE).unwrap();
    assert_eq!(run.config.routes[0].protocol.classes(), None);
}

#[test]
fn what_check_prints_of_classes_means_the_same_again() {
    let tables = "[route.a.class.default]\nmax = 2\n[route.a.class.\"b.c\"]\nmatch = [[\"A=\\\"\\\\\"], [\"B$=c\", \"D=\"]]\n";
    let first = run("check", &format!("{ROUTE}{ADMIN}{tables}")).unwrap();
    let text = first.effective.text();
    for line in ADMIN.lines() {
        assert!(
            text.contains(&format!("\n{line}\n")),
            "{line} is not in\n{text}"
        );
    }
    assert!(
        text.contains("\n# match: whatever no other class has\n"),
        "{text}"
    );
    assert!(text.contains("\n# max: --per-endpoint-max\n"), "{text}");
    let again = run("check", &text).unwrap();
    assert_eq!(again.config, first.config);
    assert_eq!(again.effective, first.effective);
}

/// What comes after [`ROUTE`], and the lines that are said about it.
#[rustfmt::skip]
const WRONG: &[(&str, &[&str])] = &[
    // Tables and names.
    ("class = 3", &["f:7: route a: class: expected a table, found an integer (write for example [route.a.class.admin] and its keys)"]),
    ("class.admin = 3", &["f:7: route a: class admin: expected a table, found an integer (write [route.a.class.admin] and its keys)"]),
    ("[route.a.class.\"a b\"]\nmatch = \"A=b\"", &["f:7: route a: class a b: ' ' cannot be in the name of a class (use letters from a to z, digits, '_', '-' and '.')"]),
    ("[defaults.class.b]\nmax = 1", &["f:7: defaults: class: the classes of a route belong to that route (write [route.NAME.class.CLASS])"]),
    ("[class.b]\nmax = 1", &["f:7: class: the classes of a route belong to that route (write [route.NAME.class.CLASS])"]),
    // Keys.
    ("[route.a.class.b]\nmatch = \"A=b\"\nmaximum = 1", &["f:9: route a: class b: maximum: unknown key (did you mean max?)"]),
    ("[route.a.class.b]\nmach = \"A=b\"", &["f:8: route a: class b: mach: unknown key (did you mean match?)"]),
    ("[route.a.class.b]\nmatch = \"A=b\"\nbalance = \"first\"", &["f:9: route a: class b: balance: belongs to the route and not to a class (move it under [route.NAME])"]),
    ("[route.a.class.b]\nmatch = \"A=b\"\nworkers = 1", &["f:9: route a: class b: workers: belongs at the top level (move it above the first [table])"]),
    ("[route.a.class.b]\nmatch = \"A=b\"\nmax = \"off\"", &["f:9: route a: class b: max = \"off\": not a whole number from 1 to 1000000"]),
    ("[route.a.class.b]\nmatch = \"A=b\"\npriority = 101", &["f:9: route a: class b: priority = 101: not a whole number from -100 to 100"]),
    // Criteria.
    ("[route.a.class.b]\nmax = 1", &["f:7: route a: class b: match: missing (write an array of conditions that must all be met, such as [\"SCRIPT_NAME=/status.php\"], or an array of such arrays, one of which must)"]),
    ("[route.a.class.default]\nmatch = \"A=b\"", &["f:8: route a: class default: match: this class has whatever no other one has (remove it, or give the class another name)"]),
    ("[route.a.class.b]\nmatch = []", &["f:8: route a: class b: match = []: no condition at all (write an array of conditions that must all be met, such as [\"SCRIPT_NAME=/status.php\"], or an array of such arrays, one of which must)"]),
    ("[route.a.class.b]\nmatch = [\n\"A=b\",\n\"A!b\"]", &["f:10: route a: class b: match = \"A!b\": has none of =, ^=, $=, *= and in behind the name of a parameter (write for example SCRIPT_NAME=/status.php)"]),
    ("[route.a.class.b]\nmatch = [\"A=b\", [\"A=b\"]]", &["f:8: route a: class b: match = \"A=b\": a string beside an array (write an array of conditions that must all be met, such as [\"SCRIPT_NAME=/status.php\"], or an array of such arrays, one of which must)"]),
    ("[route.a.class.b]\nmatch = [\"REMOTE_ADDR in 10.0.0.1/8\"]", &["f:8: route a: class b: match = \"REMOTE_ADDR in 10.0.0.1/8\": '10.0.0.1/8' is no network: its address has more bits than it says (write 10.0.0.0/8)"]),
    // What does not go together.
    ("[route.a.class.b]\nmatch = \"A=b\"\nmax = 5", &["f:9: route a: class b: max 5: more than per-endpoint-max 4 of the route (use at most 4)"]),
    ("[route.a.class.b]\nmatch = \"A=b\"\nmax = 1\nreserve = 2", &["f:10: route a: class b: reserve 2 with max 1: more is kept than may be had (lower reserve, or raise max)"]),
    ("[route.a.class.b]\nmatch = \"A=b\"\nreserve = 2\n[route.a.class.c]\nmatch = \"A=b\"\nreserve = 2", &["f:12: route a: class c: reserve: all classes together keep 4 of per-endpoint-max 4, and at least one must be left (lower a reserve, or raise per-endpoint-max)"]),
    ("shards = 2\n[route.a.class.b]\nmatch = \"A=b\"\nmax = 1", &["f:10: route a: class b: max 1 with shards 2: each shard needs one (use at least 2, or fewer shards)"]),
    ("shards = 2\n[route.a.class.b]\nmatch = \"A=b\"\nreserve = 2\n[route.a.class.c]\nmatch = \"A=b\"\nreserve = 2", &["f:13: route a: class c: reserve: all classes together keep 4 of per-endpoint-max 4, which 2 shards share, and at least one must be left (lower a reserve, or raise per-endpoint-max)"]),
];

/// What is kept for classes has to be there however few connections are found to have workers.
#[test]
fn classes_share_what_is_found_out_within_its_bounds() {
    let of_class = |keys: &str| {
        let route = ROUTE.replace("= 4", "= \"auto:3-8\"");
        format!("{route}[route.a.class.b]\nmatch = \"A=b\"\n{keys}")
    };
    let run = run("run", &of_class("max = 8\nreserve = 2")).ok();
    let route = &run.unwrap().config.routes[0];
    let RouteProtocol::Fastcgi(fastcgi) = &route.protocol else {
        panic!("it is a FastCGI route");
    };
    let rules: Vec<_> = fastcgi.classes.as_ref().unwrap().rules().collect();
    let shares = rules.iter().map(|rules| (rules.max.get(), rules.reserve));
    assert_eq!(shares.collect::<Vec<_>>(), [(8, 0), (8, 2)]);
    assert_eq!(
        refused(&of_class("reserve = 3")),
        [
            "f:9: route a: class b: reserve: all classes together keep 3 of the 3 that per-endpoint-max auto:3-8 always \
             allows, and at least one must be left (lower a reserve, or raise the first number of per-endpoint-max)"
        ]
    );
    assert_eq!(
        refused(&of_class("max = 9")),
        ["f:9: route a: class b: max 9: more than per-endpoint-max 8 of the route (use at most 8)"]
    );
}

#[test]
fn every_mistake_is_told_in_its_line() {
    for (tables, expected) in WRONG {
        assert_eq!(refused(&format!("{ROUTE}{tables}")), *expected, "{tables}");
    }
}

#[test]
fn classes_need_fastcgi_and_a_limit() {
    let class = "[route.a.class.b]\nmatch = \"A=b\"\n";
    let raw = ROUTE
        .replace("protocol = \"fastcgi\"\n", "")
        .replace("request-timeout = \"30s\"\n", "");
    let expected = "f:5: route a: class b: without protocol = \"fastcgi\": what is relayed has no parameters to tell classes \
                    by (remove it, or give protocol)";
    assert_eq!(refused(&format!("{raw}{class}")), [expected]);
    let boundless = ROUTE.replace("per-endpoint-max = 4\n", "");
    let expected = "f:6: route a: class b: without per-endpoint-max: there is nothing that classes could share (give it: \
                    with PHP-FPM as many as pm.max_children)";
    assert_eq!(refused(&format!("{boundless}{class}")), [expected]);
}

#[test]
fn each_shard_needs_one_of_what_is_kept() {
    let reserve = |reserve: u32| {
        let route = ROUTE.replace("max = 4", "max = 8\nshards = 2");
        format!("{route}[route.a.class.b]\nmatch = \"A=b\"\nmax = 4\nreserve = {reserve}\n")
    };
    assert!(run("run", &reserve(2)).is_ok());
    let lines = refused(&reserve(1));
    let expected = "f:11: route a: class b: reserve 1 with shards 2: each shard needs one (use at least 2, or fewer shards)";
    assert_eq!(lines, [expected]);
}

#[test]
fn classes_and_their_conditions_have_a_bound() {
    let class = |n: usize| format!("[route.a.class.c{n}]\nmatch = \"A={n}\"\n");
    let most: String = (0..CLASSES_MAX).map(class).collect();
    let default = "[route.a.class.default]\nmax = 2\n";
    assert_eq!(classes(&format!("{most}{default}")).others.len(), 16);
    let lines = refused(&format!("{ROUTE}{most}{}{default}", class(16)));
    let expected =
        "f:7: route a: class: 17 classes are too many (use at most 16 and the default one)";
    assert_eq!(lines, [expected]);
    // The default one is none of them.
    let lines = refused(&format!("{ROUTE}{most}{}", class(16)));
    let expected =
        "f:7: route a: class: 17 classes are too many (use at most 16 and the default one)";
    assert_eq!(lines, [expected]);
    let conditions = |n: usize| {
        let all: Vec<_> = (0..n).map(|n| format!("\"A={n}\"")).collect();
        format!("[route.a.class.b]\nmatch = [{}]\n", all.join(", "))
    };
    assert_eq!(classes(&conditions(64)).others[0].criteria.conditions(), 64);
    let lines = refused(&format!("{ROUTE}{}", conditions(65)));
    let expected = "f:8: route a: class b: match: 65 conditions of all classes are too many (use at most 64, or have the web \
                    server tell the class in a parameter of its own)";
    assert_eq!(lines, [expected]);
}
