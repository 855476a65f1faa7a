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
