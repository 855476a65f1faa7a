//! Conversations, and what of them reaches the target.

use tcpcopy_module_api::conformance::{Sample, Samples};

pub(crate) fn samples() -> Samples {
    let samples = vec![
        Sample::of("reads and writes")
            .client(b"get a\r\n")
            .target(b"VALUE a 0 7\r\nE\r\nND\r\n\r\nEND\r\n")
            .client(b"set a 0 0 10\r\nthe value\n\r\nget b c\r\nincr n 1\r\n")
            .target(b"END\r\n")
            .client(b"gets d\r\nquit\r\n")
            .target(b"VALUE d 1 0 9\r\n\r\nEND\r\n")
            .target_closes()
            .reaches_target(b"get a\r\nget b c\r\ngets d\r\nquit\r\n"),
        Sample::of("meta commands")
            .client(b"mg a v q\r\nms b 3 T0\r\nxyz\r\nmg c v\r\nmn\r\n")
            .target(b"VA 1 \r\nM\r\nEN\r\nMN\r\n")
            .client(b"md a q\r\nmn\r\n")
            .target(b"MN\r\n")
            .reaches_target(b"mg a v q\r\nmg c v\r\nmn\r\nmn\r\n"),
        Sample::of("the target closes")
            .client(b"get a\r\n")
            .target(b"VALUE a 0 1\r\n1\r\nEND\r\n")
            .target_closes()
            .client(b"get b\r\n")
            .target(b"END\r\n")
            .reaches_target(b"get a\r\nget b\r\n"),
    ];
    Samples { joins_anywhere: true, ..Samples::new(samples) }
}
