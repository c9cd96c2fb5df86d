//! A number that tells contents apart that differ by accident.

/// The key of the metadata of a file that holds the fingerprint of all else in it, in hexadecimal.
pub(super) const KEY: &str = "fingerprint";

/// FNV-1a of 64 bits: the same on every platform and in every version.
pub(crate) struct Fingerprint(pub u64);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fingerprint {
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    /// Of a text.
    pub fn of(text: &str) -> u64 {
        let mut fingerprint = Self::default();
        fingerprint.add(text.as_bytes());
        fingerprint.0
    }
}
