//! The policy module of `deploy/selinux`, linked with the reference policy as Debian packages it.
//!
//! No kernel here enforces it. What is asked is the linked policy itself: what the domain may do, what
//! it may not, and who may do what to it. Rules are those of the whole policy, so a rule that comes in
//! through an attribute or an interface of the reference policy counts as well.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Output};
use std::sync::OnceLock;

use common::programs::program;
use common::proxy::fresh_dir;

/// What it is linked with: the base, the web servers, and daemons that have no business with it.
const MODULES: [&str; 10] = [
    "base",
    "apache",
    "bind",
    "cron",
    "dnsmasq",
    "memcached",
    "mysql",
    "postgresql",
    "redis",
    "ssh",
];

/// The base gives a user to a login that is declared in a module with very many needs of its own.
const MISSING_USER: &str =
    "(user xdm) (userrole xdm system_r) (userlevel xdm (s0)) (userrange xdm ((s0) (s0)))";

/// The newest version that the setools of Debian 12 read.
const POLICY_VERSION: &str = "33";

const OURS: &str = "spliceway_t";

#[test]
fn the_module_is_ready_for_policies_that_know_when_a_ring_may_be_set_up() {
    let dir = fresh_dir();
    let share = dir.path().join("share");
    fs::create_dir(&share).unwrap();
    run(Command::new("cp")
        .args(["-r", "/usr/share/selinux/devel"])
        .arg(&share));
    let words = share.join("devel/include/support/all_perms.spt");
    let text = fs::read_to_string(&words).unwrap();
    let newer = text.replace(
        "{ override_creds sqpoll }",
        "{ override_creds sqpoll cmd allowed }",
    );
    assert_ne!(text, newer, "the class has other permissions already");
    fs::write(&words, newer).unwrap();
    let module = compile(&dir.path().join("module"), &share);
    let rules = to_cil(&fs::read(module).unwrap(), dir.path());
    assert!(rules.contains("(allow spliceway_t self (io_uring (allowed)))"));
}

#[test]
fn both_booleans_are_off() {
    for name in ["spliceway_connect_any", "spliceway_bind_any"] {
        let info = policy().info(&["-x", "-b", name]);
        assert!(info.contains(&format!("bool {name} false;")), "{info}");
    }
}

#[test]
fn init_runs_the_program_in_its_own_domain_and_nothing_else_leads_there() {
    let transitions = policy().search(&["-T", "-s", "init_t", "-t", "spliceway_exec_t"]);
    let expected = "type_transition init_t spliceway_exec_t:process spliceway_t;";
    assert_eq!(transitions, [expected]);
    assert_eq!(targets(&["-p", "entrypoint"]), set(&["spliceway_exec_t"]));
    let by = sources(&["-t", OURS, "-c", "process", "-p", "transition"]);
    assert_eq!(by, set(&["init_t", "initrc_t"]));
    // Hardened units have NoNewPrivileges=, which forbids a transition without this.
    let rules = policy().allow(&["-s", "init_t", "-t", OURS, "-c", "process2"]);
    assert!(rules.concat().contains("nnp_transition"), "{rules:?}");
}

#[test]
fn without_the_boolean_it_connects_to_its_ports_and_to_name_servers_only() {
    let (always, sometimes) = by_condition(&["-s", OURS, "-p", "name_connect"]);
    assert_eq!(
        always,
        set(&[
            "allow spliceway_t dns_port_t:tcp_socket name_connect;",
            "allow spliceway_t spliceway_port_t:tcp_socket name_connect;",
        ])
    );
    let any = "allow spliceway_t port_type:tcp_socket name_connect; [ spliceway_connect_any ]:True";
    assert_eq!(sometimes, set(&[any]));
    // Of those that the rules above leave out, the ones that somebody will ask about.
    let members = policy().info(&["-x", "-a", "port_type"]);
    for port in ["http_port_t", "cslistener_port_t", "spliceway_port_t"] {
        assert!(members.contains(port), "{port} is no port type");
    }
}

/// 9000 belongs to another service in the reference policy, so it has to be given over on purpose.
#[test]
fn no_port_is_its_own_until_somebody_says_so() {
    let ports = policy().info(&["--portcon"]);
    assert!(ports.contains("portcon tcp 9000 system_u:object_r:cslistener_port_t:s0"));
    assert!(!ports.contains("spliceway_port_t"));
}

