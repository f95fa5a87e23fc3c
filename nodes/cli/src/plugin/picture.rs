//! Curves as a PNG. plotters draws into memory, pixel by pixel; glyphs are 8 × 8 pixels, so that no font file is
//! needed.

use std::convert::Infallible;

use eyre::{Context, Result};
use font8x8::{BASIC_FONTS, GREEK_FONTS, LATIN_FONTS, UnicodeFonts};
use plotters::prelude::{DrawingBackend, IntoDrawingArea};
use plotters_backend::text_anchor::{HPos, VPos};
use plotters_backend::{BackendColor, BackendCoord, BackendTextStyle, DrawingErrorKind};
use png::{BitDepth, ColorType, Encoder, EncodingError};

use crate::plugin::plot::{Curve, draw, size};

/// The curves below each other as a PNG file.
///
/// # Errors
/// When plotters cannot draw.
pub fn png(title: &str, curves: &[Curve]) -> Result<Vec<u8>> {
    let size = size(curves);
    let mut pixels = vec![0; (size.0 * size.1 * 3) as usize];
    draw(&Canvas { pixels: &mut pixels, size }.into_drawing_area(), title, curves)?;
    encode(size, &pixels).context("cannot write a PNG")
}

/// RGB in rows.
struct Canvas<'a> {
    pixels: &'a mut [u8],
    size: (u32, u32),
}

/// Dots of a letter, by its size in pixels.
fn scale(style: &impl BackendTextStyle) -> i32 {
    ((style.size() / 10.0).round() as i32).max(1)
}

type Drawn = Result<(), DrawingErrorKind<Infallible>>;

impl DrawingBackend for Canvas<'_> {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        self.size
    }

    fn ensure_prepared(&mut self) -> Drawn {
        Ok(())
    }

    fn present(&mut self) -> Drawn {
        Ok(())
    }

    fn draw_pixel(&mut self, (x, y): BackendCoord, color: BackendColor) -> Drawn {
        let (width, height) = (self.size.0 as i32, self.size.1 as i32);
        if (0..width).contains(&x) && (0..height).contains(&y) {
            let at = (y * width + x) as usize * 3;
            let (r, g, b) = color.rgb;
            for (old, new) in self.pixels[at..at + 3].iter_mut().zip([r, g, b]) {
                *old = (f64::from(*old) * (1.0 - color.alpha) + f64::from(new) * color.alpha).round() as u8;
            }
        }
        Ok(())
    }

    fn draw_text<S: BackendTextStyle>(&mut self, text: &str, style: &S, at: BackendCoord) -> Drawn {
        let (scale, anchor) = (scale(style), style.anchor());
        let (width, height) = (text.chars().count() as i32 * 8 * scale, 8 * scale);
        let left = at.0
            - match anchor.h_pos {
                HPos::Left => 0,
                HPos::Center => width / 2,
                HPos::Right => width,
            };
        let top = at.1
            - match anchor.v_pos {
                VPos::Top => 0,
                VPos::Center => height / 2,
                VPos::Bottom => height,
            };
        for (number, letter) in (0..).zip(text.chars()) {
            for (row, bits) in (0..).zip(dots(letter)) {
                for column in (0..8).filter(|column| bits >> column & 1 == 1) {
                    let (x, y) = (left + (number * 8 + column) * scale, top + row * scale);
                    for (dx, dy) in (0..scale).flat_map(|dx| (0..scale).map(move |dy| (dx, dy))) {
                        self.draw_pixel((x + dx, y + dy), style.color())?;
                    }
                }
            }
        }
        Ok(())
    }

    fn estimate_text_size<S: BackendTextStyle>(
        &self,
        text: &str,
        style: &S,
    ) -> Result<(u32, u32), DrawingErrorKind<Infallible>> {
        let scale = scale(style) as u32;
        Ok((text.chars().count() as u32 * 8 * scale, 8 * scale))
    }
}

/// Rows of a letter, the lowest bit left.
fn dots(letter: char) -> [u8; 8] {
    let found = BASIC_FONTS.get(letter).or_else(|| LATIN_FONTS.get(letter)).or_else(|| GREEK_FONTS.get(letter));
    found.or_else(|| BASIC_FONTS.get('?')).unwrap_or_default()
}

fn encode((width, height): (u32, u32), pixels: &[u8]) -> Result<Vec<u8>, EncodingError> {
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, width, height);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    encoder.write_header()?.write_image_data(pixels)?;
    Ok(file)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// The size and the pixels of a PNG.
    fn decode(file: &[u8]) -> ((u32, u32), Vec<u8>) {
        let mut reader = png::Decoder::new(Cursor::new(file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.color_type, info.bit_depth), (ColorType::Rgb, BitDepth::Eight));
        ((info.width, info.height), pixels)
    }

    #[test]
    fn the_png_shows_a_falling_line_in_blue_and_its_name_in_black() {
        let points = (0..=100).map(|i| (f64::from(i) / 100.0, 1.0 - f64::from(i) / 100.0)).collect();
        let curve = Curve { name: "α(t)".into(), x: "t".into(), points };
        let ((width, height), pixels) = decode(&png("Linear", &[curve]).unwrap());
        assert_eq!((width, height), (640, 300));
        let places = |wanted: fn(&[u8]) -> bool| -> Vec<(usize, usize)> {
            let found = pixels.chunks(3).enumerate().filter(|(_, rgb)| wanted(rgb));
            found.map(|(at, _)| (at % width as usize, at / width as usize)).collect()
        };
        let line = places(|rgb| rgb == [31, 95, 191]);
        let (first, last) = (line.iter().min().unwrap(), line.iter().max().unwrap());
        assert!(
            line.len() > 500 && first.0 < 100 && first.1 < 60 && last.0 > 580 && last.1 > 220,
            "{first:?} {last:?}"
        );
        assert!(places(|rgb| rgb == [0, 0, 0]).iter().any(|&(_, y)| y < 30), "no title");
    }
}
