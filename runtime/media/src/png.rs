//! Pictures in PNG files.

use std::path::Path;

use image::{DynamicImage, ImageFormat, RgbImage};

use crate::{Error, Picture};

/// Writes a picture, (height, width, 3) RGB, as PNG; missing folders are made.
pub fn save_png(path: impl AsRef<Path>, picture: &Picture) -> Result<(), Error> {
    let path = path.as_ref();
    let fail = |source| Error::Png { path: path.to_owned(), source };
    let (height, width, channels) = picture.dim();
    if channels != 3 || width == 0 || height == 0 {
        let why = "a picture has pixels, and three channels";
        return Err(Error::Size { place: path.display().to_string(), width, height, why });
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|err| fail(err.into()))?;
    }
    let pixels = picture.iter().copied().collect();
    let image = u32::try_from(width).ok().zip(u32::try_from(height).ok());
    match image.and_then(|(width, height)| RgbImage::from_raw(width, height, pixels)) {
        Some(image) => image.save_with_format(path, ImageFormat::Png).map_err(fail),
        None => {
            let why = "more than a PNG holds";
            Err(Error::Size { place: path.display().to_string(), width, height, why })
        }
    }
}

/// Reads a PNG as RGB, (height, width, 3); grey and transparent pictures are converted.
pub fn load_png(path: impl AsRef<Path>) -> Result<Picture, Error> {
    let path = path.as_ref();
    let fail = |source| Error::Png { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(|err| fail(err.into()))?;
    let image: DynamicImage = image::load(std::io::BufReader::new(file), ImageFormat::Png).map_err(fail)?;
    let image = image.into_rgb8();
    let (width, height) = (image.width() as usize, image.height() as usize);
    Picture::from_shape_vec((height, width, 3), image.into_raw()).map_err(|_| {
        let why = "the file's pixels do not fill it";
        Error::Size { place: path.display().to_string(), width, height, why }
    })
}
