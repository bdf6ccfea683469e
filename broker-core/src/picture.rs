//! Images, scaled down to what a model can use.
//!
//! An image that somebody posted is anybody's bytes. It is decoded within limits on its pixels and on memory, and written anew:
//! what reaches the agent is an image that can be read in any case. One that could not would stay in the agent's history, and
//! every later turn would fail on it.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::imageops::FilterType;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

/// The longest side of an image as the agent gets it, in pixels.
pub const LONGEST_SIDE: u32 = 2048;
/// The most pixels of an image that is decoded: a photograph of 50 megapixels.
pub const MAX_PIXELS: u64 = 50_000_000;
/// The most memory that a decoder may take, in bytes: four of them for each pixel, and something to work with.
pub const MAX_MEMORY: u64 = 256 * 1024 * 1024;
/// The longest side of an image that is looked at: more is a mistake or an attack.
const MAX_SIDE: u32 = 30_000;
const JPEG_QUALITY: u8 = 88;

/// Why an image cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// It has more pixels than are decoded, or would take more memory.
    #[error("it is too large to be shown as an image")]
    TooLarge,
    /// It is damaged, or of a kind that is not read.
    #[error("it cannot be read as an image")]
    Unreadable,
    /// The copy could not be written.
    #[error("its copy could not be written: {0}")]
    Io(#[from] io::Error),
}

/// The format of an image, by its first bytes; absent for what is no image that can be shown. The file is left at its start.
///
/// # Errors
///
/// When it cannot be read.
pub fn format(file: &mut File) -> io::Result<Option<ImageFormat>> {
    use std::io::Read;
    let mut head = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(64).read_to_end(&mut head)?;
    file.seek(SeekFrom::Start(0))?;
    let shown = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::WebP];
    Ok(image::guess_format(&head).ok().filter(|format| shown.contains(format)))
}

/// Writes an image, at most [`LONGEST_SIDE`] long, to `stem` with the ending of its new format; returns that ending. Blocks,
/// and takes memory: one at a time.
///
/// # Errors
///
/// When it is too large, cannot be read, or the copy cannot be written.
pub fn scale(file: File, format: ImageFormat, stem: &Path) -> Result<&'static str, PictureError> {
    let image = decode(file, format)?;
    let photograph = format == ImageFormat::Jpeg;
    let ending = if photograph { "jpg" } else { "png" };
    let target = with_ending(stem, ending);
    let part = with_ending(stem, "part");
    let mut out = BufWriter::new(File::create(&part)?);
    let written = if photograph {
        DynamicImage::ImageRgb8(image.into_rgb8())
            .write_with_encoder(JpegEncoder::new_with_quality(&mut out, JPEG_QUALITY))
    } else if image.color().has_alpha() {
        DynamicImage::ImageRgba8(image.into_rgba8()).write_with_encoder(PngEncoder::new(&mut out))
    } else {
        DynamicImage::ImageRgb8(image.into_rgb8()).write_with_encoder(PngEncoder::new(&mut out))
    };
    written.map_err(told)?;
    out.flush()?;
    std::fs::rename(&part, &target)?;
    Ok(ending)
}

fn with_ending(stem: &Path, ending: &str) -> std::path::PathBuf {
    let mut name = stem.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

/// Decodes the first picture of a file, turned the right way up and scaled.
fn decode(file: File, format: ImageFormat) -> Result<DynamicImage, PictureError> {
    let mut limits = Limits::no_limits();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_MEMORY);
    let mut reader = ImageReader::with_format(BufReader::new(file), format);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder().map_err(told)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS || decoder.total_bytes() > MAX_MEMORY {
        return Err(PictureError::TooLarge);
    }
    limits.reserve(decoder.total_bytes()).map_err(told)?;
    decoder.set_limits(limits).map_err(told)?;
    let orientation = decoder.orientation().ok();
    let mut image = DynamicImage::from_decoder(decoder).map_err(told)?;
    if width.max(height) > LONGEST_SIDE {
        image = image.resize(LONGEST_SIDE, LONGEST_SIDE, FilterType::CatmullRom);
    }
    if let Some(orientation) = orientation {
        image.apply_orientation(orientation);
    }
    Ok(image)
}

fn told(error: ImageError) -> PictureError {
    match error {
        ImageError::Limits(_) => PictureError::TooLarge,
        ImageError::IoError(error) if error.kind() == io::ErrorKind::StorageFull => PictureError::Io(error),
        _ => PictureError::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(bytes: &[u8]) -> (tempfile::TempDir, File) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("original");
        std::fs::write(&path, bytes).unwrap();
        let file = File::open(path).unwrap();
        (folder, file)
    }

    fn encoded(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
        let mut bytes = io::Cursor::new(Vec::new());
        let picture = image::RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 7]));
        DynamicImage::ImageRgb8(picture).write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn scaled(bytes: &[u8]) -> Result<(u32, u32, &'static str), PictureError> {
        let (folder, mut file) = with(bytes);
        let format = format(&mut file).unwrap().expect("an image");
        let ending = scale(file, format, &folder.path().join("copy"))?;
        let (width, height) = image::image_dimensions(folder.path().join(format!("copy.{ending}"))).unwrap();
        assert!(!folder.path().join("copy.part").exists());
        Ok((width, height, ending))
    }

    #[test]
    fn images_are_scaled_and_written_anew() {
        for (size, format, expected) in [
            ((3000, 1500), ImageFormat::Png, (2048, 1024, "png")),
            ((1000, 4096), ImageFormat::Jpeg, (500, 2048, "jpg")),
            ((40, 30), ImageFormat::Gif, (40, 30, "png")),
            ((40, 30), ImageFormat::WebP, (40, 30, "png")),
            ((2048, 1), ImageFormat::Png, (2048, 1, "png")),
        ] {
            assert_eq!(scaled(&encoded(size.0, size.1, format)).unwrap(), expected, "{format:?}");
        }
    }

    #[test]
    fn what_is_no_image_is_none() {
        for bytes in [&b"%PDF-1.7"[..], b"", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"BM\0\0"] {
            assert_eq!(format(&mut with(bytes).1).unwrap(), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_damaged_image_is_not_shown() {
        let whole = encoded(300, 300, ImageFormat::Png);
        assert!(matches!(scaled(&whole[..whole.len() / 2]), Err(PictureError::Unreadable)));
    }

    /// A PNG whose header promises more than any machine has: the pixels would be made of a few bytes.
    #[test]
    fn a_decompression_bomb_is_refused() {
        for (width, height) in [(30_000_u32, 30_000_u32), (60_000, 60_000), (u32::MAX / 2, 1), (10_000, 10_000)] {
            let mut bytes = encoded(1, 1, ImageFormat::Png);
            bytes[16..20].copy_from_slice(&width.to_be_bytes());
            bytes[20..24].copy_from_slice(&height.to_be_bytes());
            let crc = crc32(&bytes[12..29]);
            bytes[29..33].copy_from_slice(&crc.to_be_bytes());
            let refused = scaled(&bytes);
            assert!(matches!(refused, Err(PictureError::TooLarge)), "{width}x{height}: {refused:?}");
        }
    }

    /// The checksum of a PNG's chunk (<https://www.w3.org/TR/png-3/#5CRC-algorithm>).
    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 })
        })
    }
}
