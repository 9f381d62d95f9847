//! Files: resolv.conf in every form that was thought of, and hosts.

use super::Case;
use super::servers::ordinary;

/// The inside server, then one that answers otherwise.
const TWO: &str = "nameserver 127.0.0.2\nnameserver 127.0.0.3\n";

const ONE: &str = "nameserver 127.0.0.2\n";

fn long_word(len: usize) -> String {
    "l".repeat(len)
}

pub(super) fn cases() -> Vec<Case> {
    let resolv_conf = of_servers()
        .into_iter()
        .chain(of_search())
        .chain(of_options())
        .map(|(name, file)| Case {
            what: format!("{name} with resolv.conf {:?}", shown(&file)),
            resolv_conf: file.into_bytes(),
            hosts: Vec::new(),
            name: name.to_owned(),
            behaviours: [ordinary; 2],
        });
    let hosts = of_hosts().into_iter().map(|(name, file)| Case {
        what: format!(
            "{name} with hosts {:?}",
            shown(&String::from_utf8_lossy(&file))
        ),
        resolv_conf: ONE.into(),
        hosts: file,
        name: name.to_owned(),
        behaviours: [ordinary; 2],
    });
    resolv_conf.chain(hosts).collect()
}

fn shown(file: &str) -> String {
    file.chars().take(120).collect()
}

fn of_servers() -> Vec<(&'static str, String)> {
    let file = |name, file: &str| (name, file.to_owned());
    vec![
        file("app.corp", TWO),
        file("app.corp", "nameserver 127.0.0.3\nnameserver 127.0.0.2\n"),
        file("app.corp", "nameserver 127.0.0.2"),
        file("app.corp", "nameserver\t127.0.0.2\t\n"),
        file("app.corp", "nameserver   127.0.0.2   # inside\n"),
        file(
            "app.corp",
            "nameserver 127.0.0.2;inside\nnameserver 127.0.0.3\n",
        ),
        file(
            "app.corp",
            "nameserver 127.0.0.2#53\nnameserver 127.0.0.3\n",
        ),
        file(
            "app.corp",
            "nameserver 127.0.0.2:53\nnameserver 127.0.0.3\n",
        ),
        file("app.corp", "nameserver 127.2\n"),
        file("app.corp", "nameserver 0x7f.0.0.2\n"),
        file("app.corp", "nameserver 0177.0.0.02\n"),
        file("app.corp", "nameserver 2130706434\n"),
        file("app.corp", "nameserver 127.0.0.256\nnameserver 127.0.0.3\n"),
        file("app.corp", "nameserver 127.0.0.08\nnameserver 127.0.0.3\n"),
        file("app.corp", "nameserver +127.0.0.2\nnameserver 127.0.0.3\n"),
        file("app.corp", " nameserver 127.0.0.2\nnameserver 127.0.0.3\n"),
        file("app.corp", "NAMESERVER 127.0.0.2\nnameserver 127.0.0.3\n"),
        file("app.corp", "nameservers 127.0.0.2\nnameserver 127.0.0.3\n"),
        file("app.corp", "nameserver=127.0.0.2\nnameserver 127.0.0.3\n"),
        file("app.corp", "nameserver 127.0.0.2 127.0.0.3\n"),
        file(
            "app.corp",
            "nameserver 127.0.0.2\r\nnameserver 127.0.0.3\r\n",
        ),
        file("app.corp", "nameserver ::ffff:127.0.0.2\n"),
        file("app.corp", "nameserver ::1%lo\nnameserver 127.0.0.3\n"),
        file(
            "app.corp",
            "nameserver fe80::1%nothing\nnameserver 127.0.0.3\noptions timeout:1\n",
        ),
        file("app.corp", "nameserver [::1]\nnameserver 127.0.0.3\n"),
        file("app.corp", "nameserver dns.example\nnameserver 127.0.0.2\n"),
        file(
            "app.corp",
            "#nameserver 127.0.0.2\n;nameserver 127.0.0.2\nnameserver 127.0.0.3\n",
        ),
        file(
            "app.corp",
            "nameserver 127.0.0.7\nnameserver 127.0.0.8\nnameserver 127.0.0.9\nnameserver 127.0.0.2\n",
        ),
        file(
            "app.corp",
            "nameserver 127.0.0.7\nnameserver 127.0.0.8\nnameserver 127.0.0.2\n",
        ),
        file(
            "app.corp",
            "\u{feff}nameserver 127.0.0.2\nnameserver 127.0.0.3\n",
        ),
        file(
            "app.corp",
            "nameserver 127.0.0.2\0junk\nnameserver 127.0.0.3\n",
        ),
        file("app.corp", "\0nameserver 127.0.0.2\nnameserver 127.0.0.3\n"),
        file("app.corp", ""),
        file(
            "app.corp",
            "nameserver\nnameserver \nnameserver 127.0.0.2\n",
        ),
        ("app.corp", format!("# {}\n{ONE}", long_word(100_000))),
        ("app.corp", format!("{}{ONE}", "# comment\n".repeat(10_000))),
    ]
}

