//! Which board this is, from its device tree, and which release of Jetson Linux runs on it.

use std::path::Path;

use serde::Serialize;

use crate::{Elements, Family, PROFILES, Profile};

/// Chips by their entry in `compatible`.
const CHIPS: &[(&str, Family)] = &[
    ("nvidia,tegra194", Family::JetsonXavier),
    ("nvidia,tegra234", Family::JetsonOrin),
    ("nvidia,tegra264", Family::JetsonThor),
    ("brcm,bcm2712", Family::RaspberryPi5),
    ("rockchip,rk3588", Family::Rk3588),
    ("rockchip,rk3588s", Family::Rk3588),
];

/// What the device tree says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Board {
    /// In the maker's words; empty where there is no device tree.
    pub model: String,
    /// Names from the most to the least specific.
    pub compatible: Vec<String>,
    /// By its chip.
    pub family: Family,
    /// `None` for a board that has no entry here: its family is still right.
    pub profile: Option<&'static Profile>,
}

/// Reads `model` and `compatible` in a device tree, usually `/proc/device-tree`. A machine without one, as most x86
/// machines are, is [`Family::Generic`].
pub fn detect(device_tree: &Path) -> Board {
    let model = strings(&device_tree.join("model")).into_iter().next().unwrap_or_default();
    let compatible = strings(&device_tree.join("compatible"));
    let named = |name: &str| {
        // A carrier with a module is "nvidia,p3768-0000+p3767-0005": the module is the board.
        let module = name.split_once('+').map(|(_, module)| format!("nvidia,{module}"));
        let means = |entry: &&str| *entry == name || module.as_deref() == Some(*entry);
        PROFILES.iter().find(|profile| profile.compatible.iter().any(means))
    };
    let chip = |name: &String| CHIPS.iter().find(|(chip, _)| chip == name).map(|(_, family)| *family);
    let family = compatible.iter().find_map(chip).unwrap_or(Family::Generic);
    // Thor has one entry so far, and part numbers of its modules are not in it.
    let only_one = || {
        let mut of_family = PROFILES.iter().filter(|profile| profile.family == family);
        of_family.next().filter(|profile| of_family.next().is_none() && profile.compatible.is_empty())
    };
    let profile = compatible.iter().find_map(|name| named(name)).or_else(only_one);
    Board { model, compatible, family: profile.map_or(family, |profile| profile.family), profile }
}

impl Board {
    /// Its GStreamer elements, the best first.
    pub fn elements(&self) -> &'static Elements {
        self.profile.map_or_else(|| Elements::of(self.family, true), Profile::elements)
    }

    /// A name for logs.
    pub fn name(&self) -> &str {
        match self.profile {
            Some(profile) => profile.name,
            None if self.model.is_empty() => "generic computer",
            None => &self.model,
        }
    }
}

/// Strings of a device tree's property: each ends in a zero byte.
fn strings(path: &Path) -> Vec<String> {
    let bytes = std::fs::read(path).unwrap_or_default();
    let strings = bytes.split(|byte| *byte == 0).filter(|string| !string.is_empty());
    strings.map(|string| String::from_utf8_lossy(string).trim().to_owned()).collect()
}

/// A release of Jetson Linux: R36.4.3 is major 36, minor 4, patch 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct L4t {
    /// 35, 36, 38, 39.
    pub major: u32,
    /// The first number of "REVISION".
    pub minor: u32,
    /// The second one.
    pub patch: u32,
}

impl L4t {
    /// Reads the first line of `/etc/nv_tegra_release`: `# R36 (release), REVISION: 4.3, GCID: …`.
    pub fn parse(text: &str) -> Option<L4t> {
        let line = text.lines().next()?;
        let major = line.strip_prefix("# R")?.split([' ', ',']).next()?.parse().ok()?;
        let revision = line.split_once("REVISION:")?.1.split(',').next()?.trim();
        let (minor, patch) = revision.split_once('.').unwrap_or((revision, "0"));
        Some(L4t { major, minor: minor.parse().ok()?, patch: patch.parse().ok()? })
    }

    /// The TensorRT that comes with it, major and minor; `None` for a release that is not known.
    pub fn tensorrt(self) -> Option<(u32, u32)> {
        match (self.major, self.minor) {
            (35, 2..=6) => Some((8, 5)),
            (36, 4..=5) => Some((10, 3)),
            (38, 2 | 4) => Some((10, 13)),
            (39, 2) => Some((10, 16)),
            _ => None,
        }
    }

    /// The CUDA that comes with it, major and minor; `None` for a release that is not known.
    pub fn cuda(self) -> Option<(u32, u32)> {
        match (self.major, self.minor) {
            (35, 2..=6) => Some((11, 4)),
            (36, 4..=5) => Some((12, 6)),
            (38, 2 | 4) => Some((13, 0)),
            (39, 2) => Some((13, 2)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(model: &str, compatible: &[&str]) -> Board {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("model"), format!("{model}\0")).unwrap();
        let names: String = compatible.iter().map(|name| format!("{name}\0")).collect();
        std::fs::write(root.path().join("compatible"), names).unwrap();
        detect(root.path())
    }

    #[test]
    fn boards_are_known_by_their_module() {
        let nano = tree(
            "NVIDIA Jetson Orin Nano Developer Kit",
            &["nvidia,p3768-0000+p3767-0005", "nvidia,p3767-0005", "nvidia,tegra234"],
        );
        assert_eq!(nano.profile.map(|profile| profile.id), Some("orin-nano-8gb"));
        assert_eq!(nano.elements().encoders_h264[0].element, "x264enc");
        let carrier_only = tree("", &["nvidia,p3737-0000+p3701-0005", "nvidia,tegra234"]);
        assert_eq!(carrier_only.profile.map(|profile| profile.id), Some("agx-orin-64gb"));
        let pi = tree("Raspberry Pi 5 Model B Rev 1.0", &["raspberrypi,5-model-b", "brcm,bcm2712"]);
        assert_eq!((pi.family, pi.name()), (Family::RaspberryPi5, "Raspberry Pi 5"));
        let rock = tree("Radxa ROCK 5B", &["radxa,rock-5b", "rockchip,rk3588"]);
        assert_eq!(rock.profile.map(|profile| profile.id), Some("rk3588"));
        let thor = tree(
            "NVIDIA Jetson AGX Thor Developer Kit",
            &["nvidia,p3971-0089+p3834-0008", "nvidia,tegra264"],
        );
        assert_eq!(thor.profile.map(|profile| profile.id), Some("thor-t5000"));
    }

    #[test]
    fn an_unknown_board_keeps_its_family() {
        let orin = tree("Some Orin", &["maker,board+p3767-9999", "nvidia,tegra234"]);
        assert_eq!((orin.family, orin.profile, orin.name()), (Family::JetsonOrin, None, "Some Orin"));
        assert_eq!(orin.elements().decoders_h264[0], "nvv4l2decoder");
        let none = detect(Path::new("/no/device-tree"));
        assert_eq!((none.family, none.name()), (Family::Generic, "generic computer"));
    }

    #[test]
    fn releases_of_jetson_linux() {
        let line =
            "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8";
        let release = L4t::parse(line).unwrap();
        assert_eq!(release, L4t { major: 36, minor: 4, patch: 3 });
        assert_eq!((release.tensorrt(), release.cuda()), (Some((10, 3)), Some((12, 6))));
        assert_eq!(L4t::parse("# R99 (release), REVISION: 1, X").and_then(L4t::tensorrt), None);
        assert_eq!(L4t::parse("Debian"), None);
    }
}
