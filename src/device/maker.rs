//! Who made a GPU: what plans ask where a text suits one compiler and not another.

use super::Capabilities;

/// Who made a GPU: what its compiler does with a text, and how many registers there are, are much
/// alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Maker {
    Amd,
    Apple,
    Intel,
    Nvidia,
    Qualcomm,
    Unknown,
}

impl Maker {
    /// By what the driver calls itself, or where it says nothing, as in a browser, by the sizes of its
    /// subgroups.
    pub fn of(capabilities: &Capabilities) -> Self {
        const NAMES: [(&str, Maker); 9] = [
            ("nvidia", Maker::Nvidia),
            ("geforce", Maker::Nvidia),
            ("amd", Maker::Amd),
            ("radeon", Maker::Amd),
            ("intel", Maker::Intel),
            ("apple", Maker::Apple),
            ("adreno", Maker::Qualcomm),
            ("qualcomm", Maker::Qualcomm),
            ("turnip", Maker::Qualcomm),
        ];
        let driver = capabilities.driver.to_lowercase();
        let named = NAMES.iter().find(|(name, _)| driver.contains(name)).map(|(_, maker)| *maker);
        named.unwrap_or(match capabilities.subgroups {
            Some([32 | 64, 64]) => Self::Amd,
            Some([8 | 16, 16 | 32]) => Self::Intel,
            Some([64, 128]) => Self::Qualcomm,
            _ => Self::Unknown,
        })
    }

    /// Whether a thread may have 192 registers or more; it has 128 elsewhere.
    pub fn has_many_registers(self) -> bool {
        matches!(self, Self::Amd | Self::Nvidia | Self::Qualcomm)
    }
}
