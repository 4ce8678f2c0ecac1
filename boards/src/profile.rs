//! The boards, one entry each.

use serde::Serialize;

use crate::Elements;
use crate::fact::{Fact, secondary, unchecked, vendor};

/// Boards that share a chip, hence their video elements and software.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// NVIDIA Jetson with the T194 chip.
    JetsonXavier,
    /// NVIDIA Jetson with the T234 chip.
    JetsonOrin,
    /// NVIDIA Jetson with the T264 chip.
    JetsonThor,
    /// Raspberry Pi 5.
    RaspberryPi5,
    /// Boards with Rockchip's RK3588.
    Rk3588,
    /// Anything else: software decoding, CPU inference.
    Generic,
}

impl Family {
    /// Every family.
    pub const ALL: [Family; 6] = [
        Family::JetsonXavier,
        Family::JetsonOrin,
        Family::JetsonThor,
        Family::RaspberryPi5,
        Family::Rk3588,
        Family::Generic,
    ];

    /// Whether it runs NVIDIA's Jetson Linux.
    pub fn is_jetson(self) -> bool {
        matches!(self, Family::JetsonXavier | Family::JetsonOrin | Family::JetsonThor)
    }
}

/// Peak speed in a named power mode.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tops {
    /// The board's power mode, "" for its usual maximum.
    pub mode: &'static str,
    /// Sparse INT8, 10^12 operations a second; for Thor the published FP8 number.
    pub tops: Fact<f32>,
}

/// What is known of a board. `None` is unknown, and so is what [`Fact::checked`] holds back.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Profile {
    /// Short name, as in configurations.
    pub id: &'static str,
    /// As its maker writes it.
    pub name: &'static str,
    /// Its chip's family.
    pub family: Family,
    /// Entries of the device tree's `compatible` that mean this board and no other.
    pub compatible: &'static [&'static str],
    /// Memory in GB, shared by CPU and GPU; the largest where there are several.
    pub memory_gb: Option<Fact<f32>>,
    /// Memory bandwidth in GB/s, in the fastest power mode.
    pub bandwidth_gb_s: Option<Fact<f32>>,
    /// The GPU's compute capability without its dot; `None` without an NVIDIA GPU.
    pub sm: Option<u32>,
    /// Peak speeds, the usual one first.
    pub peak: &'static [Tops],
    /// Number of deep-learning accelerators. They can't run a transformer.
    pub dla: Option<Fact<u32>>,
    /// Whether there is a hardware video encoder.
    pub encoder: Option<Fact<bool>>,
    /// Whether there is a hardware decoder, for any of H.264 and H.265.
    pub decoder: Option<Fact<bool>>,
}

impl Profile {
    /// Its GStreamer elements. An encoder that is only remembered is tried, since software follows in the list.
    pub fn elements(&self) -> &'static Elements {
        Elements::of(self.family, self.encoder.is_none_or(|encoder| encoder.value))
    }
}

/// The profile with this id.
pub fn profile(id: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| profile.id == id)
}

const fn peak(tops: Fact<f32>) -> Tops {
    Tops { mode: "", tops }
}

const fn in_mode(mode: &'static str, tops: Fact<f32>) -> Tops {
    Tops { mode, tops }
}

