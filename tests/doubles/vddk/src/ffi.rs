//! What nbdkit has, and its crate has not.

use std::ffi::{CStr, CString, c_char, c_int, c_void};

use nbdkit::{Builder, Error, Plugin, Result};

use crate::disk::{Disk, SECTOR_BYTES};

/// What is best asked for, in bytes.
const PREFERRED_BYTES: u32 = 4096;

unsafe extern "C" {
    fn nbdkit_read_password(value: *const c_char, password: *mut *mut c_char) -> c_int;
}

/// The password that the parameter stands for: itself, or what a file (`+FILE`) or a descriptor
/// (`-FD`) has; read by nbdkit, as for the real plugin.
pub(crate) fn read_password(value: &str) -> Result<String> {
    let value = CString::new(value).map_err(|error| Error::new(libc::EINVAL, error))?;
    let mut password = std::ptr::null_mut();
    // SAFETY: `value` ends in a zero and outlives the call; `password` is where the result goes.
    let status = unsafe { nbdkit_read_password(value.as_ptr(), &raw mut password) };
    if status != 0 || password.is_null() {
        // nbdkit has said why.
        return Err(Error::new(libc::EINVAL, "the password cannot be read"));
    }
    // SAFETY: on success it is a string that ends in a zero and is ours.
    let text = unsafe { CStr::from_ptr(password) }.to_string_lossy().into_owned();
    // SAFETY: nbdkit made it by malloc, and nobody else has it.
    unsafe { libc::free(password.cast()) };
    Ok(text)
}

/// The crate's table of functions, and what nbdkit has added to it since.
#[repr(C)]
struct Table {
    plugin: Plugin,
    list_exports: Option<extern "C" fn()>,
    default_export: Option<extern "C" fn()>,
    export_description: Option<extern "C" fn()>,
    cleanup: Option<extern "C" fn()>,
    block_size: extern "C" fn(*mut c_void, *mut u32, *mut u32, *mut u32) -> c_int,
}

extern "C" fn block_size(
    _disk: *mut c_void,
    minimum: *mut u32,
    preferred: *mut u32,
    maximum: *mut u32,
) -> c_int {
    // SAFETY: nbdkit passes three places of its own.
    unsafe {
        *minimum = u32::try_from(SECTOR_BYTES).unwrap_or(u32::MAX);
        *preferred = PREFERRED_BYTES;
        *maximum = u32::MAX;
    }
    0
}

/// What nbdkit looks for in a plugin.
// SAFETY: it is called once, by nbdkit, which looks for this very name.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn plugin_init() -> *const Plugin {
    let mut builder = Builder::new();
    builder.config = true;
    builder.config_complete = true;
    builder.dump_plugin = true;
    builder.thread_model = true;
    builder.get_ready = true;
    builder.can_write = true;
    builder.can_flush = true;
    builder.can_fua = true;
    builder.can_extents = true;
    builder.extents = true;
    builder.write_at = true;
    builder.flush = true;
    // SAFETY: the builder made it for this by Box::into_raw, and nobody else has it.
    let mut plugin = *unsafe { Box::from_raw(builder.into_ptr::<Disk>().cast_mut()) };
    plugin._struct_size = size_of::<Table>() as u64;
    let table = Table {
        plugin,
        list_exports: None,
        default_export: None,
        export_description: None,
        cleanup: None,
        block_size,
    };
    // nbdkit keeps it for as long as it runs, and reads as many bytes as the table says.
    Box::into_raw(Box::new(table)).cast_const().cast()
}
