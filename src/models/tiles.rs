//! Points in tiles: any number of them passes through a network in constant memory.

use std::ops::Range;

use crate::{
    device::Device,
    error::{Error, Result},
    tensor::{PendingRead, Tensor},
};

/// Points of each batch element in a tile: enough to keep the device busy, not more than what one
/// binding holds of the widest layer.
pub(crate) fn size(device: &Device, batch: usize, widest: usize) -> usize {
    let most = device.max_binding() / size_of::<f32>() / widest / batch;
    (device.busy_rows() / batch).max(64).min(most).max(1)
}

/// `0..n` in tiles.
pub(crate) fn tiles(n: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(size).map(move |start| start..n.min(start.saturating_add(size)))
}

/// Starts each tile on the device and receives its numbers on the host: the device works on a tile
/// while the host takes the one before.
pub(crate) async fn stream(
    tiles: impl Iterator<Item = Range<usize>>,
    start: impl Fn(&Range<usize>) -> Result<Tensor>,
    mut receive: impl FnMut(Range<usize>, Vec<f32>) -> Result<()>,
) -> Result<()> {
    let mut before: Option<(Range<usize>, PendingRead)> = None;
    for tile in tiles {
        let read = start(&tile)?.start_read()?;
        if let Some((tile, read)) = before.replace((tile, read)) {
            receive(tile, read.finish().await?)?;
        }
    }
    if let Some((tile, read)) = before {
        receive(tile, read.finish().await?)?;
    }
    Ok(())
}

/// Copies a tile `[batch, len, width]` to where it belongs in `[batch, n, width]`.
pub(crate) fn place(tile: &Range<usize>, width: usize, from: &[f32], to: &mut [f32]) {
    let len = tile.len() * width;
    let batch = from.len() / len;
    for (from, to) in from.chunks_exact(len).zip(to.chunks_exact_mut(to.len() / batch)) {
        to[tile.start * width..][..len].copy_from_slice(from);
    }
}

/// What was computed of some points, `[.., width]`, on the host; refuses what is not finite.
pub(crate) async fn read_predicted(output: &'static str, numbers: &Tensor) -> Result<Vec<f32>> {
    let width = numbers.shape().last().copied().unwrap_or(1).max(1);
    let n = numbers.len() / width;
    let numbers = numbers.read_async().await?;
    check_predicted(output, (n, width), &(0..n), &numbers)?;
    Ok(numbers)
}

/// Refuses an output `[batch, len, width]` of a tile of the `n` points of each batch element that is
/// not finite.
pub(crate) fn check_predicted(
    output: &'static str,
    (n, width): (usize, usize),
    tile: &Range<usize>,
    numbers: &[f32],
) -> Result<()> {
    let Some(index) = numbers.iter().position(|x| !x.is_finite()) else { return Ok(()) };
    let row = index / width;
    let element = row / tile.len().max(1);
    let point = element * n + tile.start + row % tile.len().max(1);
    Err(Error::Prediction { output, point, column: index % width, value: numbers[index] })
}
