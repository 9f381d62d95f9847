//! What a container engine makes of `deploy/docker/compose.yaml`, made from the kernel's own parts: network
//! namespaces with bridges between them, mounts, users, filters of system calls. There are no images: the
//! one that the Dockerfile makes is put together as it does it, and others are this machine's own programs.
//!
//! What the file says is done, so that a test of it is a test of the file. What is not understood here is
//! a failure.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use seccompiler::{BpfProgram, TargetArch};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::SPLICEWAY;
use super::process::Process;
use super::programs::program;
use super::proxy::fresh_dir;
use super::sys::{ChildSetup, Confinement, Mount, Network, demand_root};

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/docker");

/// The subnet of a network that the file leaves to the engine.
const SUBNET: &str = "172.31.91.0/24";

/// Where the commands of the images are on this machine.
const PROGRAMS: [(&str, &[&str]); 4] = [
    ("nginx", &["/usr/sbin/nginx"]),
    (
        "php-fpm",
        &[
            "/usr/sbin/php-fpm8.2",
            "/usr/sbin/php-fpm8.4",
            "/usr/sbin/php-fpm",
        ],
    ),
    ("php", &["/usr/bin/php"]),
    ("wget", &["/usr/bin/wget"]),
];

/// The services of a compose file, each in a network namespace of its own. They do not run yet.
pub(crate) struct Project {
    dir: TempDir,
    file: Value,
    namespaces: Namespaces,
    addresses: BTreeMap<String, Ipv4Addr>,
}

impl Project {
    /// A copy of `deploy/docker`, in which `adapt` may change things first.
    pub(crate) fn new(adapt: impl FnOnce(&Path)) -> Self {
        demand_root();
        let dir = fresh_dir();
        let mut copy = Command::new("cp");
        copy.args(["-r", DEPLOY]).arg(dir.path().join("docker"));
        run(copy);
        adapt(&dir.path().join("docker"));
        let file = read_yaml(&dir.path().join("docker/compose.yaml"));
        let mut project = Self {
            dir,
            file,
            namespaces: Namespaces::new(),
            addresses: BTreeMap::new(),
        };
        project.make_volumes();
        project.connect();
        project
    }

    /// The files beside the compose file.
    pub(crate) fn files(&self) -> PathBuf {
        self.dir.path().join("docker")
    }

    /// Where a named volume is on this machine.
    pub(crate) fn volume(&self, name: &str) -> PathBuf {
        self.dir.path().join("volumes").join(name)
    }

    /// The network of the machine that the containers run on.
    pub(crate) fn host(&self) -> Network {
        self.namespaces.open(HOST)
    }

    pub(crate) fn network_of(&self, service: &str) -> Network {
        self.namespaces.open(service)
    }

    pub(crate) fn address_of(&self, service: &str) -> Ipv4Addr {
        self.addresses[service]
    }

    /// The addresses of all that have this alias in a network.
    pub(crate) fn addresses_of(&self, alias: &str) -> Vec<Ipv4Addr> {
        let has_it = |service: &&String| {
            let networks = &self.service(service)["networks"];
            let its = networks.as_object().into_iter().flatten();
            its.flat_map(|(_, at)| words(&at["aliases"]))
                .any(|name| name == alias)
        };
        let services = self.addresses.keys().filter(has_it);
        services.map(|service| self.addresses[service]).collect()
    }

    /// Gives a service another address in its network.
    pub(crate) fn move_to(&mut self, service: &str, address: Ipv4Addr) {
        let old = self.addresses.insert(service.to_owned(), address);
        let old = old.expect("the service has an address");
        self.namespaces
            .ip(service, &format!("addr del {old}/24 dev eth0"));
        self.namespaces
            .ip(service, &format!("addr add {address}/24 dev eth0"));
    }

    /// A new container of a service, which has begun to run.
    pub(crate) fn start(&self, service: &str) -> Container {
        self.start_with(service, |profile| profile)
    }

