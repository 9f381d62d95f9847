//! Sockets that are away from their paths, because no endpoint takes connections (`--when-down refuse`).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::common::backend::Refusing;
use crate::common::client::exchange_and_end;
use crate::common::sys;
use crate::common::{Engine, KB, Pattern, eventually};
use crate::stage::{Daemon, route_to, wait_for_end};

const REFUSE: &str = "when-down = \"refuse\"";

fn file(path: &Path) -> Option<(u64, u32)> {
    let found = fs::symlink_metadata(path).ok()?;
    Some((found.ino(), found.mode() & 0o777))
}

struct Stage {
    daemon: Daemon,
    shown: PathBuf,
    hidden: PathBuf,
}

impl Stage {
    fn start(engine: Engine, refusing: &Refusing) -> Self {
        let daemon = Daemon::start(engine, &routes(refusing, REFUSE));
        let stage = Self {
            shown: daemon.socket("raw.sock"),
            hidden: daemon.socket(".raw.sock.down"),
            daemon,
        };
        eventually("it is hidden", || stage.is_hidden());
        stage
    }

    fn is_hidden(&self) -> bool {
        self.hidden.exists() && !self.shown.exists()
    }

    fn is_shown(&self) -> bool {
        self.shown.exists() && !self.hidden.exists()
    }

    fn is_down(&self) -> bool {
        self.daemon.route("raw")["is_down"] == true
    }
}

fn routes(refusing: &Refusing, more: &str) -> String {
    route_to("raw", &format!("\"{refusing}\""), more)
}

/// Whatever it is configured to be for, and by whomever it was hidden.
pub(crate) fn a_hidden_socket_stays_so_until_an_endpoint_is_back(engine: Engine) {
    let refusing = Refusing::new();
    let stage = Stage::start(engine, &refusing);
    let daemon = &stage.daemon;
    let (inode, _) = file(&stage.hidden).unwrap();
    // One that does not come to serve changes nothing.
    let wrong = "[route.b]\nlisten = \"inherit\"\nbackend = \"127.0.0.1:1\"\n";
    daemon.write(&format!("{}{wrong}", routes(&refusing, REFUSE)));
    daemon.refused(&["upgrade"], 1, &[]);
    assert!(stage.is_hidden());
    let mut pid = daemon.pid();
    for mode in ["0606", "0660", "0660"] {
        daemon.write(&routes(&refusing, &format!("{REFUSE}\nmode = \"{mode}\"")));
        let next = daemon.upgrade();
        assert!(stage.is_down(), "it knows from the beginning");
        wait_for_end(pid);
        let mode = u32::from_str_radix(mode, 8).unwrap();
        assert_eq!(file(&stage.hidden), Some((inode, mode)));
        assert!(stage.is_hidden());
        pid = next;
    }
    let backend = refusing.recover(|conversation| conversation.echo());
    eventually("it is back", || stage.is_shown());
    assert_eq!(file(&stage.shown), Some((inode, 0o660)));
    exchange_and_end(&daemon.connect("raw.sock"), Pattern::new(1), KB);
    drop(backend);
    let weigh = ["weight", "raw", "2"];
    let address = daemon.route("raw")["endpoints"][0]["address"].clone();
    daemon.done(&[weigh[0], weigh[1], address.as_str().unwrap(), weigh[2]]);
    eventually("it is hidden again", || stage.is_hidden());
    // The last one leaves nothing.
    sys::signal(pid, libc::SIGTERM).unwrap();
    wait_for_end(pid);
    assert_eq!(daemon.files(), ["spliceway.toml"]);
}

/// Another configuration may not want it so.
pub(crate) fn whoever_comes_shows_a_socket_that_it_does_not_hide(engine: Engine) {
    for more in ["", "when-down = \"close\""] {
        let refusing = Refusing::new();
        let stage = Stage::start(engine, &refusing);
        let before = file(&stage.hidden);
        stage.daemon.write(&routes(&refusing, more));
        stage.daemon.upgrade();
        eventually("it is shown", || stage.is_shown());
        assert_eq!(file(&stage.shown), before);
        // Whom it does not know, it takes nothing from; what is left of the route goes with the one before.
        let gone = "[route.other]\nlisten = \"unix:{dir}/other.sock\"\nbackend = \"127.0.0.1:1\"\n";
        stage.daemon.write(gone);
        stage.daemon.upgrade();
        eventually("nothing is left of it", || {
            !stage.shown.exists() && !stage.hidden.exists()
        });
    }
}
