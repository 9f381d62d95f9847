use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tokio::time::timeout;

use super::*;

const GUARD: Duration = Duration::from_secs(60);

/// What a shell does without an end.
const FOR_EVER: &str = "exec sleep 1000";

fn program(words: &str) -> Program {
    Program {
        path: Ok("/usr/bin/spliceway".into()),
        name: "spliceway".into(),
        words: words.split_whitespace().map(OsString::from).collect(),
    }
}

fn words_of(words: &str) -> Result<String, StartError> {
    let words = program(words).words_to_take_over(Some(Path::new("/run/c.sock")))?;
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    Ok(words.join(" "))
}

impl Program {
    /// A program whose file has this content. Another process writes it: a descriptor of this one could be open in a
    /// child that another test is about to start, and then the file would be busy.
    pub(in super::super) fn fake(dir: &Path, content: &str) -> Self {
        const WRITE: &str = r#"printf '%s' "$1" > "$0" && chmod 755 "$0""#;
        let path = dir.join("program");
        let mut write = Command::new("/bin/sh");
        write.args(["-c", WRITE]).arg(&path).arg(content);
        assert!(write.status().unwrap().success());
        Self {
            path: Ok(path),
            ..program("run --config a")
        }
    }

    /// A script of the shell.
    pub(in super::super) fn script(dir: &Path, lines: &str) -> Self {
        Self::fake(dir, &format!("#!/bin/sh\n{lines}\n"))
    }
}

async fn started(program: &Program) -> Result<Successor, StartError> {
    let control = Path::new("/run/c.sock");
    let outcome = timeout(GUARD, program.start(Some(control), &[])).await;
    outcome
        .expect("in time")
        .expect("the thread says something")
}

async fn script(dir: &Path, lines: &str) -> Successor {
    started(&Program::script(dir, lines)).await.unwrap()
}

async fn end_of(mut successor: Successor) -> SuccessorEnd {
    let end = timeout(GUARD, successor.ended()).await.expect("it ends");
    assert_eq!(successor.ended().await, end, "asked again, it is the same");
    // Reaped: nobody of this number is a child any more.
    let waited = children::wait_for_end(successor.pid());
    assert_eq!(waited, Err(crate::sys::Errno(libc::ECHILD)));
    successor.kill();
    end
}

#[test]
fn a_successor_has_the_words_of_its_predecessor_and_one_control_socket_to_take_over_at() {
    const TAKING_OVER: &str = "run --take-over /run/c.sock";
    for (words, rest) in [
        ("run", ""),
        ("run --config a --workers 3", " --config a --workers 3"),
        // A chain.
        ("run --take-over /run/b.sock --config a", " --config a"),
        (
            "run --config a --take-over=/run/b.sock --pin",
            " --config a --pin",
        ),
        ("run --config a --take-over /run/b.sock", " --config a"),
        ("run --config --", " --config --"),
    ] {
        assert_eq!(words_of(words).unwrap(), format!("{TAKING_OVER}{rest}"));
    }
}

#[test]
fn what_has_no_successors_is_refused_with_what_to_do_instead() {
    for words in [
        "",
        "socket-proxyd --exit-idle-time=5min a:80",
        "app.internal:80",
    ] {
        let error = words_of(words).unwrap_err().to_string();
        assert!(
            error.contains("systemd-socket-proxyd has no successors (restart it"),
            "{error}"
        );
    }
    let error = program("run --config a").words_to_take_over(None);
    let error = error.unwrap_err().to_string();
    assert!(
        error.ends_with("(restart it with --control PATH)"),
        "{error}"
    );
}

#[test]
fn where_the_end_of_this_process_is_the_end_of_all_none_is_started() {
    let fine = || Surroundings {
        is_first: false,
        parent: "systemd".to_owned(),
        is_of_systemd: true,
        is_told: true,
    };
    fine().allow().unwrap();
    let refused = |surroundings: Surroundings, words: &[&str]| {
        let error = surroundings.allow().unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{error}");
        }
    };
    let first = Surroundings {
        is_first: true,
        ..fine()
    };
    refused(first, &["first process", "replace the container"]);
    let untold = Surroundings {
        is_told: false,
        ..fine()
    };
    refused(untold, &["systemd would take", "Type=notify"]);
    for watcher in WATCHERS {
        assert!(
            watcher.len() <= 15,
            "the kernel keeps 15 bytes of {watcher}"
        );
        let watched = Surroundings {
            parent: watcher.to_owned(),
            ..fine()
        };
        refused(watched, &[watcher, "restart it there"]);
    }
    // A shell, or whatever else starts programs and does not look after them.
    let by_hand = Surroundings {
        parent: "bash".to_owned(),
        is_of_systemd: false,
        is_told: false,
        ..fine()
    };
    by_hand.allow().unwrap();
}

