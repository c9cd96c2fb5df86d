//! Where a tape is on a GPU: a pure function of the sizes.

/// Bytes of workgroup memory that every device has.
const WORKGROUP_BYTES: usize = 16 << 10;

/// Where the cells of a tape are while it runs, with the sizes that the kernel is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub in_workgroup: bool,
    /// Cells in workgroup memory.
    pub len: usize,
    /// Slots of a head.
    pub slots: usize,
}

/// Workgroup memory where `n_cells` fit beside the heads, both before and after a step; storage
/// where not.
pub(super) fn place(n_cells: usize, slots: usize) -> Place {
    let slots = slots.next_multiple_of(16);
    let len = n_cells.next_multiple_of(256);
    let in_workgroup = 4 * (len + 4 * slots) <= WORKGROUP_BYTES;
    Place { in_workgroup, len: if in_workgroup { len } else { 0 }, slots }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_tapes_are_in_workgroup_memory() {
        // The papers' own: 32 slots of 128 numbers do not fit; the committed network's do.
        assert!(!place(2 * 32 * 128, 32).in_workgroup);
        assert!(place(2 * 32 * 16, 32).in_workgroup);
        assert!(place(1, 1).in_workgroup);
        assert!(!place(2 * 1024 * 2, 1024).in_workgroup);
        for slots in [1, 16, 33, 500, 1024] {
            for mem in [1, 16, 100] {
                let place = place(2 * slots * mem, slots);
                assert!(4 * (place.len + 4 * place.slots) <= WORKGROUP_BYTES);
                assert!(place.slots >= slots && (!place.in_workgroup || place.len >= 2 * slots * mem));
            }
        }
    }
}
