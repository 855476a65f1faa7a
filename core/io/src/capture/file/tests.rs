use super::*;
use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

/// A pcap file with `frames` Ethernet frames of rising length, one a millisecond.
fn pcap(frames: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(0xa1b2_c3d4u32.to_le_bytes());
    for (value, len) in [(2u32, 2), (4, 2), (0, 4), (0, 4), (65_535, 4), (1, 4)] {
        bytes.extend(&value.to_le_bytes()[..len]);
    }
    for n in 0..frames {
        for value in [1_000 + n / 1_000, n % 1_000 * 1_000, 14 + n % 100, 20 + n % 100] {
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend(vec![n as u8; (14 + n % 100) as usize]);
    }
    bytes
}

fn open(bytes: &[u8]) -> Result<(CaptureFile, tempfile::NamedTempFile), FileError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    CaptureFile::open(file.path(), "").map(|capture| (capture, file))
}

/// Frames up to the end, and what the end is.
fn read(capture: &mut CaptureFile) -> (u32, Result<(), FileError>) {
    let mut n = 0;
    loop {
        match capture.next_frame() {
            Ok(Some(frame)) => {
                assert_eq!(frame.at, Timestamp::from_millis(1_000_000 + u64::from(n)));
                assert_eq!((frame.bytes.len(), frame.wire_len), (14 + n as usize % 100, 20 + n as usize % 100));
                n += 1;
            }
            Ok(None) => return (n, Ok(())),
            Err(e) => return (n, Err(e)),
        }
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_file_is_read_however_it_is_packed() {
    let plain = pcap(20_000);
    let (first, rest) = plain.split_at(500_000);
    let zstd = |bytes: &[u8]| compress_to_vec(bytes, CompressionLevel::Fastest);
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
    for (name, bytes) in [
        ("plain", plain.clone()),
        ("gzip", gzip(&plain)),
        ("gzip in two members", [gzip(first), gzip(rest)].concat()),
        ("zstd", zstd(&plain)),
        ("zstd in two frames", [skippable.clone(), zstd(first), skippable, zstd(rest)].concat()),
    ] {
        let (mut capture, _file) = open(&bytes).unwrap();
        assert_eq!(capture.link_type(), LinkType::Ethernet);
        assert_eq!(read(&mut capture), (20_000, Ok(())), "{name}");
        assert_eq!(capture.progress(), (bytes.len() as u64, bytes.len() as u64), "{name}");
    }
}

/// As in `tcpcopy -i <(...)`, and of standard input.
#[test]
fn a_pipe_is_read_however_it_is_packed() {
    let plain = pcap(20_000);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let zstd = compress_to_vec(&plain[..], CompressionLevel::Fastest);
    for (name, bytes) in [("plain", plain.clone()), ("gzip", gzip(&plain)), ("zstd", zstd)] {
        let to = path.clone();
        let writer = thread::spawn(move || std::fs::write(to, bytes));
        let mut capture = CaptureFile::open(&path, "").unwrap();
        assert_eq!(read(&mut capture), (20_000, Ok(())), "{name}");
        assert_eq!(capture.progress().1, 0, "{name}");
        writer.join().unwrap().unwrap();
    }
}

#[test]
fn what_is_there_of_a_damaged_file_is_read() {
    let plain = pcap(3_000);
    let packed = gzip(&plain);
    for (name, bytes) in [("cut", &plain[..plain.len() - 5]), ("cut, packed", &packed[..packed.len() - 20])] {
        let (mut capture, _file) = open(bytes).unwrap();
        let (frames, end) = read(&mut capture);
        assert!(frames > 2_000, "{name}: {frames}");
        assert!(matches!(end, Err(FileError::Damaged { frames: n, .. }) if n == u64::from(frames)), "{name}: {end:?}");
    }
}

#[test]
fn what_is_no_capture_is_refused_with_a_reason() {
    for bytes in [&b""[..], b"no capture", &[0x1f, 0x8b, 9, 9, 9, 9, 9, 9], &[0x28, 0xb5, 0x2f, 0xfd, 0xff, 0xff]] {
        assert!(matches!(open(bytes), Err(FileError::NotACapture { .. })), "{bytes:?}");
    }
    let mut bluetooth = pcap(1);
    bluetooth[20..24].copy_from_slice(&201u32.to_le_bytes());
    assert!(matches!(open(&bluetooth), Err(FileError::UnsupportedLink { .. })));
    let missing = CaptureFile::open(Path::new("/nonexistent/x.pcap"), "");
    assert!(matches!(missing, Err(FileError::Open { .. })));
    assert!(matches!(CaptureFile::open(Path::new("/"), ""), Err(FileError::Open { .. })));
}

#[test]
fn the_filter_holds_for_files() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pcap(200)).unwrap();
    let mut capture = CaptureFile::open(file.path(), "greater 100").unwrap();
    let mut lengths = Vec::new();
    while let Some(frame) = capture.next_frame().unwrap() {
        lengths.push(frame.wire_len);
    }
    assert!(!lengths.is_empty() && lengths.iter().all(|len| *len >= 100), "{lengths:?}");
    assert!(matches!(CaptureFile::open(file.path(), "tcp and"), Err(FileError::BadFilter { .. })));
}