#[test]
fn without_the_boolean_it_listens_on_no_port() {
    let (always, sometimes) = by_condition(&["-s", OURS, "-c", "tcp_socket", "-p", "name_bind"]);
    assert_eq!(always, set(&[]));
    let any = "allow spliceway_t port_type:tcp_socket name_bind; [ spliceway_bind_any ]:True";
    assert_eq!(sometimes, set(&[any]));
    // For the ports that the kernel gives away by itself it does not ask for name_bind.
    let (always, sometimes) =
        by_condition(&["-s", OURS, "-c", "tcp_socket", "-p", "listen,accept"]);
    assert_eq!(always, set(&[]));
    let any =
        "allow spliceway_t spliceway_t:tcp_socket { accept listen }; [ spliceway_bind_any ]:True";
    assert_eq!(sometimes, set(&[any]));
}

#[test]
fn it_has_no_capability_but_for_low_ports_with_the_boolean() {
    let (always, sometimes) = by_condition(&["-s", OURS, "-c", "capability"]);
    assert_eq!(always, set(&[]));
    let low_ports = "allow spliceway_t spliceway_t:capability net_bind_service; \
                     [ spliceway_bind_any ]:True";
    assert_eq!(sometimes, set(&[low_ports]));
    for class in ["capability2", "cap_userns", "cap2_userns"] {
        let rules = policy().allow(&["-s", OURS, "-c", class]);
        assert!(rules.is_empty(), "{rules:?}");
    }
}

#[test]
fn it_makes_no_executable_memory_and_becomes_no_other_domain() {
    for permission in [
        "execmem",
        "execstack",
        "execheap",
        "ptrace",
        "transition",
        "dyntransition",
    ] {
        let rules = policy().allow(&["-s", OURS, "-p", permission]);
        assert!(rules.is_empty(), "{permission}: {rules:?}");
    }
}

/// An upgrade: in its own domain, to which nothing leads from there.
#[test]
fn it_runs_its_own_program_and_no_other() {
    let run = targets(&["-c", "file", "-p", "execute_no_trans"]);
    assert_eq!(run, set(&["spliceway_exec_t"]));
    let rules = policy().allow(&["-s", OURS, "-t", "spliceway_exec_t", "-c", "file"]);
    let permissions = permissions(&rules);
    assert!(permissions.is_superset(&set(&["getattr", "open", "read", "execute", "map"])));
    assert!(permissions.is_disjoint(&set(&["write", "append", "unlink", "setattr"])));
    let transitions = policy().search(&["-T", "-s", OURS, "-c", "process"]);
    assert!(transitions.is_empty(), "{transitions:?}");
}

#[test]
fn it_changes_no_files_but_those_of_its_directory_and_its_logs() {
    let changes = ["write", "create", "unlink", "rename", "link", "setattr"];
    for change in changes {
        let found = targets(&["-c", "file", "-p", change]);
        let allowed = set(&[
            "spliceway_var_run_t",
            "spliceway_log_t",
            // Its own entries in /proc, and what systemd hands over as standard input.
            "spliceway_t",
            "init_tmpfs_t",
        ]);
        assert!(found.is_subset(&allowed), "{change}: {found:?}");
        let found = targets(&["-c", "dir", "-p", change]);
        let allowed = set(&["spliceway_var_run_t", "spliceway_log_t"]);
        assert!(found.is_subset(&allowed), "{change}: {found:?}");
    }
    for class in ["lnk_file", "blk_file", "chr_file"] {
        let found = targets(&["-c", class, "-p", "create"]);
        assert_eq!(found, set(&[]), "{class}");
    }
}

#[test]
fn a_log_is_made_and_appended_to_and_neither_read_nor_cut() {
    let rules = policy().allow(&["-s", OURS, "-t", "spliceway_log_t", "-c", "file"]);
    let permissions = permissions(&rules);
    assert!(permissions.is_superset(&set(&["create", "append", "open", "getattr"])));
    assert!(permissions.is_disjoint(&set(&["read", "write", "unlink", "rename"])));
}

#[test]
fn its_configuration_is_read_only() {
    let rules = policy().allow(&["-s", OURS, "-t", "spliceway_etc_t", "-c", "file"]);
    let permissions = permissions(&rules);
    assert_eq!(
        permissions,
        set(&["getattr", "ioctl", "lock", "open", "read"])
    );
}