    /// The same with another profile of system calls.
    pub(crate) fn start_with(
        &self,
        service: &str,
        change: impl FnOnce(Value) -> Value,
    ) -> Container {
        let definition = self.service(service);
        let root = self.make_root(service);
        let filters = self.filters(definition, change);
        let confinement = Confinement::new(
            &root,
            self.mounts(definition, &root),
            user(definition),
            filters,
        );
        let command = match &definition["command"] {
            Value::Null => entry_point(),
            command => words(command),
        };
        let network = self.network_of(service);
        Container {
            process: confined(&command, &network, &confinement),
            network,
            confinement,
            check: words(&definition["healthcheck"]["test"]),
        }
    }

    fn service(&self, name: &str) -> &Value {
        let service = &self.file["services"][name];
        assert!(service.is_object(), "compose.yaml has no service {name}");
        service
    }

    /// Volumes in memory: here, directories with the same owner and mode.
    fn make_volumes(&self) {
        let volumes = self.file["volumes"].as_object().expect("there are volumes");
        for (name, volume) in volumes {
            let options = volume["driver_opts"]["o"].as_str().expect("it is tmpfs");
            let option = |key: &str, radix| {
                let values = options.split(',').filter_map(|o| o.strip_prefix(key));
                let mut numbers = values.filter_map(|value| u32::from_str_radix(value, radix).ok());
                numbers
                    .next()
                    .unwrap_or_else(|| panic!("no {key} for {name}"))
            };
            let path = self.volume(name);
            fs::create_dir_all(&path).expect("the directory is ours");
            let mode = fs::Permissions::from_mode(option("mode=", 8));
            fs::set_permissions(&path, mode).expect("it is ours");
            chown(&path, Some(option("uid=", 10)), Some(option("gid=", 10))).expect("root may");
        }
    }

    /// A bridge for each network, and a cable from each service to its own.
    fn connect(&mut self) {
        let networks = self.file["networks"].as_object().expect("there are some");
        let mut subnets = BTreeMap::new();
        for (name, network) in networks {
            let configured = network["ipam"]["config"][0]["subnet"].as_str();
            let subnet = configured.unwrap_or(SUBNET);
            subnets.insert(
                name.clone(),
                subnet.strip_suffix(".0/24").expect("a /24").to_owned(),
            );
            self.namespaces.add_bridge(name);
            // The machine has an address in what is not internal: published ports arrive from there.
            if network["internal"] != json!(true) {
                let gateway = format!("addr add {}.1/24 dev {name}", subnets[name]);
                self.namespaces.ip(HOST, &gateway);
            }
        }
        let services = self.file["services"].as_object().expect("there are some");
        for (number, (service, definition)) in (10..).zip(services) {
            let (network, fixed) = network_of(definition);
            let address = fixed.unwrap_or_else(|| format!("{}.{number}", subnets[&network]));
            self.namespaces.add(service, &network, &address);
            let address = address.parse().expect("an address of IPv4");
            self.addresses.insert(service.clone(), address);
        }
    }

    /// An empty root directory with what the image has in it, or the mount points for it.
    fn make_root(&self, service: &str) -> PathBuf {
        let root = self.dir.path().join("roots").join(service);
        if root.exists() {
            return root;
        }
        fs::create_dir_all(&root).expect("the directory is ours");
        let definition = self.service(service);
        if definition["build"].is_object() {
            let maker = self.files().join("image-root.sh");
            let mut command = Command::new(maker);
            command.arg(SPLICEWAY).arg(&root);
            run(command);
            // An engine writes this one.
            fs::write(root.join("etc/resolv.conf"), "nameserver 127.0.0.11\n").expect("ours");
        } else {
            for name in ["usr", "etc", "tmp"] {
                fs::create_dir(root.join(name)).expect("the root is empty");
            }
            for name in ["bin", "sbin", "lib", "lib64"] {
                symlink(format!("usr/{name}"), root.join(name)).expect("the root is empty");
            }
        }
        for name in ["proc", "dev"] {
            fs::create_dir(root.join(name)).expect("no image has it");
        }
        for (source, target, _) in self.volumes(definition) {
            make_mount_point(&source, &root, &target);
        }
        root
    }

