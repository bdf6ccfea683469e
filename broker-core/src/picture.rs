//! Images, scaled down to what a model can use.
//!
//! An image that somebody posted is anybody's bytes. It is decoded within limits on its pixels and on memory, and written anew:
//! what reaches the agent is an image that can be read in any case. One that could not would stay in the agent's history, and
//! every later turn would fail on it.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

/// The longest side of an image as the agent gets it, in pixels.
pub const LONGEST_SIDE: u32 = 2048;
/// The most pixels of an image that is decoded: a photograph of 50 megapixels.
pub const MAX_PIXELS: u64 = 50_000_000;
/// The most memory that a decoded image may take, in bytes: three of them for each pixel. One with more for each, for
/// transparency or finer colours, may have fewer pixels.
pub const MAX_DECODED: u64 = 3 * MAX_PIXELS;
/// The most pixels of a progressive JPEG or an animated WebP: their decoders keep two or three times the image until its first
/// picture is there.
pub const MAX_COSTLY_PIXELS: u64 = 16_000_000;
/// The largest file of a format whose decoder reads it as a whole, in bytes.
pub const MAX_ENCODED: u64 = 48 * 1024 * 1024;
/// The most memory that a decoder may take beside what it decodes, as far as it keeps account of that, in bytes.
const MAX_WORK: u64 = 64 * 1024 * 1024;
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
/// When it is too large, cannot be read, or the copy cannot be written. Nothing is left of the copy then.
pub fn scale(file: File, format: ImageFormat, stem: &Path) -> Result<&'static str, PictureError> {
    let image = decode(file, format)?;
    let photograph = format == ImageFormat::Jpeg;
    let ending = if photograph { "jpg" } else { "png" };
    let (target, part) = (with_ending(stem, ending), with_ending(stem, "part"));
    let written = write(image, photograph, &part).and_then(|()| Ok(std::fs::rename(&part, &target)?));
    if written.is_err() {
        // What cannot be removed is written over by the next try.
        let _ = std::fs::remove_file(&part);
    }
    written.map(|()| ending)
}

fn write(image: DynamicImage, photograph: bool, to: &Path) -> Result<(), PictureError> {
    let mut out = BufWriter::new(File::create(to)?);
    let written = if photograph {
        DynamicImage::ImageRgb8(image.into_rgb8())
            .write_with_encoder(JpegEncoder::new_with_quality(&mut out, JPEG_QUALITY))
    } else if image.color().has_alpha() {
        DynamicImage::ImageRgba8(image.into_rgba8()).write_with_encoder(PngEncoder::new(&mut out))
    } else {
        DynamicImage::ImageRgb8(image.into_rgb8()).write_with_encoder(PngEncoder::new(&mut out))
    };
    written.map_err(told)?;
    Ok(out.flush()?)
}

fn with_ending(stem: &Path, ending: &str) -> std::path::PathBuf {
    let mut name = stem.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

/// Decodes the first picture of a file, turned the right way up and scaled.
fn decode(mut file: File, format: ImageFormat) -> Result<DynamicImage, PictureError> {
    let read_whole = matches!(format, ImageFormat::Jpeg | ImageFormat::WebP);
    if read_whole && file.metadata()?.len() > MAX_ENCODED {
        return Err(PictureError::TooLarge);
    }
    let costly = match format {
        ImageFormat::Jpeg => is_progressive(&mut file)?,
        ImageFormat::WebP => is_animated(&mut file)?,
        _ => false,
    };
    let most = if costly { MAX_COSTLY_PIXELS } else { MAX_PIXELS };
    let mut limits = Limits::no_limits();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODED + MAX_WORK);
    let mut reader = ImageReader::with_format(BufReader::new(file), format);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder().map_err(told)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > most || decoder.total_bytes() > MAX_DECODED {
        return Err(PictureError::TooLarge);
    }
    limits.reserve(decoder.total_bytes()).map_err(told)?;
    decoder.set_limits(limits).map_err(told)?;
    let orientation = decoder.orientation().ok();
    let mut image = DynamicImage::from_decoder(decoder).map_err(told)?;
    if width.max(height) > LONGEST_SIDE {
        image = scaled_down(image);
    }
    if let Some(orientation) = orientation {
        image.apply_orientation(orientation);
    }
    Ok(image)
}