/// Every board.
pub const PROFILES: &[Profile] = &[
    Profile {
        id: "orin-nano-4gb",
        name: "NVIDIA Jetson Orin Nano 4 GB",
        family: Family::JetsonOrin,
        compatible: &["nvidia,p3767-0004"],
        memory_gb: Some(vendor(4.0)),
        bandwidth_gb_s: Some(unchecked(51.0)),
        sm: Some(87),
        peak: &[peak(vendor(20.0)), in_mode("Super", unchecked(34.0))],
        dla: Some(vendor(0)),
        encoder: Some(vendor(false)),
        decoder: Some(vendor(true)),
    },
    Profile {
        id: "orin-nano-8gb",
        name: "NVIDIA Jetson Orin Nano 8 GB",
        family: Family::JetsonOrin,
        compatible: &["nvidia,p3767-0003", "nvidia,p3767-0005"],
        memory_gb: Some(vendor(8.0)),
        bandwidth_gb_s: Some(secondary(102.0)),
        sm: Some(87),
        peak: &[peak(vendor(40.0)), in_mode("Super", secondary(67.0))],
        dla: Some(vendor(0)),
        encoder: Some(vendor(false)),
        decoder: Some(vendor(true)),
    },
    Profile {
        id: "orin-nx-8gb",
        name: "NVIDIA Jetson Orin NX 8 GB",
        family: Family::JetsonOrin,
        compatible: &["nvidia,p3767-0001"],
        memory_gb: Some(vendor(8.0)),
        bandwidth_gb_s: Some(unchecked(102.0)),
        sm: Some(87),
        peak: &[peak(unchecked(70.0)), in_mode("Super", unchecked(117.0))],
        dla: Some(unchecked(1)),
        encoder: Some(unchecked(true)),
        decoder: Some(unchecked(true)),
    },
    Profile {
        id: "orin-nx-16gb",
        name: "NVIDIA Jetson Orin NX 16 GB",
        family: Family::JetsonOrin,
        compatible: &["nvidia,p3767-0000"],
        memory_gb: Some(vendor(16.0)),
        bandwidth_gb_s: Some(unchecked(102.0)),
        sm: Some(87),
        peak: &[peak(secondary(100.0)), in_mode("Super", unchecked(157.0))],
        dla: Some(unchecked(2)),
        encoder: Some(unchecked(true)),
        decoder: Some(unchecked(true)),
    },
    Profile {
        id: "agx-orin-32gb",
        name: "NVIDIA Jetson AGX Orin 32 GB",
        family: Family::JetsonOrin,
        compatible: &["nvidia,p3701-0004"],
        memory_gb: Some(vendor(32.0)),
        bandwidth_gb_s: Some(unchecked(205.0)),
        sm: Some(87),
        peak: &[peak(unchecked(200.0))],
        dla: Some(unchecked(2)),
        encoder: Some(unchecked(true)),
        decoder: Some(unchecked(true)),
    },
    Profile {
        id: "agx-orin-64gb",
        name: "NVIDIA Jetson AGX Orin 64 GB",
        family: Family::JetsonOrin,
        compatible: &["nvidia,p3701-0005"],
        memory_gb: Some(vendor(64.0)),
        bandwidth_gb_s: Some(unchecked(205.0)),
        sm: Some(87),
        // GPU and DLA together; the GPU alone has 171, 109, 41 and 14 of them.
        peak: &[
            peak(vendor(275.0)),
            in_mode("MODE_50W", vendor(201.0)),
            in_mode("MODE_30W", vendor(131.0)),
            in_mode("MODE_15W", vendor(54.0)),
        ],
        dla: Some(vendor(2)),
        encoder: Some(vendor(true)),
        decoder: Some(vendor(true)),
    },
    Profile {
        id: "thor-t5000",
        name: "NVIDIA Jetson Thor T5000",
        family: Family::JetsonThor,
        compatible: &[],
        memory_gb: Some(secondary(128.0)),
        bandwidth_gb_s: Some(secondary(273.0)),
        sm: Some(110),
        peak: &[peak(secondary(1035.0))],
        dla: Some(secondary(0)),
        encoder: Some(vendor(true)),
        decoder: Some(vendor(true)),
    },
    Profile {
        id: "xavier-nx",
        name: "NVIDIA Jetson Xavier NX",
        family: Family::JetsonXavier,
        compatible: &["nvidia,p3668-0000", "nvidia,p3668-0001", "nvidia,p3668-0003"],
        memory_gb: Some(secondary(16.0)),
        bandwidth_gb_s: None,
        sm: Some(72),
        peak: &[peak(secondary(21.0))],
        dla: Some(secondary(2)),
        encoder: Some(unchecked(true)),
        decoder: Some(unchecked(true)),
    },
    Profile {
        id: "raspberry-pi-5",
        name: "Raspberry Pi 5",
        family: Family::RaspberryPi5,
        compatible: &["raspberrypi,5-model-b"],
        memory_gb: Some(secondary(16.0)),
        bandwidth_gb_s: Some(secondary(17.0)),
        sm: None,
        peak: &[],
        dla: Some(vendor(0)),
        encoder: Some(secondary(false)),
        decoder: Some(secondary(true)),
    },
    Profile {
        id: "rk3588",
        name: "Rockchip RK3588",
        family: Family::Rk3588,
        compatible: &["rockchip,rk3588", "rockchip,rk3588s"],
        memory_gb: Some(secondary(32.0)),
        bandwidth_gb_s: None,
        sm: None,
        peak: &[],
        dla: Some(vendor(0)),
        encoder: None,
        decoder: Some(secondary(true)),
    },
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_and_compatibles_are_unique() {
        let ids: HashSet<_> = PROFILES.iter().map(|profile| profile.id).collect();
        assert_eq!(ids.len(), PROFILES.len());
        let compatible: Vec<_> = PROFILES.iter().flat_map(|profile| profile.compatible).collect();
        assert_eq!(compatible.iter().collect::<HashSet<_>>().len(), compatible.len());
        assert!(profile("orin-nano-8gb").is_some() && profile("orin").is_none());
    }

    #[test]
    fn what_is_only_remembered_is_held_back() {
        let nano = profile("orin-nano-4gb").unwrap();
        assert_eq!(nano.bandwidth_gb_s.and_then(Fact::checked), None);
        assert_eq!(nano.encoder.and_then(Fact::checked), Some(false));
        assert!(nano.elements().encoders_h264.iter().all(|encoder| encoder.element != "nvv4l2h264enc"));
        let agx = profile("agx-orin-64gb").unwrap();
        assert_eq!(agx.elements().encoders_h264[0].element, "nvv4l2h264enc");
    }
}
