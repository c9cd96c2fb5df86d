//! Writes every variant of every kernel as WGSL to `out/shaders`: to read, or to compile with
//! another front end.

fn main() -> anyhow::Result<()> {
    let folder = std::path::Path::new("out/shaders");
    std::fs::create_dir_all(folder)?;
    let variants = wgpu_attention::shaders::variants()?;
    for shader in &variants {
        let name: String =
            shader.name.chars().map(|c| if c.is_alphanumeric() || "+-".contains(c) { c } else { '_' }).collect();
        std::fs::write(folder.join(format!("{name}.wgsl")), &shader.wgsl)?;
    }
    println!("{} variants in {}", variants.len(), folder.display());
    Ok(())
}