#[test]
fn the_program_is_looked_for_under_the_name_that_it_was_called_by() {
    let this = env::current_exe().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("current");
    std::os::unix::fs::symlink(&this, &link).unwrap();
    // A link may lead to another version later.
    assert_eq!(path_of_this_program(link.as_os_str()).unwrap(), link);
    // Another program of that name, or none.
    for name in [
        "/bin/sh",
        "sh",
        "/nowhere/spliceway",
        "spliceway-nowhere",
        "",
    ] {
        assert_eq!(
            path_of_this_program(OsStr::new(name)).unwrap(),
            this,
            "{name}"
        );
    }
}

#[tokio::test]
async fn how_a_successor_has_ended_is_known_and_no_zombie_is_left() {
    let dir = tempfile::tempdir().unwrap();
    for (lines, how, is_mistake) in [
        ("exit 0", "with exit code 0", false),
        ("exit 1", "with exit code 1", false),
        ("exit 2", "with exit code 2", true),
        ("kill -9 $$", "by signal 9", false),
    ] {
        let successor = script(dir.path(), lines).await;
        let pid = successor.pid();
        let end = end_of(successor).await;
        assert_eq!(end.is_mistake, is_mistake, "{lines}");
        let expected =
            format!("the successor, process {pid}, has ended {how} (see its lines in the log)");
        assert_eq!(end.to_string(), expected);
    }
}

#[tokio::test]
async fn a_successor_can_be_killed() {
    let dir = tempfile::tempdir().unwrap();
    let successor = script(dir.path(), FOR_EVER).await;
    successor.kill();
    assert_eq!(end_of(successor).await.how, "by signal 9");
}

/// The daemon is about to end while it is started.
#[tokio::test]
async fn a_successor_that_nobody_waits_for_is_killed() {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", FOR_EVER]);
    let (started, outcome) = oneshot::channel();
    drop(outcome);
    // It returns when the process has ended and was reaped.
    let attended = tokio::task::spawn_blocking(move || attend(command, started));
    timeout(GUARD, attended).await.expect("it ends").unwrap();
}

#[tokio::test]
async fn what_cannot_be_started_is_refused_with_its_path_and_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("program");
    let line = async |program: &Program| {
        let error = started(program).await.unwrap_err().to_string();
        let begin = format!("start {}: ", path.display());
        assert!(error.starts_with(&begin) && error.ends_with(')'), "{error}");
        assert_eq!(error.lines().count(), 1);
        error
    };
    let program = Program {
        path: Ok(path.clone()),
        ..program("run")
    };
    assert!(line(&program).await.contains("install it again"));
    let program = Program::fake(dir.path(), "#!/nowhere/sh\n");
    assert!(line(&program).await.contains("what it is linked with"));
    let program = Program::fake(dir.path(), "no program at all");
    assert!(line(&program).await.contains("no program for this machine"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(
        line(&program)
            .await
            .contains("not for the user of the daemon to run")
    );
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let open = fs::OpenOptions::new().write(true).open(&path).unwrap();
    assert!(line(&program).await.contains("it is being written"));
    drop(open);
    let unknown = Program {
        path: Err(io::ErrorKind::NotFound.into()),
        ..program
    };
    let error = started(&unknown).await.unwrap_err().to_string();
    assert!(error.ends_with("(is /proc mounted?)"), "{error}");
}

#[test]
fn a_lack_of_memory_or_of_processes_has_a_remedy() {
    for (errno, remedy) in [
        (libc::ENOMEM, "MemoryMax="),
        (libc::EAGAIN, "TasksMax="),
        (libc::EMFILE, "LimitNOFILE="),
    ] {
        let error = io::Error::from_raw_os_error(errno);
        let error = not_started(OsStr::new("/usr/bin/spliceway"), &error).to_string();
        assert!(error.starts_with("start /usr/bin/spliceway: "), "{error}");
        assert!(error.contains(remedy), "{error}");
    }
}
