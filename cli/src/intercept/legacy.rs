//! How tcpcopys of the C programs are served: the options for what there was decided when the programs were built.

use tcpcopy_engine::relay::LegacyConfig;
use tcpcopy_io::control::Single;
use tcpcopy_wire::control::{LegacyFormat, RecordKind};

use super::arguments::Arguments;
use crate::exit::Failure;

/// Reads them. `combined`: records in one frame at most, as `-n` says.
///
/// # Errors
/// Options that exclude each other.
pub(super) fn config(arguments: &Arguments, combined: u8) -> Result<(Option<Single>, LegacyConfig), Failure> {
    if arguments.legacy_payload && arguments.legacy_separate {
        return Err(Failure::usage(
            "--legacy-payload and --legacy-separate exclude each other: no tcpcopy was ever built for both",
        ));
    }
    if arguments.refuse_newcomers && !arguments.single {
        return Err(Failure::usage(
            "-c (--refuse-newcomers) is of no use without --single: any number of tcpcopys is served",
        ));
    }
    let security = [
        ("--secret-file", arguments.secret_file.is_some()),
        ("--tls-cert", arguments.tls_cert.is_some() || arguments.tls_ca.is_some()),
    ];
    let given = [
        ("--single", arguments.single),
        ("--legacy-payload", arguments.legacy_payload),
        ("--legacy-separate", arguments.legacy_separate),
    ];
    if let (Some((option, _)), Some((wall, _))) =
        (given.iter().find(|(_, given)| *given), security.iter().find(|(_, given)| *given))
    {
        return Err(Failure::usage(format!(
            "{option} is for tcpcopys of the C programs, which {wall} keeps out: they know neither secrets nor TLS; leave \
             one of the two out, and let only their addresses in with --allow"
        )));
    }
    let policy = if arguments.refuse_newcomers { Single::Oldest } else { Single::Newest };
    let records = if arguments.legacy_payload { RecordKind::WithPayload } else { RecordKind::Headers };
    let format = LegacyFormat { records, combined: !arguments.legacy_separate };
    let single = arguments.single.then_some(policy);
    Ok((single, LegacyConfig { format, max_batch: combined.into(), single: single.is_some() }))
}
