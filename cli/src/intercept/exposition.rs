//! intercept's numbers as metrics.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use tcpcopy_engine::relay::{RelayDrop, RelayStats};
use tcpcopy_io::capture::CaptureStats;
use tcpcopy_io::control::ServerStats;

use crate::metrics::Metrics;

/// Those of the relay's counters that also shrink.
const GAUGES: &[&str] = &["held", "routes_alive"];

/// The counters, as they are at one moment.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    pub(super) relay: RelayStats,
    pub(super) captures: CaptureStats,
    pub(super) server: ServerStats,
}

impl Collector for Exposition {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metrics = Metrics::new(encoder);
        let Self { relay, captures, server } = self;
        metrics.plain("intercept", relay.counters(), GAUGES)?;
        let dropped = RelayDrop::ALL.iter().map(|reason| reason.text()).zip(relay.dropped);
        metrics.counters("intercept_dropped", "Frames that reached no tcpcopy.", "reason", dropped)?;
        metrics.counter("intercept_capture_received", "Packets that passed the capture filter.", captures.received)?;
        let lost = "Packets lost because the capture buffer was full.";
        metrics.counter("intercept_capture_dropped", lost, captures.dropped)?;
        let lost = "Packets that the network device could not take.";
        metrics.counter("intercept_capture_dropped_by_device", lost, captures.interface_dropped)?;
        metrics.gauge("intercept_links_up", "Connections of tcpcopys that work.", server.up as f64)?;
        metrics.counter("intercept_connections_accepted", "Connections accepted.", server.accepted)?;
        let closed = "Connections closed before they were of use.";
        metrics.counters("intercept_connections_closed", closed, "reason", server.closed())?;
        metrics.process()?;
        metrics.counter("intercept_writes", "Batches of responses handed to sockets.", server.writes)
    }
}
