//! From a URI to a decoded stream: which elements open it, and how they find the picture among what it carries.

use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;

use nextclip_boards::{Elements, Family};

use crate::chain::{make, origin};
use crate::slot::Slot;
use crate::{Error, Frame, SourceConfig, SourceUri, feed};

/// Network cameras may deliver packets this much out of order.
const JITTER_MS: u32 = 100;
/// Connecting to and waiting for a network camera, each.
const NETWORK_TIMEOUT_US: u64 = 5_000_000;
/// Finding and reaching a network camera, each.
const REACH: Duration = Duration::from_secs(4);

/// Adds what opens the source, and leads its first video stream to `input`.
pub(crate) fn attach(
    pipeline: &gst::Pipeline,
    input: &gst::Pad,
    config: &SourceConfig,
    slot: &Arc<Slot<Frame>>,
) -> Result<(), Error> {
    let place = config.uri.to_string();
    let broken = |cause: String| Error::Stream { uri: place.clone(), cause };
    let source = match &config.uri {
        SourceUri::Test { seed, rate, size, seconds } => {
            let (width, height) = size.unwrap_or((config.width, config.height));
            let camera = feed::Camera { seed: *seed, rate: *rate, width, height, seconds: *seconds };
            let source = feed::source(&camera)?;
            pipeline.add(&source).map_err(|err| broken(err.to_string()))?;
            let pad = source.static_pad("src").ok_or_else(|| broken("appsrc has no output".into()))?;
            pad.link(input).map_err(|err| broken(err.to_string()))?;
            let slot = slot.clone();
            return feed::start(&camera, source, move || slot.is_closed());
        }
        SourceUri::File(path) => {
            let found = std::fs::metadata(path).map_err(|err| broken(err.to_string()))?;
            if found.is_dir() {
                return Err(broken("it is a folder".into()));
            }
            let source = make("filesrc", &place)?;
            source.set_property("location", path);
            source
        }
        SourceUri::Rtsp(url) => {
            return attach_rtsp(pipeline, input, url, &place);
        }
        SourceUri::V4l2(path) => {
            std::fs::metadata(path).map_err(|err| broken(err.to_string()))?;
            let source = make("v4l2src", &place)?;
            source.set_property("device", path.to_string_lossy().as_ref());
            source
        }
        SourceUri::Csi(sensor) => {
            make("nvarguscamerasrc", &place)?;
            described(&format!("nvarguscamerasrc sensor-id={sensor}"), &place)?
        }
        SourceUri::Pipeline(description) => described(description, &place)?,
    };
    let decode = decoder(pipeline, input, &place)?;
    pipeline.add_many([&source, &decode]).map_err(|err| broken(err.to_string()))?;
    source.link(&decode).map_err(|_| broken("what it delivers can't be decoded".into()))
}

/// A pipeline description as one element with an output.
fn described(description: &str, place: &str) -> Result<gst::Element, Error> {
    let mut context = gst::ParseContext::new();
    // With an element behind it, the last part may be caps: "videotestsrc ! video/x-raw,width=320".
    let parsed = gst::parse::bin_from_description_full(
        &format!("{description} ! identity silent=true"),
        true,
        Some(&mut context),
        gst::ParseFlags::FATAL_ERRORS | gst::ParseFlags::NO_SINGLE_ELEMENT_BINS,
    );
    let element = match parsed {
        Ok(element) => element,
        Err(_) if !context.missing_elements().is_empty() => {
            let element = context.missing_elements().join(", ");
            let hint = origin(&element).to_owned();
            return Err(Error::Element { place: place.to_owned(), element, hint });
        }
        Err(err) => return Err(Error::Stream { uri: place.to_owned(), cause: err.message().to_owned() }),
    };
    if element.static_pad("src").is_none() {
        let cause = "the description must end in an element with an output, without a sink".to_owned();
        return Err(Error::Stream { uri: place.to_owned(), cause });
    }
    Ok(element)
}

/// A decoder for whatever comes, whose first video stream goes to `input`. Sound is not decoded.
fn decoder(pipeline: &gst::Pipeline, input: &gst::Pad, place: &str) -> Result<gst::Element, Error> {
    let decode = make("decodebin", place)?;
    decode.connect("autoplug-continue", false, |values| {
        let caps = values.get(2).and_then(|value| value.get::<gst::Caps>().ok());
        let sound = caps.and_then(|caps| caps.structure(0).map(|s| s.name().starts_with("audio/")));
        Some((!sound.unwrap_or(false)).to_value())
    });
    let (weak, input, linked) = (pipeline.downgrade(), input.clone(), Arc::new(OnceLock::new()));
    let linked_before_end = linked.clone();
    decode.connect_pad_added(move |decode, pad| {
        let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
        let video = caps.structure(0).is_some_and(|s| s.name().starts_with("video/x-raw"));
        if !video || linked.set(()).is_err() {
            return;
        }
        let result = match weak.upgrade() {
            Some(pipeline) => lead(&pipeline, pad, &caps, &input),
            None => return,
        };
        if let Err(cause) = result {
            gst::element_error!(decode, gst::StreamError::Format, ("{}", cause));
        }
    });
    decode.connect_no_more_pads(move |decode| {
        if linked_before_end.get().is_none() {
            gst::element_error!(
                decode,
                gst::StreamError::WrongType,
                ("it holds no video that can be decoded here")
            );
        }
    });
    Ok(decode)
}