fn of_search() -> Vec<(&'static str, String)> {
    let file = |name, file: &str| (name, format!("{ONE}{file}"));
    vec![
        file("app", "search corp\n"),
        file("app", "search .corp\n"),
        file("app", "search ..corp other.example\n"),
        file("app", "search corp.\n"),
        file("app", "search CORP\n"),
        file("app", "search a.example b.example corp\n"),
        file("app", "search\ta.example\t \tcorp \t\n"),
        file(
            "app",
            "search 1.example 2.example 3.example 4.example 5.example 6.example 7.example corp\n",
        ),
        file("app", "search a.example\nsearch corp\n"),
        file("app", "search corp\nsearch a.example\n"),
        file("app", "search corp\nsearch \n"),
        file("app", "search corp\ndomain a.example\n"),
        file("app", "domain a.example\nsearch corp\n"),
        file("app", "domain corp a.example\n"),
        file("app", "domain a.example corp\n"),
        file("app", "domain .corp\n"),
        file("app", "search corp\r\n"),
        file("app", "search corp # not a comment\n"),
        file("app", "search # corp\n"),
        file("app", "search corp"),
        file("app", "search corp\0 a.example\n"),
        file("app", "search .\n"),
        file("app", "search . corp\n"),
        file("app", "search \"quoted\" corp\n"),
        file("app", "search cor\\112 x\n"),
        file("app", "search a\\.b corp\n"),
        file("app", "search b\\ corp\n"),
        file("app", "search under_score.example corp\n"),
        file("app", "search -dash.example corp\n"),
        file("app", "search *.example corp\n"),
        file("app", "search b\u{fc}cher.example corp\n"),
        file("app.corp", "search .corp example.com\n"),
        file("db", "search home.example\n"),
        file("db", ""),
        file("app.corp.", "search a.example\n"),
        file("db.internal.", "search corp\noptions ndots:5\n"),
        file(
            "db.internal",
            "search dead.example\noptions ndots:2 timeout:1 attempts:1\n",
        ),
        file(
            "app",
            "search dead.example corp\noptions timeout:1 attempts:1\n",
        ),
        file("app", "search fail.example corp\n"),
        file("app", "search refused.example corp\n"),
        file("app", "search notimp.example corp\n"),
        file("app", "search nodata.example corp\n"),
        file("app", "search lame.example corp\n"),
        file("app.dead", "search corp\noptions timeout:1 attempts:1\n"),
        file("six", "search nodata.example corp\n"),
        file("app.b", "search example\n"),
        (
            "app",
            format!("{ONE}search {}.example corp\n", long_word(64)),
        ),
        (
            "app.corp",
            format!("{ONE}search {}.example corp\n", long_word(80)),
        ),
        (
            "app",
            format!("{ONE}search {}corp\n", "a.example ".repeat(300)),
        ),
    ]
}

