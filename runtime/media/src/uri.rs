//! Names of sources: what a user writes after `--source`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use url::Url;

use crate::Error;

const EXAMPLES: &str = "expected test://, file:///path, rtsp://host/path, v4l2:///dev/video0, csi://0, or a GStreamer \
                        description with \" ! \" in it";

/// Where pictures come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceUri {
    /// A generated scene, live: `test://?seed=1&fps=30000/1001&size=640x480&seconds=30`, each part optional.
    Test {
        /// Which scene.
        seed: u64,
        /// Frames a second, numerator and denominator; 30.
        rate: (u32, u32),
        /// Width and height of the camera in pixels; the model's.
        size: Option<(usize, usize)>,
        /// When the scene ends; never.
        seconds: Option<u32>,
    },
    /// A film: `file:///films/a.mp4`, or the path alone.
    File(PathBuf),
    /// A network camera: `rtsp://user:password@host/path` by TCP, `rtspu://` by UDP, `rtsps://` encrypted.
    Rtsp(Url),
    /// A camera of the kernel's: `v4l2:///dev/video0`.
    V4l2(PathBuf),
    /// A camera at the board's own connector: `csi://0`.
    Csi(u32),
    /// A GStreamer pipeline description without its sink: `videotestsrc is-live=true ! video/x-raw,width=320`.
    Pipeline(String),
}

impl FromStr for SourceUri {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let fail = |why: String| Error::Uri { uri: hide_password(text), why };
        let text = text.trim();
        if text.contains(" ! ") {
            return Ok(SourceUri::Pipeline(text.to_owned()));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return match text {
                "" => Err(fail(format!("it is empty; {EXAMPLES}"))),
                _ if std::path::Path::new(text).exists() => Ok(SourceUri::File(text.into())),
                _ => Err(fail(format!("neither an existing file nor a URI; {EXAMPLES}"))),
            };
        };
        match scheme {
            "test" => parse_test(rest).map_err(fail),
            "file" => {
                let url = Url::parse(text).map_err(|err| fail(err.to_string()))?;
                let path = url.to_file_path();
                path.map(SourceUri::File)
                    .map_err(|()| fail("expected file:///path, with three slashes".into()))
            }
            "rtsp" | "rtsps" | "rtspt" | "rtspu" => {
                let url = Url::parse(text).map_err(|err| fail(err.to_string()))?;
                match url.host_str() {
                    Some(host) if !host.is_empty() => Ok(SourceUri::Rtsp(url)),
                    _ => Err(fail(format!("expected {scheme}://host/path, it names no host"))),
                }
            }
            "v4l2" if rest.starts_with('/') => Ok(SourceUri::V4l2(rest.into())),
            "v4l2" => Err(fail("expected v4l2:///dev/video0, with three slashes".into())),
            "csi" => rest
                .parse()
                .map(SourceUri::Csi)
                .map_err(|_| fail("expected csi://0, the sensor's number".into())),
            _ => Err(fail(format!("the scheme {scheme:?} is not known; {EXAMPLES}"))),
        }
    }
}

fn parse_test(rest: &str) -> Result<SourceUri, String> {
    let (mut seed, mut rate, mut size, mut seconds) = (1, (30, 1), None, None);
    let query = rest.strip_prefix('/').unwrap_or(rest);
    let query = match query.strip_prefix('?') {
        Some(query) => query,
        None if query.is_empty() => "",
        None => return Err(format!("expected test://?key=value&…, found {query:?}")),
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let wrong = |expected| format!("{key}={value:?} is not {expected}");
        match key {
            "seed" => seed = value.parse().map_err(|_| wrong("a whole number"))?,
            "fps" => {
                rate = parse_rate(value)
                    .ok_or_else(|| wrong("a rate like 30, 12.5 or 30000/1001, up to 1000"))?;
            }
            "size" => size = Some(parse_size(value).ok_or_else(|| wrong("a size like 640x480, up to 8192"))?),
            "seconds" => seconds = Some(value.parse().map_err(|_| wrong("a whole number of seconds"))?),
            _ => return Err(format!("{key:?} is none of seed, fps, size, seconds")),
        }
    }
    Ok(SourceUri::Test { seed, rate, size, seconds })
}

