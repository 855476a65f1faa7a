//! Options of sockets.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, RawFd};

use socket2::Socket;

/// `value` is of the type that the option takes.
pub(crate) fn set_option<T>(fd: RawFd, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes from a live T; `fd` is open for the length of the call.
    let result =
        unsafe { libc::setsockopt(fd, level, option, (&raw const *value).cast(), size_of::<T>() as libc::socklen_t) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives a socket room for so many bytes that were not read yet: as large as asked with `CAP_NET_ADMIN`, otherwise as large
/// as `net.core.rmem_max` lets it be.
pub fn grow_receive_buffer(socket: &Socket, bytes: usize) {
    let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    if set_option(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &value).is_err() {
        // The kernel cuts the value to its limit; a smaller buffer is still a buffer.
        let _ = socket.set_recv_buffer_size(bytes);
    }
}
