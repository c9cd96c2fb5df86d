//! SVG pages with pixels as images inside them.

use anyhow::Result;
use base64::{Engine as _, engine::general_purpose::STANDARD};

/// A PNG of rows of pixels.
///
/// # Errors
/// The pixels are no whole rows.
pub fn png(pixels: &[[u8; 3]], width: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, (pixels.len() / width) as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::High);
    encoder.write_header()?.write_image_data(pixels.as_flattened())?;
    Ok(bytes)
}

/// An image of an SVG: where its left upper corner is, how wide and how high, with every pixel seen.
pub fn image([x, y, width, height]: [usize; 4], png: &[u8]) -> String {
    let data = STANDARD.encode(png);
    format!(
        "<image x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" preserveAspectRatio=\"none\" \
         style=\"image-rendering:pixelated\" href=\"data:image/png;base64,{data}\"/>"
    )
}

/// The beginning of a white page of so many pixels; `</svg>` ends it.
pub fn page(width: usize, height: usize, font_size: usize) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"{font_size}\" fill=\"#282828\"><rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n"
    )
}