#[test]
fn web_servers_may_connect_and_no_other_domain() {
    let by = sources(&["-t", OURS, "-c", "unix_stream_socket", "-p", "connectto"]);
    assert_eq!(by, set(&["httpd_t", OURS]));
    let file = ["-s", "httpd_t", "-t", "spliceway_var_run_t"];
    let rules = policy().allow(&[&file[..], &["-c", "sock_file"]].concat());
    let allowed = permissions(&rules);
    assert!(allowed.contains("write"));
    assert!(allowed.is_disjoint(&set(&["create", "unlink", "rename"])));
    let rules = policy().allow(&[&file[..], &["-c", "dir", "-p", "search"]].concat());
    assert!(permissions(&rules).is_disjoint(&set(&["add_name", "remove_name"])));
    assert!(!rules.is_empty());
    // nginx and PHP-FPM run in that domain.
    for binary in ["/usr/sbin/nginx", "/usr/sbin/php-fpm8.2"] {
        assert_eq!(policy().type_of(binary), "httpd_exec_t", "{binary}");
    }
}

#[test]
fn a_ring_may_be_made_and_mapped_without_a_thread_or_credentials_of_its_own() {
    let rules = policy().allow(&["-s", OURS, "-c", "anon_inode"]);
    assert_eq!(
        rules,
        ["allow spliceway_t spliceway_t:anon_inode { create map read write };"]
    );
    let rules = policy().allow(&["-s", OURS, "-c", "io_uring"]);
    assert!(rules.is_empty(), "{rules:?}");
}

#[test]
fn pipes_threads_and_sockets_may_be_used() {
    let needed = [
        ("fifo_file", "read write getattr"),
        ("process", "fork setsched sigchld sigkill"),
        (
            "unix_stream_socket",
            "create bind listen accept connect connectto read write getopt setopt shutdown getattr",
        ),
        (
            "tcp_socket",
            "create bind connect read write getopt setopt shutdown getattr",
        ),
        (
            "udp_socket",
            "create bind connect read write getopt setopt getattr",
        ),
        ("unix_dgram_socket", "create connect write"),
    ];
    for (class, words) in needed {
        let rules = policy().allow(&["-s", OURS, "-t", OURS, "-c", class]);
        let needed: BTreeSet<_> = words.split(' ').map(str::to_owned).collect();
        let missing: Vec<_> = needed.difference(&permissions(&rules)).cloned().collect();
        assert!(missing.is_empty(), "{class}: {missing:?}");
    }
}

#[test]
fn names_are_resolved_from_ports_that_belong_to_no_service() {
    for file in ["/etc/hosts", "/etc/resolv.conf"] {
        assert_eq!(policy().type_of(file), "net_conf_t", "{file}");
    }
    let rules = policy().allow(&["-s", OURS, "-t", "net_conf_t", "-c", "file", "-p", "read"]);
    assert!(!rules.is_empty());
    let ports = targets(&["-c", "udp_socket", "-p", "name_bind"]);
    assert_eq!(ports, set(&["unreserved_port_type"]));
}

#[test]
fn systemd_may_make_its_sockets_and_directories_and_be_told() {
    let init = |class: &str, target: &str, words: &str| {
        let rules = policy().allow(&["-s", "init_t", "-t", target, "-c", class]);
        let given = permissions(&rules);
        for word in words.split(' ') {
            assert!(given.contains(word), "{target}:{class} {word}");
        }
    };
    init("unix_stream_socket", OURS, "create bind listen setopt");
    init("tcp_socket", OURS, "create bind listen setopt");
    init("sock_file", "spliceway_var_run_t", "create setattr unlink");
    init("dir", "spliceway_var_run_t", "create setattr rmdir mounton");
    init("file", "spliceway_var_run_t", "unlink");
    init("dir", "spliceway_log_t", "create setattr mounton");
    init("lnk_file", "spliceway_log_t", "create unlink");
    let rules = policy().allow(&["-s", OURS, "-t", "init_t", "-c", "unix_dgram_socket"]);
    assert!(permissions(&rules).contains("sendto"));
    let rules = policy().allow(&["-s", OURS, "-t", "init_runtime_t", "-c", "sock_file"]);
    assert!(permissions(&rules).contains("write"));
    let units = policy().info(&["-x", "-t", "spliceway_unit_file_t"]);
    assert!(units.contains("systemdunit"), "{units}");
}

