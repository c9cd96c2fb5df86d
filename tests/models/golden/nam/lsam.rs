//! The cases of the LSAM.

use super::*;

impl Case<'_> {
    pub fn lsam_cell(&self) -> Result<Outputs> {
        let (input_dim, d_model, n_heads) = (self.size("input_dim"), self.size("d_model"), self.size("nhead"));
        let checkpoint = self.fixture.checkpoint();
        let cell = checkpoint.load(self.device, |p| LsamCell::load(p, input_dim, d_model, n_heads))?;
        let &[n, batch, _] = self.shape("in.x") else { panic!() };
        let x = self.fixture.numbers("in.x");
        let mut found = Outputs::new();
        for start in ["zero", "init"] {
            let mut state = (start == "init")
                .then(|| LsamState { hidden: self.tensor("in.h_init"), memory: self.tensor("in.AM_init") });
            let first = state.clone();
            let (mut hidden, mut memory) = (Vec::new(), Vec::new());
            // Step by step, for the memory after each; then all at once for the values.
            for x in x.chunks(batch * input_dim) {
                let x = Tensor::new(self.device, &[batch, 1, input_dim], x)?;
                let output = cell.forward(&x, state.as_ref(), Direction::Forward)?;
                hidden.extend(output.state.hidden.read()?);
                memory.extend(output.state.memory.read()?);
                state = Some(output.state);
            }
            let whole = cell.forward(&self.batch_first("in.x"), first.as_ref(), Direction::Forward)?;
            let last = (n - 1) * batch * d_model;
            assert!(hidden[last..].iter().zip(whole.state.hidden.read()?).all(|(a, b)| (a - b).abs() < 1e-5));
            found.insert(format!("{start}.h"), sequence_first(&whole.values)?);
            found.insert(format!("{start}.AM"), memory);
        }
        Ok(found)
    }

    fn lsam_outputs(output: &LsamOutput) -> Result<Outputs> {
        let LsamState { hidden, memory } = &output.state;
        Ok(outputs([("y", sequence_first(&output.values)?), ("h", hidden.read()?), ("AM", memory.read()?)]))
    }

    pub fn lsam_decoder(&self) -> Result<Outputs> {
        let (input_dim, d_model, n_heads) = (self.size("input_dim"), self.size("d_model"), self.size("nhead"));
        let checkpoint = self.fixture.checkpoint();
        let decoder = checkpoint.load(self.device, |p| LsamDecoder::load(p, input_dim, d_model, n_heads))?;
        Self::lsam_outputs(&decoder.forward(&self.batch_first("in.x"), &self.tensor("in.AM"))?)
    }

    pub fn blsam(&self) -> Result<Outputs> {
        let (input_dim, d_model, n_heads) = (self.size("input_dim"), self.size("d_model"), self.size("nhead"));
        let checkpoint = self.fixture.checkpoint();
        let blsam = checkpoint.load(self.device, |p| Blsam::load(p, input_dim, d_model, n_heads))?;
        Self::lsam_outputs(&blsam.forward(&self.batch_first("in.x"))?)
    }

    pub fn lsam_encoder_layer(&self) -> Result<Outputs> {
        let (d_model, n_heads, ff) = (self.size("d_model"), self.size("nhead"), self.size("dim_feedforward"));
        let checkpoint = self.fixture.checkpoint();
        let layer = checkpoint.load(self.device, |p| LsamEncoderLayer::load(p, d_model, n_heads, ff))?;
        Self::lsam_outputs(&layer.forward(&self.batch_first("in.src"))?)
    }

    pub fn lsam_ae(&self) -> Result<Outputs> {
        let config = LsamAeConfig {
            vocab_size: self.size("vocab_size"),
            d_model: self.size("d_model"),
            n_heads: self.size("nhead"),
            dim_feedforward: self.fixture.shape("param.encoder.linear1.bias")[0],
        };
        let model = LsamAe::new(self.device, &config, &self.fixture.checkpoint())?;
        let output = model.forward(self.shape("in.tokens")[0], &self.indices("in.tokens"))?;
        Ok(outputs([("logits", classes_first(&output.values)?), ("AM", output.state.memory.read()?)]))
    }
}
