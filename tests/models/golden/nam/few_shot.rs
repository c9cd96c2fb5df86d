//! The cases of the few-shot classifiers.

use super::*;

impl Case<'_> {
    pub fn few_shot(&self) -> Result<Outputs> {
        let text = |name: &str| self.fixture.config[name].clone();
        let config = FewShotConfig {
            generator: serde_json::from_value(text("weight_generator_type")).unwrap(),
            classifier_type: serde_json::from_value(text("classifier_type")).unwrap(),
            n_base: self.shape("param.weight_base")[0],
            n_novel: self.shape("in.labels_train")[2],
            // Features are given.
            embedding: EmbeddingConfig {
                n_in: self.shape("param.weight_base")[1],
                dims: vec![],
                activation: Activation::Relu,
            },
        };
        let model = FewShot::new(self.device, &config, &self.fixture.checkpoint())?;
        let (supports, labels) = (self.fixture.numbers("in.features_train"), self.fixture.numbers("in.labels_train"));
        let base_ids = self.indices("in.Kbase_ids");
        let &[batch, _, n_novel] = self.shape("in.labels_train") else { panic!() };
        let episode = Episode { batch, n_novel, supports: &supports, labels: &labels, base_ids: &base_ids };
        let classifier = model.condition(&episode)?;
        let test = self.tensor("in.features_test");
        Ok(outputs([
            ("cls_weights", classifier.weights.read()?),
            ("cls_scores", classifier.scores(&test)?.read()?),
            ("cls_scores_base_only", model.base(batch, &base_ids)?.scores(&test)?.read()?),
        ]))
    }

    pub fn sequential(&self) -> Result<Outputs> {
        let &[n, n_classes] = self.shape("in.labels") else { panic!() };
        let &[n_base, n_features] = self.shape("param.weight_base") else { panic!() };
        let mut weights = unit_norm(&self.tensor("param.weight_base"))?.read()?;
        assert!(n_base <= n_classes);
        weights.resize(n_classes * n_features, 0.0);
        let start = Classifier {
            weights: Tensor::new(self.device, &[1, n_classes, n_features], &weights)?,
            scale: self.fixture.numbers("param.scale_cls")[0],
            bias: self.fixture.numbers("param.bias")[0],
            classifier_type: ClassifierType::Cosine,
        };
        let supports = self.tensor("in.support").reshape(&[1, n, n_features])?;
        let labels = self.fixture.numbers("in.labels");
        let query = self.tensor("in.query");
        let query = unit_norm(&query.reshape(&[1, query.shape()[0], n_features])?)?;
        let p = |name: &str| Probabilities::new(self.device, &[1, n, 1], &self.fixture.numbers(name));
        let (p_write, p_erase) = (p("in.p_w")?, p("in.p_e")?);
        let one = Probabilities::new(self.device, &[1, n, 1], &vec![1.0; n])?;
        let mut found = Outputs::new();
        for (name, p_write, p_erase) in
            [("oneshot", Some(&one), Some(&one)), ("gated", Some(&p_write), Some(&p_erase)), ("noerase", None, None)]
        {
            let written = start.write(&supports, &labels, p_write, p_erase)?;
            found.insert(format!("{name}.W"), written.weights.read()?);
            for (kind, classifier_type) in [("cosine", ClassifierType::Cosine), ("dot", ClassifierType::DotProduct)] {
                let scores = Classifier { classifier_type, ..written.clone() }.scores(&query)?;
                found.insert(format!("{name}.{kind}.scores"), scores.read()?);
            }
        }
        Ok(found)
    }
}