fn parse_rate(text: &str) -> Option<(u32, u32)> {
    let rate = match (text.split_once('/'), text.split_once('.')) {
        (Some((numerator, denominator)), _) => (numerator.parse().ok()?, denominator.parse().ok()?),
        (None, Some((_, decimals))) => {
            let scale = 10_u32.checked_pow(u32::try_from(decimals.len()).ok()?)?;
            (text.replacen('.', "", 1).parse().ok()?, scale)
        }
        (None, None) => (text.parse().ok()?, 1),
    };
    let (numerator, denominator) = (u64::from(rate.0), u64::from(rate.1));
    let bounded = numerator > 0 && denominator > 0 && numerator <= 1000 * denominator;
    bounded.then_some(rate)
}

fn parse_size(text: &str) -> Option<(usize, usize)> {
    let (width, height) = text.split_once('x')?;
    let size: (usize, usize) = (width.parse().ok()?, height.parse().ok()?);
    ((1..=8192).contains(&size.0) && (1..=8192).contains(&size.1)).then_some(size)
}

impl fmt::Display for SourceUri {
    /// The URI again, without its password: it goes to logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceUri::Test { seed, rate, size, seconds } => {
                write!(f, "test://?seed={seed}&fps={}", rate.0)?;
                if rate.1 != 1 {
                    write!(f, "/{}", rate.1)?;
                }
                if let Some((width, height)) = size {
                    write!(f, "&size={width}x{height}")?;
                }
                seconds.map_or(Ok(()), |seconds| write!(f, "&seconds={seconds}"))
            }
            SourceUri::File(path) => match Url::from_file_path(path) {
                Ok(url) => write!(f, "{url}"),
                Err(()) => write!(f, "{}", path.display()),
            },
            SourceUri::Rtsp(url) => f.write_str(&hide_password(url.as_str())),
            SourceUri::V4l2(path) => write!(f, "v4l2://{}", path.display()),
            SourceUri::Csi(sensor) => write!(f, "csi://{sensor}"),
            SourceUri::Pipeline(description) => f.write_str(description),
        }
    }
}

/// `rtsp://user:secret@host` as `rtsp://user:***@host`, also where the rest is no URL.
pub(crate) fn hide_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    match authority.rsplit_once('@').and_then(|(user, host)| Some((user.split_once(':')?.0, host))) {
        Some((user, host)) => format!("{scheme}://{user}:***@{host}{}", &rest[authority.len()..]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> SourceUri {
        text.parse().unwrap()
    }

    #[test]
    fn every_kind_is_known_and_printed_again() {
        for text in [
            "test://?seed=1&fps=30",
            "test://?seed=7&fps=30000/1001&size=640x480&seconds=30",
            "file:///films/a%20b.mp4",
            "rtsp://camera.local:554/stream?channel=1",
            "v4l2:///dev/video0",
            "csi://2",
            "videotestsrc is-live=true ! video/x-raw,width=320",
        ] {
            assert_eq!(parse(text).to_string(), text);
        }
        assert_eq!(parse("file:///films/a%20b.mp4"), SourceUri::File("/films/a b.mp4".into()));
        assert_eq!(parse("test://"), parse("test://?seed=1&fps=30/1"));
        assert_eq!(
            parse("test://?fps=12.5"),
            SourceUri::Test { seed: 1, rate: (125, 10), size: None, seconds: None }
        );
    }

    #[test]
    fn faults_say_what_would_be_right() {
        for (text, says) in [
            ("", "empty"),
            ("/no/such/film.mp4", "neither an existing file"),
            ("file://films/a.mp4", "three slashes"),
            ("rtsp:///path", "host"),
            ("http://host/a.mp4", "\"http\" is not known"),
            ("v4l2://dev/video0", "three slashes"),
            ("csi://left", "sensor's number"),
            ("test://?sede=1", "\"sede\" is none of"),
            ("test://?fps=0", "fps=\"0\""),
            ("test://?size=640", "640x480"),
            ("test://seed=1", "expected test://?"),
        ] {
            let error = text.parse::<SourceUri>().unwrap_err().to_string();
            assert!(error.contains(says), "{text:?}: {error}");
            assert!(!error.contains('\n'));
        }
    }

    #[test]
    fn passwords_stay_hidden() {
        let uri = parse("rtsp://admin:s3cr@t@10.0.0.2/a?b#c");
        assert_eq!(uri.to_string(), "rtsp://admin:***@10.0.0.2/a?b#c");
        let error = "rtspx://admin:s3cret@10.0.0.2/a".parse::<SourceUri>().unwrap_err().to_string();
        assert!(!error.contains("s3cret"), "{error}");
    }
}