/// Links a decoded pad, through the board's converter where the pictures lie in the GPU's memory.
fn lead(pipeline: &gst::Pipeline, pad: &gst::Pad, caps: &gst::Caps, input: &gst::Pad) -> Result<(), String> {
    let on_device = caps.features(0).is_some_and(|features| features.contains("memory:NVMM"));
    if !on_device {
        return pad.link(input).map(|_| ()).map_err(|err| err.to_string());
    }
    let converters = Elements::of(Family::JetsonOrin, true).converters;
    let found = converters.iter().find_map(|name| gst::ElementFactory::make(name).build().ok());
    let convert =
        found.ok_or_else(|| format!("pictures in GPU memory need one of {}", converters.join(", ")))?;
    pipeline.add(&convert).map_err(|err| err.to_string())?;
    let (Some(sink), Some(src)) = (convert.static_pad("sink"), convert.static_pad("src")) else {
        return Err("the converter has no pads".into());
    };
    src.link(input).map_err(|err| err.to_string())?;
    convert.sync_state_with_parent().map_err(|err| err.to_string())?;
    pad.link(&sink).map(|_| ()).map_err(|err| err.to_string())
}

fn attach_rtsp(pipeline: &gst::Pipeline, input: &gst::Pad, url: &url::Url, place: &str) -> Result<(), Error> {
    let broken = |cause: String| Error::Stream { uri: place.to_owned(), cause };
    reach(url).map_err(broken)?;
    let source = make("rtspsrc", place)?;
    // TCP loses no packets, so pictures are whole; cameras without it are reached by rtspu://.
    let by_udp = url.scheme() == "rtspu";
    source.set_property_from_str("protocols", if by_udp { "udp" } else { "tcp" });
    source.set_property("location", url.as_str());
    source.set_property("latency", JITTER_MS);
    source.set_property("drop-on-latency", true);
    source.set_property("tcp-timeout", NETWORK_TIMEOUT_US);
    source.set_property("timeout", NETWORK_TIMEOUT_US);
    source.connect("select-stream", false, |values| {
        let caps = values.get(2).and_then(|value| value.get::<gst::Caps>().ok());
        let media = caps.and_then(|caps| caps.structure(0)?.get::<String>("media").ok());
        Some((media.as_deref() == Some("video")).to_value())
    });
    let decode = decoder(pipeline, input, place)?;
    pipeline.add_many([&source, &decode]).map_err(|err| broken(err.to_string()))?;
    let decode = decode.static_pad("sink").ok_or_else(|| broken("decodebin has no input".into()))?;
    source.connect_pad_added(move |source, pad| {
        if !decode.is_linked()
            && let Err(err) = pad.link(&decode)
        {
            gst::element_error!(source, gst::StreamError::Format, ("{}", err));
        }
    });
    Ok(())
}

/// Knocks at a camera's door: the system says "connection refused" or "no route" where rtspsrc says "generic error".
fn reach(url: &url::Url) -> Result<(), String> {
    let port = url.port().unwrap_or(if url.scheme() == "rtsps" { 322 } else { 554 });
    let host = match url.host() {
        Some(url::Host::Ipv6(address)) => address.to_string(),
        Some(host) => host.to_string(),
        None => return Err("it names no host".into()),
    };
    // Looking up a name has no timeout of its own, so it gets a thread that may outlive us.
    let (report, found) = std::sync::mpsc::channel();
    let name = host.clone();
    std::thread::spawn(move || {
        let addresses = (name.as_str(), port).to_socket_addrs().map(|all| all.collect::<Vec<_>>());
        let _ = report.send(addresses);
    });
    let addresses = match found.recv_timeout(REACH) {
        Ok(addresses) => addresses.map_err(|err| format!("{host} is not known: {err}"))?,
        Err(_) => return Err(format!("no answer to the name {host} within {} s", REACH.as_secs())),
    };
    let mut last = format!("{host} has no address");
    let until = Instant::now() + REACH;
    for address in addresses {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
        match TcpStream::connect_timeout(&address, left) {
            Ok(_) => return Ok(()),
            Err(err) => last = format!("{address} is not reached: {err}"),
        }
    }
    Err(last)
}

/// An error in one line: what failed, and the element's own detail where it says more.
pub(crate) fn cause(error: &gst::message::Error) -> String {
    one_line(&error.error(), error.debug())
}

pub(crate) fn one_line(error: &gst::glib::Error, debug: Option<gst::glib::GString>) -> String {
    let text = error.message().trim_end_matches('.').to_owned();
    // The first line of the detail is a place in GStreamer's sources.
    let debug = debug.unwrap_or_default();
    let detail: Vec<&str> = debug.lines().skip(1).map(str::trim).filter(|line| !line.is_empty()).collect();
    let detail = detail.join(", ");
    if detail.is_empty() || text.contains(&detail) { text } else { format!("{text}: {detail}") }
}
