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
    let mut request = request(device);
    ask(libc::SIOCGIFHWADDR as _, &mut request)?;
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

/// Whether a device is up, and whether it has a carrier (IFF_UP, IFF_RUNNING).
///
/// # Errors
/// When there is no such device.
pub(crate) fn is_up(device: &str) -> io::Result<(bool, bool)> {
    let mut request = request(device);
    ask(libc::SIOCGIFFLAGS as _, &mut request)?;
    // SAFETY: SIOCGIFFLAGS has filled this member of the union.
    let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
    Ok((flags & libc::IFF_UP != 0, flags & libc::IFF_RUNNING != 0))
}

/// The largest packet of a device, in bytes.
///
/// # Errors
/// When there is no such device.
pub(crate) fn mtu(device: &str) -> io::Result<u32> {
    let mut request = request(device);
    ask(libc::SIOCGIFMTU as _, &mut request)?;
    // SAFETY: SIOCGIFMTU has filled this member of the union.
    Ok(unsafe { request.ifr_ifru.ifru_mtu }.cast_unsigned())
}

/// The value that a command of ethtool reads (`linux/ethtool.h`).
///
/// # Errors
/// When there is no such device, or its driver does not know the command.
pub(crate) fn ethtool_value(device: &str, command: u32) -> io::Result<u32> {
    // `struct ethtool_value`: command, value.
    let mut value = [command, 0u32];
    let mut request = request(device);
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    ask(SIOCETHTOOL, &mut request)?;
    Ok(value[1])
}

/// The name of a device, by the system's number for it.
pub(crate) fn device_name(index: u32) -> Option<String> {
    let mut name = [0 as libc::c_char; libc::IF_NAMESIZE];
    // SAFETY: the function writes at most IF_NAMESIZE bytes, with a NUL at their end.
    if unsafe { libc::if_indextoname(index, name.as_mut_ptr()) }.is_null() {
        return None;
    }
    let bytes: Vec<u8> = name.iter().take_while(|byte| **byte != 0).map(|byte| *byte as u8).collect();
    String::from_utf8(bytes).ok()
}

const SIOCETHTOOL: libc::c_ulong = 0x8946;

/// A request about a device.
fn request(device: &str) -> libc::ifreq {
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { zeroed() };
    // The last byte stays zero.
    let room = request.ifr_name.len() - 1;
    for (place, byte) in request.ifr_name[..room].iter_mut().zip(device.bytes()) {
        *place = byte as libc::c_char;
    }
    request
}

/// Has the kernel fill in a request. What a pointer in it leads to lives during the call, and is of the form that `what`
/// writes.
fn ask(what: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // SAFETY: the request lives during the call, which reads its name and writes into it, or to where the caller says.
    if unsafe { libc::ioctl(socket.as_raw_fd(), what as _, std::ptr::from_mut(request)) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
