//! The system's user and group databases: names to ids.

use std::ffi::{CStr, CString, c_char, c_int};
use std::io;
use std::mem::MaybeUninit;

/// Where the buffer for one database entry starts; `sysconf(_SC_GETPW_R_SIZE_MAX)` says the same.
const ENTRY_BYTES_MIN: usize = 1024;

/// Where growing the buffer ends: a group with 50,000 members of 20 characters fits.
const ENTRY_BYTES_MAX: usize = 1 << 20;

/// The id of the user with this name; `None` if there is no such user.
pub(crate) fn user_id(name: &str) -> io::Result<Option<u32>> {
    let mut entry = MaybeUninit::<libc::passwd>::uninit();
    let found = look_up(name, |name, buffer| {
        let mut result = std::ptr::null_mut();
        // SAFETY: `name` ends with a NUL, `entry` has room for a passwd, `buffer` is writable for
        // the length that is passed, and all four outlive the call, which keeps none of them.
        let code = unsafe {
            libc::getpwnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr(),
                buffer.len(),
                &raw mut result,
            )
        };
        (code, !result.is_null())
    })?;
    // SAFETY: a result that is not null points at `entry`, which getpwnam_r has then filled in.
    // Only the id is read, none of the pointers into the buffer, which is gone.
    Ok(found.then(|| unsafe { entry.assume_init() }.pw_uid))
}

/// The id of the group with this name; `None` if there is no such group.
pub(crate) fn group_id(name: &str) -> io::Result<Option<u32>> {
    let mut entry = MaybeUninit::<libc::group>::uninit();
    let found = look_up(name, |name, buffer| {
        let mut result = std::ptr::null_mut();
        // SAFETY: as in `user_id`, with room for a group in `entry`.
        let code = unsafe {
            libc::getgrnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr(),
                buffer.len(),
                &raw mut result,
            )
        };
        (code, !result.is_null())
    })?;
    // SAFETY: as in `user_id`: a result was found, so getgrnam_r has filled `entry` in.
    Ok(found.then(|| unsafe { entry.assume_init() }.gr_gid))
}

/// Calls `query` with growing buffers until its answer fits; it returns an error number and
/// whether there was an entry.
fn look_up(
    name: &str,
    mut query: impl FnMut(&CStr, &mut [c_char]) -> (c_int, bool),
) -> io::Result<bool> {
    let name = CString::new(name)?;
    let mut buffer = vec![0; ENTRY_BYTES_MIN];
    loop {
        match query(&name, &mut buffer) {
            (0, found) => return Ok(found),
            // What name services say of an unknown name, besides 0 (getpwnam(3)).
            (libc::ENOENT | libc::ESRCH, _) => return Ok(false),
            (libc::EINTR, _) => {}
            (libc::ERANGE, _) if buffer.len() < ENTRY_BYTES_MAX => {
                buffer.resize(buffer.len() * 2, 0)
            }
            (code, _) => return Err(io::Error::from_raw_os_error(code)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known() {
        assert_eq!(user_id("root").unwrap(), Some(0));
        assert_eq!(group_id("root").unwrap(), Some(0));
    }

    #[test]
    fn unknown_names_have_no_id() {
        assert_eq!(user_id("spliceway-nobody").unwrap(), None);
        assert_eq!(group_id("spliceway-nobody").unwrap(), None);
    }

    #[test]
    fn a_name_with_a_nul_is_an_error() {
        assert_eq!(
            user_id("ro\0ot").unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn the_buffer_grows_until_its_bound() {
        let mut sizes = Vec::new();
        let error = look_up("x", |_, buffer| {
            sizes.push(buffer.len());
            (libc::ERANGE, false)
        });
        assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::ERANGE));
        assert_eq!(
            (sizes[0], sizes[sizes.len() - 1]),
            (ENTRY_BYTES_MIN, ENTRY_BYTES_MAX)
        );
    }
}
