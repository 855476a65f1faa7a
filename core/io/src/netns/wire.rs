//! Frames put on a device's wire as they are, for what no server and no client sends.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, Socket, Type};

use crate::device::device_index;

/// The wire of a device, in the namespace of the thread that opens it.
#[derive(Debug)]
pub struct Wire {
    socket: Socket,
    index: u32,
}

impl Wire {
    /// The wire of this device.
    ///
    /// # Errors
    /// When there is no such device, or this process may not send frames.
    pub fn open(device: &str) -> io::Result<Self> {
        let index = device_index(device).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        // A packet socket of protocol 0 takes no packets.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        Ok(Self { socket, index })
    }

    /// Sends a frame, its Ethernet header included.
    ///
    /// # Errors
    /// What the system says.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: all-zero bytes are a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as libc::c_ushort;
        address.sll_ifindex = self.index.cast_signed();
        let address_len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        let fd = self.socket.as_raw_fd();
        // SAFETY: frame and address live during the call and have the sizes that are given.
        let sent = unsafe {
            libc::sendto(fd, frame.as_ptr().cast(), frame.len(), 0, (&raw const address).cast(), address_len)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
