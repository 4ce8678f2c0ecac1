//! Numbers with their basis: a plan must not rest on something that nobody looked up.

use serde::Serialize;

/// Where a number comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Read in a vendor's or maintainer's document.
    Vendor,
    /// Read elsewhere.
    Secondary,
    /// Remembered; unknown until somebody checks it.
    Unchecked,
}

/// A number or property of a board.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Fact<T> {
    /// In the unit that the field's name says.
    pub value: T,
    /// How far to trust it.
    pub basis: Basis,
}

impl<T: Copy> Fact<T> {
    /// The value where somebody read it somewhere; `None` where it is only remembered.
    pub fn checked(self) -> Option<T> {
        (self.basis != Basis::Unchecked).then_some(self.value)
    }
}

pub(crate) const fn vendor<T>(value: T) -> Fact<T> {
    Fact { value, basis: Basis::Vendor }
}

pub(crate) const fn secondary<T>(value: T) -> Fact<T> {
    Fact { value, basis: Basis::Secondary }
}

pub(crate) const fn unchecked<T>(value: T) -> Fact<T> {
    Fact { value, basis: Basis::Unchecked }
}
