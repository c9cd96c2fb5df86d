//! Points in tiles: any number of them passes through a network in constant memory.

use std::ops::Range;

#[cfg(not(target_arch = "wasm32"))]
use crate::parallel::*;
use crate::{
    device::{Backend, Device},
    error::{Error, Result},
    host::zeros,
    tensor::{PendingRead, Tensor},
};

/// Numbers of the widest layer that leave room in the cache of a processor for the layers beside it.
const CACHED: usize = 1 << 16;

/// Tasks of scan attention have as many rows.
const ROWS: usize = 48;

/// Points of each batch element in a tile: enough to keep the device busy, not more than what one
/// binding holds of the widest layer.
pub(crate) fn size(device: &Device, batch: usize, widest: usize) -> usize {
    let most = device.max_binding() / size_of::<f32>() / widest / batch;
    (device.busy_rows() / batch).max(64).min(most).max(1)
}

/// Draws at once, each of so many rows: enough to keep the device busy.
pub(crate) fn at_once(device: &Device, rows: usize, widest: usize) -> usize {
    let most = device.max_binding() / size_of::<f32>() / widest / rows;
    (device.busy_rows() / rows).min(most).max(1)
}

/// `0..n` in tiles.
pub(crate) fn tiles(n: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(size).map(move |start| start..n.min(start.saturating_add(size)))
}

/// Points that pass through all layers on one thread of the CPU, where none needs another: what is
/// between the layers then stays in its cache, and threads need not wait for each other.
pub(crate) fn piece(batch: usize, widest: usize) -> usize {
    (CACHED / widest / batch / ROWS).max(1) * ROWS
}

/// What may be used by several threads, where there are any: on the web tensors may not.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) trait Shared: Sync {}
#[cfg(not(target_arch = "wasm32"))]
impl<T: Sync> Shared for T {}
#[cfg(target_arch = "wasm32")]
pub(crate) trait Shared {}
#[cfg(target_arch = "wasm32")]
impl<T> Shared for T {}

/// Computes each tile on the device, `[batch, len, ..]`, and receives its numbers on the host: a GPU
/// works on a tile while the host takes the one before; the CPU works on several pieces of a tile.
pub(crate) async fn stream(
    device: &Device,
    tiles: impl Iterator<Item = Range<usize>>,
    piece: usize,
    start: impl Fn(&Range<usize>) -> Result<Tensor> + Shared,
    mut receive: impl FnMut(Range<usize>, Vec<f32>) -> Result<()>,
) -> Result<()> {
    if matches!(device.0, Backend::Cpu(_)) {
        for tile in tiles {
            let numbers = in_pieces(device, &tile, piece, &start)?;
            receive(tile, numbers)?;
        }
        return Ok(());
    }
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

/// What a function makes of items that do not need each other: on the CPU by several threads, where
/// there are any.
pub(crate) fn side_by_side<T: Shared>(
    device: &Device,
    items: &[T],
    compute: impl Fn(&T) -> Result<Tensor> + Shared,
) -> Result<Vec<Tensor>> {
    #[cfg(not(target_arch = "wasm32"))]
    if matches!(device.0, Backend::Cpu(_)) {
        return items.par_iter().map(&compute).collect();
    }
    #[cfg(target_arch = "wasm32")]
    let _ = device;
    items.iter().map(compute).collect()
}

fn in_pieces(
    device: &Device,
    tile: &Range<usize>,
    piece: usize,
    start: &(impl Fn(&Range<usize>) -> Result<Tensor> + Shared),
) -> Result<Vec<f32>> {
    let pieces: Vec<_> = tiles(tile.len(), piece).collect();
    let compute = |piece: &Range<usize>| start(&(tile.start + piece.start..tile.start + piece.end));
    let computed = side_by_side(device, &pieces, compute)?;
    let mut all = zeros(&[computed.iter().map(Tensor::len).sum()])?;
    for (piece, numbers) in pieces.iter().zip(&computed) {
        let width = numbers.shape().last().copied().unwrap_or(1);
        place(piece, width, numbers.cpu(), &mut all);
    }
    Ok(all)
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