/// Every path that the unit files of `deploy/systemd` name or make.
#[test]
fn paths_have_their_types() {
    for (path, expected) in [
        ("/usr/bin/spliceway", "spliceway_exec_t"),
        ("/usr/local/bin/spliceway", "spliceway_exec_t"),
        ("/usr/bin/spliceway-bench", "bin_t"),
        (
            "/usr/lib/systemd/system/spliceway.service",
            "spliceway_unit_file_t",
        ),
        (
            "/etc/systemd/system/spliceway@.socket",
            "spliceway_unit_file_t",
        ),
        (
            "/etc/systemd/system/spliceway@fastcgi.socket.d/access.conf",
            "spliceway_unit_file_t",
        ),
        ("/etc/spliceway", "spliceway_etc_t"),
        ("/etc/spliceway/fastcgi.env", "spliceway_etc_t"),
        ("/run/spliceway", "spliceway_var_run_t"),
        ("/run/spliceway/control.sock", "spliceway_var_run_t"),
        ("/run/spliceway@fastcgi/control.sock", "spliceway_var_run_t"),
        ("/run/spliceway-sockets", "spliceway_var_run_t"),
        ("/run/spliceway-sockets/fastcgi.sock", "spliceway_var_run_t"),
        ("/run/splice", "<<none>>"),
        ("/var/log/spliceway/access.log", "spliceway_log_t"),
        ("/var/log/spliceway@fastcgi", "spliceway_log_t"),
        (
            "/var/log/private/spliceway@fastcgi/access.log",
            "spliceway_log_t",
        ),
        ("/var/log/private", "var_log_t"),
    ] {
        assert_eq!(policy().type_of(path), expected, "{path}");
    }
}

/// Who mistypes a name there finds out on a machine that matters.
#[test]
fn the_readme_speaks_of_names_that_exist() {
    let readme = fs::read_to_string(source().join("README.md")).unwrap();
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = readme.split(|c| !is_part(c));
    let names: BTreeSet<_> = words
        .filter(|word| word.starts_with("spliceway_"))
        .collect();
    assert!(names.len() > 5, "{names:?}");
    let known = policy().info(&["-t"]) + &policy().info(&["-b"]);
    let known: BTreeSet<_> = known.split_whitespace().collect();
    let interfaces = fs::read_to_string(source().join("spliceway.if")).unwrap();
    for name in names {
        let exists = known.contains(name) || interfaces.contains(&format!("interface(`{name}'"));
        assert!(exists, "{name}");
    }
}

#[test]
fn the_modules_in_the_readme_compile() {
    let readme = fs::read_to_string(source().join("README.md")).unwrap();
    let blocks = readme.split("```text\n").skip(1);
    let modules: Vec<_> = blocks
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert_eq!(modules.len(), 2);
    for module in modules {
        let (_, rest) = module.split_once("policy_module(").unwrap();
        let name = rest.split(',').next().unwrap();
        let dir = fresh_dir();
        let beside = dir.path().join("module");
        run(Command::new("cp").arg("-r").arg(source()).arg(&beside));
        fs::write(beside.join(format!("{name}.te")), module).unwrap();
        make(&beside, name, Path::new("/usr/share/selinux"));
    }
}

// --- the policy -------------------------------------------------------------------------------------

/// The linked policy, in files without a name: nobody would remove them after the last test.
struct Policy {
    binary: File,
    file_contexts: File,
}

fn policy() -> &'static Policy {
    static POLICY: OnceLock<Policy> = OnceLock::new();
    POLICY.get_or_init(Policy::link)
}

impl Policy {
    fn link() -> Self {
        let dir = fresh_dir();
        let (binary, file_contexts) = (dir.path().join("policy"), dir.path().join("contexts"));
        let module = compile(&dir.path().join("module"), Path::new("/usr/share/selinux"));
        let mut link = Command::new(program(&["/usr/bin/secilc"]));
        link.args(["-M", "true", "-c", POLICY_VERSION])
            .arg("-o")
            .arg(&binary)
            .arg("-f")
            .arg(&file_contexts);
        let mut add = |name: &str, rules: &str| {
            let file = dir.path().join(format!("{name}.cil"));
            fs::write(&file, rules).unwrap();
            link.arg(file);
        };
        for name in MODULES {
            let packed = format!("/usr/share/selinux/default/{name}.pp.bz2");
            let module = run(Command::new("bzcat").arg(program(&[&packed])));
            add(name, &to_cil(&module.stdout, dir.path()));
        }
        add("user", MISSING_USER);
        add("spliceway", &to_cil(&fs::read(module).unwrap(), dir.path()));
        run(&mut link);
        Self {
            binary: File::open(binary).unwrap(),
            file_contexts: File::open(file_contexts).unwrap(),
        }
    }

