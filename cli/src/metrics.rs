//! Metrics for Prometheus over HTTP (`--metrics`), in the OpenMetrics text format
//! (<https://github.com/prometheus/OpenMetrics>).
//!
//! A thread of its own answers; what the numbers are it asks the main thread, which a waker wakes. So a scrape costs the
//! workers no more than the statistics in the log do, and nothing between scrapes.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use mio::Waker;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use tcpcopy_engine::Latency;
use tcpcopy_io::{privileges, usage};

use crate::config::Text;
use crate::desk::{Asker, Desk, Question};
use crate::exit::{Exit, Failure};

/// Bytes of a request's head that are read.
const HEAD_LIMIT: usize = 8 << 10;
/// A client has this long to ask, and to take the answer.
const CLIENT_LIMIT: Duration = Duration::from_secs(2);
/// The main thread has this long to tell the numbers.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Pause after a connection could not be accepted, for want of file descriptors for instance.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);
/// What the answer is, by the format's specification.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Reads `[ADDR]:PORT` or `PORT`; without an address, only this host may ask.
///
/// # Errors
/// What is wrong, in words.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    let port = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = port.parse::<u16>() {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.parse().map_err(|_| {
        format!("in --metrics: `{text}` is no address and port\nit is written like this: --metrics 9100, or --metrics 10.0.0.1:9100")
    })
}

/// Where `--metrics` wants them served, if it was given.
///
/// # Errors
/// See [`address`].
pub(crate) fn option(given: Option<&Text>) -> Result<Option<SocketAddr>, Failure> {
    given.map(|text| address(&text.0)).transpose().map_err(Failure::usage)
}

/// A scrape that waits for its numbers.
pub struct Scrape(Question<(), String>);

impl Scrape {
    /// Answers it.
    pub fn answer(self, metrics: impl Collector) {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(metrics));
        let mut text = String::new();
        // Writing to a string fails only where a collector does; what there is until then is of no use.
        if encode(&mut text, &registry).is_ok() {
            self.0.answer(text);
        }
    }
}

/// The exporter, seen from the main thread.
pub struct Exporter {
    scrapes: Desk<(), String>,
    address: SocketAddr,
}

impl Exporter {
    /// Listens, and begins to answer. `waker` wakes the main thread when a scrape waits.
    ///
    /// # Errors
    /// When the address cannot be had, or there is no thread.
    pub fn start(address: SocketAddr, waker: Arc<Waker>) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let (scrapes, asker) = Desk::open(waker);
        thread::Builder::new().name("metrics".to_owned()).spawn(move || {
            privileges::renounce();
            serve(&listener, &asker);
        })?;
        Ok(Self { scrapes, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same, with a failure in words for whoever started the program.
    ///
    /// # Errors
    /// That failure.
    pub(crate) fn open(address: SocketAddr, waker: Arc<Waker>) -> Result<Self, Failure> {
        let exporter = Self::start(address, waker).map_err(|e| {
            Failure::new(
                Exit::Failure,
                format!("in --metrics: cannot listen on {address}: {e}; choose another address or port"),
            )
        })?;
        log::info!("serving metrics at http://{}/metrics", exporter.address());
        Ok(exporter)
    }

    /// The scrapes that wait.
    pub fn scrapes(&self) -> impl Iterator<Item = Scrape> {
        self.scrapes.questions().map(Scrape)
    }
}

fn serve(listener: &TcpListener, scrapes: &Asker<(), String>) {
    loop {
        match listener.accept() {
            // Whoever leaves early has no answer coming.
            Ok((stream, _)) => _ = converse(stream, scrapes),
            Err(e) => {
                log::debug!("metrics: cannot accept a connection: {e}");
                thread::sleep(ACCEPT_RETRY);
            }
        }
    }
}

/// One request, one answer: Prometheus asks every few seconds at most.
fn converse(mut stream: TcpStream, scrapes: &Asker<(), String>) -> io::Result<()> {
    let end = Instant::now() + CLIENT_LIMIT;
    stream.set_write_timeout(Some(CLIENT_LIMIT))?;
    let mut head = Vec::new();
    let path = loop {
        // Whoever sends byte by byte has no more time for that.
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || head.len() > HEAD_LIMIT {
            return respond(&mut stream, "408 Request Timeout", "text/plain", "");
        }
        stream.set_read_timeout(Some(left))?;
        let mut bytes = [0; 1024];
        let n = stream.read(&mut bytes)?;
        if n == 0 {
            return Ok(());
        }
        head.extend_from_slice(&bytes[..n]);
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&head) {
            Ok(httparse::Status::Partial) => {}
            Ok(httparse::Status::Complete(_)) => break request.path.map(str::to_owned),
            Err(_) => return respond(&mut stream, "400 Bad Request", "text/plain", "not a request of HTTP/1\n"),
        }
    };
    if path.as_deref().map(|path| path.split('?').next()) != Some(Some("/metrics")) {
        return respond(&mut stream, "404 Not Found", "text/plain", "metrics are at /metrics\n");
    }
    match scrapes.ask((), ANSWER_LIMIT) {
        Some(text) => respond(&mut stream, "200 OK", CONTENT_TYPE, &text),
        None => {
            respond(&mut stream, "503 Service Unavailable", "text/plain", "the program does not tell its numbers\n")
        }
    }
}

fn respond(stream: &mut TcpStream, status: &str, kind: &str, body: &str) -> io::Result<()> {
    let len = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

/// Writes metrics, one after the other.
pub struct Metrics<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl<'a> Metrics<'a> {
    /// Writes with this encoder.
    pub fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self { encoder }
    }

    /// A number that only grows.
    ///
    /// # Errors
    /// Those of the encoder. So for all that follow.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let encoder = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(encoder)
    }

