//! The bytes of the client/server protocol: packets, and those that a login is made of.
//!
//! What they are is at <https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html> and, where MariaDB differs, at
//! <https://mariadb.com/kb/en/clientserver-protocol/>.

pub mod capability;
pub mod greeting;
pub mod login;
pub mod packet;
pub mod read;
pub mod reply;

pub use capability::Capabilities;
pub use greeting::Greeting;
pub use login::{ClientLogin, Login};
pub use packet::{HEADER_LEN, Header, MAX_PAYLOAD, Packets, write_packet};
pub use read::{Malformed, Reader};
pub use reply::{ErrPacket, OkPacket};
