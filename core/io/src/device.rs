//! What the system says of a network device.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::mem::zeroed;
use std::os::fd::AsRawFd;

use socket2::{Domain, Socket, Type};
use tcpcopy_wire::link::MacAddress;

/// The system's number for a device; zero for `any`, which is none.
pub(crate) fn device_index(name: &str) -> Option<u32> {
    if name == "any" {
        return Some(0);
    }
    let name = CString::new(name).ok()?;
    // SAFETY: `name` is a NUL-terminated string that lives during the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// What kind of frames a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hardware {
    /// Ethernet, with this address.
    Ethernet(MacAddress),
    /// The loopback device, whose frames have an Ethernet header without meaning.
    Loopback,
    /// Something else.
    Other,
}

/// What kind of frames a device has.
///
/// # Errors
/// When there is no such device.
pub(crate) fn hardware(device: &str) -> io::Result<Hardware> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { zeroed() };
    // The last byte stays zero.
    let room = request.ifr_name.len() - 1;
    for (place, byte) in request.ifr_name[..room].iter_mut().zip(device.bytes()) {
        *place = byte as libc::c_char;
    }
    // SAFETY: the request lives during the call, which reads its name and writes an address into it.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR as _, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: SIOCGIFHWADDR has filled this member of the union.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr };
    Ok(match address.sa_family {
        libc::ARPHRD_ETHER => {
            let bytes = address.sa_data;
            Hardware::Ethernet(MacAddress(std::array::from_fn(|i| bytes[i] as u8)))
        }
        libc::ARPHRD_LOOPBACK => Hardware::Loopback,
        _ => Hardware::Other,
    })
}