/// Averages what falls together. A filter would make a copy in floating point first, larger than the image.
fn scaled_down(image: DynamicImage) -> DynamicImage {
    let small = |image: DynamicImage| image.thumbnail(LONGEST_SIDE, LONGEST_SIDE);
    let mut pixels = match image {
        DynamicImage::ImageRgba8(pixels) => pixels,
        // It is written with eight bits in any case, and that is half of it.
        image @ DynamicImage::ImageRgba16(_) => image.into_rgba8(),
        image => return small(image),
    };
    // A colour counts by how much of it is seen: what stands where all is transparent would darken the edges.
    let weighted = |colour: u8, alpha: u8| ((u16::from(colour) * u16::from(alpha) + 127) / 255) as u8;
    for image::Rgba([r, g, b, a]) in pixels.pixels_mut() {
        (*r, *g, *b) = (weighted(*r, *a), weighted(*g, *a), weighted(*b, *a));
    }
    let mut pixels = small(DynamicImage::ImageRgba8(pixels)).into_rgba8();
    let plain = |colour: u8, alpha: u8| {
        let alpha = u16::from(alpha.max(1));
        ((u16::from(colour) * 255 + alpha / 2) / alpha).min(255) as u8
    };
    for image::Rgba([r, g, b, a]) in pixels.pixels_mut() {
        (*r, *g, *b) = (plain(*r, *a), plain(*g, *a), plain(*b, *a));
    }
    DynamicImage::ImageRgba8(pixels)
}

/// Whether a JPEG is progressive, or may be: what its frame headers say, up to the first scan (ITU-T T.81, B.1.1). The file is
/// left at its start.
fn is_progressive(file: &mut File) -> io::Result<bool> {
    let mut segments = BufReader::new(&mut *file);
    segments.seek(SeekFrom::Start(2))?;
    let sequential = only_sequential(&mut segments);
    file.seek(SeekFrom::Start(0))?;
    match sequential {
        Ok(sequential) => Ok(!sequential),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(true),
        Err(error) => Err(error),
    }
}

/// Whether all is well up to the first scan and no frame is a progressive one: what stands where no marker should be is read
/// by each decoder in its own way.
fn only_sequential(segments: &mut (impl Read + Seek)) -> io::Result<bool> {
    let mut frames = 0;
    loop {
        let [lead, mut marker] = bytes(segments)?;
        // Any number of these may stand before a marker.
        while marker == 0xFF {
            [marker] = bytes(segments)?;
        }
        match (lead, marker) {
            (0xFF, 0xDA) => return Ok(frames == 1),
            (0xFF, 0xC0 | 0xC1) => frames += 1,
            // Tables, what applications say, comments, restart intervals.
            (0xFF, 0xC4 | 0xDB | 0xDD | 0xE0..=0xEF | 0xFE) => {}
            _ => return Ok(false),
        }
        let length = u16::from_be_bytes(bytes(segments)?);
        let Some(rest) = length.checked_sub(2) else { return Ok(false) };
        segments.seek_relative(i64::from(rest))?;
    }
}

/// Whether a WebP is animated: what the flags of its extended header say
/// (<https://developers.google.com/speed/webp/docs/riff_container#extended_file_format>). The file is left at its start.
fn is_animated(file: &mut File) -> io::Result<bool> {
    let mut head = Vec::new();
    (&mut *file).take(21).read_to_end(&mut head)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(head.get(12..16) == Some(b"VP8X") && head.get(20).is_some_and(|flags| flags & 2 != 0))
}