/// A block of a pcapng file: type, length, body, length.
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let padded = body.len().next_multiple_of(4);
    let len = (padded as u32 + 12).to_le_bytes();
    [&kind.to_le_bytes()[..], &len, body, &vec![0; padded - body.len()], &len].concat()
}

/// A pcapng file of one interface of this link type, with times in nanoseconds, and one frame.
fn pcapng(link: u16, at_nanos: u64, frame: &[u8]) -> Vec<u8> {
    let section = [&0x1a2b_3c4du32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat();
    // Option 9, if_tsresol: 10 to the power of -9.
    let options = [9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0];
    let interface = [&link.to_le_bytes()[..], &[0, 0], &262_144u32.to_le_bytes(), &options].concat();
    let mut packet = Vec::new();
    let len = frame.len() as u32;
    for value in [0, (at_nanos >> 32) as u32, at_nanos as u32, len, len + 7] {
        packet.extend(value.to_le_bytes());
    }
    packet.extend(frame);
    [block(0x0a0d_0d0a, &section), block(1, &interface), block(6, &packet)].concat()
}

#[test]
fn times_are_exact_to_the_nanosecond_in_files_that_have_them() {
    let at = 1_700_000_000_123_456_789;
    let mut nanos = pcap(0);
    nanos[..4].copy_from_slice(&0xa1b2_3c4du32.to_le_bytes());
    for value in [1_700_000_000u32, 123_456_789, 3, 3] {
        nanos.extend(value.to_le_bytes());
    }
    nanos.extend(b"abc");
    let mut foreign = Vec::new();
    for value in [0xa1b2_3c4du32, 0x0002_0004, 0, 0, 65_535, 1, 1_700_000_000, 123_456_789, 3, 3] {
        foreign.extend(value.to_be_bytes());
    }
    foreign.extend(b"abc");
    for (name, bytes) in [("pcap", nanos), ("pcap, big-endian", foreign), ("pcapng", pcapng(1, at, b"abc"))] {
        let (mut capture, _file) = open(&bytes).unwrap();
        let frame = capture.next_frame().unwrap().expect("a frame");
        assert_eq!((frame.at, frame.bytes), (Timestamp::from_nanos(at), &b"abc"[..]), "{name}");
        assert!(capture.next_frame().unwrap().is_none(), "{name}");
    }
}

#[test]
fn the_link_types_that_captures_have_are_known() {
    for (number, link) in [
        (0, LinkType::Null),
        (1, LinkType::Ethernet),
        (101, LinkType::Raw),
        (108, LinkType::Null),
        (113, LinkType::LinuxSll),
        (228, LinkType::Raw),
        (229, LinkType::Raw),
        (276, LinkType::LinuxSll2),
    ] {
        let mut bytes = pcap(1);
        bytes[20..24].copy_from_slice(&u32::from(number).to_le_bytes());
        assert_eq!(open(&bytes).unwrap().0.link_type(), link, "pcap, {number}");
        assert_eq!(open(&pcapng(number, 0, b"abc")).unwrap().0.link_type(), link, "pcapng, {number}");
    }
}
