//! Captures in files: pcap and pcapng, as they are or compressed by gzip or zstd.
//!
//! libpcap reads the formats. A compressed file is unpacked by a thread of its own into a pipe that libpcap reads from, so
//! that neither memory nor disk need hold it unpacked. What comes through a pipe passes such a thread in any case.
#![allow(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, PipeWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use flate2::bufread::MultiGzDecoder;
use pcap::{Offline, Precision};
use ruzstd::decoding::StreamingDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use tcpcopy_wire::Timestamp;
use tcpcopy_wire::link::LinkType;

use super::pcap_text;

/// The name that stands for standard input.
pub const STDIN: &str = "-";

/// Why a file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileError {
    /// It cannot be opened.
    Open {
        /// The file.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// It is not a capture, or one of a kind that is not understood.
    NotACapture {
        /// The file.
        path: PathBuf,
        /// libpcap's words.
        reason: String,
    },
    /// Its frames have a form that we do not read.
    UnsupportedLink {
        /// The file.
        path: PathBuf,
        /// libpcap's name or number for it.
        link: String,
    },
    /// libpcap does not understand the filter.
    BadFilter {
        /// The filter.
        filter: String,
        /// libpcap's words.
        reason: String,
    },
    /// It ends in the middle of something, or is damaged from here on.
    Damaged {
        /// The file.
        path: PathBuf,
        /// Frames before the place.
        frames: u64,
        /// libpcap's words, or those of the decompressor.
        reason: String,
    },
}

/// A file as messages name it.
fn named(path: &Path) -> std::path::Display<'_> {
    if path.as_os_str() == STDIN { Path::new("standard input").display() } else { path.display() }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { path, reason } => write!(f, "cannot open {}: {reason}", named(path)),
            Self::NotACapture { path, reason } => {
                write!(f, "{} cannot be read as a capture (pcap or pcapng): {reason}", named(path))
            }
            Self::UnsupportedLink { path, link } => {
                write!(f, "{} has frames of link type {link}, which are not understood", named(path))
            }
            Self::BadFilter { filter, reason } => {
                write!(f, "the filter `{filter}` is not understood: {reason} (see pcap-filter(7))")
            }
            Self::Damaged { path, frames, reason } => {
                write!(f, "{} cannot be read beyond its first {frames} packets: {reason}", named(path))
            }
        }
    }
}

impl std::error::Error for FileError {}

/// How a file's bytes are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    None,
    Gzip,
    Zstd,
}

impl Packing {
    /// Told by a file's first bytes (RFC 1952, section 2.3.1; RFC 8878, sections 3.1.1 and 3.1.2).
    fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// A capture in a file.
pub struct CaptureFile {
    path: PathBuf,
    pcap: pcap::Capture<Offline>,
    link: LinkType,
    frames: u64,
    /// Shares its place with whoever reads the file; `None` for standard input.
    place: Option<File>,
    /// Bytes of the file, packed as it is.
    len: u64,
    /// What the decompressor could not unpack.
    unpacking_failed: Arc<Mutex<Option<String>>>,
}

/// A frame of a file.
#[derive(Clone, Copy, Debug)]
pub struct FileFrame<'a> {
    /// When it was captured, by the clock of that host; counts from 1970.
    pub at: Timestamp,
    /// What was captured of it.
    pub bytes: &'a [u8],
    /// Its length on the wire, in bytes.
    pub wire_len: usize,
}

impl CaptureFile {
    /// Opens a file, or [`STDIN`]. Only what passes the filter will be shown; an empty one lets everything pass.
    ///
    /// # Errors
    /// Why it cannot be read; see [`FileError`].
    pub fn open(path: &Path, filter: &str) -> Result<Self, FileError> {
        let to_open_error = |e: io::Error| FileError::Open { path: path.to_owned(), reason: e.to_string() };
        let unpacking_failed = Arc::default();
        let (mut file, place, len) = if path.as_os_str() == STDIN {
            (File::from(io::stdin().lock().try_clone_to_owned().map_err(to_open_error)?), None, 0)
        } else {
            let file = File::open(path).map_err(to_open_error)?;
            let metadata = file.metadata().map_err(to_open_error)?;
            if metadata.is_dir() {
                return Err(FileError::Open { path: path.to_owned(), reason: "it is a folder".to_owned() });
            }
            let place = file.try_clone().map_err(to_open_error)?;
            (file, Some(place), metadata.len())
        };
        let head = peek(&mut file).map_err(to_open_error)?;
        let wound_back = file.seek(SeekFrom::Current(-(head.len() as i64)));
        let descriptor = match (Packing::of(&head), wound_back) {
            (Packing::None, Ok(_)) => OwnedFd::from(file),
            (packing, Ok(_)) => unpack(file, packing, Arc::clone(&unpacking_failed)).map_err(to_open_error)?,
            // A pipe cannot be wound back: what was read of it goes in front of the rest.
            (packing, Err(_)) => unpack(io::Cursor::new(head).chain(file), packing, Arc::clone(&unpacking_failed))
                .map_err(to_open_error)?,
        };
        // SAFETY: the descriptor is ours alone, and is given away: libpcap closes it, also when opening fails.
        let opened = unsafe { pcap::Capture::from_raw_fd_with_precision(descriptor.into_raw_fd(), Precision::Nano) };
        let mut pcap = opened.map_err(|e| {
            let reason = taken(&unpacking_failed).unwrap_or_else(|| pcap_text(e));
            FileError::NotACapture { path: path.to_owned(), reason }
        })?;
        let dlt = pcap.get_datalink();
        let link = LinkType::from_dlt(dlt.0).ok_or_else(|| FileError::UnsupportedLink {
            path: path.to_owned(),
            link: dlt.get_name().unwrap_or_else(|_| dlt.0.to_string()),
        })?;
        if !filter.is_empty() {
            pcap.filter(filter, true)
                .map_err(|e| FileError::BadFilter { filter: filter.to_owned(), reason: pcap_text(e) })?;
        }
        Ok(Self { path: path.to_owned(), pcap, link, frames: 0, place, len, unpacking_failed })
    }

