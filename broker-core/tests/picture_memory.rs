#![forbid(unsafe_code)]
//! What it takes to scale an image, in a process of its own.
//!
//! `BROKER_PICTURE=<path> cargo test --release -p broker-core --test picture_memory -- --nocapture` prints it for a file.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::fs::File;
use std::path::Path;

use broker_core::picture;
use image::{DynamicImage, ImageFormat};

/// The most that one image may take beside the process itself, in KiB.
const MOST_KIB: u64 = 240 * 1024;

fn status(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let found = status.lines().find_map(|found| found.strip_prefix(line)).unwrap();
    found.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

/// By how much the memory of this process grows at most while an image is scaled, in KiB.
fn growth(path: &Path) -> u64 {
    // From here on the peak is counted anew (proc(5), `clear_refs`).
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS:");
    let mut file = File::open(path).unwrap();
    let format = picture::format(&mut file).unwrap().unwrap();
    let result = picture::scale(file, format, &path.with_extension("copy"));
    let grown = status("VmHWM:").saturating_sub(before);
    println!("{}: {result:?}, {} MiB more", path.file_name().unwrap().display(), grown / 1024);
    grown
}

#[test]
fn the_largest_images_take_their_pixels_and_little_more() {
    if let Some(path) = std::env::var_os("BROKER_PICTURE") {
        growth(Path::new(&path));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (name, picture, format) in [
        ("largest.png", DynamicImage::new_rgb8(10_000, 5_000), ImageFormat::Png),
        ("largest.jpg", DynamicImage::new_rgb8(10_000, 5_000), ImageFormat::Jpeg),
        ("clear.png", DynamicImage::new_rgba8(7_500, 5_000), ImageFormat::Png),
        ("fine.png", DynamicImage::new_rgb16(5_000, 5_000), ImageFormat::Png),
    ] {
        let path = folder.path().join(name);
        picture.save_with_format(&path, format).unwrap();
        drop(picture);
        let grown = growth(&path);
        assert!(grown < MOST_KIB, "{name}: {} MiB", grown / 1024);
    }
}
