//! Numbers as text: in tables, in files, and along the axes of pictures, however large or small
//! they are.

use std::ops::Range;

/// A number of a table: three decimals, or a power of ten where those do not show it.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size == 0.0 || (1e-2..1e5).contains(&size) => format!("{value:.3}"),
        _ => format!("{value:.2e}"),
    }
}

/// A number of a file, to a millionth of `unit`.
pub fn digits(value: f64, unit: f64) -> String {
    let decimals = 6.0 - unit.abs().log10().floor();
    if (0.0..=12.0).contains(&decimals) && value.abs() < 1e12 {
        format!("{value:.0$}", decimals as usize)
    } else {
        format!("{value:e}")
    }
}

/// A range and some more on both sides, also where it is a point.
pub fn widened(range: Range<f64>, share: f64) -> Range<f64> {
    let Range { start, end } = range;
    let margin = match share * (end - start) {
        margin if margin > 0.0 => margin,
        _ if start == 0.0 => 1.0,
        _ => 1e-9 * start.abs(),
    };
    start - margin..end + margin
}

/// What is drawn along an axis: numbers less an offset, where they differ by little beside their
/// size, over a power of ten, where they are very large or small. Ticks are then short, and the
/// label says what they stand for.
#[derive(Clone, Debug)]
pub struct Axis {
    offset: f64,
    power: i32,
    /// Of what is drawn.
    range: Range<f64>,
}

/// The largest offset and the largest number that ticks show as they are.
const MAX_OFFSET: f64 = 1e5;

impl Axis {
    /// For numbers of a range.
    pub fn new(range: &Range<f64>) -> Self {
        let middle = 0.5 * range.start + 0.5 * range.end;
        let spread = 0.5 * range.end - 0.5 * range.start;
        let offset = if middle.abs() > MAX_OFFSET.min(1e4 * spread) && middle.abs() > 100.0 * spread {
            // A round number, of a size that the label can show.
            let unit = power_of_ten(spread.max(f64::MIN_POSITIVE).log10().floor() as i32 + 2);
            let rounded = (middle / unit).round() * unit;
            if rounded.is_finite() { rounded } else { middle }
        } else {
            0.0
        };
        let ends = [range.start - offset, range.end - offset];
        let size = ends[0].abs().max(ends[1].abs());
        let power = match size {
            size if size == 0.0 || (1e-2..1e5).contains(&size) => 0,
            _ => size.log10().floor() as i32,
        };
        let mut axis = Self { offset, power, range: 0.0..1.0 };
        axis.range = axis.drawn(range.start)..axis.drawn(range.end);
        axis
    }

    /// Where a number is drawn.
    pub fn drawn(&self, value: f64) -> f64 {
        (value - self.offset) / power_of_ten(self.power)
    }

    /// What is drawn of the range that the axis was made for.
    pub fn range(&self) -> Range<f64> {
        self.range.clone()
    }

    /// The name of the axis, with what was taken out of the numbers.
    pub fn label(&self, name: &str) -> String {
        let minus = match self.offset {
            0.0 => name.to_owned(),
            offset if offset > 0.0 => format!("{name} - {}", plain(offset)),
            offset => format!("{name} + {}", plain(-offset)),
        };
        if self.power == 0 { minus } else { format!("{minus}  (1e{})", self.power) }
    }

    /// A tick, with as many decimals as the range needs.
    pub fn tick(&self, drawn: f64) -> String {
        let decimals = (1.0 - (self.range.end - self.range.start).log10().floor()).clamp(0.0, 6.0) as usize;
        let text = format!("{drawn:.decimals$}");
        // No minus before nothing.
        if text.trim_matches(['-', '0', '.']).is_empty() { text.trim_start_matches('-').to_owned() } else { text }
    }
}

/// A number of a file with all its digits.
pub fn plain(value: f64) -> String {
    if value == 0.0 || (1e-6..1e12).contains(&value.abs()) { value.to_string() } else { format!("{value:e}") }
}

/// By parsing, which rounds once.
fn power_of_ten(power: i32) -> f64 {
    format!("1e{power}").parse().unwrap_or(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_short_whatever_the_numbers() {
        for range in [
            0.0..1.0,
            1958.0..2002.0,
            -3.0..4.0,
            1e30..2.5e30,
            1e9..1e9 + 2e-3,
            1.7e9..1.7e9 + 1e7,
            -1e-30..2e-30,
            -1e307..1e307,
            1e-310..3e-310,
            -5e8..-5e8 + 1.0,
        ] {
            let axis = Axis::new(&range);
            let drawn = axis.range();
            assert!(drawn.start < drawn.end, "{range:?}: {axis:?}");
            for i in 0..=4 {
                let tick = axis.tick(drawn.start + (drawn.end - drawn.start) * f64::from(i) / 4.0);
                assert!(tick.len() <= 8, "{range:?}: {tick}");
            }
            assert!(axis.label("y").len() <= 24, "{}", axis.label("y"));
        }
        assert_eq!(Axis::new(&(1958.0..2002.0)).label("year"), "year");
        assert_eq!(Axis::new(&(1e9..1e9 + 2e-3)).label("y"), "y - 1000000000  (1e-3)");
        assert_eq!(Axis::new(&(1e30..2.5e30)).label("y"), "y  (1e30)");
    }

    #[test]
    fn numbers_of_tables_and_files_are_short() {
        assert_eq!((number(0.4512), number(2.5e30), number(0.0)), ("0.451".into(), "2.50e30".into(), "0.000".into()));
        assert_eq!(digits(340.12, 2.1), "340.120000");
        assert_eq!(digits(1e9 + 0.5, 7e-4), "1000000000.5000000000");
        assert_eq!(digits(1.5e30, 1e30), "1.5e30");
        assert_eq!(digits(-2e-20, 1e-20), "-2e-20");
    }
}
