//! A loss and the terms that it is the sum of.

use tch::{Kind, Tensor};

/// What a step learns from: scalars that are added up, each under the name that the run's table has for it.
#[derive(Debug)]
pub struct Loss(Vec<(&'static str, Tensor)>);

impl Loss {
    /// The sum of `terms`, already weighted.
    pub fn of(terms: impl IntoIterator<Item = (&'static str, Tensor)>) -> Self {
        Self(terms.into_iter().collect())
    }

    /// The tensor whose gradients are wanted.
    pub fn total(&self) -> Tensor {
        self.0.iter().map(|(_, term)| term).sum()
    }

    /// Numbers for the log.
    pub fn values(&self) -> Terms {
        let value = |term: &Tensor| term.to_kind(Kind::Double).double_value(&[]);
        Terms(self.0.iter().map(|(name, term)| ((*name).to_owned(), value(term))).collect())
    }
}

impl From<Tensor> for Loss {
    /// A loss of one term.
    fn from(loss: Tensor) -> Self {
        Self(vec![("loss", loss)])
    }
}

/// Values of a loss's terms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terms(pub Vec<(String, f64)>);

impl Terms {
    /// Their sum.
    pub fn total(&self) -> f64 {
        self.0.iter().map(|(_, value)| value).sum()
    }

    /// That of a term, where there is one.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }

    /// The mean of several of the same loss.
    pub fn mean<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut sum = Self::default();
        let mut count = 0.0;
        for terms in all {
            count += 1.0;
            for (name, value) in &terms.0 {
                match sum.0.iter_mut().find(|(known, _)| known == name) {
                    Some((_, sum)) => *sum += value,
                    None => sum.0.push((name.clone(), *value)),
                }
            }
        }
        sum.0.iter_mut().for_each(|(_, value)| *value /= count);
        sum
    }
}
