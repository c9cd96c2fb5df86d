//! The CPU device: which instructions its operations are run with.

use std::fmt;

use fearless_simd::Level;
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
use fearless_simd::prelude::*;

use crate::error::{Error, Result};

/// The CPU with one of its instruction sets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu(pub Level);

impl Cpu {
    /// With the best instructions that there are.
    pub fn best() -> Self {
        Self(Level::new())
    }

    /// With every instruction set of this machine, the best first.
    pub fn all() -> Vec<Self> {
        let best = Level::new();
        #[allow(unused_mut)]
        let mut levels = vec![best];
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        {
            levels.extend(best.as_avx2().map(|token| token.level()));
            levels.extend(best.as_sse4_2().map(|token| token.level()));
            levels.extend(best.as_sse2().map(|token| token.level()));
        }
        let mut all: Vec<Self> = levels.into_iter().map(Self).collect();
        // The best is one of the others, too.
        all.dedup();
        all
    }

    pub fn named(name: &str) -> Result<Self> {
        let all = Self::all();
        all.iter().copied().find(|cpu| cpu.name() == name).ok_or_else(|| {
            let names: Vec<&str> = all.iter().map(|cpu| cpu.name()).collect();
            let allowed = format_args!("one that this machine has: {}", names.join(", ")).to_string();
            Error::argument("Device::cpu_with", "instructions", name, allowed)
        })
    }

    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            Level::Avx512(_) => "avx512",
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            Level::Avx2(_) => "avx2",
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            Level::Sse4_2(_) => "sse4.2",
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            Level::Sse2(_) => "sse2",
            #[cfg(target_arch = "aarch64")]
            Level::Neon(_) => "neon",
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Level::WasmSimd128(_) => "simd128",
            #[allow(unreachable_patterns)] // where every level has a name
            _ => "scalar",
        }
    }
}

impl PartialEq for Cpu {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        write!(f, "CPU ({threads} threads, {})", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instruction_sets_by_name() {
        let all = Cpu::all();
        assert_eq!(all[0], Cpu::best());
        for (i, cpu) in all.iter().enumerate() {
            assert_eq!(Cpu::named(cpu.name()).unwrap(), *cpu);
            assert!(!all[..i].contains(cpu));
        }
        let message = Cpu::named("avx9").unwrap_err().to_string();
        assert!(message.contains("avx9") && message.contains(all[0].name()), "{message}");
    }
}