    /// A number that goes up and down.
    ///
    /// # Errors
    /// See [`counter`](Self::counter).
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let encoder = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(encoder)
    }

    /// A program's plain counters: name, meaning and value of each. `gauges` names those that also shrink.
    ///
    /// # Errors
    /// See [`counter`](Self::counter).
    pub fn plain<'b>(
        &mut self,
        program: &str,
        counters: impl Iterator<Item = (&'b str, &'b str, u64)>,
        gauges: &[&str],
    ) -> fmt::Result {
        for (name, help, value) in counters {
            let metric = format!("{program}_{name}");
            if gauges.contains(&name) {
                self.gauge(&metric, help, value as f64)?;
            } else {
                self.counter(&metric, help, value)?;
            }
        }
        Ok(())
    }

    /// Durations, in seconds.
    ///
    /// # Errors
    /// See [`counter`](Self::counter).
    pub fn durations(&mut self, name: &str, help: &str, latency: &Latency) -> fmt::Result {
        let encoder = self.encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        histogram(encoder, latency)
    }

    /// Durations of one kind, in seconds, told apart by labels.
    ///
    /// # Errors
    /// See [`counter`](Self::counter).
    pub fn labelled_durations<'v, V: AsRef<str>, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([(&'v str, V); N], &'v Latency)>,
    ) -> fmt::Result {
        let kind = MetricType::Histogram;
        let encoder = self.encoder.encode_descriptor(name, help, Some(&Unit::Seconds), kind)?;
        each_labelled(encoder, values, |latency, encoder| histogram(encoder, latency))
    }

    /// What the process takes, by the names that Prometheus's client libraries give it.
    ///
    /// # Errors
    /// See [`counter`](Self::counter).
    pub fn process(&mut self) -> fmt::Result {
        let memory = "Memory in use (resident set), capture buffers included, in bytes.";
        self.gauge("process_resident_memory_bytes", memory, usage::resident_bytes() as f64)?;
        let cpu = "CPU time of all threads.";
        let encoder = self.encoder.encode_descriptor("process_cpu", cpu, Some(&Unit::Seconds), MetricType::Counter)?;
        ConstCounter::new(usage::process_time().as_secs_f64()).encode(encoder)
    }

    /// Counters of one kind, told apart by a label.
    ///
    /// # Errors
    /// See [`counter`](Self::counter).
    pub fn counters<'v>(
        &mut self,
        name: &str,
        help: &str,
        label: &'v str,
        values: impl IntoIterator<Item = (&'v str, u64)>,
    ) -> fmt::Result {
        let values = values.into_iter().map(|(value_of_label, value)| ([(label, value_of_label)], value));
        self.labelled(name, help, values)
    }

    /// Counters of one kind, told apart by several labels.
    ///
    /// # Errors
    /// See [`counter`](Self::counter).
    pub fn labelled<'v, V: AsRef<str>, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([(&'v str, V); N], u64)>,
    ) -> fmt::Result {
        let encoder = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        each_labelled(encoder, values, |value, encoder| ConstCounter::new(value).encode(encoder))
    }

    /// Numbers of one kind that go up and down, told apart by labels.
    ///
    /// # Errors
    /// See [`counter`](Self::counter).
    pub fn labelled_gauges<'v, V: AsRef<str>, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([(&'v str, V); N], f64)>,
    ) -> fmt::Result {
        let encoder = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        each_labelled(encoder, values, |value, encoder| ConstGauge::new(value).encode(encoder))
    }
}

