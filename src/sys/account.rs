//! The system's user and group databases: names to ids.

use std::ffi::{CStr, CString, c_char, c_int};
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// Where the buffer for one database entry starts; `sysconf(_SC_GETPW_R_SIZE_MAX)` says the same.
const ENTRY_BYTES_MIN: usize = 1024;

/// Where growing the buffer ends: a group with 50,000 members of 20 characters fits.
const ENTRY_BYTES_MAX: usize = 1 << 20;

/// A user of the database.
pub(crate) struct User {
    pub(crate) name: CString,
    pub(crate) id: u32,
    /// Its own group.
    pub(crate) group: u32,
}

/// The id of the user with this name; `None` if there is no such user.
pub(crate) fn user_id(name: &str) -> io::Result<Option<u32>> {
    Ok(user_by_name(name)?.map(|user| user.id))
}

/// The user with this name; `None` if there is no such user.
pub(crate) fn user_by_name(name: &str) -> io::Result<Option<User>> {
    let name = CString::new(name)?;
    look_up(|buffer| {
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut result = ptr::null_mut();
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
        // SAFETY: a result that is not null points at `entry`, which getpwnam_r has then filled in, with
        // pointers into `buffer`, which is as it left it.
        let user = unsafe { user(result) };
        (code, user)
    })
}

/// The user with this id; `None` if the database has none.
pub(crate) fn user_by_id(id: u32) -> io::Result<Option<User>> {
    look_up(|buffer| {
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut result = ptr::null_mut();
        // SAFETY: as in `user_by_name`, with a number in place of the name.
        let code = unsafe {
            libc::getpwuid_r(
                id,
                entry.as_mut_ptr(),
                buffer.as_mut_ptr(),
                buffer.len(),
                &raw mut result,
            )
        };
        // SAFETY: as in `user_by_name`.
        let user = unsafe { user(result) };
        (code, user)
    })
}

/// Copies an entry out of its buffer; `None` if there is none.
///
/// # Safety
/// `entry` is null, or leads to a passwd whose name leads to text that ends with a NUL.
unsafe fn user(entry: *const libc::passwd) -> Option<User> {
    // SAFETY: null or valid, as the caller says.
    let entry = unsafe { entry.as_ref() }?;
    // SAFETY: the caller says that it leads to a text.
    let name = unsafe { CStr::from_ptr(entry.pw_name) };
    Some(User {
        name: name.to_owned(),
        id: entry.pw_uid,
        group: entry.pw_gid,
    })
}

/// All groups that the user with this name belongs to, `group` among them.
pub(crate) fn groups_of(name: &CStr, group: u32) -> io::Result<Vec<u32>> {
    /// The most that a process can have (`NGROUPS_MAX` of limits.h).
    const GROUPS_MAX: usize = 65_536;
    let mut groups = vec![0; 64];
    loop {
        let mut count = c_int::try_from(groups.len()).unwrap_or(c_int::MAX);
        // SAFETY: `name` ends with a NUL; the pointer is to as many groups as `count` says, which is
        // writable as well.
        let fits = unsafe {
            libc::getgrouplist(name.as_ptr(), group, groups.as_mut_ptr(), &raw mut count)
        };
        let found = usize::try_from(count).unwrap_or(0);
        match fits {
            -1 if found > groups.len() && found <= GROUPS_MAX => groups.resize(found, 0),
            -1 => return Err(io::Error::from_raw_os_error(libc::ERANGE)),
            _ => {
                groups.truncate(found);
                return Ok(groups);
            }
        }
    }
}

/// The id of the group with this name; `None` if there is no such group.
pub(crate) fn group_id(name: &str) -> io::Result<Option<u32>> {
    let name = CString::new(name)?;
    look_up(|buffer| {
        let mut entry = MaybeUninit::<libc::group>::uninit();
        let mut result = ptr::null_mut();
        // SAFETY: as in `user_by_name`, with room for a group in `entry`.
        let code = unsafe {
            libc::getgrnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr(),
                buffer.len(),
                &raw mut result,
            )
        };
        // SAFETY: null, or it points at `entry`, which getgrnam_r has then filled in.
        let group = unsafe { result.as_ref() };
        (code, group.map(|group: &libc::group| group.gr_gid))
    })
}

/// Calls `query` with growing buffers until its answer fits; it returns an error number and the entry, if
/// there was one.
fn look_up<T>(mut query: impl FnMut(&mut [c_char]) -> (c_int, Option<T>)) -> io::Result<Option<T>> {
    let mut buffer = vec![0; ENTRY_BYTES_MIN];
    loop {
        match query(&mut buffer) {
            (0, found) => return Ok(found),
            // What name services say of an unknown name, besides 0 (getpwnam(3)).
            (libc::ENOENT | libc::ESRCH, _) => return Ok(None),
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
    fn a_user_is_found_by_its_number_as_by_its_name() {
        let (by_name, by_id) = (user_by_name("root").unwrap(), user_by_id(0).unwrap());
        let (by_name, by_id) = (by_name.unwrap(), by_id.unwrap());
        assert_eq!((by_name.id, by_name.group), (by_id.id, by_id.group));
        assert_eq!(by_name.name, by_id.name);
        assert!(user_by_id(4_294_967_000).unwrap().is_none());
        assert!(groups_of(&by_name.name, 4711).unwrap().contains(&4711));
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
        let error = look_up(|buffer| {
            sizes.push(buffer.len());
            (libc::ERANGE, None::<()>)
        });
        assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::ERANGE));
        assert_eq!(
            (sizes[0], sizes[sizes.len() - 1]),
            (ENTRY_BYTES_MIN, ENTRY_BYTES_MAX)
        );
    }
}