    /// How its frames begin.
    pub fn link_type(&self) -> LinkType {
        self.link
    }

    /// The next frame; `None` at the end. It may wait for more where the file is a pipe.
    ///
    /// # Errors
    /// [`FileError::Damaged`]: nothing can be read from here on.
    pub fn next_frame(&mut self) -> Result<Option<FileFrame<'_>>, FileError> {
        match self.pcap.next_packet() {
            Ok(packet) => {
                self.frames += 1;
                // With nanosecond precision the field for microseconds has nanoseconds.
                let (seconds, nanos) = (packet.header.ts.tv_sec as u64, packet.header.ts.tv_usec as u64);
                let at = Timestamp::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos));
                Ok(Some(FileFrame { at, bytes: packet.data, wire_len: packet.header.len as usize }))
            }
            Err(e) => match (taken(&self.unpacking_failed), e) {
                (None, pcap::Error::NoMorePackets) => Ok(None),
                (unpacking, e) => Err(FileError::Damaged {
                    path: self.path.clone(),
                    frames: self.frames,
                    reason: unpacking.unwrap_or_else(|| pcap_text(e)),
                }),
            },
        }
    }

    /// Bytes of the file that have been read, and that it has; zero and zero where that is not known.
    pub fn progress(&self) -> (u64, u64) {
        let read = self.place.as_ref().and_then(|mut file| file.stream_position().ok());
        read.map_or((0, 0), |read| (read.min(self.len), self.len))
    }
}

/// A lock that outlives a thread which panicked: what it holds is whole.
fn taken(message: &Mutex<Option<String>>) -> Option<String> {
    message.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// A descriptor of standard input that may be closed.
trait TryCloneToOwned {
    fn try_clone_to_owned(&self) -> io::Result<OwnedFd>;
}

impl TryCloneToOwned for io::StdinLock<'_> {
    fn try_clone_to_owned(&self) -> io::Result<OwnedFd> {
        // SAFETY: dup(2) of a number; what it returns is ours alone.
        let copy = unsafe { libc::fcntl(libc::STDIN_FILENO, libc::F_DUPFD_CLOEXEC, 3) };
        if copy < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was made just now.
        Ok(unsafe { OwnedFd::from_raw_fd(copy) })
    }
}

/// The first bytes, by which a packing is told.
fn peek(file: &mut File) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    Read::take(file, 4).read_to_end(&mut head)?;
    Ok(head)
}

/// Begins to unpack a file; the descriptor is the end to read from. The thread ends with the file, or when nobody reads.
fn unpack(
    file: impl Read + Send + 'static,
    packing: Packing,
    failed: Arc<Mutex<Option<String>>>,
) -> io::Result<OwnedFd> {
    let (reader, writer) = io::pipe()?;
    thread::Builder::new().name("unpack".to_owned()).spawn(move || {
        let mut input = BufReader::with_capacity(256 << 10, file);
        let result = match packing {
            Packing::Gzip => pour(&mut MultiGzDecoder::new(&mut input), &writer),
            Packing::Zstd => unpack_zstd(&mut input, &writer),
            Packing::None => pour(&mut input, &writer),
        };
        if let Err(message) = result {
            // Before the pipe is closed, so that whoever sees its end sees this, too.
            *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
        }
        drop(writer);
    })?;
    Ok(reader.into())
}

/// All that `from` has, until nobody takes it any more.
fn pour(from: &mut impl Read, mut to: &PipeWriter) -> Result<(), String> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                if to.write_all(&buffer[..n]).is_err() {
                    return Ok(());
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.to_string()),
        }
    }
}

/// A zstd file is a row of frames, of which some have nothing to unpack (RFC 8878, section 3.1).
fn unpack_zstd(input: &mut BufReader<impl Read>, to: &PipeWriter) -> Result<(), String> {
    while !input.fill_buf().map_err(|e| e.to_string())?.is_empty() {
        match StreamingDecoder::new(&mut *input) {
            Ok(mut decoder) => pour(&mut decoder, to)?,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                let skipped = io::copy(&mut input.by_ref().take(length.into()), &mut io::sink());
                skipped.map_err(|e| e.to_string())?;
            }
            Err(e) => return Err(e.to_string()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