    fn mounts(&self, definition: &Value, root: &Path) -> Vec<Mount> {
        assert_eq!(
            definition["read_only"],
            json!(true),
            "a root of its own is read-only"
        );
        let mut mounts = vec![Mount::bind(root, root)];
        let own = definition["build"].is_object();
        let of_the_machine: &[&str] = match own {
            true => &["proc", "dev"],
            false => &["usr", "etc", "proc", "dev"],
        };
        for name in of_the_machine {
            mounts.push(Mount::bind(&Path::new("/").join(name), &root.join(name)));
            if ["usr", "etc"].contains(name) {
                mounts.push(Mount::read_only(&root.join(name)));
            }
        }
        for (source, target, read_only) in self.volumes(definition) {
            let target = under(root, &target);
            mounts.push(Mount::bind(&source, &target));
            if read_only {
                mounts.push(Mount::read_only(&target));
            }
        }
        for entry in words(&definition["tmpfs"]) {
            let (target, options) = entry.split_once(':').expect("options say whose it is");
            mounts.push(Mount::tmpfs(&under(root, target), options));
        }
        mounts.push(Mount::read_only(root));
        mounts
    }

    /// What is mounted from where to where, and whether it may only be read.
    fn volumes(&self, definition: &Value) -> Vec<(PathBuf, String, bool)> {
        let volumes = words(&definition["volumes"]);
        let parse = |volume: &String| {
            let mut parts = volume.split(':');
            let source = parts.next().expect("there is a first part");
            let target = parts.next().expect("a source and a target");
            let read_only = parts.next().is_some_and(|mode| mode == "ro");
            let source = match source.starts_with('.') {
                true => self.files().join(source),
                false => self.volume(source),
            };
            (source, target.to_owned(), read_only)
        };
        volumes.iter().map(parse).collect()
    }

    fn filters(&self, definition: &Value, change: impl FnOnce(Value) -> Value) -> Vec<BpfProgram> {
        let options = words(&definition["security_opt"]);
        assert!(
            options
                .iter()
                .any(|option| option == "no-new-privileges:true")
        );
        assert_eq!(definition["cap_drop"], json!(["ALL"]));
        let profile = options
            .iter()
            .find_map(|option| option.strip_prefix("seccomp:"));
        let Some(profile) = profile else {
            return Vec::new();
        };
        let text = fs::read_to_string(self.files().join(profile)).expect("the file is there");
        let profile = serde_json::from_str(&text).expect("a profile is JSON");
        filters(&change(profile))
    }
}

/// A container of a service.
pub(crate) struct Container {
    pub(crate) process: Process,
    network: Network,
    confinement: Confinement,
    check: Vec<String>,
}

impl Container {
    /// Runs its health check inside.
    pub(crate) fn is_healthy(&self) -> bool {
        let (how, command) = self.check.split_first().expect("there is a check");
        assert_eq!(how, "CMD", "there is no shell in an image");
        self.execute(command).success()
    }

    /// Runs another program inside, to its end.
    pub(crate) fn execute(&self, command: &[String]) -> ExitStatus {
        let beside = self.confinement.beside(self.process.pid());
        let beside = beside.expect("the process has mounts of its own");
        confined(command, &self.network, &beside).wait()
    }
}

fn confined(command: &[String], network: &Network, confinement: &Confinement) -> Process {
    let (name, arguments) = command.split_first().expect("a command has a name");
    let of_this_machine = PROGRAMS.iter().find(|(known, _)| known == name);
    let path = match of_this_machine {
        Some((_, places)) => program(places),
        None => PathBuf::from(name),
    };
    let mut command = Command::new(path);
    command
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let setup = ChildSetup {
        death_signal: libc::SIGKILL,
        network: Some(network.clone()),
        confinement: Some(confinement.clone()),
        ..ChildSetup::default()
    };
    Process::start(command, setup)
}