/// A histogram of durations: of octaves, as far as somebody looks at them.
fn histogram(mut encoder: MetricEncoder<'_>, latency: &Latency) -> fmt::Result {
    // Below the clock's grain and above some minutes nobody looks.
    let shown = Duration::from_micros(64)..Duration::from_secs(300);
    let mut buckets: Vec<(f64, u64)> = Vec::new();
    let mut waiting = 0;
    for (bound, count) in latency.octaves() {
        waiting += count;
        if shown.contains(&bound) {
            buckets.push((bound.as_secs_f64(), std::mem::take(&mut waiting)));
        }
    }
    buckets.push((f64::MAX, waiting));
    encoder.encode_histogram::<NoLabelSet>(latency.total().as_secs_f64(), latency.count(), &buckets, None)
}

/// Encodes each value, with its labels in front of it.
fn each_labelled<'v, V: AsRef<str>, T, const N: usize>(
    mut encoder: MetricEncoder<'_>,
    values: impl IntoIterator<Item = ([(&'v str, V); N], T)>,
    encode: impl Fn(T, MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    for (labels, value) in values {
        let labels = labels.each_ref().map(|(label, text)| (*label, escape(text.as_ref())));
        let labels = labels.each_ref().map(|(label, text)| (*label, &**text));
        encode(value, encoder.encode_family(&labels)?)?;
    }
    Ok(())
}

/// A label's value as the format wants it; the encoder takes it as it is.
fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['\\', '"', '\n']) {
        return text.into();
    }
    text.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n").into()
}

#[cfg(test)]
mod tests {
    use mio::{Events, Poll, Token};

    use super::*;

    #[derive(Debug)]
    struct Two;

    impl Collector for Two {
        fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
            let mut metrics = Metrics::new(encoder);
            metrics.counter("two", "The number two.", 2)?;
            metrics.counters("kinds", "By kind.", "kind", [("a \"quoted\" one", 1)])
        }
    }

    /// Sends the parts one after the other, as a slow network would bring them.
    fn ask(address: SocketAddr, request: &[&str]) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        for part in request {
            stream.write_all(part.as_bytes()).unwrap();
            thread::sleep(Duration::from_millis(20));
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn a_scrape_is_answered_by_whoever_has_the_numbers() {
        let mut poll = Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
        let exporter = Exporter::start(address(":0").unwrap(), waker).unwrap();
        let at = exporter.address();
        assert!(at.ip().is_loopback());
        let client = thread::spawn(move || {
            [
                ask(at, &["GET /metri", "cs?x=1 HTTP/1.1\r\nHost: a\r", "\n\r\n"]),
                ask(at, &["GET / HTTP/1.1\r\n\r\n"]),
                ask(at, &["not at all\r\n\r\n"]),
            ]
        });
        let mut events = Events::with_capacity(8);
        let end = Instant::now() + Duration::from_secs(30);
        while !client.is_finished() {
            assert!(Instant::now() < end, "nobody asks");
            poll.poll(&mut events, Some(Duration::from_millis(50))).unwrap();
            exporter.scrapes().for_each(|scrape| scrape.answer(Two));
        }
        let [metrics, elsewhere, garbage] = client.join().unwrap();
        assert!(metrics.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text"), "{metrics}");
        assert!(metrics.contains("\n# HELP two The number two.\n# TYPE two counter\ntwo_total 2\n"), "{metrics}");
        assert!(metrics.contains("kinds_total{kind=\"a \\\"quoted\\\" one\"} 1\n# EOF\n"), "{metrics}");
        assert!(elsewhere.starts_with("HTTP/1.1 404 "), "{elsewhere}");
        assert!(garbage.starts_with("HTTP/1.1 400 "), "{garbage}");
    }

    #[test]
    fn without_an_address_only_this_host_may_ask() {
        for text in ["9100", ":9100", "127.0.0.1:9100"] {
            assert_eq!(address(text).unwrap(), "127.0.0.1:9100".parse().unwrap());
        }
        assert_eq!(address("[::]:9100").unwrap(), "[::]:9100".parse().unwrap());
        assert!(address("localhost:http").unwrap_err().contains("--metrics 9100, or --metrics 10.0.0.1:9100"));
    }
}
