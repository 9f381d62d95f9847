//! Where the script roots lead now.
//!
//! nginx's `$realpath_root` is the directory behind the symbolic links of its `root`, such as a release
//! behind `current`. The guard compares letters, so both forms have to be roots. They are resolved once,
//! at the start and at each reload, and not for each request: a link that somebody turns while requests run must
//! not decide what may be run.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::config::Fastcgi;
use crate::fastcgi::{Guard, GuardError};
use crate::sys::Errno;

/// Why a script root has no other form.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ScriptRootError {
    #[error(
        "resolve the script root {root}: {cause} (make it, or remove --resolve-script-root and give what \
         it leads to as another --script-root; that is also the way if the backend has other files than \
         this machine)"
    )]
    Resolve { root: String, cause: Errno },
    #[error("resolve the script root {root}: it leads to {}, which is no directory (give one)", .path.display())]
    NoDirectory { root: String, path: PathBuf },
    #[error(transparent)]
    Guard(#[from] GuardError),
}

/// The guard of a route, with what its script roots lead to where that is asked for.
pub(super) fn guard(config: &Fastcgi) -> Result<Option<Guard>, ScriptRootError> {
    let Some(mut guard) = config.guard.clone() else {
        return Ok(None);
    };
    for root in &config.resolved_script_roots {
        let path = resolve(root)?;
        tracing::info!("script root {root} leads to {}", path.display());
        guard.add_script_root(path.as_os_str().as_bytes())?;
    }
    Ok(Some(guard))
}

/// Whether all of them can be resolved.
pub(super) fn check(config: &Fastcgi) -> Result<(), ScriptRootError> {
    let mut roots = config.resolved_script_roots.iter();
    roots.try_for_each(|root| resolve(root).map(drop))
}

fn resolve(root: &str) -> Result<PathBuf, ScriptRootError> {
    let path = fs::canonicalize(Path::new(root)).map_err(|error| ScriptRootError::Resolve {
        root: root.to_owned(),
        cause: Errno::from(error),
    })?;
    if !path.is_dir() {
        return Err(ScriptRootError::NoDirectory {
            root: root.to_owned(),
            path,
        });
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_root_is_resolved_to_the_directory_that_it_leads_to_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        fs::create_dir_all(real.join("releases/42/public")).unwrap();
        fs::write(real.join("file"), "").unwrap();
        symlink("releases/42", real.join("current")).unwrap();
        symlink("nowhere", real.join("broken")).unwrap();
        let resolved = |name: &str| resolve(real.join(name).to_str().unwrap());
        let public = resolved("current/public").unwrap();
        assert_eq!(public, real.join("releases/42/public"));
        for (name, cause) in [("broken", "ENOENT"), ("file", "which is no directory")] {
            let error = resolved(name).unwrap_err().to_string();
            assert!(error.contains(cause), "{error}");
        }
    }
}
