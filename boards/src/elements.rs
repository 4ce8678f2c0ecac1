//! Which GStreamer elements work with video on a kind of board: hardware first, software where there is none.

use serde::Serialize;

use crate::Family;

/// Elements by purpose, the best first. What is listed need not be installed: take the first that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Elements {
    /// H.264 decoders.
    pub decoders_h264: &'static [&'static str],
    /// H.265 decoders.
    pub decoders_h265: &'static [&'static str],
    /// Converters that bring decoded pictures from the device's memory to the CPU's; empty where they are there.
    pub converters: &'static [&'static str],
    /// H.264 encoders.
    pub encoders_h264: &'static [Encoder],
}

/// An encoder and what it is fed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Encoder {
    /// Name of the element.
    pub element: &'static str,
    /// Elements between pictures in the CPU's memory and the encoder, with their caps, as a pipeline description.
    pub feed: &'static str,
    /// Properties for good small films: name and value as GStreamer writes them.
    pub settings: &'static [(&'static str, &'static str)],
}

const SOFTWARE_ENCODERS: &[Encoder] = &[X264, OPENH264];

const X264: Encoder = Encoder {
    element: "x264enc",
    feed: "videoconvert ! video/x-raw,format=I420",
    settings: &[("pass", "qual"), ("quantizer", "18"), ("speed-preset", "veryfast")],
};

const OPENH264: Encoder = Encoder {
    element: "openh264enc",
    feed: "videoconvert ! video/x-raw,format=I420",
    settings: &[("rate-control", "quality"), ("bitrate", "4000000"), ("complexity", "medium")],
};

const JETSON_ENCODERS: &[Encoder] = &[
    Encoder {
        element: "nvv4l2h264enc",
        feed: "videoconvert ! video/x-raw,format=I420 ! nvvidconv ! video/x-raw(memory:NVMM),format=NV12",
        settings: &[("bitrate", "4000000")],
    },
    X264,
    OPENH264,
];

const JETSON: Elements = Elements {
    decoders_h264: &["nvv4l2decoder", "avdec_h264", "openh264dec"],
    decoders_h265: &["nvv4l2decoder", "avdec_h265"],
    converters: &["nvvidconv", "nvvideoconvert"],
    encoders_h264: JETSON_ENCODERS,
};

// Orin Nano has no video encoder at all; asking its driver for one fails only when the pipeline starts.
const JETSON_WITHOUT_ENCODER: Elements = Elements { encoders_h264: SOFTWARE_ENCODERS, ..JETSON };

// The HEVC decoder of the Raspberry Pi 5 is a stateless one of the kernel's; H.264 is software there.
const RASPBERRY_PI_5: Elements = Elements { decoders_h265: &["v4l2slh265dec", "avdec_h265"], ..SOFTWARE };

const RK3588: Elements = Elements {
    decoders_h264: &["mppvideodec", "v4l2slh264dec", "avdec_h264", "openh264dec"],
    decoders_h265: &["mppvideodec", "v4l2slh265dec", "avdec_h265"],
    ..SOFTWARE
};

const SOFTWARE: Elements = Elements {
    decoders_h264: &["avdec_h264", "openh264dec"],
    decoders_h265: &["avdec_h265", "libde265dec"],
    converters: &[],
    encoders_h264: SOFTWARE_ENCODERS,
};

impl Elements {
    /// Elements of a family, for boards of it with or without a video encoder.
    pub fn of(family: Family, has_encoder: bool) -> &'static Elements {
        match family {
            Family::JetsonXavier | Family::JetsonOrin | Family::JetsonThor if has_encoder => &JETSON,
            Family::JetsonXavier | Family::JetsonOrin | Family::JetsonThor => &JETSON_WITHOUT_ENCODER,
            Family::RaspberryPi5 => &RASPBERRY_PI_5,
            Family::Rk3588 => &RK3588,
            Family::Generic => &SOFTWARE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_ends_in_software() {
        for family in Family::ALL {
            for has_encoder in [false, true] {
                let elements = Elements::of(family, has_encoder);
                assert!(elements.decoders_h264.contains(&"avdec_h264"), "{family:?}");
                assert!(elements.decoders_h265.contains(&"avdec_h265"), "{family:?}");
                assert!(elements.encoders_h264.contains(&X264), "{family:?}");
                let hardware = elements.encoders_h264.iter().any(|encoder| encoder.element.starts_with("nv"));
                assert_eq!(hardware, has_encoder && family.is_jetson(), "{family:?}");
            }
        }
    }
}