/// What the image runs: ENTRYPOINT and CMD of the Dockerfile.
fn entry_point() -> Vec<String> {
    let file = fs::read_to_string(format!("{DEPLOY}/Dockerfile")).expect("it is there");
    let instruction = |name: &str| {
        let line = file.lines().find_map(|line| line.strip_prefix(name));
        let words = line.and_then(|line| serde_json::from_str::<Vec<String>>(line).ok());
        words.unwrap_or_else(|| panic!("no {name} in the Dockerfile"))
    };
    let mut command = instruction("ENTRYPOINT ");
    command.extend(instruction("CMD "));
    command
}

fn user(definition: &Value) -> (u32, u32) {
    let user = definition["user"].as_str().expect("nobody is root");
    let (uid, gid) = user.split_once(':').expect("a user and a group");
    (
        uid.parse().expect("a number"),
        gid.parse().expect("a number"),
    )
}

/// The only network of a service, and the address that it has there if the file says so.
fn network_of(definition: &Value) -> (String, Option<String>) {
    match &definition["networks"] {
        Value::Array(names) => {
            let [Value::String(name)] = &names[..] else {
                panic!("not one network: {names:?}")
            };
            (name.clone(), None)
        }
        networks => {
            let its: Vec<_> = networks.as_object().into_iter().flatten().collect();
            let [(name, at)] = its[..] else {
                panic!("not one network: {networks}")
            };
            (name.clone(), at["ipv4_address"].as_str().map(str::to_owned))
        }
    }
}

/// How a program of this machine ends under the profile of spliceway's container. What the profile does
/// not allow is its end by SIGSYS.
pub(crate) fn end_under_profile(mut command: Command, user: u32) -> ExitStatus {
    let text = fs::read_to_string(Path::new(DEPLOY).join("seccomp.json"));
    let profile = serde_json::from_str(&text.expect("the file is there"));
    let filters = filters(&profile.expect("a profile is JSON"));
    let setup = ChildSetup {
        death_signal: libc::SIGKILL,
        confinement: Some(Confinement::new(
            Path::new("/"),
            Vec::new(),
            (user, user),
            filters,
        )),
        ..ChildSetup::default()
    };
    setup.prepare(&mut command);
    // Its standard error is given to the user, so it has to be a pipe of its own.
    command.output().expect("it starts").status
}

/// A profile as Docker reads it, for the kernel. What it does not allow kills the process, so that a call
/// that is missing from it cannot go unnoticed.
fn filters(profile: &Value) -> Vec<BpfProgram> {
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let (mut allowed, mut answered) = (Vec::new(), Vec::new());
    for rule in profile["syscalls"].as_array().expect("a list") {
        let conditions = rule["args"].as_array().into_iter().flatten();
        let conditions: Vec<_> = conditions.map(condition).collect();
        for name in words(&rule["names"]) {
            let mut call = json!({ "syscall": name });
            if !conditions.is_empty() {
                call["args"] = json!(conditions);
            }
            match rule["action"].as_str() {
                Some("SCMP_ACT_ALLOW") => allowed.push(call),
                // Allowed by the last filter, and answered by an earlier one: the stricter one counts.
                Some("SCMP_ACT_ERRNO") => {
                    allowed.push(call.clone());
                    answered.push((call, rule["errnoRet"].clone()));
                }
                action => panic!("unknown action {action:?}"),
            }
        }
    }
    let answer = |(call, errno)| compile(json!("allow"), json!({ "errno": errno }), &[call]);
    let mut programs: Vec<_> = answered.into_iter().map(answer).collect();
    // Last, because it does not allow further filters.
    programs.push(compile(json!("kill_process"), json!("allow"), &allowed));
    programs
}

fn condition(argument: &Value) -> Value {
    let (op, value) = match argument["op"].as_str() {
        Some("SCMP_CMP_EQ") => (json!("eq"), &argument["value"]),
        Some("SCMP_CMP_MASKED_EQ") => (
            json!({ "masked_eq": argument["value"] }),
            &argument["valueTwo"],
        ),
        op => panic!("unknown comparison {op:?}"),
    };
    json!({ "index": argument["index"], "type": "qword", "op": op, "val": value })
}