fn bytes<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
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

    /// The frame header of a JPEG: where it is, with its marker first.
    fn frame(bytes: &[u8]) -> usize {
        bytes.windows(2).position(|two| two == [0xFF, 0xC0]).unwrap()
    }

    /// A JPEG with an orientation (Exif 2.32, 4.6.4, tag 0x0112).
    fn turned(bytes: &[u8], orientation: u8) -> Vec<u8> {
        let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
        exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
        let length = u16::try_from(exif.len() + 2).unwrap().to_be_bytes();
        [&bytes[..2], &[0xFF, 0xE1], &length, &exif, &bytes[2..]].concat()
    }

    fn copy_of(bytes: &[u8]) -> DynamicImage {
        let (folder, mut file) = with(bytes);
        let format = format(&mut file).unwrap().expect("an image");
        let ending = scale(file, format, &folder.path().join("copy")).unwrap();
        image::open(folder.path().join(format!("copy.{ending}"))).unwrap()
    }

    #[test]
    fn an_image_stands_as_its_camera_was_held() {
        // Its left half is red.
        let picture =
            image::RgbImage::from_fn(3000, 1000, |x, _| image::Rgb(if x < 1500 { [250, 0, 0] } else { [0; 3] }));
        let mut bytes = io::Cursor::new(Vec::new());
        DynamicImage::ImageRgb8(picture).write_to(&mut bytes, ImageFormat::Jpeg).unwrap();
        let bytes = bytes.into_inner();
        // 6: turned by a quarter to the right; 3: by a half; 5: turned and mirrored; 9: there is no such.
        for (orientation, size, red) in [
            (1, (2048, 683), (10, 10)),
            (6, (683, 2048), (10, 10)),
            (3, (2048, 683), (2000, 10)),
            (8, (683, 2048), (10, 2000)),
            (9, (2048, 683), (10, 10)),
        ] {
            let copy = copy_of(&turned(&bytes, orientation)).into_rgb8();
            assert_eq!(copy.dimensions(), size, "{orientation}");
            assert!(copy.get_pixel(red.0, red.1)[0] > 200, "{orientation}");
            assert!(copy.pixels().any(|pixel| pixel[0] < 50));
        }
    }

    #[test]
    fn what_a_camera_says_of_itself_does_not_go_along() {
        let bytes = turned(&encoded(16, 16, ImageFormat::Jpeg), 1);
        let says = |bytes: &[u8]| bytes.windows(4).any(|window| window == b"Exif");
        assert!(says(&bytes), "where it was stands there as well");
        let (folder, file) = with(&bytes);
        scale(file, ImageFormat::Jpeg, &folder.path().join("copy")).unwrap();
        assert!(!says(&std::fs::read(folder.path().join("copy.jpg")).unwrap()));
    }

    #[test]
    fn transparency_stays_and_of_what_moves_the_first_picture_is_shown() {
        let glass = image::RgbaImage::from_pixel(2500, 10, image::Rgba([10, 200, 30, 128]));
        let mut bytes = io::Cursor::new(Vec::new());
        DynamicImage::ImageRgba8(glass).write_to(&mut bytes, ImageFormat::Png).unwrap();
        assert_eq!(copy_of(bytes.get_ref()).into_rgba8().get_pixel(5, 5).0, [10, 199, 30, 128], "but for rounding");

        // White lines on nothing stay white, whatever colour the nothing has.
        let lines = |x, _| image::Rgba(if x % 2 == 0 { [255; 4] } else { [0; 4] });
        for logo in [
            DynamicImage::ImageRgba8(image::RgbaImage::from_fn(4096, 8, lines)),
            DynamicImage::ImageRgba16(
                DynamicImage::ImageRgba8(image::RgbaImage::from_fn(4096, 8, lines)).into_rgba16(),
            ),
        ] {
            let mut bytes = io::Cursor::new(Vec::new());
            logo.write_to(&mut bytes, ImageFormat::Png).unwrap();
            let [r, g, b, a] = copy_of(bytes.get_ref()).into_rgba8().get_pixel(5, 2).0;
            assert!(r.min(g).min(b) >= 254 && (126..=129).contains(&a), "{:?}", [r, g, b, a]);
        }

        let fine = image::ImageBuffer::<image::Rgb<u16>, _>::from_pixel(20, 10, image::Rgb([0xFFFF, 0x8000, 0]));
        let mut bytes = io::Cursor::new(Vec::new());
        DynamicImage::ImageRgb16(fine).write_to(&mut bytes, ImageFormat::Png).unwrap();
        assert_eq!(copy_of(bytes.get_ref()).into_rgb8().get_pixel(5, 5).0, [255, 128, 0]);

        let mut bytes = Vec::new();
        let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
        for colour in [[255, 0, 0, 255], [0, 0, 255, 255]] {
            encoder.encode_frame(image::Frame::new(image::RgbaImage::from_pixel(8, 8, image::Rgba(colour)))).unwrap();
        }
        drop(encoder);
        assert_eq!(copy_of(&bytes).into_rgb8().get_pixel(4, 4).0, [255, 0, 0]);
    }

    /// It takes three times the memory of a sequential one.
    #[test]
    fn a_progressive_jpeg_may_have_fewer_pixels() {
        let mut bytes = encoded(16, 16, ImageFormat::Jpeg);
        let at = frame(&bytes);
        let mut sized = |marker: u8, side: u16| {
            bytes[at + 1] = marker;
            bytes[at + 5..at + 7].copy_from_slice(&side.to_be_bytes());
            bytes[at + 7..at + 9].copy_from_slice(&side.to_be_bytes());
            let (_folder, mut file) = with(&bytes);
            let progressive = is_progressive(&mut file).unwrap();
            (progressive, scaled(&bytes))
        };
        assert!(matches!(sized(0xC2, 5000), (true, Err(PictureError::TooLarge))));
        assert!(matches!(sized(0xC0, 16), (false, Ok((16, 16, "jpg")))));
        assert!(matches!(sized(0xC0, 8000), (false, Err(PictureError::TooLarge))));
        // What the decoders may read in different ways is not taken for sequential.
        let whole = encoded(16, 16, ImageFormat::Jpeg);
        let second = &whole[frame(&whole)..frame(&whole) + 19];
        for odd in [
            [&whole[..2], b"x", &whole[2..]].concat(),
            [&whole[..2], &[0xFF, 0xFE, 0, 1], &whole[2..]].concat(),
            [&whole[..2], second, &whole[2..]].concat(),
            whole[..frame(&whole)].to_vec(),
        ] {
            assert!(is_progressive(&mut with(&odd).1).unwrap());
        }
        let filled = [&whole[..2], &[0xFF, 0xFF, 0xFF, 0xFE, 0, 3, b'x'], &whole[2..]].concat();
        assert!(!is_progressive(&mut with(&filled).1).unwrap());
    }

    #[test]
    fn an_animated_webp_is_known() {
        let mut bytes = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0".to_vec();
        assert!(is_animated(&mut with(&bytes).1).unwrap());
        bytes[20] = 0x10;
        assert!(!is_animated(&mut with(&bytes).1).unwrap());
        assert!(!is_animated(&mut with(&encoded(3, 3, ImageFormat::WebP)).1).unwrap());
    }

    #[test]
    fn a_copy_that_cannot_be_written_leaves_nothing() {
        let (folder, mut file) = with(&encoded(30, 30, ImageFormat::Png));
        let format = format(&mut file).unwrap().expect("an image");
        // Something stands in its place that no file is put upon.
        std::fs::create_dir_all(folder.path().join("copy.png/full")).unwrap();
        let failed = scale(file, format, &folder.path().join("copy"));
        assert!(matches!(failed, Err(PictureError::Io(_))), "{failed:?}");
        assert!(!folder.path().join("copy.part").exists());
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
