//! Where a configuration was read from, to read it again while the daemon runs.

use std::fs;
use std::path::{self, Path, PathBuf};

use super::RunCommand;
use super::file::{self, FileErrors, Overrides};

/// Where a configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line alone, which stays as it is.
    CommandLine,
    /// A file, and options of the command line that count more than what it says.
    File(FileSource),
}

/// A file, and what is beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSource {
    /// From the root: the directory in which the program was started may be another one by then.
    path: PathBuf,
    overrides: Overrides,
}

impl Source {
    pub(super) fn file(path: &Path, overrides: &Overrides) -> Self {
        Self::File(FileSource {
            // If there is no such directory any more, the path is as good as it was.
            path: path::absolute(path).unwrap_or_else(|_| path.to_path_buf()),
            overrides: overrides.clone(),
        })
    }

    /// The file. `None`: the configuration is the command line's.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::CommandLine => None,
            Self::File(file) => Some(&file.path),
        }
    }
}

impl RunCommand {
    /// What its source says now: the file is read anew, and what the command line says stays.
    ///
    /// # Errors
    /// A line for each mistake in the file, or the one that keeps it from being read.
    pub fn read_again(&self) -> Result<Self, FileErrors> {
        match &self.source {
            Source::CommandLine => Ok(self.clone()),
            Source::File(file) => file.read(),
        }
    }
}

impl FileSource {
    fn read(&self) -> Result<RunCommand, FileErrors> {
        // What was read through a pipe at the start has come to its end, and to open it may take for ever.
        if fs::metadata(&self.path).is_ok_and(|found| !found.is_file()) {
            return Err(file::unreadable(
                &self.path,
                "cannot be read again: not a regular file (give a file as --config, and restart the daemon)"
                    .to_owned(),
            ));
        }
        file::load(&self.path, file::read(&self.path), &self.overrides)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    use super::*;
    use crate::cli::testing::{REQUIRED, parse_words, run};
    use crate::cli::{Cli, Command, parse_from};
    use crate::config::{AtLimit, Settings, Written};

    const ROUTE: &str = "[route.a]\nlisten = \"unix:/a\"\nbackend = \"b:1\"\n";

    /// A file, and the command that was made from it with these options.
    struct Stage {
        dir: tempfile::TempDir,
        run: RunCommand,
    }

    impl Stage {
        fn new(content: &str, options: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("spliceway.toml");
            fs::write(&path, content).unwrap();
            let run = run(&format!("run {options} --config {}", path.display()));
            Self { dir, run }
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("spliceway.toml")
        }

        fn write(&self, content: &str) {
            fs::write(self.path(), content).unwrap();
        }
    }

    #[test]
    fn a_file_is_read_anew_and_options_beside_it_stay() {
        let first = format!("drain-timeout = \"1s\"\nworkers = 1\n{ROUTE}");
        let stage = Stage::new(&first, "--workers 3 --pin --log-level debug");
        assert_eq!(stage.run.read_again().unwrap().loaded(), stage.run.loaded());
        let second = "drain-timeout = \"2s\"\nworkers = 2\n[route.b]\nlisten = \"unix:/a\"\nbackend = \"c:1\"";
        stage.write(second);
        let again = stage.run.read_again().unwrap();
        assert_eq!(again.config.drain_timeout, Some(Duration::from_secs(2)));
        assert_eq!(again.config.workers.map(usize::from), Some(3));
        assert!(again.config.pin);
        assert_eq!(again.logging, stage.run.logging);
        assert_eq!(again.config.routes[0].name.as_str(), "b");
        let changed = |old: &Settings, new: &Settings| {
            let changed = old.changed_keys(new);
            changed
                .iter()
                .map(|key| (*key).to_owned())
                .collect::<Vec<_>>()
        };
        let (old, new) = (&stage.run.effective, &again.effective);
        assert_eq!(changed(&old.daemon, &new.daemon), ["drain-timeout"]);
        assert_eq!(
            changed(&old.routes[0].settings, &new.routes[0].settings),
            ["backend"]
        );
        assert_ne!(old.hash(), new.hash());
        // And again, from what was read again.
        stage.write(&first);
        assert_eq!(again.read_again().unwrap().loaded(), stage.run.loaded());
    }

    #[test]
    fn mistakes_have_their_lines() {
        let stage = Stage::new(ROUTE, "--workers 1");
        stage.write("connections-max = 0\nx = 1");
        let errors = stage.run.read_again().unwrap_err();
        let lines: Vec<_> = errors.lines().collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        let path = stage.path().display().to_string();
        assert!(
            lines[0].starts_with(&format!("{path}:1: connections-max = 0: ")),
            "{lines:?}"
        );
        fs::remove_file(stage.path()).unwrap();
        let errors = stage.run.read_again().unwrap_err().to_string();
        assert!(errors.contains("cannot be read: No such file"), "{errors}");
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let stage = Stage::new(ROUTE, "--workers 1");
        fs::remove_file(stage.path()).unwrap();
        let _socket = UnixListener::bind(stage.path()).unwrap();
        let errors = stage.run.read_again().unwrap_err().to_string();
        assert!(errors.contains("not a regular file"), "{errors}");
    }

    #[test]
    fn the_path_is_one_from_the_root() {
        let words = ["spliceway", "run", "--config", "a/../spliceway.toml"];
        let read = |_: &Path| Ok(ROUTE.as_bytes().to_vec());
        let parsed = crate::cli::parse_with(words.map(OsString::from), read);
        let Ok(Cli {
            command: Command::Run(run),
        }) = parsed
        else {
            panic!("{parsed:?}")
        };
        let here = std::env::current_dir().unwrap();
        let expected = here.join("a/../spliceway.toml");
        assert_eq!(run.source.path(), Some(&*expected));
    }

    #[test]
    fn the_command_line_says_what_it_said() {
        let command = run(REQUIRED);
        assert_eq!(command.source.path(), None);
        assert_eq!(command.read_again().unwrap().loaded(), command.loaded());
        let backend = Written::Value("[\"b:1\"]".to_owned());
        let settings = &command.effective.routes[0].settings;
        assert_eq!(settings.get("backend"), Some(&backend));
    }

    #[test]
    fn the_other_programs_limit_stays_hard() {
        let words = ["systemd-socket-proxyd", "-c", "7", "a:1"].map(OsString::from);
        for parsed in [parse_from(words), parse_words("socket-proxyd -c 7 a:1")] {
            let Ok(Cli {
                command: Command::Run(run),
            }) = parsed
            else {
                panic!("{parsed:?}")
            };
            let again = run.read_again().unwrap();
            assert_eq!(again.config, run.config);
            assert_eq!(again.config.at_limit, AtLimit::Refuse);
        }
    }
}
