//! Writes the networks and posteriors of the corpus anew, for when their files change.

fn main() -> std::io::Result<()> {
    wgpu_attention_fuzz::write_corpus()
}