    /// The rules that sesearch finds.
    fn search(&self, question: &[&str]) -> Vec<String> {
        let sesearch = program(&["/usr/bin/sesearch"]);
        let output = run(Command::new(sesearch)
            .args(question)
            .arg(path_of(&self.binary)));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// The allow rules, those of its attributes included.
    fn allow(&self, question: &[&str]) -> Vec<String> {
        self.search(&[&["-A"], question].concat())
    }

    fn info(&self, question: &[&str]) -> String {
        let seinfo = program(&["/usr/bin/seinfo"]);
        // The policy comes first, because the last option may take a word or not.
        let output = run(Command::new(seinfo)
            .arg(path_of(&self.binary))
            .args(question));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The type that a path is to have, or `<<none>>` where that is left to whoever makes it.
    fn type_of(&self, path: &str) -> String {
        let matchpathcon = program(&["/usr/sbin/matchpathcon"]);
        let output = run(Command::new(matchpathcon)
            .arg("-n")
            .arg("-f")
            .arg(path_of(&self.file_contexts))
            .arg(path));
        let context = String::from_utf8(output.stdout).unwrap();
        context
            .trim_end()
            .split(':')
            .nth(2)
            .unwrap_or("<<none>>")
            .to_owned()
    }
}

/// Where other programs find an open file of ours.
fn path_of(file: &File) -> String {
    format!("/proc/{}/fd/{}", process::id(), file.as_raw_fd())
}

fn source() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/selinux"))
}

/// Compiles the module as its README says, in a copy.
fn compile(dir: &Path, share: &Path) -> PathBuf {
    run(Command::new("cp").arg("-r").arg(source()).arg(dir));
    make(dir, "spliceway", share)
}

fn make(dir: &Path, module: &str, share: &Path) -> PathBuf {
    let package = format!("{module}.pp");
    let output = run(Command::new(program(&["/usr/bin/make"]))
        .arg("-f")
        .arg(share.join("devel/Makefile"))
        .arg(format!("SHAREDIR={}", share.display()))
        .args(["NAME=default", &package])
        .current_dir(dir));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said, "", "the module compiles without a word");
    dir.join(package)
}

/// A module in the language that the linker reads.
fn to_cil(module: &[u8], dir: &Path) -> String {
    let file = dir.join("module.pp");
    fs::write(&file, module).unwrap();
    let convert = program(&["/usr/libexec/selinux/hll/pp", "/usr/lib/selinux/hll/pp"]);
    let output = run(Command::new(convert).arg(file));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

// --- rules ------------------------------------------------------------------------------------------

/// `allow SOURCE TARGET:CLASS { PERMISSIONS }; [ CONDITION ]:True`
fn by_condition(question: &[&str]) -> (BTreeSet<String>, BTreeSet<String>) {
    let rules = policy().allow(question).into_iter();
    rules
        .filter(|rule| !rule.is_empty())
        .partition(|rule| !rule.contains('['))
}

/// Whom the domain may do this to.
fn targets(question: &[&str]) -> BTreeSet<String> {
    let rules = policy().allow(&[&["-s", OURS], question].concat());
    let target = |rule: &String| {
        let word = rule.split(' ').nth(2).unwrap();
        word.split(':').next().unwrap().to_owned()
    };
    rules.iter().map(target).collect()
}

/// Who may do this.
fn sources(question: &[&str]) -> BTreeSet<String> {
    let rules = policy().allow(question);
    let source = |rule: &String| rule.split(' ').nth(1).unwrap().to_owned();
    rules.iter().map(source).collect()
}

/// All permissions of these rules, of which none may depend on a condition.
#[track_caller]
fn permissions(rules: &[String]) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for rule in rules.iter().filter(|rule| !rule.contains('[')) {
        let (_, permissions) = rule.split_once(':').unwrap();
        let words = permissions.split([' ', ';', '{', '}']).skip(1);
        all.extend(words.filter(|word| !word.is_empty()).map(str::to_owned));
    }
    all
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