fn compile(otherwise: Value, action: Value, calls: &[Value]) -> BpfProgram {
    let filter = json!({ "all": {
        "mismatch_action": otherwise,
        "match_action": action,
        "filter": calls,
    }});
    let arch = TargetArch::try_from(std::env::consts::ARCH).expect("a known architecture");
    let compiled = seccompiler::compile_from_json(filter.to_string().as_bytes(), arch);
    let mut programs = compiled.expect("every name is that of a system call");
    programs.remove("all").expect("it was given")
}

fn make_mount_point(source: &Path, root: &Path, target: &str) {
    let machines_own = ["/etc/nginx/"];
    if machines_own.iter().any(|dir| target.starts_with(dir)) {
        return;
    }
    let target = under(root, target);
    if source.is_dir() {
        fs::create_dir_all(&target).expect("the root is ours");
    } else {
        let parent = target.parent().expect("it is a file of some directory");
        fs::create_dir_all(parent).expect("the root is ours");
        fs::write(&target, "").expect("the root is ours");
    }
}

fn under(root: &Path, target: &str) -> PathBuf {
    root.join(target.strip_prefix('/').expect("an absolute path"))
}

/// The one document of a file.
fn read_yaml(path: &Path) -> Value {
    let [document] = &mut read_yaml_documents(path)[..] else {
        panic!("{} has not one document", path.display())
    };
    document.take()
}

/// All documents of a file.
pub(crate) fn read_yaml_documents(path: &Path) -> Vec<Value> {
    const CONVERT: &str =
        "import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)";
    let mut command = Command::new("/usr/bin/python3");
    command
        .args(["-c", CONVERT])
        .stdin(fs::File::open(path).expect("the file is there"));
    let output = command.output().expect("python3 is installed");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The strings of an array.
fn words(value: &Value) -> Vec<String> {
    let entries = value.as_array().into_iter().flatten();
    let text = |entry: &Value| entry.as_str().map(str::to_owned);
    entries.filter_map(text).collect()
}

/// The namespace that stands for the machine, with the bridges.
const HOST: &str = "host";

/// Network namespaces, each named as `ip netns` has it.
struct Namespaces {
    prefix: String,
    names: Vec<String>,
}

impl Namespaces {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut namespaces = Self {
            prefix: format!("spliceway-{}-{number}", std::process::id()),
            names: Vec::new(),
        };
        namespaces.create(HOST);
        namespaces
    }

    fn create(&mut self, name: &str) {
        let full = self.full(name);
        ip(&format!("netns add {full}"));
        self.names.push(full);
        self.ip(name, "link set lo up");
    }

    fn add_bridge(&self, name: &str) {
        self.ip(HOST, &format!("link add {name} type bridge"));
        self.ip(HOST, &format!("link set {name} up"));
    }

    /// A namespace with a cable to a bridge.
    fn add(&mut self, name: &str, bridge: &str, address: &str) {
        self.create(name);
        let cable = format!("to-{name}");
        let there = self.full(name);
        self.ip(
            HOST,
            &format!("link add {cable} type veth peer name eth0 netns {there}"),
        );
        self.ip(HOST, &format!("link set {cable} master {bridge} up"));
        self.ip(name, &format!("addr add {address}/24 dev eth0"));
        self.ip(name, "link set eth0 up");
    }

    fn open(&self, name: &str) -> Network {
        Network::open(&self.full(name)).expect("it was made")
    }

    fn ip(&self, name: &str, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.full(name)));
    }

    fn full(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.names {
            let mut command = Command::new("ip");
            // The kernel takes it apart when its last process has ended.
            let _ = command.args(["netns", "del", name]).status();
        }
    }
}

fn ip(arguments: &str) {
    let mut command = Command::new("ip");
    command.args(arguments.split(' '));
    run(command);
}

#[track_caller]
fn run(mut command: Command) {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
}