fn of_options() -> Vec<(&'static str, String)> {
    let file = |name, file: &str| (name, format!("{ONE}{file}"));
    vec![
        file("x.y", "search corp\noptions ndots:1\n"),
        file("x.y", "search corp\noptions ndots:2\n"),
        file("x.y", "search corp\noptions ndots:99\n"),
        file("x.y", "search corp\noptions ndots:-1\n"),
        file("x.y", "search corp\noptions ndots:x\n"),
        file("x.y", "search corp\noptions ndots:2x\n"),
        file("x.y", "search corp\noptions ndots: 2\n"),
        file("x.y", "search corp\noptions  odd ndots:2 words\n"),
        file("x.y", "search corp\noptions ndots:0 #x\noptions ndots:2\n"),
        file("x.y", "search corp\noptions NDOTS:2\n"),
        file("x.y", "search corp\noptions rotate,ndots:2\n"),
        file("x.y", "search corp\noption ndots:2\n"),
        file("app", "search corp\noptions ndots:0\n"),
        file("top", "options no-tld-query\n"),
        file("top", "search corp\noptions no-tld-query\n"),
        file("top", "search corp\noptions no_tld_query\n"),
        file("app.corp", "options attempts:0\n"),
        file("app.corp", "options attempts:1\n"),
        file("app.corp", "options attempts:-1\n"),
        file("app.corp", "options timeout:0\n"),
        file("app.corp", "options timeout:-1\n"),
        file("app.corp", "options use-vc\n"),
        file("app.corp", "options edns0 trust-ad single-request\n"),
        file(
            "app.corp",
            "options edns0 single-request-reopen no-reload\n",
        ),
        file(
            "app.corp",
            "sortlist 10.0.0.0/8\nlookup file bind\nfamily inet6\n",
        ),
        ("same.corp", format!("{TWO}options rotate\n")),
    ]
}

fn of_hosts() -> Vec<(&'static str, Vec<u8>)> {
    let file = |name, file: &[u8]| (name, file.to_vec());
    let long = [b"10.3.0.1 ".as_slice(), &b"alias ".repeat(20_000), b"far\n"].concat();
    let many = "10.3.0.9 other\n".repeat(10_000) + "10.3.0.1 far\n";
    vec![
        file("h", b"10.3.0.1 h\n"),
        file("h", b"10.3.0.1 h"),
        file("h", b"10.3.0.1\th\n"),
        file("h", b"  10.3.0.1  h  \n"),
        file("h", b"10.3.0.1 x h y\n"),
        file("H", b"10.3.0.1 h\n"),
        file("h", b"10.3.0.1 H\n"),
        file("h", b"10.3.0.1 x # h\n"),
        file("h", b"10.3.0.1 h# x\n"),
        file("h", b"10.3.0.1 h\r\n"),
        file("h", b"10.3.0.1 h\n10.3.0.2 h\n"),
        file("h", b"10.3.0.1 h\nfd00:9::3 h\n"),
        file("h", b"fd00:9::3 h\n"),
        file("h", b"fd00:9::3%lo h\n10.3.0.2 h\n"),
        file("h", b"10.3.1 h\n10.3.0.2 h\n"),
        file("h", b"010.3.0.1 h\n10.3.0.2 h\n"),
        file("h", b"bad h\n10.3.0.2 h\n"),
        file("h", b"10.3.0.1\n10.3.0.2 h\n"),
        file("h", b"10.3.0.1 caf\xe9 h\n"),
        file("h", b"# caf\xe9\n10.3.0.1 h\n"),
        file("h", b"10.3.0.1 x\0 h\n10.3.0.2 h\n"),
        file("h", b"\x0010.3.0.1 h\n10.3.0.2 h\n"),
        file("h", b"\xef\xbb\xbf10.3.0.1 h\n10.3.0.2 h\n"),
        file("h", b"10.3.0.1 h.corp\n"),
        file("app.corp", b"10.3.0.1 app.corp\n"),
        file("app.corp", b"fd00:9::3 app.corp\n"),
        file("app.corp", b"10.3.0.1 app\n"),
        file("app.corp.", b"10.3.0.1 app.corp\n"),
        file("h", b"10.3.0.1 h.\n"),
        file("h", b"10.3.0.1 h\x0bx\n"),
        file("h", b"10.3.0.1 h\x0cx\n"),
        file("h", b"10.3.0.1, h\n10.3.0.2 h\n"),
        file("h", b";10.3.0.1 h\n10.3.0.2 h\n"),
        ("far", long),
        ("far", many.into_bytes()),
    ]
}
